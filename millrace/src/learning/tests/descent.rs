//! Which versions fall with one that did harm.

use millrace_learner::{Entry, Event};

use super::rollbacks::watching;
use super::*;

/// The versions under test, the canary first.
fn trials(process: &Process) -> Vec<&Trial> {
    let learning = &process.learning;
    let canary = learning.canary.as_ref().map(|(trial, _)| trial);
    canary.into_iter().chain(&learning.shadow).collect()
}

/// Which they are, whether a person has set their share, and on how many labels they were tested.
fn under_way(process: &Process) -> Vec<(u64, bool, usize)> {
    let of = |trial: &Trial| {
        let version = trial.held.manifest.version;
        (version, trial.share.is_pinned, trial.paired.rows())
    };
    trials(process).into_iter().map(of).collect()
}

/// The version that was taken back, and the one that serves in its place.
fn rolled_back(period: &Period) -> Option<(u64, u64)> {
    let rolled_back = period.rolled_back.as_ref();
    rolled_back.map(|(version, to, _)| (*version, *to))
}

#[test]
fn only_what_comes_from_a_canary_that_did_harm_falls_with_it() {
    for (parent, by_a_person) in [
        (Some(1), true),
        (None, false),
        (Some(3), true),
        (Some(3), false),
    ] {
        let (mut machine, mut process) = Machine::new().after(2, 300);
        let champion = process.learning.champion.clone().unwrap();
        let newest = process.learning.shadow.as_ref().unwrap().held.clone();
        let harmful = process.harmful();
        let canary = match by_a_person {
            true => {
                let held = process.publish(&champion.manifest, Some(1), harmful);
                let version = held.manifest.version;
                set_share(&registry(machine.folder.path()), None, version, 10).unwrap();
                process.learning.follow().unwrap();
                version
            }
            false => process.begin_canary(&champion.manifest, Some(1), harmful),
        };
        assert_eq!(canary, 3);
        let shadow = process.begin_shadow(&newest.manifest, parent, champion.checkpoint);

        machine.hour(2, 300, process.tag());
        let period = process.learn(2);
        let harm = &verdict(&period, canary).verdict;
        assert!(matches!(harm, Verdict::Rejected(_)), "{harm:?}");
        let told = verdict(&period, shadow);
        assert_eq!(told.champion, 1);
        if parent == Some(canary) {
            let because = "it comes from version 3, which was taken back".to_owned();
            assert_eq!(told.verdict, Verdict::Rejected(because));
            assert_eq!(told.comparison, None);
            assert_eq!(process.canary(&machine), None);
            assert_eq!(learned(&period).parent, Some(1));
        } else {
            assert_eq!(told.verdict, Verdict::Canary(10), "{parent:?}");
            assert_eq!(told.comparison.unwrap().rows, 300);
            assert_eq!(process.canary(&machine), Some((shadow, 10)));
            assert_eq!(learned(&period).parent, Some(shadow));
        }
        assert_eq!(under_way(&machine.start()), under_way(&process));
    }
}

#[test]
fn what_comes_from_another_version_than_the_one_taken_back_is_tested_against_what_serves_then() {
    let (mut machine, mut process) = watching().after(1, 300);
    let first = process.learning.champion.clone().unwrap();
    let model = || first.checkpoint.clone();
    let harmful = process.harmful();
    let bad = process.serve(&first.manifest, harmful, HOUR);
    // By the log too, the labels from here on meet its scores.
    process.begin_shadow(&first.manifest, Some(bad), model());
    machine.hour(1, 150, process.tag());
    let newest = learned(&process.learn(1)).clone();
    // A version that started afresh is under test, and a person tries one that the bad one does not lead to.
    let afresh = process.begin_shadow(&newest, None, model());
    let tried = process.publish(&first.manifest, None, model());
    let tried = tried.manifest.version;
    set_share(&registry(machine.folder.path()), None, tried, 40).unwrap();
    process.learning.follow().unwrap();

    machine.hour(2, 150, process.tag());
    let period = process.learn(2);
    assert_eq!(rolled_back(&period), Some((bad, 1)));
    assert_eq!(process.serving(), 1);
    assert_eq!(process.canary(&machine), Some((tried, 40)));
    let newest = learned(&period);
    assert_eq!(newest.parent, Some(afresh));
    let newest = newest.version;
    let again = machine.start();
    assert_eq!(again.canary(&machine), Some((tried, 40)));
    for process in [&process, &again] {
        // Labels too few for a test count on in the next version's.
        let expected = [(tried, true, 150), (newest, false, 150)];
        assert_eq!(under_way(process), expected);
        // All were scored by the models that serve now.
        let gate = &process.learning.settings().gate;
        for trial in trials(process) {
            let compared = trial.paired.compare(gate, gate.confidence, 7);
            assert!(compared.log_loss.mean.abs() < 1e-6, "{compared:?}");
        }
    }
}

#[test]
fn what_comes_from_the_version_that_is_taken_back_falls_with_it_and_that_is_told() {
    let (mut machine, mut process) = watching().after(1, 300);
    let first = process.learning.champion.clone().unwrap();
    let model = || first.checkpoint.clone();
    let harmful = process.harmful();
    let bad = process.serve(&first.manifest, harmful, HOUR);
    let canary = process.begin_canary(&first.manifest, Some(bad), model());
    let shadow = process.begin_shadow(&first.manifest, Some(canary), model());

    machine.hour(1, 300, process.tag());
    let period = process.learn(1);
    assert_eq!(rolled_back(&period), Some((bad, 1)));
    let because = format!("it comes from version {bad}, which was taken back");
    for version in [canary, shadow] {
        let mut tested = period.tested.iter();
        let told = tested.rfind(|tested| tested.version == version).unwrap();
        assert_eq!(told.verdict, Verdict::Rejected(because.clone()));
        assert_eq!((told.champion, told.comparison), (bad, None));
        let said = format!("version {version} was rejected: {because}\n");
        assert!(period.to_string().contains(&said), "{period}");
    }
    assert_eq!(process.canary(&machine), None);
    assert_eq!(learned(&period).parent, Some(1));
    assert_eq!(under_way(&machine.start()), under_way(&process));
}

#[test]
fn the_traffic_goes_back_to_a_version_that_a_person_tries() {
    let (mut machine, mut process) = watching().after(1, 300);
    let first = process.learning.champion.clone().unwrap();
    let harmful = process.harmful();
    let bad = process.serve(&first.manifest, harmful, HOUR);
    let kept = registry(machine.folder.path());
    set_share(&kept, None, 1, 40).unwrap();
    process.learning.follow().unwrap();

    machine.hour(1, 300, process.tag());
    assert_eq!(rolled_back(&process.learn(1)), Some((bad, 1)));
    assert_eq!(process.serving(), 1);
    assert_eq!(kept.champion().unwrap(), Some(1));
    assert_eq!(kept.challenger().unwrap(), None);
    assert!(process.learning.canary.is_none());
    let is_rolled_back = |entry: &Entry| {
        let state = State::RolledBack;
        matches!(&entry.event, Event::Version { version: 1, state: of, .. } if *of == state)
    };
    assert!(!kept.journal_entries().unwrap().iter().any(is_rolled_back));
}
