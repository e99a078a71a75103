use std::collections::BTreeMap;

use millrace_learner::{Manifest, Update, inputs_hash};

/// What would be written of a version that an update made.
#[must_use]
pub fn manifest(version: u64, inputs: Vec<String>, update: &Update) -> Manifest {
    Manifest {
        version,
        parent: None,
        created: "2026-01-01T00:00:00Z".to_owned(),
        inputs_hash: inputs_hash(&inputs),
        meanings: Vec::new(),
        inputs,
        label_position: 0,
        trained_until_us: 0,
        rows: update.rows,
        replayed: 0,
        fitted_rows: 0,
        fitted_position: 0,
        seed: 0,
        code_version: "bench".to_owned(),
        before: None,
        after: update.metrics.after,
        prequential: None,
        calibration: update.checkpoint.calibration(),
        device: "cpu".to_owned(),
        offsets: BTreeMap::new(),
        settings: BTreeMap::new(),
        sha256: BTreeMap::new(),
    }
}
