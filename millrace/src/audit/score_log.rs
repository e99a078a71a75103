//! The log of what was scored against inputs that are computed again: every event once, every value to the bit.
//!
//! The log's rows are put into the audit's own store, by id and event time, so that memory does not grow with the
//! log; each event of the files then takes its row out.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use millrace_feature_store::{Commit, RocksStore, Scan, Store, Table, decode, encode, time_bytes};
use millrace_features::pack_rows;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};
use crate::score_log::reader::{LoggedRows, each_batch, each_waiting};
use crate::score_log::rows::{EVENT_TIME, SEQUENCE, input_column};
use crate::workspace::{ModelPlan, Workspace};

/// What was found in a log.
#[derive(Debug, Default, Serialize)]
pub struct LogAudit {
    /// Where it is.
    pub location: String,
    /// Its files.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows that are not in them yet, and wait in the store.
    pub waiting: u64,
    /// Events whose inputs were compared.
    pub compared: u64,
    /// Those with an input that differs in a bit.
    pub mismatched: u64,
    /// Events of the files that the log lacks.
    pub missing: u64,
    /// Logged events that the files lack.
    pub extra: u64,
    /// Rows of events that stand in the log already.
    pub twice: u64,
    /// Those that were scored with other inputs than the project has now.
    pub other_inputs: u64,
    /// Events in which an input differs, where there are some.
    pub inputs: BTreeMap<String, u64>,
}

/// A row of the log, in the audit's store.
#[derive(Serialize, Deserialize)]
struct Row {
    log: String,
    sequence: i64,
    /// Each input, packed. None where they meant something else.
    inputs: Option<Vec<Vec<u8>>>,
    /// An event of the files was compared with it.
    is_seen: bool,
}

/// Keys of the audit's own rows in its store: first and past the last.
const ROWS: &[u8] = &[2];
const ROWS_END: &[u8] = &[3];

impl LogAudit {
    /// Reads the log at a location into `again`, and what waits for it in `scored`.
    pub(super) fn read(
        workspace: &Workspace,
        location: &str,
        scored: &RocksStore,
        again: &RocksStore,
    ) -> Outcome<Self> {
        let plan = workspace.model()?;
        let mut found = Self {
            location: location.to_owned(),
            ..Self::default()
        };
        found.files = each_batch(workspace, location, &mut |rows| {
            found.rows += rows.batch.num_rows() as u64;
            found.twice += index(plan, again, &rows, false)?.1;
            Ok(())
        })?;
        // After the files: a row that came into one meanwhile is the same row.
        each_waiting(workspace, location, scored, &mut |rows| {
            let (new, twice) = index(plan, again, &rows, true)?;
            found.waiting += new;
            found.twice += twice;
            Ok(())
        })?;
        Ok(found)
    }

    /// Compares events with their rows.
    pub(super) fn add(
        &mut self,
        plan: &ModelPlan,
        again: &RocksStore,
        events: &RecordBatch,
        inputs: &RecordBatch,
    ) -> Outcome<()> {
        let ids = pack_rows(&[events.column(plan.event_id).clone()]);
        let times = events
            .column(plan.inputs.stream.time)
            .as_primitive::<TimestampMicrosecondType>();
        let recomputed = packed_inputs(inputs.columns());
        let mut commit = Commit::default();
        for (row, id) in ids.iter().enumerate() {
            let key = key(id, times.value(row));
            let Some(mut logged) = get(again, &key)? else {
                self.missing += 1;
                continue;
            };
            match &logged.inputs {
                _ if logged.is_seen => continue,
                None => self.other_inputs += 1,
                Some(logged) => self.compare(plan, logged, recomputed.iter().map(|all| &all[row])),
            }
            logged.is_seen = true;
            put(&mut commit, key, times.value(row), &logged)?;
        }
        Ok(again.commit(commit)?)
    }

    fn compare<'a>(
        &mut self,
        plan: &ModelPlan,
        logged: &[Vec<u8>],
        recomputed: impl Iterator<Item = &'a Vec<u8>>,
    ) {
        self.compared += 1;
        let pairs = plan.inputs.names().zip(logged.iter().zip(recomputed));
        let differing = pairs.filter(|(_, (logged, recomputed))| logged != recomputed);
        let before = self.inputs.values().sum::<u64>();
        for (name, _) in differing {
            *self.inputs.entry(name.to_owned()).or_default() += 1;
        }
        self.mismatched += u64::from(self.inputs.values().sum::<u64>() > before);
    }

    /// All events were added.
    pub(super) fn finish(&mut self, again: &RocksStore) -> Outcome<()> {
        let mut failed = None;
        let mut extra = 0;
        again.scan(Table::Scored, ROWS, ROWS_END, false, &mut |_, value| {
            match row_of(value) {
                Ok(row) => extra += u64::from(!row.is_seen),
                Err(failure) => failed = Some(failure),
            }
            match failed {
                None => ControlFlow::Continue(()),
                Some(_) => ControlFlow::Break(()),
            }
        })?;
        self.extra = extra;
        failed.map_or(Ok(()), Err)
    }

    /// How many differences there are.
    pub(super) fn differences(&self) -> u64 {
        self.mismatched + self.missing + self.extra + self.twice + self.other_inputs
    }

    /// For people, on lines of its own.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "\nlog {}: {} rows in {} files, {} waiting; {} compared: {} mismatched, {} missing, {} extra, {} twice, {} of \
             other inputs",
            self.location,
            self.rows,
            self.files,
            self.waiting,
            self.compared,
            self.mismatched,
            self.missing,
            self.extra,
            self.twice,
            self.other_inputs
        );
        for (input, count) in &self.inputs {
            text.push_str(&format!("\n  {input} differs in {count} events"));
        }
        text
    }
}

/// Puts rows of the log into the audit's store. How many events are new there, and how many are there already; where
/// `may_be_same`, a row with the same number is not one of them.
fn index(
    plan: &ModelPlan,
    again: &RocksStore,
    rows: &LoggedRows,
    may_be_same: bool,
) -> Outcome<(u64, u64)> {
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
    let ids = pack_rows(&[ids]);
    let times = column(batch, EVENT_TIME)?;
    let sequences = column(batch, SEQUENCE)?;
    let (Some(times), Some(sequences)) = (
        times.as_primitive_opt::<TimestampMicrosecondType>(),
        sequences.as_primitive_opt::<Int64Type>(),
    ) else {
        return Err(Failure::input(
            "the log's event_time or sequence is of another type",
        ));
    };
    let inputs = match rows.inputs_hash == plan.inputs_hash() {
        true => {
            let names = plan.inputs.names();
            let columns = names.map(|name| column(batch, &input_column(plan, name)));
            Some(packed_inputs(&columns.collect::<Outcome<Vec<_>>>()?))
        }
        false => None,
    };
    let (mut new, mut twice) = (0, 0);
    let mut commit = Commit::default();
    let mut of_batch: HashMap<Vec<u8>, (String, i64)> = HashMap::new();
    for (row, id) in ids.iter().enumerate() {
        let key = key(id, times.value(row));
        let this = (rows.log.clone(), sequences.value(row));
        let known = match of_batch.get(&key) {
            Some(known) => Some(known.clone()),
            None => get(again, &key)?.map(|row| (row.log, row.sequence)),
        };
        match known {
            Some(known) => twice += u64::from(!may_be_same || known != this),
            None => {
                new += 1;
                let logged = Row {
                    log: this.0.clone(),
                    sequence: this.1,
                    inputs: inputs
                        .as_ref()
                        .map(|inputs| inputs.iter().map(|all| all[row].clone()).collect()),
                    is_seen: false,
                };
                put(&mut commit, key.clone(), times.value(row), &logged)?;
                of_batch.insert(key, this);
            }
        }
    }
    again.commit(commit)?;
    Ok((new, twice))
}

/// Each input by itself, row by row.
fn packed_inputs(columns: &[ArrayRef]) -> Vec<Vec<Vec<u8>>> {
    let columns = columns.iter();
    columns
        .map(|column| pack_rows(std::slice::from_ref(column)))
        .collect()
}

fn column(batch: &RecordBatch, name: &str) -> Outcome<ArrayRef> {
    batch
        .column_by_name(name)
        .cloned()
        .ok_or_else(|| Failure::input(format!("a file of the log has no column '{name}'")))
}

fn key(id: &[u8], time_us: i64) -> Vec<u8> {
    [ROWS, id, &time_bytes(time_us)].concat()
}

fn put(commit: &mut Commit, key: Vec<u8>, time_us: i64, row: &Row) -> Outcome<()> {
    let value = [time_bytes(time_us).as_slice(), &encode(row)?].concat();
    commit.put(Table::Scored, key, value);
    Ok(())
}

fn get(again: &RocksStore, key: &[u8]) -> Outcome<Option<Row>> {
    let value = again.get(Table::Scored, key)?;
    value.map(|value| row_of(&value)).transpose()
}

fn row_of(value: &[u8]) -> Outcome<Row> {
    let record = value.get(time_bytes(0).len()..).unwrap_or_default();
    Ok(decode(record)?)
}
