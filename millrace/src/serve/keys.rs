//! The columns of a request as columns of a stream's types.
//!
//! A text is parsed to its column's type; a number goes into any column of numbers or text that can
//! hold it whole; everything else must be of the column's own kind. Cutting a fraction or a time of day, or reading
//! TRUE as 1, would ask about another entity than the caller meant.
//!
//! Whole numbers that a REAL or DOUBLE cannot hold are refused as keys alone: a value of an event is rounded, as one in
//! the topic is.

use std::fmt::Arguments;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, new_empty_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::common::ScalarValue;
use millrace_ingest::{bytes_of, day_of};
use millrace_proto::v1::Column;

use super::columns::read_time;
use super::refusal::{Refusal, Violation};

/// The lists of a column's message, by name.
fn lists(column: &Column) -> [(&'static str, usize); 7] {
    [
        ("bools", column.bools.len()),
        ("int64s", column.int64s.len()),
        ("uint64s", column.uint64s.len()),
        ("doubles", column.doubles.len()),
        ("strings", column.strings.len()),
        ("bytes", column.bytes.len()),
        ("timestamps", column.timestamps.len()),
    ]
}

/// The length of a column's longest list.
pub(super) fn most_values(column: &Column) -> usize {
    let lengths = lists(column).map(|(_, length)| length);
    lengths.into_iter().max().unwrap_or_default()
}

/// Number of values of a column that is at `path` in its request.
///
/// # Errors
/// Values of several kinds, or nulls that are no rows of it.
pub(super) fn length(path: Arguments<'_>, column: &Column) -> Result<usize, Refusal> {
    let mut filled = lists(column).into_iter().filter(|(_, length)| *length > 0);
    let (kind, length) = filled.next().unwrap_or(("strings", 0));
    if let Some((other, _)) = filled.next() {
        let reason = format!("it has values in {kind} and in {other}: a column is of one kind");
        return Err(Refusal::argument(path.to_string(), reason));
    }
    match column.nulls.iter().find(|row| **row as usize >= length) {
        None => Ok(length),
        Some(row) => {
            let reason = format!("row {row} is said to be null, and the column has {length} rows");
            Err(Refusal::argument(format!("{path}.nulls"), reason))
        }
    }
}

/// A request's column, at `path`, of `rows` values that name entities: none may be null.
///
/// # Errors
/// A value that is null or of another type, by its path in the message.
pub(super) fn key_column(
    path: Arguments<'_>,
    field: &Field,
    column: &Column,
    rows: usize,
) -> Result<ArrayRef, Refusal> {
    if let Some(row) = column.nulls.first() {
        let reason = "it is null, and no entity is named by null";
        return Err(Refusal::argument(format!("{path}[{row}]"), reason));
    }
    let keys = value_column(path, field, column, rows)?;
    check_held(path, column, &keys)?;
    Ok(keys)
}

/// Refuses what REAL and DOUBLE made another number of. A fraction is rounded, and so is a text, as in the topic.
fn check_held(path: Arguments<'_>, column: &Column, keys: &ArrayRef) -> Result<(), Refusal> {
    let data_type = keys.data_type();
    if !data_type.is_floating() {
        return Ok(());
    }
    let held = cast(keys, &DataType::Float64)?;
    let held = held.as_primitive::<Float64Type>().values();
    let wrong = |row: usize, held: f64| {
        if !held.is_finite() {
            let reason = format!("it is no finite number of type {data_type}, and names no entity");
            return Some(Violation::new(format!("{path}[{row}]"), reason));
        }
        other_than(column, row, held).map(|given| {
            let reason = format!(
                "{given} is no number of type {data_type}, whose nearest is {held}: a text is rounded to that, as one in \
                 the topic is"
            );
            Violation::new(format!("{path}[{row}]"), reason)
        })
    };
    let rows = held.iter().enumerate();
    let violations: Vec<Violation> = rows.filter_map(|(row, held)| wrong(row, *held)).collect();
    match violations.is_empty() {
        true => Ok(()),
        false => Err(Refusal::Arguments(violations)),
    }
}

/// The whole number in a row, be it an integer or a double, where it is another than the one that is held.
fn other_than(column: &Column, row: usize, held: f64) -> Option<String> {
    let signed = column.int64s.get(row).map(|number| i128::from(*number));
    let unsigned = || column.uint64s.get(row).map(|number| i128::from(*number));
    if let Some(given) = signed.or_else(unsigned) {
        return (given != held as i128).then(|| given.to_string());
    }
    let given = *column.doubles.get(row)?;
    (given.fract() == 0.0 && given != held).then(|| given.to_string())
}

/// A request's column as a column of the field's type.
///
/// # Errors
/// A value of another type, by its path in the message.
pub(super) fn value_column(
    path: Arguments<'_>,
    field: &Field,
    column: &Column,
    rows: usize,
) -> Result<ArrayRef, Refusal> {
    let data_type = field.data_type();
    if rows == 0 {
        return Ok(new_empty_array(data_type));
    }
    // What nearly every request has.
    if column.nulls.is_empty() && column.strings.len() == rows && data_type == &DataType::Utf8 {
        return Ok(Arc::new(StringArray::from_iter_values(&column.strings)));
    }
    if column.nulls.is_empty() && column.int64s.len() == rows && data_type == &DataType::Int64 {
        return Ok(Arc::new(Int64Array::from(column.int64s.clone())));
    }
    let mut nulls = vec![false; rows];
    for row in &column.nulls {
        nulls[*row as usize] = true;
    }
    let mut values = Vec::with_capacity(rows);
    let mut violations = Vec::new();
    for (row, is_null) in nulls.into_iter().enumerate() {
        let value = match is_null {
            true => ScalarValue::try_from(data_type).map_err(|e| e.to_string()),
            false => value(column, row, data_type),
        };
        match value {
            Ok(value) => values.push(value),
            Err(reason) => violations.push(Violation::new(format!("{path}[{row}]"), reason)),
        }
    }
    if !violations.is_empty() {
        return Err(Refusal::Arguments(violations));
    }
    ScalarValue::iter_to_array(values).map_err(|e| Refusal::Internal(e.strip_backtrace()))
}

/// A value as one of a type, or why it is none.
fn value(column: &Column, row: usize, data_type: &DataType) -> Result<ScalarValue, String> {
    if let Some(text) = column.strings.get(row) {
        let wrong = |reason: &str| format!("'{text}' {reason}");
        match data_type {
            DataType::Date32 => {
                let day = day_of(text).map_err(wrong)?;
                return Ok(ScalarValue::Date32(Some(day)));
            }
            DataType::Binary => {
                let bytes = bytes_of(text).map_err(wrong)?;
                return Ok(ScalarValue::Binary(Some(bytes)));
            }
            _ => {}
        }
    }
    let (scalar, what, is_meant) = scalar(column, row, data_type)?;
    if !is_meant {
        let hint = match data_type.is_decimal() && column.doubles.get(row).is_some() {
            true => ": a text says its digits, \"12.50\"",
            false => "",
        };
        return Err(format!(
            "it is {what}, and the column is of type {data_type}{hint}"
        ));
    }
    match scalar.cast_to(data_type) {
        Ok(cast) if !cast.is_null() => Ok(cast),
        _ => Err(format!("'{scalar}' is no value of type {data_type}")),
    }
}

/// A value as DataFusion has it, what to call its kind, and whether one of that kind says what it means in a column
/// of a type.
fn scalar(
    column: &Column,
    row: usize,
    data_type: &DataType,
) -> Result<(ScalarValue, &'static str, bool), String> {
    let takes_whole = data_type.is_numeric() || data_type == &DataType::Utf8;
    if let Some(text) = column.strings.get(row) {
        return Ok((ScalarValue::from(text.as_str()), "a text", true));
    }
    if let Some(number) = column.int64s.get(row) {
        return Ok((ScalarValue::from(*number), "an integer", takes_whole));
    }
    if let Some(number) = column.uint64s.get(row) {
        return Ok((ScalarValue::from(*number), "an integer", takes_whole));
    }
    if let Some(number) = column.doubles.get(row) {
        let value = ScalarValue::from(*number);
        return Ok((value, "a double", data_type.is_floating()));
    }
    if let Some(truth) = column.bools.get(row) {
        let is_meant = data_type == &DataType::Boolean;
        return Ok((ScalarValue::from(*truth), "a boolean", is_meant));
    }
    if let Some(bytes) = column.bytes.get(row) {
        let value = ScalarValue::Binary(Some(bytes.clone()));
        return Ok((value, "bytes", data_type == &DataType::Binary));
    }
    let time = column.timestamps.get(row).ok_or("it is missing")?;
    let time = read_time(time)?;
    let is_meant = matches!(data_type, DataType::Timestamp(_, _));
    let value = ScalarValue::TimestampMicrosecond(Some(time), None);
    Ok((value, "a timestamp", is_meant))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::datatypes::TimeUnit;
    use prost_types::Timestamp;

    fn check(column: &Column, data_type: &DataType, expected: Result<ScalarValue, &str>) {
        let field = Field::new("x", data_type.clone(), true);
        let got = key_column(format_args!("keys[\"x\"]"), &field, column, 1);
        match expected {
            Ok(value) => assert_eq!(
                ScalarValue::try_from_array(&got.unwrap(), 0).unwrap(),
                value
            ),
            Err(part) => {
                let message = got.unwrap_err().to_string();
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn values_become_what_they_mean_or_are_refused() {
        let text = |text: &str| Column {
            strings: vec![text.to_owned()],
            ..Column::default()
        };
        let whole = |number| Column {
            int64s: vec![number],
            ..Column::default()
        };
        let double = Column {
            doubles: vec![7.0],
            ..Column::default()
        };
        let truth = Column {
            bools: vec![true],
            ..Column::default()
        };
        let large = Column {
            uint64s: vec![u64::MAX],
            ..Column::default()
        };
        let never = Column {
            timestamps: vec![Timestamp {
                seconds: i64::MAX,
                nanos: 0,
            }],
            ..Column::default()
        };
        let fine = Column {
            timestamps: vec![Timestamp {
                seconds: 0,
                nanos: 1_000_000_000,
            }],
            ..Column::default()
        };
        let null = Column {
            nulls: vec![0],
            ..text("")
        };
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        check(&text("c1"), &DataType::Utf8, Ok(ScalarValue::from("c1")));
        check(&text("-7"), &DataType::Int64, Ok(ScalarValue::from(-7_i64)));
        check(
            &text("true"),
            &DataType::Boolean,
            Ok(ScalarValue::from(true)),
        );
        let noon = ScalarValue::TimestampMicrosecond(Some(1_522_584_000_000_000), None);
        check(&text("2018-04-01T12:00:00Z"), &time, Ok(noon));
        let day = ScalarValue::Date32(Some(17_622));
        check(&text("2018-04-01"), &DataType::Date32, Ok(day.clone()));
        check(&text("2018-04-01T00:00:00Z"), &DataType::Date32, Ok(day));
        check(
            &text("2018-04-01T12:00:00Z"),
            &DataType::Date32,
            Err("'2018-04-01T12:00:00Z' is not midnight in UTC"),
        );
        check(&text("soon"), &DataType::Date32, Err("'soon' is no date"));
        let bytes = ScalarValue::Binary(Some(b"hello".to_vec()));
        check(&text("68656c6c6f"), &DataType::Binary, Ok(bytes));
        check(
            &text("hello"),
            &DataType::Binary,
            Err("keys[\"x\"][0]: 'hello' is not hexadecimal digits, two a byte"),
        );
        check(
            &text("seven"),
            &DataType::Int64,
            Err("'seven' is no value of type Int64"),
        );
        check(&whole(7), &DataType::Utf8, Ok(ScalarValue::from("7")));
        check(&whole(7), &DataType::Int64, Ok(ScalarValue::from(7_i64)));
        check(&whole(7), &DataType::Int16, Ok(ScalarValue::from(7_i16)));
        check(
            &whole(70_000),
            &DataType::Int16,
            Err("no value of type Int16"),
        );
        check(&large, &DataType::Int64, Err("no value of type Int64"));
        check(&double, &DataType::Int64, Err("it is a double"));
        check(&double, &DataType::Utf8, Err("it is a double"));
        check(&truth, &DataType::Int64, Err("it is a boolean"));
        check(&whole(7), &time, Err("it is an integer"));
        check(&never, &time, Err("is no time in the years 1 to 9999"));
        check(
            &fine,
            &time,
            Err("its nanos are 1000000000: they are 0 to 999,999,999"),
        );
        let price = DataType::Decimal128(12, 2);
        let exact = ScalarValue::Decimal128(Some(1_250), 12, 2);
        check(&text("12.5"), &price, Ok(exact));
        check(
            &double,
            &price,
            Err("of type Decimal128(12, 2): a text says its digits, \"12.50\""),
        );
        check(&null, &DataType::Utf8, Err("keys[\"x\"][0]: it is null"));
    }

    #[test]
    fn a_number_that_a_column_cannot_hold_names_no_entity() {
        let text = |text: &str| Column {
            strings: vec![text.to_owned()],
            ..Column::default()
        };
        let whole = |number| Column {
            int64s: vec![number],
            ..Column::default()
        };
        let large = Column {
            uint64s: vec![u64::MAX],
            ..Column::default()
        };
        let double = |number| Column {
            doubles: vec![number],
            ..Column::default()
        };
        let (real, wide) = (DataType::Float32, DataType::Float64);
        let of_real = |number: f32| Ok(ScalarValue::from(number));
        let of_wide = |number: f64| Ok(ScalarValue::from(number));
        check(&whole(16_777_216), &real, of_real(16_777_216.0));
        check(&double(16_777_216.0), &real, of_real(16_777_216.0));
        check(&double(0.1), &real, of_real(0.1));
        check(&double(-0.0), &real, of_real(-0.0));
        check(&text("16777217"), &real, of_real(16_777_216.0));
        check(&whole(16_777_217), &wide, of_wide(16_777_217.0));
        check(&double(1e300), &wide, of_wide(1e300));
        check(
            &whole(16_777_217),
            &real,
            Err("keys[\"x\"][0]: 16777217 is no number of type Float32, whose nearest is 16777216"),
        );
        check(&double(16_777_217.0), &real, Err("16777217 is no number"));
        check(
            &whole(9_007_199_254_740_993),
            &wide,
            Err("9007199254740993 is no number of type Float64"),
        );
        check(&whole(i64::MAX), &wide, Err("is no number of type Float64"));
        check(&large, &wide, Err("is no number of type Float64"));
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            check(&double(number), &wide, Err("it is no finite number"));
            check(&double(number), &real, Err("it is no finite number"));
        }
        check(&double(1e300), &real, Err("keys[\"x\"][0]: "));
        for number in ["NaN", "inf", "-Infinity"] {
            check(&text(number), &wide, Err("keys[\"x\"][0]: "));
        }
        check(&text("1e300"), &real, Err("keys[\"x\"][0]: "));
    }

    #[test]
    fn a_column_is_of_one_kind_and_its_nulls_are_rows_of_it() {
        let column = |strings: usize, int64s: usize, nulls: Vec<u32>| Column {
            strings: vec![String::new(); strings],
            int64s: vec![0; int64s],
            nulls,
            ..Column::default()
        };
        assert_eq!(length(format_args!("k"), &column(0, 0, vec![])).unwrap(), 0);
        assert_eq!(
            length(format_args!("k"), &column(0, 3, vec![2])).unwrap(),
            3
        );
        let both = length(format_args!("k"), &column(1, 1, vec![]))
            .unwrap_err()
            .to_string();
        assert!(both.contains("int64s and in strings"), "{both}");
        let past = length(format_args!("k"), &column(1, 0, vec![1]))
            .unwrap_err()
            .to_string();
        assert!(past.contains("k.nulls: row 1"), "{past}");
    }
}
