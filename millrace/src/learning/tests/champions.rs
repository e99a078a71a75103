//! Another model takes the traffic than the one that the loop knew.

use super::*;

#[test]
fn what_is_usual_is_counted_in_the_bins_of_what_serves() {
    // As many periods as it takes to know what is usual.
    let (mut machine, mut process) = Machine::new().after(52, 100);
    // A model of amounts that are tiny, so that all others are beyond its bins.
    let tiny = (0..300).map(|number| (amount(number) / 1e3, is_fraud(number)));
    let model = process.trained(tiny);
    let champion = process.learning.champion.as_ref().unwrap();
    let manifest = champion.manifest.clone();
    process.learning.canary = None;
    process.serve(&manifest, model, 52 * HOUR);

    machine.hour(52, 100, process.tag());
    assert_eq!(learned(&process.learn(52)).rows, 100);
    let learning = &process.learning;
    let encoder = learning.champion.as_ref().unwrap().checkpoint.encoder();
    assert!(learning.checks.as_ref().unwrap().is_in_bins_of(encoder));
}

#[test]
fn a_calibration_is_fitted_on_scores_of_what_a_person_has_chosen() {
    let (machine, mut process, canary, _) = Machine::new().until_canary();
    let before = process.learning.scored.scores_of();
    promote(&registry(machine.folder.path()), None, canary).unwrap();
    process.learning.follow().unwrap();
    let scores = process.learning.scored.scores_of();
    assert_ne!(scores, before);
    // As a process that starts has them.
    assert_eq!(machine.start().learning.scored.scores_of(), scores);
}

#[test]
fn a_test_names_the_version_that_it_was_made_against() {
    let (mut machine, mut process, canary, first) = Machine::new().until_canary();
    let before = process.serving();
    for hour in first..first + 4 {
        machine.hour(hour, 300, process.tag());
        let tested = process.learn(hour).tested;
        let champions: Vec<u64> = tested.iter().map(|tested| tested.champion).collect();
        // The next version is tested by the labels that give the canary all of the traffic.
        assert_eq!(champions, [before, before], "{hour}");
        if process.serving() == canary {
            return;
        }
    }
    panic!("the canary did not come to serve");
}

#[test]
fn the_labels_of_a_period_that_is_begun_anew_are_counted_once() {
    let (mut machine, mut process, canary, hour) = Machine::new().until_canary();
    machine.hour(hour, 300, process.tag());
    // While the period is dealt with, a person moves the traffic.
    set_share(&registry(machine.folder.path()), None, canary, 20).unwrap();
    let begun = process.learning.next_period((hour + 1) * HOUR).unwrap();
    assert!(begun.is_none());
    let period = process.learn(hour);
    // All but the first hour's were scored before they were known.
    assert_eq!(period.prequential.rows, 300 * hour as u64);
    let believed = |process: &Process| process.learning.checks.as_ref().unwrap().believed();
    assert_eq!(believed(&process), believed(&machine.start()));
}
