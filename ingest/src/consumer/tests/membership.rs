//! Partitions that are others', and those that nobody reads yet.

use std::collections::BTreeSet;
use std::sync::Mutex;

use rdkafka::consumer::Consumer;
use rdkafka::statistics::{Partition, Topic};
use rdkafka::{ClientContext, Statistics};

use super::*;
use crate::ahead::Polled;
use crate::consumer::membership::SHARED;
use crate::group::Rebalance;

/// How many partitions a topic has, as the statistics say it when its metadata do: a mock's topic does not grow.
fn tell_partitions(ingest: &mut Ingest, topic: &str, count: i32) {
    let partitions = (0..count).map(|partition| (partition, Partition::default()));
    let of_topic = Topic {
        partitions: partitions.collect(),
        ..Topic::default()
    };
    ingest.consumer.context().stats(Statistics {
        topics: HashMap::from([(topic.to_owned(), of_topic)]),
        ..Statistics::default()
    });
    ingest.note_unshared();
}

#[test]
fn partitions_that_are_new_are_not_read_and_no_lag_of_0_says_so() {
    let cluster = Cluster::new(&[("tx", 2)]);
    let mut ingest = cluster.start(&["tx"], nowhere());
    poll_until(&mut ingest, &mut Seen::default(), |_, caught_up| caught_up);
    assert_eq!((ingest.lag(), ingest.unshared()), (0, vec![]));

    tell_partitions(&mut ingest, "tx", 4);
    assert_eq!(
        ingest.unshared(),
        [("tx".to_owned(), 2), ("tx".to_owned(), 3)]
    );
    assert_eq!((ingest.lag(), ingest.heard()), (2, None));
}

/// A broker that did not answer when the group shared out may do so later.
#[test]
fn how_many_partitions_topics_have_is_said_as_soon_as_it_is_known() {
    let cluster = Cluster::new(&[("tx", 2)]);
    let mut ingest = cluster.start(&["tx"], nowhere());
    poll_until(&mut ingest, &mut Seen::default(), |_, caught_up| caught_up);
    ingest.sharing.counts.clear();
    let said = |ingest: &Ingest| Polled::new(Step::default(), ingest).partition_counts;
    assert!(said(&ingest).is_empty());
    tell_partitions(&mut ingest, "tx", 2);
    assert_eq!(said(&ingest), [("tx".to_owned(), 2)]);
}

/// A member that comes back under its name is given what it had before, whatever its topics have by now.
#[test]
fn what_the_group_gave_first_is_compared_with_what_there_is() {
    let cluster = Cluster::new(&[("tx", 2)]);
    let mut ingest = cluster.start(&["tx"], nowhere());
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    assert!(ingest.sharing.is_checked);
    assert_eq!((seen.assigned.len(), seen.revoked.len()), (2, 0));

    ingest.sharing.counts.insert("tx".to_owned(), 3);
    ingest.note_foreign();
    assert_eq!(ingest.foreign(), [("tx".to_owned(), 2)]);
    ingest.sharing.is_checked = false;
    poll_until(&mut ingest, &mut seen, |seen, _| seen.assigned.len() == 4);
    assert_eq!(seen.revoked.len(), 2);
    assert!(ingest.foreign().is_empty());
    assert_eq!(ingest.partition_counts(), [("tx".to_owned(), 2)]);

    // Once: of what others have, no more is to be had.
    ingest.sharing.counts.insert("tx".to_owned(), 3);
    ingest.note_foreign();
    for _ in 0..5 {
        let step = ingest.poll(NOW_US, Duration::from_millis(100), usize::MAX);
        seen.add(step.unwrap());
    }
    assert_eq!(seen.revoked.len(), 2);
}

/// A state that cannot be read has not nothing, and what the group decided after that is not forgotten.
#[test]
fn a_state_that_cannot_be_read_ends_the_reading_and_takes_no_decision_with_it() {
    let cluster = Cluster::new(&[("tx", 1)]);
    let offsets: StartOffsets = Arc::new(|_, _| Err("the disk is gone".into()));
    let mut ingest = cluster.start(&["tx"], offsets);
    let ours = || vec![("tx".to_owned(), 0)];
    ingest.consumer.context().note(Rebalance::Assign(ours()));
    ingest.consumer.context().note(Rebalance::Revoke(ours()));
    let failed = ingest.poll(NOW_US, Duration::ZERO, usize::MAX);
    let error = failed.unwrap_err();
    assert_eq!(error.remedy(), crate::Remedy::Restart);
    let said = error.to_string();
    assert!(
        said.contains("tx/0") && said.contains("the disk is gone"),
        "{said}"
    );
    let next = ingest.consumer.context().next_rebalance();
    assert_eq!(next, Some(Rebalance::Revoke(ours())));
}

#[test]
fn two_members_share_the_partitions_and_no_event_is_missed() {
    let cluster = Cluster::new(&[("tx", 2), ("labels", 2)]);
    for partition in 0..2 {
        cluster.produce("tx", partition, events(&format!("tx{partition}-"), 100));
        cluster.produce("labels", partition, events(&format!("l{partition}-"), 100));
    }
    // The store that both members write to, as one machine's workers would not: here it stands for the hand-over.
    let store: Arc<Mutex<HashMap<(String, i32), i64>>> = Arc::default();
    let offsets = || -> StartOffsets {
        let store = Arc::clone(&store);
        Arc::new(move |topic, partition| {
            let store = store.lock().unwrap();
            Ok(store.get(&(topic.to_string(), partition)).copied())
        })
    };
    let mut members = vec![cluster.start(&["tx", "labels"], offsets())];
    let mut seen = [Seen::default(), Seen::default()];
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut round = 0;
    loop {
        assert!(Instant::now() < deadline);
        let mut caught_up = true;
        for (member, seen) in members.iter_mut().zip(&mut seen) {
            let step = member
                .poll(NOW_US, Duration::from_millis(20), usize::MAX)
                .unwrap();
            for (topic, partition, next) in &step.positions {
                let mut store = store.lock().unwrap();
                store.insert((topic.clone(), *partition), *next);
            }
            caught_up &= step.caught_up;
            seen.add(step);
        }
        if members.len() == 1 && caught_up {
            members.push(cluster.start(&["tx", "labels"], offsets()));
        } else if members.len() == 2
            && caught_up
            && members.iter().all(|m| m.assignment().len() == 2)
        {
            if round == 0 {
                for partition in 0..2 {
                    cluster.produce("tx", partition, [event(&format!("late{partition}"), 500)]);
                }
            }
            round += 1;
            if round > 20 {
                break;
            }
        }
    }
    // A group that is slow to answer may share out twice.
    assert!(seen[0].revoked.len() >= 4);
    assert_eq!(seen[0].assigned.len(), seen[0].revoked.len() + 2);
    // `range`: the same partition number of both topics, so that one key's streams stay together.
    for member in &members {
        let partitions: BTreeSet<i32> = member.assignment().into_iter().map(|(_, p)| p).collect();
        assert_eq!(partitions.len(), 1);
    }
    // What is one's own is foreign to the other.
    for (one, other) in [(0, 1), (1, 0)] {
        let mut own = members[one].assignment();
        own.sort();
        assert_eq!(members[other].foreign(), own);
    }
    let member = &mut members[0];
    member.tell_foreign(Instant::now() + SHARED);
    assert_eq!(member.sharing.told_foreign, member.foreign());
    let mut all: Vec<_> = seen
        .iter()
        .flat_map(|s| s.ids())
        .map(str::to_string)
        .collect();
    all.sort();
    let mut unique = all.clone();
    unique.dedup();
    assert_eq!(all.len(), 402);
    assert_eq!(unique.len(), 402);
}
