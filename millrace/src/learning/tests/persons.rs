//! A person moves the traffic while the loop runs, or is in the middle of a period.

use super::*;

fn shadow(process: &Process) -> Option<u64> {
    let shadow = process.learning.shadow.as_ref();
    shadow.map(|trial| trial.held.manifest.version)
}

/// A machine when a version that was canary has all of the traffic: the process that gave it that, the champion before,
/// that version, and the hour to come.
fn until_champion() -> (Machine, Process, u64, u64, i64) {
    let (mut machine, mut process, canary, first) = Machine::new().until_canary();
    let before = process.serving();
    for hour in first..first + 4 {
        process.pass(&mut machine, hour..hour + 1, 300);
        if process.serving() == canary {
            return (machine, process, before, canary, hour + 1);
        }
    }
    panic!("the canary did not come to serve");
}

/// A person gives a version a share of the traffic, and the loop finds out.
fn give(machine: &Machine, process: &mut Process, version: u64, percent: u8) {
    set_share(&registry(machine.folder.path()), None, version, percent).unwrap();
    process.learning.follow().unwrap();
}

#[test]
fn what_comes_from_a_canary_that_is_taken_back_is_tested_no_further() {
    for in_the_middle in [false, true] {
        let (mut machine, mut process, canary, hour) = Machine::new().until_canary();
        let champion = process.serving();
        let child = shadow(&process).unwrap();
        let kept = registry(machine.folder.path());
        machine.hour(hour, 300, process.tag());
        set_share(&kept, None, canary, 0).unwrap();
        match in_the_middle {
            // The loop finds out when it gives the canary its next share.
            true => {
                let begun = process.learning.next_period((hour + 1) * HOUR).unwrap();
                assert!(begun.is_none());
            }
            false => process.learning.follow().unwrap(),
        }
        assert_eq!((shadow(&process), process.canary(&machine)), (None, None));
        for hour in hour..hour + 3 {
            if machine.labels < (hour as u64 + 1) * 300 {
                machine.hour(hour, 300, process.tag());
            }
            let period = process.learn(hour);
            let is_gone = |tested: &Tested| ![canary, child].contains(&tested.version);
            assert!(period.tested.iter().all(is_gone), "{:?}", period.tested);
            let parent = learned(&period).parent.unwrap();
            assert!(![canary, child].contains(&parent), "{parent}");
        }
        assert!(process.serving() >= champion);
        assert_ne!(kept.champion().unwrap(), Some(child));
    }
}

#[test]
fn a_share_that_a_person_has_set_stays_as_it_is() {
    let (mut machine, mut process, canary, first) = Machine::new().until_canary();
    let champion = process.serving();
    give(&machine, &mut process, canary, 40);
    for hour in first..first + 4 {
        if hour == first + 2 {
            process = machine.start();
        }
        machine.hour(hour, 300, process.tag());
        let period = process.learn(hour);
        let tested = verdict(&period, canary);
        assert_eq!(tested.verdict, Verdict::Passed, "{hour}");
        // The labels of before the person changed its share count on.
        let rows = 300 * (hour - first + 2) as u64;
        assert_eq!(tested.comparison.unwrap().rows, rows);
        assert_eq!(process.canary(&machine), Some((canary, 40)));
        assert_eq!(process.serving(), champion);
        // Learning goes on.
        assert_eq!(learned(&period).rows, 300);
    }
}

#[test]
fn an_older_version_that_a_person_tries_is_nothing_that_learning_goes_on_from() {
    let (mut machine, mut process, old, champion, first) = until_champion();
    give(&machine, &mut process, old, 40);
    // What is under test and does not come from it stays under test.
    let mut parent = shadow(&process).or(Some(champion));
    for hour in first..first + 3 {
        if hour == first + 1 {
            process = machine.start();
        }
        machine.hour(hour, 300, process.tag());
        let period = process.learn(hour);
        let tested = verdict(&period, old);
        assert_eq!(tested.verdict, Verdict::Passed, "{hour}");
        // It is tested on what came since it was chosen.
        let rows = 300 * (hour - first + 1) as u64;
        assert_eq!(tested.comparison.unwrap().rows, rows);
        assert_eq!(process.canary(&machine), Some((old, 40)));
        assert_eq!(process.serving(), champion);
        assert_eq!(learned(&period).parent, parent);
        parent = shadow(&process);
    }
    // Nothing under test comes from it.
    give(&machine, &mut process, old, 0);
    assert_eq!((shadow(&process), process.canary(&machine)), (parent, None));
}

#[test]
fn a_test_that_a_person_ended_and_began_again_begins_anew() {
    for is_noted_over in [false, true] {
        let (mut machine, mut process, canary, hour) = Machine::new().until_canary();
        machine.hour(hour, 300, process.tag());
        // The traffic is as the loop knows it.
        let kept = registry(machine.folder.path());
        set_share(&kept, None, canary, 0).unwrap();
        set_share(&kept, None, canary, 10).unwrap();
        if is_noted_over {
            process.learning.note(Vec::new()).unwrap();
        } else {
            let begun = process.learning.next_period((hour + 1) * HOUR).unwrap();
            assert!(begun.is_none());
        }
        let period = process.learn(hour);
        let tested = verdict(&period, canary);
        assert_eq!(tested.verdict, Verdict::Passed);
        assert_eq!(tested.comparison.unwrap().rows, 300);
        assert_eq!(process.canary(&machine), Some((canary, 10)));
    }
}

#[test]
fn old_versions_go_though_none_takes_the_traffic() {
    let settings = SETTINGS.replace("min_frauds = 5\n", "min_frauds = 5\nkeep = 3\n");
    let (mut machine, mut process, canary, first) = Machine::with(&settings).until_canary();
    let champion = process.serving();
    give(&machine, &mut process, canary, 40);
    for hour in first..first + 4 {
        if hour == first + 2 {
            process = machine.start();
        }
        machine.hour(hour, 300, process.tag());
        let newest = learned(&process.learn(hour)).version;
        let mut expected = std::collections::BTreeSet::from([champion, canary]);
        expected.extend(newest - 2..=newest);
        let versions = registry(machine.folder.path()).versions().unwrap();
        assert!(versions.iter().eq(&expected), "{hour}: {versions:?}");
    }
}
