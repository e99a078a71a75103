//! How long it takes until labels are settled, where many frauds become known as corrections, or much of what is called
//! fraud is set right later.
//!
//! Where much is set right, labels wait until they are settled before anything is made of them: what is wrong is then
//! neither tested on, nor learned, nor replayed. Where frauds become known as corrections, labels cannot wait, for news of
//! frauds would come later still: young ones are learned once, and are in no sample.

use std::time::Duration;

use tracing::{info, warn};

use super::Learning;
use crate::settings::{SettlingTime, micros};

/// Newest frauds by which it is told how they become known.
const FRAUDS_LOOKED_AT: usize = 500;
/// Corrections among them that are a rule: so many, and one in so many.
const CORRECTED_LEAST: usize = 20;
const CORRECTED_SHARE: usize = 10;
/// Newest events that were called fraud by which it is told how many are set right: a feed that begins to do so is found
/// out soon.
const CALLED_LOOKED_AT: usize = 200;
/// Of those that were called fraud, one in so many. To wait costs news of frauds, and a tenth that is wrong makes
/// probabilities a tenth too high.
const SET_RIGHT_SHARE: usize = 3;
/// Of a hundred corrections, so many have come when a label is settled.
const SETTLED: usize = 95;
/// Labels wait no longer than this unless a person says so, µs. All that wait are in memory, and the model knows nothing
/// of them.
const LONGEST_WAIT_US: i64 = 3 * DAY_US;
/// Waits are as many of these as it takes, µs.
const STEP_US: i64 = 300_000_000;
/// How often it is said that they should, µs of event time.
const SAID_EVERY_US: i64 = DAY_US;

const DAY_US: i64 = 86_400_000_000;

/// How long labels take to be settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Settling {
    /// A period is dealt with so long after its end, µs: with the labels that were not set right until then.
    pub(super) wait_us: i64,
    /// Labels that come, as a rule, before one of those that were dealt with turns out to be a fraud. 0 where few do.
    to_fraud: u64,
    /// The same before one turns out to be genuine.
    to_genuine: u64,
    /// How long labels would have to wait, µs, where that is too long to be done unasked.
    would_wait_us: Option<i64>,
}

impl Settling {
    /// How many labels come, as a rule, before one that was dealt with is settled.
    pub(super) fn labels(self) -> u64 {
        self.to_fraud.max(self.to_genuine)
    }

    /// Whether labels that say fraud go on to do so, as a rule.
    pub(super) fn do_frauds_stay(self) -> bool {
        self.to_genuine == 0
    }

    /// Whether a correction that came so long after the first label of its event, µs, came before that was dealt with.
    pub(super) fn was_in_time(self, waited_us: i64) -> bool {
        self.wait_us > 0 && waited_us <= self.wait_us
    }
}

/// When it was looked at how long labels take.
#[derive(Debug, Default)]
pub(super) struct SettlingSeen {
    /// The period of the clock, counted from 1970.
    period: Option<i64>,
    /// When it was said last that labels should wait for longer, µs of event time.
    told_us: Option<i64>,
}

/// How long after the first label of its event a correction came: in labels, and in µs.
type Wait = (u64, i64);

/// One of the newest events that were called fraud, or that are frauds.
struct Called {
    is_fraud: bool,
    /// Where its label is a correction.
    wait: Option<Wait>,
}

/// The waits of corrections to `fraud`, if they are a rule: so many of those that are looked at.
fn rule(looked_at: &[&Called], fraud: bool, share: usize) -> Vec<Wait> {
    let corrected = looked_at.iter().filter(|it| it.is_fraud == fraud);
    let waits: Vec<Wait> = corrected.filter_map(|it| it.wait).collect();
    match waits.len() < CORRECTED_LEAST || waits.len() * share < looked_at.len() {
        true => Vec::new(),
        false => waits,
    }
}

/// After which most of them have come; none of none.
fn most<T: Ord + Copy>(mut waits: Vec<T>) -> Option<T> {
    waits.sort_unstable();
    let last = waits.len().checked_sub(1)?;
    waits.get(last * SETTLED / 100).copied()
}

impl Learning {
    /// Looks at how long labels take to be settled, once a period of the clock.
    pub(super) fn look_at_settling(&mut self, clock_us: i64) {
        let period = clock_us.div_euclid(micros(self.plan().settings.every));
        if self.settling_seen.period == Some(period) {
            return;
        }
        let before = self.settling.wait_us;
        self.settling = self.settling_now();
        self.settling_seen.period = Some(period);
        let wait_us = self.settling.wait_us;
        metrics::gauge!("millrace_labels_settling_seconds").set(wait_us as f64 / 1e6);
        if wait_us != before {
            info!(
                before = in_words(before),
                now = in_words(wait_us),
                "labels wait until they are settled, as many that say fraud are set right later"
            );
        }
        self.tell_of_long_waits(clock_us);
    }

    /// Says once a day that labels should wait for longer than they do unasked.
    fn tell_of_long_waits(&mut self, clock_us: i64) {
        let is_said = |said: i64| clock_us.saturating_sub(said) < SAID_EVERY_US;
        let Some(would) = self.settling.would_wait_us else {
            return;
        };
        if self.settling_seen.told_us.is_some_and(is_said) {
            return;
        }
        warn!(
            set_right_within = in_words(would),
            "much of what labels call fraud is set right later, and learned before: probabilities are too high. \
             model.settling = \"{}\" lets labels wait",
            in_words(would)
        );
        self.settling_seen.told_us = Some(clock_us);
    }

    /// How long labels take to be settled, by those that are known.
    pub(super) fn settling_now(&self) -> Settling {
        let called = self.newest_called();
        let newest: Vec<&Called> = called.iter().take(CALLED_LOOKED_AT).collect();
        let frauds: Vec<&Called> = called.iter().filter(|it| it.is_fraud).collect();
        let to_genuine = rule(&newest, false, SET_RIGHT_SHARE);
        let to_fraud = rule(&frauds, true, CORRECTED_SHARE);
        let by_rule = most(to_genuine.iter().map(|(_, us)| *us).collect()).map(in_steps);
        let longest = LONGEST_WAIT_US.min(micros(self.workspace.settings.store.examples) / 2);
        let (wait_us, would_wait_us) = match self.plan().settings.settling {
            SettlingTime::Auto => match by_rule {
                Some(wait_us) if wait_us > longest => (0, Some(wait_us)),
                wait_us => (wait_us.unwrap_or(0), None),
            },
            SettlingTime::After(time) => {
                let wait_us = micros(time);
                (wait_us, by_rule.filter(|by_rule| *by_rule > wait_us))
            }
        };
        let mut settling = Settling {
            wait_us,
            would_wait_us,
            ..Settling::default()
        };
        // What is set right while labels wait is never dealt with.
        let late = |waits: Vec<Wait>, looked_at: usize, share: usize| {
            let is_late = |(_, us): &&Wait| !settling.was_in_time(*us);
            let late: Vec<u64> = waits.iter().filter(is_late).map(|it| it.0).collect();
            match late.len() * share < looked_at {
                true => 0,
                false => most(late).unwrap_or(0),
            }
        };
        let to_genuine = late(to_genuine, newest.len(), SET_RIGHT_SHARE);
        let to_fraud = late(to_fraud, frauds.len(), CORRECTED_SHARE);
        (settling.to_genuine, settling.to_fraud) = (to_genuine, to_fraud);
        settling
    }

    /// The newest events that were called fraud, the newest first: until they have as many frauds as are looked at. Those
    /// that are put aside, wrong ones as a rule, say nothing of how others become known.
    fn newest_called(&self) -> Vec<Called> {
        let history = &self.history;
        let (mut called, mut frauds) = (Vec::new(), 0);
        for row in history.believed(0..history.len()).rev() {
            let (is_fraud, wait) = (history.is_fraud(row), self.waited(row));
            if !is_fraud && wait.is_none() {
                continue;
            }
            called.push(Called { is_fraud, wait });
            frauds += usize::from(is_fraud);
            if frauds >= FRAUDS_LOOKED_AT {
                break;
            }
        }
        called
    }

    /// How long after the first label of its event a correction came. One that says "genuine" where the first label was put
    /// aside sets a mishap right, and is no rule.
    fn waited(&self, row: usize) -> Option<Wait> {
        let number = self.history.number(row);
        let first = self.scored.corrected(number)?;
        if self.history.is_aside(first) && !self.history.is_fraud(row) {
            return None;
        }
        let us = self.history.waited_us(first, number);
        Some((number.saturating_sub(first), us.unwrap_or(i64::MAX)))
    }

    /// The number under which the score of an event is kept: that of its first label that was dealt with.
    pub(super) fn event_of(&self, number: u64) -> u64 {
        let Some(first) = self.scored.corrected(number) else {
            return number;
        };
        let waited = self.history.waited_us(first, number);
        match waited.is_some_and(|us| self.settling.was_in_time(us)) {
            true => number,
            false => first,
        }
    }

    /// The end of the next period and when it is dealt with, µs of event time, where its labels wait until they are settled.
    pub fn waits_until(&self) -> Option<(i64, i64)> {
        let wait_us = self.settling.wait_us;
        let end_us = self.next_end().filter(|_| wait_us > 0)?;
        Some((end_us, end_us.saturating_add(wait_us)))
    }
}

/// A wait that is a few seconds more, or less, is the same one.
fn in_steps(us: i64) -> i64 {
    let steps = us / STEP_US + i64::from(us % STEP_US > 0);
    steps.saturating_mul(STEP_US)
}

/// A length of time as settings have it, to the second.
fn in_words(us: i64) -> String {
    let seconds = us.max(0).unsigned_abs().div_ceil(1_000_000);
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(is_fraud: bool, wait: Option<Wait>) -> Called {
        Called { is_fraud, wait }
    }

    #[test]
    fn a_few_corrections_are_no_rule() {
        let mut all: Vec<Called> = (0..40).map(|_| called(true, None)).collect();
        all.extend((0..19).map(|at| called(false, Some((at, 10 * at as i64)))));
        let waits = |all: &[Called]| {
            let all: Vec<&Called> = all.iter().collect();
            rule(&all, false, SET_RIGHT_SHARE).len()
        };
        assert_eq!(waits(&all), 0);
        all.push(called(false, Some((7, 70))));
        assert_eq!(waits(&all), 20);
        // Fewer than one in three.
        all.push(called(true, Some((7, 70))));
        assert_eq!(waits(&all), 0);
        assert_eq!(most::<u64>(Vec::new()), None);
        assert_eq!(most((0..=100).rev().collect()), Some(95));
    }

    #[test]
    fn what_comes_while_labels_wait_comes_in_time() {
        let mut settling = Settling::default();
        assert!(!settling.was_in_time(0));
        settling.wait_us = 5;
        assert!(settling.was_in_time(5) && !settling.was_in_time(6));
    }

    #[test]
    fn a_wait_is_whole_steps() {
        for (us, steps) in [(0, 0), (1, 1), (STEP_US, 1), (STEP_US + 1, 2)] {
            assert_eq!(in_steps(us), steps * STEP_US, "{us}");
        }
        assert_eq!(in_steps(i64::MAX), i64::MAX);
    }

    #[test]
    fn a_time_in_words_is_one_that_settings_read() {
        let us = 93_784_000_001;
        assert_eq!(in_words(us), "1day 2h 3m 5s");
        let read = crate::settings::parse_duration(&in_words(us));
        assert_eq!(read.map(micros), Ok(93_785_000_000));
    }
}
