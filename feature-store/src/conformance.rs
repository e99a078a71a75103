//! What every store must do, as one plain function over the trait.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::thread;

use crate::{
    Commit, Offset, Scan, Store, StoreError, Table, entity_range, event_key, event_range,
    event_time_us, tile_key, time_bytes, try_scan,
};

/// Runs the whole suite on an empty store.
pub(crate) fn conformance(store: &dyn Store) {
    an_empty_store_is_empty(store);
    rows_are_read_back(store);
    scans_keep_to_their_range(store);
    a_failure_ends_a_scan(store);
    entities_do_not_mix(store);
    a_commit_applies_in_order(store);
    offsets_move_with_their_rows(store);
    a_refused_commit_leaves_nothing(store);
    scans_see_whole_commits(store);
    a_moment_stays_as_it_was(store);
    old_rows_expire(store);
    a_view_is_removed_alone(store);
}

fn a_view_is_removed_alone(store: &dyn Store) {
    for view in [30, 31, 32, u32::MAX] {
        put_events(store, view, b"", &[i64::MIN, 1]);
        put_events(store, view, &[0xFF; 40], &[2, i64::MAX]);
        let mut commit = Commit::default();
        commit.put(Table::Tiles, tile_key(view, b"a", 3, 8), b"tile");
        store.commit(commit).unwrap();
    }
    let left = |store: &dyn Store, view: u32| {
        let count = |table| {
            rows(store, table, (&[], &[]), false, usize::MAX)
                .iter()
                .filter(|(key, _)| key.starts_with(&view.to_be_bytes()))
                .count()
        };
        // By entity too: that is how rows are kept in memory.
        let (from, to) = event_range(view, b"", i64::MIN..i64::MAX);
        let of_entity = rows(store, Table::Events, (&from, &to), false, 9).len();
        [count(Table::Events), of_entity, count(Table::Tiles)]
    };
    for view in [30, 31, 32, u32::MAX] {
        assert_eq!(left(store, view), [4, 2, 1]);
    }
    for (removed, kept) in [(31, 30), (u32::MAX, 32)] {
        store.remove_view(removed).unwrap();
        assert_eq!(left(store, removed), [0, 0, 0]);
        store.compact_view(removed).unwrap();
        assert_eq!(left(store, removed), [0, 0, 0]);
        assert_eq!(left(store, kept), [4, 2, 1]);
    }
    put_events(store, 31, b"", &[5]);
    assert_eq!(left(store, 31), [1, 1, 0]);
}

pub(crate) type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The first `limit` rows of a scan.
pub(crate) fn rows(
    store: &dyn Scan,
    table: Table,
    (from, to): (&[u8], &[u8]),
    reverse: bool,
    limit: usize,
) -> Rows {
    let mut rows = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        if rows.len() < limit {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    store.scan(table, from, to, reverse, &mut visit).unwrap();
    rows
}

fn keys(store: &dyn Store, range: (&[u8], &[u8]), reverse: bool, limit: usize) -> Vec<String> {
    rows(store, Table::Meta, range, reverse, limit)
        .into_iter()
        .map(|(key, _)| String::from_utf8(key).unwrap())
        .collect()
}

fn times(store: &dyn Store, (from, to): (Vec<u8>, Vec<u8>), reverse: bool) -> Vec<i64> {
    rows(store, Table::Events, (&from, &to), reverse, usize::MAX)
        .iter()
        .map(|(key, _)| event_time_us(key).unwrap())
        .collect()
}

/// Forth and back, over several entities and tables through the same moment.
fn a_moment_stays_as_it_was(store: &dyn Store) {
    put_events(store, 7, b"a", &[1, 2, 3]);
    put_events(store, 7, b"b", &[2]);
    let moment = store.moment();
    put_events(store, 7, b"a", &[4]);
    put_events(store, 7, b"c", &[5]);
    let times = |scan: &dyn Scan, entity: &[u8], times, reverse| -> Vec<i64> {
        let (from, to) = event_range(7, entity, times);
        rows(scan, Table::Events, (&from, &to), reverse, usize::MAX)
            .iter()
            .map(|(key, _)| event_time_us(key).unwrap())
            .collect()
    };
    let cases: [(&[u8], _, &[i64], &[i64]); 5] = [
        (b"a", 0..9, &[1, 2, 3], &[1, 2, 3, 4]),
        (b"b", 0..9, &[2], &[2]),
        (b"c", 0..9, &[], &[5]),
        (b"a", 2..3, &[2], &[2]),
        (b"nobody", 0..9, &[], &[]),
    ];
    for (entity, range, then, now) in cases {
        assert_eq!(times(&*moment, entity, range.clone(), false), then);
        let back: Vec<i64> = then.iter().rev().copied().collect();
        assert_eq!(times(&*moment, entity, range.clone(), true), back);
        assert_eq!(times(store, entity, range, false), now);
    }
    assert_eq!(
        rows(&*moment, Table::Meta, (b"", b""), true, 9),
        rows(store, Table::Meta, (b"", b""), true, 9)
    );
}

fn put_events(store: &dyn Store, view: u32, entity: &[u8], times: &[i64]) {
    let mut commit = Commit::default();
    for &time in times {
        commit.put(
            Table::Events,
            event_key(view, entity, time, &[0; 16]),
            entity,
        );
    }
    store.commit(commit).unwrap();
}

fn an_empty_store_is_empty(store: &dyn Store) {
    for table in Table::ALL {
        assert_eq!(store.get(table, b"key").unwrap(), None);
        assert_eq!(rows(store, table, (b"", b""), false, 9), Rows::new());
        assert_eq!(rows(store, table, (b"", b""), true, 9), Rows::new());
    }
    assert_eq!(store.offsets().unwrap(), []);
    store.commit(Commit::default()).unwrap();
    store.flush().unwrap();
}

fn rows_are_read_back(store: &dyn Store) {
    let event = event_key(1, b"card", 5, &[7; 16]);
    let scored = [&time_bytes(5)[..], b"inputs"].concat();
    let mut commit = Commit::default();
    commit.put(Table::Events, event.clone(), b"");
    commit.put(Table::Scored, b"tx", scored.clone());
    commit.put(Table::Examples, b"tx", time_bytes(6));
    commit.put(Table::Meta, b"tx", b"meta");
    store.commit(commit).unwrap();
    for flushed in [false, true] {
        if flushed {
            store.flush().unwrap();
        }
        let get = |table, key| store.get(table, key).unwrap();
        assert_eq!(get(Table::Events, &event), Some(vec![]));
        assert_eq!(get(Table::Scored, b"tx"), Some(scored.clone()));
        assert_eq!(get(Table::Examples, b"tx"), Some(time_bytes(6).to_vec()));
        assert_eq!(get(Table::Meta, b"tx"), Some(b"meta".to_vec()));
        assert_eq!(get(Table::Scored, b"t"), None);
        assert_eq!(get(Table::Scored, b"tx2"), None);
    }
}

fn scans_keep_to_their_range(store: &dyn Store) {
    let mut commit = Commit::default();
    for key in ["ka", "kb", "kc", "kcc", "kd"] {
        commit.put(Table::Meta, key, key);
    }
    store.commit(commit).unwrap();
    let all = usize::MAX;
    let cases: [(&str, &str, usize, &[&str]); 9] = [
        ("k", "l", all, &["ka", "kb", "kc", "kcc", "kd"]),
        ("kb", "kd", all, &["kb", "kc", "kcc"]),
        ("kbb", "kcd", all, &["kc", "kcc"]),
        ("kb", "kb\0", all, &["kb"]),
        ("kb", "kb", all, &[]),
        ("kd", "kb", all, &[]),
        ("kaa", "kab", all, &[]),
        ("kc", "", all, &["kc", "kcc", "kd", "tx"]),
        ("u", "", all, &[]),
    ];
    for (from, to, limit, expected) in cases {
        let range = (from.as_bytes(), to.as_bytes());
        assert_eq!(keys(store, range, false, limit), expected, "{from}..{to}");
        let mut backwards = keys(store, range, true, limit);
        backwards.reverse();
        assert_eq!(backwards, expected, "{from}..{to} backwards");
    }
    assert_eq!(keys(store, (b"k", b"l"), false, 2), ["ka", "kb"]);
    assert_eq!(keys(store, (b"k", b"l"), true, 2), ["kd", "kcc"]);
}

fn a_failure_ends_a_scan(store: &dyn Store) {
    let mut commit = Commit::default();
    for key in ["fa", "fb", "fc"] {
        commit.put(Table::Meta, key, key);
    }
    store.commit(commit).unwrap();
    let mut seen = 0;
    let outcome = try_scan(store, Table::Meta, b"f", b"g", &mut |key, _| {
        seen += 1;
        match key {
            b"fb" => Err(StoreError::Record("of fb".to_owned())),
            _ => Ok(ControlFlow::Continue(())),
        }
    });
    assert!(matches!(outcome, Err(StoreError::Record(of)) if of == "of fb"));
    assert_eq!(seen, 2);
}

fn entities_do_not_mix(store: &dyn Store) {
    let entities: [&[u8]; 8] = [
        b"", b"A", b"A\x80", b"A\0", b"A\0\x01", b"AB", b"\xFF", b"B",
    ];
    let moments = [i64::MIN, -1, 0, 5, 6, i64::MAX];
    for entity in entities {
        for view in [10, 11] {
            put_events(store, view, entity, &moments);
        }
    }
    let missing: &[u8] = b"A\0\0";
    for entity in entities {
        let all = entity_range(10, entity);
        assert_eq!(times(store, all.clone(), false), moments, "{entity:?}");
        let mut backwards = times(store, all, true);
        backwards.reverse();
        assert_eq!(backwards, moments, "{entity:?}");
        let some = event_range(10, entity, -1..6);
        assert_eq!(times(store, some.clone(), false), [-1, 0, 5], "{entity:?}");
        assert_eq!(times(store, some, true), [5, 0, -1], "{entity:?}");
    }
    assert!(times(store, entity_range(10, missing), false).is_empty());
    assert!(times(store, entity_range(10, missing), true).is_empty());
    let view = (10_u32.to_be_bytes().to_vec(), 11_u32.to_be_bytes().to_vec());
    let count = entities.len() * moments.len();
    assert_eq!(times(store, view.clone(), false).len(), count);
    assert_eq!(times(store, view, true).len(), count);
}

fn a_commit_applies_in_order(store: &dyn Store) {
    let mut commit = Commit::default();
    commit.put(Table::Meta, b"order", b"first");
    commit.put(Table::Meta, b"order", b"second");
    commit.delete(Table::Meta, b"order");
    commit.put(Table::Meta, b"gone", b"x");
    store.commit(commit).unwrap();
    let mut commit = Commit::default();
    commit.delete(Table::Meta, b"gone");
    commit.delete(Table::Meta, b"never there");
    store.commit(commit).unwrap();
    let get = |key: &[u8]| store.get(Table::Meta, key).unwrap();
    assert_eq!(get(b"order"), Some(b"second".to_vec()));
    assert_eq!(get(b"gone"), None);
}

fn offset(topic: &str, partition: i32, next: i64) -> Offset {
    Offset {
        topic: topic.to_owned(),
        partition,
        next,
    }
}

fn offsets_move_with_their_rows(store: &dyn Store) {
    let mut commit = Commit::default();
    commit.offset("transactions", 10, 7);
    commit.offset("transactions", 2, i64::MAX);
    commit.offset("transactions-dead", 0, 1);
    commit.offset("labels", 0, 0);
    commit.put(Table::Meta, b"row", b"1");
    store.commit(commit).unwrap();
    let mut commit = Commit::default();
    commit.offset("transactions", 10, 8);
    commit.put(Table::Meta, b"row", b"2");
    store.commit(commit).unwrap();
    let expected = [
        offset("labels", 0, 0),
        offset("transactions", 2, i64::MAX),
        offset("transactions", 10, 8),
        offset("transactions-dead", 0, 1),
    ];
    assert_eq!(store.offsets().unwrap(), expected);
    assert_eq!(store.get(Table::Meta, b"row").unwrap(), Some(b"2".to_vec()));
}

fn a_refused_commit_leaves_nothing(store: &dyn Store) {
    let before = store.offsets().unwrap();
    let bad: [(Table, &[u8], &[u8]); 4] = [
        (Table::Events, b"no event key", b""),
        (Table::Scored, b"key", b"1234567"),
        (Table::Examples, b"key", b""),
        (Table::Meta, b"\0offset/forged", b""),
    ];
    for (table, key, value) in bad {
        let mut commit = Commit::default();
        commit.put(Table::Meta, b"refused", b"x");
        commit.delete(Table::Meta, b"row");
        commit.offset("transactions", 10, 9);
        commit.put(table, key, value);
        let error = store.commit(commit).unwrap_err();
        assert!(
            matches!(error, StoreError::BadRow { table: name, .. } if name == table.name()),
            "{error:?}"
        );
    }
    assert_eq!(store.get(Table::Meta, b"refused").unwrap(), None);
    assert!(store.get(Table::Meta, b"row").unwrap().is_some());
    assert_eq!(store.offsets().unwrap(), before);
}

/// One thread writes pairs of equal rows; every scan of another must see equal pairs.
fn scans_see_whole_commits(store: &dyn Store) {
    let write = |number: u32| {
        let mut commit = Commit::default();
        commit.put(Table::Meta, b"pair/a", number.to_be_bytes());
        commit.put(Table::Meta, b"pair/b", number.to_be_bytes());
        store.commit(commit).unwrap();
    };
    write(0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| (1..=2_000).for_each(write));
        let mut scans = 0;
        while !writer.is_finished() || scans == 0 {
            let pair = rows(store, Table::Meta, (b"pair/", b"pair0"), false, 9);
            assert_eq!(pair.len(), 2);
            assert_eq!(pair[0].1, pair[1].1);
            scans += 1;
        }
    });
}

fn old_rows_expire(store: &dyn Store) {
    put_events(store, 20, b"card", &[99, 100, 101]);
    put_events(store, 21, b"card", &[99, 100, 101]);
    put_events(store, 22, b"card", &[-6, -5, -4]);
    let mut commit = Commit::default();
    for time in [199, 200] {
        commit.put(Table::Scored, format!("e{time}"), time_bytes(time));
        commit.put(Table::Examples, format!("e{time}"), time_bytes(time + 100));
    }
    store.commit(commit).unwrap();
    store.set_horizon(20, 100);
    store.set_horizon(22, -5);
    store.horizons().set_scored(200);
    store.horizons().set_examples(300);
    store.expire().unwrap();

    let events = |view| times(store, entity_range(view, b"card"), false);
    assert_eq!(events(20), [100, 101]);
    assert_eq!(events(21), [99, 100, 101]);
    assert_eq!(events(22), [-5, -4]);
    for table in [Table::Scored, Table::Examples] {
        assert_eq!(store.get(table, b"e199").unwrap(), None);
        assert!(store.get(table, b"e200").unwrap().is_some());
    }
    assert_eq!(store.offsets().unwrap().len(), 4);

    store.set_horizon(20, 101);
    store.expire().unwrap();
    assert_eq!(events(20), [101]);
}
