//! Two processes that learn from the same labels.

use super::*;

/// A machine with a first model and another hour of labels, and processes that have seen no more than that.
fn processes<const N: usize>() -> (Machine, [Process; N]) {
    let (mut machine, first) = Machine::new().after(1, 300);
    machine.hour(1, 300, first.tag());
    let processes = std::array::from_fn(|_| machine.start());
    (machine, processes)
}

#[test]
fn a_period_is_learned_by_the_first_of_two_processes() {
    let (machine, [mut first, mut second]) = processes();
    let made = learned(&first.learn(1)).version;
    let failure = second.learning.once(2 * HOUR).unwrap_err();
    assert_eq!((failure.kind, failure.exit_code()), (Kind::Rival, 1));
    assert_eq!(
        second.learning.done_by_another().unwrap(),
        Some(2 * HOUR),
        "{failure}"
    );
    // It has made nothing, and one that starts has nothing to do.
    let kept = registry(machine.folder.path());
    assert_eq!(kept.versions().unwrap().last(), Some(&made));
    let third = machine.start().learning.once(2 * HOUR);
    assert!(third.unwrap().is_none());
    // The first goes on.
    assert!(first.learning.next_period(2 * HOUR).unwrap().is_none());
}

#[test]
fn one_that_was_overtaken_in_the_middle_writes_nothing() {
    let (machine, [mut first, mut second]) = processes();
    let noted = || {
        registry(machine.folder.path())
            .journal_entries()
            .unwrap()
            .len()
    };
    second.learning.under_way = Some(2 * HOUR);
    // What is noted in the middle of a period does not end it.
    let middle = came_to(1, State::Rejected, None, None, 2 * HOUR);
    first.learning.note(vec![middle]).unwrap();
    assert_eq!(second.learning.done_by_another().unwrap(), None);
    let before = noted();
    let aliases = second.learning.seen;
    for outcome in [
        second.learning.note(Vec::new()),
        second.learning.decide(aliases, Vec::new(), |_| Ok(())),
        second.learning.check_rivals(),
    ] {
        assert_eq!(outcome.unwrap_err().kind, Kind::Rival);
    }
    assert_eq!(noted(), before);
    // The one that was there first ends the period.
    first.learn(1);
    assert_eq!(second.learning.done_by_another().unwrap(), Some(2 * HOUR));
}

#[test]
fn a_person_is_no_rival() {
    let (machine, [mut process]) = processes();
    let version = learned(&process.learn(1)).version;
    let plan = Some(&process.scorer.plan);
    promote(&registry(machine.folder.path()), plan, version).unwrap();
    process.learning.follow().unwrap();
    process.learning.check_rivals().unwrap();
    process.learning.note(Vec::new()).unwrap();
}

#[test]
fn a_process_follows_a_person_and_not_another_learner() {
    let (_machine, [mut first, mut second]) = processes();
    let share = Aliases {
        challenger: Some((1, 20)),
        ..first.learning.seen
    };
    let noted = came_to(1, State::Canary { percent: 20 }, None, None, 2 * HOUR);
    let decided = first.learning.decide(share, vec![noted], |_| Ok(()));
    decided.unwrap();
    let failure = second.learning.follow().unwrap_err();
    assert_eq!(failure.kind, Kind::Rival);
}
