//! Between the features' view of state (rows by view, entity and time) and the store's (tables and commits).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use millrace_feature_store::{
    Commit, EventKey, Scan, Store, StoreError, Table, entity_range, event_key, event_range,
    event_time_us, tile_key, tile_of, tile_range, time_from_bytes,
};
use millrace_features::{
    BestRead, FeatureView, Ladder, Made, StateError, StateReader, StateRow, StateWriter, Tile,
    Total,
};

use crate::deletes::Entry;
use crate::failure::with_causes;
use crate::serve::admission::is_in_vain;

/// The store's events, as committed: of the store itself, each read of its own moment; or of one moment of it. What is
/// made of them for a request ends where nobody waits for its answer any more.
pub struct Committed<'a, S: Scan + ?Sized = dyn Scan + 'a>(pub &'a S);

impl<S: Scan + ?Sized> StateReader for Committed<'_, S> {
    fn scan(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let range = event_range(view, entity, times);
        self.rows(Table::Events, &range, false, &mut |key, value| {
            visit(time_of(key), value)
        })
    }

    fn made(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        make: &mut dyn FnMut(&mut dyn Iterator<Item = (i64, &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        // The store admits no other keys than those with a time.
        let time = |end: &[u8]| time_from_bytes(end).unwrap_or(i64::MIN);
        let range = event_range(view, entity, times);
        self.made_of(Table::Events, &range, &mut |rows| {
            make(&mut rows.map(|(end, value)| (time(end), value)))
        })
    }

    fn made_of_tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        make: &mut dyn FnMut(&mut dyn Iterator<Item = ((u8, i64), &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        // The store admits no other keys than those with a level and a start.
        let place = |end: &[u8]| tile_of(end).unwrap_or((0, i64::MIN));
        let range = tile_range(view, entity, level, starts);
        self.made_of(Table::Tiles, &range, &mut |rows| {
            make(&mut rows.map(|(end, value)| (place(end), value)))
        })
    }

    fn scan_back(
        &self,
        view: u32,
        entity: &[u8],
        before: i64,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let range = event_range(view, entity, i64::MIN..before);
        self.rows(Table::Events, &range, true, &mut |key, value| {
            visit(time_of(key), value)
        })
    }

    fn tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), StateError> {
        let range = tile_range(view, entity, level, starts);
        self.rows(Table::Tiles, &range, false, &mut |key, value| {
            visit(start_of(key), value);
            true
        })
    }

    fn best_read(&self, view: u32, entity: &[u8], _from: i64) -> Result<BestRead, StateError> {
        let mut top = None;
        let range = entity_range(view, entity);
        self.rows(Table::Tiles, &range, false, &mut |key, _| {
            top = tile_of(key).map(|(level, _)| level);
            false
        })?;
        Ok(BestRead::Tiles(top))
    }

    fn go_on(&self) -> Result<(), StateError> {
        match is_in_vain() {
            true => Err(StateError("nobody waits for the answer".to_owned())),
            false => Ok(()),
        }
    }
}

/// What an [`Overlay`] lies over.
pub trait Base: StateReader {
    /// As [`StateReader::scan`], in either direction, with what tells apart events of one microsecond.
    ///
    /// # Errors
    /// As there.
    fn each(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        reverse: bool,
        visit: &mut dyn FnMut(EventPlace, &[u8]) -> bool,
    ) -> Result<(), StateError>;
}

/// The order of an entity's events: time, then what tells apart those of one microsecond.
pub type EventPlace = (i64, [u8; 16]);

impl<S: Scan + ?Sized> Base for Committed<'_, S> {
    fn each(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        reverse: bool,
        visit: &mut dyn FnMut(EventPlace, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let range = event_range(view, entity, times);
        self.rows(Table::Events, &range, reverse, &mut |key, value| {
            visit(place_of(key), value)
        })
    }
}

/// The store admits no other keys than those with a place.
pub(crate) fn place_of(key: &[u8]) -> EventPlace {
    (time_of(key), key.last_chunk().copied().unwrap_or_default())
}

type Keys = (Vec<u8>, Vec<u8>);

impl<S: Scan + ?Sized> Committed<'_, S> {
    fn made_of(
        &self,
        table: Table,
        (from, to): &Keys,
        make: &mut dyn FnMut(&mut dyn Iterator<Item = (&[u8], &[u8])>) -> Option<Made>,
    ) -> Result<Option<Made>, StateError> {
        let mut make = |rows: &mut dyn Iterator<Item = (&[u8], &[u8])>| {
            let Made { value, bytes } = make(rows)?;
            Some(millrace_feature_store::Memo { value, bytes })
        };
        let made = self.0.made(table, from, to, &mut make);
        let made = made.map_err(|e| StateError(with_causes(&e)))?;
        Ok(made.map(|millrace_feature_store::Memo { value, bytes }| Made { value, bytes }))
    }

    fn rows(
        &self,
        table: Table,
        (from, to): &Keys,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        if from >= to {
            return Ok(());
        }
        let mut visit = |key: &[u8], value: &[u8]| match visit(key, value) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        self.0
            .scan(table, from, to, reverse, &mut visit)
            .map_err(|e| StateError(with_causes(&e)))
    }
}

/// The store admits no other keys than those with a time.
fn time_of(key: &[u8]) -> i64 {
    event_time_us(key).unwrap_or(i64::MIN)
}

fn start_of(key: &[u8]) -> i64 {
    tile_of(key).map_or(i64::MIN, |(_, start)| start)
}

/// From when on a view has no tiles, and how high they go: an event before that may make some stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// All tiles end at or before this, µs.
    pub until_us: i64,
    /// The highest level of the view's tiles.
    pub top_level: u8,
    /// How time is cut into their spans.
    pub ladder: Ladder,
}

/// The rows of a step that is not committed yet. What is scored in a step sees the step's own events, and all
/// of it is one commit with the offsets.
#[derive(Debug, Default)]
pub struct Pending {
    /// None where an event is deleted.
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Keys of rows that a total replaces. An overlay does not know of them: folding is the last thing in a step.
    replaced: Vec<Vec<u8>>,
    /// None where a tile is dropped.
    tiles: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    seals: HashMap<u32, Seal>,
    /// Views whose events can be deleted by their ids.
    indexed: HashSet<u32>,
}

impl StateWriter for Pending {
    fn put(&mut self, row: StateRow) {
        self.drop_tiles_of(row.view, &row.entity, row.time_us);
        if self.indexed.contains(&row.view) {
            let (key, entry) = Entry::of(&row);
            self.rows.insert(key, Some(entry));
        }
        let key = event_key(row.view, &row.entity, row.time_us, &row.unique);
        self.rows.insert(key, Some(row.value));
    }
}

impl Pending {
    /// Nothing yet, over a store whose views are sealed so.
    #[must_use]
    pub fn over(seals: HashMap<u32, Seal>) -> Self {
        Self {
            seals,
            ..Self::default()
        }
    }

    /// The same, with an index for deletes of those of the views that want one.
    #[must_use]
    pub fn indexing<'a>(mut self, views: impl IntoIterator<Item = &'a Arc<FeatureView>>) -> Self {
        let views = views.into_iter();
        let indexed = views.filter(|view| view.stream.is_keyed_by_id());
        self.indexed.extend(indexed.map(|view| view.id));
        self
    }

    /// The same, with such an index for those of the views whose events have ids: it says which message a row came from.
    /// Views that are being filled want one, for they get older deliveries of an event after newer ones.
    #[must_use]
    pub fn ordering<'a>(mut self, views: impl IntoIterator<Item = &'a Arc<FeatureView>>) -> Self {
        let views = views.into_iter();
        let ordered = views.filter(|view| view.stream.id.is_some());
        self.indexed.extend(ordered.map(|view| view.id));
        self
    }

    /// Deletes an event, and its entry in the index.
    pub(crate) fn delete(&mut self, view: u32, unique: &[u8; 16], entry: &Entry) {
        self.drop_tiles_of(view, &entry.entity, entry.time_us);
        let key = event_key(view, &entry.entity, entry.time_us, unique);
        self.rows.insert(key, None);
        self.rows.insert(entry.key(view, unique), None);
    }

    /// Takes back what was put of an event.
    pub(crate) fn take_back(&mut self, view: u32, unique: &[u8; 16], entry: &Entry) {
        let key = event_key(view, &entry.entity, entry.time_us, unique);
        self.rows.remove(&key);
        self.rows.remove(&entry.key(view, unique));
    }

    /// Puts a row that no view has.
    pub(crate) fn put_row(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.rows.insert(key, Some(value));
    }

    /// The tiles that an event of this time is in.
    fn drop_tiles_of(&mut self, view: u32, entity: &[u8], time_us: i64) {
        let Some(seal) = self.seals.get(&view).filter(|s| time_us < s.until_us) else {
            return;
        };
        for level in 0..=seal.top_level {
            let start = seal.ladder.span(level, time_us).start_us;
            self.tiles
                .insert(tile_key(view, entity, level, start), None);
        }
    }

    /// Seals views behind what was put: drops the tiles of those of its rows that are others than a store has. Who writes
    /// rows once more changes few of them, and the tiles of all others stay.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub(crate) fn seal(
        &mut self,
        seals: &HashMap<u32, Seal>,
        store: &dyn Store,
    ) -> Result<(), StoreError> {
        let mut changed = Vec::new();
        for view in seals.keys() {
            for (key, value) in self.rows_of_view(*view) {
                if store.get(Table::Events, key)?.as_deref() != value {
                    changed.extend(EventKey::read(key));
                }
            }
        }
        self.seals.clone_from(seals);
        for event in changed {
            self.drop_tiles_of(event.view, &event.entity, event.time_us);
        }
        Ok(())
    }

    /// Keeps a tile. It holds all events of its span, those of this step too.
    pub fn put_tile(&mut self, tile: Tile) {
        let key = tile_key(tile.view, &tile.entity, tile.span.level, tile.span.start_us);
        self.tiles.insert(key, Some(tile.value));
    }

    /// Puts a total in place of rows, which are those of its span at `places`.
    pub(crate) fn replace(
        &mut self,
        view: u32,
        entity: &[u8],
        places: &[EventPlace],
        total: Total,
    ) {
        for (time, unique) in places {
            let key = event_key(view, entity, *time, unique);
            self.rows.remove(&key);
            self.replaced.push(key);
            if self.indexed.contains(&view) {
                // Nothing can be taken out of a total.
                let key = Entry::key_of(view, unique, *time, entity);
                self.rows.remove(&key);
                self.replaced.push(key);
            }
        }
        let key = event_key(view, entity, total.span.start_us, &Total::UNIQUE);
        self.rows.insert(key, Some(total.value));
    }

    /// Keys of rows that are no more.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = &[u8]> {
        self.replaced.iter().map(Vec::as_slice)
    }

    /// Drops a tile.
    pub(crate) fn drop_tile(&mut self, view: u32, entity: &[u8], level: u8, start_us: i64) {
        self.tiles
            .insert(tile_key(view, entity, level, start_us), None);
    }

    /// The keys of a view's rows.
    pub(crate) fn keys_of(&self, view: u32) -> impl Iterator<Item = &[u8]> {
        self.rows_of_view(view).map(|(key, _)| key)
    }

    /// The rows, keys and values; without a value where one is deleted.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.rows
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// The rows of a view, or of its index, as [`rows`](Self::rows).
    pub(crate) fn rows_of_view(&self, view: u32) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let prefix = view.to_be_bytes();
        let rows = self.rows.range(prefix.to_vec()..);
        let rows = rows.map(|(key, value)| (key.as_slice(), value.as_deref()));
        rows.take_while(move |(key, _)| key.starts_with(&prefix))
    }

    /// The rows of an entity, as [`rows`](Self::rows).
    pub(crate) fn rows_of(
        &self,
        view: u32,
        entity: &[u8],
    ) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let (from, to) = entity_range(view, entity);
        self.rows
            .range(from..to)
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// Moves the rows and the tiles into a commit.
    pub fn drain_into(self, commit: &mut Commit) {
        // A commit deletes before it puts.
        for key in self.replaced {
            commit.delete(Table::Events, key);
        }
        for (key, value) in self.rows {
            match value {
                Some(value) => commit.puts.push((Table::Events, key, value)),
                None => commit.delete(Table::Events, key),
            }
        }
        for (key, value) in self.tiles {
            match value {
                Some(value) => commit.put(Table::Tiles, key, value),
                None => commit.delete(Table::Tiles, key),
            }
        }
    }
}

/// Committed events with pending ones over them.
pub struct Overlay<'a> {
    /// What the store has.
    pub committed: &'a (dyn Base + Sync),
    /// What the step adds.
    pub pending: &'a Pending,
}

impl StateReader for Overlay<'_> {
    fn scan(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        self.each(view, entity, times, false, &mut |place, value| {
            visit(place.0, value)
        })
    }

    fn scan_back(
        &self,
        view: u32,
        entity: &[u8],
        before: i64,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        self.each(view, entity, i64::MIN..before, true, &mut |place, value| {
            visit(place.0, value)
        })
    }

    fn tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), StateError> {
        let (from, to) = tile_range(view, entity, level, starts.clone());
        if from >= to {
            return Ok(());
        }
        let mut pending = self.pending.tiles.range(from..to).peekable();
        if pending.peek().is_none() {
            return self.committed.tiles(view, entity, level, starts, visit);
        }
        let mut tiles = BTreeMap::new();
        self.committed
            .tiles(view, entity, level, starts, &mut |start, value| {
                tiles.insert(start, value.to_vec());
            })?;
        for (key, value) in pending {
            match value {
                Some(value) => tiles.insert(start_of(key), value.clone()),
                None => tiles.remove(&start_of(key)),
            };
        }
        tiles.iter().for_each(|(start, value)| visit(*start, value));
        Ok(())
    }

    fn best_read(&self, view: u32, entity: &[u8], from: i64) -> Result<BestRead, StateError> {
        let BestRead::Tiles(committed) = self.committed.best_read(view, entity, from)? else {
            return Ok(BestRead::Rows);
        };
        let (from, to) = entity_range(view, entity);
        let mut pending = self.pending.tiles.range(from..to);
        let pending = pending.find_map(|(key, value)| value.as_ref().and_then(|_| tile_of(key)));
        Ok(BestRead::Tiles(
            committed.max(pending.map(|(level, _)| level)),
        ))
    }

    fn shared(&self) -> Option<&(dyn StateReader + Sync)> {
        Some(self)
    }
}

impl Base for Overlay<'_> {
    /// Merges two ordered sequences.
    fn each(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        reverse: bool,
        visit: &mut dyn FnMut(EventPlace, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let (from, to) = event_range(view, entity, times.clone());
        if from >= to {
            return Ok(());
        }
        let rows = self.pending.rows.range(from..to);
        let rows = Directed { rows, reverse }.map(|(key, value)| (place_of(key), value.as_deref()));
        let mut pending = rows.peekable();
        let comes_first = |other: EventPlace, place: EventPlace| match reverse {
            true => other > place,
            false => other < place,
        };
        let mut go_on = true;
        let mut merge = |place: EventPlace, value: &[u8]| {
            while go_on
                && let Some((other, value)) =
                    pending.next_if(|(other, _)| comes_first(*other, place))
            {
                go_on = value.is_none_or(|value| visit(other, value));
            }
            // An event that is read again stands in both places, and the newer delivery is what will be kept.
            let newer = pending.next_if(|(other, _)| *other == place);
            let stands = newer.map_or(Some(value), |(_, value)| value);
            go_on = go_on && stands.is_none_or(|value| visit(place, value));
            go_on
        };
        self.committed
            .each(view, entity, times, reverse, &mut merge)?;
        while go_on && let Some((place, value)) = pending.next() {
            go_on = value.is_none_or(|value| visit(place, value));
        }
        Ok(())
    }
}

/// A range from its start or from its end.
struct Directed<'a> {
    rows: std::collections::btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>,
    reverse: bool,
}

impl<'a> Iterator for Directed<'a> {
    type Item = (&'a Vec<u8>, &'a Option<Vec<u8>>);

    fn next(&mut self) -> Option<Self::Item> {
        match self.reverse {
            true => self.rows.next_back(),
            false => self.rows.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use millrace_feature_store::{MemoryStore, Store};
    use millrace_features::Span;

    fn row(time: i64) -> StateRow {
        let value = time.to_be_bytes().to_vec();
        StateRow {
            view: 1,
            entity: b"card\0".to_vec(),
            time_us: time,
            unique: [7; 16],
            value,
            origin: (0, 0),
        }
    }

    /// The times that scans show, forth and back, at most `limit`.
    fn scan(state: &dyn StateReader, limit: usize) -> (Vec<i64>, Vec<i64>) {
        let (mut forth, mut back) = (Vec::new(), Vec::new());
        state
            .scan(1, b"card\0", -2..5, &mut |time, value| {
                assert_eq!(value, time.to_be_bytes());
                forth.push(time);
                forth.len() < limit
            })
            .unwrap();
        state
            .scan_back(1, b"card\0", 4, &mut |time, value| {
                assert_eq!(value, time.to_be_bytes());
                back.push(time);
                back.len() < limit
            })
            .unwrap();
        (forth, back)
    }

    fn starts(state: &dyn StateReader) -> Vec<i64> {
        let mut starts = Vec::new();
        let all = i64::MIN..i64::MAX;
        state
            .tiles(1, b"card\0", 0, all, &mut |start, _| starts.push(start))
            .unwrap();
        starts
    }

    #[test]
    fn a_late_event_drops_the_tiles_that_lack_it() {
        let tile = |level: u8, time: i64| Tile {
            view: 1,
            entity: b"card\0".to_vec(),
            span: Span::of(level, time),
            value: vec![1],
        };
        let second = millrace_features::tile_width_us(0);
        let store = MemoryStore::default();
        let mut first = Pending::default();
        for (level, time) in [(0, 0), (0, second), (0, 2 * second), (1, 0)] {
            first.put_tile(tile(level, time));
        }
        let mut commit = Commit::default();
        first.drain_into(&mut commit);
        store.commit(commit).unwrap();
        assert_eq!(starts(&Committed(&store)), [0, second, 2 * second]);
        assert_eq!(
            Committed(&store).best_read(1, b"card\0", 0).unwrap(),
            BestRead::Tiles(Some(1))
        );
        assert_eq!(
            Committed(&store).best_read(1, b"card", 0).unwrap(),
            BestRead::Tiles(None)
        );

        let seal = Seal {
            until_us: 3 * second,
            top_level: 1,
            ladder: Ladder::EXACT,
        };
        let mut pending = Pending::over(HashMap::from([(1, seal)]));
        pending.put(row(second + 5));
        pending.put(row(3 * second));
        let overlay = Overlay {
            committed: &Committed(&store),
            pending: &pending,
        };
        assert_eq!(starts(&overlay), [0, 2 * second]);
        pending.put_tile(tile(0, second));
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        store.commit(commit).unwrap();
        assert_eq!(starts(&Committed(&store)), [0, second, 2 * second]);
        assert_eq!(
            Committed(&store).best_read(1, b"card\0", 0).unwrap(),
            BestRead::Tiles(Some(0))
        );
    }

    #[test]
    fn rows_that_are_there_already_drop_no_tiles() {
        let second = millrace_features::tile_width_us(0);
        let times = [5, second + 5, 2 * second + 5, 3 * second + 5];
        let store = MemoryStore::default();
        let mut first = Pending::default();
        for time in times {
            first.put(row(time));
            first.put_tile(Tile {
                view: 1,
                entity: b"card\0".to_vec(),
                span: Span::of(0, time),
                value: vec![1],
            });
        }
        let mut commit = Commit::default();
        first.drain_into(&mut commit);
        store.commit(commit).unwrap();

        let seal = Seal {
            until_us: 3 * second,
            top_level: 1,
            ladder: Ladder::EXACT,
        };
        let mut pending = Pending::default();
        for time in times {
            pending.put(row(time));
        }
        // One is another row now, one is new, and one is of a time without tiles.
        let value = vec![7];
        pending.put(StateRow { value, ..row(5) });
        pending.put(row(2 * second + 6));
        pending.put(row(3 * second + 6));
        pending.seal(&HashMap::from([(1, seal)]), &store).unwrap();
        let overlay = Overlay {
            committed: &Committed(&store),
            pending: &pending,
        };
        assert_eq!(starts(&overlay), [second, 3 * second]);
    }

    #[test]
    fn a_views_rows_are_those_of_no_other() {
        let mut pending = Pending::default();
        for view in [0, 1, 0x0100, u32::MAX] {
            pending.put(StateRow { view, ..row(5) });
        }
        let (key, entry) = Entry::of(&row(5));
        pending.put_row(key, entry);
        for view in [0, 1, 2, 0x0100, u32::MAX] {
            let rows = pending.rows_of_view(view).map(|(key, _)| key[..4].to_vec());
            let expected = usize::from(view != 2);
            assert_eq!(
                rows.collect::<Vec<_>>(),
                vec![view.to_be_bytes().to_vec(); expected]
            );
        }
    }

    #[test]
    fn an_overlay_reads_as_if_it_were_committed() {
        // Each of eight rows is committed, pending or both, in all combinations.
        for pattern in 0..3_u32.pow(8) {
            let (before, after) = (MemoryStore::default(), MemoryStore::default());
            let (mut first, mut pending, mut all) =
                (Pending::default(), Pending::default(), Pending::default());
            for place in 0..8 {
                let time = i64::from(place) - 3;
                let kind = pattern / 3_u32.pow(place) % 3;
                if kind != 1 {
                    first.put(row(time));
                }
                if kind != 0 {
                    pending.put(row(time));
                }
                all.put(row(time));
            }
            for (store, rows) in [(&before, first), (&after, all)] {
                let mut commit = Commit::default();
                rows.drain_into(&mut commit);
                store.commit(commit).unwrap();
            }
            let overlay = Overlay {
                committed: &Committed(&before),
                pending: &pending,
            };
            for limit in [1, 3, 100] {
                let (forth, back) = scan(&overlay, limit);
                let (expected_forth, expected_back) = scan(&Committed(&after), limit);
                assert_eq!(forth, expected_forth, "pattern {pattern}");
                assert_eq!(back, expected_back, "pattern {pattern}");
            }
        }
    }
}
