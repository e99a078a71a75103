//! What a running process shares between its roles: the store, the scorer, the registry, and how far it is.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arrow::array::ArrayRef;
use hdrhistogram::Histogram;
use millrace_feature_store::Store;
use millrace_features::FeatureView;
use millrace_learner::Registry;

use crate::gone::Gone;
use crate::scored_watch::Alarm;
use crate::scorer::Scorer;
use crate::traces::Traces;
use crate::workspace::Workspace;

/// The parts of a running process. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    /// The planned project.
    pub workspace: Arc<Workspace>,
    /// State and offsets.
    pub store: Arc<dyn Store>,
    /// The scorer, where the project has a model.
    pub scorer: Option<Arc<Scorer>>,
    /// Versions of the model, where the project has one.
    pub registry: Option<Arc<Registry>>,
    /// How far the process is.
    pub progress: Arc<Progress>,
    /// Look-ups that would have been faster with a tile.
    pub misses: Arc<Misses>,
    /// Makes spans of what is done, where there is a collector for them.
    pub traces: Traces,
}

/// A look-up that had to sum up many events.
#[derive(Debug)]
pub struct Miss {
    /// What was asked.
    pub view: Arc<FeatureView>,
    /// The entity: one value a column.
    pub entity: Vec<ArrayRef>,
    /// As of when, µs.
    pub as_of_us: i64,
}

/// A short queue of misses, from the servers to the one thread that writes the store.
#[derive(Debug, Default)]
pub struct Misses(Mutex<VecDeque<Miss>>);

impl Misses {
    /// More are forgotten: what their tiles would spare stays in memory meanwhile, or is missed again.
    const MOST: usize = 256;

    /// Notes a miss.
    pub fn note(&self, miss: Miss) {
        let mut misses = lock(&self.0);
        if misses.len() < Self::MOST {
            misses.push_back(miss);
        }
    }

    /// Takes the oldest misses, at most `most`.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<Miss> {
        let mut misses = lock(&self.0);
        let most = most.min(misses.len());
        misses.drain(..most).collect()
    }
}

/// Brokers answer twice a second. With this much silence, what they have is not known.
const OUT_OF_TOUCH: Duration = Duration::from_secs(10);

/// Alarms that wait for somebody to take them, at most.
const MOST_ALARMS: usize = 1_000;

/// Counters of a process. The screen, the metrics endpoint and look-ups read them.
#[derive(Default)]
pub struct Progress {
    /// Events that were committed, of all streams.
    pub events: AtomicU64,
    /// Events that were scored.
    pub scores: AtomicU64,
    /// Labels that were joined to a scored event.
    pub labels: AtomicU64,
    /// Labels that were delivered again.
    pub duplicate_labels: AtomicU64,
    /// Messages that went to a dead-letter topic.
    pub dead_letters: AtomicU64,
    /// Messages that are in Kafka and not committed yet, of all streams.
    pub lag: AtomicI64,
    /// Answers that were asked for, and not counted by `take_asked` yet.
    asked: AtomicU64,
    /// Whether events are read here, or will be when there is a broker.
    reads: AtomicBool,
    /// When the brokers were last heard; none before the first time, and in a process that does not read.
    heard: Mutex<Option<Instant>>,
    /// How far each stream is, by its name.
    streams: Mutex<BTreeMap<String, StreamProgress>>,
    /// Since when a view has all of its events, µs, by its id; none for those that had them from the start.
    complete_since: RwLock<HashMap<u32, i64>>,
    /// What may be gone of views, as it was at the start.
    gone: RwLock<Gone>,
    /// Views of the next project that are not served yet, by name.
    filling: RwLock<BTreeMap<String, Filled>>,
    /// Inputs of scored events that moved, oldest first.
    alarms: Mutex<VecDeque<Alarm>>,
    /// Microseconds from a message's Kafka timestamp to its being visible in a look-up.
    freshness: Latency,
}

impl Progress {
    /// How far a stream is.
    #[must_use]
    pub fn stream(&self, stream: &str) -> StreamProgress {
        let streams = lock(&self.streams);
        streams.get(stream).copied().unwrap_or_default()
    }

    /// Newest event time (µs) of a stream that look-ups reflect.
    #[must_use]
    pub fn newest(&self, stream: &str) -> Option<i64> {
        self.stream(stream).newest_us
    }

    /// Newest event time (µs) over all streams.
    #[must_use]
    pub fn newest_of_all(&self) -> Option<i64> {
        let streams = lock(&self.streams);
        streams.values().filter_map(|stream| stream.newest_us).max()
    }

    /// Says how many messages of a stream are in Kafka and not committed yet.
    pub fn set_lag(&self, stream: &str, lag: i64) {
        let mut streams = lock(&self.streams);
        match streams.get_mut(stream) {
            Some(stream) => stream.lag = lag,
            None => {
                let progress = StreamProgress {
                    lag,
                    ..StreamProgress::default()
                };
                streams.insert(stream.to_owned(), progress);
            }
        }
    }

    /// Says whether others read partitions of a stream's topic now, whose events do not come here.
    pub fn set_partial(&self, stream: &str, is_partial: bool, now: Instant) {
        let mut streams = lock(&self.streams);
        let stream = streams.entry(stream.to_owned()).or_default();
        stream.partial_since = match is_partial {
            true => stream.partial_since.or(Some(now)),
            false => None,
        };
    }

    /// Says that events are to be read here.
    pub fn set_reading(&self) {
        self.reads.store(true, Ordering::Relaxed);
    }

    /// Whether there is nothing to answer from yet: the store has no event, and no broker was heard that may have some.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        let reads = self.reads.load(Ordering::Relaxed);
        reads && self.newest_of_all().is_none() && self.silence().is_none()
    }

    /// Notes that the brokers were heard.
    pub fn hear(&self, at: Instant) {
        let mut heard = lock(&self.heard);
        *heard = (*heard).max(Some(at));
    }

    /// For how long the brokers were not heard, so that `lag` does not count what has come since; none where they never
    /// were.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        lock(&self.heard).map(|heard| heard.elapsed())
    }

    /// Whether `lag` is of now, about.
    #[must_use]
    pub fn is_in_touch(&self) -> bool {
        self.silence().is_some_and(|silence| silence < OUT_OF_TOUCH)
    }

    /// Notes that look-ups reflect a stream up to a time.
    pub fn reflect(&self, stream: &str, event_time_us: i64) {
        let mut streams = lock(&self.streams);
        let stream = streams.entry(stream.to_owned()).or_default();
        stream.newest_us = stream.newest_us.max(Some(event_time_us));
    }

    /// Since when (µs) a view has all of its events; none where nothing was missing when it was made.
    #[must_use]
    pub fn complete_since(&self, view: u32) -> Option<i64> {
        let since = self.complete_since.read();
        since
            .unwrap_or_else(PoisonError::into_inner)
            .get(&view)
            .copied()
    }

    /// Says since when views have all of their events, by their ids.
    pub fn set_complete_since(&self, since: HashMap<u32, i64>) {
        let all = self.complete_since.write();
        *all.unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Before when (µs) events of a view were gone already at the start, by settings of any time; none where none were.
    #[must_use]
    pub fn gone_before(&self, view: u32) -> Option<i64> {
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        gone.before(view).filter(|time_us| *time_us > i64::MIN)
    }

    /// Says what may be gone of views.
    pub fn set_gone(&self, gone: Gone) {
        *self.gone.write().unwrap_or_else(PoisonError::into_inner) = gone;
    }

    /// Notes that a view lacks events before a time (µs).
    pub fn lacks_before(&self, view: u32, time_us: i64) {
        let mut all = self
            .complete_since
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let since = all.entry(view).or_insert(time_us);
        *since = (*since).max(time_us);
    }

    /// Notes that somebody asks for an answer.
    pub fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// How many answers were asked for since the last time that this was called.
    #[must_use]
    pub fn take_asked(&self) -> u64 {
        self.asked.swap(0, Ordering::Relaxed)
    }

    /// Views of the next project that are not served yet, by name, and how far each is.
    #[must_use]
    pub fn filling(&self) -> BTreeMap<String, Filled> {
        let filling = self.filling.read();
        filling.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which views are not served yet.
    pub fn set_filling(&self, names: impl IntoIterator<Item = String>) {
        let all = names.into_iter().map(|name| (name, Filled::default()));
        let mut filling = self.filling.write().unwrap_or_else(PoisonError::into_inner);
        *filling = all.collect();
    }

    /// Says how far a view is that is not served yet.
    pub fn fill(&self, view: &str, filled: Filled) {
        let mut filling = self.filling.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = filling.get_mut(view) {
            *known = filled;
        }
    }

    /// Notes an input that moved. The newest are kept.
    pub fn alarm(&self, alarm: Alarm) {
        let mut alarms = lock(&self.alarms);
        if alarms.len() == MOST_ALARMS {
            alarms.pop_front();
        }
        alarms.push_back(alarm);
    }

    /// Takes the alarms that were not taken yet.
    #[must_use]
    pub fn take_alarms(&self) -> Vec<Alarm> {
        lock(&self.alarms).drain(..).collect()
    }

    /// From produce to visible.
    #[must_use]
    pub fn freshness(&self) -> &Latency {
        &self.freshness
    }

    /// Events that were committed.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }
}

/// How far a stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamProgress {
    /// Newest event time that was committed, µs; none before there was an event.
    pub newest_us: Option<i64>,
    /// Messages that are in its topic and not committed yet.
    pub lag: i64,
    /// Since when others read partitions of its topic.
    partial_since: Option<Instant>,
}

impl StreamProgress {
    /// Whether others read partitions of its topic. A hand-over is none: it passes, and what is not read meanwhile is
    /// behind.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial_since
            .is_some_and(|since| since.elapsed() >= OUT_OF_TOUCH)
    }
}

/// How far a view is that is not served yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filled {
    /// Older events that were read for it.
    pub read: u64,
    /// Those that are left in Kafka; none where it is not known yet.
    pub left: Option<u64>,
}

/// Latencies in microseconds, up to an hour, to three digits.
pub struct Latency(Mutex<Histogram<u64>>);

const HOUR_US: u64 = 3_600_000_000;

impl Default for Latency {
    fn default() -> Self {
        match Histogram::new_with_bounds(1, HOUR_US, 3) {
            Ok(histogram) => Self(Mutex::new(histogram)),
            Err(_) => unreachable!("the bounds are constants within the histogram's limits"),
        }
    }
}

impl Latency {
    /// Adds one latency; what is above an hour counts as an hour.
    pub fn record(&self, microseconds: u64) {
        lock(&self.0).saturating_record(microseconds.clamp(1, HOUR_US));
    }

    /// The quantiles in microseconds, or none without a latency.
    #[must_use]
    pub fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> Option<[u64; N]> {
        let histogram = lock(&self.0);
        (!histogram.is_empty()).then(|| quantiles.map(|q| histogram.value_at_quantile(q)))
    }

    /// Forgets all latencies.
    pub fn reset(&self) {
        lock(&self.0).reset();
    }
}

/// A lock whose holder panicked still guards plain counters.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_stream_is_partial_when_others_have_had_a_part_of_it_for_a_while() {
        let progress = Progress::default();
        let now = Instant::now();
        progress.set_partial("tx", true, now);
        assert!(!progress.stream("tx").is_partial());
        progress.set_partial("tx", false, now);
        // It counts from when it was said first.
        progress.set_partial("tx", true, now.checked_sub(OUT_OF_TOUCH).unwrap());
        progress.set_partial("tx", true, now);
        assert!(progress.stream("tx").is_partial());
        assert!(!progress.stream("labels").is_partial());
        progress.set_partial("tx", false, now);
        assert!(!progress.stream("tx").is_partial());
    }

    #[test]
    fn a_process_that_reads_is_blank_until_it_has_an_event_or_has_heard_a_broker() {
        let progress = Progress::default();
        assert!(!progress.is_blank());
        progress.set_reading();
        assert!(progress.is_blank());
        progress.hear(Instant::now());
        assert!(!progress.is_blank());
        let progress = Progress::default();
        progress.set_reading();
        progress.reflect("tx", 1);
        assert!(!progress.is_blank());
    }
}
