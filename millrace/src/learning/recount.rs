//! How often labels said fraud, counted again by a process that starts: too seldom for long, or too often together. The
//! first is also counted again where labels are released that were put aside. What comes of it says `checks.rs`.

use millrace_learner::Check;

use super::Learning;
use super::checks::lack_after;
use super::history::History;
use super::line::{Known, Line};
use super::past::Past;
use crate::failure::Outcome;
use crate::settings::micros;

/// Newest labels that are counted again.
const HEARD: usize = 20_000;
/// So many times as many frauds as are usual now may have been usual then.
const MORE_USUAL: f64 = 2.0;

impl Learning {
    /// Counts again how often labels have said fraud, period by period, since they last surely did often enough: by the
    /// newest version of the champion's line that had not learned the first of them.
    ///
    /// # Errors
    /// A registry that cannot be read, or inputs that a version cannot score.
    pub(super) fn recall_silence(&mut self, known: &mut Known) -> Outcome<()> {
        let Some(checks) = &self.checks else {
            return Ok(());
        };
        let (labels, frauds) = checks.believed();
        let usual = frauds as f64 / labels.max(1) as f64;
        let every = micros(self.plan().settings.every);
        let until = self.judged_until();
        let believed = self.history.numbered(0, until);
        let first = self.first_since_none_lacked(&believed, usual, every);
        let after = first.checked_sub(1).map(|last| believed[last]);
        let after = after.map_or(0, |row| self.history.number(row));
        let heard = self.heard_by_silence(after, until);
        let rows = self.history.by_number(&heard);
        if rows.is_empty() {
            return Ok(());
        }
        let later = &believed[first..];
        let is_fraud = |row: &&usize| self.history.is_fraud(**row);
        let later = (later.len(), later.iter().filter(is_fraud).count());
        let usual = (frauds - later.1) as f64 / (labels - later.0).max(1) as f64;
        let line = self.line(after + 1, known)?;
        let history = &self.history;
        let Some(checks) = &mut self.checks else {
            return Ok(());
        };
        let gate = &self.workspace.settings.learner.gate;
        let period = |(_, row): &(u64, usize)| history.period(*row, every);
        for rows in rows.chunk_by(|a, b| period(a) == period(b)) {
            let Some((number, _)) = rows.first() else {
                continue;
            };
            // Where no version is left that has not learned them, nothing can be said.
            let Some(model) = line.model_of(*number) else {
                continue;
            };
            let labels = history.unweighted(rows.iter().map(|(_, row)| *row))?;
            checks.recall_silence(&labels, model, usual, gate)?;
        }
        Ok(())
    }

    /// Rows after a number, up to another, whose frauds were counted for whether they are too few.
    fn heard_by_silence(&self, after: u64, until: u64) -> Vec<usize> {
        let numbers = after + 1..=until;
        self.history.believed_or(&[Check::Silence], &numbers)
    }

    /// Where in believed rows the period begins that follows the newest after which no frauds can have lacked, of the newest
    /// of them.
    fn first_since_none_lacked(&self, believed: &[usize], usual: f64, every: i64) -> usize {
        let ratio = self.settings().gate.max_fraud_ratio;
        let period = |row: &usize| self.history.period(*row, every);
        let mut first = believed.len().saturating_sub(HEARD);
        let mut seen = 0;
        // The most that can have lacked, whatever a champion expected: never more is taken than what was usual.
        let mut lack = f64::INFINITY;
        let rows = self.heard_by_silence(0, self.judged_until());
        for rows in rows.chunk_by(|a, b| period(a) == period(b)) {
            let frauds = rows.iter().filter(|row| self.history.is_fraud(**row));
            let expected = MORE_USUAL * usual * rows.len() as f64;
            lack = lack_after(lack, frauds.count(), expected, ratio);
            let is_believed = |row: &&usize| believed.binary_search(*row).is_ok();
            seen += rows.iter().filter(is_believed).count();
            if lack <= 0.0 {
                first = first.max(seen);
            }
        }
        first
    }

    /// Rows, by number, of the newest period that was put aside for a flood of frauds, and of those that were counted since:
    /// frauds are counted from there on. Of the periods that were put aside for another reason, those with too few frauds
    /// were counted: that is asked only after this.
    pub(super) fn rows_of_flood(
        &self,
        past: &Past,
        until: u64,
    ) -> (Vec<(u64, usize)>, Vec<(u64, usize)>) {
        let history = &self.history;
        let since = past.flood_until + 1..=until;
        let mut heard = history.by_number(&history.believed_or(&[Check::Silence], &since));
        let surplus = heard.len().saturating_sub(HEARD);
        heard.drain(..surplus);
        match &past.flood {
            Some(flood) if surplus == 0 => (history.by_number(&history.among(flood)), heard),
            _ => (Vec::new(), heard),
        }
    }

    /// Counts again for a flood of frauds, period by period.
    pub(super) fn recall_flood(
        &mut self,
        line: &Line,
        flood: &[(u64, usize)],
        heard: &[(u64, usize)],
    ) -> Outcome<()> {
        let every = micros(self.plan().settings.every);
        let history = &self.history;
        let period = |(_, row): &(u64, usize)| history.period(*row, every);
        let Some(checks) = &mut self.checks else {
            return Ok(());
        };
        let gate = &self.workspace.settings.learner.gate;
        let (labels, scores) = scored_again(history, line, flood)?;
        checks.begin_flood(labels, scores);
        for rows in heard.chunk_by(|a, b| period(a) == period(b)) {
            let (labels, scores) = scored_again(history, line, rows)?;
            checks.recall_flood(&labels, &scores, gate);
        }
        Ok(())
    }
}

/// Labels of rows, and the probabilities that a line gives them.
fn scored_again(
    history: &History,
    line: &Line,
    rows: &[(u64, usize)],
) -> Outcome<(Vec<f32>, Vec<f32>)> {
    let (mut labels, mut scores) = (Vec::new(), Vec::new());
    for run in line.runs(history, rows) {
        let run = run?;
        scores.extend(run.model.score(run.labels.inputs())?);
        labels.extend_from_slice(run.labels.labels());
    }
    Ok((labels, scores))
}
