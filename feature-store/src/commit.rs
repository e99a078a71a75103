//! What is written: rows of five tables and the Kafka offsets that they reflect, as one unit.
//!
//! Rows are checked here, before any store sees them, so that every store refuses the same ones.

use serde::{Deserialize, Serialize};

use crate::{StoreError, codec, keys};

/// The tables of a store. Keys are bytes in lexicographic order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// Events by view, entity and time: keys as [`event_key`](crate::event_key) makes them.
    Events,
    /// Partial aggregates of an entity's events: keys as [`tile_key`](crate::tile_key) makes them.
    Tiles,
    /// What was scored, by the caller's key. A value starts with its time as
    /// [`time_bytes`](crate::time_bytes).
    Scored,
    /// Examples to learn from. Values as in [`Table::Scored`].
    Examples,
    /// Small records of the caller, and the store's own under keys that start with a zero byte.
    Meta,
}

impl Table {
    pub(crate) const ALL: [Self; 5] = [
        Self::Events,
        Self::Tiles,
        Self::Scored,
        Self::Examples,
        Self::Meta,
    ];

    /// Those whose keys start with the prefix of an entity of a view.
    pub(crate) const BY_ENTITY: [Self; 2] = [Self::Events, Self::Tiles];

    /// Whether the keys start with the prefix of an entity.
    pub(crate) fn is_by_entity(self) -> bool {
        Self::BY_ENTITY.contains(&self)
    }

    /// The name in files, metrics and messages; part of the format on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Tiles => "tiles",
            Self::Scored => "scored",
            Self::Examples => "examples",
            Self::Meta => "meta",
        }
    }
}

/// Where reading of one Kafka partition goes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offset {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The offset of the first message that the store does not reflect yet.
    pub next: i64,
}

/// One atomic change. It applies in this order: deletes, puts, offsets; of two puts of one key the
/// later one stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Rows to write: table, key, value.
    pub puts: Vec<(Table, Vec<u8>, Vec<u8>)>,
    /// Rows to remove: table, key. Removing what is not there is fine.
    pub deletes: Vec<(Table, Vec<u8>)>,
    /// The positions that the rows of this commit reflect.
    pub offsets: Vec<Offset>,
}

impl Commit {
    /// Adds a row.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.puts.push((table, key.into(), value.into()));
    }

    /// Removes a row.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.deletes.push((table, key.into()));
    }

    /// Moves a partition's position.
    pub fn offset(&mut self, topic: impl Into<String>, partition: i32, next: i64) {
        self.offsets.push(Offset {
            topic: topic.into(),
            partition,
            next,
        });
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.offsets.is_empty()
    }

    /// Checks every row and turns the offsets into rows of [`Table::Meta`], which come last.
    pub(crate) fn offset_rows(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        for (table, key, value) in &self.puts {
            check_row(*table, key, Some(value))?;
        }
        for (table, key) in &self.deletes {
            check_row(*table, key, None)?;
        }
        self.offsets
            .iter()
            .map(|offset| Ok((offset_key(offset), codec::encode(offset)?)))
            .collect()
    }
}

/// The prefix of all offset records; topic names hold no zero byte, so keys never collide.
pub(crate) const OFFSET_PREFIX: &[u8] = b"\0offset/";
/// The first key after all offset records: '0' follows '/'.
pub(crate) const OFFSET_END: &[u8] = b"\0offset0";

fn offset_key(offset: &Offset) -> Vec<u8> {
    let partition = offset.partition.to_be_bytes();
    [OFFSET_PREFIX, offset.topic.as_bytes(), b"\0", &partition].concat()
}

fn check_row(table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
    let reason = match table {
        Table::Events if !keys::is_event_key(key) => "an event's key comes from event_key",
        Table::Tiles if !keys::is_tile_key(key) => "a tile's key comes from tile_key",
        Table::Scored | Table::Examples if value.is_some_and(|value| value.len() < 8) => {
            "a value starts with its time, as time_bytes"
        }
        Table::Meta if key.first() == Some(&0) => "keys that start with a zero byte are reserved",
        _ => return Ok(()),
    };
    Err(StoreError::BadRow {
        table: table.name(),
        key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
        reason,
    })
}
