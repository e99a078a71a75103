//! Who is scored by a canary: a share of the entities, always the same ones.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_feature_store::MemoryStore;
use millrace_feature_store::Store;
use millrace_learner::{Device, Examples, LearnerSettings};

use super::*;
use crate::live::Live;
use crate::serve::tests::{decode, live, model, payment};
use crate::state::Committed;

/// A process: its own scorer of the example project, with a champion, version 1, and a canary, version 2.
fn process(percent: u8) -> (Live, Model, Model) {
    let live = live();
    let (manifest, checkpoint) = model(&live);
    let mut more = Examples::new(checkpoint.encoder().width());
    for row in 0..32 {
        let row = vec![row as f32; more.width()];
        more.push(&row, true, 1.0).unwrap();
    }
    let none = Examples::new(more.width());
    let settings = LearnerSettings {
        averaged_updates: 1,
        ..LearnerSettings::default()
    };
    let update =
        millrace_learner::update(&settings, Device::Cpu, Some(&checkpoint), &more, &none, 0);
    let (champion, canary) = (
        Model::new(&checkpoint),
        Model::new(&update.unwrap().checkpoint),
    );
    let scorer = live.scorer.clone().unwrap();
    scorer
        .change()
        .swap(manifest.clone(), champion.clone())
        .unwrap();
    let second = Manifest {
        version: 2,
        ..manifest
    };
    scorer
        .change()
        .start_canary(second, canary.clone(), percent)
        .unwrap();
    (live, champion, canary)
}

/// Versions that score one payment of each card.
fn versions(live: &Live, cards: &[String]) -> Vec<u64> {
    let payments: Vec<String> = cards
        .iter()
        .enumerate()
        .map(|(at, card)| payment(&format!("tx{at}"), card, 1.0, 0))
        .collect();
    let store = MemoryStore::new();
    let moment = store.moment();
    let scorer = live.scorer.as_ref().unwrap();
    let scores = scorer.score(&Committed(moment.as_ref()), &decode(live, &payments));
    scores.unwrap().versions
}

/// The cards that the canary answers for, of many.
fn in_canary(live: &Live, cards: &[String]) -> BTreeSet<String> {
    let mut chosen = BTreeSet::new();
    for cards in cards.chunks(1_000) {
        let versions = versions(live, cards);
        assert!(versions.iter().all(|version| [1, 2].contains(version)));
        let canary = cards
            .iter()
            .zip(versions)
            .filter(|(_, version)| *version == 2);
        chosen.extend(canary.map(|(card, _)| card.clone()));
    }
    chosen
}

fn cards(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("card-{number}")).collect()
}

#[test]
fn a_canary_answers_for_its_share_of_the_entities() {
    let cards = cards(10_000);
    let mut smaller = BTreeSet::new();
    for percent in [1, 10, 50, 99] {
        let (live, _, _) = process(percent);
        let chosen = in_canary(&live, &cards);
        let share = f64::from(percent) / 100.0;
        let deviation = (share * (1.0 - share) / cards.len() as f64).sqrt();
        let measured = chosen.len() as f64 / cards.len() as f64;
        assert!(
            (measured - share).abs() < 5.0 * deviation,
            "{percent}%: {measured}"
        );
        // Who was in it stays in it when the share grows.
        assert!(smaller.is_subset(&chosen), "{percent}%");
        smaller = chosen;
    }
    let (live, _, _) = process(10);
    live.scorer.as_ref().unwrap().change().end_canary();
    assert_eq!(in_canary(&live, &cards[..1_000]).len(), 0);
}

#[test]
fn an_entity_is_on_the_same_side_in_every_batch_and_process() {
    let (live, _, _) = process(10);
    let cards = cards(2_000);
    let chosen = in_canary(&live, &cards);
    let other = process(10).0;
    let backwards: Vec<String> = cards.iter().rev().cloned().collect();
    assert_eq!(in_canary(&other, &backwards), chosen);
    // Alone, and several times among others.
    let first = chosen.first().unwrap();
    assert_eq!(versions(&other, std::slice::from_ref(first)), [2]);
    let outside = cards.iter().find(|card| !chosen.contains(*card)).unwrap();
    let batch = [outside, first, outside, first, first].map(Clone::clone);
    assert_eq!(versions(&live, &batch), [1, 2, 1, 2, 2]);
    // And in every release: a hash that changed would move entities between versions.
    let hundred: Vec<&String> = cards[..100]
        .iter()
        .filter(|card| chosen.contains(*card))
        .collect();
    assert_eq!(hundred, PINNED);
}

/// The cards `card-0` to `card-99` that a canary of 10 of 100 answers for.
const PINNED: [&str; 7] = [
    "card-7", "card-23", "card-31", "card-47", "card-52", "card-62", "card-68",
];

#[test]
fn of_changes_by_two_threads_none_is_lost() {
    let (live, champion, _) = process(10);
    let scorer = live.scorer.as_ref().unwrap();
    let manifest = scorer.serving().unwrap().manifest.clone();
    let is_over = AtomicBool::new(false);
    let lost = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                scorer.change().end_canary();
                std::thread::yield_now();
            }
        });
        let is_lost = |version: &u64| {
            let manifest = Manifest {
                version: *version,
                ..manifest.clone()
            };
            let swapped = scorer.change().swap(manifest, champion.clone());
            let serves = scorer.serving().map(|serving| serving.version);
            swapped.is_err() || serves != Some(*version)
        };
        let lost = (3..500).filter(is_lost).count();
        is_over.store(true, Ordering::Relaxed);
        lost
    });
    assert_eq!(lost, 0);
}

#[test]
fn what_is_decided_is_not_overwritten_by_who_follows_meanwhile() {
    let live = live();
    let scorer = live.scorer.as_ref().unwrap();
    let (manifest, checkpoint) = model(&live);
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(folder.path()).unwrap();
    for _ in 1..=2 {
        registry.publish(manifest.clone(), &checkpoint).unwrap();
    }
    registry.set_champion(1).unwrap();
    std::thread::scope(|scope| {
        let change = scorer.change();
        let follows = scope.spawn(|| scorer.follow(&registry).unwrap());
        // It would have served version 1 by now.
        std::thread::sleep(Duration::from_millis(50));
        assert!(scorer.serving().is_none());
        registry.set_champion(2).unwrap();
        let (manifest, checkpoint) = registry.load(2).unwrap();
        change.swap(manifest, Model::new(&checkpoint)).unwrap();
        drop(change);
        assert!(!follows.join().unwrap(), "version 2 serves already");
    });
    assert_eq!(scorer.serving().unwrap().version, 2);
}

#[test]
fn a_version_that_cannot_be_loaded_does_not_serve_and_is_not_said_to() {
    let live = live();
    let scorer = live.scorer.as_ref().unwrap();
    let (manifest, checkpoint) = model(&live);
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(folder.path()).unwrap();
    for version in 1..=2 {
        let published = registry.publish(manifest.clone(), &checkpoint);
        assert_eq!(published.unwrap(), version);
    }
    let weights = folder.path().join("v000002/weights.safetensors");
    std::fs::write(weights, "cut off").unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        registry.set_champion(1).unwrap();
        assert!(scorer.follow(&registry).unwrap());
        registry.set_champion(2).unwrap();
        let failure = scorer.follow(&registry).unwrap_err().to_string();
        assert!(failure.contains("v000002/weights.safetensors"), "{failure}");
        assert!(failure.contains("`millrace models rollback`"), "{failure}");
    });
    assert_eq!(scorer.serving().unwrap().version, 1);
    let told = recorder.handle().render();
    assert!(told.contains("millrace_model_version 1\n"), "{told}");
}

#[test]
fn each_row_has_the_score_of_its_version() {
    let (live, champion, canary) = process(50);
    let store = MemoryStore::new();
    let moment = store.moment();
    let payments: Vec<String> = (0..200)
        .map(|at| payment(&format!("tx{at}"), &format!("card-{at}"), f64::from(at), 0))
        .collect();
    let events = decode(&live, &payments);
    let scorer = live.scorer.as_ref().unwrap();
    let scores = scorer.score(&Committed(moment.as_ref()), &events).unwrap();
    let by_champion = champion.score(&scores.matrix).unwrap();
    let by_canary = canary.score(&scores.matrix).unwrap();
    let given = scores.probabilities.unwrap();
    for (row, version) in scores.versions.iter().enumerate() {
        assert!((by_champion[row] - by_canary[row]).abs() > 1e-4);
        let expected = if *version == 2 {
            by_canary[row]
        } else {
            by_champion[row]
        };
        assert_eq!(given[row], expected, "row {row}");
    }
}
