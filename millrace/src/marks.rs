//! How far each stream has come, and what follows from it: which tiles are whole, and what may expire.
//!
//! The marks are part of each commit, so a restart knows them before the first event comes.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use millrace_feature_store::{Commit, Store, Table, time_bytes, time_from_bytes};
use millrace_features::{FeatureView, Project, Stream, Tile};

use crate::failure::Outcome;
use crate::gone::{Gone, looks_back_us};
use crate::settings::{StoreSection, micros};
use crate::state::Seal;

/// Events that are this much late, in µs of event time, make no tile stale: a tile is kept once its span has been
/// over for that long. Until then a look-up sums the span's events up itself.
const SETTLED_US: i64 = 60_000_000;

const NEWEST: &str = "newest/";
const NEWEST_END: &[u8] = b"newest0";

const FILLED: &str = "filled/";
const FILLED_END: &[u8] = b"filled0";

/// The newest event time of each stream, µs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    newest: BTreeMap<String, i64>,
    /// The same of those that came from files.
    filled: BTreeMap<String, i64>,
    /// What may be gone, by the settings of any time.
    gone: Gone,
}

impl Marks {
    /// The marks that a store has.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn open(store: &dyn Store) -> Outcome<Self> {
        Ok(Self {
            newest: times(store, NEWEST, NEWEST_END)?,
            filled: times(store, FILLED, FILLED_END)?,
            gone: Gone::read(store)?,
        })
    }

    /// Newest event time of a stream, µs.
    #[must_use]
    pub fn newest(&self, stream: &str) -> Option<i64> {
        self.newest.get(stream).copied()
    }

    /// All streams and their newest event times, µs.
    pub fn all(&self) -> impl Iterator<Item = (&str, i64)> {
        self.newest
            .iter()
            .map(|(stream, newest)| (stream.as_str(), *newest))
    }

    /// Moves a stream's mark forward.
    pub fn advance(&mut self, stream: &str, event_time_us: i64) {
        let newest = &mut self.newest;
        let mark = newest.entry(stream.to_owned()).or_insert(event_time_us);
        *mark = (*mark).max(event_time_us);
    }

    /// Moves a stream's mark to the newest of some of its events.
    pub fn see(&mut self, stream: &Stream, events: &RecordBatch) {
        if let Some(newest) = newest(events, stream.time) {
            self.advance(&stream.name, newest);
        }
    }

    /// Makes the marks part of a commit.
    pub fn write(&self, commit: &mut Commit) {
        for (prefix, times) in [(NEWEST, &self.newest), (FILLED, &self.filled)] {
            for (stream, time) in times {
                commit.put(Table::Meta, format!("{prefix}{stream}"), time_bytes(*time));
            }
        }
    }

    /// Up to when each view may have tiles.
    #[must_use]
    pub fn seals(&self, project: &Project) -> HashMap<u32, Seal> {
        let seal = |view: &FeatureView| {
            let seal = Seal {
                until_us: self.sealed_until(view)?,
                top_level: view.top_tile_level()?,
                ladder: view.ladder(),
            };
            Some((view.id, seal))
        };
        project.views.iter().filter_map(|view| seal(view)).collect()
    }

    fn sealed_until(&self, view: &FeatureView) -> Option<i64> {
        Some(self.newest(&view.stream.name)?.saturating_sub(SETTLED_US))
    }

    /// From when on a view's events are kept; none where all are.
    #[must_use]
    pub fn horizon(&self, view: &FeatureView, settings: &StoreSection) -> Option<i64> {
        let newest = self.newest(&view.stream.name)?;
        let kept = view.reach_us()?.saturating_add(micros(settings.history));
        Some(newest.saturating_sub(kept))
    }

    /// What may be gone, by the settings of any time.
    #[must_use]
    pub fn gone(&self) -> &Gone {
        &self.gone
    }

    /// Notes in a commit which events of a view may go with it. Whether that is news.
    pub fn let_go(
        &mut self,
        view: &FeatureView,
        settings: &StoreSection,
        commit: &mut Commit,
    ) -> bool {
        let (newest, back) = (self.newest(&view.stream.name), looks_back_us(view));
        let (Some(newest), Some(back)) = (newest, back) else {
            return false;
        };
        let kept = back.saturating_add(micros(settings.history));
        self.gone
            .raise(view.id, newest.saturating_sub(kept), commit)
    }

    /// Up to when the events of a view with a resolution are settled: the start of a step, from which on events are
    /// kept one by one.
    #[must_use]
    pub fn settled(&self, view: &FeatureView) -> Option<i64> {
        let resolution = view.resolution()?;
        let newest = self.newest(&view.stream.name)?;
        Some(resolution.step_start(newest.saturating_sub(resolution.late_us)))
    }

    /// Before when no frame of a view with a resolution has an edge, as of any time that may be asked for; none where
    /// such events expire.
    #[must_use]
    pub fn old(&self, view: &FeatureView, settings: &StoreSection) -> Option<i64> {
        if view.reach_us().is_some() {
            return None;
        }
        let kept = view.edges_us().saturating_add(micros(settings.history));
        Some(self.settled(view)?.saturating_sub(kept))
    }

    /// Up to when what came from files counts as complete, for views with a resolution: an event of a topic that is
    /// older was in the files. None where the stream had no file.
    #[must_use]
    pub fn complete(&self, view: &FeatureView) -> Option<i64> {
        complete_until(view, self.filled(&view.stream.name)?)
    }

    /// How far a stream was when its files had been read, µs: its newest event of then. None where it had no file.
    #[must_use]
    pub fn filled(&self, stream: &str) -> Option<i64> {
        self.filled.get(stream).copied()
    }

    /// Notes that files of a stream reach up to its newest event.
    pub fn fill(&mut self, stream: &str) {
        if let Some(newest) = self.newest(stream) {
            self.filled.insert(stream.to_owned(), newest);
        }
    }

    /// Whether a tile that was made now is worth keeping: its span is over, and no event of it has expired.
    #[must_use]
    pub fn is_whole(&self, view: &FeatureView, settings: &StoreSection, tile: &Tile) -> bool {
        let over = self
            .sealed_until(view)
            .is_some_and(|until| tile.span.end_us() <= until);
        // Those of a longer history before may have expired too, and be put back while it is filled.
        let horizon = self.horizon(view, settings);
        let gone = horizon.map(|horizon| self.gone.before(view.id).unwrap_or(horizon).max(horizon));
        over && gone.is_none_or(|horizon| horizon <= tile.span.start_us)
    }
}

/// The same where files go up to a time (µs).
pub(crate) fn complete_until(view: &FeatureView, filled_us: i64) -> Option<i64> {
    let resolution = view.resolution()?;
    Some(resolution.step_start(filled_us.saturating_sub(resolution.late_us)))
}

/// The newest event time of a batch, µs; `time` is its column.
pub(crate) fn newest(batch: &RecordBatch, time: usize) -> Option<i64> {
    arrow::compute::max(
        batch
            .column(time)
            .as_primitive::<TimestampMicrosecondType>(),
    )
}

/// Times by stream, as the store has them under a prefix.
fn times(store: &dyn Store, prefix: &str, end: &[u8]) -> Outcome<BTreeMap<String, i64>> {
    let mut times = BTreeMap::new();
    store.scan(
        Table::Meta,
        prefix.as_bytes(),
        end,
        false,
        &mut |key, value| {
            let stream = key.get(prefix.len()..).map(String::from_utf8_lossy);
            if let (Some(stream), Some(time)) = (stream, time_from_bytes(value)) {
                times.insert(stream.into_owned(), time);
            }
            ControlFlow::Continue(())
        },
    )?;
    Ok(times)
}
