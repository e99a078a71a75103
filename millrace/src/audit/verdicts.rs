//! What the model of a version says of inputs that the log has: the score that should stand beside them.
//!
//! A version never changes, and a row's score does not depend on the rows beside it. A version that the registry no
//! longer has can say nothing, nor can a registry that does not answer: such scores are not checked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millrace_learner::{Model, Registry};

use super::logged::LoggedBatch;
use crate::failure::{Failure, Outcome};
use crate::registry::is_away;
use crate::workspace::{ModelPlan, Workspace};

/// Scores that are nearer to each other than this are the same: two machines may add up otherwise.
const SAME: f64 = 1e-6;

/// Models that are in memory at a time. A log has the versions in their order, about.
const MOST_MODELS: usize = 32;

/// What the score of a row should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Expected {
    /// Nobody can say.
    Unknown,
    /// Null before there was a first model.
    Score(Option<f32>),
}

/// The versions that gave the scores of a log.
pub(super) struct Verdicts<'a> {
    plan: &'a ModelPlan,
    registry: Option<Registry>,
    models: HashMap<u64, Option<Arc<Model>>>,
    /// Why a score cannot be checked: the first reason.
    pub(super) why_unchecked: Option<String>,
}

impl<'a> Verdicts<'a> {
    pub(super) fn new(workspace: &Workspace, plan: &'a ModelPlan) -> Self {
        let place = workspace.registry();
        let registry = place.and_then(|place| place.open_existing());
        let (registry, why_unchecked) = match registry {
            Ok(Some(registry)) => (Some(registry), None),
            Ok(None) => (None, Some("there is no registry of models".to_owned())),
            Err(failure) => (None, Some(failure.message)),
        };
        Self {
            plan,
            registry,
            models: HashMap::new(),
            why_unchecked,
        }
    }

    /// What the scores of some rows of a batch should be.
    ///
    /// # Errors
    /// Inputs that no model takes.
    pub(super) fn expected(
        &mut self,
        batch: &LoggedBatch,
        rows: &[usize],
    ) -> Outcome<Vec<Expected>> {
        let mut expected = vec![Expected::Unknown; rows.len()];
        let Some(inputs) = &batch.inputs else {
            let why = "the inputs meant something else when they were scored".to_owned();
            self.why_unchecked.get_or_insert(why);
            return Ok(expected);
        };
        let matrix = self.plan.inputs.matrix(inputs)?;
        let width = inputs.num_columns();
        let mut of_version: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate() {
            let version = batch.versions.value(*row);
            of_version.entry(version).or_default().push(place);
        }
        for (version, places) in of_version {
            if version == 0 {
                for place in places {
                    expected[place] = Expected::Score(None);
                }
                continue;
            }
            let Some(model) = self.model(version as u64) else {
                continue;
            };
            let of_rows = places.iter().flat_map(|place| {
                let row = rows[*place];
                &matrix[row * width..(row + 1) * width]
            });
            let inputs: Vec<f32> = of_rows.copied().collect();
            for (place, score) in places.iter().zip(model.score(&inputs)?) {
                expected[*place] = Expected::Score(Some(score));
            }
        }
        Ok(expected)
    }

    fn model(&mut self, version: u64) -> Option<Arc<Model>> {
        if let Some(known) = self.models.get(&version) {
            return known.clone();
        }
        let model = match self.load(version) {
            Ok(model) => Some(model),
            Err(failure) => {
                if is_away(&failure) {
                    // It is not asked again for each version.
                    self.registry = None;
                }
                self.why_unchecked.get_or_insert(failure.message);
                None
            }
        };
        if self.models.len() >= MOST_MODELS {
            self.models.clear();
        }
        self.models.insert(version, model.clone());
        model
    }

    fn load(&self, version: u64) -> Outcome<Arc<Model>> {
        let registry = self.registry.as_ref();
        let registry = registry.ok_or_else(|| Failure::failed("there is no registry of models"))?;
        let (manifest, checkpoint) = registry.load(version)?;
        self.plan.check_inputs(&manifest)?;
        Ok(Arc::new(Model::new(&checkpoint)))
    }
}

/// Whether a logged score is the one that a model gives.
pub(super) fn is_same(logged: Option<f64>, expected: Option<f32>) -> bool {
    match (logged, expected) {
        (None, None) => true,
        (Some(logged), Some(expected)) => (logged - f64::from(expected)).abs() <= SAME,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_same_within_a_millionth() {
        for (logged, expected, same) in [
            (None, None, true),
            (Some(0.25), Some(0.25), true),
            (Some(0.250_000_5), Some(0.25), true),
            (Some(0.250_01), Some(0.25), false),
            (Some(f64::NAN), Some(0.25), false),
            (None, Some(0.25), false),
            (Some(0.25), None, false),
        ] {
            assert_eq!(is_same(logged, expected), same, "{logged:?} {expected:?}");
        }
    }
}
