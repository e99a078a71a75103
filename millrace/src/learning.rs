//! The learning loop: when an update is due, what it learns from, and how its version takes the traffic.
//!
//! Training itself is `millrace-learner`'s. Periods are of event time: an update at P learns the labels that
//! became known before P, and a loop that runs late catches up period by period.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use millrace_feature_store::Store;
use millrace_learner::{
    Checkpoint, Device, Examples, LearnerError, Manifest, Model, Prequential, Registry, Update,
    average_precision, replay_sample, update,
};
use tracing::{info, warn};

use crate::failure::Outcome;
use crate::labels::{Example, examples_after};
use crate::pipeline::inputs_tag;
use crate::scorer::Scorer;
use crate::settings::micros;
use crate::times::rfc3339;
use crate::workspace::{ModelPlan, Workspace};

/// Labels over which prequential average precision is taken: enough for some frauds at 1 in 100.
const PREQUENTIAL_ROWS: usize = 20_000;

/// The loop's state between updates.
pub struct Learning {
    workspace: Arc<Workspace>,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    scorer: Arc<Scorer>,
    device: Device,
    history: History,
    champion: Option<(Manifest, Checkpoint)>,
    /// End of the last period that was dealt with, µs of event time.
    done_until_us: Option<i64>,
    /// Sequence number up to which examples are known to survive a crash.
    durable: u64,
    prequential: VecDeque<(f32, bool)>,
}

/// What became of a period.
#[derive(Debug, Clone)]
pub enum Period {
    /// A new version serves.
    Accepted(Box<Manifest>, f64),
    /// The candidate was refused; the champion stays.
    Refused(String),
    /// Too few labels for a first model.
    Waiting {
        /// Labels so far.
        labels: usize,
        /// Frauds among them.
        frauds: usize,
    },
}

impl Learning {
    /// Goes on from the registry's champion and the store's examples.
    ///
    /// # Errors
    /// A store or a registry that cannot be read; a device that is not there.
    pub fn open(
        workspace: Arc<Workspace>,
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        scorer: Arc<Scorer>,
    ) -> Outcome<Self> {
        let device = workspace.settings.learner.device.resolve()?;
        let champion = match registry.champion()? {
            Some(version) => Some(registry.load(version)?),
            None => None,
        };
        scorer.follow(&registry)?;
        let mut learning = Self {
            history: History::new(scorer.plan.input_names().len(), inputs_tag(&scorer.plan)),
            done_until_us: champion
                .as_ref()
                .map(|(manifest, _)| manifest.trained_until_us),
            champion,
            workspace,
            store,
            registry,
            scorer,
            device,
            durable: 0,
            prequential: VecDeque::new(),
        };
        learning.read_examples()?;
        Ok(learning)
    }

    /// Where it trains.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Deals with the next period that ended before `clock_us` (event time), if one did.
    ///
    /// # Errors
    /// A store or a registry that fails. A refused candidate is no error.
    pub fn next_period(&mut self, clock_us: i64) -> Outcome<Option<Period>> {
        self.read_examples()?;
        let Some(end_us) = self.next_end().filter(|end| *end <= clock_us) else {
            return Ok(None);
        };
        let fresh = self.history.between(self.position(), end_us);
        if let Some(waiting) = self.too_few(&fresh) {
            self.done_until_us = Some(end_us);
            return Ok(Some(waiting));
        }
        self.ensure_durable()?;
        let period = self.learn(&fresh, end_us)?;
        self.done_until_us = Some(end_us);
        Ok(Some(period))
    }

    /// The end of the next period that has labels.
    fn next_end(&self) -> Option<i64> {
        let every = micros(self.plan().settings.every);
        let first = self.history.first_known_after(self.position())?;
        let end = first
            .div_euclid(every)
            .saturating_add(1)
            .saturating_mul(every);
        let after = self
            .done_until_us
            .map_or(i64::MIN, |done| done.saturating_add(every));
        Some(end.max(after))
    }

    fn plan(&self) -> &ModelPlan {
        &self.scorer.plan
    }

    /// Sequence number of the last label that the champion has learned.
    fn position(&self) -> u64 {
        self.champion
            .as_ref()
            .map_or(0, |(manifest, _)| manifest.label_position)
    }

    fn too_few(&self, fresh: &[usize]) -> Option<Period> {
        if self.champion.is_some() {
            return None;
        }
        let settings = &self.plan().settings;
        let frauds = fresh
            .iter()
            .filter(|row| self.history.frauds[**row])
            .count();
        let waiting = fresh.len() < settings.min_labels || frauds < settings.min_frauds;
        waiting.then_some(Period::Waiting {
            labels: fresh.len(),
            frauds,
        })
    }

    /// A version must not know labels that a crash could number anew.
    fn ensure_durable(&mut self) -> Outcome<()> {
        let newest = self.history.numbers.back().copied().unwrap_or(0);
        if self.durable < newest {
            self.store.flush()?;
            self.durable = newest;
        }
        Ok(())
    }

    fn learn(&mut self, rows: &[usize], end_us: i64) -> Outcome<Period> {
        let started = Instant::now();
        let fresh = self.history.examples(rows.iter().map(|row| (*row, 1.0)))?;
        let prequential = self.test_then_train(&fresh)?;
        let seed = self.workspace.settings.learner.seed ^ end_us as u64;
        let replay = self.replay(rows, seed)?;
        let parent = self.champion.as_ref().map(|(_, checkpoint)| checkpoint);
        let training = &self.workspace.settings.learner.training;
        let update = match update(training, self.device, parent, &fresh, &replay, seed) {
            Ok(update) => update,
            Err(LearnerError::Rejected(reason)) => {
                warn!(until = rfc3339(end_us), %reason, "an update was refused");
                metrics::counter!("millrace_updates_total", "outcome" => "refused").increment(1);
                return Ok(Period::Refused(reason.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        let position = rows.iter().map(|row| self.history.numbers[*row]).max();
        let manifest = self.manifest(&update, position, end_us, seed, prequential);
        let manifest = self.publish(manifest, update.checkpoint)?;
        let seconds = started.elapsed().as_secs_f64();
        info!(version = manifest.version, until = rfc3339(end_us), labels = manifest.rows,
            replayed = manifest.replayed, average_precision = ?prequential.average_precision, seconds,
            "a new version serves");
        Ok(Period::Accepted(Box::new(manifest), seconds))
    }

    /// Scores the fresh labels with the champion, which has not seen them, before it learns them.
    fn test_then_train(&mut self, fresh: &Examples) -> Outcome<Prequential> {
        if let Some((_, checkpoint)) = &self.champion {
            let scores = Model::new(checkpoint).score(fresh.inputs())?;
            let labels = fresh.labels().iter().map(|label| *label > 0.5);
            self.prequential.extend(scores.into_iter().zip(labels));
        }
        while self.prequential.len() > PREQUENTIAL_ROWS {
            self.prequential.pop_front();
        }
        let (scores, labels): (Vec<f32>, Vec<f32>) = self
            .prequential
            .iter()
            .map(|(score, fraud)| (*score, f32::from(u8::from(*fraud))))
            .unzip();
        let weights = vec![1.0; labels.len()];
        let prequential = Prequential {
            average_precision: average_precision(&scores, &labels, &weights),
            rows: labels.len() as u64,
            frauds: labels.iter().filter(|label| **label > 0.5).count() as u64,
        };
        if let Some(value) = prequential.average_precision {
            metrics::gauge!("millrace_prequential_average_precision").set(value);
        }
        Ok(prequential)
    }

    /// A sample of what was learned before, without the fresh rows.
    fn replay(&self, fresh: &[usize], seed: u64) -> Outcome<Examples> {
        let first = fresh.first().copied().unwrap_or(0);
        let past: Vec<(u64, bool)> = (0..first)
            .map(|row| (row as u64, self.history.frauds[row]))
            .collect();
        let sample = replay_sample(&past, &self.workspace.settings.learner.training, seed);
        self.history.examples(
            sample
                .into_iter()
                .map(|(row, weight)| (row as usize, weight)),
        )
    }

    fn manifest(
        &self,
        update: &Update,
        position: Option<u64>,
        end_us: i64,
        seed: u64,
        prequential: Prequential,
    ) -> Manifest {
        Manifest {
            version: 0,
            parent: self.champion.as_ref().map(|(manifest, _)| manifest.version),
            created: rfc3339(crate::pipeline::now_us()),
            inputs: self.plan().input_names(),
            inputs_hash: self.plan().inputs_hash(),
            label_position: position.unwrap_or_else(|| self.position()),
            trained_until_us: end_us,
            rows: update.rows,
            replayed: update.replayed,
            seed,
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            before: update.metrics.before,
            after: update.metrics.after,
            prequential: Some(prequential),
            device: update.device.to_string(),
        }
    }

    /// The version is on disk before it takes traffic, and the alias is moved before the scorer.
    fn publish(&mut self, mut manifest: Manifest, checkpoint: Checkpoint) -> Outcome<Manifest> {
        manifest.version = self.registry.publish(manifest.clone(), &checkpoint)?;
        self.registry.set_champion(manifest.version)?;
        self.registry.retain(self.plan().settings.keep.max(1))?;
        self.scorer
            .swap(manifest.clone(), Model::new(&checkpoint))?;
        metrics::counter!("millrace_updates_total", "outcome" => "accepted").increment(1);
        metrics::gauge!("millrace_model_version").set(manifest.version as f64);
        self.champion = Some((manifest.clone(), checkpoint));
        Ok(manifest)
    }

    fn read_examples(&mut self) -> Outcome<()> {
        let after = self.history.last_read;
        let history = &mut self.history;
        examples_after(self.store.as_ref(), after, &mut |number, example| {
            history.push(number, example);
            true
        })?;
        // What the champion has not learned must stay, however much that is.
        self.history.trim(
            self.workspace.settings.learner.history_rows,
            self.position(),
        );
        Ok(())
    }
}

/// The newest examples in memory, in the order of their numbers.
struct History {
    width: usize,
    inputs_tag: u32,
    last_read: u64,
    numbers: VecDeque<u64>,
    known_us: VecDeque<i64>,
    frauds: VecDeque<bool>,
    inputs: VecDeque<f32>,
}

impl History {
    fn new(width: usize, inputs_tag: u32) -> Self {
        Self {
            width,
            inputs_tag,
            last_read: 0,
            numbers: VecDeque::new(),
            known_us: VecDeque::new(),
            frauds: VecDeque::new(),
            inputs: VecDeque::new(),
        }
    }

    /// Adds an example; one whose inputs meant something else cannot be learned from.
    fn push(&mut self, number: u64, example: Example) {
        self.last_read = number;
        if example.inputs_tag != self.inputs_tag || example.inputs.len() != self.width {
            return;
        }
        self.numbers.push_back(number);
        self.known_us.push_back(example.known_us);
        self.frauds.push_back(example.fraud);
        self.inputs.extend(example.inputs);
    }

    fn trim(&mut self, most: usize, learned: u64) {
        let learned = self.numbers.partition_point(|number| *number <= learned);
        let surplus = self.numbers.len().saturating_sub(most).min(learned);
        self.numbers.drain(..surplus);
        self.known_us.drain(..surplus);
        self.frauds.drain(..surplus);
        self.inputs.drain(..surplus * self.width);
    }

    fn first_known_after(&self, number: u64) -> Option<i64> {
        let row = self.numbers.partition_point(|other| *other <= number);
        self.known_us.get(row).copied()
    }

    /// Rows after a number that became known before a time.
    fn between(&self, after: u64, before_us: i64) -> Vec<usize> {
        let from = self.numbers.partition_point(|number| *number <= after);
        let to = self.known_us.partition_point(|known| *known < before_us);
        (from..to.max(from)).collect()
    }

    fn examples(&self, rows: impl Iterator<Item = (usize, f32)>) -> Outcome<Examples> {
        let mut examples = Examples::new(self.width);
        let mut inputs = Vec::with_capacity(self.width);
        for (row, weight) in rows {
            inputs.clear();
            inputs.extend(self.inputs.range(row * self.width..(row + 1) * self.width));
            examples.push(&inputs, self.frauds[row], weight)?;
        }
        Ok(examples)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn example(known_us: i64, inputs_tag: u32) -> Example {
        let inputs = vec![known_us as f32, -1.0];
        Example {
            known_us,
            event_time_us: 0,
            inputs,
            inputs_tag,
            fraud: known_us % 2 == 0,
            probability: None,
            version: 0,
        }
    }

    fn history(rows: usize) -> History {
        let mut history = History::new(2, 7);
        for number in 1..=rows as u64 {
            history.push(number, example(number as i64 * 10, 7));
        }
        history
    }

    #[test]
    fn a_period_is_what_was_not_learned_and_is_known() {
        let history = history(6);
        assert_eq!(history.first_known_after(2), Some(30));
        assert_eq!(history.between(2, 50), [2, 3]);
        assert_eq!(history.between(2, 51), [2, 3, 4]);
        assert_eq!(history.between(6, 1_000), Vec::<usize>::new());
        assert_eq!(history.between(5, 20), Vec::<usize>::new());
        let examples = history.examples([(1, 1.0), (4, 2.5)].into_iter()).unwrap();
        assert_eq!(examples.inputs(), [20.0, -1.0, 50.0, -1.0]);
        assert_eq!(examples.weights(), [1.0, 2.5]);
    }

    #[test]
    fn trimming_keeps_what_was_not_learned() {
        let mut history = history(10);
        history.trim(4, 3);
        assert_eq!(history.numbers, [4, 5, 6, 7, 8, 9, 10]);
        history.trim(4, 9);
        assert_eq!(history.numbers, [7, 8, 9, 10]);
        assert_eq!(history.inputs.len(), 8);
        assert_eq!(history.between(8, 1_000), [2, 3]);
    }

    #[test]
    fn examples_of_other_inputs_are_passed_over() {
        let mut history = history(2);
        history.push(3, example(30, 8));
        assert_eq!(history.numbers, [1, 2]);
        assert_eq!(history.last_read, 3);
    }
}
