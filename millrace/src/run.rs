//! `millrace run`: starts the roles of a project in one process, and stops them in order.
//!
//! - ingest: a thread that owns the consumer and applies steps to the store (`run/ingest.rs`, `pipeline.rs`);
//! - serve: gRPC on a runtime of its own (`serve.rs`);
//! - learn: a thread that updates the model when a period has ended (`learning.rs`).
//!
//! `run/threads.rs` has what their threads share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_feature_store::Store;
use millrace_learner::Registry;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::described;
use crate::evolve::{self, Transition};
use crate::failure::{Failure, Kind, Outcome};
use crate::interrupt::Signals;
use crate::learning::Learning;
use crate::live::{Live, Progress};
use crate::marks::Marks;
use crate::mlflow::Exporter;
use crate::pipeline::log_start;
use crate::priority::Priority;
use crate::registry::{Reach, Registries, is_away};
use crate::runtime::{parse_address, runtime};
use crate::scorer::Scorer;
use crate::serve::{self, Server};
use crate::times::{now_us, rfc3339};
use crate::traces::Traces;
use crate::workspace::Workspace;

mod ingest;
mod threads;

use threads::{join, pause};

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
    // Who reads makes them as soon as there is a broker.
    let create = match args.create_topics {
        true => topics(&workspace),
        false => Vec::new(),
    };
    if args.create_topics && !args.roles.contains(&Role::Ingest) {
        create_topics(&workspace)?;
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

/// `millrace learn --once`: one period, if one has ended; before a first model, as many as it takes.
///
/// # Errors
/// A store or registry that cannot be read, a device that is not there; another process that is learning the period.
pub fn learn_once(workspace: Workspace) -> Outcome<()> {
    let plan = workspace.model()?.clone();
    let store: Arc<dyn Store> = Arc::new(workspace.open_store_to_read()?);
    let registry = Arc::new(workspace.registry()?.open()?);
    let scorer = Arc::new(Scorer::new(plan));
    let mlflow = exporter(&workspace, &registry)?;
    let traces = Traces::open(&workspace.settings.traces)?;
    let learning = Learning::open(Arc::new(workspace), store, registry, scorer)?;
    let mut learning = learning.traced(traces.clone());
    let learned = learning.once(now_us());
    traces.shut_down();
    match learned {
        Err(failure) if failure.kind == Kind::Rival => match learning.done_by_another()? {
            Some(end_us) => println!(
                "another process has dealt with the period until {} meanwhile: nothing to learn",
                rfc3339(end_us)
            ),
            None => return Err(failure),
        },
        learned => match learned? {
            None => println!("no period with new labels has ended: nothing to learn"),
            Some(period) => println!("{period}"),
        },
    }
    // What it cannot send now is sent by the next process that learns.
    if let Some(Err(error)) = mlflow.map(|mut mlflow| mlflow.catch_up()) {
        warn!(%error, "MLflow is told later");
    }
    Ok(())
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
        match (&self.live.scorer, self.roles.contains(&Role::Learn)) {
            (Some(_), true) => self.start_learner(),
            (Some(_), false) => {
                self.follow_registry();
                Ok(())
            }
            (None, _) => Ok(()),
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

    fn start_learner(&mut self) -> Outcome<()> {
        let live = self.live.clone();
        let (Some(registry), Some(scorer)) = (live.registry.clone(), live.scorer.clone()) else {
            return Ok(());
        };
        let open = {
            let live = live.clone();
            move || {
                let (workspace, store) = (Arc::clone(&live.workspace), Arc::clone(&live.store));
                let (registry, scorer) = (Arc::clone(&registry), Arc::clone(&scorer));
                let learning = Learning::open(workspace, store, registry, scorer)?;
                Ok(learning.traced(live.traces.clone()))
            }
        };
        let learning = open()?;
        // Prometheus sees no increase of what it has not seen before.
        for outcome in ["accepted", "refused", "labels_refused"] {
            metrics::counter!("millrace_updates_total", "outcome" => outcome).increment(0);
        }
        self.device = Some(learning.device().to_string());
        self.tell_mlflow()?;
        self.role("learn", move |stop| {
            Priority::Updates.take();
            let mut learning = Some(learning);
            let mut clock = LabelClock::default();
            let mut reach = Reach::default();
            while !stop.load(Ordering::Relaxed) {
                // After a registry that did not answer, it goes on from what is there, as after a restart.
                let outcome = match learning.take() {
                    Some(open) => Ok(open),
                    None => open(),
                };
                let outcome = outcome.and_then(|mut open| {
                    learn_until_stop(&mut open, &mut clock, &mut reach, &live, stop)?;
                    learning = Some(open);
                    Ok(())
                });
                match outcome {
                    Err(failure) if is_away(&failure) => {
                        reach.note::<()>(&Err(failure));
                        pause(stop, AWAY);
                    }
                    // It is opened anew, and goes on from what the other has done.
                    Err(failure) if failure.kind == Kind::Rival => {
                        warn!(%failure, "the labels are learned by another process too");
                    }
                    other => other?,
                }
            }
            Ok(())
        })
    }

    /// A thread that tells MLflow what the registry's journal says, as far as MLflow listens.
    fn tell_mlflow(&mut self) -> Outcome<()> {
        let live = &self.live;
        let exporter = match &live.registry {
            Some(registry) => exporter(&live.workspace, registry)?,
            None => None,
        };
        let Some(mut exporter) = exporter else {
            return Ok(());
        };
        self.role("mlflow", move |stop| {
            Priority::Spare.take();
            let mut wait = TELL;
            while !stop.load(Ordering::Relaxed) {
                match exporter.catch_up() {
                    Ok(_) => wait = TELL,
                    Err(error) => {
                        metrics::counter!("millrace_mlflow_failures_total").increment(1);
                        if wait == TELL {
                            warn!(%error, "MLflow is told later; learning goes on");
                        }
                        wait = (2 * wait).min(TELL_AGAIN);
                    }
                }
                pause(stop, wait);
            }
            Ok(())
        })
    }

    /// Without the learn role, another process publishes: its champion is picked up within a second.
    fn follow_registry(&mut self) {
        let live = self.live.clone();
        let follow = move |stop: &AtomicBool| {
            let mut reach = Reach::default();
            while !stop.load(Ordering::Relaxed) {
                if let (Some(registry), Some(scorer)) = (&live.registry, &live.scorer) {
                    reach.note(&scorer.follow(registry));
                }
                pause(stop, FOLLOW);
            }
            Ok(())
        };
        // Without the thread the process serves what it has.
        if let Err(failure) = self.role("registry", follow) {
            error!(%failure, "the registry is not followed");
        }
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

/// How often the registry is asked what was chosen.
const FOLLOW: Duration = Duration::from_secs(1);

/// How often MLflow is told what is new,
const TELL: Duration = Duration::from_secs(5);

/// and how often at least it is tried when it does not answer.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Who tells MLflow, where the project has one.
fn exporter(workspace: &Workspace, registry: &Arc<Registry>) -> Outcome<Option<Exporter>> {
    let settings = workspace.model()?.settings.mlflow.as_ref();
    let exporter = settings.map(|settings| Exporter::new(settings, Arc::clone(registry)));
    exporter.transpose()
}

/// How long a registry that did not answer is left alone.
const AWAY: Duration = Duration::from_secs(5);

fn learn_until_stop(
    learning: &mut Learning,
    clock: &mut LabelClock,
    reach: &mut Reach,
    live: &Live,
    stop: &AtomicBool,
) -> Outcome<()> {
    let mut followed = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if followed.elapsed() > FOLLOW {
            // What a person has chosen meanwhile. A registry that is away is asked again; what was learned stays.
            let followed_now = learning.follow();
            let is_rival = |failure: &Failure| failure.kind == Kind::Rival;
            if followed_now.as_ref().is_err_and(is_rival) {
                return followed_now;
            }
            if !reach.note(&followed_now) && !followed_now.as_ref().is_err_and(is_away) {
                return followed_now;
            }
            followed = Instant::now();
        }
        if learning.next_period(clock.now_us(live))?.is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
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
                    warn!(%failure, "the model of the project before cannot be asked: events have no score until the \
                        views that are new have caught up");
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

/// The event time by which periods end: the newest label's; the wall clock once no label has come for a while,
/// so that a quiet stream's last period ends too.
#[derive(Default)]
struct LabelClock {
    newest_us: Option<i64>,
    since: Option<Instant>,
}

const QUIET: Duration = Duration::from_secs(30);

impl LabelClock {
    fn now_us(&mut self, live: &Live) -> i64 {
        let labels = live
            .workspace
            .model
            .as_ref()
            .map(|model| model.labels.name.as_str());
        let newest = labels.and_then(|labels| live.progress.newest(labels));
        if newest != self.newest_us || self.since.is_none() {
            self.newest_us = newest;
            self.since = Some(Instant::now());
        }
        let is_quiet = self.since.is_some_and(|since| since.elapsed() >= QUIET);
        match newest {
            // The wall clock may be years ahead of the first label.
            None => i64::MIN,
            Some(_) if is_quiet => now_us(),
            Some(newest) => newest,
        }
    }
}
