//! The threads of roles: one that ends takes the others with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::error;

use super::Running;
use crate::failure::{Failure, Outcome};

impl Running {
    /// A thread that serves the project, until it is told to stop.
    pub(super) fn role(
        &mut self,
        name: &str,
        body: impl FnOnce(&AtomicBool) -> Outcome<()> + Send + 'static,
    ) -> Outcome<()> {
        let thread = self.thread(name, Arc::clone(&self.stop), body)?;
        self.threads.push(thread);
        Ok(())
    }

    pub(super) fn thread(
        &self,
        name: &str,
        stop: Arc<AtomicBool>,
        body: impl FnOnce(&AtomicBool) -> Outcome<()> + Send + 'static,
    ) -> Outcome<JoinHandle<()>> {
        let (ended, failure) = (Arc::clone(&self.ended), Arc::clone(&self.failure));
        let role = name.to_owned();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // One role that ends takes the others with it: half a system must not look alive. So does one
                // that panics.
                let mut end = End {
                    ended,
                    is_expected: false,
                };
                let outcome = body(&stop);
                end.is_expected = outcome.is_ok() && stop.load(Ordering::Relaxed);
                if let Err(cause) = outcome {
                    error!(
                        role,
                        failure = cause.message,
                        hint = cause.hint,
                        "a role ended"
                    );
                    failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(cause);
                }
            })
            .map_err(|e| Failure::failed(format!("no thread for {name}: {e}")))
    }
}

/// Notes that a role has ended by itself, when it goes.
struct End {
    ended: Arc<AtomicBool>,
    is_expected: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.is_expected {
            self.ended.store(true, Ordering::Relaxed);
        }
    }
}

pub(super) fn join(thread: JoinHandle<()>) -> Outcome<()> {
    thread
        .join()
        .map_err(|_| Failure::failed("a role panicked; this is a bug, please report it"))
}

/// Waits to be told to stop: a role that is done is not one that has failed.
pub(super) fn wait_for(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sleeps, and wakes up soon after a stop was asked for.
pub(super) fn pause(stop: &AtomicBool, time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
}
