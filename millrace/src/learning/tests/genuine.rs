//! Labels that say of frauds alone what they are.

use millrace_learner::Lack;

use super::replays::remembering;
use super::*;

/// Labels of an hour come back, and only those of frauds.
fn frauds_alone(machine: &mut Machine, hour: i64, labels: usize, tag: u32) {
    let numbers = (machine.labels..).filter(|number| is_fraud(*number));
    let events = numbers.map(|number| (number, amount(number), Some(true)));
    let events: Vec<Event> = events.take(labels).collect();
    if let Some((last, _, _)) = events.last() {
        machine.labels = last + 1;
    }
    machine.events(hour, tag, &events);
}

#[test]
fn no_version_takes_traffic_for_what_labels_of_frauds_alone_say() {
    let (mut machine, mut process) = Machine::new().after(1, 300);
    let calibration = |process: &Process| {
        let newest = process.learning.newest().unwrap();
        newest.checkpoint.calibration()
    };
    for hour in 1..16 {
        // Each second period has a process of its own.
        if hour % 2 == 0 {
            process = machine.start();
        }
        frauds_alone(&mut machine, hour, 30, process.tag());
        let period = process.learn(hour);
        for tested in &period.tested {
            assert!(tested.comparison.is_none(), "{hour}: {tested:?}");
            let lacks = [Lack::Labels, Lack::Genuine].map(Verdict::Waiting);
            assert!(lacks.contains(&tested.verdict), "{hour}: {tested:?}");
        }
        assert_eq!(process.canary(&machine), None, "{hour}");
        assert_eq!(process.serving(), 1);
        assert!(calibration(&process).is_identity(), "{hour}");
    }
    // Labels say both again: what they say is tested on.
    let is_tested = (16..24_i64).any(|hour| {
        machine.hour(hour, 300, process.tag());
        let tested = process.learn(hour).tested;
        tested.iter().any(|tested| tested.comparison.is_some())
    });
    assert!(is_tested);
}

#[test]
fn labels_of_frauds_alone_make_no_first_model() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    frauds_alone(&mut machine, 0, 400, process.tag());
    let period = process.learn(0);
    assert!(matches!(period.learned, Learned::Waiting));
    let told = period.to_string();
    assert!(told.contains("400 frauds and 0 genuine events"), "{told}");
    assert!(process.scorer.serving().is_none());
    machine.hour(1, 150, process.tag());
    assert_eq!(learned(&process.learn(1)).version, 1);
}

#[test]
fn of_labels_that_make_no_first_model_some_are_kept() {
    // A first model needs 200.
    let mut machine = remembering(100, "");
    let mut process = machine.start();
    for hour in 0..26 {
        frauds_alone(&mut machine, hour, 100, process.tag());
        let period = process.learn(hour);
        assert!(matches!(period.learned, Learned::Waiting));
        // Those of the hour, and of those before as many as one needs.
        let kept = (100 * hour as usize).min(200);
        assert_eq!(period.labels, kept + 100, "{hour}");
        // Once a day it is said that all are frauds.
        let told = match hour {
            0 => None,
            1..25 => Some(2 * HOUR),
            _ => Some(26 * HOUR),
        };
        assert_eq!(process.learning.told_waiting_us, told, "{hour}");
    }
    assert_eq!(process.learning.history.len(), 300);
    machine.hour(26, 150, process.tag());
    let period = process.learn(26);
    assert_eq!((learned(&period).version, period.labels), (1, 350));
}
