//! One step of the way: events into state, scores out, labels joined, all of it one commit with the offsets.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use millrace_feature_store::{Commit, Store, StoreError};
use millrace_features::{DeletedId, FeatureView, Origin, Stream, Tile};
use millrace_ingest::{Step, StreamBatch};
use tracing::{info, warn};

use crate::deletes::{Deletes, deleted_of, index_of};
use crate::evolve::{Reading, ViewRecord};
use crate::failure::{Failure, Outcome};
use crate::fold::Folder;
use crate::gaps::{Gaps, views_of};
use crate::labels::{LabelCounts, LabelJoin};
use crate::live::Live;
use crate::marks::{Marks, newest};
use crate::priority::step_aside;
use crate::recent::{Cached, Recent};
use crate::score_log::{ScoreLog, ScoredRows};
use crate::score_topic::ScoreSink;
use crate::scored_watch::ScoredWatch;
use crate::scorer::Scorer;
use crate::settings::micros;
use crate::state::{Committed, Overlay, Pending};
use crate::stored_files::{files_read, newer_than_files};
use crate::times::now_us;
use crate::traces::{EventTraces, Origin as Source};
use crate::witnesses;
use crate::workspace::Workspace;

mod model_stage;
mod turns;

use model_stage::{ModelStage, forget, join_labels};

/// Applies steps to the store.
pub struct Pipeline {
    live: Live,
    model: Option<ModelStage>,
    marks: Marks,
    recent: Recent,
    /// While views of the next project are filled.
    reading: Option<Reading>,
    log: Option<ScoreLog>,
    folder: Folder,
    gaps: Gaps,
    /// When the last flush began.
    flushed: Instant,
    /// A flush that is under way, while steps go on.
    flushing: Option<JoinHandle<Result<(), StoreError>>>,
}

/// Why a step was not applied.
#[derive(Debug)]
pub enum StepFailure {
    /// The broker did not take the scores: it may later.
    Scores(Failure),
    /// The store or an expression failed.
    Other(Failure),
}

impl<E: Into<Failure>> From<E> for StepFailure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Look-ups whose tiles are made between two steps, at most.
const MISSES_AT_ONCE: usize = 16;

/// Whether rows are still put between those that a view answers from.
fn is_incomplete(reading: Option<&Reading>, view: u32) -> bool {
    reading.is_some_and(|reading| reading.wider.iter().any(|wider| wider.id == view))
}

impl Pipeline {
    /// A pipeline over a store; `topic` takes the scores.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn new(live: Live, topic: Option<Box<dyn ScoreSink>>) -> Outcome<Self> {
        Self::open(live, topic, None)
    }

    /// The same, for steps that are read as `reading` says. What its views want is kept from the first moment on: their
    /// older events may come before any step does.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn reading(
        live: Live,
        topic: Option<Box<dyn ScoreSink>>,
        reading: Reading,
    ) -> Outcome<Self> {
        Self::open(live, topic, Some(reading))
    }

    fn open(
        live: Live,
        topic: Option<Box<dyn ScoreSink>>,
        reading: Option<Reading>,
    ) -> Outcome<Self> {
        let stage = |scorer: &Arc<Scorer>| -> Outcome<ModelStage> {
            Ok(ModelStage {
                join: LabelJoin::open(live.store.as_ref())?,
                inputs_tag: scorer.plan.inputs_tag(),
                scorer: Arc::clone(scorer),
                topic,
                watch: ScoredWatch::open(
                    live.store.as_ref(),
                    scorer.plan.input_names(),
                    scorer.plan.inputs_hash(),
                    micros(scorer.plan.settings.every),
                )?,
            })
        };
        let model = live.scorer.as_ref().map(stage).transpose()?;
        let mut pipeline = Self {
            marks: Marks::open(live.store.as_ref())?,
            recent: Recent::new(live.workspace.settings.store.scoring_cache_bytes),
            folder: Folder::default(),
            gaps: Gaps::read(live.store.as_ref())?,
            live,
            model,
            reading,
            log: None,
            flushed: Instant::now(),
            flushing: None,
        };
        for (stream, newest) in pipeline.marks.all() {
            pipeline.live.progress.reflect(stream, newest);
        }
        pipeline.note_gone()?;
        pipeline.expire();
        Ok(pipeline)
    }

    /// Settings and windows may be others than those of the last commit: what they let go of is durable before it goes.
    fn note_gone(&mut self) -> Outcome<()> {
        let workspace = &self.live.workspace;
        let mut commit = Commit::default();
        let mut is_news = false;
        for view in &workspace.project.views {
            let is_known = self.marks.gone().before(view.id).is_some();
            // Of a view that is filled no more goes than had gone when that began.
            if !(is_known && is_incomplete(self.reading.as_ref(), view.id)) {
                let settings = &workspace.settings.store;
                is_news |= self.marks.let_go(view, settings, &mut commit);
            }
        }
        if is_news {
            self.live.store.commit(commit)?;
            self.live.store.flush()?;
        }
        self.live.progress.set_gone(self.marks.gone().clone());
        Ok(())
    }

    /// With a log of what is scored.
    #[must_use]
    pub fn with_log(self, log: Option<ScoreLog>) -> Self {
        Self { log, ..self }
    }

    /// The log, if it was given one.
    #[cfg(test)]
    pub(crate) fn log(&self) -> Option<&ScoreLog> {
        self.log.as_ref()
    }

    /// Applies one step. The order is the promise:
    ///
    /// 1. the step's events become rows of state, in memory;
    /// 2. its events are scored over the store with those rows on top;
    /// 3. its labels join what was scored;
    /// 4. the broker acknowledges the scores;
    /// 5. rows, scored rows for the log, examples and offsets are committed as one.
    ///
    /// A crash before 5 leaves the store at the step before, and Kafka gives the step again: features and
    /// labels count once, and a score may stand twice in its topic, under one key.
    ///
    /// # Errors
    /// A store or a broker that fails. Nothing of the step is visible then.
    pub fn apply(&mut self, step: &Step) -> Result<(), StepFailure> {
        let mut traces = self.traces(step);
        let applied = self.apply_traced(step, &mut traces);
        if let Err(StepFailure::Scores(failure) | StepFailure::Other(failure)) = &applied {
            traces
                .iter()
                .for_each(|traces| traces.fail(&failure.message));
        }
        applied
    }

    /// The traces of each batch's events.
    fn traces(&self, step: &Step) -> Vec<EventTraces> {
        let workspace = &self.live.workspace;
        // Streams that the served project does not have come after its own.
        let served = workspace.project.streams.len();
        let batches = step.batches.iter().filter(|batch| batch.stream < served);
        let traces = batches.map(|batch| {
            let from = Source {
                topic: &workspace.project.streams[batch.stream].topic,
                group: &workspace.settings.kafka.group,
            };
            self.live.traces.events(batch, from)
        });
        traces.collect()
    }

    /// [`apply`](Self::apply), with the traces of the step's events.
    fn apply_traced(&mut self, step: &Step, traces: &mut [EventTraces]) -> Result<(), StepFailure> {
        let started = Instant::now();
        let project = &self.live.workspace.project;
        let filled = self.reading.iter();
        let filled = filled.flat_map(|reading| reading.views.iter().chain(&reading.wider));
        let mut pending = Pending::over(self.marks.seals(project))
            .indexing(&project.views)
            .ordering(filled);
        let mut marks = self.marks.clone();
        let mut commit = Commit::default();
        let writing = self
            .reading
            .as_ref()
            .map(|reading| Arc::clone(&reading.writing));
        // Nothing panics under it that could leave anything half done.
        let _writing = writing
            .as_ref()
            .map(|writing| writing.lock().unwrap_or_else(PoisonError::into_inner));
        let store = self.live.store.as_ref();
        witnesses::put(step, self.streams(), store, &mut commit)?;
        let lacking = self.gaps.end(step, self.streams());
        let step = &match &self.reading {
            None => Cow::Borrowed(step),
            Some(reading) => {
                for batch in &step.batches {
                    let stream = &reading.streams[batch.stream];
                    marks.see(stream, &batch.batch);
                    self.write_state(stream, &reading.views, batch, &mut pending)?;
                    self.delete(stream, &reading.views, batch, &marks, &mut pending)?;
                }
                Cow::Owned(reading.served(step)?)
            }
        };
        let mut deleted = Vec::with_capacity(step.batches.len());
        for batch in &step.batches {
            let stream = &project.streams[batch.stream];
            marks.see(stream, &batch.batch);
            self.write_state(stream, &project.views, batch, &mut pending)?;
            deleted.push(self.delete(stream, &project.views, batch, &marks, &mut pending)?);
        }
        crash_point!("rows");
        let mut tiles = Vec::new();
        let mut counts = LabelCounts::default();
        let mut scored = 0;
        let mut logged = ScoredRows::default();
        if let Some(model) = &mut self.model {
            let mut join = model.join.begin(self.live.store.as_ref());
            let committed = Cached {
                store: Committed(self.live.store.as_ref()),
                recent: &self.recent,
            };
            let state = Overlay {
                committed: &committed,
                pending: &pending,
            };
            let streams = &self.live.workspace.project.streams;
            let mut seen = Vec::with_capacity(1);
            step_aside();
            for (batch, traces) in step.batches.iter().zip(&mut *traces) {
                let rows = batch.batch.num_rows();
                // A batch may have deletions alone.
                if rows > 0 && Arc::ptr_eq(&streams[batch.stream], &model.scorer.plan.inputs.stream)
                {
                    scored += rows as u64;
                    let (scores, new) =
                        model.score(&state, &batch.batch, traces, &mut join, &mut tiles)?;
                    if let Some(log) = &self.log {
                        log.take(&mut logged, batch, &scores, new, now_us())?;
                    }
                    seen.push((&batch.batch, scores));
                }
            }
            for batch in &step.batches {
                if Arc::ptr_eq(&streams[batch.stream], &model.scorer.plan.labels) {
                    join_labels(&model.scorer.plan, &batch.batch, &mut join)?;
                }
            }
            for (batch, deleted) in step.batches.iter().zip(&deleted) {
                let stream = &streams[batch.stream];
                forget(&model.scorer.plan, stream, batch, deleted, &mut join)?;
            }
            crash_point!("scored");
            if let Some(topic) = &mut model.topic {
                topic.flush().map_err(StepFailure::Scores)?;
            }
            traces.iter_mut().for_each(EventTraces::sent);
            counts = join.finish(&mut model.join, &mut commit)?;
            // Only now: until its scores are taken, a step is applied again, and its events are to count once.
            for (events, scores) in &seen {
                model.look_for_drift(events, scores, &self.live.progress);
            }
            model.watch.keep(&mut commit)?;
        }
        crash_point!("acknowledged");
        let filled = self.reading.iter().flat_map(|reading| &reading.views);
        for (view, time) in views_of(project.views.iter().chain(filled), &lacking) {
            ViewRecord::lacks(self.live.store.as_ref(), view.id, time, &mut commit)?;
        }
        self.gaps.put(&lacking, &mut commit)?;
        let views = project.views.iter();
        for view in views.filter(|view| !is_incomplete(self.reading.as_ref(), view.id)) {
            marks.let_go(view, &self.live.workspace.settings.store, &mut commit);
        }
        self.keep_tiles(tiles, &marks, &mut pending);
        self.fold(&marks, &mut pending)?;
        self.recent.put_all(&pending);
        pending.drain_into(&mut commit);
        marks.write(&mut commit);
        for (topic, partition, next) in &step.positions {
            commit.offset(topic.as_str(), *partition, *next);
        }
        if let Some(log) = &self.log {
            log.put(&mut logged, &mut commit);
        }
        step_aside();
        if let Err(error) = self.live.store.commit(commit) {
            // It has rows that the store has not.
            self.recent.clear();
            self.folder.clear();
            return Err(error.into());
        }
        crash_point!("committed");
        step_aside();
        if let Some(log) = &mut self.log {
            log.committed(logged);
        }
        self.marks = marks;
        for (view, time) in views_of(&self.live.workspace.project.views, &lacking) {
            self.live.progress.lacks_before(view.id, time);
        }
        self.gaps.close(&lacking);
        metrics::histogram!("millrace_commit_seconds").record(started.elapsed().as_secs_f64());
        self.note(step, scored, counts);
        for (batch, deleted) in step.batches.iter().zip(&deleted) {
            let stream = &self.live.workspace.project.streams[batch.stream].name;
            let known = deleted.iter().filter(|(_, was_there)| *was_there).count();
            for (outcome, count) in [("deleted", known), ("unknown", deleted.len() - known)] {
                metrics::counter!("millrace_deletes_total", "stream" => stream.clone(), "outcome" => outcome)
                    .increment(count as u64);
            }
        }
        Ok(())
    }

    /// The streams that steps are of.
    fn streams(&self) -> &[Arc<Stream>] {
        let reading = self.reading.as_ref().map(|reading| &reading.streams);
        reading.unwrap_or(&self.live.workspace.project.streams)
    }

    /// A partition is read for the first time, and its first events are gone. Files that were back-filled may have them.
    fn note_trimmed(&mut self, topic: &str, partition: i32) -> Outcome<()> {
        let mut streams = self.streams().iter();
        let Some(stream) = streams.find(|stream| stream.topic == topic) else {
            return Ok(());
        };
        if files_read(self.live.store.as_ref(), &stream.name)?.is_empty() {
            warn!(
                topic,
                partition,
                "the oldest events of a partition are gone: windows that reach back to them lack them"
            );
            self.gaps.add(topic, partition);
        }
        Ok(())
    }

    /// Replaces settled rows of the entities that the step touches by totals, in views with a resolution.
    fn fold(&mut self, marks: &Marks, pending: &mut Pending) -> Outcome<()> {
        let workspace = &self.live.workspace;
        let settings = &workspace.settings.store;
        let committed = Committed(self.live.store.as_ref());
        let views = workspace.project.views.iter();
        let reading = self.reading.as_ref();
        let views = views.filter(|view| !is_incomplete(reading, view.id));
        self.folder
            .fold(views, marks, settings, &committed, pending)
    }

    /// Puts those of the tiles that are worth it.
    fn keep_tiles(&self, tiles: Vec<Tile>, marks: &Marks, pending: &mut Pending) {
        let workspace = &self.live.workspace;
        let reading = self.reading.as_ref();
        let tiles = tiles.into_iter();
        for tile in tiles.filter(|tile| !is_incomplete(reading, tile.view)) {
            let view = workspace
                .project
                .views
                .iter()
                .find(|view| view.id == tile.view);
            if view.is_some_and(|view| marks.is_whole(view, &workspace.settings.store, &tile)) {
                metrics::counter!("millrace_tiles_written_total").increment(1);
                pending.put_tile(tile);
            }
        }
    }

    /// Makes the tiles that look-ups have missed. Only here are they safe to write: no event comes in between.
    fn sum_up_asked(&self) -> Outcome<()> {
        let state = Committed(self.live.store.as_ref());
        let mut tiles = Vec::new();
        let reading = self.reading.as_ref();
        let mut misses = self.live.misses.take(MISSES_AT_ONCE);
        misses.retain(|miss| !is_incomplete(reading, miss.view.id));
        for miss in misses {
            let keep = &mut |tile| tiles.push(tile);
            miss.view
                .answer_and_sum_up(&state, &miss.entity, &[miss.as_of_us], keep)?;
        }
        if tiles.is_empty() {
            return Ok(());
        }
        let mut pending = Pending::default();
        self.keep_tiles(tiles, &self.marks, &mut pending);
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        Ok(self.live.store.commit(commit)?)
    }

    /// The rows of state that views make of a batch of a stream's events.
    fn write_state(
        &self,
        stream: &Arc<Stream>,
        views: &[Arc<FeatureView>],
        batch: &StreamBatch,
        pending: &mut Pending,
    ) -> Outcome<()> {
        for view in views
            .iter()
            .filter(|view| Arc::ptr_eq(&view.stream, stream))
        {
            let complete = self.marks.complete(view);
            let newer = newer_than_files(view, complete, &batch.batch, &batch.origin)?;
            let (events, places) = match &newer {
                Some((events, places)) => (events, places),
                None => (&batch.batch, &batch.origin),
            };
            let (partitions, offsets): (Vec<i32>, Vec<i64>) = places.iter().copied().unzip();
            let origin = Origin {
                partitions: &partitions,
                offsets: &offsets,
            };
            step_aside();
            for (row, reason) in view.state_rows(events, origin, pending)? {
                let (partition, offset) = places[row];
                metrics::counter!("millrace_events_left_out_total", "view" => view.name.clone())
                    .increment(1);
                warn!(
                    view = view.name,
                    stream = stream.name,
                    partition,
                    offset,
                    reason,
                    "an event does not count in a view, which cannot be evaluated on it"
                );
            }
        }
        Ok(())
    }

    /// Deletes the events of a batch's deletions. Gives their ids, and for each whether some view had it.
    fn delete(
        &self,
        stream: &Arc<Stream>,
        views: &[Arc<FeatureView>],
        batch: &StreamBatch,
        marks: &Marks,
        pending: &mut Pending,
    ) -> Outcome<Vec<(DeletedId, bool)>> {
        if batch.deletions.is_empty() || !stream.is_keyed_by_id() {
            return Ok(Vec::new());
        }
        let committed = Committed(self.live.store.as_ref());
        let deletes = Deletes::new(stream, views, &committed, false);
        let noted_us = marks.newest(&stream.name).unwrap_or_else(now_us);
        deletes.apply(&batch.deletions, noted_us, pending)
    }

    fn note(&self, step: &Step, scored: u64, labels: LabelCounts) {
        let progress = &self.live.progress;
        let now_ms = now_us() / 1_000;
        for batch in &step.batches {
            let stream = &self.live.workspace.project.streams[batch.stream];
            let rows = batch.batch.num_rows() as u64;
            progress.events.fetch_add(rows, Ordering::Relaxed);
            metrics::counter!("millrace_events_total", "stream" => stream.name.clone())
                .increment(rows);
            if let Some(newest) = newest(&batch.batch, stream.time) {
                progress.reflect(&stream.name, newest);
            }
            for produced_ms in batch.kafka_ts.iter().filter(|ms| **ms >= 0) {
                let age_us = now_ms.saturating_sub(*produced_ms).max(0) as u64 * 1_000;
                progress.freshness().record(age_us);
                metrics::histogram!("millrace_freshness_seconds").record(age_us as f64 / 1e6);
            }
        }
        self.expire();
        progress.scores.fetch_add(scored, Ordering::Relaxed);
        progress.labels.fetch_add(labels.joined, Ordering::Relaxed);
        progress
            .duplicate_labels
            .fetch_add(labels.duplicate, Ordering::Relaxed);
        metrics::counter!("millrace_scores_total").increment(scored);
        for (outcome, count) in [
            ("joined", labels.joined),
            ("waiting", labels.waiting),
            ("duplicate", labels.duplicate),
            ("corrected", labels.corrected),
        ] {
            metrics::counter!("millrace_labels_total", "outcome" => outcome).increment(count);
        }
    }

    /// Lets go of what no window, no label and no replay will ask for.
    fn expire(&self) {
        let workspace = &self.live.workspace;
        let settings = &workspace.settings.store;
        for view in &workspace.project.views {
            // A view of the next project may have the same rows, and want them for longer.
            let next = self.reading.iter().flat_map(|reading| &reading.wider);
            let same = next.filter(|next| next.id == view.id).chain([view]);
            if let Some(horizon) = self.horizon(same) {
                self.live.store.set_horizon(view.id, horizon);
                self.live.store.set_horizon(index_of(view.id), horizon);
            }
        }
        // What was deleted is of interest as long as any view may be filled with it.
        for stream in workspace
            .project
            .streams
            .iter()
            .filter(|s| s.is_keyed_by_id())
        {
            let filled = self.reading.iter();
            let filled = filled.flat_map(|reading| reading.views.iter().chain(&reading.wider));
            let views = workspace.project.views.iter().chain(filled);
            let of_stream = views.filter(|view| view.stream.name == stream.name);
            if let Some(horizon) = self.horizon(of_stream) {
                self.live.store.set_horizon(deleted_of(stream), horizon);
            }
        }
        if let Some(model) = &self.model {
            let horizons = self.live.store.horizons();
            let plan = &model.scorer.plan;
            if let Some(newest) = self.marks.newest(&plan.inputs.stream.name) {
                horizons.set_scored(newest.saturating_sub(micros(settings.label_wait)));
            }
            if let Some(newest) = self.marks.newest(&plan.labels.name) {
                horizons.set_examples(newest.saturating_sub(micros(settings.examples)));
            }
        }
    }

    /// Before when (µs) none of some views wants an event; none where one of them wants all.
    fn horizon<'a>(&self, views: impl Iterator<Item = &'a Arc<FeatureView>>) -> Option<i64> {
        let settings = &self.live.workspace.settings.store;
        let horizons: Option<Vec<i64>> = views
            .map(|view| self.marks.horizon(view, settings))
            .collect();
        horizons?.into_iter().min()
    }
}

/// Logs where a pipeline starts.
pub fn log_start(workspace: &Workspace, store: &dyn Store) -> Outcome<()> {
    let offsets = store.offsets()?;
    let committed: i64 = offsets.iter().map(|offset| offset.next).sum();
    info!(project = %workspace.folder.display(), views = workspace.project.views.len(),
        partitions = offsets.len(), committed, "the store is open");
    Ok(())
}

#[cfg(test)]
mod tests;
