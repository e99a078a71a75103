//! One partition that is ours: its queue, and what a turn takes from it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers, Message};

use crate::align::RowHeader;
use crate::consumer::GroupConsumer;
use crate::error::IngestError;
use crate::group::{GroupContext, Wake};
use crate::step::Witness;
use crate::telemetry;

/// Bytes that a turn takes at most.
const TURN_BYTES: usize = 4 << 20;

/// A partition that is ours.
pub(crate) struct Lane {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) queue: PartitionQueue<GroupContext>,
    /// The next offset to take from the queue; nothing where the beginning is not known as a number.
    pub(crate) next: Option<i64>,
    /// The offset after the last message, when the partition was taken over.
    pub(crate) end: i64,
    /// A message before `next` that is read first, to see whether the partition is the one that was read.
    pub(crate) witness: Option<Witness>,
    /// The last message that was taken from the queue.
    pub(crate) last: Option<Witness>,
}

impl Lane {
    pub(crate) fn name(&self) -> (&str, i32) {
        (&self.topic, self.partition)
    }

    pub(crate) fn owned_name(&self) -> (String, i32) {
        (self.topic.clone(), self.partition)
    }
}

/// What one turn took from a partition's queue.
pub(crate) struct Taken<'a> {
    pub(crate) messages: Vec<BorrowedMessage<'a>>,
    pub(crate) next: Option<i64>,
    pub(crate) at_end: bool,
    pub(crate) out_of_range: bool,
    /// Whether the partition is the one that was read before, where that was seen.
    pub(crate) recognized: Option<bool>,
}

/// By what a message is known again; nothing where it has no timestamp.
pub(crate) fn witness_of(message: &BorrowedMessage<'_>) -> Option<Witness> {
    let kafka_ts = message.timestamp().to_millis()?;
    Some(Witness {
        offset: message.offset(),
        kafka_ts,
    })
}

pub(crate) fn take(lane: &Lane, limit: usize) -> Result<Taken<'_>, IngestError> {
    let mut taken = Taken {
        messages: Vec::new(),
        next: lane.next,
        at_end: false,
        out_of_range: false,
        recognized: None,
    };
    let mut bytes = 0;
    while taken.messages.len() < limit && bytes < TURN_BYTES {
        match lane.queue.poll(Duration::ZERO) {
            None => break,
            Some(Ok(message)) => {
                let witness = lane.witness.filter(|w| w.offset == message.offset());
                if witness.is_some() {
                    let is_same = witness == witness_of(&message);
                    taken.recognized = Some(is_same);
                    if !is_same {
                        break;
                    }
                }
                // Fetched before the partition was restarted, or read to know the partition again.
                if taken.next.is_some_and(|next| message.offset() < next) {
                    continue;
                }
                bytes += message.payload_len();
                taken.next = Some(message.offset() + 1);
                taken.at_end = false;
                taken.messages.push(message);
            }
            Some(Err(KafkaError::PartitionEOF(_))) => taken.at_end = true,
            Some(Err(error)) if is_out_of_range(&error) => {
                taken.out_of_range = true;
                break;
            }
            // librdkafka tries again, and says nothing more until something changes.
            Some(Err(error)) => {
                telemetry::partition_error(&lane.topic, lane.partition, &error);
                fatal(error)?;
            }
        }
    }
    Ok(taken)
}

/// Headers are to be short: longer values are left out.
const KEPT_BYTES: usize = 1_024;

/// The headers of these names of the messages that became rows; of several of a name in one message, the last counts.
/// Messages and rows are in the order of their offsets.
pub(crate) fn kept_headers(
    messages: &[BorrowedMessage<'_>],
    offsets: &[i64],
    kept: &'static [&'static str],
) -> Vec<RowHeader> {
    let mut found = Vec::new();
    if kept.is_empty() {
        return found;
    }
    let mut rows = offsets.iter().enumerate().peekable();
    for message in messages {
        let Some((row, _)) = rows.next_if(|(_, offset)| **offset == message.offset()) else {
            // A dead letter.
            continue;
        };
        if let Some(headers) = message.headers() {
            for name in kept {
                let value = last_value(headers, name);
                let value = value.filter(|value| value.len() <= KEPT_BYTES);
                found.extend(value.map(|value| RowHeader {
                    row,
                    name,
                    value: value.to_vec(),
                }));
            }
        }
    }
    found
}

fn last_value<'a>(headers: &'a BorrowedHeaders, name: &str) -> Option<&'a [u8]> {
    // rdkafka panics on a header whose name is no text, which a producer can send.
    let header = |index| {
        let read = AssertUnwindSafe(|| headers.try_get(index));
        catch_unwind(read).ok().flatten()
    };
    let indexes = (0..headers.count()).rev();
    let mut found = indexes
        .filter_map(header)
        .filter(|header| header.key == name);
    found.next()?.value
}

pub(crate) fn is_out_of_range(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
    )
}

/// Tells errors after which librdkafka goes on by itself from those after which it does not.
pub(crate) fn fatal(error: KafkaError) -> Result<(), IngestError> {
    match error {
        KafkaError::MessageConsumptionFatal(code) => Err(IngestError::Fatal {
            detail: code.to_string(),
        }),
        _ => Ok(()),
    }
}

/// A partition's own queue. It is split off before the partition is assigned, and librdkafka leaves a queue that was
/// split off as it is; so nothing of the partition comes through the common queue.
pub(crate) fn open_queue(
    consumer: &Arc<GroupConsumer>,
    wake: &Arc<Wake>,
    topic: &str,
    partition: i32,
) -> Result<PartitionQueue<GroupContext>, IngestError> {
    let queue = consumer.split_partition_queue(topic, partition);
    let mut queue = queue.ok_or_else(|| IngestError::Fatal {
        detail: format!("no queue for {topic}/{partition}"),
    })?;
    let wake = Arc::clone(wake);
    queue.set_nonempty_callback(move || wake.raise());
    Ok(queue)
}
