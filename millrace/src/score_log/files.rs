//! The files of a range of rows: their names and bytes depend on the range and its rows alone.
//!
//! ```text
//!  <location>/_millrace.json                                      whose log this is, and how far
//!  <location>/dt=2018-04-20/scores-<log>-<first>-<last>.parquet   rows of a day of event time, UTC
//! ```
//!
//! A range that spans days has a file for each. Whoever reads hive-partitioned Parquet finds the column `dt` in the
//! folders' names, and skips what starts with an underscore.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow::array::{AsArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Schema, TimestampMicrosecondType};
use bytes::Bytes;
use chrono::{DateTime, NaiveDate};
use millrace_feature_store::Store;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::outbox;
use super::rows::{EVENT_TIME, SEQUENCE, failed, sorted_metadata};
use crate::failure::{Failure, Outcome};

/// Rows of a row group, at most: what a reader takes into memory at once.
const GROUP_ROWS: usize = 65_536;

const ZSTD_LEVEL: i32 = 3;

/// The key in a file's metadata that names the log.
pub(crate) const LOG: &str = "millrace.log";

/// The rows of a range, by day.
pub(crate) struct RangeFiles {
    log: String,
    range: Range<u64>,
    days: BTreeMap<NaiveDate, RecordBatch>,
}

/// One file.
pub(crate) struct ScoreFile {
    /// Where it is, under the log's location.
    pub(crate) path: Path,
    pub(crate) bytes: Bytes,
}

impl RangeFiles {
    /// Reads the rows of a range that is decided.
    ///
    /// # Errors
    /// A store that cannot be read or is damaged.
    pub(crate) fn read(store: &dyn Store, log: &str, range: Range<u64>) -> Outcome<Self> {
        let mut batches = Vec::new();
        outbox::read(store, range.clone(), &mut |batch| {
            batches.push(batch);
            Ok(())
        })?;
        let schema = batches.first().map(RecordBatch::schema);
        let schema = schema.ok_or_else(|| Failure::failed("the score log: a range has no rows"))?;
        let rows = concat_batches(&schema, &batches).map_err(failed)?;
        if rows.num_rows() as u64 != range.end - range.start {
            return Err(Failure::failed(format!(
                "the score log: rows {} to {} are {} rows",
                range.start,
                range.end - 1,
                rows.num_rows()
            )));
        }
        Ok(Self {
            log: log.to_owned(),
            range,
            days: by_day(&rows)?,
        })
    }

    /// The files, each made when it is asked for.
    pub(crate) fn files(&self) -> impl Iterator<Item = Outcome<ScoreFile>> {
        self.days.iter().map(|(day, rows)| {
            let (first, last) = (self.range.start, self.range.end - 1);
            let name = format!("scores-{}-{first:012}-{last:012}.parquet", self.log);
            Ok(ScoreFile {
                path: Path::from(format!("dt={day}")).join(name),
                bytes: self.encode(rows).map_err(failed)?,
            })
        })
    }

    fn encode(&self, rows: &RecordBatch) -> Result<Bytes, ParquetError> {
        let mut metadata = sorted_metadata(rows.schema_ref());
        metadata.insert(LOG.to_owned(), self.log.clone());
        metadata.insert(
            "millrace.first_sequence".to_owned(),
            self.range.start.to_string(),
        );
        metadata.insert(
            "millrace.last_sequence".to_owned(),
            (self.range.end - 1).to_string(),
        );
        let metadata = metadata.into_iter();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_key_value_metadata(Some(
                metadata
                    .map(|(key, value)| KeyValue::new(key, value))
                    .collect(),
            ));
        // They rise from row to row: their differences are smaller than a dictionary.
        for column in [SEQUENCE, "kafka_offset"] {
            properties = properties
                .set_column_dictionary_enabled(ColumnPath::from(column), false)
                .set_column_encoding(ColumnPath::from(column), Encoding::DELTA_BINARY_PACKED);
        }
        // The metadata stands in the file's own, where every reader shows it.
        let schema = Schema::new(rows.schema_ref().fields().clone());
        let rows = RecordBatch::try_new(schema.into(), rows.columns().to_vec())?;
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties.build()))?;
        writer.write(&rows)?;
        Ok(writer.into_inner()?.into())
    }
}

/// Rows by their day of event time, in the order of the log.
fn by_day(rows: &RecordBatch) -> Outcome<BTreeMap<NaiveDate, RecordBatch>> {
    let times = rows
        .column_by_name(EVENT_TIME)
        .and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>())
        .ok_or_else(|| Failure::failed("the score log: its rows have no event times"))?;
    let mut indices: BTreeMap<NaiveDate, Vec<u64>> = BTreeMap::new();
    for (row, time) in times.values().iter().enumerate() {
        indices.entry(day(*time)).or_default().push(row as u64);
    }
    if indices.len() == 1 {
        return Ok(indices.into_keys().map(|day| (day, rows.clone())).collect());
    }
    let of_day = |(day, indices): (NaiveDate, Vec<u64>)| {
        let taken = take_record_batch(rows, &UInt64Array::from(indices)).map_err(failed)?;
        Ok((day, taken))
    };
    indices.into_iter().map(of_day).collect()
}

/// The day of a time, µs. What no calendar has a day for stands in the last one.
fn day(time_us: i64) -> NaiveDate {
    DateTime::from_timestamp_micros(time_us).map_or(NaiveDate::MAX, |time| time.date_naive())
}
