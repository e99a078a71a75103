//! How often labels said fraud, counted again by a process that starts.

use super::silence::is_usual;
use crate::failure::Outcome;
use crate::learning::Learning;
use crate::learning::past::Past;
use crate::settings::micros;

/// Labels that are looked at.
const HEARD: usize = 20_000;

impl Learning {
    /// Counts again how often labels have said fraud, period by period, since they last did about as often as usual: by the
    /// newest version of the champion's line that had not learned the first of them.
    ///
    /// # Errors
    /// A registry that cannot be read, or inputs that a version cannot score.
    pub(in crate::learning) fn recall_silence(&mut self, past: &Past) -> Outcome<()> {
        let Some(checks) = &self.checks else {
            return Ok(());
        };
        let (labels, frauds) = checks.believed;
        let usual = frauds as f64 / labels.max(1) as f64;
        let every = micros(self.plan().settings.every);
        let believed = self.history.numbered(0, self.dealt_with);
        let first = self.first_since_usual(&believed, usual, every);
        let after = first.checked_sub(1).map(|last| believed[last]);
        let after = after.map_or(0, |row| self.history.number(row));
        // Those that were put aside too: whether it was for this is seen again.
        let rows = self.history.among(&(after + 1..=self.dealt_with));
        let rows = self.history.by_number(&rows);
        if rows.is_empty() {
            return Ok(());
        }
        let later = &believed[first..];
        let is_fraud = |row: &&usize| self.history.is_fraud(**row);
        let later = (later.len(), later.iter().filter(is_fraud).count());
        let usual = (frauds - later.1) as f64 / (labels - later.0).max(1) as f64;
        let line = self.line(after + 1, past)?;
        let history = &self.history;
        let Some(checks) = &mut self.checks else {
            return Ok(());
        };
        let gate = &self.workspace.settings.learner.gate;
        let period = |row: usize| history.known_us(row).div_euclid(every);
        for rows in rows.chunk_by(|a, b| period(a.1) == period(b.1)) {
            let Some((number, first)) = rows.first() else {
                continue;
            };
            // Where no version is left that has not learned them, nothing can be said.
            let Some(model) = line.model_of(*number) else {
                continue;
            };
            let is_aside = believed.binary_search(first).is_err();
            let labels = history.unweighted(rows.iter().map(|(_, row)| *row))?;
            checks.recall_silence(&labels, model, usual, is_aside, gate)?;
        }
        Ok(())
    }

    /// Where in believed rows the period begins that follows the newest which said fraud as often as usual, of the newest
    /// of them.
    fn first_since_usual(&self, believed: &[usize], usual: f64, every: i64) -> usize {
        let period = |row: &usize| self.history.known_us(*row).div_euclid(every);
        let mut first = believed.len().saturating_sub(HEARD);
        let mut seen = 0;
        for rows in believed.chunk_by(|a, b| period(a) == period(b)) {
            seen += rows.len();
            let frauds = rows.iter().filter(|row| self.history.is_fraud(**row));
            // Whatever a champion expected of them: never more is taken than this.
            if is_usual(frauds.count(), usual * rows.len() as f64) {
                first = first.max(seen);
            }
        }
        first
    }
}
