//! `millrace demo`: the whole system on one machine, on generated payments, in a few minutes.
//!
//! Every part is the real one. A broker that speaks Kafka's protocol is started inside the process, unless a
//! cluster is named; the example project, which the binary carries, runs with every role; a generated stream of
//! payments and labels is sent to its topics, faster than life; and a client asks for features and scores over
//! gRPC, so that the latencies on the screen are a caller's.

mod caller;
mod screen;
mod story;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::files::is_empty_folder;
use crate::interrupt::Signals;
use crate::run::{Role, Running, create_topics};
use crate::runtime::runtime;
use crate::workspace::Workspace;

use caller::Caller;
use screen::{Screen, say};
use story::Story;

/// `millrace demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after the summary, rather than serve until Ctrl-C.
    #[arg(long)]
    exit: bool,
    /// Use this Kafka cluster, in place of the embedded broker.
    #[arg(long, value_name = "HOST:PORT,…")]
    brokers: Option<String>,
    /// Number of cards.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(50..=20_000), value_name = "N")]
    customers: u32,
    /// Days of payments.
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u32).range(15..=365), value_name = "N")]
    days: u32,
    /// Seconds that a day lasts, after the days that are sent as history.
    #[arg(long, default_value_t = 2.5, value_name = "SECONDS")]
    day_seconds: f64,
    /// Where the random draws start.
    #[arg(long, default_value_t = 7, value_name = "N")]
    seed: u64,
    /// Folder for the demo's project, store and models; it is emptied first.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The example project, as the repository has it.
const PROJECT: [(&str, &str); 6] = [
    (
        "millrace.toml",
        include_str!("../../examples/fraud/millrace.toml"),
    ),
    (
        "sources.sql",
        include_str!("../../examples/fraud/sources.sql"),
    ),
    (
        "inputs.sql",
        include_str!("../../examples/fraud/inputs.sql"),
    ),
    (
        "features/card.sql",
        include_str!("../../examples/fraud/features/card.sql"),
    ),
    (
        "features/labels.sql",
        include_str!("../../examples/fraud/features/labels.sql"),
    ),
    (
        "features/terminal.sql",
        include_str!("../../examples/fraud/features/terminal.sql"),
    ),
];

/// Marks a folder as one that a demo may empty.
const MARK: &str = ".millrace-demo";

/// Runs the demo.
///
/// # Errors
/// What keeps a part from starting, or ends it.
pub fn demo(args: DemoArgs) -> Outcome<()> {
    let started = Instant::now();
    let folder = match &args.dir {
        Some(folder) => folder.clone(),
        None => default_folder()?,
    };
    // Locked for as long as the demo runs.
    let _mark = prepare(&folder)?;
    let broker = Broker::start(args.brokers.as_deref())?;
    let workspace = Arc::new(open(&folder, &broker)?);
    broker.check_topics(&workspace)?;
    create_topics(&workspace)?;
    let running = Running::start(
        Arc::clone(&workspace),
        &[Role::Ingest, Role::Serve, Role::Learn],
    )?;
    let story = Story::new(args.customers, args.days, args.seed, args.day_seconds)?;
    let screen = Screen::new(&story, &broker.describe(), &running);
    let outcome = play(&running, story, &screen, started);
    let interrupted = match outcome {
        Ok(interrupted) => interrupted,
        Err(failure) => {
            screen.clear();
            // What a role failed with explains more than what failed after it.
            return Err(running.stop().err().unwrap_or(failure));
        }
    };
    let stays = !args.exit && !interrupted;
    screen.summary(&running, &folder, started.elapsed(), stays);
    if stays {
        say("The server stays up until Ctrl-C.");
        let runtime = runtime()?;
        let mut signals = Signals::register(&runtime)?;
        runtime.block_on(signals.next());
    }
    running.stop()
}

/// Sends the story, asks as a caller would, and shows it, until all is read and learned. True when Ctrl-C cut it
/// short.
fn play(running: &Running, story: Story, screen: &Screen, started: Instant) -> Outcome<bool> {
    let runtime = runtime()?;
    let address = running
        .address
        .ok_or_else(|| Failure::failed("the server did not start"))?;
    let caller = Arc::new(Caller::new(address));
    runtime.spawn(Arc::clone(&caller).call_until_dropped(running.live.clone()));
    let progress = Arc::clone(&story.progress);
    let workspace = Arc::clone(&running.live.workspace);
    let sending = std::thread::spawn(move || story.send(&workspace));
    let mut signals = Signals::register(&runtime)?;
    let interrupt = runtime.spawn(async move { signals.next().await });
    let mut quiet_since = None;
    loop {
        std::thread::sleep(Duration::from_millis(200));
        screen.show(running, &progress, &caller, started.elapsed());
        if running.has_ended() {
            return Err(Failure::failed("a role ended"));
        }
        if interrupt.is_finished() {
            return Ok(true);
        }
        if sending.is_finished() {
            if screen.is_settled(running) {
                let since = *quiet_since.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_secs(1) {
                    break;
                }
            } else {
                quiet_since = None;
            }
        }
    }
    caller.stop();
    sending
        .join()
        .map_err(|_| Failure::failed("the sender panicked; this is a bug"))??;
    Ok(false)
}

fn default_folder() -> Outcome<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let cache = cache.ok_or_else(|| {
        Failure::failed("neither XDG_CACHE_HOME nor HOME is set").hint("name a folder: --dir DIR")
    })?;
    Ok(cache.join("millrace/demo"))
}

/// A clean project in `folder`, with the mark that says so, locked. A folder that no demo made is left alone, and one in
/// which a demo runs.
fn prepare(folder: &Path) -> Outcome<File> {
    let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", folder.display()));
    if folder.exists() {
        let is_empty = is_empty_folder(folder).map_err(failed)?;
        if !is_empty && !folder.join(MARK).exists() {
            return Err(
                Failure::input(format!("{} is not a demo's folder", folder.display()))
                    .hint("name a new or empty folder: --dir DIR"),
            );
        }
        if !is_empty {
            let mark = File::open(folder.join(MARK)).map_err(failed)?;
            lock(&mark, folder)?;
        }
        std::fs::remove_dir_all(folder).map_err(failed)?;
    }
    std::fs::create_dir_all(folder.join("features")).map_err(failed)?;
    let mark = File::create(folder.join(MARK)).map_err(failed)?;
    lock(&mark, folder)?;
    for (name, text) in PROJECT {
        std::fs::write(folder.join(name), text).map_err(failed)?;
    }
    Ok(mark)
}

fn lock(mark: &File, folder: &Path) -> Outcome<()> {
    match mark.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Failure::failed(format!(
            "a demo runs in {}",
            folder.display()
        ))
        .hint("end it, or name another folder: --dir DIR")),
        // A file system without locks is no reason not to show anything.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// The demo's project: the example, with the broker's address and a few settings for a short story.
fn open(folder: &Path, broker: &Broker) -> Outcome<Workspace> {
    let failed = |e: std::io::Error| Failure::failed(format!("{}: {e}", folder.display()));
    let settings = std::fs::read_to_string(folder.join("millrace.toml")).map_err(failed)?;
    let settings = settings.replace("127.0.0.1:9092", broker.brokers());
    // An hour of the story passes in a tenth of a second, so the updates are small.
    let settings = format!(
        "{settings}keep = 10000\nmin_frauds = 8\n\n[server]\nlisten = \"{}\"\n\n[kafka.properties]\n\
         \"fetch.wait.max.ms\" = \"10\"\n\n[learner.training]\n\
         replay_frauds = 512\nreplay_negatives = 1536\nhidden = [64, 32]\n",
        free_address(7077)
    );
    std::fs::write(folder.join("millrace.toml"), settings).map_err(failed)?;
    broker.rename_topics(folder).map_err(failed)?;
    Workspace::open(folder)
}

/// The port, or, where another program has it, any free one.
fn free_address(port: u16) -> std::net::SocketAddr {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    match std::net::TcpListener::bind(address) {
        Ok(_) => address,
        Err(_) => std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap_or(address),
    }
}

/// Where the demo's topics are.
enum Broker {
    /// Stops when it is dropped.
    #[cfg(feature = "embedded-broker")]
    Embedded {
        _broker: crate::broker::EmbeddedBroker,
        address: String,
    },
    Cluster(String),
}

impl Broker {
    fn start(brokers: Option<&str>) -> Outcome<Self> {
        if let Some(brokers) = brokers {
            return Ok(Self::Cluster(brokers.to_owned()));
        }
        #[cfg(feature = "embedded-broker")]
        {
            let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
            let broker = crate::broker::EmbeddedBroker::start(any_port)?;
            let address = broker.address().to_string();
            Ok(Self::Embedded {
                _broker: broker,
                address,
            })
        }
        #[cfg(not(feature = "embedded-broker"))]
        Err(Failure::input("this build has no embedded broker")
            .hint("name a Kafka cluster: --brokers 127.0.0.1:9092"))
    }

    fn brokers(&self) -> &str {
        match self {
            #[cfg(feature = "embedded-broker")]
            Self::Embedded { address, .. } => address,
            Self::Cluster(brokers) => brokers,
        }
    }

    fn describe(&self) -> String {
        match self {
            #[cfg(feature = "embedded-broker")]
            Self::Embedded { address, .. } => format!("an embedded broker at {address}"),
            Self::Cluster(brokers) => format!("the Kafka cluster at {brokers}"),
        }
    }

    /// On a cluster that is not the demo's own, topics get names of their own: a demo deletes nothing.
    fn rename_topics(&self, folder: &Path) -> std::io::Result<()> {
        if !matches!(self, Self::Cluster(_)) {
            return Ok(());
        }
        let prefix = format!("millrace-demo-{}", crate::times::now_us() / 1_000_000);
        let sources = folder.join("sources.sql");
        let text = std::fs::read_to_string(&sources)?;
        std::fs::write(
            sources,
            text.replace("LOCATION '", &format!("LOCATION '{prefix}-")),
        )?;
        let settings = folder.join("millrace.toml");
        let text = std::fs::read_to_string(&settings)?;
        let model = format!("[model]\nscores = \"{prefix}-scores\"\n");
        let kafka = format!("[kafka]\ngroup = \"{prefix}\"\n");
        std::fs::write(
            settings,
            text.replace("[model]\n", &model)
                .replace("[kafka]\n", &kafka),
        )
    }

    fn check_topics(&self, workspace: &Workspace) -> Outcome<()> {
        match workspace
            .project
            .streams
            .iter()
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>()
            .as_slice()
        {
            ["transactions", "labels"] => Ok(()),
            other => Err(Failure::failed(format!(
                "the example has other streams: {other:?}"
            ))),
        }
    }
}
