//! `millrace backfill`: the rows of files into the online store, as if they had come through their topics.
//!
//! Each batch is one commit, with how far its file was read: a run that was stopped goes on where it stood, and a
//! file that was read to its end is not read again; one of a stream without an id is refused when it has changed. The
//! store has one writer, so no `millrace run` may have it open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Instant, UNIX_EPOCH};

use arrow::array::RecordBatch;
use millrace_feature_store::{Commit, RocksStore, Store, Table, decode, encode};
use millrace_features::{FeatureView, Origin, Stream};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::deletes::Deletes;
use crate::evolve;
use crate::failure::{Failure, Outcome};
use crate::files::{EventFile, spinner};
use crate::fill::Filler;
use crate::interrupt;
use crate::marks::Marks;
use crate::output::tell;
use crate::state::{Committed, Pending};
use crate::stored_files::{self, check_ahead, latest_us, place_of};
use crate::times::rfc3339;
use crate::workspace::Workspace;

/// What `millrace backfill` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct BackfillArgs {
    /// A stream and a file of its events: transactions=events.parquet; as often as there are files
    #[arg(long, required = true, num_args = 1.., value_name = "STREAM=FILE")]
    pub events: Vec<String>,
}

/// Batches that are read ahead of the writer.
const AHEAD: usize = 4;

/// A file, as it was when it was read.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    bytes: u64,
    modified_ns: u64,
    /// Rows that are in the store.
    rows: u64,
    is_done: bool,
}

/// Fills the store.
///
/// # Errors
/// Of kind input: a stream that is not there, a mistake in a file (what stands before it is in the store). Else a
/// store that is in use or fails.
pub fn backfill(workspace: &Arc<Workspace>, args: &BackfillArgs) -> Outcome<()> {
    let files = event_files(workspace, &args.events)?;
    let store = Arc::new(workspace.open_store()?);
    follow_views(&store, workspace)?;
    let mut marks = Marks::open(store.as_ref())?;
    for (stream, _) in &files {
        check_no_topic(workspace, &store, stream)?;
    }
    let filled = files
        .iter()
        .try_for_each(|(stream, path)| fill(workspace, &store, &mut marks, stream, path));
    // What is in the store stays there, whatever came after it.
    store.flush()?;
    filled
}

/// Views that are new to the store first get what was read before.
fn follow_views(store: &Arc<RocksStore>, workspace: &Arc<Workspace>) -> Outcome<()> {
    let Some(transition) = evolve::begin(store.as_ref(), workspace)? else {
        return evolve::drop_unused(store.as_ref(), workspace);
    };
    let filler = Filler::new(Arc::clone(store) as Arc<dyn Store>, &transition);
    if filler.needs_kafka()? {
        let names = transition.views.iter().map(|view| view.name.as_str());
        let names: Vec<&str> = names.collect();
        return Err(Failure::input(format!(
            "the store lacks older events of views that are new or have changed: {}",
            names.join(", ")
        ))
        .hint("`millrace run` reads them from Kafka; fill the store from files when it has"));
    }
    if !filler.run(interrupt::flag())? {
        return Err(Failure::stopped(
            "the views that are new have not all of the older events; the same command goes on",
        ));
    }
    evolve::finish(store.as_ref(), workspace)?;
    evolve::drop_unused(store.as_ref(), workspace)
}

/// Refuses files of a stream whose topic was read already, where a view with a resolution reads it: events of settled
/// steps are known in sum alone, so one that stands in both would count twice.
fn check_no_topic(workspace: &Workspace, store: &RocksStore, stream: &Stream) -> Outcome<()> {
    let views = &workspace.project.views;
    let view = views
        .iter()
        .find(|view| view.stream.name == stream.name && view.resolution().is_some());
    let Some(view) = view else { return Ok(()) };
    match store.offsets()?.iter().any(|offset| offset.topic == stream.topic) {
        false => Ok(()),
        true => Err(Failure::input(format!(
            "--events {}=…: the store has events of topic '{}' already, and view '{}' has a resolution: an event that \
             is in both could count twice",
            stream.name, stream.topic, view.name
        ))
        .hint("fill a new store (store.path in millrace.toml) from files first; millrace run reads the topic after")),
    }
}

/// The streams and files of `--events`, whose columns were found. No file is named twice for a stream.
pub(crate) fn event_files<'a>(
    workspace: &'a Workspace,
    events: &[String],
) -> Outcome<Vec<(&'a Arc<Stream>, PathBuf)>> {
    let file = |text: &String| {
        let Some((name, path)) = text.split_once('=') else {
            return Err(
                Failure::input(format!("--events {text}: this names no stream"))
                    .hint("write --events transactions=events.parquet"),
            );
        };
        let stream = workspace.project.stream(name).map_err(|hint| {
            Failure::input(format!("--events {text}: there is no stream '{name}'")).hint(hint)
        })?;
        let path = PathBuf::from(path);
        EventFile::open(&path, stream)?;
        Ok((stream, path))
    };
    let files: Vec<_> = events.iter().map(file).collect::<Outcome<_>>()?;
    check_named_once(&files)?;
    Ok(files)
}

/// Refuses a file that is named twice for a stream, by whatever path: its events would count twice.
fn check_named_once(files: &[(&Arc<Stream>, PathBuf)]) -> Outcome<()> {
    let mut named: BTreeMap<(&str, PathBuf), &Path> = BTreeMap::new();
    for (stream, path) in files {
        let place = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some(before) = named.insert((stream.name.as_str(), place), path) {
            let as_before = match before == path.as_path() {
                true => String::new(),
                false => format!(", as {}", before.display()),
            };
            return Err(Failure::input(format!(
                "--events {}={}: this file is named twice{as_before}",
                stream.name,
                path.display()
            ))
            .hint("name each file of a stream once: its events would count twice"));
        }
    }
    Ok(())
}

/// Fills a store with the events of a file.
pub(crate) fn fill(
    workspace: &Workspace,
    store: &RocksStore,
    marks: &mut Marks,
    stream: &Stream,
    path: &Path,
) -> Outcome<()> {
    let started = Instant::now();
    let path = path
        .canonicalize()
        .map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
    let key = stored_files::key(&stream.name, &path);
    let mut reading = Reading::of(&path)?;
    if let Some(known) = store.get(Table::Meta, key.as_bytes())? {
        let known: Reading = decode(&known)?;
        match (known.bytes, known.modified_ns) == (reading.bytes, reading.modified_ns) {
            true => reading = known,
            false => check_changed(stream, &path, &known)?,
        }
    }
    if reading.is_done {
        tell(format_args!(
            "{}: its {} rows are in the store already",
            path.display(),
            reading.rows
        ));
        return Ok(());
    }
    if stream.id.is_none() {
        warn!(
            stream = stream.name,
            "the stream names no id: an event that Kafka gives too counts twice"
        );
    }
    let latest_us = latest_us(workspace);
    let before = reading.rows;
    let bar = spinner().with_message(format!("reading {}", stream.name));
    let (send, batches) = sync_channel(AHEAD);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> Outcome<()> {
            let mut skip = before as usize;
            for batch in EventFile::open(&path, stream)? {
                let batch = batch?;
                let skipped = skip.min(batch.num_rows());
                skip -= skipped;
                let rest = batch.slice(skipped, batch.num_rows() - skipped);
                // The writer has failed, and says why.
                if rest.num_rows() > 0 && send.send(rest).is_err() {
                    break;
                }
            }
            drop(send);
            Ok(())
        });
        for batch in batches {
            if interrupt::is_asked() {
                return Err(Failure::stopped(format!(
                    "{} events of {} are in the store; the same command goes on after them",
                    reading.rows,
                    path.display()
                )));
            }
            check_ahead(stream, &path, &batch, reading.rows, latest_us)?;
            let mut commit = rows_of(workspace, store, marks, stream, &path, &batch, reading.rows)?;
            reading.rows += batch.num_rows() as u64;
            commit.put(Table::Meta, key.as_bytes(), encode(&reading)?);
            store.commit(commit)?;
            bar.set_message(format!("{} events of {}", reading.rows, stream.name));
        }
        reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    reading.is_done = true;
    let mut commit = Commit::default();
    commit.put(Table::Meta, key.as_bytes(), encode(&reading)?);
    store.commit(commit)?;
    bar.finish_and_clear();
    let (rows, seconds) = (reading.rows - before, started.elapsed().as_secs_f64());
    tell(format_args!(
        "{}: {rows} events of {} in {seconds:.1} s ({:.0} a second)",
        path.display(),
        stream.name,
        rows as f64 / seconds.max(1e-9)
    ));
    Ok(())
}

/// Refuses a file that has changed since it was read to its end, where its rows of then cannot be told from those that
/// are new. One that was read in part may go on: a mistake in it was mended.
fn check_changed(stream: &Stream, path: &Path, known: &Reading) -> Outcome<()> {
    let Reading { bytes, rows, .. } = known;
    match (stream.id, known.is_done) {
        _ if *rows == 0 => {}
        (Some(_), _) => warn!(
            file = %path.display(), rows,
            "the file has changed since it was read: those of its rows that it has no longer stay in the store"
        ),
        (None, false) => warn!(
            file = %path.display(), rows,
            "the file has changed since its first rows were read: one of them that is another row now counts twice"
        ),
        (None, true) => {
            let modified = rfc3339(i64::try_from(known.modified_ns / 1_000).unwrap_or_default());
            return Err(Failure::input(format!(
                "{}: it has changed since it was read (then it had {bytes} bytes, of {modified}); its {rows} rows of \
                 then are in the store, and without an id those that it still has could count twice",
                path.display()
            ))
            .hint(
                "write rows that are new into a file of another name, or fill a new store (store.path in millrace.toml)",
            ));
        }
    }
    Ok(())
}

/// What a part of a file's events, behind `rows_before` of them, are in the store.
fn rows_of(
    workspace: &Workspace,
    store: &dyn Store,
    marks: &mut Marks,
    stream: &Stream,
    path: &Path,
    batch: &RecordBatch,
    rows_before: u64,
) -> Outcome<Commit> {
    let views = &workspace.project.views;
    let mut pending = Pending::over(marks.seals(&workspace.project)).indexing(views);
    let places = vec![place_of(path); batch.num_rows()];
    let offsets: Vec<i64> = (rows_before as i64..).take(batch.num_rows()).collect();
    let origin = Origin {
        partitions: &places,
        offsets: &offsets,
    };
    let of_stream = views
        .iter()
        .map(AsRef::as_ref)
        .filter(|view: &&FeatureView| view.stream.name == stream.name);
    let views: Vec<&FeatureView> = of_stream.collect();
    for view in &views {
        for (row, reason) in view.state_rows(batch, origin, &mut pending)? {
            warn!(view = view.name, file = %path.display(), row = offsets[row] + 1, reason,
                "an event does not count in a view, which cannot be evaluated on it");
        }
    }
    if stream.is_keyed_by_id() {
        let views = &workspace.project.views;
        Deletes::new(stream, views, &Committed(store), true).keep_what_stands(&mut pending)?;
    }
    marks.see(stream, batch);
    marks.fill(&stream.name);
    let mut commit = Commit::default();
    pending.drain_into(&mut commit);
    marks.write(&mut commit);
    Ok(commit)
}

impl Reading {
    fn of(path: &Path) -> Outcome<Self> {
        let metadata = std::fs::metadata(path)
            .map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            bytes: metadata.len(),
            modified_ns: modified.map_or(0, |since| since.as_nanos() as u64),
            rows: 0,
            is_done: false,
        })
    }
}

#[cfg(test)]
mod tests;
