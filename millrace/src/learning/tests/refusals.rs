//! What labels that one check put aside are to the others: a process that starts counts those that one that ran on has
//! counted.

use super::*;

/// Labels of an hour come back, all of one amount, and all say fraud.
fn frauds_alone(machine: &mut Machine, hour: i64, tag: u32, labels: u64, amount: f32) {
    let numbers = machine.labels..machine.labels + labels;
    let events: Vec<Event> = numbers.map(|number| (number, amount, Some(true))).collect();
    machine.labels += labels;
    machine.events(hour, tag, &events);
}

/// In each of some hours labels come, and are put aside for what is said, or are not: by one process, and by one for each
/// hour.
fn check(
    begun: impl Fn() -> (Machine, Process),
    from: i64,
    come: impl Fn(&mut Machine, i64, u32),
    expected: &[Option<&str>],
) {
    for one_process in [true, false] {
        let (mut machine, mut process) = begun();
        for (hour, said) in (from..).zip(expected.iter().copied()) {
            if !one_process {
                process = machine.start();
            }
            come(&mut machine, hour, process.tag());
            let period = process.learn(hour);
            let reason = put_aside(&period);
            let is_as_said = match said {
                Some(said) => reason.is_some_and(|reason| reason.contains(said)),
                None => reason.is_none(),
            };
            assert!(is_as_said, "{one_process} {hour}: {reason:?}");
        }
    }
}

/// Thirty labels come with far too many frauds, then others that are put aside for what is said, and then thirty more.
fn check_flood(between: impl Fn(&mut Machine, i64, u32), said: &str, then: Option<&str>) {
    let begun = || Machine::with(&format!("{SETTINGS}max_fraud_ratio = 3.0\n")).after(1, 300);
    let come = |machine: &mut Machine, hour: i64, tag: u32| match hour {
        2 => between(machine, hour, tag),
        _ => {
            machine.is_flooded = true;
            machine.hour(hour, 30, tag);
            machine.is_flooded = false;
        }
    };
    check(begun, 1, come, &[None, Some(said), then]);
}

#[test]
fn frauds_that_are_far_too_many_add_up_over_labels_that_another_check_put_aside() {
    let together = Some("in the newest periods together, 30 of 60 labels are frauds");
    check_flood(
        |machine, hour, tag| frauds_alone(machine, hour, tag, 100, 50.0),
        "100 of 100 labels are frauds where the champion expected",
        together,
    );
    check_flood(
        |machine, hour, tag| frauds_alone(machine, hour, tag, 21, 99.0),
        "genuine labels seem not to come",
        together,
    );
    // That frauds are too few is asked only after this: such labels take away from what adds up.
    check_flood(
        |machine, hour, tag| {
            machine.is_silent = true;
            machine.hour(hour, 800, tag);
            machine.is_silent = false;
        },
        "does the feed of labels still say",
        None,
    );
}

#[test]
fn genuine_labels_do_not_lack_where_others_contradict() {
    let begun = || Machine::new().after(6, 300);
    let come = |machine: &mut Machine, hour: i64, tag: u32| match hour {
        6 => frauds_alone(machine, hour, tag, 60, 50.0),
        _ => frauds_alone(machine, hour, tag, 3, 99.0),
    };
    let contradict = Some("60 of 60 labels are frauds where the champion expected");
    check(begun, 6, come, &[contradict, None]);
}

#[test]
fn frauds_do_not_lack_where_others_had_unusual_inputs() {
    // As many periods as it takes to know what is usual.
    let begun = || Machine::new().after(52, 100);
    // Of 600 labels more than 28 frauds are to be expected, and of 100 about seven.
    let come = |machine: &mut Machine, hour: i64, tag: u32| {
        machine.is_silent = true;
        let (shift, labels) = if hour == 52 { (150.0, 600) } else { (0.0, 100) };
        machine.shift = shift;
        machine.hour(hour, labels, tag);
    };
    check(begun, 52, come, &[Some("input 'amount' moved"), None]);
}

#[test]
fn labels_that_contradict_do_not_end_a_row_of_values_beyond_the_edges() {
    // Amounts that move from hour to hour, so that a tenth of them elsewhere is no unusual distribution.
    let shift_of = |hour: i64| if hour % 2 == 0 { 0.0 } else { 40.0 };
    let begun = || {
        let mut machine = Machine::new();
        let mut process = machine.start();
        for hour in 0..52 {
            machine.shift = shift_of(hour);
            process.pass(&mut machine, hour..hour + 1, 100);
        }
        machine.some_in_cents = true;
        (machine, process)
    };
    let come = |machine: &mut Machine, hour: i64, tag: u32| match hour {
        55 => frauds_alone(machine, hour, tag, 100, 50.0),
        _ => {
            machine.shift = shift_of(hour);
            machine.hour(hour, 100, tag);
        }
    };
    let beyond = Some("are beyond all that the model started from");
    let contradict = Some("100 of 100 labels are frauds where the champion expected");
    // The sixth in a row is usual.
    let expected = [
        beyond, beyond, beyond, contradict, beyond, beyond, None, None,
    ];
    check(begun, 52, come, &expected);
}
