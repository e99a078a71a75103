//! From events to fraud probabilities: inputs as of each event's time, through the serving model.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use arrow::array::RecordBatch;
use millrace_features::{StateReader, Tile};
use millrace_learner::{LearnerError, Manifest, Model, Registry};

use crate::failure::{Failure, Outcome, with_causes};
use crate::workspace::ModelPlan;

/// Scores with whichever model serves. A swap never makes a request wait: each takes the pointer once.
pub struct Scorer {
    /// What the model sees.
    pub plan: ModelPlan,
    serving: ArcSwapOption<Serving>,
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
    /// The same, row-major; null is NaN.
    pub matrix: Vec<f32>,
    /// Probabilities of fraud, one a row; none before there is a first model.
    pub probabilities: Option<Vec<f32>>,
    /// The version that gave them, 0 before there is a first model.
    pub version: u64,
}

impl Scorer {
    /// A scorer without a model.
    #[must_use]
    pub fn new(plan: ModelPlan) -> Self {
        Self {
            plan,
            serving: ArcSwapOption::empty(),
        }
    }

    /// The version that serves now.
    #[must_use]
    pub fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.load_full()
    }

    /// Lets a version take the traffic from the next request on.
    ///
    /// # Errors
    /// A model that was trained on other inputs than the project's.
    pub fn swap(&self, manifest: Manifest, model: Model) -> Outcome<()> {
        manifest
            .check_inputs(&self.plan.input_names(), &self.plan.inputs_hash())
            .map_err(|e| other_inputs(&e))?;
        let serving = Serving {
            version: manifest.version,
            model,
            manifest,
        };
        self.serving.store(Some(Arc::new(serving)));
        Ok(())
    }

    /// Loads the registry's champion where it is not the version that serves. True when it was.
    ///
    /// # Errors
    /// A damaged version, or one with other inputs.
    pub fn follow(&self, registry: &Registry) -> Outcome<bool> {
        let Some(champion) = registry.champion()? else {
            return Ok(false);
        };
        if self
            .serving()
            .is_some_and(|serving| serving.version == champion)
        {
            return Ok(false);
        }
        let (manifest, checkpoint) = registry.load(champion)?;
        let model = Model::new(&checkpoint);
        self.swap(manifest, model)?;
        Ok(true)
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
        let inputs = self.plan.inputs.evaluate_and_sum_up(state, events, tiles)?;
        let matrix = self.plan.inputs.matrix(&inputs)?;
        let serving = self.serving.load();
        let (version, probabilities) = match serving.as_ref() {
            Some(serving) => (serving.version, Some(serving.model.score(&matrix)?)),
            None => (0, None),
        };
        Ok(Scores {
            inputs,
            matrix,
            probabilities,
            version,
        })
    }
}

fn other_inputs(error: &LearnerError) -> Failure {
    Failure::input(with_causes(error)).hint(
        "go back to the inputs that it was trained on, or give model.registry a new folder to \
         start a model afresh",
    )
}
