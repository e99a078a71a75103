//! One suite for every store that needs no network, races of many writers, and an end between any two requests.

#![allow(clippy::unwrap_used)]

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::tests::small_version;

/// Few, so that a short test seals many segments.
const FEW: u64 = 4;

/// A store, and how another process would open it.
struct Place {
    open: Box<dyn Fn() -> Registry + Send + Sync>,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn memory() -> Self {
        Self::of(Arc::new(InMemory::new()))
    }

    fn of(store: Arc<dyn ObjectStore>) -> Self {
        let open = move || {
            let objects = Objects::at_hand(Arc::clone(&store), "memory:");
            Registry::with_segments(objects, FEW)
        };
        Self {
            open: Box::new(open),
            _folder: None,
        }
    }

    /// Below a prefix, with other things beside it.
    fn prefix() -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let open = move || {
            let drive = Arc::new(|request: Request| futures::executor::block_on(request));
            let root = ObjectPath::from("team/models");
            let objects = Objects::new(Arc::clone(&store), root, "memory:team", drive);
            objects_beside(&store);
            Registry::with_segments(objects, FEW)
        };
        Self {
            open: Box::new(open),
            _folder: None,
        }
    }

    fn folder(durable: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data/models");
        let open = move || {
            let objects = Objects::folder(&root, durable).unwrap();
            Registry::with_segments(objects, FEW)
        };
        Self {
            open: Box::new(open),
            _folder: Some(folder),
        }
    }

    fn all() -> [Self; 4] {
        [
            Self::memory(),
            Self::prefix(),
            Self::folder(true),
            Self::folder(false),
        ]
    }
}

fn objects_beside(store: &Arc<dyn ObjectStore>) {
    for path in ["v000009/manifest.json", "team/log/000000000.json"] {
        let path = ObjectPath::from(path);
        let write = store.put_opts(&path, "not ours".into(), PutOptions::default());
        futures::executor::block_on(write).unwrap();
    }
}

fn publish(registry: &Registry) -> u64 {
    let (manifest, checkpoint) = small_version();
    registry.publish(manifest, &checkpoint).unwrap()
}

fn note(version: u64, state: State, reason: &str) -> Entry {
    Entry {
        at_us: 5,
        event: Event::Version {
            version,
            state,
            comparison: None,
        },
        reason: Some(reason.to_owned()),
    }
}

/// All of the traffic for a version, noted with a reason.
fn promote(registry: &Registry, version: u64, reason: &str) -> Result<Aliases, LearnerError> {
    registry.decide(|decided| {
        let before = decided.aliases.champion.filter(|it| *it != version);
        let replaced = before.map(|before| note(before, State::Replaced, reason));
        let mut notes: Vec<Entry> = replaced.into_iter().collect();
        notes.push(note(version, State::Champion, reason));
        let aliases = Aliases {
            champion: Some(version),
            challenger: None,
        };
        Ok(Some(Choice { aliases, notes }))
    })
}

#[test]
fn every_store_keeps_versions_and_decisions() {
    for place in Place::all() {
        let registry = (place.open)();
        assert_eq!(registry.aliases().unwrap(), Aliases::default());
        assert!(registry.list().unwrap().is_empty());
        let (manifest, checkpoint) = small_version();
        for version in 1..=5 {
            assert_eq!(publish(&registry), version);
        }
        // Another process, which has seen nothing of that.
        let other = (place.open)();
        let (loaded, found) = other.load(3).unwrap();
        assert_eq!(found, checkpoint);
        let named: Vec<&str> = loaded.sha256.keys().map(String::as_str).collect();
        assert_eq!(
            named,
            [
                "encoder.json",
                "optimizer.safetensors",
                "weights.safetensors"
            ]
        );
        let expected = Manifest {
            version: 3,
            sha256: loaded.sha256.clone(),
            ..manifest
        };
        assert_eq!(loaded, expected);
        assert_eq!(other.list().unwrap()[2], expected);

        promote(&registry, 2, "first").unwrap();
        let canary = Aliases {
            champion: Some(2),
            challenger: Some((3, 10)),
        };
        let choose = |_: &Decided| {
            Ok::<_, LearnerError>(Some(Choice {
                aliases: canary,
                notes: vec![note(3, State::Canary { percent: 10 }, "a share")],
            }))
        };
        assert_eq!(other.decide(choose).unwrap(), canary);
        assert_eq!(registry.aliases().unwrap(), canary);
        assert_eq!(
            registry.state(3).unwrap(),
            Some((State::Canary { percent: 10 }, Some("a share".to_owned())))
        );
        for missing in [0, 6] {
            let refused = promote(&registry, missing, "no such version");
            assert!(
                matches!(refused, Err(LearnerError::NoSuchVersion { version, .. }) if version == missing)
            );
        }
        assert_eq!(other.aliases().unwrap(), canary);
        assert_eq!(other.journal_after(1).unwrap().len(), 1);
    }
}

#[test]
fn a_long_log_is_sealed_and_read_by_all() {
    for place in Place::all() {
        let registry = (place.open)();
        publish(&registry);
        promote(&registry, 1, "0").unwrap();
        let (follows, sleeps) = ((place.open)(), (place.open)());
        sleeps.aliases().unwrap();
        let mut expected = registry.journal_entries().unwrap();
        for number in 1..=30 {
            let entry = note(1, State::Champion, &number.to_string());
            registry.note(&entry).unwrap();
            expected.push(entry);
            assert_eq!(follows.journal_entries().unwrap(), expected);
        }
        let opened = (place.open)();
        assert_eq!(opened.journal_entries().unwrap(), expected);
        let files = registry.objects.list("log").unwrap().files;
        let single = files.iter().filter(|name| name.ends_with(".json")).count();
        // 31 entries: 7 segments, the entries of the newest of them, and 3 on.
        assert_eq!((files.len(), single), (7 + 4 + 3, 4 + 3), "{files:?}");
        // One that slept through all of it is not misled by the gap, neither reading nor writing.
        let entry = note(1, State::Champion, "awake");
        sleeps.note(&entry).unwrap();
        expected.push(entry);
        assert_eq!(sleeps.journal_entries().unwrap(), expected);
        assert_eq!(registry.journal_entries().unwrap(), expected);
    }
}

#[test]
fn a_writer_that_slept_between_reading_and_writing_is_found_out() {
    let place = Place::memory();
    let (registry, sleeps) = ((place.open)(), (place.open)());
    publish(&registry);
    let mut nights = 0;
    let entry = note(1, State::Champion, "late");
    sleeps
        .decide(|decided| {
            // The first time, the others go on while this one decides.
            if nights == 0 {
                for number in 0..3 * FEW {
                    let early = note(1, State::Champion, &number.to_string());
                    registry.note(&early).unwrap();
                }
            }
            nights += 1;
            Ok::<_, LearnerError>(Some(Choice {
                aliases: decided.aliases,
                notes: vec![entry.clone()],
            }))
        })
        .unwrap();
    assert_eq!(nights, 2);
    for reader in [registry, sleeps, (place.open)()] {
        let journal = reader.journal_entries().unwrap();
        assert_eq!(journal.len() as u64, 3 * FEW + 1);
        assert_eq!(journal.last(), Some(&entry));
    }
}

#[test]
fn retention_keeps_what_is_needed_and_gives_no_number_twice() {
    for place in Place::all() {
        let registry = (place.open)();
        for _ in 1..=6 {
            publish(&registry);
        }
        promote(&registry, 1, "first").unwrap();
        promote(&registry, 2, "second").unwrap();
        promote(&registry, 4, "third").unwrap();
        // 4 serves, 2 is what a rollback goes back to, 3 is needed; 1 and 5 are not.
        assert_eq!(registry.retain(1, &[3], 7).unwrap(), [1, 5]);
        let other = (place.open)();
        assert_eq!(other.versions().unwrap(), [2, 3, 4, 6]);
        for gone in [1, 5] {
            assert!(matches!(
                other.load(gone),
                Err(LearnerError::NoSuchVersion { .. })
            ));
            assert!(promote(&other, gone, "gone").is_err());
        }
        assert_eq!(other.retain(0, &[], 8).unwrap(), [3]);
        assert_eq!(publish(&other), 7);
        let folders = other.objects.list("").unwrap().folders;
        assert_eq!(folders, ["log", "v000002", "v000004", "v000006", "v000007"]);
        let mut journal = other.journal_entries().unwrap();
        assert_eq!(
            journal.pop().map(|entry| (entry.at_us, entry.event)),
            Some((8, Event::Removed { versions: vec![3] }))
        );
    }
}

#[test]
fn a_slow_writer_whose_number_was_taken_publishes_under_another() {
    let (manifest, checkpoint) = small_version();
    let files = checkpoint.to_files().unwrap();
    for place in Place::all() {
        let registry = (place.open)();
        let slow = (place.open)();
        // It has got as far as the encoder, its claim to version 1.
        slow.objects
            .create(&path(1, files[0].0), &files[0].1)
            .unwrap();
        assert_eq!(publish(&registry), 2);
        assert_eq!(publish(&registry), 3);
        assert_eq!(registry.versions().unwrap(), [2, 3]);
        promote(&registry, 2, "the first that is whole").unwrap();
        assert!(registry.retain(2, &[], 1).unwrap().is_empty());
        // It wakes up, and writes on.
        let first = Manifest {
            version: 1,
            ..manifest.clone()
        };
        for (name, bytes) in &files {
            slow.objects.create_or_find(&path(1, name), bytes).unwrap();
        }
        let text = serde_json::to_vec_pretty(&first).unwrap();
        assert!(
            !slow
                .objects
                .create_or_find(&path(1, MANIFEST), &text)
                .unwrap()
        );
        // Another process finds what it left behind.
        let other = (place.open)();
        assert_eq!(other.versions().unwrap(), [2, 3]);
        other.retain(2, &[], 1).unwrap();
        assert_eq!(other.objects.list("v000001").unwrap().files, [MANIFEST]);
        assert_eq!(publish(&slow), 4);
    }
}

#[test]
fn damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Registry::open(folder.path()).unwrap();
    publish(&open());
    let original = folder.path().join("v000001");
    for name in Checkpoint::FILES.into_iter().chain([MANIFEST]) {
        let file = original.join(name);
        let whole = std::fs::read(&file).unwrap();
        for bad in [&whole[..whole.len() / 2], b"", b"{}"] {
            std::fs::write(&file, bad).unwrap();
            match open().load(1) {
                Err(LearnerError::Damaged { file: named, .. }) => assert_eq!(named, file),
                other => panic!("{name}: {other:?}"),
            }
        }
        if name != MANIFEST {
            std::fs::remove_file(&file).unwrap();
            match open().load(1) {
                Err(LearnerError::Damaged { file: named, .. }) => assert_eq!(named, file),
                other => panic!("{name}: {other:?}"),
            }
        }
        std::fs::write(&file, whole).unwrap();
        open().load(1).unwrap();
    }
    promote(&open(), 1, "it is whole").unwrap();
    let entry = folder.path().join("log/000000000.json");
    std::fs::write(&entry, "{\"number\":1}").unwrap();
    assert!(matches!(open().champion(), Err(LearnerError::Damaged { file, .. }) if file == entry));
    let format = folder.path().join("format.json");
    std::fs::write(&format, "{\"format\":9}").unwrap();
    let newer = open().champion().unwrap_err().to_string();
    assert!(newer.contains("newer release"), "{newer}");
}

#[test]
fn a_version_that_is_not_what_was_written_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Registry::open(folder.path()).unwrap();
    publish(&open());
    let file = |name: &str| folder.path().join("v000001").join(name);
    let said = |name: &str| match open().load(1) {
        Err(LearnerError::Damaged {
            file: named,
            reason,
        }) => {
            assert_eq!(named, file(name));
            reason
        }
        other => panic!("{other:?}"),
    };
    let manifest = std::fs::read(file(MANIFEST)).unwrap();
    for name in ["weights.safetensors", "optimizer.safetensors"] {
        let whole = std::fs::read(file(name)).unwrap();
        // One bit of the last number.
        let mut turned = whole.clone();
        *turned.last_mut().unwrap() ^= 1;
        std::fs::write(file(name), turned).unwrap();
        assert!(said(name).contains("SHA-256"), "{name}");

        // A manifest of an older release has no sums; a number that is none is found out all the same.
        let mut older: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        older.as_object_mut().unwrap().remove("sha256").unwrap();
        std::fs::write(file(MANIFEST), older.to_string()).unwrap();
        let mut broken = whole.clone();
        let last = broken.len() - size_of::<f32>();
        broken[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(file(name), broken).unwrap();
        assert!(said(name).contains("not finite"), "{name}");

        std::fs::write(file(name), whole).unwrap();
        open().load(1).unwrap();
        std::fs::write(file(MANIFEST), &manifest).unwrap();
        open().load(1).unwrap();
    }
}

#[test]
fn a_file_that_lacks_in_the_log_is_not_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let objects = Objects::folder(folder.path(), false).unwrap();
        Registry::with_segments(objects, FEW)
    };
    let registry = open();
    publish(&registry);
    publish(&registry);
    promote(&registry, 1, "first").unwrap();
    // One that has read as far as that.
    let follows = open();
    follows.aliases().unwrap();
    for number in 1..=2 * FEW + 2 {
        promote(&registry, 1 + number % 2, &number.to_string()).unwrap();
    }
    // Entries 0 to 10: the first segment without its entries, the second with them, and three on.
    let newest = registry.aliases().unwrap();
    for (name, lacks) in [
        ("000000000-000000003.jsonl", "000000000-000000003.jsonl"),
        ("000000008.json", "000000008.json"),
        ("000000009.json", "000000009.json"),
    ] {
        let file = folder.path().join("log").join(name);
        let whole = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let check = |outcome: Result<Aliases, LearnerError>| match outcome {
            Err(LearnerError::Damaged {
                file: named,
                reason,
            }) => {
                assert_eq!(named, folder.path().join("log").join(lacks));
                assert!(reason.contains("goes on to entry 10"), "{reason}");
            }
            other => panic!("{name}: {other:?}"),
        };
        check(open().aliases());
        check(promote(&open(), 2, "after the gap"));
        // It would write under the number of what lacks.
        check(promote(&follows, 2, "after the gap"));
        std::fs::write(&file, whole).unwrap();
        assert_eq!(open().aliases().unwrap(), newest);
    }
    assert_eq!(promote(&follows, 2, "whole").unwrap().champion, Some(2));
}

#[test]
fn a_damaged_manifest_takes_down_its_own_version_alone() {
    for bad in ["", "{\n", "{\"version\":9}"] {
        let folder = tempfile::tempdir().unwrap();
        let open = || Registry::open(folder.path()).unwrap();
        for _ in 1..=4 {
            publish(&open());
        }
        promote(&open(), 1, "first").unwrap();
        promote(&open(), 4, "second").unwrap();
        let file = folder.path().join("v000002").join(MANIFEST);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, bad).unwrap();
        let registry = open();
        assert_eq!(registry.versions().unwrap(), [1, 3, 4]);
        assert_eq!(registry.list().unwrap().len(), 3);
        for needed in [
            registry.manifest(2).err(),
            registry.load(2).err(),
            promote(&registry, 2, "damaged").err(),
        ] {
            match needed {
                Some(LearnerError::Damaged { file: named, .. }) => assert_eq!(named, file),
                other => panic!("{other:?}"),
            }
        }
        // 1 is what a rollback goes back to; what is damaged is not removed, and its number not given again.
        assert_eq!(registry.retain(1, &[], 0).unwrap(), [3]);
        promote(&registry, 1, "back").unwrap();
        assert_eq!(publish(&registry), 5);
        // A person has put it back.
        std::fs::write(&file, whole).unwrap();
        assert_eq!(registry.versions().unwrap(), [1, 2, 4, 5]);
        registry.load(2).unwrap();
    }
}

#[test]
fn the_folder_of_an_older_release_opens() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Registry::open(folder.path()).unwrap();
    publish(&open());
    publish(&open());
    std::fs::remove_file(folder.path().join("format.json")).unwrap();
    // As release 0.1.0 wrote them; a crash has cut the last line.
    let journal = "\
        {\"at_us\":5,\"event\":\"version\",\"version\":1,\"state\":\"champion\"}\n\
        {\"at_us\":6,\"event\":\"labels_refused\",\"first\":3,\"last\":8,\"reason\":\"too many frauds\"}\n\
        {\"at_us\":7,\"event\":\"version\",\"version\":2,\"state\":{\"canary\":{\"percent\":10}}}\n\
        {\"at_us\":8,\"event\":\"ver";
    for (name, text) in [
        ("champion", "1\n"),
        ("challenger", "2 10\n"),
        ("journal.jsonl", journal),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::create_dir(folder.path().join(".draft-v000003")).unwrap();
    let imported = Aliases {
        champion: Some(1),
        challenger: Some((2, 10)),
    };
    for _ in 0..2 {
        let registry = open();
        assert_eq!(registry.aliases().unwrap(), imported);
        let entries = registry.journal_entries().unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1].event, Event::LabelsRefused { first: 3, last: 8 });
        assert_eq!(
            registry.state(2).unwrap().unwrap().0,
            State::Canary { percent: 10 }
        );
        assert!(!folder.path().join("champion").exists());
    }
    assert_eq!(publish(&open()), 3);

    let broken = tempfile::tempdir().unwrap();
    std::fs::write(broken.path().join("champion"), "two").unwrap();
    let registry = Registry::open(broken.path()).unwrap();
    assert!(matches!(
        registry.champion(),
        Err(LearnerError::Damaged { .. })
    ));
}

/// What one of many writers did.
#[derive(Default)]
struct Done {
    published: Vec<u64>,
    reasons: Vec<String>,
}

const WRITERS: usize = 6;
const ROUNDS: usize = 12;

/// Publishes, promotes, moves traffic and removes as fast as it can.
fn race(registry: &Registry, writer: usize) -> Done {
    let mut done = Done::default();
    for round in 0..ROUNDS {
        let version = publish(registry);
        done.published.push(version);
        let reason = format!("{writer}/{round}");
        let aliases = |decided: &Decided| match round % 3 {
            0 => Aliases {
                champion: Some(version),
                challenger: None,
            },
            1 => Aliases {
                challenger: Some((version, writer as u8)),
                ..decided.aliases
            },
            _ => decided.aliases,
        };
        let outcome = registry.decide(|decided| {
            Ok::<_, LearnerError>(Some(Choice {
                aliases: aliases(decided),
                notes: vec![note(version, State::Champion, &reason)],
            }))
        });
        match outcome {
            Ok(_) => done.reasons.push(reason),
            // Another writer has removed it already.
            Err(LearnerError::NoSuchVersion { version: of, .. }) => assert_eq!(of, version),
            Err(error) => panic!("{error}"),
        }
        if round % 4 == 3 {
            registry.retain(5, &[], 0).unwrap();
        }
    }
    done
}

fn check_race(place: &Place, done: Vec<Done>) {
    let registry = (place.open)();
    let mut published: Vec<u64> = done.iter().flat_map(|it| it.published.clone()).collect();
    published.sort_unstable();
    published.dedup();
    assert_eq!(
        published.len(),
        WRITERS * ROUNDS,
        "a number was given twice"
    );
    let mut reasons: Vec<String> = done.into_iter().flat_map(|it| it.reasons).collect();
    reasons.sort_unstable();
    let journal = registry.journal_entries().unwrap();
    let mut noted: Vec<String> = journal.into_iter().filter_map(|it| it.reason).collect();
    noted.sort_unstable();
    assert_eq!(noted, reasons, "a decision was lost, or kept twice");
    check_whole(&registry);
}

/// Whatever has happened: champion and challenger are there, and every version loads.
fn check_whole(registry: &Registry) {
    let versions = registry.versions().unwrap();
    let Aliases {
        champion,
        challenger,
    } = registry.aliases().unwrap();
    for version in champion
        .into_iter()
        .chain(challenger.map(|(version, _)| version))
    {
        assert!(
            versions.contains(&version),
            "{version} is not in {versions:?}"
        );
    }
    let (_, checkpoint) = small_version();
    for version in versions {
        assert_eq!(registry.load(version).unwrap().1, checkpoint);
    }
}

#[test]
fn many_writers_at_once_lose_nothing() {
    for place in Place::all() {
        let done = std::thread::scope(|scope| {
            let start = |writer| {
                scope.spawn({
                    let place = &place;
                    move || race(&(place.open)(), writer)
                })
            };
            let writers: Vec<_> = (0..WRITERS).map(start).collect();
            writers.into_iter().map(|it| it.join().unwrap()).collect()
        });
        check_race(&place, done);
    }
}

const RACE_FOLDER: &str = "MILLRACE_RACE_FOLDER";

/// Not a test by itself: what each process of the race below runs.
#[test]
#[ignore = "is run by many_processes_at_once_lose_nothing"]
fn one_process_of_the_race() {
    let folder = std::env::var_os(RACE_FOLDER).unwrap();
    let objects = Objects::folder(folder.as_ref(), true).unwrap();
    let writer = std::process::id() as usize;
    let done = race(&Registry::with_segments(objects, FEW), writer);
    let line = |kind: &str, value: String| println!("\nrace {kind} {value}");
    done.published
        .iter()
        .for_each(|it| line("published", it.to_string()));
    done.reasons
        .iter()
        .for_each(|it| line("reason", it.clone()));
}

#[test]
fn many_processes_at_once_lose_nothing() {
    let place = Place::folder(true);
    let root = place._folder.as_ref().unwrap().path().join("data/models");
    let start = |_| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "registry::tests::one_process_of_the_race",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(RACE_FOLDER, &root)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..WRITERS).map(start).collect();
    let mut done = Vec::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        let mut of_process = Done::default();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["race", "published", version] => {
                    of_process.published.push(version.parse().unwrap())
                }
                ["race", "reason", reason] => of_process.reasons.push(reason.to_owned()),
                _ => {}
            }
        }
        done.push(of_process);
    }
    check_race(&place, done);
}

/// How a process's requests come to an end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ends {
    /// One is not carried out, and none after it.
    Before,
    /// One is carried out, and neither its answer comes nor any after it.
    After,
    /// One is carried out, and its answer does not come; the next ones are as ever.
    Once,
    /// All are answered, by a store that knows of no conditions.
    Never,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Answered,
    Unanswered,
    Lost,
}

/// A store that answers so many requests before something happens.
#[derive(Debug)]
struct Mortal {
    store: Arc<dyn ObjectStore>,
    requests: AtomicUsize,
    most: usize,
    ends: Ends,
}

impl Mortal {
    fn next(&self) -> Fate {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        match (number.cmp(&self.most), self.ends) {
            (std::cmp::Ordering::Less, _) | (std::cmp::Ordering::Greater, Ends::Once) => {
                Fate::Answered
            }
            (std::cmp::Ordering::Equal, Ends::After | Ends::Once) => Fate::Unanswered,
            _ => Fate::Lost,
        }
    }

    /// The answer, if it is the fate of the newest request to get one.
    fn answered<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        let newest = self.requests.load(Ordering::Relaxed) - 1;
        match newest == self.most {
            true => Err(Self::ended()),
            false => answer,
        }
    }

    fn ended() -> Error {
        Error::Generic {
            store: "mortal",
            source: "the process has ended".into(),
        }
    }
}

impl fmt::Display for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mortal({})", self.store)
    }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult, Error> {
        let answer = match self.next() {
            Fate::Lost => return Err(Self::ended()),
            _ if self.ends == Ends::Never => {
                let anyhow = PutOptions::default();
                self.store.put_opts(location, payload, anyhow).await
            }
            _ if options.mode == PutMode::Create => {
                self.store.put_opts(location, payload, options).await
            }
            _ => panic!("{location} would be overwritten"),
        };
        self.answered(answer)
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>, Error> {
        panic!("{location} would be written in parts");
    }

    async fn get_opts(
        &self,
        location: &ObjectPath,
        options: GetOptions,
    ) -> Result<GetResult, Error> {
        match self.next() {
            Fate::Answered => self.store.get_opts(location, options).await,
            _ => Err(Self::ended()),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath, Error>>,
    ) -> BoxStream<'static, Result<ObjectPath, Error>> {
        match self.next() {
            Fate::Answered => self.store.delete_stream(locations),
            Fate::Lost => stream::iter([Err(Self::ended())]).boxed(),
            Fate::Unanswered => {
                let removed = self.store.delete_stream(locations);
                removed.map(|_| Err(Self::ended())).boxed()
            }
        }
    }

    fn list(&self, _: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta, Error>> {
        panic!("everything would be listed");
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult, Error> {
        match self.next() {
            Fate::Answered => self.store.list_with_delimiter(prefix).await,
            _ => Err(Self::ended()),
        }
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        _: &ObjectPath,
        _: CopyOptions,
    ) -> Result<(), Error> {
        panic!("{from} would be copied");
    }
}

/// Everything that a process does with a registry, in a row; `kept` gets the versions whose promotion it was told of.
fn life(registry: &Registry, kept: &mut Vec<u64>) -> Result<(), LearnerError> {
    let (manifest, checkpoint) = small_version();
    for round in 0..4 {
        let version = registry.publish(manifest.clone(), &checkpoint)?;
        registry.note(&note(version, State::Shadow, &round.to_string()))?;
        promote(registry, version, &round.to_string())?;
        kept.push(version);
        registry.retain(1, &[], round)?;
    }
    Ok(())
}

/// A process that lives again after each end: every end is between other requests than the one before.
#[test]
fn an_end_between_any_two_requests_leaves_all_whole() {
    for ends in [Ends::Before, Ends::After, Ends::Once] {
        let mut ended = 0;
        for most in 0.. {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let place = Place::of(Arc::clone(&store));
            let mortal = Arc::new(Mortal {
                store,
                requests: AtomicUsize::new(0),
                most,
                ends,
            });
            let mut kept = Vec::new();
            let of_mortal = Place::of(Arc::clone(&mortal) as _);
            let outcome = life(&(of_mortal.open)(), &mut kept);
            let registry = (place.open)();
            check_whole(&registry);
            // What it was told is so; what it was not told may be.
            let champion = registry.champion().unwrap();
            let last = kept.last().copied();
            let is_later = registry
                .journal_entries()
                .unwrap()
                .iter()
                .rev()
                .find_map(|entry| match entry.event {
                    Event::Version {
                        version,
                        state: State::Champion,
                        ..
                    } => Some(version),
                    _ => None,
                });
            assert_eq!(champion, is_later);
            assert!(
                champion >= last,
                "{champion:?} after {last:?} at {most}, {ends:?}"
            );
            let mut kept = Vec::new();
            life(&registry, &mut kept).unwrap();
            life(&(place.open)(), &mut kept).unwrap();
            check_whole(&registry);
            assert!(kept.is_sorted_by(|a, b| a < b) && Some(&kept[0]) > champion.as_ref());
            // The champion, and the one before it.
            assert_eq!(registry.versions().unwrap(), kept[6..]);
            if mortal.requests.load(Ordering::Relaxed) <= most {
                outcome.unwrap();
                break;
            }
            ended += 1;
        }
        assert!(
            ended > 100,
            "{ended} requests are too few for four versions"
        );
    }
}

#[test]
fn a_store_that_overwrites_is_refused() {
    let forgetful = Mortal {
        store: Arc::new(InMemory::new()),
        requests: AtomicUsize::new(0),
        most: usize::MAX,
        ends: Ends::Never,
    };
    let registry = (Place::of(Arc::new(forgetful)).open)();
    let (manifest, checkpoint) = small_version();
    let refused = registry.publish(manifest, &checkpoint);
    assert!(
        matches!(refused, Err(LearnerError::Unsafe { .. })),
        "{refused:?}"
    );
}
