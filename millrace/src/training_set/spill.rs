//! Rows set aside in files, split by entity, so that a part fits in memory whatever the whole takes.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use arrow::array::{BinaryArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;

use crate::failure::{Failure, Outcome};
use crate::open_files;

/// Rows of a part that collect before they are written.
const ROWS_AT_ONCE: usize = 8_192;

/// One file a part, all of one schema.
pub(super) struct Spill {
    schema: SchemaRef,
    parts: Vec<Part>,
}

struct Part {
    file: Whole,
    waiting: Vec<RecordBatch>,
    rows: usize,
}

impl Spill {
    pub(super) fn create(paths: Vec<PathBuf>, schema: &SchemaRef) -> Outcome<Self> {
        let part = |path: PathBuf| {
            Ok(Part {
                file: Whole::create(path, schema)?,
                waiting: Vec::new(),
                rows: 0,
            })
        };
        Ok(Self {
            schema: SchemaRef::clone(schema),
            parts: paths.into_iter().map(part).collect::<Outcome<_>>()?,
        })
    }

    /// Adds rows, each to the part of its entity.
    pub(super) fn add(&mut self, entities: &BinaryArray, rows: &RecordBatch) -> Outcome<()> {
        let mut indexes = vec![Vec::new(); self.parts.len()];
        for row in 0..rows.num_rows() {
            let mut hasher = DefaultHasher::new();
            hasher.write(entities.value(row));
            let part = hasher.finish() % self.parts.len() as u64;
            indexes[part as usize].push(row as u32);
        }
        for (part, indexes) in self.parts.iter_mut().zip(indexes) {
            if !indexes.is_empty() {
                part.add(&self.schema, rows, indexes)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Outcome<()> {
        for mut part in self.parts {
            part.write(&self.schema)?;
            part.file.finish()?;
        }
        Ok(())
    }
}

impl Part {
    fn add(&mut self, schema: &SchemaRef, rows: &RecordBatch, indexes: Vec<u32>) -> Outcome<()> {
        self.rows += indexes.len();
        let rows = take_record_batch(rows, &UInt32Array::from(indexes));
        self.waiting
            .push(rows.map_err(|e| broken(&self.file.path, &e))?);
        if self.rows < ROWS_AT_ONCE {
            return Ok(());
        }
        self.write(schema)
    }

    fn write(&mut self, schema: &SchemaRef) -> Outcome<()> {
        self.rows = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let rows = concat_batches(schema, &waiting).map_err(|e| broken(&self.file.path, &e))?;
        self.file.write(&rows)
    }
}

/// A file that is not split.
pub(super) struct Whole {
    path: PathBuf,
    writer: FileWriter<BufWriter<File>>,
}

impl Whole {
    pub(super) fn create(path: PathBuf, schema: &SchemaRef) -> Outcome<Self> {
        let writer = File::create(&path)
            .map_err(ArrowError::from)
            .and_then(|file| FileWriter::try_new(BufWriter::new(file), schema))
            .map_err(|e| broken(&path, &e))?;
        Ok(Self { path, writer })
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Outcome<()> {
        self.writer.write(rows).map_err(|e| broken(&self.path, &e))
    }

    pub(super) fn finish(mut self) -> Outcome<()> {
        self.writer.finish().map_err(|e| broken(&self.path, &e))
    }
}

/// All rows of a part.
pub(super) fn read(path: &Path) -> Outcome<Vec<RecordBatch>> {
    batches(path)?.collect()
}

/// The batches of a part.
pub(super) fn batches(path: &Path) -> Outcome<impl Iterator<Item = Outcome<RecordBatch>> + use<>> {
    let reader = File::open(path)
        .map_err(ArrowError::from)
        .and_then(|file| FileReader::try_new(BufReader::new(file), None))
        .map_err(|e| broken(path, &e))?;
    let path = path.to_owned();
    Ok(reader.map(move |batch| batch.map_err(|e| broken(&path, &e))))
}

/// Writes a part as a whole: after a crash it is there in full or not at all.
pub(super) fn write(path: &Path, rows: &RecordBatch) -> Outcome<()> {
    let partial = path.with_extension("partial");
    File::create(&partial)
        .map_err(ArrowError::from)
        .and_then(|file| {
            let mut writer = FileWriter::try_new(BufWriter::new(file), &rows.schema())?;
            for start in (0..rows.num_rows()).step_by(ROWS_AT_ONCE) {
                writer.write(&rows.slice(start, ROWS_AT_ONCE.min(rows.num_rows() - start)))?;
            }
            writer.finish()?;
            Ok(std::fs::rename(&partial, path)?)
        })
        .map_err(|e| broken(path, &e))
}

fn broken(path: &Path, error: &ArrowError) -> Failure {
    let failure = Failure::failed(format!("{}: {error}", path.display()));
    match error {
        ArrowError::IoError(_, cause) if open_files::is_limit(cause) => {
            failure.hint(open_files::MORE)
        }
        _ => failure.hint(
            "is the disk full? What is needed is about the size of the events, uncompressed. After a power cut, remove \
             the file's folder: what is in there is made again",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn a_file_too_many_is_no_full_disk() {
        // EMFILE and ENOSPC.
        for (errno, hint) in [(24, "ulimit -n"), (28, "is the disk full?")] {
            let error = ArrowError::from(Error::from_raw_os_error(errno));
            let failure = broken(Path::new("0-events-7.arrow"), &error).to_string();
            assert!(
                failure.contains("0-events-7.arrow") && failure.contains(hint),
                "{failure}"
            );
        }
    }
}
