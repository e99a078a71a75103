//! The loop over a store in memory, period by period, and a process that ends in the middle of a canary.

#![allow(clippy::unwrap_used)]

use millrace_features::category_code;
use millrace_learner::State;

use super::notes::came_to;
use super::*;
use crate::traffic::{promote, roll_back, set_share};

mod afresh;
mod champions;
mod deletions;
mod descent;
mod genuine;
mod machine;
mod persons;
mod refusals;
mod replays;
mod rivals;
mod rollbacks;
mod settling;
mod starts;
mod usual;

use machine::*;

#[test]
fn a_text_is_learned_as_a_category() {
    let mut machine = Machine::new();
    let inputs = "CREATE VIEW inputs AS SELECT t.card_id AS channel FROM tx t";
    std::fs::write(machine.folder.path().join("inputs.sql"), inputs).unwrap();
    let mut process = machine.start();
    let channel = |number: u64| ["shop", "web", "phone"][(number % 3) as usize];
    let event = |number: u64| {
        let channel = channel(number);
        let is_fraud = channel == "phone";
        (number, category_code(channel), Some(is_fraud))
    };
    let events: Vec<Event> = (0..600).map(event).collect();
    machine.events(0, process.tag(), &events);

    let period = process.learn(0);
    assert_eq!(learned(&period).inputs, ["channel"]);
    let serving = process.scorer.serving().unwrap();
    let score = |text: &str| serving.model.score(&[category_code(text)]).unwrap()[0];
    let scores = ["phone", "shop", "web", "never seen"].map(score);
    let [phone, shop, web, new] = scores;
    assert!(phone > 0.8 && shop < 0.2 && web < 0.2, "{scores:?}");
    assert!(new < phone && new > shop, "{scores:?}");
}

#[test]
fn a_canary_goes_on_in_the_next_process() {
    let (mut machine, process, canary, hour) = Machine::new().until_canary();
    let shadow = process
        .learning
        .shadow
        .as_ref()
        .unwrap()
        .held
        .manifest
        .clone();
    drop(process);

    let mut process = machine.start();
    assert_eq!(process.canary(&machine), Some((canary, 10)));
    // Nothing is due: all labels have been learned.
    assert!(process.learning.next_period(i64::MAX).unwrap().is_none());
    machine.hour(hour, 300, process.tag());
    let period = process.learn(hour);
    assert_eq!(period.labels, 300);
    let tested = verdict(&period, canary);
    assert_eq!(tested.verdict, Verdict::Canary(50));
    // It is tested on all labels that it has not learned, those of the process before too, each once.
    assert_eq!(tested.comparison.unwrap().rows, 600);
    assert_eq!(process.canary(&machine), Some((canary, 50)));
    // And the next version goes on from the one that was tested when the process ended.
    let next = learned(&period);
    assert_eq!((next.parent, next.rows), (Some(shadow.version), 300));
    assert_eq!(next.label_position, shadow.label_position + 300);
    drop(process);

    let mut process = machine.start();
    assert_eq!(process.canary(&machine), Some((canary, 50)));
    machine.hour(hour + 1, 300, process.tag());
    let period = process.learn(hour + 1);
    assert_eq!(verdict(&period, canary).verdict, Verdict::Promoted);
    assert_eq!(process.serving(), canary);

    // No label was learned by two versions, and none was left out.
    let registry = registry(machine.folder.path());
    let mut position = 0;
    for manifest in registry.list().unwrap() {
        position += manifest.rows;
        assert_eq!(
            manifest.label_position, position,
            "version {}",
            manifest.version
        );
    }
    assert_eq!(position, machine.labels);
}

#[test]
fn a_canary_goes_a_step_a_period_however_few_labels_a_process_has_seen() {
    let (mut machine, _, canary, hour) = Machine::new().until_canary();
    for (hour, verdict_of, rows) in [
        (hour, Verdict::Canary(50), 300 + 120),
        (hour + 1, Verdict::Promoted, 300 + 240),
    ] {
        let mut process = machine.start();
        machine.hour(hour, 120, process.tag());
        let period = process.learn(hour);
        let tested = verdict(&period, canary);
        assert_eq!(tested.verdict, verdict_of);
        assert_eq!(tested.comparison.unwrap().rows, rows);
    }
}

#[test]
fn a_canary_goes_one_step_in_a_period_that_is_begun_anew() {
    let (mut machine, mut process, canary, hour) = Machine::new().until_canary();
    machine.hour(hour, 300, process.tag());
    let period = process.learn(hour);
    assert_eq!(verdict(&period, canary).verdict, Verdict::Canary(50));
    for _ in 0..3 {
        // The process ends before the period's new version is noted.
        drop(process);
        machine.lose_newest_decision();
        process = machine.start();
        let period = process.learn(hour);
        assert_eq!(verdict(&period, canary).verdict, Verdict::Passed);
        assert_eq!(learned(&period).rows, 300);
        assert_eq!(process.canary(&machine), Some((canary, 50)));
    }
    machine.hour(hour + 1, 300, process.tag());
    let period = process.learn(hour + 1);
    assert_eq!(verdict(&period, canary).verdict, Verdict::Promoted);
    // So does the next one, which began with this period's labels.
    let (next, _) = process.canary(&machine).unwrap();
    drop(process);
    machine.lose_newest_decision();
    process = machine.start();
    process.learn(hour + 1);
    assert_eq!(process.canary(&machine), Some((next, 10)));
}

#[test]
fn labels_of_several_periods_test_a_version_though_each_has_a_process_of_its_own() {
    let outcome = |one_process: bool| {
        let (mut machine, process) = Machine::new().after(1, 300);
        machine.tested(process, 1..9, 80, one_process)
    };
    let tested = outcome(false);
    // Three periods have 240 labels, of the 200 that it takes.
    assert_eq!(tested[2], (4, 4, Some(240), Verdict::Canary(10)));
    assert_eq!(tested, outcome(true));
}

#[test]
fn what_a_person_took_back_does_not_return_with_the_next_process() {
    let (mut machine, _, bad, hour) = Machine::new().until_canary();
    let kept = registry(machine.folder.path());
    let good = kept.champion().unwrap().unwrap();
    promote(&kept, None, bad).unwrap();

    let mut process = machine.start();
    machine.hour(hour, 300, process.tag());
    let period = process.learn(hour);
    let child = learned(&period).clone();
    assert_eq!(child.parent, Some(bad));
    drop(process);
    roll_back(&kept, None, None).unwrap();
    assert_eq!(kept.champion().unwrap(), Some(good));

    for hour in hour + 1..hour + 4 {
        let mut process = machine.start();
        machine.hour(hour, 300, process.tag());
        let period = process.learn(hour);
        let is_gone = |tested: &Tested| ![bad, child.version].contains(&tested.version);
        assert!(period.tested.iter().all(is_gone), "{:?}", period.tested);
        // It goes on with the labels that have come since, from what serves.
        assert_eq!(period.labels, 300);
        let parent = learned(&period).parent.unwrap();
        assert!(![bad, child.version].contains(&parent), "{parent}");
    }
}

#[test]
fn a_process_for_one_period_gathers_the_labels_of_a_first_model() {
    let mut machine = Machine::new();
    let tag = machine.start().tag();
    let once = |machine: &Machine| machine.start().learning.once(i64::MAX / 2).unwrap();
    assert!(once(&machine).is_none());
    for hour in 0..3 {
        machine.hour(hour, 80, tag);
        let period = once(&machine).unwrap();
        assert_eq!(period.labels as u64, machine.labels);
        assert_eq!(period.end_us, (hour + 1) * HOUR);
        // Two hours have 160 labels, of the 200 that it takes.
        assert_eq!(matches!(period.learned, Learned::Version(_)), hour == 2);
    }
    // From then on, each has one period.
    for hour in 3..5 {
        machine.hour(hour, 80, tag);
    }
    for hour in 3..5 {
        let period = once(&machine).unwrap();
        assert_eq!((period.labels, period.end_us), (80, (hour + 1) * HOUR));
    }
    assert!(once(&machine).is_none());
}

#[test]
fn a_corrected_label_is_learned_in_the_period_in_which_it_became_known() {
    let (mut machine, mut process) = Machine::new().after(1, 300);
    machine.hour(1, 300, process.tag());
    // Two of labels that were learned, and one of a label of the same hour.
    machine.correct(1, &[11, 12, 400]);
    let period = process.learn(1);
    assert_eq!((period.labels, period.corrected), (302, 3));
    let right = |number: &u64| match number {
        11 | 12 | 400 => !is_fraud(*number),
        _ => is_fraud(*number),
    };
    let of_period = (300..600).chain([11, 12]).filter(right).count();
    assert_eq!(period.frauds, of_period);
    assert_eq!(learned(&period).rows, 302);

    machine.hour(2, 300, process.tag());
    let period = process.learn(2);
    assert_eq!((period.labels, period.corrected), (300, 0));
    // Replays have each event once.
    let history = &process.learning.history;
    let believed: Vec<usize> = history.believed(0..history.len()).collect();
    let frauds = believed.iter().filter(|row| history.is_fraud(**row));
    assert_eq!(believed.len(), 900);
    assert_eq!(frauds.count(), (0..900).filter(right).count());
    drop(process);
    assert_eq!(machine.start().learning.history.len(), 900);
}

#[test]
fn a_unit_that_some_events_have_is_named_and_is_usual_after_some_periods() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    // Amounts that move from hour to hour, so that a tenth of them elsewhere is no unusual distribution.
    let shift_of = |hour: i64| if hour % 2 == 0 { 0.0 } else { 40.0 };
    for hour in 0..52 {
        machine.shift = shift_of(hour);
        machine.hour(hour, 100, process.tag());
        assert_eq!(put_aside(&process.learn(hour)), None, "{hour}");
    }
    drop(process);
    machine.some_in_cents = true;
    for hour in 52..57 {
        // Each period has a process of its own.
        let mut process = machine.start();
        machine.shift = shift_of(hour);
        machine.hour(hour, 100, process.tag());
        let period = process.learn(hour);
        let reason = put_aside(&period).unwrap();
        let said = "values of input 'amount' are beyond all that the model started from";
        assert!(reason.starts_with(said), "{reason}");
    }
    for hour in 57..60 {
        let mut process = machine.start();
        machine.shift = shift_of(hour);
        machine.hour(hour, 100, process.tag());
        assert_eq!(learned(&process.learn(hour)).rows, 100, "{hour}");
    }
}

#[test]
fn labels_that_may_yet_be_corrected_are_not_replayed_where_frauds_are_corrections() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    process.pass_with_corrections(&mut machine, 0..8, false, 30);
    let learning = &process.learning;
    let settling = learning.settling.labels();
    assert!(settling > 500 && settling < 1_200, "{settling}");
    let history = &learning.history;
    let rows: Vec<usize> = history.believed(0..history.len()).collect();
    let settled = learning.settled(rows.clone());
    let until = history.newest() - settling;
    let is_left_out = |row: &&usize| history.number(**row) > until && !history.is_fraud(**row);
    assert_eq!(settled.iter().filter(is_left_out).count(), 0);
    let left_out = rows.iter().filter(is_left_out).count();
    assert_eq!(settled.len() + left_out, rows.len());
    // Few that are settled are no sample: all are one.
    let few = rows[..100].to_vec();
    assert_eq!(learning.settled(few.clone()), few);
}

#[test]
fn a_new_normal_is_believed_though_each_period_has_a_process_of_its_own() {
    // As many periods as it takes to know what is usual.
    let (mut machine, _) = Machine::new().after(52, 100);
    machine.shift = 150.0;
    for hour in 52..57 {
        let mut process = machine.start();
        machine.hour(hour, 100, process.tag());
        let period = process.learn(hour);
        let reason = put_aside(&period).unwrap();
        assert!(reason.starts_with("input 'amount' moved"), "{reason}");
    }
    let mut process = machine.start();
    machine.hour(57, 100, process.tag());
    assert_eq!(learned(&process.learn(57)).rows, 600);
    drop(process);
    // All of them with one entry of the log, or none.
    let released: Vec<usize> = machine
        .log()
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .map(|text| text.matches("labels_released").count())
        .filter(|released| *released > 0)
        .collect();
    assert_eq!(released, [6]);
    // It is usual from then on, in other processes too.
    let mut process = machine.start();
    machine.hour(58, 100, process.tag());
    assert_eq!(learned(&process.learn(58)).rows, 100);
}
