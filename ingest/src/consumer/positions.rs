//! From where partitions are read: what is wanted, what Kafka still has, and how a position that is not valid is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Ingest;
use super::recognition::{compare, valid_position};
use crate::align::Source;
use crate::error::IngestError;
use crate::lane::{Lane, open_queue};
use crate::step::{Lost, Witness};
use crate::telemetry;
use crate::topics::leaders;

/// The pause before positions are mended, so that a broker in trouble is not asked without end.
const MEND_PAUSE: Duration = Duration::from_millis(500);

/// What is to be mended, and when.
#[derive(Default)]
pub(super) struct Mending {
    /// Partitions whose position is not valid.
    broken: BTreeSet<Source>,
    /// Those of them of which nothing is taken until their place is found: what they have at their position, or before it,
    /// is not what was read.
    strange: BTreeMap<Source, Doubt>,
    /// Whether all partitions are to be started anew: something of one came through the common queue, or their start
    /// failed.
    scattered: bool,
    at: Option<Instant>,
}

/// Why a partition is not taken for the one that was read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// It lacks messages that were read: the last ones, or all.
    Messages,
    /// Its topic is another one by its id: all of its messages are new.
    Topic,
}

impl Mending {
    pub(super) fn add_broken(&mut self, sources: impl IntoIterator<Item = Source>) {
        self.broken.extend(sources);
        self.soon();
    }

    pub(super) fn add_strange(&mut self, source: Source, doubt: Doubt) {
        let known = self.strange.entry(source).or_insert(doubt);
        *known = doubt.max(*known);
        self.add_broken([source]);
    }

    /// All partitions are to be started anew.
    pub(super) fn scatter(&mut self) {
        self.scattered = true;
        self.soon();
    }

    pub(super) fn is_strange(&self, source: Source) -> bool {
        self.strange.contains_key(&source)
    }

    /// A partition is ours no longer, or its place is found.
    pub(super) fn forget(&mut self, source: Source) {
        self.broken.remove(&source);
        self.strange.remove(&source);
    }

    fn soon(&mut self) {
        self.at.get_or_insert_with(|| Instant::now() + MEND_PAUSE);
    }
}

impl Ingest {
    /// The offset to start from where no message tells more than the offset, and the loss if it is not the one that is
    /// wanted.
    pub(super) fn place(
        &mut self,
        topic: &str,
        partition: i32,
        wanted: Option<i64>,
        marks: Option<(i64, i64)>,
    ) -> Option<i64> {
        let Some(marks) = marks else {
            return wanted;
        };
        let to = valid_position(wanted, marks);
        self.tell_place(topic, partition, wanted, (to, marks.0));
        Some(to)
    }

    /// Tells what is gone where a partition is read from the offset `to`, given its first one.
    fn tell_place(
        &mut self,
        topic: &str,
        partition: i32,
        wanted: Option<i64>,
        (to, low): (i64, i64),
    ) {
        if wanted.is_none() && to > 0 {
            self.news.trimmed.push((topic.to_owned(), partition));
        }
        if let Some(from) = wanted.filter(|from| *from != to) {
            match to > low {
                true => telemetry::tail_lost(topic, partition, from, to),
                false => telemetry::offsets_lost(topic, partition, from, to),
            }
            self.news.lost.push(Lost {
                topic: topic.to_string(),
                partition,
                from,
                to,
            });
        }
    }

    /// The newest message that was read of a partition, where it may still be there and is before the next that is to be
    /// read.
    ///
    /// # Errors
    /// [`IngestError::State`].
    pub(super) fn witness(
        &self,
        topic: &str,
        partition: i32,
        next: Option<i64>,
        marks: Option<(i64, i64)>,
    ) -> Result<Option<Witness>, IngestError> {
        let Some(((low, _), next)) = marks.zip(next) else {
            return Ok(None);
        };
        Ok(self.read_within(topic, partition, low..next)?.pop())
    }

    /// Messages that were read of a partition, by what the caller has of it: those within a range, in the order of their
    /// offsets.
    fn read_within(
        &self,
        topic: &str,
        partition: i32,
        offsets: Range<i64>,
    ) -> Result<Vec<Witness>, IngestError> {
        let Some(witnesses) = &self.witnesses else {
            return Ok(Vec::new());
        };
        let mut read = witnesses(topic, partition)
            .map_err(|error| IngestError::state(topic, partition, error))?;
        read.retain(|witness| offsets.contains(&witness.offset));
        Ok(read)
    }

    /// The first offset and the one after the last, if a broker says them.
    pub(super) fn watermarks(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        let timeout = self.settings.request_timeout;
        match self.consumer.fetch_watermarks(topic, partition, timeout) {
            Ok((low, high)) => {
                let context = self.consumer.context();
                context.hear(topic, partition, Instant::now());
                (0 <= low && low <= high).then_some((low, high))
            }
            Err(error) => {
                telemetry::client_error("watermarks", &error.to_string());
                None
            }
        }
    }

    /// (Re)starts all partitions at the next offset of each.
    pub(super) fn assign(&mut self) -> Result<(), IngestError> {
        let mut list = TopicPartitionList::new();
        for lane in self.lanes.values() {
            let first = lane.witness.map(|witness| witness.offset).or(lane.next);
            let next = first.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(&lane.topic, lane.partition, next)
                .map_err(|error| IngestError::kafka("taking partitions over", error))?;
        }
        self.consumer.assign(&list).map_err(|error| {
            self.mending.scatter();
            IngestError::kafka("taking partitions over", error)
        })
    }

    /// A topic is another one than the one that was read: what was read is behind its beginning.
    pub(super) fn distrust(&mut self, topic: &str) {
        let ours = self.lanes.iter().filter(|(_, lane)| lane.topic == topic);
        let ours: Vec<Source> = ours.map(|(source, _)| *source).collect();
        for source in ours {
            telemetry::another_topic(topic, source.partition);
            self.mending.add_strange(source, Doubt::Topic);
        }
    }

    /// Finds a valid position for broken partitions, each by itself, and starts all anew.
    ///
    /// It also starts them anew when something of a partition came through the common queue, which happens when
    /// librdkafka forgot a topic and met it again: what was said there is said again in the partition's queue.
    pub(super) fn mend(&mut self) -> Result<(), IngestError> {
        if self.mending.at.is_none_or(|at| Instant::now() < at) {
            return Ok(());
        }
        self.mending.at = None;
        if !self.sharing.settled || self.lanes.is_empty() {
            // Between assignments there is nothing to mend: the next one starts at valid positions.
            return Ok(());
        }
        let lanes = &self.lanes;
        self.mending
            .broken
            .retain(|source| lanes.contains_key(source));
        let mut is_any_placed = false;
        for (source, marks) in self.found() {
            is_any_placed |= self.place_anew(source, marks)?;
        }
        if !self.mending.broken.is_empty() {
            self.mending.soon();
            if !is_any_placed && !self.mending.scattered {
                return Ok(());
            }
        }
        self.mending.scattered = false;
        self.reopen_queues()?;
        self.assign()
    }

    /// The watermarks of the broken partitions that can be mended now. One that its topic does not list any more, or
    /// that nobody leads, holds no other back; a broker that does not answer is waited for once.
    fn found(&self) -> Vec<(Source, (i64, i64))> {
        let mut leaders: BTreeMap<usize, BTreeMap<i32, i32>> = BTreeMap::new();
        let mut silent = BTreeSet::new();
        let mut found = Vec::with_capacity(self.mending.broken.len());
        for source in &self.mending.broken {
            let Some(lane) = self.lanes.get(source) else {
                continue;
            };
            let of_topic = leaders
                .entry(source.stream)
                .or_insert_with(|| self.leaders(&lane.topic));
            let leader = of_topic.get(&lane.partition).copied();
            let Some(leader) = leader.filter(|leader| !silent.contains(leader)) else {
                continue;
            };
            let asked = Instant::now();
            match self.watermarks(&lane.topic, lane.partition) {
                Some(marks) => found.push((*source, marks)),
                // A refusal comes at once, and says nothing of the broker's other partitions.
                None if asked.elapsed() < self.settings.request_timeout / 2 => {}
                None => {
                    silent.insert(leader);
                }
            }
        }
        found
    }

    /// The brokers that lead a topic's partitions, by partition; those that nobody leads are left out.
    fn leaders(&self, topic: &str) -> BTreeMap<i32, i32> {
        let metadata = self.metadata(topic);
        metadata.map_or_else(BTreeMap::new, |metadata| leaders(&metadata, topic))
    }

    /// A broken partition goes on at a position that it has. Until then nothing is taken of a strange one: what still
    /// comes of it may not be read as if it were in order. False where no broker says what is there.
    ///
    /// # Errors
    /// [`IngestError::State`].
    fn place_anew(&mut self, source: Source, marks: (i64, i64)) -> Result<bool, IngestError> {
        let Some(lane) = self.lanes.get(&source) else {
            return Ok(false);
        };
        let ((topic, partition), wanted) = (lane.owned_name(), lane.next);
        let (low, high) = marks;
        let read = low..wanted.unwrap_or(low).min(high);
        // What was read and not handed out is not in the caller's state.
        let last = lane.last.filter(|last| read.contains(&last.offset));
        let mut read = self.read_within(&topic, partition, read)?;
        if let Some(last) = last {
            read.retain(|witness| witness.offset < last.offset);
            read.push(last);
        }
        let is_valid = wanted == Some(valid_position(wanted, marks));
        let (to, witness) = match self.mending.strange.get(&source) {
            Some(Doubt::Topic) => (low, None),
            // Meanwhile other messages may have come up to the position, too.
            None if is_valid => (valid_position(wanted, marks), read.pop()),
            Some(Doubt::Messages) | None => {
                let compared = match compare(&self.settings, &topic, partition, &read) {
                    Ok(compared) => compared,
                    Err(error) => {
                        telemetry::not_compared(&topic, partition, &error);
                        return Ok(false);
                    }
                };
                if compared.same.is_none() && compared.is_another {
                    telemetry::another_topic(&topic, partition);
                }
                (compared.position(wanted, marks), None)
            }
        };
        self.mending.forget(source);
        self.tell_place(&topic, partition, wanted, (to, low));
        if wanted != Some(to) {
            self.align.seek(source, to);
        }
        if let Some(lane) = self.lanes.get_mut(&source) {
            lane.next = Some(to);
            lane.witness = witness;
            lane.last = lane.last.filter(|last| last.offset < to);
        }
        Ok(true)
    }

    fn reopen_queues(&mut self) -> Result<(), IngestError> {
        for (source, lane) in std::mem::take(&mut self.lanes) {
            // The old queue first: dropping it takes the wake-up of the new one away.
            drop(lane.queue);
            let queue = open_queue(&self.consumer, &self.wake, &lane.topic, lane.partition)?;
            self.lanes.insert(source, Lane { queue, ..lane });
        }
        Ok(())
    }

    /// What the brokers say of a topic, if one says it.
    pub(super) fn metadata(&self, topic: &str) -> Option<Metadata> {
        let timeout = self.settings.request_timeout;
        match self.consumer.fetch_metadata(Some(topic), timeout) {
            Ok(metadata) => Some(metadata),
            Err(error) => {
                telemetry::client_error("metadata", &error.to_string());
                None
            }
        }
    }
}
