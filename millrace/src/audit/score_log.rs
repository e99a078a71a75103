//! The log of what was scored against inputs that are computed again: every event once, every value to the bit.
//!
//! The log's rows are put into the audit's own store (`logged.rs`), by id and event time, so that memory does not grow
//! with the log; each event of the files then takes its row out. What a row says of itself is checked when it is read:
//! its score (`verdicts.rs`), and the decision that followed from it.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use millrace_feature_store::{Commit, RocksStore, Store, Table, try_scan};
use millrace_features::{pack_keys, pack_rows};
use serde::Serialize;

use super::differences::{EventAt, FirstDifferences, value};
use super::logged::{
    LoggedBatch, ROWS, ROWS_END, Row, entity_columns, get, key, of_key, packed_columns, put,
    row_of, unpacked,
};
use super::verdicts::{Expected, Verdicts, is_same};
use crate::failure::{Failure, Outcome};
use crate::score_log::reader::{Logged, LoggedRows, each_batch, each_waiting};
use crate::workspace::{ModelPlan, Workspace};

/// Files that are named, of those that cannot be read.
const NAMED_FILES: usize = 10;

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
    /// Events whose row names another entity.
    pub other_entity: u64,
    /// Scores that were compared with what the model of their version says of the logged inputs.
    pub scores_checked: u64,
    /// Those that differ.
    pub other_score: u64,
    /// Scores that could not be compared,
    pub scores_unchecked: u64,
    /// and why, where there are some: the first reason.
    pub why_unchecked: Option<String>,
    /// Decisions that were compared with what the score leads to, by the thresholds that were in force.
    pub decisions_checked: u64,
    /// Those that differ.
    pub other_decision: u64,
    /// Decisions whose thresholds the log does not say.
    pub decisions_unchecked: u64,
    /// Files that cannot be read, or not to their end.
    pub unreadable_files: u64,
    /// The first of them.
    pub unreadable: Vec<UnreadableFile>,
    /// Events in which an input differs, where there are some.
    pub inputs: BTreeMap<String, u64>,
    /// Events in which a column that names an entity differs, where there are some.
    pub entities: BTreeMap<String, u64>,
    /// The same differences, view by view.
    pub views: BTreeMap<String, LogView>,
    /// The first events of each kind of difference.
    pub first: FirstDifferences,
    /// The views of each input, by its place.
    #[serde(skip)]
    views_of: Vec<Vec<String>>,
    #[serde(skip)]
    last_unreadable: String,
}

/// The differences of a view.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct LogView {
    /// Events with a difference in an input that uses it.
    pub mismatched: u64,
    /// Events whose row names another entity of it.
    pub other_entity: u64,
    /// Events that the log lacks, and with them what the view said.
    pub missing: u64,
    /// Logged events that the files lack.
    pub extra: u64,
}

/// A file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadableFile {
    /// Its whole name.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
}

impl LogAudit {
    /// Reads the log at a location into `again`, and what waits for it in `scored`.
    pub(super) fn read(
        workspace: &Workspace,
        location: &str,
        scored: &RocksStore,
        again: &RocksStore,
    ) -> Outcome<Self> {
        let plan = workspace.model()?;
        let mut verdicts = Verdicts::new(workspace, plan);
        let mut found = Self::new(plan, location);
        let files = each_batch(workspace, location, &mut |logged| match logged {
            Logged::Rows(rows) => {
                let taken = found.take_in(plan, again, &mut verdicts, &rows, false)?;
                found.rows += taken.rows;
                Ok(())
            }
            Logged::Unreadable { file, reason } => {
                found.note_unreadable(file, reason);
                Ok(())
            }
        })?;
        found.files = files;
        // After the files: a row that came into one meanwhile is the same row.
        each_waiting(workspace, location, scored, &mut |rows| {
            let taken = found.take_in(plan, again, &mut verdicts, &rows, true)?;
            found.waiting += taken.new;
            Ok(())
        })?;
        if found.scores_unchecked > 0 {
            found.why_unchecked = verdicts.why_unchecked;
        }
        Ok(found)
    }

    fn new(plan: &ModelPlan, location: &str) -> Self {
        let inputs = 0..plan.inputs.schema.fields().len();
        let views = plan.inputs.views();
        Self {
            location: location.to_owned(),
            views: views
                .map(|view| (view.name.clone(), LogView::default()))
                .collect(),
            views_of: inputs.map(|input| plan.inputs.views_of(input)).collect(),
            ..Self::default()
        }
    }

    /// Takes rows of the log in.
    fn take_in(
        &mut self,
        plan: &ModelPlan,
        again: &RocksStore,
        verdicts: &mut Verdicts<'_>,
        rows: &LoggedRows,
        may_be_same: bool,
    ) -> Outcome<Taken> {
        let batch = match LoggedBatch::of(plan, rows) {
            Ok(batch) => batch,
            Err(failure) => {
                self.note_unreadable(rows.file.clone(), failure.message);
                return Ok(Taken::default());
            }
        };
        let indexed = batch.index(again, may_be_same)?;
        for row in &indexed.twice {
            self.twice += 1;
            self.first.name("twice", batch.event(*row));
        }
        self.check_scores(verdicts, &batch, &indexed.new)?;
        self.check_decisions(&batch, &indexed.new);
        Ok(Taken {
            rows: batch.rows() as u64,
            new: indexed.new.len() as u64,
        })
    }

    fn note_unreadable(&mut self, file: String, reason: String) {
        if self.last_unreadable == file {
            // Another batch of the same file.
            return;
        }
        self.last_unreadable.clone_from(&file);
        self.unreadable_files += 1;
        if self.unreadable.len() < NAMED_FILES {
            self.unreadable.push(UnreadableFile { file, reason });
        }
    }

    fn check_scores(
        &mut self,
        verdicts: &mut Verdicts<'_>,
        batch: &LoggedBatch,
        rows: &[usize],
    ) -> Outcome<()> {
        for (row, expected) in rows.iter().zip(verdicts.expected(batch, rows)?) {
            let Expected::Score(expected) = expected else {
                self.scores_unchecked += 1;
                continue;
            };
            self.scores_checked += 1;
            let logged = batch.score(*row);
            if is_same(logged, expected) {
                continue;
            }
            self.other_score += 1;
            if self.first.wants("other_score", Some("score")) {
                let differs = batch.event(*row).differs("other_score");
                let differs = differs.in_column("score", &[]);
                let differs = differs.between(logged.into(), expected.map(f64::from).into());
                self.first.push(differs);
            }
        }
        Ok(())
    }

    fn check_decisions(&mut self, batch: &LoggedBatch, rows: &[usize]) {
        let Some(thresholds) = &batch.thresholds else {
            self.decisions_unchecked += rows.len() as u64;
            return;
        };
        for row in rows {
            self.decisions_checked += 1;
            let score = batch.score(*row);
            let expected = score.and_then(|score| thresholds.of(score));
            let logged = batch.decision(*row);
            if logged == expected {
                continue;
            }
            self.other_decision += 1;
            if self.first.wants("other_decision", Some("decision")) {
                let differs = batch.event(*row).differs("other_decision");
                let differs = differs.in_column("decision", &[]);
                self.first
                    .push(differs.between(logged.into(), expected.into()));
            }
        }
    }

    /// Compares events with their rows.
    pub(super) fn add(
        &mut self,
        plan: &ModelPlan,
        again: &RocksStore,
        events: &RecordBatch,
        inputs: &RecordBatch,
    ) -> Outcome<()> {
        let id_column = events.column(plan.event_id);
        let ids = pack_keys(std::slice::from_ref(id_column));
        let times = events
            .column(plan.inputs.stream.time)
            .as_primitive::<TimestampMicrosecondType>();
        let recomputed = Recomputed::new(plan, events, inputs);
        let mut commit = Commit::default();
        let mut of_batch = HashSet::new();
        for (row, id) in ids.iter().enumerate() {
            let event = EventAt {
                ids: id_column,
                row,
                time_us: times.value(row),
            };
            if !of_batch.insert((id, event.time_us)) {
                // What the batch has found out of it is not in the store yet.
                continue;
            }
            let key = key(id, event.time_us);
            let Some(mut logged) = get(again, &key)? else {
                self.missing += 1;
                self.views.values_mut().for_each(|view| view.missing += 1);
                self.first.name("missing", event);
                continue;
            };
            if logged.is_seen {
                continue;
            }
            self.compare_entity(plan, event, &logged, &recomputed)?;
            match &logged.inputs {
                None => {
                    self.other_inputs += 1;
                    self.first.name("other_inputs", event);
                }
                Some(logged) => self.compare(plan, event, logged, &recomputed)?,
            }
            logged.is_seen = true;
            put(&mut commit, key, event.time_us, &logged)?;
        }
        Ok(again.commit(commit)?)
    }

    fn compare(
        &mut self,
        plan: &ModelPlan,
        event: EventAt<'_>,
        logged: &[Vec<u8>],
        recomputed: &Recomputed<'_>,
    ) -> Outcome<()> {
        self.compared += 1;
        let mut moved: Vec<&str> = Vec::new();
        let mut differs = false;
        let inputs = plan.inputs.schema.fields().iter();
        for (index, (field, logged)) in inputs.zip(logged).enumerate() {
            if *logged == recomputed.packed_inputs[index][event.row] {
                continue;
            }
            differs = true;
            *self.inputs.entry(field.name().clone()).or_default() += 1;
            moved.extend(self.views_of[index].iter().map(String::as_str));
            if self.first.wants("mismatched", Some(field.name())) {
                let difference = event.differs("mismatched");
                let difference = difference.in_column(field.name(), &self.views_of[index]);
                let logged = unpacked(field.data_type(), logged)?;
                let recomputed = recomputed.inputs.column(index);
                self.first
                    .push(difference.between(value(&logged, 0), value(recomputed, event.row)));
            }
        }
        self.mismatched += u64::from(differs);
        moved.sort_unstable();
        moved.dedup();
        for view in moved {
            if let Some(view) = self.views.get_mut(view) {
                view.mismatched += 1;
            }
        }
        Ok(())
    }

    /// Compares the columns that name entities, as far as the log has them.
    fn compare_entity(
        &mut self,
        plan: &ModelPlan,
        event: EventAt<'_>,
        logged: &Row,
        recomputed: &Recomputed<'_>,
    ) -> Outcome<()> {
        let mut moved: Vec<String> = Vec::new();
        let mut differs = false;
        for (place, logged) in logged.entity.iter().enumerate() {
            let (column, packed) = &recomputed.entity[place];
            let Some(logged) = logged.as_ref().filter(|it| **it != packed[event.row]) else {
                continue;
            };
            differs = true;
            let field = plan.inputs.stream.schema.field(*column);
            let views = plan.inputs.views_by(*column);
            *self.entities.entry(field.name().clone()).or_default() += 1;
            if self.first.wants("other_entity", Some(field.name())) {
                let difference = event.differs("other_entity");
                let difference = difference.in_column(field.name(), &views);
                let logged = unpacked(field.data_type(), logged)?;
                let recomputed = recomputed.events.column(*column);
                self.first
                    .push(difference.between(value(&logged, 0), value(recomputed, event.row)));
            }
            moved.extend(views);
        }
        self.other_entity += u64::from(differs);
        moved.sort_unstable();
        moved.dedup();
        for view in moved {
            if let Some(view) = self.views.get_mut(&view) {
                view.other_entity += 1;
            }
        }
        Ok(())
    }

    /// All events were added.
    pub(super) fn finish(&mut self, plan: &ModelPlan, again: &RocksStore) -> Outcome<()> {
        try_scan(again, Table::Scored, ROWS, ROWS_END, &mut |key, row| {
            let noted = self.note_if_extra(plan, key, row);
            noted.map(ControlFlow::Continue)
        })
    }

    fn note_if_extra(&mut self, plan: &ModelPlan, key: &[u8], row: &[u8]) -> Outcome<()> {
        if row_of(row)?.is_seen {
            return Ok(());
        }
        self.extra += 1;
        self.views.values_mut().for_each(|view| view.extra += 1);
        if self.first.wants("extra", None) {
            let (id, time_us) = of_key(key)
                .ok_or_else(|| Failure::failed("the audit's store is damaged: a key is short"))?;
            let id_type = plan.inputs.stream.schema.field(plan.event_id).data_type();
            let ids = unpacked(id_type, id)?;
            let event = EventAt {
                ids: &ids,
                row: 0,
                time_us,
            };
            self.first.name("extra", event);
        }
        Ok(())
    }

    /// How many differences there are.
    pub(super) fn differences(&self) -> u64 {
        let of_events = self.mismatched + self.missing + self.extra + self.twice;
        let of_rows = self.other_inputs + self.other_entity + self.other_score;
        of_events + of_rows + self.other_decision + self.unreadable_files
    }

    /// For people, on lines of its own.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![
            format!(
                "\nlog {}: {} rows in {} files, {} waiting; {} compared: {} mismatched, {} missing, {} extra, {} twice, {} of \
                 other inputs, {} of another entity",
                self.location,
                self.rows,
                self.files,
                self.waiting,
                self.compared,
                self.mismatched,
                self.missing,
                self.extra,
                self.twice,
                self.other_inputs,
                self.other_entity
            ),
            self.verdicts_text(),
        ];
        if self.unreadable_files > 0 {
            lines.push(format!("  {} files cannot be read", self.unreadable_files));
        }
        let unreadable = self.unreadable.iter();
        lines.extend(unreadable.map(|it| format!("  {}: {}", it.file, it.reason)));
        let differing = self.inputs.iter().chain(&self.entities);
        lines.extend(differing.map(|(name, count)| format!("  {name} differs in {count} events")));
        lines.extend(self.views.iter().map(|(name, view)| {
            format!(
                "  view {name}: {} mismatched, {} of another entity, {} missing, {} extra",
                view.mismatched, view.other_entity, view.missing, view.extra
            )
        }));
        let first = self.first.iter();
        lines.extend(first.map(|difference| format!("  {}", difference.text())));
        lines.join("\n")
    }

    fn verdicts_text(&self) -> String {
        let why = self.why_unchecked.as_ref();
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        format!(
            "  scores: {} checked, {} differ, {} not checked{why}; decisions: {} checked, {} differ, {} not checked",
            self.scores_checked,
            self.other_score,
            self.scores_unchecked,
            self.decisions_checked,
            self.other_decision,
            self.decisions_unchecked
        )
    }
}

/// How many rows were taken in, and how many of them are the first of their event.
#[derive(Default)]
struct Taken {
    rows: u64,
    new: u64,
}

/// What events say now.
struct Recomputed<'a> {
    events: &'a RecordBatch,
    inputs: &'a RecordBatch,
    /// Each input, packed.
    packed_inputs: Vec<Vec<Vec<u8>>>,
    /// Each column that names entities, by its place in the stream, packed.
    entity: Vec<(usize, Vec<Vec<u8>>)>,
}

impl<'a> Recomputed<'a> {
    fn new(plan: &ModelPlan, events: &'a RecordBatch, inputs: &'a RecordBatch) -> Self {
        let entity = entity_columns(plan).into_iter();
        let packed = |column: usize| pack_rows(std::slice::from_ref(events.column(column)));
        Self {
            events,
            inputs,
            packed_inputs: packed_columns(inputs.columns()),
            entity: entity.map(|column| (column, packed(column))).collect(),
        }
    }
}
