//! A file of rows whose columns are its own: the spine of a training set.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::reader::{infer_json_schema, infer_json_schema_from_iterator};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::{BATCH_ROWS, Format, broken_parquet, open_file, skip_mark, unreadable};
use crate::failure::Outcome;

/// A part of a file that is worth a thread.
const LEAST_PART_BYTES: u64 = 1 << 20;

/// A file of rows: an iterator over its batches, in order, with all of its columns.
pub(crate) struct RowsFile {
    pub(crate) schema: SchemaRef,
    batches: Box<dyn Iterator<Item = Outcome<RecordBatch>> + Send>,
}

impl RowsFile {
    /// Opens a file; its ending names the format. The types of JSON lines and CSV are inferred from all of it, unless
    /// they are `known`.
    pub(crate) fn open(path: &Path, known: Option<SchemaRef>) -> Outcome<Self> {
        let mut file = open_file(path)?;
        match Format::of(path)? {
            Format::Parquet => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(file)
                    .and_then(|builder| {
                        let schema = Arc::clone(builder.schema());
                        Ok((schema, builder.with_batch_size(BATCH_ROWS).build()?))
                    })
                    .map_err(|e| broken_parquet(path, &e))?;
                let (schema, reader) = reader;
                Ok(Self::of(path, schema, reader))
            }
            Format::JsonLines => {
                let schema = known.map_or_else(|| json_schema(path, &mut file), Ok)?;
                let mut lines = BufReader::new(file);
                skip_mark(&mut lines).map_err(|e| unreadable(path, &e))?;
                let reader = arrow::json::ReaderBuilder::new(Arc::clone(&schema))
                    .with_batch_size(BATCH_ROWS)
                    .build(lines)
                    .map_err(|e| unreadable(path, &e))?;
                Ok(Self::of(path, schema, reader))
            }
            Format::Csv => {
                let schema = known.map_or_else(|| csv_schema(path, &mut file), Ok)?;
                let reader = arrow::csv::ReaderBuilder::new(Arc::clone(&schema))
                    .with_header(true)
                    .with_batch_size(BATCH_ROWS)
                    .build(file)
                    .map_err(|e| unreadable(path, &e))?;
                Ok(Self::of(path, schema, reader))
            }
        }
    }

    fn of<E: std::error::Error + 'static>(
        path: &Path,
        schema: SchemaRef,
        reader: impl Iterator<Item = Result<RecordBatch, E>> + Send + 'static,
    ) -> Self {
        let path = path.to_owned();
        let batches = reader.map(move |batch| batch.map_err(|e| unreadable(&path, &e)));
        Self {
            schema,
            batches: Box::new(batches),
        }
    }
}

/// What is inferred of a whole file, parts of it on all cores.
fn json_schema(path: &Path, file: &mut File) -> Outcome<SchemaRef> {
    let length = file.metadata().map_err(|e| unreadable(path, &e))?.len();
    let parts = rayon::current_num_threads() as u64;
    let part = (length / parts).max(LEAST_PART_BYTES);
    let schemas = (0..length.div_ceil(part))
        .into_par_iter()
        .map(|number| infer_part(path, number * part..(number + 1) * part))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unreadable(path, &e))?;
    let schema = joined(&schemas).map_err(|e| unreadable(path, &e))?;
    Ok(Arc::new(schema))
}

/// What is inferred of all rows is what is inferred of values of each type that was found in a part of them.
fn joined(parts: &[Schema]) -> Result<Schema, ArrowError> {
    let rows = parts.iter().flat_map(|part| part.fields().iter());
    let rows = rows.flat_map(|field| objects(field)).map(Ok);
    infer_json_schema_from_iterator(rows)
}

/// The types of the lines that begin in a part of the file.
fn infer_part(path: &Path, bytes: Range<u64>) -> Result<Schema, ArrowError> {
    let mut file = BufReader::new(File::open(path)?);
    let mut start = bytes.start;
    if let Some(before) = start.checked_sub(1) {
        // A line that began earlier is another part's.
        file.seek(SeekFrom::Start(before))?;
        start = before + file.skip_until(b'\n')? as u64;
    }
    let mut end = bytes.end;
    if start < end {
        let mut tail = BufReader::new(File::open(path)?);
        tail.seek(SeekFrom::Start(end - 1))?;
        end = end - 1 + tail.skip_until(b'\n')? as u64;
    }
    if start == 0 {
        start = skip_mark(&mut file)? as u64;
    }
    let lines = file.take(end.saturating_sub(start));
    infer_json_schema(lines, None).map(|(schema, _)| schema)
}

/// Values of which this type is inferred, with the fields in their order.
fn samples(data_type: &DataType) -> Vec<Value> {
    let one = |value: Value| vec![value];
    match data_type {
        DataType::Null => one(Value::Null),
        DataType::Boolean => one(true.into()),
        DataType::Int64 => one(1.into()),
        DataType::Float64 => one(0.5.into()),
        DataType::List(item) => {
            let items = samples(item.data_type()).into_iter();
            items.map(|item| Value::from(vec![item])).collect()
        }
        DataType::Struct(fields) if fields.is_empty() => one(Value::Object(Map::new())),
        DataType::Struct(fields) => fields.iter().flat_map(|field| objects(field)).collect(),
        _ => one("text".into()),
    }
}

/// Objects with this field alone.
fn objects(field: &Field) -> impl Iterator<Item = Value> {
    let values = samples(field.data_type()).into_iter();
    let name = field.name().clone();
    values.map(move |value| Value::Object(Map::from_iter([(name.clone(), value)])))
}

fn csv_schema(path: &Path, file: &mut File) -> Outcome<SchemaRef> {
    let (schema, _) = CsvFormat::default()
        .with_header(true)
        .infer_schema(&mut *file, None)
        .map_err(|e| unreadable(path, &e))?;
    file.rewind().map_err(|e| unreadable(path, &e))?;
    Ok(Arc::new(schema))
}

impl Iterator for RowsFile {
    type Item = Outcome<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_row() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("rows.jsonl", "\u{feff}{\"a\":1}\n{\"a\":2}\n"),
            ("rows.csv", "\u{feff}a\n1\n2\n"),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let file = RowsFile::open(&path, None).unwrap();
            assert!(file.schema.column_with_name("a").is_some(), "{name}");
            let rows = file.map(|batch| batch.unwrap().num_rows());
            assert_eq!(rows.sum::<usize>(), 2, "{name}");
        }
    }

    #[test]
    fn types_are_those_of_the_whole_file_wherever_it_is_cut() {
        let rows = [
            r#"{"a": 1, "b": null, "c": [1], "d": {"x": 1}}"#,
            r#"{"a": 2.5, "c": [0.5], "d": {"y": true}, "e": "é\n"}"#,
            "",
            r#"{"b": "text", "f": 7, "g": [], "A": {}, "d": {"B": null}}"#,
            r#"{"f": "seven", "g": ["a"], "h": false}"#,
        ];
        let text = rows.join("\n");
        let (whole, _) = infer_json_schema(text.as_bytes(), None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        for text in [text.clone(), format!("\u{feff}{text}")] {
            std::fs::write(&path, &text).unwrap();
            let end = text.len() as u64;
            for cut in 1..end {
                let parts = [0..cut, cut..end].map(|part| infer_part(&path, part).unwrap());
                assert_eq!(joined(&parts).unwrap(), whole, "cut at {cut}");
            }
        }
    }
}
