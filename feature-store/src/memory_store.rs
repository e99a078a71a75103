//! The store without a disk: sorted maps behind one lock, for tests and simulation.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use crate::{Commit, Horizons, Scan, Store, StoreError, Table, keys};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A [`Store`] in memory. It is never durable, and rows expire only in [`Store::expire`].
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// Shared with the moments that are being read: a commit copies them then.
    tables: RwLock<Arc<Tables>>,
    horizons: Horizons,
}

/// One map for each of [`Table::ALL`].
#[derive(Debug, Default, Clone)]
struct Tables([Rows; Table::ALL.len()]);

impl Tables {
    fn of(&self, table: Table) -> &Rows {
        &self.0[table as usize]
    }

    fn of_mut(&mut self, table: Table) -> &mut Rows {
        &mut self.0[table as usize]
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    // A lock is poisoned only by a panic in `visit`, which changes nothing, or by one for want of
    // memory: the maps are whole.
    fn read(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Arc<Tables>> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scan for Arc<Tables> {
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to_exclusive: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let end = match to_exclusive {
            [] => Bound::Unbounded,
            to if from < to => Bound::Excluded(to),
            // A range that ends before it starts is empty here, and a panic in BTreeMap.
            _ => return Ok(()),
        };
        let rows = self
            .of(table)
            .range::<[u8], _>((Bound::Included(from), end));
        // Both are ends of the visit, so the outcome says nothing.
        let _ = if reverse {
            rows.rev().try_for_each(|(key, value)| visit(key, value))
        } else {
            let mut rows = rows;
            rows.try_for_each(|(key, value)| visit(key, value))
        };
        Ok(())
    }
}

impl Scan for MemoryStore {
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to_exclusive: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.read().scan(table, from, to_exclusive, reverse, visit)
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().of(table).get(key).cloned())
    }

    fn moment(&self) -> Box<dyn Scan + '_> {
        Box::new(self.read())
    }

    fn commit(&self, commit: Commit) -> Result<(), StoreError> {
        let offset_rows = commit.offset_rows()?;
        let mut tables = self.write();
        let tables = Arc::make_mut(&mut tables);
        for (table, key) in &commit.deletes {
            tables.of_mut(*table).remove(key);
        }
        for (table, key, value) in commit.puts {
            tables.of_mut(table).insert(key, value);
        }
        tables.of_mut(Table::Meta).extend(offset_rows);
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn horizons(&self) -> &Horizons {
        &self.horizons
    }

    fn remove_view(&self, view: u32) -> Result<(), StoreError> {
        let (from, to) = keys::view_range(view);
        let mut tables = self.write();
        let tables = Arc::make_mut(&mut tables);
        for table in Table::BY_ENTITY {
            tables
                .of_mut(table)
                .retain(|key, _| *key < from || *key >= to);
        }
        Ok(())
    }

    fn compact_view(&self, _view: u32) -> Result<(), StoreError> {
        Ok(())
    }

    fn expire(&self) -> Result<(), StoreError> {
        let horizons = self.horizons.values();
        let mut tables = self.write();
        let tables = Arc::make_mut(&mut tables);
        for table in Table::ALL {
            tables
                .of_mut(table)
                .retain(|key, value| !horizons.is_old(table, key, value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::conformance;

    #[test]
    fn memory_store_conforms() {
        conformance(&MemoryStore::new());
    }
}
