//! Which entities have tiles: few do, and asking the database costs as much as reading a quiet card's events.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{PoisonError, RwLock};

use crate::keys;

/// Entities that may have tiles, by a hash of their prefix. One that has none any more stays: it costs a look.
#[derive(Debug, Default)]
pub(crate) struct Tiled {
    entities: RwLock<HashSet<u64>>,
}

impl Tiled {
    /// Notes the entity of a tile's key. To be called before the tile can be seen.
    pub(crate) fn note(&self, tile_key: &[u8]) {
        let prefix = keys::prefix_len(tile_key).and_then(|length| tile_key.get(..length));
        let Some(prefix) = prefix.filter(|prefix| !self.may_have(prefix)) else {
            return;
        };
        let mut entities = self
            .entities
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        entities.insert(hash(prefix));
    }

    /// False only for an entity without tiles, by its prefix.
    pub(crate) fn may_have(&self, prefix: &[u8]) -> bool {
        let entities = self.entities.read().unwrap_or_else(PoisonError::into_inner);
        entities.contains(&hash(prefix))
    }
}

fn hash(prefix: &[u8]) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(prefix)
}
