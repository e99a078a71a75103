//! Against librdkafka's mock cluster.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

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

fn part(partition: i32, until: i64) -> ReplayRange {
    ReplayRange {
        partition,
        from: None,
        until,
    }
}

#[test]
fn a_topic_that_was_made_anew_is_read_as_far_as_it_goes() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("t", 1, 1).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .create()
        .unwrap();
    for id in 0..3 {
        let event = format!(r#"{{"id":"{id}","at":{id}}}"#);
        let record = BaseRecord::<(), str>::to("t").payload(&event).partition(0);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    let settings = IngestSettings {
        brokers: mock.bootstrap_servers(),
        ..IngestSettings::default()
    };
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
        let mut rows = 0;
        let until = Instant::now() + Duration::from_secs(20);
        while !replay.is_done() && Instant::now() < until {
            let now_us = 1_700_000_000_000_000;
            let read = replay.read(now_us, Duration::from_millis(100)).unwrap();
            rows += read.batch.num_rows();
        }
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
