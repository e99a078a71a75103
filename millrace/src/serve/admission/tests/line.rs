//! The decisions by data.

use super::super::line::{Admission, Ticket, Turn};
use super::super::service::Counts;
use super::*;

/// Two places of 10 ms, with so many scores in them and in line, all of one client.
fn admission(in_place: usize, waiting: usize) -> Admission {
    let mut admission = measured();
    set(&mut admission.in_place, ONE, 2);
    for _ in 0..waiting {
        admission.settings.queue = waiting + 1;
        admission.settings.max_wait = Duration::MAX;
        let turn = admission.arrive("a", ONE, None, SECOND).unwrap();
        assert!(matches!(turn, Turn::Later(_)));
    }
    admission.settings = limits();
    set(&mut admission.in_place, ONE, in_place);
    admission
}

/// So many of a kind, and no others.
fn set(counts: &mut Counts, job: Job, count: usize) {
    *counts = Counts::default();
    (0..count).for_each(|_| counts.add(job));
}

fn limits() -> LimitSettings {
    settings("concurrency = 2\nqueue = 20\nclient_concurrency = 6")
}

/// Two places of 10 ms, and nobody there.
fn measured() -> Admission {
    let mut admission = Admission::new(limits());
    for _ in 0..10 {
        admission.service.note(ONE, SERVICE, SECOND);
    }
    admission
}

#[test]
fn what_becomes_of_a_request() {
    let (queue, ms) = (20, |n| n * MS);
    let (now, later) = (Ok(true), Ok(false));
    // With both places taken and n in line, the wait is (n + 1) × 5 ms; the work takes 10 ms more.
    let over = |wait| {
        Err(Refused::Wait {
            wait: ms(wait),
            max_wait: ms(100),
            retry: ms(wait),
        })
    };
    let full = |retry| {
        Err(Refused::Queue {
            queue,
            retry: ms(retry),
        })
    };
    let late = |left, wait, retry| {
        Err(Refused::Deadline {
            left: ms(left),
            wait: ms(wait),
            service: SERVICE,
            retry: ms(retry),
        })
    };
    for (in_place, waiting, left, expected) in [
        (0, 0, None, now.clone()),
        (1, 0, None, now.clone()),
        // A free place is given in spite of estimates, but not to the dead.
        (1, 0, Some(1), now.clone()),
        (1, 0, Some(0), Err(Refused::Expired)),
        (2, 0, None, later.clone()),
        // The free place is that of the first in line: none passes by.
        (1, 1, None, later.clone()),
        (2, 19, None, later.clone()),
        (2, 20, None, full(105)),
        (2, 20, Some(1), full(105)),
        (2, 0, Some(15), later.clone()),
        (2, 0, Some(14), late(14, 5, 10)),
        (2, 7, Some(50), later.clone()),
        (2, 8, Some(50), late(50, 45, 45)),
        (2, 7, Some(0), Err(Refused::Expired)),
    ] {
        let mut admission = admission(in_place, waiting);
        let decided = admission.arrive("a", ONE, left.map(ms), SECOND);
        let decided = decided.map(|turn| matches!(turn, Turn::Now));
        assert_eq!(
            decided, expected,
            "{in_place} in place, {waiting} in line, {left:?} ms left"
        );
        let counted = admission.in_place.all() + admission.waiting.all();
        assert_eq!(counted, in_place + waiting + usize::from(decided.is_ok()));
    }
    let mut patient = admission(2, 20);
    patient.settings.queue = 1_000;
    let refused = patient.arrive("a", ONE, None, SECOND);
    assert_eq!(refused.map(|_| true), over(105));
}

#[test]
fn what_becomes_of_a_turn() {
    for (left, held, expected) in [
        (None, SERVICE, Ok(())),
        (Some(30 * MS), 20 * MS, Ok(())),
        (Some(30 * MS), 21 * MS, Err(Refused::Expired)),
        // How long the work took long ago says little; that nobody waits any more says enough.
        (Some(2 * SECOND), 2 * SECOND - MS, Ok(())),
        (Some(2 * SECOND), 2 * SECOND, Err(Refused::Expired)),
    ] {
        let mut admission = admission(2, 0);
        let mut ticket = later(admission.arrive("a", ONE, left, SECOND));
        // It says nothing of how long the work takes.
        admission.decline(ONE, SECOND + held);
        assert_eq!(ticket.called.try_recv().unwrap(), expected, "{left:?}");
        let moved = usize::from(expected.is_ok());
        assert_eq!(
            (admission.in_place.all(), admission.waiting.all()),
            (1 + moved, 0)
        );
    }
}

fn later(turn: Result<Turn, Refused>) -> Ticket {
    match turn {
        Ok(Turn::Later(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn clients_take_turns() {
    let mut admission = measured();
    admission.settings.max_wait = SECOND;
    set(&mut admission.in_place, ONE, 2);
    let mut arrive = |client: &str| {
        let ticket = later(admission.arrive(client, ONE, None, SECOND));
        (client.to_owned(), ticket)
    };
    let mut line: Vec<_> = ["a", "a", "a", "a", "b", "b", "c"].map(&mut arrive).into();
    // The first of its own waits for two others at most, and not for all that are in line.
    let (all, own) = (admission.wait(), admission.wait_of("d"));
    assert_eq!((all, own), (40 * MS, 20 * MS));
    // Who leaves the line is passed by.
    let (client, left) = line.remove(5);
    assert!(admission.give_up(&client, &left));
    assert!(!admission.give_up(&client, &left));
    let mut order = Vec::new();
    while !line.is_empty() {
        admission.end(ONE, SERVICE, SECOND);
        let called = |(_, ticket): &mut (String, Ticket)| ticket.called.try_recv().is_ok();
        let place = line.iter_mut().position(called).unwrap();
        order.push(line.remove(place).0);
    }
    assert_eq!(order, ["a", "b", "c", "a", "a", "a"]);
}

#[test]
fn bytes_that_are_kept_have_a_bound() {
    let mut admission = Admission::new(settings("concurrency = 2\nbuffer_bytes = 400"));
    admission.keep("a", 100).unwrap();
    let refused = admission.keep("a", 1).unwrap_err();
    assert!(refused.to_string().contains("101 bytes"), "{refused}");
    for client in ["b", "c"] {
        admission.keep(client, 100).unwrap();
    }
    admission.keep("d", 60).unwrap();
    assert!(admission.keep("e", 50).is_err());
    // An answer is counted in any case. Then its client waits, and who has nothing does not.
    admission.keep_answer("d", 50);
    let is_let_in = |admission: &mut Admission, client: &str| {
        let turn = admission.arrive(client, ONE, None, SECOND);
        turn.is_ok()
    };
    assert!(!is_let_in(&mut admission, "d"));
    assert!(is_let_in(&mut admission, "e"));
    for (client, bytes) in [("a", 100), ("b", 100), ("c", 100), ("d", 110)] {
        admission.drop_kept(client, bytes);
    }
    assert!(is_let_in(&mut admission, "d"));
    assert_eq!((admission.kept, admission.clients.len()), (0, 0));
}

#[test]
fn long_requests_count_for_their_places_alone() {
    let mut admission = admission(1, 3);
    let write = Job {
        class: Class::Write,
        items: 0,
    };
    for _ in 0..100 {
        admission.service.note(write, 60 * SECOND, SECOND);
    }
    admission.in_place.add(write);
    // The other place is free in 10 ms, and three times 10 ms stand in line for two.
    let wait = admission.wait();
    assert!(wait > 24 * MS && wait < 26 * MS, "{wait:?}");
}

#[test]
fn clients_are_counted_while_they_have_requests() {
    let mut admission = admission(0, 0);
    for _ in 0..6 {
        admission.enter("a").unwrap();
    }
    let refused = admission.enter("a").unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("client 'a' has 6 requests open"),
        "{refused}"
    );
    admission.enter("b").unwrap();
    admission.leave("a");
    admission.enter("a").unwrap();
    for client in ["a", "a", "a", "a", "a", "a", "b"] {
        admission.leave(client);
    }
    assert!(admission.clients.is_empty());
}

/// The parts of a stream wait in line, and the stream's request may end before they have left it.
#[test]
fn who_has_nothing_open_when_a_turn_comes_or_is_given_up_is_forgotten() {
    let mut admission = measured();
    set(&mut admission.in_place, ONE, 2);
    let waits = |admission: &mut Admission, client: &str| {
        admission.enter(client).unwrap();
        let ticket = later(admission.arrive(client, ONE, None, SECOND));
        admission.leave(client);
        ticket
    };
    let given_up = waits(&mut admission, "a");
    assert_eq!(admission.clients.len(), 1);
    assert!(admission.give_up("a", &given_up));
    assert!(admission.clients.is_empty());
    let _called = waits(&mut admission, "b");
    assert_eq!(admission.clients.len(), 1);
    admission.end(ONE, SERVICE, SECOND);
    assert!(admission.clients.is_empty());
}
