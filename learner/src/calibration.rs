//! The last step of a score: a rising line through its log odds, which is the identity unless what happened says that
//! scores are too high or too low.
//!
//! Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines and comparisons to regularized
//! likelihood methods"; Guo et al. 2017, "On calibration of modern neural networks", for networks). It changes what a
//! probability says and not which of two events has the higher one. A line and no steps, as isotonic regression has
//! them: an hour of payments has a handful of frauds, and two numbers are what a few hundred can tell.
//!
//! Which scores it is fitted on is not known here: they must be of labels that the model that gave them had not learned.
//!
//! Labels that are wrong, or are another choice of events than before, say the same as scores that are off. So a line is
//! fitted only where labels say fraud about as often as usual, and it moves a bounded way with each version.

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
/// Genuine events that each half of the scores needs: as many as it has frauds at least.
const LEAST_GENUINE: usize = LEAST_FRAUDS / 2;
/// How many times as often as usual labels may say fraud in each half, and how many times as seldom. Of the frauds of a
/// half, 30 at least, chance gives twice as many as usual less than once in a thousand times.
const MOST_UNUSUAL: f64 = 2.0;
/// The flattest slope, and one over it the steepest, two of the prior's deviations below 1: labels that ask for a flatter
/// one say that the scores do not rank their events, which no line sets right.
const FLATTEST: f64 = 0.5;
/// Standard deviations of slope and intercept around the identity, as a prior has them: a few frauds move a line by
/// little, and hundreds decide alone.
const SLOPE_DEVIATION: f64 = 0.25;
const INTERCEPT_DEVIATION: f64 = 0.5;
/// Parts of the newer scores, one after the other in time, by which it is told how sure a gain is: frauds come in
/// waves, so one event says less than it seems to.
const PARTS: usize = 20;
/// Standard errors that a gain must be above 0 where there was no line …
const SURE: f64 = 3.0;
/// … and its least share of the log loss: what is off by less is left alone.
const MATERIAL: f64 = 0.01;
/// Standard errors for a line that goes on farther, which chance gives once in twenty times: that there is a bias was sure,
/// and how large it is changes.
const LIKELY: f64 = 1.64;

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
    /// line, and whether the event was fraud. `before` is the line of the version that it goes on from, `usual` the share
    /// of labels that say fraud as a rule, and `reach` how far the line may move log odds, in nats.
    ///
    /// A line that is fitted on the older half of the newest frauds must help on the newer half, which it has not
    /// seen: with confidence where there was none before, with some where it goes farther from the identity, and at all where
    /// it comes nearer. Then `before` moves towards the line that is fitted on both. Where it does not help, `before` moves
    /// towards the identity, unless it helps itself. With too few frauds to say, or labels that are unlike the usual ones,
    /// the answer is `before`.
    pub fn of_scored(scored: &[(f32, bool)], before: Self, usual: f64, reach: f64) -> Self {
        let scored = newest(scored);
        let frauds = frauds_of(scored);
        if frauds < LEAST_FRAUDS {
            return before;
        }
        let rows = scored.iter().enumerate();
        let mut of_frauds = rows.filter(|(_, (_, fraud))| *fraud).map(|(row, _)| row);
        let half = of_frauds
            .nth(frauds / 2)
            .map_or(scored.len(), |row| row + 1);
        let (older, newer) = scored.split_at(half);
        let are_usual = is_usual(older, usual) && is_usual(newer, usual);
        if newer.len() < PARTS || !are_usual {
            return before;
        }
        let ends = [false, true].map(|is_fraud| mean_of(scored, is_fraud));
        let now = Line::from(before);
        let gain = Gain::of(&Line::fitted(older), newer);
        let to = if gain.is_none() {
            // Where scores come to be off by less, what is fitted on older ones goes too far, and `before` may not.
            if !Gain::of(&now, newer).is_none() {
                return before;
            }
            Line::SAME
        } else {
            let fitted = Line::fitted(scored).steep_enough();
            let is_farther = fitted.way(&Line::SAME, ends) > now.way(&Line::SAME, ends);
            let is_told = match before.is_identity() {
                true => gain.is_sure(),
                false => gain.is_likely(),
            };
            if is_farther && !is_told {
                return before;
            }
            fitted
        };
        let moved = Self::from(now.towards(&to, reach, ends));
        match moved.is_rising() {
            true => moved,
            false => Self::IDENTITY,
        }
    }
}

impl From<Line> for Calibration {
    fn from(line: Line) -> Self {
        Self {
            slope: line.slope as f32,
            intercept: line.intercept as f32,
        }
    }
}

fn frauds_of(scored: &[(f32, bool)]) -> usize {
    scored.iter().filter(|(_, fraud)| *fraud).count()
}

/// Whether labels say fraud about as often as usual, and genuine often enough.
fn is_usual(scored: &[(f32, bool)], usual: f64) -> bool {
    let frauds = frauds_of(scored);
    let genuine = scored.len() - frauds;
    let odds = frauds as f64 / genuine.max(1) as f64;
    let usual = usual / (1.0 - usual);
    let is_near = odds <= MOST_UNUSUAL * usual && odds * MOST_UNUSUAL >= usual;
    genuine >= LEAST_GENUINE && is_near
}

/// The mean log odds of frauds, or of genuine events.
fn mean_of(scored: &[(f32, bool)], is_fraud: bool) -> f64 {
    let of_kind = scored.iter().filter(|(_, fraud)| *fraud == is_fraud);
    let logits: Vec<f64> = of_kind.map(|(logit, _)| f64::from(*logit)).collect();
    logits.iter().sum::<f64>() / logits.len().max(1) as f64
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

/// How much better than the identity a line predicts labels that it was not fitted on, in nats.
struct Gain {
    whole: f64,
    /// Standard error of that.
    error: f64,
    /// What there is to gain.
    loss: f64,
}

impl Gain {
    fn of(line: &Line, newer: &[(f32, bool)]) -> Self {
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
        let parts = PARTS as f64;
        let mean = whole / parts;
        let squares: f64 = gains.iter().map(|gain| (gain - mean).powi(2)).sum();
        Self {
            whole,
            error: (squares * parts / (parts - 1.0)).sqrt(),
            loss: newer.iter().map(|row| Line::SAME.loss(*row)).sum(),
        }
    }

    /// Whether the line is no better.
    fn is_none(&self) -> bool {
        self.whole <= 0.0
    }

    fn is_likely(&self) -> bool {
        self.whole > LIKELY * self.error
    }

    fn is_sure(&self) -> bool {
        self.whole > SURE * self.error && self.whole > MATERIAL * self.loss
    }
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

impl From<Calibration> for Line {
    fn from(calibration: Calibration) -> Self {
        Self {
            slope: f64::from(calibration.slope),
            intercept: f64::from(calibration.intercept),
        }
    }
}

impl Line {
    const SAME: Self = Self {
        slope: 1.0,
        intercept: 0.0,
    };

    /// How far it is from another line, at most, between two log odds.
    fn way(&self, other: &Self, ends: [f64; 2]) -> f64 {
        let at = |logit: f64| {
            let slope = self.slope - other.slope;
            (slope * logit + self.intercept - other.intercept).abs()
        };
        ends.map(at).into_iter().fold(0.0, f64::max)
    }

    /// A share of the way to another line.
    fn part_of_way(&self, to: &Self, share: f64) -> Self {
        Self {
            slope: self.slope + share * (to.slope - self.slope),
            intercept: self.intercept + share * (to.intercept - self.intercept),
        }
    }

    /// The line that it becomes on its way to another, if it moves log odds between two by no more than `reach`.
    fn towards(&self, to: &Self, reach: f64, ends: [f64; 2]) -> Self {
        let way = self.way(to, ends);
        match way > reach {
            true => self.part_of_way(to, reach / way),
            false => *to,
        }
    }

    /// The farthest line on the way here from the identity that is neither too flat nor too steep: each part of that way
    /// makes the labels likelier.
    fn steep_enough(&self) -> Self {
        let nearest = self.slope.clamp(FLATTEST, 1.0 / FLATTEST);
        match nearest == self.slope {
            true => *self,
            false => Self::SAME.part_of_way(self, (nearest - 1.0) / (self.slope - 1.0)),
        }
    }

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

    fn share_of_frauds(scored: &[(f32, bool)]) -> f64 {
        frauds_of(scored) as f64 / scored.len().max(1) as f64
    }

    /// A line that raises all log odds alike.
    fn raised_by(intercept: f32) -> Calibration {
        Calibration {
            slope: 1.0,
            intercept,
        }
    }

    /// The line after one that may move as far as it likes, of labels that are like the usual ones.
    fn after(scored: &[(f32, bool)], before: Calibration) -> Calibration {
        Calibration::of_scored(scored, before, share_of_frauds(scored), f64::INFINITY)
    }

    fn of(scored: &[(f32, bool)]) -> Calibration {
        after(scored, Calibration::IDENTITY)
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
            let right = after(&scored(20_000, seed + 50, 0.0), raised);
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
            assert_eq!(after(&rows, before), before);
            assert!(of(&rows).is_identity());
        }
    }

    #[test]
    fn labels_of_frauds_alone_change_nothing() {
        let before = Calibration {
            slope: 0.9,
            intercept: 0.3,
        };
        let mut frauds: Vec<(f32, bool)> = scored(30_000, 1, 1.5);
        frauds.retain(|(_, fraud)| *fraud);
        assert!(frauds.len() > Calibration::FRAUDS);
        for usual in [0.01, 0.9, 1.0] {
            let line = Calibration::of_scored(&frauds, before, usual, f64::INFINITY);
            assert_eq!(line, before, "usual: {usual}");
        }
        // Genuine events stopped coming in the middle.
        let mut mixed = scored(2_000, 2, 1.5);
        mixed.extend(frauds.into_iter().take(150));
        let line = Calibration::of_scored(&mixed, before, 0.03, f64::INFINITY);
        assert_eq!(line, before);
    }

    #[test]
    fn labels_that_say_fraud_far_more_or_less_often_than_usual_change_nothing() {
        let rows = scored(20_000, 3, 0.0);
        let usual = share_of_frauds(&rows);
        // For each fraud, eight genuine events are called one.
        let is_wrong = |row: usize| row.is_multiple_of((1.0 / (8.0 * usual)) as usize);
        let flooded = rows.iter().enumerate();
        let flooded: Vec<(f32, bool)> = flooded
            .map(|(row, (logit, fraud))| (*logit, *fraud || is_wrong(row)))
            .collect();
        let line =
            |usual| Calibration::of_scored(&flooded, Calibration::IDENTITY, usual, f64::INFINITY);
        assert!(line(usual).is_identity());
        // Where that is usual, the scores are too low.
        assert!(line(9.0 * usual).apply(-4.0) > -3.5);
        // Scores that are too high, by labels that hardly say fraud any more.
        let rows = scored(60_000, 4, -2.5);
        assert!(of(&rows).apply(-4.0) < -5.0);
        let few = Calibration::of_scored(&rows, Calibration::IDENTITY, usual, f64::INFINITY);
        assert!(few.is_identity());
    }

    #[test]
    fn a_line_moves_a_bounded_way_with_each_version() {
        let rows = scored(20_000, 5, 2.5);
        let usual = share_of_frauds(&rows);
        let mut line = Calibration::IDENTITY;
        for version in 0..40 {
            let next = Calibration::of_scored(&rows, line, usual, 0.125);
            for is_fraud in [false, true] {
                let logit = mean_of(newest(&rows), is_fraud);
                let way = (next.apply(logit) - line.apply(logit)).abs();
                assert!(way < 0.126, "version {version}: {way}");
            }
            assert_eq!(version == 0, line.is_identity());
            line = next;
        }
        let whole = of(&rows);
        assert!((line.apply(-4.0) - whole.apply(-4.0)).abs() < 1e-3);
    }

    /// How far a line is from another at the mean log odds of frauds and of genuine events.
    fn way(line: Calibration, other: Calibration, scored: &[(f32, bool)]) -> f64 {
        let ends = [false, true].map(|is_fraud| mean_of(newest(scored), is_fraud));
        Line::from(line).way(&Line::from(other), ends)
    }

    #[test]
    fn a_line_that_helps_stays_where_the_one_of_older_scores_goes_too_far() {
        let before = raised_by(0.5);
        let mut stayed = 0;
        for seed in 0..20 {
            // A hundred frauds of scores that are too low by far, and a hundred of ones that are too low by little.
            let part = |seed: u64, error: f32| {
                let mut rows = scored(40_000, seed, error);
                let mut frauds = rows.iter().enumerate().filter(|(_, row)| row.1);
                let last = frauds.nth(99).unwrap().0;
                rows.truncate(last + 1);
                rows
            };
            let (mut rows, newer) = (part(seed, 1.7), part(seed + 50, 0.5));
            // As often as usual, as far as both can be.
            let odds = [rows.len(), newer.len()].map(|rows| 100.0 / (rows - 100) as f64);
            let odds = (odds[0] * odds[1]).sqrt();
            rows.extend(newer);
            let next = Calibration::of_scored(&rows, before, odds / (1.0 + odds), 0.042);
            let way = way(next, before, &rows);
            assert!(way < 0.043, "seed {seed}: {way}");
            stayed += usize::from(next == before);
        }
        assert!(stayed >= 10, "{stayed}");
    }

    #[test]
    fn a_line_that_is_not_needed_any_more_goes_back_a_bounded_way() {
        for seed in 0..20 {
            let rows = scored(20_000, seed, 0.0);
            let usual = share_of_frauds(&rows);
            let mut line = raised_by(2.5);
            for _ in 0..3 {
                let next = Calibration::of_scored(&rows, line, usual, 0.042);
                let way = way(next, line, &rows);
                assert!(way > 0.041 && way < 0.043, "seed {seed}: {way}");
                assert!(next.apply(-4.0) < line.apply(-4.0), "seed {seed}");
                line = next;
            }
        }
    }

    #[test]
    fn a_line_is_neither_flat_nor_steep() {
        let line = |slope, intercept| Line { slope, intercept }.steep_enough();
        let flat = line(0.12, 2.82);
        assert!((flat.slope - 0.5).abs() < 1e-12);
        assert!(flat.intercept > 1.5 && flat.intercept < 1.7, "{flat:?}");
        let steep = line(5.0, 8.0);
        assert_eq!((steep.slope, steep.intercept), (2.0, 2.0));
        for slope in [0.5, 0.8, 1.0, 2.0] {
            assert_eq!(line(slope, 0.7).slope, slope);
            assert_eq!(line(slope, 0.7).intercept, 0.7);
        }
    }

    #[test]
    fn a_line_goes_farther_only_with_confidence() {
        let before = raised_by(0.1);
        let mut stayed = 0;
        for seed in 0..40 {
            // Scores that are hardly too low, as a few hundred frauds tell it.
            let rows = scored(20_000, seed, 0.2);
            let line = after(&rows, before);
            assert!(line.apply(-4.0) + 4.0 < 0.6, "seed {seed}: {line:?}");
            stayed += usize::from(line == before);
        }
        assert!(stayed > 0);
    }
}
