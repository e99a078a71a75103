//! The seam between a window's meaning and the store that keeps its state: rows by view, entity and time.
//!
//! [`MemoryState`] is here for tests, training sets and back-tests; RocksDB's is in `millrace`, over
//! `millrace-feature-store`.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::FeatureError;
use crate::fold::TOTAL_UNIQUE;
use crate::tile::Tile;
use crate::view::FeatureView;

/// The store failed: an I/O error, a closed database. The text is the store's own.
#[derive(Debug, thiserror::Error)]
#[error("the state could not be read: {0}")]
pub struct StateError(pub String);

/// What a view keeps of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRow {
    /// The view's id.
    pub view: u32,
    /// The entity, as bytes.
    pub entity: Vec<u8>,
    /// Event time, UTC µs.
    pub time_us: i64,
    /// Tells apart an entity's events of one microsecond.
    pub unique: [u8; 16],
    /// What the view keeps of the event.
    pub value: Vec<u8>,
    /// Where the event came from: partition and offset. It is no part of what is kept.
    pub origin: (i32, i64),
}

/// How an entity is best read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BestRead {
    /// All its rows are at hand: tiles are neither read nor worth making.
    Rows,
    /// Through tiles, of this level at most; none where it has no tile yet. A level that is too high costs time alone.
    Tiles(Option<u8>),
}

/// What a view made of an entity's rows. Views of one id share it.
#[derive(Clone)]
pub struct Made {
    /// The view's own.
    pub value: Arc<dyn Any + Send + Sync>,
    /// How many bytes it takes. It may grow.
    pub bytes: Arc<AtomicUsize>,
}

/// Ordered reads of the rows that views have written.
pub trait StateReader {
    /// Calls `visit` with the time and the value of each of an entity's rows with `times.start <= time <
    /// times.end`, in the order of (time, unique), until it returns false.
    ///
    /// # Errors
    /// [`StateError`] when the store fails.
    fn scan(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError>;

    /// What `make` makes of the times and values of an entity's rows, all those of some times and perhaps earlier and
    /// later ones, where the reader has them at hand and keeps what was made until one of them changes. None where it
    /// does not, and where `make` gives none.
    ///
    /// # Errors
    /// [`StateError`] when the store fails.
    fn made(
        &self,
        _view: u32,
        _entity: &[u8],
        _times: Range<i64>,
        _make: &mut dyn FnMut(&mut dyn Iterator<Item = (i64, &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        Ok(None)
    }

    /// As [`made`](Self::made), of the levels, starts and values of an entity's tiles: all those of a level that
    /// start in some times, and perhaps others, the highest level first and then by start.
    ///
    /// # Errors
    /// [`StateError`] when the store fails.
    fn made_of_tiles(
        &self,
        _view: u32,
        _entity: &[u8],
        _level: u8,
        _starts: Range<i64>,
        _make: &mut dyn FnMut(&mut dyn Iterator<Item = ((u8, i64), &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        Ok(None)
    }

    /// As [`scan`](Self::scan), of all rows with time < `before`, newest first.
    ///
    /// # Errors
    /// [`StateError`] when the store fails.
    fn scan_back(
        &self,
        view: u32,
        entity: &[u8],
        before: i64,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError>;

    /// Calls `visit` with the start and the value of each of an entity's tiles of a level with `starts.start <=
    /// start < starts.end`, in order.
    ///
    /// # Errors
    /// [`StateError`] when the store fails.
    fn tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), StateError>;

    /// How look-ups that need an entity's events from `from` on are best read.
    ///
    /// # Errors
    /// [`StateError`] when the store fails.
    fn best_read(&self, view: u32, entity: &[u8], from: i64) -> Result<BestRead, StateError>;

    /// Asked before each entity of an answer: whether to go on with it.
    ///
    /// # Errors
    /// [`StateError`] where the answer is not wanted any more. It ends with that.
    fn go_on(&self) -> Result<(), StateError> {
        Ok(())
    }

    /// Itself, where several threads may read it at a time: answers to many rows are then made on all cores.
    fn shared(&self) -> Option<&(dyn StateReader + Sync)> {
        None
    }
}

/// Where a view puts its rows. A row that is put again under its view, entity, time and unique part replaces
/// itself, so a replay changes nothing.
///
/// A view with a resolution may be given fewer rows back: [`FeatureView::fold`] says how.
///
/// Whoever keeps [`Tile`]s drops those whose span holds the row's time before the row can be seen.
pub trait StateWriter {
    /// Puts one row.
    fn put(&mut self, row: StateRow);
}

/// State in ordered maps.
#[derive(Debug, Default, Clone)]
pub struct MemoryState {
    rows: BTreeMap<MemoryKey, Vec<u8>>,
    /// The end of each tile's span, and its value.
    tiles: BTreeMap<TileKey, (i64, Vec<u8>)>,
}

type MemoryKey = (u32, Vec<u8>, i64, [u8; 16]);
type TileKey = (u32, Vec<u8>, u8, i64);

impl MemoryState {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True when no row was put.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Keeps a tile for look-ups to come.
    pub fn put_tile(&mut self, tile: Tile) {
        let key = (tile.view, tile.entity, tile.span.level, tile.span.start_us);
        self.tiles.insert(key, (tile.span.end_us(), tile.value));
    }

    /// Replaces an entity's rows in whole steps before `settled_us` by their totals, in a view with a resolution;
    /// those before `old_us` by totals of larger spans.
    ///
    /// # Errors
    /// As [`FeatureView::fold`].
    pub fn fold(
        &mut self,
        view: &FeatureView,
        entity: &[u8],
        settled_us: i64,
        old_us: i64,
    ) -> Result<(), FeatureError> {
        let mut rows = Vec::new();
        self.scan(view.id, entity, i64::MIN..settled_us, &mut |time, value| {
            rows.push((time, value.to_vec()));
            true
        })?;
        let key = |time: i64, unique| (view.id, entity.to_vec(), time, unique);
        for total in view.fold(&rows, old_us)? {
            let span = total.span.times();
            let gone = self
                .rows
                .range(key(span.start, [0; 16])..key(span.end, [0; 16]));
            let gone: Vec<MemoryKey> = gone.map(|(key, _)| key.clone()).collect();
            gone.iter().for_each(|key| drop(self.rows.remove(key)));
            self.rows.insert(key(span.start, TOTAL_UNIQUE), total.value);
            if total.span.level > 0 {
                self.tiles.retain(|(id, of, _, start), _| {
                    (*id, of.as_slice()) != (view.id, entity) || !span.contains(start)
                });
            }
        }
        Ok(())
    }

    /// Number of tiles.
    #[must_use]
    pub fn tiles_len(&self) -> usize {
        self.tiles.len()
    }
}

impl StateWriter for MemoryState {
    fn put(&mut self, row: StateRow) {
        let is_stale = |(view, entity, _, start): &TileKey, end: i64| {
            let span = *start..end;
            (*view, entity) == (row.view, &row.entity) && span.contains(&row.time_us)
        };
        self.tiles.retain(|key, (end, _)| !is_stale(key, *end));
        self.rows
            .insert((row.view, row.entity, row.time_us, row.unique), row.value);
    }
}

impl StateReader for MemoryState {
    fn scan(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        if times.is_empty() {
            return Ok(());
        }
        let key = |time: i64| (view, entity.to_vec(), time, [0; 16]);
        for ((_, _, time, _), value) in self.rows.range(key(times.start)..key(times.end)) {
            if !visit(*time, value) {
                break;
            }
        }
        Ok(())
    }

    fn scan_back(
        &self,
        view: u32,
        entity: &[u8],
        before: i64,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let key = |time: i64| (view, entity.to_vec(), time, [0; 16]);
        for ((_, _, time, _), value) in self.rows.range(key(i64::MIN)..key(before)).rev() {
            if !visit(*time, value) {
                break;
            }
        }
        Ok(())
    }

    fn tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), StateError> {
        if starts.is_empty() {
            return Ok(());
        }
        let key = |start: i64| (view, entity.to_vec(), level, start);
        for ((_, _, _, start), (_, value)) in self.tiles.range(key(starts.start)..key(starts.end)) {
            visit(*start, value);
        }
        Ok(())
    }

    fn best_read(&self, view: u32, entity: &[u8], _from: i64) -> Result<BestRead, StateError> {
        let key = |level: u8, start: i64| (view, entity.to_vec(), level, start);
        let mut all = self.tiles.range(key(0, i64::MIN)..=key(u8::MAX, i64::MAX));
        Ok(BestRead::Tiles(
            all.next_back().map(|((_, _, level, _), _)| *level),
        ))
    }
}

/// What a test says in place of some of a state's reads: [`Read`] makes a reader of it.
#[cfg(test)]
pub(crate) trait Over {
    /// What says all else.
    fn state(&self) -> &MemoryState;

    /// In place of [`StateReader::made`].
    fn made_over(
        &self,
        _view: u32,
        _entity: &[u8],
        _times: Range<i64>,
        _make: &mut dyn FnMut(&mut dyn Iterator<Item = (i64, &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        Ok(None)
    }

    /// In place of [`StateReader::go_on`].
    fn go_on_over(&self) -> Result<(), StateError> {
        Ok(())
    }
}

/// The reads of a state, but for what is said over them.
#[cfg(test)]
pub(crate) struct Read<T>(pub(crate) T);

#[cfg(test)]
impl<T: Over> StateReader for Read<T> {
    fn scan(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        self.0.state().scan(view, entity, times, visit)
    }

    fn made(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        make: &mut dyn FnMut(&mut dyn Iterator<Item = (i64, &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        self.0.made_over(view, entity, times, make)
    }

    fn scan_back(
        &self,
        view: u32,
        entity: &[u8],
        before: i64,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        self.0.state().scan_back(view, entity, before, visit)
    }

    fn tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), StateError> {
        self.0.state().tiles(view, entity, level, starts, visit)
    }

    fn best_read(&self, view: u32, entity: &[u8], from: i64) -> Result<BestRead, StateError> {
        self.0.state().best_read(view, entity, from)
    }

    fn go_on(&self) -> Result<(), StateError> {
        self.0.go_on_over()
    }
}
