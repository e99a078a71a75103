//! The thread that brings rows to the log's location, so that neither scoring nor reading waits for it.
//!
//! It reads the store and writes nothing to it: what it has done it tells the pipeline's thread. A location that
//! takes nothing is tried again until it does, and so is a part of a range after another: a file that is there
//! already is written again, with the same bytes.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_feature_store::Store;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::files::RangeFiles;
use super::outbox::Position;
use crate::failure::{Failure, Outcome, with_causes};

/// The file that says whose log a location is. Readers of Parquet skip names like it.
pub(crate) const MARKER: &str = "_millrace.json";

const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1_000 });
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What stands in the marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The log's name.
    pub(crate) log: String,
    /// Every row with a smaller sequence number is at the location, or was written to one before it.
    pub(crate) complete_to: u64,
    /// The project that wrote it.
    pub(crate) project: String,
}

/// A place that a log is written to.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
    /// As the settings name it.
    pub(crate) name: String,
}

/// A writer at work. Dropping it stops it.
pub(crate) struct Writer {
    jobs: mpsc::UnboundedSender<Range<u64>>,
    news: Receiver<Outcome<()>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// A system without threads to spare.
    pub(crate) fn start(
        place: Place,
        store: Arc<dyn Store>,
        position: Position,
        project: String,
    ) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::failed(format!("the runtime does not start: {e}")))?;
        let (jobs, todo) = mpsc::unbounded_channel();
        let (tell, news) = channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = Worker {
            place,
            store,
            position,
            project,
        };
        let thread = std::thread::Builder::new()
            .name("score-log".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        // A dropped sender stops it too.
                        _ = stopped => {}
                        () = worker.work(todo, tell) => {}
                    }
                });
            })
            .map_err(|e| Failure::failed(format!("no thread for the score log: {e}")))?;
        Ok(Self {
            jobs,
            news,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Lets a range be written. Its decision must be durable.
    pub(crate) fn write(&self, range: Range<u64>) {
        // A thread that has ended says why in the news.
        let _ = self.jobs.send(range);
    }

    /// True once the range is written; waits for it so long.
    ///
    /// # Errors
    /// A location that is another log's, a store that cannot be read.
    pub(crate) fn is_done(&self, wait: Duration) -> Outcome<bool> {
        let news = match wait.is_zero() {
            true => self.news.try_recv().map_err(|e| e == TryRecvError::Empty),
            false => {
                let news = self.news.recv_timeout(wait);
                news.map_err(|e| e == RecvTimeoutError::Timeout)
            }
        };
        match news {
            Ok(outcome) => outcome.map(|()| true),
            Err(true) => Ok(false),
            Err(false) => Err(Failure::failed("the score log's writer has ended")),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of its own was printed.
            let _ = thread.join();
        }
    }
}

struct Worker {
    place: Place,
    store: Arc<dyn Store>,
    /// Where the log stood when the thread started.
    position: Position,
    project: String,
}

impl Worker {
    async fn work(self, mut todo: mpsc::UnboundedReceiver<Range<u64>>, tell: Sender<Outcome<()>>) {
        let outcome = async {
            self.until_taken(|| self.claim()).await?;
            while let Some(range) = todo.recv().await {
                self.until_taken(|| self.write(range.clone())).await?;
                if tell.send(Ok(())).is_err() {
                    break;
                }
            }
            Ok(())
        };
        if let Err(failure) = outcome.await {
            // Nobody hears it once the pipeline has ended.
            let _ = tell.send(Err(failure));
        }
    }

    /// Repeats what the location refuses.
    async fn until_taken<F: Future<Output = Result<(), Trouble>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Outcome<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            match attempt().await {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(failure)) => return Err(failure),
                Err(Trouble::Location(error)) => {
                    metrics::counter!("millrace_score_log_failures_total").increment(1);
                    warn!(
                        location = self.place.name,
                        error = with_causes(&error),
                        seconds = pause.as_secs_f32(),
                        "the score log's location took nothing; what was scored waits in the store, and is tried again"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Makes sure that the location is this log's, before anything is written there.
    async fn claim(&self) -> Result<(), Trouble> {
        let place = &self.place;
        match place.marker().await? {
            None => {
                let marker = self.marker(self.position.written);
                match place.put_marker(&marker, PutMode::Create).await {
                    // Somebody was faster: who it was is seen in the next attempt.
                    Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                        place.put_marker(&marker, PutMode::Overwrite).await?;
                    }
                    other => other?,
                }
                info!(
                    location = place.name,
                    log = marker.log,
                    "a score log begins"
                );
            }
            Some(marker) if marker.log != self.position.log => {
                return Err(Trouble::Lasting(
                    Failure::input(format!(
                        "{} holds the score log {} of another store; this store's is {}",
                        place.name, marker.log, self.position.log
                    ))
                    .hint("give score_log.location a place of its own: a new store scores events again"),
                ));
            }
            Some(marker)
                if marker.complete_to > self.position.written
                    && Some(marker.complete_to) != self.position.decided =>
            {
                return Err(Trouble::Lasting(
                    Failure::input(format!(
                        "{} has {} rows, and the store knows of {}: it is an older copy of itself",
                        place.name, marker.complete_to, self.position.written
                    ))
                    .hint("give score_log.location a new place: events after the copy are scored and logged again"),
                ));
            }
            Some(marker) => {
                info!(
                    location = place.name,
                    rows = marker.complete_to,
                    "the score log goes on"
                );
            }
        }
        Ok(())
    }

    async fn write(&self, range: Range<u64>) -> Result<(), Trouble> {
        let started = Instant::now();
        let files = RangeFiles::read(self.store.as_ref(), &self.position.log, range.clone())
            .map_err(Trouble::Lasting)?;
        let (mut count, mut bytes) = (0_u64, 0);
        for file in files.files() {
            let file = file.map_err(Trouble::Lasting)?;
            count += 1;
            bytes += file.bytes.len() as u64;
            let path = self.place.under(&file.path);
            self.place.objects.put(&path, file.bytes.into()).await?;
        }
        let marker = self.marker(range.end);
        self.place.put_marker(&marker, PutMode::Overwrite).await?;
        let rows = range.end - range.start;
        metrics::counter!("millrace_score_log_rows_total").increment(rows);
        metrics::counter!("millrace_score_log_files_total").increment(count);
        metrics::counter!("millrace_score_log_bytes_total").increment(bytes);
        metrics::histogram!("millrace_score_log_write_seconds").record(started.elapsed());
        info!(rows, files = count, bytes, "scores were logged");
        Ok(())
    }

    fn marker(&self, complete_to: u64) -> Marker {
        Marker {
            log: self.position.log.clone(),
            complete_to,
            project: self.project.clone(),
        }
    }
}

impl Place {
    /// A path under the location.
    pub(crate) fn under(&self, path: &Path) -> Path {
        path.parts().fold(self.path.clone(), Path::join)
    }

    /// What the marker says, if there is one.
    ///
    /// # Errors
    /// A location that cannot be read; a marker that is none.
    async fn marker(&self) -> Result<Option<Marker>, Trouble> {
        let bytes = match self.objects.get(&self.under(&MARKER.into())).await {
            Ok(found) => found.bytes().await?,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let marker = serde_json::from_slice(&bytes).map_err(|e| {
            let what = format!("{}: {MARKER} is damaged: {e}", self.name);
            Trouble::Lasting(Failure::input(what).hint("give score_log.location an empty place"))
        })?;
        Ok(Some(marker))
    }

    async fn put_marker(&self, marker: &Marker, mode: PutMode) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(marker).map_err(|e| Error::Generic {
            store: "millrace",
            source: e.into(),
        })?;
        let path = self.under(&MARKER.into());
        let options = PutOptions::from(mode);
        self.objects
            .put_opts(&path, PutPayload::from(text), options)
            .await?;
        Ok(())
    }
}

/// Why a range was not written.
enum Trouble {
    /// The location did not take it: it may later.
    Location(Error),
    /// It never will be.
    Lasting(Failure),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Location(error)
    }
}
