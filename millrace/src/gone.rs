//! Before when the events of each view may be gone, as the store notes it.
//!
//! What expires follows from `store.history` and a view's windows (`marks.rs`), and both may change: a horizon that moves
//! back brings no event back. So the newest that was ever in force is kept with the view's rows, and look-ups of what
//! lies before it are refused. Only a [`Filler`](crate::fill::Filler), which reads the older events again, moves it back.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use millrace_feature_store::{Commit, Store, Table, decode, encode, time_bytes, time_from_bytes};
use millrace_features::FeatureView;
use serde::{Deserialize, Serialize};

use crate::failure::Outcome;

const GONE: &str = "gone/";
const GONE_END: &[u8] = b"gone0";

/// From when on events are being read for a view. What was gone before is gone until that is done.
const FILLING: &str = "fills/";

/// What a topic no longer has of the events that are being read for a view.
const MISSED: &str = "missed/";

/// Before when events may be gone, µs, by their view's id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gone(BTreeMap<u32, i64>);

impl Gone {
    /// What a store notes.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn read(store: &dyn Store) -> Outcome<Self> {
        let mut gone = BTreeMap::new();
        let from = GONE.as_bytes();
        store.scan(Table::Meta, from, GONE_END, false, &mut |key, value| {
            let id = key
                .get(GONE.len()..)
                .and_then(|id| u32::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok());
            if let (Some(id), Some(time)) = (id, time_from_bytes(value)) {
                gone.insert(id, time);
            }
            ControlFlow::Continue(())
        })?;
        Ok(Self(gone))
    }

    /// Before when (µs) events of a view may be gone; none where all are there that it was to have.
    #[must_use]
    pub fn before(&self, view: u32) -> Option<i64> {
        self.0.get(&view).copied()
    }

    /// Notes that a view's events before a time (µs) may go with a commit. Whether that is news.
    pub fn raise(&mut self, view: u32, time_us: i64, commit: &mut Commit) -> bool {
        if self.before(view).is_some_and(|known| known >= time_us) {
            return false;
        }
        self.0.insert(view, time_us);
        commit.put(Table::Meta, key(GONE, view), time_bytes(time_us));
        true
    }
}

/// How long before the time that a view is asked about it needs its events, or the totals of single steps, µs; none where
/// it keeps all.
#[must_use]
pub fn looks_back_us(view: &FeatureView) -> Option<i64> {
    let of_steps = || view.resolution().map(|_| view.edges_us());
    view.reach_us().or_else(of_steps)
}

/// Makes part of a commit that a view is filled from nothing.
pub fn forget(view: u32, commit: &mut Commit) {
    commit.delete(Table::Meta, key(GONE, view));
    forget_filling(view, commit);
}

/// Makes part of a commit that a view is filled from the first event on: not as it was begun before.
pub fn forget_filling(view: u32, commit: &mut Commit) {
    commit.delete(Table::Meta, key(FILLING, view));
    commit.delete(Table::Meta, key(MISSED, view));
}

/// What a topic no longer had of the events that were to be read for views, as far as it was seen. It is noted with what
/// is read: after a restart, which goes on from there, it is not seen again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// The partitions whose beginning is gone, and the time (µs) of the first event that was read of each, if one was.
    pub first: BTreeMap<i32, Option<i64>>,
    /// Whether the topic is another one than the one that was read first.
    pub is_another: bool,
}

impl Missed {
    /// Adds what a store notes of a view.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn add_noted(&mut self, store: &dyn Store, view: u32) -> Outcome<()> {
        let noted = store.get(Table::Meta, key(MISSED, view).as_bytes())?;
        let noted: Option<Self> = noted.map(|bytes| decode(&bytes)).transpose()?;
        let Some(noted) = noted else {
            return Ok(());
        };
        self.is_another |= noted.is_another;
        for (partition, first) in noted.first {
            let known = self.first.entry(partition).or_default();
            *known = (*known).max(first);
        }
        Ok(())
    }

    /// Makes part of a commit what was missed for a view.
    ///
    /// # Errors
    /// A record that cannot be encoded.
    pub fn note(&self, view: u32, commit: &mut Commit) -> Outcome<()> {
        if *self != Self::default() {
            commit.put(Table::Meta, key(MISSED, view), encode(self)?);
        }
        Ok(())
    }
}

/// Makes part of a commit that what is read for a view from now on is not older than a time (µs); none: all is read.
///
/// # Errors
/// A store that cannot be read.
pub fn filling(
    store: &dyn Store,
    view: u32,
    from_us: Option<i64>,
    commit: &mut Commit,
) -> Outcome<()> {
    // The settings may have been others before it was stopped.
    if let Some(from_us) = from_us.max(filled_from(store, view)?) {
        commit.put(Table::Meta, key(FILLING, view), time_bytes(from_us));
    }
    Ok(())
}

/// Makes part of a commit that all was read for a view.
///
/// # Errors
/// A store that cannot be read.
pub fn filled(store: &dyn Store, view: u32, commit: &mut Commit) -> Outcome<()> {
    // Where all was read, that is noted too: what the view before it had let go of is there again.
    let from_us = filled_from(store, view)?.unwrap_or(i64::MIN);
    commit.put(Table::Meta, key(GONE, view), time_bytes(from_us));
    forget_filling(view, commit);
    Ok(())
}

fn filled_from(store: &dyn Store, view: u32) -> Outcome<Option<i64>> {
    let known = store.get(Table::Meta, key(FILLING, view).as_bytes())?;
    Ok(known.and_then(|bytes| time_from_bytes(&bytes)))
}

fn key(prefix: &str, view: u32) -> String {
    format!("{prefix}{view:08x}")
}
