//! The files of a generated data set: where they go, and how both of them get their names or neither.

use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;

use super::GenerateError;
use crate::files::{Format, TableFile, WriteError, discard, publish};

/// The pair of files that a data set becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFiles {
    /// Where the payments go.
    pub transactions: PathBuf,
    /// Where the labels go.
    pub labels: PathBuf,
    format: Format,
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
        let format = Format::of_ending(ending)
            .ok_or_else(|| GenerateError::Input(unknown_ending(output, ending)))?;
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

/// Opens the pair of files, with the folder that they are in.
pub(super) fn create_pair(
    files: &OutputFiles,
    transactions: SchemaRef,
    labels: SchemaRef,
) -> Result<(TableFile, TableFile), GenerateError> {
    let transactions = TableFile::create(&files.transactions, files.format, transactions, &RISING)?;
    match TableFile::create(&files.labels, files.format, labels, &RISING) {
        Ok(labels) => Ok((transactions, labels)),
        Err(e) => {
            discard(&files.transactions);
            Err(e.into())
        }
    }
}

/// What rises from row to row, a running number or a time.
const RISING: [&str; 3] = ["tx_id", "tx_time", "event_time"];

/// Gives both files, which are whole, their names.
pub(super) fn publish_pair(files: &OutputFiles) -> Result<(), GenerateError> {
    publish(&files.transactions)?;
    Ok(publish(&files.labels)?)
}

/// Removes what was written of both files. That nothing is there to remove is no error.
pub(super) fn discard_pair(files: &OutputFiles) {
    discard(&files.transactions);
    discard(&files.labels);
}

impl From<WriteError> for GenerateError {
    fn from(error: WriteError) -> Self {
        Self::Write {
            path: error.path,
            source: error.source,
        }
    }
}
