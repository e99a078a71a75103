//! How well scores tell frauds from genuine events, on rows with weights.
//!
//! Definitions are scikit-learn's (`average_precision_score`, `roc_auc_score`, `log_loss` with
//! `sample_weight`). A metric that does not exist, such as a ranking metric over rows of one class,
//! is `None`.

use serde::{Deserialize, Deserializer, Serialize};

/// The metrics of one model on one set of rows. No rows give zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Rows that were scored.
    pub rows: u64,
    /// Rows among them that are frauds.
    pub frauds: u64,
    /// Weighted mean of the probabilities. A calibrated model's is near the weighted share of
    /// frauds.
    #[serde(deserialize_with = "number")]
    pub mean_prediction: f64,
    /// Weighted mean negative log likelihood, in nats a row.
    #[serde(deserialize_with = "number")]
    pub log_loss: f64,
    /// Area under the precision-recall steps, 0 to 1.
    pub average_precision: Option<f64>,
    /// Area under the ROC curve, 0 to 1.
    pub roc_auc: Option<f64>,
}

impl Metrics {
    /// Metrics of a model's `logits`, which are the log odds of fraud. `labels` are 0 or 1. The
    /// three slices have one number a row.
    pub fn of(logits: &[f32], labels: &[f32], weights: &[f32]) -> Self {
        Self {
            rows: labels.len() as u64,
            frauds: labels.iter().filter(|label| **label > 0.5).count() as u64,
            mean_prediction: mean_prediction(logits, weights),
            log_loss: log_loss(logits, labels, weights),
            average_precision: average_precision(logits, labels, weights),
            roc_auc: roc_auc(logits, labels, weights),
        }
    }

    /// Whether all of its numbers are finite: those of scores that are no numbers are not.
    pub fn is_finite(&self) -> bool {
        let numbers = [self.mean_prediction, self.log_loss].into_iter();
        let mut known = numbers.chain(self.average_precision).chain(self.roc_auc);
        known.all(f64::is_finite)
    }
}

/// Reads a number that was written as JSON, where one that is not finite is null.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let found = Option::<f64>::deserialize(deserializer)?;
    Ok(found.unwrap_or(f64::NAN))
}

/// Weighted mean of −log p(label), in nats, from logits. It is computed as
/// max(z, 0) − z·y + ln(1 + e^−|z|), which neither overflows nor loses small losses. 0 for no rows.
pub fn log_loss(logits: &[f32], labels: &[f32], weights: &[f32]) -> f64 {
    let losses = logits.iter().zip(labels).map(|(logit, label)| {
        let (z, y) = (f64::from(*logit), f64::from(*label));
        z.max(0.0) - z * y + (-z.abs()).exp().ln_1p()
    });
    weighted_mean(losses, weights)
}

/// Σ (Rₙ − Rₙ₋₁) Pₙ over the distinct scores from high to low, where rows of one score enter
/// together. `None` where no fraud has a weight.
pub fn average_precision(scores: &[f32], labels: &[f32], weights: &[f32]) -> Option<f64> {
    let groups = score_groups(scores, labels, weights);
    let all_frauds: f64 = groups.iter().map(|group| group.frauds).sum();
    let (mut frauds, mut rows, mut area) = (0.0, 0.0, 0.0);
    for group in groups {
        frauds += group.frauds;
        rows += group.frauds + group.genuine;
        if rows > 0.0 {
            area += group.frauds / all_frauds * (frauds / rows);
        }
    }
    (all_frauds > 0.0).then_some(area)
}

/// The probability that a fraud scores above a genuine row, where equal scores count half. `None`
/// where one of the classes has no weight.
pub fn roc_auc(scores: &[f32], labels: &[f32], weights: &[f32]) -> Option<f64> {
    let (mut frauds, mut genuine, mut above) = (0.0, 0.0, 0.0);
    for group in score_groups(scores, labels, weights) {
        above += group.genuine * (frauds + group.frauds / 2.0);
        frauds += group.frauds;
        genuine += group.genuine;
    }
    (frauds > 0.0 && genuine > 0.0).then(|| above / (frauds * genuine))
}

/// Mean score and share of frauds of groups of nearly equal size, from the lowest scores to the highest.
/// `scores` are probabilities. At most `groups` of them, none empty.
pub fn reliability(scores: &[f32], labels: &[f32], groups: usize) -> Vec<(f64, f64)> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let rows = order.len();
    let group = |group: usize| {
        let rows = &order[group * rows / groups..(group + 1) * rows / groups];
        let mean = |values: &[f32]| {
            let sum: f64 = rows.iter().map(|row| f64::from(values[*row])).sum();
            sum / rows.len() as f64
        };
        (!rows.is_empty()).then(|| (mean(scores), mean(labels)))
    };
    (0..groups).filter_map(group).collect()
}

/// Expected calibration error: the mean distance between the two numbers of [`reliability`]'s groups
/// (Naeini, Cooper, Hauskrecht 2015, with groups of equal size). 0 for no rows.
pub fn calibration_error(scores: &[f32], labels: &[f32], groups: usize) -> f64 {
    let groups = reliability(scores, labels, groups);
    let distances = groups.iter().map(|(score, share)| (score - share).abs());
    distances.sum::<f64>() / groups.len().max(1) as f64
}

fn mean_prediction(logits: &[f32], weights: &[f32]) -> f64 {
    let predictions = logits.iter().map(|z| 1.0 / (1.0 + f64::from(-z).exp()));
    weighted_mean(predictions, weights)
}

fn weighted_mean(values: impl Iterator<Item = f64>, weights: &[f32]) -> f64 {
    let (mut sum, mut total) = (0.0, 0.0);
    for (value, weight) in values.zip(weights) {
        let weight = f64::from(*weight);
        sum += value * weight;
        total += weight;
    }
    if total > 0.0 { sum / total } else { 0.0 }
}

/// The weights of the rows that share one score.
#[derive(Default)]
struct Group {
    frauds: f64,
    genuine: f64,
}

/// Groups of equal score, from the highest score to the lowest.
fn score_groups(scores: &[f32], labels: &[f32], weights: &[f32]) -> Vec<Group> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
        .chunk_by(|a, b| scores[*a] == scores[*b])
        .map(|rows| group(rows, labels, weights))
        .collect()
}

fn group(rows: &[usize], labels: &[f32], weights: &[f32]) -> Group {
    let mut group = Group::default();
    for row in rows {
        let weight = f64::from(weights[*row]);
        if labels[*row] > 0.5 {
            group.frauds += weight;
        } else {
            group.genuine += weight;
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, generator};
    use rand::Rng;

    /// Precision and recall at every threshold, each counted over all rows.
    fn slow_average_precision(scores: &[f32], labels: &[f32], weights: &[f32]) -> Option<f64> {
        let mass = |keep: &dyn Fn(usize) -> bool| -> f64 {
            let kept = (0..scores.len()).filter(|row| keep(*row));
            kept.map(|row| f64::from(weights[row])).sum()
        };
        let all = mass(&|row| labels[row] == 1.0);
        let mut thresholds = scores.to_vec();
        thresholds.sort_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        let (mut area, mut recall_before) = (0.0, 0.0);
        for threshold in thresholds {
            let hits = mass(&|row| labels[row] == 1.0 && scores[row] >= threshold);
            let flagged = mass(&|row| scores[row] >= threshold);
            area += (hits / all - recall_before) * (hits / flagged);
            recall_before = hits / all;
        }
        (all > 0.0).then_some(area)
    }

    /// Every pair of a fraud and a genuine row.
    fn slow_roc_auc(scores: &[f32], labels: &[f32], weights: &[f32]) -> Option<f64> {
        let (mut above, mut pairs) = (0.0, 0.0);
        for fraud in (0..scores.len()).filter(|row| labels[*row] == 1.0) {
            for other in (0..scores.len()).filter(|row| labels[*row] == 0.0) {
                let weight = f64::from(weights[fraud]) * f64::from(weights[other]);
                pairs += weight;
                above += weight
                    * match scores[fraud].total_cmp(&scores[other]) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
            }
        }
        (pairs > 0.0).then(|| above / pairs)
    }

    fn slow_log_loss(scores: &[f32], labels: &[f32], weights: &[f32]) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for row in 0..scores.len() {
            let p = 1.0 / (1.0 + (-f64::from(scores[row])).exp());
            let likelihood = if labels[row] == 1.0 { p } else { 1.0 - p };
            sum -= f64::from(weights[row]) * likelihood.ln();
            total += f64::from(weights[row]);
        }
        sum / total
    }

    fn close(a: Option<f64>, b: Option<f64>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-9,
            (a, b) => a == b,
        }
    }

    #[test]
    fn metrics_equal_the_slow_references_on_random_rows() {
        for seed in 0..300 {
            let mut random = generator(seed, Stream::Shuffle, 0);
            let rows = random.random_range(1..60);
            // Few distinct scores, so that ties are common.
            let levels = random.random_range(1..30);
            let scores: Vec<f32> = (0..rows)
                .map(|_| random.random_range(-levels..=levels) as f32 / 4.0)
                .collect();
            let labels: Vec<f32> = (0..rows)
                .map(|_| f32::from(random.random_range(0..4_u8) == 0))
                .collect();
            let weights: Vec<f32> = (0..rows).map(|_| random.random_range(0.1..3.0)).collect();
            let (s, l, w) = (&scores[..], &labels[..], &weights[..]);
            assert!(
                close(average_precision(s, l, w), slow_average_precision(s, l, w)),
                "seed {seed}"
            );
            assert!(
                close(roc_auc(s, l, w), slow_roc_auc(s, l, w)),
                "seed {seed}"
            );
            assert!(
                (log_loss(s, l, w) - slow_log_loss(s, l, w)).abs() < 1e-9,
                "seed {seed}"
            );
        }
    }

    #[test]
    fn known_values() {
        // scikit-learn's own example: average_precision_score = 0.8333…, roc_auc_score = 0.75.
        let (scores, labels) = ([0.1, 0.4, 0.35, 0.8], [0.0, 0.0, 1.0, 1.0]);
        let metrics = Metrics::of(&scores, &labels, &[1.0; 4]);
        assert!(close(metrics.average_precision, Some(5.0 / 6.0)));
        assert!(close(metrics.roc_auc, Some(0.75)));
        assert_eq!((metrics.rows, metrics.frauds), (4, 2));
        // All scores equal: precision is the base rate.
        assert!(close(
            average_precision(&[0.5; 4], &labels, &[1.0; 4]),
            Some(0.5)
        ));
    }

    #[test]
    fn calibration_is_the_distance_of_scores_from_what_happened() {
        let scores = [0.1, 0.1, 0.1, 0.1, 0.6, 0.6, 0.6, 0.6];
        let labels = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0];
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        let groups = reliability(&scores, &labels, 2);
        assert!(close(groups[0].0, 0.1) && close(groups[0].1, 0.0));
        assert!(close(groups[1].0, 0.6) && close(groups[1].1, 0.75));
        assert!(close(calibration_error(&scores, &labels, 2), 0.125));
        assert_eq!(reliability(&scores, &labels, 100).len(), 8);
        assert_eq!(calibration_error(&[], &[], 20), 0.0);
    }

    #[test]
    fn the_edges_are_defined() {
        assert_eq!(Metrics::of(&[], &[], &[]), Metrics::default());
        assert_eq!(average_precision(&[1.0], &[0.0], &[1.0]), None);
        assert_eq!(roc_auc(&[1.0], &[1.0], &[1.0]), None);
        // A certain and wrong model: ln(1 + e^100) is 100, and a certain and right one loses
        // e^-100.
        assert!((log_loss(&[100.0], &[0.0], &[1.0]) - 100.0).abs() < 1e-9);
        let small = log_loss(&[100.0], &[1.0], &[1.0]);
        assert!((small / (-100.0_f64).exp() - 1.0).abs() < 1e-9);
        assert!((mean_prediction(&[0.0, 0.0], &[1.0, 3.0]) - 0.5).abs() < 1e-12);
    }
}
