//! Against librdkafka's mock cluster.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::*;

fn stream() -> StreamSpec {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    StreamSpec {
        name: "t".into(),
        topic: "t".into(),
        schema: Arc::new(Schema::new(vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("at", time, false),
        ])),
        time_column: 1,
        required: vec![],
        id: None,
    }
}

/// A cluster with the topic, which has one partition.
struct Cluster {
    producer: BaseProducer,
    mock: MockCluster<'static, DefaultProducerContext>,
}

impl Cluster {
    fn new() -> Self {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("t", 1, 1).unwrap();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", mock.bootstrap_servers())
            .create()
            .unwrap();
        Self { producer, mock }
    }

    fn settings(&self) -> IngestSettings {
        IngestSettings {
            brokers: self.mock.bootstrap_servers(),
            ..IngestSettings::default()
        }
    }

    /// Sends an event of a time (ms); the message is of now where it has no timestamp (ms).
    fn send(&self, id: usize, at: i64, timestamp: Option<i64>) {
        let event = format!(r#"{{"id":"{id}","at":{at}}}"#);
        let record = BaseRecord::<(), str>::to("t").payload(&event).partition(0);
        let record = match timestamp {
            Some(timestamp) => record.timestamp(timestamp),
            None => record,
        };
        let sent = self.producer.send(record);
        sent.map_err(|(error, _)| error).unwrap();
    }

    fn flush(&self) {
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }
}

/// All that a replay gives at a time (µs).
fn read(replay: &mut Replay, now_us: i64) -> Vec<Replayed> {
    let until = Instant::now() + Duration::from_secs(20);
    let mut all = Vec::new();
    while !replay.is_done() && Instant::now() < until {
        all.push(replay.read(now_us, Duration::from_millis(100)).unwrap());
    }
    all
}

fn part(partition: i32, until: i64) -> ReplayRange {
    ReplayRange {
        partition,
        from: None,
        until,
    }
}

#[test]
fn a_topic_that_was_made_anew_is_read_as_far_as_it_goes() {
    let cluster = Cluster::new();
    for id in 0..3 {
        cluster.send(id, id as i64, None);
    }
    cluster.flush();
    let settings = cluster.settings();
    for (parts, is_another) in [
        (vec![part(0, 3)], false),
        // There were more messages in the partition, or there was another one.
        (vec![part(0, 5)], true),
        (vec![part(0, 3), part(3, 9)], true),
        (vec![part(0, 0), part(3, 9)], true),
    ] {
        let mut replay = Replay::start(&settings, stream(), &parts).unwrap();
        assert_eq!(replay.is_another(), is_another, "{parts:?}");
        let is_read = parts[0].until > 0;
        let trimmed: &[i32] = if is_another && is_read { &[0] } else { &[] };
        assert_eq!(replay.trimmed(), trimmed, "{parts:?}");
        let read = read(&mut replay, 1_700_000_000_000_000);
        let rows: usize = read.iter().map(|read| read.batch.num_rows()).sum();
        assert_eq!(rows, if is_read { 3 } else { 0 }, "{parts:?}");
    }
    // What was begun before is seen to be of another topic too.
    for from in [1, 4] {
        let begun = ReplayRange {
            from: Some(from),
            ..part(0, 5)
        };
        let replay = Replay::start(&settings, stream(), &[begun]).unwrap();
        assert!(replay.is_another(), "{from}");
    }
}

/// What was a dead letter when it came is none of the events an hour later.
#[test]
fn an_event_is_too_far_ahead_as_of_when_its_message_was_written() {
    const WRITTEN: i64 = 1_700_000_000_000;
    const NOW: i64 = WRITTEN + 3_600_000;
    let cluster = Cluster::new();
    for (id, (at, timestamp)) in [
        (WRITTEN + 290_000, WRITTEN),
        (WRITTEN + 350_000, WRITTEN),
        // By a producer whose clock is ahead.
        (NOW + 290_000, NOW + 86_400_000),
        (NOW + 350_000, NOW + 86_400_000),
    ]
    .into_iter()
    .enumerate()
    {
        cluster.send(id, at, Some(timestamp));
    }
    cluster.flush();
    let mut replay = Replay::start(&cluster.settings(), stream(), &[part(0, 4)]).unwrap();
    let read = read(&mut replay, NOW * 1_000);
    let origin = read.iter().flat_map(|read| read.origin.clone());
    assert_eq!(origin.collect::<Vec<_>>(), [(0, 0), (0, 2)]);
    assert_eq!(read.iter().map(|read| read.ahead).sum::<usize>(), 2);
}

#[test]
fn a_message_without_a_time_counts_as_written_now() {
    for (timestamp, written_us) in [
        (Timestamp::NotAvailable, 9_000),
        (Timestamp::CreateTime(-1), 9_000),
        (Timestamp::CreateTime(0), 9_000),
        (Timestamp::CreateTime(7), 7_000),
        (Timestamp::LogAppendTime(7), 7_000),
        (Timestamp::LogAppendTime(i64::MAX), 9_000),
    ] {
        assert_eq!(super::written_us(timestamp, 9_000), written_us);
    }
}
