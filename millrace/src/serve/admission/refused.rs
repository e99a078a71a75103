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
         work: ask again in {retry:.1?}, allow more time, or ask for less at once"
    )]
    Deadline {
        left: Duration,
        wait: Duration,
        service: Duration,
        retry: Duration,
    },
    #[error(
        "{own} bytes of this client's requests and answers are under way, and one client may have {share} \
         (server.limits.buffer_bytes, of which it is a quarter), and all together four times as many: read answers \
         before asking more, or send less at once"
    )]
    Bytes {
        own: usize,
        share: usize,
        retry: Duration,
    },
    #[error(
        "the deadline passed before the work could begin: allow more time, or send fewer requests at once"
    )]
    Expired,
    #[error(
        "the deadline passed before the work was done: allow more time, or ask for less at once"
    )]
    Late,
    #[error(
        "the request's message did not come within {} (server.limits.body_timeout)",
        humantime::format_duration(*timeout)
    )]
    Incomplete { timeout: Duration },
    #[error("the message has {found} bytes, and at most {most} are taken: ask for less at once")]
    TooLarge { found: usize, most: usize },
    #[error("the request broke off: {0}")]
    BrokenOff(String),
    #[error(
        "grpc-timeout: '{0}' is no length of time: write one to eight digits and a unit of H, M, S, m (milliseconds), \
         u (microseconds) or n (nanoseconds), as in 250m"
    )]
    Malformed(String),
}

impl Refused {
    /// As the metric names it.
    const fn reason(&self) -> &'static str {
        match self {
            Self::Client { .. } | Self::Bytes { .. } => "client",
            Self::Queue { .. } => "queue",
            Self::Wait { .. } => "wait",
            Self::Deadline { .. } => "deadline",
            Self::Expired | Self::Late | Self::Incomplete { .. } | Self::BrokenOff(_) => "expired",
            Self::Malformed(_) | Self::TooLarge { .. } => "malformed",
        }
    }

    /// The status, counted.
    pub(in crate::serve) fn told(self) -> Status {
        metrics::counter!("millrace_requests_refused_total", "reason" => self.reason())
            .increment(1);
        self.into()
    }

    const fn code(&self) -> Code {
        match self {
            Self::Expired | Self::Late | Self::Incomplete { .. } => Code::DeadlineExceeded,
            Self::BrokenOff(_) => Code::Cancelled,
            Self::Malformed(_) => Code::InvalidArgument,
            _ => Code::ResourceExhausted,
        }
    }

    /// After which time the request may be let in.
    pub(in crate::serve) const fn retry(&self) -> Option<Duration> {
        match self {
            Self::Client { retry, .. }
            | Self::Queue { retry, .. }
            | Self::Wait { retry, .. }
            | Self::Deadline { retry, .. }
            | Self::Bytes { retry, .. } => Some(*retry),
            Self::Expired
            | Self::Late
            | Self::Incomplete { .. }
            | Self::TooLarge { .. }
            | Self::BrokenOff(_)
            | Self::Malformed(_) => None,
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
