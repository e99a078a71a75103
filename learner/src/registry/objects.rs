//! The files of a registry: objects below a prefix of any store that can create one if it is absent.
//!
//! Nothing is ever overwritten, so that is all that is asked of a store. Which store it is, and what drives its
//! requests, is passed in: a folder and memory need nothing, a cloud's client needs a runtime that the `millrace`
//! crate has.

use std::fmt;
use std::future::Future;
use std::path::{Path as FilePath, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use futures::{StreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::error::LearnerError;

/// A request to a store, as it is handed to whatever drives it.
pub type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Drives requests to their end, on this thread or on others.
pub type Drive = Arc<dyn Fn(Request) + Send + Sync>;

/// Requests that are under way at once, where many objects are read.
const AT_ONCE: usize = 16;

/// Objects below a prefix of a store. Cheap to clone; every call blocks until the store has answered.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    root: Path,
    name: String,
    drive: Drive,
}

/// What lies directly in a folder.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) folders: Vec<String>,
    pub(super) files: Vec<String>,
}

impl Objects {
    /// The objects below `root`, which messages call `name`: `s3://bucket/models`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        root: Path,
        name: impl Into<String>,
        drive: Drive,
    ) -> Self {
        Self {
            store,
            root,
            name: name.into(),
            drive,
        }
    }

    /// The objects of a store that waits for no network: a folder, or memory.
    pub fn at_hand(store: Arc<dyn ObjectStore>, name: impl Into<String>) -> Self {
        let drive = Arc::new(|request: Request| futures::executor::block_on(request));
        Self::new(store, Path::default(), name, drive)
    }

    /// The files of a folder, which is made if there is none. With `durable`, what is written is forced to disk.
    ///
    /// # Errors
    /// [`LearnerError::Io`] if the folder cannot be made.
    pub fn folder(root: &FilePath, durable: bool) -> Result<Self, LearnerError> {
        let failed = |source| LearnerError::Io {
            action: "create",
            path: root.to_owned(),
            source,
        };
        std::fs::create_dir_all(root).map_err(failed)?;
        let store = LocalFileSystem::new_with_prefix(root).map_err(|e| failed(e.into()))?;
        let store = store.with_automatic_cleanup(true).with_fsync(durable);
        Ok(Self::at_hand(Arc::new(store), root.display().to_string()))
    }

    /// What messages call the store and its prefix.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How messages call an object.
    pub(super) fn full(&self, path: &str) -> PathBuf {
        FilePath::new(&self.name).join(path)
    }

    /// The bytes of an object; none where there is none.
    pub(super) fn get(&self, path: &str) -> Result<Option<Vec<u8>>, LearnerError> {
        let answer = self.wait(get(Arc::clone(&self.store), self.path(path)));
        answer.map_err(|error| self.failed("read", path, error))
    }

    /// The bytes of many objects, in order.
    pub(super) fn get_all(&self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, LearnerError> {
        let requests: Vec<_> = paths
            .iter()
            .map(|path| get(Arc::clone(&self.store), self.path(path)))
            .collect();
        let answers = self.wait(async move {
            let answers: Vec<_> = stream::iter(requests).buffered(AT_ONCE).collect().await;
            Ok(answers)
        });
        let answers = answers.map_err(|error| self.failed("read", "", error))?;
        let named = answers.into_iter().zip(paths);
        named
            .map(|(answer, path)| answer.map_err(|error| self.failed("read", path, error)))
            .collect()
    }

    /// Creates an object whole, or not at all: false where there is one of that name already.
    pub(super) fn create(&self, path: &str, bytes: &[u8]) -> Result<bool, LearnerError> {
        let (store, location) = (Arc::clone(&self.store), self.path(path));
        let payload = PutPayload::from(bytes.to_vec());
        let answer = self.wait(async move {
            match store
                .put_opts(&location, payload, PutMode::Create.into())
                .await
            {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        });
        answer.map_err(|error| self.failed("write", path, error))
    }

    /// Creates an object; true where it holds the bytes afterwards. A client that sends a request twice, because the
    /// first answer was lost, is told that the object is there: it is its own.
    pub(super) fn create_or_find(&self, path: &str, bytes: &[u8]) -> Result<bool, LearnerError> {
        Ok(self.create(path, bytes)? || self.get(path)?.as_deref() == Some(bytes))
    }

    /// Removes an object; none is fine too.
    pub(super) fn delete(&self, path: &str) -> Result<(), LearnerError> {
        let (store, location) = (Arc::clone(&self.store), self.path(path));
        let answer = self.wait(async move {
            match store.delete(&location).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        });
        answer.map_err(|error| self.failed("remove", path, error))
    }

    /// The names of what lies directly in a folder; `""` is the root.
    pub(super) fn list(&self, folder: &str) -> Result<Listing, LearnerError> {
        let (store, location) = (Arc::clone(&self.store), self.path(folder));
        let answer = self.wait(async move { store.list_with_delimiter(Some(&location)).await });
        let listed = answer.map_err(|error| self.failed("list", folder, error))?;
        let last = |path: &Path| path.filename().map(str::to_owned);
        Ok(Listing {
            folders: listed.common_prefixes.iter().filter_map(last).collect(),
            files: listed
                .objects
                .iter()
                .filter_map(|meta| last(&meta.location))
                .collect(),
        })
    }

    fn path(&self, path: &str) -> Path {
        self.root.parts().chain(Path::from(path).parts()).collect()
    }

    fn wait<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, answer) = sync_channel(1);
        (self.drive)(Box::pin(async move {
            // Whoever asked waits for it, below.
            let _ = done.send(request.await);
        }));
        answer.recv().unwrap_or_else(|_| {
            Err(Error::Generic {
                store: "registry",
                source: "the runtime that drives its requests has ended".into(),
            })
        })
    }

    fn failed(&self, action: &'static str, path: &str, source: Error) -> LearnerError {
        LearnerError::Store {
            action,
            path: self.full(path),
            source: Box::new(source),
        }
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Objects").field(&self.name).finish()
    }
}

async fn get(store: Arc<dyn ObjectStore>, path: Path) -> Result<Option<Vec<u8>>, Error> {
    let found = match store.get(&path).await {
        Ok(found) => found,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(found.bytes().await?.to_vec()))
}
