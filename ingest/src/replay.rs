//! Reading a topic once more, beside the group: from where a partition begins, or from a position, up to an offset.
//!
//! It is how a view that is new gets the events that came before it. What is neither an event nor a deletion is left out
//! without a word: its dead letter was written when it was read first. What lay too far in the future then does so for
//! good: it is judged as of its message's timestamp, and not as of now. Order across partitions does not matter to who
//! asks, so there is none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::decode::{BadMessage, JsonDecoder, Reason};
use crate::deletion::{Deletion, take_deletions};
use crate::error::IngestError;
use crate::group::log;
use crate::settings::IngestSettings;
use crate::stream::StreamSpec;
use crate::telemetry;
use crate::topics::partition_count;

/// Part of a partition: offsets `from..until`; from its first message where `from` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayRange {
    /// The partition.
    pub partition: i32,
    /// The first offset to read.
    pub from: Option<i64>,
    /// The offset after the last to read.
    pub until: i64,
}

/// What one read gives.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The events, with the stream's schema.
    pub batch: RecordBatch,
    /// For each of them, its partition and offset.
    pub origin: Vec<(i32, i64)>,
    /// Events that are no more, each partition's in its order.
    pub deletions: Vec<Deletion>,
    /// How many others lie too far in the future, as of their messages' timestamps.
    pub ahead: usize,
    /// Where each partition that has moved stands: its next offset.
    pub positions: Vec<(i32, i64)>,
}

/// A reader of parts of a topic.
pub struct Replay {
    consumer: BaseConsumer<ReplayContext>,
    decoder: JsonDecoder,
    topic: String,
    allowed_future_us: i64,
    /// By partition: the next offset and the one after the last. A partition that was read to its end is gone.
    open: BTreeMap<i32, (i64, i64)>,
    trimmed: Vec<i32>,
    is_another: bool,
}

/// The most messages of one read, and how long it waits for more of them.
const MOST_MESSAGES: usize = 4_096;
const WAIT: Duration = Duration::from_millis(20);

impl Replay {
    /// Connects, and finds where each partition begins.
    ///
    /// # Errors
    /// [`IngestError::Kafka`] where a broker does not answer; errors in settings and schemas.
    pub fn start(
        settings: &IngestSettings,
        spec: StreamSpec,
        ranges: &[ReplayRange],
    ) -> Result<Self, IngestError> {
        settings.check()?;
        let topic = spec.topic.clone();
        let consumer: BaseConsumer<ReplayContext> = settings
            .replay()
            .create_with_context(ReplayContext)
            .map_err(|error| IngestError::kafka("creating a consumer", error))?;
        let mut replay = Self {
            decoder: JsonDecoder::new(spec)?,
            allowed_future_us: settings.allowed_future_us(),
            open: BTreeMap::new(),
            trimmed: Vec::new(),
            is_another: false,
            consumer,
            topic,
        };
        for range in ranges {
            replay.open_partition(range, settings.request_timeout)?;
        }
        if replay.is_another {
            // Whatever is left of its partitions, it is not from where they were read.
            replay.trimmed = replay.open.keys().copied().collect();
        }
        replay.assign()?;
        Ok(replay)
    }

    fn open_partition(
        &mut self,
        range: &ReplayRange,
        timeout: Duration,
    ) -> Result<(), IngestError> {
        let partition = range.partition;
        let marks = self
            .consumer
            .fetch_watermarks(&self.topic, partition, timeout);
        let (low, high) = match marks {
            Ok(marks) => marks,
            Err(error) if self.is_gone(partition, &error, timeout)? => {
                telemetry::partition_gone(&self.topic, partition, range.until);
                self.is_another = true;
                return Ok(());
            }
            Err(error) => {
                return Err(IngestError::kafka("asking where a partition begins", error));
            }
        };
        // It was read further than it goes by now.
        self.is_another |= range.until > high;
        let wanted = range.from.unwrap_or(0);
        if low > wanted {
            self.trimmed.push(partition);
            if range.from.is_some() {
                telemetry::offsets_lost(&self.topic, partition, wanted, low);
            }
        }
        let (next, until) = (wanted.max(low), range.until.min(high));
        if next < until {
            self.open.insert(partition, (next, until));
        }
        Ok(())
    }

    /// Whether a partition that is refused is none of its topic: that was made anew, with fewer of them.
    fn is_gone(
        &self,
        partition: i32,
        refused: &KafkaError,
        timeout: Duration,
    ) -> Result<bool, IngestError> {
        use RDKafkaErrorCode::{UnknownPartition, UnknownTopicOrPartition};
        let code = refused.rdkafka_error_code();
        if !matches!(code, Some(UnknownPartition | UnknownTopicOrPartition)) {
            return Ok(false);
        }
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), timeout)
            .map_err(|error| IngestError::kafka("asking for a topic's partitions", error))?;
        let count = partition_count(&metadata, &self.topic);
        Ok(count.is_some_and(|count| partition >= count))
    }

    fn assign(&self) -> Result<(), IngestError> {
        let mut list = TopicPartitionList::new();
        for (partition, (next, _)) in &self.open {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*next))
                .map_err(|error| IngestError::kafka("reading a topic again", error))?;
        }
        self.consumer
            .assign(&list)
            .map_err(|error| IngestError::kafka("reading a topic again", error))
    }

    /// Partitions of which Kafka no longer has all that was to be read.
    pub fn trimmed(&self) -> &[i32] {
        &self.trimmed
    }

    /// Whether the topic is seen to be another one than the one that was read before: what that had is gone.
    pub fn is_another(&self) -> bool {
        self.is_another
    }

    /// Whether all was read.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Messages that are still to be read, at most.
    pub fn left(&self) -> i64 {
        self.open.values().map(|(next, until)| until - next).sum()
    }

    /// The next events. Without any after `timeout`, an empty batch. An event is from the future where it is that as of
    /// its message's timestamp, or as of `now_us` (microseconds since 1970) where that is earlier.
    ///
    /// # Errors
    /// [`IngestError::Kafka`] where the broker fails: start again from the positions that were handed out.
    pub fn read(&mut self, now_us: i64, timeout: Duration) -> Result<Replayed, IngestError> {
        let messages = poll(&self.consumer, timeout, &mut self.open)?;
        let payloads: Vec<_> = messages.iter().map(Message::payload).collect();
        let allowed_us = self.allowed_future_us;
        let latest_us = |index: usize| {
            written_us(messages[index].timestamp(), now_us).saturating_add(allowed_us)
        };
        let mut decoded = self.decoder.decode_by(&payloads, &latest_us)?;
        let is_ahead = |bad: &&BadMessage| bad.reason == Reason::FutureEventTime;
        let ahead = decoded.bad.iter().filter(is_ahead).count();
        let key = |index: usize| messages[index].key();
        let deleted = take_deletions(self.decoder.spec(), &mut decoded.bad, key)?.into_iter();
        let deletions = deleted.map(|(index, id)| Deletion {
            partition: messages[index].partition(),
            offset: messages[index].offset(),
            id,
        });
        let origin = decoded.rows.iter().map(|row| {
            let message = &messages[*row];
            (message.partition(), message.offset())
        });
        let mut positions = BTreeMap::new();
        for message in &messages {
            positions.insert(message.partition(), message.offset() + 1);
        }
        for (partition, next) in &positions {
            if let Some(range) = self.open.get_mut(partition) {
                range.0 = *next;
            }
        }
        self.open.retain(|_, (next, until)| next < until);
        Ok(Replayed {
            origin: origin.collect(),
            deletions: deletions.collect(),
            batch: decoded.batch,
            ahead,
            positions: positions.into_iter().collect(),
        })
    }
}

/// When (microseconds since 1970) a message was written, as it says itself. Without a time, or with a later one, that of a
/// producer whose clock is ahead, it counts as written now.
fn written_us(timestamp: Timestamp, now_us: i64) -> i64 {
    let written_ms = timestamp.to_millis().filter(|ms| *ms > 0);
    written_ms.map_or(now_us, |ms| ms.saturating_mul(1_000).min(now_us))
}

/// What librdkafka says by itself.
pub(crate) struct ReplayContext;

impl ConsumerContext for ReplayContext {}

impl ClientContext for ReplayContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        // The end of a partition comes with the messages.
        if code != Some(RDKafkaErrorCode::PartitionEOF) {
            let name = code.map_or_else(|| "none".into(), |code| format!("{code:?}"));
            telemetry::client_error(&name, reason);
        }
    }
}

/// Messages inside of the open ranges. A partition at whose end we are is closed: what is between its last message
/// and the range's end are records of transactions.
fn poll<'a>(
    consumer: &'a BaseConsumer<ReplayContext>,
    timeout: Duration,
    open: &mut BTreeMap<i32, (i64, i64)>,
) -> Result<Vec<BorrowedMessage<'a>>, IngestError> {
    let deadline = Instant::now() + timeout;
    let mut messages: Vec<BorrowedMessage<'a>> = Vec::new();
    while messages.len() < MOST_MESSAGES && !open.is_empty() {
        let wait = match messages.is_empty() {
            true => deadline.saturating_duration_since(Instant::now()),
            false => WAIT,
        };
        match consumer.poll(wait) {
            None => break,
            Some(Ok(message)) => {
                let range = open.get(&message.partition());
                if range.is_some_and(|(next, until)| (*next..*until).contains(&message.offset())) {
                    messages.push(message);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let read = messages.iter().any(|m| m.partition() == partition);
                match (read, open.get_mut(&partition)) {
                    // Its last messages are handed out first.
                    (true, Some(range)) => range.1 = range.1.min(last(&messages, partition) + 1),
                    _ => {
                        open.remove(&partition);
                    }
                }
            }
            Some(Err(error)) => return Err(IngestError::kafka("reading a topic again", error)),
        }
    }
    Ok(messages)
}

fn last(messages: &[BorrowedMessage<'_>], partition: i32) -> i64 {
    let of = messages.iter().rev().find(|m| m.partition() == partition);
    of.map_or(-1, Message::offset)
}

#[cfg(test)]
mod tests;
