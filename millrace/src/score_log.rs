//! The log of what was scored: each scored event once, with the exact values that the model saw, in Parquet files
//! that other programs read.
//!
//! ```text
//!  step ──► one commit: state, offsets, scored rows ──► outbox (in the store)
//!                                                          │ flush: rows and the decision which of them
//!                                                          │ are next are durable
//!                                                          ▼
//!                       writer's thread: dt=…/scores-<log>-<first>-<last>.parquet
//!                                                          │ all files are there
//!                                                          ▼
//!                                    one commit: the rows leave the outbox
//! ```
//!
//! What is written is a function of what was decided, and a decision is durable before it is acted upon. A crash at
//! any point leaves a decision whose files are written again, with the same names and bytes, or no decision and rows
//! that wait. Only the pipeline's thread writes to the store: the writer reads it and tells.
//!
//! Neighbours: `score_topic.rs` sends scores to Kafka, at least once. `labels.rs` keeps what was scored for its label.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_feature_store::{Commit, Store};
use millrace_ingest::StreamBatch;
use tracing::{info, warn};

use crate::failure::Outcome;
use crate::live::Live;
use crate::scorer::Scores;
use crate::settings::ScoreLogSettings;
use crate::workspace::ModelPlan;

mod files;
mod outbox;
pub(crate) mod reader;
pub(crate) mod rows;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use outbox::{Block, Outbox};
use rows::Columns;
use writer::{Place, Writer};

/// The longest that an orderly end waits for the location.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// The log, as the pipeline sees it.
pub struct ScoreLog {
    plan: ModelPlan,
    settings: ScoreLogSettings,
    store: Arc<dyn Store>,
    columns: Columns,
    outbox: Outbox,
    writer: Writer,
    phase: Phase,
    decided_at: Instant,
    is_full: bool,
}

/// What becomes of the rows that were decided upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There are none.
    Waiting,
    /// The decision is not durable yet.
    Decided,
    /// The writer has them.
    Writing,
}

/// Rows of a step, until it is committed.
#[derive(Default)]
pub struct ScoredRows {
    rows: Vec<Vec<u8>>,
    block: Option<Block>,
}

impl ScoreLog {
    /// The log of a project, where its settings name a location and it has a model.
    ///
    /// # Errors
    /// Of kind input: a location that is none. A store that cannot be read or written.
    pub fn open(live: &Live) -> Outcome<Option<Self>> {
        let workspace = &live.workspace;
        let settings = &workspace.settings.score_log;
        let (Some(location), Some(plan)) = (&settings.location, &workspace.model) else {
            return Ok(None);
        };
        Self::at(live, plan, Place::open(workspace, location)?).map(Some)
    }

    fn at(live: &Live, plan: &ModelPlan, place: Place) -> Outcome<Self> {
        let workspace = &live.workspace;
        let columns = Columns::new(workspace, plan)?;
        let outbox = Outbox::open(live.store.as_ref(), &columns)?;
        // The log's name is in the store before it is at the location.
        live.store.flush()?;
        let position = outbox.position().clone();
        let range = position.range();
        let store = Arc::clone(&live.store);
        let writer = Writer::start(place, store, position, workspace.fingerprint())?;
        let mut log = Self {
            plan: plan.clone(),
            settings: workspace.settings.score_log.clone(),
            store: Arc::clone(&live.store),
            columns,
            outbox,
            writer,
            phase: Phase::Waiting,
            decided_at: Instant::now(),
            is_full: false,
        };
        if let Some(range) = range {
            log.phase = Phase::Writing;
            log.writer.write(range);
        }
        log.note_size();
        Ok(log)
    }

    /// Takes the events of a batch that are `new`: those whose id was not scored before.
    ///
    /// # Errors
    /// Scores that are not of the model's inputs.
    pub fn take(
        &self,
        step: &mut ScoredRows,
        events: &StreamBatch,
        scores: &Scores,
        new: Vec<bool>,
        scored_at_us: i64,
    ) -> Outcome<()> {
        let rows = self
            .columns
            .pack(&self.plan, events, scores, new, scored_at_us)?;
        step.rows.extend(rows);
        Ok(())
    }

    /// Puts the rows of a step into its commit.
    pub fn put(&self, step: &mut ScoredRows, commit: &mut Commit) {
        step.block = self.outbox.put(&step.rows, self.columns.tag, commit);
    }

    /// The step was committed.
    pub fn committed(&mut self, step: ScoredRows) {
        if let Some(block) = step.block {
            self.outbox.committed(block);
            self.note_size();
        }
    }

    /// Before a flush: decides what is to be written next, if it is time.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn before_flush(&mut self) -> Outcome<()> {
        let is_due = self.wants_flush() || self.decided_at.elapsed() >= self.settings.every;
        match self.phase == Phase::Waiting && is_due {
            true => self.decide(),
            false => Ok(()),
        }
    }

    fn decide(&mut self) -> Outcome<()> {
        self.decided_at = Instant::now();
        let max_rows = self.settings.max_rows.get();
        self.outbox.decide(self.store.as_ref(), max_rows)?;
        if self.outbox.position().decided.is_some() {
            self.phase = Phase::Decided;
        }
        Ok(())
    }

    /// After a flush: what was decided is durable, and is written.
    pub fn flushed(&mut self) {
        if let (Phase::Decided, Some(range)) = (self.phase, self.outbox.position().range()) {
            self.phase = Phase::Writing;
            self.writer.write(range);
        }
    }

    /// Takes note of what was written.
    ///
    /// # Errors
    /// A location that is another log's; a store that cannot be read or written.
    pub fn tend(&mut self) -> Outcome<()> {
        self.tend_for(Duration::ZERO)
    }

    fn tend_for(&mut self, wait: Duration) -> Outcome<()> {
        // In any phase: a location that is another log's ends the process before something is to be written.
        if self.writer.is_done(wait)? {
            self.outbox.remove_decided(self.store.as_ref())?;
            self.phase = Phase::Waiting;
            self.note_size();
        }
        Ok(())
    }

    /// Whether so much waits that the next flush should not.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        let is_much = self.is_full || self.outbox.rows() >= self.settings.max_rows.get();
        self.phase == Phase::Waiting && is_much
    }

    /// Whether no more may be scored until the location has taken something.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    fn note_size(&mut self) {
        let (rows, bytes) = (self.outbox.rows(), self.outbox.bytes());
        metrics::gauge!("millrace_score_log_waiting_rows").set(rows as f64);
        metrics::gauge!("millrace_score_log_waiting_bytes").set(bytes as f64);
        let is_full = bytes >= self.settings.max_waiting_bytes;
        metrics::gauge!("millrace_score_log_holds_reading").set(f64::from(u8::from(is_full)));
        match (self.is_full, is_full) {
            (false, true) => warn!(
                rows,
                bytes,
                "score_log.max_waiting_bytes of scored rows wait for the log's location: no more events are read until \
                 it takes some"
            ),
            (true, false) => info!(
                rows,
                bytes, "the score log moves again, and events are read"
            ),
            _ => {}
        }
        self.is_full = is_full;
    }

    /// An orderly end: writes what waits, as far as the location takes it within some seconds. The rest is written
    /// after the next start.
    ///
    /// # Errors
    /// As [`tend`](Self::tend).
    pub fn finish(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + LAST_WAIT;
        while self.outbox.rows() > 0 && Instant::now() < deadline {
            if self.phase == Phase::Waiting {
                self.decide()?;
            }
            if self.phase == Phase::Decided {
                self.store.flush()?;
                self.flushed();
            }
            self.tend_for(deadline.saturating_duration_since(Instant::now()))?;
        }
        if self.outbox.rows() > 0 {
            let rows = self.outbox.rows();
            warn!(
                rows,
                "scored rows wait in the store for the log: they are written after the next start"
            );
        }
        Ok(self.store.flush()?)
    }
}
