//! What updates may choose their replays from.

use super::*;

/// A machine whose updates replay so many labels at most.
pub(super) fn remembering(rows: usize, settings: &str) -> Machine {
    let learner = format!("[learner]\nhistory_rows = {rows}\n");
    Machine::with(&format!("{SETTINGS}{settings}").replace("[learner]\n", &learner))
}

#[test]
fn labels_that_are_put_aside_push_no_others_out_of_replays() {
    for one_process in [true, false] {
        let mut machine = remembering(600, "max_fraud_ratio = 3.0\n");
        let mut process = machine.start();
        for hour in 0..12 {
            if !one_process {
                process = machine.start();
            }
            machine.is_flooded = (5..11).contains(&hour);
            machine.hour(hour, 300, process.tag());
            let period = process.learn(hour);
            if machine.is_flooded {
                let is_put_aside = matches!(period.learned, Learned::PutAside(_));
                assert!(is_put_aside, "{hour}: {:?}", period.learned);
                continue;
            }
            // Those of the hours before, as many as are kept.
            let replayed = learned(&period).replayed;
            assert_eq!(replayed, (300 * hour as u64).min(600), "{hour}");
        }
    }
}

#[test]
fn labels_that_wait_to_be_learned_push_no_others_out_of_replays() {
    let (mut machine, mut process) = remembering(600, "").after(2, 300);
    // As many as have come while no process was there.
    for hour in 2..6 {
        machine.hour(hour, 300, process.tag());
    }
    process = machine.start();
    for _ in 2..6 {
        let period = process.learning.next_period(6 * HOUR).unwrap().unwrap();
        assert_eq!(
            (learned(&period).rows, learned(&period).replayed),
            (300, 600)
        );
    }
}

#[test]
fn a_process_that_starts_has_few_more_labels_in_memory_than_it_keeps() {
    let (machine, _) = remembering(100, "").after(3, 500);
    let learning = machine.start().learning;
    let history = &learning.history;
    assert_eq!((history.len(), history.newest()), (100, 1_500));
    assert!(history.room() <= 512, "{}", history.room());
}

#[test]
fn frauds_that_are_put_aside_do_not_tell_how_frauds_become_known() {
    let mut machine = Machine::with(&format!("{SETTINGS}max_fraud_ratio = 2.0\n"));
    let mut process = machine.start();
    process.pass_with_corrections(&mut machine, 0..8, false, 10);
    let settling = process.learning.settling.labels();
    assert!(settling > 500, "{settling}");
    // More of them than are looked at.
    machine.is_flooded = true;
    for hour in 8..12 {
        machine.hour(hour, 300, process.tag());
        let learned = process.learn(hour).learned;
        assert!(
            matches!(learned, Learned::PutAside(_)),
            "{hour}: {learned:?}"
        );
    }
    assert_eq!(process.learning.settling.labels(), settling);
    assert_eq!(machine.start().learning.settling.labels(), settling);
}

#[test]
fn frauds_that_may_be_set_right_wait_before_they_are_replayed() {
    let settings = SETTINGS.replace("[learner]\n", "settling = \"0s\"\n[learner]\n");
    let mut machine = Machine::with(&settings);
    let mut process = machine.start();
    process.pass_with_corrections(&mut machine, 0..8, true, 14);
    let learning = &process.learning;
    let settling = learning.settling.labels();
    assert!(settling > 500 && settling < 1_200, "{settling}");
    assert_eq!(machine.start().learning.settling.labels(), settling);
    let history = &learning.history;
    let rows: Vec<usize> = history.believed(0..history.len()).collect();
    let until = history.newest() - settling;
    let is_old = |row: &usize| history.number(*row) <= until;
    let old: Vec<usize> = rows.iter().copied().filter(is_old).collect();
    assert!(
        rows.iter()
            .any(|row| !is_old(row) && history.is_fraud(*row))
    );
    assert_eq!(learning.settled(rows.clone()), old);
}
