//! Letters that their topic does not take as they are, against librdkafka's mock cluster.
#![allow(clippy::unwrap_used)]

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedMessage;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;

const LETTERS: &str = "tx.dead-letters";

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(LETTERS, 1, 1).unwrap();
    mock
}

/// The way to the topic of a cluster, for letters of at most so many bytes.
fn letters(mock: &MockCluster<'static, DefaultProducerContext>, bytes: usize) -> DeadLetters {
    let properties = [("message.max.bytes".to_owned(), bytes.to_string())];
    DeadLetters::new(IngestSettings {
        brokers: mock.bootstrap_servers(),
        properties: properties.into_iter().collect(),
        create_dead_letter_topics: false,
        ..IngestSettings::default()
    })
}

fn letter(offset: i64, key: &str, payload: &str, headers: &[&str]) -> DeadLetter {
    let own = headers.iter().fold(OwnedHeaders::new(), |all, value| {
        all.insert(Header {
            key: "own",
            value: Some(*value),
        })
    });
    DeadLetter {
        topic: "tx".to_owned(),
        partition: 3,
        offset,
        timestamp_ms: Some(1_000),
        key: Some(key.as_bytes().to_vec()),
        payload: Some(payload.as_bytes().to_vec()),
        headers: own,
        reason: Reason::Unparsable,
        detail: "no JSON".to_owned(),
        cut: Vec::new(),
    }
}

/// What stands in the topic, by the place that it came from.
fn read(mock: &MockCluster<'static, DefaultProducerContext>, count: usize) -> Vec<OwnedMessage> {
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(LETTERS, 0, Offset::Beginning)
        .unwrap();
    reader.assign(&list).unwrap();
    let next = |_| {
        let message = reader.poll(Duration::from_secs(10)).unwrap().unwrap();
        message.detach()
    };
    let mut read: Vec<OwnedMessage> = (0..count).map(next).collect();
    read.sort_by_key(|message| text(message, header::OFFSET));
    read
}

/// The last header of a name, as text.
fn text(message: &OwnedMessage, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let named = headers.iter().filter(|header| header.key == name);
    let value = named.last()?.value?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

#[test]
fn what_is_too_large_is_cut_from_its_payload_to_its_key() {
    let mut letter = letter(7, "key", "{oops", &["a", "b"]);
    let mut seen = Vec::new();
    while letter.cut() {
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let (payload, headers, key) = (
            bytes(&letter.payload),
            letter.headers.count(),
            bytes(&letter.key),
        );
        seen.push((payload, headers, key));
    }
    let expected = [
        (2, 2, 3),
        (1, 2, 3),
        (0, 2, 3),
        (0, 0, 3),
        (0, 0, 1),
        (0, 0, 0),
    ];
    assert_eq!(seen, expected);
    let said = letter.cut_text();
    assert_eq!(said.as_deref(), Some("payload 5, headers 2, key 3"));
}

#[test]
fn a_letter_whose_key_or_headers_fill_a_record_gets_there() {
    let mock = cluster();
    let mut letters = letters(&mock, 2_000);
    let large = "x".repeat(5_000);
    letters.push(letter(1, &large, "x", &[]));
    letters.push(letter(2, "k", "x", &[&large]));
    letters.push(letter(3, "k", &large, &["a"]));
    letters.push(letter(4, "k", "x", &["a"]));
    letters.deliver().unwrap();
    assert!(letters.is_empty());
    let read = read(&mock, 4);
    let cut: Vec<Option<String>> = read.iter().map(|m| text(m, header::CUT)).collect();
    let expected = [
        Some("payload 1, key 5000"),
        Some("payload 1, headers 1"),
        Some("payload 5000"),
        None,
    ];
    assert_eq!(cut, expected.map(|cut| cut.map(str::to_owned)));
    assert_eq!(read[0].key().map(<[u8]>::len), Some(1_250));
    assert_eq!(text(&read[1], "own"), None);
    assert_eq!(text(&read[2], "own").as_deref(), Some("a"));
    for message in &read {
        assert_eq!(text(message, header::TOPIC).as_deref(), Some("tx"));
        assert_eq!(text(message, header::PARTITION).as_deref(), Some("3"));
        assert_eq!(text(message, header::DETAIL).as_deref(), Some("no JSON"));
    }
}

/// The mock cluster refuses the whole batch, as brokers do.
#[test]
fn no_letter_is_cut_for_another_one_of_its_batch() {
    let mock = cluster();
    let refusal = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE];
    mock.request_errors(RDKafkaApiKey::Produce, &refusal);
    let mut letters = letters(&mock, 1_000_000);
    for offset in [1, 2, 3] {
        letters.push(letter(offset, "k", "payload", &["a"]));
    }
    letters.deliver().unwrap();
    // And later ones go in batches again.
    letters.push(letter(4, "k", "payload", &["a"]));
    letters.deliver().unwrap();
    for message in read(&mock, 4) {
        assert_eq!(message.payload(), Some(b"payload".as_slice()));
        assert_eq!(text(&message, header::CUT), None);
        assert_eq!(message.timestamp().to_millis(), Some(1_000));
    }
}

/// As a topic with `message.timestamp.before.max.ms` does not take a message that is older.
#[test]
fn a_letter_whose_timestamp_is_not_taken_has_the_time_of_sending() {
    let mock = cluster();
    let refusal = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP];
    mock.request_errors(RDKafkaApiKey::Produce, &refusal);
    let mut letters = letters(&mock, 1_000_000);
    letters.push(letter(1, "k", "payload", &["a"]));
    letters.deliver().unwrap();
    let message = read(&mock, 1).remove(0);
    assert!(message.timestamp().to_millis() > Some(1_000_000_000_000));
    assert_eq!(message.payload(), Some(b"payload".as_slice()));
    assert_eq!(text(&message, header::CUT), None);
}

#[test]
fn what_is_not_of_a_letter_changes_none() {
    use RDKafkaErrorCode::{
        InvalidDifferentRecord, InvalidRecord, InvalidTimestamp, MessageTimedOut,
        TopicAuthorizationFailed,
    };
    let mut letter = letter(1, "k", "payload", &["a"]);
    let mut mended = |code| letter.mend(&KafkaError::MessageProduction(code));
    for code in [
        MessageTimedOut,
        TopicAuthorizationFailed,
        InvalidDifferentRecord,
    ] {
        assert!(!mended(code), "{code:?}");
    }
    assert!(mended(InvalidRecord));
    // It has none any more.
    assert!(!mended(InvalidTimestamp));
}
