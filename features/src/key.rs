//! What tells apart an entity's events of one microsecond.
//!
//! It comes from the event's id where its stream names one, so that a second delivery lands on the first, and from
//! the event's place in the topic where it does not. How it becomes part of a key is the store's business.

use xxhash_rust::xxh3::xxh3_128;

/// For an event with an id.
pub(crate) fn unique_of_id(id: &[u8]) -> [u8; 16] {
    xxh3_128(id).to_be_bytes()
}

/// For an event that is known by its place only.
pub(crate) fn unique_of_place(partition: i32, offset: i64) -> [u8; 16] {
    ((u128::from(partition as u32) << 64) | u128::from(offset as u64)).to_be_bytes()
}
