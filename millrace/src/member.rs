//! The name under which a store's process is a member of its consumer group.
//!
//! It is kept in the store, so that a process that comes back after a crash is the member that it was (Kafka's static
//! membership) and has its partitions at once. Otherwise the group first waits for the session of the dead one to end.

use millrace_feature_store::{Commit, Store, Table};
use tracing::warn;

use crate::failure::Outcome;

const MEMBER: &[u8] = b"member";

/// The name of this store's member: found, or made and kept.
///
/// # Errors
/// A store that cannot be read or written.
pub fn member(store: &dyn Store) -> Outcome<String> {
    if let Some(kept) = store.get(Table::Meta, MEMBER)? {
        match String::from_utf8(kept) {
            Ok(name) => return Ok(name),
            Err(error) => {
                warn!(%error, "the member's name in the store is no text; it gets a new one")
            }
        }
    }
    let name = format!("millrace-{:016x}", rand::random::<u64>());
    let mut commit = Commit::default();
    commit.put(Table::Meta, MEMBER, name.as_bytes());
    store.commit(commit)?;
    store.flush()?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use millrace_feature_store::MemoryStore;

    use super::*;

    #[test]
    fn a_store_keeps_its_member_and_has_its_own() {
        let (store, other) = (MemoryStore::default(), MemoryStore::default());
        let name = member(&store).unwrap();
        assert_eq!(member(&store).unwrap(), name);
        assert_ne!(member(&other).unwrap(), name);
    }
}
