//! Labels that were deleted when the loop had read them.

use super::*;

/// Believed labels: their numbers, and what they say.
fn believed(process: &Process) -> Vec<(u64, bool)> {
    let history = &process.learning.history;
    let rows = history.believed(0..history.len());
    rows.map(|row| (history.number(row), history.is_fraud(row)))
        .collect()
}

#[test]
fn a_label_that_was_deleted_is_learned_and_replayed_no_more() {
    let (mut machine, mut process) = Machine::new().after(1, 300);
    machine.hour(1, 300, process.tag());
    machine.correct(1, &[11]);
    // The loop reads them, and the hour has not ended.
    assert!(
        process
            .learning
            .next_period(2 * HOUR - 1)
            .unwrap()
            .is_none()
    );
    assert_eq!(believed(&process).len(), 600);
    // One that was learned, one that was not, and a correction. The first one's event has another label then.
    machine.delete(&[5, 400, 11]);
    machine.correct(1, &[5]);
    let period = process.learn(1);
    assert_eq!((period.labels, period.corrected), (300, 0));
    let of_hour = (300..600).filter(|number| *number != 400 && is_fraud(*number));
    assert_eq!(period.frauds, of_hour.count() + usize::from(!is_fraud(5)));
    let known = believed(&process);
    assert_eq!(known.len(), 598);
    assert_eq!(known.last(), Some(&(602, !is_fraud(5))));
    let is_gone = |number: u64| known.iter().all(|(it, _)| *it != number);
    assert!([6, 12, 401, 601].into_iter().all(is_gone));
    let scored = process.learning.scored.labels_of();
    // So it is for a process that starts.
    process = machine.start();
    assert_eq!(believed(&process), known);
    assert_eq!(process.learning.scored.labels_of(), scored);
}

#[test]
fn a_correction_that_was_deleted_before_it_was_read_brings_nothing_back() {
    let (mut machine, mut process) = Machine::new().after(1, 300);
    machine.correct(0, &[11]);
    machine.delete(&[11]);
    assert!(process.learning.next_period(i64::MAX).unwrap().is_none());
    assert_eq!(believed(&process).len(), 299);
    // Labels that come later are read as ever.
    machine.hour(1, 300, process.tag());
    machine.correct(1, &[12]);
    assert_eq!(process.learn(1).labels, 301);
    let known = believed(&process);
    assert_eq!(known.len(), 599);
    process = machine.start();
    assert_eq!(believed(&process), known);
}
