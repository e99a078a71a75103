//! A file of rows whose columns are its own: the spine of a training set.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{BATCH_ROWS, Format, open_file, unreadable};
use crate::failure::Outcome;

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
                    .map_err(|e| unreadable(path, &e))?;
                let (schema, reader) = reader;
                Ok(Self::of(path, schema, reader))
            }
            Format::JsonLines => {
                let schema = known.map_or_else(|| json_schema(path, &mut file), Ok)?;
                let reader = arrow::json::ReaderBuilder::new(Arc::clone(&schema))
                    .with_batch_size(BATCH_ROWS)
                    .build(BufReader::new(file))
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

fn json_schema(path: &Path, file: &mut File) -> Outcome<SchemaRef> {
    let (schema, _) = arrow::json::reader::infer_json_schema(BufReader::new(&*file), None)
        .map_err(|e| unreadable(path, &e))?;
    file.rewind().map_err(|e| unreadable(path, &e))?;
    Ok(Arc::new(schema))
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
