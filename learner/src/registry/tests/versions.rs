//! Versions are kept whole, each under a number of its own, and removed.

use super::*;

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
fn manifests_of_versions_that_stay_are_not_read_for_those_that_go() {
    for place in Place::all() {
        let registry = (place.open)();
        for version in 1..=6 {
            publish(&registry);
            promote(&registry, version, "next").unwrap();
        }
        // One that was not noted, as its process has ended.
        publish(&registry);
        let other = (place.open)();
        assert_eq!(other.retain(3, &[2], 7).unwrap(), [1, 3, 4]);
        // 2 is needed and old, and 5 is what a rollback goes back to.
        let read: Vec<u64> = lock(&other.known).keys().copied().collect();
        assert_eq!(read, [2, 5, 7]);
        assert_eq!((place.open)().versions().unwrap(), [2, 5, 6, 7]);
        check_whole(&other);
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
