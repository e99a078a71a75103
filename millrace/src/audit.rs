//! `millrace audit`: what was scored, compared with what the same events say now.
//!
//! Each scored event is in the store with the inputs that the model saw, once, for it was committed with its offset.
//! Here the events come from files, fill a store of their own, and the inputs are computed again as of each event's
//! time. Live and again, the same code runs on the same events, so any difference is a fact about the run: an event
//! that came after a later one was scored, one that was lost or changed, a project that was another one then.
//!
//! The log of scores, where there is one, is compared with the same inputs (`audit/score_log.rs`).

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table as TextTable};
use millrace_feature_store::{Commit, RocksStore, Scan, Store, Table, time_bytes};
use millrace_features::pack_keys;
use serde::Serialize;

use crate::backfill::{event_files, fill};
use crate::failure::{Failure, Outcome};
use crate::files::{EventFile, is_empty_folder, spinner};
use crate::labels::{SCORED_END, SCORED_START, ScoredRecord, scored_record};
use crate::marks::Marks;
use crate::output::print;
use crate::scorer::text_of;
use crate::state::Committed;
use crate::workspace::{ModelPlan, Workspace};

mod differences;
mod logged;
mod score_log;
#[cfg(test)]
mod tests;
mod verdicts;

pub use differences::{FirstDifferences, LogDifference, Values};
pub use score_log::{LogAudit, LogView, UnreadableFile};

/// What `millrace audit` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct AuditArgs {
    /// A stream and a file of its events: transactions=events.parquet; of every stream that the inputs use
    #[arg(long, required = true, num_args = 1.., value_name = "STREAM=FILE")]
    pub events: Vec<String>,
    /// Compare the log of scores at this place, too; by default the project's score_log.location
    #[arg(long, value_name = "LOCATION")]
    pub scores: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Audit {
    /// Events in the files, each as often as it is there.
    pub events: u64,
    /// Of them, those whose inputs were compared, each once.
    pub compared: u64,
    /// Those with an input that differs.
    pub mismatched: u64,
    /// Events of the files that were not scored, or whose record has expired.
    pub missing: u64,
    /// Scored events that are not in the files.
    pub extra: u64,
    /// Those that were scored with other inputs than the project has now.
    pub other_inputs: u64,
    /// What differs, input by input.
    pub inputs: Vec<InputAudit>,
    /// Events with a difference in an input that uses the view.
    pub views: BTreeMap<String, u64>,
    /// What was found in the log of scores, where there is one.
    pub log: Option<LogAudit>,
}

/// The differences of one input.
#[derive(Debug, Serialize)]
pub struct InputAudit {
    /// Its name.
    pub input: String,
    /// The views that it is computed from.
    pub views: Vec<String>,
    /// Events in which it differs.
    pub mismatched: u64,
    /// The first of them.
    pub first: Option<Difference>,
}

/// One difference.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// The event's id.
    pub id: String,
    /// What the model saw; null where it was missing. Of a text, its code: the store keeps no more of it.
    pub scored: Option<f32>,
    /// What the events say.
    pub recomputed: Option<f32>,
    /// The text that they say, where the input is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recomputed_text: Option<String>,
}

/// Keys in the audit's store of the scored events that an event of the files was found for: this, and the id.
const SEEN: &[u8] = &[4];

/// Compares, and prints what was found.
///
/// # Errors
/// Of kind input: a project without a model, a mistake in a file. Else differences, or a store that fails.
pub fn audit(workspace: &Workspace, args: &AuditArgs) -> Outcome<()> {
    let log = args.scores.as_ref();
    let log = log.or(workspace.settings.score_log.location.as_ref());
    let found = compare(workspace, &args.events, log.map(String::as_str))?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&found)
            .map_err(|e| Failure::failed(format!("as JSON: {e}")))?,
        false => found.table(),
    };
    print(text)?;
    let of_log = found.log.as_ref().map_or(0, LogAudit::differences);
    match found.mismatched + found.missing + found.extra + found.other_inputs + of_log {
        0 => Ok(()),
        _ => Err(Failure::failed(
            "what was scored is not what the events say",
        )),
    }
}

/// Compares what the project's store has scored, and the log at a location, with the events of files, each
/// `stream=path`.
///
/// # Errors
/// As [`audit`], but for differences. Of kind input, too: a project without a store, where no log is named either.
pub fn compare(workspace: &Workspace, events: &[String], log: Option<&str>) -> Outcome<Audit> {
    let plan = workspace.model()?;
    let files = event_files(workspace, events)?;
    check_streams(plan, files.iter().map(|(stream, _)| stream.name.as_str()))?;
    let folder = tempfile::tempdir().map_err(|e| Failure::failed(format!("a folder: {e}")))?;
    let store = workspace.path(&workspace.settings.store.path);
    // What keeps a folder from being read is told when the store is opened.
    let is_empty = is_empty_folder(&store).unwrap_or(false);
    let scored = match (is_empty, log) {
        (false, _) => workspace.open_store_to_read()?,
        // A log may be audited where its store is not: nothing is made in the project for it.
        (true, Some(_)) => workspace.open_store_at(&folder.path().join("scored"))?,
        (true, None) => return Err(nothing_scored(workspace)),
    };
    let again = workspace.open_store_at(&folder.path().join("audit"))?;
    let mut marks = Marks::default();
    for (stream, path) in &files {
        fill(workspace, &again, &mut marks, stream, path)?;
    }
    let mut found = Audit::new(plan);
    let log = log.map(|location| LogAudit::read(workspace, location, &scored, &again));
    found.log = log.transpose()?;
    let bar = spinner().with_message("comparing");
    for (stream, path) in &files {
        if stream.name != plan.inputs.stream.name {
            continue;
        }
        for batch in EventFile::open(path, stream)? {
            found.add(plan, &scored, &again, &batch?)?;
            bar.set_message(format!("{} events compared", found.events));
        }
    }
    bar.finish_and_clear();
    if let Some(log) = &mut found.log {
        log.finish(plan, &again)?;
    }
    found.extra = count_scored(&scored)?.saturating_sub(found.compared + found.other_inputs);
    Ok(found)
}

fn nothing_scored(workspace: &Workspace) -> Failure {
    let store = workspace.path(&workspace.settings.store.path);
    Failure::input(format!(
        "nothing was scored yet: there is no store at {}",
        store.display()
    ))
    .hint("`millrace run` scores events and keeps what the model saw of them at store.path")
}

/// Without the events of a stream, everything that is computed from it would differ.
fn check_streams<'a>(plan: &ModelPlan, given: impl Iterator<Item = &'a str>) -> Outcome<()> {
    let given: Vec<&str> = given.collect();
    let views = plan.inputs.views().map(|view| view.stream.name.as_str());
    let mut needed = views.chain([plan.inputs.stream.name.as_str()]);
    match needed.find(|stream| !given.contains(stream)) {
        None => Ok(()),
        Some(stream) => Err(Failure::input(format!(
            "the inputs use stream '{stream}', and no file of its events is given"
        ))
        .hint(format!("add --events {stream}=FILE"))),
    }
}

fn count_scored(store: &RocksStore) -> Outcome<u64> {
    let mut count = 0;
    store.scan(
        Table::Scored,
        SCORED_START,
        SCORED_END,
        false,
        &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        },
    )?;
    Ok(count)
}

impl Audit {
    fn new(plan: &ModelPlan) -> Self {
        let input = |(index, name): (usize, &str)| InputAudit {
            input: name.to_owned(),
            views: plan.inputs.views_of(index),
            mismatched: 0,
            first: None,
        };
        let views = plan.inputs.views().map(|view| (view.name.clone(), 0));
        Self {
            inputs: plan.inputs.names().enumerate().map(input).collect(),
            views: views.collect(),
            ..Self::default()
        }
    }

    fn add(
        &mut self,
        plan: &ModelPlan,
        scored: &RocksStore,
        again: &RocksStore,
        events: &RecordBatch,
    ) -> Outcome<()> {
        let inputs = plan.inputs.evaluate(&Committed(again), events)?;
        let matrix = plan.inputs.matrix(&inputs)?;
        if let Some(log) = &mut self.log {
            log.add(plan, again, events, &inputs)?;
        }
        let width = self.inputs.len();
        let times = events
            .column(plan.inputs.stream.time)
            .as_primitive::<TimestampMicrosecondType>();
        let ids = pack_keys(&[events.column(plan.event_id).clone()]);
        let tag = plan.inputs_tag();
        let mut commit = Commit::default();
        let mut of_batch = HashSet::new();
        for (row, id) in ids.iter().enumerate() {
            self.events += 1;
            let record = scored_record(scored, id)?;
            let time_us = times.value(row);
            let Some(record) = record.filter(|record| record.event_time_us == time_us) else {
                self.missing += 1;
                continue;
            };
            // An event that the files have twice was scored once.
            let key = [SEEN, id].concat();
            if !of_batch.insert(id) || again.get(Table::Scored, &key)?.is_some() {
                continue;
            }
            commit.put(Table::Scored, key, time_bytes(time_us));
            if record.inputs_tag != tag {
                self.other_inputs += 1;
                continue;
            }
            let recomputed = &matrix[row * width..(row + 1) * width];
            let texts = |input: usize| text_of(&inputs, row, input).map(str::to_owned);
            self.compare(&text(events, plan, row)?, &record, recomputed, &texts);
        }
        Ok(again.commit(commit)?)
    }

    /// `texts` gives the inputs that are text as the events say them.
    fn compare(
        &mut self,
        id: &str,
        record: &ScoredRecord,
        recomputed: &[f32],
        texts: &dyn Fn(usize) -> Option<String>,
    ) {
        self.compared += 1;
        let mut moved: Vec<&str> = Vec::new();
        let mut differs = false;
        for (index, input) in self.inputs.iter_mut().enumerate() {
            let (scored, recomputed) = (record.inputs.get(index).copied(), recomputed[index]);
            let is_same = scored.is_some_and(|scored| {
                scored == recomputed || (scored.is_nan() && recomputed.is_nan())
            });
            if is_same {
                continue;
            }
            differs = true;
            input.mismatched += 1;
            input.first.get_or_insert_with(|| Difference {
                id: id.to_owned(),
                scored: scored.filter(|value| !value.is_nan()),
                recomputed: Some(recomputed).filter(|value| !value.is_nan()),
                recomputed_text: texts(index),
            });
            let views = input.views.iter().map(String::as_str);
            moved.extend(views);
        }
        self.mismatched += u64::from(differs);
        moved.sort_unstable();
        moved.dedup();
        for view in moved {
            if let Some(count) = self.views.get_mut(view) {
                *count += 1;
            }
        }
    }

    fn table(&self) -> String {
        let mut table = TextTable::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header([
            "input",
            "of views",
            "mismatched",
            "first: scored",
            "recomputed",
            "event",
        ]);
        let number = |value: Option<f32>| value.map_or("null".to_owned(), |v| v.to_string());
        for input in &self.inputs {
            let first = input.first.as_ref();
            table.add_row([
                input.input.clone(),
                input.views.join(", "),
                input.mismatched.to_string(),
                first.map_or(String::new(), |first| number(first.scored)),
                first.map_or(String::new(), |first| match &first.recomputed_text {
                    Some(text) => format!("{} ({text})", number(first.recomputed)),
                    None => number(first.recomputed),
                }),
                first.map_or(String::new(), |first| first.id.clone()),
            ]);
        }
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let views: Vec<String> = self
            .views
            .iter()
            .map(|(view, count)| format!("{view}: {count}"))
            .collect();
        let log = self.log.as_ref().map(LogAudit::text).unwrap_or_default();
        format!(
            "{table}\n{} events, {} compared: {} mismatched, {} missing, {} extra, {} of other inputs\nby view: {}{log}",
            self.events,
            self.compared,
            self.mismatched,
            self.missing,
            self.extra,
            self.other_inputs,
            views.join(", ")
        )
    }
}

/// An event's id, for people.
fn text(events: &RecordBatch, plan: &ModelPlan, row: usize) -> Outcome<String> {
    arrow::util::display::array_value_to_string(events.column(plan.event_id), row)
        .map_err(|e| Failure::failed(e.to_string()))
}
