//! Rows as JSON objects, as they stand in a topic: the opposite of the topic's decoder.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;

use crate::failure::{Failure, Outcome};

/// The rows of a batch as JSON objects, one a row.
///
/// Times are in RFC 3339 with `Z`, with the digits after the second that they need; nulls are left out; numbers
/// have the fewest digits that bring the same number back. What is not a finite number has no JSON and becomes
/// null.
///
/// # Errors
/// A column of a type that JSON cannot hold.
pub fn write_json(batch: &RecordBatch) -> Outcome<Vec<String>> {
    // A line break inside of a text is written as `\n`, so that each raw one ends a row.
    Ok(json_text(batch)?.lines().map(str::to_owned).collect())
}

/// The same as one text, a line a row.
pub(crate) fn json_text(batch: &RecordBatch) -> Outcome<String> {
    let bytes = write_lines(batch)
        .map_err(|e| Failure::failed(format!("rows cannot be written as JSON: {e}")))?;
    String::from_utf8(bytes).map_err(|e| Failure::failed(format!("JSON that is not UTF-8: {e}")))
}

fn write_lines(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = LineDelimitedWriter::new(Vec::with_capacity(128 * batch.num_rows()));
    writer.write(&with_zones(batch)?)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

/// Arrow writes a time without a zone without one: every time here is UTC, and says so.
fn with_zones(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .map(with_zone)
        .collect::<Result<_, _>>()?;
    let fields = batch.schema_ref().fields().iter().zip(&columns);
    let fields =
        fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns)
}

fn with_zone(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !matches!(column.data_type(), DataType::Timestamp(_, None)) {
        return Ok(Arc::clone(column));
    }
    let times = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let times = times.as_primitive::<TimestampMicrosecondType>().clone();
    Ok(Arc::new(times.with_timezone_utc()))
}
