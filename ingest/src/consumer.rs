//! One member of the consumer group: which partitions it has, from where they are read, and what a poll gives.
//!
//! The offsets in the caller's store are the truth. A partition that the group assigns is read from where the store
//! stands, and from its beginning if the store does not know it; offsets in Kafka are written for lag tools alone.
//!
//! A position that Kafka does not have (retention was shorter than a stop, or the topic was created anew) is never
//! skipped in silence: it is counted, logged, and handed out as [`Lost`]; reading goes on at the oldest message.
//! That is seen when a partition is taken over, from its watermarks, and later from librdkafka's error (its own
//! reset policy is off).
//!
//! Each partition has a queue of its own (librdkafka's partition queues). So back-pressure on one is not to read its
//! queue, and the end of a partition and its errors are known to be its own: in the common queue an end of partition
//! does not say of which topic.
//!
//! Everything here runs in the thread that calls [`Ingest::poll`]; librdkafka fetches ahead in threads of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::align::{Align, NO_TIME, Rows, Source};
use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::decode::JsonDecoder;
use crate::deletion::take_deletions;
use crate::error::IngestError;
use crate::group::{GroupContext, Rebalance, Wake};
use crate::lane::{Lane, fatal, is_out_of_range, kept_headers, open_queue, take};
use crate::settings::IngestSettings;
use crate::step::{Lost, StartOffsets, Step, Witness, Witnesses};
use crate::stream::StreamSpec;
use crate::telemetry;
use crate::topics::{check_topics_differ, check_topics_exist, leaders, partition_count};

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
    /// Whether the group has said which partitions are ours.
    settled: bool,
    /// How many partitions each topic had when the group shared them out, where that is known.
    shared: BTreeMap<String, i32>,
    shared_at: Instant,
    /// Of [`foreign`](Self::foreign), what was told last.
    told_foreign: Vec<(String, i32)>,
    /// Partitions whose position is not valid, and when to mend that.
    broken: BTreeSet<Source>,
    /// Partitions that are not those that were read before: all of their messages are new.
    strange: BTreeSet<Source>,
    /// Whether all partitions are to be started anew: something of one came through the common queue, or their start
    /// failed.
    scattered: bool,
    mend_at: Option<Instant>,
    gauges_at: Instant,
    /// Since when the group has not said which partitions are ours, or when that was told last.
    outside_since: Instant,
    news: News,
}

pub(crate) type GroupConsumer = BaseConsumer<GroupContext>;

struct Stream {
    topic: String,
    decoder: JsonDecoder,
}

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

/// One call of librdkafka serves one event, and an event gives nothing back: so many empty calls are the end.
const SILENT: u32 = 4;

/// How long a group may take to give partitions before that is told, each time anew.
const OUTSIDE: Duration = Duration::from_secs(20);

/// How long partitions must have been shared out before it is told that others have some: a member that has died has its
/// own for a while, and partitions that are new are shared out once more.
const SHARED: Duration = Duration::from_secs(15);

/// The pause before positions are mended, so that a broker in trouble is not asked without end.
const MEND_PAUSE: Duration = Duration::from_millis(500);

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
        let topics: Vec<&str> = streams.iter().map(|s| s.topic.as_str()).collect();
        consumer
            .subscribe(&topics)
            .map_err(|error| IngestError::kafka("subscribing", error))?;
        let now = Instant::now();
        Ok(Self {
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
            settled: false,
            shared: BTreeMap::new(),
            shared_at: now,
            told_foreign: Vec::new(),
            broken: BTreeSet::new(),
            strange: BTreeSet::new(),
            scattered: false,
            mend_at: None,
            gauges_at: now,
            outside_since: now,
            news: News::default(),
        })
    }

    /// Hands out the headers of these names with the rows of their messages. Without it, no header is read.
    #[must_use]
    pub fn keeping(mut self, headers: &'static [&'static str]) -> Self {
        self.kept = headers;
        self
    }

    /// Looks, where a partition is taken over, whether the message that was read of it is still the same. Where it is
    /// not, the topic was made anew: its partition is read from the beginning, and the positions that are lost are told.
    /// A message that is no longer there says nothing.
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
            self.letters.deliver()?;
            self.serve_group()?;
            self.mend()?;
            let busy = std::mem::take(&mut enough) || self.read(now_us)?;
            self.letters.deliver()?;
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
        self.gauge();
        Ok(())
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

    /// The messages that are in our partitions and were not handed out, by what is known of the partitions' ends
    /// (about a second old). A partition that nobody reads yet counts as one message: its end is not known.
    pub fn lag(&self) -> i64 {
        self.lags().iter().map(|(_, lag)| lag).sum()
    }

    /// Partitions that topics have got since the group shared them out: nobody reads them until it does so again.
    pub fn unshared(&self) -> Vec<(String, i32)> {
        let context = self.consumer.context();
        let of = |(topic, shared): (&String, &i32)| {
            let now = context.partitions_of(topic).unwrap_or(*shared);
            let new = (*shared..now).map(|partition| (topic.clone(), partition));
            new.collect::<Vec<_>>()
        };
        self.shared.iter().flat_map(of).collect()
    }

    /// The [`lag`](Self::lag) of each topic.
    pub fn lags(&self) -> Vec<(String, i64)> {
        let topics = self.streams.iter();
        let mut lags: Vec<(String, i64)> = topics.map(|s| (s.topic.clone(), 0)).collect();
        for (source, lane) in &self.lanes {
            if let Some((_, lag)) = lags.get_mut(source.stream) {
                *lag += self.lag_of(*source, lane);
            }
        }
        for (new, _) in self.unshared() {
            if let Some((_, lag)) = lags.iter_mut().find(|(topic, _)| *topic == new) {
                *lag += 1;
            }
        }
        lags
    }

    /// When the brokers of all of our partitions were last heard: what has come since is in no lag. None while the group
    /// has not said which partitions are ours, or who reads those that are new.
    pub fn heard(&self) -> Option<Instant> {
        if !self.settled || !self.unshared().is_empty() {
            return None;
        }
        let context = self.consumer.context();
        let of = |lane: &Lane| context.heard_of(&lane.topic, lane.partition);
        let all: Option<Vec<Instant>> = self.lanes.values().map(of).collect();
        // Without partitions there is nobody to hear.
        all.map(|all| all.into_iter().min().unwrap_or_else(Instant::now))
    }

    /// Messages that no event could be made of, since the start.
    pub fn dead_letters(&self) -> u64 {
        self.letters.taken()
    }

    /// The partitions that are ours: topic and number.
    pub fn assignment(&self) -> Vec<(String, i32)> {
        self.lanes.values().map(Lane::owned_name).collect()
    }

    /// Partitions of our topics that were given to others when the group shared them out: their events are not ours.
    pub fn foreign(&self) -> Vec<(String, i32)> {
        let ours: BTreeSet<(&str, i32)> = self.lanes.values().map(Lane::name).collect();
        let all = self.shared.iter().flat_map(|(topic, count)| {
            let of_topic = 0..*count;
            of_topic.map(move |partition| (topic.as_str(), partition))
        });
        let others = all.filter(|partition| !ours.contains(partition));
        others
            .map(|(topic, partition)| (topic.to_owned(), partition))
            .collect()
    }

    fn lag_of(&self, source: Source, lane: &Lane) -> i64 {
        // At its end a partition has no lag, even if its last offsets hold transaction markers.
        if self.align.is_caught_up(source) {
            return 0;
        }
        let end = self.consumer.context().end_of(&lane.topic, lane.partition);
        let position = self.align.position(source).unwrap_or_default();
        (end.unwrap_or(lane.end) - position).max(0)
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
            caught_up: self.settled && self.align.caught_up() && self.unshared().is_empty(),
        })
    }

    fn gauge(&mut self) {
        let now = Instant::now();
        if now >= self.gauges_at {
            telemetry::progress(self.lag(), self.align.buffered(), self.lanes.len());
            self.gauges_at = now + Duration::from_secs(1);
            self.tell_foreign(now);
        }
        if self.settled {
            self.outside_since = now;
        } else if now - self.outside_since >= OUTSIDE {
            self.outside_since = now;
            let reason = self.consumer.context().last_error.text();
            telemetry::no_partitions(&self.settings.group, reason.as_deref());
        }
    }

    /// Says once which partitions others read, and again when that has changed. A store has the events of its own alone.
    fn tell_foreign(&mut self, now: Instant) {
        if !self.settled || now < self.shared_at + SHARED {
            return;
        }
        let foreign = self.foreign();
        if foreign != self.told_foreign {
            if !foreign.is_empty() {
                telemetry::foreign(&self.settings.group, &foreign);
            }
            self.told_foreign = foreign;
        }
    }

    /// Lets librdkafka tell what is new in the group, and acts on it.
    fn serve_group(&mut self) -> Result<(), IngestError> {
        let consumer = Arc::clone(&self.consumer);
        let mut silent = 0;
        while silent < SILENT {
            silent += u32::from(!self.hear()?);
            for rebalance in consumer.context().take_rebalances() {
                match rebalance {
                    Rebalance::Assign(partitions) => self.take_over(partitions)?,
                    Rebalance::Revoke(partitions) => self.give_up(&partitions),
                }
            }
        }
        for topic in consumer.context().take_made_anew() {
            self.distrust(&topic);
        }
        Ok(())
    }

    /// Lets librdkafka tell one thing that is new. False where it gave nothing back.
    fn hear(&mut self) -> Result<bool, IngestError> {
        let consumer = Arc::clone(&self.consumer);
        match consumer.poll(Duration::ZERO) {
            None => return Ok(false),
            // A message, an end or an invalid position belongs in a partition's queue; see `mend`.
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {
                self.scattered = true;
                self.mend_soon();
            }
            Some(Err(error)) if is_out_of_range(&error) => {
                self.broken.extend(self.lanes.keys());
                self.mend_soon();
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
            let known = (self.offsets)(&topic, partition);
            // One broker that does not answer is enough to wait for.
            let marks = answering
                .then(|| self.watermarks(&topic, partition))
                .flatten();
            answering = marks.is_some();
            let next = self.place(&topic, partition, known, marks);
            let witness = self.witness(&topic, partition, next, marks);
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
                },
            );
        }
        self.note_shared(answering);
        self.settled = true;
        // The next poll may be long in coming.
        self.gauges_at = Instant::now();
        self.assign()
    }

    /// Notes how many partitions the topics have when the group shares them out, as far as a broker answers.
    fn note_shared(&mut self, answering: bool) {
        self.shared.clear();
        self.shared_at = Instant::now();
        if !answering {
            return;
        }
        for stream in &self.streams {
            let metadata = self
                .consumer
                .fetch_metadata(Some(&stream.topic), self.settings.request_timeout);
            match metadata {
                Ok(metadata) => {
                    let count = partition_count(&metadata, &stream.topic);
                    let count = count.map(|count| (stream.topic.clone(), count));
                    self.shared.extend(count);
                }
                Err(error) => {
                    telemetry::client_error("metadata", &error.to_string());
                    return;
                }
            }
        }
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
                self.broken.remove(&source);
                self.strange.remove(&source);
                self.news.revoked.push((topic.clone(), *partition));
            }
        }
        // The next assignment follows, unless the member was thrown out; then it joins anew.
        self.settled = false;
    }

    /// The offset to start from, and the loss if it is not the one that is wanted.
    fn place(
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
        if wanted.is_none() && to > 0 {
            self.news.trimmed.push((topic.to_owned(), partition));
        }
        if let Some(from) = wanted.filter(|from| *from != to) {
            telemetry::offsets_lost(topic, partition, from, to);
            self.news.lost.push(Lost {
                topic: topic.to_string(),
                partition,
                from,
                to,
            });
        }
        Some(to)
    }

    /// A message that was read of a partition, where it may still be there and is before the next that is to be read.
    fn witness(
        &self,
        topic: &str,
        partition: i32,
        next: Option<i64>,
        marks: Option<(i64, i64)>,
    ) -> Option<Witness> {
        let (low, _) = marks?;
        let witness = self.witnesses.as_ref()?(topic, partition)?;
        (low..next?).contains(&witness.offset).then_some(witness)
    }

    /// The first offset and the one after the last, if a broker says them.
    fn watermarks(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
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
    fn assign(&mut self) -> Result<(), IngestError> {
        let mut list = TopicPartitionList::new();
        for lane in self.lanes.values() {
            let first = lane.witness.map(|witness| witness.offset).or(lane.next);
            let next = first.map_or(Offset::Beginning, Offset::Offset);
            list.add_partition_offset(&lane.topic, lane.partition, next)
                .map_err(|error| IngestError::kafka("taking partitions over", error))?;
        }
        self.consumer.assign(&list).map_err(|error| {
            self.scattered = true;
            self.mend_soon();
            IngestError::kafka("taking partitions over", error)
        })
    }

    /// A topic is another one than the one that was read: what was read is behind its beginning.
    fn distrust(&mut self, topic: &str) {
        let ours = self.lanes.iter().filter(|(_, lane)| lane.topic == topic);
        let ours: Vec<Source> = ours.map(|(source, _)| *source).collect();
        for source in ours {
            telemetry::another_topic(topic, source.partition);
            self.strange.insert(source);
            self.broken.insert(source);
            self.mend_soon();
        }
    }

    fn mend_soon(&mut self) {
        self.mend_at
            .get_or_insert_with(|| Instant::now() + MEND_PAUSE);
    }

    /// Finds a valid position for broken partitions, each by itself, and starts all anew.
    ///
    /// It also starts them anew when something of a partition came through the common queue, which happens when
    /// librdkafka forgot a topic and met it again: what was said there is said again in the partition's queue.
    fn mend(&mut self) -> Result<(), IngestError> {
        if self.mend_at.is_none_or(|at| Instant::now() < at) {
            return Ok(());
        }
        self.mend_at = None;
        if !self.settled || self.lanes.is_empty() {
            // Between assignments there is nothing to mend: the next one starts at valid positions.
            return Ok(());
        }
        let lanes = &self.lanes;
        self.broken.retain(|source| lanes.contains_key(source));
        let found = self.found();
        for (source, marks) in &found {
            self.place_anew(*source, *marks);
        }
        if !self.broken.is_empty() {
            self.mend_soon();
            if found.is_empty() && !self.scattered {
                return Ok(());
            }
        }
        self.scattered = false;
        self.reopen_queues()?;
        self.assign()
    }

    /// The watermarks of the broken partitions that can be mended now. One that its topic does not list any more, or
    /// that nobody leads, holds no other back; a broker that does not answer is waited for once.
    fn found(&self) -> Vec<(Source, (i64, i64))> {
        let mut leaders: BTreeMap<usize, BTreeMap<i32, i32>> = BTreeMap::new();
        let mut silent = BTreeSet::new();
        let mut found = Vec::with_capacity(self.broken.len());
        for source in &self.broken {
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
        let timeout = self.settings.request_timeout;
        match self.consumer.fetch_metadata(Some(topic), timeout) {
            Ok(metadata) => leaders(&metadata, topic),
            Err(error) => {
                telemetry::client_error("metadata", &error.to_string());
                BTreeMap::new()
            }
        }
    }

    /// A broken partition goes on at a position that it has. Until then nothing is taken of a strange one: what still
    /// comes of it may not be read as if it were in order.
    fn place_anew(&mut self, source: Source, marks: (i64, i64)) {
        self.broken.remove(&source);
        let valid = match self.strange.remove(&source) {
            true => (marks.0, marks.0),
            false => marks,
        };
        let Some(lane) = self.lanes.get(&source) else {
            return;
        };
        let ((topic, partition), wanted) = (lane.owned_name(), lane.next);
        let next = self.place(&topic, partition, wanted, Some(valid));
        if let Some(lane) = self.lanes.get_mut(&source) {
            lane.next = next;
            lane.witness = None;
        }
    }

    fn reopen_queues(&mut self) -> Result<(), IngestError> {
        for (source, lane) in std::mem::take(&mut self.lanes) {
            // The old queue first: dropping it takes the wake-up of the new one away.
            let Lane {
                topic,
                partition,
                queue,
                next,
                end,
                witness,
            } = lane;
            drop(queue);
            let queue = open_queue(&self.consumer, &self.wake, &topic, partition)?;
            self.lanes.insert(
                source,
                Lane {
                    topic,
                    partition,
                    queue,
                    next,
                    end,
                    witness,
                },
            );
        }
        Ok(())
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
        let room = match self.strange.contains(&source) {
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
        if recognized.is_some() || busy {
            lane.witness = None;
        }
        let is_strange = recognized == Some(false);
        if is_strange {
            telemetry::another_topic(&lane.topic, lane.partition);
            self.strange.insert(source);
        }
        if out_of_range || is_strange {
            self.broken.insert(source);
            self.mend_soon();
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

impl Stream {
    fn new(spec: StreamSpec) -> Result<Self, IngestError> {
        Ok(Self {
            topic: spec.topic.clone(),
            decoder: JsonDecoder::new(spec)?,
        })
    }

    /// Good messages become rows and deletions; bad ones are handed to the dead letters.
    fn decode(
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
            headers: Vec::new(),
        })
    }
}

/// The position to read from, given the first offset and the one after the last: the one that is wanted if it is
/// still there, else the first.
fn valid_position(wanted: Option<i64>, (low, high): (i64, i64)) -> i64 {
    wanted
        .filter(|offset| (low..=high).contains(offset))
        .unwrap_or(low)
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
