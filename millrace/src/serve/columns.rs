//! Between Arrow's columns and the columns of messages.
//!
//! What a request's columns mean in a column of the project is in `keys`.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use arrow::error::ArrowError;
use millrace_features::Values;
use millrace_proto::v1::Column;
use prost_types::Timestamp;

const SECOND_US: i64 = 1_000_000;

/// The seconds of the years 1 to 9999, which a protobuf timestamp may have.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A time (µs since 1970) as a message has it.
pub(crate) fn timestamp(time_us: i64) -> Timestamp {
    Timestamp {
        seconds: time_us.div_euclid(SECOND_US),
        // Less than a second, so it fits.
        nanos: time_us.rem_euclid(SECOND_US) as i32 * 1_000,
    }
}

/// A message's time in µs since 1970, more digits cut; none where it is not one of the years 1 to
/// 9999.
pub(crate) fn time_us(time: &Timestamp) -> Option<i64> {
    let fits = SECONDS.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
    fits.then(|| time.seconds * SECOND_US + i64::from(time.nanos / 1_000))
}

/// As [`time_us`].
///
/// # Errors
/// What is wrong with the time.
pub(super) fn read_time(time: &Timestamp) -> Result<i64, String> {
    time_us(time).ok_or_else(|| match SECONDS.contains(&time.seconds) {
        true => format!("its nanos are {}: they are 0 to 999,999,999", time.nanos),
        false => format!("{} s is no time in the years 1 to 9999", time.seconds),
    })
}

/// A column of an answer, as [`message`].
pub(super) fn values_message(values: Values) -> Result<Column, ArrowError> {
    Ok(match values {
        Values::Whole(int64s, valid) => Column {
            int64s,
            nulls: valid.nulls().map(|row| row as u32).collect(),
            ..Column::default()
        },
        Values::Floating(doubles, valid) => Column {
            doubles,
            nulls: valid.nulls().map(|row| row as u32).collect(),
            ..Column::default()
        },
        Values::Any(column) => return message(&column),
    })
}

/// A column without its name. What has no kind of its own is given as text; a column of type NULL as texts too.
pub(super) fn message(column: &ArrayRef) -> Result<Column, ArrowError> {
    let as_type = |data_type: DataType| match column.data_type() == &data_type {
        true => Ok(ArrayRef::clone(column)),
        false => cast(column, &data_type),
    };
    let mut message = Column {
        nulls: nulls(column),
        ..Column::default()
    };
    match column.data_type() {
        DataType::Boolean => {
            let values = column.as_boolean();
            message.bools = (0..values.len()).map(|row| values.value(row)).collect();
        }
        DataType::Binary => {
            let values = column.as_binary::<i32>();
            message.bytes = (0..values.len())
                .map(|row| values.value(row).to_vec())
                .collect();
        }
        DataType::Timestamp(_, _) => {
            let times = as_type(DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let times = times.as_primitive::<TimestampMicrosecondType>();
            message.timestamps = times.values().iter().map(|time| timestamp(*time)).collect();
        }
        signed if signed.is_signed_integer() => {
            let numbers = as_type(DataType::Int64)?;
            message.int64s = numbers.as_primitive::<Int64Type>().values().to_vec();
        }
        unsigned if unsigned.is_unsigned_integer() => {
            let numbers = as_type(DataType::UInt64)?;
            message.uint64s = numbers.as_primitive::<UInt64Type>().values().to_vec();
        }
        float if float.is_floating() => {
            let numbers = as_type(DataType::Float64)?;
            message.doubles = numbers.as_primitive::<Float64Type>().values().to_vec();
        }
        _ => {
            let texts = as_type(DataType::Utf8)?;
            let texts = texts.as_string::<i32>();
            message.strings = (0..texts.len())
                .map(|row| texts.value(row).to_owned())
                .collect();
        }
    }
    zero_nulls(&mut message);
    Ok(message)
}

/// What stands in a null's place is what was there before; nobody should see it.
fn zero_nulls(column: &mut Column) {
    for row in &column.nulls {
        let row = *row as usize;
        zero(&mut column.bools, row);
        zero(&mut column.int64s, row);
        zero(&mut column.uint64s, row);
        zero(&mut column.doubles, row);
        zero(&mut column.strings, row);
        zero(&mut column.bytes, row);
        zero(&mut column.timestamps, row);
    }
}

fn zero<T: Default>(values: &mut [T], row: usize) {
    if let Some(value) = values.get_mut(row) {
        *value = T::default();
    }
}

/// The rows that are null.
fn nulls(column: &ArrayRef) -> Vec<u32> {
    if column.data_type() == &DataType::Null {
        return (0..column.len() as u32).collect();
    }
    match column.nulls() {
        Some(nulls) if nulls.null_count() > 0 => (0..column.len() as u32)
            .filter(|row| nulls.is_null(*row as usize))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Float64Array, StringArray, TimestampMicrosecondArray};
    use arrow::buffer::NullBuffer;

    use super::*;

    /// An array may have anything in the place of a null.
    #[test]
    fn a_null_is_zero() {
        let nulls = || Some(NullBuffer::from(vec![true, false]));
        let of = |array: ArrayRef| message(&array).unwrap();
        let numbers = of(Arc::new(Float64Array::new(vec![1.5, 7.0].into(), nulls())));
        assert_eq!((numbers.doubles, numbers.nulls), (vec![1.5, 0.0], vec![1]));
        let flags = of(Arc::new(BooleanArray::new(
            vec![true, true].into(),
            nulls(),
        )));
        assert_eq!(flags.bools, [true, false]);
        let texts = StringArray::from(vec!["a", "left over"]);
        let texts = of(Arc::new(StringArray::new(
            texts.offsets().clone(),
            texts.values().clone(),
            nulls(),
        )));
        assert_eq!(texts.strings, ["a", ""]);
        let times = of(Arc::new(TimestampMicrosecondArray::new(
            vec![SECOND_US, 7 * SECOND_US].into(),
            nulls(),
        )));
        assert_eq!(
            times.timestamps,
            [timestamp(SECOND_US), Timestamp::default()]
        );
    }
}
