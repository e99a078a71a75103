//! The last step of a score: a rising line through its log odds, which is the identity unless what happened says that
//! scores are too high or too low.
//!
//! Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines and comparisons to regularized
//! likelihood methods"; Guo et al. 2017, "On calibration of modern neural networks", for networks). It changes what a
//! probability says and not which of two events has the higher one. A line and no steps, as isotonic regression has
//! them: an hour of payments has a handful of frauds, and two numbers are what a few hundred can tell.
//!
//! Which scores it is fitted on is not known here: they must be of labels that the model that gave them had not learned.

use serde::{Deserialize, Serialize};

/// A model answers with σ(slope · z + intercept), where z are the log odds that its networks give.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Above 0: below 1 takes confidence away, above 1 adds some.
    pub slope: f32,
    /// Nats.
    pub intercept: f32,
}

/// Frauds below which nothing is said, and what was decided before stays.
const LEAST_FRAUDS: usize = 60;
/// Standard deviations of slope and intercept around the identity, as a prior has them: a few frauds move a line by
/// little, and hundreds decide alone.
const SLOPE_DEVIATION: f64 = 0.25;
const INTERCEPT_DEVIATION: f64 = 0.5;
/// Parts of the newer scores, one after the other in time, by which it is told how sure a gain is: frauds come in
/// waves, so one event says less than it seems to.
const PARTS: usize = 20;
/// Standard errors that a gain must be above 0 …
const SURE: f64 = 3.0;
/// … and its least share of the log loss: what is off by less is left alone.
const MATERIAL: f64 = 0.01;

impl Default for Calibration {
    fn default() -> Self {
        Self::IDENTITY
    }
}

impl Calibration {
    /// Scores are as the networks give them.
    pub const IDENTITY: Self = Self {
        slope: 1.0,
        intercept: 0.0,
    };

    /// Newest frauds that a line is fitted on: scores from before them are of a model that was another one.
    pub const FRAUDS: usize = 200;

    /// Whether it changes nothing.
    pub fn is_identity(&self) -> bool {
        *self == Self::IDENTITY
    }

    /// Log odds of what is answered, of those that the networks give.
    pub fn apply(&self, logit: f64) -> f64 {
        f64::from(self.slope) * logit + f64::from(self.intercept)
    }

    /// Log odds that the networks give, of those that are answered.
    pub fn undo(&self, logit: f64) -> f64 {
        (logit - f64::from(self.intercept)) / f64::from(self.slope)
    }

    /// Whether a higher score stays a higher one.
    pub(crate) fn is_rising(&self) -> bool {
        self.slope.is_finite() && self.slope > 0.0 && self.intercept.is_finite()
    }

    /// The line for a version to come, from scores and labels in the order of time: the networks' log odds, before any
    /// line, and whether the event was fraud. `before` is the line of the version that it goes on from.
    ///
    /// A line that is fitted on the older half of the newest frauds must help on the newer half, which it has not
    /// seen: with confidence where there was none before, and at all where there was one. Then the line that is fitted
    /// on both is the answer; else it is the identity. With too few frauds to say, it is `before`.
    pub fn of_scored(scored: &[(f32, bool)], before: Self) -> Self {
        let scored = newest(scored);
        let frauds = scored.iter().filter(|(_, fraud)| *fraud).count();
        if frauds < LEAST_FRAUDS {
            return before;
        }
        let rows = scored.iter().enumerate();
        let mut of_frauds = rows.filter(|(_, (_, fraud))| *fraud).map(|(row, _)| row);
        let half = of_frauds
            .nth(frauds / 2)
            .map_or(scored.len(), |row| row + 1);
        let (older, newer) = scored.split_at(half);
        if newer.len() < PARTS {
            return before;
        }
        if !helps(&Line::fitted(older), newer, before.is_identity()) {
            return Self::IDENTITY;
        }
        let line = Line::fitted(scored);
        let fitted = Self {
            slope: line.slope as f32,
            intercept: line.intercept as f32,
        };
        match fitted.is_rising() {
            true => fitted,
            false => Self::IDENTITY,
        }
    }
}

/// The scores from the oldest of the newest frauds on.
fn newest(scored: &[(f32, bool)]) -> &[(f32, bool)] {
    let rows = scored.iter().enumerate().rev();
    let mut of_frauds = rows.filter(|(_, (_, fraud))| *fraud).map(|(row, _)| row);
    match of_frauds.nth(Calibration::FRAUDS) {
        Some(row) => &scored[row + 1..],
        None => scored,
    }
}

/// Whether a line predicts scores' labels better than the identity, which it was not fitted on.
fn helps(line: &Line, newer: &[(f32, bool)], is_new: bool) -> bool {
    let rows = newer.len();
    let gain = |part: usize| -> f64 {
        let part = &newer[part * rows / PARTS..(part + 1) * rows / PARTS];
        let gains = part
            .iter()
            .map(|row| Line::SAME.loss(*row) - line.loss(*row));
        gains.sum()
    };
    let gains: Vec<f64> = (0..PARTS).map(gain).collect();
    let whole: f64 = gains.iter().sum();
    if !is_new {
        return whole > 0.0;
    }
    let parts = PARTS as f64;
    let mean = whole / parts;
    let squares: f64 = gains.iter().map(|gain| (gain - mean).powi(2)).sum();
    let error = (squares / (parts - 1.0) / parts).sqrt();
    let loss: f64 = newer.iter().map(|row| Line::SAME.loss(*row)).sum();
    mean > SURE * error && whole > MATERIAL * loss
}

#[derive(Debug, Clone, Copy)]
struct Line {
    slope: f64,
    intercept: f64,
}

/// Steps of Newton's method, at most: it takes about ten.
const STEPS: usize = 50;
/// A step that must be shorter than this leads nowhere.
const SHORTEST: f64 = 1e-6;
/// A step that gains less, in nats, is the last.
const SETTLED: f64 = 1e-9;

impl Line {
    const SAME: Self = Self {
        slope: 1.0,
        intercept: 0.0,
    };

    /// The likeliest line, given the labels and the prior. Each step is halved until it is downhill: where scores are
    /// far off, a whole one leads farther away.
    fn fitted(scored: &[(f32, bool)]) -> Self {
        let mut line = Self::SAME;
        let mut objective = line.objective(scored);
        for _ in 0..STEPS {
            let [slope, intercept] = line.step(scored);
            let mut share = 1.0;
            let next = loop {
                let next = Self {
                    slope: line.slope - share * slope,
                    intercept: line.intercept - share * intercept,
                };
                let after = next.objective(scored);
                if after <= objective {
                    break Some((next, after));
                }
                share /= 2.0;
                if share < SHORTEST {
                    break None;
                }
            };
            let Some((next, after)) = next else {
                break;
            };
            let gain = objective - after;
            (line, objective) = (next, after);
            if gain < SETTLED {
                break;
            }
        }
        line
    }

    /// −log p(label) of one score, in nats.
    fn loss(&self, (logit, fraud): (f32, bool)) -> f64 {
        let z = self.slope * f64::from(logit) + self.intercept;
        let z = if fraud { -z } else { z };
        z.max(0.0) + (-z.abs()).exp().ln_1p()
    }

    fn objective(&self, scored: &[(f32, bool)]) -> f64 {
        let loss: f64 = scored.iter().map(|row| self.loss(*row)).sum();
        let slope = (self.slope - 1.0) / SLOPE_DEVIATION;
        let intercept = self.intercept / INTERCEPT_DEVIATION;
        loss + (slope * slope + intercept * intercept) / 2.0
    }

    /// The gradient over the curvature: the step of Newton's method, to be taken away.
    fn step(&self, scored: &[(f32, bool)]) -> [f64; 2] {
        let precision = [SLOPE_DEVIATION, INTERCEPT_DEVIATION].map(|deviation| deviation.powi(-2));
        let mut gradient = [
            (self.slope - 1.0) * precision[0],
            self.intercept * precision[1],
        ];
        // The two on the diagonal, and the one beside it.
        let [mut both_slope, mut both_intercept, mut mixed] = [precision[0], precision[1], 0.0];
        for (logit, fraud) in scored {
            let z = f64::from(*logit);
            let p = 1.0 / (1.0 + (-(self.slope * z + self.intercept)).exp());
            let excess = p - f64::from(u8::from(*fraud));
            let weight = p * (1.0 - p);
            gradient[0] += excess * z;
            gradient[1] += excess;
            both_slope += weight * z * z;
            both_intercept += weight;
            mixed += weight * z;
        }
        let determinant = both_slope * both_intercept - mixed * mixed;
        [
            (both_intercept * gradient[0] - mixed * gradient[1]) / determinant,
            (both_slope * gradient[1] - mixed * gradient[0]) / determinant,
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::{Stream, generator};
    use rand::Rng;

    /// Log odds between −7 and −1, and labels of events whose true ones are so much higher.
    fn scored(rows: usize, seed: u64, error: f32) -> Vec<(f32, bool)> {
        let mut random = generator(seed, Stream::Shuffle, 0);
        let mut row = || {
            let logit = -5.0 + 3.0 * (random.random::<f32>() + random.random::<f32>() - 0.7);
            let fraud = random.random::<f32>() < 1.0 / (1.0 + (-logit - error).exp());
            (logit, fraud)
        };
        (0..rows).map(|_| row()).collect()
    }

    fn of(scored: &[(f32, bool)]) -> Calibration {
        Calibration::of_scored(scored, Calibration::IDENTITY)
    }

    #[test]
    fn a_line_is_found_again() {
        let mut random = generator(1, Stream::Shuffle, 0);
        let mut row = || {
            let logit = random.random_range(-8.0..2.0_f32);
            let fraud = random.random::<f32>() < 1.0 / (1.0 + (-0.8 * logit - 1.0).exp());
            (logit, fraud)
        };
        let rows: Vec<(f32, bool)> = (0..100_000).map(|_| row()).collect();
        let line = Line::fitted(&rows);
        assert!((line.slope - 0.8).abs() < 0.05, "{line:?}");
        assert!((line.intercept - 1.0).abs() < 0.1, "{line:?}");
        // Where a whole step of Newton's leads far away.
        let all_frauds: Vec<(f32, bool)> = vec![(-12.0, true); 500];
        let line = Line::fitted(&all_frauds);
        assert!(line.objective(&all_frauds) < Line::SAME.objective(&all_frauds));
    }

    #[test]
    fn what_is_applied_can_be_undone() {
        let line = Calibration {
            slope: 0.7,
            intercept: -1.2,
        };
        for logit in [-9.0, -0.3, 4.0] {
            assert!((line.undo(line.apply(logit)) - logit).abs() < 1e-12);
            assert_eq!(Calibration::IDENTITY.undo(logit), logit);
        }
    }

    #[test]
    fn few_labels_move_it_little() {
        let line = Line::fitted(&[(-3.0, false); 10]);
        let moved = line.slope * -3.0 + line.intercept + 3.0;
        assert!(moved < 0.0 && moved > -0.5, "{moved}");
    }

    #[test]
    fn scores_that_are_right_stay_as_they_are() {
        for seed in 0..100 {
            assert!(of(&scored(20_000, seed, 0.0)).is_identity(), "seed {seed}");
        }
    }

    #[test]
    fn scores_that_are_too_low_are_raised_until_they_are_right() {
        for seed in 0..20 {
            let raised = of(&scored(20_000, seed, 2.5));
            for logit in [-4.0, -2.0] {
                let by = raised.apply(logit) - logit;
                assert!(by > 1.5 && by < 3.3, "seed {seed}: {by}");
            }
            let right = Calibration::of_scored(&scored(20_000, seed + 50, 0.0), raised);
            let by = right.apply(-4.0) + 4.0;
            assert!(by.abs() < 0.5, "seed {seed}: {by}");
        }
    }

    #[test]
    fn a_wave_that_is_over_changes_nothing() {
        for seed in 0..20 {
            let mut rows = scored(6_000, seed, 1.2);
            rows.extend(scored(12_000, seed + 50, 0.0));
            assert!(of(&rows).is_identity(), "seed {seed}");
        }
    }

    #[test]
    fn too_few_frauds_leave_it_as_it_was() {
        let before = Calibration {
            slope: 0.9,
            intercept: 0.3,
        };
        let few: [Vec<(f32, bool)>; 3] = [
            Vec::new(),
            vec![(-4.0, false); 5_000],
            vec![(-4.0, true); LEAST_FRAUDS - 1],
        ];
        for rows in few {
            assert_eq!(Calibration::of_scored(&rows, before), before);
            assert!(of(&rows).is_identity());
        }
    }
}
