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
use crate::metrics::number;
use crate::random::{Stream, generator};

/// `[learner.gate]`: when a candidate is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateSettings {
    /// Labels that a comparison needs, half of them genuine at least and one a fraud. A candidate waits for them beside
    /// the champion.
    pub min_rows: usize,
    /// How sure a verdict must be, 0.5 < c < 1.
    pub confidence: f64,
    /// By how much a candidate's log loss may exceed the champion's, as a share of it.
    pub tolerance: f64,
    /// Probability from which on an event is an alert, 0 < p < 1.
    pub alert_threshold: f64,
    /// How often as many alerts as the champion a candidate may raise, and how often as few, where the labels do not
    /// speak for it.
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
    /// Log odds above which an event is an alert.
    fn alert_log_odds(&self) -> f32 {
        let alert = self.alert_threshold;
        (alert / (1.0 - alert)).ln() as f32
    }

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

impl GateSettings {
    /// What so many labels lack before a comparison on them says anything, if they lack something. `usual` is the share of
    /// frauds that labels have as a rule; it is asked for only where frauds are more than genuine events.
    ///
    /// Without genuine events, whoever calls everything fraud wins; without frauds, whoever calls nothing so. Where a feed
    /// says of frauds alone what they are, the frauds of days come beside the genuine events of an hour: frauds may be
    /// most of the labels only where that is usual.
    pub fn lack(&self, rows: usize, frauds: usize, usual: impl FnOnce() -> f64) -> Option<Lack> {
        let genuine = rows.saturating_sub(frauds);
        if rows < self.min_rows {
            return Some(Lack::Labels);
        }
        if genuine < self.min_rows.div_ceil(2) {
            return Some(Lack::Genuine);
        }
        if frauds == 0 {
            return Some(Lack::Frauds);
        }
        let is_odd = || {
            let usual = usual();
            let most = self.max_fraud_ratio * usual / (1.0 - usual);
            frauds as f64 > most * genuine as f64
        };
        (frauds > genuine && is_odd()).then_some(Lack::Genuine)
    }
}

/// What labels lack before a comparison on them says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// They are too few.
    #[error("too few labels")]
    Labels,
    /// Too few of them say genuine.
    #[error("too few genuine labels")]
    Genuine,
    /// None of them says fraud.
    #[error("no frauds among the labels")]
    Frauds,
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
    #[serde(deserialize_with = "number")]
    pub champion_log_loss: f64,
    /// The candidate's log loss less the champion's.
    pub log_loss: Interval,
    /// The candidate's average precision less the champion's; none without enough frauds to tell.
    pub average_precision: Option<Interval>,
    /// Share of the events that are alerts by the champion's scores.
    #[serde(deserialize_with = "number")]
    pub champion_alerts: f64,
    /// Share of the events that are alerts by the candidate's.
    #[serde(deserialize_with = "number")]
    pub candidate_alerts: f64,
}

impl Comparison {
    /// Whether all of its numbers are finite: those that come of a score that is no number are not.
    pub fn is_finite(&self) -> bool {
        let single = [
            self.champion_log_loss,
            self.champion_alerts,
            self.candidate_alerts,
        ];
        let intervals = [Some(self.log_loss), self.average_precision];
        let bounds = intervals.into_iter().flatten();
        let bounds = bounds.flat_map(|it| [it.low, it.mean, it.high]);
        single.into_iter().chain(bounds).all(f64::is_finite)
    }
}

/// An estimate between its bounds, by a paired bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower bound: the truth is above it with the confidence asked for.
    #[serde(deserialize_with = "number")]
    pub low: f64,
    /// The estimate.
    #[serde(deserialize_with = "number")]
    pub mean: f64,
    /// The upper bound: the truth is below it with the confidence asked for.
    #[serde(deserialize_with = "number")]
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
    /// It raises far more or far fewer alerts, and labels do not say that it is right.
    #[error("it would raise alerts for {:.2}% of events where the champion raises them for {:.2}% and {:.2}% are frauds", 100.0 * candidate, 100.0 * champion, 100.0 * frauds)]
    Alerts {
        /// Share of alerts among the events, by the champion.
        champion: f64,
        /// The same by the candidate.
        candidate: f64,
        /// Share of frauds among them.
        frauds: f64,
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
/// Alert rates are compared where one of them is above this …
const ALERTS_SEEN: f64 = 0.02;
/// … and where one has so many alerts more than the other: of fewer, chance alone gives all to the one that may have five
/// times as many as the other, once in forty times.
const ALERTS_TOLD: u64 = 20;

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

    /// What is lacking before a comparison says anything, if something is: see [`GateSettings::lack`].
    pub fn lack(&self, settings: &GateSettings, usual: impl FnOnce() -> f64) -> Option<Lack> {
        let frauds = self.labels.iter().filter(|label| **label > 0.5).count();
        settings.lack(self.rows(), frauds, usual)
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
        let threshold = settings.alert_log_odds();
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
        self.alert_harm(comparison, settings)
    }

    /// Why the candidate's alerts must not come in place of the champion's, if there is a reason.
    ///
    /// A distribution of scores that moved floods those who look at alerts, or leaves them blind, and a few frauds do not
    /// tell that by the log loss. So a rate of alerts that is another one is harm, unless the labels say that it is right:
    /// the loss is surely lower (a lower average precision is harm of its own), or the rate is nearer to that of frauds
    /// and no frauds are missed that raised alerts before.
    fn alert_harm(&self, comparison: &Comparison, settings: &GateSettings) -> Option<Harm> {
        let (champion, candidate) = (comparison.champion_alerts, comparison.candidate_alerts);
        let ratio = settings.max_alert_ratio;
        if candidate <= ratio * champion && champion <= ratio * candidate {
            return None;
        }
        let threshold = settings.alert_log_odds();
        let [before, after] = [&self.champion, &self.candidate]
            .map(|logits| Alerts::of(logits, &self.labels, threshold));
        let is_seen = champion.max(candidate) > ALERTS_SEEN;
        if !is_seen || before.all.abs_diff(after.all) < ALERTS_TOLD {
            return None;
        }
        // Without frauds, a lower loss is that of whoever predicts less.
        let least = match comparison.frauds < FEW_FRAUDS {
            true => EVIDENT_EXCESS,
            false => 0.0,
        };
        if comparison.log_loss.high < -least {
            return None;
        }
        let frauds = comparison.frauds as f64 / comparison.rows.max(1) as f64;
        let is_farther = (candidate - frauds).abs() > (champion - frauds).abs();
        let is_blind =
            before.frauds >= FEW_FRAUDS && before.frauds as f64 > ratio * after.frauds as f64;
        (is_farther || is_blind).then_some(Harm::Alerts {
            champion,
            candidate,
            frauds,
        })
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

/// Alerts among labelled events.
struct Alerts {
    all: u64,
    /// Those that are frauds.
    frauds: u64,
}

impl Alerts {
    fn of(logits: &[f32], labels: &[f32], threshold: f32) -> Self {
        let mut alerts = Self { all: 0, frauds: 0 };
        for (logit, label) in logits.iter().zip(labels) {
            if *logit > threshold {
                alerts.all += 1;
                alerts.frauds += u64::from(*label > 0.5);
            }
        }
        alerts
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
mod tests;
