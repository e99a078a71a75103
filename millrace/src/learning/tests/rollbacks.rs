//! What is watched, and where the traffic goes back to when what served did harm.

use super::*;

pub(super) fn watching() -> Machine {
    Machine::with(&format!("{SETTINGS}watched_rows = 800\n"))
}

/// A version takes the traffic: one that is as good as the first, or one that calls half of all events fraud.
fn serve(process: &mut Process, is_good: bool) -> u64 {
    let first = process.learning.anchor.as_ref().unwrap().held.clone();
    let model = match is_good {
        true => first.checkpoint,
        false => process.harmful(),
    };
    process.serve(&first.manifest, model, HOUR)
}

/// Versions served one after the other, good ones and bad ones, and then labels come.
fn check(served: &[bool], gone: Option<u64>, in_another_process: bool, expected: u64) {
    let (mut machine, mut process) = watching().after(1, 300);
    let versions: Vec<u64> = served
        .iter()
        .map(|is_good| serve(&mut process, *is_good))
        .collect();
    if let Some(version) = gone {
        let folder = machine.folder.path().join(format!("models/v{version:06}"));
        std::fs::remove_dir_all(folder).unwrap();
    }
    if in_another_process {
        process = machine.start();
    }
    machine.hour(1, 300, process.tag());
    let period = process.learn(1);
    let (bad, good, reason) = period.rolled_back.clone().unwrap();
    assert_eq!((Some(bad), good), (versions.last().copied(), expected));
    assert!(reason.contains("since version 1 did harm"), "{reason}");
    assert_eq!(process.serving(), expected);
    let kept = registry(machine.folder.path());
    assert_eq!(kept.champion().unwrap(), Some(expected));
    assert_eq!(learned(&period).parent, Some(expected));
    // It is what the versions to come are compared with.
    let anchor = process.learning.anchor.as_ref().unwrap();
    assert_eq!(anchor.held.manifest.version, expected);
    assert_eq!((anchor.after, anchor.paired.rows()), (600, 0));
    // A calibration is fitted on scores of what serves, as in a process that starts.
    let scores = process.learning.scored.scores_of();
    assert_eq!(scores.len(), 300);
    assert_eq!(machine.start().learning.scored.scores_of(), scores);
}

#[test]
fn the_traffic_goes_back_to_the_newest_version_before_the_harm() {
    for in_another_process in [false, true] {
        // Versions 2 and 3 are good, and 4 and 5 are not.
        check(&[true, true, false, false], None, in_another_process, 3);
        check(&[true, false], None, in_another_process, 2);
        // Nothing that came after the anchor is good.
        check(&[false, false], None, in_another_process, 1);
        // One that is not kept any more is nothing to go back to.
        let last = [true, true, false, false];
        check(&last, Some(3), in_another_process, 2);
    }
}

#[test]
fn what_served_is_watched_on_though_each_period_has_a_process_of_its_own() {
    let outcome = |one_process: bool| {
        let mut machine = watching();
        let mut process = machine.start();
        let mut states = Vec::new();
        let mut losses = Vec::new();
        for hour in 0..12 {
            if !one_process {
                process = machine.start();
            }
            machine.hour(hour, 300, process.tag());
            process.learn(hour);
            let anchor = process.learning.anchor.as_ref().unwrap();
            let watched = (anchor.held.manifest.version, anchor.after);
            states.push((hour, watched, anchor.paired.rows(), anchor.promoted.clone()));
            if anchor.paired.rows() > 0 {
                let gate = &process.learning.settings().gate;
                let compared = anchor.paired.compare(gate, gate.confidence, 7);
                losses.extend([compared.champion_log_loss, compared.log_loss.mean]);
            }
        }
        (states, losses)
    };
    let (states, losses) = outcome(true);
    // It moves on with 900 labels, of the 800 that it takes.
    let moves = |(_, (_, after), rows, _): &(i64, (u64, u64), usize, Vec<u64>)| (*after, *rows);
    let first: Vec<(u64, usize)> = states.iter().map(moves).take(5).collect();
    assert_eq!(
        first,
        [(300, 0), (300, 300), (300, 600), (1_200, 0), (1_200, 300)]
    );
    assert!(
        states
            .iter()
            .any(|(_, _, _, promoted)| !promoted.is_empty())
    );
    let (states_again, losses_again) = outcome(false);
    assert_eq!(states_again, states);
    // By the scores of what served then.
    for (loss, again) in losses.iter().zip(&losses_again) {
        assert!((loss - again).abs() < 1e-5, "{loss} {again}");
    }
}
