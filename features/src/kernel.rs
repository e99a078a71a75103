//! The aggregates that nearly every view has (count, sum, avg, min, max over whole and floating-point numbers),
//! folded over rows and nodes without an accumulator.
//!
//! DataFusion's accumulators are made for batches of thousands. A look-up has a handful of events for each of a
//! dozen aggregates, where making the accumulator costs more than what it adds up. What a kernel says is what the
//! accumulator says, but for the last bits of a floating-point sum, which depend on the order of additions: here
//! they are added one by one, in the order of time, stretch by stretch. All else goes through the accumulators.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowNativeType, ArrowPrimitiveType, DataType, Float64Type, Int64Type, UInt64Type,
};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::events::Stretches;
use crate::history::Item;
use crate::tile::Nodes;
use crate::view::Operand;

/// How to fold one aggregate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Kernel {
    fold: Fold,
    /// What is aggregated, among what is kept; none where every row counts.
    argument: Option<usize>,
    /// Which rows count, among what is kept.
    filter: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fold {
    Count,
    Average,
    Sum(Number),
    Least(Number),
    Greatest(Number),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Whole,
    Floating,
}

/// What was folded so far: how many values, and the sum or the extreme of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Partial {
    count: i64,
    whole: i64,
    floating: f64,
}

impl Kernel {
    /// The kernel of an aggregate, if there is one.
    pub(crate) fn of(
        aggregate: &AggregateFunctionExpr,
        arguments: &[Operand],
        filter: Option<&Operand>,
        kept: &[DataType],
    ) -> Option<Self> {
        let filter = match filter {
            None => None,
            Some(Operand::Kept(index)) => Some(*index),
            Some(Operand::Literal(_)) => return None,
        };
        let [argument] = arguments else { return None };
        if aggregate.is_distinct() {
            return None;
        }
        let argument = match argument {
            Operand::Kept(index) => Some(*index),
            Operand::Literal(value) if value.is_null() => return None,
            Operand::Literal(_) => None,
        };
        let number = argument.and_then(|index| match kept[index] {
            DataType::Int64 => Some(Number::Whole),
            DataType::Float64 => Some(Number::Floating),
            _ => None,
        });
        let fold = match (aggregate.fun().name(), number) {
            ("count", _) => Fold::Count,
            ("avg", Some(Number::Floating)) => Fold::Average,
            ("sum", Some(number)) => Fold::Sum(number),
            ("min", Some(number)) => Fold::Least(number),
            ("max", Some(number)) => Fold::Greatest(number),
            _ => return None,
        };
        let kernel = Self {
            fold,
            argument,
            filter,
        };
        (aggregate.field().data_type() == &kernel.data_type()).then_some(kernel)
    }

    /// The type of its values.
    pub(crate) fn data_type(self) -> DataType {
        match self.fold {
            Fold::Count => DataType::Int64,
            Fold::Average => DataType::Float64,
            Fold::Sum(number) | Fold::Least(number) | Fold::Greatest(number) => match number {
                Number::Whole => DataType::Int64,
                Number::Floating => DataType::Float64,
            },
        }
    }

    /// Folds a frame's items. `known` has what is kept of the events, `state` is which columns of a node are the
    /// measure's.
    pub(crate) fn fold(
        self,
        known: &Stretches,
        state: &Range<usize>,
        items: &[Item],
    ) -> Result<Partial, DataFusionError> {
        let mut all = Partial::default();
        for item in items {
            match item {
                Item::Rows(rows) => {
                    let (kept, rows) = known.kept(rows);
                    self.merge(&mut all, self.rows(kept, &rows));
                }
                Item::Nodes(nodes, rows) => {
                    let states = self.states(nodes, state)?;
                    for row in rows.clone() {
                        self.merge(&mut all, states.of(row));
                    }
                }
            }
        }
        Ok(all)
    }

    fn rows(self, kept: &[ArrayRef], rows: &Range<usize>) -> Partial {
        let chosen = Chosen {
            keep: self.filter.map(|index| kept[index].as_boolean()),
            nulls: self.argument.and_then(|index| kept[index].nulls()),
        };
        match (self.fold, self.argument) {
            (Fold::Count, _) | (_, None) => Partial {
                count: chosen.count(rows),
                ..Partial::default()
            },
            (Fold::Average | Fold::Sum(Number::Floating), Some(index)) => {
                let (count, floating) =
                    chosen.fold::<Float64Type>(&kept[index], rows, |sum, x| sum + x);
                // A sum of −0.0 alone is 0.0, as sums begin with that.
                let floating = floating + 0.0;
                Partial {
                    count,
                    floating,
                    ..Partial::default()
                }
            }
            (Fold::Least(Number::Floating), Some(index)) => {
                let (count, floating) = chosen.fold::<Float64Type>(&kept[index], rows, least);
                Partial {
                    count,
                    floating,
                    ..Partial::default()
                }
            }
            (Fold::Greatest(Number::Floating), Some(index)) => {
                let (count, floating) = chosen.fold::<Float64Type>(&kept[index], rows, greatest);
                Partial {
                    count,
                    floating,
                    ..Partial::default()
                }
            }
            (Fold::Sum(Number::Whole), Some(index)) => {
                let (count, whole) =
                    chosen.fold::<Int64Type>(&kept[index], rows, i64::wrapping_add);
                Partial {
                    count,
                    whole,
                    ..Partial::default()
                }
            }
            (Fold::Least(Number::Whole), Some(index)) => {
                let (count, whole) = chosen.fold::<Int64Type>(&kept[index], rows, i64::min);
                Partial {
                    count,
                    whole,
                    ..Partial::default()
                }
            }
            (Fold::Greatest(Number::Whole), Some(index)) => {
                let (count, whole) = chosen.fold::<Int64Type>(&kept[index], rows, i64::max);
                Partial {
                    count,
                    whole,
                    ..Partial::default()
                }
            }
        }
    }

    /// What nodes hold: states of DataFusion's accumulator, in the fields `state`.
    fn states<'n>(
        self,
        nodes: &'n Nodes,
        state: &Range<usize>,
    ) -> Result<States<'n>, DataFusionError> {
        let fields = match self.fold {
            Fold::Average => 2,
            _ => 1,
        };
        if state.len() != fields {
            return Err(other_state());
        }
        let states = match self.fold {
            Fold::Count => column(nodes, state, 0).map(States::Count),
            Fold::Average => column(nodes, state, 0)
                .zip(column(nodes, state, 1))
                .map(|(counts, sums)| States::Average(counts, sums)),
            _ => match self.data_type() {
                DataType::Int64 => column(nodes, state, 0).map(States::Whole),
                _ => column(nodes, state, 0).map(States::Floating),
            },
        };
        states.ok_or_else(other_state)
    }

    fn merge(self, all: &mut Partial, part: Partial) {
        if part.count == 0 {
            return;
        }
        if all.count == 0 {
            *all = part;
            return;
        }
        all.count += part.count;
        match self.fold {
            Fold::Count => {}
            Fold::Average | Fold::Sum(Number::Floating) => all.floating += part.floating,
            Fold::Sum(Number::Whole) => all.whole = all.whole.wrapping_add(part.whole),
            Fold::Least(Number::Whole) => all.whole = all.whole.min(part.whole),
            Fold::Greatest(Number::Whole) => all.whole = all.whole.max(part.whole),
            Fold::Least(Number::Floating) => all.floating = least(all.floating, part.floating),
            Fold::Greatest(Number::Floating) => {
                all.floating = greatest(all.floating, part.floating)
            }
        }
    }

    /// The state of DataFusion's accumulator after the same events.
    pub(crate) fn state(self, partial: Partial) -> Vec<ScalarValue> {
        let any = partial.count > 0;
        match self.fold {
            Fold::Count => vec![ScalarValue::Int64(Some(partial.count))],
            Fold::Average => vec![
                ScalarValue::UInt64(Some(partial.count.unsigned_abs())),
                ScalarValue::Float64(any.then_some(partial.floating)),
            ],
            _ => match self.data_type() {
                DataType::Int64 => vec![ScalarValue::Int64(any.then_some(partial.whole))],
                _ => vec![ScalarValue::Float64(any.then_some(partial.floating))],
            },
        }
    }

    /// The aggregate's value; none where it is null.
    pub(crate) fn whole(self, partial: Partial) -> Option<i64> {
        match self.fold {
            Fold::Count => Some(partial.count),
            _ => (partial.count > 0).then_some(partial.whole),
        }
    }

    pub(crate) fn floating(self, partial: Partial) -> Option<f64> {
        let value = match self.fold {
            Fold::Average => partial.floating / partial.count as f64,
            _ => partial.floating,
        };
        (partial.count > 0).then_some(value)
    }
}

/// NaN is above all numbers, and −0.0 below 0.0, as in Arrow.
fn least(a: f64, b: f64) -> f64 {
    if b.total_cmp(&a).is_lt() { b } else { a }
}

fn greatest(a: f64, b: f64) -> f64 {
    if b.total_cmp(&a).is_gt() { b } else { a }
}

/// The states of one kernel in nodes.
enum States<'n> {
    Count(&'n PrimitiveArray<Int64Type>),
    /// Counts, and sums.
    Average(
        &'n PrimitiveArray<UInt64Type>,
        &'n PrimitiveArray<Float64Type>,
    ),
    Whole(&'n PrimitiveArray<Int64Type>),
    Floating(&'n PrimitiveArray<Float64Type>),
}

impl States<'_> {
    #[inline]
    fn of(&self, row: usize) -> Partial {
        let mut partial = Partial::default();
        match self {
            Self::Count(counts) => partial.count = number(counts, row).unwrap_or_default(),
            Self::Average(counts, sums) => {
                let count = number(counts, row).unwrap_or_default();
                partial.count = i64::try_from(count).unwrap_or(i64::MAX);
                partial.floating = number(sums, row).unwrap_or_default();
            }
            Self::Whole(values) => {
                let value = number(values, row);
                partial.count = i64::from(value.is_some());
                partial.whole = value.unwrap_or_default();
            }
            Self::Floating(values) => {
                let value = number(values, row);
                partial.count = i64::from(value.is_some());
                partial.floating = value.unwrap_or_default();
            }
        }
        partial
    }
}

/// A number; none where it is null.
fn number<T: ArrowPrimitiveType>(values: &PrimitiveArray<T>, row: usize) -> Option<T::Native> {
    values.is_valid(row).then(|| values.value(row))
}

/// A field of a measure's state, of all nodes.
fn column<'n, T: ArrowPrimitiveType>(
    nodes: &'n Nodes,
    state: &Range<usize>,
    index: usize,
) -> Option<&'n PrimitiveArray<T>> {
    let field = state.clone().nth(index)?;
    nodes.field(field)?.as_primitive_opt::<T>()
}

fn other_state() -> DataFusionError {
    DataFusionError::Internal("a node's state is not of its aggregate".to_owned())
}

/// Which rows count: those that the filter keeps, and whose argument is not null.
struct Chosen<'a> {
    keep: Option<&'a BooleanArray>,
    nulls: Option<&'a NullBuffer>,
}

impl Chosen<'_> {
    #[inline]
    fn holds(&self, row: usize) -> bool {
        self.keep
            .is_none_or(|keep| keep.is_valid(row) && keep.value(row))
            && self.nulls.is_none_or(|nulls| nulls.is_valid(row))
    }

    fn count(&self, rows: &Range<usize>) -> i64 {
        if self.keep.is_none() && self.nulls.is_none() {
            return rows.len() as i64;
        }
        rows.clone().filter(|row| self.holds(*row)).count() as i64
    }

    fn fold<T: ArrowPrimitiveType>(
        &self,
        values: &ArrayRef,
        rows: &Range<usize>,
        step: impl Fn(T::Native, T::Native) -> T::Native,
    ) -> (i64, T::Native) {
        let values = values.as_primitive::<T>().values();
        if self.keep.is_none() && self.nulls.is_none() {
            let mut all = values[rows.clone()].iter().copied();
            let first = all.next().unwrap_or(T::Native::usize_as(0));
            return (rows.len() as i64, all.fold(first, step));
        }
        let mut folded: Option<T::Native> = None;
        let mut count = 0;
        for row in rows.clone().filter(|row| self.holds(*row)) {
            count += 1;
            folded = Some(folded.map_or(values[row], |so_far| step(so_far, values[row])));
        }
        (count, folded.unwrap_or(T::Native::usize_as(0)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::state::MemoryState;
    use crate::view::{FeatureView, Measure, Origin};
    use crate::{Project, SqlFile};
    use arrow::array::{
        BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    };
    use rand::{Rng, SeedableRng};

    const SOURCES: &str =
        "CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, x DOUBLE, n BIGINT, b BOOLEAN, t VARCHAR,
        at TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 't' WITH ORDER (at)";

    const VIEW: &str = "CREATE VIEW v AS SELECT k,
        count(*) OVER w AS c0, count(x) OVER w AS c1, count(*) FILTER (WHERE b) OVER w AS c2,
        count(n) FILTER (WHERE b) OVER u AS c3, sum(x) OVER w AS s0, sum(n) OVER w AS s1,
        sum(x) FILTER (WHERE b) OVER u AS s2, avg(x) OVER w AS a0, avg(n) OVER u AS a1,
        avg(x) FILTER (WHERE NOT b) OVER w AS a2, min(x) OVER w AS l0, max(x) OVER w AS g0,
        min(n) FILTER (WHERE b) OVER u AS l1, max(n) OVER r AS g1, sum(x) OVER r AS s3, stddev(x) OVER w AS d0,
        count(DISTINCT n) OVER u AS e0, count(DISTINCT n) FILTER (WHERE b) OVER w AS e1,
        count(DISTINCT t) OVER u AS e2, count(DISTINCT t) FILTER (WHERE b) OVER r AS e3
        FROM t WINDOW
        w AS (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
        u AS (PARTITION BY k ORDER BY at RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
        r AS (PARTITION BY k ORDER BY at ROWS BETWEEN 5 PRECEDING AND CURRENT ROW)";

    fn view(with_kernels: bool) -> Arc<FeatureView> {
        let file = |path: &str, text: &str| SqlFile {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let views = [file("v.sql", VIEW)];
        let project = Project::plan(&file("sources.sql", SOURCES), &views, None);
        let mut view = project.unwrap().views.remove(0);
        let changed = Arc::get_mut(&mut view).unwrap();
        let fast = |m: &&Measure| m.kernel.is_some() || m.distinct.is_some();
        let fast = changed.measures.iter().filter(fast).count();
        assert_eq!(fast, changed.measures.len() - 1, "all but stddev");
        for measure in changed.measures.iter_mut().filter(|_| !with_kernels) {
            (measure.kernel, measure.distinct) = (None, None);
        }
        view
    }

    /// Two keys: one busy enough to have nodes, one quiet. Some values null, some NaN, −0.0 or infinite.
    fn events(random: &mut impl Rng, rows: usize) -> RecordBatch {
        let (mut x, mut n, mut b) = (
            Float64Builder::new(),
            Int64Builder::new(),
            BooleanBuilder::new(),
        );
        let (mut keys, mut texts) = (Vec::new(), Vec::new());
        let (mut times, mut time) = (Vec::new(), 0);
        for _ in 0..rows {
            time += random.random_range(0..3_000_000);
            times.push(time);
            keys.push(if random.random_bool(0.95) {
                "busy"
            } else {
                "quiet"
            });
            let shop = random.random_range(0..60);
            texts.push((shop > 5).then(|| format!("shop {shop}")));
            x.append_option(match random.random_range(0..200) {
                0 => Some(f64::NAN),
                1 => Some(-0.0),
                2 => Some(f64::INFINITY),
                3..20 => None,
                _ => Some(random.random_range(-100.0..100.0)),
            });
            n.append_option(
                random
                    .random_bool(0.9)
                    .then(|| random.random_range(-50..50)),
            );
            b.append_option(random.random_bool(0.9).then(|| random.random_bool(0.5)));
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(keys)),
            Arc::new(x.finish()),
            Arc::new(n.finish()),
            Arc::new(b.finish()),
            Arc::new(StringArray::from(texts)),
            Arc::new(TimestampMicrosecondArray::from(times)),
        ];
        RecordBatch::try_new(Arc::clone(&view(true).stream.schema), columns).unwrap()
    }

    fn agree(fast: &ArrayRef, slow: &ArrayRef) -> bool {
        let (Some(fast), Some(slow)) = (
            fast.as_primitive_opt::<Float64Type>(),
            slow.as_primitive_opt::<Float64Type>(),
        ) else {
            return fast.to_data() == slow.to_data();
        };
        (0..fast.len()).all(|row| {
            let (a, b) = (fast.value(row), slow.value(row));
            let near =
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(1.0);
            fast.is_valid(row) == slow.is_valid(row) && (near || fast.is_null(row))
        })
    }

    #[test]
    fn a_kernel_says_what_the_accumulator_says() {
        let mut random = rand_pcg::Pcg64::seed_from_u64(7);
        let events = events(&mut random, 3_000);
        let count = events.num_rows();
        let (partitions, offsets) = (vec![0; count], (0..count as i64).collect::<Vec<_>>());
        let origin = Origin {
            partitions: &partitions,
            offsets: &offsets,
        };
        let answers = [true, false].map(|with_kernels| {
            let view = view(with_kernels);
            let mut state = MemoryState::default();
            view.state_rows(&events, origin, &mut state).unwrap();
            let keys: ArrayRef = Arc::new(StringArray::from(vec!["busy", "quiet", "nobody"]));
            let asked = [
                0,
                1,
                1_000_000_000,
                2_500_000_000,
                4_400_000_000,
                i64::MAX / 2,
            ];
            asked.map(|as_of| {
                let keys = [Arc::clone(&keys)];
                let mut tiles = Vec::new();
                let answer = view
                    .answer_and_sum_up(&state, &keys, &[as_of; 3], &mut |tile| tiles.push(tile));
                // Later answers are from stored nodes.
                tiles.into_iter().for_each(|tile| state.put_tile(tile));
                answer.unwrap()
            })
        });
        let [fast, slow] = answers;
        for (fast, slow) in fast.iter().zip(&slow) {
            for (index, field) in fast.schema_ref().fields().iter().enumerate() {
                let (fast, slow) = (fast.column(index), slow.column(index));
                assert!(agree(fast, slow), "{}: {fast:?} and {slow:?}", field.name());
            }
        }
    }
}
