//! The files of a generated data set: where they go, and how a table becomes Parquet, JSON lines or CSV.
//!
//! A file is written under a name of its own, `<file>.partial`, and gets its name when it is whole. The
//! writers' settings are fixed, so equal tables make equal bytes.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::SchemaRef;
use arrow::json::LineDelimitedWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::GenerateError;

/// The pair of files that a data set becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFiles {
    /// Where the payments go.
    pub transactions: PathBuf,
    /// Where the labels go.
    pub labels: PathBuf,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Parquet,
    JsonLines,
    Csv,
}

impl OutputFiles {
    /// A folder, existing or without an ending, takes `transactions.parquet` and `labels.parquet`. A file with
    /// a known ending takes the payments, and the labels go beside it: `events.csv` and `events-labels.csv`.
    ///
    /// # Errors
    /// `GenerateError::Input` where the path has an ending of letters that is not that of a format.
    pub fn new(output: &Path) -> Result<Self, GenerateError> {
        let ending = output.extension().and_then(|ending| ending.to_str());
        if output.is_dir() || !ending.is_some_and(is_word) {
            return Ok(Self {
                transactions: output.join("transactions.parquet"),
                labels: output.join("labels.parquet"),
                format: Format::Parquet,
            });
        }
        let ending = ending.unwrap_or_default();
        let format = match ending.to_ascii_lowercase().as_str() {
            "parquet" => Format::Parquet,
            "jsonl" | "ndjson" | "json" => Format::JsonLines,
            "csv" => Format::Csv,
            _ => return Err(GenerateError::Input(unknown_ending(output, ending))),
        };
        let mut name = output.file_stem().unwrap_or_default().to_owned();
        name.push("-labels.");
        name.push(ending);
        Ok(Self {
            transactions: output.to_path_buf(),
            labels: output.with_file_name(name),
            format,
        })
    }
}

/// An ending such as that of `run.1` or `v0.2-b` is a part of a folder's name.
fn is_word(ending: &str) -> bool {
    ending.chars().all(|c| c.is_ascii_alphabetic())
}

fn unknown_ending(output: &Path, ending: &str) -> String {
    format!(
        "--output {}: no format has the ending .{ending}; write .parquet, .jsonl (.ndjson, .json) or .csv, or name a folder that exists",
        output.display()
    )
}

/// A table on its way into a file.
pub(super) struct TableFile {
    path: PathBuf,
    writer: TableWriter,
}

enum TableWriter {
    Parquet(Box<ArrowWriter<File>>),
    JsonLines(LineDelimitedWriter<BufWriter<File>>),
    Csv(Box<csv::Writer<BufWriter<File>>>),
}

/// What Arrow, Parquet or the file system say.
type Failure = Box<dyn Error + Send + Sync>;

impl TableFile {
    /// Opens the pair of files, with the folder that they are in.
    pub(super) fn create_pair(
        files: &OutputFiles,
        transactions: SchemaRef,
        labels: SchemaRef,
    ) -> Result<(Self, Self), GenerateError> {
        let transactions = Self::create(&files.transactions, files.format, transactions)?;
        match Self::create(&files.labels, files.format, labels) {
            Ok(labels) => Ok((transactions, labels)),
            Err(e) => {
                discard(&files.transactions);
                Err(e)
            }
        }
    }

    fn create(path: &Path, format: Format, schema: SchemaRef) -> Result<Self, GenerateError> {
        let writer = TableWriter::create(path, format, schema).map_err(|e| write_error(path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            writer,
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), GenerateError> {
        self.writer
            .write(batch)
            .map_err(|e| write_error(&self.path, e))
    }

    /// Ends the file, which still has its partial name.
    pub(super) fn finish(self) -> Result<(), GenerateError> {
        self.writer.finish().map_err(|e| write_error(&self.path, e))
    }
}

impl TableWriter {
    fn create(path: &Path, format: Format, schema: SchemaRef) -> Result<Self, Failure> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::create(partial(path))?;
        Ok(match format {
            Format::Parquet => {
                let writer = ArrowWriter::try_new(file, schema, Some(parquet_settings()?))?;
                Self::Parquet(Box::new(writer))
            }
            Format::JsonLines => Self::JsonLines(LineDelimitedWriter::new(BufWriter::new(file))),
            Format::Csv => Self::Csv(Box::new(csv::Writer::new(BufWriter::new(file)))),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        match self {
            Self::Parquet(writer) => writer.write(batch)?,
            Self::JsonLines(writer) => writer.write(batch)?,
            Self::Csv(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Parquet(writer) => {
                writer.close()?;
            }
            Self::JsonLines(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Self::Csv(writer) => writer.into_inner().flush()?,
        }
        Ok(())
    }
}

/// Gives both files, which are whole, their names.
pub(super) fn publish(files: &OutputFiles) -> Result<(), GenerateError> {
    for path in [&files.transactions, &files.labels] {
        fs::rename(partial(path), path).map_err(|e| write_error(path, e.into()))?;
    }
    Ok(())
}

/// Removes what was written of both files. That nothing is there to remove is no error.
pub(super) fn discard_pair(files: &OutputFiles) {
    discard(&files.transactions);
    discard(&files.labels);
}

fn discard(path: &Path) {
    let _ = fs::remove_file(partial(path));
}

fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".partial");
    PathBuf::from(name)
}

fn write_error(path: &Path, source: Failure) -> GenerateError {
    GenerateError::Write {
        path: path.to_path_buf(),
        source,
    }
}

/// Settings that say nothing of the version or the machine. What rises from row to row, a running number or
/// a time, is best told by its difference from the row before: a dictionary of it would be as long as the file.
fn parquet_settings() -> Result<WriterProperties, Failure> {
    let settings = WriterProperties::builder()
        .set_created_by("millrace".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(1 << 18));
    let rising = [
        ("tx_id", Encoding::DELTA_BYTE_ARRAY),
        ("tx_time", Encoding::DELTA_BINARY_PACKED),
        ("event_time", Encoding::DELTA_BINARY_PACKED),
    ];
    let settings = rising
        .into_iter()
        .fold(settings, |settings, (column, encoding)| {
            let column = ColumnPath::from(column);
            settings
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, encoding)
        });
    Ok(settings.build())
}
