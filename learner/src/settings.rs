//! The learner's settings: plain data with one place for the defaults.
//!
//! The device is not among them, for it belongs to the machine and not to the model: see
//! [`crate::Device`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::LearnerError;

/// How the model is built and trained. Every field has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerSettings {
    /// Most bins that the encoder cuts one input into. Takes effect when a model starts afresh.
    pub bins: usize,
    /// Units of each hidden layer, first to last; none is a logistic regression. Takes effect when a
    /// model starts afresh.
    pub hidden: Vec<usize>,
    /// Networks whose probabilities are averaged; they share most of their weights. 1 is a plain
    /// multi-layer perceptron. Takes effect when a model starts afresh.
    pub members: usize,
    /// Share of the hidden units that are silenced at random in each training step, 0 ≤ d < 1.
    pub dropout: f32,
    /// Rows in one training step.
    pub batch_rows: usize,
    /// Most passes over the rows when a model starts afresh. Where the rows are many, the newest
    /// tenth is held back, and the passes end when they no longer help on it.
    pub initial_passes: usize,
    /// Most frauds that a model starts afresh from.
    pub initial_frauds: usize,
    /// Most genuine events that a model starts afresh from.
    pub initial_negatives: usize,
    /// Step size of AdamW at the start of the first update; it falls in a straight line to
    /// `learning_rate` by its end.
    pub initial_learning_rate: f64,
    /// Passes over the rows in each later update.
    pub passes: usize,
    /// Step size of AdamW in each later update.
    pub learning_rate: f64,
    /// Decoupled weight decay of AdamW: the share of a weight lost in one step is this times the
    /// step size.
    pub weight_decay: f32,
    /// Most frauds of the recent history that one update learns again.
    pub replay_frauds: usize,
    /// Most genuine events of the recent history that one update learns again.
    pub replay_negatives: usize,
    /// Total weight of the replayed rows divided by the total weight of the fresh ones. A small
    /// number follows the newest labels closely, a large one forgets slowly.
    pub replay_weight: f32,
    /// How far a later update may move the log odds of the rows that it learns, in nats, as a mean
    /// over the rows. One that would move them farther is shortened to this.
    pub max_shift: f32,
    /// Newest updates whose mean serves. 1: what the last one left.
    pub averaged_updates: u64,
}

impl Default for LearnerSettings {
    fn default() -> Self {
        Self {
            bins: 24,
            hidden: vec![128, 64],
            members: 8,
            dropout: 0.0,
            batch_rows: 256,
            initial_passes: 8,
            initial_frauds: 10_000,
            initial_negatives: 400_000,
            initial_learning_rate: 2e-3,
            passes: 1,
            learning_rate: 2e-3,
            weight_decay: 1e-2,
            replay_frauds: 1_200,
            replay_negatives: 2_400,
            replay_weight: 8.0,
            max_shift: 1.0,
            averaged_updates: 48,
        }
    }
}

/// The network has a column for each bin of each input: more than this is a slip, and takes all memory.
const MOST_BINS: usize = 1_024;

impl LearnerSettings {
    /// Every setting by name, as a manifest keeps it: another release, which has other settings, reads it too.
    ///
    /// # Errors
    /// [`LearnerError::Bug`] for a value that JSON does not have.
    pub fn to_json(&self) -> Result<BTreeMap<String, serde_json::Value>, LearnerError> {
        let bug = |error: serde_json::Error| LearnerError::Bug(error.to_string());
        let value = serde_json::to_value(self).map_err(bug)?;
        serde_json::from_value(value).map_err(bug)
    }

    /// Says which setting is out of its range, if one is.
    ///
    /// # Errors
    /// [`LearnerError::Setting`] with the name of the first such setting.
    pub fn check(&self) -> Result<(), LearnerError> {
        let at_least_one = [
            ("bins", self.bins),
            ("members", self.members),
            ("batch_rows", self.batch_rows),
            ("initial_passes", self.initial_passes),
            ("passes", self.passes),
        ];
        for (name, value) in at_least_one {
            require(name, value >= 1, || format!("{value} is below 1"))?;
        }
        require("bins", self.bins <= MOST_BINS, || {
            format!("{} is above {MOST_BINS}", self.bins)
        })?;
        require(
            "initial_negatives",
            self.initial_frauds > 0 || self.initial_negatives > 0,
            || "a model starts from nothing where initial_frauds is 0 too".to_owned(),
        )?;
        let positive = [
            ("initial_learning_rate", self.initial_learning_rate),
            ("learning_rate", self.learning_rate),
            ("replay_weight", f64::from(self.replay_weight)),
            ("max_shift", f64::from(self.max_shift)),
        ];
        for (name, value) in positive {
            require(name, value.is_finite() && value > 0.0, || {
                format!("{value} is not above 0")
            })?;
        }
        require(
            "hidden",
            self.hidden.iter().all(|units| *units >= 1),
            || "a layer has no units".to_owned(),
        )?;
        require("dropout", (0.0..1.0).contains(&self.dropout), || {
            format!("{} is not in 0 ≤ d < 1", self.dropout)
        })?;
        let decay = self.weight_decay;
        require("weight_decay", decay.is_finite() && decay >= 0.0, || {
            format!("{decay} is below 0")
        })
    }
}

fn require(
    name: &'static str,
    holds: bool,
    reason: impl FnOnce() -> String,
) -> Result<(), LearnerError> {
    if holds {
        return Ok(());
    }
    Err(LearnerError::Setting {
        name,
        reason: reason(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_an_empty_section_is_the_defaults() {
        LearnerSettings::default().check().unwrap();
        let empty: LearnerSettings = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, LearnerSettings::default());
        assert!(serde_json::from_str::<LearnerSettings>(r#"{"bin": 3}"#).is_err());
    }

    #[test]
    fn a_bad_setting_is_named() {
        let bad = |change: fn(&mut LearnerSettings)| {
            let mut settings = LearnerSettings::default();
            change(&mut settings);
            match settings.check() {
                Err(LearnerError::Setting { name, .. }) => name,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(bad(|s| s.bins = 0), "bins");
        assert_eq!(bad(|s| s.bins = 100_000), "bins");
        let nothing = |s: &mut LearnerSettings| (s.initial_frauds, s.initial_negatives) = (0, 0);
        assert_eq!(bad(nothing), "initial_negatives");
        assert_eq!(bad(|s| s.hidden = vec![8, 0]), "hidden");
        assert_eq!(bad(|s| s.members = 0), "members");
        assert_eq!(bad(|s| s.max_shift = 0.0), "max_shift");
        assert_eq!(bad(|s| s.dropout = 1.0), "dropout");
        assert_eq!(bad(|s| s.dropout = f32::NAN), "dropout");
        assert_eq!(bad(|s| s.learning_rate = 0.0), "learning_rate");
        assert_eq!(bad(|s| s.replay_weight = f32::INFINITY), "replay_weight");
        assert_eq!(bad(|s| s.weight_decay = -1.0), "weight_decay");
    }
}
