//! The gate as a layer of the server.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Request, Response};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::arrival::Arrival;
use super::gate::Gate;
use super::refused::Refused;
use crate::serve::{blame, count_answer};
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
        let inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            match arrival {
                Ok(arrival) => admitted(gate, arrival, inner, request).await,
                Err(refused) => Ok(refused.told().into_http()),
            }
        })
    }
}

async fn admitted<S>(
    gate: Gate,
    arrival: Arrival,
    mut inner: S,
    request: Request<Body>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let wait = traces::step("admission");
    let admitted = gate.admit(&arrival, request).await;
    drop(wait);
    let (pass, request) = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => return Ok(refused.told().into_http()),
    };
    let called = inner.call(request);
    let called = match pass.as_ref().and_then(|pass| pass.place.as_ref()) {
        Some(held) => Either::Left(held.during(called)),
        None => Either::Right(called),
    };
    let response = match arrival.deadline {
        Some(deadline) => match timeout_at(deadline, called).await {
            Ok(response) => response?,
            // tonic's own clock, which calls it a cancellation, was set after this one.
            Err(_) => return Ok(late(arrival.method)),
        },
        None => called.await?,
    };
    let response = blame::put_right(arrival.method, response);
    Ok(match pass {
        Some(pass) => pass.answer(response).await,
        None => response,
    })
}

/// The answer to a call whose deadline has passed while it was worked on.
fn late(method: &'static str) -> Response<Body> {
    let status = Status::from(Refused::Late);
    count_answer(method, status.code());
    status.into_http()
}
