//! Why a request is not let in, and which gRPC status that is.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(in crate::serve) enum Refused {
    #[error(
        "client '{client}' has {limit} requests open, as many as one client may have at once \
         (server.limits.client_concurrency): wait for answers before asking more, or ask for more in one request"
    )]
    Client {
        client: String,
        limit: usize,
        retry: Duration,
    },
    #[error(
        "{queue} requests wait already, as many as may (server.limits.queue): ask again in {retry:.1?}, or send fewer \
         requests at once"
    )]
    Queue { queue: usize, retry: Duration },
    #[error(
        "a place would be free about {wait:.1?} after the request came, and requests wait {} at most \
         (server.limits.max_wait): ask again in {retry:.1?}, or send fewer requests at once",
        humantime::format_duration(*max_wait)
    )]
    Wait {
        wait: Duration,
        max_wait: Duration,
        retry: Duration,
    },
    #[error(
        "the deadline is in {left:.1?}, and the answer would take about {wait:.1?} of waiting and {service:.1?} of \
         work: ask again in {retry:.1?}, or allow more time"
    )]
    Deadline {
        left: Duration,
        wait: Duration,
        service: Duration,
        retry: Duration,
    },
    #[error(
        "the deadline passed before the work could begin: allow more time, or send fewer requests at once"
    )]
    Expired,
    #[error(
        "grpc-timeout: '{0}' is no length of time: write one to eight digits and a unit of H, M, S, m (milliseconds), \
         u (microseconds) or n (nanoseconds), as in 250m"
    )]
    Malformed(String),
}

impl Refused {
    /// As the metric names it.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Client { .. } => "client",
            Self::Queue { .. } => "queue",
            Self::Wait { .. } => "wait",
            Self::Deadline { .. } => "deadline",
            Self::Expired => "expired",
            Self::Malformed(_) => "malformed",
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::Expired => Code::DeadlineExceeded,
            Self::Malformed(_) => Code::InvalidArgument,
            _ => Code::ResourceExhausted,
        }
    }

    /// After which time the request may be let in.
    const fn retry(&self) -> Option<Duration> {
        match self {
            Self::Client { retry, .. }
            | Self::Queue { retry, .. }
            | Self::Wait { retry, .. }
            | Self::Deadline { retry, .. } => Some(*retry),
            Self::Expired | Self::Malformed(_) => None,
        }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let (code, message) = (refused.code(), refused.to_string());
        match refused.retry() {
            retry @ Some(_) => {
                Self::with_error_details(code, message, ErrorDetails::with_retry_info(retry))
            }
            None => Self::new(code, message),
        }
    }
}
