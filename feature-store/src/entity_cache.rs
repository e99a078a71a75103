//! The rows of entities that were asked about lately, in memory: a look-up of one costs a look into a map, and not a
//! search in every file of the database.
//!
//! An entry holds all rows of an entity from some key on, as they were after one commit. It goes before a commit that
//! touches the entity begins, so an entry that is there is what the store says, for every moment from its own commit
//! on. Of an entity with too many rows, the entry holds stretches that were asked for, and a commit takes those that it
//! touches: look-ups of a hot entity read the same edges of windows again and again, while events come at the newest.
//! Two numbers tell moments apart: how many commits have begun, and how many are done.
//!
//! ```text
//!  commit   begun += 1 │ drop entries │ write │ done += 1
//!  moment   done → d   │ snapshot     │ may use entries of commits ≤ d
//!                                     │ may keep what it read if begun == d, before and after
//! ```
//!
//! Two generations bound the memory: what is read stays in the young one; when that is half of a shard's limit, it
//! becomes the old one, and what was in the old one and not read since goes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

use crate::Table;

const SHARDS: usize = 16;

/// Stretches of one entity; when there are more, or they take a quarter of a shard, it starts over.
const MOST_STRETCHES: usize = 256;

/// So many rows are read past the end of a stretch, for the next look-up, which is a little later.
pub(crate) const ROWS_AHEAD: usize = 32;

/// What an entry and its place in the map take besides rows and key, about.
const ENTRY_BYTES: usize = 160;

/// The caches of a store, and the numbers that tell moments apart.
pub(crate) struct Caches {
    events: EntityCache,
    tiles: EntityCache,
    begun: AtomicU64,
    done: AtomicU64,
}

/// Entries of one table, by the prefix of their keys.
pub(crate) struct EntityCache {
    shards: [Mutex<Shard>; SHARDS],
    /// Which shard an entity is in.
    hash: RandomState,
    shard_bytes: usize,
    /// An entity with more rows is large, and of a stretch no more are kept.
    most_rows: usize,
}

#[derive(Default)]
struct Shard {
    young: HashMap<Vec<u8>, Entry, RandomState>,
    old: HashMap<Vec<u8>, Entry, RandomState>,
    young_bytes: usize,
}

/// What is kept of an entity.
enum Entry {
    /// All of its rows from a key on.
    All(Arc<Rows>),
    /// It is large: stretches, by the key from which on they lack no row.
    Stretches(BTreeMap<Vec<u8>, Arc<Rows>>),
}

/// What a cache knows of what was asked for.
pub(crate) enum Found {
    /// It has all of it.
    Rows(Arc<Rows>),
    /// It lacks it, and the entity has too many rows to be kept as a whole.
    Large,
    Nothing,
}

/// Rows of an entity from a key on, in the order of keys.
pub(crate) struct Rows {
    /// Commits that were done when they were read.
    commit: u64,
    /// The end of the key from which on no row is missing; empty: the entity's first.
    since: Vec<u8>,
    /// The end of the key from which on rows are missing; none: none is missing.
    until: Option<Vec<u8>>,
    /// Length of what a key has after the entity's prefix.
    suffix_bytes: usize,
    /// The ends of the keys, one after the other.
    suffixes: Vec<u8>,
    /// Where each row's value ends in `bytes`.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl Caches {
    /// Empty caches that take about `limit_bytes` when they are full; with 0 they keep nothing.
    pub(crate) fn new(limit_bytes: usize, most_rows: usize) -> Self {
        // An event is read more often than a tile, which stands for many.
        let tiles = limit_bytes / 4;
        Self {
            events: EntityCache::new(limit_bytes - tiles, most_rows),
            tiles: EntityCache::new(tiles, most_rows),
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// The cache of a table, if it has one.
    pub(crate) fn of(&self, table: Table) -> Option<&EntityCache> {
        let cache = match table {
            Table::Events => &self.events,
            Table::Tiles => &self.tiles,
            _ => return None,
        };
        (cache.shard_bytes > 0).then_some(cache)
    }

    /// Drops what a commit touches, by the entity's prefix and the end of the key; what is read from now on is kept only
    /// after [`committed`](Self::committed). To be called by the one writer, before it writes.
    pub(crate) fn begin<'a>(&self, touched: impl Iterator<Item = (Table, &'a [u8], &'a [u8])>) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        for (table, prefix, suffix) in touched {
            if let Some(cache) = self.of(table) {
                cache.drop_row(prefix, suffix);
            }
        }
    }

    /// Drops all entries. To be called between [`begin`](Self::begin) and [`committed`](Self::committed).
    pub(crate) fn clear(&self) {
        self.events.clear();
        self.tiles.clear();
    }

    /// Ends what [`begin`](Self::begin) began, whether it was written or not.
    pub(crate) fn committed(&self) {
        self.done.fetch_add(1, Ordering::SeqCst);
    }

    /// How many commits a snapshot that is taken next contains, at least.
    pub(crate) fn moment(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Whether a snapshot that was taken after `moment` contains just those commits, and none has begun since.
    pub(crate) fn is_quiet_since(&self, moment: u64) -> bool {
        self.begun.load(Ordering::SeqCst) == moment
    }
}

impl EntityCache {
    fn new(limit_bytes: usize, most_rows: usize) -> Self {
        Self {
            shards: Default::default(),
            hash: RandomState::default(),
            shard_bytes: limit_bytes / SHARDS,
            most_rows,
        }
    }

    pub(crate) fn most_rows(&self) -> usize {
        self.most_rows
    }

    fn clear(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) = Shard::default();
        }
    }

    fn drop_row(&self, prefix: &[u8], suffix: &[u8]) {
        let mut shard = self.shard(prefix);
        let Shard {
            young,
            old,
            young_bytes,
        } = &mut *shard;
        *young_bytes = young_bytes.saturating_sub(drop_row(young, prefix, suffix));
        drop_row(old, prefix, suffix);
    }

    /// An entity's rows between the keys that end in `from` and, if there is one, in `to`, as of a moment.
    pub(crate) fn get(&self, prefix: &[u8], from: &[u8], to: Option<&[u8]>, moment: u64) -> Found {
        let mut shard = self.shard(prefix);
        let Some(entry) = shard.get(prefix, self.shard_bytes) else {
            return Found::Nothing;
        };
        let (rows, lacking) = match entry {
            Entry::All(rows) => (Some(rows), Found::Nothing),
            Entry::Stretches(stretches) => {
                let mut before =
                    stretches.range::<[u8], _>((Bound::Unbounded, Bound::Included(from)));
                (before.next_back().map(|(_, rows)| rows), Found::Large)
            }
        };
        match rows {
            Some(rows) if rows.commit <= moment && rows.has(from, to) => {
                Found::Rows(Arc::clone(rows))
            }
            _ => lacking,
        }
    }

    /// Keeps rows that were read from a quiet snapshot.
    pub(crate) fn keep(&self, prefix: &[u8], rows: Rows, caches: &Caches) {
        self.put(prefix, rows.commit, caches, |_| Entry::All(Arc::new(rows)));
    }

    /// Notes that an entity has too many rows to be kept as a whole.
    pub(crate) fn note_large(&self, prefix: &[u8], commit: u64, caches: &Caches) {
        self.put(
            prefix,
            commit,
            caches,
            |_| Entry::Stretches(BTreeMap::new()),
        );
    }

    /// Keeps a stretch of a large entity's rows, as [`keep`](Self::keep).
    pub(crate) fn keep_stretch(&self, prefix: &[u8], rows: Rows, caches: &Caches) {
        self.put(prefix, rows.commit, caches, |entry| {
            let mut stretches = match entry {
                Some(Entry::Stretches(stretches)) => stretches,
                _ => BTreeMap::new(),
            };
            let bytes: usize = stretches.values().map(|rows| rows.size()).sum();
            if stretches.len() >= MOST_STRETCHES || bytes > self.shard_bytes / 4 {
                stretches.clear();
            }
            stretches.insert(rows.since.clone(), Arc::new(rows));
            Entry::Stretches(stretches)
        });
    }

    fn put(
        &self,
        prefix: &[u8],
        commit: u64,
        caches: &Caches,
        entry: impl FnOnce(Option<Entry>) -> Entry,
    ) {
        let mut shard = self.shard(prefix);
        // Under the lock: a commit that begins now drops the entry again.
        if caches.is_quiet_since(commit) {
            let before = shard.take(prefix);
            shard.insert(prefix.to_vec(), entry(before), self.shard_bytes);
        }
    }

    fn shard(&self, prefix: &[u8]) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[self.hash.hash_one(prefix) as usize % SHARDS];
        // Nothing that panics is done under the lock.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn get(&mut self, prefix: &[u8], limit_bytes: usize) -> Option<&Entry> {
        if !self.young.contains_key(prefix) {
            let (prefix, entry) = self.old.remove_entry(prefix)?;
            self.insert(prefix, entry, limit_bytes);
        }
        self.young.get(prefix)
    }

    fn take(&mut self, prefix: &[u8]) -> Option<Entry> {
        let Some(entry) = self.young.remove(prefix) else {
            return self.old.remove(prefix);
        };
        let size = prefix.len() + entry.size();
        self.young_bytes = self.young_bytes.saturating_sub(size);
        Some(entry)
    }

    fn insert(&mut self, prefix: Vec<u8>, entry: Entry, limit_bytes: usize) {
        let size = prefix.len() + entry.size();
        self.young_bytes += size;
        if self.young_bytes > limit_bytes / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = size;
        }
        self.young.insert(prefix, entry);
    }
}

/// Drops what has a row, or would. Returns how many bytes it took.
fn drop_row(
    entries: &mut HashMap<Vec<u8>, Entry, RandomState>,
    prefix: &[u8],
    suffix: &[u8],
) -> usize {
    let bytes = match entries.get_mut(prefix) {
        Some(Entry::All(rows)) if rows.covers(suffix) => rows.size(),
        Some(Entry::Stretches(stretches)) => {
            let mut bytes = 0;
            stretches.retain(|_, rows| {
                let is_touched = rows.covers(suffix);
                bytes += usize::from(is_touched) * rows.size();
                !is_touched
            });
            return bytes;
        }
        _ => return 0,
    };
    entries.remove(prefix);
    bytes + prefix.len() + ENTRY_BYTES
}

impl Entry {
    fn size(&self) -> usize {
        let rows: usize = match self {
            Self::All(rows) => rows.size(),
            Self::Stretches(stretches) => stretches.values().map(|rows| rows.size()).sum(),
        };
        ENTRY_BYTES + rows
    }
}

impl Rows {
    /// No rows yet, of those from the key that ends in `since` on.
    pub(crate) fn new(commit: u64, since: &[u8]) -> Self {
        Self {
            commit,
            since: since.to_vec(),
            until: None,
            suffix_bytes: 1,
            suffixes: Vec::new(),
            ends: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Adds the next row, by the end of its key.
    pub(crate) fn push(&mut self, suffix: &[u8], value: &[u8]) {
        // The keys of a table's rows have ends of one length.
        self.suffix_bytes = suffix.len().max(1);
        self.suffixes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// No row before the key that ends in `suffix` is missing; that one is.
    pub(crate) fn end_at(&mut self, suffix: &[u8]) {
        self.until = Some(suffix.to_vec());
    }

    /// Whether no row between two keys is missing.
    fn has(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        let ends_in_time = match (&self.until, to) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(until), Some(to)) => to <= until.as_slice(),
        };
        self.since.as_slice() <= from && ends_in_time
    }

    /// Whether a row of that key would be among these.
    fn covers(&self, suffix: &[u8]) -> bool {
        self.since.as_slice() <= suffix
            && self
                .until
                .as_ref()
                .is_none_or(|until| suffix < until.as_slice())
    }

    fn suffix(&self, row: usize) -> &[u8] {
        &self.suffixes[row * self.suffix_bytes..(row + 1) * self.suffix_bytes]
    }

    /// Rows whose keys end in `from` or above, and below `to` where there is one: ends of keys, and values.
    pub(crate) fn range<'a>(
        &'a self,
        from: &[u8],
        to: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let (mut first, mut last) = (0, self.ends.len());
        while first < last {
            let middle = first.midpoint(last);
            match self.suffix(middle) < from {
                true => first = middle + 1,
                false => last = middle,
            }
        }
        let rows = first..self.ends.len();
        rows.map(|row| {
            let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
            (self.suffix(row), &self.bytes[start..self.ends[row]])
        })
        .take_while(move |(suffix, _)| to.is_none_or(|to| *suffix < to))
    }

    fn size(&self) -> usize {
        ENTRY_BYTES
            + 2 * self.since.len()
            + self.bytes.capacity()
            + self.suffixes.capacity()
            + size_of::<usize>() * self.ends.capacity()
    }
}
