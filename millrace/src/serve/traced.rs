//! Traces of calls: a span for each that is recorded, under its caller's, by OpenTelemetry's conventions for RPC.
//!
//! The layer stands inside `json`, so that a call in JSON is the gRPC call that it becomes, and outside of `access`, so
//! that who is refused has a trace as well. What comes in between says where it takes time (`traces::step`). A stream
//! is one span, and its messages have none: it may be open for hours.
//!
//! A call that fails and whose trace is known has the trace's id in its details, as `google.rpc.RequestInfo`.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Polling, Poll};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Either};
use http::{Request, Response};
use http_body::Frame;
use opentelemetry::Context;
use opentelemetry::trace::{FutureExt as _, SpanKind, TraceContextExt};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower_layer::Layer;
use tower_service::Service;

use super::name;
use crate::traces::{Traces, Work, w3c};

/// Calls that nobody looks for, and that come all the time.
const UNTRACED: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

/// Puts traces around services; does nothing where none are made.
#[derive(Clone)]
pub(super) struct TraceLayer(Option<Arc<Tracing>>);

struct Tracing {
    traces: Traces,
    /// What can be called, as `package.Service/Method`: a span has no other name that the caller chose.
    methods: HashSet<String>,
}

impl TraceLayer {
    pub(super) fn new(traces: Traces, pool: &DescriptorPool) -> Self {
        let services: Vec<_> = pool.services().collect();
        let methods = services.iter().flat_map(|service| service.methods());
        let name = |method: MethodDescriptor| {
            format!("{}/{}", method.parent_service().full_name(), method.name())
        };
        let is_on = traces.is_on();
        Self(is_on.then(|| {
            Arc::new(Tracing {
                traces,
                methods: methods.map(name).collect(),
            })
        }))
    }
}

impl Tracing {
    /// What is known of a call's trace: its span, or only its id where it is not recorded.
    fn begin<B>(&self, request: &Request<B>) -> Option<Call> {
        let path = request.uri().path();
        if UNTRACED.iter().any(|untraced| path.starts_with(untraced)) {
            return None;
        }
        let caller = w3c::of_headers(request.headers());
        if let Some(caller) = caller.as_ref().filter(|caller| !caller.is_sampled()) {
            let context = Context::new().with_remote_span_context(caller.clone());
            return Some(Call {
                context,
                work: None,
            });
        }
        let work = self.traces.begin(SpanKind::Server, caller.as_ref())?;
        work.note("rpc.system", "grpc");
        let method = path
            .strip_prefix('/')
            .filter(|path| self.methods.contains(*path));
        match method.and_then(|method| method.split_once('/').map(|parts| (method, parts))) {
            Some((full, (service, method))) => {
                work.rename(full.to_owned());
                work.note("rpc.service", service.to_owned());
                work.note("rpc.method", method.to_owned());
            }
            None => work.rename("grpc"),
        }
        if let Some(authority) = request.uri().authority() {
            work.note("server.address", authority.host().to_owned());
            if let Some(port) = authority.port_u16() {
                work.note("server.port", i64::from(port));
            }
        }
        Some(Call {
            context: work.context().clone(),
            work: Some(work),
        })
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Traced {
            tracing: self.0.clone(),
            inner,
        }
    }
}

/// Services with traces around them.
#[derive(Clone)]
pub(super) struct Traced<S> {
    tracing: Option<Arc<Tracing>>,
    inner: S,
}

impl<S> Service<Request<Body>> for Traced<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, polling: &mut Polling<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(polling)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = self.tracing.as_ref();
        let Some(call) = call.and_then(|tracing| tracing.begin(&request)) else {
            return Either::Left(self.inner.call(request));
        };
        let answer = {
            let _under_way = call.context.clone().attach();
            self.inner.call(request)
        };
        let answer = answer.with_context(call.context.clone());
        Either::Right(async move { Ok(call.answered(answer.await?)) }.boxed())
    }
}

/// A call whose trace is known. One that nobody waits for any more has ended too.
struct Call {
    /// What is under way while it is worked on.
    context: Context,
    /// Nothing where it is not recorded.
    work: Option<Work>,
}

impl Call {
    fn answered(mut self, response: Response<Body>) -> Response<Body> {
        // A status that comes before any message is in the headers.
        match Status::from_header_map(response.headers()) {
            Some(status) => {
                self.end(status.code());
                match status.code() {
                    Code::Ok => response,
                    _ => self.with_id(&status).into_http(),
                }
            }
            None if self.work.is_some() => {
                response.map(|body| Body::new(TracedBody { body, call: self }))
            }
            None => response,
        }
    }

    /// The status, by which whoever reports it names the trace.
    fn with_id(&self, status: &Status) -> Status {
        let trace = self.context.span().span_context().trace_id();
        let mut details = status.get_error_details();
        details.set_request_info(trace.to_string(), "");
        let metadata = status.metadata().clone();
        Status::with_error_details_and_metadata(status.code(), status.message(), details, metadata)
    }

    fn end(&mut self, code: Code) {
        let Some(work) = self.work.take() else {
            return;
        };
        work.note("rpc.grpc.status_code", i64::from(i32::from(code)));
        // The conventions' list of what is the server's fault. Other statuses are answers.
        let is_fault = matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        );
        if is_fault {
            work.fail(name(code).to_owned());
        }
        work.end();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The body of an answer, whose call ends with it.
struct TracedBody {
    body: Body,
    call: Call,
}

impl http_body::Body for TracedBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        polling: &mut Polling<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(polling);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.call.end(status.code());
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.end(status.code()),
            Poll::Ready(None) => self.call.end(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
