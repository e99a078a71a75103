//! Commands that ask a running server, and those that only read what one has written.
//!
//! They print to standard output; what goes wrong comes back as a [`Failure`]. The server's side is
//! in `serve`.

mod connection;
mod features;
mod models;
mod score;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, Write};

use crate::failure::{Failure, Outcome};

pub use connection::Server;
pub use features::features_get;
pub use models::{
    models_export, models_list, models_promote, models_rollback, models_show, models_traffic,
    why_no_model,
};
pub use score::{Event, Shown, json_lines, score, score_events};

/// Prints one line. False when nobody reads any more (`… | head`): then there is nothing left to do,
/// and nothing is wrong.
fn print_line(out: &mut impl Write, line: &str) -> Outcome<bool> {
    go_on(writeln!(out, "{line}"))
}

/// Whether to go on printing.
fn go_on(written: io::Result<()>) -> Outcome<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write the answer: {error}"))),
    }
}
