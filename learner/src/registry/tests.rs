//! One suite for every store that needs no network: what is kept (`versions.rs`), the log (`log.rs`), damaged files
//! (`damage.rs`), races of many writers (`races.rs`), an end between any two requests (`ends.rs`), and what tells a
//! registry from others (`id.rs`).

#![allow(clippy::unwrap_used)]

use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, PutOptions};

use super::*;
use crate::tests::small_version;

mod damage;
mod ends;
mod id;
mod log;
mod races;
mod versions;

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
            made: None,
        },
        reason: Some(reason.to_owned()),
        cause: None,
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
