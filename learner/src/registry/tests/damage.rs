//! Files that are not what was written: they are named, and take down no more than their own version.

use super::*;

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
