//! The trait that all stores share. Its conformance suite is `conformance.rs`.

use std::ops::ControlFlow;

use crate::commit::{OFFSET_END, OFFSET_PREFIX};
use crate::entity_cache::Memo;
use crate::{Commit, Horizons, Offset, StoreError, Table, codec};

/// Ordered reads.
pub trait Scan {
    /// Shows `visit` the rows with `from <= key < to_exclusive` in key order, or in the opposite
    /// order where `reverse` is set, until it breaks. An empty `to_exclusive` means the end of the
    /// table. The rows of one scan belong to one moment between commits.
    ///
    /// A scan within [`entity_range`](crate::entity_range) or [`event_range`](crate::event_range)
    /// reads nothing of files that lack the entity. `visit` must not call the store.
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the store cannot be read.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to_exclusive: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// What `make` makes of an entity's rows, where they are in memory and have been read before; it is kept beside them
    /// until one of them changes, so that it is made once for many readers. `from` is a key of the entity, or the start
    /// of one of its ranges, and so is `to_exclusive`. `make` gets the ends of keys (what follows the entity) and the
    /// values of all rows between them, and may get earlier and later ones. None where there is nothing kept, and where
    /// `make` gives none: the rows are to be scanned then. All who read a table's rows share what is made of them.
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the store cannot be read.
    fn made(
        &self,
        _table: Table,
        _from: &[u8],
        _to_exclusive: &[u8],
        _make: &mut dyn FnMut(&mut dyn Iterator<Item = (&[u8], &[u8])>) -> Option<Memo>,
    ) -> Result<Option<Memo>, StoreError> {
        Ok(None)
    }
}

/// As [`Scan::scan`] in key order, with a `visit` that may fail: that ends the scan, too.
///
/// # Errors
/// [`StoreError::Engine`] where the store cannot be read, and what `visit` fails with.
pub fn try_scan<E: From<StoreError>>(
    store: &(impl Scan + ?Sized),
    table: Table,
    from: &[u8],
    to_exclusive: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let mut failed = None;
    store.scan(table, from, to_exclusive, false, &mut |key, value| {
        visit(key, value).unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        })
    })?;
    failed.map_or(Ok(()), Err)
}

/// Ordered tables and offsets, committed together. Any thread may call any method. A scan of the store itself is of
/// the moment of the scan.
pub trait Store: Scan + Send + Sync {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the store cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The store as it is now, for several scans that must agree. Cheaper than as many scans of the store itself: a
    /// look-up of a hundred entities reads through two iterators, and not through two hundred.
    ///
    /// What it has seen stays on disk until it is dropped, so it is for one request.
    fn moment(&self) -> Box<dyn Scan + '_>;

    /// Applies `commit`, all of it or, with an error, nothing. It is visible at once, and durable
    /// after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`StoreError::BadRow`] where a row does not fit its table, [`StoreError::Engine`] where the
    /// store cannot be written.
    fn commit(&self, commit: Commit) -> Result<(), StoreError>;

    /// Makes durable everything that was committed before the call. A crash takes the store back to
    /// a commit at or after the last flush, rows and offsets together. When to flush is the caller's
    /// business: it bounds how much of Kafka is replayed.
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the store cannot be written.
    fn flush(&self) -> Result<(), StoreError>;

    /// From which time on rows are kept.
    fn horizons(&self) -> &Horizons;

    /// Drops all rows that are older than their horizon now, at the cost of rewriting the tables.
    /// Nobody needs to call it: they expire by themselves in time.
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the store cannot be written.
    fn expire(&self) -> Result<(), StoreError>;

    /// Drops all rows of a view, in a time that does not depend on how many they are.
    /// It is not durable before the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the store cannot be written.
    fn remove_view(&self, view: u32) -> Result<(), StoreError>;

    /// Frees the space of a view's rows that were dropped, at the cost of rewriting the files that others share with it.
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the store cannot be written.
    fn compact_view(&self, view: u32) -> Result<(), StoreError>;

    /// Lets events of `view` with a time before `time_us` expire.
    fn set_horizon(&self, view: u32, time_us: i64) {
        self.horizons().set_view(view, time_us);
    }

    /// All positions that the store reflects, by topic and partition.
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the store cannot be read, [`StoreError::Record`] or
    /// [`StoreError::RecordVersion`] where an offset does not decode.
    fn offsets(&self) -> Result<Vec<Offset>, StoreError> {
        let mut offsets = Vec::new();
        let mut collect = |_: &[u8], record: &[u8]| {
            offsets.push(codec::decode::<Offset>(record));
            ControlFlow::Continue(())
        };
        self.scan(Table::Meta, OFFSET_PREFIX, OFFSET_END, false, &mut collect)?;
        offsets.into_iter().collect()
    }
}
