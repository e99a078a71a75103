//! Streams as ingestion reads them, and where it goes on.

use std::sync::Arc;

use millrace_feature_store::{Offset, Store};
use millrace_features::Stream;
use millrace_ingest::{StartOffsets, StateError, StreamSpec};

use crate::failure::Outcome;
use crate::workspace::Workspace;

/// The streams of a project as ingestion reads them, in the project's order.
#[must_use]
pub fn stream_specs(workspace: &Workspace) -> Vec<StreamSpec> {
    let streams = workspace.project.streams.iter();
    streams.map(|stream| stream_spec(stream)).collect()
}

/// A stream as ingestion reads it.
#[must_use]
pub fn stream_spec(stream: &Stream) -> StreamSpec {
    StreamSpec {
        name: stream.name.clone(),
        topic: stream.topic.clone(),
        schema: Arc::clone(&stream.schema),
        time_column: stream.time,
        required: stream.required(),
        id: stream.key.filter(|_| stream.is_keyed_by_id()),
    }
}

/// Where the store stands, for ingestion to start at. It is asked again whenever a partition is taken over; a store that
/// cannot be read then ends the reading, for to begin at the oldest event would count all of them again.
///
/// # Errors
/// A store that cannot be read.
pub fn start_offsets(store: &Arc<dyn Store>) -> Outcome<StartOffsets> {
    // Seen once here, before anything else is started.
    store.offsets()?;
    let store = Arc::clone(store);
    let next = move |topic: &str, partition: i32| -> Result<Option<i64>, StateError> {
        let is_it = |o: &Offset| o.topic == topic && o.partition == partition;
        let known = store.offsets()?.into_iter().find(is_it);
        Ok(known.map(|offset| offset.next))
    };
    Ok(Arc::new(next))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ops::ControlFlow;
    use std::sync::atomic::{AtomicBool, Ordering};

    use millrace_feature_store::{Commit, Horizons, MemoryStore, Scan, StoreError, Table};

    use super::*;

    /// A store whose disk fails from a moment on.
    #[derive(Default)]
    struct Failing {
        store: MemoryStore,
        fails: AtomicBool,
    }

    impl Scan for Failing {
        fn scan(
            &self,
            table: Table,
            from: &[u8],
            to_exclusive: &[u8],
            reverse: bool,
            visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
        ) -> Result<(), StoreError> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(StoreError::Record("the disk is gone".to_owned()));
            }
            self.store.scan(table, from, to_exclusive, reverse, visit)
        }
    }

    impl Store for Failing {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.store.get(table, key)
        }

        fn moment(&self) -> Box<dyn Scan + '_> {
            self.store.moment()
        }

        fn commit(&self, commit: Commit) -> Result<(), StoreError> {
            self.store.commit(commit)
        }

        fn flush(&self) -> Result<(), StoreError> {
            self.store.flush()
        }

        fn horizons(&self) -> &Horizons {
            self.store.horizons()
        }

        fn expire(&self) -> Result<(), StoreError> {
            self.store.expire()
        }

        fn remove_view(&self, view: u32) -> Result<(), StoreError> {
            self.store.remove_view(view)
        }

        fn compact_view(&self, view: u32) -> Result<(), StoreError> {
            self.store.compact_view(view)
        }
    }

    #[test]
    fn a_store_that_fails_later_is_none_that_knows_nothing() {
        let failing = Arc::new(Failing::default());
        let mut commit = Commit::default();
        commit.offset("tx", 1, 2_910);
        failing.commit(commit).unwrap();
        let store: Arc<dyn Store> = Arc::<Failing>::clone(&failing);
        let next = start_offsets(&store).unwrap();
        assert_eq!(next("tx", 1).unwrap(), Some(2_910));
        assert_eq!(next("tx", 2).unwrap(), None);
        failing.fails.store(true, Ordering::Relaxed);
        let said = next("tx", 1).unwrap_err().to_string();
        assert!(said.contains("the disk is gone"), "{said}");
    }
}
