//! The threads that answer: one a core, each with connections and a runtime of its own.
//!
//! On a shared runtime, each answer of a busy connection wakes the connection's task on some core at once, which then
//! writes that answer alone: a system call, and a wake-up of the caller, for every answer. On a runtime of one thread
//! the connection's turn comes after the calls that came in with it, and one write carries all of their answers (as long
//! as they are small: [`Connection`](super::tls::Connection) says how).
//!
//! The price is that the small calls of one connection share a core. Large ones go to other threads (`answered`).

use std::convert::Infallible;
use std::net::TcpStream;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use futures::{Stream, StreamExt};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tower_layer::layer_fn;
use tower_service::Service;

use super::access::AccessLayer;
use super::admission::AdmissionLayer;
use super::json::JsonLayer;
use super::routed::{Answering, Routed};
use super::tls::{Tls, connections};
use super::traced::TraceLayer;
use crate::failure::{Failure, Outcome, with_causes};

/// How long open calls may go on after the shutdown has begun. Some never end by themselves: a
/// health check's `Watch`, for instance.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Connections that wait for a worker to take them up. Beyond, they wait in the listener's queue.
const WAITING: usize = 64;

/// How often a connection over HTTP/2 is asked whether there is somebody, and how long he may take to say so. One over
/// HTTP/1 has thirty seconds for the headers of a request, by hyper's default.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(10);

/// Calls of a connection over HTTP/2 that their caller may take back before the server has come to them. Beyond, the
/// connection is closed with all of its calls: without a bound, they would cost memory and no concurrency. h2's own, of
/// 20, is reached by a client whose deadlines are short, at every burst.
const TAKEN_BACK: usize = 1_024;

/// Calls of a connection that break the rules of HTTP/2 before it is closed. It is h2's own, which tonic takes away where
/// nothing is said.
const BROKEN: usize = 1_024;

/// What every worker has.
#[derive(Clone)]
pub(super) struct Services {
    /// The services, as they are at each call.
    pub(super) routes: Arc<ArcSwap<Routed>>,
    pub(super) json: JsonLayer,
    pub(super) traces: TraceLayer,
    pub(super) access: AccessLayer,
    pub(super) admission: AdmissionLayer,
    pub(super) tls: Option<Arc<Tls>>,
}

/// Workers that were started.
pub(super) struct Workers {
    all: Vec<Worker>,
    stop: watch::Sender<bool>,
}

struct Worker {
    connections: mpsc::Sender<TcpStream>,
    ended: oneshot::Receiver<Outcome<()>>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts one a core.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub(super) fn start(services: &Services) -> Outcome<Self> {
        let (stop, stopped) = watch::channel(false);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let worker = |number| Worker::start(number, services.clone(), stopped.clone());
        Ok(Self {
            all: (0..cores).map(worker).collect::<Outcome<_>>()?,
            stop,
        })
    }

    /// Gives each connection to the next worker in turn, for ever.
    ///
    /// # Errors
    /// A worker that has ended.
    pub(super) async fn deal_out(
        &mut self,
        accepted: impl Stream<Item = tokio::net::TcpStream>,
    ) -> Outcome<()> {
        let mut accepted = pin!(accepted);
        let mut turn = 0;
        while let Some(connection) = accepted.next().await {
            let Ok(connection) = connection.into_std() else {
                // It has gone.
                continue;
            };
            let worker = turn % self.all.len();
            turn += 1;
            if self.all[worker].connections.send(connection).await.is_err() {
                return self.all.swap_remove(worker).end().await;
            }
        }
        Ok(())
    }

    /// Ends the open calls, or leaves those that do not end in time.
    ///
    /// # Errors
    /// A worker that failed.
    pub(super) async fn stop(self) -> Outcome<()> {
        // Refused only by workers that have ended, which is what is wanted.
        let _ = self.stop.send(true);
        for worker in self.all {
            worker.end().await?;
        }
        Ok(())
    }
}

impl Worker {
    fn start(number: usize, services: Services, stop: watch::Receiver<bool>) -> Outcome<Self> {
        let failed = |e: std::io::Error| Failure::failed(format!("a server's thread: {e}"));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (connections, waiting) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel();
        let work = move || {
            let outcome = runtime.block_on(answer(services, waiting, stop));
            // Nobody waits for it any more when the process ends.
            let _ = end.send(outcome);
        };
        let thread = std::thread::Builder::new()
            .name(format!("serve-{number}"))
            .spawn(work)
            .map_err(failed)?;
        Ok(Self {
            connections,
            ended,
            thread,
        })
    }

    async fn end(self) -> Outcome<()> {
        drop(self.connections);
        let outcome = self.ended.await;
        // It has said how it ended, or panicked.
        let _ = self.thread.join();
        outcome.unwrap_or_else(|_| {
            Err(Failure::failed(
                "a server's thread panicked; this is a bug, please report it",
            ))
        })
    }
}

/// Answers calls of the connections that come, until it is stopped and the open calls have ended.
async fn answer(
    services: Services,
    waiting: mpsc::Receiver<TcpStream>,
    mut stop: watch::Receiver<bool>,
) -> Outcome<()> {
    // A connection becomes this thread's here.
    let accepted = ReceiverStream::new(waiting)
        .filter_map(async |connection| tokio::net::TcpStream::from_std(connection).ok());
    // Without new connections the open ones go on: the stream does not end before it is stopped.
    let accepted = accepted.chain(futures::stream::pending());
    let mut stopped = stop.clone();
    let server = Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_ANSWER))
        .http2_max_pending_accept_reset_streams(Some(TAKEN_BACK))
        .http2_max_local_error_reset_streams(Some(BROKEN))
        // The first is the outermost.
        .layer(services.json)
        .layer(services.traces)
        .layer(services.access)
        .layer(services.admission)
        .layer(layer_fn(move |_: Routes| {
            Current(Cache::new(Arc::clone(&services.routes)))
        }))
        .add_routes(Routes::default())
        .serve_with_incoming_shutdown(connections(services.tls, accepted), async move {
            // A sender that was dropped stops it too.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        });
    let mut server = pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map_err(|e| failed(&e)),
        _ = stop.wait_for(|stopped| *stopped) => {}
    }
    match tokio::time::timeout(SHUTDOWN_GRACE, server).await {
        Ok(ended) => ended.map_err(|e| failed(&e)),
        Err(_) => Ok(()),
    }
}

/// The services as they are at each call.
#[derive(Clone)]
struct Current(Cache<Arc<ArcSwap<Routed>>, Arc<Routed>>);

impl Service<http::Request<Body>> for Current {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Services take what comes: what may wait does so in `admission`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.load().call(request)
    }
}

fn failed(error: &tonic::transport::Error) -> Failure {
    Failure::failed(format!("the server failed: {}", with_causes(error)))
}
