//! Inputs that are categories: learned, scored as trained, and going on after a restart.

use std::collections::BTreeMap;

use rand::Rng;

use super::{check_scores, quality, settings};
use crate::random::{Stream, generator};
use crate::*;

/// Categories of [`purchases`] that have codes of their own; frauds are nearly all of the third.
const CHANNELS: [f32; 4] = [12_345_678.0, 9.0, 1_000_000.0, 500.0];

/// Purchases: an amount that tells nothing, and a channel, which a few lack, and a few have one of many others. Nine in ten
/// of the third channel's purchases are frauds, and one in two hundred of all others.
fn purchases(rows: usize, seed: u64) -> Examples {
    let mut random = generator(seed, Stream::Shuffle, 0);
    let mut examples = Examples::of_kinds(vec![InputKind::Number, InputKind::Category]);
    for _ in 0..rows {
        let amount = (random.random::<f32>() * 5.0).exp();
        let channel = match random.random_range(0..100) {
            0..3 => f32::NAN,
            3..6 => 20_000.0 + random.random_range(0..5_000) as f32,
            6..12 => CHANNELS[2],
            other => CHANNELS[[0, 1, 3][other as usize % 3]],
        };
        let fraud = random.random_bool(if channel == CHANNELS[2] { 0.9 } else { 0.005 });
        examples.push(&[amount, channel], fraud, 1.0).unwrap();
    }
    examples
}

/// Not the number but which category it is tells frauds; a category that was never seen is like most others.
#[test]
fn a_fraud_that_only_a_category_tells_is_learned() {
    let none = Examples::new(2);
    for (members, hidden) in [(4, vec![16]), (1, vec![16]), (1, vec![])] {
        let settings = LearnerSettings {
            members,
            hidden: hidden.clone(),
            // So that a logistic regression comes as far.
            initial_passes: 20,
            initial_learning_rate: 0.03,
            learning_rate: 0.01,
            ..LearnerSettings::default()
        };
        let first = update(&settings, Device::Cpu, None, &purchases(4_000, 1), &none, 7).unwrap();
        let next = purchases(2_000, 2);
        let start = Some(&first.checkpoint);
        let next = update(&settings, Device::Cpu, start, &next, &none, 7).unwrap();
        let checkpoint = next.checkpoint;
        let test = purchases(4_000, 100);
        let quality = quality(&checkpoint, &test);
        let model = Model::new(&checkpoint);
        let of = |channel: f32| model.score(&[12.0, channel]).unwrap()[0];
        let [shop, web, phone, other] = CHANNELS.map(of);
        // Never seen, though its number is next to the phone's; missing.
        let (new, missing) = (of(CHANNELS[2] + 1.0), of(f32::NAN));
        let case = format!(
            "{members} members, {hidden:?}: {quality:?}, {shop} {web} {phone} {other}, {new} {missing}"
        );
        println!("{case}");
        assert!(quality.average_precision.unwrap() > 0.7, "{case}");
        assert!(phone > 0.6, "{case}");
        for calm in [shop, web, other, new, missing] {
            assert!(calm < 0.25, "{case}");
        }

        let reasons = model.contributions(&[12.0, CHANNELS[2]]).unwrap();
        assert!(reasons[1] > 2.0 && reasons[1] > reasons[0].abs(), "{case}");
        // The most frequent channel moves nothing: it is what others are compared with.
        let usual = model.encoder().usual(1);
        assert!([CHANNELS[0], CHANNELS[1], CHANNELS[3]].contains(&usual));
        assert_eq!(model.contributions(&[12.0, usual]).unwrap()[1], 0.0);
        check_scores(&checkpoint, &test);
    }
}

#[test]
fn a_restart_with_categories_changes_no_bit() {
    let none = Examples::new(2);
    let learn = |parent: Option<&Checkpoint>, seed: u64| {
        let update = update(
            &settings(),
            Device::Cpu,
            parent,
            &purchases(600, seed),
            &none,
            7,
        );
        update.unwrap().checkpoint
    };
    let first = learn(None, 1);
    let mut files: BTreeMap<_, _> = first.to_files().unwrap().into_iter().collect();
    let reopened = Checkpoint::from_files(|name| Ok(files.remove(name).unwrap())).unwrap();
    assert_eq!(reopened, first);
    let (straight, again) = (learn(Some(&first), 2), learn(Some(&reopened), 2));
    assert_eq!(again.to_files().unwrap(), straight.to_files().unwrap());
}
