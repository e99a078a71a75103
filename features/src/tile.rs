//! Tiles: partial aggregates over the events of aligned spans of time, so that what a look-up reads grows with the
//! logarithm of its window.
//!
//! Time is cut into spans, each level's eight times as long as those of the level below. In an exact view the lowest
//! are 2^20 µs (about a second): 8 s, 67 s, 9 min, 72 min, 10 h, 3 days, 25 days, … In a view with a resolution they
//! are its steps, so that its frames' tails are ends of spans. An entity's span that holds at least
//! [`FeatureView::dense`] events is a **node**. A frame is answered from the largest nodes that lie inside it and
//! the events between them, in the order of time; a node from its own largest nodes and the events between them.
//!
//! Which spans are nodes depends on the events alone, so an answer has the same bits whether a node was read from
//! the store or made on the spot: a stored node, a *tile*, is a cache. It may be missing; it must not be stale. A
//! *total* is a node that took the place of its events (`fold.rs`): it is no cache.
//!
//! [`FeatureView::dense`]: crate::FeatureView::dense

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{DataFusionError, ScalarValue};

/// Part of a tile's tag: raise it when the rules of nodes or the bytes of a tile change.
const FORMAT: &[u8] = b"millrace.tile.2";

/// The widest span of a ladder, µs: more than 2,000 years.
const WIDEST_US: i64 = 1 << 56;

/// A level's width in µs, in an exact view.
#[must_use]
pub const fn tile_width_us(level: u8) -> i64 {
    Ladder::EXACT.width_us(level)
}

/// How time is cut into spans: level 0 in those of `unit_us` from 1970 on, each level above in eight times as long ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    unit_us: i64,
}

impl Ladder {
    /// The spans of exact views.
    pub const EXACT: Self = Self { unit_us: 1 << 20 };

    /// Spans over steps of `step_us` (> 0).
    pub(crate) const fn of_steps(step_us: i64) -> Self {
        Self { unit_us: step_us }
    }

    /// Number of levels.
    pub(crate) const fn levels(self) -> u8 {
        let mut level = 0;
        while self.unit_us <= WIDEST_US >> (3 * level as u32) {
            level += 1;
        }
        level
    }

    /// A level's width in µs.
    #[must_use]
    pub const fn width_us(self, level: u8) -> i64 {
        self.unit_us << (3 * level as u32)
    }

    /// The highest level whose spans fit in `width_us`; none where not even the lowest's do.
    pub(crate) fn top_level(self, width_us: i64) -> Option<u8> {
        (0..self.levels())
            .rev()
            .find(|level| self.width_us(*level) <= width_us)
    }

    /// The span of `level` that holds `time_us`.
    #[must_use]
    pub const fn span(self, level: u8, time_us: i64) -> Span {
        let width_us = self.width_us(level);
        let start_us = time_us.div_euclid(width_us).saturating_mul(width_us);
        Span {
            level,
            start_us,
            width_us,
        }
    }

    /// The part of `times` that whole spans of a level cover; empty where no span fits.
    pub(crate) fn inner(self, level: u8, times: &Range<i64>) -> Range<i64> {
        let width = self.width_us(level);
        let far_from_the_ends = i64::MIN + width..i64::MAX - width;
        if [times.start, times.end]
            .iter()
            .all(|t| far_from_the_ends.contains(t))
        {
            let first = (times.start + width - 1).div_euclid(width) * width;
            let last = times.end.div_euclid(width) * width;
            return first..last.max(first);
        }
        // Near the ends of time, where a span may reach past them.
        let width = i128::from(width);
        let (start, end) = (i128::from(times.start), i128::from(times.end));
        let first = (start + width - 1).div_euclid(width) * width;
        let last = end.div_euclid(width) * width;
        let clamp =
            |time: i128| i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX });
        clamp(first)..clamp(last).max(clamp(first))
    }
}

/// Where a span stands: level `level` from `start_us`, which is a multiple of the level's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// 0 is the finest.
    pub level: u8,
    /// The span's first µs.
    pub start_us: i64,
    width_us: i64,
}

impl Span {
    /// The span of `level` that holds `time_us`, in an exact view.
    #[must_use]
    pub const fn of(level: u8, time_us: i64) -> Self {
        Ladder::EXACT.span(level, time_us)
    }

    /// The first µs after the span.
    #[must_use]
    pub const fn end_us(self) -> i64 {
        self.start_us.saturating_add(self.width_us)
    }

    /// The times that it holds.
    #[must_use]
    pub const fn times(self) -> Range<i64> {
        self.start_us..self.end_us()
    }
}

/// A node of an entity in a view, to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// The view's id.
    pub view: u32,
    /// The entity, as bytes.
    pub entity: Vec<u8>,
    /// Which events it sums up.
    pub span: Span,
    /// Partial aggregates of those events.
    pub value: Vec<u8>,
}

/// How the partial aggregates of a view's nodes become bytes.
///
/// Layout: a tag of 4 bytes, which names the aggregates; the number of events (u64, little-endian); a row of
/// Arrow's row format.
#[derive(Debug)]
pub(crate) struct TileCodec {
    tag: [u8; 4],
    converter: RowConverter,
}

/// Nodes that were made or read together, in the order of time where they are of one level.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// How many events each sums up.
    events: Vec<u64>,
    /// The fields of each aggregate's state, an array a field.
    fields: Vec<ArrayRef>,
}

impl Nodes {
    /// One node: how many events, and the fields of each aggregate's state.
    pub(crate) fn one(events: u64, state: &[ScalarValue]) -> Result<Self, DataFusionError> {
        let fields = state.iter().map(ScalarValue::to_array);
        Ok(Self {
            events: vec![events],
            fields: fields.collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// About how many bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        let fields = self.fields.iter().map(|f| f.get_array_memory_size());
        size_of::<Self>() + size_of::<u64>() * self.events.capacity() + fields.sum::<usize>()
    }

    /// How many events some of them sum up.
    pub(crate) fn events(&self, rows: Range<usize>) -> u64 {
        self.events[rows].iter().sum()
    }

    /// A field of all.
    pub(crate) fn field(&self, index: usize) -> Option<&ArrayRef> {
        self.fields.get(index)
    }

    /// Some fields of one of them, an array of one row each.
    pub(crate) fn state(
        &self,
        row: usize,
        fields: Range<usize>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let lacks = || ArrowError::ComputeError("a node lacks a field".to_owned());
        let fields = self.fields.get(fields).ok_or_else(lacks)?;
        Ok(fields.iter().map(|field| field.slice(row, 1)).collect())
    }
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) of: Arc<Nodes>,
    pub(crate) row: usize,
}

impl Node {
    pub(crate) fn events(&self) -> u64 {
        self.of.events[self.row]
    }

    /// About how many bytes it takes: of what it was read with, its share.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.of.bytes() / self.of.len().max(1)
    }
}

impl From<Nodes> for Node {
    /// The first.
    fn from(nodes: Nodes) -> Self {
        Self {
            of: Arc::new(nodes),
            row: 0,
        }
    }
}

const HEADER: usize = 12;

impl TileCodec {
    /// A codec for states of those types; none where Arrow's row format lacks a type.
    pub(crate) fn new(definition: &str, types: Vec<arrow::datatypes::DataType>) -> Option<Self> {
        let fields: Vec<SortField> = types.into_iter().map(SortField::new).collect();
        if !RowConverter::supports_fields(&fields) {
            return None;
        }
        let text = [FORMAT, definition.as_bytes()].concat();
        let tag = (xxhash_rust::xxh3::xxh3_64(&text) as u32).to_le_bytes();
        let converter = RowConverter::new(fields).ok()?;
        Some(Self { tag, converter })
    }

    /// What tells its aggregates from others.
    pub(crate) fn tag(&self) -> [u8; 4] {
        self.tag
    }

    pub(crate) fn encode(&self, node: &Node) -> Result<Vec<u8>, ArrowError> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.tag);
        bytes.extend_from_slice(&node.events().to_le_bytes());
        let fields = node.of.state(node.row, 0..node.of.fields.len())?;
        let rows = self.converter.convert_columns(&fields)?;
        bytes.extend_from_slice(rows.row(0).as_ref());
        Ok(bytes)
    }

    /// Whether this view's aggregates, as they are defined now, wrote `value`.
    pub(crate) fn is_current(&self, value: &[u8]) -> bool {
        value.len() >= HEADER && value[..4] == self.tag
    }

    /// The nodes of values that are [current](Self::is_current).
    ///
    /// # Errors
    /// What does not decode.
    pub(crate) fn decode(&self, values: &[impl AsRef<[u8]>]) -> Result<Nodes, String> {
        if values.is_empty() {
            // Without a row there would be no column.
            return Ok(Nodes {
                events: Vec::new(),
                fields: Vec::new(),
            });
        }
        let parser = self.converter.parser();
        let mut rows = Vec::with_capacity(values.len());
        let mut events = Vec::with_capacity(values.len());
        for value in values {
            let (header, row) = value
                .as_ref()
                .split_first_chunk::<HEADER>()
                .ok_or("a tile is cut off")?;
            events.push(u64::from_le_bytes(std::array::from_fn(|i| header[4 + i])));
            rows.push(parser.parse(row));
        }
        // Arrow's row format says with a panic that bytes are none of its own. Damage on the disk is found before, by the
        // store's checksums, so a checksum of each node would only say again what those say.
        let convert = AssertUnwindSafe(|| self.converter.convert_rows(rows));
        let fields = catch_unwind(convert)
            .map_err(|_| "the sums of a tile or a total do not decode".to_owned())?
            .map_err(|e| e.to_string())?;
        Ok(Nodes { events, fields })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::datatypes::{DataType, Field};
    use std::sync::Arc;

    const MINUTES: Ladder = Ladder::of_steps(60_000_000);

    #[test]
    fn spans_nest_and_cover() {
        let times = [
            i64::MIN,
            -1,
            0,
            1,
            1_048_575,
            1_048_576,
            1_700_000_000_000_000,
            i64::MAX,
        ];
        let of_all = |ladder| times.map(|time| (ladder, time));
        for (ladder, time) in [Ladder::EXACT, MINUTES].map(of_all).concat() {
            for level in 0..ladder.levels() {
                let span = ladder.span(level, time);
                assert!(span.start_us <= time && (time < span.end_us() || time == i64::MAX));
                if level + 1 < ladder.levels() {
                    let above = ladder.span(level + 1, time);
                    assert!(above.start_us <= span.start_us && span.end_us() <= above.end_us());
                }
            }
        }
        assert_eq!(Ladder::EXACT.levels(), 13);
        assert_eq!(Ladder::EXACT.top_level(1_048_575), None);
        assert_eq!(Ladder::EXACT.top_level(3_600_000_000), Some(3));
        assert_eq!(MINUTES.top_level(3_600_000_000), Some(1));
    }

    #[test]
    fn whole_spans_inside() {
        let width = tile_width_us(0);
        let inner = |level, times: &Range<i64>| Ladder::EXACT.inner(level, times);
        assert_eq!(inner(0, &(0..width)), 0..width);
        assert!(inner(0, &(1..width)).is_empty());
        assert!(inner(0, &(1..2 * width - 1)).is_empty());
        assert_eq!(inner(0, &(1..2 * width)), width..2 * width);
        assert_eq!(inner(0, &(-1..width + 5)), 0..width);
        assert_eq!(inner(0, &(-width - 1..0)), -width..0);
        let all = inner(Ladder::EXACT.levels() - 1, &(i64::MIN..i64::MAX));
        assert_eq!(all.start, i64::MIN);
    }

    /// A change of these bytes needs another FORMAT: old tiles would be read as something else.
    #[test]
    fn the_layout_is_pinned() {
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        let codec = TileCodec::new(
            "count, sum, distinct",
            vec![DataType::Int64, DataType::Float64, list],
        )
        .unwrap();
        let names = ScalarValue::new_list_nullable(
            &[ScalarValue::from("ab"), ScalarValue::Utf8(None)],
            &DataType::Utf8,
        );
        let state = vec![
            ScalarValue::from(3_i64),
            ScalarValue::from(-0.0_f64),
            ScalarValue::List(names),
        ];
        let node = Node::from(Nodes::one(3, &state).unwrap());
        let bytes = codec.encode(&node).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, PINNED);
        let other = TileCodec::new("count", vec![DataType::Int64]).unwrap();
        let none = Node::from(Nodes::one(1, &[ScalarValue::from(1_i64)]).unwrap());
        let foreign = other.encode(&none).unwrap();
        assert!(codec.is_current(&bytes) && !codec.is_current(&foreign) && !codec.is_current(&[1]));
        assert!(codec.decode(&[vec![1]]).is_err());
        let back = codec.decode(&[bytes.clone(), bytes]).unwrap();
        assert_eq!((back.len(), back.events(0..2)), (2, 6));
        for row in 0..2 {
            assert_eq!(
                back.state(row, 0..3).unwrap(),
                node.of.state(0, 0..3).unwrap()
            );
        }
    }

    /// Whatever the bytes are: an error, or other values, and no panic.
    #[test]
    fn damaged_bytes_are_refused() {
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
        let types = vec![DataType::Int64, DataType::Utf8, list];
        let codec = TileCodec::new("count, max, distinct", types).unwrap();
        let names = [ScalarValue::from("ab"), ScalarValue::from("a longer name")];
        let state = [
            ScalarValue::from(3_i64),
            ScalarValue::from("Z"),
            ScalarValue::List(ScalarValue::new_list_nullable(&names, &DataType::Utf8)),
        ];
        let node = Node::from(Nodes::one(3, &state).unwrap());
        let bytes = codec.encode(&node).unwrap();
        assert!(codec.decode(&[&bytes]).is_ok());
        for length in 0..bytes.len() {
            assert!(
                codec.decode(&[&bytes[..length]]).is_err(),
                "cut at {length}"
            );
        }
        for place in HEADER..bytes.len() {
            for bits in [0x01, 0x40, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[place] ^= bits;
                let _ = codec.decode(&[damaged]);
            }
        }
        // No text is such a byte.
        let letter = bytes.iter().rposition(|byte| *byte == b'Z').unwrap();
        let mut damaged = bytes;
        damaged[letter] = 0xff;
        let error = codec.decode(&[damaged]).unwrap_err();
        assert!(error.contains("do not decode"), "{error}");
    }

    const PINNED: &str = "9b31783f0300000000000000018000000000000003017fffffffffffffff020261620000000000ff\
                          0002000000000000020200000000000000000101";
}
