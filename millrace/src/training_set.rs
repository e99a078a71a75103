//! `millrace training-set`: for each row of a spine, what a live look-up as of that row's time would have answered.
//!
//! Files may be larger than memory. Events and spine are split by entity into parts, which are set aside in a folder
//! beside the output; parts are answered one by one on all cores; the answers are put beside the spine's rows in the
//! spine's order. A run that was stopped goes on with the parts that it had not answered. All parts of all views are
//! open at a time: how many there are depends on how many files the process may have open, too.
//!
//! ```text
//!  events ─► what a view keeps ─► parts by entity ─┐
//!                                                  ├─► answers of a part ─► merged by row ─► output
//!  spine ──► entity, time, row ─► parts by entity ─┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::{
    DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use arrow::error::ArrowError;
use indicatif::ProgressBar;
use millrace_features::{EventTable, FeatureView, Origin, Stream};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::backfill::event_files;
use crate::failure::{Failure, Outcome};
use crate::files::{
    EventFile, Format, RowsFile, TableFile, WriteError, column_as, lost_row, nearest, outside_row,
    publish, spinner, unit_slip,
};
use crate::interrupt;
use crate::open_files;
use crate::output::tell;
use crate::workspace::Workspace;

mod spill;

use spill::Spill;

/// What `millrace training-set` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainingSetArgs {
    /// A stream and a file of its events: transactions=events.parquet; several files of a stream are read in order
    #[arg(long, required = true, num_args = 1.., value_name = "STREAM=FILE")]
    pub events: Vec<String>,
    /// The rows to answer for: the entities' columns by name, event_time, and whatever else
    #[arg(long, value_name = "FILE")]
    pub spine: PathBuf,
    /// Where the answers go: the spine's columns, then <view>__<column> for each view
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Views to answer; by default all whose entity columns the spine has
    #[arg(long, value_delimiter = ',', value_name = "VIEW,…")]
    pub views: Vec<String>,
}

const TIME: &str = "event_time";
const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);
/// Events of a part, about: with what a view keeps of each they take some tens of MB.
const PART_EVENTS: u64 = 250_000;
const MOST_PARTS: u64 = 128;
/// Files and connections that are open besides the parts, with room to spare.
const OTHER_FILES: u64 = 64;
/// Batches that wait for the writer.
const AHEAD: usize = 4;

/// Writes a training set.
///
/// # Errors
/// Of kind input: a stream, a view or a column that is not there, a mistake in a file. Else a disk that fails.
pub fn training_set(workspace: &Workspace, args: &TrainingSetArgs) -> Outcome<()> {
    let started = Instant::now();
    let job = Job::plan(workspace, args)?;
    let bar = spinner();
    job.split(&bar)?;
    job.answer(&bar)?;
    job.check_stop(job.tasks())?;
    let rows = job.merge(&bar)?;
    bar.finish_and_clear();
    // What is left of it would only take space.
    let _ = fs::remove_dir_all(&job.work);
    let seconds = started.elapsed().as_secs_f64();
    tell(format_args!(
        "{rows} rows with {} features of {} views written to {} in {seconds:.1} s ({:.0} a second)",
        job.views
            .iter()
            .map(|view| view.features().count())
            .sum::<usize>(),
        job.views.len(),
        args.output.display(),
        rows as f64 / seconds.max(1e-9)
    ));
    Ok(())
}

struct Job {
    files: BTreeMap<String, Vec<PathBuf>>,
    streams: Vec<Arc<Stream>>,
    views: Vec<Arc<FeatureView>>,
    spine: PathBuf,
    spine_schema: SchemaRef,
    output: PathBuf,
    format: Format,
    work: PathBuf,
    parts: usize,
    inputs: Inputs,
}

/// What the parts were made of: a run goes on with those of the same inputs only.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Inputs {
    version: String,
    views: Vec<String>,
    files: Vec<(PathBuf, u64, u128)>,
    parts: usize,
}

impl Job {
    fn plan(workspace: &Workspace, args: &TrainingSetArgs) -> Outcome<Self> {
        let given = event_files(workspace, &args.events)?;
        let is_output = |path: &PathBuf| is_same_file(path, &args.output);
        if given.iter().any(|(_, path)| is_output(path)) || is_output(&args.spine) {
            return Err(Failure::input(format!(
                "--output {} is one of the files that are read",
                args.output.display()
            ))
            .hint("name a file that is not there yet"));
        }
        let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for (stream, path) in given {
            files.entry(stream.name.clone()).or_default().push(path);
        }
        let spine = RowsFile::open(&args.spine, None)?;
        let views = choose_views(workspace, args, &spine.schema, &files)?;
        check_names(&views, &spine.schema, &args.spine)?;
        let used = |name: &String| views.iter().any(|view| view.stream.name == *name);
        let files: BTreeMap<_, _> = files.into_iter().filter(|(name, _)| used(name)).collect();
        let rows = rows_about(files.values().flatten().chain([&args.spine]))?;
        let parts = parts(rows, views.len(), open_files::limit());
        let mut seen = Vec::new();
        for path in files.values().flatten().chain([&args.spine]) {
            let metadata = fs::metadata(path).map_err(|e| cannot(path, &e))?;
            let changed = metadata
                .modified()
                .ok()
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let changed = changed.map_or(0, |since| since.as_nanos());
            seen.push((path.clone(), metadata.len(), changed));
        }
        let mut work = args.output.clone().into_os_string();
        work.push(".work");
        Ok(Self {
            streams: workspace.project.streams.clone(),
            inputs: Inputs {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                views: views.iter().map(|view| view.definition()).collect(),
                files: seen,
                parts,
            },
            files,
            views,
            spine: args.spine.clone(),
            spine_schema: spine.schema,
            format: Format::of(&args.output)?,
            output: args.output.clone(),
            work: PathBuf::from(work),
            parts,
        })
    }

    fn path(&self, view: usize, kind: &str, part: usize) -> PathBuf {
        // A view's name may be more than a file's may.
        self.work.join(format!("{view}-{kind}-{part}.arrow"))
    }

    fn paths(&self, view: usize, kind: &str) -> Vec<PathBuf> {
        (0..self.parts)
            .map(|part| self.path(view, kind, part))
            .collect()
    }

    /// Splits events and spine, unless a run before has.
    fn split(&self, bar: &ProgressBar) -> Outcome<()> {
        let done = self.work.join("inputs.json");
        let known = fs::read(&done)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        if known.as_ref() == Some(&self.inputs) {
            bar.println(format!("going on with what is in {}", self.work.display()));
            return Ok(());
        }
        // Parts of other inputs, or of a run that was stopped while it split.
        let _ = fs::remove_dir_all(&self.work);
        fs::create_dir_all(&self.work).map_err(|e| cannot(&self.work, &e))?;
        std::thread::scope(|scope| {
            let spine = scope.spawn(|| self.split_spine());
            let streams: Vec<_> = self
                .files
                .iter()
                .map(|(stream, files)| scope.spawn(move || self.split_stream(stream, files, bar)))
                .collect();
            streams.into_iter().chain([spine]).try_for_each(joined)
        })?;
        let text = serde_json::to_vec(&self.inputs).map_err(|e| Failure::failed(e.to_string()))?;
        fs::write(&done, text).map_err(|e| cannot(&done, &e))
    }

    fn split_stream(&self, stream: &str, files: &[PathBuf], bar: &ProgressBar) -> Outcome<()> {
        let Some(stream) = self.streams.iter().find(|known| known.name == stream) else {
            return Ok(());
        };
        let reads = |(_, view): &(usize, &Arc<FeatureView>)| Arc::ptr_eq(&view.stream, stream);
        let mut spills = Vec::new();
        for (index, view) in self.views.iter().enumerate().filter(reads) {
            spills.push((
                view,
                Spill::create(self.paths(index, "events"), &view.kept_schema())?,
            ));
        }
        let mut rows = 0;
        for (number, path) in files.iter().enumerate() {
            for batch in EventFile::open(path, stream)? {
                if interrupt::is_asked() {
                    return Err(Failure::stopped(format!(
                        "{rows} events of {} were read, and no row is answered yet",
                        stream.name
                    ))
                    .hint("the same command begins anew: from when all events are read on it would go on"));
                }
                let batch = batch?;
                let places = vec![number as i32; batch.num_rows()];
                let offsets: Vec<i64> = (rows..).take(batch.num_rows()).collect();
                let origin = Origin {
                    partitions: &places,
                    offsets: &offsets,
                };
                for (view, spill) in &mut spills {
                    let (kept, failed) = view.kept_of(&batch, origin)?;
                    for (row, reason) in failed {
                        warn!(view = view.name, file = %path.display(), row = offsets[row] + 1, reason,
                            "an event does not count in a view, which cannot be evaluated on it");
                    }
                    spill.add(kept.column(0).as_binary::<i32>(), &kept)?;
                }
                rows += batch.num_rows() as i64;
                bar.set_message(format!("{rows} events of {} read", stream.name));
            }
        }
        spills.into_iter().try_for_each(|(_, spill)| spill.finish())
    }

    fn split_spine(&self) -> Outcome<()> {
        let mut spills = Vec::new();
        for (index, view) in self.views.iter().enumerate() {
            let spill = Spill::create(self.paths(index, "spine"), &asked_schema(view))?;
            spills.push((view, spill));
        }
        // Set aside as well, so that it is parsed once.
        let mut whole = spill::Whole::create(self.spine_path(), &self.spine_schema)?;
        let mut rows = 0;
        for batch in RowsFile::open(&self.spine, Some(Arc::clone(&self.spine_schema)))? {
            let batch = batch?;
            whole.write(&batch)?;
            let time = self.spine_column(&batch, TIME, &TIMESTAMP, rows)?;
            if let Some(row) = (0..time.len()).find(|row| time.is_null(*row)) {
                return Err(self.spine_mistake(rows, row, format!("'{TIME}' is null")));
            }
            if let Some(row) = outside_row(&time) {
                let what = format!("'{TIME}' is not within the years 1 to 9999");
                return Err(self
                    .spine_mistake(rows, row, what)
                    .hint("whole numbers are read as milliseconds since 1970"));
            }
            let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(
                (rows..).take(batch.num_rows()),
            ));
            for (view, spill) in &mut spills {
                let fields = view
                    .entity
                    .iter()
                    .map(|column| view.stream.schema.field(*column));
                let entity = fields
                    .map(|field| self.spine_column(&batch, field.name(), field.data_type(), rows))
                    .collect::<Outcome<Vec<_>>>()?;
                let keys = view.entity_keys(&entity);
                let columns = [Arc::clone(&numbers), Arc::clone(&time)]
                    .into_iter()
                    .chain(entity);
                let asked = RecordBatch::try_new(asked_schema(view), columns.collect());
                spill.add(&keys, &asked.map_err(|e| Failure::failed(e.to_string()))?)?;
            }
            rows += batch.num_rows() as u64;
        }
        whole.finish()?;
        spills.into_iter().try_for_each(|(_, spill)| spill.finish())
    }

    fn spine_path(&self) -> PathBuf {
        self.work.join("spine.arrow")
    }

    fn spine_column(
        &self,
        batch: &RecordBatch,
        name: &str,
        to: &DataType,
        rows_before: u64,
    ) -> Outcome<ArrayRef> {
        let Some(source) = batch.column_by_name(name) else {
            return Err(Failure::input(format!(
                "{}: there is no column '{name}'",
                self.spine.display()
            )));
        };
        let unreadable = |e: ArrowError| {
            Failure::input(format!("{}: column '{name}': {e}", self.spine.display()))
        };
        let values = column_as(source, to).map_err(unreadable)?;
        if name == TIME
            && let Some((row, slip)) = unit_slip(source).map_err(unreadable)?
        {
            return Err(self.spine_mistake(rows_before, row, format!("column '{name}': {slip}")));
        }
        match lost_row(source, &values) {
            None => Ok(values),
            Some(row) => {
                let value =
                    arrow::util::display::array_value_to_string(source, row).unwrap_or_default();
                Err(self.spine_mistake(
                    rows_before,
                    row,
                    format!("column '{name}': '{value}' is no {to}"),
                ))
            }
        }
    }

    fn spine_mistake(&self, rows_before: u64, row: usize, what: String) -> Failure {
        let row = rows_before + row as u64 + 1;
        Failure::input(format!("{}: row {row}: {what}", self.spine.display()))
    }

    /// Parts of all views.
    fn tasks(&self) -> usize {
        self.views.len() * self.parts
    }

    /// Ends the work where a signal has asked for it.
    fn check_stop(&self, answered: usize) -> Outcome<()> {
        if !interrupt::is_asked() {
            return Ok(());
        }
        Err(Failure::stopped(format!(
            "{answered} of {} parts are answered, in {}",
            self.tasks(),
            self.work.display()
        ))
        .hint("the same command goes on with the others"))
    }

    /// Answers all parts that have no answers yet, on all cores.
    fn answer(&self, bar: &ProgressBar) -> Outcome<()> {
        let next = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        let all = self.tasks();
        let failed = Mutex::new(None);
        let work = || {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= all || lock(&failed).is_some() {
                    return;
                }
                if let Err(stopped) = self.check_stop(done.load(Ordering::Relaxed)) {
                    *lock(&failed) = Some(stopped);
                    return;
                }
                // Parts of all views in turn: the heavy ones do not come last together.
                let (part, view) = (task / self.views.len(), task % self.views.len());
                if let Err(failure) = self.answer_part(view, part) {
                    *lock(&failed) = Some(failure);
                }
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                bar.set_message(format!("{done} of {all} parts answered"));
            }
        };
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            for _ in 1..threads.min(all) {
                scope.spawn(work);
            }
            work();
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }

    fn answer_part(&self, index: usize, part: usize) -> Outcome<()> {
        let path = self.path(index, "answers", part);
        if path.exists() {
            return Ok(());
        }
        let view = self.views[index].as_ref();
        let asked = spill::read(&self.path(index, "spine", part))?;
        let asked = concat_batches(&asked_schema(view), &asked).map_err(bug)?;
        // Answers leave in the order of the spine.
        let order = sort_to_indices(asked.column(0), None, None).map_err(bug)?;
        let asked = take_record_batch(&asked, &order).map_err(bug)?;
        let kept = spill::read(&self.path(index, "events", part))?;
        let table = EventTable::new(view, &kept)?;
        drop(kept);
        let times = asked.column(1).as_primitive::<TimestampMicrosecondType>();
        let answers = table.answer(&asked.columns()[2..], times.values())?;
        let numbered = [Arc::clone(asked.column(0))]
            .into_iter()
            .chain(features(view, &answers));
        let answers =
            RecordBatch::try_new(self.answers_schema(index), numbered.collect()).map_err(bug)?;
        spill::write(&path, &answers)
    }

    fn answers_schema(&self, view: usize) -> SchemaRef {
        let row = Field::new("row", DataType::UInt64, false);
        let fields = [Arc::new(row)]
            .into_iter()
            .chain(feature_fields(&self.views[view]));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Puts the answers beside the spine's rows; their number.
    fn merge(&self, bar: &ProgressBar) -> Outcome<u64> {
        let fields = self.spine_schema.fields().iter().cloned();
        let fields = fields.chain(self.views.iter().flat_map(|view| feature_fields(view)));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut output = TableFile::create(&self.output, self.format, Arc::clone(&schema), &[])?;
        let mut answers = (0..self.views.len())
            .map(|view| Answers::open(self.paths(view, "answers"), self.answers_schema(view)))
            .collect::<Outcome<Vec<_>>>()?;
        let mut rows = 0;
        std::thread::scope(|scope| {
            let (send, merged) = sync_channel::<RecordBatch>(AHEAD);
            // Compression takes as long as all the rest.
            let writer = scope.spawn(move || {
                for batch in merged {
                    output.write(&batch)?;
                }
                output.finish()
            });
            for batch in spill::batches(&self.spine_path())? {
                let batch = batch?;
                rows += batch.num_rows() as u64;
                let mut columns = batch.columns().to_vec();
                for answers in &mut answers {
                    columns.extend(answers.until(rows)?.columns()[1..].iter().cloned());
                }
                let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(bug)?;
                if send.send(batch).is_err() {
                    // The writer has failed, and says why.
                    break;
                }
                bar.set_message(format!("{rows} rows written"));
            }
            drop(send);
            let written = writer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<(), Failure>(written?)
        })?;
        publish(&self.output)?;
        Ok(rows)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::failed(format!("cannot write {error}"))
    }
}

/// The answers of a view, part by part, each in the order of rows.
struct Answers {
    schema: SchemaRef,
    parts: Vec<Answered>,
}

struct Answered {
    batches: Box<dyn Iterator<Item = Outcome<RecordBatch>>>,
    /// What was read and not given out yet.
    rest: Option<RecordBatch>,
}

impl Answers {
    fn open(paths: Vec<PathBuf>, schema: SchemaRef) -> Outcome<Self> {
        let part = |path: PathBuf| {
            Ok(Answered {
                batches: Box::new(spill::batches(&path)?),
                rest: None,
            })
        };
        Ok(Self {
            schema,
            parts: paths.into_iter().map(part).collect::<Outcome<_>>()?,
        })
    }

    /// The answers to all rows before `end` that were not given out yet, in order.
    fn until(&mut self, end: u64) -> Outcome<RecordBatch> {
        let mut found = Vec::new();
        for part in &mut self.parts {
            while let Some(batch) = part
                .rest
                .take()
                .map_or_else(|| part.batches.next().transpose(), |b| Ok(Some(b)))?
            {
                let rows = batch.column(0).as_primitive::<UInt64Type>().values();
                let count = rows.partition_point(|row| *row < end);
                found.push(batch.slice(0, count));
                if count < batch.num_rows() {
                    part.rest = Some(batch.slice(count, batch.num_rows() - count));
                    break;
                }
            }
        }
        let found = concat_batches(&self.schema, &found).map_err(bug)?;
        let order = sort_to_indices(found.column(0), None, None).map_err(bug)?;
        take_record_batch(&found, &order).map_err(bug)
    }
}

fn asked_schema(view: &FeatureView) -> SchemaRef {
    let mut fields = vec![
        Field::new("row", DataType::UInt64, false),
        Field::new("as_of", TIMESTAMP, false),
    ];
    let entity = view
        .entity
        .iter()
        .map(|column| view.stream.schema.field(*column));
    fields.extend(entity.map(|field| Field::new(field.name(), field.data_type().clone(), true)));
    Arc::new(Schema::new(fields))
}

/// The columns of an answer that are not the entity's.
fn features<'a>(
    view: &'a FeatureView,
    answers: &'a RecordBatch,
) -> impl Iterator<Item = ArrayRef> + 'a {
    let is_feature = |index: &usize| !view.entity_outputs.contains(index);
    (0..answers.num_columns())
        .filter(is_feature)
        .map(|index| Arc::clone(answers.column(index)))
}

fn feature_fields(view: &FeatureView) -> Vec<Arc<Field>> {
    let named = |name: &str| format!("{}__{name}", view.name);
    let fields = view
        .features()
        .filter_map(|name| view.schema.field_with_name(name).ok());
    fields
        .map(|field| Arc::new(field.clone().with_name(named(field.name()))))
        .collect()
}

fn choose_views(
    workspace: &Workspace,
    args: &TrainingSetArgs,
    spine: &Schema,
    files: &BTreeMap<String, Vec<PathBuf>>,
) -> Outcome<Vec<Arc<FeatureView>>> {
    let names: Vec<&str> = spine
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let lacks = |view: &FeatureView| {
        let lacking = view.entity_columns().find(|column| !names.contains(column));
        lacking.map(str::to_owned)
    };
    let path = args.spine.display();
    let near = |column: &str| nearest(column, names.iter().copied());
    let missing = |column: &str, what: &str| {
        let failure = Failure::input(format!("{path}: there is no column '{column}', {what}"));
        failure.hint(match near(column) {
            Some(near) => format!("did you mean '{near}'? Rename it to {column}"),
            None => format!("its columns: {}", names.join(", ")),
        })
    };
    if !names.contains(&TIME) {
        return Err(missing(TIME, "the time that each row is answered as of"));
    }
    let all = &workspace.project.views;
    let mut views: Vec<Arc<FeatureView>> = if args.views.is_empty() {
        all.iter()
            .filter(|view| lacks(view).is_none())
            .cloned()
            .collect()
    } else {
        let find = |name: &String| {
            let view = workspace.project.view(name);
            view.cloned().map_err(|hint| {
                Failure::input(format!("--views: there is no feature view '{name}'")).hint(hint)
            })
        };
        args.views.iter().map(find).collect::<Outcome<_>>()?
    };
    // A view that is named twice has one set of columns all the same.
    let mut named = BTreeSet::new();
    views.retain(|view| named.insert(view.name.clone()));
    if views.is_empty() {
        // Nearly the entity of one.
        let is_meant = |view: &&Arc<FeatureView>| lacks(view).is_some_and(|it| near(&it).is_some());
        views.extend(all.iter().find(is_meant).cloned());
    }
    if views.is_empty() {
        let entities = all.iter().map(|view| {
            format!(
                "{} ({})",
                view.name,
                view.entity_columns().collect::<Vec<_>>().join(", ")
            )
        });
        return Err(
            Failure::input(format!("{path}: it has the entity columns of no view")).hint(format!(
                "views and their entities: {}",
                entities.collect::<Vec<_>>().join("; ")
            )),
        );
    }
    for view in &views {
        if let Some(column) = lacks(view) {
            let what = format!("which names the entity of view '{}'", view.name);
            return Err(missing(&column, &what));
        }
        if !files.contains_key(&view.stream.name) {
            return Err(Failure::input(format!(
                "view '{}' reads stream '{}', and no file of it was given",
                view.name, view.stream.name
            ))
            .hint(format!(
                "add --events {}=FILE, or name the views that you want: --views …",
                view.stream.name
            )));
        }
    }
    Ok(views)
}

fn check_names(views: &[Arc<FeatureView>], spine: &Schema, path: &Path) -> Outcome<()> {
    for field in views.iter().flat_map(|view| feature_fields(view)) {
        if spine.field_with_name(field.name()).is_ok() {
            return Err(Failure::input(format!(
                "{}: it has a column '{}' already",
                path.display(),
                field.name()
            ))
            .hint("rename the spine's column, or leave it out"));
        }
    }
    Ok(())
}

/// How many rows files have, from their sizes, as rows of their formats usually take.
fn rows_about<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Outcome<u64> {
    let mut rows = 0;
    for path in files {
        let bytes = fs::metadata(path).map_err(|e| cannot(path, &e))?.len();
        let row_bytes = match Format::of(path)? {
            Format::Parquet => 15,
            Format::JsonLines => 120,
            Format::Csv => 50,
        };
        rows += bytes / row_bytes;
    }
    Ok(rows)
}

/// How many parts: as many as keep each of them small, and as few as can be open at a time.
fn parts(rows: u64, views: usize, limit: Option<u64>) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let parts = rows.div_ceil(PART_EVENTS).next_multiple_of(threads);
    // A part of a view is a file of its events and a file of its rows of the spine.
    let files = 2 * views.max(1) as u64;
    let open = limit.map_or(MOST_PARTS, |limit| {
        limit.saturating_sub(OTHER_FILES) / files
    });
    parts.min(open).clamp(1, MOST_PARTS) as usize
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}

/// Whether two paths lead to one file that is there.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| fs::canonicalize(path).ok();
    place(one).is_some_and(|place_of_one| place(other) == Some(place_of_one))
}

fn bug(error: ArrowError) -> Failure {
    Failure::failed(format!("the answers do not fit each other: {error}"))
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, Outcome<()>>) -> Outcome<()> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
