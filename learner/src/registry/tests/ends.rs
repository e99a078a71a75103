//! An end between any two requests, and a store that knows of no conditions.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMode,
    PutMultipartOptions, PutPayload, PutResult,
};

use super::*;

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
