//! The `millrace` command: ties ingestion, features, store, learner and server together.
//!
//! This is the only crate that knows them all, and the only one with a clock, a runtime and a terminal.

// They panic where nobody reads any more (`… | head`): `output` says what commands say.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

/// A place between two steps at which a test can end the process at once, as a power cut does: `FAILPOINTS=name=return`
/// at the first time, `name=5*off->return` after five.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}

pub mod audit;
pub mod backfill;
#[cfg(feature = "embedded-broker")]
pub mod broker;
pub mod check;
pub mod cli;
pub mod client;
mod deletes;
pub mod demo;
mod described;
pub mod evolve;
pub mod failure;
pub mod files;
pub mod fill;
pub mod fold;
mod gaps;
pub mod generate;
pub mod gone;
mod interrupt;
pub mod labels;
pub mod learning;
pub mod live;
#[cfg(test)]
mod logged;
pub mod marks;
pub mod member;
pub mod mlflow;
pub mod object_stores;
mod open_files;
pub mod output;
pub mod pipeline;
pub mod priority;
pub mod produce;
pub mod recent;
pub mod registry;
pub mod run;
mod runtime;
pub mod score_log;
pub mod score_topic;
pub mod scored_watch;
pub mod scorer;
pub mod serve;
pub mod settings;
pub mod simulate;
pub mod state;
mod stored_files;
pub mod streams;
pub mod times;
pub mod traces;
pub mod traffic;
pub mod training_set;
mod witnesses;
pub mod workspace;
