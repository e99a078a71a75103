//! What the messages of one topic become.

use rdkafka::message::{BorrowedMessage, Message};

use crate::align::{NO_TIME, Rows};
use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::decode::JsonDecoder;
use crate::deletion::take_deletions;
use crate::error::IngestError;
use crate::stream::StreamSpec;
use crate::telemetry;

/// A stream and what reads its messages.
pub(super) struct Stream {
    pub(super) topic: String,
    decoder: JsonDecoder,
}

impl Stream {
    pub(super) fn new(spec: StreamSpec) -> Result<Self, IngestError> {
        Ok(Self {
            topic: spec.topic.clone(),
            decoder: JsonDecoder::new(spec)?,
        })
    }

    /// Good messages become rows and deletions; bad ones are handed to the dead letters.
    pub(super) fn decode(
        &mut self,
        messages: &[BorrowedMessage<'_>],
        latest_us: i64,
        letters: &mut DeadLetters,
    ) -> Result<Rows, IngestError> {
        let payloads: Vec<_> = messages.iter().map(Message::payload).collect();
        let mut decoded = self.decoder.decode(&payloads, latest_us)?;
        let key = |index: usize| messages[index].key();
        let deleted = take_deletions(self.decoder.spec(), &mut decoded.bad, key)?;
        let good = decoded.rows.len() + deleted.len();
        telemetry::received(&self.topic, messages.len(), good);
        for bad in decoded.bad {
            letters.push(DeadLetter::new(&messages[bad.index], &bad));
        }
        let times = self.decoder.event_times(&decoded.batch);
        let events = decoded.rows.into_iter().zip(times);
        let mut entries: Vec<(usize, i64)> = events.collect();
        if !deleted.is_empty() {
            entries.extend(deleted.iter().map(|(index, _)| (*index, NO_TIME)));
            entries.sort_unstable();
        }
        let entry_of = |index: usize| entries.partition_point(|(other, _)| *other < index);
        let deletions = deleted.into_iter();
        let of = |index: usize| &messages[index];
        Ok(Rows {
            batch: decoded.batch,
            deletions: deletions.map(|(index, id)| (entry_of(index), id)).collect(),
            times: entries.iter().map(|(_, time)| *time).collect(),
            offsets: entries
                .iter()
                .map(|(index, _)| of(*index).offset())
                .collect(),
            kafka_ts: entries
                .iter()
                .map(|(index, _)| of(*index).timestamp().to_millis().unwrap_or(-1))
                .collect(),
            sizes: entries
                .iter()
                .map(|(index, _)| of(*index).payload_len() + of(*index).key_len())
                .collect(),
            headers: Vec::new(),
        })
    }
}
