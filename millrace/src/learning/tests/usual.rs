//! What is usual of inputs, for a process that runs for days.

use super::*;

#[test]
fn a_process_that_runs_on_holds_inputs_against_the_newest_ones() {
    // As many labels are kept as there are in fifty hours.
    let settings = "afresh_at_growth = 1.0\nhistory_rows = 2500";
    let settings = SETTINGS.replace("afresh_at_growth = 1.0", settings);
    let (mut machine, mut process) = Machine::with(&settings).after(1, 300);
    process.pass(&mut machine, 1..22, 50);
    // It is not known yet what is usual.
    machine.shift = 60.0;
    for hour in 22..75 {
        machine.hour(hour, 50, process.tag());
        assert_eq!(put_aside(&process.learn(hour)), None, "{hour}");
    }
    // From the first hours that is less than three times as far as what has been usual for days.
    machine.shift = -500.0;
    for hour in 75..77 {
        machine.hour(hour, 50, process.tag());
        let period = process.learn(hour);
        let reason = put_aside(&period).unwrap();
        assert!(
            reason.starts_with("input 'amount' moved"),
            "{hour}: {reason}"
        );
        // So it is for a process that starts in the middle of the day.
        process = machine.start();
    }
}
