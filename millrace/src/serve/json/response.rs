//! From an answer in gRPC to one in JSON: one message, or a line a message.

use std::mem;

use bytes::{Buf, Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use tonic::body::Body;
use tonic::{Code, Status};

use super::error::{self, Refused};
use super::{Deadline, JSON, json_response};

/// The media type of a stream: a line of JSON a message.
const LINES: &str = "application/x-ndjson";

/// The bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The messages of a gRPC answer, one after the other, and the status at their end.
pub(super) struct Messages {
    http: StatusCode,
    headers: HeaderMap,
    body: Body,
    /// What has come of the next messages. The service bounds how large one is.
    received: BytesMut,
    trailers: HeaderMap,
    /// As soon as it is known: from the headers of an answer that is nothing else, or from the trailers.
    status: Option<Status>,
}

impl Messages {
    pub(super) fn new(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            http: parts.status,
            status: Status::from_header_map(&parts.headers),
            headers: parts.headers,
            body,
            received: BytesMut::new(),
            trailers: HeaderMap::new(),
        }
    }

    /// The next message; none after the last, if all went well.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = unframed(&mut self.received)? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return self.end().map(|()| None);
            };
            match frame?.into_data() {
                Ok(data) => self.received.extend_from_slice(&data),
                // Nothing is asked for behind them: the encoder of a message that it refused gives its bytes there.
                Err(frame) => {
                    self.trailers = frame.into_trailers().unwrap_or_default();
                    self.status = Status::from_header_map(&self.trailers);
                    return self.end().map(|()| None);
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), Status> {
        match self.status.take() {
            Some(status) if status.code() != Code::Ok => Err(status),
            Some(_) if self.received.is_empty() => Ok(()),
            Some(_) => Err(Status::internal("the answer ended within a message")),
            None => Err(Status::unknown(format!(
                "the answer, HTTP {}, has no gRPC status",
                self.http
            ))),
        }
    }
}

/// Takes the first message off, once it is whole.
fn unframed(received: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((prefix, rest)) = received.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Status::internal("the answer is compressed"));
    }
    let length = u32::from_be_bytes(length) as usize;
    if rest.len() < length {
        return Ok(None);
    }
    received.advance(PREFIX);
    Ok(Some(received.split_to(length).freeze()))
}

/// The answer of a method that gives one message.
pub(super) async fn unary(
    output: MessageDescriptor,
    mut messages: Messages,
) -> Result<Response<Body>, Refused> {
    let Some(message) = messages.next().await? else {
        return Err(Status::internal("the answer has no message").into());
    };
    // Behind the message comes the status.
    if messages.next().await?.is_some() {
        return Err(Status::internal("the answer has several messages").into());
    }
    let json = json(output, message)?;
    let mut response = json_response(JSON, Body::new(Full::from(json)));
    add_metadata(response.headers_mut(), "", &messages.headers);
    add_metadata(response.headers_mut(), "trailer-", &messages.trailers);
    Ok(response)
}

/// The answer of a method that gives a stream. It waits for the first message, for until then HTTP's status can say
/// what is wrong.
pub(super) async fn lines(
    output: MessageDescriptor,
    messages: Messages,
    deadline: Deadline,
    pool: &DescriptorPool,
) -> Result<Response<Body>, Refused> {
    let mut lines = Lines {
        output,
        messages,
        deadline,
        pool: pool.clone(),
    };
    let first = lines.next().await?;
    let headers = mem::take(&mut lines.messages.headers);
    let rest = first.is_some().then_some(lines);
    let lines = stream::iter(first).chain(stream::unfold(rest, next_line));
    let frames = lines.map(|line| Ok::<_, Status>(Frame::data(Bytes::from(line))));
    let mut response = json_response(LINES, Body::new(StreamBody::new(frames)));
    add_metadata(response.headers_mut(), "", &headers);
    Ok(response)
}

/// A stream's messages as lines.
struct Lines {
    output: MessageDescriptor,
    messages: Messages,
    deadline: Deadline,
    pool: DescriptorPool,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        let message = self.deadline.within(self.messages.next()).await?;
        let Some(message) = message else {
            return Ok(None);
        };
        let mut line = json(self.output.clone(), message)?;
        line.push(b'\n');
        Ok(Some(line))
    }
}

/// The next line and what comes behind it: nothing behind an error.
async fn next_line(lines: Option<Lines>) -> Option<(Vec<u8>, Option<Lines>)> {
    let mut lines = lines?;
    match lines.next().await {
        Ok(line) => line.map(|line| (line, Some(lines))),
        Err(status) => Some((error::line(&status, &lines.pool).into_bytes(), None)),
    }
}

fn json(output: MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let message = DynamicMessage::decode(output, message)
        .map_err(|error| Status::internal(format!("the answer cannot be read: {error}")))?;
    serde_json::to_vec(&message)
        .map_err(|error| Status::internal(format!("the answer has no JSON form: {error}")))
}

/// Adds the headers that the service gave, and none that speak of gRPC or of the body.
pub(super) fn add_metadata(to: &mut HeaderMap, prefix: &str, from: &HeaderMap) {
    for (name, value) in from {
        if *name == CONTENT_TYPE || *name == CONTENT_LENGTH || name.as_str().starts_with("grpc-") {
            continue;
        }
        if let Ok(name) = HeaderName::try_from(format!("{prefix}{name}")) {
            to.append(name, value.clone());
        }
    }
}
