//! Commands that ask a running server, and those that only read what one has written.
//!
//! They print to standard output; what goes wrong comes back as a [`Failure`](crate::failure::Failure). The server's
//! side is in `serve`.

mod connection;
mod features;
mod models;
mod score;
#[cfg(test)]
mod tests;

pub use connection::Server;
pub use features::features_get;
pub use models::{
    models_export, models_list, models_promote, models_rollback, models_show, models_traffic,
    why_no_model,
};
pub use score::{Event, Shown, json_lines, score, score_events};
