//! The rows of entities that were asked about lately, in memory: a look-up of one costs a look into a map, and not a
//! search in every file of the database.
//!
//! An entry holds all rows of an entity from some key on, as they were after one commit, and what later commits changed
//! of them: each says so before it begins. The first moment that knows of all these changes makes them part of the
//! entry, so that the event of a card does not take its older ones out of memory. An entry that changes again and again
//! and is not read goes. Of an entity with too many rows, the entry holds stretches that were asked for: look-ups of a
//! hot entity read the same edges of windows again and again, while events come at the newest.
//! Two numbers tell moments apart: how many commits have begun, and how many are done.
//!
//! ```text
//!  commit   begun += 1 → n │ note changes under n │ write │ done += 1
//!  moment   done → d       │ snapshot             │ may use entries of commits ≤ d, if no change is of one > d
//!                                                 │ may keep what it read if begun == d, before and after
//! ```
//!
//! Two generations bound the memory: what is read stays in the young one; when that is half of a shard's limit, it
//! becomes the old one, and what was in the old one and not read since goes. What changes in the old one goes at once.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ahash::RandomState;

use crate::Table;

/// What a reader made of an entity's rows, kept beside them until they change.
#[derive(Clone)]
pub struct Memo {
    /// The reader's own.
    pub value: Arc<dyn Any + Send + Sync>,
    /// How many bytes it takes. It may grow.
    pub bytes: Arc<AtomicUsize>,
}

const SHARDS: usize = 16;

/// Stretches of one entity; when there are more, or they take a quarter of a shard, it starts over.
const MOST_STRETCHES: usize = 256;

/// Changes of an entry that nobody has read since; with more it goes.
const MOST_CHANGES: usize = 64;

/// Changes of fewer bytes are kept, however small the rows are.
const LITTLE_BYTES: usize = 1_024;

/// Rows that are worth moving, to forget those before them.
const WORTH_FORGETTING: usize = 64;

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
    /// As far as it was counted: what is made of rows is, when they are read again.
    young_bytes: usize,
    /// What is to be freed when the lock is.
    gone: Vec<HashMap<Vec<u8>, Entry, RandomState>>,
}

/// What is kept of an entity.
enum Entry {
    /// All of its rows from a key on.
    All(Kept),
    /// It is large: stretches, by the key from which on they lack no row.
    Stretches(BTreeMap<Vec<u8>, Kept>),
}

/// Rows, and what commits changed of them since, the earliest first.
struct Kept {
    rows: Arc<Rows>,
    changes: Vec<Change>,
    /// Bytes of the changes.
    changes_bytes: usize,
    /// Bytes that were counted for all of this.
    counted: usize,
}

/// A row that a commit put, or deleted.
struct Change {
    commit: u64,
    suffix: Vec<u8>,
    /// None where it is deleted.
    value: Option<Vec<u8>>,
}

/// A row that a commit is about to change: the table, the entity's prefix, the end of the key, and the new value, if it
/// is not deleted.
pub(crate) type Touched<'a> = (Table, &'a [u8], &'a [u8], Option<&'a [u8]>);

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
    /// Commits that were done when they were read, or the newest that has changed them since.
    commit: u64,
    /// The end of the key from which on no row is missing; empty: the entity's first.
    since: Vec<u8>,
    /// The end of the key from which on rows are missing; none: none is missing.
    until: Option<Vec<u8>>,
    /// Length of what a key has after the entity's prefix.
    suffix_bytes: usize,
    /// The ends of the keys, one after the other.
    suffixes: Vec<u8>,
    /// Where each row's value ends in `bytes`; an entry is far smaller than 4 GiB.
    ends: Vec<u32>,
    bytes: Vec<u8>,
    /// Whether somebody has read them as they are.
    was_read: AtomicBool,
    made: OnceLock<Memo>,
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

    /// Notes what a commit changes, its deletes before its puts; what is read from now on is kept only after
    /// [`committed`](Self::committed). To be called by the one writer, before it writes.
    pub(crate) fn begin<'a>(&self, touched: impl Iterator<Item = Touched<'a>>) {
        let commit = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        for (table, prefix, suffix, value) in touched {
            if let Some(cache) = self.of(table) {
                cache.note(prefix, suffix, value, commit);
            }
        }
    }

    /// Drops all entries, where a commit failed or changes what it does not name. To be called between
    /// [`begin`](Self::begin) and [`committed`](Self::committed).
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

    /// Rows of one entity take no more.
    pub(crate) fn most_bytes(&self) -> usize {
        self.shard_bytes / 4
    }

    fn clear(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) = Shard::default();
        }
    }

    fn note(&self, prefix: &[u8], suffix: &[u8], value: Option<&[u8]>, commit: u64) {
        let change = || Change {
            commit,
            suffix: suffix.to_vec(),
            value: value.map(<[u8]>::to_vec),
        };
        let mut shard = self.shard(prefix);
        let grown = note(&mut shard.young, prefix, suffix, &change);
        shard.grew(grown, self.shard_bytes);
        // Nobody has read it lately.
        if shard.old.get(prefix).is_some_and(|old| old.covers(suffix)) {
            shard.old.remove(prefix);
        }
        Self::unlock(shard);
    }

    /// An entity's rows between the keys that end in `from` and, if there is one, in `to`, as of a moment.
    pub(crate) fn get(&self, prefix: &[u8], from: &[u8], to: Option<&[u8]>, moment: u64) -> Found {
        let mut shard = self.shard(prefix);
        let found = self.get_from(&mut shard, prefix, from, to, moment);
        Self::unlock(shard);
        found
    }

    fn get_from(
        &self,
        shard: &mut Shard,
        prefix: &[u8],
        from: &[u8],
        to: Option<&[u8]>,
        moment: u64,
    ) -> Found {
        let Some(entry) = shard.get(prefix, self.shard_bytes) else {
            return Found::Nothing;
        };
        let is_all = matches!(entry, Entry::All(_));
        let (kept, lacking) = match entry {
            Entry::All(kept) => (Some(kept), Found::Nothing),
            Entry::Stretches(stretches) => {
                let mut before =
                    stretches.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(from)));
                (before.next_back().map(|(_, kept)| kept), Found::Large)
            }
        };
        let Some(kept) = kept.filter(|kept| kept.rows.has(from, to)) else {
            return lacking;
        };
        let Some(rows) = kept.as_of(moment, from, is_all) else {
            return lacking;
        };
        let grown = kept.count();
        let is_too_much = rows.len() > self.most_rows || kept.counted > self.most_bytes();
        shard.grew(grown, self.shard_bytes);
        if is_too_much {
            // It has grown: the next read is of a large one, or of another stretch.
            shard.drop_rows(prefix, &rows.since);
        }
        Found::Rows(rows)
    }

    /// Keeps rows that were read from a quiet snapshot.
    pub(crate) fn keep(&self, prefix: &[u8], rows: Rows, caches: &Caches) {
        self.put(prefix, rows.commit, caches, |_| Entry::All(Kept::new(rows)));
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
            let bytes: usize = stretches.values().map(|kept| kept.counted).sum();
            if stretches.len() >= MOST_STRETCHES || bytes > self.most_bytes() {
                stretches.clear();
            }
            stretches.insert(rows.since.clone(), Kept::new(rows));
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
        // Under the lock: a commit that begins now notes its changes in the entry.
        if caches.is_quiet_since(commit) {
            let before = shard.take(prefix);
            shard.insert(prefix.to_vec(), entry(before), self.shard_bytes);
        }
        Self::unlock(shard);
    }

    /// Gives the lock back, and frees what has left after it.
    fn unlock(mut shard: MutexGuard<'_, Shard>) {
        let gone = std::mem::take(&mut shard.gone);
        drop(shard);
        drop(gone);
    }

    fn shard(&self, prefix: &[u8]) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[self.hash.hash_one(prefix) as usize % SHARDS];
        // Nothing that panics is done under the lock.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn get(&mut self, prefix: &[u8], limit_bytes: usize) -> Option<&mut Entry> {
        if !self.young.contains_key(prefix) {
            let (prefix, entry) = self.old.remove_entry(prefix)?;
            self.insert(prefix, entry, limit_bytes);
        }
        self.young.get_mut(prefix)
    }

    fn take(&mut self, prefix: &[u8]) -> Option<Entry> {
        let Some(entry) = self.young.remove(prefix) else {
            return self.old.remove(prefix);
        };
        let size = prefix.len() + entry.size();
        self.young_bytes = self.young_bytes.saturating_sub(size);
        Some(entry)
    }

    /// Drops what begins there.
    fn drop_rows(&mut self, prefix: &[u8], since: &[u8]) {
        let stretch = match self.young.get_mut(prefix) {
            Some(Entry::Stretches(stretches)) => stretches.remove(since),
            _ => return drop(self.take(prefix)),
        };
        let size = stretch.map_or(0, |kept| kept.counted);
        self.young_bytes = self.young_bytes.saturating_sub(size);
    }

    fn insert(&mut self, prefix: Vec<u8>, entry: Entry, limit_bytes: usize) {
        let size = prefix.len() + entry.size();
        if self.young_bytes + size > limit_bytes / 2 {
            self.age();
        }
        self.young_bytes += size;
        self.young.insert(prefix, entry);
    }

    /// Counts by how much the young ones have grown.
    fn grew(&mut self, bytes: isize, limit_bytes: usize) {
        self.young_bytes = self.young_bytes.saturating_add_signed(bytes);
        if self.young_bytes > limit_bytes / 2 {
            self.age();
        }
    }

    /// Begins another generation.
    fn age(&mut self) {
        let young = std::mem::take(&mut self.young);
        self.gone.push(std::mem::replace(&mut self.old, young));
        self.young_bytes = 0;
    }
}

/// Notes a change in what has the row, or would have it. Returns by how many bytes all entries have grown.
fn note(
    entries: &mut HashMap<Vec<u8>, Entry, RandomState>,
    prefix: &[u8],
    suffix: &[u8],
    change: &dyn Fn() -> Change,
) -> isize {
    let Some(entry) = entries.get_mut(prefix) else {
        return 0;
    };
    let mut grown = 0;
    match entry {
        Entry::All(kept) if kept.rows.covers(suffix) => match kept.note(change()) {
            Some(bytes) => grown += bytes as isize,
            None => {
                grown -= (prefix.len() + entry.size()) as isize;
                entries.remove(prefix);
            }
        },
        Entry::All(_) => {}
        Entry::Stretches(stretches) => stretches.retain(|_, kept| {
            if !kept.rows.covers(suffix) {
                return true;
            }
            let noted = kept.note(change());
            grown += noted.map_or(-(kept.counted as isize), |bytes| bytes as isize);
            noted.is_some()
        }),
    }
    grown
}

impl Entry {
    fn size(&self) -> usize {
        let rows: usize = match self {
            Self::All(kept) => kept.counted,
            Self::Stretches(stretches) => stretches.values().map(|kept| kept.counted).sum(),
        };
        ENTRY_BYTES + rows
    }

    /// Whether it has a row of that key, or would.
    fn covers(&self, suffix: &[u8]) -> bool {
        match self {
            Self::All(kept) => kept.rows.covers(suffix),
            Self::Stretches(stretches) => stretches.values().any(|kept| kept.rows.covers(suffix)),
        }
    }
}

impl Kept {
    fn new(mut rows: Rows) -> Self {
        rows.suffixes.shrink_to_fit();
        rows.ends.shrink_to_fit();
        rows.bytes.shrink_to_fit();
        Self {
            counted: rows.size(),
            rows: Arc::new(rows),
            changes: Vec::new(),
            changes_bytes: 0,
        }
    }

    /// Adds a change. Returns how many bytes it takes; none where there are too many already.
    fn note(&mut self, change: Change) -> Option<usize> {
        let bytes = change.size();
        // Reading the rows anew costs no more than that.
        let is_much = self.changes_bytes + bytes > self.rows.size() + LITTLE_BYTES;
        if self.changes.len() == MOST_CHANGES || is_much {
            return None;
        }
        self.changes.push(change);
        self.changes_bytes += bytes;
        self.counted += bytes;
        Some(bytes)
    }

    /// The rows as of a moment; none where they are of a later one. Changes become part of them where it knows all of
    /// them; of an entity that is here as a whole, rows before `from` go then, if they are the most: windows left them.
    fn as_of(&mut self, moment: u64, from: &[u8], is_all: bool) -> Option<Arc<Rows>> {
        let newest = self.changes.last().map_or(self.rows.commit, |c| c.commit);
        if newest > moment {
            return None;
        }
        if !self.changes.is_empty() {
            // Copied only where somebody reads them just now.
            let rows = Arc::make_mut(&mut self.rows);
            for change in std::mem::take(&mut self.changes) {
                rows.set(&change.suffix, change.value.as_deref());
            }
            rows.changed_by(newest);
            if is_all {
                rows.forget_before(from);
            }
            self.changes_bytes = 0;
        }
        Some(Arc::clone(&self.rows))
    }

    /// Counts anew. Returns by how many bytes it has grown since it was counted last.
    fn count(&mut self) -> isize {
        let before = self.counted;
        self.counted = self.rows.size() + self.changes_bytes;
        self.counted as isize - before as isize
    }
}

impl Change {
    fn size(&self) -> usize {
        let value = self.value.as_ref().map_or(0, Vec::len);
        size_of::<Self>() + self.suffix.len() + value
    }
}

impl Clone for Rows {
    /// Without what was made of them.
    fn clone(&self) -> Self {
        Self {
            commit: self.commit,
            since: self.since.clone(),
            until: self.until.clone(),
            suffix_bytes: self.suffix_bytes,
            suffixes: self.suffixes.clone(),
            ends: self.ends.clone(),
            bytes: self.bytes.clone(),
            was_read: AtomicBool::new(false),
            made: OnceLock::new(),
        }
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
            was_read: AtomicBool::new(false),
            made: OnceLock::new(),
        }
    }

    /// What `make` makes of them, once: after they were [read](Self::note_read) as they are. Rows that change between any
    /// two reads are not worth it.
    pub(crate) fn made(&self, make: &mut dyn FnMut(&Self) -> Option<Memo>) -> Option<Memo> {
        if let Some(made) = self.made.get() {
            return Some(made.clone());
        }
        if !self.was_read.load(Ordering::Relaxed) {
            return None;
        }
        let made = make(self)?;
        Some(self.made.get_or_init(|| made).clone())
    }

    /// Notes that somebody has read them, or some of them to the end.
    pub(crate) fn note_read(&self) {
        self.was_read.store(true, Ordering::Relaxed);
    }

    fn changed_by(&mut self, commit: u64) {
        self.commit = commit;
        self.was_read = AtomicBool::new(false);
        self.made = OnceLock::new();
    }

    /// Puts a row in its place, or takes it away.
    fn set(&mut self, suffix: &[u8], value: Option<&[u8]>) {
        let place = self.place(suffix);
        let is_there = place < self.len() && self.suffix(place) == suffix;
        if let (Some(value), true) = (value, place == self.len()) {
            self.push(suffix, value);
            return;
        }
        let start = self.start(place);
        let bytes = start..self.start(place + usize::from(is_there));
        let new = value.unwrap_or_default();
        let (old_bytes, new_bytes) = (bytes.len(), new.len());
        self.bytes.splice(bytes, new.iter().copied());
        let suffixes = place * self.suffix_bytes;
        match (value, is_there) {
            (Some(_), false) => {
                self.suffixes
                    .splice(suffixes..suffixes, suffix.iter().copied());
                self.ends.insert(place, start as u32);
            }
            (None, true) => {
                self.suffixes.drain(suffixes..suffixes + self.suffix_bytes);
                self.ends.remove(place);
            }
            _ => {}
        }
        // A row that was taken away has no end of its own.
        for end in &mut self.ends[place..] {
            *end = *end + new_bytes as u32 - old_bytes as u32;
        }
    }

    /// Forgets the rows before the key that ends in `from`, where they are the most.
    fn forget_before(&mut self, from: &[u8]) {
        let place = self.place(from);
        if place < WORTH_FORGETTING || 2 * place < self.len() {
            return;
        }
        let start = self.start(place);
        self.suffixes.drain(..place * self.suffix_bytes);
        self.bytes.drain(..start);
        self.ends.drain(..place);
        self.ends.iter_mut().for_each(|end| *end -= start as u32);
        self.since = from.to_vec();
    }

    /// Where a row's value starts.
    fn start(&self, row: usize) -> usize {
        row.checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .map_or(0, |end| *end as usize)
    }

    /// The first row whose key ends in `suffix` or above.
    fn place(&self, suffix: &[u8]) -> usize {
        let (mut first, mut last) = (0, self.len());
        while first < last {
            let middle = first.midpoint(last);
            match self.suffix(middle) < suffix {
                true => first = middle + 1,
                false => last = middle,
            }
        }
        first
    }

    /// All rows: ends of keys, and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.len()).map(|row| self.row(row))
    }

    fn row(&self, row: usize) -> (&[u8], &[u8]) {
        (
            self.suffix(row),
            &self.bytes[self.start(row)..self.ends[row] as usize],
        )
    }

    /// Adds the next row, by the end of its key.
    pub(crate) fn push(&mut self, suffix: &[u8], value: &[u8]) {
        // The keys of a table's rows have ends of one length.
        self.suffix_bytes = suffix.len().max(1);
        self.suffixes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len() as u32);
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
        let rows = self.place(from)..self.len();
        rows.map(|row| self.row(row))
            .take_while(move |(suffix, _)| to.is_none_or(|to| *suffix < to))
    }

    /// With what was made of them.
    pub(crate) fn size(&self) -> usize {
        let made = self.made.get();
        ENTRY_BYTES
            + 2 * self.since.len()
            + self.bytes.capacity()
            + self.suffixes.capacity()
            + size_of::<u32>() * self.ends.capacity()
            + made.map_or(0, |made| made.bytes.load(Ordering::Relaxed))
    }
}
