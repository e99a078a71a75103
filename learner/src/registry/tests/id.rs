//! What tells a registry from others: one id for all processes, and for as long as it lies there.

use super::*;

#[test]
fn all_processes_find_the_same_id() {
    for place in Place::all() {
        let found: Vec<String> = std::thread::scope(|scope| {
            let start = |number: usize| {
                scope.spawn({
                    let place = &place;
                    move || (place.open)().id(&format!("id{number}")).unwrap()
                })
            };
            let threads: Vec<_> = (0..6).map(start).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert!(found[0].starts_with("id"), "{found:?}");
        assert!(found.iter().all(|id| *id == found[0]), "{found:?}");
        // Versions and decisions that come after it change nothing.
        let registry = (place.open)();
        publish(&registry);
        promote(&registry, 1, "first").unwrap();
        assert_eq!((place.open)().id("later").unwrap(), found[0]);
        check_whole(&registry);
    }
}

#[test]
fn a_registry_of_an_older_release_gets_an_id_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Registry::open(folder.path()).unwrap();
    publish(&open());
    promote(&open(), 1, "first").unwrap();
    let file = folder.path().join("id.json");
    assert!(!file.exists());
    assert_eq!(open().id("a1").unwrap(), "a1");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"id\":\"a1\"}");
    for bad in ["", "{", "{\"id\":\"\"}", "{\"id\":\"a' or 'b\"}"] {
        std::fs::write(&file, bad).unwrap();
        match open().id("b2") {
            Err(LearnerError::Damaged { file: named, .. }) => assert_eq!(named, file),
            other => panic!("{bad}: {other:?}"),
        }
    }
}
