//! The keys of [`Table::Events`](crate::Table::Events): an entity's events lie together, in time
//! order.
//!
//! ```text
//!  ┌─────────┬─────────────────────────┬─────────┬──────────────────────┬───────────┐
//!  │ view id │ entity, 00 as 00 FF     │ 00 01   │ event time, µs       │ unique    │
//!  │ u32 BE  │ any length              │ end     │ i64 BE, sign flipped │ 16 bytes  │
//!  └─────────┴─────────────────────────┴─────────┴──────────────────────┴───────────┘
//!  ╰────────────── prefix: one entity ───────────╯
//! ```
//!
//! The escape and the end mark keep one entity's prefix from being the start of another's. Without
//! them the events of entities such as `A` and `A\x80` would lie interleaved, and a scan that stops
//! at the first foreign key, which is how RocksDB reads one prefix, would miss events. The order of
//! entities is the order of their bytes.
//!
//! The keys of [`Table::Tiles`](crate::Table::Tiles) have the same prefix. After it stand the level (u8, all bits
//! flipped, so that the highest level comes first) and the tile's first µs as the time of an event.

use std::ops::Range;

pub(crate) const VIEW_BYTES: usize = 4;
const TIME_BYTES: usize = 8;
const UNIQUE_BYTES: usize = 16;
pub(crate) const SUFFIX_BYTES: usize = TIME_BYTES + UNIQUE_BYTES;
const TILE_SUFFIX_BYTES: usize = 1 + TIME_BYTES;
const ESCAPED_ZERO: u8 = 0xFF;
const END: u8 = 0x01;

/// The key of one event. `entity` is any bytes; `unique` tells apart events of one microsecond, and
/// is the same whenever the same event is delivered, so that a duplicate lands on itself.
#[must_use]
pub fn event_key(view: u32, entity: &[u8], time_us: i64, unique: &[u8; UNIQUE_BYTES]) -> Vec<u8> {
    let mut key = entity_prefix(view, entity);
    key.extend_from_slice(&time_bytes(time_us));
    key.extend_from_slice(unique);
    key
}

/// What all event keys of one entity in one view start with, and no others.
#[must_use]
pub fn entity_prefix(view: u32, entity: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(VIEW_BYTES + entity.len() + 2 + SUFFIX_BYTES);
    key.extend_from_slice(&view.to_be_bytes());
    for &byte in entity {
        key.push(byte);
        if byte == 0 {
            key.push(ESCAPED_ZERO);
        }
    }
    key.extend_from_slice(&[0, END]);
    key
}

/// The bounds, first and past the last, of all rows of a view.
#[must_use]
pub fn view_range(view: u32) -> (Vec<u8>, Vec<u8>) {
    let from = view.to_be_bytes().to_vec();
    let to = match view.checked_add(1) {
        Some(next) => next.to_be_bytes().to_vec(),
        // Past every key, of which none is longer than this.
        None => vec![0xFF; VIEW_BYTES + (1 << 16)],
    };
    (from, to)
}

/// The bounds, first and past the last, of all events of one entity.
#[must_use]
pub fn entity_range(view: u32, entity: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let prefix = entity_prefix(view, entity);
    let end = after_prefix(&prefix);
    (prefix, end)
}

/// The bounds, first and past the last, of one entity's events with
/// `times_us.start <= time < times_us.end`, in microseconds.
#[must_use]
pub fn event_range(view: u32, entity: &[u8], times_us: Range<i64>) -> (Vec<u8>, Vec<u8>) {
    let mut from = entity_prefix(view, entity);
    let mut to = from.clone();
    from.extend_from_slice(&time_bytes(times_us.start));
    to.extend_from_slice(&time_bytes(times_us.end));
    (from, to)
}

/// The key of the tile of a level that starts at `start_us`.
#[must_use]
pub fn tile_key(view: u32, entity: &[u8], level: u8, start_us: i64) -> Vec<u8> {
    let mut key = entity_prefix(view, entity);
    key.push(!level);
    key.extend_from_slice(&time_bytes(start_us));
    key
}

/// The bounds, first and past the last, of one entity's tiles of a level with
/// `starts_us.start <= start < starts_us.end`.
#[must_use]
pub fn tile_range(
    view: u32,
    entity: &[u8],
    level: u8,
    starts_us: Range<i64>,
) -> (Vec<u8>, Vec<u8>) {
    let key = |start_us| tile_key(view, entity, level, start_us);
    (key(starts_us.start), key(starts_us.end))
}

/// The level and the first µs of a tile, from its key.
#[must_use]
pub fn tile_of(key: &[u8]) -> Option<(u8, i64)> {
    let (level, start) = key
        .get(key.len().checked_sub(TILE_SUFFIX_BYTES)?..)?
        .split_first()?;
    Some((!level, time_from_bytes(start)?))
}

/// An event's key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventKey {
    /// The view's id.
    pub view: u32,
    /// The entity's bytes, as they were given to [`event_key`].
    pub entity: Vec<u8>,
    /// The event time, in microseconds since 1970 UTC.
    pub time_us: i64,
    /// What tells apart events of one microsecond.
    pub unique: [u8; UNIQUE_BYTES],
}

impl EventKey {
    /// The parts of `key`; none where [`event_key`] did not make it.
    #[must_use]
    pub fn read(key: &[u8]) -> Option<Self> {
        let (prefix, suffix) = key.split_at(prefix_len(key)?);
        let (time, unique) = suffix.split_at_checked(TIME_BYTES)?;
        Some(Self {
            view: view_of(prefix)?,
            entity: unescape(prefix.get(VIEW_BYTES..prefix.len() - 2)?),
            time_us: time_from_bytes(time)?,
            unique: unique.try_into().ok()?,
        })
    }
}

/// The event time in an event's key, in microseconds, without taking the rest apart.
#[must_use]
pub fn event_time_us(key: &[u8]) -> Option<i64> {
    time_from_bytes(key.get(key.len().checked_sub(SUFFIX_BYTES)?..)?)
}

/// A time in microseconds as eight bytes that sort as the times do: big endian, sign flipped.
#[must_use]
pub const fn time_bytes(time_us: i64) -> [u8; TIME_BYTES] {
    (time_us ^ i64::MIN).to_be_bytes()
}

/// The time that `bytes` start with; none where there are fewer than eight.
#[must_use]
pub fn time_from_bytes(bytes: &[u8]) -> Option<i64> {
    let time = bytes.first_chunk::<TIME_BYTES>()?;
    Some(i64::from_be_bytes(*time) ^ i64::MIN)
}

/// The view in an event's key.
pub(crate) fn view_of(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*key.first_chunk()?))
}

/// Whether [`event_key`] could have made `key`.
pub(crate) fn is_event_key(key: &[u8]) -> bool {
    prefix_len(key).is_some_and(|length| key.len() == length + SUFFIX_BYTES)
}

/// Whether [`tile_key`] could have made `key`.
pub(crate) fn is_tile_key(key: &[u8]) -> bool {
    prefix_len(key).is_some_and(|length| key.len() == length + TILE_SUFFIX_BYTES)
}

/// The length of the entity's prefix in `key`, which may be a whole key or a bound; none where it
/// holds no end mark.
pub(crate) fn prefix_len(key: &[u8]) -> Option<usize> {
    let mut at = VIEW_BYTES;
    loop {
        at += match (key.get(at)?, key.get(at + 1)) {
            (0, Some(&END)) => return Some(at + 2),
            (0, Some(&ESCAPED_ZERO)) => 2,
            (0, _) => return None,
            _ => 1,
        };
    }
}

/// The first key after all that start with an entity's `prefix`, which ends in the end mark.
pub(crate) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    end.pop();
    end.push(END + 1);
    end
}

fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut entity = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(&byte) = bytes.next() {
        entity.push(byte);
        if byte == 0 {
            bytes.next();
        }
    }
    entity
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    /// Bytes that are most likely to be confused with escapes, end marks and times.
    fn entity(random: &mut Pcg64Mcg) -> Vec<u8> {
        let length = random.random_range(0..5);
        (0..length)
            .map(|_| [0x00, 0x01, 0x02, 0x7F, 0x80, 0xFF][random.random_range(0..6)])
            .collect()
    }

    fn time(random: &mut Pcg64Mcg) -> i64 {
        match random.random_range(0..5) {
            0 => i64::MIN,
            1 => i64::MAX,
            2 => random.random_range(-2..3),
            _ => random.random(),
        }
    }

    #[test]
    fn keys_come_apart_and_sort_as_their_parts() {
        let seed = 11;
        println!("seed {seed}");
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut keys: Vec<(EventKey, Vec<u8>)> = (0..2_000)
            .map(|_| {
                let parts = EventKey {
                    view: [0, 1, 256, u32::MAX][random.random_range(0..4)],
                    entity: entity(&mut random),
                    time_us: time(&mut random),
                    unique: random.random(),
                };
                let key = event_key(parts.view, &parts.entity, parts.time_us, &parts.unique);
                (parts, key)
            })
            .collect();
        for (parts, key) in &keys {
            assert_eq!(EventKey::read(key).as_ref(), Some(parts));
            assert_eq!(event_time_us(key), Some(parts.time_us));
            assert!(is_event_key(key));
        }
        keys.sort_by(|(_, left), (_, right)| left.cmp(right));
        assert!(keys.is_sorted_by_key(|(parts, _)| (
            parts.view,
            parts.entity.clone(),
            parts.time_us,
            parts.unique
        )));
    }

    #[test]
    fn ranges_hold_their_entity_alone() {
        let seed = 12;
        println!("seed {seed}");
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        for _ in 0..5_000 {
            let (wanted, other) = (entity(&mut random), entity(&mut random));
            let time_us = time(&mut random);
            let key = event_key(7, &other, time_us, &random.random());
            let (from, to) = entity_range(7, &wanted);
            assert_eq!(from <= key && key < to, wanted == other);
            assert_eq!(key.starts_with(&from), wanted == other);

            let times_us = time(&mut random)..time(&mut random);
            let inside = wanted == other && times_us.contains(&time_us);
            let (from, to) = event_range(7, &wanted, times_us);
            assert_eq!(from <= key && key < to, inside);
        }
    }

    #[test]
    fn foreign_keys_are_none() {
        let whole = event_key(1, b"card", 5, &[0; 16]);
        for length in 0..whole.len() {
            assert!(!is_event_key(&whole[..length]), "cut to {length}");
            assert_eq!(EventKey::read(&whole[..length]), None);
        }
        let mut unescaped = whole;
        unescaped[5] = 0;
        assert!(!is_event_key(&unescaped));
        assert_eq!(event_time_us(&[0; 23]), None);
        assert_eq!(time_from_bytes(&[0; 7]), None);
    }

    #[test]
    fn layout_is_pinned() {
        let key = event_key(2, b"a\0b", -1, &[0xAB; 16]);
        let mut expected = vec![0, 0, 0, 2, b'a', 0x00, 0xFF, b'b', 0x00, 0x01];
        expected.extend([0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        expected.extend([0xAB; 16]);
        assert_eq!(key, expected);

        let key = tile_key(2, b"a\0b", 3, -1);
        let mut expected = vec![0, 0, 0, 2, b'a', 0x00, 0xFF, b'b', 0x00, 0x01, 0xFC];
        expected.extend([0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(key, expected);
        assert_eq!(tile_of(&key), Some((3, -1)));
        assert!(is_tile_key(&key) && !is_event_key(&key));
        // The highest level comes first, then time.
        assert!(tile_key(2, b"x", 4, 9) < tile_key(2, b"x", 3, -9));
        assert!(tile_key(2, b"x", 3, -9) < tile_key(2, b"x", 3, 9));
    }
}
