//! What the caller of a consumer gives and gets.

use std::sync::Arc;

use crate::align::StreamBatch;

/// Why the caller's state cannot say what it is asked.
pub type StateError = Box<dyn std::error::Error + Send + Sync>;

/// Where a partition is to be read from: the offset of the first message that the caller's state does not have, or
/// nothing for a partition that it does not know. A state that cannot be read is an error: taken for one that knows
/// nothing, it would have everything read again.
///
/// It is asked when a partition is taken over, inside of [`Ingest::poll`](crate::Ingest::poll). A caller that applies steps in another
/// thread must answer with what it has *taken* from `poll`, not only with what it has stored.
pub type StartOffsets = Arc<dyn Fn(&str, i32) -> Result<Option<i64>, StateError> + Send + Sync>;

/// What one poll gives.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Rows to apply, at most one batch a stream.
    pub batches: Vec<StreamBatch>,
    /// Topic, partition and next offset of the partitions that have moved. To be stored together with what came of
    /// `batches`. Bad messages before a position are in their dead-letter topic already.
    pub positions: Vec<(String, i32, i64)>,
    /// Positions that Kafka no longer had.
    pub lost: Vec<Lost>,
    /// Partitions that are read for the first time, and whose first messages are gone.
    pub trimmed: Vec<(String, i32)>,
    /// Partitions that were taken over since the last step.
    pub assigned: Vec<(String, i32)>,
    /// Partitions that were given up since the last step. Rows of theirs that were not handed out are dropped: their
    /// next owner reads them again.
    pub revoked: Vec<(String, i32)>,
    /// Whether this member has read all that its partitions had. False until it has partitions, or knows that there
    /// are none for it.
    pub caught_up: bool,
}

impl Step {
    /// Whether there is nothing to do but to poll again.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
            && self.positions.is_empty()
            && self.lost.is_empty()
            && self.trimmed.is_empty()
            && self.assigned.is_empty()
            && self.revoked.is_empty()
    }
}

/// A message by which a partition is known again. A topic that was deleted and made anew has the old one's offsets, and
/// other messages behind them; so has one behind the place up to which it has lost its last messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Witness {
    /// Where it is.
    pub offset: i64,
    /// Its Kafka timestamp in milliseconds since 1970.
    pub kafka_ts: i64,
}

/// For a topic and a partition, messages that were read of it, in the order of their offsets. The newest says whether the
/// partition is as it was; older ones, up to where it still is.
pub type Witnesses = Arc<dyn Fn(&str, i32) -> Result<Vec<Witness>, StateError> + Send + Sync>;

/// A position that Kafka does not have, or at which it has other messages than before: those between it and where reading
/// goes on are gone, or are not the ones that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset that was to be read next.
    pub from: i64,
    /// The offset that is read next instead. Smaller than `from` where the topic was created anew, or has lost its last
    /// messages.
    pub to: i64,
}
