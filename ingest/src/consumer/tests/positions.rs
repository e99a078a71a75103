//! Positions that Kafka does not have, and topics that were made anew.

use super::*;
use crate::step::Witness;

#[test]
fn a_position_that_kafka_never_had_is_reported_and_reading_begins_anew() {
    let cluster = Cluster::new(&[("tx", 1)]);
    cluster.produce("tx", 0, events("a", 3));
    let mut ingest = cluster.start(&["tx"], Arc::new(|_, _| Ok(Some(1_000))));
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    let lost = Lost {
        topic: "tx".into(),
        partition: 0,
        from: 1_000,
        to: 0,
    };
    assert_eq!(seen.lost, [lost]);
    assert_eq!(seen.ids(), ["a0", "a1", "a2"]);
    assert_eq!(seen.position("tx", 0), 3);
}

#[test]
fn messages_that_retention_took_while_nobody_read_are_reported() {
    let cluster = Cluster::new(&[("tx", 1)]);
    let padding = "x".repeat(10_000);
    let fill = |from: i64| {
        let events = (from..from + 1_000).map(|i| event(&format!("{i}-{padding}"), i));
        cluster.produce("tx", 0, events);
    };
    fill(0);
    let mut ingest = cluster.start(&["tx"], Arc::new(|_, _| Ok(Some(0))));
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    assert_eq!(seen.lost.len(), 1);
    let lost = &seen.lost[0];
    assert_eq!(lost.from, 0);
    assert!(lost.to > 100, "{lost:?}");
    assert_eq!(seen.rows[0].2, lost.to);
    assert_eq!(seen.rows.len() as i64, 1_000 - lost.to);
    assert_eq!(seen.position("tx", 0), 1_000);
}

#[test]
fn messages_that_retention_takes_while_they_are_read_are_reported() {
    let cluster = Cluster::new(&[("tx", 1)]);
    cluster.produce("tx", 0, events("a", 5));
    // The client fetches next to nothing ahead.
    let properties = [
        ("queued.min.messages", "1"),
        ("queued.max.messages.kbytes", "1"),
        ("fetch.message.max.bytes", "1000"),
        ("fetch.queue.backoff.ms", "5"),
    ];
    let settings = IngestSettings {
        properties: properties.map(|(k, v)| (k.into(), v.into())).into(),
        ..cluster.settings()
    };
    let mut ingest = Ingest::start(settings, vec![stream("tx")], nowhere()).unwrap();
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);

    // Twice what the mock cluster keeps.
    let padding = "x".repeat(100_000);
    let events = (5..105).map(|i| event(&format!("{i}-{padding}"), i));
    cluster.produce("tx", 0, events);
    poll_until(&mut ingest, &mut seen, |seen, caught_up| {
        caught_up && seen.position("tx", 0) == 105
    });
    assert!(!seen.lost.is_empty());
    let mut accounted: Vec<i64> = seen.rows.iter().map(|(_, _, offset, _)| *offset).collect();
    accounted.extend(seen.lost.iter().flat_map(|lost| lost.from..lost.to));
    accounted.sort_unstable();
    assert_eq!(accounted, (0..105).collect::<Vec<i64>>());
}

/// The messages of a partition, as a store knows them.
fn read_of(cluster: &Cluster, topic: &str, count: usize) -> Vec<Witness> {
    let mut ingest = cluster.start(&[topic], nowhere());
    let mut read = Vec::new();
    while read.len() < count {
        let step = ingest.poll(NOW_US, Duration::from_millis(100), usize::MAX);
        for batch in step.unwrap().batches {
            let places = batch.origin.iter().zip(&batch.kafka_ts);
            let witness = |((_, offset), kafka_ts): (&(i32, i64), &i64)| Witness {
                offset: *offset,
                kafka_ts: *kafka_ts,
            };
            read.extend(places.map(witness));
        }
    }
    read
}

/// What has come to the place of a message.
fn other(witness: Witness) -> Witness {
    Witness {
        kafka_ts: witness.kafka_ts + 9,
        ..witness
    }
}

/// The message before the position decides, however far the topic has grown.
#[test]
fn a_topic_that_was_made_anew_is_read_from_its_beginning_even_where_it_has_grown_past_the_position()
{
    let cluster = Cluster::new(&[("tx", 1)]);
    cluster.produce("tx", 0, events("a", 5));
    let known = read_of(&cluster, "tx", 5);
    let read = |witnesses: Vec<Witness>| {
        let ingest = cluster.start(&["tx"], Arc::new(|_, _| Ok(Some(3))));
        let mut ingest = ingest.recognizing(Arc::new(move |_, _| Ok(witnesses.clone())));
        let mut seen = Seen::default();
        poll_until(&mut ingest, &mut seen, |seen, caught_up| {
            caught_up && seen.rows.last().is_some_and(|row| row.2 == 4)
        });
        seen
    };
    // The one that was read, one that says nothing as it comes later, and none.
    for witnesses in [vec![known[1]], vec![other(known[3])], vec![]] {
        let seen = read(witnesses);
        assert_eq!(seen.ids(), ["a3", "a4"]);
        assert_eq!(seen.lost, []);
    }
    for witnesses in [
        vec![other(known[1])],
        vec![other(known[0]), other(known[1])],
    ] {
        let seen = read(witnesses);
        assert_eq!(seen.ids(), ["a0", "a1", "a2", "a3", "a4"]);
        let [lost] = seen.lost.as_slice() else {
            panic!("{:?}", seen.lost);
        };
        assert_eq!((lost.from, lost.to), (3, 0));
    }
}

/// A broker that came back without the last messages that it had given out.
#[test]
fn a_topic_that_has_lost_its_last_messages_is_read_from_where_it_is_known() {
    let cluster = Cluster::new(&[("tx", 1)]);
    cluster.produce("tx", 0, events("a", 5));
    let known = read_of(&cluster, "tx", 5);
    let gone = Witness {
        offset: 7,
        ..known[4]
    };
    let witnesses = vec![known[0], known[3], gone];
    let ingest = cluster.start(&["tx"], Arc::new(|_, _| Ok(Some(8))));
    let mut ingest = ingest.recognizing(Arc::new(move |_, _| Ok(witnesses.clone())));
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    // Whether it came in the place of one that is gone is not known.
    assert_eq!(seen.ids(), ["a4"]);
    let lost = |to| Lost {
        topic: "tx".into(),
        partition: 0,
        from: 8,
        to,
    };
    assert_eq!(seen.lost, [lost(4)]);
    // So that the next start begins there.
    assert_eq!(seen.position("tx", 0), 5);
    cluster.produce("tx", 0, events("b", 4));
    poll_until(&mut ingest, &mut seen, |seen, _| seen.rows.len() == 5);
    assert_eq!(seen.ids(), ["a4", "b0", "b1", "b2", "b3"]);
    drop(ingest);

    // It has grown past the position before it is read: of what came in the place of the lost ones, nothing is left out.
    let witnesses = vec![known[0], known[3], other(known[4]), gone];
    let ingest = cluster.start(&["tx"], Arc::new(|_, _| Ok(Some(8))));
    let mut ingest = ingest.recognizing(Arc::new(move |_, _| Ok(witnesses.clone())));
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |seen, _| seen.rows.len() == 5);
    assert_eq!(seen.ids(), ["a4", "b0", "b1", "b2", "b3"]);
    assert_eq!(seen.lost, [lost(4)]);
}

/// As where a leader is elected that had not all messages.
#[test]
fn a_topic_that_loses_its_last_messages_while_it_is_read_is_read_on() {
    let cluster = Cluster::new(&[("tx", 1)]);
    cluster.produce("tx", 0, events("a", 5));
    let known = read_of(&cluster, "tx", 5);
    let ingest = cluster.start(&["tx"], nowhere());
    let mut ingest = ingest.recognizing(Arc::new(move |_, _| Ok(vec![known[2]])));
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    // As if it had had four more, which were read.
    let source = *ingest.lanes.keys().next().unwrap();
    ingest.lanes.get_mut(&source).unwrap().next = Some(9);
    ingest.mending.add_broken([source]);
    poll_until(&mut ingest, &mut seen, |seen, _| !seen.lost.is_empty());
    assert_eq!((seen.lost[0].from, seen.lost[0].to), (9, 5));
    cluster.produce("tx", 0, [event("b", 100)]);
    poll_until(&mut ingest, &mut seen, |seen, _| seen.rows.len() > 5);
    assert_eq!(seen.ids(), ["a0", "a1", "a2", "a3", "a4", "b"]);
}

/// As of a topic that was made anew with fewer partitions, and where a leader is away.
#[test]
fn a_topic_that_is_gone_does_not_hold_the_others_back() {
    let cluster = Cluster::new(&[("labels", 1), ("tx", 1)]);
    cluster.produce("labels", 0, events("a", 3));
    cluster.produce("tx", 0, events("b", 3));
    let mut ingest = cluster.start(&["labels", "tx"], nowhere());
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |seen, caught_up| {
        caught_up && seen.rows.len() == 6
    });

    // A partition without a leader would say it too, but librdkafka's mock crashes where one is fetched from.
    let gone = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    cluster.mock.topic_error("labels", gone).unwrap();
    ingest.distrust("labels");
    ingest.distrust("tx");
    let mut again = Seen::default();
    poll_until(&mut ingest, &mut again, |seen, _| seen.rows.len() == 3);
    assert_eq!(again.ids(), ["b0", "b1", "b2"]);
    let lost = |topic: &str| Lost {
        topic: topic.into(),
        partition: 0,
        from: 3,
        to: 0,
    };
    assert_eq!(again.lost, [lost("tx")]);

    let there = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    cluster.mock.topic_error("labels", there).unwrap();
    poll_until(&mut ingest, &mut again, |seen, _| seen.rows.len() == 6);
    assert_eq!(again.ids()[3..], ["a0", "a1", "a2"]);
    assert_eq!(again.lost, [lost("tx"), lost("labels")]);
}

#[test]
fn an_out_of_range_answer_is_checked_before_anything_is_called_lost() {
    let cluster = Cluster::new(&[("tx", 1), ("labels", 1)]);
    cluster.produce("tx", 0, events("a", 5));
    let mut ingest = cluster.start(&["tx", "labels"], nowhere());
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE; 2];
    cluster.mock.request_errors(RDKafkaApiKey::Fetch, &refusals);
    std::thread::sleep(Duration::from_millis(500));
    cluster.produce("tx", 0, [event("b", 100)]);
    poll_until(&mut ingest, &mut seen, |seen, caught_up| {
        caught_up && seen.rows.len() == 6
    });
    assert_eq!(seen.ids(), ["a0", "a1", "a2", "a3", "a4", "b"]);
    assert_eq!(seen.lost, []);
}
