//! The server: look-ups of features, scores and model versions over gRPC, the same as JSON over HTTP, Feast's
//! interface, health and reflection.
//!
//! It answers from committed state. Each service translates between messages and the library crates, where all the
//! meaning is; every error becomes a status in `refusal`. A request passes, from the outside in: TLS (`tls`), JSON
//! to gRPC (`json`), its trace (`traced`), who may call what (`access`), how much at once (`admission`), its service.
//!
//! ```text
//!            ┌ features ┐
//!  request ─►│ feast    ├─► catalog (names) ─► keys ─► look_up ─► columns ─► answer
//!            └ scoring  ┘
//! ```
//!
//! What fills the store is `pipeline`; the commands that ask this server are in `client`.

pub mod access;
pub mod admission;
mod blame;
mod catalog;
mod columns;
mod feast;
mod features;
mod handles;
mod json;
mod keys;
mod look_up;
mod models;
mod refusal;
mod reloaded;
mod routed;
mod scoring;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;
mod traced;
mod unary;
mod workers;

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use millrace_proto::FILE_DESCRIPTOR_SET;
use millrace_proto::feast::feast::serving::serving_service_server::ServingServiceServer;
use millrace_proto::feast::grpc_feature_server_server::GrpcFeatureServerServer;
use millrace_proto::v1::model_service_server::ModelServiceServer;
use prost_reflect::DescriptorPool;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::failure::{Failure, Outcome, with_causes};
use crate::live::{Live, Progress};
use crate::traces::{self, Traces};
use crate::workspace::Workspace;

use access::{Access, AccessLayer, AccessSettings, Caller};
use admission::{AdmissionLayer, Gate, Work};
use catalog::Catalog;
use feast::Feast;
use features::Features;
use json::JsonLayer;
use models::Models;
use refusal::Refusal;
use routed::Routed;
use scoring::Scoring;
use tls::{Tls, accepted};
use traced::TraceLayer;
use workers::{Services, Workers};

pub(crate) use columns::{time_us, timestamp};
pub(crate) use models::{Version, versions};

/// Most bytes of one message, in either direction. A larger one is refused.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Most entities or events of one call. It bounds the memory and the time that one call takes.
pub const MAX_ITEMS: usize = 10_000;

/// How often it is looked whether there is something to answer from.
const BLANK: Duration = Duration::from_millis(100);

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
/// Connections are dealt out to [`workers`], one a core.
///
/// # Errors
/// Certificates or tokens that cannot be read, a model's stream that cannot be decoded, or a listener that fails.
pub async fn serve(
    live: Live,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Outcome<()> {
    Server::new(live)?.serve(listener, shutdown).await
}

/// A server of one project at a time.
#[derive(Clone)]
pub struct Server {
    access: AccessLayer,
    tls: Option<Arc<Tls>>,
    gate: Gate,
    traces: Traces,
    progress: Arc<Progress>,
    reporter: HealthReporter,
    /// Health and reflection.
    common: Routes,
    routes: Arc<ArcSwap<Routed>>,
}

impl Server {
    /// A server that answers for a project, on no address yet.
    ///
    /// # Errors
    /// Certificates or tokens that cannot be read, a model's stream that cannot be decoded.
    pub fn new(live: Live) -> Outcome<Self> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let next = live.progress.filling().into_keys();
        let (access, tls) = doors(&live.workspace, next)?;
        let gate = Gate::new(live.workspace.settings.server.limits.clone());
        let common = with_reflection(Routes::default().add_service(health))?;
        let traces = live.traces.clone();
        let progress = Arc::clone(&live.progress);
        let routes = routes(common.clone(), live, &gate)?;
        Ok(Self {
            access: AccessLayer::new(access),
            tls: tls.map(Arc::new),
            gate,
            traces,
            progress,
            reporter,
            common,
            routes: Arc::new(ArcSwap::from_pointee(routes)),
        })
    }

    /// Answers for another project from the next call on. Calls that have begun end with the one before.
    ///
    /// # Errors
    /// A model's stream that cannot be decoded: the project before is served on.
    pub fn take_over(&self, live: Live) -> Outcome<()> {
        let routes = routes(self.common.clone(), live, &self.gate)?;
        self.routes.store(Arc::new(routes));
        Ok(())
    }

    /// Answers calls on `listener` until `shutdown` completes, as [`serve`] does.
    ///
    /// # Errors
    /// As there.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Outcome<()> {
        warn_if_open(listener.local_addr().ok(), self.access.is_on());
        let status = match self.progress.is_blank() {
            true => ServingStatus::NotServing,
            false => ServingStatus::Serving,
        };
        report(&self.reporter, status).await;
        let (progress, reporter) = (Arc::clone(&self.progress), self.reporter.clone());
        let ready = async {
            // Nobody is to be sent to where there is nothing to answer from.
            while progress.is_blank() {
                tokio::time::sleep(BLANK).await;
            }
            report(&reporter, ServingStatus::Serving).await;
            std::future::pending::<()>().await;
        };
        let pool = descriptors()?;
        let services = Services {
            traces: TraceLayer::new(self.traces, &pool),
            routes: Arc::clone(&self.routes),
            json: JsonLayer::new(pool, MAX_MESSAGE_BYTES, self.gate.clone()),
            access: self.access,
            admission: AdmissionLayer::new(self.gate),
            tls: self.tls,
        };
        let mut workers = Workers::start(&services)?;
        tokio::select! {
            ended = workers.deal_out(accepted(listener)) => return ended,
            () = ready => {}
            () = shutdown => {}
        }
        report(&self.reporter, ServingStatus::NotServing).await;
        workers.stop().await
    }
}

/// Reads the files that decide who is let in: what is wrong with them is said before anything starts.
///
/// # Errors
/// Of kind input: certificates or tokens that cannot be read, or have a mistake.
pub fn check_doors(workspace: &Workspace) -> Outcome<()> {
    doors(workspace, []).map(|_| ())
}

/// The settings of who is let in, and the files that they name, as far as those are there: `millrace check` may run on
/// a machine that has no secrets. Says of each that is not there, by its setting, that `run` will want it.
///
/// # Errors
/// Of kind input: settings that belong to what is not there, a mistake in a file.
pub fn check_files(workspace: &Workspace) -> Outcome<Vec<String>> {
    let settings = &workspace.settings.server;
    settings.access.check()?;
    let there = |file: Option<&PathBuf>| file.filter(|file| workspace.path(file).exists()).cloned();
    let jwks = there(settings.access.jwks.as_ref());
    // The issuer and the audience are of the keys.
    let others = match jwks.is_some() {
        true => settings.access.clone(),
        false => AccessSettings::default(),
    };
    let found = AccessSettings {
        tokens: there(settings.access.tokens.as_ref()),
        jwks,
        ..others
    };
    let access = Access::open(&found, &workspace.folder, &view_names(workspace, []));
    access.map_err(|failure| of_setting(workspace, "server.access", failure))?;
    let files = named_files(workspace);
    let absent: Vec<_> = files.iter().filter(|(_, file)| !file.exists()).collect();
    let is_whole = !absent
        .iter()
        .any(|(name, _)| name.starts_with("server.tls"));
    if let Some(tls) = settings.tls.as_ref().filter(|_| is_whole) {
        let tls = Tls::open(tls, &workspace.folder);
        tls.map_err(|failure| of_setting(workspace, "server.tls", failure))?;
    }
    let line = |(name, file): &&(&str, PathBuf)| {
        let file = file.display();
        format!("{name}: {file} is not there: `millrace run` does not start without it")
    };
    Ok(absent.iter().map(line).collect())
}

/// The files that settings of the server name, by their settings.
fn named_files(workspace: &Workspace) -> Vec<(&'static str, PathBuf)> {
    let (access, tls) = (
        &workspace.settings.server.access,
        workspace.settings.server.tls.as_ref(),
    );
    let named = [
        ("server.access.tokens", access.tokens.as_ref()),
        ("server.access.jwks", access.jwks.as_ref()),
        ("server.tls.certificate", tls.map(|tls| &tls.certificate)),
        ("server.tls.key", tls.map(|tls| &tls.key)),
        (
            "server.tls.client_ca",
            tls.and_then(|tls| tls.client_ca.as_ref()),
        ),
    ];
    let path = |(name, file): (&'static str, Option<&PathBuf>)| Some((name, workspace.path(file?)));
    named.into_iter().filter_map(path).collect()
}

/// Who is let in: `more` are names of views that a project is to have.
fn doors(
    workspace: &Workspace,
    more: impl IntoIterator<Item = String>,
) -> Outcome<(Option<Access>, Option<Tls>)> {
    let (settings, folder) = (&workspace.settings.server, &workspace.folder);
    let access = Access::open(&settings.access, folder, &view_names(workspace, more));
    let access = access.map_err(|failure| of_setting(workspace, "server.access", failure))?;
    let tls = settings.tls.as_ref();
    let tls = tls.map(|tls| Tls::open(tls, folder)).transpose();
    let tls = tls.map_err(|failure| of_setting(workspace, "server.tls", failure))?;
    Ok((access, tls))
}

/// Says which setting of `millrace.toml` names the file that is wrong; where it is of no file, the section.
fn of_setting(workspace: &Workspace, section: &str, failure: Failure) -> Failure {
    if failure.message.starts_with(section) {
        return failure;
    }
    let files = named_files(workspace);
    let of_file = files.iter().find(|(name, file)| {
        let place = format!("{}: ", file.display());
        name.starts_with(section) && failure.message.starts_with(&place)
    });
    let is_absent = of_file.is_some_and(|(_, file)| !file.exists());
    let name = of_file.map_or(section, |(name, _)| *name);
    let hint = match is_absent && failure.hint.is_none() {
        true => Some("the path is relative to the project's folder".to_owned()),
        false => failure.hint,
    };
    Failure {
        message: format!("{name}: {}", failure.message),
        hint,
        ..failure
    }
}

fn view_names(workspace: &Workspace, more: impl IntoIterator<Item = String>) -> Vec<String> {
    let views = workspace.project.views.iter();
    views.map(|view| view.name.clone()).chain(more).collect()
}

/// The services of a project, beside those that every server has.
fn routes(common: Routes, live: Live, gate: &Gate) -> Outcome<Routed> {
    let catalog = Arc::new(Catalog::new(&live));
    let features = Features::new(live.clone(), Arc::clone(&catalog), gate.clone());
    let scoring = Scoring::new(live.clone(), gate.clone())?;
    let feast = Feast::new(live.clone(), catalog);
    let feast_serving = ServingServiceServer::new(feast.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let feast_server = GrpcFeatureServerServer::new(feast)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let others = common
        .add_service(feast_serving)
        .add_service(feast_server)
        .add_service(ModelServiceServer::new(Models::new(live)));
    Ok(Routed::new(features, scoring, others))
}

/// The files that describe every message that can be sent here.
const DESCRIPTORS: [&[u8]; 5] = [
    FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    // Of the details of errors.
    tonic_types::pb::FILE_DESCRIPTOR_SET,
];

fn descriptors() -> Outcome<DescriptorPool> {
    let mut pool = DescriptorPool::new();
    for set in DESCRIPTORS {
        pool.decode_file_descriptor_set(set)
            .map_err(|e| Failure::failed(format!("the contract: {}", with_causes(&e))))?;
    }
    Ok(pool)
}

/// Adds server reflection, in the version that clients have asked for since 2023, and in the one before.
fn with_reflection(routes: Routes) -> Outcome<Routes> {
    let builder = || {
        DESCRIPTORS.into_iter().fold(
            tonic_reflection::server::Builder::configure(),
            tonic_reflection::server::Builder::register_encoded_file_descriptor_set,
        )
    };
    let failed = |e: tonic_reflection::server::Error| {
        Failure::failed(format!("server reflection: {}", with_causes(&e)))
    };
    let current = builder().build_v1().map_err(failed)?;
    let older = builder().build_v1alpha().map_err(failed)?;
    Ok(routes.add_service(current).add_service(older))
}

/// Without access control, everybody who reaches the address may do everything.
fn warn_if_open(address: Option<SocketAddr>, is_guarded: bool) {
    if let Some(address) = address.filter(|address| !is_guarded && !address.ip().is_loopback()) {
        tracing::warn!(
            %address,
            "everybody who reaches this address may read features, score and move models: server.access in \
             millrace.toml asks for tokens"
        );
    }
}

/// Tells health checks how the server as a whole and each of its services are.
async fn report(reporter: &HealthReporter, status: ServingStatus) {
    let services = [
        "",
        "millrace.v1.FeatureService",
        "millrace.v1.ScoringService",
        "millrace.v1.ModelService",
        "feast.serving.ServingService",
        "GrpcFeatureServer",
    ];
    for service in services {
        reporter.set_service_status(service, status).await;
    }
}

/// More than a few answers: a call that may take a while, whatever it asks for.
const LARGE: usize = usize::MAX;

/// So many answers of views take well below a millisecond.
const SMALL: usize = 64;

/// Answers one call of about `size` answers of views, counts it by its status and logs what is not the caller's
/// fault.
///
/// A small call is answered where it is: a hop to another thread and back costs more than most look-ups. A large one
/// must not hold up the calls that wait behind it, and goes to the threads for such.
async fn answered<T: Send + 'static>(
    method: &'static str,
    size: usize,
    answer: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<Response<T>, Status> {
    let answer = match size <= SMALL {
        true => answer(),
        false => elsewhere(answer).await,
    };
    counted(method, answer).map(Response::new)
}

/// Does on another thread what takes a while. It has the place of the request that it is for until it has ended, whether
/// or not that still waits.
async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let work = Work::carried(traces::carried(work));
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Refusal::Internal(e.to_string())))
}

/// Counts a call by its status and logs what is not the caller's fault.
fn counted<T>(method: &'static str, answer: Result<T, Refusal>) -> Result<T, Status> {
    let answer = answer.map_err(Status::from);
    let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
    count_answer(method, code);
    if let (Code::Internal, Err(status)) = (code, &answer) {
        tracing::error!(method, error = status.message(), "a call failed");
    }
    answer
}

fn count_answer(method: &'static str, code: Code) {
    metrics::counter!("millrace_requests_total", "method" => method, "status" => name(code))
        .increment(1);
}

/// The methods, as metrics name them.
const METHODS: [&str; 16] = [
    "GetFeatures",
    "Score",
    "StreamFeatures",
    "Prepare",
    "ListViews",
    "ScoreStream",
    "ListModels",
    "GetModel",
    "Promote",
    "Rollback",
    "SetTraffic",
    "GetOnlineFeatures",
    "GetFeastServingInfo",
    "Push",
    "WriteToOnlineStore",
    "Check",
];

/// The method at a path, by a name that no caller has chosen.
fn method_name(path: &str) -> &'static str {
    let last = path.rsplit('/').next().unwrap_or_default();
    let known = METHODS.iter().find(|method| **method == last);
    known.copied().unwrap_or("other")
}

/// Who calls.
fn caller<T>(request: &Request<T>) -> Arc<Caller> {
    Caller::of(request.extensions())
}

/// A status as metrics name it.
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::NotFound => "not_found",
        Code::FailedPrecondition => "failed_precondition",
        Code::PermissionDenied => "permission_denied",
        Code::Unavailable => "unavailable",
        Code::OutOfRange => "out_of_range",
        Code::ResourceExhausted => "resource_exhausted",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::Internal => "internal",
        _ => "other",
    }
}
