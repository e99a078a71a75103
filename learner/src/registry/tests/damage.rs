//! Files that are not what was written: they are named, and take down no more than their own version.

use super::*;
use crate::gate::{GateSettings, Paired};

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
fn a_damaged_version_that_was_noted_is_neither_removed_nor_gone_back_to() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Registry::open(folder.path()).unwrap();
    for version in 1..=4 {
        publish(&open());
        promote(&open(), version, "next").unwrap();
    }
    let manifest = |version: u64| folder.path().join(path(version, MANIFEST));
    std::fs::write(manifest(3), "{").unwrap();
    assert_eq!(open().retain(1, &[], 0).unwrap(), [1]);
    assert_eq!(open().versions().unwrap(), [2, 4]);
    assert!(manifest(3).exists());
    // Of one whose manifest is gone, nothing is left in the end.
    std::fs::remove_file(manifest(3)).unwrap();
    assert_eq!(open().retain(1, &[], 0).unwrap(), [0; 0]);
    let files = open().objects.list("v000003").unwrap().files;
    assert_eq!(files, [MANIFEST]);
    assert_eq!(open().versions().unwrap(), [2, 4]);
}

#[test]
fn numbers_that_are_none_keep_nobody_from_reading() {
    let mut paired = Paired::default();
    paired.extend(&[0.0, 1.0], &[f32::NAN, 1.0], &[0.0, 1.0]);
    let found = paired.compare(&GateSettings::default(), 0.95, 1);
    assert!(!found.is_finite());
    let (manifest, checkpoint) = small_version();
    let broken = Metrics {
        log_loss: f64::INFINITY,
        ..manifest.after
    };
    let manifest = Manifest {
        before: Some(broken),
        ..manifest
    };
    for place in Place::all() {
        let registry = (place.open)();
        registry.publish(manifest.clone(), &checkpoint).unwrap();
        let rejected = note(1, State::Rejected, "it gave a score that is not a number");
        let mut tested = rejected.clone();
        if let Event::Version { comparison, .. } = &mut tested.event {
            *comparison = Some(Box::new(found));
        }
        registry.note(&tested).unwrap();
        // The reason is all that is kept, here and for others.
        for reader in [registry, (place.open)()] {
            let entries = reader.journal_entries().unwrap();
            assert_eq!(entries, std::slice::from_ref(&rejected));
            assert_eq!(reader.manifest(1).unwrap().before, None);
        }
    }
}

#[test]
fn what_an_older_release_wrote_of_numbers_that_are_none_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Registry::open(folder.path()).unwrap();
    publish(&open());
    promote(&open(), 1, "first").unwrap();
    let line = r#"{"number":1,"champion":1,"challenger":null,"notes":[{"at_us":5,"event":"version","version":1,
        "state":"rejected","comparison":{"rows":2,"frauds":1,"champion_log_loss":0.5,
        "log_loss":{"low":null,"mean":null,"high":null},"average_precision":{"low":null,"mean":null,"high":null},
        "champion_alerts":0.0,"candidate_alerts":0.5},"reason":"it gave a score that is not a number"}]}"#;
    std::fs::write(folder.path().join("log/000000001.json"), line).unwrap();
    let file = folder.path().join("v000001").join(MANIFEST);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    manifest["before"] = manifest["after"].clone();
    manifest["before"]["log_loss"] = serde_json::Value::Null;
    std::fs::write(&file, manifest.to_string()).unwrap();

    let registry = open();
    let journal = registry.journal_entries().unwrap();
    assert_eq!(journal.len(), 2);
    match &journal[1].event {
        Event::Version {
            comparison: Some(found),
            ..
        } => assert!(found.log_loss.mean.is_nan() && found.champion_log_loss == 0.5),
        other => panic!("{other:?}"),
    }
    assert!(
        registry
            .load(1)
            .unwrap()
            .0
            .before
            .unwrap()
            .log_loss
            .is_nan()
    );
    // It goes on.
    promote(&registry, 1, "again").unwrap();
    assert_eq!(open().journal_entries().unwrap().len(), 3);
}
