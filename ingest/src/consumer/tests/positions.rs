//! Positions that Kafka does not have, and topics that were made anew.

use super::*;
use crate::consumer::positions::valid_position;
use crate::step::Witness;

#[test]
fn positions_are_kept_if_valid_and_else_begin_at_the_oldest_message() {
    let marks = (10, 20);
    for (wanted, expected) in [
        (None, 10),
        (Some(10), 10),
        (Some(15), 15),
        (Some(20), 20),
        (Some(9), 10),
        (Some(21), 10),
    ] {
        assert_eq!(valid_position(wanted, marks), expected, "{wanted:?}");
    }
}

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

/// The message before the position decides, however far the topic has grown.
#[test]
fn a_topic_that_was_made_anew_is_read_from_its_beginning_even_where_it_has_grown_past_the_position()
{
    let cluster = Cluster::new(&[("tx", 1)]);
    cluster.produce("tx", 0, events("a", 5));
    let read = |witness: Option<Witness>| {
        let ingest = cluster.start(&["tx"], Arc::new(|_, _| Ok(Some(3))));
        let mut ingest = ingest.recognizing(Arc::new(move |_, _| witness));
        let mut seen = Seen::default();
        poll_until(&mut ingest, &mut seen, |seen, caught_up| {
            caught_up && seen.rows.last().is_some_and(|row| row.2 == 4)
        });
        seen
    };
    let mut all = cluster.start(&["tx"], nowhere());
    let mut timestamp = None;
    while timestamp.is_none() {
        let step = all
            .poll(NOW_US, Duration::from_millis(100), usize::MAX)
            .unwrap();
        let batch = step.batches.first();
        timestamp = batch.and_then(|batch| batch.kafka_ts.get(1).copied());
    }
    drop(all);
    let witness = |offset, later| {
        let kafka_ts = timestamp.unwrap() + later;
        Some(Witness { offset, kafka_ts })
    };
    // The one that was read, one that says nothing as it comes later, and none.
    for witness in [witness(1, 0), witness(3, 9), None] {
        let seen = read(witness);
        assert_eq!(seen.ids(), ["a3", "a4"]);
        assert_eq!(seen.lost, []);
    }
    let seen = read(witness(1, 9));
    assert_eq!(seen.ids(), ["a0", "a1", "a2", "a3", "a4"]);
    let [lost] = seen.lost.as_slice() else {
        panic!("{:?}", seen.lost);
    };
    assert_eq!((lost.from, lost.to), (3, 0));
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
