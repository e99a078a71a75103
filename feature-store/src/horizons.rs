//! From which time on rows are kept. A row is old when its time lies before its horizon.
//!
//! Expiry frees space and nothing else: between the moment when a row becomes old and the moment
//! when it is dropped it may be seen or not, so a reader must never ask for what is older than the
//! horizon that was set. Horizons are not stored; until they are set again, nothing expires.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::{Table, keys};

/// The horizons of all tables, in microseconds since 1970 UTC; shared between the caller, who sets
/// them, and the store.
#[derive(Debug, Default)]
pub struct Horizons {
    current: RwLock<HorizonValues>,
}

impl Horizons {
    /// Lets events of `view` with a time before `time_us` expire, and tiles that start before it.
    pub fn set_view(&self, view: u32, time_us: i64) {
        self.change(|values| {
            values.views.insert(view, time_us);
        });
    }

    /// The time before which events of `view` may be gone, where one was set.
    #[must_use]
    pub fn view(&self, view: u32) -> Option<i64> {
        let values = self.current.read().unwrap_or_else(PoisonError::into_inner);
        values.views.get(&view).copied()
    }

    /// Lets rows of [`Table::Scored`] with a time before `time_us` expire.
    pub fn set_scored(&self, time_us: i64) {
        self.change(|values| values.scored = Some(time_us));
    }

    /// Lets rows of [`Table::Examples`] with a time before `time_us` expire.
    pub fn set_examples(&self, time_us: i64) {
        self.change(|values| values.examples = Some(time_us));
    }

    fn change(&self, change: impl FnOnce(&mut HorizonValues)) {
        // A poisoned map is whole: each change is one assignment.
        change(&mut self.current.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The horizons as they stand, for a pass over many rows.
    pub(crate) fn values(&self) -> HorizonValues {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct HorizonValues {
    views: HashMap<u32, i64>,
    scored: Option<i64>,
    examples: Option<i64>,
}

impl HorizonValues {
    /// Whether a row lies before its horizon. A row without a horizon or without a time is kept.
    pub(crate) fn is_old(&self, table: Table, key: &[u8], value: &[u8]) -> bool {
        let of_view = || keys::view_of(key).and_then(|view| self.views.get(&view).copied());
        let (time_us, horizon_us) = match table {
            Table::Events => (keys::event_time_us(key), of_view()),
            // Some of its events may be gone, so nobody may ask for it any more.
            Table::Tiles => (keys::tile_of(key).map(|(_, start)| start), of_view()),
            Table::Scored => (keys::time_from_bytes(value), self.scored),
            Table::Examples => (keys::time_from_bytes(value), self.examples),
            Table::Meta => (None, None),
        };
        matches!((time_us, horizon_us), (Some(time), Some(horizon)) if time < horizon)
    }
}
