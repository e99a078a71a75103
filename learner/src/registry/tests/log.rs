//! The log: long ones, sleepers, gaps, and what an older release has left.

use super::*;

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
fn who_follows_the_log_notices_that_a_file_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let objects = Objects::folder(folder.path(), false).unwrap();
        Registry::with_segments(objects, 4 * FEW)
    };
    let file = |number: u64| folder.path().join(format!("log/{number:09}.json"));
    let registry = open();
    publish(&registry);
    publish(&registry);
    promote(&registry, 1, "first").unwrap();
    let follows = open();
    follows.aliases().unwrap();
    for number in 1..=5 {
        promote(&registry, 1 + number % 2, &number.to_string()).unwrap();
    }
    let newest = registry.aliases().unwrap();
    let lacking = |outcome: Result<Aliases, LearnerError>| match outcome {
        Err(LearnerError::Damaged {
            file: named,
            reason,
        }) => {
            assert_eq!(named, file(1));
            assert!(reason.contains("goes on to entry 5"), "{reason}");
        }
        other => panic!("{other:?}"),
    };
    let first = std::fs::read(file(1)).unwrap();
    std::fs::remove_file(file(1)).unwrap();
    // At once, and as long as it lacks.
    lacking(follows.aliases());
    lacking(follows.aliases());
    // Of a longer gap, after some time.
    let second = std::fs::read(file(2)).unwrap();
    std::fs::remove_file(file(2)).unwrap();
    let mut outcomes = (0..200).map(|_| follows.aliases());
    lacking(outcomes.find(Result::is_err).unwrap());
    std::fs::write(file(2), second).unwrap();
    std::fs::write(file(1), first).unwrap();
    assert_eq!(follows.aliases().unwrap(), newest);
    // A quiet log has no gap.
    assert!((0..200).all(|_| follows.aliases().unwrap() == newest));
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
        let (first, last, check) = (3, 8, None);
        let refused = Event::LabelsRefused { first, last, check };
        assert_eq!(entries[1].event, refused);
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
