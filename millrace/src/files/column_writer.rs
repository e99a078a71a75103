//! Parquet with the columns of a row group encoded on all cores: encoding takes longer than all else that makes a table.
//! What is written depends on the table and the settings alone, not on the cores.

use std::fs::File;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;

/// Rows of a row group.
const GROUP_ROWS: usize = 1 << 18;

pub(super) struct ColumnWriter {
    file: SerializedFileWriter<File>,
    groups: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// Rows of the next group.
    waiting: Vec<RecordBatch>,
    rows: usize,
}

impl ColumnWriter {
    pub(super) fn new(file: File, schema: SchemaRef, settings: WriterProperties) -> Result<Self> {
        // It writes the schema as Arrow's readers expect it.
        let writer = ArrowWriter::try_new(file, SchemaRef::clone(&schema), Some(settings))?;
        let (file, groups) = writer.into_serialized_writer()?;
        Ok(Self {
            file,
            groups,
            schema,
            waiting: Vec::new(),
            rows: 0,
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut rest = batch.clone();
        while self.rows + rest.num_rows() >= GROUP_ROWS {
            let room = GROUP_ROWS - self.rows;
            self.wait(rest.slice(0, room));
            self.write_group()?;
            rest = rest.slice(room, rest.num_rows() - room);
        }
        self.wait(rest);
        Ok(())
    }

    pub(super) fn close(mut self) -> Result<()> {
        self.write_group()?;
        self.file.close().map(|_| ())
    }

    fn wait(&mut self, rows: RecordBatch) {
        if rows.num_rows() > 0 {
            self.rows += rows.num_rows();
            self.waiting.push(rows);
        }
    }

    fn write_group(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        self.rows = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let group = self.file.flushed_row_groups().len();
        let mut writers = self.groups.create_column_writers(group)?.into_iter();
        let mut columns = Vec::new();
        for (index, field) in self.schema.fields().iter().enumerate() {
            let leaves = compute_leaves(field, rows[0].column(index))?.len();
            columns.push((index, field, writers.by_ref().take(leaves).collect()));
        }
        let chunks = columns
            .into_par_iter()
            .map(|(index, field, writers)| encode(index, field, writers, &rows))
            .collect::<Result<Vec<_>>>()?;
        let mut group = self.file.next_row_group()?;
        for chunk in chunks.into_iter().flatten() {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close().map(|_| ())
    }
}

/// A column, which has a writer for each of its leaves.
fn encode(
    index: usize,
    field: &FieldRef,
    mut writers: Vec<ArrowColumnWriter>,
    rows: &[RecordBatch],
) -> Result<Vec<ArrowColumnChunk>> {
    for batch in rows {
        let leaves = compute_leaves(field, batch.column(index))?;
        if leaves.len() != writers.len() {
            let name = field.name();
            return Err(ParquetError::General(format!("'{name}' changes its shape")));
        }
        for (writer, leaf) in writers.iter_mut().zip(&leaves) {
            writer.write(leaf)?;
        }
    }
    writers.into_iter().map(ArrowColumnWriter::close).collect()
}
