//! Where the registry of models lies: a folder, or a bucket of S3 or of Google Cloud Storage.
//!
//! What a registry is, is `millrace-learner`'s, which knows no network: a cloud's client and the runtime that drives
//! its requests are made here. Nothing that answers events or look-ups waits for them: models in use are in memory,
//! and threads of their own follow what the registry says.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_learner::{Objects, Registry, Request};
use object_store::ObjectStoreScheme;
use serde::Deserialize;
use tokio::runtime::Runtime;
use url::Url;

use crate::failure::{Failure, Kind, Outcome};
use crate::object_stores::{bucket, meant_as_url};

/// Where a registry lies.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// `s3://bucket/prefix` or `gs://bucket/prefix`.
    Bucket(Url),
}

/// Schemes of URLs that a registry may have.
const SCHEMES: [&str; 3] = ["s3", "gs", "file"];

impl Place {
    /// The same, with a folder's path relative to `base`.
    #[must_use]
    pub fn in_folder(&self, base: &Path) -> Self {
        match self {
            Self::Folder(folder) => Self::Folder(base.join(folder)),
            Self::Bucket(url) => Self::Bucket(url.clone()),
        }
    }

    /// Opens the registry. A folder is made if there is none; a bucket is not asked yet.
    ///
    /// # Errors
    /// A folder that cannot be made; a bucket's settings, in the environment, that make no sense.
    pub fn open(&self) -> Outcome<Registry> {
        match self {
            Self::Folder(folder) => Ok(Registry::open(folder)?),
            Self::Bucket(url) => Ok(Registry::on(objects(url)?)),
        }
    }

    /// Opens the registry, if it can be there: a command that only looks makes no folder.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_existing(&self) -> Outcome<Option<Registry>> {
        match self {
            Self::Folder(folder) if !folder.is_dir() => Ok(None),
            _ => self.open().map(Some),
        }
    }
}

/// The registries of the projects that a process serves, one after the other or one while the other's views are filled.
/// Each is opened once.
#[derive(Default)]
pub struct Registries(Vec<(Place, Arc<Registry>)>);

impl Registries {
    /// The registry at a place.
    ///
    /// # Errors
    /// As [`Place::open`].
    pub fn open(&mut self, place: Place) -> Outcome<Arc<Registry>> {
        if let Some((_, open)) = self.0.iter().find(|(known, _)| *known == place) {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(place.open()?);
        self.0.push((place, Arc::clone(&open)));
        Ok(open)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(url) => url.as_str().trim_end_matches('/').fmt(f),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = "a registry is a folder, s3://bucket/prefix or gs://bucket/prefix";
        if let Some(url) = meant_as_url(&text) {
            return Err(format!("'{text}': did you mean {url}? {known}"));
        }
        let Some((scheme, _)) = text.split_once("://") else {
            return Ok(Self::Folder(text.into()));
        };
        let url = Url::parse(&text).map_err(|e| format!("'{text}' is no URL ({e}): {known}"))?;
        match ObjectStoreScheme::parse(&url) {
            Ok((ObjectStoreScheme::Local, _)) => match url.to_file_path() {
                Ok(folder) => Ok(Self::Folder(folder)),
                Err(()) => Err(format!("'{text}' is no path: {known}")),
            },
            Ok((ObjectStoreScheme::AmazonS3 | ObjectStoreScheme::GoogleCloudStorage, _))
                if SCHEMES.contains(&scheme) =>
            {
                Ok(Self::Bucket(url))
            }
            _ if SCHEMES.contains(&scheme) => Err(format!("'{text}' names no bucket: {known}")),
            _ => {
                let nearest = SCHEMES
                    .iter()
                    .find(|it| strsim::levenshtein(it, scheme) <= 1);
                let hint = nearest.map_or(String::new(), |it| format!(" (did you mean {it}://?)"));
                Err(format!("'{scheme}://' is not supported{hint}: {known}"))
            }
        }
    }
}

/// The objects of a bucket.
fn objects(url: &Url) -> Outcome<Objects> {
    let (store, root) = bucket(url)?;
    let driver = Driver::start()?;
    let drive = Arc::new(move |request: Request| driver.drive(request));
    let name = Place::Bucket(url.clone()).to_string();
    Ok(Objects::new(store, root, name, drive))
}

/// Drives requests on a thread of its own, so that any thread may wait for one.
struct Driver(Option<Runtime>);

impl Driver {
    fn start() -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("registry-io")
            .enable_all()
            .build();
        let failed = |e| Failure::failed(format!("the runtime does not start: {e}"));
        Ok(Self(Some(runtime.map_err(failed)?)))
    }

    fn drive(&self, request: Request) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(request);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Whoever lets go of the registry last may be on another runtime, where waiting for this one is forbidden.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Says once that the registry does not answer, and once that it does again.
#[derive(Debug, Default)]
pub struct Reach {
    is_away: bool,
}

impl Reach {
    /// Notes how a look at the registry went. True where it succeeded.
    pub fn note<T>(&mut self, outcome: &Outcome<T>) -> bool {
        match outcome {
            Ok(_) => {
                if std::mem::take(&mut self.is_away) {
                    tracing::info!("the registry of models answers again");
                }
            }
            Err(failure) => {
                metrics::counter!("millrace_registry_failures_total").increment(1);
                if !std::mem::replace(&mut self.is_away, true) {
                    tracing::warn!(
                        failure = failure.message,
                        hint = failure.hint,
                        "the registry of models cannot be followed; the versions before go on serving"
                    );
                }
            }
        }
        metrics::gauge!("millrace_registry_reachable").set(if self.is_away { 0.0 } else { 1.0 });
        !self.is_away
    }
}

/// Whether a failure is the registry's, which may answer again.
#[must_use]
pub fn is_away(failure: &Failure) -> bool {
    failure.kind == Kind::Away
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use object_store::RetryConfig;
    use object_store::aws::AmazonS3Builder;

    use super::*;
    use crate::logged::logged;

    fn place(text: &str) -> Result<Place, String> {
        Place::try_from(text.to_owned())
    }

    #[test]
    fn folders_and_buckets_are_told_apart() {
        for (text, expected) in [
            ("data/models", "/project/data/models"),
            ("/var/models", "/var/models"),
            ("file:///var/models", "/var/models"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("gs://bucket/models", "gs://bucket/models"),
        ] {
            let place = place(text).unwrap().in_folder(Path::new("/project"));
            assert_eq!(place.to_string(), expected);
        }
        for (text, part) in [
            ("s4://bucket/models", "did you mean s3://?"),
            ("gcs://bucket", "did you mean gs://?"),
            ("https://example.com/models", "'https://' is not supported"),
            ("azure://container/x", "s3://bucket/prefix"),
            ("s3:///models", "names no bucket"),
            ("s3://", "names no bucket"),
            ("s3:/bucket/models", "did you mean s3://bucket/models?"),
        ] {
            let error = place(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_registry_is_opened_once() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| Place::Folder(folder.path().join(name));
        let mut registries = Registries::default();
        let first = registries.open(place("a")).unwrap();
        let other = registries.open(place("b")).unwrap();
        assert!(Arc::ptr_eq(&first, &registries.open(place("a")).unwrap()));
        assert!(!Arc::ptr_eq(&first, &other));
        // A place that cannot be opened is not kept.
        std::fs::write(folder.path().join("c"), "a file").unwrap();
        assert!(registries.open(place("c")).is_err());
        assert_eq!(registries.0.len(), 2);
    }

    #[test]
    fn a_failure_is_logged_in_one_line_as_what_it_is() {
        let said = logged(|| {
            let failure = Failure::failed("it is away").hint("wait for it");
            assert!(!Reach::default().note::<()>(&Err(failure)));
        });
        assert_eq!(said.lines().count(), 1, "{said}");
        let fields = "failure=\"it is away\" hint=\"wait for it\"";
        assert!(said.contains(fields), "{said}");
    }

    /// Asks a port where nobody is: the answer is an error and not a wait, from any thread.
    #[test]
    fn a_bucket_that_does_not_answer_is_a_failure() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let store = AmazonS3Builder::new()
            .with_bucket_name("models")
            .with_endpoint(format!("http://{address}"))
            .with_allow_http(true)
            .with_access_key_id("k")
            .with_secret_access_key("s")
            .with_retry(RetryConfig {
                max_retries: 0,
                ..RetryConfig::default()
            })
            .build()
            .unwrap();
        let driver = Driver::start().unwrap();
        let drive = Arc::new(move |request: Request| driver.drive(request));
        let root = object_store::path::Path::from("fraud");
        let registry = Registry::on(Objects::new(
            Arc::new(store),
            root,
            "s3://models/fraud",
            drive,
        ));
        let ask = {
            let registry = registry.clone();
            move || Failure::from(registry.champion().unwrap_err())
        };
        let failure = ask();
        assert!(is_away(&failure), "{failure}");
        assert!(failure.message.contains("s3://models/fraud/"), "{failure}");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // The last one to let go of the registry is a thread of another runtime.
        drop(registry);
        runtime
            .block_on(async { assert!(is_away(&tokio::task::spawn_blocking(ask).await.unwrap())) });
        let mut reach = Reach::default();
        assert!(!reach.note::<()>(&Err(failure)));
        assert!(reach.note(&Ok(())));
    }
}
