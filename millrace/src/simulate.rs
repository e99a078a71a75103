//! `millrace simulate`: the live loop on a virtual clock, as fast as the machine goes.
//!
//! The steps are the pipeline's and the updates the learning loop's, the same code as in `millrace run`; only the
//! events come from files, the clock from the events, and the scores go into a file. A step is at most a period
//! long. Within it every event is scored as of its own time, with the version that served when the period began,
//! as it would be live: a version that is made of a period's labels takes traffic after its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::array::{ArrayRef, Float32Array, Float64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use millrace_feature_store::Store;
use millrace_ingest::Step;
use millrace_learner::Registry;
use opentelemetry::trace::SpanContext;

use crate::backfill::event_files;
use crate::failure::{Failure, Outcome};
use crate::files::{Format, TableFile, no_folder, publish};
use crate::interrupt;
use crate::learning::Learning;
use crate::live::{Live, Progress};
use crate::output::{print, tell};
use crate::pipeline::{Pipeline, StepFailure};
use crate::score_topic::ScoreSink;
use crate::scorer::{Scorer, Scores};
use crate::settings::micros;
use crate::times::{parse_time, rfc3339};
use crate::traces::Traces;
use crate::workspace::{ModelPlan, Workspace};

mod feed;
mod plot;
mod report;
mod table;
mod tally;
mod teller;

use feed::{Feed, check_from, next_us, take};
use table::table;
use tally::{Summary, Tally, keep_common};
use teller::Teller;

/// What `millrace simulate` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateArgs {
    /// A stream and a file of its events: transactions=events.parquet; several files of a stream are read in order
    #[arg(long, required = true, num_args = 1.., value_name = "STREAM=FILE")]
    pub events: Vec<String>,
    /// Folder of scores.parquet, updates.jsonl, report.html and the versions of the model
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// A setting in place of millrace.toml's, as often as there are: --set model.every=6h
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// One more run with these settings besides, measured on the same events and shown in the same report; as often as
    /// there are runs
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub compare: Vec<String>,
    /// Measure only events from this time on; those before still are scored and learned
    #[arg(long, value_name = "T")]
    pub from: Option<String>,
    /// Write into scores.parquet what the model saw of each event, too
    #[arg(long)]
    pub inputs: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// Simulates the project, once for each set of settings.
///
/// # Errors
/// Of kind input: a stream, a setting or a time that is not there, a mistake in a file. Else a disk that fails.
pub fn simulate(project: &Path, args: &SimulateArgs) -> Outcome<()> {
    let from_us = match &args.from {
        Some(text) => parse_time(text).map_err(|e| Failure::input(format!("--from: {e}")))?,
        None => i64::MIN,
    };
    let plans = plans(args);
    let folders: Vec<PathBuf> = match plans.len() {
        1 => vec![args.output.clone()],
        runs => (1..=runs)
            .map(|run| args.output.join(format!("run-{run}")))
            .collect(),
    };
    // A mistake in the last run's settings or folder must not show after the first has run.
    check_output(&args.output)?;
    folders.iter().try_for_each(|folder| check_output(folder))?;
    for (_, settings) in &plans {
        let workspace = Workspace::open_with(project, settings);
        let workspace = workspace.map_err(|failure| of_option(args, failure))?;
        let stream = &workspace.model()?.inputs.stream;
        if args.from.is_some() {
            let files = event_files(&workspace, &args.events)?;
            let of_stream = files.iter().filter(|(of, _)| Arc::ptr_eq(of, stream));
            let paths = of_stream.map(|(_, path)| path.as_path());
            check_from(stream, paths, from_us)?;
        }
    }
    folders.iter().try_for_each(|folder| make_output(folder))?;
    let mut runs = Vec::new();
    for ((name, settings), folder) in plans.iter().zip(&folders) {
        let workspace = Workspace::open_with(project, settings)?;
        runs.push(run(workspace, args, folder, from_us, name, settings)?);
    }
    if runs.len() > 1 {
        let mut tallies: Vec<&mut Tally> = runs.iter_mut().map(|run| &mut run.tally).collect();
        keep_common(&mut tallies);
        for run in &mut runs {
            run.summary.quality = run.tally.quality();
        }
    }
    let page = args.output.join("report.html");
    write(&page, report::page(&runs).as_bytes())?;
    let summaries: Vec<&Summary> = runs.iter().map(|run| &run.summary).collect();
    let json = serde_json::to_string_pretty(&summaries);
    let json = json.map_err(|e| Failure::failed(format!("as JSON: {e}")))?;
    write(&args.output.join("summary.json"), json.as_bytes())?;
    if args.json {
        print(json)?;
    } else {
        print(format_args!("{}\n{}", table(&summaries), page.display()))?;
    }
    Ok(())
}

/// Says which option has the setting that is wrong.
fn of_option(args: &SimulateArgs, failure: Failure) -> Failure {
    let is_of = |setting: &str| failure.message.starts_with(&format!("{setting}: "));
    let mut compared = args.compare.iter().flat_map(|all| settings_of(all));
    let option = if args.set.iter().any(|setting| is_of(setting)) {
        "--set"
    } else if compared.any(is_of) {
        "--compare"
    } else {
        return failure;
    };
    Failure {
        message: format!("{option} {}", failure.message),
        ..failure
    }
}

/// Names and settings of the runs: the first has `--set`'s alone.
fn plans(args: &SimulateArgs) -> Vec<(String, Vec<String>)> {
    let name = match args.set.as_slice() {
        [] => "as the project is".to_owned(),
        set => set.join(", "),
    };
    let mut plans = vec![(name, args.set.clone())];
    for compared in &args.compare {
        let more = settings_of(compared).into_iter().map(str::to_owned);
        plans.push((
            compared.clone(),
            args.set.iter().cloned().chain(more).collect(),
        ));
    }
    plans
}

/// The settings of one `--compare`: commas inside of brackets and quotes are of a value.
fn settings_of(text: &str) -> Vec<&str> {
    let (mut settings, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                settings.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    settings.push(text[start..].trim());
    settings
}

/// A finished run.
struct Run {
    summary: Summary,
    tally: Tally,
    contributions: Vec<tally::Contribution>,
}

fn run(
    mut workspace: Workspace,
    args: &SimulateArgs,
    folder: &Path,
    from_us: i64,
    name: &str,
    settings: &[String],
) -> Outcome<Run> {
    let started = Instant::now();
    let scratch = folder.join(".store");
    clear(&scratch)?;
    let registry = folder.join("models");
    clear(&registry)?;
    workspace.settings.store.path = absolute(&scratch)?;
    let workspace = Arc::new(workspace);
    let plan = workspace.model()?.clone();
    let files = event_files(&workspace, &args.events)?;
    let mut by_stream: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    for (stream, path) in files {
        let index = workspace
            .project
            .streams
            .iter()
            .position(|other| other.name == stream.name);
        by_stream.entry(index.unwrap_or(0)).or_default().push(path);
    }
    for stream in [&plan.inputs.stream, &plan.labels] {
        let is_given = by_stream
            .keys()
            .any(|index| Arc::ptr_eq(&workspace.project.streams[*index], stream));
        if !is_given {
            return Err(Failure::input(format!(
                "--events: no file of stream '{}' was given",
                stream.name
            ))
            .hint(format!("add {}=FILE: the model reads it", stream.name)));
        }
    }
    let every = micros(plan.settings.every);
    let mut feeds: Vec<Feed<'_>> = by_stream
        .into_iter()
        .map(|(index, paths)| Feed::new(index, &workspace.project.streams[index], paths, every))
        .collect();

    let store: Arc<dyn Store> = Arc::new(workspace.open_store()?);
    let registry = Arc::new(Registry::open_volatile(&registry)?);
    let scorer = Arc::new(Scorer::new(plan.clone()));
    let live = Live {
        workspace: Arc::clone(&workspace),
        store: Arc::clone(&store),
        scorer: Some(Arc::clone(&scorer)),
        registry: Some(Arc::clone(&registry)),
        progress: Arc::new(Progress::default()),
        misses: Arc::default(),
        traces: Traces::default(),
    };
    let scores = ScoresFile::create(&folder.join("scores.parquet"), &plan, args.inputs)?;
    let mut pipeline = Pipeline::new(live.clone(), Some(Box::new(scores.clone())))?;
    let mut learning = Learning::open(
        Arc::clone(&workspace),
        Arc::clone(&store),
        registry,
        Arc::clone(&scorer),
    )?;
    let alert_threshold = workspace.settings.learner.gate.alert_threshold;
    let mut tally = Tally::new(from_us, alert_threshold);
    let mut teller = Teller::new(&feeds)?;
    let mut duplicates = 0;
    while let Some(next) = next_us(&mut feeds)? {
        if interrupt::is_asked() {
            teller.finish();
            let done = live.progress.events();
            drop((pipeline, learning, live, store));
            clear(&scratch)?;
            return Err(Failure::stopped(format!(
                "{name}: {done} events were replayed, up to {}, and nothing of them is reported",
                rfc3339(next)
            ))
            .hint("the same command begins anew; of several runs those before this one are whole, each in its folder"));
        }
        let end_us = next
            .div_euclid(every)
            .saturating_add(1)
            .saturating_mul(every);
        loop {
            let batches = take(&mut feeds, end_us)?;
            if batches.is_empty() {
                break;
            }
            let step = Step {
                batches,
                ..Step::default()
            };
            pipeline.apply(&step).map_err(|failure| match failure {
                StepFailure::Scores(failure) | StepFailure::Other(failure) => failure,
            })?;
        }
        while let Some(period) = learning.next_period(end_us)? {
            let now = live.progress.duplicate_labels.load(Ordering::Relaxed);
            tally.note(&period, now - duplicates);
            duplicates = now;
        }
        tally.alarms.extend(live.progress.take_alarms());
        tally.read(store.as_ref())?;
        teller.tell(live.progress.events(), far(&live, &tally, end_us, name));
    }
    teller.finish();
    scores.finish()?;
    let events = live.progress.events();
    let summary = tally.summary(name, settings, started.elapsed().as_secs_f64(), events);
    for disorder in feeds.iter().filter_map(Feed::disorder) {
        tell(format_args!("warning: {name}: {disorder}"));
    }
    if let Some(reason) = tally.why_nothing() {
        // The log of a simulation has errors alone; the summary, on the other channel, stays what it is.
        tell(format_args!(
            "warning: {name}: {events} events were replayed, and nothing is measured: {reason}"
        ));
    }
    let contributions = match scorer.serving() {
        Some(serving) => tally.contributions(&serving.model, &plan.input_names())?,
        None => Vec::new(),
    };
    let mut lines = String::new();
    for line in &tally.updates {
        let line = serde_json::to_string(line);
        lines.push_str(&line.map_err(|e| Failure::failed(format!("as JSON: {e}")))?);
        lines.push('\n');
    }
    write(&folder.join("updates.jsonl"), lines.as_bytes())?;
    drop((pipeline, learning, live, store));
    clear(&scratch)?;
    Ok(Run {
        summary,
        tally,
        contributions,
    })
}

/// How far a run is, in words.
fn far(live: &Live, tally: &Tally, until_us: i64, name: &str) -> String {
    let newest = tally.updates.last();
    let precision = newest.and_then(|line| line.prequential_average_precision);
    let version = newest.and_then(|line| line.version);
    format!(
        "{name}: {} · {} events · version {} · average precision {}",
        rfc3339(until_us),
        live.progress.events(),
        version.map_or("–".to_owned(), |version| version.to_string()),
        precision.map_or("–".to_owned(), |value| format!("{value:.3}")),
    )
}

/// scores.parquet: the event's id, event_time, score and model_version, in the order of scoring.
#[derive(Clone)]
struct ScoresFile {
    file: Arc<Mutex<Option<TableFile>>>,
    schema: Arc<Schema>,
    path: PathBuf,
    plan: ModelPlan,
}

impl ScoresFile {
    fn create(path: &Path, plan: &ModelPlan, inputs: bool) -> Outcome<Self> {
        let stream = &plan.inputs.stream;
        let mut fields = vec![
            stream.schema.field(plan.event_id).clone(),
            stream
                .schema
                .field(stream.time)
                .clone()
                .with_name("event_time"),
            Field::new("score", DataType::Float64, true),
            Field::new("model_version", DataType::UInt64, true),
        ];
        if inputs {
            let inputs = plan.inputs.schema.fields().iter();
            fields.extend(inputs.map(|input| {
                let data_type = match input.data_type() {
                    DataType::Utf8 => DataType::Utf8,
                    _ => DataType::Float32,
                };
                Field::new(input.name(), data_type, true)
            }));
        }
        let schema = Arc::new(Schema::new(fields));
        let file = TableFile::create(path, Format::Parquet, Arc::clone(&schema), &[])?;
        Ok(Self {
            file: Arc::new(Mutex::new(Some(file))),
            schema,
            path: path.to_owned(),
            plan: plan.clone(),
        })
    }

    fn finish(&self) -> Outcome<()> {
        let file = self
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(file) = file {
            file.finish()?;
            publish(&self.path)?;
        }
        Ok(())
    }
}

impl ScoreSink for ScoresFile {
    fn send(
        &mut self,
        events: &RecordBatch,
        scores: &Scores,
        _traces: &[(usize, SpanContext)],
    ) -> Outcome<()> {
        let rows = 0..events.num_rows();
        let probabilities: Float64Array = rows
            .clone()
            .map(|row| scores.probability(row).map(f64::from))
            .collect();
        let versions: UInt64Array = rows
            .map(|row| Some(scores.versions[row]).filter(|version| *version > 0))
            .collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::clone(events.column(self.plan.event_id)),
            Arc::clone(events.column(self.plan.inputs.stream.time)),
            Arc::new(probabilities),
            Arc::new(versions),
        ];
        for input in 0..self.schema.fields().len() - columns.len() {
            let column = scores.inputs.column(input);
            if column.data_type() == &DataType::Utf8 {
                columns.push(Arc::clone(column));
                continue;
            }
            let value = |row| Some(scores.row(row)[input]).filter(|value| !value.is_nan());
            let values: Float32Array = (0..events.num_rows()).map(value).collect();
            columns.push(Arc::new(values));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let batch = batch.map_err(|e| Failure::failed(format!("scores: {e}")))?;
        match self
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
        {
            Some(file) => Ok(file.write(&batch)?),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Outcome<()> {
        Ok(())
    }
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))
}

/// What a simulation writes, and the next one in the same folder replaces.
const WRITTEN: [&str; 7] = [
    ".store",
    "models",
    "scores.parquet",
    "scores.parquet.partial",
    "updates.jsonl",
    "summary.json",
    "report.html",
];

/// Refuses a folder that holds something else than a simulation: that may be a registry that is in use.
fn check_output(folder: &Path) -> Outcome<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            return Err(no_output(folder, &e));
        }
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names: Vec<String> = names.collect();
    let is_other = |name: &&String| !WRITTEN.contains(&name.as_str()) && !name.starts_with("run-");
    // A registry's folder has the same name, and no simulation leaves it alone.
    let is_alone = |_: &&String| names == ["models"];
    let other = names.iter().find(is_other);
    match other.or_else(|| names.first().filter(is_alone)) {
        None => Ok(()),
        Some(name) => Err(Failure::input(format!(
            "--output {}: the folder holds '{name}', which is of no simulation",
            folder.display()
        ))
        .hint("name a folder that is new: a simulation replaces what is in it")),
    }
}

/// Makes a folder: one that cannot be made is known before anything is read.
fn make_output(folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(|e| no_output(folder, &e))
}

fn no_output(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::input(format!("--output {}: {error}", folder.display())).hint(no_folder(folder))
}

/// Removes a folder that an earlier run has left.
fn clear(folder: &Path) -> Outcome<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::failed(format!(
            "cannot remove {}: {e}",
            folder.display()
        ))),
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Outcome<()> {
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    folder
        .and_then(|()| fs::write(path, bytes))
        .map_err(|e| Failure::failed(format!("cannot write {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;
    use millrace_feature_store::MemoryStore;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::score_log::tests::live_of;
    use crate::serve::tests::{decode, payment, with_a_text};
    use crate::state::Committed;

    #[test]
    fn the_file_of_scores_has_texts_as_they_are() {
        let (_folder, workspace) = with_a_text();
        let live = live_of(workspace, Arc::new(MemoryStore::new()));
        let events = decode(&live, &[payment("x", "c1", 60.0, 55)]);
        let scorer = live.scorer.as_ref().unwrap();
        let moment = live.store.moment();
        let scores = scorer.score(&Committed(moment.as_ref()), &events).unwrap();
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("scores.parquet");
        let mut file = ScoresFile::create(&path, &scorer.plan, true).unwrap();
        file.send(&events, &scores, &[]).unwrap();
        file.finish().unwrap();

        let file = std::fs::File::open(&path).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap();
        let rows = reader.next().unwrap().unwrap();
        let places = rows.column_by_name("place").unwrap().as_string::<i32>();
        assert_eq!(places.value(0), "t1");
        let amounts = rows.column_by_name("amount").unwrap();
        assert_eq!(amounts.as_primitive::<Float32Type>().value(0), 60.0);
    }

    #[test]
    fn a_folder_that_is_of_no_simulation_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let said = || match check_output(&output) {
            Ok(()) => String::new(),
            Err(failure) => failure.message,
        };
        assert_eq!(said(), "");
        fs::create_dir_all(output.join("models")).unwrap();
        assert!(said().contains("the folder holds 'models'"), "{}", said());
        for of_simulation in ["scores.parquet.partial", "updates.jsonl", "run-2"] {
            fs::write(output.join(of_simulation), "").unwrap();
            assert_eq!(said(), "", "{of_simulation}");
        }
        fs::write(output.join("other"), "").unwrap();
        assert!(said().contains("the folder holds 'other'"), "{}", said());
    }

    #[test]
    fn a_folder_that_cannot_be_is_told_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out");
        fs::write(&file, "").unwrap();
        for output in [file.clone(), file.join("deeper")] {
            for refused in [check_output(&output), make_output(&output)] {
                let failure = refused.unwrap_err();
                assert!(failure.message.contains("--output "), "{failure}");
                let hint = failure.hint.unwrap_or_default();
                assert!(hint.ends_with("is a file: name a folder"), "{hint}");
            }
        }
        let output = folder.path().join("new/deeper");
        make_output(&output).unwrap();
        assert!(output.is_dir());
    }

    #[test]
    fn commas_inside_of_values_are_theirs() {
        for (text, expected) in [
            ("a.b=1", vec!["a.b=1"]),
            (
                "a.hidden=[8,4], a.members=1",
                vec!["a.hidden=[8,4]", "a.members=1"],
            ),
            ("a={x=[1,2],y=3},b=2", vec!["a={x=[1,2],y=3}", "b=2"]),
            ("a=\"[,\",b='],'", vec!["a=\"[,\"", "b='],'"]),
        ] {
            assert_eq!(settings_of(text), expected, "{text}");
        }
    }
}
