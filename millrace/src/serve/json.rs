//! The services as JSON over HTTP: `POST /package.Service/Method` with the request as JSON, for `curl` and browsers.
//!
//! There is no second API: a call in JSON becomes the gRPC call of the same name, and its answer, a status too,
//! becomes JSON again. The names, types and paths come from the services' descriptors. The protocol is Connect's for
//! unary calls (<https://connectrpc.com/docs/protocol>) and protobuf's JSON mapping. A server stream answers with a
//! line of JSON a message, which `curl -N` and `jq` read as it comes. `GET /` lists what there is.
//!
//! Calls in gRPC pass through untouched, if there is their method. Not here: streams from the client, which JSON calls
//! cannot have; Connect's envelopes, its GET and its compression; CORS. `request` reads, with `duplicates`, `response`
//! and `error` write, `index` describes.

mod duplicates;
mod error;
mod index;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;

use crate::files::nearest;

use error::Refused;
use response::Messages;

use super::access::Peer;
use super::admission::Gate;
use super::method_name;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The media type of a JSON call and of its answer.
const JSON: &str = "application/json";

/// Longest text that can be a name of something, in bytes.
const MAX_NAME: usize = 200;

/// Most characters of the caller's that an error repeats.
const MAX_REPEATED: usize = 400;

/// Puts JSON over HTTP before gRPC services. It belongs outside of every other layer, so that a call in JSON meets
/// the same ones as a call in gRPC.
#[derive(Clone)]
pub(super) struct JsonLayer {
    gateway: Arc<Gateway>,
}

impl JsonLayer {
    /// A layer for the services of `pool`. A request's body may have `max_bytes`, and the gate counts them while it
    /// comes. The pool's other messages are used where an error's details have such.
    pub(super) fn new(pool: DescriptorPool, max_bytes: usize, gate: Gate) -> Self {
        let gateway = Arc::new(Gateway::new(pool, max_bytes, gate));
        Self { gateway }
    }
}

impl<S> Layer<S> for JsonLayer {
    type Service = JsonService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        JsonService {
            inner,
            gateway: Arc::clone(&self.gateway),
        }
    }
}

/// A gRPC service that takes JSON as well.
#[derive(Clone)]
pub(super) struct JsonService<S> {
    inner: S,
    gateway: Arc<Gateway>,
}

impl<S, B> Service<Request<B>> for JsonService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // A body that is one of tonic's already is only moved.
        let request = request.map(Body::new);
        if is_grpc(request.headers()) {
            let path = request.uri().path();
            if self.gateway.methods.contains_key(path) {
                return Either::Left(self.inner.call(request));
            }
            let reason = self.gateway.no_method(path);
            let answer = self.inner.call(request);
            let answer = answer.map(|answer| answer.map(|answer| with_reason(answer, reason)));
            return Either::Right(answer.boxed());
        }
        // The service that said it is ready takes this call; its clone has yet to say so for the next.
        let next = self.inner.clone();
        let inner = mem::replace(&mut self.inner, next);
        let gateway = Arc::clone(&self.gateway);
        // From here on, and not from when the answer is first asked for: tonic's own clock, whose end is no JSON, starts
        // a moment later.
        let deadline = Deadline::of(request.headers());
        Either::Right(async move { Ok(gateway.answer(inner, request, deadline).await) }.boxed())
    }
}

/// What the layer knows of the services.
struct Gateway {
    pool: DescriptorPool,
    /// The methods by their path: `/package.Service/Method`.
    methods: HashMap<String, MethodDescriptor>,
    index: Bytes,
    max_bytes: usize,
    gate: Gate,
}

impl Gateway {
    fn new(pool: DescriptorPool, max_bytes: usize, gate: Gate) -> Self {
        let services: Vec<_> = pool.services().collect();
        let methods = services.iter().flat_map(|service| service.methods());
        Self {
            methods: methods.map(|method| (path(&method), method)).collect(),
            index: index::of(&pool),
            pool,
            max_bytes,
            gate,
        }
    }

    async fn answer<S>(
        &self,
        inner: S,
        request: Request<Body>,
        deadline: Result<Deadline, Refused>,
    ) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        if parts.uri.path() == "/" && matches!(parts.method, Method::GET | Method::HEAD) {
            return json_response(JSON, Body::new(Full::new(self.index.clone())));
        }
        let (method, deadline) = match (self.method(&parts), deadline) {
            (Ok(method), Ok(deadline)) => (method, deadline),
            (Err(refused), _) | (_, Err(refused)) => {
                request::pass_over(parts.version, body).await;
                let path = parts.uri.path();
                let refused = match self.methods.contains_key(path) {
                    true => refused.counted(method_name(path)),
                    false => refused,
                };
                return refused.into_response(&self.pool);
            }
        };
        let call = self.call(method, inner, parts, body, deadline);
        let answer: Result<_, Refused> = deadline.within(call).await;
        answer.unwrap_or_else(|refused| refused.into_response(&self.pool))
    }

    async fn call<S>(
        &self,
        method: &MethodDescriptor,
        mut inner: S,
        parts: Parts,
        body: Body,
        deadline: Deadline,
    ) -> Result<Response<Body>, Refused>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Error: Into<BoxError>,
    {
        let client = Peer::of(&parts.extensions).caller();
        let announced = request::announced(&body);
        if announced > self.max_bytes {
            request::pass_over(parts.version, body).await;
            return Err(request::too_large(announced, self.max_bytes));
        }
        let json = request::read(&self.gate, &client, body, self.max_bytes).await?;
        let (json, kept) = json.into_parts();
        let frame = request::frame(&method.input(), &json)
            .map_err(|refused| refused.counted(method_name(parts.uri.path())))?;
        drop((json, kept));
        let response = inner.call(request::grpc(parts, frame, deadline)).await;
        let response = response.map_err(|error| Status::from_error(error.into()))?;
        let messages = Messages::new(response);
        if method.is_server_streaming() {
            response::lines(method.output(), messages, deadline, &self.pool).await
        } else {
            response::unary(method.output(), messages).await
        }
    }

    /// The method that a request calls, if it may call it in JSON.
    fn method(&self, parts: &Parts) -> Result<&MethodDescriptor, Refused> {
        let path = parts.uri.path();
        let unknown = || {
            let reason = self.no_method(path);
            Refused::new(StatusCode::NOT_FOUND, Code::Unimplemented, reason)
        };
        let method = self.methods.get(path).ok_or_else(unknown)?;
        if parts.method != Method::POST {
            let reason = format!("{path} takes POST, not {}: {}", parts.method, curl(parts));
            return Err(Refused::new(
                StatusCode::METHOD_NOT_ALLOWED,
                Code::Unimplemented,
                reason,
            ));
        }
        if media_type(&parts.headers) != Some(JSON.as_bytes()) {
            let reason = format!("{path} takes {JSON}, or gRPC: {}", curl(parts));
            return Err(Refused::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Code::InvalidArgument,
                reason,
            ));
        }
        request::check_encoding(&parts.headers)?;
        if method.is_client_streaming() {
            let reason = format!("{path} takes a stream of messages: only gRPC can call it");
            return Err(Status::unimplemented(reason).into());
        }
        Ok(method)
    }

    /// What is said of a path that is none, over gRPC and JSON alike.
    fn no_method(&self, path: &str) -> String {
        let mut known: Vec<_> = self.methods.keys().map(String::as_str).collect();
        known.sort_unstable();
        let hint = match near(path, &known) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("the methods are {}.", known.join(", ")),
        };
        let path = short(path);
        format!("there is no method '{path}': {hint} GET / says what each takes")
    }
}

/// When the caller no longer waits for the answer.
#[derive(Clone, Copy)]
struct Deadline {
    /// What Connect's header says, where gRPC's does not say less.
    timeout: Option<Duration>,
    at: Option<Instant>,
}

impl Deadline {
    /// What Connect's header says, and gRPC's, from now on. tonic looks at gRPC's outside of all layers, and answers
    /// with a status in headers that are no JSON.
    fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        let timeout = match headers.get(request::TIMEOUT_MS) {
            Some(value) => Some(request::timeout(value)?),
            None => None,
        };
        let grpc = request::grpc_timeout_of(headers);
        let least = timeout.into_iter().chain(grpc).min();
        Ok(Self {
            timeout: timeout.filter(|timeout| Some(*timeout) == least),
            at: least.and_then(|least| Instant::now().checked_add(least)),
        })
    }

    async fn within<T, E: From<Status>>(
        self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match self.at {
            Some(at) => (tokio::time::timeout_at(at, work).await)
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the time is over").into())),
            None => work.await,
        }
    }
}

/// The answer to a gRPC call of a method that there is not: tonic's has no text.
fn with_reason(answer: Response<Body>, reason: String) -> Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() == Code::Unimplemented => {
            let details = Bytes::copy_from_slice(status.details());
            Status::with_details(Code::Unimplemented, reason, details).into_http()
        }
        _ => answer,
    }
}

/// Whether a request is gRPC's own, gRPC-Web included: tonic answers it, be it with a refusal.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The content type without its parameters; a charset, for instance, for JSON is always UTF-8.
fn media_type(headers: &HeaderMap) -> Option<&[u8]> {
    let content_type = headers.get(CONTENT_TYPE)?.as_bytes();
    let media_type = content_type.split(|byte| *byte == b';').next()?;
    Some(media_type.trim_ascii())
}

/// A command that calls the method of a request.
fn curl(parts: &Parts) -> String {
    let host = parts.headers.get(http::header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let host = host.or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
    let scheme = parts.uri.scheme_str().unwrap_or("http");
    format!(
        "curl -d '{{}}' -H 'content-type: {JSON}' {scheme}://{}{}",
        host.unwrap_or("HOST:PORT"),
        parts.uri.path()
    )
}

/// The name that `wrong` may stand for. Comparing takes the product of the lengths, so what is no name is not compared.
fn near(wrong: &str, names: &[&str]) -> Option<String> {
    let compared = wrong.len() <= MAX_NAME;
    compared.then(|| nearest(wrong, names.iter().copied()))?
}

/// A text of the caller's as an error repeats it.
fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_REPEATED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

fn json_response(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let value = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}
