//! Between the features' view of state (rows by view, entity and time) and the store's (tables and commits).

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use millrace_feature_store::{Commit, Store, Table, event_key, event_range, event_time_us};
use millrace_features::{StateError, StateReader, StateRow, StateWriter};

use crate::failure::with_causes;

/// The store's events, as committed.
pub struct Committed<'a>(pub &'a dyn Store);

impl StateReader for Committed<'_> {
    fn scan(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let (from, to) = event_range(view, entity, times);
        self.rows(&from, &to, &mut |key, value| visit(time_of(key), value))
    }
}

impl Committed<'_> {
    fn rows(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        if from >= to {
            return Ok(());
        }
        let mut visit = |key: &[u8], value: &[u8]| match visit(key, value) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        self.0
            .scan(Table::Events, from, to, false, &mut visit)
            .map_err(|e| StateError(with_causes(&e)))
    }
}

/// The store admits no other keys than those with a time.
fn time_of(key: &[u8]) -> i64 {
    event_time_us(key).unwrap_or(i64::MIN)
}

/// The rows of a step that is not committed yet. What is scored in a step sees the step's own events, and all
/// of it is one commit with the offsets.
#[derive(Debug, Default)]
pub struct Pending {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl StateWriter for Pending {
    fn put(&mut self, row: StateRow) {
        let key = event_key(row.view, &row.entity, row.time_us, &row.unique);
        self.rows.insert(key, row.value);
    }
}

impl Pending {
    /// Moves the rows into a commit.
    pub fn drain_into(self, commit: &mut Commit) {
        commit.puts.extend(
            self.rows
                .into_iter()
                .map(|(key, value)| (Table::Events, key, value)),
        );
    }
}

/// Committed events with pending ones over them.
pub struct Overlay<'a> {
    /// What the store has.
    pub committed: Committed<'a>,
    /// What the step adds.
    pub pending: &'a Pending,
}

impl StateReader for Overlay<'_> {
    /// Merges two ordered sequences.
    fn scan(
        &self,
        view: u32,
        entity: &[u8],
        times: Range<i64>,
        visit: &mut dyn FnMut(i64, &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let (from, to) = event_range(view, entity, times);
        if from >= to {
            return Ok(());
        }
        let mut pending = self.pending.rows.range(from.clone()..to.clone()).peekable();
        let mut go_on = true;
        self.committed.rows(&from, &to, &mut |key, value| {
            while go_on
                && let Some((key, value)) = pending.next_if(|(other, _)| other.as_slice() < key)
            {
                go_on = visit(time_of(key), value);
            }
            // An event that is read again stands in both places, and is the same in both.
            pending.next_if(|(other, _)| other.as_slice() == key);
            go_on = go_on && visit(time_of(key), value);
            go_on
        })?;
        while go_on && let Some((key, value)) = pending.next() {
            go_on = visit(time_of(key), value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use millrace_feature_store::MemoryStore;

    fn row(time: i64) -> StateRow {
        let value = time.to_be_bytes().to_vec();
        StateRow {
            view: 1,
            entity: b"card\0".to_vec(),
            time_us: time,
            unique: [7; 16],
            value,
        }
    }

    /// The times that a scan shows, at most `limit`.
    fn scan(state: &dyn StateReader, limit: usize) -> Vec<i64> {
        let mut seen = Vec::new();
        state
            .scan(1, b"card\0", -2..5, &mut |time, value| {
                assert_eq!(value, time.to_be_bytes());
                seen.push(time);
                seen.len() < limit
            })
            .unwrap();
        seen
    }

    #[test]
    fn an_overlay_reads_as_if_it_were_committed() {
        // Each of eight rows is committed, pending or both, in all combinations.
        for pattern in 0..3_u32.pow(8) {
            let (before, after) = (MemoryStore::default(), MemoryStore::default());
            let (mut first, mut pending, mut all) =
                (Pending::default(), Pending::default(), Pending::default());
            for place in 0..8 {
                let time = i64::from(place) - 3;
                let kind = pattern / 3_u32.pow(place) % 3;
                if kind != 1 {
                    first.put(row(time));
                }
                if kind != 0 {
                    pending.put(row(time));
                }
                all.put(row(time));
            }
            for (store, rows) in [(&before, first), (&after, all)] {
                let mut commit = Commit::default();
                rows.drain_into(&mut commit);
                store.commit(commit).unwrap();
            }
            let overlay = Overlay {
                committed: Committed(&before),
                pending: &pending,
            };
            for limit in [1, 3, 100] {
                assert_eq!(
                    scan(&overlay, limit),
                    scan(&Committed(&after), limit),
                    "pattern {pattern}"
                );
            }
        }
    }
}
