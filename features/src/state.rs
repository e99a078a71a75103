//! The seam between a window's meaning and the store that keeps its state: rows by view, entity and time.
//!
//! [`MemoryState`] is here for tests, training sets and back-tests; RocksDB's is in `millrace`, over
//! `millrace-feature-store`.

use std::collections::BTreeMap;
use std::ops::Range;

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
}

/// Where a view puts its rows. A row that is put again under its view, entity, time and unique part replaces
/// itself, so a replay changes nothing.
pub trait StateWriter {
    /// Puts one row.
    fn put(&mut self, row: StateRow);
}

/// State in an ordered map.
#[derive(Debug, Default, Clone)]
pub struct MemoryState {
    rows: BTreeMap<MemoryKey, Vec<u8>>,
}

type MemoryKey = (u32, Vec<u8>, i64, [u8; 16]);

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
}

impl StateWriter for MemoryState {
    fn put(&mut self, row: StateRow) {
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
}
