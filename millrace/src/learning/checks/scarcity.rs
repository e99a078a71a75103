//! Labels that hardly ever say "genuine", as when a feed goes on with frauds alone.
//!
//! A period's few labels may all be frauds. So the labels are counted together since genuine ones last came about as
//! often as was to be expected. How many those are is known of labels alone, without any champion: frauds that it knows
//! are frauds say nothing of genuine events that nobody tells of.

use super::{OVERESTIMATE, TELLING, UNLIKELY, poisson_at_most, way_in};

/// How often labels said "genuine", and those since they last did about as often as was to be expected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scarcity {
    every_us: i64,
    /// Labels before the run, and frauds among them.
    labels: usize,
    frauds: usize,
    /// Periods that had enough genuine ones, and when the newest of them ended.
    periods: usize,
    until_us: Option<i64>,
    /// The two longest times between two such periods, the longest first. The second is usual: a feed may bring genuine
    /// labels once a night, and may once have stopped.
    pauses_us: [i64; 2],
    run: Run,
}

/// Labels since then.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    labels: usize,
    frauds: usize,
    /// Genuine ones that were to be expected at least.
    expected: f64,
    /// Labels that were put aside, and frauds among them.
    refused: (usize, usize),
}

impl Scarcity {
    /// Has heard nothing yet; periods are of `every_us`.
    pub(super) fn new(every_us: i64) -> Self {
        Self {
            every_us,
            labels: 0,
            frauds: 0,
            periods: 0,
            until_us: None,
            pauses_us: [0; 2],
            run: Run::default(),
        }
    }

    /// Takes the labels of a period that ended at `end_us`. Why they are not believed, if genuine ones have been too few
    /// for too long.
    pub(super) fn hear(
        &mut self,
        end_us: i64,
        labels: usize,
        frauds: usize,
        max_fraud_ratio: f64,
    ) -> Option<String> {
        let genuine = labels.saturating_sub(frauds);
        let Some(until_us) = self.until_us else {
            // The first ones may be late: that is no pause.
            self.labels += labels;
            self.frauds += frauds;
            if genuine > 0 {
                self.periods = 1;
                self.until_us = Some(end_us);
            }
            return None;
        };
        let expected = self.expected(labels, max_fraud_ratio);
        self.run.labels += labels;
        self.run.frauds += frauds;
        self.run.expected += expected;
        let run = self.run;
        let of_run = run.labels.saturating_sub(run.frauds);
        if is_enough(genuine, expected) || is_enough(of_run, run.expected) {
            self.end_run(until_us, end_us);
            return None;
        }
        let is_long = end_us.saturating_sub(until_us) > self.pauses_us[1];
        let by_chance = poisson_at_most(of_run, run.expected);
        if run.frauds < TELLING || !is_long || by_chance >= UNLIKELY {
            return None;
        }
        self.run.refused.0 += labels;
        self.run.refused.1 += frauds;
        Some(format!(
            "{} of the newest {} labels say fraud where {:.1} were to be expected: genuine labels seem not to come ({})",
            run.frauds,
            run.labels,
            self.usual() * run.labels as f64,
            way_in(max_fraud_ratio, None)
        ))
    }

    /// The share of labels that said fraud before the run.
    fn usual(&self) -> f64 {
        self.frauds as f64 / self.labels.max(1) as f64
    }

    /// How many of a period's labels are genuine at least: where the odds of a fraud are `max_fraud_ratio` times what is
    /// usual, and no more than a period has as a rule. In a wave of frauds the others come as ever.
    fn expected(&self, labels: usize, max_fraud_ratio: f64) -> f64 {
        let usual = self.usual();
        let genuine = 1.0 - usual;
        let share = genuine / (genuine + max_fraud_ratio * usual);
        let a_period = self.labels.saturating_sub(self.frauds) as f64 / self.periods.max(1) as f64;
        (share * labels as f64).min(a_period)
    }

    fn end_run(&mut self, until_us: i64, end_us: i64) {
        let pause_us = end_us.saturating_sub(until_us) - self.every_us;
        let pause_us = pause_us.max(0);
        if pause_us > self.pauses_us[0] {
            self.pauses_us = [pause_us, self.pauses_us[0]];
        } else {
            self.pauses_us[1] = self.pauses_us[1].max(pause_us);
        }
        let run = std::mem::take(&mut self.run);
        self.labels += run.labels - run.refused.0;
        self.frauds += run.frauds - run.refused.1;
        self.periods += 1;
        self.until_us = Some(end_us);
    }
}

fn is_enough(genuine: usize, expected: f64) -> bool {
    genuine >= 1 && genuine as f64 * OVERESTIMATE >= expected
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const RATIO: f64 = 10.0;

    /// Hours of 300 labels with two frauds.
    fn usual(hours: i64) -> Scarcity {
        let mut scarcity = Scarcity::new(HOUR);
        for hour in 1..=hours {
            assert_eq!(scarcity.hear(hour * HOUR, 300, 2, RATIO), None, "{hour}");
        }
        scarcity
    }

    #[test]
    fn frauds_alone_are_not_believed_though_each_period_has_few() {
        let mut scarcity = usual(100);
        let mut hear =
            |hour: i64, labels, frauds| scarcity.hear(hour * HOUR, labels, frauds, RATIO);
        for hour in 101..=106 {
            assert_eq!(hear(hour, 3, 3), None, "{hour}");
        }
        let reason = hear(107, 3, 3).unwrap_or_default();
        let said = "21 of the newest 21 labels say fraud where 0.1 were to be expected: genuine labels seem not to come \
                    (learner.gate.max_fraud_ratio is 10; a larger one lets more in)";
        assert_eq!(reason, said);
        // One genuine label is not enough of them.
        assert!(hear(108, 5, 4).is_some());
        // They are back, and at once believed.
        assert_eq!(hear(109, 300, 2), None);
        assert_eq!(hear(110, 3, 3), None);
        // Many frauds at once decide at once, and a few hours of the night with some never.
        assert!(hear(111, 60, 60).is_some());
        assert_eq!(hear(112, 300, 2), None);
        for night in 0..50 {
            assert_eq!(hear(113 + 2 * night, 2, 2), None);
            assert_eq!(hear(114 + 2 * night, 3, 1), None);
        }
    }

    #[test]
    fn genuine_labels_that_come_once_a_night_are_awaited() {
        let mut scarcity = Scarcity::new(HOUR);
        let mut refused = Vec::new();
        for hour in 1..=24 * 10 {
            let is_night = hour % 24 == 0;
            let labels = if is_night { 2_000 } else { 5 };
            let told = scarcity.hear(hour * HOUR, labels, 5, RATIO);
            refused.extend(told.map(|_| hour / 24));
        }
        // Two nights tell that it is so.
        assert!(refused.iter().all(|day| *day <= 2), "{refused:?}");
        let day = 24 * 10;
        let told = (1..48).find(|hour| scarcity.hear((day + hour) * HOUR, 5, 5, RATIO).is_some());
        assert_eq!(told, Some(24));
    }

    #[test]
    fn a_wave_of_frauds_is_believed_where_genuine_labels_come_as_ever() {
        let mut scarcity = usual(100);
        assert_eq!(scarcity.hear(101 * HOUR, 3_300, 3_000, RATIO), None);
        // Nor is a stream that began with frauds alone, or that has no other ones.
        let mut scarcity = Scarcity::new(HOUR);
        for hour in 1..=200 {
            assert_eq!(scarcity.hear(hour * HOUR, 30, 30, RATIO), None);
        }
        for hour in 201..=250 {
            assert_eq!(scarcity.hear(hour * HOUR, 300, 2, RATIO), None);
        }
        // A pause of all labels is none of the genuine ones, and does not count for long.
        assert_eq!(scarcity.hear(600 * HOUR, 300, 2, RATIO), None);
        assert!(scarcity.hear(601 * HOUR, 300, 300, RATIO).is_some());
    }
}
