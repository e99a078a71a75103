//! How well what served has ranked labels that it had not learned: its prequential average precision.

use millrace_learner::{Examples, Prequential, average_precision};

use super::Learning;
use super::line::Known;
use crate::failure::Outcome;

/// Labels over which prequential average precision is taken: enough for some frauds at 1 in 100.
const ROWS: usize = 20_000;

/// Frauds among them that it takes: of one, any ranking may have made a perfect figure.
const FRAUDS: u64 = 10;

impl Learning {
    /// Adds the champion's log odds of fresh labels, which it has not seen.
    pub(super) fn remember_scores(&mut self, served: &[f32], fresh: &Examples) {
        let labels = fresh.labels().iter().map(|label| *label > 0.5);
        self.prequential.extend(served.iter().copied().zip(labels));
        let surplus = self.prequential.len().saturating_sub(ROWS);
        self.prequential.drain(..surplus);
    }

    /// How well what served has ranked the newest labels.
    pub(super) fn prequential(&self) -> Prequential {
        let scored = self.prequential.iter();
        let (scores, labels): (Vec<f32>, Vec<f32>) = scored
            .map(|(score, fraud)| (*score, f32::from(u8::from(*fraud))))
            .unzip();
        let frauds = labels.iter().filter(|label| **label > 0.5).count() as u64;
        let precision = average_precision(&scores, &labels, &vec![1.0; labels.len()])
            .filter(|_| frauds >= FRAUDS);
        if let Some(value) = precision {
            metrics::gauge!("millrace_prequential_average_precision").set(value);
        }
        Prequential {
            average_precision: precision,
            rows: labels.len() as u64,
            frauds,
        }
    }

    /// Scores again the newest labels that served versions have scored, by which it is told how well they do.
    pub(super) fn recall_prequential(&mut self, known: &mut Known) -> Outcome<()> {
        self.prequential.clear();
        let rows = self.history.numbered(0, self.dealt_with);
        let newest = rows.len().saturating_sub(ROWS);
        let rows = self.history.by_number(&rows[newest..]);
        let Some((oldest, _)) = rows.first() else {
            return Ok(());
        };
        let line = self.served_line(*oldest, known)?;
        for run in line.runs(&self.history, &rows) {
            let run = run?;
            let logits = run.model.logits(run.labels.inputs())?;
            let frauds = run.labels.labels().iter().map(|label| *label > 0.5);
            self.prequential.extend(logits.into_iter().zip(frauds));
        }
        Ok(())
    }
}
