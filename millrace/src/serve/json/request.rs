//! From a request in JSON to one in gRPC, and what is wrong with the JSON.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TE,
    TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full, Limited};
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor};
use serde::de::DeserializeSeed;
use serde_path_to_error::{Path, Segment, Track};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::duplicates::Unique;
use super::error::Refused;
use super::{Deadline, near, short};
use crate::serve::MAX_MESSAGE_BYTES;
use crate::serve::access::Caller;
use crate::serve::admission::{self, Gate, Message, parse_timeout};

/// Connect's header for the milliseconds that the caller waits.
pub(super) const TIMEOUT_MS: &str = "connect-timeout-ms";

/// gRPC's headers for the same and for compression.
const GRPC_TIMEOUT: &str = "grpc-timeout";
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// gRPC's mark before a message that is not compressed.
const PLAIN: u8 = 0;

/// gRPC gives the number of a timeout eight digits.
const MOST_TIMEOUT: u128 = 99_999_999;

/// Refuses a compressed body.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Refused> {
    match headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(encoding) => {
            let reason = format!("content-encoding {encoding:?}: send the JSON uncompressed");
            Err(Status::unimplemented(reason).into())
        }
    }
}

/// How many bytes a body says of itself that it has, at least.
pub(super) fn announced(body: &Body) -> usize {
    let least = http_body::Body::size_hint(body).lower();
    usize::try_from(least).unwrap_or(usize::MAX)
}

/// Reads a body of at most `max_bytes`. Of a larger one no more than that is read. It comes from a client that has yet
/// to show who it is, so its bytes are counted by its address.
pub(super) async fn read(
    gate: &Gate,
    client: &Arc<Caller>,
    body: Body,
    max_bytes: usize,
) -> Result<Message, Refused> {
    let read = gate.body(client, body, max_bytes).await;
    read.map_err(|refused| match refused {
        admission::Refused::TooLarge { found, .. } => too_large(found, max_bytes),
        refused => refused.told().into(),
    })
}

/// So much of a body that nobody wants is read, and for so long. None of it is kept; and a message that is somewhat too
/// large is to hear of it.
const MOST_PASSED_OVER: usize = 2 * MAX_MESSAGE_BYTES;
const LONGEST_PASSED_OVER: Duration = Duration::from_secs(1);

/// Reads to the end what a caller sends for nothing. Over HTTP/2 an answer that comes before is followed by a reset of
/// the stream, and some clients, curl among them, then say nothing of the answer.
pub(super) async fn pass_over(version: Version, body: Body) {
    if version != Version::HTTP_2 {
        return;
    }
    let mut body = Limited::new(body, MOST_PASSED_OVER);
    let passed = async { while let Some(Ok(_)) = body.frame().await {} };
    // What is longer, or comes more slowly, is reset after all.
    let _ = tokio::time::timeout(LONGEST_PASSED_OVER, passed).await;
}

/// The refusal of a body of which `found` bytes are known, counted. HTTP has a status of its own for it.
pub(super) fn too_large(found: usize, max_bytes: usize) -> Refused {
    let refused = admission::Refused::TooLarge {
        found,
        most: max_bytes,
    };
    let reason = format!("the body is larger than {max_bytes} bytes");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, refused.told().code(), reason)
}

/// The message of `json`, as gRPC frames it. Nothing stands for the empty message.
pub(super) fn frame(input: &MessageDescriptor, json: &[u8]) -> Result<Bytes, Refused> {
    let message = match json.trim_ascii() {
        [] => DynamicMessage::new(input.clone()),
        json => parsed(input, json)?,
    };
    let length = message.encoded_len();
    let prefix = u32::try_from(length).map_err(|_| too_large(length, u32::MAX as usize))?;
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(PLAIN);
    frame.put_u32(prefix);
    let encoded = message.encode(&mut frame);
    encoded.map_err(|error| Status::internal(error.to_string()))?;
    Ok(frame.freeze())
}

fn parsed(input: &MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Refused> {
    let mut track = Track::new();
    let mut text = serde_json::Deserializer::from_slice(json);
    let tracked = serde_path_to_error::Deserializer::new(&mut text, &mut track);
    let message = DynamicMessage::deserialize(input.clone(), tracked)
        .and_then(|message| text.end().map(|()| message))
        .map_err(|error| error.to_string());
    // A field that is there twice may be one of these, and is told by its name.
    let is_of_a_group = |error: &String| error.starts_with("multiple fields provided");
    if message.as_ref().err().is_none_or(is_of_a_group) {
        check_unique(input, json)?;
    }
    message.map_err(|error| mistake(input, &track.path(), &error))
}

/// Refuses a name that stands twice: the message has the last of its values, and says nothing of the others.
fn check_unique(input: &MessageDescriptor, json: &[u8]) -> Result<(), Refused> {
    let mut track = Track::new();
    let mut text = serde_json::Deserializer::from_slice(json);
    let tracked = serde_path_to_error::Deserializer::new(&mut text, &mut track);
    let unique = Unique(Some(Kind::Message(input.clone()))).deserialize(tracked);
    unique.map_err(|error| wrong(&track.path(), short(&error.to_string())))
}

/// The caller's mistake, with its place and the nearest thing that works.
fn mistake(input: &MessageDescriptor, path: &Path, error: &str) -> Refused {
    let mut reason = short(error);
    if let Some(hint) = hint(input, path, error) {
        reason.push_str(": ");
        reason.push_str(&hint);
    }
    wrong(path, reason)
}

/// The refusal of what stands at a path. Where that is known, the details name it too.
fn wrong(path: &Path, reason: String) -> Refused {
    let place = short(&place(path));
    if place.is_empty() {
        return Status::invalid_argument(format!("the request: {reason}")).into();
    }
    let text = format!("{place}: {reason}");
    let details = ErrorDetails::with_bad_request_violation(place, reason);
    Status::with_error_details(Code::InvalidArgument, text, details).into()
}

/// The path as far as it is known: in a body that ends within a name, for instance, it is not to its end.
fn place(path: &Path) -> String {
    let text = path.to_string();
    match path.iter().next_back() {
        None => String::new(),
        Some(Segment::Unknown) => text.trim_end_matches(['.', '?']).to_owned(),
        Some(_) => text,
    }
}

/// What a name that is not known may have meant.
fn hint(input: &MessageDescriptor, path: &Path, error: &str) -> Option<String> {
    let at = kind_at(input, path)?;
    if !error.starts_with("unrecognized ")
        && let Some(shape) = shape(input, path, &at)
    {
        return Some(shape);
    }
    match &at {
        Kind::Message(message) => {
            let wrong = quoted(error, "unrecognized field name '")?;
            let fields: Vec<_> = message.fields().collect();
            let names: Vec<_> = fields.iter().map(|field| field.json_name()).collect();
            // A field may be called as in JSON or as in the .proto file.
            let mut both = names.clone();
            both.extend(fields.iter().map(|field| field.name()));
            Some(known(wrong, &both, &names, message.full_name()))
        }
        Kind::Enum(values) => {
            let wrong = quoted(error, "unrecognized enum value '")?;
            let all: Vec<_> = values.values().collect();
            let names: Vec<_> = all.iter().map(|value| value.name()).collect();
            Some(known(wrong, &names, &names, values.full_name()))
        }
        _ => None,
    }
}

/// What is written at a path where something of another shape stands.
fn shape(input: &MessageDescriptor, path: &Path, at: &Kind) -> Option<String> {
    if let Kind::Message(message) = at {
        match message.full_name() {
            "google.protobuf.Timestamp" => {
                return Some("write \"2026-03-01T12:00:00Z\"".to_owned());
            }
            "google.protobuf.Duration" => return Some("write \"1.5s\"".to_owned()),
            _ => {}
        }
    }
    let (first, second) = {
        let mut names = path.iter().map(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            _ => None,
        });
        (names.next()??, names.next().flatten())
    };
    let field = input.get_field_by_json_name(first);
    let field = field.or_else(|| input.get_field_by_name(first))?;
    if field.name() == "event_json" {
        let events = r#"["{\"tx_id\": \"t1\"}"]"#;
        return Some(format!(
            "write \"{first}\": {events}, with each event as a text that holds its JSON; \"columns\" takes values as they \
             are"
        ));
    }
    let Kind::Message(entry) = field.kind() else {
        return None;
    };
    if !entry.is_map_entry() || !is_column(&entry.map_entry_value_field().kind()) {
        return None;
    }
    let key = second.unwrap_or("card_id");
    Some(format!(
        "write \"{first}\": {{\"{key}\": {{\"strings\": [\"42\", \"43\"]}}}}, with a value for each row; GET / says what \
         else a column may hold"
    ))
}

fn is_column(kind: &Kind) -> bool {
    matches!(kind, Kind::Message(message) if message.full_name() == "millrace.v1.Column")
}

/// The name that an error quotes after `before`.
fn quoted<'a>(error: &'a str, before: &str) -> Option<&'a str> {
    let (name, _) = error.strip_prefix(before)?.rsplit_once('\'')?;
    Some(name)
}

fn known(wrong: &str, accepted: &[&str], listed: &[&str], of: &str) -> String {
    match near(wrong, accepted) {
        Some(near) => format!("did you mean '{near}'?"),
        None if listed.is_empty() => format!("{of} has no fields"),
        None => format!("{of} has {}", listed.join(", ")),
    }
}

/// The type at a path of the request.
fn kind_at(input: &MessageDescriptor, path: &Path) -> Option<Kind> {
    let mut at = Kind::Message(input.clone());
    for segment in path {
        at = match (segment, &at) {
            // A list has the kind of its elements.
            (Segment::Seq { .. }, _) => at,
            (Segment::Map { .. }, Kind::Message(entry)) if entry.is_map_entry() => {
                entry.map_entry_value_field().kind()
            }
            (Segment::Map { key }, Kind::Message(message)) => message
                .get_field_by_json_name(key)
                .or_else(|| message.get_field_by_name(key))?
                .kind(),
            _ => return None,
        };
    }
    Some(at)
}

/// How long the caller waits, as Connect's header has it: at most ten digits.
pub(super) fn timeout(value: &HeaderValue) -> Result<Duration, Refused> {
    let digits = value.to_str().ok().filter(|digits| digits.len() <= 10);
    let ms = digits.and_then(|digits| digits.parse().ok());
    ms.map(Duration::from_millis).ok_or_else(|| {
        let reason = format!("{TIMEOUT_MS}: {value:?} is no number of milliseconds");
        Status::invalid_argument(reason).into()
    })
}

/// How long the caller waits, as gRPC's header has it. What is no length of time is refused in `admission`.
pub(super) fn grpc_timeout_of(headers: &HeaderMap) -> Option<Duration> {
    parse_timeout(headers.get(GRPC_TIMEOUT)?.to_str().ok()?)
}

/// The call in gRPC. The headers that do not speak of the body pass on: who calls, and what traces it.
pub(super) fn grpc(parts: Parts, frame: Bytes, deadline: Deadline) -> Request<Body> {
    let mut request = Request::from_parts(parts, Body::new(Full::new(frame)));
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    for name in [
        ACCEPT_ENCODING,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    for name in [GRPC_ENCODING, GRPC_ACCEPT_ENCODING, TIMEOUT_MS] {
        headers.remove(name);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Some(value) = deadline.timeout.and_then(grpc_timeout) {
        headers.insert(GRPC_TIMEOUT, value);
    }
    request
}

/// A timeout in milliseconds, or in seconds where those have too many digits.
fn grpc_timeout(timeout: Duration) -> Option<HeaderValue> {
    let text = match timeout.as_millis() {
        ms if ms <= MOST_TIMEOUT => format!("{ms}m"),
        _ => format!("{}S", timeout.as_secs()),
    };
    HeaderValue::try_from(text).ok()
}
