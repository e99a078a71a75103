//! What is read of a request before it is let in: its method, its client and its deadline.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use tokio::time::Instant;

use super::gate::Gate;
use super::refused::Refused;
use super::{Treatment, treatment};
use crate::serve::access::Caller;
use crate::serve::method_name;

/// What admission has to know of a request.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) treatment: Treatment,
    /// As metrics name it.
    pub(super) method: &'static str,
    pub(super) client: Arc<Caller>,
    pub(super) deadline: Option<Instant>,
}

impl Arrival {
    pub(super) fn of<B>(request: &Request<B>, now: Instant) -> Result<Self, Refused> {
        let path = request.uri().path();
        let treatment = treatment(path);
        let deadline = match treatment {
            Treatment::Free => None,
            _ => timeout(request.headers())?.map(|timeout| now + timeout.min(Gate::LONGEST)),
        };
        let client = Caller::of(request.extensions());
        Ok(Self {
            treatment,
            method: method_name(path),
            client,
            deadline,
        })
    }
}

/// The time that a client gives its request.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refused> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    match parse_timeout(&text) {
        None => Err(Refused::Malformed(text.chars().take(20).collect())),
        timeout => Ok(timeout),
    }
}

/// A length of time as gRPC writes it; none where it is none.
pub(in crate::serve) fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(3_600 * number)),
        "M" => Some(Duration::from_secs(60 * number)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}
