//! The store on disk. Options are set in `rocks_options.rs`, expiry is in `expiry.rs`.
//!
//! No write-ahead log: a commit lives in memory until a flush, and a crash in between takes the
//! store back to an earlier commit, whose offsets say from where Kafka is to be read again. A clean
//! drop flushes.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, ErrorKind, FlushOptions, WriteBatch,
};

use crate::entity_cache::{Caches, Touched};
use crate::rocks_moment::Moment;
use crate::tiled::Tiled;

use crate::{
    Commit, Horizons, Scan, Store, StoreError, StoreIdentity, StoreSettings, Table, identity, keys,
    rocks_options,
};

/// A [`Store`] in a folder, through RocksDB. One process at a time has it open.
pub struct RocksStore {
    db: DB,
    horizons: Arc<Horizons>,
    tiled: Tiled,
    caches: Caches,
    /// Held by who writes: the caches know of one commit at a time.
    writing: Mutex<()>,
    is_read_only: bool,
}

impl RocksStore {
    /// Opens the store of `identity` at `path` with the default settings, and creates it where the
    /// folder is missing or empty.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`], [`StoreError::NewerFormat`], [`StoreError::OtherProject`] and
    /// [`StoreError::Locked`] say why the folder cannot be used; [`StoreError::Io`] and
    /// [`StoreError::Engine`] that it cannot be read or written.
    pub fn open(path: &Path, identity: &StoreIdentity) -> Result<Self, StoreError> {
        Self::open_with(path, identity, &StoreSettings::default())
    }

    /// As [`open`](Self::open), with settings.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        path: &Path,
        identity: &StoreIdentity,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        identity::claim(path, identity)?;
        let horizons = Arc::new(Horizons::default());
        let options = rocks_options::database(settings);
        let db = DB::open_cf_descriptors(&options, path, descriptors(settings, &horizons)?)
            .map_err(|error| open_error(path, error))?;
        let store = Self::of(db, horizons, settings, false)?;
        tracing::info!(path = %path.display(), "store opened");
        Ok(store)
    }

    /// Opens the store of `identity` for reading, beside a process that may be writing to it. It
    /// shows what was durable at this moment, and nothing later. A store that was never written to
    /// is created.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for [`StoreError::Locked`].
    pub fn open_read_only(
        path: &Path,
        identity: &StoreIdentity,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        /// The file that names a database's newest manifest.
        const CURRENT: &str = "CURRENT";
        if !path.join(CURRENT).exists() {
            return Self::open_with(path, identity, settings);
        }
        identity::check_readable(path, identity)?;
        let horizons = Arc::new(Horizons::default());
        let mut options = rocks_options::database(settings);
        // Opens every file now: one that the writer deletes stays readable for whoever has it open.
        options.set_max_open_files(-1);
        let families = descriptors(settings, &horizons)?;
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false)
            .map_err(|error| open_error(path, error))?;
        Self::of(db, horizons, settings, true)
    }

    /// The store of a database that was opened.
    fn of(
        db: DB,
        horizons: Arc<Horizons>,
        settings: &StoreSettings,
        is_read_only: bool,
    ) -> Result<Self, StoreError> {
        let store = Self {
            db,
            horizons,
            tiled: Tiled::default(),
            caches: Caches::new(settings.entity_cache_bytes, settings.entity_cache_rows),
            writing: Mutex::default(),
            is_read_only,
        };
        store.note_tiles()?;
        Ok(store)
    }

    /// Which entities have tiles, of those that are there at the start.
    fn note_tiles(&self) -> Result<(), StoreError> {
        self.scan(Table::Tiles, &[], &[], false, &mut |key, _| {
            self.tiled.note(key);
            ControlFlow::Continue(())
        })
    }

    /// Rows of entities that were read lately.
    pub(crate) fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Which entities have tiles.
    pub(crate) fn tiled(&self) -> &Tiled {
        &self.tiled
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    pub(crate) fn family(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        self.db
            .cf_handle(table.name())
            .ok_or_else(|| StoreError::NotAStore {
                path: self.db.path().to_owned(),
                reason: format!("it has no table {}", table.name()),
            })
    }

    fn families(&self) -> Result<Vec<&ColumnFamily>, StoreError> {
        Table::ALL
            .into_iter()
            .map(|table| self.family(table))
            .collect()
    }

    /// The whole commit as one batch: deletes, puts, offsets.
    fn batch(&self, commit: &Commit) -> Result<WriteBatch, StoreError> {
        let offset_rows = commit.offset_rows()?;
        let puts = commit.puts.iter();
        let bytes: usize = puts.map(|(_, key, value)| key.len() + value.len()).sum();
        // With what the batch writes of each row besides.
        let mut batch = WriteBatch::with_capacity_bytes(bytes + 16 * commit.puts.len());
        for (table, key) in &commit.deletes {
            batch.delete_cf(self.family(*table)?, key);
        }
        for (table, key, value) in &commit.puts {
            batch.put_cf(self.family(*table)?, key, value);
        }
        for (key, value) in &offset_rows {
            batch.put_cf(self.family(Table::Meta)?, key, value);
        }
        Ok(batch)
    }

    fn report_sizes(&self) -> Result<(), StoreError> {
        for table in Table::ALL {
            let bytes = self
                .db
                .property_int_value_cf(self.family(table)?, "rocksdb.live-sst-files-size")
                .map_err(engine("measure itself"))?;
            metrics::gauge!("millrace_store_disk_bytes", "table" => table.name())
                .set(bytes.unwrap_or(0) as f64);
        }
        Ok(())
    }
}

impl Scan for RocksStore {
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to_exclusive: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Moment::of_one_scan(self).scan(table, from, to_exclusive, reverse, visit)
    }
}

impl Store for RocksStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db
            .get_cf(self.family(table)?, key)
            .map_err(engine("read"))
    }

    fn moment(&self) -> Box<dyn Scan + '_> {
        Box::new(Moment::new(self))
    }

    fn commit(&self, commit: Commit) -> Result<(), StoreError> {
        let started = Instant::now();
        let batch = self.batch(&commit)?;
        // Nothing is guarded that a panic could leave half done.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let tiles = commit
            .puts
            .iter()
            .filter(|(table, ..)| *table == Table::Tiles);
        tiles.for_each(|(_, key, _)| self.tiled.note(key));
        self.caches.begin(touched(&commit));
        let written = self.db.write_without_wal(batch).map_err(engine("commit"));
        if written.is_err() {
            // Its changes stand in the caches, and nowhere else.
            self.caches.clear();
        }
        self.caches.committed();
        written?;
        metrics::histogram!("millrace_store_commit_seconds").record(started.elapsed());
        metrics::counter!("millrace_store_commits_total").increment(1);
        metrics::counter!("millrace_store_rows_written_total").increment(commit.puts.len() as u64);
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        if self.is_read_only {
            // All that it shows is durable.
            return Ok(());
        }
        let started = Instant::now();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&self.families()?.iter().collect::<Vec<_>>(), &options)
            .map_err(engine("flush"))?;
        metrics::histogram!("millrace_store_flush_seconds").record(started.elapsed());
        self.report_sizes()
    }

    fn horizons(&self) -> &Horizons {
        &self.horizons
    }

    fn remove_view(&self, view: u32) -> Result<(), StoreError> {
        let (from, to) = keys::view_range(view);
        let mut batch = WriteBatch::default();
        for table in Table::BY_ENTITY {
            batch.delete_range_cf(self.family(table)?, &from, &to);
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.caches.begin(std::iter::empty());
        self.caches.clear();
        let written = self
            .db
            .write_without_wal(batch)
            .map_err(engine("remove a view"));
        self.caches.committed();
        written
    }

    fn compact_view(&self, view: u32) -> Result<(), StoreError> {
        let (from, to) = keys::view_range(view);
        for table in Table::BY_ENTITY {
            let family = self.family(table)?;
            self.db.compact_range_cf(family, Some(&from), Some(&to));
        }
        Ok(())
    }

    fn expire(&self) -> Result<(), StoreError> {
        for family in self.families()? {
            self.db
                .compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }
}

/// The rows that a commit changes, in the order in which it does.
fn touched(commit: &Commit) -> impl Iterator<Item = Touched<'_>> {
    let deletes = commit
        .deletes
        .iter()
        .map(|(table, key)| (*table, key, None));
    let puts = commit.puts.iter();
    let puts = puts.map(|(table, key, value)| (*table, key, Some(value.as_slice())));
    let by_entity = deletes
        .chain(puts)
        .filter(|(table, ..)| table.is_by_entity());
    by_entity.filter_map(|(table, key, value)| {
        let (prefix, suffix) = key.split_at_checked(keys::prefix_len(key)?)?;
        Some((table, prefix, suffix, value))
    })
}

fn descriptors(
    settings: &StoreSettings,
    horizons: &Arc<Horizons>,
) -> Result<Vec<ColumnFamilyDescriptor>, StoreError> {
    // Without a lock: every look-up asks it for several blocks.
    let cache = Cache::new_hyper_clock_cache(settings.block_cache_bytes, 0);
    let descriptor = |table: Table| {
        let options = rocks_options::family(table, settings, &cache, horizons);
        let options = options.map_err(engine("configure"))?;
        Ok(ColumnFamilyDescriptor::new(table.name(), options))
    };
    Table::ALL.into_iter().map(descriptor).collect()
}

/// The prefix of the one entity that all keys in `from..to_exclusive` have, if there is one.
pub(crate) fn entity_of_range<'a>(
    table: Table,
    from: &'a [u8],
    to_exclusive: &[u8],
) -> Option<&'a [u8]> {
    if !table.is_by_entity() || to_exclusive.is_empty() {
        return None;
    }
    let prefix = from.get(..keys::prefix_len(from)?)?;
    (to_exclusive <= keys::after_prefix(prefix).as_slice()).then_some(prefix)
}

/// Stands on the last row before `to_exclusive`. Within an entity the sought key has its prefix, so
/// that files without the entity are skipped; a bound past the entity's end does not have it.
pub(crate) fn seek_last_before(
    rows: &mut rocksdb::DBRawIterator<'_>,
    entity: Option<&[u8]>,
    to_exclusive: &[u8],
) {
    match entity {
        Some(prefix) if !to_exclusive.starts_with(prefix) => {
            rows.seek_for_prev([prefix, &[0xFF; keys::SUFFIX_BYTES]].concat());
        }
        None if to_exclusive.is_empty() => rows.seek_to_last(),
        _ => {
            rows.seek_for_prev(to_exclusive);
            if rows.key() == Some(to_exclusive) {
                rows.prev();
            }
        }
    }
}

fn open_error(path: &Path, error: rocksdb::Error) -> StoreError {
    // RocksDB has no kind for it: the first text is another process, the second is this one.
    let held = ["While lock file", "lock hold by current process"];
    let message: &str = error.as_ref();
    if error.kind() == ErrorKind::IOError && held.iter().any(|text| message.contains(text)) {
        return StoreError::Locked {
            path: path.to_owned(),
            detail: error.into_string(),
        };
    }
    engine("open")(error)
}

pub(crate) fn engine(action: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
    move |source| StoreError::Engine { action, source }
}

#[cfg(test)]
#[path = "rocks_tests.rs"]
pub(crate) mod tests;
