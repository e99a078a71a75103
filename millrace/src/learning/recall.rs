//! What versions under test were tested on before a process started, what served was compared with, and what a calibration
//! is fitted on. The log keeps what came of it and not the scores; the labels are in the store, and are scored again, by
//! the versions that served then (`line.rs`). How often labels said fraud is counted again by `recount.rs`.

use millrace_learner::Paired;

use super::anchor::Anchor;
use super::line::{Known, Line};
use super::past::Past;
use super::trial::{Trial, thin};
use super::{Held, Learning};
use crate::failure::Outcome;

impl Learning {
    /// Counts again what is usual and what labels have said, up to the last that was dealt with.
    pub(super) fn recall_labels(&mut self, known: &mut Known) -> Outcome<()> {
        self.learn_what_is_usual();
        self.recall_silence(known)?;
        self.score_again(known, self.dealt_with)
    }

    /// Scores labels up to a number again: those that a calibration is fitted on, and those that are counted together for
    /// a flood of frauds.
    pub(super) fn score_again(&mut self, known: &mut Known, until: u64) -> Outcome<()> {
        let scored = self.rows_to_recall(until);
        let (flood, heard) = self.rows_of_flood(&known.past, until);
        let firsts = [&scored, &flood, &heard].map(|rows| rows.first().map(|row| row.0));
        let Some(oldest) = firsts.into_iter().flatten().min() else {
            return Ok(());
        };
        let line = self.line(oldest, known)?;
        self.recall_scores(&line, &scored)?;
        self.recall_flood(&line, &flood, &heard)
    }

    /// Takes from the log which labels were known when a model last started afresh: one that was refused is not tried again
    /// with nearly the same.
    pub(super) fn recall_afresh(&mut self, past: &Past) {
        self.afresh_at = past.afresh_until().unwrap_or(0);
    }

    /// Scores again what versions under test had been tested on, up to a label.
    pub(super) fn recall_tests(&mut self, known: &mut Known, until: u64) -> Outcome<()> {
        if let Some((mut trial, step)) = self.canary.take() {
            self.recall(&mut trial, known, until)?;
            self.canary = Some((trial, step));
        }
        if let Some(mut trial) = self.shadow.take() {
            self.recall(&mut trial, known, until)?;
            self.shadow = Some(trial);
        }
        Ok(())
    }

    /// Scores again what a version had been tested on, up to a label.
    fn recall(&self, trial: &mut Trial, known: &mut Known, until: u64) -> Outcome<()> {
        trial.paired = Paired::default();
        let (held, paired, chosen) = (&trial.held, &mut trial.paired, trial.share.after);
        // One that a person chose is tested on what came since, and nothing else.
        let mut line = match chosen {
            0 => self.line_of(held, &known.past)?,
            _ => Vec::new(),
        };
        let versions = line.iter().rev().map(|older| older.manifest.version);
        trial.line = versions.collect();
        thin(&mut trial.line);
        let oldest = line.last().unwrap_or(held).manifest.label_position;
        let champions = self.line(oldest.max(chosen) + 1, known)?;
        while let Some(older) = line.pop() {
            let newer = line.last().unwrap_or(held);
            let (after, until) = (older.manifest.label_position, newer.manifest.label_position);
            self.pair_with_served(paired, &champions, &older, after, until)?;
        }
        let after = held.manifest.label_position.max(chosen);
        self.pair_with_served(paired, &champions, held, after, until)
    }

    /// Adds the labels after a number, up to another, with the scores of a version and of what served then; the newest of
    /// them.
    fn pair_with_served(
        &self,
        paired: &mut Paired,
        champions: &Line,
        held: &Held,
        after: u64,
        until: u64,
    ) -> Outcome<()> {
        let rows = self.history.numbered(after, until);
        let surplus = rows.len().saturating_sub(self.settings().gate.watched_rows);
        let rows = self.history.by_number(&rows[surplus..]);
        for run in champions.runs(&self.history, &rows) {
            let run = run?;
            let served = run.model.logits(run.labels.inputs())?;
            let logits = held.model.logits(run.labels.inputs())?;
            paired.extend(&served, &logits, run.labels.labels());
        }
        Ok(())
    }

    /// Leaves out old labels of a test that goes on for as long as a person wants. All of it is against the champion: no
    /// version takes the traffic meanwhile, and where it is taken back, the test is counted again.
    pub(super) fn keep_newest(&self, trial: &mut Trial) -> Outcome<()> {
        let Some(champion) = &self.champion else {
            return Ok(());
        };
        if trial.share.is_pinned && trial.paired.rows() > self.settings().gate.watched_rows {
            trial.paired = Paired::default();
            trial.line.clear();
            self.pair(&mut trial.paired, champion, &trial.held, self.dealt_with)?;
        }
        Ok(())
    }

    /// The versions before one in the same test, newest first: each took the place of its parent. Where one is gone, the one
    /// before it stands for it: it has not learned the labels either.
    fn line_of(&self, held: &Held, past: &Past) -> Outcome<Vec<Held>> {
        let mut line = Vec::new();
        for (version, _) in self.versions_before(held, past).into_iter().rev() {
            if !past.is_removed(version) {
                line.extend(self.load_if_whole(version)?);
            }
        }
        Ok(line)
    }

    /// Their numbers, each with that of the last label that it has learned, the oldest first. Where one had labels enough for
    /// a test, as behind a canary, the next one began anew.
    fn versions_before(&self, held: &Held, past: &Past) -> Vec<(u64, u64)> {
        let mut chain = vec![(held.manifest.version, held.manifest.label_position)];
        let mut next = held.manifest.parent;
        while let Some(version) = next.filter(|version| past.tested.contains(version)) {
            let Some(made) = past.made.get(&version) else {
                break;
            };
            chain.push((version, made.label_position));
            next = made.parent.filter(|parent| *parent < version);
        }
        let mut line: Vec<(u64, u64)> = Vec::new();
        for newer in chain.into_iter().rev() {
            let began = line.first().map(|oldest| oldest.1);
            let scored = began.map(|began| self.history.numbered(began, newer.1));
            if scored.is_some_and(|rows| self.are_enough(&rows)) {
                line.clear();
            }
            line.push(newer);
        }
        // The newest is the one itself.
        line.pop();
        line
    }

    /// Adds the labels up to a number that neither a version nor the one that it is compared with has learned, the newest
    /// of them.
    pub(super) fn pair(
        &self,
        paired: &mut Paired,
        champion: &Held,
        held: &Held,
        until: u64,
    ) -> Outcome<()> {
        let learned = [held, champion].map(|held| held.manifest.label_position);
        let rows = self.history.numbered(learned[0].max(learned[1]), until);
        let surplus = rows.len().saturating_sub(self.settings().gate.watched_rows);
        let rows = rows[surplus..].iter().copied();
        let labels = self.history.unweighted(rows)?;
        if labels.is_empty() {
            return Ok(());
        }
        let served = champion.model.logits(labels.inputs())?;
        let logits = held.model.logits(labels.inputs())?;
        paired.extend(&served, &logits, labels.labels());
        Ok(())
    }

    /// Scores again what was compared with the anchor. Where the log does not say what that was, what serves is watched
    /// from here on.
    pub(super) fn recall_anchor(&mut self, known: &mut Known) -> Outcome<()> {
        let Some(champion) = self.champion.clone() else {
            return Ok(());
        };
        let version = champion.manifest.version;
        let watched = known.past.served.anchor_of(version);
        let held = match watched {
            Some(watched) if watched.version == version => Some(champion.clone()),
            Some(watched) => self.load_if_whole(watched.version)?,
            None => None,
        };
        let (Some(watched), Some(held)) = (watched, held) else {
            self.anchor = Some(Anchor::new(champion, self.dealt_with));
            return Ok(());
        };
        let mut anchor = Anchor::new(held, watched.after);
        anchor.promoted = known.past.served.promoted().to_vec();
        let line = self.served_line(watched.after + 1, known)?;
        let rows = self.history.numbered(watched.after, self.dealt_with);
        let rows = self.history.by_number(&rows);
        for run in line.runs(&self.history, &rows) {
            let run = run?;
            let before = anchor.held.model.logits(run.labels.inputs())?;
            let served = run.model.logits(run.labels.inputs())?;
            anchor.paired.extend(&before, &served, run.labels.labels());
        }
        self.anchor = Some(anchor);
        Ok(())
    }
}
