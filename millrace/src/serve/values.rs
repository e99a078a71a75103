//! Between Arrow's columns and the values of messages.
//!
//! Values of a request become columns in `keys`.

use std::iter::repeat_n;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use arrow::error::ArrowError;
use millrace_proto::v1::Value;
use millrace_proto::v1::value::Kind;
use prost_types::{NullValue, Timestamp};

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

/// The values of a column. What has no kind of its own is given as text.
pub(super) fn column_values(column: &ArrayRef) -> Result<Vec<Value>, ArrowError> {
    let as_type = |data_type| cast(column, &data_type);
    Ok(match column.data_type() {
        DataType::Null => repeat_n(null(), column.len()).collect(),
        DataType::Boolean => values(column.as_boolean().iter(), Kind::BoolValue),
        DataType::Binary => values(column.as_binary::<i32>().iter(), |bytes| {
            Kind::BytesValue(bytes.to_vec())
        }),
        DataType::Timestamp(_, _) => {
            let times = as_type(DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let times = times.as_primitive::<TimestampMicrosecondType>();
            values(times.iter(), |time| Kind::TimestampValue(timestamp(time)))
        }
        signed if signed.is_signed_integer() => {
            let numbers = as_type(DataType::Int64)?;
            values(numbers.as_primitive::<Int64Type>().iter(), Kind::Int64Value)
        }
        unsigned if unsigned.is_unsigned_integer() => {
            let numbers = as_type(DataType::UInt64)?;
            let numbers = numbers.as_primitive::<UInt64Type>();
            values(numbers.iter(), Kind::Uint64Value)
        }
        float if float.is_floating() => {
            let numbers = as_type(DataType::Float64)?;
            let numbers = numbers.as_primitive::<Float64Type>();
            values(numbers.iter(), Kind::DoubleValue)
        }
        _ => {
            let texts = as_type(DataType::Utf8)?;
            values(texts.as_string::<i32>().iter(), |text| {
                Kind::StringValue(text.to_owned())
            })
        }
    })
}

fn values<T>(items: impl Iterator<Item = Option<T>>, kind: impl Fn(T) -> Kind) -> Vec<Value> {
    items
        .map(|item| match item {
            Some(item) => Value {
                kind: Some(kind(item)),
            },
            None => null(),
        })
        .collect()
}

fn null() -> Value {
    Value {
        kind: Some(Kind::NullValue(NullValue::NullValue.into())),
    }
}
