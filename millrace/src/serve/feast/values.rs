//! Between Feast's values and our columns.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use millrace_proto::feast::feast::types::Value;
use millrace_proto::feast::feast::types::value::Val;
use millrace_proto::v1::Column;
use prost_types::Timestamp;

use crate::serve::columns::message;
use crate::serve::refusal::Refusal;

/// The values of a column of an answer; a null is a value of which nothing is set.
pub(super) fn values(column: &ArrayRef) -> Result<Vec<Value>, Refusal> {
    let message = message(column)?;
    let is_small = matches!(
        column.data_type(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16
    );
    let is_float = matches!(column.data_type(), DataType::Float16 | DataType::Float32);
    let value = |row: usize| {
        if column.is_null(row) {
            return Value { val: None };
        }
        let whole = message.int64s.get(row).copied();
        // Feast has no unsigned integers: what is larger than its largest is cut to that.
        let unsigned = message.uint64s.get(row);
        let whole = whole.or(unsigned.map(|n| i64::try_from(*n).unwrap_or(i64::MAX)));
        let val = if let Some(number) = whole {
            match i32::try_from(number) {
                Ok(small) if is_small => Some(Val::Int32Val(small)),
                _ => Some(Val::Int64Val(number)),
            }
        } else if let Some(number) = message.doubles.get(row) {
            Some(match is_float {
                true => Val::FloatVal(*number as f32),
                false => Val::DoubleVal(*number),
            })
        } else if let Some(truth) = message.bools.get(row) {
            Some(Val::BoolVal(*truth))
        } else if let Some(time) = message.timestamps.get(row) {
            Some(Val::UnixTimestampVal(time.seconds))
        } else if let Some(bytes) = message.bytes.get(row) {
            Some(Val::BytesVal(bytes.clone()))
        } else {
            message.strings.get(row).cloned().map(Val::StringVal)
        };
        Value { val }
    };
    Ok((0..column.len()).map(value).collect())
}

/// A column of a request, at `path`.
///
/// # Errors
/// Values of several kinds, or of one that Millrace does not take.
pub(super) fn column(path: &str, values: &[Value]) -> Result<Column, Refusal> {
    let mut column = Column::default();
    let mut kind: Option<&'static str> = None;
    for (row, value) in values.iter().enumerate() {
        let Some(val) = value
            .val
            .as_ref()
            .filter(|val| !matches!(val, Val::NullVal(_)))
        else {
            column.nulls.push(row as u32);
            continue;
        };
        let place = || format!("{path}.val[{row}]");
        let own = push(&mut column, row, val).ok_or_else(|| {
            let reason = "lists, sets, maps and JSON name no entity and are no column: give a text, a number, a \
                          boolean, bytes or a time";
            Refusal::argument(place(), reason)
        })?;
        let first = *kind.get_or_insert(own);
        if first != own {
            let reason = format!("it is {own}, and another value of the column is {first}");
            return Err(Refusal::argument(place(), reason));
        }
    }
    fill(&mut column, values.len());
    Ok(column)
}

/// Adds a value to the list of its kind, and names the kind.
fn push(column: &mut Column, row: usize, val: &Val) -> Option<&'static str> {
    // Before the first value of a column there may have been nulls.
    match val {
        Val::StringVal(text)
        | Val::UuidVal(text)
        | Val::TimeUuidVal(text)
        | Val::DecimalVal(text) => {
            column.strings.resize(row, String::new());
            column.strings.push(text.clone());
            Some("a text")
        }
        Val::Int32Val(number) => push_whole(column, row, i64::from(*number)),
        Val::Int64Val(number) => push_whole(column, row, *number),
        Val::DoubleVal(number) => push_double(column, row, *number),
        Val::FloatVal(number) => push_double(column, row, f64::from(*number)),
        Val::BoolVal(truth) => {
            column.bools.resize(row, false);
            column.bools.push(*truth);
            Some("a boolean")
        }
        Val::BytesVal(bytes) => {
            column.bytes.resize(row, Vec::new());
            column.bytes.push(bytes.clone());
            Some("bytes")
        }
        Val::UnixTimestampVal(seconds) => {
            column.timestamps.resize(row, Timestamp::default());
            column.timestamps.push(Timestamp {
                seconds: *seconds,
                nanos: 0,
            });
            Some("a timestamp")
        }
        _ => None,
    }
}

fn push_whole(column: &mut Column, row: usize, number: i64) -> Option<&'static str> {
    column.int64s.resize(row, 0);
    column.int64s.push(number);
    Some("an integer")
}

fn push_double(column: &mut Column, row: usize, number: f64) -> Option<&'static str> {
    column.doubles.resize(row, 0.0);
    column.doubles.push(number);
    Some("a double")
}

/// Gives nulls at the end their place in the list.
fn fill(column: &mut Column, rows: usize) {
    if !column.int64s.is_empty() {
        column.int64s.resize(rows, 0);
    } else if !column.doubles.is_empty() {
        column.doubles.resize(rows, 0.0);
    } else if !column.bools.is_empty() {
        column.bools.resize(rows, false);
    } else if !column.bytes.is_empty() {
        column.bytes.resize(rows, Vec::new());
    } else if !column.timestamps.is_empty() {
        column.timestamps.resize(rows, Timestamp::default());
    } else {
        column.strings.resize(rows, String::new());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_of_two_kinds_are_told() {
        let value = |val: Val| Value { val: Some(val) };
        let mixed = [
            value(Val::Int64Val(1)),
            value(Val::StringVal("a".to_owned())),
        ];
        assert_eq!(
            column("entities[\"x\"]", &mixed).unwrap_err().to_string(),
            "entities[\"x\"].val[1]: it is a text, and another value of the column is an integer"
        );
    }
}
