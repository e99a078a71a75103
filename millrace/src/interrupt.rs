//! Ctrl-C of a command that works through files: it ends between two steps, and says what was done.
//!
//! There is one of it for the process: a signal is the process's.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, Outcome};

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

/// From now on the first Ctrl-C, or request to terminate, asks the command to end, and the second ends the process.
///
/// # Errors
/// A system that gives no thread, or no signals.
pub(crate) fn listen() -> Outcome<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e: std::io::Error| Failure::failed(format!("signals cannot be heard: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        (interrupt, signal(SignalKind::terminate()).map_err(failed)?)
    };
    let heard = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if ASKED.swap(true, Ordering::Relaxed) {
                    std::process::exit(i32::from(EXIT_CODE));
                }
                eprintln!("stopping after what is under way; Ctrl-C again ends it at once");
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(heard)
        .map_err(failed)?;
    Ok(())
}
