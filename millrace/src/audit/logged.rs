//! Rows of the log, as the audit compares them: read out of a file, and kept in the audit's own store until their event
//! comes, so that memory does not grow with the log.

use std::collections::HashMap;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use millrace_feature_store::{
    Commit, RocksStore, Store, Table, decode, encode, time_bytes, time_from_bytes,
};
use millrace_features::{pack_keys, pack_rows, unpack_rows};
use serde::{Deserialize, Serialize};

use super::differences::EventAt;
use crate::failure::{Failure, Outcome};
use crate::score_log::reader::LoggedRows;
use crate::score_log::rows::{EVENT_TIME, SEQUENCE, input_column};
use crate::settings::Decisions;
use crate::workspace::ModelPlan;

/// Keys of the rows in the audit's store: first and past the last.
pub(super) const ROWS: &[u8] = &[2];
pub(super) const ROWS_END: &[u8] = &[3];

/// A row of the log, in the audit's store.
#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    log: String,
    sequence: i64,
    /// Each column that names entities, packed. None where the log has none of its name and type.
    pub(super) entity: Vec<Option<Vec<u8>>>,
    /// Each input, packed. None where they meant something else.
    pub(super) inputs: Option<Vec<Vec<u8>>>,
    /// An event of the files was compared with it.
    pub(super) is_seen: bool,
}

/// Rows that were read together.
pub(super) struct LoggedBatch {
    log: String,
    ids: ArrayRef,
    times: TimestampMicrosecondArray,
    sequences: Int64Array,
    entity: Vec<Option<Vec<Vec<u8>>>>,
    /// None where they meant something else.
    pub(super) inputs: Option<RecordBatch>,
    /// The versions that gave the scores.
    pub(super) versions: Int64Array,
    scores: Float64Array,
    decisions: StringArray,
    /// The thresholds when they were scored. None where the file does not say.
    pub(super) thresholds: Option<Decisions>,
}

/// What came of putting rows into the audit's store, by their places in the batch.
#[derive(Default)]
pub(super) struct Indexed {
    /// The first of their event.
    pub(super) new: Vec<usize>,
    /// Their event had a row already.
    pub(super) twice: Vec<usize>,
}

/// The columns that name entities, but for the event's id, by which rows are found.
pub(super) fn entity_columns(plan: &ModelPlan) -> Vec<usize> {
    let columns = plan.inputs.entity_columns().into_iter();
    columns.filter(|column| *column != plan.event_id).collect()
}

impl LoggedBatch {
    /// # Errors
    /// Columns that are missing, or of another type than a log's.
    pub(super) fn of(plan: &ModelPlan, rows: &LoggedRows) -> Outcome<Self> {
        let batch = &rows.batch;
        let id = plan.inputs.stream.schema.field(plan.event_id);
        let ids = column(batch, id.name())?;
        if ids.data_type() != id.data_type() {
            return Err(Failure::input(format!(
                "the log's '{}' is {}, and the project's {}",
                id.name(),
                ids.data_type(),
                id.data_type()
            )));
        }
        let entity = entity_columns(plan).into_iter().map(|index| {
            let field = plan.inputs.stream.schema.field(index);
            let logged = batch.column_by_name(field.name());
            let same = logged.filter(|logged| logged.data_type() == field.data_type());
            same.map(|logged| pack_rows(std::slice::from_ref(logged)))
        });
        let thresholds = rows.decisions.as_deref();
        Ok(Self {
            log: rows.log.clone(),
            times: typed(batch, EVENT_TIME, |column| {
                column.as_primitive_opt::<TimestampMicrosecondType>()
            })?,
            sequences: typed(batch, SEQUENCE, |column| {
                column.as_primitive_opt::<Int64Type>()
            })?,
            versions: typed(batch, "model_version", |column| {
                column.as_primitive_opt::<Int64Type>()
            })?,
            scores: typed(batch, "score", |column| {
                column.as_primitive_opt::<Float64Type>()
            })?,
            decisions: typed(batch, "decision", |column| column.as_string_opt::<i32>())?,
            entity: entity.collect(),
            inputs: match rows.inputs_hash == plan.inputs_hash() {
                true => Some(inputs(plan, batch)?),
                false => None,
            },
            thresholds: thresholds.and_then(|text| serde_json::from_str(text).ok()),
            ids,
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.ids.len()
    }

    /// The event of a row.
    pub(super) fn event(&self, row: usize) -> EventAt<'_> {
        EventAt {
            ids: &self.ids,
            row,
            time_us: self.times.value(row),
        }
    }

    /// The score of a row.
    pub(super) fn score(&self, row: usize) -> Option<f64> {
        self.scores.is_valid(row).then(|| self.scores.value(row))
    }

    /// The decision of a row.
    pub(super) fn decision(&self, row: usize) -> Option<&str> {
        let is_valid = self.decisions.is_valid(row);
        is_valid.then(|| self.decisions.value(row))
    }

    /// Puts the rows into the audit's store. Where `may_be_same`, a row with the same number is not there twice.
    ///
    /// # Errors
    /// A store that fails.
    pub(super) fn index(&self, again: &RocksStore, may_be_same: bool) -> Outcome<Indexed> {
        let ids = pack_keys(std::slice::from_ref(&self.ids));
        let inputs = self.inputs.as_ref();
        let inputs = inputs.map(|inputs| packed_columns(inputs.columns()));
        let mut indexed = Indexed::default();
        let mut commit = Commit::default();
        let mut of_batch: HashMap<Vec<u8>, (String, i64)> = HashMap::new();
        for (row, id) in ids.iter().enumerate() {
            let time_us = self.times.value(row);
            let key = key(id, time_us);
            let this = (self.log.clone(), self.sequences.value(row));
            let known = match of_batch.get(&key) {
                Some(known) => Some(known.clone()),
                None => get(again, &key)?.map(|row| (row.log, row.sequence)),
            };
            match known {
                Some(known) if may_be_same && known == this => {}
                Some(_) => indexed.twice.push(row),
                None => {
                    indexed.new.push(row);
                    let entity = self.entity.iter();
                    let inputs = inputs.as_ref().map(|all| all.iter());
                    let logged = Row {
                        log: this.0.clone(),
                        sequence: this.1,
                        entity: entity
                            .map(|column| column.as_ref().map(|all| all[row].clone()))
                            .collect(),
                        inputs: inputs.map(|all| all.map(|column| column[row].clone()).collect()),
                        is_seen: false,
                    };
                    put(&mut commit, key.clone(), time_us, &logged)?;
                    of_batch.insert(key, this);
                }
            }
        }
        again.commit(commit)?;
        Ok(indexed)
    }
}

/// The inputs of rows, as the project's view has them.
fn inputs(plan: &ModelPlan, batch: &RecordBatch) -> Outcome<RecordBatch> {
    let names = plan.inputs.names();
    let columns = names.map(|name| column(batch, &input_column(plan, name)));
    let columns = columns.collect::<Outcome<Vec<_>>>()?;
    RecordBatch::try_new(plan.inputs.schema.clone(), columns)
        .map_err(|e| Failure::input(format!("the log's inputs: {e}")))
}

fn column(batch: &RecordBatch, name: &str) -> Outcome<ArrayRef> {
    batch
        .column_by_name(name)
        .cloned()
        .ok_or_else(|| Failure::input(format!("there is no column '{name}'")))
}

fn typed<T: Clone>(
    batch: &RecordBatch,
    name: &str,
    of: impl Fn(&ArrayRef) -> Option<&T>,
) -> Outcome<T> {
    let column = column(batch, name)?;
    of(&column).cloned().ok_or_else(|| {
        Failure::input(format!(
            "the column '{name}' is of type {}, and a log's is not",
            column.data_type()
        ))
    })
}

/// Each column by itself, row by row.
pub(super) fn packed_columns(columns: &[ArrayRef]) -> Vec<Vec<Vec<u8>>> {
    let columns = columns.iter();
    columns
        .map(|column| pack_rows(std::slice::from_ref(column)))
        .collect()
}

/// A value that was packed by itself, as a column of one row.
///
/// # Errors
/// One that does not decode.
pub(super) fn unpacked(data_type: &DataType, packed: &[u8]) -> Outcome<ArrayRef> {
    let columns = unpack_rows(std::slice::from_ref(data_type), &[packed]);
    let damaged = |e: String| Failure::failed(format!("the audit's store is damaged: {e}"));
    let column = columns.map_err(damaged)?.pop();
    column.ok_or_else(|| damaged("a value is missing".to_owned()))
}

/// The key of an event's row.
pub(super) fn key(id: &[u8], time_us: i64) -> Vec<u8> {
    [ROWS, id, &time_bytes(time_us)].concat()
}

/// The packed id and the time (µs) of a [`key`].
pub(super) fn of_key(key: &[u8]) -> Option<(&[u8], i64)> {
    let rest = key.strip_prefix(ROWS)?;
    let (id, time) = rest.split_at_checked(rest.len().checked_sub(time_bytes(0).len())?)?;
    Some((id, time_from_bytes(time)?))
}

pub(super) fn put(commit: &mut Commit, key: Vec<u8>, time_us: i64, row: &Row) -> Outcome<()> {
    let value = [time_bytes(time_us).as_slice(), &encode(row)?].concat();
    commit.put(Table::Scored, key, value);
    Ok(())
}

pub(super) fn get(again: &RocksStore, key: &[u8]) -> Outcome<Option<Row>> {
    let value = again.get(Table::Scored, key)?;
    value.map(|value| row_of(&value)).transpose()
}

pub(super) fn row_of(value: &[u8]) -> Outcome<Row> {
    let record = value.get(time_bytes(0).len()..).unwrap_or_default();
    Ok(decode(record)?)
}
