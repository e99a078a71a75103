//! Why a call is not answered, and which gRPC status that is: all of them, in one place.

use millrace_features::FeatureError;
use millrace_learner::LearnerError;
use prost_reflect::prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::failure::{Failure, with_causes};
use crate::serve::{MAX_ITEMS, MAX_MESSAGE_BYTES};
use crate::times::rfc3339;

/// Why a call is not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The project has nothing of these names.
    #[error("{}", reasons(.0))]
    Unknown(Vec<Violation>),
    /// The caller's mistakes.
    #[error("{}", summary(.0))]
    Arguments(Vec<Violation>),
    /// Events that the answer needs may have expired. `field` holds the time that is too early.
    #[error("{field}: {}", too_early(view, *asked_us, *earliest_us))]
    TooEarly {
        field: String,
        view: String,
        asked_us: i64,
        earliest_us: i64,
        /// Fields whose times are too early besides, with those times: the first ones where there are many.
        others: Vec<(String, i64)>,
    },
    /// Events of the step that holds the time are known in sum alone.
    #[error(
        "{field}: {} lies inside a step of view '{view}' whose events are settled: ask as of {} or of the start of \
         another step (late in the view's options says how long single events are kept)",
        rfc3339(*asked_us),
        rfc3339(*step_start_us)
    )]
    BetweenSteps {
        field: String,
        view: String,
        asked_us: i64,
        step_start_us: i64,
    },
    /// The answer would be larger than a message may be. `instead` is what works.
    #[error(
        "the answer has {bytes} bytes, and {} are sent at most: {instead}",
        MAX_MESSAGE_BYTES
    )]
    TooLarge { bytes: usize, instead: &'static str },
    /// The project has no model.
    #[error("the project has no model: its millrace.toml has no section [model]")]
    NoModel,
    /// What is asked for cannot be done as things stand.
    #[error("{0}")]
    NotNow(String),
    /// The caller's token does not reach that far.
    #[error("{0}")]
    Forbidden(String),
    /// Something that the answer needs is not there: a broker.
    #[error("{0}")]
    Unavailable(String),
    /// Not the caller's fault: a store that fails, a defect, an expression of the project that
    /// fails on its data.
    #[error("{0}")]
    Internal(String),
}

/// A mistake in a field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// The path of the message's field.
    pub(super) field: String,
    /// What is wrong with it, and what would be right.
    pub(super) reason: String,
}

impl Violation {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// What is said of names that are none, all of them.
fn reasons(violations: &[Violation]) -> String {
    let reasons: Vec<&str> = violations.iter().map(|v| v.reason.as_str()).collect();
    reasons.join("; ")
}

/// What is said of a time as of which a view's events may have expired.
fn too_early(view: &str, asked_us: i64, earliest_us: i64) -> String {
    format!(
        "{} is too early: view '{view}' answers from {} on, for older events have expired (store.history in \
         millrace.toml says how long they are kept)",
        rfc3339(asked_us),
        rfc3339(earliest_us)
    )
}

/// The details of a status name each mistake; its text the first.
fn summary(violations: &[Violation]) -> String {
    let Some((Violation { field, reason }, others)) = violations.split_first() else {
        return "the request is wrong".to_owned();
    };
    match others.len() {
        0 => format!("{field}: {reason}"),
        others => format!("{field}: {reason} (and {others} more are wrong)"),
    }
}

/// More mistakes of one request are counted and not listed: a status travels in a header.
pub(super) const MOST_VIOLATIONS: usize = 20;

impl Refusal {
    /// The caller's mistake in a field.
    pub(super) fn argument(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Arguments(vec![Violation::new(field, reason)])
    }

    /// A name in a field is none of the project's, and the nearest thing that is one.
    pub(super) fn unknown(field: impl Into<String>, what: &str, hint: &str) -> Self {
        Self::Unknown(vec![Violation::new(field, format!("{what}: {hint}"))])
    }

    fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::NotFound,
            Self::Arguments(_) => Code::InvalidArgument,
            Self::TooEarly { .. } | Self::BetweenSteps { .. } => Code::OutOfRange,
            Self::TooLarge { .. } => Code::ResourceExhausted,
            Self::NoModel | Self::NotNow(_) => Code::FailedPrecondition,
            Self::Forbidden(_) => Code::PermissionDenied,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }

    fn details(&self) -> ErrorDetails {
        match self {
            Self::Arguments(violations) | Self::Unknown(violations) => {
                let listed = violations.iter().take(MOST_VIOLATIONS);
                ErrorDetails::with_bad_request(
                    listed
                        .map(|v| FieldViolation::new(&v.field, &v.reason))
                        .collect::<Vec<_>>(),
                )
            }
            Self::TooEarly {
                field,
                view,
                asked_us,
                earliest_us,
                others,
            } => {
                let others = others.iter().map(|other| (&other.0, &other.1));
                let all = std::iter::once((field, asked_us)).chain(others);
                ErrorDetails::with_bad_request(
                    all.take(MOST_VIOLATIONS)
                        .map(|(field, asked_us)| {
                            FieldViolation::new(field, too_early(view, *asked_us, *earliest_us))
                        })
                        .collect::<Vec<_>>(),
                )
            }
            Self::BetweenSteps { field, .. } => {
                let text = self.to_string();
                // The text begins with the field, which the violation has beside it.
                let reason = text.strip_prefix(field).unwrap_or(&text);
                let reason = reason.trim_start_matches(": ");
                ErrorDetails::with_bad_request_violation(field, reason)
            }
            _ => ErrorDetails::new(),
        }
    }
}

/// Refuses more than [`MAX_ITEMS`], and says what works instead.
pub(super) fn check_count(field: &str, count: usize, instead: &str) -> Result<(), Refusal> {
    if count <= MAX_ITEMS {
        return Ok(());
    }
    let reason = format!("{count} in one call; at most {MAX_ITEMS} are answered: {instead}");
    Err(Refusal::argument(field, reason))
}

/// Refuses an answer of more than [`MAX_MESSAGE_BYTES`], and says what works instead.
pub(super) fn check_bytes(answer: &impl Message, instead: &'static str) -> Result<(), Refusal> {
    let bytes = answer.encoded_len();
    match bytes <= MAX_MESSAGE_BYTES {
        true => Ok(()),
        false => Err(Refusal::TooLarge { bytes, instead }),
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let details = refusal.details();
        match refusal.code() {
            Code::Internal => Self::internal(refusal.to_string()),
            code => Self::with_error_details(code, refusal.to_string(), details),
        }
    }
}

impl From<FeatureError> for Refusal {
    fn from(error: FeatureError) -> Self {
        Self::Internal(with_causes(&error))
    }
}

impl From<millrace_features::StateError> for Refusal {
    fn from(error: millrace_features::StateError) -> Self {
        Self::Internal(with_causes(&error))
    }
}

impl From<LearnerError> for Refusal {
    fn from(error: LearnerError) -> Self {
        match error {
            LearnerError::Store { .. } => Self::Unavailable(with_causes(&error)),
            _ => Self::Internal(with_causes(&error)),
        }
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
