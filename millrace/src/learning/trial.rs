//! How a version comes to take the traffic: shadow, canary, champion; or rejected, or rolled back.

use millrace_learner::{Aliases, Comparison, Entry, Examples, Harm, Lack, Made, Paired, State};

use super::anchor::Anchor;
use super::notes::{came_to, just_made, of_bad_descent};
use super::past::Share;
use super::period::{Tested, Verdict};
use super::scored::usual_rate;
use super::{Held, Learning};
use crate::failure::Outcome;
use crate::traces::step;

/// Versions of one test that are kept are fewer than this.
const LINE: usize = 64;

/// Labels of a period, which neither what serves nor what is tested has learned.
pub(super) struct Evidence<'a> {
    pub(super) fresh: &'a Examples,
    /// Log odds that what served gave them.
    pub(super) served: &'a [f32],
    /// The version that did.
    pub(super) served_by: u64,
    /// Number of the last of them.
    pub(super) until: u64,
    /// End of their period, µs of event time.
    pub(super) at_us: i64,
}

/// A version that is compared with what serves.
pub(super) struct Trial {
    pub(super) held: Held,
    pub(super) paired: Paired,
    /// Versions that were in this test before it and are kept, the oldest first: each has scored labels that the next one
    /// has learned. A process that starts asks them again.
    pub(super) line: Vec<u64>,
    /// Whose its share of the traffic is.
    pub(super) share: Share,
}

impl Trial {
    pub(super) fn new(held: Held) -> Self {
        Self {
            held,
            paired: Paired::default(),
            line: Vec::new(),
            share: Share::default(),
        }
    }

    /// Goes on with the test of the version before, whose place it takes.
    pub(super) fn go_on_from(&mut self, before: Self) {
        self.paired = before.paired;
        self.line = before.line;
        self.line.push(before.held.manifest.version);
        thin(&mut self.line);
    }
}

impl Learning {
    /// What labels lack before a version is tested on them, if they lack something.
    pub(super) fn lack(&self, paired: &Paired) -> Option<Lack> {
        let usual = || usual_rate(&self.history, self.dealt_with);
        paired.lack(&self.settings().gate, usual)
    }

    /// Whether a version could be tested on the labels of some rows.
    pub(super) fn are_enough(&self, rows: &[usize]) -> bool {
        let is_fraud = |row: &&usize| self.history.is_fraud(**row);
        let frauds = rows.iter().filter(is_fraud).count();
        let usual = || usual_rate(&self.history, self.dealt_with);
        let lack = self.settings().gate.lack(rows.len(), frauds, usual);
        lack.is_none()
    }

    /// Tests a version on labels that neither it nor what served has learned; the harm that it would do, if any.
    pub(super) fn test(
        &self,
        trial: &mut Trial,
        evidence: &Evidence<'_>,
    ) -> Outcome<(Tested, Option<Harm>)> {
        let mut under_test = step("gate");
        under_test.note("millrace.model.version", trial.held.manifest.version as i64);
        let gate = &self.settings().gate;
        let fresh = evidence.fresh;
        let logits = trial.held.model.logits(fresh.inputs())?;
        trial
            .paired
            .extend(evidence.served, &logits, fresh.labels());
        let mut tested = Tested {
            version: trial.held.manifest.version,
            champion: evidence.served_by,
            comparison: None,
            verdict: Verdict::Waiting(Lack::Labels),
        };
        if let Some(lack) = self.lack(&trial.paired) {
            tested.verdict = Verdict::Waiting(lack);
            return Ok((tested, None));
        }
        let seed = self.settings().seed ^ evidence.at_us as u64;
        let comparison = trial.paired.compare(gate, gate.confidence, seed);
        tested.comparison = Some(comparison);
        Ok((tested, trial.paired.harm(&comparison, gate)))
    }

    /// Tests the version that answers for some entities: it goes a step further, or back, and with it what comes from it.
    pub(super) fn test_canary(&mut self, evidence: &Evidence<'_>) -> Outcome<Vec<Tested>> {
        let Some((mut trial, step)) = self.canary.take() else {
            return Ok(Vec::new());
        };
        let at_us = evidence.at_us;
        self.keep_newest(&mut trial)?;
        let (mut tested, harm) = self.test(&mut trial, evidence)?;
        if let Some(harm) = harm {
            let version = trial.held.manifest.version;
            let mut notes = vec![came_to(
                version,
                State::RolledBack,
                tested.comparison,
                Some(harm.to_string()),
                at_us,
            )];
            let aliases = Aliases {
                challenger: None,
                ..self.seen
            };
            let fallen = self.end_tests_of(version, &aliases, evidence, &mut notes)?;
            self.decide(aliases, notes, |change| {
                change.end_canary();
                Ok(())
            })?;
            metrics::counter!("millrace_rollbacks_total").increment(1);
            tested.verdict = Verdict::Rejected(harm.to_string());
            return Ok([vec![tested], fallen].concat());
        }
        // Its labels make no test yet.
        if tested.comparison.is_none() {
            self.canary = Some((trial, step));
            return Ok(vec![tested]);
        }
        // A period that is begun anew has the labels that gave it this share.
        let stepped_us = trial.share.stepped_us;
        if trial.share.is_pinned || stepped_us.is_some_and(|stepped_us| stepped_us >= at_us) {
            tested.verdict = Verdict::Passed;
            self.canary = Some((trial, step));
            return Ok(vec![tested]);
        }
        tested.verdict = self.step_forward(trial, step + 1, tested.comparison, at_us)?;
        Ok(vec![tested])
    }

    /// Tests the version that is to take traffic. Where the same labels have just given the canary all of it, it is compared
    /// with what served before, and with the canary from the next period on.
    pub(super) fn test_shadow(&mut self, evidence: &Evidence<'_>) -> Outcome<Option<Tested>> {
        let Some(mut trial) = self.shadow.take() else {
            return Ok(None);
        };
        let at_us = evidence.at_us;
        let (mut tested, harm) = self.test(&mut trial, evidence)?;
        match (harm, tested.comparison) {
            (Some(harm), comparison) => {
                let version = trial.held.manifest.version;
                self.note(vec![came_to(
                    version,
                    State::Rejected,
                    comparison,
                    Some(harm.to_string()),
                    at_us,
                )])?;
                metrics::counter!("millrace_updates_total", "outcome" => "refused").increment(1);
                tested.verdict = Verdict::Rejected(harm.to_string());
            }
            // It stays the parent of the next one, which takes its place in the test.
            (None, None) => self.shadow = Some(trial),
            (None, Some(_)) if self.canary.is_some() => {
                tested.verdict = Verdict::Passed;
                self.shadow = Some(trial);
            }
            (None, comparison) => {
                tested.verdict = self.step_forward(trial, 0, comparison, at_us)?;
            }
        }
        Ok(Some(tested))
    }

    /// Gives a version that passed a test the traffic of a step, or all of it after the last.
    pub(super) fn step_forward(
        &mut self,
        mut trial: Trial,
        step: usize,
        comparison: Option<Comparison>,
        at_us: i64,
    ) -> Outcome<Verdict> {
        let Some(percent) = self.settings().gate.canary.get(step).copied() else {
            self.promote(trial.held, at_us, comparison, None)?;
            return Ok(Verdict::Promoted);
        };
        let held = &trial.held;
        let version = held.manifest.version;
        let aliases = Aliases {
            challenger: Some((version, percent)),
            ..self.seen
        };
        let state = State::Canary { percent };
        let notes = vec![came_to(version, state, comparison, None, at_us)];
        self.decide(aliases, notes, |change| {
            change.start_canary(held.manifest.clone(), held.model.clone(), percent)
        })?;
        trial.share.stepped_us = Some(at_us);
        self.canary = Some((trial, step));
        Ok(Verdict::Canary(percent))
    }

    /// Ends the tests of what comes from a version that did harm, as a process that starts would: it adds to the notes, and
    /// says what became of each. `chosen` has the traffic from now on.
    pub(super) fn end_tests_of(
        &mut self,
        bad: u64,
        chosen: &Aliases,
        evidence: &Evidence<'_>,
        notes: &mut Vec<Entry>,
    ) -> Outcome<Vec<Tested>> {
        let past = self.past_now()?;
        let falls = |version: u64| past.comes_from(version, |it| it == bad, chosen);
        let canary = self
            .canary
            .take_if(|(trial, _)| falls(trial.held.manifest.version));
        let shadow = self
            .shadow
            .take_if(|trial| falls(trial.held.manifest.version));
        let canary = canary.map(|(trial, _)| (trial, State::RolledBack));
        let shadow = shadow.map(|trial| (trial, State::Rejected));
        let because = of_bad_descent(bad);
        let mut fallen = Vec::new();
        for (trial, state) in canary.into_iter().chain(shadow) {
            let version = trial.held.manifest.version;
            let reason = Some(because.clone());
            notes.push(came_to(version, state, None, reason, evidence.at_us));
            fallen.push(Tested {
                version,
                champion: evidence.served_by,
                comparison: None,
                verdict: Verdict::Rejected(because.clone()),
            });
        }
        Ok(fallen)
    }

    /// The version is on disk before it takes traffic, and the alias is moved before the scorer. The first one was made
    /// just now.
    pub(super) fn promote(
        &mut self,
        held: Held,
        at_us: i64,
        comparison: Option<Comparison>,
        made: Option<Made>,
    ) -> Outcome<()> {
        let version = held.manifest.version;
        let before = self.champion.as_ref().map(|before| before.manifest.version);
        let replaced = before.map(|it| came_to(it, State::Replaced, None, None, at_us));
        let mut champion = came_to(version, State::Champion, comparison, None, at_us);
        if let Some(made) = made {
            champion = just_made(champion, made);
        }
        let notes = replaced.into_iter().chain([champion]);
        let aliases = Aliases {
            champion: Some(version),
            challenger: None,
        };
        self.decide(aliases, notes.collect(), |change| {
            change.swap(held.manifest.clone(), held.model.clone())
        })?;
        metrics::counter!("millrace_updates_total", "outcome" => "accepted").increment(1);
        match &mut self.anchor {
            Some(anchor) => anchor.promoted.push(version),
            None => {
                let after = held.manifest.label_position;
                self.anchor = Some(Anchor::new(held.clone(), after));
            }
        }
        self.champion = Some(held);
        Ok(())
    }
}

/// Makes a line of versions shorter than [`LINE`]: the first and the newest half stay, and the longer ago it was, the
/// fewer of the others.
pub(super) fn thin(line: &mut Vec<u64>) {
    while line.len() >= LINE {
        let mut at: usize = 0;
        line.retain(|_| {
            at += 1;
            at > LINE / 2 || !at.is_multiple_of(2)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_line_the_first_and_the_newest_stay() {
        let mut line = Vec::new();
        for version in 1..=1_000 {
            line.push(version);
            thin(&mut line);
            assert!(line.len() < LINE, "{version}");
        }
        assert_eq!(line.first(), Some(&1));
        let newest: Vec<u64> = (1_001 - LINE as u64 / 2..=1_000).collect();
        assert!(line.ends_with(&newest), "{line:?}");
        assert!(line.is_sorted());
        // One that a process finds is as short.
        let mut line: Vec<u64> = (1..=200).collect();
        thin(&mut line);
        assert!(line.len() < LINE && line.first() == Some(&1), "{line:?}");
    }
}
