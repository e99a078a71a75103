//! CSV with a header: cells are read as text, and become the stream's types by the rules of `columns`.
//!
//! An empty cell is null: CSV cannot tell it from an empty text.

use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use millrace_features::Stream;

use super::columns::Columns;
use super::{BATCH_ROWS, open_file, unreadable};
use crate::failure::{Failure, Outcome};

/// Spreadsheets open a file of UTF-8 with this mark.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The batches of a CSV file.
pub(super) fn open(
    path: &Path,
    stream: &Stream,
) -> Outcome<impl Iterator<Item = Outcome<RecordBatch>> + Send + use<>> {
    let mut file = open_file(path)?;
    let (header, _) = Format::default()
        .with_header(true)
        .infer_schema(&mut file, Some(0))
        .map_err(|e| not_csv(path, &e))?;
    file.seek(SeekFrom::Start(0))
        .map_err(|e| unreadable(path, &e))?;
    let texts = all_text(&header);
    let mut columns = Columns::find(path, stream, &texts)?;
    let reader = ReaderBuilder::new(texts)
        .with_header(true)
        .with_batch_size(BATCH_ROWS)
        .with_projection(columns.projection())
        .build(file)
        .map_err(|e| not_csv(path, &e))?;
    let path = path.to_owned();
    Ok(reader.map(move |batch| {
        let batch = batch.map_err(|e| not_csv(&path, &e))?;
        columns.convert(&batch)
    }))
}

fn all_text(header: &Schema) -> SchemaRef {
    let names = header.fields().iter().map(|field| field.name());
    let names = names.map(|name| name.trim_start_matches(BYTE_ORDER_MARK).trim());
    let fields = names.map(|name| Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Arrow's words name the line.
fn not_csv(path: &Path, error: &ArrowError) -> Failure {
    let text = error.to_string();
    let text = text.trim_start_matches("Csv error: ");
    Failure::input(format!("{}: {text}", path.display()))
        .hint("a header, then a line a row, with commas; quote a cell that has a comma: \"a, b\"")
}
