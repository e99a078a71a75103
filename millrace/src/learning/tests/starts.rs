//! What a process that starts knows of those before it, by scoring labels again.

use super::*;

#[test]
fn a_process_that_starts_scores_again_what_a_calibration_is_fitted_on() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    for hour in 0..6 {
        machine.hour(hour, 300, process.tag());
        if hour == 4 {
            machine.correct(hour, &[400]);
        }
        process.learn(hour);
    }
    // The labels of the first hour made the first model.
    let scored = process.learning.scored.labels_of();
    assert_eq!(scored.len(), 1_500);
    let corrected = scored.iter().find(|(first, _)| *first == 401);
    assert_eq!(corrected, Some(&(401, !is_fraud(400))));
    drop(process);
    assert_eq!(machine.start().learning.scored.labels_of(), scored);
}

#[test]
fn a_process_that_starts_knows_by_the_log_what_was_learned() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    let (canary, hour) = until_canary(&mut machine, &mut process);
    drop(process);
    let kept = registry(machine.folder.path());
    let champion = kept.champion().unwrap().unwrap();
    // Nothing but what answers can be read.
    let others = kept.versions().unwrap().into_iter();
    let others: Vec<u64> = others
        .filter(|it| ![champion, canary].contains(it))
        .collect();
    assert!(!others.is_empty());
    for version in others {
        let manifest = format!("models/v{version:06}/manifest.json");
        std::fs::write(machine.folder.path().join(manifest), "{").unwrap();
    }

    let mut process = machine.start();
    assert!(process.learning.shadow.is_none());
    assert!(process.learning.next_period(i64::MAX).unwrap().is_none());
    machine.hour(hour, 300, process.tag());
    let period = process.learn(hour);
    assert_eq!(period.labels, 300);
    assert_eq!(learned(&period).parent, Some(canary));
}

#[test]
fn labels_that_stop_saying_fraud_are_put_aside_though_each_period_has_a_process_of_its_own() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    for hour in 0..6 {
        machine.hour(hour, 300, process.tag());
        process.learn(hour);
    }
    drop(process);
    machine.is_silent = true;
    let mut is_noticed = |hour: i64| {
        let mut process = machine.start();
        machine.hour(hour, 100, process.tag());
        match process.learn(hour).learned {
            Learned::PutAside(reason) => reason.contains("are frauds where"),
            _ => false,
        }
    };
    // A hundred labels have about seven frauds. None among them is chance, and among many of them it is not.
    let noticed = (6..26_i64).find(|hour| is_noticed(*hour));
    assert!(noticed.is_some_and(|hour| hour > 6), "{noticed:?}");
}

#[test]
fn frauds_that_are_far_too_many_are_counted_on_though_each_period_has_a_process_of_its_own() {
    let outcome = |one_process: bool| {
        let mut machine = Machine::with(&format!("{SETTINGS}max_fraud_ratio = 3.0\n"));
        let mut process = machine.start();
        machine.hour(0, 300, process.tag());
        process.learn(0);
        let mut reasons = Vec::new();
        for hour in 1..6 {
            if !one_process {
                process = machine.start();
            }
            machine.is_flooded = hour < 5;
            machine.hour(hour, 20, process.tag());
            reasons.push(match process.learn(hour).learned {
                Learned::PutAside(reason) => Some(reason),
                _ => None,
            });
        }
        reasons
    };
    let reasons = outcome(false);
    let is_flood = |reason: &Option<String>| {
        let reason = reason.as_deref();
        reason
            .map(|it| it.starts_with("in the newest periods together, 20 of 40 labels are frauds"))
    };
    // Ten frauds of twenty labels tell nothing alone.
    let floods: Vec<Option<bool>> = reasons.iter().map(is_flood).collect();
    assert_eq!(floods, [None, Some(true), Some(true), Some(true), None]);
    assert_eq!(outcome(true), reasons);
}

#[test]
fn a_start_afresh_that_was_refused_is_not_tried_again_with_nearly_the_same_labels() {
    let settings = SETTINGS.replace("afresh_at_growth = 1.0", "afresh_at_growth = 2.0");
    let mut machine = Machine::with(&settings);
    let mut process = machine.start();
    for hour in 0..2 {
        machine.hour(hour, 300, process.tag());
        assert_eq!(learned(&process.learn(hour)).parent, None);
    }
    let refused = vec![came_to(2, State::Rejected, None, None, 2 * HOUR)];
    process.learning.note(refused).unwrap();
    for (hour, labels, parent) in [(2, 100, Some(1)), (3, 100, None)] {
        process = machine.start();
        // With 700 labels, of the 750 that it takes, and then with 800.
        machine.hour(hour, labels, process.tag());
        let period = process.learn(hour);
        assert_eq!(learned(&period).parent, parent, "{hour}");
        let version = learned(&period).version;
        let refused = vec![came_to(version, State::Rejected, None, None, 2 * HOUR)];
        process.learning.note(refused).unwrap();
    }
}

#[test]
fn as_many_settled_frauds_are_scored_again_as_a_calibration_takes() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    for hour in 0..16 {
        machine.hour(hour, 300, process.tag());
        // Two hours later it is known which of them were frauds.
        if hour >= 2 {
            let from = (hour as u64 - 2) * 300;
            let genuine = (from..from + 300).filter(|number| !is_fraud(*number));
            let numbers: Vec<u64> = genuine.take(30).collect();
            machine.correct(hour, &numbers);
        }
        process.learn(hour);
    }
    drop(process);
    let learning = machine.start().learning;
    let settling = learning.settling();
    assert!(settling > 500, "{settling}");
    let settled = learning.dealt_with - settling;
    let scored = learning.scored.labels_of().into_iter();
    let frauds = scored.filter(|(first, fraud)| *fraud && *first <= settled);
    assert_eq!(frauds.count(), millrace_learner::Calibration::FRAUDS);
}
