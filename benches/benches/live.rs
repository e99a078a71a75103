//! A running server under load: how long it takes until an event that was produced is in the answers, beside how long
//! Kafka takes to hand it to a bare consumer; and how long after `kill -9` it answers again, and is up to date.
//!
//! `RATE` (50,000) is the load in events a second, `SECONDS` (20) how long each part takes.

use std::collections::HashMap;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use millrace::cli::Arguments;
use millrace::produce::RawProducer;
use millrace::times::now_us;
use millrace_benches::{Kafka, SOURCES, VIEW, bare_consumer, report};
use millrace_ingest::{IngestSettings, ensure_topics};
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use millrace_proto::v1::{Column, EntityStatus, GetFeaturesRequest};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use rdkafka::Offset;
use rdkafka::message::Message;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

const PARTITIONS: i32 = 4;
const CRASHES: usize = 3;
/// Between two probes.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two look-ups of a probe that is not there yet.
const NAP: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(60);
/// With it as its first argument, this program is the server.
const SERVER: &str = "the-server-of";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let mut args = std::env::args();
    if let (Some(SERVER), Some(project)) = (args.nth(1).as_deref(), args.next()) {
        let run = ["millrace", "--project", &project, "run"];
        return millrace::cli::execute(Arguments::parse_from(run))
            .map_err(|e| e.to_string().into());
    }
    let rate = number("RATE", 50_000)?;
    let time = Duration::from_secs(number("SECONDS", 20)?);
    let folder = tempfile::tempdir()?;
    let kafka = Kafka::start().map_err(|e| e.to_string())?;
    let project = Project::new(folder.path(), &kafka.brokers)?;
    let load = Load::start(&project, rate)?;

    let bare = bare(&project, time)?;
    let mut server = Server::start(&project)?;
    let mut caller = Caller::connect(&project)?;
    // It has read what was produced before it was there once events of now take no longer than its polls.
    while caller.wait_for(&project)? > Duration::from_millis(50) {}
    let visible = caller.freshness(&project, time)?;
    let mut crashes = Vec::new();
    for _ in 0..CRASHES {
        sleep(time / 4);
        let killed = Instant::now();
        server = server.kill_and_start(&project)?;
        let mut caller = Caller::connect(&project)?;
        let answers = killed.elapsed();
        caller.wait_for(&project)?;
        crashes.push(json!({
            "answers_again_s": seconds(answers),
            "up_to_date_s": seconds(killed.elapsed()),
        }));
    }
    let produced = load.stop()?;
    let ratio = |quantile| millis(&visible, quantile) / millis(&bare, quantile);
    report(
        "live",
        &json!({
            "events_a_second": rate,
            "events_produced": produced,
            "produced_to_bare_consumer": figures(&bare),
            "produced_to_visible_in_a_look_up": figures(&visible),
            "times_the_bare_consumer": { "p50": ratio(0.5), "p99": ratio(0.99) },
            "after_kill_9_under_load": crashes,
        }),
    )?;
    drop(server);
    Ok(())
}

fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| Ok(text.parse()?))
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

fn millis(latencies_us: &Histogram<u64>, quantile: f64) -> f64 {
    latencies_us.value_at_quantile(quantile) as f64 / 1e3
}

fn figures(latencies_us: &Histogram<u64>) -> Value {
    json!({
        "probes": latencies_us.len(),
        "p50_ms": millis(latencies_us, 0.5),
        "p99_ms": millis(latencies_us, 0.99),
        "max_ms": millis(latencies_us, 1.0),
    })
}

/// What all parts know.
struct Project {
    folder: PathBuf,
    kafka: IngestSettings,
    address: SocketAddr,
    producer: Arc<RawProducer>,
}

impl Project {
    fn new(folder: &Path, brokers: &str) -> Result<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (address, metrics) = (free()?, free()?);
        let settings = format!(
            "[kafka]\nbrokers = \"{brokers}\"\n[topics]\npartitions = {PARTITIONS}\n\
             [server]\nlisten = \"{address}\"\nmetrics = \"{metrics}\"\n"
        );
        std::fs::create_dir_all(folder.join("features"))?;
        std::fs::write(folder.join("millrace.toml"), &settings)?;
        std::fs::write(folder.join("sources.sql"), SOURCES)?;
        std::fs::write(folder.join("features/card.sql"), VIEW)?;
        let kafka = IngestSettings {
            brokers: brokers.to_owned(),
            ..IngestSettings::default()
        };
        ensure_topics(brokers, &kafka.properties, &[("tx".to_owned(), PARTITIONS)])?;
        let producer = RawProducer::connect(&kafka).map_err(|e| e.to_string())?;
        Ok(Self {
            folder: folder.to_owned(),
            kafka,
            address,
            producer: Arc::new(producer),
        })
    }

    /// Produces a payment of now.
    fn pay(&self, card: &str, number: u64) -> Result<()> {
        pay(&self.producer, card, number)
    }
}

fn pay(producer: &RawProducer, card: &str, number: u64) -> Result<()> {
    let time = millrace::times::rfc3339(now_us());
    let merchant = number % 20_000;
    let message = format!(
        "{{\"tx_id\":\"{card}-{number}\",\"card_id\":\"{card}\",\"merchant_id\":\"m{merchant:05}\",\
         \"amount\":{}.5,\"event_time\":\"{time}\"}}",
        number % 300,
    );
    producer
        .send("tx", Some(card.as_bytes()), message.as_bytes())
        .map_err(|e| e.to_string().into())
}

/// Payments at a rate, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Load {
    fn start(project: &Project, rate: u64) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, producer) = (Arc::clone(&stop), Arc::clone(&project.producer));
        let thread = spawn(move || {
            let mut random = Pcg64::seed_from_u64(1);
            let (started, mut sent) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
                while sent < due {
                    let card = (50_000.0 * random.random::<f64>().powf(2.5)) as u32;
                    pay(&producer, &format!("c{card:06}"), sent)?;
                    sent += 1;
                }
                sleep(Duration::from_millis(1));
            }
            Ok(sent)
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the load has ended early")?
    }
}

/// From produced to received by a consumer that does nothing else.
fn bare(project: &Project, time: Duration) -> Result<Histogram<u64>> {
    let (seen, arrivals) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, brokers) = (Arc::clone(&stop), project.kafka.brokers.clone());
    let (ready, is_ready) = channel();
    let consumer = spawn(move || consume(&brokers, &stopped, &ready, &seen));
    is_ready
        .recv_timeout(PATIENCE)
        .map_err(|_| "the bare consumer receives nothing")?;
    let mut latencies = Histogram::new(3)?;
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < time {
        number += 1;
        let card = format!("bare{number}");
        let sent = Instant::now();
        project.pay(&card, number)?;
        let arrived = arrival(&arrivals, &card)?;
        latencies.record(micros(arrived - sent))?;
        sleep(PAUSE);
    }
    stop.store(true, Ordering::Relaxed);
    consumer
        .join()
        .map_err(|_| "the bare consumer has ended early")??;
    Ok(latencies)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn arrival(arrivals: &Receiver<(String, Instant)>, card: &str) -> Result<Instant> {
    loop {
        let (key, at) = arrivals
            .recv_timeout(PATIENCE)
            .map_err(|_| format!("{card} did not arrive"))?;
        if key == card {
            return Ok(at);
        }
    }
}

fn consume(
    brokers: &str,
    stop: &AtomicBool,
    ready: &Sender<()>,
    seen: &Sender<(String, Instant)>,
) -> Result<()> {
    let consumer = bare_consumer(brokers, "tx", PARTITIONS, Offset::End)?;
    while !stop.load(Ordering::Relaxed) {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let message = message?;
        let _ = ready.send(());
        let key = message.key().unwrap_or_default();
        if key.starts_with(b"bare") {
            let key = String::from_utf8_lossy(key).into_owned();
            let _ = seen.send((key, Instant::now()));
        }
    }
    Ok(())
}

/// `millrace run` in a process of its own.
struct Server(Child);

impl Server {
    fn start(project: &Project) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SERVER).arg(&project.folder);
        Ok(Self(command.stderr(Stdio::null()).spawn()?))
    }

    /// `Child::kill` is SIGKILL.
    fn kill_and_start(mut self, project: &Project) -> Result<Self> {
        self.0.kill()?;
        self.0.wait()?;
        Self::start(project)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks for features.
struct Caller {
    runtime: Runtime,
    client: FeatureServiceClient<Channel>,
    probes: u64,
}

impl Caller {
    /// Waits until the server answers a look-up.
    fn connect(project: &Project) -> Result<Self> {
        let runtime = Runtime::new()?;
        let started = Instant::now();
        loop {
            let endpoint = format!("http://{}", project.address);
            let connected = runtime.block_on(FeatureServiceClient::connect(endpoint));
            if let Ok(client) = connected {
                let mut caller = Self {
                    runtime,
                    client,
                    probes: now_us().unsigned_abs(),
                };
                caller.is_present("c000001")?;
                return Ok(caller);
            }
            if started.elapsed() > PATIENCE {
                return Err("the server does not answer".into());
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn is_present(&mut self, card: &str) -> Result<bool> {
        let column = Column {
            strings: vec![card.to_owned()],
            ..Column::default()
        };
        let request = GetFeaturesRequest {
            handle: None,
            keys: HashMap::from([("card_id".to_owned(), column)]),
            as_of: None,
            features: vec!["card".to_owned()],
        };
        let answer = self.runtime.block_on(self.client.get_features(request))?;
        let views = answer.into_inner().views;
        let view = views.first().ok_or("an answer without views")?;
        Ok(view.statuses().next() == Some(EntityStatus::Present))
    }

    /// Produces an event, and waits until it is in the answers.
    fn wait_for(&mut self, project: &Project) -> Result<Duration> {
        self.probes += 1;
        let card = format!("probe{}", self.probes);
        let sent = Instant::now();
        project.pay(&card, self.probes)?;
        while !self.is_present(&card)? {
            if sent.elapsed() > PATIENCE {
                return Err(format!("{card} is not in the answers").into());
            }
            sleep(NAP);
        }
        Ok(sent.elapsed())
    }

    fn freshness(&mut self, project: &Project, time: Duration) -> Result<Histogram<u64>> {
        let mut latencies = Histogram::new(3)?;
        let started = Instant::now();
        while started.elapsed() < time {
            latencies.record(micros(self.wait_for(project)?))?;
            sleep(PAUSE);
        }
        Ok(latencies)
    }
}
