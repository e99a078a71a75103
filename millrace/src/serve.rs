//! The gRPC server: look-ups of features, scores and model versions, with health and reflection.
//!
//! It answers from committed state and changes nothing. Each service translates between messages
//! and the library crates, where all the meaning is; every error becomes a status in `refusal`.
//! What fills the store is `pipeline`; the commands that ask this server are in `client`.

mod features;
mod keys;
mod models;
mod refusal;
mod scoring;
#[cfg(test)]
pub(crate) mod tests;
mod values;

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use millrace_proto::v1::FILE_DESCRIPTOR_SET;
use millrace_proto::v1::feature_service_server::FeatureServiceServer;
use millrace_proto::v1::model_service_server::ModelServiceServer;
use millrace_proto::v1::scoring_service_server::ScoringServiceServer;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::failure::{Failure, Outcome, with_causes};
use crate::live::Live;

use features::Features;
use models::Models;
use refusal::Refusal;
use scoring::Scoring;

pub(crate) use models::{Version, versions};
pub(crate) use values::{time_us, timestamp};

/// Most bytes of one message, in either direction. A larger one is refused.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Most entities or events of one call. It bounds the memory and the time that one call takes.
pub const MAX_ITEMS: usize = 10_000;

/// How long open calls may go on after the shutdown has begun. Some never end by themselves: a
/// health check's `Watch`, for instance.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Takes an address. Port 0 takes a free one, which the listener's `local_addr` tells.
///
/// # Errors
/// A port that is in use, or an address that is not this machine's.
pub async fn bind(listen: SocketAddr) -> Outcome<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| {
        let who = match error.kind() {
            ErrorKind::AddrInUse => {
                "another process has this port, perhaps another `millrace run`: "
            }
            _ => "",
        };
        Failure::failed(format!("cannot listen on {listen}: {error}")).hint(format!(
            "{who}--listen, or server.listen in millrace.toml, names another address"
        ))
    })
}

/// Answers calls on `listener` until `shutdown` completes and the open calls have ended, for which
/// they have five seconds.
///
/// # Errors
/// A model's stream that cannot be decoded, or a listener that fails.
pub async fn serve(
    live: Live,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Outcome<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    report(&reporter, ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|e| Failure::failed(format!("server reflection: {}", with_causes(&e))))?;
    let features = FeatureServiceServer::new(Features::new(live.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let scoring = ScoringServiceServer::new(Scoring::new(live.clone())?)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (stop, stopped) = oneshot::channel();
    let server = Server::builder()
        .add_service(health)
        .add_service(reflection)
        .add_service(features)
        .add_service(scoring)
        .add_service(ModelServiceServer::new(Models::new(live)))
        // A small answer must not wait for a larger one to share its packet.
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async { stopped.await.unwrap_or(()) },
        );
    let mut server = pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map_err(|e| server_failed(&e)),
        () = shutdown => {}
    }
    report(&reporter, ServingStatus::NotServing).await;
    // Refused only by a server that has ended, which is what is wanted.
    let _ = stop.send(());
    match tokio::time::timeout(SHUTDOWN_GRACE, server).await {
        Ok(ended) => ended.map_err(|e| server_failed(&e)),
        Err(_) => Ok(()),
    }
}

fn server_failed(error: &tonic::transport::Error) -> Failure {
    Failure::failed(format!("the gRPC server failed: {}", with_causes(error)))
}

/// Tells health checks how the server as a whole and each of its services are.
async fn report(reporter: &HealthReporter, status: ServingStatus) {
    let services = [
        "",
        "millrace.v1.FeatureService",
        "millrace.v1.ScoringService",
        "millrace.v1.ModelService",
    ];
    for service in services {
        reporter.set_service_status(service, status).await;
    }
}

/// Answers one call, counts it by its status and logs what is not the caller's fault.
fn answered<T>(
    method: &'static str,
    answer: impl FnOnce() -> Result<T, Refusal>,
) -> Result<Response<T>, Status> {
    let answer = in_place(answer).map_err(Status::from);
    let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
    metrics::counter!("millrace_requests_total", "method" => method, "status" => name(code))
        .increment(1);
    if let (Code::Internal, Err(status)) = (code, &answer) {
        tracing::error!(method, error = status.message(), "a call failed");
    }
    answer.map(Response::new)
}

/// Runs what reads the store where the call is, and lets other threads take over the waiting calls.
///
/// One look-up takes some 20 to 100 µs, of which a hop to another thread and back (`spawn_blocking`)
/// would be a good part; but how long one takes is not known beforehand, so it must not hold up a
/// thread that other calls wait for. `block_in_place` does both: the hand-over goes on beside the
/// look-up. Only a runtime with a single thread, as in tests, has nobody to hand over to.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::block_in_place(work),
    }
}

/// A status as metrics name it.
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::NotFound => "not_found",
        Code::FailedPrecondition => "failed_precondition",
        Code::OutOfRange => "out_of_range",
        Code::Internal => "internal",
        _ => "other",
    }
}
