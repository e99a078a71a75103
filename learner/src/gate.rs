//! Whether a candidate may take the traffic: it is compared with the champion on labels that neither
//! has learned, event by event.
//!
//! An hour of payments holds a handful of frauds, too few to show that a candidate is better. So the
//! question here is whether it does harm: it is refused where it is worse with confidence, and by
//! more than a tolerance. That many small harmless steps do not add up to harm is watched over a
//! longer time, by comparing what served with a version of some days ago: the same comparison over
//! more rows.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::error::LearnerError;
use crate::random::{Stream, generator};

/// `[learner.gate]`: when a candidate is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateSettings {
    /// Labels that a comparison needs. A candidate waits for them beside the champion.
    pub min_rows: usize,
    /// How sure a verdict must be, 0.5 < c < 1.
    pub confidence: f64,
    /// By how much a candidate's log loss may exceed the champion's, as a share of it.
    pub tolerance: f64,
    /// Probability from which on an event is an alert, 0 < p < 1.
    pub alert_threshold: f64,
    /// How often as many alerts as the champion a candidate may raise, and how often as few.
    pub max_alert_ratio: f64,
    /// For how many of a hundred entities a version that passed its test answers, step by step, before it answers
    /// for all; each step lasts a period. None: for all at once.
    pub canary: Vec<u8>,
    /// Labels over which what served is compared with a version of before them.
    pub watched_rows: usize,
    /// How many times the champion's expectation of frauds a period may hold before its labels are
    /// not believed, and how many times fewer than expected the labels of some time.
    pub max_fraud_ratio: f64,
    /// Periods with unusual inputs in a row after which they are the new normal, and are learned.
    pub unusual_periods: usize,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            min_rows: 200,
            confidence: 0.95,
            tolerance: 0.01,
            alert_threshold: 0.5,
            max_alert_ratio: 5.0,
            canary: vec![10, 50],
            watched_rows: 20_000,
            max_fraud_ratio: 10.0,
            unusual_periods: 6,
        }
    }
}

impl GateSettings {
    /// Says which setting is out of its range, if one is.
    ///
    /// # Errors
    /// [`LearnerError::Setting`] with the name of the first such setting.
    pub fn check(&self) -> Result<(), LearnerError> {
        let above = [
            ("gate.confidence", self.confidence, 0.5),
            ("gate.max_alert_ratio", self.max_alert_ratio, 1.0),
            ("gate.max_fraud_ratio", self.max_fraud_ratio, 1.0),
        ];
        for (name, value, least) in above {
            // Written so that what is not a number is refused too.
            if value.is_nan() || value <= least {
                return Err(setting(name, format!("{value} is not above {least}")));
            }
        }
        let at_least_one = [
            ("gate.min_rows", self.min_rows),
            ("gate.watched_rows", self.watched_rows),
            ("gate.unusual_periods", self.unusual_periods),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(setting(name, "0 is below 1".to_owned()));
            }
        }
        let threshold = self.alert_threshold;
        if threshold.is_nan() || threshold <= 0.0 || threshold >= 1.0 {
            return Err(setting(
                "gate.alert_threshold",
                format!("{threshold} is not between 0 and 1"),
            ));
        }
        let rises = self.canary.windows(2).all(|pair| pair[0] < pair[1]);
        if !rises
            || self
                .canary
                .iter()
                .any(|percent| !(1..100).contains(percent))
        {
            let reason = format!("{:?} does not rise from 1 to 99", self.canary);
            return Err(setting("gate.canary", reason));
        }
        if self.confidence >= 1.0 {
            let reason = format!("{} is not below 1", self.confidence);
            return Err(setting("gate.confidence", reason));
        }
        if self.tolerance.is_nan() || self.tolerance < 0.0 {
            return Err(setting(
                "gate.tolerance",
                format!("{} is below 0", self.tolerance),
            ));
        }
        Ok(())
    }
}

fn setting(name: &'static str, reason: String) -> LearnerError {
    LearnerError::Setting { name, reason }
}

/// The same labelled events as two models score them.
#[derive(Debug, Clone, Default)]
pub struct Paired {
    champion: Vec<f32>,
    candidate: Vec<f32>,
    labels: Vec<f32>,
}

/// What a comparison found. Differences are candidate less champion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Labelled events.
    pub rows: u64,
    /// Frauds among them.
    pub frauds: u64,
    /// The champion's log loss, in nats a row.
    pub champion_log_loss: f64,
    /// The candidate's log loss less the champion's.
    pub log_loss: Interval,
    /// The candidate's average precision less the champion's; none without enough frauds to tell.
    pub average_precision: Option<Interval>,
    /// Share of the events that are alerts by the champion's scores.
    pub champion_alerts: f64,
    /// Share of the events that are alerts by the candidate's.
    pub candidate_alerts: f64,
}

/// An estimate between its bounds, by a paired bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower bound: the truth is above it with the confidence asked for.
    pub low: f64,
    /// The estimate.
    pub mean: f64,
    /// The upper bound: the truth is below it with the confidence asked for.
    pub high: f64,
}

/// Why a candidate was refused after it was tested.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Harm {
    /// It predicts worse.
    #[error(
        "its log loss exceeds the champion's {champion:.5} by {excess:.5} (at least {least:.5}) on {rows} new labels"
    )]
    LogLoss {
        /// The champion's log loss.
        champion: f64,
        /// By how much the candidate's is larger.
        excess: f64,
        /// The lower bound of that.
        least: f64,
        /// Labels that say so.
        rows: u64,
    },
    /// It ranks worse.
    #[error(
        "its average precision is {loss:.4} below the champion's (at least {least:.4}) on {frauds} new frauds"
    )]
    AveragePrecision {
        /// By how much it is lower.
        loss: f64,
        /// The lower bound of that.
        least: f64,
        /// Frauds that say so.
        frauds: u64,
    },
    /// It raises far more or far fewer alerts.
    #[error("it would raise alerts for {:.2}% of events where the champion raises them for {:.2}%", 100.0 * candidate, 100.0 * champion)]
    Alerts {
        /// Share of alerts among the events, by the champion.
        champion: f64,
        /// The same by the candidate.
        candidate: f64,
    },
    /// It gave a score that is no number.
    #[error("it gave a score that is not a number")]
    NotANumber,
}

/// Bootstrap samples. The bounds of a 95% interval are then the 25th numbers from the ends.
const RESAMPLES: usize = 500;
/// Below so many frauds, a log loss says little …
const FEW_FRAUDS: u64 = 5;
/// … unless it is worse by this, in nats a row: about what a whole model is worth where one event in a hundred is
/// fraud.
const EVIDENT_EXCESS: f64 = 0.02;
/// Frauds from which on average precisions are compared.
const RANKED_FRAUDS: u64 = 20;
/// What a candidate's average precision may lose.
const PRECISION_TOLERANCE: f64 = 0.02;
/// Alert rates are compared where one of them is above this.
const ALERTS_SEEN: f64 = 0.02;

impl Paired {
    /// Adds events: the champion's log odds, the candidate's, and labels of 0 or 1.
    pub fn extend(&mut self, champion: &[f32], candidate: &[f32], labels: &[f32]) {
        self.champion.extend_from_slice(champion);
        self.candidate.extend_from_slice(candidate);
        self.labels.extend_from_slice(labels);
    }

    /// Events so far.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Compares the two, with bounds of the given confidence. The same events and seed give the
    /// same numbers.
    pub fn compare(&self, settings: &GateSettings, confidence: f64, seed: u64) -> Comparison {
        let rows = self.rows();
        let differences: Vec<f64> = (0..rows).map(|row| self.excess(row)).collect();
        let champion_loss =
            crate::metrics::log_loss(&self.champion, &self.labels, &vec![1.0; rows]);
        let frauds = self.labels.iter().filter(|label| **label > 0.5).count() as u64;
        let ranked = (frauds >= RANKED_FRAUDS)
            .then(|| (Ranked::of(&self.champion), Ranked::of(&self.candidate)));
        let precision = |ranked: &(Ranked, Ranked), counts: &[u32]| {
            ranked.1.precision(&self.labels, counts) - ranked.0.precision(&self.labels, counts)
        };
        let mut random = generator(seed, Stream::Bootstrap, rows as u64);
        let (mut losses, mut precisions) = (Vec::new(), Vec::new());
        let mut counts = vec![0_u32; rows];
        for _ in 0..RESAMPLES {
            counts.fill(0);
            (0..rows).for_each(|_| counts[random.random_range(0..rows)] += 1);
            let drawn = differences.iter().zip(&counts);
            let sum: f64 = drawn
                .map(|(excess, count)| excess * f64::from(*count))
                .sum();
            losses.push(sum / rows as f64);
            precisions.extend(ranked.as_ref().map(|ranked| precision(ranked, &counts)));
        }
        let ones = vec![1; rows];
        let alert = settings.alert_threshold;
        let threshold = (alert / (1.0 - alert)).ln() as f32;
        let mean = differences.iter().sum::<f64>() / rows.max(1) as f64;
        Comparison {
            rows: rows as u64,
            frauds,
            champion_log_loss: champion_loss,
            log_loss: Interval::of(losses, mean, confidence),
            average_precision: ranked
                .map(|ranked| Interval::of(precisions, precision(&ranked, &ones), confidence)),
            champion_alerts: share_above(&self.champion, threshold),
            candidate_alerts: share_above(&self.candidate, threshold),
        }
    }

    /// Why the candidate must not replace the champion, if a comparison says so.
    pub fn harm(&self, comparison: &Comparison, settings: &GateSettings) -> Option<Harm> {
        if self.candidate.iter().any(|logit| logit.is_nan()) {
            return Some(Harm::NotANumber);
        }
        let (champion, loss) = (comparison.champion_log_loss, comparison.log_loss);
        // Without frauds, whoever predicts less wins every event, and by next to nothing: no sample of them tells
        // how much a missed fraud would have cost.
        let least = match comparison.frauds < FEW_FRAUDS {
            true => EVIDENT_EXCESS,
            false => settings.tolerance * champion,
        };
        if loss.low > least {
            return Some(Harm::LogLoss {
                champion,
                excess: loss.mean,
                least: loss.low,
                rows: comparison.rows,
            });
        }
        if let Some(precision) = comparison.average_precision
            && precision.high < -PRECISION_TOLERANCE
        {
            return Some(Harm::AveragePrecision {
                loss: -precision.mean,
                least: -precision.high,
                frauds: comparison.frauds,
            });
        }
        let (champion, candidate) = (comparison.champion_alerts, comparison.candidate_alerts);
        let ratio = settings.max_alert_ratio;
        let seen = champion.max(candidate) > ALERTS_SEEN;
        (seen && (candidate > ratio * champion || champion > ratio * candidate)).then_some(
            Harm::Alerts {
                champion,
                candidate,
            },
        )
    }

    /// The candidate's loss on an event less the champion's, in nats.
    fn excess(&self, row: usize) -> f64 {
        let loss = |logit: f32| {
            let z = f64::from(logit) * if self.labels[row] > 0.5 { -1.0 } else { 1.0 };
            z.max(0.0) + (-z.abs()).exp().ln_1p()
        };
        loss(self.candidate[row]) - loss(self.champion[row])
    }
}

fn share_above(logits: &[f32], threshold: f32) -> f64 {
    let above = logits.iter().filter(|logit| **logit > threshold).count();
    above as f64 / logits.len().max(1) as f64
}

impl Interval {
    fn of(mut samples: Vec<f64>, mean: f64, confidence: f64) -> Self {
        samples.sort_unstable_by(f64::total_cmp);
        let outside = (samples.len() as f64 * (1.0 - confidence)) as usize;
        let at = |index: usize| samples.get(index).copied().unwrap_or(mean);
        Self {
            low: at(outside),
            mean,
            high: at(samples.len().saturating_sub(outside + 1)),
        }
    }
}

/// Events from the highest score to the lowest, so that no bootstrap sample sorts again.
struct Ranked {
    order: Vec<usize>,
    /// Whether an event has the score of the one before it.
    tied: Vec<bool>,
}

impl Ranked {
    fn of(scores: &[f32]) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let tied = (0..order.len())
            .map(|at| at > 0 && scores[order[at]] == scores[order[at - 1]])
            .collect();
        Self { order, tied }
    }

    /// Average precision where each event counts `counts` times: see
    /// [`average_precision`](crate::average_precision). 0 without a fraud.
    fn precision(&self, labels: &[f32], counts: &[u32]) -> f64 {
        let (mut frauds, mut rows, mut area) = (0.0, 0.0, 0.0);
        let mut group = 0.0;
        for (at, row) in self.order.iter().enumerate() {
            if !self.tied[at] && group > 0.0 {
                area += group * frauds / rows;
                group = 0.0;
            }
            let count = f64::from(counts[*row]);
            rows += count;
            if labels[*row] > 0.5 {
                frauds += count;
                group += count;
            }
        }
        if group > 0.0 {
            area += group * frauds / rows;
        }
        if frauds > 0.0 { area / frauds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::metrics::average_precision;

    /// Log odds of a model that sees `skill` of the truth, and labels drawn from the truth.
    fn events(rows: usize, seed: u64, skill: f32, other: f32) -> Paired {
        let mut random = generator(seed, Stream::Shuffle, 0);
        let mut paired = Paired::default();
        for _ in 0..rows {
            let truth = -5.0 + 3.0 * (random.random::<f32>() + random.random::<f32>() - 0.7);
            let fraud = random.random::<f32>() < 1.0 / (1.0 + (-truth).exp());
            let seen = |skill: f32| -4.5 + skill * (truth + 4.5);
            paired.extend(
                &[seen(skill)],
                &[seen(other)],
                &[f32::from(u8::from(fraud))],
            );
        }
        paired
    }

    fn verdict(paired: &Paired) -> Option<Harm> {
        let comparison = paired.compare(&GateSettings::default(), 0.95, 1);
        paired.harm(&comparison, &GateSettings::default())
    }

    #[test]
    fn ranked_precision_is_the_metric() {
        for seed in 0..50 {
            let mut random = generator(seed, Stream::Weights, 0);
            let rows = random.random_range(1..80);
            let scores: Vec<f32> = (0..rows)
                .map(|_| random.random_range(0..9) as f32)
                .collect();
            let labels: Vec<f32> = (0..rows)
                .map(|_| f32::from(random.random_range(0..4_u8) == 0))
                .collect();
            let counts: Vec<u32> = (0..rows).map(|_| random.random_range(0..4)).collect();
            let weights: Vec<f32> = counts.iter().map(|c| *c as f32).collect();
            let expected = average_precision(&scores, &labels, &weights).unwrap_or(0.0);
            let found = Ranked::of(&scores).precision(&labels, &counts);
            assert!(
                (found - expected).abs() < 1e-9,
                "seed {seed}: {found} {expected}"
            );
        }
    }

    #[test]
    fn an_equal_candidate_passes_and_a_blind_one_does_not() {
        for seed in 0..20 {
            assert_eq!(verdict(&events(400, seed, 1.0, 1.0)), None);
            assert_eq!(verdict(&events(400, seed, 0.95, 1.0)), None, "seed {seed}");
        }
        assert!(matches!(
            verdict(&events(20_000, 1, 1.0, 0.0)),
            Some(Harm::LogLoss { .. })
        ));
    }

    /// Events without a fraud favour whoever predicts least.
    #[test]
    fn an_hour_without_frauds_refuses_only_what_is_evident() {
        let mut paired = events(400, 2, 1.0, 1.0);
        paired.labels.fill(0.0);
        paired.candidate.iter_mut().for_each(|logit| *logit += 0.1);
        assert!(
            paired
                .compare(&GateSettings::default(), 0.95, 1)
                .log_loss
                .low
                > 0.0
        );
        assert_eq!(verdict(&paired), None);
        paired.candidate.iter_mut().for_each(|logit| *logit += 4.0);
        assert!(matches!(verdict(&paired), Some(Harm::LogLoss { .. })));
    }

    #[test]
    fn labels_that_were_turned_round_are_seen_in_a_few_hundred_events() {
        let mut paired = events(300, 3, 1.0, 1.0);
        paired
            .candidate
            .iter_mut()
            .for_each(|logit| *logit = -*logit);
        assert!(matches!(verdict(&paired), Some(Harm::LogLoss { .. })));
        paired.candidate[7] = f32::NAN;
        assert_eq!(verdict(&paired), Some(Harm::NotANumber));
    }

    /// A candidate that calls much else fraud, where frauds are too few to tell of its ranking.
    #[test]
    fn a_flood_of_alerts_is_refused() {
        let mut paired = events(600, 5, 1.0, 1.0);
        for row in (0..600).step_by(10) {
            paired.candidate[row] = paired.candidate[row].max(1e-3);
        }
        let settings = GateSettings {
            tolerance: 10.0,
            ..GateSettings::default()
        };
        let harm = paired.harm(
            &paired.compare(&GateSettings::default(), 0.95, 1),
            &settings,
        );
        assert!(matches!(harm, Some(Harm::Alerts { .. })), "{harm:?}");
    }

    /// Of candidates that are truly equal but for noise, few are refused.
    #[test]
    fn bounds_hold_about_as_often_as_they_say() {
        let mut above = 0;
        for seed in 0..200 {
            let mut paired = events(400, seed, 1.0, 1.0);
            let mut random = generator(seed, Stream::Weights, 1);
            // A difference of mean zero in the log odds' loss: two noisy copies of one model.
            for row in 0..400 {
                paired.champion[row] += random.random::<f32>() - 0.5;
                paired.candidate[row] += random.random::<f32>() - 0.5;
            }
            above += usize::from(
                paired
                    .compare(&GateSettings::default(), 0.95, seed)
                    .log_loss
                    .low
                    > 0.0,
            );
        }
        assert!(
            above <= 24,
            "{above} of 200 lower bounds are above the truth"
        );
    }

    #[test]
    fn a_bad_setting_is_named() {
        GateSettings::default().check().unwrap();
        let bad = GateSettings {
            confidence: 1.0,
            ..GateSettings::default()
        };
        assert!(
            bad.check()
                .unwrap_err()
                .to_string()
                .contains("gate.confidence")
        );
    }
}
