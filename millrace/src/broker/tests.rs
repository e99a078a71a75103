//! These start brokers and move messages through them, so they take seconds.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use millrace_ingest::{IngestSettings, ensure_topics};
use rdkafka::consumer::CommitMode;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::*;
use crate::produce::RawProducer;

const WAIT: Duration = Duration::from_secs(20);

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn settings(broker: &EmbeddedBroker) -> IngestSettings {
    IngestSettings {
        brokers: broker.address().to_string(),
        ..IngestSettings::default()
    }
}

fn create(broker: &EmbeddedBroker, topics: &[&str]) {
    let topics: Vec<(String, i32)> = topics.iter().map(|name| ((*name).to_owned(), 4)).collect();
    let created = ensure_topics(&broker.address().to_string(), &BTreeMap::new(), &topics).unwrap();
    assert_eq!(created.len(), topics.len());
}

fn consumer(broker: &EmbeddedBroker, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", broker.address().to_string())
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "300")
        .create()
        .unwrap()
}

/// Reads `count` messages: (topic, partition, key, payload) in the order of arrival.
fn read(consumer: &BaseConsumer, count: usize) -> Vec<(String, i32, String, String)> {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    let deadline = Instant::now() + WAIT;
    let mut messages = Vec::new();
    while messages.len() < count && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let place = (message.topic().to_owned(), message.partition());
            messages.push((
                place.0,
                place.1,
                text(message.key()),
                text(message.payload()),
            ));
        }
    }
    assert_eq!(messages.len(), count);
    messages
}

fn send(broker: &EmbeddedBroker, topic: &str, count: usize) {
    let producer = RawProducer::connect(&settings(broker)).unwrap();
    for number in 0..count {
        let key = format!("card-{}", number % 97);
        producer
            .send(topic, Some(key.as_bytes()), number.to_string().as_bytes())
            .unwrap();
    }
    producer.flush(WAIT).unwrap();
    assert_eq!(
        (producer.sent(), producer.delivered()),
        (count as u64, count as u64)
    );
}

#[test]
fn every_message_arrives_once_and_in_the_order_of_its_key() {
    let broker = EmbeddedBroker::start(any_port()).unwrap();
    create(&broker, &["left", "right"]);
    const COUNT: usize = 20_000;
    send(&broker, "left", COUNT);
    send(&broker, "right", COUNT);
    let consumer = consumer(&broker, "readers");
    consumer.subscribe(&["left", "right"]).unwrap();
    let messages = read(&consumer, 2 * COUNT);

    let mut by_key: BTreeMap<(String, String), (BTreeSet<i32>, Vec<usize>)> = BTreeMap::new();
    for (topic, partition, key, payload) in messages {
        let (partitions, numbers) = by_key.entry((topic, key)).or_default();
        partitions.insert(partition);
        numbers.push(payload.parse().unwrap());
    }
    assert_eq!(by_key.len(), 2 * 97);
    let mut left = BTreeSet::new();
    for ((topic, key), (partitions, numbers)) in by_key {
        assert_eq!(partitions.len(), 1, "{topic} {key}");
        assert!(numbers.is_sorted_by(|a, b| a < b), "{topic} {key}");
        if topic == "left" {
            left.extend(numbers);
        }
    }
    assert!(left.into_iter().eq(0..COUNT));
    // What is committed is where the next member goes on.
    consumer.commit_consumer_state(CommitMode::Sync).unwrap();
    let committed = consumer.committed(WAIT).unwrap();
    let offsets = committed.elements_for_topic("left").into_iter();
    let offsets = offsets.filter_map(|partition| match partition.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    });
    assert_eq!(offsets.sum::<i64>(), COUNT as i64);
}

#[test]
fn watermarks_and_offsets_for_times_are_true() {
    let broker = EmbeddedBroker::start(any_port()).unwrap();
    create(&broker, &["events"]);
    send(&broker, "events", 1_000);
    std::thread::sleep(Duration::from_millis(50));
    let between = chrono::Utc::now().timestamp_millis();
    std::thread::sleep(Duration::from_millis(50));
    let consumer = consumer(&broker, "times");
    let ends = || {
        (0..4).map(|partition| {
            consumer
                .fetch_watermarks("events", partition, WAIT)
                .unwrap()
        })
    };
    let first: Vec<(i64, i64)> = ends().collect();
    assert_eq!(
        first.iter().map(|(low, high)| high - low).sum::<i64>(),
        1_000
    );
    send(&broker, "events", 500);
    assert_eq!(ends().map(|(low, high)| high - low).sum::<i64>(), 1_500);

    let mut times = TopicPartitionList::new();
    for partition in 0..4 {
        times
            .add_partition_offset("events", partition, Offset::Offset(between))
            .unwrap();
    }
    let offsets = consumer.offsets_for_times(times, WAIT).unwrap();
    for (partition, (_, high)) in first.iter().enumerate() {
        let found = offsets
            .find_partition("events", partition as i32)
            .unwrap()
            .offset();
        assert_eq!(found, Offset::Offset(*high), "partition {partition}");
    }
}

#[test]
fn a_second_member_takes_half_of_the_partitions() {
    let broker = EmbeddedBroker::start(any_port()).unwrap();
    create(&broker, &["events"]);
    let members = [consumer(&broker, "pair"), consumer(&broker, "pair")];
    let assigned = |member: &BaseConsumer| member.assignment().unwrap().count();
    let settle = |members: &[BaseConsumer], expected: usize| {
        let deadline = Instant::now() + WAIT;
        while Instant::now() < deadline && members.iter().any(|member| assigned(member) != expected)
        {
            for member in members {
                member.poll(Duration::from_millis(20));
            }
        }
        for member in members {
            assert_eq!(assigned(member), expected);
        }
    };
    members[0].subscribe(&["events"]).unwrap();
    settle(&members[..1], 4);
    members[1].subscribe(&["events"]).unwrap();
    settle(&members, 2);
    let [stays, leaves] = members;
    drop(leaves);
    settle(&[stays], 4);
}

#[test]
fn a_port_in_use_is_told() {
    let broker = EmbeddedBroker::start(any_port()).unwrap();
    let Err(failure) = EmbeddedBroker::start(broker.address()) else {
        panic!("two brokers on one port");
    };
    let text = failure.to_string();
    assert!(
        text.contains("the port is in use") && text.contains("another port"),
        "{text}"
    );
}

#[tokio::test]
async fn a_port_is_free_again_when_the_broker_is_dropped() {
    let address = EmbeddedBroker::start(any_port()).unwrap().address();
    let again = EmbeddedBroker::start(address).unwrap();
    assert_eq!(again.address(), address);
}

#[test]
fn a_message_that_no_broker_takes_is_counted() {
    let broker = EmbeddedBroker::start(any_port()).unwrap();
    create(&broker, &["events"]);
    let mut settings = settings(&broker);
    settings
        .properties
        .insert("message.timeout.ms".into(), "5000".into());
    let producer = RawProducer::connect(&settings).unwrap();
    producer.send("events", None, b"first").unwrap();
    producer.flush(WAIT).unwrap();
    drop(broker);
    producer.send("events", None, b"second").unwrap();
    producer.send("events", None, b"third").unwrap();
    let failure = producer.flush(WAIT).unwrap_err().to_string();
    assert!(
        failure.contains("2 messages were not delivered"),
        "{failure}"
    );
    assert_eq!((producer.sent(), producer.delivered()), (3, 1));
}

/// `cargo test … -- --ignored --nocapture a_measurement` prints what a broker in this process carries.
#[test]
#[ignore = "a measurement"]
fn a_measurement() {
    const COUNT: usize = 200_000;
    let broker = EmbeddedBroker::start(any_port()).unwrap();
    create(&broker, &["events", "steps", "plain"]);
    let payload = "{\"tx_id\":\"1234567\",\"card_id\":\"4242\",\"terminal_id\":\"777\",\"amount\":12.34,\
                   \"event_time\":\"2025-01-01T00:00:00Z\"}";
    for (topic, idempotence) in [("events", "true"), ("plain", "false")] {
        let mut settings = settings(&broker);
        settings
            .properties
            .insert("enable.idempotence".into(), idempotence.into());
        let producer = RawProducer::connect(&settings).unwrap();
        let started = Instant::now();
        for number in 0..COUNT {
            let key = format!("card-{}", number % 5_000);
            producer
                .send(topic, Some(key.as_bytes()), payload.as_bytes())
                .unwrap();
        }
        producer.flush(WAIT).unwrap();
        let rate = COUNT as f64 / started.elapsed().as_secs_f64();
        println!("idempotence {idempotence}: {rate:.0} messages a second are delivered");
        let consumer = consumer(&broker, topic);
        consumer.subscribe(&[topic]).unwrap();
        let first = read(&consumer, 1).len();
        let started = Instant::now();
        let rate = read(&consumer, COUNT - first).len() as f64 / started.elapsed().as_secs_f64();
        println!("  {rate:.0} are read");
    }
    let producer = RawProducer::connect(&settings(&broker)).unwrap();
    let mut steps: Vec<Duration> = (0..100)
        .map(|_| {
            let started = Instant::now();
            (0..20).for_each(|_| {
                producer
                    .send("steps", Some(b"k"), payload.as_bytes())
                    .unwrap()
            });
            producer.flush(WAIT).unwrap();
            started.elapsed()
        })
        .collect();
    steps.sort();
    println!(
        "20 messages are acknowledged after {:?} (median), {:?} (worst)",
        steps[50], steps[99]
    );
}
