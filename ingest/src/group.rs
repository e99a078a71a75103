//! The side of the consumer that librdkafka calls back: rebalances, statistics, errors, logs.
//!
//! A callback only notes what happened. `consumer` acts on it after the call that served the callback, because
//! taking a partition over needs more than a callback has.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::{Broker, Statistics, Topic};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use crate::error::IngestError;
use crate::telemetry;

/// What the group decided, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rebalance {
    /// Take these over: the consumer waits for its `assign`.
    Assign(Vec<(String, i32)>),
    /// These were given up already.
    Revoke(Vec<(String, i32)>),
}

/// The state that callbacks and the consumer share.
#[derive(Debug, Default)]
pub(crate) struct GroupContext {
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// From librdkafka's statistics: what each partition's end was at the last fetch.
    ends: Mutex<HashMap<(String, i32), i64>>,
    /// From the statistics too: how many partitions each topic has.
    partitions: Mutex<HashMap<String, i32>>,
    /// When the broker that leads a partition was last heard: before that, its end may have moved unseen.
    heard: Mutex<HashMap<(String, i32), Instant>>,
    /// Topics that were deleted and made anew.
    made_anew: Mutex<BTreeSet<String>>,
    pub(crate) last_error: LastError,
    closing: AtomicBool,
}

impl GroupContext {
    /// The oldest decision that was not acted on. One at a time: those behind one that fails are still to be acted on.
    pub(crate) fn next_rebalance(&self) -> Option<Rebalance> {
        lock(&self.rebalances).pop_front()
    }

    /// The offset after a partition's last message, as of the last statistics.
    pub(crate) fn end_of(&self, topic: &str, partition: i32) -> Option<i64> {
        let ends = lock(&self.ends);
        ends.get(&(topic.to_string(), partition)).copied()
    }

    /// How many partitions a topic has, as of the last statistics.
    pub(crate) fn partitions_of(&self, topic: &str) -> Option<i32> {
        lock(&self.partitions).get(topic).copied()
    }

    /// When the leader of a partition was last heard.
    pub(crate) fn heard_of(&self, topic: &str, partition: i32) -> Option<Instant> {
        let heard = lock(&self.heard);
        heard.get(&(topic.to_string(), partition)).copied()
    }

    /// Notes that the leader of a partition was heard.
    pub(crate) fn hear(&self, topic: &str, partition: i32, at: Instant) {
        let mut heard = lock(&self.heard);
        let last = heard.entry((topic.to_string(), partition)).or_insert(at);
        *last = (*last).max(at);
    }

    /// Topics that were deleted and made anew since the last call.
    pub(crate) fn take_made_anew(&self) -> BTreeSet<String> {
        std::mem::take(&mut lock(&self.made_anew))
    }

    /// From now on nobody takes partitions over any more.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    pub(crate) fn note(&self, rebalance: Rebalance) {
        lock(&self.rebalances).push_back(rebalance);
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(topic) = made_anew(message) {
            lock(&self.made_anew).insert(topic.to_owned());
        }
        log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        let mut ends = lock(&self.ends);
        let heard = heard(&statistics.brokers);
        for (topic, of_topic) in statistics.topics {
            lock(&self.partitions).insert(topic.clone(), partition_count(&of_topic));
            for (partition, of_partition) in of_topic.partitions {
                if let Some(at) = heard.get(&of_partition.leader) {
                    self.hear(&topic, partition, *at);
                }
                // Negative: not known.
                if of_partition.hi_offset >= 0 {
                    ends.insert((topic.clone(), partition), of_partition.hi_offset);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // These two are news of a partition, which `consumer` reads from its queue.
        let code = error.rdkafka_error_code();
        if matches!(
            code,
            Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset)
        ) {
            return;
        }
        let name = code.map_or_else(|| "none".into(), |code| format!("{code:?}"));
        telemetry::client_error(&name, reason);
        self.last_error.note(code, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let list = partitions.elements();
        let list = list
            .iter()
            .map(|element| (element.topic().to_string(), element.partition()))
            .collect();
        let assigned = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if assigned {
            // Who leaves needs no partitions, and librdkafka no answer. One that comes when it has just left would be
            // waited for for ever.
            if !self.closing.load(Ordering::SeqCst) {
                self.note(Rebalance::Assign(list));
            }
            return;
        }
        if let Err(error) = consumer.unassign() {
            telemetry::client_error("unassign", &error.to_string());
        }
        self.note(Rebalance::Revoke(list));
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            telemetry::commit_failed(&error.to_string());
        }
    }
}

/// How many partitions a topic has by its metadata: one that is read and gone is none, nor is that of messages without
/// a partition, -1.
fn partition_count(topic: &Topic) -> i32 {
    let partitions = topic.partitions.iter();
    let known = partitions.filter(|(partition, of)| **partition >= 0 && !of.unknown);
    i32::try_from(known.count()).unwrap_or(i32::MAX)
}

/// When each broker that is connected was last heard, by its number. One whose messages are asked for answers twice a
/// second, with some or with none.
fn heard(brokers: &HashMap<String, Broker>) -> HashMap<i32, Instant> {
    let now = Instant::now();
    let at = |broker: &Broker| {
        let idle = Duration::from_micros(u64::try_from(broker.rxidle).ok()?);
        now.checked_sub(idle)
    };
    let connected = brokers.values().filter(|broker| broker.state == "UP");
    connected
        .filter_map(|broker| Some((broker.nodeid, at(broker)?)))
        .collect()
}

/// What librdkafka said last of why it cannot reach a broker. A request that none answers says only that.
#[derive(Debug, Default)]
pub struct LastError(Mutex<Option<String>>);

impl LastError {
    /// Notes what a client's error callback is given.
    pub fn note(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        let mut last = lock(&self.0);
        // That all are down says less than why one of them is.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) || last.is_none() {
            *last = Some(reason.to_string());
        }
    }

    pub(crate) fn text(&self) -> Option<String> {
        lock(&self.0).clone()
    }

    /// The error of a request that no broker answered.
    pub fn unreachable(&self, brokers: &str, error: &KafkaError) -> IngestError {
        let reason = self.text();
        IngestError::BrokerUnreachable {
            brokers: brokers.into(),
            detail: reason.unwrap_or_else(|| error.to_string()),
        }
    }
}

/// Lets the context hear the errors that wait in the queue as events: one a call, and the last of them is put there at the
/// moment in which a request is given up.
pub(crate) fn hear_errors<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    for _ in 0..16 {
        consumer.poll(Duration::from_millis(10));
    }
}

/// The topic that a log line says has another id than before.
///
/// librdkafka sees it in a broker's metadata, goes on reading at the old offset (its source: "an offset reset must be
/// triggered"), and tells nobody but its log (`debug=metadata`). All zeros are no id: before the first, and of a broker
/// that gives none.
fn made_anew(message: &str) -> Option<&str> {
    let (before, ids) = message.split_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once("Topic ")?;
    let (before, after) = ids.split_once(" to ")?;
    let is_one = |id: &str| !id.trim().bytes().all(|byte| matches!(byte, b'A' | b'='));
    (is_one(before) && is_one(after)).then_some(topic)
}

/// librdkafka's log lines, as `tracing` events of the target `librdkafka`.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    // A connection that failed comes as an error too, which is logged ever more rarely.
    let level = match facility {
        "FAIL" => RDKafkaLogLevel::Debug,
        _ => level,
    };
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
    }
}

/// A flag that librdkafka's threads raise when a queue has something, and that the consumer waits for.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    pub(crate) fn raise(&self) {
        *lock(&self.raised) = true;
        self.changed.notify_all();
    }

    /// Waits until the flag is raised, at most `timeout`, and lowers it.
    pub(crate) fn wait(&self, timeout: Duration) {
        let raised = lock(&self.raised);
        let waited = self
            .changed
            .wait_timeout_while(raised, timeout, |raised| !*raised);
        let (mut raised, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *raised = false;
    }
}

/// What the mutexes here guard is whole after every statement, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Partition;

    use super::*;

    #[test]
    fn a_topic_with_another_id_is_another_topic() {
        let line = "[thrd:main]: Topic card.tx-1 changed id from JuQnN3dSTHizTrm5eSXRSA to u5Lm4kzSSbucMQhlQxRw3w";
        assert_eq!(made_anew(line), Some("card.tx-1"));
        let first = "[thrd:main]: Topic tx changed id from AAAAAAAAAAAAAAAAAAAAAA to u5Lm4kzSSbucMQhlQxRw3w";
        assert_eq!(made_anew(first), None);
        let none = "[thrd:main]: Topic tx changed id from u5Lm4kzSSbucMQhlQxRw3w to AAAAAAAAAAAAAAAAAAAAAA";
        assert_eq!(made_anew(none), None);
        assert_eq!(
            made_anew("[thrd:main]: Topic tx [0] Leader 1 Epoch 0"),
            None
        );
    }

    fn statistics(state: &str, idle: Duration) -> Statistics {
        let broker = Broker {
            nodeid: 7,
            state: state.to_owned(),
            rxidle: idle.as_micros() as i64,
            ..Broker::default()
        };
        let partition = Partition {
            leader: 7,
            hi_offset: 40,
            ..Partition::default()
        };
        let topic = Topic {
            partitions: HashMap::from([(0, partition), (-1, Partition::default())]),
            ..Topic::default()
        };
        Statistics {
            brokers: HashMap::from([("here:9092/7".to_owned(), broker)]),
            topics: HashMap::from([("t".to_owned(), topic)]),
            ..Statistics::default()
        }
    }

    #[test]
    fn a_partition_is_heard_while_its_leader_answers() {
        let context = GroupContext::default();
        context.stats(statistics("CONNECT", Duration::ZERO));
        assert_eq!(context.heard_of("t", 0), None);
        assert_eq!(context.end_of("t", 0), Some(40));
        assert_eq!(context.partitions_of("t"), Some(1));
        assert_eq!(context.partitions_of("u"), None);
        let idle = Duration::from_millis(400);
        context.stats(statistics("UP", idle));
        let heard = context.heard_of("t", 0);
        assert!(heard.is_some_and(|at| at.elapsed() >= idle));
        // What is silent, and what is not connected, was heard no later than before.
        context.stats(statistics("UP", Duration::from_secs(9)));
        context.stats(statistics("DOWN", Duration::ZERO));
        assert_eq!(context.heard_of("t", 0), heard);
        assert_eq!(context.heard_of("t", 1), None);
    }
}
