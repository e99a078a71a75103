//! Feeds in which much of what is called fraud is set right later.

use super::*;

/// The hour's labels come, and two hours later it is known of 14 of its frauds that they were none.
fn hour_of_disputes(machine: &mut Machine, hour: i64, tag: u32) {
    machine.hour(hour, 300, tag);
    if let Some(before) = hour.checked_sub(2).filter(|before| *before >= 0) {
        machine.correct(hour, &disputed(before));
    }
}

fn disputed(hour: i64) -> Vec<u64> {
    let from = hour as u64 * 300;
    let frauds = (from..from + 300).filter(|number| is_fraud(*number));
    frauds.take(14).collect()
}

/// End, labels, frauds and wait of each period that is dealt with by the end of an hour.
fn dealt_with(process: &mut Process, hour: i64) -> Vec<(i64, usize, usize, i64)> {
    let mut periods = Vec::new();
    while let Some(period) = process.learning.next_period((hour + 1) * HOUR).unwrap() {
        let (labels, frauds) = (period.labels, period.frauds);
        periods.push((period.end_us, labels, frauds, period.waited_us));
    }
    periods
}

#[test]
fn labels_wait_where_much_is_set_right_later() {
    let run = |one_process: bool| {
        let mut machine = Machine::new();
        let mut process = machine.start();
        let mut periods = Vec::new();
        for hour in 0..14 {
            if !one_process {
                process = machine.start();
            }
            hour_of_disputes(&mut machine, hour, process.tag());
            periods.extend(dealt_with(&mut process, hour));
        }
        let learning = &process.learning;
        let wait = learning.settling;
        // Nothing that is set right was late: no sample leaves anything out.
        assert_eq!((wait.labels(), wait.do_frauds_stay()), (0, true));
        // Those that were set right before labels waited were learned first, which is not told any more.
        let mut scored = learning.scored.labels_of();
        scored.retain(|(number, _)| *number > 6 * 314);
        (periods, wait.wait_us, scored)
    };
    let (periods, wait_us, scored) = run(true);
    assert_eq!(wait_us, 3 * HOUR);
    let waited = periods.iter().position(|period| period.3 > 0).unwrap();
    for (end_us, labels, frauds, waited_us) in &periods[waited..] {
        assert_eq!(*waited_us, 3 * HOUR);
        // Its own, without those that were set right, and those of two hours before that were.
        let hour = end_us / HOUR - 1;
        let all = hour as u64 * 300..(hour as u64 + 1) * 300;
        let called = all.filter(|number| is_fraud(*number)).count();
        let right = disputed(hour).len();
        assert_eq!(*frauds, called - right, "{hour}");
        assert_eq!(*labels, 300 - right + disputed(hour - 2).len(), "{hour}");
    }
    assert!(periods.len() - waited >= 5, "{periods:?}");
    // Each event has one score, those too whose label was set right while it waited: no fraud among them was called off.
    assert!(scored.len() > 1_000);
    let frauds = scored.iter().filter(|(_, fraud)| *fraud).count();
    assert!(
        frauds * 60 < 2 * scored.len(),
        "{frauds} of {}",
        scored.len()
    );
    let other = run(false);
    assert_eq!((&other.0, other.1), (&periods, wait_us));
    assert!(other.2 == scored);
}

#[test]
fn a_person_says_how_long_labels_wait() {
    let settings = SETTINGS.replace("[learner]\n", "settling = \"90m\"\n[learner]\n");
    let mut machine = Machine::with(&settings);
    let mut process = machine.start();
    machine.hour(0, 300, process.tag());
    assert_eq!(process.learning.waits_until(), None);
    assert_eq!(dealt_with(&mut process, 0), []);
    let waits = Some((HOUR, HOUR + 5_400_000_000));
    assert_eq!(process.learning.waits_until(), waits);
    machine.hour(1, 300, process.tag());
    machine.correct(1, &[0, 1, 2]);
    assert_eq!(dealt_with(&mut process, 1), []);
    let periods = dealt_with(&mut process, 2);
    assert_eq!(periods.len(), 1);
    assert_eq!((periods[0].0, periods[0].1), (HOUR, 297));
}

#[test]
fn a_mishap_that_was_put_aside_and_set_right_makes_no_labels_wait() {
    let mut machine = Machine::with(&format!("{SETTINGS}max_fraud_ratio = 2.0\n"));
    let mut process = machine.start();
    process.pass(&mut machine, 0..4, 300);
    machine.is_flooded = true;
    machine.hour(4, 300, process.tag());
    assert!(put_aside(&process.learn(4)).is_some());
    machine.is_flooded = false;
    machine.hour(5, 300, process.tag());
    let wrong: Vec<u64> = (1_200_u64..1_500)
        .filter(|number| number.is_multiple_of(2) && !is_fraud(*number))
        .collect();
    machine.relabel(5, &wrong, is_fraud);
    let period = process.learn(5);
    assert_eq!((period.corrected, period.waited_us), (wrong.len(), 0));
    assert_eq!(machine.start().learning.settling, Settling::default());
}
