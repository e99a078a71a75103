//! Calls of one message and one answer, without what is made for streams of them.
//!
//! tonic reads the message of such a call as a stream, and writes its answer as one, with a buffer of 8 KiB for each and
//! a dozen allocations. Admission has read the message to its end already: here it is decoded where it stands, and the
//! answer is written at once. What is not as it should be is given back, for tonic to say what is wrong with it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use prost_reflect::prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;

use super::MAX_MESSAGE_BYTES;

static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// gRPC's bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A call's message, where it is there as a whole and not compressed.
///
/// # Errors
/// The call, as it came.
pub(super) async fn read<Q: Message + Default>(
    request: Request<Body>,
) -> Result<tonic::Request<Q>, Request<Body>> {
    if request.headers().contains_key(&GRPC_ENCODING) {
        return Err(request);
    }
    let (parts, mut body) = request.into_parts();
    let first = poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await;
    let Poll::Ready(first) = first else {
        return Err(Request::from_parts(parts, body));
    };
    if body.is_end_stream()
        && let Some(message) = decoded(first.as_ref())
    {
        let metadata = MetadataMap::from_headers(parts.headers);
        let request = tonic::Request::from_parts(metadata, parts.extensions, message);
        return Ok(request);
    }
    let body = Body::new(PutBack {
        first: Some(first),
        body,
    });
    Err(Request::from_parts(parts, body))
}

type Polled = Option<Result<Frame<Bytes>, Status>>;

/// The message that is all of a frame.
fn decoded<Q: Message + Default>(frame: Option<&Result<Frame<Bytes>, Status>>) -> Option<Q> {
    let bytes = frame?.as_ref().ok()?.data_ref()?;
    let (prefix, message) = bytes.split_first_chunk::<PREFIX>()?;
    let [compressed, length @ ..] = *prefix;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    match compressed == 0 && length == message.len() {
        true => Q::decode(message).ok(),
        false => None,
    }
}

/// A body of which the first frame was looked at.
struct PutBack {
    first: Option<Polled>,
    body: Body,
}

impl http_body::Body for PutBack {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Polled> {
        match self.first.take() {
            Some(first) => Poll::Ready(first),
            None => Pin::new(&mut self.body).poll_frame(context),
        }
    }
}

/// An answer, as gRPC sends it.
pub(super) fn written<A: Message>(answer: Result<tonic::Response<A>, Status>) -> Response<Body> {
    let answer = answer.and_then(|answer| {
        let (metadata, message, extensions) = answer.into_parts();
        Ok((metadata, frame(&message)?, extensions))
    });
    let (metadata, frame, extensions) = match answer {
        Ok(answer) => answer,
        Err(status) => return status.into_http(),
    };
    let mut response = Response::new(Body::new(Written::Message(frame)));
    *response.headers_mut() = metadata.into_headers();
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    *response.extensions_mut() = extensions;
    response
}

fn frame<A: Message>(message: &A) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok();
    let prefix = prefix
        .filter(|_| length <= MAX_MESSAGE_BYTES)
        .ok_or_else(|| {
            // The services look at this before, and say what to ask for instead.
            Status::resource_exhausted(format!(
                "the answer has {length} bytes, and a message at most {MAX_MESSAGE_BYTES}"
            ))
        })?;
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(prefix);
    let encoded = message.encode(&mut frame);
    encoded.map_err(|error| Status::internal(error.to_string()))?;
    Ok(frame.freeze())
}

/// The body of an answer: its message, and then that all is well.
enum Written {
    Message(Bytes),
    Status,
    Nothing,
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Polled> {
        let next = match *self {
            Self::Message(_) => Self::Status,
            Self::Status | Self::Nothing => Self::Nothing,
        };
        Poll::Ready(match std::mem::replace(&mut *self, next) {
            Self::Message(message) => Some(Ok(Frame::data(message))),
            Self::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS.clone(), HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Self::Nothing => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body_util::{BodyExt, Full, StreamBody};
    use millrace_proto::v1::GetFeaturesRequest;
    use tonic::Code;

    use super::*;

    fn message() -> GetFeaturesRequest {
        GetFeaturesRequest {
            features: vec!["card_activity".to_owned()],
            handle: Some(7),
            ..GetFeaturesRequest::default()
        }
    }

    fn call(body: Body) -> Request<Body> {
        let request = Request::builder().header("who", "a").extension(5_u8);
        request.body(body).unwrap()
    }

    #[tokio::test]
    async fn a_message_that_is_there_is_read() {
        let frame = frame(&message()).unwrap();
        let read = read::<GetFeaturesRequest>(call(Body::new(Full::new(frame)))).await;
        let read = read.unwrap();
        assert_eq!(read.metadata().get("who").unwrap(), "a");
        assert_eq!(read.extensions().get::<u8>(), Some(&5));
        assert_eq!(read.into_inner(), message());
    }

    /// tonic gets all of it, to the byte, and says what is wrong.
    #[tokio::test]
    async fn what_is_not_as_it_should_be_is_given_back() {
        let whole = frame(&message()).unwrap();
        let changed = |at: usize, byte: u8| {
            let mut bytes = whole.to_vec();
            bytes[at] = byte;
            vec![Bytes::from(bytes)]
        };
        let two = [&whole[..], &whole[..]].concat();
        for frames in [
            Vec::new(),
            vec![whole.slice(..3)],
            vec![whole.slice(..whole.len() - 1)],
            vec![whole.slice(..8), whole.slice(8..)],
            vec![whole.clone(), whole.clone()],
            vec![Bytes::from(two)],
            // Said to be compressed, of another length, and no message.
            changed(0, 1),
            changed(4, 200),
            changed(5, 0xff),
        ] {
            let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.to_vec()).collect();
            let body = match frames.as_slice() {
                [one] => Body::new(Full::new(one.clone())),
                _ => {
                    let frames = frames.clone().into_iter();
                    let frames = frames.map(|data| Ok::<_, Status>(Frame::data(data)));
                    Body::new(StreamBody::new(futures::stream::iter(frames)))
                }
            };
            let given_back = read::<GetFeaturesRequest>(call(body)).await.unwrap_err();
            assert_eq!(given_back.headers()["who"], "a");
            let bytes = given_back.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(bytes, expected);
        }
        let frame = Full::new(frame(&message()).unwrap());
        let mut compressed = call(Body::new(frame));
        let encoding = HeaderValue::from_static("gzip");
        compressed.headers_mut().insert(&GRPC_ENCODING, encoding);
        assert!(read::<GetFeaturesRequest>(compressed).await.is_err());
    }

    #[tokio::test]
    async fn an_answer_is_a_message_and_a_status() {
        let answer = written(Ok(tonic::Response::new(message())));
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/grpc");
        let collected = answer.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[&GRPC_STATUS], "0");
        assert_eq!(collected.to_bytes(), frame(&message()).unwrap());

        let refused = written::<GetFeaturesRequest>(Err(Status::not_found("no such view")));
        let status = Status::from_header_map(refused.headers()).unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "no such view")
        );
        assert!(http_body::Body::is_end_stream(refused.body()));
    }
}
