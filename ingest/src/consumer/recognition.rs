//! Whether a partition still has the messages that were read of it: they are read again, one by one and beside the group.
//!
//! It is asked where a position is in doubt alone. The newest message is looked at on the way, wherever reading begins
//! (`lane`).

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::error::IngestError;
use crate::lane::witness_of;
use crate::replay::ReplayContext;
use crate::settings::IngestSettings;
use crate::step::Witness;

/// What a partition has at the places of messages that were read of it. A place without a message (compaction took it)
/// says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// The newest message that is still there.
    pub(super) same: Option<i64>,
    /// Whether there is another message than was read, behind that one.
    pub(super) is_another: bool,
}

impl Compared {
    fn add(&mut self, read: Witness, found: Option<Witness>) {
        match found {
            Some(found) if found == read => {
                *self = Self {
                    same: Some(read.offset),
                    is_another: false,
                };
            }
            Some(_) => self.is_another = true,
            None => {}
        }
    }

    /// Where reading goes on, given where it was to, the partition's first offset and the one after its last.
    ///
    /// Where the position is there, and all before it is as it was read, that is it. Where messages are gone, or others
    /// follow, those that came in the place of what is gone begin at a place that is not known: all behind the newest one
    /// that is the same are read. What was read before counts once by its id or its place; what was not would be lost.
    pub(super) fn position(self, wanted: Option<i64>, (low, high): (i64, i64)) -> i64 {
        let valid = wanted.filter(|next| (low..=high).contains(next));
        match (self.same, self.is_another) {
            (Some(same), false) => valid.unwrap_or(same + 1),
            (Some(same), true) => same + 1,
            (None, true) => low,
            (None, false) => valid_position(wanted, (low, high)),
        }
    }
}

/// The position to read from, given the first offset and the one after the last: the one that is wanted if it is
/// still there, else the first.
pub(super) fn valid_position(wanted: Option<i64>, (low, high): (i64, i64)) -> i64 {
    wanted
        .filter(|offset| (low..=high).contains(offset))
        .unwrap_or(low)
}

/// Looks for messages that were read of a partition, given in the order of their offsets.
///
/// # Errors
/// [`IngestError::Kafka`] where a message is not known to be there or not within the request timeout.
pub(super) fn compare(
    settings: &IngestSettings,
    topic: &str,
    partition: i32,
    read: &[Witness],
) -> Result<Compared, IngestError> {
    let mut compared = Compared::default();
    if read.is_empty() {
        return Ok(compared);
    }
    let mut config = settings.replay();
    // One message is looked at, and what comes with it is in vain.
    config.set("queued.min.messages", "1");
    let consumer: BaseConsumer<ReplayContext> = config
        .create_with_context(ReplayContext)
        .map_err(|error| IngestError::kafka("creating a consumer", error))?;
    // In the order of their offsets: what may still come of the place before is before the next one, and is known by that.
    for witness in read {
        let place = (topic, partition, witness.offset);
        let message = message_at(&consumer, place, settings.request_timeout)?;
        // One without a timestamp is another one: it would not have been kept.
        let untimed = Witness {
            kafka_ts: -1,
            ..*witness
        };
        let found = message.map(|message| witness_of(&message).unwrap_or(untimed));
        compared.add(*witness, found);
    }
    Ok(compared)
}

/// The message at an offset, if there is one.
fn message_at<'a>(
    consumer: &'a BaseConsumer<ReplayContext>,
    (topic, partition, offset): (&str, i32, i64),
    timeout: Duration,
) -> Result<Option<BorrowedMessage<'a>>, IngestError> {
    const DOING: &str = "reading a message again";
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))
        .map_err(|error| IngestError::kafka(DOING, error))?;
    consumer
        .assign(&list)
        .map_err(|error| IngestError::kafka(DOING, error))?;
    let deadline = Instant::now() + timeout;
    let mut said = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match consumer.poll(left) {
            Some(Ok(message)) if message.offset() < offset => {}
            Some(Ok(message)) => {
                let is_it = message.offset() == offset;
                return Ok(is_it.then_some(message));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            // librdkafka goes on trying.
            Some(Err(error)) => said = error,
            None if left.is_zero() => return Err(IngestError::kafka(DOING, said)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Messages at 0, 4 and 8 were read: of each, whether the partition has it, has another one, or has none there.
    #[test]
    fn reading_goes_on_where_what_was_read_ends() {
        let (same, other, none) = (Some(0), Some(1), None);
        for (found, wanted, high, expected) in [
            // As it was read, up to the position.
            ([same, same, same], 12, 30, 12),
            ([same, none, none], 12, 30, 12),
            // Its last messages are gone.
            ([same, same, same], 12, 10, 9),
            ([same, none, none], 12, 10, 1),
            // Others from somewhere on.
            ([same, same, other], 12, 30, 5),
            ([same, same, other], 12, 10, 5),
            ([same, other, none], 12, 30, 1),
            // Of a topic before it.
            ([other, same, same], 12, 10, 9),
            // Another topic.
            ([other, other, other], 12, 30, 0),
            ([other, none, none], 12, 10, 0),
            // Nothing is known.
            ([none, none, none], 12, 30, 12),
            ([none, none, none], 12, 10, 0),
        ] {
            let mut compared = Compared::default();
            for (offset, later) in [0, 4, 8].into_iter().zip(found) {
                let witness = |kafka_ts| Witness { offset, kafka_ts };
                compared.add(witness(7), later.map(|later| witness(7 + later)));
            }
            let position = compared.position(Some(wanted), (0, high));
            assert_eq!(position, expected, "{found:?}, {wanted}, {high}");
        }
    }
}
