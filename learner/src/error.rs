//! What can go wrong in the learner, classed by what the caller should do about it.
//!
//! How an error is shown, and which exit or gRPC code it becomes, is decided in `millrace`.

use std::path::PathBuf;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum LearnerError {
    /// A setting is out of its range. The user mends the project file.
    #[error("learner setting `{name}`: {reason}")]
    Setting {
        /// The setting's name as it is written in the project file.
        name: &'static str,
        /// What is wrong with its value, and what would be right.
        reason: String,
    },
    /// The asked-for device is not there. The user picks another.
    #[error("device `{device}` cannot be used: {reason}")]
    Device {
        /// The device as it was asked for.
        device: String,
        /// What the probe found.
        reason: String,
    },
    /// There is nothing to learn from: no rows, or rows whose weights are all zero.
    #[error("there are no examples to learn from")]
    NoExamples,
    /// A row, or a set of examples, has another number of inputs than the model or the set.
    #[error("examples have {found} inputs where {expected} were expected")]
    Width {
        /// Inputs that a row should have.
        expected: usize,
        /// Inputs that it has.
        found: usize,
    },
    /// An example that cannot be learned from: a label other than 0 or 1, or a weight that is
    /// negative or not finite.
    #[error("example has {what} {value}")]
    Example {
        /// `"label"` or `"weight"`.
        what: &'static str,
        /// The offending value.
        value: f32,
    },
    /// The update was cut short because it was asked to. Nothing came of it.
    #[error("the update was cut short, and nothing came of it")]
    Stopped,
    /// The update ran, and its result must not be used. The serving version stays.
    #[error("the update was refused: {0}")]
    Rejected(#[from] Rejection),
    /// A model was trained on other inputs than the project has now.
    #[error(transparent)]
    InputsDiffer(Box<InputsDiffer>),
    /// The registry has no such version.
    #[error("model version {version} is not in {root}")]
    NoSuchVersion {
        /// The version asked for.
        version: u64,
        /// The registry's folder, or its URL.
        root: String,
    },
    /// A file of a model exists and cannot be understood.
    #[error("{}: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The parts of a model that this crate built do not fit together. To be reported.
    #[error("this is a bug: {0}")]
    Bug(String),
    /// The registry's store did not answer, or refused. Retrying may help.
    #[error("cannot {action} {}: {source}", path.display())]
    Store {
        /// What was tried: `"read"`, `"write"`, …
        action: &'static str,
        /// The object.
        path: PathBuf,
        /// The store's answer.
        source: Box<object_store::Error>,
    },
    /// The registry's store overwrites what is there when it is to create it only if it is not: two processes would
    /// take each other's decisions away. The user picks another store.
    #[error(
        "{root}: the store does not keep what is there: it overwrites an object that is to be created"
    )]
    Unsafe {
        /// The registry's URL.
        root: String,
    },
    /// The file system refused. Retrying may help.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `"read"`, `"write"`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Why a candidate was refused before any gate saw it.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// The training loss became infinite or not a number.
    #[error("the training loss is not finite")]
    NonFiniteLoss,
    /// A weight or an optimizer moment became infinite or not a number.
    #[error("the network's weights are not finite")]
    NonFiniteWeights,
    /// Training made the model far worse on the very rows that it learned.
    #[error("the log loss on the fresh rows rose from {before:.4} to {after:.4}")]
    Exploded {
        /// The parent's log loss on the fresh rows, in nats a row.
        before: f64,
        /// The candidate's.
        after: f64,
    },
}

/// How a model's inputs differ from the project's: everything that a message needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model version {version} has other inputs than the project")]
pub struct InputsDiffer {
    /// The model's version.
    pub version: u64,
    /// Inputs that the project has and the model has not, in the project's order.
    pub added: Vec<String>,
    /// Inputs that the model has and the project has not, in the model's order.
    pub removed: Vec<String>,
    /// Inputs that mean something else than in the model, in the project's order. Empty where that is not known.
    pub changed: Vec<String>,
    /// The model's inputs.
    pub model: Vec<String>,
    /// The project's inputs. They may have the same names in another order, or the same names with
    /// another meaning (another hash).
    pub project: Vec<String>,
}
