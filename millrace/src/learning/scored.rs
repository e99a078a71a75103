//! Scores that labels were given by versions that had not learned them, with those labels: what the calibration of the
//! next version is fitted on.
//!
//! A correction sets the label of the score that its event was given before any of its labels was known; the score that
//! it has now is of a version that has learned the wrong one. Where frauds become known as corrections, the newest
//! labels say "genuine" of frauds too: until they are settled they count neither here nor in replays. So it is with all
//! young labels where a good part of what is called fraud is set right later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millrace_learner::Calibration;

use super::Learning;
use super::history::History;
use super::line::Line;
use crate::failure::Outcome;
use crate::settings::Calibrating;

/// Newest labels whose scores are kept.
const KEPT: usize = 200_000;
/// Corrections that are known, at most.
const CORRECTIONS: usize = 200_000;

/// How far a line may move log odds in a day's updates, in nats. What serves is the mean of two days of updates, and the
/// scores that labels meet are those of versions before: a line that was faster would set right what the networks are
/// learning.
const REACH_A_DAY: f64 = 1.0;
const SECONDS_A_DAY: f64 = 86_400.0;

/// Frauds that a span of labels should hold where it is told how often labels say fraud, and spans at most.
const FRAUDS_A_SPAN: usize = 15;
const SPANS: usize = 20;

/// How many times as many labels as one takes to be settled there must be, before scores of settled labels say anything
/// of the model: a young one was another one by then.
const OLD_ENOUGH: u64 = 4;

/// The newest scores.
#[derive(Default)]
pub(super) struct Scored {
    /// In the order of `first`.
    rows: VecDeque<Row>,
    /// Of examples whose label is a correction, the number of the first example of their event.
    firsts: BTreeMap<u64, u64>,
    /// Labels that were scored in all.
    labels: u64,
    /// Number of the newest.
    newest: u64,
}

struct Row {
    /// Number of the first example of the event that was dealt with.
    first: u64,
    /// Log odds, before any calibration.
    logit: f32,
    fraud: bool,
}

impl Scored {
    /// Notes that an example takes the place of another, whose label was the opposite.
    pub(super) fn correct(&mut self, number: u64, replaced: u64) {
        let first = self.first_of(replaced);
        self.firsts.insert(number, first);
        if self.firsts.len() > CORRECTIONS {
            self.firsts.pop_first();
        }
        // The first one may have been corrected before it was scored.
        let at = |number: u64| self.rows.binary_search_by_key(&number, |row| row.first);
        if let Ok(at) = at(first).or_else(|_| at(replaced)) {
            self.rows[at].fraud = !self.rows[at].fraud;
        }
    }

    /// Forgets the scores of events whose example was deleted.
    pub(super) fn forget(&mut self, gone: &BTreeSet<u64>) {
        let firsts = gone.iter().map(|number| self.first_of(*number));
        let firsts: BTreeSet<u64> = firsts.chain(gone.iter().copied()).collect();
        let at = |first: &u64| self.rows.binary_search_by_key(first, |row| row.first);
        if firsts.iter().any(|first| at(first).is_ok()) {
            self.rows.retain(|row| !firsts.contains(&row.first));
        }
    }

    /// Number of the first example of an event that has this one.
    fn first_of(&self, number: u64) -> u64 {
        self.corrected(number).unwrap_or(number)
    }

    /// Number of the first example of an event that has this one, if this one is a correction.
    pub(super) fn corrected(&self, number: u64) -> Option<u64> {
        self.firsts.get(&number).copied()
    }

    /// Adds the scores of a period's examples, each with its number, but for those of events whose first label was dealt with
    /// before.
    fn note(&mut self, examples: impl IntoIterator<Item = (u64, Row)>) {
        let last = self.rows.back().map(|row| row.first);
        let mut new: Vec<Row> = Vec::new();
        for (number, row) in examples {
            self.newest = self.newest.max(number);
            self.labels += 1;
            // Labels that were put aside and are learned after all are older too.
            let is_new = last.map_or(row.first == number, |last| row.first > last);
            if is_new {
                new.push(row);
            }
        }
        // A label that was corrected in its own period stands where the correction does.
        new.sort_by_key(|row| row.first);
        new.into_iter().for_each(|row| self.push(row));
    }

    /// Numbers of first examples, and labels.
    #[cfg(test)]
    pub(super) fn labels_of(&self) -> Vec<(u64, bool)> {
        let rows = self.rows.iter();
        rows.map(|row| (row.first, row.fraud)).collect()
    }

    /// Numbers of first examples, and scores.
    #[cfg(test)]
    pub(super) fn scores_of(&self) -> Vec<(u64, f32)> {
        let rows = self.rows.iter();
        rows.map(|row| (row.first, row.logit)).collect()
    }

    fn push(&mut self, row: Row) {
        // One that is no number would make a line of all of them none.
        if !row.logit.is_finite() {
            return;
        }
        self.rows.push_back(row);
        if self.rows.len() > KEPT {
            self.rows.pop_front();
        }
    }

    /// The calibration of the version to come. `settling` is how many labels come before one is settled, `usual` what share
    /// of labels up to a number says fraud as a rule, and `reach` how far log odds may move, in nats.
    fn calibration(
        &self,
        settling: u64,
        before: Calibration,
        usual: impl FnOnce(u64) -> f64,
        reach: f64,
    ) -> Calibration {
        if self.labels < OLD_ENOUGH * settling {
            return before;
        }
        let until = self.newest.saturating_sub(settling);
        let settled = self.rows.iter().take_while(|row| row.first <= until);
        let settled: Vec<(f32, bool)> = settled.map(|row| (row.logit, row.fraud)).collect();
        Calibration::of_scored(&settled, before, usual(until), reach)
    }
}

/// What share of the labels up to a number says fraud as a rule.
pub(super) fn usual_rate(history: &History, until: u64) -> f64 {
    let rows = history.believed(0..history.len());
    let rows = rows.take_while(|row| history.number(*row) <= until);
    let labels: Vec<bool> = rows.map(|row| history.is_fraud(row)).collect();
    median_rate(&labels)
}

/// The median of the shares of frauds in spans of as many labels each: a flood of wrong frauds, or a feed that is silent
/// for a time, does not become usual. 0 without labels.
fn median_rate(labels: &[bool]) -> f64 {
    let frauds_of = |labels: &[bool]| labels.iter().filter(|fraud| **fraud).count();
    let spans = (frauds_of(labels) / FRAUDS_A_SPAN).clamp(1, SPANS);
    let span = labels.len().div_ceil(spans).max(1);
    let rate = |labels: &[bool]| frauds_of(labels) as f64 / labels.len() as f64;
    let mut rates: Vec<f64> = labels.chunks(span).map(rate).collect();
    rates.sort_unstable_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

impl Learning {
    fn is_calibrating(&self) -> bool {
        self.plan().settings.calibration == Calibrating::Auto
    }

    /// Keeps the champion's log odds of labels that it has not learned, as they were before calibration.
    pub(super) fn note_scores(&mut self, rows: &[usize], served: &[f32]) {
        let Some(champion) = self.champion.as_ref().filter(|_| self.is_calibrating()) else {
            return;
        };
        let (history, calibration) = (&self.history, champion.model.calibration());
        let example = |(row, logit): (&usize, &f32)| {
            let number = history.number(*row);
            let scored = Row {
                first: self.event_of(number),
                logit: calibration.undo(f64::from(*logit)) as f32,
                fraud: history.is_fraud(*row),
            };
            (number, scored)
        };
        let examples: Vec<(u64, Row)> = rows.iter().zip(served).map(example).collect();
        self.scored.note(examples);
    }

    /// The calibration of the version to come, which goes on from one with another.
    pub(super) fn next_calibration(&self, before: Calibration) -> Calibration {
        if !self.is_calibrating() {
            return Calibration::IDENTITY;
        }
        let usual = |until| usual_rate(&self.history, until);
        let days = self.plan().settings.every.as_secs_f64() / SECONDS_A_DAY;
        let reach = REACH_A_DAY * days;
        self.scored
            .calibration(self.settling.labels(), before, usual, reach)
    }

    /// Of rows in their order, those whose labels are settled: a sample of the others would say "genuine" of frauds too, or
    /// "fraud" of genuine events. All of them where those that are settled are few.
    pub(super) fn settled(&self, mut rows: Vec<usize>) -> Vec<usize> {
        let settling = self.settling.labels();
        let last = rows.last().copied();
        let Some(last) = last.filter(|_| settling > 0) else {
            return rows;
        };
        let until = self.history.number(last).saturating_sub(settling);
        let is_settled = |row: &usize| self.history.number(*row) <= until;
        let do_frauds_stay = self.settling.do_frauds_stay();
        if rows.iter().filter(|row| is_settled(row)).count() as u64 >= settling {
            rows.retain(|row| is_settled(row) || do_frauds_stay && self.history.is_fraud(*row));
        }
        rows
    }

    /// Scores again what others have scored: each label by a version of the champion's line that had not learned it.
    pub(super) fn recall_scores(&mut self, line: &Line, rows: &[(u64, usize)]) -> Outcome<()> {
        for run in line.runs(&self.history, rows) {
            let run = run?;
            let logits = run.model.raw_logits(run.labels.inputs())?;
            for ((first, row), logit) in run.rows.iter().zip(logits) {
                self.scored.push(Row {
                    first: *first,
                    logit,
                    fraud: self.history.is_fraud(*row),
                });
            }
        }
        Ok(())
    }

    /// Forgets all scores. The rows of the newest events that had a label up to a number, by the number of their first
    /// example: as many as a calibration is fitted on.
    pub(super) fn rows_to_recall(&mut self, until: u64) -> Vec<(u64, usize)> {
        let settling = self.settling.labels();
        self.scored.rows.clear();
        if !self.is_calibrating() {
            return Vec::new();
        }
        let history = &self.history;
        let mut rows: Vec<(u64, usize)> = history
            .believed(0..history.len())
            .map(|row| (self.event_of(history.number(row)), row))
            // A correction sets a score's label as soon as it is read, whatever period it is of.
            .filter(|(first, _)| *first <= until)
            .collect();
        rows.sort_unstable();
        self.scored.labels = rows.len() as u64;
        self.scored.newest = until;
        // Frauds that are not settled are there besides.
        let settled = until.saturating_sub(settling);
        let counts = |at: &usize| rows[*at].0 <= settled && history.is_fraud(rows[*at].1);
        let mut frauds = (0..rows.len()).rev().filter(counts);
        let before = frauds.nth(Calibration::FRAUDS).map_or(0, |at| at + 1);
        let from = before.max(rows.len().saturating_sub(KEPT));
        rows.split_off(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of which each is the first of its event, unless it is a correction.
    fn note(scored: &mut Scored, examples: &[(u64, f32, bool)]) {
        let noted = examples.iter().map(|(number, logit, fraud)| {
            let first = scored.first_of(*number);
            let (logit, fraud) = (*logit, *fraud);
            (
                *number,
                Row {
                    first,
                    logit,
                    fraud,
                },
            )
        });
        let noted: Vec<(u64, Row)> = noted.collect();
        scored.note(noted);
    }

    #[test]
    fn a_correction_sets_the_label_of_the_first_score() {
        let mut scored = Scored::default();
        note(
            &mut scored,
            &[1, 2, 3, 4].map(|number| (number, -3.0, false)),
        );
        scored.correct(5, 2);
        note(&mut scored, &[(5, -9.0, true)]);
        assert_eq!(
            scored.labels_of(),
            [(1, false), (2, true), (3, false), (4, false)]
        );
        assert_eq!(scored.corrected(5), Some(2));
        // It is taken back; and one that came and was corrected in one period is scored once, in its place.
        scored.correct(6, 5);
        scored.correct(9, 7);
        note(
            &mut scored,
            &[(6, -9.0, false), (8, -3.0, false), (9, -3.0, true)],
        );
        let rows = scored.labels_of();
        assert_eq!(rows[1], (2, false));
        assert_eq!(rows[4..], [(7, true), (8, false)]);
        assert_eq!(scored.corrected(6), Some(2));
        // Labels that were put aside before are no newer scores.
        note(&mut scored, &[(3, -3.0, true)]);
        assert_eq!(scored.rows.len(), 6);
    }

    #[test]
    fn what_was_deleted_has_no_score() {
        let mut scored = Scored::default();
        note(
            &mut scored,
            &[1, 2, 3, 4].map(|number| (number, -3.0, false)),
        );
        scored.correct(5, 2);
        for _ in 0..2 {
            scored.forget(&BTreeSet::from([3, 5, 9]));
            assert_eq!(scored.labels_of(), [(1, false), (4, false)]);
        }
        // The label that comes in its place is another.
        note(&mut scored, &[(6, -3.0, true)]);
        assert_eq!(scored.labels_of(), [(1, false), (4, false), (6, true)]);
        assert_eq!(scored.corrected(6), None);
    }

    #[test]
    fn a_score_that_is_no_number_is_none() {
        let mut scored = Scored::default();
        note(
            &mut scored,
            &[
                (1, f32::NAN, true),
                (2, -3.0, false),
                (3, f32::INFINITY, true),
            ],
        );
        assert_eq!(scored.labels_of(), [(2, false)]);
    }

    #[test]
    fn scores_are_looked_at_once_their_labels_are_settled() {
        let before = Calibration {
            slope: 0.9,
            intercept: 0.2,
        };
        // Scores that are far too low, as labels say in the end; the newest tenth says "genuine" of everything.
        let mut scored = Scored::default();
        let example = |number: u64| {
            let is_fraud = number <= 18_000 && number.is_multiple_of(20);
            (number, -6.0 + (number % 7) as f32 / 3.0, is_fraud)
        };
        let examples: Vec<(u64, f32, bool)> = (1..=20_000).map(example).collect();
        note(&mut scored, &examples);
        let line =
            |settling, usual: f64, reach| scored.calibration(settling, before, |_| usual, reach);
        let raised = line(2_000, 0.05, f64::INFINITY);
        assert!(raised.apply(-5.0) > before.apply(-5.0) + 0.3, "{raised:?}");
        // Each version goes a part of the way.
        let a_part = line(2_000, 0.05, 0.1);
        let way = a_part.apply(-5.0) - before.apply(-5.0);
        assert!(way > 0.05 && way < 0.101, "{way}");
        // Labels that are unlike the usual ones, and ones that are too young to say.
        assert_eq!(line(2_000, 0.001, f64::INFINITY), before);
        assert_eq!(line(5_001, 0.05, f64::INFINITY), before);
    }

    #[test]
    fn what_is_usual_is_not_what_a_flood_or_a_silence_says() {
        let one_in =
            |rows: usize, every: usize| (0..rows).map(move |row| row.is_multiple_of(every));
        assert_eq!(median_rate(&[]), 0.0);
        assert_eq!(median_rate(&[true; 40]), 1.0);
        let few: Vec<bool> = one_in(1_000, 100).collect();
        assert!((median_rate(&few) - 0.01).abs() < 1e-9);
        // A third of the labels says fraud ten times as often, or never.
        for middle in [10, usize::MAX] {
            let mut labels: Vec<bool> = one_in(20_000, 100).collect();
            labels.extend(one_in(10_000, middle));
            assert!((median_rate(&labels) - 0.01).abs() < 0.002, "{middle}");
        }
        // What most labels say is usual.
        let mut labels: Vec<bool> = one_in(10_000, 100).collect();
        labels.extend(one_in(20_000, 10));
        assert!((median_rate(&labels) - 0.1).abs() < 0.01);
    }
}
