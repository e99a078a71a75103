//! Tiles: partial aggregates over the events of aligned spans of time, so that what a look-up reads grows with the
//! logarithm of its window.
//!
//! Time is cut into spans of 2^20 µs (about a second) at level 0, and each level's spans are eight of the level
//! below: 8 s, 67 s, 9 min, 72 min, 10 h, 3 days, 25 days, … An entity's span that holds at least
//! [`FeatureView::dense`] events is a **node**. A frame is answered from the largest nodes that lie inside it and
//! the events between them, in the order of time; a node from its own largest nodes and the events between them.
//!
//! Which spans are nodes depends on the events alone, so an answer has the same bits whether a node was read from
//! the store or made on the spot: a stored node, a *tile*, is a cache. It may be missing; it must not be stale.
//!
//! [`FeatureView::dense`]: crate::FeatureView::dense

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;

/// Number of levels. A span of the highest takes more than 2,000 years.
pub(crate) const LEVELS: u8 = 13;

/// Part of a tile's tag: raise it when the rules of nodes or the bytes of a tile change.
const FORMAT: &[u8] = b"millrace.tile.2";

/// The exponent of a level's width: 2^shift µs.
pub(crate) const fn shift(level: u8) -> u32 {
    20 + 3 * level as u32
}

/// A level's width in µs.
#[must_use]
pub const fn tile_width_us(level: u8) -> i64 {
    1 << shift(level)
}

/// The highest level whose spans fit in `width_us`; none where not even the lowest's do.
pub(crate) fn top_level(width_us: i64) -> Option<u8> {
    (0..LEVELS)
        .rev()
        .find(|level| tile_width_us(*level) <= width_us)
}

/// Where a span stands: level `level` from `start_us`, which is a multiple of the level's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// 0 is the finest.
    pub level: u8,
    /// The span's first µs.
    pub start_us: i64,
}

impl Span {
    /// The span of `level` that holds `time_us`.
    #[must_use]
    pub const fn of(level: u8, time_us: i64) -> Self {
        let start_us = (time_us >> shift(level)) << shift(level);
        Self { level, start_us }
    }

    /// The first µs after the span.
    #[must_use]
    pub const fn end_us(self) -> i64 {
        self.start_us.saturating_add(tile_width_us(self.level))
    }

    pub(crate) const fn times(self) -> Range<i64> {
        self.start_us..self.end_us()
    }
}

/// The part of `times` that whole spans of a level cover; empty where no span fits.
pub(crate) fn inner(level: u8, times: &Range<i64>) -> Range<i64> {
    let width = i128::from(tile_width_us(level));
    let (start, end) = (i128::from(times.start), i128::from(times.end));
    let first = (start + width - 1).div_euclid(width) * width;
    let last = end.div_euclid(width) * width;
    let clamp =
        |time: i128| i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX });
    clamp(first)..clamp(last).max(clamp(first))
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

/// One node: how many events, and one array of one row for each field of each aggregate's state.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) events: u64,
    pub(crate) state: Vec<ArrayRef>,
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

    pub(crate) fn encode(&self, node: &Node) -> Result<Vec<u8>, arrow::error::ArrowError> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.tag);
        bytes.extend_from_slice(&node.events.to_le_bytes());
        let rows = self.converter.convert_columns(&node.state)?;
        bytes.extend_from_slice(rows.row(0).as_ref());
        Ok(bytes)
    }

    /// Whether this view's aggregates, as they are defined now, wrote `value`.
    pub(crate) fn is_current(&self, value: &[u8]) -> bool {
        value.len() >= HEADER && value[..4] == self.tag
    }

    /// The nodes of values that are [current](Self::is_current).
    pub(crate) fn decode(&self, values: &[Vec<u8>]) -> Result<Vec<Node>, String> {
        let parser = self.converter.parser();
        let mut rows = Vec::with_capacity(values.len());
        let mut events = Vec::with_capacity(values.len());
        for value in values {
            let (header, row) = value
                .split_first_chunk::<HEADER>()
                .ok_or("a tile is cut off")?;
            events.push(u64::from_le_bytes(std::array::from_fn(|i| header[4 + i])));
            rows.push(parser.parse(row));
        }
        let columns = self
            .converter
            .convert_rows(rows)
            .map_err(|e| e.to_string())?;
        let node = |(row, events)| Node {
            events,
            state: columns.iter().map(|column| column.slice(row, 1)).collect(),
        };
        Ok(events.into_iter().enumerate().map(node).collect())
    }
}

impl Node {
    pub(crate) fn new(
        events: u64,
        state: Vec<ScalarValue>,
    ) -> Result<Self, datafusion::error::DataFusionError> {
        let state = state
            .iter()
            .map(ScalarValue::to_array)
            .collect::<Result<_, _>>()?;
        Ok(Self { events, state })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::datatypes::{DataType, Field};
    use std::sync::Arc;

    #[test]
    fn spans_nest_and_cover() {
        for time in [
            i64::MIN,
            -1,
            0,
            1,
            1_048_575,
            1_048_576,
            1_700_000_000_000_000,
            i64::MAX,
        ] {
            for level in 0..LEVELS {
                let span = Span::of(level, time);
                assert!(span.start_us <= time && (time < span.end_us() || time == i64::MAX));
                if level + 1 < LEVELS {
                    let above = Span::of(level + 1, time);
                    assert!(above.start_us <= span.start_us && span.end_us() <= above.end_us());
                }
            }
        }
        assert_eq!(top_level(1_048_575), None);
        assert_eq!(top_level(3_600_000_000), Some(3));
    }

    #[test]
    fn whole_spans_inside() {
        let width = tile_width_us(0);
        assert_eq!(inner(0, &(0..width)), 0..width);
        assert!(inner(0, &(1..width)).is_empty());
        assert!(inner(0, &(1..2 * width - 1)).is_empty());
        assert_eq!(inner(0, &(1..2 * width)), width..2 * width);
        assert_eq!(inner(0, &(-1..width + 5)), 0..width);
        assert_eq!(inner(0, &(-width - 1..0)), -width..0);
        let all = inner(LEVELS - 1, &(i64::MIN..i64::MAX));
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
        let node = Node::new(3, state).unwrap();
        let bytes = codec.encode(&node).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, PINNED);
        let other = TileCodec::new("count", vec![DataType::Int64]).unwrap();
        let none = Node::new(1, vec![ScalarValue::from(1_i64)]).unwrap();
        let foreign = other.encode(&none).unwrap();
        assert!(codec.is_current(&bytes) && !codec.is_current(&foreign) && !codec.is_current(&[1]));
        assert!(codec.decode(&[vec![1]]).is_err());
        let back = codec.decode(&[bytes.clone(), bytes]).unwrap();
        for node_back in &back {
            assert_eq!(node_back.events, 3);
            for (left, right) in node_back.state.iter().zip(&node.state) {
                assert_eq!(left.to_data(), right.to_data());
            }
        }
    }

    const PINNED: &str = "9b31783f0300000000000000018000000000000003017fffffffffffffff020261620000000000ff\
                          0002000000000000020200000000000000000101";
}
