//! What the log says while a test does something.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, OnceLock};

use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

use crate::traces::LogFields;

/// What is logged by this thread while `work` is done, a line an event.
pub(crate) fn logged(work: impl FnOnce()) -> String {
    // While one subscriber alone is alive, the thread that comes to an event first decides for all
    // threads whether anybody listens: a test beside this one, with nobody who does. With two
    // alive all of them are asked.
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
    let file = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .fmt_fields(LogFields::default())
        .with_writer(Arc::new(file.reopen().unwrap()))
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    std::fs::read_to_string(file.path()).unwrap()
}
