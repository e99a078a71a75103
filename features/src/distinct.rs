//! `count(DISTINCT x)` of texts and whole numbers, without an accumulator: DataFusion's sets aside a hash table for
//! thousands of values before it has seen one. The state of a node is the accumulator's: a list of values.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::DataFusionError;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use xxhash_rust::xxh3::xxh3_64;

use crate::events::Stretches;
use crate::history::Item;
use crate::view::Operand;

/// How to count distinct values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Distinct {
    /// Whose values are counted, among what is kept.
    argument: usize,
    /// Which rows count, among what is kept.
    filter: Option<usize>,
    is_text: bool,
}

impl Distinct {
    /// The way of an aggregate, if it is one.
    pub(crate) fn of(
        aggregate: &AggregateFunctionExpr,
        arguments: &[Operand],
        filter: Option<&Operand>,
        kept: &[DataType],
    ) -> Option<Self> {
        let [Operand::Kept(argument)] = arguments else {
            return None;
        };
        let filter = match filter {
            None => None,
            Some(Operand::Kept(index)) => Some(*index),
            Some(Operand::Literal(_)) => return None,
        };
        let is_text = match kept[*argument] {
            DataType::Utf8 => true,
            DataType::Int64 => false,
            _ => return None,
        };
        let is_it = aggregate.is_distinct() && aggregate.fun().name() == "count";
        is_it.then_some(Self {
            argument: *argument,
            filter,
            is_text,
        })
    }

    /// How many values that are not null a frame's items hold. `known` has what is kept of the events, `state` is which
    /// column of a node holds its values.
    pub(crate) fn count(
        self,
        known: &Stretches,
        state: usize,
        items: &[Item],
    ) -> Result<i64, DataFusionError> {
        // A node's values are in the order of their first event, and lie in its list.
        let lists: Vec<ArrayRef> = lists(items, state)?;
        let mut next_list = lists.iter();
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Rows(rows) => {
                    let (kept, rows) = known.kept(rows);
                    let keep = self.filter.map(|index| kept[index].as_boolean());
                    parts.push((&kept[self.argument], rows, keep));
                }
                Item::Nodes(_, rows) => {
                    let of_nodes = next_list.by_ref().take(rows.len());
                    parts.extend(of_nodes.map(|list| (list, 0..list.len(), None)));
                }
            }
        }
        match self.is_text {
            true => distinct(&parts, |array| {
                let texts = array.as_string_opt::<i32>()?;
                // Texts that differ nearly always differ in their hashes, which are compared in one step.
                Some(move |row| {
                    let text = texts.value(row);
                    (xxh3_64(text.as_bytes()), text)
                })
            }),
            false => distinct(&parts, |array| {
                let numbers = array.as_primitive_opt::<Int64Type>()?;
                Some(move |row| numbers.value(row))
            }),
        }
    }
}

/// Rows of an array, and which of them count.
type Part<'a> = (&'a ArrayRef, Range<usize>, Option<&'a BooleanArray>);

/// The values that each node of some items has seen.
fn lists(items: &[Item], state: usize) -> Result<Vec<ArrayRef>, DataFusionError> {
    let mut lists = Vec::new();
    for item in items {
        if let Item::Nodes(nodes, rows) = item {
            let of_nodes = nodes.field(state).and_then(|f| f.as_list_opt::<i32>());
            let of_nodes = of_nodes.ok_or_else(other_state)?;
            lists.extend(rows.clone().map(|row| of_nodes.value(row)));
        }
    }
    Ok(lists)
}

fn distinct<'a, T: Ord, V: Fn(usize) -> T>(
    parts: &'a [Part<'a>],
    values: impl Fn(&'a ArrayRef) -> Option<V>,
) -> Result<i64, DataFusionError> {
    let mut all = Vec::new();
    for (array, rows, keep) in parts {
        let value = values(array).ok_or_else(other_state)?;
        let counts = |row: &usize| {
            array.is_valid(*row) && keep.is_none_or(|keep| keep.is_valid(*row) && keep.value(*row))
        };
        all.extend(rows.clone().filter(counts).map(value));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all.len() as i64)
}

fn other_state() -> DataFusionError {
    DataFusionError::Internal("a node's state is not of its aggregate".to_owned())
}
