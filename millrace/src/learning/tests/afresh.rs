//! When a model starts afresh, by how many labels have come.

use super::*;

/// Models start afresh, and far fewer labels are kept than come.
fn growing() -> Machine {
    let settings = "afresh_at_growth = 2.0\nhistory_rows = 400";
    Machine::with(&SETTINGS.replace("afresh_at_growth = 1.0", settings))
}

#[test]
fn a_model_starts_afresh_though_older_labels_are_kept_no_longer() {
    for one_process in [true, false] {
        let mut machine = growing();
        let mut process = machine.start();
        let mut afresh = Vec::new();
        for hour in 0..8 {
            if !one_process {
                process = machine.start();
            }
            machine.hour(hour, 300, process.tag());
            let period = process.learn(hour);
            let made = learned(&period);
            if made.parent.is_none() {
                afresh.push((hour, made.fitted_rows));
                assert_eq!(made.fitted_position, made.fitted_rows);
            }
        }
        // Each time with twice as many labels.
        let expected = [(0, 300), (1, 600), (3, 1_200), (7, 2_400)];
        assert_eq!(afresh, expected, "{one_process}");
    }
}

#[test]
fn labels_that_went_before_a_registry_was_begun_do_not_count() {
    let (mut machine, process) = growing().after(4, 300);
    drop(process);
    std::fs::remove_dir_all(machine.folder.path().join("models")).unwrap();
    let gone: Vec<u64> = (0..900).collect();
    machine.delete(&gone);
    let mut process = machine.start();
    let first = process.learn(3);
    let first = learned(&first);
    assert_eq!((first.label_position, first.fitted_rows), (1_200, 300));
    for (hour, is_afresh) in [(4, true), (5, false)] {
        machine.hour(hour, 300, process.tag());
        let parent = learned(&process.learn(hour)).parent;
        assert_eq!(parent.is_none(), is_afresh, "{hour}");
    }
}
