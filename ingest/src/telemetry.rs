//! What is logged and counted, one function an event, so that the line and the number cannot drift apart.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use rdkafka::error::KafkaError;
use tracing::{error, info, warn};

use crate::decode::Reason;
use crate::error::IngestError;
use crate::group::lock;
use crate::rarely::Rarely;

pub(crate) fn received(topic: &str, messages: usize, rows: usize) {
    counter!("millrace_ingest_messages_total", "topic" => topic.to_string())
        .increment(messages as u64);
    counter!("millrace_ingest_rows_total", "topic" => topic.to_string()).increment(rows as u64);
}

/// `example` is the partition, the offset and the fault of one of them.
pub(crate) fn dead_lettered(topic: &str, reason: Reason, count: u64, example: (i32, i64, &str)) {
    counter!("millrace_dead_letters_total", "topic" => topic.to_string(), "reason" => reason.as_str())
        .increment(count);
    let (partition, offset, detail) = example;
    warn!(topic, %reason, count, partition, offset, detail, "dead letters");
}

pub(crate) fn dead_letters_refused(topic: &str, waiting: usize, detail: &str) {
    counter!("millrace_dead_letter_failures_total", "topic" => topic.to_string()).increment(1);
    error!(
        topic,
        waiting,
        detail,
        "the dead-letter topic does not take messages; until it does, no topic is read"
    );
}

/// `cut` is what was cut, and what there was of it.
pub(crate) fn dead_letter_cut(topic: &str, partition: i32, offset: i64, cut: &str) {
    counter!("millrace_dead_letters_cut_total", "topic" => topic.to_string()).increment(1);
    warn!(
        topic,
        partition, offset, cut, "a dead letter was too large for its topic and was cut"
    );
}

pub(crate) fn offsets_lost(topic: &str, partition: i32, from: i64, to: i64) {
    counter!("millrace_ingest_lost_total", "topic" => topic.to_string()).increment(1);
    error!(
        topic,
        partition,
        from,
        to,
        "Kafka no longer has the position that was to be read (retention was shorter than the stop, or the topic \
         was created anew); reading goes on at the oldest event"
    );
}

pub(crate) fn tail_lost(topic: &str, partition: i32, from: i64, to: i64) {
    counter!("millrace_ingest_lost_total", "topic" => topic.to_string()).increment(1);
    error!(
        topic,
        partition,
        from,
        to,
        "Kafka has lost messages of this partition that were read (a disk that failed, or a leader that had not all of \
         them); reading goes on behind those that it still has as they were. Some of the old events may count twice where a view \
         has a resolution"
    );
}

pub(crate) fn not_compared(topic: &str, partition: i32, error: &IngestError) {
    warn!(
        topic,
        partition,
        %error,
        "whether a partition still has the messages that were read is not known yet; it is asked again"
    );
}

pub(crate) fn another_topic(topic: &str, partition: i32) {
    warn!(
        topic,
        partition, "the topic was deleted and created anew: it is read from its beginning"
    );
}

pub(crate) fn partition_gone(topic: &str, partition: i32, read: i64) {
    counter!("millrace_ingest_lost_total", "topic" => topic.to_string()).increment(1);
    error!(
        topic,
        partition,
        read,
        "a partition that was read is gone: the topic was created anew with fewer, and what the partition had behind what \
         was read of it is lost"
    );
}

pub(crate) fn not_left(within: Duration) {
    warn!(
        seconds = within.as_secs(),
        "the group was not left in this time: its broker takes the member for dead when it has not heard it for long enough"
    );
}

pub(crate) fn assigned(topic: &str, partition: i32, from: Option<i64>) {
    info!(topic, partition, from, "partition taken over");
}

pub(crate) fn revoked(partitions: usize) {
    info!(partitions, "partitions given up");
}

pub(crate) fn rows_late(rows: usize) {
    counter!("millrace_ingest_late_rows_total").increment(rows as u64);
}

pub(crate) fn out_of_patience(topic: &str, partition: i32) {
    counter!("millrace_ingest_out_of_patience_total", "topic" => topic.to_string()).increment(1);
    warn!(
        topic,
        partition, "partition is behind and sends nothing; the others go on without it"
    );
}

pub(crate) fn progress(lag: i64, buffered: usize, partitions: usize) {
    gauge!("millrace_ingest_lag").set(lag as f64);
    gauge!("millrace_ingest_buffered_rows").set(buffered as f64);
    gauge!("millrace_ingest_partitions").set(partitions as f64);
}

/// A client whose brokers are away says so ten times a second: each kind of error is logged ever more rarely, and counted
/// each time.
pub(crate) fn client_error(code: &str, detail: &str) {
    counter!("millrace_kafka_errors_total", "code" => code.to_string()).increment(1);
    static SAID: Mutex<BTreeMap<String, Rarely>> = Mutex::new(BTreeMap::new());
    let mut said = lock(&SAID);
    if said
        .entry(code.to_owned())
        .or_default()
        .is_due(Instant::now())
    {
        warn!(code, detail, "Kafka client");
    }
}

/// A partition that is gone has an error a second: each kind of error is logged ever more rarely, and counted each time.
pub(crate) fn partition_error(topic: &str, partition: i32, error: &KafkaError) {
    counter!("millrace_ingest_partition_errors_total", "topic" => topic.to_string()).increment(1);
    static SAID: Mutex<BTreeMap<(String, i32, String), Rarely>> = Mutex::new(BTreeMap::new());
    let what = (topic.to_owned(), partition, error.to_string());
    let mut said = lock(&SAID);
    if said.entry(what).or_default().is_due(Instant::now()) {
        warn!(topic, partition, %error, "a partition cannot be read; trying again");
    }
}

pub(crate) fn foreign_partitions(partitions: usize) {
    gauge!("millrace_ingest_foreign_partitions").set(partitions as f64);
}

pub(crate) fn shared_anew(group: &str) {
    info!(
        group,
        "the group gave other partitions than there are, as they were before: it is asked to share them out anew"
    );
}

pub(crate) fn none_foreign(group: &str) {
    info!(
        group,
        "no other process of the consumer group reads partitions any more"
    );
}

pub(crate) fn no_partitions(group: &str, reason: Option<&str>) {
    warn!(
        group,
        reason, "the consumer group gives this member no partitions: no events are read"
    );
}

pub(crate) fn foreign(group: &str, partitions: &[(String, i32)]) {
    warn!(
        group,
        partitions = places(partitions),
        "another process of the consumer group reads these partitions: none of their events come into this process's \
         store, and its look-ups, which do not count them, say STALE. Give each store a group of its own (kafka.group)"
    );
}

/// Partitions as text, a topic once: `tx 1, 2; labels 0`.
fn places(partitions: &[(String, i32)]) -> String {
    let same_topic = |one: &(String, i32), other: &(String, i32)| one.0 == other.0;
    let topics = partitions.chunk_by(same_topic);
    let text = |of_topic: &[(String, i32)]| {
        let numbers = of_topic.iter().map(|(_, number)| number.to_string());
        let numbers: Vec<String> = numbers.collect();
        let topic = of_topic.first().map_or("", |(topic, _)| topic.as_str());
        format!("{topic} {}", numbers.join(", "))
    };
    topics.map(text).collect::<Vec<_>>().join("; ")
}

pub(crate) fn commit_failed(detail: &str) {
    counter!("millrace_ingest_group_commit_failures_total").increment(1);
    warn!(
        detail,
        "offsets were not committed to the group; only lag tools read them"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_written_a_topic_once() {
        let partitions = [("tx", 1), ("tx", 2), ("labels", 0)];
        let partitions = partitions.map(|(topic, partition)| (topic.to_owned(), partition));
        assert_eq!(places(&partitions), "tx 1, 2; labels 0");
        assert_eq!(places(&[]), "");
    }
}
