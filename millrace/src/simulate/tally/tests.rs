#![allow(clippy::unwrap_used)]
use millrace_feature_store::{Commit, MemoryStore};
use millrace_learner::{GateSettings, Paired, Prequential};

use super::*;
use crate::labels::{LabelJoin, ScoredRecord};
use crate::learning::Tested;

#[test]
fn an_event_whose_label_was_corrected_counts_once() {
    let store = MemoryStore::new();
    let mut join = LabelJoin::open(&store).unwrap();
    let mut tally = Tally::new(i64::MIN, 0.25);
    let mut period = |labels: &[(&str, bool)]| {
        let mut step = join.begin(&store);
        for id in ["a", "b"] {
            let record = ScoredRecord::new(1, &[1.0], 7).answered(Some(0.5), 1);
            step.scored(id.as_bytes(), record).unwrap();
        }
        for (id, fraud) in labels {
            step.label(id.as_bytes(), *fraud, 2);
        }
        let mut commit = Commit::default();
        step.finish(&mut join, &mut commit).unwrap();
        store.commit(commit).unwrap();
        tally.read(&store).unwrap();
        let newest = tally.newest.iter().map(|(_, example)| example.fraud);
        (tally.labels.clone(), newest.collect::<Vec<_>>())
    };
    let known = period(&[("a", false), ("b", true)]);
    assert_eq!(known, (vec![0.0, 1.0], vec![false, true]));
    assert_eq!(period(&[("a", true)]), (vec![1.0, 1.0], vec![true, true]));
    // Of one that was corrected twice, the last label.
    assert_eq!(
        period(&[("a", false), ("b", false), ("a", true)]),
        (vec![1.0, 0.0], vec![true, false])
    );
}

/// A period whose labels make no version.
fn period() -> Period {
    let prequential = Prequential {
        average_precision: None,
        rows: 0,
        frauds: 0,
    };
    Period {
        end_us: 0,
        labels: 3,
        frauds: 1,
        corrected: 0,
        waited_us: 0,
        learned: Learned::Waiting,
        tested: Vec::new(),
        rolled_back: None,
        prequential,
        seconds: 0.0,
    }
}

#[test]
fn a_version_that_went_with_another_is_told_as_rejected_with_its_own_test() {
    let mut tally = Tally::new(i64::MIN, 0.25);
    let mut period = period();
    tally.note(&period, 0);
    tally.updates[0].version = Some(37);
    let mut paired = Paired::default();
    paired.extend(&[0.0, 1.0], &[0.0, 1.0], &[0.0, 1.0]);
    let comparison = paired.compare(&GateSettings::default(), 0.95, 7);
    let because = "it comes from version 36, which was taken back";
    for (comparison, verdict) in [
        (Some(comparison), Verdict::Canary(50)),
        (None, Verdict::Rejected(because.to_owned())),
    ] {
        period.tested.push(Tested {
            version: 37,
            champion: 36,
            comparison,
            verdict,
        });
    }
    tally.note(&period, 0);
    let line = &tally.updates[0];
    assert_eq!(line.reason.as_deref(), Some(because));
    assert_eq!((line.rejected, line.accepted), (true, false));
    assert_eq!(line.tested, Some(comparison));
    assert_eq!(tally.summary("a run", &[], 1.0, 10).rejected, 1);
}

#[test]
fn why_no_model_was_made_is_said() {
    let mut tally = Tally::new(i64::MIN, 0.25);
    tally.unscored = 3;
    let said = |tally: &Tally| tally.why_nothing().unwrap_or_default();
    assert!(said(&tally).contains("too few for one (model.min_labels, model.min_frauds)"));
    let mut period = period();
    for learned in [
        Learned::Waiting,
        Learned::Broken("the network's weights are not finite".to_owned()),
        Learned::Broken("the training loss is not finite".to_owned()),
        Learned::Waiting,
    ] {
        period.learned = learned;
        tally.note(&period, 0);
    }
    let expected =
        "updates that were thrown away: 2, the last because the training loss is not finite (";
    assert!(said(&tally).contains(expected), "{}", said(&tally));
}

#[test]
fn alerts_begin_at_the_threshold_and_nothing_measured_has_a_reason() {
    let mut tally = Tally::new(5, 0.25);
    let said = |tally: &Tally| tally.why_nothing().unwrap_or_default();
    assert!(said(&tally).starts_with("no label has the id"));
    tally.unscored = 3;
    assert!(said(&tally).starts_with("3 labelled events came, all of them before the first"));
    tally.before_from = (2, 0);
    let expected = "of 3 labelled events 2 came before --from, the newest at 1970-01-01T00:00:00Z";
    assert!(said(&tally).starts_with(expected));
    tally.times = vec![6; 4];
    tally.scores = vec![0.1, 0.2, 0.25, 0.4];
    tally.labels = vec![0.0, 0.0, 0.0, 1.0];
    assert_eq!(tally.why_nothing(), None);
    assert_eq!(tally.days()[0].alerts, 0.5);
}

#[test]
fn of_no_events_nothing_is_measured() {
    let mut tally = Tally::new(i64::MIN, 0.25);
    let said = |tally: &Tally| {
        let summary = tally.summary("a run", &[], 1.0, 10);
        serde_json::to_value(summary).unwrap()
    };
    const MEASURED: [&str; 6] = [
        "average_precision",
        "roc_auc",
        "log_loss",
        "mean_score",
        "fraud_rate",
        "calibration_error",
    ];
    let nothing = said(&tally);
    assert_eq!(nothing["events"], 0);
    assert_eq!(nothing["learning_seconds"].to_string(), "0.0");
    for name in MEASURED {
        assert_eq!(nothing.get(name), Some(&serde_json::Value::Null), "{name}");
    }
    tally.times = vec![6, 7];
    tally.scores = vec![0.25, 0.75];
    tally.labels = vec![0.0, 1.0];
    let two = said(&tally);
    assert_eq!(two["events"], 2);
    assert_eq!(two["frauds"], 1);
    for name in MEASURED {
        assert!(two[name].is_f64(), "{name}: {two}");
    }
    assert_eq!(two["mean_score"], 0.5);
}

/// A run that has scored some of the events of the times 0 to 9, each of them with its time in tenths.
fn scored(times: &[i64]) -> Tally {
    let store = MemoryStore::new();
    let mut join = LabelJoin::open(&store).unwrap();
    let mut tally = Tally::new(i64::MIN, 0.25);
    let mut step = join.begin(&store);
    for time_us in 0..10_i64 {
        let id = time_us.to_string();
        let score = times.contains(&time_us).then_some(time_us as f32 / 10.0);
        let record = ScoredRecord::new(time_us, &[1.0], 7).answered(score, 1);
        step.scored(id.as_bytes(), record).unwrap();
        step.label(id.as_bytes(), time_us % 2 == 0, 20);
    }
    let mut commit = Commit::default();
    step.finish(&mut join, &mut commit).unwrap();
    store.commit(commit).unwrap();
    tally.read(&store).unwrap();
    tally
}

#[test]
fn runs_are_compared_on_events_that_all_of_them_scored() {
    // The second run's model is younger. The first has scored one that came late, the third never had a model.
    let mut runs = [
        scored(&[1, 4, 5, 6, 7, 8, 9]),
        scored(&[7, 8, 9]),
        scored(&[]),
    ];
    let [first, second, third] = &mut runs;
    keep_common(&mut [first, second, third]);
    let [first, second, third] = &runs;
    assert_eq!(first.times, [7, 8, 9]);
    assert_eq!(first.scores, [0.7, 0.8, 0.9]);
    assert_eq!(first.labels, [0.0, 1.0, 0.0]);
    assert_eq!(first.numbers.len(), 3);
    assert_eq!(
        (&first.times, &first.scores),
        (&second.times, &second.scores)
    );
    let quality = first.quality();
    assert_eq!(quality.from.as_deref(), Some("1970-01-01T00:00:00.000007Z"));
    assert_eq!((quality.events, quality.frauds), (3, 1));
    assert_eq!(third.quality().events, 0);
}

#[test]
fn runs_that_scored_all_events_are_compared_on_all() {
    let mut runs = [scored(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), scored(&[])];
    let [first, without] = &mut runs;
    keep_common(&mut [first, without]);
    assert_eq!(runs[0].times.len(), 10);
    assert_eq!(runs[0].quality().from, None);
}
