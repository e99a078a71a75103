//! A person moves the traffic while the loop runs, or is in the middle of a period.

use super::*;

fn shadow(process: &Process) -> Option<u64> {
    let shadow = process.learning.shadow.as_ref();
    shadow.map(|trial| trial.held.manifest.version)
}

/// Hours until a version that was canary has all of the traffic; the champion before, that version, and the hour to come.
fn until_champion(machine: &mut Machine, process: &mut Process) -> (u64, u64, i64) {
    let (canary, first) = until_canary(machine, process);
    let before = process.scorer.serving().unwrap().version;
    for hour in first..first + 4 {
        machine.hour(hour, 300, process.tag());
        process.learn(hour);
        if process.scorer.serving().unwrap().version == canary {
            return (before, canary, hour + 1);
        }
    }
    panic!("the canary did not come to serve");
}

#[test]
fn what_comes_from_a_canary_that_is_taken_back_is_tested_no_further() {
    for in_the_middle in [false, true] {
        let mut machine = Machine::new();
        let mut process = machine.start();
        let (canary, hour) = until_canary(&mut machine, &mut process);
        let champion = process.scorer.serving().unwrap().version;
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
        assert!(process.scorer.serving().unwrap().version >= champion);
        assert_ne!(kept.champion().unwrap(), Some(child));
    }
}

#[test]
fn a_share_that_a_person_has_set_stays_as_it_is() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    let (canary, first) = until_canary(&mut machine, &mut process);
    let champion = process.scorer.serving().unwrap().version;
    let kept = registry(machine.folder.path());
    set_share(&kept, None, canary, 40).unwrap();
    process.learning.follow().unwrap();
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
        assert_eq!(process.scorer.serving().unwrap().version, champion);
        // Learning goes on.
        assert_eq!(learned(&period).rows, 300);
    }
}

#[test]
fn an_older_version_that_a_person_tries_is_nothing_that_learning_goes_on_from() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    let (old, champion, first) = until_champion(&mut machine, &mut process);
    let kept = registry(machine.folder.path());
    set_share(&kept, None, old, 40).unwrap();
    process.learning.follow().unwrap();
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
        assert_eq!(process.scorer.serving().unwrap().version, champion);
        assert_eq!(learned(&period).parent, parent);
        parent = shadow(&process);
    }
    // Nothing under test comes from it.
    set_share(&kept, None, old, 0).unwrap();
    process.learning.follow().unwrap();
    assert_eq!((shadow(&process), process.canary(&machine)), (parent, None));
}

#[test]
fn a_test_that_a_person_ended_and_began_again_begins_anew() {
    for is_noted_over in [false, true] {
        let mut machine = Machine::new();
        let mut process = machine.start();
        let (canary, hour) = until_canary(&mut machine, &mut process);
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
    let mut machine = Machine::with(&settings);
    let mut process = machine.start();
    let (canary, first) = until_canary(&mut machine, &mut process);
    let champion = process.scorer.serving().unwrap().version;
    let kept = registry(machine.folder.path());
    set_share(&kept, None, canary, 40).unwrap();
    process.learning.follow().unwrap();
    for hour in first..first + 4 {
        if hour == first + 2 {
            process = machine.start();
        }
        machine.hour(hour, 300, process.tag());
        let newest = learned(&process.learn(hour)).version;
        let mut expected = std::collections::BTreeSet::from([champion, canary]);
        expected.extend(newest - 2..=newest);
        let versions = kept.versions().unwrap();
        assert!(versions.iter().eq(&expected), "{hour}: {versions:?}");
    }
}
