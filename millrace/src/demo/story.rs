//! What the demo sends: generated payments day by day, and the labels that come back a week later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;

use crate::failure::{Failure, Outcome};
use crate::generate::{Simulation, SimulationSettings};
use crate::produce::EventProducer;
use crate::workspace::Workspace;

/// Days that are sent at once, as history: a model can be trained from the first second on.
const HISTORY_DAYS: u32 = 10;
const LABEL_DELAY_DAYS: u32 = 7;
/// Parts of a day, sent one after the other.
const PARTS: i64 = 96;
const DAY_US: i64 = 86_400_000_000;
/// 2018-04-01, the first day of the published stream.
const START_US: i64 = 1_522_540_800_000_000;

/// The stream to send.
pub(super) struct Story {
    simulation: Simulation,
    pub(super) customers: u32,
    pub(super) terminals: u32,
    pub(super) days: u32,
    day: Duration,
    pub(super) progress: Arc<StoryProgress>,
}

/// How far the sender is.
#[derive(Default)]
pub(super) struct StoryProgress {
    /// Days that are sent whole.
    pub(super) days: AtomicU32,
    /// The story's time, µs.
    pub(super) now_us: AtomicI64,
}

impl StoryProgress {
    /// Whether the days of history are sent, and the story goes at its own pace.
    pub(super) fn is_live(&self) -> bool {
        self.days.load(Ordering::Relaxed) >= HISTORY_DAYS
    }
}

impl Story {
    pub(super) fn new(customers: u32, days: u32, seed: u64, day_seconds: f64) -> Outcome<Self> {
        let terminals = customers * 2;
        let settings = SimulationSettings {
            customers,
            terminals,
            days,
            seed,
            start: START_US,
            label_delay: i64::from(LABEL_DELAY_DAYS) * DAY_US,
        };
        let simulation = Simulation::new(settings).map_err(|e| Failure::input(e.to_string()))?;
        let day = Duration::try_from_secs_f64(day_seconds)
            .map_err(|e| Failure::input(format!("--day-seconds {day_seconds}: {e}")))?;
        Ok(Self {
            simulation,
            customers,
            terminals,
            days,
            day,
            progress: Arc::default(),
        })
    }

    /// Sends it all, at its pace.
    pub(super) fn send(self, workspace: &Workspace) -> Outcome<()> {
        let mut payments = EventProducer::new(workspace, "transactions")?;
        let mut labels = EventProducer::new(workspace, "labels")?;
        let mut known_later: VecDeque<RecordBatch> = VecDeque::new();
        for day in self.simulation.days() {
            let tables = day.tables().map_err(|e| Failure::failed(e.to_string()))?;
            known_later.push_back(tables.labels);
            let known = (known_later.len() > LABEL_DELAY_DAYS as usize)
                .then(|| known_later.pop_front())
                .flatten();
            let start_us = START_US + i64::from(day.day) * DAY_US;
            let pace = if self.progress.is_live() {
                self.day
            } else {
                Duration::ZERO
            };
            self.send_day(start_us, pace, |from_us, to_us| {
                payments.send_batch(&between(&tables.transactions, from_us, to_us))?;
                if let Some(known) = &known {
                    labels.send_batch(&between(known, from_us, to_us))?;
                }
                Ok(())
            })?;
            self.progress.days.store(day.day + 1, Ordering::Relaxed);
        }
        payments.flush()?;
        labels.flush()
    }

    fn send_day(
        &self,
        start_us: i64,
        pace: Duration,
        mut send: impl FnMut(i64, i64) -> Outcome<()>,
    ) -> Outcome<()> {
        let begun = Instant::now();
        for part in 0..PARTS {
            let from_us = start_us + part * DAY_US / PARTS;
            let to_us = start_us + (part + 1) * DAY_US / PARTS;
            send(from_us, to_us)?;
            self.progress.now_us.store(to_us, Ordering::Relaxed);
            let due = pace * (part as u32 + 1) / PARTS as u32;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        Ok(())
    }
}

/// Rows with an event time in `from_us..to_us`; the batch is in the order of its event time.
fn between(batch: &RecordBatch, from_us: i64, to_us: i64) -> RecordBatch {
    let Some(times) = batch.column_by_name("event_time") else {
        return batch.slice(0, 0);
    };
    let times = times.as_primitive::<TimestampMicrosecondType>().values();
    let from = times.partition_point(|time| *time < from_us);
    let to = times.partition_point(|time| *time < to_us);
    batch.slice(from, to - from)
}
