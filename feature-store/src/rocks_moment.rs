//! Reads of [`RocksStore`] as of one moment, through iterators that are made once.

use std::cell::RefCell;
use std::ops::ControlFlow;

use rocksdb::{DB, DBRawIterator, ReadOptions, SnapshotWithThreadMode};

use crate::rocks_store::{engine, entity_of_range, seek_last_before};
use crate::{RocksStore, Scan, StoreError, Table};

/// A snapshot, and an iterator of each table that was read by entity.
pub(crate) struct Moment<'a> {
    store: &'a RocksStore,
    /// Declared before the snapshot, for they are dropped in this order.
    by_entity: RefCell<[Option<DBRawIterator<'a>>; Table::ALL.len()]>,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl<'a> Moment<'a> {
    pub(crate) fn new(store: &'a RocksStore) -> Self {
        Self {
            store,
            by_entity: RefCell::default(),
            snapshot: store.db().snapshot(),
        }
    }

    fn options(&self, within_entity: bool) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options.set_total_order_seek(!within_entity);
        // The prefix is that of the key that is sought, whatever the iterator was made for.
        options.set_prefix_same_as_start(within_entity);
        options
    }

    fn iterator(&self, table: Table, within_entity: bool) -> Result<DBRawIterator<'a>, StoreError> {
        let family = self.store.family(table)?;
        let options = self.options(within_entity);
        Ok(self.store.db().raw_iterator_cf_opt(family, options))
    }
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
        // Taken out for the time of the scan, should `visit` scan too.
        let kept = self.by_entity.borrow_mut()[table as usize].take();
        let mut rows = kept.map_or_else(|| self.iterator(table, true), Ok)?;
        let walked = walk(&mut rows, Some(entity), from, to_exclusive, reverse, visit);
        self.by_entity.borrow_mut()[table as usize] = Some(rows);
        walked
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
