//! Files of events: Parquet, JSON lines and CSV become batches of a stream's columns, and rows become JSON again.
//!
//! A file means what a topic means: JSON lines go through the topic's own decoder, and the other formats keep its
//! rules (no infinite number, no event without its required columns, whole numbers for a time are milliseconds).
//! One thing differs: a topic's bad event is put aside, and a file's bad row ends the reading, with its number.
//!
//! Not here: writing files (`generate` and the commands that have results), and sending rows to Kafka (`produce`).

use std::io::{BufRead, ErrorKind};
use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use indicatif::{ProgressBar, ProgressStyle};
use millrace_features::Stream;

use crate::failure::{Failure, Outcome};

mod absent;
mod column_writer;
mod columns;
mod csv_file;
mod json_lines;
mod json_rows;
mod parquet_file;
mod rows_file;
mod table_file;

pub(crate) use absent::{is_empty_folder, no_folder};
pub(crate) use columns::nearest;
pub(crate) use columns::{column_as, lost_row, outside_row, unit_slip};
pub(crate) use json_lines::near_key;
pub(crate) use json_rows::json_text;
pub use json_rows::write_json;
pub(crate) use rows_file::RowsFile;
pub(crate) use table_file::{TableFile, WriteError, discard, publish};

/// Rows of a batch, at most. With it, memory does not grow with the file.
pub const BATCH_ROWS: usize = 8_192;

/// A file of events: an iterator over batches with exactly the columns of its stream, in the file's order.
///
/// After the first error it ends.
pub struct EventFile {
    batches: Option<Batches>,
    schema: SchemaRef,
    rows: Option<u64>,
}

/// What a format gives: its batches, already with the stream's columns.
type Batches = Box<dyn Iterator<Item = Outcome<RecordBatch>> + Send>;

impl EventFile {
    /// Opens a file; its ending names the format: `.parquet`, `.jsonl`, `.ndjson` or `.json`, `.csv` (with a
    /// header).
    ///
    /// Columns are found by name, and columns that the stream does not declare are left out. A column that may be
    /// null may be missing, unless the file has one of nearly the same name, which is taken for a slip: the log says
    /// which are missing in a Parquet or CSV file when it is read, and which are null in every line of JSON when all
    /// were read.
    ///
    /// # Errors
    /// Of kind input: an ending of no format, a file that is not there or not of its format, a missing column, a
    /// column of a type that cannot become the stream's.
    pub fn open(path: &Path, stream: &Stream) -> Outcome<Self> {
        Self::open_as(path, stream, false)
    }

    /// The same, for who goes on without what cannot be read: all lines of JSON before the first bad one are given, and not
    /// those of whole batches alone.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in_part(path: &Path, stream: &Stream) -> Outcome<Self> {
        Self::open_as(path, stream, true)
    }

    fn open_as(path: &Path, stream: &Stream, in_part: bool) -> Outcome<Self> {
        let (batches, rows): (Batches, _) = match Format::of(path)? {
            Format::Parquet => {
                let (batches, rows) = parquet_file::open(path, stream)?;
                (Box::new(batches), Some(rows))
            }
            Format::JsonLines => (Box::new(json_lines::open(path, stream, in_part)?), None),
            Format::Csv => (Box::new(csv_file::open(path, stream)?), None),
        };
        Ok(Self {
            batches: Some(batches),
            schema: SchemaRef::clone(&stream.schema),
            rows,
        })
    }

    /// The schema of the batches: the stream's.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The number of rows, where the format tells it before all is read: in Parquet.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }
}

impl Iterator for EventFile {
    type Item = Outcome<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.batches.as_mut()?.next();
        if !matches!(next, Some(Ok(_))) {
            self.batches = None;
        }
        next
    }
}

/// The format of a file, which its ending names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Parquet,
    JsonLines,
    Csv,
}

impl Format {
    pub(crate) fn of_ending(ending: &str) -> Option<Self> {
        match ending.to_ascii_lowercase().as_str() {
            "parquet" => Some(Self::Parquet),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }

    pub(crate) fn of(path: &Path) -> Outcome<Self> {
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        Self::of_ending(&ending).ok_or_else(|| match path.is_dir() {
            true => absent::folder(path),
            false => Failure::input(format!("{}: its ending names no format", path.display()))
                .hint("a table is a file that ends in .parquet, .jsonl (.ndjson, .json) or .csv"),
        })
    }
}

/// Tells a person at a terminal that work goes on, with a message that changes.
pub(crate) fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}");
    let bar = ProgressBar::new_spinner();
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A file that cannot be opened, or is not what its ending says.
fn unreadable(path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::input(format!(
        "{}: {}",
        path.display(),
        crate::failure::with_causes(error)
    ))
}

/// A Parquet file that cannot be read as one.
fn broken_parquet(path: &Path, error: &dyn std::error::Error) -> Failure {
    unreadable(path, error).hint(
        "is it a whole Parquet file? Where a writer or a copy was broken off, its end is missing: write it anew. A file \
         of another format has that format's ending: .jsonl or .csv",
    )
}

fn open_file(path: &Path) -> Outcome<std::fs::File> {
    let file = std::fs::File::open(path).map_err(|e| {
        let failure = unreadable(path, &e);
        match e.kind() {
            ErrorKind::NotFound => failure.hint(absent::hint(path)),
            _ => failure,
        }
    })?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(absent::folder(path));
    }
    Ok(file)
}

/// Goes past the mark with which spreadsheets and others begin a file of UTF-8; how many bytes it has.
fn skip_mark(file: &mut impl BufRead) -> std::io::Result<usize> {
    const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
    let bytes = match file.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        true => BYTE_ORDER_MARK.len(),
        false => 0,
    };
    file.consume(bytes);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
