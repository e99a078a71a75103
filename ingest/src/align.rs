//! Rows of many partitions leave in event-time order, as far as order can be known. Pure: the clock is a parameter,
//! and Kafka does not occur.
//!
//! Inside a partition, order is Kafka's. Between partitions there is none: after a stop, one partition may deliver
//! this morning's events while another still delivers last week's. Features computed then would miss what was not
//! read yet. So rows are released step by step, each up to a *frontier*:
//!
//! ```text
//!   tx/0      ──1──2──────5──────9   newest buffered: 9
//!   tx/1      ──1────3──4────7·······newest buffered: 7, more to come  ─► frontier 7
//!   labels/0  ─────2──────5──|       at its end: holds nobody back
//!                            released in this step: all up to 7
//! ```
//!
//! - The frontier is the smallest of the newest buffered event times of the partitions that are not at their end.
//!   It is one for all streams, so when a step is applied before the next one, every event older than t is in the
//!   state before an event of a later step at t is seen.
//! - A partition at its end has all its rows in the buffer, so it does not bound the frontier.
//! - A partition that is behind and has nothing buffered stops the frontier, until `patience` has passed. Then it
//!   is ignored until it delivers. (Kafka Streams has the same rule as `max.task.idle.ms`.)
//! - Late rows, those not newer than what was already released, leave at once.
//! - A step has at most `max_rows` rows, and ends with the row whose message brings it to `max_bytes`: those with the
//!   smallest event times.
//! - A deletion has no time. It leaves with the first row behind it, or at once if all before it have left.
//!
//! Memory: a partition with `high_rows` or more, or with `high_bytes` of messages, is full ([`Align::room`] is zero) until
//! it is below `low_rows` and `low_bytes`. Bytes are those of the messages: what is decoded of one has no more text than it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;

use crate::deletion::Deletion;

/// The rule's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlignSettings {
    /// How long a partition that is behind and delivers nothing may hold the others back.
    pub patience: Duration,
    /// The most rows of one step. At least 1.
    pub max_rows: usize,
    /// A partition with this many buffered rows takes no more ...
    pub high_rows: usize,
    /// ... until it has fewer than this many.
    pub low_rows: usize,
    /// A step ends with the row whose message brings it to so many bytes.
    pub max_bytes: usize,
    /// A partition whose buffered messages have so many bytes takes no more ...
    pub high_bytes: usize,
    /// ... until they have fewer than this many.
    pub low_bytes: usize,
}

/// One partition of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The stream's index.
    pub stream: usize,
    /// The topic's partition.
    pub partition: i32,
}

/// A header of a row's message that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowHeader {
    /// The row in its batch.
    pub row: usize,
    /// The header's name.
    pub name: &'static str,
    /// Its value.
    pub value: Vec<u8>,
}

/// The time of an entry that is a deletion: before that of any event.
pub const NO_TIME: i64 = i64::MIN;

/// Decoded messages of one partition, in its order: rows, and deletions between them. Times, offsets, Kafka timestamps and
/// sizes have one entry a message.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The rows, those alone.
    pub batch: RecordBatch,
    /// Their event times, in microseconds since 1970; [`NO_TIME`] of a deletion.
    pub times: Vec<i64>,
    /// Their Kafka offsets.
    pub offsets: Vec<i64>,
    /// Their Kafka timestamps, in milliseconds since 1970; -1 where there is none.
    pub kafka_ts: Vec<i64>,
    /// How many bytes their messages have.
    pub sizes: Vec<usize>,
    /// Headers of their messages, by rising entry, which stands in the place of the row; most have none.
    pub headers: Vec<RowHeader>,
    /// Which entries are deletions, rising, and the ids that they name.
    pub deletions: Vec<(usize, String)>,
}

/// Rows of one stream that leave together: each partition's in its order; between partitions, no order is promised.
#[derive(Clone, Debug)]
pub struct StreamBatch {
    /// The stream's index.
    pub stream: usize,
    /// The rows.
    pub batch: RecordBatch,
    /// For each row, its partition and offset.
    pub origin: Vec<(i32, i64)>,
    /// For each row, its Kafka timestamp in milliseconds since 1970; -1 where there is none.
    pub kafka_ts: Vec<i64>,
    /// Headers of their messages that were kept, by rising row; most rows have none.
    pub headers: Vec<RowHeader>,
    /// Events that are no more, each partition's in its order.
    pub deletions: Vec<Deletion>,
}

/// One step.
#[derive(Clone, Debug, Default)]
pub struct Released {
    /// The rows, by stream. At most one batch a stream.
    pub batches: Vec<StreamBatch>,
    /// The partitions whose position has moved, with the offset of the first message that is neither released nor
    /// bad. It moves without rows where only bad messages were read.
    pub positions: Vec<(Source, i64)>,
    /// How many of the rows were late.
    pub late_rows: usize,
    /// The partitions with which patience ended in this step.
    pub out_of_patience: Vec<Source>,
}

/// The buffers of all partitions, and the rule.
#[derive(Debug)]
pub struct Align {
    settings: AlignSettings,
    lanes: BTreeMap<Source, Lane>,
    /// The newest event time that was released. Rows up to it are late, and leave at once.
    released_until: i64,
}

/// One partition's buffer.
#[derive(Debug)]
struct Lane {
    chunks: VecDeque<Chunk>,
    buffered: usize,
    /// Of the messages that are buffered.
    bytes: usize,
    /// The offset after the last message that was read.
    read_to: i64,
    /// The position that the caller knows.
    reported: Option<i64>,
    at_end: bool,
    full: bool,
    waiting: Waiting,
}

/// How long a partition has been behind with nothing buffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    No,
    Since(Duration),
    TooLong,
}

#[derive(Debug)]
struct Chunk {
    rows: Rows,
    /// Rows before this one have left.
    start: usize,
    newest: i64,
}

/// A place in a lane while a step is chosen.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    chunk: usize,
    row: usize,
    taken: usize,
}

/// What one step has come to while it is chosen.
#[derive(Debug)]
struct Choice {
    left: usize,
    bytes_left: usize,
    late_before: i64,
    late_rows: usize,
    newest: i64,
}

impl Align {
    /// No partitions yet.
    pub fn new(settings: AlignSettings) -> Self {
        Self {
            settings,
            lanes: BTreeMap::new(),
            released_until: i64::MIN,
        }
    }

    /// A partition joins, to be read from the offset `next`. `reported` is the position that the caller has for it;
    /// where it differs from `next`, the first step reports `next`.
    pub fn add(&mut self, source: Source, next: i64, reported: Option<i64>) {
        self.lanes.insert(source, Lane::new(next, reported));
    }

    /// A partition leaves, with what it had buffered.
    pub fn remove(&mut self, source: Source) {
        self.lanes.remove(&source);
    }

    /// Takes rows that were read from a partition, up to (not including) the offset `read_to`. Rows of a partition
    /// that was not added are dropped.
    pub fn push(&mut self, source: Source, rows: Rows, read_to: i64) {
        if let Some(lane) = self.lanes.get_mut(&source) {
            lane.push(rows, read_to);
        }
    }

    /// A partition is read from the offset `next` from now on. What it has buffered stays.
    pub fn seek(&mut self, source: Source, next: i64) {
        if let Some(lane) = self.lanes.get_mut(&source) {
            lane.read_to = next;
            lane.at_end = false;
        }
    }

    /// The partition has no more messages right now.
    pub fn at_end(&mut self, source: Source) {
        if let Some(lane) = self.lanes.get_mut(&source) {
            lane.at_end = true;
            lane.waiting = Waiting::No;
        }
    }

    /// How many rows a partition may still take; zero while it is full.
    pub fn room(&mut self, source: Source) -> usize {
        let settings = self.settings;
        self.lanes
            .get_mut(&source)
            .map_or(0, |lane| lane.room(settings))
    }

    /// Whether every partition is at its end, with nothing buffered.
    pub fn caught_up(&self) -> bool {
        self.lanes.values().all(Lane::caught_up)
    }

    /// Whether this partition is at its end, with nothing buffered.
    pub fn is_caught_up(&self, source: Source) -> bool {
        self.lanes.get(&source).is_some_and(Lane::caught_up)
    }

    /// The offset of the first message of a partition that is neither released nor bad.
    pub fn position(&self, source: Source) -> Option<i64> {
        self.lanes.get(&source).map(Lane::position)
    }

    /// Changes how many rows a step has at most, from the next one on.
    pub fn set_max_rows(&mut self, max_rows: usize) {
        self.settings.max_rows = max_rows.max(1);
    }

    /// The rows that wait, in all partitions.
    pub fn buffered(&self) -> usize {
        self.lanes.values().map(|lane| lane.buffered).sum()
    }

    /// Releases one step. `clock` is any clock that never goes back.
    ///
    /// # Errors
    /// When the batches of one stream do not have one schema.
    pub fn release(&mut self, clock: Duration) -> Result<Released, ArrowError> {
        let mut released = Released::default();
        let frontier = self.frontier(clock, &mut released.out_of_patience);
        let counts = self.choose(frontier, &mut released);
        released.batches = self.take(&counts)?;
        released.positions = self.moved();
        Ok(released)
    }

    fn frontier(&mut self, clock: Duration, out_of_patience: &mut Vec<Source>) -> i64 {
        let mut frontier = i64::MAX;
        for (source, lane) in &mut self.lanes {
            let was = lane.waiting;
            frontier = frontier.min(lane.bound(clock, self.settings.patience));
            if lane.waiting == Waiting::TooLong && was != Waiting::TooLong {
                out_of_patience.push(*source);
            }
        }
        frontier.max(self.released_until)
    }

    /// How many rows of each partition leave: always the partition with the smallest next event time first.
    fn choose(&mut self, frontier: i64, released: &mut Released) -> Vec<(Source, usize)> {
        let mut cursors: BTreeMap<Source, Cursor> = BTreeMap::new();
        let mut heads = BinaryHeap::new();
        for (source, lane) in &self.lanes {
            let cursor = lane.cursor();
            heads.extend(lane.time_at(cursor).map(|time| Reverse((time, *source))));
            cursors.insert(*source, cursor);
        }
        let mut choice = Choice {
            left: self.settings.max_rows,
            bytes_left: self.settings.max_bytes,
            late_before: self.released_until,
            late_rows: 0,
            newest: self.released_until,
        };
        while !choice.is_full()
            && let Some(Reverse((time, source))) = heads.pop()
            && time <= frontier
        {
            let next = heads.peek().map_or(frontier, |Reverse((time, _))| *time);
            let (Some(lane), Some(cursor)) = (self.lanes.get(&source), cursors.get_mut(&source))
            else {
                continue;
            };
            let head = lane.advance(cursor, next.min(frontier), &mut choice);
            heads.extend(head.map(|time| Reverse((time, source))));
        }
        self.released_until = choice.newest;
        released.late_rows = choice.late_rows;
        let counts = cursors.into_iter();
        counts
            .map(|(source, cursor)| (source, cursor.taken))
            .collect()
    }

    fn take(&mut self, counts: &[(Source, usize)]) -> Result<Vec<StreamBatch>, ArrowError> {
        let mut streams: BTreeMap<usize, Vec<(i32, Rows)>> = BTreeMap::new();
        for (source, count) in counts {
            if let Some(lane) = self.lanes.get_mut(source) {
                let parts = lane.take(*count).into_iter();
                let parts = parts.map(|rows| (source.partition, rows));
                streams.entry(source.stream).or_default().extend(parts);
            }
        }
        streams.retain(|_, parts| !parts.is_empty());
        streams
            .into_iter()
            .map(|(stream, parts)| join(stream, parts))
            .collect()
    }

    fn moved(&mut self) -> Vec<(Source, i64)> {
        let mut moved = Vec::new();
        for (source, lane) in &mut self.lanes {
            let position = lane.position();
            if lane.reported.replace(position) != Some(position) {
                moved.push((*source, position));
            }
        }
        moved
    }
}

impl Choice {
    fn is_full(&self) -> bool {
        self.left == 0 || self.bytes_left == 0
    }
}

impl Lane {
    fn new(next: i64, reported: Option<i64>) -> Self {
        Self {
            chunks: VecDeque::new(),
            buffered: 0,
            bytes: 0,
            read_to: next,
            reported,
            at_end: false,
            full: false,
            waiting: Waiting::No,
        }
    }

    fn push(&mut self, rows: Rows, read_to: i64) {
        self.read_to = read_to;
        self.at_end = false;
        self.waiting = Waiting::No;
        self.buffered += rows.times.len();
        self.bytes += rows.sizes.iter().sum::<usize>();
        if let Some(newest) = rows.times.iter().copied().max() {
            self.chunks.push_back(Chunk {
                rows,
                start: 0,
                newest,
            });
        }
    }

    fn room(&mut self, settings: AlignSettings) -> usize {
        let (rows, bytes) = match self.full {
            true => (settings.low_rows, settings.low_bytes),
            false => (settings.high_rows, settings.high_bytes),
        };
        self.full = self.buffered >= rows || self.bytes >= bytes;
        if self.full {
            0
        } else {
            settings.high_rows.saturating_sub(self.buffered).max(1)
        }
    }

    fn caught_up(&self) -> bool {
        self.at_end && self.buffered == 0
    }

    fn position(&self) -> i64 {
        let front = self.chunks.front();
        front
            .and_then(|chunk| chunk.rows.offsets.get(chunk.start).copied())
            .unwrap_or(self.read_to)
    }

    /// How far this partition lets the frontier go.
    fn bound(&mut self, clock: Duration, patience: Duration) -> i64 {
        if self.at_end {
            return i64::MAX;
        }
        if let Some(newest) = self.chunks.iter().map(|chunk| chunk.newest).max() {
            return newest;
        }
        self.waiting = match self.waiting {
            Waiting::No => Waiting::Since(clock),
            Waiting::Since(start) if clock.saturating_sub(start) >= patience => Waiting::TooLong,
            waiting => waiting,
        };
        match self.waiting {
            Waiting::TooLong => i64::MAX,
            Waiting::No | Waiting::Since(_) => i64::MIN,
        }
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            chunk: 0,
            row: self.chunks.front().map_or(0, |chunk| chunk.start),
            taken: 0,
        }
    }

    fn time_at(&self, cursor: Cursor) -> Option<i64> {
        let chunk = self.chunks.get(cursor.chunk)?;
        chunk.rows.times.get(cursor.row).copied()
    }

    fn size_at(&self, cursor: Cursor) -> usize {
        let chunk = self.chunks.get(cursor.chunk);
        let size = chunk.and_then(|chunk| chunk.rows.sizes.get(cursor.row));
        size.copied().unwrap_or(0)
    }

    /// Moves the cursor over the rows up to the event time `bound`, and gives the time of the row where it stops.
    fn advance(&self, cursor: &mut Cursor, bound: i64, choice: &mut Choice) -> Option<i64> {
        while let Some(time) = self.time_at(*cursor) {
            if time > bound || choice.is_full() {
                return Some(time);
            }
            choice.left -= 1;
            choice.bytes_left = choice.bytes_left.saturating_sub(self.size_at(*cursor));
            choice.late_rows += usize::from(time < choice.late_before && time != NO_TIME);
            choice.newest = choice.newest.max(time);
            cursor.taken += 1;
            cursor.row += 1;
            let chunk_ends = self
                .chunks
                .get(cursor.chunk)
                .is_some_and(|chunk| cursor.row == chunk.rows.times.len());
            if chunk_ends {
                cursor.chunk += 1;
                cursor.row = 0;
            }
        }
        None
    }

    /// Removes the first `count` rows.
    fn take(&mut self, mut count: usize) -> Vec<Rows> {
        let mut parts = Vec::new();
        while count > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            let part = chunk.take(count);
            count -= part.times.len();
            self.buffered -= part.times.len();
            self.bytes -= part.sizes.iter().sum::<usize>();
            if chunk.start == chunk.rows.times.len() {
                self.chunks.pop_front();
            }
            parts.push(part);
        }
        parts
    }
}

impl Chunk {
    /// The next rows, at most `count`.
    fn take(&mut self, count: usize) -> Rows {
        let length = count.min(self.rows.times.len() - self.start);
        let range = self.start..self.start + length;
        self.start = range.end;
        let deletions = &self.rows.deletions;
        let before = self.rows.deletions_before(range.start);
        let until = self.rows.deletions_before(range.end);
        let within = deletions[before..until].iter();
        Rows {
            batch: self
                .rows
                .batch
                .slice(range.start - before, length - (until - before)),
            deletions: within
                .map(|(entry, id)| (entry - range.start, id.clone()))
                .collect(),
            times: self.rows.times[range.clone()].to_vec(),
            offsets: self.rows.offsets[range.clone()].to_vec(),
            kafka_ts: self.rows.kafka_ts[range.clone()].to_vec(),
            sizes: self.rows.sizes[range.clone()].to_vec(),
            headers: self.headers(range),
        }
    }
}

impl Chunk {
    /// The headers of some rows, as of a batch of those alone.
    fn headers(&self, rows: Range<usize>) -> Vec<RowHeader> {
        let headers = &self.rows.headers;
        let from = headers.partition_point(|header| header.row < rows.start);
        let to = headers.partition_point(|header| header.row < rows.end);
        let headers = headers[from..to].iter();
        headers
            .map(|header| RowHeader {
                row: header.row - rows.start,
                ..header.clone()
            })
            .collect()
    }
}

fn join(stream: usize, parts: Vec<(i32, Rows)>) -> Result<StreamBatch, ArrowError> {
    let schema = parts[0].1.batch.schema();
    let mut joined = StreamBatch {
        stream,
        batch: concat_batches(&schema, parts.iter().map(|(_, rows)| &rows.batch))?,
        origin: Vec::new(),
        kafka_ts: Vec::new(),
        headers: Vec::new(),
        deletions: Vec::new(),
    };
    for (partition, rows) in parts {
        let first = joined.origin.len();
        for entry in rows.events() {
            joined.origin.push((partition, rows.offsets[entry]));
            joined.kafka_ts.push(rows.kafka_ts[entry]);
        }
        let of_events = rows
            .headers
            .iter()
            .filter(|header| rows.is_event(header.row));
        joined.headers.extend(of_events.map(|header| RowHeader {
            row: first + header.row - rows.deletions_before(header.row),
            ..header.clone()
        }));
        let deletions = rows.deletions.into_iter();
        joined
            .deletions
            .extend(deletions.map(|(entry, id)| Deletion {
                partition,
                offset: rows.offsets[entry],
                id,
            }));
    }
    Ok(joined)
}

impl Rows {
    /// The entries that are rows.
    fn events(&self) -> impl Iterator<Item = usize> {
        (0..self.times.len()).filter(|entry| self.is_event(*entry))
    }

    fn is_event(&self, entry: usize) -> bool {
        self.times[entry] != NO_TIME
    }

    fn deletions_before(&self, entry: usize) -> usize {
        self.deletions.partition_point(|(other, _)| *other < entry)
    }
}

#[cfg(test)]
mod tests;
