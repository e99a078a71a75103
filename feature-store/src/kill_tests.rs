//! kill -9 at random moments of a process that commits: rows and offsets must agree afterwards.

#![allow(clippy::unwrap_used)]

use std::env;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::rocks_store::tests::{identity, open};
use crate::{
    Commit, RocksStore, Scan, Store, StoreError, Table, entity_range, event_key, event_time_us,
    time_bytes, time_from_bytes,
};

/// Where the test finds itself as its own child, and in which folder.
const CHILD_FOLDER: &str = "MILLRACE_STORE_KILL_TEST_FOLDER";
const TEST: &str = "kill_tests::a_killed_process_leaves_one_commit";

#[test]
fn a_killed_process_leaves_one_commit() {
    if let Some(folder) = env::var_os(CHILD_FOLDER) {
        return commit_until_killed(Path::new(&folder));
    }
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut reached = 0;
    for round in 0..5 {
        let durable = kill_after(
            folder.path(),
            random.random_range(1..4),
            Duration::from_micros(random.random_range(0..300_000)),
        );
        let left = check_state(&open(folder.path()));
        println!("round {round}: durable {durable}, left {left}");
        assert!(left >= durable, "{durable} was flushed, {left} is left");
        assert!(left > reached, "no progress after {reached}");
        reached = left;
    }
}

/// Lets a child commit until it has reported `reports` flushes and `pause` has passed, kills it, and
/// gives the last number that it reported durable. Meanwhile the store must be locked.
fn kill_after(folder: &Path, reports: usize, pause: Duration) -> i64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(CHILD_FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut durable = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("durable ")?.parse().ok());
    let before = durable.by_ref().take(reports).last().unwrap();
    let error = RocksStore::open(folder, &identity()).err();
    thread::sleep(pause);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "the child ended by itself");
    assert!(
        matches!(error, Some(StoreError::Locked { .. })),
        "{error:?}"
    );
    durable.last().unwrap_or(before)
}

/// The child: numbered commits, with a flush now and then besides those that RocksDB starts when a
/// buffer is full. It ends by itself if nobody kills it.
fn commit_until_killed(folder: &Path) {
    let store = open(folder);
    let first = check_state(&store) + 1;
    // The harness has printed half a line before this.
    println!();
    for number in first..first + 1_000_000 {
        store.commit(numbered(number)).unwrap();
        if number % 251 == 0 {
            store.flush().unwrap();
            println!("durable {number}");
        }
    }
}

fn numbered(number: i64) -> Commit {
    let mut unique = [0; 16];
    unique[..8].copy_from_slice(&number.to_be_bytes());
    let filler = vec![u8::try_from(number % 251).unwrap(); 4_000];
    let mut commit = Commit::default();
    commit.put(
        Table::Events,
        event_key(1, b"card", number, &unique),
        filler,
    );
    commit.put(Table::Scored, b"last", time_bytes(number));
    commit.put(Table::Examples, b"last", time_bytes(number));
    commit.offset("transactions", 0, number);
    commit
}

/// Checks that all tables and the offset stand at one commit, and gives its number.
fn check_state(store: &RocksStore) -> i64 {
    let number = store.offsets().unwrap().first().map_or(0, |row| row.next);
    for table in [Table::Scored, Table::Examples] {
        let last = store.get(table, b"last").unwrap();
        let last = last.map_or(0, |value| time_from_bytes(&value).unwrap());
        assert_eq!(last, number, "{table:?} and offset");
    }
    let mut expected = 1;
    let (from, to) = entity_range(1, b"card");
    let mut visit = |key: &[u8], _: &[u8]| {
        assert_eq!(event_time_us(key), Some(expected), "a gap in the events");
        expected += 1;
        ControlFlow::Continue(())
    };
    store
        .scan(Table::Events, &from, &to, false, &mut visit)
        .unwrap();
    assert_eq!(expected - 1, number, "events and offset");
    number
}
