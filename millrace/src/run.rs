//! `millrace run`: starts the roles of a project in one process, and stops them in order.
//!
//! - ingest: a thread that owns the consumer and applies steps to the store (`pipeline.rs`);
//! - serve: gRPC on a runtime of its own (`serve.rs`);
//! - learn: a thread that updates the model when a period has ended (`learning.rs`).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_feature_store::Store;
use millrace_ingest::Ingest;
use millrace_learner::Registry;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::cli::{parse_address, runtime};
use crate::failure::{Failure, Outcome};
use crate::learning::Learning;
use crate::live::{Live, Progress};
use crate::marks::Marks;
use crate::mlflow::Exporter;
use crate::pipeline::{Pipeline, log_start, now_us, start_offsets, stream_specs};
use crate::produce::RawProducer;
use crate::registry::{Reach, is_away};
use crate::score_topic::{ScoreSink, ScoreTopic};
use crate::scorer::Scorer;
use crate::serve;
use crate::workspace::Workspace;

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
    if args.create_topics {
        create_topics(&workspace)?;
    }
    let runtime = runtime()?;
    let metrics = workspace.settings.server.metrics;
    runtime.block_on(async { export_metrics(metrics) })?;
    let running = Running::start(Arc::new(workspace), &args.roles)?;
    if let Some(address) = running.address {
        info!(%address, %metrics, "ready");
    }
    runtime.block_on(running.ended_or_signal());
    info!("stopping: what was read is made durable");
    running.stop()
}

/// `millrace learn --once`: one period, if one has ended.
///
/// # Errors
/// A store or registry that cannot be read, a device that is not there.
pub fn learn_once(workspace: Workspace) -> Outcome<()> {
    let plan = workspace.model()?.clone();
    let store: Arc<dyn Store> = Arc::new(workspace.open_store_to_read()?);
    let registry = Arc::new(workspace.registry()?.open()?);
    let scorer = Arc::new(Scorer::new(plan));
    let mlflow = exporter(&workspace, &registry)?;
    let mut learning = Learning::open(Arc::new(workspace), store, registry, scorer)?;
    match learning.next_period(now_us())? {
        None => println!("no period with new labels has ended: nothing to learn"),
        Some(period) => println!("{period}"),
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
        })
}

/// The roles of a process, started.
pub struct Running {
    /// What they share.
    pub live: Live,
    /// Where gRPC answers, with the serve role.
    pub address: Option<SocketAddr>,
    /// Where the learner trains, with the learn role.
    pub device: Option<String>,
    stop: Arc<AtomicBool>,
    stop_server: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Running {
    /// Starts `roles` of a project.
    ///
    /// # Errors
    /// What keeps a role from starting: a store in use, a broker that is not there, a port in use.
    pub fn start(workspace: Arc<Workspace>, roles: &[Role]) -> Outcome<Self> {
        let live = open_live(&workspace)?;
        log_start(&workspace, live.store.as_ref())?;
        let mut running = Self {
            live,
            address: None,
            device: None,
            stop: Arc::new(AtomicBool::new(false)),
            stop_server: None,
            threads: Vec::new(),
            failure: Arc::new(Mutex::new(None)),
        };
        match running.start_roles(roles) {
            Ok(()) => Ok(running),
            Err(failure) => {
                // The roles that did start hold the store: it is closed before the process ends. What they say
                // of being stopped is not what is wrong.
                let _ = running.stop();
                Err(failure)
            }
        }
    }

    fn start_roles(&mut self, roles: &[Role]) -> Outcome<()> {
        if roles.contains(&Role::Serve) {
            self.start_server()?;
        }
        if roles.contains(&Role::Ingest) {
            self.start_ingest()?;
        }
        match (&self.live.scorer, roles.contains(&Role::Learn)) {
            (Some(_), true) => self.start_learner(),
            (Some(_), false) => {
                self.follow_registry();
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    fn start_server(&mut self) -> Outcome<()> {
        let runtime = runtime()?;
        let listen = self.live.workspace.settings.server.listen;
        let listener: TcpListener = runtime.block_on(serve::bind(listen))?;
        let address = listener.local_addr();
        self.address = Some(address.map_err(|e| Failure::failed(format!("{listen}: {e}")))?);
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop_server = Some(stop);
        let live = self.live.clone();
        self.thread("serve", move |_| {
            runtime.block_on(serve::serve(live, listener, async {
                // A dropped sender stops the server too.
                let _ = stopped.await;
            }))
        })
    }

    fn start_ingest(&mut self) -> Outcome<()> {
        let workspace = &self.live.workspace;
        let offsets = start_offsets(&self.live.store)?;
        let kafka = workspace.settings.kafka.clone();
        let topic = match &workspace.model {
            Some(plan) => {
                let producer = RawProducer::connect(&kafka)?;
                let topic: Box<dyn ScoreSink> = Box::new(ScoreTopic::new(producer, plan.clone()));
                Some(topic)
            }
            None => None,
        };
        let ingest = Ingest::start(kafka, stream_specs(workspace), offsets)?;
        let pipeline = Pipeline::new(self.live.clone(), topic)?;
        self.thread("ingest", move |stop| pipeline.run(ingest, stop))
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
                Learning::open(workspace, store, Arc::clone(&registry), Arc::clone(&scorer))
            }
        };
        let learning = open()?;
        self.device = Some(learning.device().to_string());
        self.tell_mlflow()?;
        self.thread("learn", move |stop| {
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
        self.thread("mlflow", move |stop| {
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
        if let Err(failure) = self.thread("registry", follow) {
            error!(%failure, "the registry is not followed");
        }
    }

    fn thread(
        &mut self,
        name: &str,
        body: impl FnOnce(&AtomicBool) -> Outcome<()> + Send + 'static,
    ) -> Outcome<()> {
        let (stop, failure) = (Arc::clone(&self.stop), Arc::clone(&self.failure));
        let role = name.to_owned();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if let Err(cause) = body(&stop) {
                    error!(role, error = %cause, "a role ended");
                    failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(cause);
                }
                // One role that ends takes the others with it: half a system must not look alive.
                stop.store(true, Ordering::Relaxed);
            });
        let thread = thread.map_err(|e| Failure::failed(format!("no thread for {name}: {e}")))?;
        self.threads.push(thread);
        Ok(())
    }

    /// True once a role ended, or stopping was asked for.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn ended_or_signal(&self) {
        let ended = async {
            while !self.has_ended() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = signal() => {}
        }
    }

    /// Stops the roles, makes the store durable, and says what a role failed with.
    ///
    /// # Errors
    /// The first failure of a role.
    pub fn stop(mut self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.stop_server.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                return Err(Failure::failed(
                    "a role panicked; this is a bug, please report it",
                ));
            }
        }
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        failure.map_or(Ok(()), Err)
    }
}

/// Ctrl-C or a request to terminate.
pub async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
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

/// Sleeps, and wakes up soon after a stop was asked for.
fn pause(stop: &AtomicBool, time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn open_live(workspace: &Arc<Workspace>) -> Outcome<Live> {
    let store: Arc<dyn Store> = Arc::new(workspace.open_store()?);
    let (scorer, registry) = match &workspace.model {
        Some(plan) => {
            let registry = Arc::new(workspace.registry()?.open()?);
            let scorer = Arc::new(Scorer::new(plan.clone()));
            scorer.follow(&registry)?;
            (Some(scorer), Some(registry))
        }
        None => (None, None),
    };
    let progress = Arc::new(Progress::default());
    for (stream, newest_us) in Marks::open(store.as_ref())?.all() {
        progress.reflect(stream, newest_us);
    }
    Ok(Live {
        workspace: Arc::clone(workspace),
        store,
        scorer,
        registry,
        progress,
        misses: Arc::default(),
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
        if is_quiet {
            now_us()
        } else {
            newest.unwrap_or(i64::MIN)
        }
    }
}
