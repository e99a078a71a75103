//! What is known about a model version besides its numbers: `manifest.json`.
//!
//! Where the file lies is in [`crate::Registry`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::calibration::Calibration;
use crate::error::{InputsDiffer, LearnerError};
use crate::journal::Made;
use crate::metrics::Metrics;

/// The description of one model version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version, counted from 1. [`crate::Registry::publish`] gives it.
    pub version: u64,
    /// The version that this one was warm-started from; none for a model that started afresh.
    pub parent: Option<u64>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Names of the inputs, in the order of a row.
    pub inputs: Vec<String>,
    /// Identifies what the inputs mean: see [`inputs_hash`].
    pub inputs_hash: String,
    /// For each input, a fingerprint of what it means. None where an older release made it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub meanings: Vec<String>,
    /// Sequence number of the last label that it has learned.
    pub label_position: u64,
    /// Event time of the newest label that it has learned, in microseconds since 1970.
    pub trained_until_us: i64,
    /// Fresh rows that its update learned.
    pub rows: u64,
    /// Rows of the history that its update learned again.
    pub replayed: u64,
    /// Labels that were known when this model, or the ancestor that it goes back to, started afresh: all that had come since
    /// the first model knew some, whether the newest alone were kept or not.
    pub fitted_rows: u64,
    /// Sequence number of the last of them. 0 where an older release made it.
    #[serde(default)]
    pub fitted_position: u64,
    /// The seed of its update.
    pub seed: u64,
    /// The version of Millrace that made it.
    pub code_version: String,
    /// The parent's metrics on the fresh rows, which it had not seen.
    pub before: Option<Metrics>,
    /// This version's metrics on the fresh rows, which it has learned.
    pub after: Metrics,
    /// How the parent's live scores did against the labels that came back since its own update.
    pub prequential: Option<Prequential>,
    /// The last step of its scores, which its weights' file has too. The identity where an older release made it.
    #[serde(default)]
    pub calibration: Calibration,
    /// Where it was trained: `cpu`, `cuda:0`, …
    pub device: String,
    /// The data that it knows: the next offset of each partition, by topic, that the store reflected when it was made.
    /// None where events came from files, or an older release made it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offsets: BTreeMap<String, BTreeMap<i32, i64>>,
    /// The settings of its update, by name ([`crate::LearnerSettings`]). None where an older release made it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, serde_json::Value>,
    /// The SHA-256 of each of its files, by the file's name, in hexadecimal digits. [`crate::Registry::publish`] gives
    /// them. None where an older release made it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
}

/// Scores that were given before the labels were known, against those labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prequential {
    /// Area under the precision-recall steps; none with few frauds.
    pub average_precision: Option<f64>,
    /// Scored events whose label came back.
    pub rows: u64,
    /// Frauds among them.
    pub frauds: u64,
}

impl Manifest {
    /// What the registry's log says of a version that was made, but for what is watched meanwhile.
    pub fn made(&self) -> Made {
        Made {
            parent: self.parent,
            label_position: self.label_position,
            trained_until_us: self.trained_until_us,
            watched: None,
        }
    }

    /// Whether the model's inputs are the project's: the same names in the same order with the same
    /// meaning.
    ///
    /// # Errors
    /// [`LearnerError::InputsDiffer`], with what a message needs: for that, `meanings` has a fingerprint of each input.
    pub fn check_inputs(
        &self,
        inputs: &[String],
        hash: &str,
        meanings: &[String],
    ) -> Result<(), LearnerError> {
        if self.inputs == inputs && self.inputs_hash == hash {
            return Ok(());
        }
        let known = self.inputs.iter().zip(&self.meanings);
        let known: BTreeMap<&String, &String> = known.collect();
        let has_changed = |(name, meaning): &(&String, &String)| {
            known.get(name).is_some_and(|before| before != meaning)
        };
        let changed = inputs.iter().zip(meanings).filter(has_changed);
        Err(LearnerError::InputsDiffer(Box::new(InputsDiffer {
            version: self.version,
            added: missing_from(&self.inputs, inputs),
            removed: missing_from(inputs, &self.inputs),
            changed: changed.map(|(name, _)| name.clone()).collect(),
            model: self.inputs.clone(),
            project: inputs.to_vec(),
        })))
    }
}

fn missing_from(known: &[String], names: &[String]) -> Vec<String> {
    let new = names.iter().filter(|name| !known.contains(name));
    new.cloned().collect()
}

/// A stable fingerprint of texts, in order: the inputs' names, or whatever defines them. 64-bit
/// FNV-1a over each text and a byte that no text contains, as 16 hexadecimal digits.
pub fn inputs_hash<S: AsRef<str>>(texts: &[S]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in texts {
        for byte in text.as_ref().bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manifest of release 0.1.0.
    const FIRST: &str = r#"{"version":3,"parent":2,"created":"2026-01-02T03:04:05Z","inputs":["amount"],
        "inputs_hash":"c9fdd8ee727da93d","label_position":17,"trained_until_us":5,"rows":4,"replayed":0,
        "fitted_rows":4,"seed":7,"code_version":"0.1.0","before":null,
        "after":{"rows":4,"frauds":1,"mean_prediction":0.25,"log_loss":0.5,"average_precision":1.0,"roc_auc":null},
        "prequential":null,"device":"cpu"}"#;

    #[test]
    fn an_older_manifest_is_read() {
        let manifest = serde_json::from_str::<Manifest>(FIRST);
        let manifest = manifest.unwrap_or_else(|error| panic!("{error}"));
        assert!(manifest.offsets.is_empty() && manifest.settings.is_empty());
        assert!(manifest.sha256.is_empty());
        assert!(manifest.calibration.is_identity());
    }

    #[test]
    fn the_hash_is_pinned_and_tells_borders() {
        assert_eq!(inputs_hash(&["amount", "hour"]), "c9fdd8ee727da93d");
        assert_ne!(inputs_hash(&["ab", "c"]), inputs_hash(&["a", "bc"]));
        assert_ne!(inputs_hash(&["a", "b"]), inputs_hash(&["b", "a"]));
    }
}
