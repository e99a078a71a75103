//! How the columns of a table file become a stream's columns: by name, and by the rules that a topic has.
//!
//! Text becomes numbers, booleans and times; whole numbers become times as milliseconds since 1970; a time with a
//! zone becomes its UTC time; digits beyond microseconds are cut. Columns of DECIMAL and of whole numbers are read from
//! the digits of a text, and of the shortest text that a floating-point number has: 1.255 as a DOUBLE of Parquet is
//! what 1.255 is in JSON. A column of DATE takes midnights alone: another time of day would be lost. One of
//! BYTEA takes a text as hexadecimal digits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Date32Array, RecordBatch, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{
    DataType, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use chrono::Utc;
use millrace_features::Stream;
use millrace_ingest::{
    bytes_of, day_of, is_exact, not_finite_rows, numbers_of, other_unit, time_of_number,
};
use tracing::warn;

use crate::failure::{Failure, Outcome};

/// 0001-01-01T00:00:00Z and the last microsecond of 9999, in microseconds since 1970: what a topic's event time
/// may be.
const EARLIEST_US: i64 = -62_135_596_800_000_000;
const LATEST_US: i64 = 253_402_300_799_999_999;

const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// The way from a file's columns to a stream's.
pub(super) struct Columns {
    path: PathBuf,
    schema: SchemaRef,
    required: BTreeSet<usize>,
    time: usize,
    /// Indexes of the columns in the file that are needed.
    projection: Vec<usize>,
    /// The stream's columns that the file lacks, until they were told.
    absent: Vec<String>,
    /// The file's columns that the stream lacks.
    left_out: Vec<String>,
    /// Rows of the batches before, so that a message can name a row of the file.
    rows_before: usize,
}

impl Columns {
    /// Finds a stream's columns in a file.
    pub(super) fn find(path: &Path, stream: &Stream, file: &Schema) -> Outcome<Self> {
        let mut columns = Self {
            path: path.to_owned(),
            schema: SchemaRef::clone(&stream.schema),
            required: stream.required().into_iter().collect(),
            time: stream.time,
            projection: Vec::new(),
            absent: Vec::new(),
            left_out: unknown(file, stream).map(str::to_owned).collect(),
            rows_before: 0,
        };
        for (index, field) in stream.schema.fields().iter().enumerate() {
            match file.index_of(field.name()) {
                Ok(position) => {
                    columns.check_once(field.name(), file)?;
                    columns.check_type(index, file.field(position).data_type())?;
                    columns.projection.push(position);
                }
                Err(_) => {
                    columns.check_absent(index, stream, file)?;
                    columns.absent.push(field.name().clone());
                }
            }
        }
        Ok(columns)
    }

    /// Indexes in the file of the columns that the stream has.
    pub(super) fn projection(&self) -> Vec<usize> {
        self.projection.clone()
    }

    fn check_once(&self, name: &str, file: &Schema) -> Outcome<()> {
        let same = file.fields().iter().filter(|field| field.name() == name);
        match same.count() {
            0 | 1 => Ok(()),
            count => Err(Failure::input(format!(
                "{}: {count} columns have the name '{name}'",
                self.path.display()
            ))
            .hint("give those that are not meant another name: columns are found by name")),
        }
    }

    fn check_type(&self, index: usize, from: &DataType) -> Outcome<()> {
        let field = self.schema.field(index);
        let to = field.data_type();
        // A fraction of what? Seconds and milliseconds are both in use.
        let vague = from.is_floating() && matches!(to, DataType::Timestamp(..));
        if (from == to || can_cast_types(from, to)) && !from.is_nested() && !vague {
            return Ok(());
        }
        Err(Failure::input(format!(
            "{}: column '{}' is {from} in the file, and {} in the stream",
            self.path.display(),
            field.name(),
            sql_name(to)
        ))
        .hint(match to {
            DataType::Timestamp(..) => {
                "a time is a timestamp, a text such as 2025-01-31T12:00:00Z, or whole milliseconds \
                 since 1970"
            }
            _ => "write the column as a plain value of that type, or as text",
        }))
    }

    fn check_absent(&self, index: usize, stream: &Stream, file: &Schema) -> Outcome<()> {
        let name = stream.schema.field(index).name();
        let near = nearest(name, unknown(file, stream));
        if near.is_none() && !self.required.contains(&index) {
            return Ok(());
        }
        Err(missing_column(
            &self.path.display().to_string(),
            name,
            near,
            stream,
            &self.left_out,
        ))
    }

    /// Turns a batch of the file's columns into one of the stream's.
    pub(super) fn convert(&mut self, batch: &RecordBatch) -> Outcome<RecordBatch> {
        self.tell_absent();
        let fields = 0..self.schema.fields().len();
        let columns: Vec<ArrayRef> = fields
            .map(|index| self.convert_column(index, batch))
            .collect::<Outcome<_>>()?;
        self.check_time(&columns[self.time])?;
        self.rows_before += batch.num_rows();
        RecordBatch::try_new(SchemaRef::clone(&self.schema), columns)
            .map_err(|e| super::unreadable(&self.path, &e))
    }

    /// Says once, when the file is read, which columns are null in all of its events: those may have come to the stream
    /// later than the file, or the file may have them under another name.
    fn tell_absent(&mut self) {
        let absent = std::mem::take(&mut self.absent);
        if !absent.is_empty() {
            warn!(
                file = %self.path.display(),
                columns = absent.join(", "),
                left_out = self.left_out.join(", "),
                "the file lacks columns of the stream, which are null in its events; columns that the stream does not \
                 declare are left out"
            );
        }
    }

    fn convert_column(&self, index: usize, batch: &RecordBatch) -> Outcome<ArrayRef> {
        let field = self.schema.field(index);
        let Some(source) = batch.column_by_name(field.name()) else {
            return Ok(new_null_array(field.data_type(), batch.num_rows()));
        };
        let values =
            column_as(source, field.data_type()).map_err(|e| super::unreadable(&self.path, &e))?;
        if let Some(row) = lost_row(source, &values) {
            return Err(self.bad_value(index, row, source));
        }
        if index == self.time {
            self.check_unit(source)?;
        }
        if self.required.contains(&index) && values.null_count() > 0 {
            let row = (0..values.len())
                .find(|row| values.is_null(*row))
                .unwrap_or_default();
            return Err(self.at(row, &format!("column '{}' is null", field.name())).hint(
                "the stream needs it: it is NOT NULL, its event time, its key or its id in sources.sql",
            ));
        }
        if let Some(row) = not_finite_rows(&values).first().copied() {
            return Err(self
                .at(
                    row,
                    &format!("column '{}' is not a finite number", field.name()),
                )
                .hint("leave it null where the number is not known"));
        }
        Ok(values)
    }

    fn check_unit(&self, source: &ArrayRef) -> Outcome<()> {
        let slip = unit_slip(source).map_err(|e| super::unreadable(&self.path, &e))?;
        match slip {
            Some((row, slip)) => {
                let name = self.schema.field(self.time).name();
                Err(self.at(row, &format!("column '{name}': {slip}")).hint(
                    "whole numbers are read as milliseconds since 1970; a timestamp or a text says which day it means",
                ))
            }
            None => Ok(()),
        }
    }

    fn check_time(&self, times: &ArrayRef) -> Outcome<()> {
        match outside_row(times) {
            Some(row) => {
                let name = self.schema.field(self.time).name();
                Err(self
                    .at(row, &format!("'{name}' is not within the years 1 to 9999"))
                    .hint("whole numbers are read as milliseconds since 1970"))
            }
            None => Ok(()),
        }
    }

    fn bad_value(&self, index: usize, row: usize, source: &ArrayRef) -> Failure {
        let field = self.schema.field(index);
        let value = array_value_to_string(source, row).unwrap_or_default();
        let value: String = value.chars().take(60).collect();
        let kind = sql_name(field.data_type());
        let name = field.name();
        self.at(row, &format!("column '{name}': '{value}' is no {kind}"))
            .hint(match field.data_type() {
                _ if index == self.time => {
                    "an event time is within the years 1 to 9999: a timestamp, a text such as \
                     2025-01-31T12:00:00Z, or whole milliseconds since 1970"
                        .to_owned()
                }
                DataType::Date32 => format!(
                    "column '{name}' is declared as {kind} in sources.sql: a date such as 2025-01-31, or a time that is \
                     midnight in UTC; TIMESTAMP has times of day"
                ),
                DataType::Binary => format!(
                    "column '{name}' is declared as {kind} in sources.sql: hexadecimal digits, two a byte"
                ),
                _ => format!("column '{name}' is declared as {kind} in sources.sql"),
            })
    }

    /// A mistake in a row of the file; rows count from 1, below a header.
    fn at(&self, row: usize, what: &str) -> Failure {
        let row = self.rows_before + row + 1;
        Failure::input(format!("{}: row {row}: {what}", self.path.display()))
    }
}

/// The columns of a file that the stream does not have.
fn unknown<'a>(file: &'a Schema, stream: &Stream) -> impl Iterator<Item = &'a str> {
    let names = file.fields().iter().map(|field| field.name().as_str());
    names.filter(move |name| stream.schema.index_of(name).is_err())
}

/// A column that the stream has and the file does not; `left_out` are those that only the file has.
fn missing_column(
    place: &str,
    name: &str,
    near: Option<String>,
    stream: &Stream,
    left_out: &[String],
) -> Failure {
    let failure = Failure::input(format!(
        "{place}: there is no column '{name}', which stream '{}' declares",
        stream.name
    ));
    match near {
        Some(near) => failure.hint(format!(
            "did you mean '{near}'? Name it the same in the file and in sources.sql"
        )),
        None => {
            let names: Vec<&str> = stream
                .schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            let known = format!("the stream's columns: {}", names.join(", "));
            failure.hint(match left_out {
                [] => known,
                others => format!("{known}; the file has besides: {}", others.join(", ")),
            })
        }
    }
}

/// The name that is most like `wrong`, if one is close; case counts for nothing. Of one or two letters, another one is
/// half of the name.
pub(crate) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let wrong = wrong.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &wrong);
    let ranked = names.map(|name| (distance(name), name));
    let most = match wrong.chars().count() {
        0..=2 => 0,
        letters => letters.div_ceil(4),
    };
    let (_, near) = ranked.filter(|(distance, _)| *distance <= most).min()?;
    Some(near.to_owned())
}

/// A column's values as another type, by the rules above; null where one does not fit: [`lost_row`] finds it.
pub(crate) fn column_as(source: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let from = source.data_type();
    if from == to {
        return Ok(Arc::clone(source));
    }
    if let DataType::Dictionary(_, plain) = from {
        return column_as(&plain_cast(source, plain)?, to);
    }
    if to == &DataType::Date32 {
        return days(source);
    }
    if to == &DataType::Binary && from.is_integer() {
        // Arrow would give the bytes that the machine has it in; of digits that a file's reader took for a number, the
        // noughts before them are lost.
        return Ok(new_null_array(to, source.len()));
    }
    if to == &DataType::Binary && is_text(from) {
        let texts = plain_cast(source, &DataType::Utf8)?;
        let bytes = texts.as_string::<i32>().iter();
        let bytes = bytes.map(|text| bytes_of(text?).ok());
        return Ok(Arc::new(bytes.collect::<BinaryArray>()));
    }
    if to == &TIMESTAMP && from.is_integer() {
        let whole = plain_cast(source, &DataType::Int64)?;
        let milliseconds = plain_cast(&whole, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
        return plain_cast(&milliseconds, to);
    }
    if to == &TIMESTAMP && is_text(from) {
        let texts = plain_cast(source, &DataType::Utf8)?;
        let times = texts.as_string::<i32>().iter().map(|text| time_of(text?));
        return Ok(Arc::new(times.collect::<TimestampMicrosecondArray>()));
    }
    let has_fractions =
        is_text(from) || from.is_floating() || (from.is_decimal() && to.is_integer());
    if to == &TIMESTAMP && matches!(from, DataType::Timestamp(TimeUnit::Nanosecond, _)) {
        // Arrow's cast cuts towards 1970: a time before it would be another one than its text is.
        let times = source.as_primitive::<TimestampNanosecondType>();
        let times: TimestampMicrosecondArray = times.unary(|time_ns| time_ns.div_euclid(1_000));
        return Ok(Arc::new(times));
    }
    if is_exact(to) && has_fractions {
        // Arrow writes the fewest digits that bring the same floating-point number back.
        let texts = plain_cast(source, &DataType::Utf8)?;
        return Ok(numbers_of(texts.as_string::<i32>(), to));
    }
    plain_cast(source, to)
}

/// A column's values as days since 1970: of texts and numbers as a topic reads them, of times those that are midnight in
/// UTC.
fn days(source: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let per_day: i64 = match source.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => 86_400,
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => 86_400_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 86_400_000_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 86_400_000_000_000,
        from if is_text(from) || from.is_integer() => {
            let texts = plain_cast(source, &DataType::Utf8)?;
            let days = texts.as_string::<i32>().iter();
            let days = days.map(|text| day_of(text?).ok());
            return Ok(Arc::new(days.collect::<Date32Array>()));
        }
        _ => return plain_cast(source, &DataType::Date32),
    };
    let day = |time: i64| match time.rem_euclid(per_day) {
        0 => i32::try_from(time.div_euclid(per_day)).ok(),
        _ => None,
    };
    let times = plain_cast(source, &DataType::Int64)?;
    let days: Date32Array = times.as_primitive::<Int64Type>().unary_opt(day);
    Ok(Arc::new(days))
}

/// The first event time that is a number in other units than milliseconds, and what is wrong with it: what a topic
/// refuses too.
pub(crate) fn unit_slip(source: &ArrayRef) -> Result<Option<(usize, String)>, ArrowError> {
    let slip = |(row, number): (usize, Option<f64>)| Some((row, other_unit(number?)?));
    Ok(numbers(source)?.into_iter().enumerate().find_map(slip))
}

/// The numbers of a column that is to be times: whole ones, or texts that are numbers. None for what says a date.
fn numbers(source: &ArrayRef) -> Result<Vec<Option<f64>>, ArrowError> {
    if source.data_type().is_integer() {
        let numbers = plain_cast(source, &DataType::Int64)?;
        let numbers = numbers.as_primitive::<Int64Type>();
        return Ok(numbers.iter().map(|number| Some(number? as f64)).collect());
    }
    if is_text(source.data_type()) {
        let texts = plain_cast(source, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        return Ok(texts.iter().map(|text| text?.trim().parse().ok()).collect());
    }
    Ok(Vec::new())
}

/// A cast that leaves null what does not fit: [`lost_row`] finds it.
fn plain_cast(source: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(
        source,
        to,
        &CastOptions {
            safe: true,
            ..CastOptions::default()
        },
    )
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// A time's text in microseconds since 1970, as the topic's decoder reads it.
fn time_of(text: &str) -> Option<i64> {
    match time_of_number(text) {
        Some(time_us) => i64::try_from(time_us).ok(),
        None => Some(string_to_datetime(&Utc, text).ok()?.timestamp_micros()),
    }
}

/// The first of a column of times (µs since 1970) that no event time may be.
pub(crate) fn outside_row(times: &ArrayRef) -> Option<usize> {
    let outside = |time: i64| !(EARLIEST_US..=LATEST_US).contains(&time);
    let times = times.as_primitive::<TimestampMicrosecondType>();
    times.iter().position(|time| time.is_some_and(outside))
}

/// The first row that had a value and has none any more.
pub(crate) fn lost_row(source: &ArrayRef, values: &ArrayRef) -> Option<usize> {
    let had = source.logical_nulls();
    let had_value = |row: &usize| had.as_ref().is_none_or(|nulls| nulls.is_valid(*row));
    let nulls = values.nulls()?;
    (0..values.len())
        .filter(|row| nulls.is_null(*row))
        .find(had_value)
}

/// A type as sources.sql has it.
fn sql_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::Float32 => "FLOAT",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 => "VARCHAR",
        DataType::Date32 => "DATE",
        DataType::Binary => "BYTEA",
        DataType::Timestamp(..) => "TIMESTAMP",
        DataType::Decimal128(precision, scale) => return format!("DECIMAL({precision}, {scale})"),
        other => return other.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{
        Date64Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
        StringArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
    };
    use arrow::compute::cast;
    use arrow::datatypes::{Date32Type, Decimal128Type};
    use millrace_ingest::{JsonDecoder, StreamSpec};

    use super::*;

    /// The times of a table file and of a topic are read by two pieces of code: they must agree.
    #[test]
    fn a_text_is_the_time_that_a_topic_reads() {
        let texts = [
            "2025-01-31T12:00:00Z",
            "2025-01-31T12:00:00.123456+02:00",
            "2025-01-31 12:00:00",
            "2025-01-31 12:00:00.5",
            "2025-01-31",
            "1738324800000",
            "1738324800000.25",
            "1738324800000.2519",
            "-0.0005",
            "1969-12-31T23:59:59.9999995Z",
            "1.7e12",
            " 1738324800000 ",
            "1e30",
            "-1",
            "yesterday",
            "2025-13-01",
            "",
        ];
        for text in texts {
            assert_eq!(time_of(text), topic_time(text), "{text}");
        }
    }

    fn topic_time(text: &str) -> Option<i64> {
        let field = arrow::datatypes::Field::new("t", TIMESTAMP, false);
        let spec = StreamSpec {
            name: "s".into(),
            topic: "s".into(),
            schema: Arc::new(Schema::new(vec![field])),
            time_column: 0,
            required: vec![0],
            id: None,
        };
        let message = serde_json::json!({ "t": text }).to_string();
        let mut decoder = JsonDecoder::new(spec).unwrap();
        let decoded = decoder
            .decode(&[Some(message.as_bytes())], i64::MAX)
            .unwrap();
        let times = decoded
            .batch
            .column(0)
            .as_primitive::<TimestampMicrosecondType>();
        times.iter().next().flatten()
    }

    #[test]
    fn a_decimal_is_what_its_digits_say_in_every_type_of_a_file() {
        let price = DataType::Decimal128(12, 2);
        let check = |source: ArrayRef, expected: &[Option<i128>]| {
            let read = column_as(&source, &price).unwrap();
            assert_eq!(read.data_type(), &price);
            let read: Vec<_> = read.as_primitive::<Decimal128Type>().iter().collect();
            assert_eq!(read, expected, "{}", source.data_type());
        };
        let numbers = [
            1.255,
            -1.255,
            -1.259,
            1.5e3,
            1e-9,
            1e10,
            f64::NAN,
            9_999_999_999.995,
        ];
        let expected = [
            Some(126),
            Some(-126),
            Some(-126),
            Some(150_000),
            Some(0),
            None,
            None,
            None,
        ];
        let texts: Vec<String> = numbers.iter().map(f64::to_string).collect();
        check(Arc::new(StringArray::from(texts)), &expected);
        check(Arc::new(Float64Array::from(numbers.to_vec())), &expected);
        check(
            Arc::new(Float32Array::from(vec![1.255, -1.259])),
            &[Some(126), Some(-126)],
        );
        let fine = Decimal128Array::from(vec![1_255, -1_255, -1_259, 1_254, 9_999_999_999_995]);
        check(
            Arc::new(fine.with_precision_and_scale(20, 3).unwrap()),
            &[Some(126), Some(-126), Some(-126), Some(125), None],
        );
        check(
            Arc::new(Int64Array::from(vec![7, 9_999_999_999, 10_000_000_000])),
            &[Some(700), Some(999_999_999_900), None],
        );
    }

    #[test]
    fn a_column_of_whole_numbers_takes_no_fraction_in_any_type_of_a_file() {
        let check = |source: ArrayRef, expected: &[Option<i64>]| {
            let read = column_as(&source, &DataType::Int64).unwrap();
            let read: Vec<_> = read.as_primitive::<Int64Type>().iter().collect();
            assert_eq!(read, expected, "{}", source.data_type());
        };
        let numbers = [
            2.0,
            1.7,
            -0.0,
            2e3,
            1e18,
            9_223_372_036_854_775_808.0,
            f64::INFINITY,
        ];
        let expected = [
            Some(2),
            None,
            Some(0),
            Some(2_000),
            Some(1_000_000_000_000_000_000),
            None,
            None,
        ];
        let texts: Vec<String> = numbers.iter().map(f64::to_string).collect();
        let texts: ArrayRef = Arc::new(StringArray::from(texts));
        let keyed = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        check(cast(&texts, &keyed).unwrap(), &expected);
        check(texts, &expected);
        check(Arc::new(Float64Array::from(numbers.to_vec())), &expected);
        let decimals = Decimal128Array::from(vec![200, 170, -200, 0]);
        check(
            Arc::new(decimals.with_precision_and_scale(20, 2).unwrap()),
            &[Some(2), None, Some(-2), Some(0)],
        );
        let unsigned = UInt64Array::from(vec![7, u64::MAX]);
        check(Arc::new(unsigned), &[Some(7), None]);
    }

    #[test]
    fn a_date_loses_no_time_of_day_in_any_type_of_a_file() {
        let check = |source: ArrayRef, expected: &[Option<i32>]| {
            let read = column_as(&source, &DataType::Date32).unwrap();
            let read: Vec<_> = read.as_primitive::<Date32Type>().iter().collect();
            assert_eq!(read, expected, "{}", source.data_type());
        };
        let texts = [
            "2024-01-05",
            "2024-01-05 00:00:00",
            "2024-01-05 12:30:00",
            "19727",
            "20240105",
            "soon",
        ];
        let day = Some(19_727);
        let expected = [day, day, None, day, day, None];
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let keyed = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        check(cast(&texts, &keyed).unwrap(), &expected);
        check(texts, &expected);
        check(
            Arc::new(Int32Array::from(vec![19_727, -1, 20_240_105, 2_932_897])),
            &[day, Some(-1), day, None],
        );
        check(Arc::new(Int64Array::from(vec![19_727])), &[day]);
        // Midnight, the last second before 1970, and the midnight before that.
        let seconds = TimestampSecondArray::from(vec![19_727 * 86_400, -1, -86_400]);
        let expected = [day, None, Some(-1)];
        for unit in [
            TimeUnit::Second,
            TimeUnit::Millisecond,
            TimeUnit::Microsecond,
            TimeUnit::Nanosecond,
        ] {
            // A zone says how a time is shown, and not which one it is.
            for zone in [None, Some("+05:30".into())] {
                let times = cast(&seconds, &DataType::Timestamp(unit, None)).unwrap();
                let numbers = cast(&times, &DataType::Int64).unwrap();
                let times = cast(&numbers, &DataType::Timestamp(unit, zone)).unwrap();
                check(times, &expected);
            }
        }
        let noon = TimestampNanosecondArray::from(vec![19_727 * 86_400_000_000_000 + 1]);
        check(Arc::new(noon), &[None]);
        let milliseconds = Date64Array::from(vec![19_727 * 86_400_000, 1]);
        check(Arc::new(milliseconds), &[day, None]);
        check(Arc::new(Date32Array::from(vec![19_727])), &[day]);
    }

    #[test]
    fn a_text_is_the_bytes_that_its_digits_say() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("6869"), Some("hi"), None]));
        let read = column_as(&texts, &DataType::Binary).unwrap();
        let read: Vec<_> = read.as_binary::<i32>().iter().collect();
        assert_eq!(read, [Some(b"hi".as_slice()), None, None]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![6869]));
        let read = column_as(&numbers, &DataType::Binary).unwrap();
        assert_eq!(lost_row(&numbers, &read), Some(0));
    }

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["amount", "Card_ID", "terminal", "id", "x"];
        let near = |wrong: &str| nearest(wrong, names.into_iter());
        assert_eq!(near("amuont").as_deref(), Some("amount"));
        assert_eq!(near("card_id").as_deref(), Some("Card_ID"));
        assert_eq!(near("event_time"), None);
        assert_eq!(near("ID").as_deref(), Some("id"));
        assert_eq!((near("ip"), near("n")), (None, None));
    }
}
