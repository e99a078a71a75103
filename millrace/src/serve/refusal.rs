//! Why a call is not answered, and which gRPC status that is: all of them, in one place.

use millrace_features::FeatureError;
use millrace_learner::LearnerError;
use tonic::{Code, Status};

use crate::failure::{Failure, with_causes};
use crate::serve::MAX_ITEMS;
use crate::times::rfc3339;

/// Why a call is not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The project has no view of that name.
    #[error("there is no feature view '{name}': {hint}")]
    UnknownView { name: String, hint: String },
    /// The caller's mistake; `field` is the path of the message's field.
    #[error("{field}: {reason}")]
    Argument { field: String, reason: String },
    /// Events that the answer needs may have expired. `field` holds the time that is too early.
    #[error(
        "{field}: {} is too early: view '{view}' answers from {} on, for older events have expired \
         (store.history in millrace.toml says how long they are kept)",
        rfc3339(*asked_us),
        rfc3339(*earliest_us)
    )]
    TooEarly {
        field: String,
        view: String,
        asked_us: i64,
        earliest_us: i64,
    },
    /// The project has no model.
    #[error("the project has no model: its millrace.toml has no section [model]")]
    NoModel,
    /// Not the caller's fault: a store that fails, a defect, an expression of the project that
    /// fails on its data.
    #[error("{0}")]
    Internal(String),
}

impl Refusal {
    /// The caller's mistake in a field.
    pub(super) fn argument(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Argument {
            field: field.into(),
            reason: reason.into(),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::UnknownView { .. } => Code::NotFound,
            Self::Argument { .. } => Code::InvalidArgument,
            Self::TooEarly { .. } => Code::OutOfRange,
            Self::NoModel => Code::FailedPrecondition,
            Self::Internal(_) => Code::Internal,
        }
    }
}

/// Refuses more than [`MAX_ITEMS`].
pub(super) fn check_count(field: &str, count: usize) -> Result<(), Refusal> {
    if count <= MAX_ITEMS {
        return Ok(());
    }
    let reason = format!("{count} in one call; at most {MAX_ITEMS} are answered");
    Err(Refusal::argument(field, reason))
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

impl From<FeatureError> for Refusal {
    fn from(error: FeatureError) -> Self {
        Self::Internal(with_causes(&error))
    }
}

impl From<LearnerError> for Refusal {
    fn from(error: LearnerError) -> Self {
        Self::Internal(with_causes(&error))
    }
}

impl From<arrow::error::ArrowError> for Refusal {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Internal(with_causes(&error))
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Internal(failure.message)
    }
}
