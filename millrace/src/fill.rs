//! Older events for views that are new: from the files that were back-filled, then from Kafka as far as it reaches.
//!
//! It writes beside the pipeline, but never under its sums: of a view that is asked meanwhile (one that is served and
//! wants older events too, or one that answers early, for nothing else can be served) neither new tiles nor totals are
//! kept until it has caught up, and a tile that it has goes where a row of its span is not as it was. A row is put under
//! the key that its event decides, so writing it twice changes nothing. Of two deliveries of one event the newer stays,
//! whichever is written first: while views are filled, an index says which message each of their rows came from
//! (`deletes.rs`). How far it has come is part of each commit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use millrace_feature_store::{Commit, Store};
use millrace_features::{FeatureView, Origin, Stream};
use millrace_ingest::{
    Deletion, IngestError, Rarely, Remedy, Replay, ReplayRange, existing_topics,
};
use tracing::{info, warn};

use crate::deletes::Deletes;
use crate::evolve::{Part, RowsState, Transition, ViewRecord};
use crate::failure::{Outcome, with_causes};
use crate::files::EventFile;
use crate::gone::{self, Missed};
use crate::live::{Filled, Progress};
use crate::marks::{Marks, complete_until, newest};
use crate::state::{Committed, Pending, Seal};
use crate::stored_files::{check_ahead, files_read, latest_us, newer_than_files, place_of};
use crate::streams::stream_spec;
use crate::times::now_us;
use crate::workspace::Workspace;

/// Pause before Kafka is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How often is said how far it is.
const REPORT: Duration = Duration::from_secs(10);

/// Fills the views of a transition.
pub struct Filler {
    store: Arc<dyn Store>,
    workspace: Arc<Workspace>,
    views: Vec<Arc<FeatureView>>,
    /// Those of them that are asked meanwhile.
    asked: HashSet<u32>,
    /// Is told how far it is.
    progress: Arc<Progress>,
    writing: Arc<Mutex<()>>,
}

/// The views over one stream that are filled.
struct Job<'a> {
    filler: &'a Filler,
    stream: &'a Stream,
    views: Vec<&'a Arc<FeatureView>>,
    records: BTreeMap<u32, ViewRecord>,
    /// Up to when those of the views may have tiles that are asked meanwhile. Others have none.
    seals: HashMap<u32, Seal>,
    /// Events before this time (µs) are in no window that may be asked for.
    wanted_from_us: Option<i64>,
    /// How far the stream was when its files were back-filled, µs.
    filled_us: Option<i64>,
    /// Up to when (µs) the files that were read again have the topic's events, where one in both would count twice.
    files_until_us: Option<i64>,
    /// Events before this time (µs) may be missing.
    since_us: Option<i64>,
    /// What the stream's topic no longer had.
    missed: Missed,
    /// Events of the topic that lay too far in the future when they were written.
    ahead: usize,
    /// The newest event of the stream, µs.
    newest_us: i64,
}

impl Filler {
    /// Of a transition over its store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, transition: &Transition) -> Self {
        Self {
            store,
            workspace: Arc::clone(&transition.next),
            views: transition.views.clone(),
            asked: transition
                .views
                .iter()
                .filter(|view| transition.serves(view))
                .map(|view| view.id)
                .collect(),
            progress: Arc::default(),
            writing: Arc::clone(&transition.writing),
        }
    }

    /// The same, which tells how far it is.
    #[must_use]
    pub fn telling(self, progress: Arc<Progress>) -> Self {
        Self { progress, ..self }
    }

    /// Whether any of the events to read are in Kafka.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn needs_kafka(&self) -> Outcome<bool> {
        for view in &self.views {
            let record = ViewRecord::read(self.store.as_ref(), view.id)?;
            let state = record.map(|record| record.state);
            if matches!(state, Some(RowsState::Filling(parts)) if !parts.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads all that the views lack. False where it was stopped before.
    ///
    /// # Errors
    /// A store that cannot be written, a file or a topic that cannot be read.
    pub fn run(&self, stop: &AtomicBool) -> Outcome<bool> {
        let mut streams: Vec<&Arc<Stream>> = Vec::new();
        for view in &self.views {
            if !streams.iter().any(|stream| stream.name == view.stream.name) {
                streams.push(&view.stream);
            }
        }
        for stream in streams {
            let Some(mut job) = Job::new(self, stream)? else {
                continue;
            };
            if !job.fill(stop)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<'a> Job<'a> {
    /// None where all views over the stream have their rows.
    fn new(filler: &'a Filler, stream: &'a Stream) -> Outcome<Option<Self>> {
        let store = filler.store.as_ref();
        let mut views = Vec::new();
        let mut records = BTreeMap::new();
        let mut missed = Missed::default();
        for view in filler.views.iter().filter(|v| v.stream.name == stream.name) {
            if let Some(record) = ViewRecord::read(store, view.id)?
                && matches!(record.state, RowsState::Filling(_))
            {
                missed.add_noted(store, view.id)?;
                records.insert(view.id, record);
                views.push(view);
            }
        }
        if views.is_empty() {
            return Ok(None);
        }
        let marks = Marks::open(store)?;
        let mut seals = marks.seals(&filler.workspace.project);
        seals.retain(|view, _| filler.asked.contains(view));
        let settings = &filler.workspace.settings.store;
        let horizon = |view: &&Arc<FeatureView>| marks.horizon(view, settings);
        let horizons: Option<Vec<i64>> = views.iter().map(horizon).collect();
        let wanted_from_us = horizons.and_then(|all| all.into_iter().min());
        let mut commit = Commit::default();
        for view in &views {
            gone::filling(store, view.id, wanted_from_us, &mut commit)?;
        }
        store.commit(commit)?;
        Ok(Some(Self {
            filler,
            stream,
            views,
            records,
            seals,
            wanted_from_us,
            filled_us: marks.filled(&stream.name),
            files_until_us: None,
            since_us: None,
            missed,
            ahead: 0,
            newest_us: marks.newest(&stream.name).unwrap_or_else(now_us),
        }))
    }

    fn fill(&mut self, stop: &AtomicBool) -> Outcome<bool> {
        let started = Instant::now();
        let names: Vec<&str> = self.views.iter().map(|view| view.name.as_str()).collect();
        let names = names.join(", ");
        info!(
            stream = self.stream.name,
            views = names,
            "older events are being read"
        );
        let mut rows = 0;
        if !(self.read_files(stop, &mut rows)? && self.read_kafka(stop, &mut rows)?) {
            return Ok(false);
        }
        let mut commit = Commit::default();
        let store = self.filler.store.as_ref();
        for (id, record) in &mut self.records {
            record.state = RowsState::Complete;
            record.since_us = self.since_us;
            record.write(*id, &mut commit)?;
            gone::filled(store, *id, &mut commit)?;
        }
        store.commit(commit)?;
        store.flush()?;
        self.tell(rows, Some(0));
        info!(
            stream = self.stream.name,
            views = names,
            events = rows,
            seconds = started.elapsed().as_secs_f64(),
            "the views have caught up"
        );
        Ok(true)
    }

    /// The files that were back-filled before the views were there.
    fn read_files(&mut self, stop: &AtomicBool, rows: &mut u64) -> Outcome<bool> {
        let files = files_read(self.filler.store.as_ref(), &self.stream.name)?;
        let mut oldest: Option<i64> = None;
        let mut last: Option<i64> = None;
        let mut are_whole = true;
        for path in &files {
            let mut row = 0_i64;
            let (events, failed) = match EventFile::open_in_part(path, self.stream) {
                Ok(events) => (Some(events), None),
                Err(failure) => (None, Some(Err(failure))),
            };
            for batch in events.into_iter().flatten().chain(failed) {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let batch = match batch {
                    Ok(batch) => batch,
                    // It may have been changed since, or be gone. Nothing but the new views needs it.
                    Err(failure) => {
                        warn!(file = %path.display(), rows = row, failure = failure.message, hint = failure.hint,
                            "a file that was back-filled cannot be read again to its end: the events behind these rows of it \
                             are missing in the new views");
                        are_whole = false;
                        break;
                    }
                };
                let count = batch.num_rows();
                // As `millrace backfill` counts them.
                let place = place_of(path);
                let origin: Vec<(i32, i64)> = (row..).take(count).map(|row| (place, row)).collect();
                let (batch, origin) = self.in_time(path, batch, origin, row as u64)?;
                row += count as i64;
                oldest = oldest.into_iter().chain(self.oldest(&batch)).min();
                last = last.max(newest(&batch, self.stream.time));
                self.write(&batch, &origin, &[], &[])?;
                *rows += count as u64;
                self.tell(*rows, None);
            }
        }
        self.since_us = oldest;
        // Where the topic had been read further than the files go, they brought what it has not. And where events have ids,
        // they are told apart by them: no total of a new view has taken some together yet.
        let is_beside = are_whole && last < self.filled_us;
        self.files_until_us = last.filter(|_| self.stream.id.is_none() && !is_beside);
        Ok(true)
    }

    fn read_kafka(&mut self, stop: &AtomicBool, rows: &mut u64) -> Outcome<bool> {
        let had_files = self.since_us.is_some();
        let mut rarely = Rarely::default();
        loop {
            match self.replay(stop, rows) {
                Ok(is_done) => {
                    if !is_done {
                        return Ok(false);
                    }
                    break;
                }
                Err(ReplayFailure::Kafka(error)) if error.remedy() == Remedy::Retry => {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(false);
                    }
                    if rarely.is_due(Instant::now()) {
                        warn!(
                            error = with_causes(&error),
                            "Kafka is in trouble; trying again"
                        );
                    }
                    std::thread::sleep(RETRY);
                }
                Err(ReplayFailure::Kafka(error)) => return Err(error.into()),
                Err(ReplayFailure::Other(failure)) => return Err(failure),
            }
        }
        if self.ahead > 0 {
            // Most were dead letters. Of a topic whose messages have strange timestamps nothing else tells.
            warn!(
                stream = self.stream.name,
                events = self.ahead,
                "events of the topic are not taken into the new views: they are further ahead of their messages' timestamps \
                 than kafka.allowed_future"
            );
        }
        // Before its first event a partition may have had others. Files are there for what Kafka does not keep.
        if !had_files {
            let first = self.missed.first.values().flatten().max().copied();
            // Where nothing is left, what has come by now is all that is gone.
            self.since_us = first.or(self.missed.is_another.then_some(self.newest_us));
        }
        Ok(true)
    }

    fn replay(&mut self, stop: &AtomicBool, rows: &mut u64) -> Result<bool, ReplayFailure> {
        let ranges = self.ranges();
        if ranges.is_empty() {
            return Ok(true);
        }
        let kafka = &self.filler.workspace.settings.kafka;
        // Before what cannot hear a stop.
        existing_topics(kafka, stop)?;
        let mut replay = Replay::start(kafka, stream_spec(self.stream), &ranges)?;
        self.missed.is_another |= replay.is_another();
        for partition in replay.trimmed() {
            let mut ranges = ranges.iter();
            let is_begun = ranges.any(|r| r.partition == *partition && r.from.is_some());
            let first = self.missed.first.entry(*partition).or_default();
            *first = first.filter(|_| is_begun);
        }
        let mut reported = Instant::now();
        while !replay.is_done() {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let read = replay.read(now_us(), Duration::from_millis(100))?;
            for (row, (partition, _)) in read.origin.iter().enumerate() {
                let time = self.time(&read.batch, row);
                if let Some(first @ None) = self.missed.first.get_mut(partition) {
                    *first = Some(time);
                }
            }
            self.ahead += read.ahead;
            *rows += read.batch.num_rows() as u64;
            self.write(&read.batch, &read.origin, &read.deletions, &read.positions)?;
            metrics::gauge!("millrace_fill_lag", "stream" => self.stream.name.clone())
                .set(replay.left() as f64);
            self.tell(*rows, u64::try_from(replay.left()).ok());
            if reported.elapsed() > REPORT {
                reported = Instant::now();
                info!(
                    stream = self.stream.name,
                    left = replay.left(),
                    "older events are being read"
                );
            }
        }
        Ok(true)
    }

    /// Tells how far the views are.
    fn tell(&self, read: u64, left: Option<u64>) {
        for view in &self.views {
            self.filler.progress.fill(&view.name, Filled { read, left });
        }
    }

    /// What is left to read, for all views: what one of them has already is written once more.
    fn ranges(&self) -> Vec<ReplayRange> {
        let mut ranges: BTreeMap<i32, ReplayRange> = BTreeMap::new();
        for record in self.records.values() {
            let RowsState::Filling(parts) = &record.state else {
                continue;
            };
            for part in parts {
                let range = ranges.entry(part.partition).or_insert(part.range());
                range.from = range.from.and_then(|from| Some(from.min(part.next?)));
                range.until = range.until.max(part.until);
            }
        }
        let is_open = |range: &ReplayRange| range.from.is_none_or(|from| from < range.until);
        ranges.into_values().filter(is_open).collect()
    }

    fn write(
        &mut self,
        batch: &RecordBatch,
        origin: &[(i32, i64)],
        deletions: &[Deletion],
        positions: &[(i32, i64)],
    ) -> Outcome<()> {
        let mut commit = Commit::default();
        let mut pending = Pending::default().ordering(self.views.iter().copied());
        let (batch, origin) = self.wanted(batch, origin)?;
        for view in &self.views {
            let files_until = self.files_until_us;
            let complete = files_until.and_then(|until| complete_until(view, until));
            let newer = newer_than_files(view, complete, &batch, &origin)?;
            let (events, places) = match &newer {
                Some((events, places)) => (events, places),
                None => (&batch, &origin),
            };
            let (partitions, offsets): (Vec<i32>, Vec<i64>) = places.iter().copied().unzip();
            let origin = Origin {
                partitions: &partitions,
                offsets: &offsets,
            };
            for (row, reason) in view.state_rows(events, origin, &mut pending)? {
                warn!(
                    view = view.name,
                    partition = partitions[row],
                    offset = offsets[row],
                    reason,
                    "an event does not count in a view, which cannot be evaluated on it"
                );
            }
        }
        let committed = Committed(self.filler.store.as_ref());
        // Nothing panics under it that could leave anything half done.
        let _writing = self.stream.id.is_some().then(|| {
            let writing = self.filler.writing.lock();
            writing.unwrap_or_else(PoisonError::into_inner)
        });
        if self.stream.id.is_some() {
            let views = self.views.iter().copied();
            let deletes = Deletes::new(self.stream, views, &committed, true);
            deletes.keep_what_stands(&mut pending)?;
            deletes.apply(deletions, self.newest_us, &mut pending)?;
        }
        pending.seal(&self.seals, self.filler.store.as_ref())?;
        pending.drain_into(&mut commit);
        for (id, record) in &mut self.records {
            if let RowsState::Filling(parts) = &mut record.state {
                for (partition, next) in positions {
                    advance(parts, *partition, *next);
                }
                record.write(*id, &mut commit)?;
                self.missed.note(*id, &mut commit)?;
            }
        }
        self.filler.store.commit(commit)?;
        crash_point!("filled");
        metrics::counter!("millrace_fill_events_total", "stream" => self.stream.name.clone())
            .increment(batch.num_rows() as u64);
        Ok(())
    }

    /// The events of a file that may be taken: of those that are far ahead of the clock, `millrace backfill` takes none
    /// either, and a topic's are dead letters.
    fn in_time(
        &self,
        path: &Path,
        batch: RecordBatch,
        origin: Vec<(i32, i64)>,
        rows_before: u64,
    ) -> Outcome<(RecordBatch, Vec<(i32, i64)>)> {
        let latest_us = latest_us(&self.filler.workspace);
        let checked = check_ahead(self.stream, path, &batch, rows_before, latest_us);
        let Err(failure) = checked else {
            return Ok((batch, origin));
        };
        warn!(
            failure = failure.message,
            "events of a file that was back-filled are not taken into the new views"
        );
        self.kept(&batch, &origin, |time| time <= latest_us)
    }

    /// The events that some window may still be asked for.
    fn wanted(
        &self,
        batch: &RecordBatch,
        origin: &[(i32, i64)],
    ) -> Outcome<(RecordBatch, Vec<(i32, i64)>)> {
        match self.wanted_from_us {
            None => Ok((batch.clone(), origin.to_vec())),
            Some(from_us) => self.kept(batch, origin, |time| time >= from_us),
        }
    }

    /// The events of some times (µs).
    fn kept(
        &self,
        batch: &RecordBatch,
        origin: &[(i32, i64)],
        is_kept: impl Fn(i64) -> bool,
    ) -> Outcome<(RecordBatch, Vec<(i32, i64)>)> {
        let rows = 0..batch.num_rows();
        let wanted: Vec<bool> = rows.map(|row| is_kept(self.time(batch, row))).collect();
        let kept = origin.iter().zip(&wanted).filter(|(_, wanted)| **wanted);
        let origin = kept.map(|(origin, _)| *origin).collect();
        let batch = filter_record_batch(batch, &BooleanArray::from(wanted))
            .map_err(|e| crate::failure::Failure::failed(e.to_string()))?;
        Ok((batch, origin))
    }

    fn time(&self, batch: &RecordBatch, row: usize) -> i64 {
        let times = batch.column(self.stream.time);
        times.as_primitive::<TimestampMicrosecondType>().value(row)
    }

    fn oldest(&self, batch: &RecordBatch) -> Option<i64> {
        let times = batch.column(self.stream.time);
        arrow::compute::min(times.as_primitive::<TimestampMicrosecondType>())
    }
}

fn advance(parts: &mut [Part], partition: i32, next: i64) {
    if let Some(part) = parts.iter_mut().find(|part| part.partition == partition) {
        part.next = Some(part.next.map_or(next, |known| known.max(next)));
    }
}

enum ReplayFailure {
    Kafka(IngestError),
    Other(crate::failure::Failure),
}

impl From<IngestError> for ReplayFailure {
    fn from(error: IngestError) -> Self {
        Self::Kafka(error)
    }
}

impl From<crate::failure::Failure> for ReplayFailure {
    fn from(failure: crate::failure::Failure) -> Self {
        Self::Other(failure)
    }
}

#[cfg(test)]
mod tests;
