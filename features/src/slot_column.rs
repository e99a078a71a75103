//! The values of an aggregate over a frame, answer by answer, until they are a column.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, ScalarValue};

use crate::kernel::{Kernel, Partial};
use crate::values::Validity;
use crate::view::Measure;

/// The values of a slot, row by row, before they become an array.
pub(crate) enum SlotColumn {
    Whole(Vec<i64>, Validity),
    Floating(Vec<f64>, Validity),
    Any(Vec<ScalarValue>),
}

impl SlotColumn {
    /// `rows` nulls.
    pub(crate) fn new(measure: &Measure, rows: usize) -> Self {
        let folded = measure.kernel.map(Kernel::data_type);
        // A count of distinct values is folded too, by another road.
        match folded.or(measure.distinct.map(|_| DataType::Int64)) {
            Some(DataType::Int64) => Self::Whole(vec![0; rows], Validity::none(rows)),
            Some(_) => Self::Floating(vec![0.0; rows], Validity::none(rows)),
            None => Self::Any(vec![ScalarValue::Null; rows]),
        }
    }

    pub(crate) fn set_folded(&mut self, row: usize, kernel: Kernel, partial: Partial) {
        match self {
            Self::Whole(values, valid) => {
                let value = kernel.whole(partial);
                values[row] = value.unwrap_or_default();
                valid.set(row, value.is_some());
            }
            Self::Floating(values, valid) => {
                let value = kernel.floating(partial);
                values[row] = value.unwrap_or_default();
                valid.set(row, value.is_some());
            }
            Self::Any(values) => {
                let value = kernel.floating(partial);
                values[row] = ScalarValue::Float64(value);
            }
        }
    }

    pub(crate) fn set_count(&mut self, row: usize, count: i64) {
        match self {
            Self::Whole(values, valid) => {
                values[row] = count;
                valid.set(row, true);
            }
            Self::Any(values) => values[row] = ScalarValue::Int64(Some(count)),
            // One slot, one kind of column.
            Self::Floating(..) => {}
        }
    }

    pub(crate) fn set(&mut self, row: usize, value: ScalarValue) {
        if let Self::Any(values) = self {
            values[row] = value;
        }
    }

    /// Sets these rows to the values of another column of the same slot.
    pub(crate) fn put(&mut self, rows: &[usize], other: Self) {
        match (self, other) {
            (Self::Whole(values, valid), Self::Whole(others, other_valid)) => {
                for (place, (row, value)) in rows.iter().zip(others).enumerate() {
                    values[*row] = value;
                    valid.set(*row, other_valid.is_valid(place));
                }
            }
            (Self::Floating(values, valid), Self::Floating(others, other_valid)) => {
                for (place, (row, value)) in rows.iter().zip(others).enumerate() {
                    values[*row] = value;
                    valid.set(*row, other_valid.is_valid(place));
                }
            }
            (Self::Any(values), Self::Any(others)) => {
                for (row, value) in rows.iter().zip(others) {
                    values[*row] = value;
                }
            }
            // One slot, one kind of column.
            _ => {}
        }
    }

    pub(crate) fn finish(self) -> Result<ArrayRef, DataFusionError> {
        Ok(match self {
            Self::Whole(values, valid) => Arc::new(Int64Array::new(values.into(), valid.buffer())),
            Self::Floating(values, valid) => {
                Arc::new(Float64Array::new(values.into(), valid.buffer()))
            }
            Self::Any(mut values) => {
                // An aggregate that failed has left a null without a type.
                let is_untyped = |value: &ScalarValue| matches!(value, ScalarValue::Null);
                if let Some(typed) = values.iter().find(|value| !is_untyped(value)) {
                    let null = ScalarValue::try_new_null(&typed.data_type())?;
                    let untyped = values.iter_mut().filter(|value| is_untyped(value));
                    untyped.for_each(|value| value.clone_from(&null));
                }
                return ScalarValue::iter_to_array(values);
            }
        })
    }
}
