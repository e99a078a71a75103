//! Labels that are not believed: put aside, and taken back where more of them say the same.

use std::ops::RangeInclusive;

use millrace_learner::{Cause, Check, Entry, Event, Examples};

use super::Learning;
use super::checks::Disbelief;
use super::line::Known;
use super::past::{Past, Released};
use crate::failure::Outcome;
use crate::settings::micros;

impl Learning {
    /// Why fresh labels must not be learned, if there is a reason. `served` are the champion's log odds of them.
    pub(super) fn disbelief(
        &mut self,
        fresh: &Examples,
        served: &[f32],
    ) -> Outcome<Option<Disbelief>> {
        self.count_in_bins_of_champion();
        let names = self.plan().input_names();
        let end_us = self.under_way.unwrap_or_default();
        let (until, every) = (self.judged_until(), micros(self.plan().settings.every));
        let (Some(checks), Some(champion)) = (&mut self.checks, &self.champion) else {
            return Ok(None);
        };
        let scores: Vec<f32> = served.iter().map(|logit| probability(*logit)).collect();
        let gate = &self.workspace.settings.learner.gate;
        checks.begin_day(end_us, &self.history, until, every);
        checks.disbelief(end_us, &names, fresh, &champion.model, &scores, gate)
    }

    /// Counts anew what is usual where another model than before serves that has other bins.
    fn count_in_bins_of_champion(&mut self) {
        let Some(champion) = &self.champion else {
            return;
        };
        let encoder = champion.checkpoint.encoder();
        let Some(before) = self.checks.take_if(|checks| !checks.is_in_bins_of(encoder)) else {
            return;
        };
        self.learn_what_is_usual();
        let now = self.checks.take();
        self.checks = now.map(|now| now.going_on_from(before));
    }

    /// Puts labels aside; true where they are to be released at once, with those before them: the log says so by then.
    pub(super) fn put_aside(
        &mut self,
        rows: &[usize],
        disbelief: &Disbelief,
        at_us: i64,
    ) -> Outcome<bool> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok(false);
        };
        let (first, last) = (self.history.number(*first), self.history.number(*last));
        let check = disbelief.check();
        let mut notes = vec![Entry {
            at_us,
            event: Event::LabelsRefused {
                first,
                last,
                check: Some(check),
            },
            reason: Some(disbelief.reason().to_owned()),
            cause: Some(disbelief.cause()),
        }];
        let mut unusual = self.unusual.clone();
        let is_new_normal = match check {
            Check::Drift => {
                unusual.push(first..=last);
                unusual.len() >= self.settings().gate.unusual_periods.max(1)
            }
            // It does not say that inputs are usual again: where they are not, a champion's scores may be of no use.
            _ => false,
        };
        if is_new_normal {
            notes.extend(self.notes_of_release(&unusual, at_us));
        }
        // In one entry of the log: a process that ends in between would leave some of them put aside for ever.
        self.note(notes)?;
        metrics::counter!("millrace_updates_total", "outcome" => "labels_refused").increment(1);
        self.unusual = unusual;
        self.history.put_aside(first..=last, check);
        self.dealt_with = self.dealt_with.max(last);
        Ok(is_new_normal)
    }

    /// What the log is told of labels that are released.
    fn notes_of_release(&self, released: &[RangeInclusive<u64>], at_us: i64) -> Vec<Entry> {
        let periods = self.settings().gate.unusual_periods;
        let reason = format!("inputs have been like this for {periods} periods in a row");
        let entry = |range: &RangeInclusive<u64>| Entry {
            at_us,
            event: Event::LabelsReleased {
                first: *range.start(),
                last: *range.end(),
            },
            reason: Some(reason.clone()),
            cause: Some(Cause::Learner),
        };
        released.iter().map(entry).collect()
    }

    /// Inputs that stay unusual are the new normal: what was put aside for them is learned after all, as the log says. The
    /// rows.
    pub(super) fn release(&mut self, at_us: i64) -> Outcome<Vec<usize>> {
        let released = std::mem::take(&mut self.unusual);
        let (Some(first), Some(last)) = (released.first(), released.last()) else {
            return Ok(Vec::new());
        };
        let numbers = *first.start()..=*last.end();
        for range in &released {
            self.history.take_back(range);
        }
        let released = Released {
            numbers,
            end_us: at_us,
        };
        // A period that is begun anew has its labels.
        self.dealt_with = released.after();
        self.released = Some(released);
        self.learn_what_is_usual();
        // As in a process that starts: labels that said fraud too seldom before count on, and so do these.
        let past = Past::of(&self.registry.journal_entries()?);
        self.recall_silence(&mut Known::of(past))?;
        Ok(self.history.between(self.dealt_with, at_us))
    }
}

/// The probability of log odds.
fn probability(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_odds_become_probabilities() {
        for expected in [1e-6, 0.004, 0.5, 0.9, 0.999_f32] {
            let logit = (f64::from(expected) / (1.0 - f64::from(expected))).ln() as f32;
            assert!((probability(logit) - expected).abs() <= 1e-6 * expected);
        }
        let ends = [f32::NEG_INFINITY, f32::INFINITY].map(probability);
        assert_eq!(ends, [0.0, 1.0]);
        assert!(probability(f32::NAN).is_nan());
    }
}
