//! The gate as a layer of the server, and the body that holds a place until the answer has ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Frame;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::arrival::Arrival;
use super::gate::{Gate, Pass};
use super::refused::Refused;
use crate::traces;

/// Puts a [`Gate`] in front of services. It stands inside `access`, which says who the client is.
#[derive(Debug, Clone)]
pub(in crate::serve) struct AdmissionLayer {
    gate: Gate,
}

impl AdmissionLayer {
    pub(in crate::serve) fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let gate = self.gate.clone();
        Admitted { gate, inner }
    }
}

/// Services behind a [`Gate`].
#[derive(Debug, Clone)]
pub(in crate::serve) struct Admitted<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Before the future is first polled, so that a deadline that passes in line is answered here, as what it is,
        // and not by tonic's own timer, which starts after this call.
        let arrival = Arrival::of(&request, Instant::now());
        let gate = self.gate.clone();
        // The service that is ready is the one to call; its clone may not be.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let wait = traces::step("admission");
            let admitted = match arrival {
                Ok(arrival) => gate.admit(arrival).await,
                Err(refused) => Err(refused),
            };
            drop(wait);
            match admitted {
                Ok(pass) => Ok(inner.call(request).await?.map(|body| holding(pass, body))),
                Err(refused) => Ok(answer(refused)),
            }
        })
    }
}

fn answer(refused: Refused) -> Response<Body> {
    metrics::counter!("millrace_requests_refused_total", "reason" => refused.reason()).increment(1);
    Status::from(refused).into_http()
}

fn holding(pass: Option<Pass>, body: Body) -> Body {
    match pass {
        Some(pass) => Body::new(HoldingBody {
            body,
            pass: Some(pass),
        }),
        None => body,
    }
}

/// The body of an answer, which holds its request's place until it has ended.
#[derive(Debug)]
struct HoldingBody {
    body: Body,
    pass: Option<Pass>,
}

impl http_body::Body for HoldingBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {}
            // Trailers, an error or nothing: what remains is not this server's work.
            Poll::Ready(_) => self.pass = None,
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
