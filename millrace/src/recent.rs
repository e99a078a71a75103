//! The rows of entities that were read lately, in memory: scoring a stream asks for the same cards again and again.
//!
//! Only while no step is being committed may it be asked, by any number of threads: the thread that writes the store
//! tells the cache each row that it commits, so that an entry always is what the store would say. An entry holds all rows of an entity from some time on. Entities with very
//! many rows are left to the store and its tiles.
//!
//! Two generations bound the memory: what is read stays in the young one; when that is half of the limit, it becomes
//! the old one, and what was in the old one and not read since goes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use millrace_feature_store::{Store, entity_prefix};
use millrace_features::{BestRead, StateError, StateReader};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::{Base, Committed, EventPlace, Pending, place_of};

/// An entity with more rows than that is read through tiles.
const MOST_ROWS: usize = 2_048;

/// What a row takes besides its value.
const ROW_BYTES: usize = size_of::<EventPlace>() + size_of::<usize>();

/// What an event key has after its entity's prefix: time and unique part.
const PLACE_BYTES: usize = 24;

/// Parts of the cache that threads may use at a time.
const SHARDS: usize = 16;

/// Rows of entities, by the prefix of their keys.
pub struct Recent([Mutex<Shard>; SHARDS]);

/// The entities of which the hashes of the prefixes end alike.
struct Shard {
    young: HashMap<Vec<u8>, Entry>,
    old: HashMap<Vec<u8>, Entry>,
    young_bytes: usize,
    limit_bytes: usize,
}

/// An entity's rows from `since` on, in order.
struct Entry {
    since: i64,
    places: Vec<EventPlace>,
    /// Where each row's value ends in `bytes`.
    ends: Vec<usize>,
    bytes: Vec<u8>,
    /// Too many to be kept here.
    is_large: bool,
}

impl Recent {
    /// An empty cache that takes about `limit_bytes` when it is full.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self(std::array::from_fn(|_| {
            Mutex::new(Shard::new(limit_bytes / SHARDS))
        }))
    }

    /// Notes all rows that are being committed.
    pub fn put_all(&self, pending: &Pending) {
        for key in pending.replaced() {
            let prefix = prefix_of(key);
            self.shard(prefix).forget(prefix);
        }
        for (key, value) in pending.rows() {
            let prefix = prefix_of(key);
            let mut shard = self.shard(prefix);
            match value {
                Some(value) => shard.put(key, value),
                None => shard.forget(prefix),
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|shard| lock(shard).clear());
    }

    fn shard(&self, prefix: &[u8]) -> MutexGuard<'_, Shard> {
        lock(&self.0[xxh3_64(prefix) as usize % SHARDS])
    }
}

/// What a panic elsewhere left is whole: an entry is put in or taken out as one.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The prefix of the entity of an event's key.
fn prefix_of(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(PLACE_BYTES)]
}

impl Shard {
    fn new(limit_bytes: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            limit_bytes,
        }
    }

    fn forget(&mut self, prefix: &[u8]) {
        self.young.remove(prefix);
        self.old.remove(prefix);
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        let prefix = prefix_of(key);
        let (entry, grows) = match self.young.get_mut(prefix) {
            Some(entry) => (entry, Some(&mut self.young_bytes)),
            None => match self.old.get_mut(prefix) {
                Some(entry) => (entry, None),
                None => return,
            },
        };
        let place = place_of(key);
        if entry.is_large || place.0 < entry.since {
            return;
        }
        if entry.places.last().is_none_or(|last| *last < place) {
            entry.push(place, value);
            if let Some(bytes) = grows {
                *bytes += ROW_BYTES + value.len();
            }
        } else {
            // A late or repeated event: the store knows better.
            self.forget(prefix);
        }
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.young_bytes = 0;
    }

    fn entry(&mut self, prefix: &[u8]) -> Option<&mut Entry> {
        if !self.young.contains_key(prefix) {
            let (prefix, entry) = self.old.remove_entry(prefix)?;
            self.insert(prefix, entry);
        }
        self.young.get_mut(prefix)
    }

    fn insert(&mut self, prefix: Vec<u8>, entry: Entry) {
        self.young_bytes += prefix.len() + entry.size();
        if self.young_bytes > self.limit_bytes / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = prefix.len() + entry.size();
        }
        self.young.insert(prefix, entry);
    }
}

impl Entry {
    fn new(since: i64) -> Self {
        Self {
            since,
            places: Vec::new(),
            ends: Vec::new(),
            bytes: Vec::new(),
            is_large: false,
        }
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.places.capacity() * ROW_BYTES + self.bytes.capacity()
    }

    fn push(&mut self, place: EventPlace, value: &[u8]) {
        if self.places.len() == MOST_ROWS {
            *self = Self {
                is_large: true,
                ..Self::new(self.since)
            };
            return;
        }
        self.places.push(place);
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
    }

    /// Lets go of rows before `from`, once they are the larger part.
    fn trim(&mut self, from: i64) {
        let count = self.places.partition_point(|(time, _)| *time < from);
        if count < 32 || count < self.places.len() / 2 {
            return;
        }
        let bytes = self.ends[count - 1];
        self.places.drain(..count);
        self.bytes.drain(..bytes);
        self.ends.drain(..count);
        self.ends.iter_mut().for_each(|end| *end -= bytes);
        self.since = from;
    }

    fn value(&self, row: usize) -> &[u8] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[row]]
    }
}

/// The store's rows, through the cache.
pub struct Cached<'a> {
    /// What the store has.
    pub store: Committed<'a, dyn Store>,
    /// What was read lately.
    pub recent: &'a Recent,
}

impl Cached<'_> {
    fn load(&self, view: u32, entity: &[u8], from: i64) -> Result<Entry, StateError> {
        let mut entry = Entry::new(from);
        self.store
            .each(view, entity, from..i64::MAX, false, &mut |place, value| {
                entry.push(place, value);
                !entry.is_large
            })?;
        Ok(entry)
    }
}

impl StateReader for Cached<'_> {
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
        self.store.scan_back(view, entity, before, visit)
    }

    fn tiles(
        &self,
        view: u32,
        entity: &[u8],
        level: u8,
        starts: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), StateError> {
        self.store.tiles(view, entity, level, starts, visit)
    }

    /// Rows, of an entity whose rows are few enough to be here.
    fn best_read(&self, view: u32, entity: &[u8], from: i64) -> Result<BestRead, StateError> {
        if from == i64::MIN {
            return self.store.best_read(view, entity, from);
        }
        let prefix = entity_prefix(view, entity);
        let mut recent = self.recent.shard(&prefix);
        let is_large = match recent.entry(&prefix) {
            Some(entry) if entry.since <= from || entry.is_large => {
                entry.trim(from);
                entry.is_large
            }
            _ => {
                let entry = self.load(view, entity, from)?;
                let is_large = entry.is_large;
                recent.insert(prefix, entry);
                is_large
            }
        };
        drop(recent);
        match is_large {
            true => self.store.best_read(view, entity, from),
            false => Ok(BestRead::Rows),
        }
    }
}

impl Base for Cached<'_> {
    fn each(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        reverse: bool,
        visit: &mut dyn FnMut(EventPlace, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let prefix = entity_prefix(view, entity);
        let mut recent = self.recent.shard(&prefix);
        match recent.entry(&prefix) {
            Some(entry) if !reverse && !entry.is_large && entry.since <= times.start => {
                let first = entry
                    .places
                    .partition_point(|(time, _)| *time < times.start);
                for row in first..entry.places.len() {
                    let place = entry.places[row];
                    if place.0 >= times.end || !visit(place, entry.value(row)) {
                        break;
                    }
                }
                Ok(())
            }
            _ => {
                drop(recent);
                self.store.each(view, entity, times, reverse, visit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use millrace_feature_store::{Commit, MemoryStore};
    use millrace_features::{Span, StateRow, StateWriter, Total};
    use rand::{Rng, SeedableRng};

    fn rows(state: &dyn StateReader, entity: &[u8], times: Range<i64>) -> Vec<(i64, Vec<u8>)> {
        let mut rows = Vec::new();
        let keep = &mut |time, value: &[u8]| {
            rows.push((time, value.to_vec()));
            true
        };
        state.scan(1, entity, times, keep).unwrap();
        rows
    }

    /// Whatever is written, read, trimmed and forgotten: the cache says what the store says.
    #[test]
    fn it_says_what_the_store_says() {
        let mut random = rand_pcg::Pcg64::seed_from_u64(3);
        let store = MemoryStore::new();
        let recent = Recent::new(SHARDS * 10_000);
        let (mut now, mut hits, mut replaced) = (0_i64, 0, 0);
        for step in 0..3_000 {
            let mut pending = Pending::default();
            for _ in 0..random.random_range(0..6) {
                now += random.random_range(0..20);
                let late = if random.random_bool(0.05) {
                    random.random_range(0..500)
                } else {
                    0
                };
                // A few entities, one of them with more rows than the cache takes.
                let entity = if random.random_bool(0.5) {
                    0
                } else {
                    random.random_range(1..40_u8)
                };
                pending.put(StateRow {
                    view: 1,
                    entity: vec![entity],
                    time_us: now - late,
                    unique: [random.random_range(0..3); 16],
                    value: vec![entity; random.random_range(0..9)],
                    origin: (0, 0),
                });
            }
            if random.random_bool(0.05) {
                // Some rows are replaced by a total before them.
                let entity = [random.random_range(0..40_u8)];
                let mut places = Vec::new();
                let newest = now - random.random_range(0..1_500)..now + 1;
                let committed = Committed(&store);
                let collect = &mut |place, _: &[u8]| {
                    places.push(place);
                    places.len() < 3
                };
                committed.each(1, &entity, newest, false, collect).unwrap();
                let total = Total {
                    span: Span::of(0, 0),
                    value: vec![step as u8],
                };
                replaced += places.len();
                pending.replace(1, &entity, &places, total);
            }
            let mut commit = Commit::default();
            recent.put_all(&pending);
            pending.drain_into(&mut commit);
            store.commit(commit).unwrap();
            let cached = Cached {
                store: Committed(&store as &dyn Store),
                recent: &recent,
            };
            for _ in 0..3 {
                let entity = [random.random_range(0..40_u8)];
                let reach = if entity[0] == 0 { 1 << 40 } else { 2_000 };
                let from = now - reach - random.random_range(0..100);
                let read = cached.best_read(1, &entity, from).unwrap();
                hits += usize::from(read == BestRead::Rows);
                let times = from + random.random_range(0..50)..now + 1;
                let expected = rows(&Committed(&store), &entity, times.clone());
                assert_eq!(rows(&cached, &entity, times), expected, "step {step}");
            }
        }
        assert!(hits > 5_000 && replaced > 100);
        let shards: Vec<_> = recent.0.iter().map(lock).collect();
        assert!(shards.iter().any(|shard| !shard.old.is_empty()));
        let mut entries = shards
            .iter()
            .flat_map(|shard| shard.young.values().chain(shard.old.values()));
        let large = entries.any(|entry| entry.is_large);
        assert!(large, "the busy entity outgrew the cache");
    }
}
