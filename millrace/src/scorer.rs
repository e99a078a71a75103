//! From events to fraud probabilities: inputs as of each event's time, through the serving model.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use arrow::array::{Array, AsArray, RecordBatch};
use millrace_features::{StateReader, Tile, pack_keys};
use millrace_learner::{Aliases, Manifest, Model, Registry};
use xxhash_rust::xxh3::xxh3_64;

use crate::failure::Outcome;
use crate::traces;
use crate::workspace::ModelPlan;

impl Scores {
    /// The inputs of a row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        let width = self.inputs.num_columns();
        &self.matrix[row * width..(row + 1) * width]
    }

    /// An input of a row that is a text; none where it is null, or a number.
    #[must_use]
    pub fn text(&self, row: usize, input: usize) -> Option<&str> {
        text_of(&self.inputs, row, input)
    }

    /// The probability of a row.
    #[must_use]
    pub fn probability(&self, row: usize) -> Option<f32> {
        self.probabilities.as_ref().map(|all| all[row])
    }
}

#[cfg(test)]
mod tests;

/// Scores with whichever models serve. A swap never makes a request wait: each takes the pointer once.
pub struct Scorer {
    /// What the model sees.
    pub plan: ModelPlan,
    traffic: ArcSwap<Traffic>,
    /// Held by whoever changes the traffic.
    changing: Mutex<()>,
}

/// A change of who answers, while no other one is made.
pub struct Change<'a> {
    scorer: &'a Scorer,
    _alone: MutexGuard<'a, ()>,
}

/// Who answers for whom.
#[derive(Clone, Default)]
struct Traffic {
    champion: Option<Arc<Serving>>,
    /// A version that answers for so many of a hundred entities.
    canary: Option<(Arc<Serving>, u8)>,
}

/// A version that takes traffic.
pub struct Serving {
    /// Its number in the registry.
    pub version: u64,
    /// Its weights.
    pub model: Model,
    /// What the registry says of it.
    pub manifest: Manifest,
}

/// Scores of a batch, row by row.
pub struct Scores {
    /// The inputs that the model saw.
    pub inputs: RecordBatch,
    /// The same, row-major, as the model takes them: null is NaN, and a text its code.
    pub matrix: Vec<f32>,
    /// Probabilities of fraud, one a row; none before there is a first model.
    pub probabilities: Option<Vec<f32>>,
    /// The version that gave each of them, 0 before there is a first model.
    pub versions: Vec<u64>,
}

/// An input of a row that is a text; none where it is null, or a number.
pub(crate) fn text_of(inputs: &RecordBatch, row: usize, input: usize) -> Option<&str> {
    let texts = inputs.column(input).as_string_opt::<i32>()?;
    texts.is_valid(row).then(|| texts.value(row))
}

impl Scorer {
    /// A scorer without a model.
    #[must_use]
    pub fn new(plan: ModelPlan) -> Self {
        Self {
            plan,
            traffic: ArcSwap::default(),
            changing: Mutex::default(),
        }
    }

    /// The champion, which serves now.
    #[must_use]
    pub fn serving(&self) -> Option<Arc<Serving>> {
        self.traffic.load().champion.clone()
    }

    /// The version of that number, if it serves now.
    #[must_use]
    pub fn of_version(&self, version: u64) -> Option<Arc<Serving>> {
        let traffic = self.traffic.load();
        let canary = traffic.canary.as_ref().map(|(canary, _)| canary);
        let serving = traffic.champion.iter().chain(canary);
        serving
            .into_iter()
            .find(|serving| serving.version == version)
            .cloned()
    }

    /// Begins a change of who answers, after those that are under way. Requests do not wait for it.
    ///
    /// Who writes a decision to the registry, or reads what was decided, does so after this and before the change itself:
    /// so what was decided earlier never takes the place of what was decided later. A thread that has begun one ends it
    /// before it begins another, or [follows](Self::follow).
    #[must_use]
    pub fn change(&self) -> Change<'_> {
        // Who panicked has stored all of its change, or nothing.
        let alone = self.changing.lock();
        Change {
            scorer: self,
            _alone: alone.unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn serve(&self, manifest: Manifest, model: Model) -> Outcome<Arc<Serving>> {
        self.plan.check_inputs(&manifest)?;
        Ok(Arc::new(Serving {
            version: manifest.version,
            model,
            manifest,
        }))
    }

    /// Loads the registry's champion and its canary where they are not the versions that serve. True where one was
    /// not.
    ///
    /// # Errors
    /// A damaged version, or one with other inputs.
    pub fn follow(&self, registry: &Registry) -> Outcome<bool> {
        let change = self.change();
        let traffic = self.traffic.load_full();
        let serves = traffic.champion.as_ref().map(|serving| serving.version);
        let Aliases {
            champion,
            challenger,
        } = registry.aliases()?;
        let mut moved = false;
        if let Some(version) = champion.filter(|version| Some(*version) != serves) {
            let (manifest, checkpoint) = registry.load(version)?;
            change.swap(manifest, Model::new(&checkpoint))?;
            moved = true;
        }
        let canary = traffic
            .canary
            .as_ref()
            .map(|(serving, percent)| (serving.version, *percent));
        let wanted =
            challenger.filter(|(version, percent)| *percent > 0 && Some(*version) != champion);
        match wanted {
            None if canary.is_some() => {
                change.end_canary();
                moved = true;
            }
            Some((version, percent)) if wanted != canary => {
                let (manifest, checkpoint) = registry.load(version)?;
                change.start_canary(manifest, Model::new(&checkpoint), percent)?;
                moved = true;
            }
            _ => {}
        }
        Ok(moved)
    }

    /// Scores `events` of the model's stream, each as of its own event time.
    ///
    /// # Errors
    /// A state that cannot be read, or an expression of the inputs that fails.
    pub fn score(&self, state: &dyn StateReader, events: &RecordBatch) -> Outcome<Scores> {
        self.score_and_sum_up(state, events, &mut |_| ())
    }

    /// As [`score`](Self::score); `tiles` gets the partial aggregates that were made on the way.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn score_and_sum_up(
        &self,
        state: &dyn StateReader,
        events: &RecordBatch,
        tiles: &mut dyn FnMut(Tile),
    ) -> Outcome<Scores> {
        let step = traces::step("look-up");
        let inputs = self.plan.inputs.evaluate_and_sum_up(state, events, tiles)?;
        let matrix = self.plan.inputs.matrix(&inputs)?;
        drop(step);
        let mut step = traces::step("model");
        let traffic = self.traffic.load();
        let mut versions = vec![0; events.num_rows()];
        let mut probabilities = None;
        if let Some(champion) = &traffic.champion {
            versions.fill(champion.version);
            step.note("millrace.model.version", champion.version as i64);
            let mut scores = champion.model.score(&matrix)?;
            if let Some((canary, percent)) = &traffic.canary {
                let width = canary.model.width();
                for row in self.in_canary(events, *percent) {
                    let inputs = &matrix[row * width..(row + 1) * width];
                    scores[row] = canary.model.score(inputs)?[0];
                    versions[row] = canary.version;
                }
            }
            probabilities = Some(scores);
        }
        Ok(Scores {
            inputs,
            matrix,
            probabilities,
            versions,
        })
    }

    /// The rows that a canary answers for. An entity is always on the same side: the topic's key, or the event's id
    /// where it has none, and a larger share keeps all of a smaller one.
    fn in_canary(&self, events: &RecordBatch, percent: u8) -> Vec<usize> {
        let key = self.plan.inputs.stream.key.unwrap_or(self.plan.event_id);
        let keys = pack_keys(&[Arc::clone(events.column(key))]);
        let is_in = |key: &[u8]| xxh3_64(key) % 100 < u64::from(percent);
        let rows = keys.iter().enumerate();
        rows.filter(|(_, key)| is_in(key))
            .map(|(row, _)| row)
            .collect()
    }
}

impl Change<'_> {
    /// Lets a version take the traffic from the next request on, and ends a canary that it was.
    ///
    /// # Errors
    /// A model that was trained on other inputs than the project's.
    pub fn swap(&self, manifest: Manifest, model: Model) -> Outcome<()> {
        let champion = self.scorer.serve(manifest, model)?;
        let version = champion.version;
        self.make(|traffic| Traffic {
            champion: Some(champion),
            canary: traffic
                .canary
                .filter(|(canary, _)| canary.version != version),
        });
        metrics::gauge!("millrace_model_version").set(version as f64);
        Ok(())
    }

    /// Lets a version answer for `percent` of a hundred entities from the next request on.
    ///
    /// # Errors
    /// A model that was trained on other inputs than the project's.
    pub fn start_canary(&self, manifest: Manifest, model: Model, percent: u8) -> Outcome<()> {
        let canary = self.scorer.serve(manifest, model)?;
        self.make(|traffic| Traffic {
            canary: Some((canary, percent)),
            ..traffic
        });
        Ok(())
    }

    /// Gives the whole traffic to the champion.
    pub fn end_canary(&self) {
        self.make(|traffic| Traffic {
            canary: None,
            ..traffic
        });
    }

    fn make(&self, change: impl FnOnce(Traffic) -> Traffic) {
        let before = self.scorer.traffic.load().as_ref().clone();
        self.scorer.traffic.store(Arc::new(change(before)));
    }
}
