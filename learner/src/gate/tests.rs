//! What is refused, and what is no test.

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

/// The same events with a comparison whose loss tells nothing, so that alerts alone decide.
fn by_alerts_alone(paired: &Paired) -> Option<Harm> {
    let settings = GateSettings::default();
    let comparison = Comparison {
        log_loss: Interval {
            low: -1.0,
            mean: 0.0,
            high: 1.0,
        },
        average_precision: None,
        ..paired.compare(&settings, 0.95, 1)
    };
    let harm = paired.harm(&comparison, &settings);
    // One that is surely better by the loss has the right to its alerts.
    let better = Comparison {
        log_loss: Interval {
            low: -0.9,
            mean: -0.7,
            high: -0.5,
        },
        ..comparison
    };
    assert_eq!(paired.harm(&better, &settings), None);
    harm
}

/// Events, so many frauds first, of which the champion and the candidate call so many frauds and genuine ones fraud.
fn alerts(rows: usize, frauds: usize, champion: [usize; 2], candidate: [usize; 2]) -> Paired {
    let mut paired = Paired::default();
    for row in 0..rows {
        let is_fraud = row < frauds;
        let at = if is_fraud { row } else { row - frauds };
        let of = |alerts: [usize; 2]| match at < alerts[usize::from(!is_fraud)] {
            true => 3.0,
            false => -5.0,
        };
        let label = f32::from(u8::from(is_fraud));
        paired.extend(&[of(champion)], &[of(candidate)], &[label]);
    }
    paired
}

#[test]
fn alerts_that_are_many_more_or_fewer_are_refused_where_the_labels_do_not_speak_for_them() {
    let is_refused = |paired: &Paired| matches!(by_alerts_alone(paired), Some(Harm::Alerts { .. }));
    // All events, and a rate that is farther from that of frauds than none.
    assert!(is_refused(&alerts(400, 4, [2, 2], [4, 396])));
    assert!(is_refused(&alerts(1_000, 8, [0, 0], [6, 34])));
    // No alerts more, where frauds raised some; and fewer than there are frauds.
    assert!(is_refused(&alerts(1_000, 16, [12, 30], [0, 0])));
    assert!(is_refused(&alerts(1_000, 60, [40, 0], [4, 0])));
}

#[test]
fn alerts_that_come_nearer_to_the_frauds_are_no_harm() {
    // The champion calls genuine events fraud, one in ten.
    assert_eq!(by_alerts_alone(&alerts(267, 3, [1, 35], [0, 0])), None);
    // It has none, and there are frauds: of ten labels one says so.
    assert_eq!(by_alerts_alone(&alerts(1_000, 70, [0, 0], [36, 7])), None);
    // So few that chance could give them.
    assert_eq!(by_alerts_alone(&alerts(250, 2, [0, 0], [0, 12])), None);
}

/// A champion that has lost its way has high losses, and whoever finds it again raises far fewer alerts.
#[test]
fn a_version_that_is_surely_better_may_raise_far_fewer_alerts() {
    let mut paired = events(267, 7, 1.0, 1.0);
    for row in (0..267).step_by(8) {
        paired.champion[row] = 6.0;
    }
    let settings = GateSettings::default();
    let comparison = paired.compare(&settings, 0.95, 1);
    assert!(comparison.log_loss.high < -0.4, "{comparison:?}");
    assert!(comparison.champion_alerts > 5.0 * comparison.candidate_alerts);
    assert_eq!(paired.harm(&comparison, &settings), None);
    // The other way round it is refused.
    std::mem::swap(&mut paired.champion, &mut paired.candidate);
    assert!(verdict(&paired).is_some());
}

#[test]
fn labels_of_one_kind_are_no_test() {
    let settings = GateSettings::default();
    let lack = |rows, frauds, usual: f64| settings.lack(rows, frauds, || usual);
    assert_eq!(lack(199, 20, 0.01), Some(Lack::Labels));
    assert_eq!(lack(203, 203, 0.01), Some(Lack::Genuine));
    assert_eq!(lack(203, 104, 0.01), Some(Lack::Genuine));
    assert_eq!(lack(400, 0, 0.01), Some(Lack::Frauds));
    assert_eq!(lack(400, 1, 0.01), None);
    // One in ten genuine events is labelled from some day on.
    assert_eq!(lack(400, 40, 0.008), None);
    // Frauds of many days, and genuine events of one: that is so only where it is usual.
    assert_eq!(lack(600, 400, 0.01), Some(Lack::Genuine));
    assert_eq!(lack(600, 400, 0.6), None);
    assert_eq!(lack(600, 400, 1.0), None);
    let frauds = alerts(203, 203, [0, 0], [203, 0]);
    assert_eq!(frauds.lack(&settings, || 0.01), Some(Lack::Genuine));
    assert_eq!(frauds.lack(&settings, || 1.0), Some(Lack::Genuine));
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
