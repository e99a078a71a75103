//! One member of the consumer group: which partitions it has, from where they are read, and what a poll gives.
//!
//! The offsets in the caller's store are the truth. A partition that the group assigns is read from where the store
//! stands, and from its beginning if the store does not know it; offsets in Kafka are written for lag tools alone.
//!
//! A position that Kafka does not have (retention was shorter than a stop, the topic was created anew, or has lost its
//! last messages) is never skipped in silence: it is counted, logged, and handed out as [`Lost`]; reading goes on behind
//! the messages that are still there as they were read, and where none is, at the oldest.
//! That is seen when a partition is taken over, from its watermarks, and later from librdkafka's error (its own
//! reset policy is off).
//!
//! Each partition has a queue of its own (librdkafka's partition queues). So back-pressure on one is not to read its
//! queue, and the end of a partition and its errors are known to be its own: in the common queue an end of partition
//! does not say of which topic.
//!
//! Everything here runs in the thread that calls [`Ingest::poll`]; librdkafka fetches ahead in threads of its own.
//!
//! Here is what a poll does, in its order. What the group decides is `membership`, from where partitions are read
//! `positions`, whether they still have what was read `recognition`, how far that is from Kafka's ends `progress`, and
//! what messages become `stream`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::align::{Align, Source};
use crate::dead_letters::DeadLetters;
use crate::error::IngestError;
use crate::group::{GroupContext, Wake};
use crate::lane::{Lane, kept_headers, take, witness_of};
use crate::settings::IngestSettings;
use crate::step::{Lost, StartOffsets, Step, Witnesses};
use crate::stream::StreamSpec;
use crate::telemetry;
use crate::topics::{check_topics_differ, check_topics_exist};

mod membership;
mod positions;
mod progress;
mod recognition;
mod stream;

use membership::Sharing;
use positions::{Doubt, Mending};
use stream::Stream;

/// A member of a consumer group that reads streams.
pub struct Ingest {
    settings: IngestSettings,
    streams: Vec<Stream>,
    offsets: StartOffsets,
    witnesses: Option<Witnesses>,
    /// Before `consumer`: a partition's queue must not outlive it.
    lanes: BTreeMap<Source, Lane>,
    align: Align,
    letters: DeadLetters,
    consumer: Arc<GroupConsumer>,
    wake: Arc<Wake>,
    /// From which partition messages were read ahead last.
    last_ahead: Option<Source>,
    /// Names of the headers that are handed out with rows.
    kept: &'static [&'static str],
    started: Instant,
    sharing: Sharing,
    mending: Mending,
    gauges_at: Instant,
    news: News,
}

pub(crate) type GroupConsumer = BaseConsumer<GroupContext>;

/// What the next step has to tell.
#[derive(Default)]
struct News {
    lost: Vec<Lost>,
    trimmed: Vec<(String, i32)>,
    assigned: Vec<(String, i32)>,
    revoked: Vec<(String, i32)>,
}

/// How many messages, and how many bytes of them, one turn takes from a partition.
const TURN_MESSAGES: usize = 4_096;

/// The same of a turn that is taken ahead: who asks for a step waits until it ends.
const AHEAD_MESSAGES: usize = 1_024;

/// The longest sleep while nothing comes: patience has to be looked after.
pub(crate) const NAP: Duration = Duration::from_millis(50);

impl Ingest {
    /// Connects, checks that the topics are there, and joins the group. Partitions come with later polls.
    ///
    /// # Errors
    /// [`IngestError::BrokerUnreachable`], [`IngestError::UnknownTopic`], and errors in settings and schemas.
    pub fn start(
        settings: IngestSettings,
        streams: Vec<StreamSpec>,
        offsets: StartOffsets,
    ) -> Result<Self, IngestError> {
        settings.check()?;
        check_topics_differ(&streams)?;
        let wake = Arc::new(Wake::default());
        let consumer = connect(&settings, &wake)?;
        check_topics_exist(&consumer, &settings, &streams)?;
        let streams = streams.into_iter().map(Stream::new);
        let streams: Vec<Stream> = streams.collect::<Result<_, _>>()?;
        let now = Instant::now();
        let ingest = Self {
            align: Align::new(settings.align()),
            letters: DeadLetters::new(settings.clone()),
            streams,
            offsets,
            witnesses: None,
            settings,
            lanes: BTreeMap::new(),
            consumer: Arc::new(consumer),
            wake,
            last_ahead: None,
            kept: &[],
            started: now,
            sharing: Sharing::new(now),
            mending: Mending::default(),
            gauges_at: now,
            news: News::default(),
        };
        ingest.subscribe()?;
        Ok(ingest)
    }

    /// Joins the group.
    fn subscribe(&self) -> Result<(), IngestError> {
        let topics: Vec<&str> = self.streams.iter().map(|s| s.topic.as_str()).collect();
        let subscribed = self.consumer.subscribe(&topics);
        subscribed.map_err(|error| IngestError::kafka("subscribing", error))
    }

    /// Hands out the headers of these names with the rows of their messages. Without it, no header is read.
    #[must_use]
    pub fn keeping(mut self, headers: &'static [&'static str]) -> Self {
        self.kept = headers;
        self
    }

    /// Looks, where a partition is taken over, whether the newest message that was read of it is still the same. Where it
    /// is not, or the partition ends before its position, older ones are looked at: reading goes on behind the newest that
    /// is there as it was, for the partition has lost its last messages, and where none is, the topic was made anew and its
    /// partition is read from the beginning. Positions that are lost are told. A message that compaction took says nothing.
    #[must_use]
    pub fn recognizing(mut self, witnesses: Witnesses) -> Self {
        self.witnesses = Some(witnesses);
        self
    }

    /// The next step: as soon as there is anything to tell, and after `timeout` with nothing. `now_us` (microseconds
    /// since 1970) decides which events are from the future. The step has at most `most_rows` rows, and never more than
    /// the settings say.
    ///
    /// It must be called at least every few seconds: the group takes a member that does not poll for dead
    /// (`max.poll.interval.ms`).
    ///
    /// # Errors
    /// After an error with [`Remedy::Retry`](crate::Remedy::Retry) nothing is lost: poll again.
    pub fn poll(
        &mut self,
        now_us: i64,
        timeout: Duration,
        most_rows: usize,
    ) -> Result<Step, IngestError> {
        let most_rows = most_rows.min(self.settings.max_rows);
        let deadline = Instant::now() + timeout;
        // A step that was read ahead needs no more reading.
        let mut enough = self.align.buffered() >= most_rows;
        loop {
            // What an earlier poll could not get rid of goes first: until then, nothing more is read.
            self.deliver_letters()?;
            self.serve_group()?;
            self.mend()?;
            let busy = std::mem::take(&mut enough) || self.read(now_us)?;
            self.deliver_letters()?;
            let step = self.step(most_rows)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !step.is_empty() || left.is_zero() {
                self.gauge();
                return Ok(step);
            }
            if !busy {
                self.wake.wait(left.min(NAP));
            }
        }
    }

    /// Sends dead letters. While they are not taken, no partition is read; the group keeps this member all the same.
    fn deliver_letters(&mut self) -> Result<(), IngestError> {
        let delivered = self.letters.deliver();
        if delivered.is_err() {
            self.stay()?;
        }
        delivered
    }

    /// Takes a short turn at one partition, and leaves what came for the next poll. False when nothing came: none has
    /// messages and room.
    pub(crate) fn read_ahead(&mut self, now_us: i64) -> Result<bool, IngestError> {
        if !self.letters.is_empty() {
            return Ok(false);
        }
        for source in self.sources_after(self.last_ahead) {
            if self.read_from(source, now_us, AHEAD_MESSAGES)? {
                self.last_ahead = Some(source);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Raised when there may be something to read.
    pub(crate) fn wake(&self) -> Arc<Wake> {
        Arc::clone(&self.wake)
    }

    /// Tells the group how far this member is, for tools that show lag. Returns at once; failures are logged and
    /// counted, as nothing depends on them. Partitions that are no longer ours are left out.
    ///
    /// # Errors
    /// When the client refuses the request.
    pub fn commit(&self, positions: &[(String, i32, i64)]) -> Result<(), IngestError> {
        let ours: BTreeSet<(&str, i32)> = self.lanes.values().map(Lane::name).collect();
        let mut list = TopicPartitionList::new();
        for (topic, partition, next) in positions {
            if ours.contains(&(topic.as_str(), *partition)) {
                list.add_partition_offset(topic, *partition, Offset::Offset(*next))
                    .map_err(|error| IngestError::kafka("committing offsets", error))?;
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        self.consumer
            .commit(&list, CommitMode::Async)
            .map_err(|error| IngestError::kafka("committing offsets", error))
    }

    fn step(&mut self, most_rows: usize) -> Result<Step, IngestError> {
        self.align.set_max_rows(most_rows);
        let released = self.align.release(self.started.elapsed())?;
        for source in released.out_of_patience {
            if let Some(lane) = self.lanes.get(&source) {
                telemetry::out_of_patience(&lane.topic, lane.partition);
            }
        }
        if released.late_rows > 0 {
            telemetry::rows_late(released.late_rows);
        }
        let positions = released.positions.into_iter().filter_map(|(source, next)| {
            let (topic, partition) = self.lanes.get(&source)?.owned_name();
            Some((topic, partition, next))
        });
        let news = std::mem::take(&mut self.news);
        Ok(Step {
            batches: released.batches,
            positions: positions.collect(),
            lost: news.lost,
            trimmed: news.trimmed,
            assigned: news.assigned,
            revoked: news.revoked,
            caught_up: self.sharing.is_complete() && self.align.caught_up(),
        })
    }

    /// Takes a turn at each partition that has room. True if anything came.
    fn read(&mut self, now_us: i64) -> Result<bool, IngestError> {
        let mut busy = false;
        for source in self.sources_after(None) {
            busy |= self.read_from(source, now_us, TURN_MESSAGES)?;
        }
        Ok(busy)
    }

    /// All partitions that are ours, beginning after one of them.
    fn sources_after(&self, last: Option<Source>) -> Vec<Source> {
        let after = |source: &&Source| last.is_some_and(|last| **source > last);
        let later = self.lanes.keys().filter(after);
        let earlier = self.lanes.keys().filter(|source| !after(source));
        later.chain(earlier).copied().collect()
    }

    /// Takes a turn at a partition, if it has room. True if anything came.
    fn read_from(&mut self, source: Source, now_us: i64, most: usize) -> Result<bool, IngestError> {
        let latest_us = now_us.saturating_add(self.settings.allowed_future_us());
        // What has come of a strange partition is behind its beginning.
        let room = match self.mending.is_strange(source) {
            true => 0,
            false => self.align.room(source),
        };
        let (Some(lane), Some(stream)) = (
            self.lanes.get_mut(&source).filter(|_| room > 0),
            self.streams.get_mut(source.stream),
        ) else {
            return Ok(false);
        };
        let taken = take(lane, room.min(most))?;
        let (next, out_of_range, recognized) = (taken.next, taken.out_of_range, taken.recognized);
        let last = taken.messages.last().and_then(witness_of);
        let busy = !taken.messages.is_empty();
        if busy {
            let mut rows = stream.decode(&taken.messages, latest_us, &mut self.letters)?;
            rows.headers = kept_headers(&taken.messages, &rows.offsets, self.kept);
            self.align.push(source, rows, next.unwrap_or_default());
        }
        if taken.at_end {
            self.align.at_end(source);
        }
        drop(taken);
        lane.next = next;
        lane.last = last.or(lane.last);
        if recognized.is_some() || busy {
            lane.witness = None;
        }
        if recognized == Some(false) {
            self.mending.add_strange(source, Doubt::Messages);
        }
        if out_of_range {
            self.mending.add_broken([source]);
        }
        Ok(busy)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.consumer.context().close();
        self.lanes.clear();
    }
}

fn connect(settings: &IngestSettings, wake: &Arc<Wake>) -> Result<GroupConsumer, IngestError> {
    let mut consumer: GroupConsumer = settings
        .consumer()
        .create_with_context(GroupContext::default())
        .map_err(|error| IngestError::kafka("creating the consumer", error))?;
    let wake = Arc::clone(wake);
    consumer.set_nonempty_callback(move || wake.raise());
    Ok(consumer)
}

#[cfg(test)]
mod tests;
