//! Against librdkafka's mock cluster, which keeps at most 5 MiB a partition and forms a group in about 3 seconds.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::Ingest;
use crate::ahead::ReadAhead;
use crate::dead_letters::header;
use crate::deletion::Deletion;
use crate::error::IngestError;
use crate::settings::IngestSettings;
use crate::step::{Lost, StartOffsets, Step};
use crate::stream::StreamSpec;

mod membership;
mod positions;

const NOW_US: i64 = 1_700_000_000_000_000;

struct Cluster {
    mock: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Cluster {
    fn new(topics: &[(&str, i32)]) -> Self {
        let mock = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics {
            mock.create_topic(topic, *partitions, 1).unwrap();
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", mock.bootstrap_servers())
            .set("linger.ms", "0")
            // One batch a message keeps offsets and batches the same thing for the mock.
            .set("batch.num.messages", "100")
            .create()
            .unwrap();
        Self { mock, producer }
    }

    fn settings(&self) -> IngestSettings {
        IngestSettings {
            brokers: self.mock.bootstrap_servers(),
            create_dead_letter_topics: false,
            ..IngestSettings::default()
        }
    }

    fn produce(&self, topic: &str, partition: i32, payloads: impl IntoIterator<Item = String>) {
        for payload in payloads {
            let mut record = BaseRecord::to(topic)
                .key("key")
                .payload(payload.as_str())
                .partition(partition)
                .headers(OwnedHeaders::new().insert(Header {
                    key: "trace",
                    value: Some("42"),
                }));
            while let Err((_, back)) = self.producer.send(record) {
                self.producer.poll(Duration::from_millis(10));
                record = back;
            }
        }
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn start(&self, topics: &[&str], offsets: StartOffsets) -> Ingest {
        let streams = topics.iter().map(|topic| stream(topic)).collect();
        Ingest::start(self.settings(), streams, offsets).unwrap()
    }
}

fn stream(topic: &str) -> StreamSpec {
    StreamSpec {
        name: topic.into(),
        topic: topic.into(),
        schema: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new(
                "at",
                DataType::Timestamp(TimeUnit::Microsecond, None),
                false,
            ),
        ])),
        time_column: 1,
        required: vec![],
        id: None,
    }
}

fn event(id: &str, ms: i64) -> String {
    format!(r#"{{"id":"{id}","at":{ms}}}"#)
}

fn events(prefix: &str, count: i64) -> Vec<String> {
    (0..count)
        .map(|i| event(&format!("{prefix}{i}"), i))
        .collect()
}

fn nowhere() -> StartOffsets {
    Arc::new(|_, _| Ok(None))
}

/// Everything that polls gave.
#[derive(Default)]
struct Seen {
    /// (stream, partition, offset, id), in order.
    rows: Vec<(usize, i32, i64, String)>,
    /// (offset, value) of the headers that came with them.
    headers: Vec<(i64, String)>,
    deletions: Vec<(usize, Deletion)>,
    positions: HashMap<(String, i32), i64>,
    lost: Vec<Lost>,
    assigned: Vec<(String, i32)>,
    revoked: Vec<(String, i32)>,
}

impl Seen {
    fn add(&mut self, step: Step) {
        for batch in step.batches {
            assert!(batch.kafka_ts.iter().all(|ts| *ts > 0));
            let ids = batch.batch.column(0).as_string::<i32>();
            let rows = batch.origin.iter().zip(ids.iter());
            let rows = rows.map(|((partition, offset), id)| {
                (batch.stream, *partition, *offset, id.unwrap().to_string())
            });
            self.rows.extend(rows);
            let headers = batch.headers.into_iter().map(|header| {
                let value = String::from_utf8(header.value).unwrap();
                (batch.origin[header.row].1, value)
            });
            self.headers.extend(headers);
            let deletions = batch.deletions.into_iter();
            self.deletions
                .extend(deletions.map(|deletion| (batch.stream, deletion)));
        }
        for (topic, partition, next) in step.positions {
            self.positions.insert((topic, partition), next);
        }
        self.lost.extend(step.lost);
        self.assigned.extend(step.assigned);
        self.revoked.extend(step.revoked);
    }

    fn position(&self, topic: &str, partition: i32) -> i64 {
        self.positions[&(topic.to_string(), partition)]
    }

    fn ids(&self) -> Vec<&str> {
        self.rows.iter().map(|(_, _, _, id)| id.as_str()).collect()
    }
}

/// Polls until `done`, at most two minutes.
fn poll_until(ingest: &mut Ingest, seen: &mut Seen, done: impl Fn(&Seen, bool) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        let step = ingest
            .poll(NOW_US, Duration::from_millis(100), usize::MAX)
            .unwrap();
        let caught_up = step.caught_up;
        seen.add(step);
        if done(seen, caught_up) {
            return;
        }
    }
    panic!(
        "not done: {} rows, {:?}, {:?}",
        seen.rows.len(),
        seen.positions,
        ingest.assignment()
    );
}

#[test]
fn a_tombstone_deletes_where_its_key_is_an_id() {
    let cluster = Cluster::new(&[("tx", 1), ("other", 1), ("other.dead-letters", 1)]);
    for topic in ["tx", "other"] {
        cluster.produce(topic, 0, events("a", 2));
        let tombstone = BaseRecord::<str, str>::to(topic).key("a0").partition(0);
        cluster
            .producer
            .send(tombstone)
            .map_err(|(e, _)| e)
            .unwrap();
        cluster.produce(topic, 0, events("b", 1));
    }
    let keyed = StreamSpec {
        id: Some(0),
        ..stream("tx")
    };
    let specs = vec![keyed, stream("other")];
    let mut ingest = Ingest::start(cluster.settings(), specs, nowhere()).unwrap();
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |seen, _| {
        seen.positions.values().sum::<i64>() == 8
    });
    let deletion = Deletion {
        partition: 0,
        offset: 2,
        id: "a0".to_owned(),
    };
    assert_eq!(seen.deletions, [(0, deletion)]);
    let mut offsets: Vec<_> = seen.rows.iter().map(|(s, _, o, _)| (*s, *o)).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, [(0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (1, 3)]);
    assert_eq!(ingest.dead_letters(), 1);
}

#[test]
fn an_ingest_can_move_to_a_thread() {
    fn is_send<T: Send>() {}
    is_send::<Ingest>();
}

#[test]
fn reading_ahead_gives_what_polling_gives() {
    let cluster = Cluster::new(&[("tx", 2)]);
    cluster.produce("tx", 0, events("a", 3_000));
    cluster.produce("tx", 1, events("b", 3_000));
    let mut plain = Seen::default();
    poll_until(
        &mut cluster.start(&["tx"], nowhere()),
        &mut plain,
        |_, caught_up| caught_up,
    );

    let mut ahead = ReadAhead::start(cluster.start(&["tx"], nowhere())).unwrap();
    let mut seen = Seen::default();
    let mut caught_up = false;
    while !caught_up {
        let polled = ahead
            .poll(NOW_US, Duration::from_secs(10), usize::MAX)
            .unwrap();
        caught_up = polled.step.caught_up;
        ahead.commit(polled.step.positions.clone()).unwrap();
        seen.add(polled.step);
        // The time that a caller takes to apply it.
        std::thread::sleep(Duration::from_millis(20));
    }
    let sorted = |seen: Seen| {
        let mut rows = seen.rows;
        rows.sort();
        (rows, seen.positions)
    };
    assert_eq!(sorted(seen), sorted(plain));
}

#[test]
fn who_stays_hears_the_brokers_and_takes_nothing() {
    let cluster = Cluster::new(&[("tx", 1)]);
    cluster.produce("tx", 0, events("a", 10));
    let mut ahead = ReadAhead::start(cluster.start(&["tx"], nowhere())).unwrap();
    let mut seen = Seen::default();
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut poll_to = |ahead: &mut ReadAhead, rows: usize| {
        while seen.rows.len() < rows {
            assert!(Instant::now() < deadline);
            let polled = ahead.poll(NOW_US, Duration::from_secs(1), usize::MAX);
            seen.add(polled.unwrap().step);
        }
    };
    poll_to(&mut ahead, 10);
    cluster.produce("tx", 0, events("b", 5));
    let produced = Instant::now();
    loop {
        assert!(Instant::now() < deadline);
        let stayed = ahead.stay().unwrap();
        assert!(stayed.step.is_empty());
        let is_heard = stayed.heard.is_some_and(|at| at > produced);
        if is_heard && stayed.lags == [("tx".to_owned(), 5)] {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    poll_to(&mut ahead, 15);
}

#[test]
fn a_stop_is_heard_while_a_poll_waits() {
    let cluster = Cluster::new(&[("tx", 1)]);
    let mut ahead = ReadAhead::start(cluster.start(&["tx"], nowhere())).unwrap();
    let long = Duration::from_secs(60);
    let began = Instant::now();
    // The group takes seconds to give anything that a poll would tell.
    let stop = AtomicBool::new(true);
    let polled = ahead.poll_unless(&stop, NOW_US, long, usize::MAX);
    assert!(polled.unwrap().is_none());
    drop(ahead);
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn all_partitions_of_all_topics_are_read_once_and_to_their_ends() {
    let cluster = Cluster::new(&[("tx", 2), ("labels", 2)]);
    cluster.produce("tx", 0, events("a", 3_000));
    cluster.produce("tx", 1, events("b", 500));
    cluster.produce("labels", 1, events("c", 10));
    let mut ingest = cluster.start(&["tx", "labels"], nowhere());
    assert!(
        !ingest
            .poll(NOW_US, Duration::ZERO, usize::MAX)
            .unwrap()
            .caught_up
    );

    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    assert_eq!(seen.rows.len(), 3_510);
    let of = |stream, partition| -> Vec<(i64, String)> {
        let rows = seen
            .rows
            .iter()
            .filter(|r| (r.0, r.1) == (stream, partition));
        rows.map(|r| (r.2, r.3.clone())).collect()
    };
    let expected = |prefix: &str, count: i64| -> Vec<(i64, String)> {
        (0..count).map(|i| (i, format!("{prefix}{i}"))).collect()
    };
    assert_eq!(of(0, 0), expected("a", 3_000));
    assert_eq!(of(0, 1), expected("b", 500));
    assert_eq!(of(1, 1), expected("c", 10));
    assert_eq!(seen.position("tx", 0), 3_000);
    assert_eq!(seen.position("labels", 0), 0);
    assert_eq!(ingest.lag(), 0);
    let none = [("tx".to_owned(), 0), ("labels".to_owned(), 0)];
    assert_eq!(ingest.lags(), none);
    assert_eq!(ingest.assignment().len(), 4);

    // What comes later comes soon, and only that.
    let mut later = Seen::default();
    cluster.produce("labels", 0, [event("new", 5)]);
    let sent = Instant::now();
    poll_until(&mut ingest, &mut later, |seen, _| !seen.rows.is_empty());
    assert!(
        sent.elapsed() < Duration::from_secs(1),
        "{:?}",
        sent.elapsed()
    );
    assert_eq!(later.ids(), ["new"]);
    ingest
        .commit(&[("labels".into(), 0, 1), ("other".into(), 0, 1)])
        .unwrap();
}

#[test]
fn reading_starts_where_the_store_stands() {
    let cluster = Cluster::new(&[("tx", 2)]);
    cluster.produce("tx", 0, events("a", 10));
    cluster.produce("tx", 1, events("b", 10));
    let offsets: StartOffsets = Arc::new(|topic, partition| {
        Ok((topic == "tx").then_some(if partition == 0 { 7 } else { 10 }))
    });
    let mut ingest = cluster.start(&["tx"], offsets);
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    assert_eq!(seen.ids(), ["a7", "a8", "a9"]);
    assert_eq!(seen.positions, HashMap::from([(("tx".into(), 0), 10)]));
    assert_eq!(seen.lost, []);
}

#[test]
fn bad_messages_are_in_their_topic_before_the_position_passes_them() {
    let cluster = Cluster::new(&[("tx", 1), ("tx.dead-letters", 1)]);
    let future = NOW_US / 1_000 + 301_000;
    cluster.produce(
        "tx",
        0,
        [
            event("good", 1),
            "{oops".into(),
            event("future", future),
            r#"{"id":"timeless"}"#.into(),
            event("better", 2),
            "[]".into(),
        ],
    );
    let mut ingest = cluster
        .start(&["tx"], nowhere())
        .keeping(&["other", "trace"]);
    let mut seen = Seen::default();
    poll_until(&mut ingest, &mut seen, |_, caught_up| caught_up);
    assert_eq!(seen.ids(), ["good", "better"]);
    assert_eq!(seen.headers, [(0, "42".into()), (4, "42".into())]);
    assert_eq!(seen.position("tx", 0), 6);
    drop(ingest);

    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.mock.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("tx.dead-letters", 0, Offset::Beginning)
        .unwrap();
    reader.assign(&list).unwrap();
    let mut letters = Vec::new();
    for _ in 0..4 {
        let message = reader.poll(Duration::from_secs(10)).unwrap().unwrap();
        assert_eq!(message.key(), Some(b"key".as_slice()));
        let headers: HashMap<String, String> = message
            .headers()
            .unwrap()
            .iter()
            .map(|h| {
                let value = String::from_utf8(h.value.unwrap().to_vec()).unwrap();
                (h.key.to_string(), value)
            })
            .collect();
        assert_eq!(headers["trace"], "42");
        assert_eq!(headers[header::TOPIC], "tx");
        assert_eq!(headers[header::PARTITION], "0");
        assert!(!headers[header::DETAIL].is_empty());
        let payload = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
        letters.push((
            headers[header::OFFSET].clone(),
            headers[header::REASON].clone(),
            payload,
        ));
    }
    letters.sort();
    let letter = |offset: &str, reason: &str, payload: &str| {
        (offset.to_string(), reason.to_string(), payload.to_string())
    };
    assert_eq!(
        letters,
        [
            letter("1", "unparsable", "{oops"),
            letter("2", "future_event_time", &event("future", future)),
            letter("3", "missing_field", r#"{"id":"timeless"}"#),
            letter("5", "unparsable", "[]"),
        ]
    );
}

#[test]
fn positions_wait_while_the_dead_letter_topic_takes_nothing() {
    let cluster = Cluster::new(&[("tx", 1), ("tx.dead-letters", 1)]);
    cluster.produce("tx", 0, ["{oops".into(), event("good", 1)]);
    let settings = IngestSettings {
        request_timeout: Duration::from_millis(1_000),
        ..cluster.settings()
    };
    // Answers to Produce that are not tried again.
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 2];
    cluster
        .mock
        .request_errors(RDKafkaApiKey::Produce, &refusals);
    let mut ingest = Ingest::start(settings, vec![stream("tx")], nowhere()).unwrap();
    let mut seen = Seen::default();
    let mut refused = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen.rows.is_empty() {
        assert!(Instant::now() < deadline);
        match ingest.poll(NOW_US, Duration::from_millis(100), usize::MAX) {
            Ok(step) => seen.add(step),
            Err(error) => {
                assert_eq!(error.remedy(), crate::Remedy::Retry, "{error}");
                assert!(matches!(error, IngestError::DeadLetters { .. }), "{error}");
                assert!(seen.positions.values().all(|next| *next == 0));
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 2);
    assert_eq!(seen.ids(), ["good"]);
    assert_eq!(seen.position("tx", 0), 2);
}

/// For longer than a member may be silent.
#[test]
fn a_member_stays_in_its_group_while_letters_wait() {
    let cluster = Cluster::new(&[("tx", 1), ("tx.dead-letters", 1)]);
    cluster.produce("tx", 0, ["{oops".into(), event("good", 1)]);
    let properties = [
        ("max.poll.interval.ms", "4000"),
        ("session.timeout.ms", "4000"),
        ("heartbeat.interval.ms", "500"),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let settings = IngestSettings {
        request_timeout: Duration::from_millis(1_000),
        properties: BTreeMap::from(properties),
        ..cluster.settings()
    };
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 100];
    cluster
        .mock
        .request_errors(RDKafkaApiKey::Produce, &refusals);
    let mut ingest = Ingest::start(settings, vec![stream("tx")], nowhere()).unwrap();
    let mut seen = Seen::default();
    let mut since: Option<Instant> = None;
    let deadline = Instant::now() + Duration::from_secs(60);
    while since.is_none_or(|since| since.elapsed() < Duration::from_millis(5_500)) {
        assert!(Instant::now() < deadline);
        match ingest.poll(NOW_US, Duration::from_millis(100), usize::MAX) {
            Ok(step) => seen.add(step),
            Err(error) => {
                assert!(matches!(error, IngestError::DeadLetters { .. }), "{error}");
                since.get_or_insert_with(Instant::now);
            }
        }
    }
    cluster.mock.clear_request_errors(RDKafkaApiKey::Produce);
    poll_until(&mut ingest, &mut seen, |seen, _| !seen.rows.is_empty());
    assert_eq!(seen.ids(), ["good"]);
    assert_eq!(seen.assigned, [("tx".to_owned(), 0)]);
    assert!(seen.revoked.is_empty(), "{:?}", seen.revoked);
}

#[test]
fn a_topic_that_is_not_there_is_named_with_its_neighbours() {
    let cluster = Cluster::new(&[("transactions", 1)]);
    let started = Ingest::start(cluster.settings(), vec![stream("transaction")], nowhere());
    let Err(IngestError::UnknownTopic { topic, near }) = started else {
        panic!("started");
    };
    assert_eq!(topic, "transaction");
    assert_eq!(near, ["transactions"]);
}

#[test]
fn two_streams_of_one_topic_are_refused() {
    let cluster = Cluster::new(&[("tx", 1)]);
    let streams = vec![stream("tx"), stream("tx")];
    let started = Ingest::start(cluster.settings(), streams, nowhere());
    assert!(matches!(started, Err(IngestError::DuplicateTopic { .. })));
}

#[test]
fn brokers_that_do_not_answer_are_named() {
    let settings = IngestSettings {
        brokers: "localhost:1".into(),
        request_timeout: Duration::from_millis(500),
        ..IngestSettings::default()
    };
    let started = Ingest::start(settings, vec![stream("tx")], nowhere());
    let Err(IngestError::BrokerUnreachable { brokers, detail }) = started else {
        panic!("started");
    };
    assert_eq!(brokers, "localhost:1");
    assert!(detail.contains("refused"), "{detail}");
}

#[test]
fn a_property_that_librdkafka_refuses_is_named_without_its_value() {
    let settings = IngestSettings {
        properties: BTreeMap::from([("fetch.wait.max.ms".into(), "secret".into())]),
        ..IngestSettings::default()
    };
    let started = Ingest::start(settings, vec![stream("tx")], nowhere());
    let Err(error) = started else {
        panic!("started");
    };
    assert_eq!(error.remedy(), crate::Remedy::MendInput);
    let text = error.to_string();
    assert!(text.contains("fetch.wait.max.ms"), "{text}");
}
