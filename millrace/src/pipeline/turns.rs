//! Reading and applying in turns, and what the one thread that writes the store does in between: it makes durable what
//! was applied, lets the log write, makes the tiles that look-ups have missed, and tells how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use millrace_ingest::{Ingest, Rarely, ReadAhead, Remedy, Step};
use tracing::warn;

use crate::failure::{Failure, Outcome, with_causes};
use crate::pipeline::{Pipeline, StepFailure};
use crate::score_log::ScoreLog;
use crate::times::now_us;

/// Rows of a step while many ask for answers: a thread that answers may wait for a core until the step is through, for
/// the kernel lets a running thread have milliseconds. More of them cost fewer commits.
const ROWS_BETWEEN_ANSWERS: usize = 256;

/// So many calls keep the cores busy. Those of fewer find one that is idle.
const MANY_CALLS_PER_MS: f64 = 1.0;

/// How long a poll waits for something to tell.
const WAIT: Duration = Duration::from_millis(50);

/// Pause before Kafka is tried again: the first, where one follows another,
const RETRY: Duration = Duration::from_millis(500);

/// and the longest.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

impl Pipeline {
    /// Reads and applies until `stop` is set, then makes everything durable.
    ///
    /// # Errors
    /// What cannot be gone on from: a store that fails, a broker that refuses.
    pub fn run(mut self, ingest: Ingest, stop: &AtomicBool) -> Outcome<()> {
        let mut ingest = ReadAhead::start(ingest)?;
        let mut asked = Instant::now();
        let topics = self.live.workspace.project.streams.iter();
        let mut lags: Vec<(String, i64)> = topics.map(|s| (s.topic.clone(), 0)).collect();
        let mut counts: Vec<(String, i32)> = Vec::new();
        let mut rarely = Rarely::default();
        while !stop.load(Ordering::Relaxed) {
            if self.log.as_ref().is_some_and(ScoreLog::is_full) {
                // No stream is read: of each, events may wait, however many.
                lags.iter_mut().for_each(|(_, lag)| *lag = (*lag).max(1));
                self.tell_lag(&lags);
                // The group may take this member for dead meanwhile. It comes back, and the store says where it was.
                std::thread::sleep(RETRY);
                self.between_steps()?;
                continue;
            }
            let calls = self.live.progress.take_asked() as f64;
            let passed = std::mem::replace(&mut asked, Instant::now()).elapsed();
            let most_rows = match calls >= MANY_CALLS_PER_MS * passed.as_secs_f64() * 1e3 {
                true => ROWS_BETWEEN_ANSWERS,
                false => usize::MAX,
            };
            let polled = match ingest.poll_unless(stop, now_us(), WAIT, most_rows) {
                Ok(Some(polled)) => polled,
                Ok(None) => break,
                Err(error) if error.remedy() == Remedy::Retry => {
                    if !stop.load(Ordering::Relaxed) && rarely.is_due(Instant::now()) {
                        warn!(
                            error = with_causes(&error),
                            "Kafka is in trouble; trying again"
                        );
                    }
                    std::thread::sleep(RETRY);
                    self.tell_silence();
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let step = polled.step;
            for lost in &step.lost {
                warn!(
                    topic = lost.topic,
                    partition = lost.partition,
                    from = lost.from,
                    to = lost.to,
                    "Kafka does not have what was to be read next: events may be missing"
                );
                self.gaps.add(&lost.topic, lost.partition);
            }
            for (topic, partition) in &step.trimmed {
                self.note_trimmed(topic, *partition)?;
            }
            if polled.partition_counts != counts {
                counts = polled.partition_counts;
                self.note_vanished(&counts)?;
            }
            if !step.positions.is_empty() {
                if !self.apply_until_taken(&mut ingest, &step, &polled.lags, stop)? {
                    break;
                }
                crash_point!("applied");
                // For lag tools alone: the store's offsets are the truth.
                ingest.commit(step.positions)?;
            }
            lags = polled.lags;
            self.tell_lag(&lags);
            self.tell_foreign(&polled.foreign);
            // Behind what they said: whoever sees that they were heard sees that too.
            if let Some(heard) = polled.heard {
                self.live.progress.hear(heard);
            }
            let letters = polled.dead_letters;
            let progress = &self.live.progress;
            progress.dead_letters.store(letters, Ordering::Relaxed);
            self.between_steps()?;
        }
        self.finish()
    }

    /// Of partitions that were read before, those that their topics no longer have are gone, with what was not read of
    /// them. `counts` says how many the topics have, as far as it is known.
    fn note_vanished(&mut self, counts: &[(String, i32)]) -> Outcome<()> {
        for offset in self.live.store.offsets()? {
            let is_it = |(topic, count): &&(String, i32)| {
                *topic == offset.topic && offset.partition >= *count
            };
            let Some((_, partitions)) = counts.iter().find(is_it) else {
                continue;
            };
            let (topic, partition, read) = (offset.topic.clone(), offset.partition, offset.next);
            if self.gaps.add_vanished(offset, self.live.store.as_ref())? {
                warn!(
                    topic,
                    partition,
                    read,
                    partitions,
                    "a partition that was read is gone, for its topic was created anew with fewer: what it had behind the \
                     last message that was read is lost"
                );
            }
        }
        Ok(())
    }

    /// Makes everything durable, and lets the log write what waits.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn finish(&mut self) -> Outcome<()> {
        self.flush()?;
        self.log.as_mut().map_or(Ok(()), ScoreLog::finish)
    }

    /// What the one thread that writes the store does besides steps.
    pub(crate) fn between_steps(&mut self) -> Outcome<()> {
        self.sum_up_asked()?;
        let mut is_due = self.flushed.elapsed() >= self.live.workspace.settings.store.flush_every;
        if let Some(log) = &mut self.log {
            log.tend()?;
            is_due |= log.wants_flush();
        }
        if self.flushing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_flush()?;
        }
        match is_due && self.flushing.is_none() {
            true => self.begin_flush(),
            false => Ok(()),
        }
    }

    /// Makes everything that was applied durable.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn flush(&mut self) -> Outcome<()> {
        self.end_flush()?;
        self.begin_flush()?;
        self.end_flush()
    }

    /// Begins to make what was applied durable. Events need not wait for the disk: what is applied meanwhile is for the
    /// next flush.
    fn begin_flush(&mut self) -> Outcome<()> {
        crash_point!("flush");
        if let Some(log) = &mut self.log {
            log.before_flush()?;
        }
        self.flushed = Instant::now();
        let store = Arc::clone(&self.live.store);
        let flush = Builder::new()
            .name("flush".to_owned())
            .spawn(move || store.flush())
            .map_err(|e| Failure::failed(format!("no thread to flush in: {e}")))?;
        self.flushing = Some(flush);
        Ok(())
    }

    /// Waits for the flush that is under way, if there is one.
    fn end_flush(&mut self) -> Outcome<()> {
        let Some(flush) = self.flushing.take() else {
            return Ok(());
        };
        let flushed = flush.join();
        flushed.map_err(|_| Failure::failed("the thread that flushes has panicked"))??;
        crash_point!("flushed");
        if let Some(log) = &mut self.log {
            log.flushed();
        }
        Ok(())
    }

    /// Tells how many messages of each topic are in Kafka and not committed yet.
    fn tell_lag(&self, lags: &[(String, i64)]) {
        let progress = &self.live.progress;
        for stream in &self.live.workspace.project.streams {
            let of_topic = lags.iter().find(|(topic, _)| *topic == stream.topic);
            if let Some((_, lag)) = of_topic {
                progress.set_lag(&stream.name, *lag);
            }
        }
        let lag: i64 = lags.iter().map(|(_, lag)| lag).sum();
        progress.lag.store(lag, Ordering::Relaxed);
        metrics::gauge!("millrace_consumer_lag").set(lag as f64);
        self.tell_silence();
    }

    /// Tells of which topics others read partitions.
    fn tell_foreign(&self, foreign: &[(String, i32)]) {
        for stream in &self.live.workspace.project.streams {
            let is_partial = foreign.iter().any(|(topic, _)| *topic == stream.topic);
            let progress = &self.live.progress;
            progress.set_partial(&stream.name, is_partial, Instant::now());
        }
    }

    /// The lags that a step leaves as long as it is not applied: its events wait, and those after it.
    fn lags_with(&self, step: &Step, more: &[(String, i64)]) -> Vec<(String, i64)> {
        let mut lags = more.to_vec();
        // Streams that the served project does not have come after its own.
        let streams = &self.live.workspace.project.streams;
        for batch in &step.batches {
            let Some(stream) = streams.get(batch.stream) else {
                continue;
            };
            let of_topic = lags.iter_mut().find(|(topic, _)| *topic == stream.topic);
            if let Some((_, lag)) = of_topic {
                *lag += (batch.batch.num_rows() + batch.deletions.len()) as i64;
            }
        }
        lags
    }

    fn tell_silence(&self) {
        if let Some(silence) = self.live.progress.silence() {
            metrics::gauge!("millrace_kafka_silent_seconds").set(silence.as_secs_f64());
        }
    }

    /// A broker that takes no scores stops the way, and loses nothing: the step is applied again. Meanwhile its
    /// events wait, and `more` of each topic after them. False where it was told to stop before: the step was not applied.
    fn apply_until_taken(
        &mut self,
        ingest: &mut ReadAhead,
        step: &Step,
        more: &[(String, i64)],
        stop: &AtomicBool,
    ) -> Outcome<bool> {
        let mut pause = RETRY;
        loop {
            match self.apply(step) {
                Ok(()) => return Ok(true),
                Err(StepFailure::Scores(failure)) if stop.load(Ordering::Relaxed) => {
                    warn!(
                        failure = failure.message,
                        "the scores of a step were not taken before the stop: its events are read again at the next start"
                    );
                    return Ok(false);
                }
                Err(StepFailure::Scores(failure)) => {
                    warn!(
                        failure = failure.message,
                        hint = failure.hint,
                        again_in_seconds = pause.as_secs_f64(),
                        "the scores were not taken; the step is applied again"
                    );
                    self.tell_lag(&self.lags_with(step, more));
                    self.wait_in_group(ingest, step, pause, stop)?;
                    pause = longer(pause);
                }
                Err(StepFailure::Other(failure)) => return Err(failure),
            }
        }
    }

    /// Waits with a step that is not applied. The group keeps this member meanwhile, and how far Kafka is stays known.
    fn wait_in_group(
        &self,
        ingest: &mut ReadAhead,
        step: &Step,
        pause: Duration,
        stop: &AtomicBool,
    ) -> Outcome<()> {
        let until = Instant::now() + pause;
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(RETRY.min(until.saturating_duration_since(Instant::now())));
            match ingest.stay() {
                Ok(polled) => {
                    self.tell_lag(&self.lags_with(step, &polled.lags));
                    if let Some(heard) = polled.heard {
                        self.live.progress.hear(heard);
                    }
                }
                Err(error) if error.remedy() == Remedy::Retry => self.tell_silence(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The pause after one that was in vain.
fn longer(pause: Duration) -> Duration {
    (2 * pause).min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let pauses = std::iter::successors(Some(RETRY), |pause| Some(longer(*pause)));
        let seconds: Vec<f64> = pauses.take(9).map(|pause| pause.as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
    }
}
