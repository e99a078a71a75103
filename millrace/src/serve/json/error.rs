//! A status as Connect writes it: an HTTP status, and a JSON body with the code, the message and the details.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::{ACCEPT, ALLOW, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::Any;
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::pb::RetryInfo;

use super::{JSON, json_response, response};
use crate::serve::count_answer;

/// Why a call in JSON is not answered.
pub(super) struct Refused {
    http: StatusCode,
    status: Status,
}

impl Refused {
    /// A refusal that HTTP has a status of its own for.
    pub(super) fn new(http: StatusCode, code: Code, reason: String) -> Self {
        let status = Status::new(code, reason);
        Self { http, status }
    }

    /// Itself, counted as the answer to a call that no service has seen.
    pub(super) fn counted(self, method: &'static str) -> Self {
        count_answer(method, self.status.code());
        self
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    pub(super) fn into_response(self, pool: &DescriptorPool) -> Response<Body> {
        let details = details(&self.status);
        let body = body(&self.status, &details, pool).to_string();
        let mut response = json_response(JSON, Body::new(Full::from(body)));
        *response.status_mut() = self.http;
        let headers = response.headers_mut();
        response::add_metadata(headers, "", self.status.metadata().as_ref());
        if let Some(seconds) = retry_after(&details) {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        add_accepted(headers, self.http);
        response
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        let (_, http) = connect(status.code());
        Self { http, status }
    }
}

/// The last line of a stream that failed after its first message.
pub(super) fn line(status: &Status, pool: &DescriptorPool) -> String {
    let error = body(status, &details(status), pool);
    format!("{}\n", json!({ "error": error }))
}

fn body(status: &Status, details: &[Any], pool: &DescriptorPool) -> Value {
    let (code, _) = connect(status.code());
    let mut body = json!({ "code": code, "message": status.message() });
    if !details.is_empty() {
        body["details"] = details.iter().map(|any| detail(any, pool)).collect();
    }
    body
}

/// A detail as Connect has it. `debug` is for people: programs decode `value`.
fn detail(any: &Any, pool: &DescriptorPool) -> Value {
    let name = message_name(any);
    let mut detail = json!({ "type": name, "value": STANDARD_NO_PAD.encode(&any.value) });
    let known = pool.get_message_by_name(name);
    let message = known.and_then(|known| DynamicMessage::decode(known, &*any.value).ok());
    if let Some(debug) = message.and_then(|message| serde_json::to_value(message).ok()) {
        detail["debug"] = debug;
    }
    detail
}

/// The details of a status: none where they are not those of a `google.rpc.Status`.
fn details(status: &Status) -> Vec<Any> {
    let decoded = tonic_types::Status::decode(status.details());
    decoded.map_or_else(|_| Vec::new(), |status| status.details)
}

/// The whole seconds after which the caller may try again, where a detail says so.
fn retry_after(details: &[Any]) -> Option<u64> {
    let detail = details
        .iter()
        .find(|any| message_name(any) == "google.rpc.RetryInfo")?;
    let delay = RetryInfo::decode(&*detail.value).ok()?.retry_delay?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    Some(seconds.saturating_add(u64::from(delay.nanos > 0)))
}

fn message_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Says in HTTP's terms what would have been right.
fn add_accepted(headers: &mut HeaderMap, http: StatusCode) {
    match http {
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            headers.insert(ACCEPT, HeaderValue::from_static(JSON));
        }
        _ => {}
    }
}

/// Connect's name and HTTP status of a code.
fn connect(code: Code) -> (&'static str, StatusCode) {
    match code {
        // HTTP has no name for it; others call it "client closed request".
        Code::Cancelled => ("canceled", client_closed_request()),
        Code::InvalidArgument => ("invalid_argument", StatusCode::BAD_REQUEST),
        Code::DeadlineExceeded => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
        Code::NotFound => ("not_found", StatusCode::NOT_FOUND),
        Code::AlreadyExists => ("already_exists", StatusCode::CONFLICT),
        Code::PermissionDenied => ("permission_denied", StatusCode::FORBIDDEN),
        Code::ResourceExhausted => ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
        Code::FailedPrecondition => ("failed_precondition", StatusCode::BAD_REQUEST),
        Code::Aborted => ("aborted", StatusCode::CONFLICT),
        Code::OutOfRange => ("out_of_range", StatusCode::BAD_REQUEST),
        Code::Unimplemented => ("unimplemented", StatusCode::NOT_IMPLEMENTED),
        Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
        Code::DataLoss => ("data_loss", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED),
        Code::Ok | Code::Unknown => ("unknown", StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
