//! Ctrl-C and requests to terminate. A command that works through files ends between two steps, and says what was done;
//! one that serves until it is told to stop waits for [`Signals`].
//!
//! A signal is the process's: there is one flag, and one way to hear them.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Outcome};
use crate::output::tell;

/// As a shell counts a program that Ctrl-C has ended.
pub(crate) const EXIT_CODE: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Set once a signal has asked to end.
pub(crate) fn flag() -> &'static AtomicBool {
    &ASKED
}

/// Whether a signal has asked to end.
pub(crate) fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Ctrl-C and requests to terminate, from the moment on in which they are registered: none is lost that comes before
/// somebody waits.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Registers them on a runtime.
    ///
    /// # Errors
    /// A system that gives no signals.
    pub(crate) fn register(runtime: &Runtime) -> Outcome<Self> {
        let _entered = runtime.enter();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// From now on the first Ctrl-C, or request to terminate, asks the command to end, and the second ends the process.
///
/// # Errors
/// A system that gives no thread, or no signals.
pub(crate) fn listen() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let mut signals = Signals::register(&runtime)?;
    let heard = move || {
        runtime.block_on(async {
            loop {
                signals.next().await;
                if ASKED.swap(true, Ordering::Relaxed) {
                    std::process::exit(i32::from(EXIT_CODE));
                }
                tell("stopping after what is under way; Ctrl-C again ends it at once");
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(heard)
        .map_err(failed)?;
    Ok(())
}

fn failed(error: std::io::Error) -> Failure {
    Failure::failed(format!("signals cannot be heard: {error}"))
}
