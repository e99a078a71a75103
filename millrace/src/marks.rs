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
use crate::settings::{StoreSection, micros};
use crate::state::Seal;

/// Events that are this much late, in µs of event time, make no tile stale: a tile is kept once its span has been
/// over for that long. Until then a look-up sums the span's events up itself.
const SETTLED_US: i64 = 60_000_000;

const NEWEST: &str = "newest/";
const NEWEST_END: &[u8] = b"newest0";

/// The newest event time of each stream, µs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<String, i64>);

impl Marks {
    /// The marks that a store has.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn open(store: &dyn Store) -> Outcome<Self> {
        let mut marks = BTreeMap::new();
        store.scan(
            Table::Meta,
            NEWEST.as_bytes(),
            NEWEST_END,
            false,
            &mut |key, value| {
                let stream = key.get(NEWEST.len()..).map(String::from_utf8_lossy);
                if let (Some(stream), Some(newest)) = (stream, time_from_bytes(value)) {
                    marks.insert(stream.into_owned(), newest);
                }
                ControlFlow::Continue(())
            },
        )?;
        Ok(Self(marks))
    }

    /// Newest event time of a stream, µs.
    #[must_use]
    pub fn newest(&self, stream: &str) -> Option<i64> {
        self.0.get(stream).copied()
    }

    /// All streams and their newest event times, µs.
    pub fn all(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0
            .iter()
            .map(|(stream, newest)| (stream.as_str(), *newest))
    }

    /// Moves a stream's mark forward.
    pub fn advance(&mut self, stream: &str, event_time_us: i64) {
        let mark = self.0.entry(stream.to_owned()).or_insert(event_time_us);
        *mark = (*mark).max(event_time_us);
    }

    /// Moves a stream's mark to the newest of some of its events.
    pub fn see(&mut self, stream: &Stream, events: &RecordBatch) {
        let times = events.column(stream.time);
        if let Some(newest) = arrow::compute::max(times.as_primitive::<TimestampMicrosecondType>())
        {
            self.advance(&stream.name, newest);
        }
    }

    /// Makes the marks part of a commit.
    pub fn write(&self, commit: &mut Commit) {
        for (stream, newest) in &self.0 {
            commit.put(
                Table::Meta,
                format!("{NEWEST}{stream}"),
                time_bytes(*newest),
            );
        }
    }

    /// Up to when each view may have tiles.
    #[must_use]
    pub fn seals(&self, project: &Project) -> HashMap<u32, Seal> {
        let seal = |view: &FeatureView| {
            let seal = Seal {
                until_us: self.sealed_until(view)?,
                top_level: view.top_tile_level()?,
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

    /// Whether a tile that was made now is worth keeping: its span is over, and no event of it has expired.
    #[must_use]
    pub fn is_whole(&self, view: &FeatureView, settings: &StoreSection, tile: &Tile) -> bool {
        let over = self
            .sealed_until(view)
            .is_some_and(|until| tile.span.end_us() <= until);
        let gone = self.horizon(view, settings);
        over && gone.is_none_or(|horizon| horizon <= tile.span.start_us)
    }
}
