//! `millrace run`: starts the roles of a project in one process, and stops them in order.
//!
//! - ingest: a thread that owns the consumer and applies steps to the store (`run/ingest.rs`, `pipeline.rs`);
//! - serve: gRPC on a runtime of its own (`serve.rs`);
//! - learn: a thread that updates the model when a period has ended (`run/learn.rs`, `learning.rs`).
//!
//! `run/threads.rs` has what their threads share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::{Args, ValueEnum};
use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_feature_store::Store;
use millrace_ingest::existing_topics;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::described;
use crate::evolve::{self, Transition};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Signals;
use crate::live::{Live, Progress};
use crate::marks::Marks;
use crate::pipeline::log_start;
use crate::registry::Registries;
use crate::runtime::{parse_address, runtime};
use crate::scorer::Scorer;
use crate::serve::{self, Server};
use crate::traces::Traces;
use crate::workspace::Workspace;

mod ingest;
mod learn;
mod threads;

pub use learn::learn_once;

use threads::join;

/// `millrace run`
#[derive(Debug, Args, Clone)]
pub struct RunArgs {
    /// The roles of this process.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "ingest,serve,learn",
        value_name = "ROLE,…"
    )]
    pub roles: Vec<Role>,
    /// Kafka's bootstrap servers, in place of the project's kafka.brokers.
    #[arg(long, value_name = "HOST:PORT,…")]
    pub brokers: Option<String>,
    /// Address of the gRPC services, in place of the project's server.listen.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    pub listen: Option<SocketAddr>,
    /// Address of the Prometheus endpoint, in place of the project's server.metrics.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    pub metrics: Option<SocketAddr>,
    /// Create the project's topics where they are missing.
    #[arg(long)]
    pub create_topics: bool,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Read events into the store, and score them.
    Ingest,
    /// Answer look-ups and scores over gRPC.
    Serve,
    /// Update the model.
    Learn,
}

/// Runs until a signal asks to stop.
///
/// # Errors
/// What kept a role from starting, or ended it.
pub fn run(mut workspace: Workspace, args: RunArgs) -> Outcome<()> {
    args.apply(&mut workspace);
    if args.roles.contains(&Role::Serve) {
        serve::check_doors(&workspace)?;
    }
    let mut create = Vec::new();
    if args.create_topics {
        let kafka = &workspace.settings.kafka;
        let is_away = || existing_topics(kafka, &AtomicBool::new(false)).is_err();
        match args.roles.contains(&Role::Ingest) && is_away() {
            // Who reads makes them as soon as there is a broker.
            true => create = topics(&workspace),
            false => create_topics(&workspace)?,
        }
    }
    let runtime = runtime()?;
    let metrics = workspace.settings.server.metrics;
    runtime.block_on(async { export_metrics(metrics) })?;
    // One listener for all the time, and before anybody is answered: a signal that comes while the system starts, or
    // while the next project takes over, is not lost.
    let mut signals = Signals::register(&runtime)?;
    let mut asked_to_stop = runtime.spawn(async move { signals.next().await });
    let mut running = Running::start_with(Arc::new(workspace), &args.roles, create)?;
    if let Some(address) = running.address {
        info!(%address, %metrics, "ready");
    }
    while let Wake::CaughtUp = runtime.block_on(running.wake(&mut asked_to_stop)) {
        running.take_over()?;
    }
    info!("stopping: what was read is made durable");
    running.stop()
}

impl RunArgs {
    fn apply(&self, workspace: &mut Workspace) {
        let settings = &mut workspace.settings;
        if let Some(brokers) = &self.brokers {
            settings.kafka.brokers.clone_from(brokers);
        }
        settings.server.listen = self.listen.unwrap_or(settings.server.listen);
        settings.server.metrics = self.metrics.unwrap_or(settings.server.metrics);
    }
}

/// The topics that a project reads and writes.
#[must_use]
pub fn topics(workspace: &Workspace) -> Vec<(String, i32)> {
    let partitions = workspace.settings.topics.partitions;
    let streams = workspace
        .project
        .streams
        .iter()
        .map(|stream| stream.topic.clone());
    let scores = workspace
        .model
        .iter()
        .map(|model| model.settings.scores.clone());
    streams
        .chain(scores)
        .map(|topic| (topic, partitions))
        .collect()
}

/// Creates the project's topics where they are missing.
///
/// # Errors
/// A broker that is not there, or refuses.
pub fn create_topics(workspace: &Workspace) -> Outcome<()> {
    let kafka = &workspace.settings.kafka;
    let topics = topics(workspace);
    for topic in millrace_ingest::ensure_topics(&kafka.brokers, &kafka.properties, &topics)? {
        info!(topic, "a topic was created");
    }
    Ok(())
}

fn export_metrics(address: SocketAddr) -> Outcome<()> {
    PrometheusBuilder::new()
        .with_http_listener(address)
        .install()
        .map_err(|e| {
            Failure::failed(format!("no metrics on {address}: {e}")).hint(
                "is the port in use? --metrics, or server.metrics in millrace.toml, name another",
            )
        })?;
    described::describe();
    Ok(())
}

/// The roles of a process, started.
pub struct Running {
    /// What they share.
    pub live: Live,
    /// Where gRPC answers, with the serve role.
    pub address: Option<SocketAddr>,
    /// Where the learner trains, with the learn role.
    pub device: Option<String>,
    registries: Registries,
    /// Topics that are made where they are missing, with their partitions.
    create: Vec<(String, i32)>,
    roles: Vec<Role>,
    server: Option<Serving>,
    /// Ends the threads of the project that is served.
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// The views of the next project, where they have not caught up.
    filling: Option<Filling>,
    /// Set when a role has ended by itself.
    ended: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<Failure>>>,
}

/// A server that was started.
struct Serving {
    server: Server,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Views that are being filled.
struct Filling {
    transition: Transition,
    has_caught_up: Arc<AtomicBool>,
}

/// Why a running process needs attention.
enum Wake {
    /// A role has ended, or a signal asks to stop.
    End,
    /// The next project's views have their rows.
    CaughtUp,
}

impl Running {
    /// Starts `roles` of a project, whose topics are there.
    ///
    /// # Errors
    /// What keeps a role from starting: a store or a port in use. A broker that is not there does not: what the store has
    /// is served, and events are read when there is one.
    pub fn start(workspace: Arc<Workspace>, roles: &[Role]) -> Outcome<Self> {
        Self::start_with(workspace, roles, Vec::new())
    }

    /// The same, where those of the topics in `create` that are missing are made first, with so many partitions.
    fn start_with(
        workspace: Arc<Workspace>,
        roles: &[Role],
        create: Vec<(String, i32)>,
    ) -> Outcome<Self> {
        let store: Arc<dyn Store> = Arc::new(workspace.open_store()?);
        let mut registries = Registries::default();
        if workspace.model.is_some() {
            // Before the store notes that its views are to change.
            let registry = registries.open(workspace.registry()?)?;
            workspace.check_champion(&registry)?;
        }
        let transition = evolve::begin(store.as_ref(), &workspace)?;
        let traces = Traces::open(&workspace.settings.traces)?;
        if let Some(transition) = &transition {
            // What the next project's model needs is said now, and not when its views have caught up.
            live(
                Arc::clone(&transition.next),
                Arc::clone(&store),
                Arc::default(),
                traces.clone(),
                &mut registries,
                true,
            )?;
        }
        let served = transition.as_ref().map(|next| Arc::clone(&next.served));
        let is_wanted = served.is_none();
        let live = live(
            served.unwrap_or(workspace),
            store,
            Arc::default(),
            traces,
            &mut registries,
            is_wanted,
        )?;
        if let Some(transition) = &transition {
            live.progress.set_filling(transition.new_names());
        }
        if roles.contains(&Role::Ingest) {
            live.progress.set_reading();
        }
        log_start(&live.workspace, live.store.as_ref())?;
        let mut running = Self {
            live,
            address: None,
            device: None,
            registries,
            create,
            roles: roles.to_vec(),
            server: None,
            stop: Arc::default(),
            threads: Vec::new(),
            filling: transition.map(|transition| Filling {
                transition,
                has_caught_up: Arc::default(),
            }),
            ended: Arc::default(),
            failure: Arc::default(),
        };
        let started = running.start_server().and_then(|()| running.start_roles());
        match started {
            Ok(()) => Ok(running),
            Err(failure) => {
                // The roles that did start hold the store: it is closed before the process ends. What they say
                // of being stopped is not what is wrong.
                let _ = running.stop();
                Err(failure)
            }
        }
    }

    /// Starts what serves a project, but for the server.
    fn start_roles(&mut self) -> Outcome<()> {
        if self.roles.contains(&Role::Ingest) {
            self.start_ingest()?;
            match &self.filling {
                Some(_) => self.start_filler()?,
                None => self.start_sweep()?,
            }
        } else if self.filling.is_some() {
            warn!("the views that are new wait for a process with the role ingest");
        }
        if self.live.scorer.is_none() {
            return Ok(());
        }
        self.follow_registry();
        match self.roles.contains(&Role::Learn) {
            true => self.start_learner(),
            false => Ok(()),
        }
    }

    fn start_server(&mut self) -> Outcome<()> {
        if !self.roles.contains(&Role::Serve) {
            return Ok(());
        }
        let runtime = runtime()?;
        let listen = self.live.workspace.settings.server.listen;
        let listener: TcpListener = runtime.block_on(serve::bind(listen))?;
        let address = listener.local_addr();
        self.address = Some(address.map_err(|e| Failure::failed(format!("{listen}: {e}")))?);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::new(self.live.clone())?;
        let answering = server.clone();
        // It stops when it is told to, and with no project's threads.
        let never = Arc::default();
        let thread = self.thread("serve", never, move |_| {
            runtime.block_on(answering.serve(listener, async {
                // A dropped sender stops the server too.
                let _ = stopped.await;
            }))
        })?;
        self.server = Some(Serving {
            server,
            stop,
            thread,
        });
        Ok(())
    }

    /// Serves the next project, whose views have caught up: calls are answered all the while.
    ///
    /// # Errors
    /// What keeps a role of the next project from starting, or failed in one of the one before.
    fn take_over(&mut self) -> Outcome<()> {
        let Some(filling) = self.filling.take() else {
            return Ok(());
        };
        self.stop_roles()?;
        let next = filling.transition.next;
        evolve::finish(self.live.store.as_ref(), &next)?;
        let store = Arc::clone(&self.live.store);
        let progress = Arc::clone(&self.live.progress);
        let traces = self.live.traces.clone();
        self.live = live(next, store, progress, traces, &mut self.registries, true)?;
        self.stop = Arc::default();
        if let Some(serving) = &self.server {
            serving.server.take_over(self.live.clone())?;
        }
        self.live.progress.set_filling([]);
        info!("the views have caught up, and are served");
        self.start_roles()
    }

    /// True once a role ended, or stopping was asked for.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    async fn wake(&self, asked_to_stop: &mut tokio::task::JoinHandle<()>) -> Wake {
        let noticed = async {
            loop {
                let filling = self.filling.as_ref();
                if self.has_ended() {
                    return Wake::End;
                }
                if filling.is_some_and(|f| f.has_caught_up.load(Ordering::Relaxed)) {
                    return Wake::CaughtUp;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            wake = noticed => wake,
            _ = asked_to_stop => Wake::End,
        }
    }

    /// Ends what serves the project, but for the server, and says what a role failed with.
    fn stop_roles(&mut self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().try_for_each(join)?;
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().map_or(Ok(()), Err)
    }

    /// Stops the roles, makes the store durable, and says what a role failed with.
    ///
    /// # Errors
    /// The first failure of a role.
    pub fn stop(mut self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(serving) = self.server.take() {
            drop(serving.stop);
            join(serving.thread)?;
        }
        let stopped = self.stop_roles();
        self.live.traces.shut_down();
        stopped
    }
}

/// What a project's roles share. Without `is_wanted`, a model that cannot be asked is no failure.
fn live(
    workspace: Arc<Workspace>,
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    traces: Traces,
    registries: &mut Registries,
    is_wanted: bool,
) -> Outcome<Live> {
    let (scorer, registry) = match &workspace.model {
        Some(plan) => {
            let scorer = Arc::new(Scorer::new(plan.clone()));
            let registry = registries.open(workspace.registry()?);
            let registry = registry.and_then(|registry| {
                scorer.follow(&registry)?;
                Ok(registry)
            });
            match registry {
                Ok(registry) => (Some(scorer), Some(registry)),
                Err(failure) if !is_wanted => {
                    warn!(
                        failure = failure.message,
                        hint = failure.hint,
                        "the model of the project before cannot be asked: events have no score until the views \
                         that are new have caught up"
                    );
                    (Some(scorer), None)
                }
                Err(failure) => return Err(failure),
            }
        }
        None => (None, None),
    };
    evolve::note_completeness(store.as_ref(), &progress)?;
    let marks = Marks::open(store.as_ref())?;
    progress.set_gone(marks.gone().clone());
    for (stream, newest_us) in marks.all() {
        progress.reflect(stream, newest_us);
    }
    Ok(Live {
        workspace,
        store,
        scorer,
        registry,
        progress,
        misses: Arc::default(),
        traces,
    })
}
