//! What versions under test were tested on before a process started. The log keeps what came of a test and not the
//! scores; the labels are in the store, and are scored again.

use std::collections::BTreeSet;

use millrace_learner::Paired;

use super::trial::Trial;
use super::{Held, Learning};
use crate::failure::Outcome;

impl Learning {
    /// Scores again what versions under test had been tested on. `replaced` are versions that a newer one took the place
    /// of in the test, and that are kept.
    pub(super) fn recall_tests(&mut self, replaced: &BTreeSet<u64>) -> Outcome<()> {
        if let Some((mut trial, step)) = self.canary.take() {
            self.recall(&mut trial, replaced)?;
            self.canary = Some((trial, step));
        }
        if let Some(mut trial) = self.shadow.take() {
            self.recall(&mut trial, replaced)?;
            self.shadow = Some(trial);
        }
        Ok(())
    }

    fn recall(&self, trial: &mut Trial, replaced: &BTreeSet<u64>) -> Outcome<()> {
        let (held, paired) = (&trial.held, &mut trial.paired);
        let mut line = self.line_of(held, replaced)?;
        while let Some(older) = line.pop() {
            let newer = line.last().unwrap_or(held);
            self.pair(paired, &older, newer.manifest.label_position)?;
        }
        self.pair(paired, held, self.dealt_with)
    }

    /// The versions before one in the same test, newest first: each took the place of its parent. With labels enough for a
    /// test, one began anew.
    fn line_of(&self, held: &Held, replaced: &BTreeSet<u64>) -> Outcome<Vec<Held>> {
        let newest = held.manifest.label_position;
        let mut line = Vec::new();
        let mut next = held.manifest.parent;
        while let Some(version) = next.filter(|version| replaced.contains(version)) {
            let Some(older) = self.load_if_whole(version)? else {
                break;
            };
            let position = older.manifest.label_position;
            if self.history.numbered(position, newest).len() >= self.settings().gate.min_rows {
                break;
            }
            next = older.manifest.parent.filter(|parent| *parent < version);
            line.push(older);
        }
        Ok(line)
    }

    /// Adds the labels up to a number that neither a version nor the champion has learned, the newest of them.
    fn pair(&self, paired: &mut Paired, held: &Held, until: u64) -> Outcome<()> {
        let Some(champion) = &self.champion else {
            return Ok(());
        };
        let learned = [held, champion].map(|held| held.manifest.label_position);
        let rows = self.history.numbered(learned[0].max(learned[1]), until);
        let surplus = rows.len().saturating_sub(self.settings().gate.watched_rows);
        let rows = rows[surplus..].iter().map(|row| (*row, 1.0));
        let labels = self.history.examples(rows)?;
        if labels.is_empty() {
            return Ok(());
        }
        let served = champion.model.logits(labels.inputs())?;
        let logits = held.model.logits(labels.inputs())?;
        paired.extend(&served, &logits, labels.labels());
        Ok(())
    }
}
