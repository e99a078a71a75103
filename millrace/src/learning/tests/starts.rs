//! What a process that starts knows of those before it, by scoring labels again.

use std::path::PathBuf;

use super::*;
use crate::learning::line::Known;
use crate::learning::past::Past;

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
fn a_period_whose_update_was_cut_short_is_begun_anew() {
    let run = |is_cut: bool| {
        let (mut machine, mut process) = Machine::new().after(4, 300);
        machine.hour(4, 300, process.tag());
        if is_cut {
            process.learning = process.learning.stopped_by(Arc::new(true.into()));
            let failure = process.learning.next_period(5 * HOUR).unwrap_err();
            assert_eq!(failure.kind, Kind::Stopped, "{failure}");
            process = machine.start();
        }
        let period = process.learn(4);
        let (version, rows) = (learned(&period).version, learned(&period).rows);
        let checkpoint = registry(machine.folder.path()).load(version).unwrap().1;
        let scored = process.learning.scored.labels_of();
        (version, rows, checkpoint, scored, process.serving())
    };
    let (cut, whole) = (run(true), run(false));
    assert_eq!((cut.0, cut.1, cut.4), (whole.0, whole.1, whole.4));
    assert!(cut.2 == whole.2 && cut.3 == whole.3);
}

#[test]
fn a_version_that_scores_labels_again_is_loaded_once() {
    let (machine, process) = Machine::new().after(8, 300);
    assert_ne!(process.serving(), 1);
    let learning = &process.learning;
    let known = || Known::of(Past::of(&learning.registry.journal_entries().unwrap()));
    // The first version scored the labels of the second hour.
    let is_scored = |known: &mut Known| {
        let line = learning.served_line(301, known).unwrap();
        line.model_of(301).is_some()
    };
    let mut of_before = known();
    assert!(is_scored(&mut of_before));
    let first = machine.folder.path().join("models/v000001");
    std::fs::remove_dir_all(first).unwrap();
    assert!(is_scored(&mut of_before));
    assert!(!is_scored(&mut known()));
}

#[test]
fn a_score_has_a_corrected_label_though_the_correction_is_in_no_period_yet() {
    let (mut machine, mut process) = Machine::new().after(5, 300);
    machine.correct(5, &[400]);
    // It is read before its period has ended.
    assert!(process.learning.next_period(5 * HOUR).unwrap().is_none());
    let scored = process.learning.scored.labels_of();
    assert!(scored.contains(&(401, !is_fraud(400))), "{}", scored.len());
    let mut other = machine.start();
    assert_eq!(other.learning.scored.labels_of(), scored);
    // Its period tells nothing more of it.
    machine.hour(5, 300, other.tag());
    other.learn(5);
    let scored = other.learning.scored.labels_of();
    assert_eq!(scored.len(), 1_500);
    assert_eq!(machine.start().learning.scored.labels_of(), scored);
}

#[test]
fn a_process_that_starts_knows_by_the_log_what_was_learned() {
    let (mut machine, _, canary, hour) = Machine::new().until_canary();
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
    let (mut machine, _) = Machine::new().after(6, 300);
    machine.is_silent = true;
    let mut is_noticed = |hour: i64| {
        let mut process = machine.start();
        machine.hour(hour, 100, process.tag());
        put_aside(&process.learn(hour)).is_some_and(|reason| reason.contains("are frauds where"))
    };
    // A hundred labels have about seven frauds. None among them is chance, and among many of them it is not.
    let noticed = (6..26_i64).find(|hour| is_noticed(*hour));
    assert!(noticed.is_some_and(|hour| hour > 6), "{noticed:?}");
}

#[test]
fn labels_that_seldom_say_fraud_are_put_aside_though_each_period_has_a_process_of_its_own() {
    let outcome = |one_process: bool| {
        let (mut machine, mut process) = Machine::new().after(6, 300);
        let mut reasons = Vec::new();
        for hour in 6..46_i64 {
            if !one_process {
                process = machine.start();
            }
            // Thirty labels have about two frauds. One in twelve hours is left.
            let first = machine.labels;
            let is_left = |number: u64| hour % 12 == 5 && number == first;
            let event = |number: u64| (number, amount(number), Some(is_left(number)));
            let events: Vec<Event> = (first..first + 30).map(event).collect();
            machine.labels += 30;
            machine.events(hour, process.tag(), &events);
            let reason = put_aside(&process.learn(hour)).map(str::to_owned);
            let counts =
                reason.and_then(|reason| reason.split(" where ").next().map(str::to_owned));
            reasons.push(counts);
        }
        reasons
    };
    let reasons = outcome(false);
    let told = reasons.iter().position(Option::is_some);
    // One fraud does not end the count, nor what comes of it.
    let said = told.and_then(|told| reasons[told].clone());
    assert!(told.is_some_and(|told| told > 12), "{reasons:?}");
    assert!(
        said.is_some_and(|said| said.contains(" of the newest ")),
        "{reasons:?}"
    );
    let later = reasons.iter().skip_while(|reason| reason.is_none());
    assert_eq!(later.filter(|reason| reason.is_none()).count(), 0);
    assert_eq!(outcome(true), reasons);
}

#[test]
fn labels_that_stop_saying_genuine_are_put_aside_though_each_period_has_a_process_of_its_own() {
    let (mut machine, _) = Machine::new().after(6, 300);
    let is_noticed = |machine: &mut Machine, hour: i64| {
        let mut process = machine.start();
        machine.hour(hour, 100, process.tag());
        let said = "genuine labels seem not to come";
        put_aside(&process.learn(hour)).is_some_and(|reason| reason.contains(said))
    };
    // About seven frauds an hour, of which twenty tell.
    machine.is_without_genuine = true;
    let noticed = (6..16_i64).find(|hour| is_noticed(&mut machine, *hour));
    assert!(
        noticed.is_some_and(|hour| (8..=10).contains(&hour)),
        "{noticed:?}"
    );
    assert!(is_noticed(&mut machine, 16));
    machine.is_without_genuine = false;
    assert!(!is_noticed(&mut machine, 17));
    let last = machine.start().learning.dealt_with;
    assert_eq!(last, machine.start().learning.history.newest());
}

#[test]
fn labels_that_were_released_are_learned_though_the_process_that_did_so_ended() {
    // As many periods as it takes to know what is usual.
    let (mut machine, mut process) = Machine::new().after(52, 100);
    machine.shift = 150.0;
    for hour in 52..57 {
        machine.hour(hour, 100, process.tag());
        assert!(put_aside(&process.learn(hour)).is_some(), "{hour}");
    }
    machine.hour(57, 100, process.tag());
    let made = learned(&process.learn(57)).clone();
    assert_eq!(made.rows, 600);
    let believed = |process: &Process| process.learning.checks.as_ref().unwrap().believed();
    let expected = believed(&process);
    for _ in 0..2 {
        // The process ends before the period's new version is noted.
        drop(process);
        machine.lose_newest_decision();
        process = machine.start();
        assert_eq!(believed(&process), expected);
        let period = process.learn(57);
        let again = learned(&period);
        assert_eq!((period.labels, again.rows), (600, 600));
        assert_eq!(again.label_position, made.label_position);
    }
    machine.hour(58, 100, process.tag());
    assert_eq!(learned(&process.learn(58)).rows, 100);
}

#[test]
fn the_last_of_unusual_periods_is_put_aside_and_released_at_once() {
    // As many periods as it takes to know what is usual.
    let (mut machine, mut process) = Machine::new().after(52, 100);
    machine.shift = 150.0;
    process.pass(&mut machine, 52..58, 100);
    drop(process);
    // The process ends when it has noted one thing of the last of them.
    let log = machine.log();
    let is_of_release = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        text.contains("labels_released")
    };
    let released = log.iter().position(is_of_release).unwrap();
    let later = log[released + 1..].iter();
    later.for_each(|file| std::fs::remove_file(file).unwrap());
    assert_eq!(learned(&machine.start().learn(57)).rows, 600);
    // Or nothing of it.
    let later = machine.log().split_off(released);
    later
        .iter()
        .for_each(|file| std::fs::remove_file(file).unwrap());
    assert_eq!(learned(&machine.start().learn(57)).rows, 600);
}

/// A hundred labels of an hour come back, all of one amount, of which a champion expects next to no fraud.
fn hour_of_one_amount(machine: &mut Machine, hour: i64, tag: u32, label: impl Fn(u64) -> bool) {
    let event = |number: u64| (number, 50.0, Some(label(number)));
    let events: Vec<Event> = (machine.labels..machine.labels + 100).map(event).collect();
    machine.labels += 100;
    machine.events(hour, tag, &events);
}

#[test]
fn labels_that_contradict_do_not_end_a_row_of_unusual_inputs() {
    for one_process in [true, false] {
        // As many periods as it takes to know what is usual.
        let (mut machine, mut process) =
            Machine::with(&format!("{SETTINGS}max_fraud_ratio = 3.0\n")).after(52, 100);
        for hour in 52..58 {
            if !one_process {
                process = machine.start();
            }
            let is_flooded = hour == 55;
            let label = |number: u64| match is_flooded {
                true => number.is_multiple_of(2),
                false => is_fraud(number),
            };
            hour_of_one_amount(&mut machine, hour, process.tag(), label);
            let period = process.learn(hour);
            let reason = put_aside(&period).unwrap();
            let said = match is_flooded {
                true => "50 of 100 labels are frauds where",
                false => "input 'amount' moved",
            };
            assert!(reason.starts_with(said), "{hour}: {reason}");
        }
        hour_of_one_amount(&mut machine, 58, process.tag(), is_fraud);
        // All but those that contradict.
        assert_eq!(learned(&process.learn(58)).rows, 600);
    }
}

#[test]
fn labels_without_a_fraud_count_on_where_they_were_put_aside_for_their_inputs_and_released() {
    for one_process in [true, false] {
        // As many periods as it takes to know what is usual.
        let (mut machine, mut process) = Machine::new().after(52, 100);
        // Some 21 frauds are to be expected, and 28 tell.
        machine.is_silent = true;
        for hour in 52..55 {
            machine.hour(hour, 100, process.tag());
            assert_eq!(learned(&process.learn(hour)).rows, 100, "{hour}");
        }
        for hour in 55..60 {
            if !one_process {
                process = machine.start();
            }
            hour_of_one_amount(&mut machine, hour, process.tag(), |_| false);
            let period = process.learn(hour);
            assert!(put_aside(&period).is_some_and(|it| it.contains(" moved")));
        }
        hour_of_one_amount(&mut machine, 60, process.tag(), |_| false);
        assert_eq!(learned(&process.learn(60)).rows, 600);
        if !one_process {
            process = machine.start();
        }
        machine.hour(61, 200, process.tag());
        let period = process.learn(61);
        let reason = put_aside(&period).unwrap();
        assert!(
            reason.starts_with("0 of the newest 1100 labels"),
            "{reason}"
        );
    }
}

#[test]
fn frauds_that_are_far_too_many_are_counted_on_though_each_period_has_a_process_of_its_own() {
    let outcome = |one_process: bool| {
        let (mut machine, mut process) =
            Machine::with(&format!("{SETTINGS}max_fraud_ratio = 3.0\n")).after(1, 300);
        let mut reasons = Vec::new();
        for hour in 1..6 {
            if !one_process {
                process = machine.start();
            }
            machine.is_flooded = hour < 5;
            machine.hour(hour, 20, process.tag());
            reasons.push(put_aside(&process.learn(hour)).map(str::to_owned));
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
fn a_start_afresh_that_was_broken_is_not_tried_again_with_nearly_the_same_labels() {
    let settings = SETTINGS.replace("afresh_at_growth = 1.0", "afresh_at_growth = 2.0");
    let (mut machine, _) = Machine::with(&settings).after(1, 300);
    // From now on a start goes wild, and what goes on from a version does not.
    let rate = "initial_learning_rate = ";
    let wild = settings.replace(&format!("{rate}0.05"), &format!("{rate}1e38"));
    assert_ne!(wild, settings);
    std::fs::write(machine.folder.path().join("millrace.toml"), wild).unwrap();
    let mut process = machine.start();
    // With 600 labels, twice those of the first; then with 700, of the 750 that it takes, and with 800.
    for (hour, labels, is_afresh) in [(1, 300, true), (2, 100, false), (3, 100, true)] {
        machine.hour(hour, labels, process.tag());
        let learned = process.learn(hour).learned;
        let is_broken = matches!(learned, Learned::Broken(_));
        assert_eq!(is_broken, is_afresh, "{hour}: {learned:?}");
    }
}

#[test]
fn as_many_settled_frauds_are_scored_again_as_a_calibration_takes() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    process.pass_with_corrections(&mut machine, 0..16, false, 30);
    drop(process);
    let learning = machine.start().learning;
    let settling = learning.settling.labels();
    assert!(settling > 500, "{settling}");
    let settled = learning.dealt_with - settling;
    let scored = learning.scored.labels_of().into_iter();
    let frauds = scored.filter(|(first, fraud)| *fraud && *first <= settled);
    assert_eq!(frauds.count(), millrace_learner::Calibration::FRAUDS);
}

#[test]
fn tests_have_the_scores_of_what_served_though_each_period_has_a_process_of_its_own() {
    let outcome = |one_process: bool| {
        let (mut machine, mut process) = Machine::new().after(1, 300);
        let mut tested = Vec::new();
        let mut champions = Vec::new();
        for hour in 1..16 {
            if !one_process {
                process = machine.start();
            }
            // A test takes three periods: the champion changes while some are under way.
            machine.hour(hour, 80, process.tag());
            let period = process.learn(hour);
            tested.extend(period.tested.iter().map(|tested| {
                let comparison = tested.comparison.map(|it| (it.rows, it.champion_log_loss));
                (hour, tested.version, tested.verdict.clone(), comparison)
            }));
            champions.push(process.serving());
        }
        champions.dedup();
        (tested, champions, process.learning.scored.scores_of())
    };
    let (ours, champions, scores) = outcome(true);
    let (theirs, others, scores_again) = outcome(false);
    assert!(champions.len() > 1, "{champions:?}");
    assert_eq!(champions, others);
    assert_eq!(ours.len(), theirs.len());
    for ((hour, version, verdict, ours), theirs) in ours.into_iter().zip(theirs) {
        assert_eq!((hour, version, verdict), (theirs.0, theirs.1, theirs.2));
        let (Some((rows, loss)), Some((rows_again, loss_again))) = (ours, theirs.3) else {
            assert_eq!(ours, theirs.3);
            continue;
        };
        assert_eq!(rows, rows_again, "{hour}");
        assert!(
            (loss - loss_again).abs() < 1e-5,
            "{hour}: {loss} {loss_again}"
        );
    }
    // So are those that a calibration is fitted on.
    assert_eq!(scores.len(), scores_again.len());
    for ((first, logit), (first_again, logit_again)) in scores.into_iter().zip(scores_again) {
        assert_eq!(first, first_again);
        assert!(
            (logit - logit_again).abs() < 1e-4,
            "{first}: {logit} {logit_again}"
        );
    }
}

#[test]
fn how_well_what_served_does_is_known_to_a_process_that_starts() {
    let (machine, process) = Machine::new().after(8, 300);
    let known = process.learning.prequential();
    assert_eq!(known.rows, 7 * 300);
    drop(process);
    let again = machine.start().learning.prequential();
    assert_eq!((again.rows, again.frauds), (known.rows, known.frauds));
    let [known, again] = [known, again].map(|it| it.average_precision.unwrap());
    assert!((known - again).abs() < 1e-3, "{known} {again}");
}

#[test]
fn how_well_what_served_does_is_not_said_by_few_frauds() {
    let (mut machine, mut process) = Machine::new().after(1, 300);
    for (hour, labels, is_known) in [(1, 80, false), (2, 300, true)] {
        machine.hour(hour, labels, process.tag());
        let said = process.learn(hour).prequential;
        assert_eq!(said.frauds >= 10, is_known, "{said:?}");
        assert_eq!(said.average_precision.is_some(), is_known);
    }
}

#[test]
fn what_a_test_has_gone_through_is_kept_until_it_has_labels_enough() {
    let outcome = |one_process: bool| {
        let settings = SETTINGS.replace("min_frauds = 5\n", "min_frauds = 5\nkeep = 1\n");
        let (mut machine, process) = Machine::with(&settings).after(1, 300);
        let tested = machine.tested(process, 1..14, 40, one_process);
        (tested, registry(machine.folder.path()).versions().unwrap())
    };
    let (tested, versions) = outcome(true);
    // Five periods have 200 labels.
    assert_eq!(tested[4], (6, 6, Some(200), Verdict::Canary(10)));
    assert!(versions.len() < 12, "{versions:?}");
    assert_eq!(outcome(false), (tested, versions));
}

#[test]
fn a_test_that_passed_behind_a_canary_begins_anew_though_each_period_has_a_process_of_its_own() {
    let outcome = |one_process: bool| {
        let settings = format!("{SETTINGS}canary = [10, 30, 60]\n");
        let (mut machine, process) = Machine::with(&settings).after(1, 300);
        machine.tested(process, 1..9, 120, one_process)
    };
    let tested = outcome(true);
    // Two periods have 240 labels, of the 200 that it takes.
    assert!(tested.contains(&(5, 5, Some(240), Verdict::Passed)));
    assert!(tested.contains(&(6, 3, Some(600), Verdict::Promoted)));
    // The next one has 120 when the canary has all of the traffic.
    assert!(tested.contains(&(7, 7, Some(240), Verdict::Canary(10))));
    assert_eq!(outcome(false), tested);
}

#[test]
fn where_a_version_that_was_tested_is_gone_the_one_before_it_is_asked_again() {
    let (mut machine, mut process) = Machine::new().after(1, 300);
    process.pass(&mut machine, 1..6, 40);
    let test = |process: &Process| {
        let trial = process.learning.shadow.as_ref().unwrap();
        (
            trial.held.manifest.version,
            trial.line.clone(),
            trial.paired.rows(),
        )
    };
    assert_eq!(test(&process), (6, vec![2, 3, 4, 5], 160));
    drop(process);
    let kept = registry(machine.folder.path());
    assert_eq!(kept.retain(1, &[2, 5], 6 * HOUR).unwrap(), [3, 4]);
    assert_eq!(test(&machine.start()), (6, vec![2, 5], 160));
}
