//! Reads of [`RocksStore`] as of one moment: entities that were read lately from memory, the others through iterators
//! that are made once.

use std::cell::RefCell;
use std::ops::ControlFlow;

use rocksdb::{DB, DBRawIterator, ReadOptions, SnapshotWithThreadMode};

use crate::entity_cache::{EntityCache, Found, Memo, ROWS_AHEAD, Rows};
use crate::rocks_store::{engine, entity_of_range, seek_last_before};
use crate::{RocksStore, Scan, StoreError, Table, keys};

/// A snapshot, and an iterator of each table that was read by entity.
pub(crate) struct Moment<'a> {
    store: &'a RocksStore,
    /// How many commits the snapshot contains, at least.
    commits: u64,
    /// Whether what is read is kept in memory for other moments.
    keeps_rows: bool,
    /// Declared before the snapshot, for they are dropped in this order.
    by_entity: RefCell<[Option<DBRawIterator<'a>>; Table::ALL.len()]>,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl<'a> Moment<'a> {
    pub(crate) fn new(store: &'a RocksStore) -> Self {
        Self {
            store,
            commits: store.caches().moment(),
            keeps_rows: true,
            by_entity: RefCell::default(),
            snapshot: store.db().snapshot(),
        }
    }

    /// For a single scan: the thread that writes scans this way, and keeps what it reads in a cache of its own.
    pub(crate) fn of_one_scan(store: &'a RocksStore) -> Self {
        Self {
            keeps_rows: false,
            ..Self::new(store)
        }
    }

    fn options(&self, within_entity: bool) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        // Files without the entity are skipped. What lies past the entity is then not in order, and `walk` ends before.
        options.set_total_order_seek(!within_entity);
        options
    }

    fn iterator(&self, table: Table, within_entity: bool) -> Result<DBRawIterator<'a>, StoreError> {
        let family = self.store.family(table)?;
        let options = self.options(within_entity);
        Ok(self.store.db().raw_iterator_cf_opt(family, options))
    }

    /// Lends the iterator of a table that is read by entity.
    fn with_iterator<T>(
        &self,
        table: Table,
        read: impl FnOnce(&mut DBRawIterator<'a>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Taken out for the time of the read, should a visitor scan too.
        let kept = self.by_entity.borrow_mut()[table as usize].take();
        let mut rows = kept.map_or_else(|| self.iterator(table, true), Ok)?;
        let read = read(&mut rows);
        self.by_entity.borrow_mut()[table as usize] = Some(rows);
        read
    }

    /// The rows of an entity in `from..to_exclusive`, from memory where they are there, and kept there otherwise.
    fn of_entity(
        &self,
        table: Table,
        cache: &EntityCache,
        entity: &[u8],
        from: &[u8],
        to_exclusive: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let since = &from[entity.len()..];
        let clock = self.store.caches();
        // A bound past the entity's end is above all of its keys.
        let until = to_exclusive.strip_prefix(entity);
        let is_large = match cache.get(entity, since, until, self.commits) {
            Found::Rows(rows) => {
                show(entity, &rows, since, until, visit);
                return Ok(());
            }
            Found::Large => true,
            Found::Nothing => false,
        };
        let may_keep = self.keeps_rows && clock.is_quiet_since(self.commits);
        let mut kept = may_keep.then(|| Rows::new(self.commits, since));
        let mut is_too_long = false;
        let mut ahead = match is_large {
            true => ROWS_AHEAD,
            false => usize::MAX,
        };
        let end = keys::after_prefix(entity);
        let mut is_wanted = true;
        let mut collect = |key: &[u8], value: &[u8]| {
            if is_wanted && key < to_exclusive && visit(key, value).is_break() {
                is_wanted = false;
                if is_large {
                    // Whoever looks at the first rows alone will do so again, of all from there on.
                    kept = None;
                }
            }
            is_wanted = is_wanted && key < to_exclusive;
            if let Some(rows) = &mut kept {
                let suffix = &key[entity.len()..];
                if !is_wanted && ahead == 0 {
                    rows.end_at(suffix);
                    return ControlFlow::Break(());
                }
                if rows.len() == cache.most_rows() || rows.size() > cache.most_bytes() {
                    (kept, is_too_long) = (None, true);
                } else {
                    ahead -= usize::from(!is_wanted);
                    rows.push(suffix, value);
                }
            }
            match is_wanted || kept.is_some() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        self.with_iterator(table, |rows| {
            walk(rows, Some(entity), from, &end, false, &mut collect)
        })?;
        match kept {
            Some(rows) if is_large => cache.keep_stretch(entity, rows, clock),
            Some(rows) => cache.keep(entity, rows, clock),
            None if is_too_long && !is_large => cache.note_large(entity, self.commits, clock),
            None => {}
        }
        Ok(())
    }
}

/// Shows what a cache has of a range.
fn show(
    entity: &[u8],
    rows: &Rows,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) {
    let mut key = entity.to_vec();
    for (suffix, value) in rows.range(from, to) {
        key.truncate(entity.len());
        key.extend_from_slice(suffix);
        if visit(&key, value).is_break() {
            return;
        }
    }
    rows.note_read();
}

impl Scan for Moment<'_> {
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to_exclusive: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if !to_exclusive.is_empty() && from >= to_exclusive {
            return Ok(());
        }
        let Some(entity) = entity_of_range(table, from, to_exclusive) else {
            let mut rows = self.iterator(table, false)?;
            return walk(&mut rows, None, from, to_exclusive, reverse, visit);
        };
        if table == Table::Tiles && !self.store.tiled().may_have(entity) {
            return Ok(());
        }
        match self.store.caches().of(table).filter(|_| !reverse) {
            Some(cache) => self.of_entity(table, cache, entity, from, to_exclusive, visit),
            None => self.with_iterator(table, |rows| {
                walk(rows, Some(entity), from, to_exclusive, reverse, visit)
            }),
        }
    }

    fn made(
        &self,
        table: Table,
        from: &[u8],
        to_exclusive: &[u8],
        make: &mut dyn FnMut(&mut dyn Iterator<Item = (&[u8], &[u8])>) -> Option<Memo>,
    ) -> Result<Option<Memo>, StoreError> {
        let prefix = keys::prefix_len(from).filter(|_| table.is_by_entity());
        let parts = prefix.and_then(|length| from.split_at_checked(length));
        let (Some((entity, since)), Some(cache)) = (parts, self.store.caches().of(table)) else {
            return Ok(None);
        };
        let until = to_exclusive.strip_prefix(entity);
        Ok(match cache.get(entity, since, until, self.commits) {
            Found::Rows(rows) => rows.made(&mut |rows| make(&mut rows.iter())),
            Found::Large | Found::Nothing => None,
        })
    }
}

/// The rows of a range, with an iterator that has no bounds of its own.
fn walk(
    rows: &mut DBRawIterator<'_>,
    entity: Option<&[u8]>,
    from: &[u8],
    to_exclusive: &[u8],
    reverse: bool,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    if reverse {
        seek_last_before(rows, entity, to_exclusive);
    } else {
        rows.seek(from);
    }
    while let Some((key, value)) = rows.item() {
        let is_past = match reverse {
            true => key < from,
            false => !to_exclusive.is_empty() && key >= to_exclusive,
        };
        if is_past || visit(key, value).is_break() {
            break;
        }
        if reverse {
            rows.prev();
        } else {
            rows.next();
        }
    }
    rows.status().map_err(engine("scan"))
}
