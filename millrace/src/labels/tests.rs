//! What becomes of labels, step by step, through crashes, corrections and deletions.

#![allow(clippy::unwrap_used)]
use super::*;
use millrace_feature_store::MemoryStore;

#[derive(Clone, Copy)]
enum Happening {
    Scored(&'static str, i64),
    EventGone(&'static str),
    LabelGone(&'static str),
    Label(&'static str, bool, i64),
    Commit,
    Crash,
}
use Happening::{Commit as Done, Crash, EventGone, Label as Known, LabelGone, Scored};

fn run(happenings: &[Happening]) -> (Vec<(u64, bool, i64)>, LabelCounts) {
    let store = MemoryStore::new();
    let mut join = LabelJoin::open(&store).unwrap();
    let mut total = LabelCounts::default();
    let mut step = join.begin(&store);
    for happening in happenings {
        match happening {
            Scored(id, time) => {
                step.scored(id.as_bytes(), ScoredRecord::new(*time, &[1.0], 7))
                    .unwrap();
            }
            Known(id, fraud, time) => step.label(id.as_bytes(), *fraud, *time),
            EventGone(id) => step.forget_event(id.as_bytes()).unwrap(),
            LabelGone(id) => step.forget_label(id.as_bytes()).unwrap(),
            Crash => {
                join = LabelJoin::open(&store).unwrap();
                step = join.begin(&store);
            }
            Done => {
                let mut commit = Commit::default();
                let counts = step.finish(&mut join, &mut commit).unwrap();
                store.commit(commit).unwrap();
                total.joined += counts.joined;
                total.waiting += counts.waiting;
                total.duplicate += counts.duplicate;
                total.corrected += counts.corrected;
                step = join.begin(&store);
            }
        }
    }
    let mut examples = Vec::new();
    examples_after(&store, 0, &mut |number, example| {
        examples.push((number, example.fraud, example.known_us));
        true
    })
    .unwrap();
    (examples, total)
}

#[test]
fn a_label_is_learned_once() {
    let (examples, counts) = run(&[
        Scored("a", 1),
        Scored("b", 2),
        Done,
        Known("a", true, 10),
        Known("a", true, 10),
        Done,
        Known("a", true, 10),
        Scored("a", 1),
        Done,
        Known("a", true, 11),
        Known("b", false, 9),
        Done,
    ]);
    // The second example became known at 9, after one of 10: the sequence never goes back.
    assert_eq!(examples, [(1, true, 10), (2, false, 10)]);
    assert_eq!(
        counts,
        LabelCounts {
            joined: 2,
            waiting: 0,
            duplicate: 3,
            corrected: 0
        }
    );
}

#[test]
fn labels_of_a_step_are_numbered_as_they_became_known() {
    let scored = ["a", "b", "c", "d", "e", "f"].map(|id| Scored(id, 1));
    // One partition's labels, and then another's.
    let labels = [
        Known("a", true, 10),
        Known("b", false, 30),
        Known("c", true, 50),
        Known("d", false, 20),
        Known("e", true, 40),
        Known("f", false, 30),
    ];
    let expected = [
        (1, true, 10),
        (2, false, 20),
        (3, false, 30),
        (4, false, 30),
        (5, true, 40),
        (6, true, 50),
    ];
    let (examples, counts) = run(&[&scored[..], &labels, &[Done]].concat());
    assert_eq!((&examples[..], counts.joined), (&expected[..], 6));
    // Those that wait for their events too, in whatever order these come.
    let scored = ["c", "f", "a", "e", "b", "d"].map(|id| Scored(id, 1));
    let (examples, _) = run(&[&labels[..], &[Done], &scored, &[Done]].concat());
    assert_eq!(examples, expected);
    // What a crash takes away is numbered the same when the step comes again.
    let again = [&scored[..], &labels, &[Crash], &scored, &labels, &[Done]].concat();
    assert_eq!(run(&again).0, expected);
}

#[test]
fn the_last_of_an_events_labels_counts_whatever_its_time() {
    let (examples, counts) = run(&[
        Scored("a", 1),
        Scored("b", 1),
        Known("a", false, 20),
        Known("a", true, 10),
        Known("b", false, 15),
        Done,
    ]);
    assert_eq!(examples, [(1, false, 15), (3, true, 20)]);
    assert_eq!((counts.joined, counts.corrected), (2, 1));
}

#[test]
fn an_early_label_waits_for_its_event() {
    for commits in [false, true] {
        let maybe = if commits { Done } else { Known("y", false, 1) };
        let (examples, counts) = run(&[
            Known("a", true, 5),
            maybe,
            Done,
            Scored("a", 1),
            Done,
            Known("a", true, 5),
            Done,
        ]);
        assert_eq!(examples, [(1, true, 5)]);
        assert_eq!((counts.joined, counts.duplicate), (1, 1));
    }
}

#[test]
fn an_early_label_is_taken_once_by_an_event_that_comes_twice() {
    let (examples, counts) = run(&[
        Known("a", true, 5),
        Known("b", true, 6),
        Done,
        Scored("a", 1),
        Scored("a", 1),
        Done,
        Scored("b", 1),
        Done,
    ]);
    assert_eq!(examples, [(1, true, 5), (2, true, 6)]);
    assert_eq!((counts.joined, counts.duplicate), (2, 0));
}

#[test]
fn an_event_finds_the_label_that_waits_since_the_same_step() {
    // What is forgotten settles what was heard before it.
    let (examples, counts) = run(&[
        Known("a", true, 5),
        LabelGone("x"),
        Scored("a", 1),
        Scored("a", 1),
        Done,
        Scored("a", 1),
        Done,
    ]);
    assert_eq!(examples, [(1, true, 5)]);
    assert_eq!((counts.waiting, counts.joined), (1, 1));
}

/// As many as make it felt where each looks at all that the step had so far.
#[test]
fn a_step_of_many_labels_takes_each_of_them_once() {
    let store = MemoryStore::new();
    let mut join = LabelJoin::open(&store).unwrap();
    let mut step = join.begin(&store);
    for id in 0..20_000_u32 {
        let record = ScoredRecord::new(1, &[1.0], 7);
        step.scored(&id.to_be_bytes(), record).unwrap();
        step.label(&id.to_be_bytes(), false, 5);
        step.label(&id.to_be_bytes(), true, 6);
        step.label(&[id.to_be_bytes(), [9; 4]].concat(), true, 7);
    }
    step.forget_label(&7_u32.to_be_bytes()).unwrap();
    let mut commit = Commit::default();
    let counts = step.finish(&mut join, &mut commit).unwrap();
    let expected = LabelCounts {
        joined: 20_000,
        waiting: 20_000,
        duplicate: 0,
        corrected: 20_000,
    };
    assert_eq!(counts, expected);
}

#[test]
fn a_correction_takes_the_place_of_its_example() {
    for commits in [false, true] {
        let maybe = || if commits { Done } else { Known("y", false, 1) };
        let (examples, counts) = run(&[
            Scored("a", 1),
            Scored("b", 2),
            Known("a", false, 5),
            Known("b", false, 5),
            maybe(),
            Known("a", true, 6),
            Known("a", true, 6),
            Done,
        ]);
        // It is read by whoever has read the first one.
        assert_eq!(examples, [(2, false, 5), (3, true, 6)]);
        assert_eq!(counts.corrected, 1);
        let (examples, counts) = run(&[
            Scored("a", 1),
            Known("a", false, 5),
            maybe(),
            Known("a", true, 6),
            maybe(),
            Known("a", false, 4),
            Done,
            LabelGone("a"),
            Known("a", true, 9),
            Done,
        ]);
        assert_eq!(examples, [(4, true, 9)]);
        assert_eq!(counts.corrected, 2);
    }
}

#[test]
fn a_correction_tells_whose_place_it_took() {
    let store = MemoryStore::new();
    let mut join = LabelJoin::open(&store).unwrap();
    for labels in [
        &[("a", false), ("b", false)][..],
        &[("a", true)],
        &[("b", true), ("a", false)],
    ] {
        let mut step = join.begin(&store);
        for (id, fraud) in labels {
            if join.next_example() == 1 {
                let record = ScoredRecord::new(1, &[1.0], 7);
                step.scored(id.as_bytes(), record).unwrap();
            }
            step.label(id.as_bytes(), *fraud, 5);
        }
        let mut commit = Commit::default();
        step.finish(&mut join, &mut commit).unwrap();
        store.commit(commit).unwrap();
    }
    let between = |after, until| {
        let mut found = Vec::new();
        corrections_between(&store, after, until, &mut |number, replaced| {
            found.push((number, replaced));
        })
        .unwrap();
        found
    };
    assert_eq!(between(0, u64::MAX), [(3, 1), (4, 2), (5, 3)]);
    assert_eq!(between(3, 4), [(4, 2)]);
    assert!(between(5, 9).is_empty());
}

#[test]
fn whoever_has_read_an_example_learns_that_it_was_deleted() {
    let store = MemoryStore::new();
    let mut join = LabelJoin::open(&store).unwrap();
    let mut apply = |happenings: &[Happening]| {
        let mut step = join.begin(&store);
        for happening in happenings {
            match happening {
                Scored(id, time) => {
                    let record = ScoredRecord::new(*time, &[1.0], 7);
                    step.scored(id.as_bytes(), record).unwrap();
                }
                Known(id, fraud, time) => step.label(id.as_bytes(), *fraud, *time),
                EventGone(id) => step.forget_event(id.as_bytes()).unwrap(),
                LabelGone(id) => step.forget_label(id.as_bytes()).unwrap(),
                Done | Crash => {}
            }
        }
        let mut commit = Commit::default();
        step.finish(&mut join, &mut commit).unwrap();
        store.commit(commit).unwrap();
    };
    let gone = |after: u64| {
        let mut found = Vec::new();
        deletions_after(&store, after, &mut |number| found.push(number)).unwrap();
        found
    };
    let scored = ["a", "b", "c", "d"].map(|id| Scored(id, 1));
    let labels = ["a", "b", "c"].map(|id| Known(id, false, 5));
    apply(&[&scored[..], &labels].concat());
    assert!(gone(0).is_empty());
    apply(&[LabelGone("b"), EventGone("c"), EventGone("d")]);
    // Nothing came since the third example.
    assert_eq!((gone(0), gone(3)), (vec![2, 3], vec![2, 3]));
    // The one that a correction has put in another's place, and what was deleted in the step in which it came.
    apply(&[Known("a", true, 6), LabelGone("a"), Known("b", true, 7)]);
    apply(&[LabelGone("b")]);
    assert_eq!((gone(3), gone(5)), (vec![2, 3, 4, 5], vec![5]));
    assert!(gone(6).is_empty());
    // A label that is deleted twice had its example once.
    apply(&[LabelGone("b")]);
    assert_eq!(gone(5), [5]);
}

#[test]
fn a_row_that_does_not_decode_ends_the_reading() {
    let told = |table, row: Vec<u8>, value: Vec<u8>| {
        let store = MemoryStore::new();
        let mut commit = Commit::default();
        commit.put(table, row, value);
        store.commit(commit).unwrap();
        let outcomes = [
            examples_after(&store, 0, &mut |_, _| true),
            corrections_between(&store, 0, u64::MAX, &mut |_, _| {}),
            deletions_after(&store, 0, &mut |_| {}),
        ];
        outcomes.map(|outcome| outcome.err().map(|error| error.to_string()))
    };
    let time = || time_bytes(5).to_vec();
    let empty = Some(StoreError::Record("it is empty".to_owned()).to_string());
    let example = 1_u64.to_be_bytes().to_vec();
    let [of_example, correction, deletion] = [
        told(Table::Examples, example, time()),
        told(Table::Scored, correction_key(1), time()),
        told(Table::Scored, deletion_key(1, 1), time()),
    ];
    assert_eq!(of_example, [empty.clone(), None, None]);
    assert_eq!(correction, [None, empty.clone(), None]);
    assert_eq!(deletion, [None, None, empty]);
    // A key of another length is told, too.
    let number = timed(5, &1_u64).unwrap();
    let [_, correction, _] = told(Table::Scored, key(CORRECTED, b"1"), number);
    assert!(correction.is_some_and(|it| it.contains("a correction's key is not 9 bytes")));
}

#[test]
fn what_was_deleted_is_no_example_and_may_come_again() {
    for commits in [false, true] {
        let maybe = || if commits { Done } else { Known("y", false, 1) };
        let (examples, counts) = run(&[
            Scored("a", 1),
            Known("a", true, 5),
            Scored("b", 2),
            Known("b", true, 6),
            maybe(),
            EventGone("a"),
            LabelGone("b"),
            Done,
        ]);
        assert_eq!((examples, counts.joined), (vec![], 2));
        let (examples, counts) = run(&[
            Scored("b", 2),
            Known("b", true, 6),
            maybe(),
            LabelGone("b"),
            maybe(),
            Known("b", false, 7),
            Done,
        ]);
        assert_eq!(examples, [(2, false, 7)]);
        assert_eq!((counts.joined, counts.corrected), (2, 0));
        // A label that waits is forgotten too; and one of a deleted event waits, should that come again.
        let (examples, _) = run(&[
            Known("c", true, 5),
            maybe(),
            LabelGone("c"),
            maybe(),
            Scored("c", 1),
            Scored("d", 2),
            maybe(),
            EventGone("d"),
            maybe(),
            Known("d", true, 8),
            Done,
            Scored("d", 3),
            Done,
        ]);
        assert_eq!(examples, [(1, true, 8)]);
    }
}

#[test]
fn what_was_not_committed_did_not_happen() {
    let (examples, _) = run(&[
        Scored("a", 1),
        Done,
        Known("a", true, 5),
        Crash,
        Known("a", true, 5),
        Done,
    ]);
    assert_eq!(examples, [(1, true, 5)]);
}
