//! Parquet: only the stream's columns are read, a batch at a time.

use std::path::Path;

use arrow::array::RecordBatch;
use millrace_features::Stream;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::columns::Columns;
use super::{BATCH_ROWS, broken_parquet, open_file};
use crate::failure::Outcome;

/// The batches of a Parquet file, and the number of its rows.
pub(super) fn open(
    path: &Path,
    stream: &Stream,
) -> Outcome<(
    impl Iterator<Item = Outcome<RecordBatch>> + Send + use<>,
    u64,
)> {
    let file = open_file(path)?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| broken_parquet(path, &e))?;
    let mut columns = Columns::find(path, stream, builder.schema())?;
    let rows = builder.metadata().file_metadata().num_rows();
    let projection = ProjectionMask::roots(builder.parquet_schema(), columns.projection());
    let reader = builder
        .with_projection(projection)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|e| broken_parquet(path, &e))?;
    let path = path.to_owned();
    let batches = reader.map(move |batch| {
        let batch = batch.map_err(|e| broken_parquet(&path, &e))?;
        columns.convert(&batch)
    });
    Ok((batches, u64::try_from(rows).unwrap_or_default()))
}
