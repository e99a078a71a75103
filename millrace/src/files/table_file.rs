//! A table on its way into a file: Parquet, JSON lines or CSV.
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
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::column_writer::ColumnWriter;
use super::{Format, no_folder};

/// A table that is being written.
pub(crate) struct TableFile {
    path: PathBuf,
    writer: TableWriter,
}

enum TableWriter {
    Parquet(Box<ColumnWriter>),
    JsonLines(LineDelimitedWriter<BufWriter<File>>),
    Csv(Box<csv::Writer<BufWriter<File>>>),
}

/// What Arrow, Parquet or the file system say.
type Source = Box<dyn Error + Send + Sync>;

/// A table that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub(crate) struct WriteError {
    pub(crate) path: PathBuf,
    pub(crate) source: Source,
}

impl TableFile {
    /// Opens a file, with the folder that it is in. Columns named in `rising` grow from row to row: Parquet keeps
    /// their differences, where a dictionary would be as long as the file.
    pub(crate) fn create(
        path: &Path,
        format: Format,
        schema: SchemaRef,
        rising: &[&str],
    ) -> Result<Self, WriteError> {
        let writer = TableWriter::create(path, format, schema, rising).map_err(at(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            writer,
        })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        self.writer.write(batch).map_err(at(&self.path))
    }

    /// Ends the file, which still has its partial name.
    pub(crate) fn finish(self) -> Result<(), WriteError> {
        self.writer.finish().map_err(at(&self.path))
    }
}

impl TableWriter {
    fn create(
        path: &Path,
        format: Format,
        schema: SchemaRef,
        rising: &[&str],
    ) -> Result<Self, Source> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| format!("{e}: {}", no_folder(folder)))?;
        }
        let file = File::create(partial(path))?;
        Ok(match format {
            Format::Parquet => {
                let writer = ColumnWriter::new(file, schema, parquet_settings(rising)?)?;
                Self::Parquet(Box::new(writer))
            }
            Format::JsonLines => Self::JsonLines(LineDelimitedWriter::new(BufWriter::new(file))),
            Format::Csv => Self::Csv(Box::new(csv::Writer::new(BufWriter::new(file)))),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Source> {
        match self {
            Self::Parquet(writer) => writer.write(batch)?,
            Self::JsonLines(writer) => writer.write(batch)?,
            Self::Csv(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Source> {
        match self {
            Self::Parquet(writer) => writer.close()?,
            Self::JsonLines(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Self::Csv(writer) => writer.into_inner().flush()?,
        }
        Ok(())
    }
}

/// Gives a file, which is whole, its name. What has the name is on the disk, and stays when the power goes.
pub(crate) fn publish(path: &Path) -> Result<(), WriteError> {
    let partial = partial(path);
    let renamed = File::open(&partial)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&partial, path));
    renamed.map_err(|e| at(path)(e.into()))?;
    let folder = path.parent().filter(|name| !name.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new(".")));
    // Not every file system can do that, and the file is there all the same.
    let _ = folder.and_then(|folder| folder.sync_all());
    Ok(())
}

/// Removes what was written of a file. That nothing is there to remove is no error.
pub(crate) fn discard(path: &Path) {
    let _ = fs::remove_file(partial(path));
}

fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".partial");
    PathBuf::from(name)
}

fn at(path: &Path) -> impl FnOnce(Source) -> WriteError {
    move |source| WriteError {
        path: path.to_path_buf(),
        source,
    }
}

/// Settings that say nothing of the version or the machine. What rises from row to row, a running number or
/// a time, is best told by its difference from the row before: a dictionary of it would be as long as the file.
fn parquet_settings(rising: &[&str]) -> Result<WriterProperties, Source> {
    let settings = WriterProperties::builder()
        .set_created_by("millrace".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?));
    let settings = rising.iter().fold(settings, |settings, column| {
        let encoding = match *column {
            "tx_id" => Encoding::DELTA_BYTE_ARRAY,
            _ => Encoding::DELTA_BINARY_PACKED,
        };
        let column = ColumnPath::from(*column);
        settings
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, encoding)
    });
    Ok(settings.build())
}
