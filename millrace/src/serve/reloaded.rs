//! A value that is read from files, and read again when one of them changes.
//!
//! It knows neither tokens nor certificates: `tokens`, `jwt` and `tls` say what is read. A file that has become
//! unreadable or wrong takes nothing away: the value that was read before stays, with a warning.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::failure::Outcome;

/// How often the files' times are looked at, at most. It is done by the call that finds it due: a look takes some
/// microseconds, and a server that nobody calls looks at nothing.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What is read from files.
pub(crate) struct Reloaded<T> {
    /// As metrics name it.
    what: &'static str,
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Outcome<T> + Send + Sync>,
    current: ArcSwap<T>,
    opened: Instant,
    /// When the files were last looked at, since `opened`.
    looked_ms: AtomicU64,
    seen: Mutex<Seen>,
}

/// How the files were when they were last read.
struct Seen {
    stamps: Vec<Stamp>,
    /// Why they could not be read, or not be understood.
    failure: Option<String>,
}

/// A file's time of modification and length; none where it cannot be told.
type Stamp = Option<(SystemTime, u64)>;

impl<T> Reloaded<T> {
    /// Reads for the first time.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn() -> Outcome<T> + Send + Sync + 'static,
    ) -> Outcome<Self> {
        // Before the files are read: a change meanwhile is seen as one.
        let stamps = stamps(&files);
        let current = ArcSwap::from_pointee(read()?);
        Ok(Self {
            what,
            files,
            read: Box::new(read),
            current,
            opened: Instant::now(),
            looked_ms: AtomicU64::new(0),
            seen: Mutex::new(Seen {
                stamps,
                failure: None,
            }),
        })
    }

    /// The value, of at most a second ago.
    pub(crate) fn get(&self) -> Arc<T> {
        if self.is_due() {
            self.look();
        }
        self.current.load_full()
    }

    /// True for one caller a second.
    fn is_due(&self) -> bool {
        let now_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        let due = Duration::from_millis(now_ms.saturating_sub(looked_ms)) >= CHECK_EVERY;
        due && self
            .looked_ms
            .compare_exchange(looked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Reads the files again if they have changed. Those that were wrong are read each time: a right that was given
    /// back changes no time of modification, and of two files that belong together one is written first.
    pub(crate) fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if seen.stamps == stamps && seen.failure.is_none() {
            return;
        }
        seen.stamps = stamps;
        match (self.read)() {
            Ok(value) => {
                self.current.store(Arc::new(value));
                seen.failure = None;
                self.note_read();
            }
            Err(failure) => {
                if seen.failure.as_ref() != Some(&failure.message) {
                    self.note_kept(&failure.message);
                }
                seen.failure = Some(failure.message);
            }
        }
    }

    fn note_read(&self) {
        metrics::counter!("millrace_reloads_total", "what" => self.what, "result" => "read")
            .increment(1);
        tracing::info!(what = self.what, "read again, for a file has changed");
    }

    fn note_kept(&self, error: &str) {
        metrics::counter!("millrace_reloads_total", "what" => self.what, "result" => "kept")
            .increment(1);
        tracing::warn!(
            what = self.what,
            error,
            "a file has changed and cannot be used: what was read before stays"
        );
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let metadata = fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(stamp).collect()
}
