//! Rows that were scored and are not in the log yet. They are part of the commit that scored them.
//!
//! ```text
//!              written            decided            next
//!  ───────────────┼──────────────────┼──────────────────┼───────►  sequence
//!   in the log:   │  being written:  │  waiting         │
//!   no longer here│  same files again│                  │
//!                 │  after a crash   │                  │
//! ```
//!
//! Rows of `Meta`: `score-log` → [`Position`], `score-log/[sequence of the first row: u64 BE]` → a block, and
//! `score-log-schema/[tag: u64 BE]` → the columns of blocks, as Arrow's IPC writes a schema. A block is a version
//! byte, the tag (u64 BE), and each row as its length (u32 BE) and its bytes.

use std::collections::{HashMap, VecDeque};
use std::ops::{ControlFlow, Range};

use arrow::array::RecordBatch;
use millrace_feature_store::{Commit, Store, StoreError, Table, decode, encode, try_scan};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::rows::{Columns, unpack};
use crate::failure::{Failure, Outcome};

const POSITION: &[u8] = b"score-log";
const BLOCKS: &[u8] = b"score-log/";
/// The first key after all blocks: '0' follows '/'.
const BLOCKS_END: &[u8] = b"score-log0";
const SCHEMAS: &[u8] = b"score-log-schema/";
const SCHEMAS_END: &[u8] = b"score-log-schema0";

const BLOCK_VERSION: u8 = 1;
const BLOCK_HEADER: usize = 1 + 8;

/// Bytes of rows that are written at once, at most: the writer has them in memory, several times over.
const RANGE_BYTES: u64 = 64 << 20;

/// How far the log is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Names the log of this store, and no other.
    pub(crate) log: String,
    /// Every row before it is in the log.
    pub(crate) written: u64,
    /// The rows from `written` to before it are being written, or were when a crash came.
    pub(crate) decided: Option<u64>,
}

impl Position {
    /// The rows that are being written.
    pub(crate) fn range(&self) -> Option<Range<u64>> {
        self.decided.map(|end| self.written..end)
    }
}

/// The blocks that wait.
pub(crate) struct Outbox {
    position: Position,
    blocks: VecDeque<Block>,
    bytes: u64,
}

/// What is known of a block without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    first: u64,
    rows: u64,
    bytes: u64,
    tag: u64,
}

impl Block {
    fn end(&self) -> u64 {
        self.first + self.rows
    }
}

impl Outbox {
    /// The outbox of a store, which is given one where it has none. New rows will have `columns`.
    ///
    /// # Errors
    /// A store that cannot be read or written, or is damaged.
    pub(crate) fn open(store: &dyn Store, columns: &Columns) -> Outcome<Self> {
        let mut commit = Commit::default();
        let position = match store.get(Table::Meta, POSITION)? {
            Some(bytes) => decode(&bytes)?,
            None => {
                let position = Position {
                    log: new_log()?,
                    written: 0,
                    decided: None,
                };
                put_position(&position, &mut commit)?;
                position
            }
        };
        commit.put(
            Table::Meta,
            schema_key(columns.tag),
            columns.bytes.as_slice(),
        );
        store.commit(commit)?;
        let mut outbox = Self {
            position,
            blocks: VecDeque::new(),
            bytes: 0,
        };
        let range = outbox.position.written..u64::MAX;
        each_block(store, range, &mut |block, _| {
            outbox.take_in(block);
            Ok(())
        })?;
        if outbox
            .position
            .decided
            .is_some_and(|end| !outbox.blocks.iter().any(|block| block.end() == end))
        {
            return Err(damaged("rows that were to be written are missing"));
        }
        Ok(outbox)
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Rows that are not in the log yet.
    pub(crate) fn rows(&self) -> u64 {
        self.next() - self.position.written
    }

    /// Their bytes in the store, before compression.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn next(&self) -> u64 {
        self.blocks.back().map_or(self.position.written, Block::end)
    }

    /// Puts rows into a commit, to be told of with [`committed`](Self::committed).
    pub(crate) fn put(&self, rows: &[Vec<u8>], tag: u64, commit: &mut Commit) -> Option<Block> {
        if rows.is_empty() {
            return None;
        }
        let size: usize = rows.iter().map(|row| 4 + row.len()).sum();
        let mut value = Vec::with_capacity(BLOCK_HEADER + size);
        value.push(BLOCK_VERSION);
        value.extend_from_slice(&tag.to_be_bytes());
        for row in rows {
            value.extend_from_slice(&(row.len() as u32).to_be_bytes());
            value.extend_from_slice(row);
        }
        let block = Block {
            first: self.next(),
            rows: rows.len() as u64,
            bytes: value.len() as u64,
            tag,
        };
        commit.put(Table::Meta, block_key(block.first), value);
        Some(block)
    }

    /// The block is in the store.
    pub(crate) fn committed(&mut self, block: Block) {
        self.take_in(block);
    }

    fn take_in(&mut self, block: Block) {
        self.bytes += block.bytes;
        self.blocks.push_back(block);
    }

    /// Decides which rows are written next: those that wait the longest, all of one schema. It holds once the
    /// store was flushed, and then for ever.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub(crate) fn decide(&mut self, store: &dyn Store, max_rows: u64) -> Outcome<()> {
        let Some(oldest) = self.blocks.front() else {
            return Ok(());
        };
        let (mut rows, mut bytes) = (0, 0);
        let fits = |block: &&Block| {
            rows += block.rows;
            bytes += block.bytes;
            // One block is written whatever its size.
            let is_first = block.first == oldest.first;
            is_first || (block.tag == oldest.tag && rows <= max_rows && bytes <= RANGE_BYTES)
        };
        let end = self.blocks.iter().take_while(fits).last().map(Block::end);
        let position = Position {
            decided: end,
            ..self.position.clone()
        };
        self.move_to(store, position, Commit::default())
    }

    /// Removes the rows that were decided upon: they are in the log.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub(crate) fn remove_decided(&mut self, store: &dyn Store) -> Outcome<()> {
        let Some(end) = self.position.decided else {
            return Ok(());
        };
        let is_written = |block: &&Block| block.first < end;
        let written: Vec<Block> = self.blocks.iter().take_while(is_written).copied().collect();
        let mut commit = Commit::default();
        for block in &written {
            commit.delete(Table::Meta, block_key(block.first));
        }
        let position = Position {
            written: end,
            decided: None,
            ..self.position.clone()
        };
        self.move_to(store, position, commit)?;
        self.blocks.drain(..written.len());
        self.bytes -= written.iter().map(|block| block.bytes).sum::<u64>();
        Ok(())
    }

    fn move_to(&mut self, store: &dyn Store, to: Position, mut commit: Commit) -> Outcome<()> {
        put_position(&to, &mut commit)?;
        store.commit(commit)?;
        self.position = to;
        Ok(())
    }
}

/// How far the log of a store is, where it has one.
///
/// # Errors
/// A store that cannot be read.
pub(crate) fn position(store: &dyn Store) -> Outcome<Option<Position>> {
    let bytes = store.get(Table::Meta, POSITION)?;
    Ok(bytes.map(|bytes| decode(&bytes)).transpose()?)
}

/// Shows the rows of a range, block by block.
///
/// # Errors
/// A store that cannot be read or is damaged; what `visit` fails with.
pub(crate) fn read(
    store: &dyn Store,
    range: Range<u64>,
    visit: &mut dyn FnMut(RecordBatch) -> Outcome<()>,
) -> Outcome<()> {
    let schemas = schemas(store)?;
    each_block(store, range, &mut |block, rows| {
        let schema = schemas
            .get(&block.tag)
            .ok_or_else(|| damaged("the columns of a block are missing"))?;
        visit(unpack(schema, rows, block.first)?)
    })
}

/// All schemas that blocks may have, by tag.
fn schemas(store: &dyn Store) -> Outcome<HashMap<u64, Vec<u8>>> {
    let mut schemas = HashMap::new();
    store.scan(
        Table::Meta,
        SCHEMAS,
        SCHEMAS_END,
        false,
        &mut |key, value| {
            if let Some(tag) = key.last_chunk::<8>() {
                schemas.insert(u64::from_be_bytes(*tag), value.to_vec());
            }
            ControlFlow::Continue(())
        },
    )?;
    Ok(schemas)
}

/// Shows the blocks of a range and their rows. They must lie gap to gap.
fn each_block(
    store: &dyn Store,
    range: Range<u64>,
    visit: &mut dyn FnMut(Block, &[&[u8]]) -> Outcome<()>,
) -> Outcome<()> {
    let (from, mut expected) = (block_key(range.start), range.start);
    try_scan(store, Table::Meta, &from, BLOCKS_END, &mut |key, value| {
        let first = key
            .get(BLOCKS.len()..)
            .and_then(|number| <[u8; 8]>::try_from(number).ok());
        let first = first
            .map(u64::from_be_bytes)
            .ok_or_else(|| damaged("a key"))?;
        if first >= range.end {
            return Ok(ControlFlow::Break(()));
        }
        if first != expected {
            return Err(damaged(&format!("row {expected} is missing")));
        }
        let (tag, rows) =
            parts(value).ok_or_else(|| damaged(&format!("the block of row {first}")))?;
        let block = Block {
            first,
            rows: rows.len() as u64,
            bytes: value.len() as u64,
            tag,
        };
        expected = block.end();
        visit(block, &rows).map(ControlFlow::Continue)
    })
}

/// A block's tag and rows.
fn parts(value: &[u8]) -> Option<(u64, Vec<&[u8]>)> {
    let (header, mut rest) = value.split_at_checked(BLOCK_HEADER)?;
    let (version, tag) = header.split_first()?;
    if *version != BLOCK_VERSION {
        return None;
    }
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (row, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rows.push(row);
        rest = after;
    }
    Some((u64::from_be_bytes(tag.try_into().ok()?), rows))
}

fn put_position(position: &Position, commit: &mut Commit) -> Result<(), StoreError> {
    commit.put(Table::Meta, POSITION, encode(position)?);
    Ok(())
}

fn block_key(first: u64) -> Vec<u8> {
    [BLOCKS, &first.to_be_bytes()].concat()
}

fn schema_key(tag: u64) -> Vec<u8> {
    [SCHEMAS, &tag.to_be_bytes()].concat()
}

/// A name that no other store draws.
fn new_log() -> Outcome<String> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Failure::failed("the system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn damaged(what: &str) -> Failure {
    Failure::failed(format!("the outbox of the score log is damaged: {what}"))
}
