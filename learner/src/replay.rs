//! Which labelled events of the recent history an update learns again.
//!
//! Only positions are chosen here; their inputs are read elsewhere.

use crate::random::{Stream, mix};
use crate::settings::LearnerSettings;

/// Chooses a replay sample: at most `replay_frauds` frauds and `replay_negatives` genuine events,
/// each drawn evenly, with the inverse of its sampling rate as weight, so that the weighted base
/// rate is the history's and the model stays calibrated.
///
/// `labels` are (position, fraud). The answer is (position, weight) by ascending position. The same
/// set of labels and seed give the same sample, whatever the order of `labels`. Positions should be
/// distinct.
pub fn replay_sample(
    labels: &[(u64, bool)],
    settings: &LearnerSettings,
    seed: u64,
) -> Vec<(u64, f32)> {
    let mut sample = draw(labels, true, settings.replay_frauds, seed);
    sample.extend(draw(labels, false, settings.replay_negatives, seed));
    sample.sort_unstable_by_key(|(position, _)| *position);
    sample
}

/// An even sample without replacement: those whose hashed positions are the smallest.
fn draw(labels: &[(u64, bool)], fraud: bool, most: usize, seed: u64) -> Vec<(u64, f32)> {
    let salt = mix(seed ^ mix(Stream::Replay as u64));
    let mut keyed: Vec<(u64, u64)> = labels
        .iter()
        .filter(|(_, label)| *label == fraud)
        .map(|(position, _)| (mix(position ^ salt), *position))
        .collect();
    let all = keyed.len();
    if most < all {
        keyed.select_nth_unstable(most);
        keyed.truncate(most);
    }
    let weight = all as f64 / keyed.len().max(1) as f64;
    keyed
        .into_iter()
        .map(|(_, position)| (position, weight as f32))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(frauds: usize, negatives: usize) -> LearnerSettings {
        LearnerSettings {
            replay_frauds: frauds,
            replay_negatives: negatives,
            ..LearnerSettings::default()
        }
    }

    fn history() -> Vec<(u64, bool)> {
        (0..10_000).map(|i| (i * 3, i % 50 == 7)).collect()
    }

    #[test]
    fn the_weighted_base_rate_is_the_historys() {
        let history = history();
        for (frauds, negatives) in [(1_000, 100_000), (1_000, 500), (20, 500), (20, 0)] {
            let sample = replay_sample(&history, &settings(frauds, negatives), 5);
            let weight = |fraud| -> f32 {
                let of_class = |p: u64| ((p / 3) % 50 == 7) == fraud;
                let chosen = sample.iter().filter(|(p, _)| of_class(*p));
                chosen.map(|(_, weight)| weight).sum()
            };
            assert!((weight(true) - 200.0).abs() < 1e-2);
            let genuine = if negatives == 0 { 0.0 } else { 9_800.0 };
            assert!((weight(false) - genuine).abs() < 1.0);
            assert_eq!(sample.len(), frauds.min(200) + negatives.min(9_800));
            assert!(sample.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[test]
    fn the_sample_depends_on_the_set_and_the_seed_alone() {
        let mut history = history();
        let sample = replay_sample(&history, &settings(20, 500), 5);
        history.reverse();
        assert_eq!(sample, replay_sample(&history, &settings(20, 500), 5));
        assert_ne!(sample, replay_sample(&history, &settings(20, 500), 6));
        assert!(replay_sample(&[], &settings(20, 500), 5).is_empty());
    }

    /// Each quarter of the history gets a quarter of the sample, within five standard deviations.
    #[test]
    fn the_sample_is_even_over_the_history() {
        let sample = replay_sample(&history(), &settings(0, 4_000), 11);
        for quarter in 0..4_u64 {
            let within = |p: &u64| (quarter * 7_500..(quarter + 1) * 7_500).contains(p);
            let count = sample.iter().filter(|(p, _)| within(p)).count() as f64;
            assert!((count - 1_000.0).abs() < 5.0 * (4_000.0 * 0.25 * 0.75_f64 * 0.6).sqrt());
        }
    }
}
