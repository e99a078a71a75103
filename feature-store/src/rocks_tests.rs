//! [`RocksStore`] against the suite, against [`MemoryStore`] on random operations, and after crashes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use rocksdb::WaitForCompactOptions;

use crate::conformance::{conformance, rows};
use crate::{
    Commit, Memo, MemoryStore, Offset, RocksStore, Scan, Store, StoreError, StoreIdentity,
    StoreSettings, Table, entity_range, event_key, event_range, time_bytes,
};

pub(crate) fn identity() -> StoreIdentity {
    StoreIdentity {
        project_fingerprint: "test".to_owned(),
        description: "a test".to_owned(),
    }
}

/// The smallest buffers that RocksDB allows: many files, levels and flushes from little data.
pub(crate) fn tiny() -> StoreSettings {
    StoreSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 64 << 10,
        ..StoreSettings::default()
    }
}

pub(crate) fn open(path: &Path) -> RocksStore {
    RocksStore::open_with(path, &identity(), &tiny()).unwrap()
}

#[test]
fn rocks_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance(&RocksStore::open(folder.path(), &identity()).unwrap());
}

#[test]
fn a_store_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let _held = open(folder.path());
    let error = RocksStore::open(folder.path(), &identity()).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
}

/// Enough files that a bounded table of open files would leave some unopened, all of them rewritten
/// by the writer after the reader came.
#[test]
fn a_reader_keeps_its_moment_beside_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let read = || RocksStore::open_read_only(path, &identity(), &tiny());
    let writer = open(path);
    fill(&writer, 1..1_500);
    writer.commit(numbered(1)).unwrap();
    writer.flush().unwrap();
    let reader = read().unwrap();
    fill(&writer, 1..1_500);
    writer.commit(numbered(2)).unwrap();
    writer.expire().unwrap();

    assert_eq!(state(&reader), (Some(1), Some(1)));
    let (from, to) = entity_range(1, b"filler");
    let all = rows(&reader, Table::Events, (&from, &to), false, usize::MAX);
    assert_eq!(all.len(), 1_499);
    assert!(matches!(
        reader.commit(numbered(3)),
        Err(StoreError::Engine { .. })
    ));
    reader.flush().unwrap();
    drop(reader);
    assert_eq!(state(&read().unwrap()), (Some(2), Some(2)));
}

/// Writes rows of a kilobyte each that do not compress.
fn fill(store: &dyn Store, times: Range<i64>) {
    let mut random = Pcg64Mcg::seed_from_u64(5);
    for time in times {
        let mut value = vec![0; 1_000];
        random.fill(value.as_mut_slice());
        let mut commit = Commit::default();
        commit.put(
            Table::Events,
            event_key(1, b"filler", time, &[0; 16]),
            value,
        );
        store.commit(commit).unwrap();
    }
}

#[test]
fn a_foreign_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(rocksdb::DB::open_default(folder.path()).unwrap());
    let before = fs::read_dir(folder.path()).unwrap().count();
    let error = RocksStore::open(folder.path(), &identity()).err().unwrap();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
}

#[test]
fn a_clean_drop_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.commit(numbered(1)).unwrap();
    drop(store);
    assert_eq!(state(&open(folder.path())), (Some(1), Some(1)));
}

/// A commit whose rows, in three tables, and offset carry one number.
fn numbered(number: i64) -> Commit {
    let mut commit = Commit::default();
    for table in [Table::Scored, Table::Examples] {
        commit.put(table, b"number", time_bytes(number));
    }
    let key = event_key(1, b"card", 0, &[0; 16]);
    commit.put(Table::Events, key, time_bytes(number));
    commit.offset("transactions", 0, number);
    commit
}

/// The number in the rows, which must agree, and the one in the offset.
fn state(store: &dyn Store) -> (Option<i64>, Option<i64>) {
    let number = |table, key: &[u8]| {
        let value = store.get(table, key).unwrap()?;
        crate::time_from_bytes(&value)
    };
    let scored = number(Table::Scored, b"number");
    assert_eq!(scored, number(Table::Examples, b"number"));
    let key = event_key(1, b"card", 0, &[0; 16]);
    assert_eq!(scored, number(Table::Events, &key));
    let offsets: Vec<Offset> = store.offsets().unwrap();
    (scored, offsets.first().map(|offset| offset.next))
}

/// What a power cut would leave: the files as they are now, without what is only in memory.
fn crashed_copy(store: &RocksStore) -> tempfile::TempDir {
    // Files come and go while RocksDB works in the background.
    let options = WaitForCompactOptions::default();
    store.db.wait_for_compact(&options).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(store.db.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn a_crash_goes_back_to_the_last_flush() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let after_crash = || state(&open(crashed_copy(&store).path()));
    store.commit(numbered(1)).unwrap();
    assert_eq!(after_crash(), (None, None));
    store.flush().unwrap();
    assert_eq!(after_crash(), (Some(1), Some(1)));
    store.commit(numbered(2)).unwrap();
    store.commit(numbered(3)).unwrap();
    assert_eq!(state(&store), (Some(3), Some(3)));
    assert_eq!(after_crash(), (Some(1), Some(1)));
    store.flush().unwrap();
    assert_eq!(after_crash(), (Some(3), Some(3)));
}

/// One table fills its buffer, so RocksDB flushes by itself; all tables must go along.
#[test]
fn a_flush_of_its_own_takes_all_tables_along() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for number in 1..=400 {
        store.commit(numbered(number)).unwrap();
        fill(&store, number..number + 1);
    }
    let (rows, offset) = state(&open(crashed_copy(&store).path()));
    assert_eq!(rows, offset);
    assert!(rows > Some(0), "nothing was flushed: {rows:?}");
}

const ENTITIES: [&[u8]; 10] = [
    b"",
    b"\0",
    b"\0\0",
    b"\0\x01",
    b"\0\xFF",
    b"a",
    b"a\0",
    b"a\x80",
    b"ab",
    b"\xFF\xFF",
];
const VIEWS: [u32; 3] = [0, 1, u32::MAX];

fn event(random: &mut Pcg64Mcg) -> Vec<u8> {
    let time = match random.random_range(0..20) {
        0 => i64::MIN,
        1 => i64::MAX,
        _ => random.random_range(-200..200),
    };
    let mut unique = [0; 16];
    unique[15] = random.random_range(0..3);
    event_key(view(random), entity(random), time, &unique)
}

fn view(random: &mut Pcg64Mcg) -> u32 {
    VIEWS[random.random_range(0..VIEWS.len())]
}

fn entity(random: &mut Pcg64Mcg) -> &'static [u8] {
    ENTITIES[random.random_range(0..ENTITIES.len())]
}

fn random_commit(random: &mut Pcg64Mcg) -> Commit {
    let mut commit = Commit::default();
    for _ in 0..random.random_range(1..20) {
        let mut value = vec![0; random.random_range(0..1_500)];
        random.fill(value.as_mut_slice());
        commit.put(Table::Events, event(random), value);
        if random.random_bool(0.2) {
            commit.delete(Table::Events, event(random));
        }
    }
    commit.offset("transactions", random.random_range(0..4), random.random());
    commit
}

fn random_range(random: &mut Pcg64Mcg) -> (Vec<u8>, Vec<u8>) {
    let from = random.random_range(-210..210);
    match random.random_range(0..6) {
        0 => entity_range(view(random), entity(random)),
        1 | 2 => {
            let to = random.random_range(-210..210);
            event_range(view(random), entity(random), from..to)
        }
        3 => {
            // Whole keys as bounds, within one entity more often than not.
            let from = event(random);
            let mut to = event(random);
            if random.random_bool(0.7) {
                to = [&from[..from.len() - 24], &to[to.len() - 24..]].concat();
            }
            (from, to)
        }
        4 => (event(random), Vec::new()),
        _ => (view(random).to_be_bytes().to_vec(), event(random)),
    }
}

#[test]
fn rocks_and_memory_answer_alike() {
    for seed in 0..2 {
        println!("seed {seed}");
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let memory = MemoryStore::new();
        let mut rocks = open(folder.path());
        for _ in 0..200 {
            let commit = random_commit(&mut random);
            memory.commit(commit.clone()).unwrap();
            rocks.commit(commit).unwrap();
            match random.random_range(0..40) {
                0 => {
                    drop(rocks);
                    rocks = open(folder.path());
                }
                1 | 2 => rocks.flush().unwrap(),
                3 => rocks.expire().unwrap(),
                _ => {}
            }
            for _ in 0..8 {
                compare(&mut random, &rocks, &memory);
            }
        }
    }
}

fn compare(random: &mut Pcg64Mcg, rocks: &dyn Store, memory: &dyn Store) {
    let (from, to) = random_range(random);
    let reverse = random.random();
    let limit = [1, 3, usize::MAX][random.random_range(0..3)];
    let scan = |store| rows(store, Table::Events, (&from, &to), reverse, limit);
    assert!(
        scan(rocks) == scan(memory),
        "{from:02x?}..{to:02x?} reverse {reverse} limit {limit}"
    );
    let key = event(random);
    let get = |store: &dyn Store| store.get(Table::Events, &key).unwrap();
    assert!(get(rocks) == get(memory), "{key:02x?}");
    assert_eq!(rocks.offsets().unwrap(), memory.offsets().unwrap());
}

/// Whatever is committed and whenever a moment began: it says what the store said then, from memory or not.
#[test]
fn moments_say_what_the_store_said() {
    type Model = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;
    let folder = tempfile::tempdir().unwrap();
    let settings = StoreSettings {
        // Small enough for entries to leave.
        entity_cache_bytes: 160_000,
        // So that some entities have more.
        entity_cache_rows: 15,
        ..StoreSettings::default()
    };
    let store =
        RocksStore::open_with(&folder.path().join("store"), &identity(), &settings).unwrap();
    let mut random = Pcg64Mcg::seed_from_u64(5);
    let mut model = Model::new();
    let mut moments: Vec<(Box<dyn Scan + '_>, Model)> = Vec::new();
    let entity = |number: u64| vec![b'e', number as u8];
    let mut made_times = 0;
    for step in 0..4_000 {
        match random.random_range(0..10) {
            0 => {
                let mut commit = Commit::default();
                for _ in 0..random.random_range(1..8) {
                    let who = entity(random.random_range(0..30));
                    let unique = [random.random_range(0..2); 16];
                    let key = event_key(1, &who, random.random_range(0..50), &unique);
                    if random.random_bool(0.2) {
                        commit.delete(Table::Events, key);
                    } else {
                        let value = vec![step as u8; random.random_range(0..20)];
                        commit.put(Table::Events, key, value);
                    }
                }
                for (_, key) in &commit.deletes {
                    model.remove(key);
                }
                let puts = commit.puts.iter();
                model.extend(puts.map(|(_, key, value)| (key.clone(), value.clone())));
                store.commit(commit).unwrap();
            }
            1 => {
                if moments.len() == 4 {
                    moments.remove(random.random_range(0..4));
                }
                moments.push((store.moment(), model.clone()));
            }
            _ => {
                let from = random.random_range(-1..50);
                let to = from + random.random_range(1..60);
                let who = entity(random.random_range(0..31));
                let (from, to) = match random.random_bool(0.1) {
                    true => entity_range(1, &who),
                    false => event_range(1, &who, from..to),
                };
                let most = random.random_range(1..60);
                // Some entities are asked about all the time, so that what is made of their rows is kept, and changes.
                let who = entity(random.random_range(0..3));
                let (oldest, newest) = match random.random_bool(0.5) {
                    true => (10, i64::MAX),
                    false => (
                        10 * random.random_range(0..3),
                        10 * random.random_range(3..6),
                    ),
                };
                let (since, end) = event_range(1, &who, oldest..newest);
                let fresh = (store.moment(), model.clone());
                for (moment, model) in moments.iter().chain([&fresh]) {
                    let rows = rows(&**moment, Table::Events, (&from, &to), false, most);
                    let expected = model.range(from.clone()..to.clone()).take(most);
                    let expected: Vec<_> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
                    assert_eq!(rows, expected, "step {step}");
                    let made = moment.made(Table::Events, &since, &end, &mut |rows| {
                        let rows = rows.map(|(end, value)| (end.to_vec(), value.to_vec()));
                        Some(Memo {
                            value: Arc::new(rows.collect::<Vec<_>>()),
                            bytes: Arc::new(AtomicUsize::new(100)),
                        })
                    });
                    let Some(Memo { value: made, .. }) = made.unwrap() else {
                        continue;
                    };
                    made_times += 1;
                    let made = made.downcast::<Vec<(Vec<u8>, Vec<u8>)>>().unwrap();
                    let of_key = |(key, value): (&Vec<u8>, &Vec<u8>)| {
                        (key[key.len() - 24..].to_vec(), value.clone())
                    };
                    let expected = model.range(since.clone()..end.clone()).map(of_key);
                    let (from, to) = (&since[since.len() - 8..], &end[end.len() - 8..]);
                    let is_of_range = |key: &[u8]| from <= key && key < to;
                    let of_range = made.iter().filter(|(key, _)| is_of_range(key));
                    assert!(of_range.cloned().eq(expected), "step {step}");
                }
            }
        }
    }
    assert!(made_times > 100, "{made_times}");
}
