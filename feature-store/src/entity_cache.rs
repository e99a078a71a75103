//! The rows of entities that were asked about lately, in memory: a look-up of one costs a look into a map, and not a
//! search in every file of the database.
//!
//! An entry holds all rows of an entity from some key on, as they were after one commit. It goes before a commit that
//! touches the entity begins, so an entry that is there is what the store says, for every moment from its own commit
//! on. Two numbers tell moments apart: how many commits have begun, and how many are done.
//!
//! ```text
//!  commit   begun += 1 │ drop entries │ write │ done += 1
//!  moment   done → d   │ snapshot     │ may use entries of commits ≤ d
//!                                     │ may keep what it read if begun == d, before and after
//! ```
//!
//! Two generations bound the memory: what is read stays in the young one; when that is half of a shard's limit, it
//! becomes the old one, and what was in the old one and not read since goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

use crate::Table;

const SHARDS: usize = 16;

/// An entity with more rows is noted as large, and read from the database.
const MOST_ROWS: usize = 1_024;

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
}

#[derive(Default)]
struct Shard {
    young: HashMap<Vec<u8>, Arc<Rows>, RandomState>,
    old: HashMap<Vec<u8>, Arc<Rows>, RandomState>,
    young_bytes: usize,
}

/// What a cache knows of an entity.
pub(crate) enum Found {
    /// All that was asked for.
    Rows(Arc<Rows>),
    /// It has too many rows to be kept.
    Large,
    Nothing,
}

/// All rows of an entity from a key on, in the order of keys.
pub(crate) struct Rows {
    /// Commits that were done when they were read.
    commit: u64,
    /// The end of the key from which on no row is missing; empty: the entity's first.
    since: Vec<u8>,
    /// Too many rows to be kept: there is none here.
    is_large: bool,
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
    pub(crate) fn new(limit_bytes: usize) -> Self {
        // An event is read more often than a tile, which stands for many.
        let tiles = limit_bytes / 4;
        Self {
            events: EntityCache::new(limit_bytes - tiles),
            tiles: EntityCache::new(tiles),
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

    /// Drops the entries of entities that a commit touches; what is read from now on is kept only after
    /// [`committed`](Self::committed). To be called by the one writer, before it writes.
    pub(crate) fn begin<'a>(&self, touched: impl Iterator<Item = (Table, &'a [u8])>) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        for (table, prefix) in touched {
            if let Some(cache) = self.of(table) {
                cache.drop_entry(prefix);
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
    fn new(limit_bytes: usize) -> Self {
        Self {
            shards: Default::default(),
            hash: RandomState::default(),
            shard_bytes: limit_bytes / SHARDS,
        }
    }

    fn clear(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) = Shard::default();
        }
    }

    fn drop_entry(&self, prefix: &[u8]) {
        let mut shard = self.shard(prefix);
        shard.young.remove(prefix);
        shard.old.remove(prefix);
    }

    /// An entity's rows from the key that ends in `from` on, as of a moment.
    pub(crate) fn get(&self, prefix: &[u8], from: &[u8], moment: u64) -> Found {
        match self.shard(prefix).get(prefix, self.shard_bytes) {
            Some(rows) if rows.is_large => Found::Large,
            Some(rows) if rows.commit <= moment && rows.since.as_slice() <= from => {
                Found::Rows(rows)
            }
            _ => Found::Nothing,
        }
    }

    /// Keeps rows that were read from a quiet snapshot.
    pub(crate) fn keep(&self, prefix: &[u8], rows: Rows, caches: &Caches) {
        let mut shard = self.shard(prefix);
        // Under the lock: a commit that begins now drops the entry again.
        if caches.is_quiet_since(rows.commit) {
            shard.insert(prefix.to_vec(), Arc::new(rows), self.shard_bytes);
        }
    }

    fn shard(&self, prefix: &[u8]) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[self.hash.hash_one(prefix) as usize % SHARDS];
        // Nothing that panics is done under the lock.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn get(&mut self, prefix: &[u8], limit_bytes: usize) -> Option<Arc<Rows>> {
        if let Some(rows) = self.young.get(prefix) {
            return Some(Arc::clone(rows));
        }
        let (prefix, rows) = self.old.remove_entry(prefix)?;
        self.insert(prefix, Arc::clone(&rows), limit_bytes);
        Some(rows)
    }

    fn insert(&mut self, prefix: Vec<u8>, rows: Arc<Rows>, limit_bytes: usize) {
        let size = prefix.len() + rows.size();
        self.young_bytes += size;
        if self.young_bytes > limit_bytes / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = size;
        }
        self.young.insert(prefix, rows);
    }
}

impl Rows {
    /// No rows yet, of those from the key that ends in `since` on.
    pub(crate) fn new(commit: u64, since: &[u8]) -> Self {
        Self {
            commit,
            since: since.to_vec(),
            is_large: false,
            suffix_bytes: 1,
            suffixes: Vec::new(),
            ends: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Adds the next row, by the end of its key. False where there are too many, and none is kept.
    pub(crate) fn push(&mut self, suffix: &[u8], value: &[u8]) -> bool {
        // The keys of a table's rows have ends of one length.
        self.suffix_bytes = suffix.len().max(1);
        self.suffixes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
        if self.ends.len() <= MOST_ROWS {
            return true;
        }
        self.is_large = true;
        (self.suffixes, self.ends, self.bytes) = Default::default();
        false
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
            + self.since.len()
            + self.bytes.capacity()
            + self.suffixes.capacity()
            + size_of::<usize>() * self.ends.capacity()
    }
}
