//! Totals: what becomes of an entity's events in a view with a resolution, once they are settled.
//!
//! A row of such a view holds a byte that says what it is, and then
//!
//! ```text
//!  0 │ what is kept of one event
//!  1 │ level │ a node (tile.rs): the sums of all events of a span
//! ```
//!
//! The row of a total stands at the first µs of its span, in place of the rows that it sums up. A span has a total
//! where it was a node, so an answer has the same bits before and after: folding changes what is kept, and not what it
//! says. An event that comes later still is a row beside the total, counts at once, and goes into the total when the
//! span is folded again.
//!
//! The spans are steps. Those that no frame cuts any more, for they lie in unbounded frames alone, are summed up to
//! larger and larger spans: a lifetime is a handful of totals.

use crate::FeatureError;
use crate::history::History;
use crate::tile::{Node, Span};
use crate::view::FeatureView;

/// The unique part of a total's row. No event has it: an id's is a hash, and a place has zeros.
pub(crate) const TOTAL_UNIQUE: [u8; 16] = [0xFF; 16];

const EVENT: u8 = 0;
const TOTAL: u8 = 1;

/// A row that replaces the rows of its span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// Which rows it replaces; its own row stands at the span's start.
    pub span: Span,
    /// The value of its row.
    pub value: Vec<u8>,
}

impl Total {
    /// The unique part of its row.
    pub const UNIQUE: [u8; 16] = TOTAL_UNIQUE;
}

/// What a row holds.
pub(crate) enum Held<'a> {
    Event(&'a [u8]),
    /// Level and node.
    Total(u8, &'a [u8]),
}

/// The value of an event's row.
pub(crate) fn event_value(kept: &[u8]) -> Vec<u8> {
    [&[EVENT], kept].concat()
}

/// What the value of a row in a view with a resolution holds.
pub(crate) fn held(value: &[u8]) -> Result<Held<'_>, String> {
    match value {
        [EVENT, kept @ ..] => Ok(Held::Event(kept)),
        [TOTAL, level, node @ ..] => Ok(Held::Total(*level, node)),
        _ => Err("it is neither an event nor a total".to_owned()),
    }
}

impl FeatureView {
    /// The totals that should replace some of an entity's rows, in the order of time: those of steps with enough events,
    /// and, before `old_us`, of the largest such spans. Each replaces all rows of its span, earlier totals among them.
    ///
    /// `rows` are times and values of all rows in a range of whole, settled steps, in their order; with an `old_us`
    /// above `i64::MIN` all rows before its end. No total where the view has no resolution.
    ///
    /// # Errors
    /// [`FeatureError::Damaged`] when a row does not have the view's layout, [`FeatureError::Evaluate`] when an
    /// aggregate fails.
    pub fn fold(&self, rows: &[(i64, Vec<u8>)], old_us: i64) -> Result<Vec<Total>, FeatureError> {
        let Some(codec) = self.tiles.as_ref().filter(|_| self.resolution.is_some()) else {
            return Ok(Vec::new());
        };
        let rows = rows.iter().map(|(time, value)| (*time, value.as_slice()));
        let mut history = History::of_rows(self, rows)?;
        let context = |e| FeatureError::evaluate(format!("totals of view '{}'", self.name))(e);
        let total = |(span, node): (Span, Node)| -> Result<Total, FeatureError> {
            let node = codec.encode(&node).map_err(|e| context(e.into()))?;
            Ok(Total {
                span,
                value: [&[TOTAL, span.level], node.as_slice()].concat(),
            })
        };
        let folded = history.fold_spans(old_us).map_err(context)?;
        folded.into_iter().map(total).collect()
    }
}
