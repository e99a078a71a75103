//! What the group decides: which partitions are ours, which are others', and which nobody reads yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;

use super::Ingest;
use super::positions::Doubt;
use crate::align::Source;
use crate::error::IngestError;
use crate::group::Rebalance;
use crate::lane::{Lane, fatal, is_out_of_range, open_queue};
use crate::telemetry;
use crate::topics::partition_count;

/// One call of librdkafka serves one event, and an event gives nothing back: so many empty calls are the end.
const SILENT: u32 = 4;

/// How long a group may take to give partitions before that is told, each time anew.
const OUTSIDE: Duration = Duration::from_secs(20);

/// How long partitions must have been shared out before it is told that others have some: a member that has died has its
/// own for a while, and partitions that are new are shared out once more.
pub(super) const SHARED: Duration = Duration::from_secs(10);

/// How the group has shared the partitions out.
pub(super) struct Sharing {
    /// Whether the group has said which partitions are ours.
    pub(super) settled: bool,
    /// How many partitions each topic had then, where that is known.
    pub(super) counts: BTreeMap<String, i32>,
    at: Instant,
    /// Of these, those that were given to others.
    foreign: Vec<(String, i32)>,
    /// Whether what the group gave first was compared with what there is.
    pub(super) is_checked: bool,
    /// Partitions that topics have got since then, as of what the brokers said last.
    pub(super) unshared: Vec<(String, i32)>,
    /// Of [`Ingest::foreign`], what was told last.
    pub(super) told_foreign: Vec<(String, i32)>,
    /// Since when the group has not said which partitions are ours, or when that was told last.
    outside_since: Instant,
}

impl Sharing {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            settled: false,
            counts: BTreeMap::new(),
            at: now,
            foreign: Vec::new(),
            is_checked: false,
            unshared: Vec::new(),
            told_foreign: Vec::new(),
            outside_since: now,
        }
    }

    /// Whether it is known of all partitions who reads them.
    pub(super) fn is_complete(&self) -> bool {
        self.settled && self.unshared.is_empty()
    }
}

impl Ingest {
    /// Lets librdkafka tell what is new in the group, and acts on it.
    pub(super) fn serve_group(&mut self) -> Result<(), IngestError> {
        let consumer = Arc::clone(&self.consumer);
        let mut silent = 0;
        while silent < SILENT {
            silent += u32::from(!self.hear()?);
            while let Some(rebalance) = consumer.context().next_rebalance() {
                match rebalance {
                    Rebalance::Assign(partitions) => self.take_over(partitions)?,
                    Rebalance::Revoke(partitions) => self.give_up(&partitions),
                }
            }
        }
        for topic in consumer.context().take_made_anew() {
            self.distrust(&topic);
        }
        self.note_unshared();
        self.check_first_share()
    }

    /// Hears what the brokers say, for a caller who cannot go on yet: the group does not take this member for dead, and how
    /// far Kafka is stays known. What the group decides waits for the next poll, and so does every message.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub(crate) fn stay(&mut self) -> Result<(), IngestError> {
        let mut silent = 0;
        while silent < SILENT {
            silent += u32::from(!self.hear()?);
        }
        self.note_unshared();
        self.gauge();
        Ok(())
    }

    /// Lets librdkafka tell one thing that is new. False where it gave nothing back.
    fn hear(&mut self) -> Result<bool, IngestError> {
        let consumer = Arc::clone(&self.consumer);
        match consumer.poll(Duration::ZERO) {
            None => return Ok(false),
            // A message, an end or an invalid position belongs in a partition's queue; see `mend`.
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {
                self.mending.scatter();
            }
            Some(Err(error)) if is_out_of_range(&error) => {
                self.mending.add_broken(self.lanes.keys().copied());
            }
            Some(Err(error)) => fatal(error)?,
        }
        Ok(true)
    }

    fn take_over(&mut self, partitions: Vec<(String, i32)>) -> Result<(), IngestError> {
        let mut answering = true;
        for (topic, partition) in partitions {
            let Some(stream) = self.streams.iter().position(|s| s.topic == topic) else {
                continue;
            };
            let source = Source { stream, partition };
            let known = (self.offsets)(&topic, partition)
                .map_err(|error| IngestError::state(&topic, partition, error))?;
            // One broker that does not answer is enough to wait for. A refusal comes at once, and says nothing of other
            // partitions: this one may be gone.
            let asked = Instant::now();
            let marks = answering
                .then(|| self.watermarks(&topic, partition))
                .flatten();
            answering &= marks.is_some() || asked.elapsed() < self.settings.request_timeout / 2;
            let witness = self.witness(&topic, partition, known, marks)?;
            let next = match witness {
                // Reading that again tells more than the offset does.
                Some(_) => known,
                None => self.place(&topic, partition, known, marks),
            };
            if marks.zip(next).is_some_and(|((_, end), next)| end < next) {
                self.mending.add_strange(source, Doubt::Messages);
            }
            telemetry::assigned(&topic, partition, next);
            self.align.add(source, next.unwrap_or(0), known);
            let queue = open_queue(&self.consumer, &self.wake, &topic, partition)?;
            self.news.assigned.push((topic.clone(), partition));
            self.lanes.insert(
                source,
                Lane {
                    topic,
                    partition,
                    queue,
                    next,
                    end: marks.map_or(0, |(_, high)| high),
                    witness,
                    last: None,
                },
            );
        }
        self.note_shared(answering);
        self.note_foreign();
        self.sharing.settled = true;
        // The next poll may be long in coming.
        self.gauges_at = Instant::now();
        self.assign()
    }

    /// Notes how many partitions the topics have when the group shares them out, as far as a broker answers.
    fn note_shared(&mut self, answering: bool) {
        self.sharing.counts.clear();
        self.sharing.at = Instant::now();
        if !answering {
            return;
        }
        for stream in &self.streams {
            let Some(metadata) = self.metadata(&stream.topic) else {
                return;
            };
            if let Some(count) = partition_count(&metadata, &stream.topic) {
                self.sharing.counts.insert(stream.topic.clone(), count);
            }
        }
    }

    /// Notes which partitions others have.
    pub(super) fn note_foreign(&mut self) {
        let ours: BTreeSet<(&str, i32)> = self.lanes.values().map(Lane::name).collect();
        let all = self.sharing.counts.iter().flat_map(|(topic, count)| {
            let of_topic = 0..*count;
            of_topic.map(move |partition| (topic.as_str(), partition))
        });
        let others = all.filter(|partition| !ours.contains(partition));
        let others = others.map(|(topic, partition)| (topic.to_owned(), partition));
        self.sharing.foreign = others.collect();
    }

    /// Compares what the group gave first with the partitions that there are. A member that comes back under its name is
    /// given what it had before, and nobody looks whether its topics have other partitions by now. So where that is not all
    /// that there is, or is more, this member leaves and joins: then the group shares out anew.
    fn check_first_share(&mut self) -> Result<(), IngestError> {
        let sharing = &self.sharing;
        let is_known = self
            .streams
            .iter()
            .all(|s| sharing.counts.contains_key(&s.topic));
        if sharing.is_checked || !sharing.settled || !is_known {
            return Ok(());
        }
        let is_there = |lane: &Lane| {
            let count = sharing.counts.get(&lane.topic);
            count.is_some_and(|count| lane.partition < *count)
        };
        let is_right = sharing.foreign.is_empty() && self.lanes.values().all(is_there);
        self.sharing.is_checked = true;
        if is_right {
            return Ok(());
        }
        telemetry::shared_anew(&self.settings.group);
        self.consumer.unsubscribe();
        self.subscribe()
    }

    fn give_up(&mut self, partitions: &[(String, i32)]) {
        telemetry::revoked(partitions.len());
        for (topic, partition) in partitions {
            let ours = self.lanes.iter();
            let ours = ours.filter(|(_, lane)| lane.name() == (topic, *partition));
            let gone: Vec<Source> = ours.map(|(source, _)| *source).collect();
            for source in gone {
                self.lanes.remove(&source);
                self.align.remove(source);
                self.mending.forget(source);
                self.news.revoked.push((topic.clone(), *partition));
            }
        }
        // The next assignment follows, unless the member was thrown out; then it joins anew.
        self.sharing.settled = false;
    }

    /// Says once which partitions others read, and again when that has changed. A store has the events of its own alone.
    pub(super) fn tell_foreign(&mut self, now: Instant) {
        if !self.sharing.settled || now < self.sharing.at + SHARED {
            return;
        }
        let foreign = self.foreign();
        if foreign != self.sharing.told_foreign {
            match foreign.is_empty() {
                true => telemetry::none_foreign(&self.settings.group),
                false => telemetry::foreign(&self.settings.group, &foreign),
            }
            self.sharing.told_foreign = foreign;
        }
    }

    /// Partitions that topics have got since the group shared them out, as of the last poll: nobody reads them until it
    /// does so again.
    pub fn unshared(&self) -> Vec<(String, i32)> {
        self.sharing.unshared.clone()
    }

    /// Notes which partitions nobody reads yet, once the brokers were heard, and how many there are where none has said it
    /// when they were shared out.
    pub(super) fn note_unshared(&mut self) {
        let context = self.consumer.context();
        if self.sharing.settled && self.sharing.counts.len() < self.streams.len() {
            for stream in &self.streams {
                let count = context.partitions_of(&stream.topic);
                if let Some(count) = count.filter(|count| *count > 0) {
                    let counts = &mut self.sharing.counts;
                    counts.entry(stream.topic.clone()).or_insert(count);
                }
            }
            self.note_foreign();
        }
        let context = self.consumer.context();
        let of = |(topic, shared): (&String, &i32)| {
            let now = context.partitions_of(topic).unwrap_or(*shared);
            let new = (*shared..now).map(|partition| (topic.clone(), partition));
            new.collect::<Vec<_>>()
        };
        self.sharing.unshared = self.sharing.counts.iter().flat_map(of).collect();
    }

    /// Partitions of our topics that were given to others when the group last shared them out: their events are not ours.
    pub fn foreign(&self) -> Vec<(String, i32)> {
        self.sharing.foreign.clone()
    }

    /// How many partitions our topics had then, where that is known.
    pub fn partition_counts(&self) -> Vec<(String, i32)> {
        let counts = self.sharing.counts.iter();
        counts
            .map(|(topic, count)| (topic.clone(), *count))
            .collect()
    }

    /// The partitions that are ours: topic and number.
    pub fn assignment(&self) -> Vec<(String, i32)> {
        self.lanes.values().map(Lane::owned_name).collect()
    }

    /// Says at times that the group has given no partitions for long, and why.
    pub(super) fn tell_outside(&mut self, now: Instant) {
        if self.sharing.settled {
            self.sharing.outside_since = now;
        } else if now - self.sharing.outside_since >= OUTSIDE {
            self.sharing.outside_since = now;
            let reason = self.consumer.context().last_error.text();
            telemetry::no_partitions(&self.settings.group, reason.as_deref());
        }
    }
}
