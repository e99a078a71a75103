//! Look-ups and scores over gRPC, beside a bare tonic echo of the same message sizes: load generator, server and echo
//! in this process, in turns. With `FEAST=1`, Feast and Redis beside them, through Feast's own protocol.
//!
//! `SECONDS` is how long each round of each case takes (default 3), `CALLERS` how many calls are under way (16).

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StringArray};
use millrace::live::Live;
use millrace::priority::{Priority, step_aside};
use millrace::scorer::Scorer;
use millrace::serve::{bind, serve};
use millrace::state::{Committed, Pending};
use millrace::streams::stream_specs;
use millrace::times::now_us;
use millrace::traces::Traces;
use millrace::workspace::Workspace;
use millrace_benches::{
    Load, ask_echo, connect, load, manifest, payments_from, report, serve_echo,
};
use millrace_feature_store::{Commit, Store};
use millrace_features::{FeatureView, Origin};
use millrace_ingest::JsonDecoder;
use millrace_learner::{Device, Examples, LearnerSettings, Manifest, Model};
use millrace_proto::v1::feature_service_client::FeatureServiceClient;
use millrace_proto::v1::scoring_service_client::ScoringServiceClient;
use millrace_proto::v1::{Column, GetFeaturesRequest, PrepareRequest, ScoreRequest};
use prost::Message;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Request, Status};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const EVENTS: usize = 400_000;
const CARDS: u64 = 10_000;
const BATCH: usize = 100;
const ROUNDS: usize = 3;
/// Calls whose sizes are those of the echo.
const PROBES: usize = 64;
/// The end of the stream, µs: when the benchmark began. Feast's interface knows no other time than now.
static END_US: LazyLock<i64> = LazyLock::new(|| now_us() / 1_000_000 * 1_000_000);

/// The start of the stream, µs.
fn start_us() -> i64 {
    *END_US - EVENTS as i64 * 1_300_000
}

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Twelve features of a card, and two more views for the scores.
const VIEWS: &str = "CREATE VIEW card AS SELECT card_id,
  count(*) OVER h1 AS n_1h, sum(amount) OVER h1 AS sum_1h, avg(amount) OVER h1 AS avg_1h, max(amount) OVER h1 AS max_1h,
  count(*) OVER d1 AS n_1d, sum(amount) OVER d1 AS sum_1d, avg(amount) OVER d1 AS avg_1d, max(amount) OVER d1 AS max_1d,
  count(*) OVER d7 AS n_7d, sum(amount) OVER d7 AS sum_7d, avg(amount) OVER d7 AS avg_7d, max(amount) OVER d7 AS max_7d
FROM tx
WINDOW h1 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
       d1 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
       d7 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);
CREATE VIEW merchant AS SELECT merchant_id, count(*) OVER d1 AS n_1d, avg(amount) OVER d1 AS avg_1d FROM tx
WINDOW d1 AS (PARTITION BY merchant_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW);
CREATE VIEW card_merchants AS SELECT card_id, count(DISTINCT merchant_id) OVER d1 AS merchants_1d FROM tx
WINDOW d1 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW);";

const INPUTS: &str = "CREATE VIEW inputs AS SELECT t.amount, c.n_1h, c.sum_1h, c.n_1d, c.avg_1d, c.max_1d, c.n_7d, c.avg_7d,
  t.amount / nullif(c.avg_7d, 0) AS over_avg_7d, m.n_1d AS merchant_n_1d, m.avg_1d AS merchant_avg_1d, d.merchants_1d
FROM tx t JOIN card c USING (card_id) JOIN merchant m USING (merchant_id) JOIN card_merchants d USING (card_id)";

const SETTINGS: &str = "[model]\ninputs = \"inputs\"\nlabel = \"labels.is_fraud\"\n[store]\nhistory = \"30d\"\n\
                        [server.limits]\nconcurrency = 64\n";

const LABELS: &str = "CREATE EXTERNAL TABLE labels (tx_id VARCHAR NOT NULL, is_fraud BOOLEAN NOT NULL, \
                      event_time TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 'labels' WITH ORDER (event_time) \
                      OPTIONS ('key' 'tx_id', 'id' 'tx_id');";

/// How a case is measured.
#[derive(Clone, Copy)]
struct Pace {
    callers: usize,
    round: Duration,
}

fn main() -> Result<()> {
    let number = |name: &str, default: u64| -> u64 {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let pace = Pace {
        callers: number("CALLERS", 16) as usize,
        round: Duration::from_secs(number("SECONDS", 3)),
    };
    let folder = tempfile::tempdir()?;
    let live = open(folder.path())?;
    let server = Runtime::new()?;
    let (address, echo) = server.block_on(async {
        let listener = bind("127.0.0.1:0".parse()?)
            .await
            .map_err(|e| e.to_string())?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(live.clone(), listener, std::future::pending()));
        Ok::<_, Box<dyn Error + Send + Sync>>((address, serve_echo().await?))
    })?;
    let client = Runtime::new()?;
    let bench = Bench {
        address,
        echo,
        pace,
    };
    let figures = client.block_on(bench.all(&live))?;
    report("serving", &figures)?;
    drop(client);
    server.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

struct Bench {
    address: SocketAddr,
    echo: SocketAddr,
    pace: Pace,
}

impl Bench {
    async fn all(&self, live: &Live) -> Result<Value> {
        let channels = connect(self.address, 2).await?;
        let handle = prepare(&channels[0], &["card"]).await?;
        let single = self
            .beside_echo(1, move |card| one_card(handle, card))
            .await?;
        let named = self.beside_echo(1, by_name).await?;
        let batch = self
            .beside_echo(BATCH, move |card| some_cards(handle, card))
            .await?;
        let scores = self.scores_beside_echo(1).await?;
        let score_batch = self.scores_beside_echo(64).await?;
        let feast = match std::env::var("FEAST") {
            Ok(_) => feast::beside(self, handle).await?,
            Err(_) => json!("not measured: FEAST=1 measures it"),
        };
        // Last: the cards have many more events after it.
        let busy = self.while_ingesting(live, handle).await?;
        let hot = self.hot_beside_quiet(live, handle).await?;
        Ok(json!({
            "callers": self.pace.callers,
            "look_up_of_12_features_of_a_card": single,
            "the_same_by_names": named,
            "look_up_of_100_cards": batch,
            "score_of_an_event": scores,
            "scores_of_64_events": score_batch,
            "look_up_while_events_come_in": busy,
            "look_up_of_a_hot_and_of_a_quiet_card": hot,
            "feast_with_redis": feast,
        }))
    }

    /// Look-ups in turns with an echo of the same sizes.
    async fn beside_echo(
        &self,
        items: usize,
        request: impl Fn(u64) -> GetFeaturesRequest + Copy + Send + Sync + 'static,
    ) -> Result<Value> {
        let channels = connect(self.address, 2).await?;
        let mut probe = FeatureServiceClient::new(channels[0].clone());
        let mut sizes = Vec::with_capacity(PROBES);
        for number in 0..PROBES as u64 {
            let answer = probe.get_features(request(number)).await?.into_inner();
            sizes.push((request(number).encoded_len(), answer.encoded_len()));
        }
        let sizes = usual(&sizes);
        self.compare(&channels, items, sizes, move |channel, number| async move {
            let mut client = FeatureServiceClient::new(channel);
            client.get_features(request(number)).await.map(drop)
        })
        .await
    }

    async fn scores_beside_echo(&self, items: usize) -> Result<Value> {
        let channels = connect(self.address, 2).await?;
        let request = move |number: u64| ScoreRequest {
            event_json: (0..items as u64)
                .map(|item| payment(number * items as u64 + item))
                .collect(),
            ..ScoreRequest::default()
        };
        let mut probe = ScoringServiceClient::new(channels[0].clone());
        let mut sizes = Vec::with_capacity(PROBES);
        for number in 0..PROBES as u64 {
            let answer = probe.score(request(number)).await?.into_inner();
            let scored = answer.scores.first();
            if scored.is_none_or(|score| score.probability.is_none()) {
                return Err("no model scores".into());
            }
            sizes.push((request(number).encoded_len(), answer.encoded_len()));
        }
        let sizes = usual(&sizes);
        self.compare(&channels, items, sizes, move |channel, number| async move {
            let mut client = ScoringServiceClient::new(channel);
            client.score(request(number)).await.map(drop)
        })
        .await
    }

    /// Rounds of a call and of an echo of its sizes, in turns.
    async fn compare<F, R>(
        &self,
        channels: &[Channel],
        items: usize,
        (request_bytes, answer_bytes): (usize, usize),
        call: F,
    ) -> Result<Value>
    where
        F: Fn(Channel, u64) -> R + Copy + Send + Sync + 'static,
        R: Future<Output = std::result::Result<(), Status>> + Send,
    {
        let echoes = connect(self.echo, 2).await?;
        let echo = move |channel: Channel, _| async move {
            ask_echo(&channel, request_bytes, answer_bytes).await
        };
        let Pace { callers, round } = self.pace;
        // Connections and caches are warm before anything counts.
        load(&echoes, callers, round / 4, echo).await;
        load(channels, callers, round / 4, call).await;
        let mut ours: Option<Load> = None;
        let mut bare: Option<Load> = None;
        for _ in 0..ROUNDS {
            add(&mut bare, load(&echoes, callers, round, echo).await);
            add(&mut ours, load(channels, callers, round, call).await);
        }
        let (Some(ours), Some(bare)) = (ours, bare) else {
            return Err("no round".into());
        };
        let figures = json!({
            "request_bytes": request_bytes,
            "answer_bytes": answer_bytes,
            "millrace": ours.figures(items),
            "echo": bare.figures(items),
            "throughput_to_echo": ours.rate() / bare.rate(),
            "p99_to_echo": ours.quantile_ms(0.99) / bare.quantile_ms(0.99),
        });
        eprintln!("{figures}");
        Ok(figures)
    }

    /// The same look-up on a quiet store, and while another thread commits events as fast as it can.
    async fn while_ingesting(&self, live: &Live, handle: u64) -> Result<Value> {
        let channels = connect(self.address, 2).await?;
        let Pace { callers, round } = self.pace;
        let call = move |channel: Channel, number| async move {
            let mut client = FeatureServiceClient::new(channel);
            client
                .get_features(one_card(handle, number))
                .await
                .map(drop)
        };
        let mut idle: Option<Load> = None;
        let mut busy: Option<Load> = None;
        let mut events = 0;
        let mut ingesting = Duration::ZERO;
        for round_number in 0..ROUNDS {
            add(&mut idle, load(&channels, callers, round, call).await);
            let stop = Arc::new(AtomicBool::new(false));
            let count = Arc::new(AtomicU64::new(0));
            let (live, stopped, counted) = (live.clone(), Arc::clone(&stop), Arc::clone(&count));
            let thread = std::thread::spawn(move || {
                // As the thread of the program that does this.
                Priority::Events.take();
                let messages = payments_from(start_us(), 100_000, 100 + round_number as u64);
                while !stopped.load(Ordering::Relaxed) {
                    if let Err(error) = fill(&live, &messages, Some((&stopped, &counted))) {
                        eprintln!("ingest: {error}");
                        return;
                    }
                }
            });
            let started = Instant::now();
            add(&mut busy, load(&channels, callers, round, call).await);
            ingesting += started.elapsed();
            stop.store(true, Ordering::Relaxed);
            let _ = thread.join();
            events += count.load(Ordering::Relaxed);
        }
        let (Some(idle), Some(busy)) = (idle, busy) else {
            return Err("no round".into());
        };
        let figures = json!({
            "idle": idle.figures(1),
            "busy": busy.figures(1),
            "events_per_second_meanwhile": (events as f64 / ingesting.as_secs_f64()).round(),
            "p99_to_idle": busy.quantile_ms(0.99) / idle.quantile_ms(0.99),
        });
        eprintln!("{figures}");
        Ok(figures)
    }

    /// A card with a million events in its seven days and one with a hundred, each look-up as of a little later, in turns:
    /// by one caller, and by all.
    async fn hot_beside_quiet(&self, live: &Live, handle: u64) -> Result<Value> {
        for (name, events) in [HOT, QUIET] {
            fill(live, &payments_of(name, events), None)?;
            let names = [name.to_owned()];
            // What look-ups are asked for below: from the first of them to the last.
            for number in [0, MOMENTS - 1] {
                sum_up_cards(live, &names, moment_us(number))?;
            }
        }
        live.store.flush()?;
        let channels = connect(self.address, 2).await?;
        let of = |(name, _): (&'static str, u64)| {
            move |channel: Channel, number: u64| async move {
                let mut client = FeatureServiceClient::new(channel);
                let request = one_name(handle, name, number % MOMENTS);
                client.get_features(request).await.map(drop)
            }
        };
        let mut figures = serde_json::Map::new();
        for callers in [1, self.pace.callers] {
            let mut hot: Option<Load> = None;
            let mut quiet: Option<Load> = None;
            for _ in 0..ROUNDS {
                let round = self.pace.round;
                add(&mut hot, load(&channels, callers, round, of(HOT)).await);
                add(&mut quiet, load(&channels, callers, round, of(QUIET)).await);
            }
            let (Some(hot), Some(quiet)) = (hot, quiet) else {
                return Err("no round".into());
            };
            let of_callers = json!({
                "hot": hot.figures(1),
                "quiet": quiet.figures(1),
                "p50_hot_to_quiet": hot.quantile_ms(0.5) / quiet.quantile_ms(0.5),
                "p99_hot_to_quiet": hot.quantile_ms(0.99) / quiet.quantile_ms(0.99),
                "throughput_hot_to_quiet": hot.rate() / quiet.rate(),
            });
            figures.insert(format!("callers_{callers}"), of_callers);
        }
        let figures = Value::from(figures);
        eprintln!("{figures}");
        Ok(figures)
    }
}

/// A card and its events.
const HOT: (&str, u64) = ("hot", 1_000_000);
const QUIET: (&str, u64) = ("quiet", 100);
/// Look-ups of both are as of so many times in a minute.
const MOMENTS: u64 = 2_000;

fn moment_us(number: u64) -> i64 {
    *END_US + number as i64 * 30_011
}

/// So many payments of a card in the seven days before the end.
fn payments_of(name: &str, events: u64) -> Vec<String> {
    let step_us = 7 * 86_400_000_000 / events as i64;
    let payment = |number: u64| {
        let time = *END_US - (events - number) as i64 * step_us;
        format!(
            "{{\"tx_id\":\"{name}{number}\",\"card_id\":\"{name}\",\"merchant_id\":\"m{:05}\",\"amount\":{}.5,\
             \"event_time\":\"{}\"}}",
            number % 20_000,
            number % 300,
            millrace::times::rfc3339(time),
        )
    };
    (0..events).map(payment).collect()
}

fn one_name(handle: u64, name: &str, number: u64) -> GetFeaturesRequest {
    let time = moment_us(number);
    let column = Column {
        strings: vec![name.to_owned()],
        ..Column::default()
    };
    GetFeaturesRequest {
        keys: HashMap::from([("card_id".to_owned(), column)]),
        as_of: Some(prost_types::Timestamp {
            seconds: time.div_euclid(1_000_000),
            nanos: time.rem_euclid(1_000_000) as i32 * 1_000,
        }),
        ..one_card(handle, 0)
    }
}

/// The mean size of requests and that of answers: some cards have no event in a window, and shorter answers.
fn usual(sizes: &[(usize, usize)]) -> (usize, usize) {
    let mean = |of: fn(&(usize, usize)) -> usize| {
        let sum: usize = sizes.iter().map(of).sum();
        sum.div_ceil(sizes.len().max(1))
    };
    (mean(|size| size.0), mean(|size| size.1))
}

fn add(sum: &mut Option<Load>, round: Load) {
    match sum {
        Some(sum) => sum.add(&round),
        None => *sum = Some(round),
    }
}

/// A stride that is prime to the number of cards visits them all.
fn card(number: u64) -> String {
    let card = (number * 7_919 % CARDS) as f64 / CARDS as f64;
    format!("c{:06}", (50_000.0 * card.powf(2.5)) as u32)
}

fn cards(number: u64, count: usize) -> HashMap<String, Column> {
    let strings = (0..count as u64).map(|item| card(number * count as u64 + item));
    let column = Column {
        strings: strings.collect(),
        ..Column::default()
    };
    HashMap::from([("card_id".to_owned(), column)])
}

fn as_of() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: *END_US / 1_000_000,
        nanos: 0,
    })
}

fn one_card(handle: u64, number: u64) -> GetFeaturesRequest {
    GetFeaturesRequest {
        handle: Some(handle),
        keys: cards(number, 1),
        as_of: as_of(),
        features: vec![],
    }
}

fn by_name(number: u64) -> GetFeaturesRequest {
    GetFeaturesRequest {
        handle: None,
        features: vec!["card".to_owned()],
        ..one_card(0, number)
    }
}

fn some_cards(handle: u64, number: u64) -> GetFeaturesRequest {
    GetFeaturesRequest {
        keys: cards(number, BATCH),
        ..one_card(handle, number)
    }
}

fn payment(number: u64) -> String {
    let time = millrace::times::rfc3339(*END_US);
    let merchant = number % 20_000;
    format!(
        "{{\"tx_id\":\"s{number}\",\"card_id\":\"{}\",\"merchant_id\":\"m{merchant:05}\",\"amount\":{}.5,\
         \"event_time\":\"{time}\"}}",
        card(number),
        number % 300,
    )
}

async fn prepare(channel: &Channel, features: &[&str]) -> Result<u64> {
    let features = features.iter().map(|name| (*name).to_owned()).collect();
    let mut client = FeatureServiceClient::new(channel.clone());
    let prepared = client
        .prepare(Request::new(PrepareRequest { features }))
        .await?;
    Ok(prepared.into_inner().handle)
}

/// A project in a folder, with its events in RocksDB and a model of its inputs.
fn open(folder: &Path) -> Result<Live> {
    std::fs::create_dir_all(folder.join("features"))?;
    std::fs::write(folder.join("millrace.toml"), SETTINGS)?;
    std::fs::write(
        folder.join("sources.sql"),
        format!("{}\n{LABELS}", millrace_benches::SOURCES),
    )?;
    std::fs::write(folder.join("features/views.sql"), VIEWS)?;
    std::fs::write(folder.join("inputs.sql"), INPUTS)?;
    let workspace = Arc::new(Workspace::open(folder).map_err(|e| e.to_string())?);
    let store: Arc<dyn Store> = Arc::new(workspace.open_store().map_err(|e| e.to_string())?);
    let plan = workspace.model().map_err(|e| e.to_string())?.clone();
    let scorer = Arc::new(Scorer::new(plan));
    let (manifest, model) = model(&scorer)?;
    scorer
        .change()
        .swap(manifest, model)
        .map_err(|e| e.to_string())?;
    let live = Live {
        workspace,
        store,
        scorer: Some(scorer),
        registry: None,
        progress: Arc::default(),
        misses: Arc::default(),
        traces: Traces::default(),
    };
    fill(&live, &payments_from(start_us(), EVENTS, 1), None)?;
    sum_up(&live)?;
    live.store.flush()?;
    Ok(live)
}

/// Keeps the tiles of busy entities, as the pipeline does after the first look-ups that miss them.
fn sum_up(live: &Live) -> Result<()> {
    let cards: Vec<String> = (0..CARDS).map(card).collect();
    let merchants: Vec<String> = (0..20_000).map(|number| format!("m{number:05}")).collect();
    for view in &live.workspace.project.views {
        let entities = match view.entity_columns().next() {
            Some("card_id") => &cards,
            Some("merchant_id") => &merchants,
            _ => continue,
        };
        sum_up_entities(live, view, entities, *END_US)?;
    }
    Ok(())
}

fn sum_up_cards(live: &Live, cards: &[String], as_of_us: i64) -> Result<()> {
    let views = live.workspace.project.views.iter();
    let mut of_cards = views.filter(|view| view.entity_columns().eq(["card_id"]));
    of_cards.try_for_each(|view| sum_up_entities(live, view, cards, as_of_us))
}

fn sum_up_entities(
    live: &Live,
    view: &FeatureView,
    entities: &[String],
    as_of_us: i64,
) -> Result<()> {
    let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(entities))];
    let times = vec![as_of_us; entities.len()];
    let mut pending = Pending::default();
    let moment = live.store.moment();
    view.answer_and_sum_up(&Committed(moment.as_ref()), &keys, &times, &mut |tile| {
        pending.put_tile(tile);
    })?;
    let mut commit = Commit::default();
    pending.drain_into(&mut commit);
    step_aside();
    live.store.commit(commit)?;
    step_aside();
    Ok(())
}

/// Commits payments as the pipeline does.
fn fill(live: &Live, messages: &[String], until: Option<(&AtomicBool, &AtomicU64)>) -> Result<()> {
    let specs = stream_specs(&live.workspace).into_iter();
    let spec = specs.into_iter().find(|spec| spec.name == "tx");
    let mut decoder = JsonDecoder::new(spec.ok_or("no stream tx")?)?;
    // As the pipeline does while somebody asks.
    let rows = if until.is_some() { 256 } else { 8_192 };
    for messages in messages.chunks(rows) {
        let payloads: Vec<Option<&[u8]>> = messages.iter().map(|m| Some(m.as_bytes())).collect();
        let events = decoder.decode(&payloads, i64::MAX)?.batch;
        step_aside();
        let places = vec![0; events.num_rows()];
        let offsets = vec![0; events.num_rows()];
        let origin = Origin {
            partitions: &places,
            offsets: &offsets,
        };
        let mut pending = Pending::default();
        let views = &live.workspace.project.views;
        for view in views.iter().filter(|view| view.stream.name == "tx") {
            step_aside();
            view.state_rows(&events, origin, &mut pending)?;
        }
        let mut commit = Commit::default();
        pending.drain_into(&mut commit);
        step_aside();
        live.store.commit(commit)?;
        step_aside();
        if let Some((stop, count)) = until {
            count.fetch_add(events.num_rows() as u64, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A model of the default size, on random inputs: what it says does not matter, how long it takes does.
fn model(scorer: &Scorer) -> Result<(Manifest, Model)> {
    use rand::{Rng, SeedableRng};
    let mut random = rand_pcg::Pcg64::seed_from_u64(1);
    let names = scorer.plan.input_names();
    let mut examples = Examples::new(names.len());
    for _ in 0..4_096 {
        let row: Vec<f32> = names
            .iter()
            .map(|_| random.random_range(0.0..300.0))
            .collect();
        examples.push(&row, row[0] > 290.0, 1.0)?;
    }
    let settings = LearnerSettings {
        initial_passes: 1,
        ..LearnerSettings::default()
    };
    let none = Examples::new(names.len());
    let update = millrace_learner::update(&settings, Device::Cpu, None, &examples, &none, 0)?;
    let manifest = Manifest {
        inputs_hash: scorer.plan.inputs_hash(),
        meanings: Vec::new(),
        ..manifest(1, names, &update)
    };
    Ok((manifest, Model::new(&update.checkpoint)))
}

mod feast {
    //! Feast with Redis, and Millrace through Feast's protocol, in turns.

    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use millrace_proto::feast::feast::serving::get_online_features_request::Kind;
    use millrace_proto::feast::feast::serving::{FeatureList, GetOnlineFeaturesRequest};
    use millrace_proto::feast::feast::types::value::Val;
    use millrace_proto::feast::feast::types::{RepeatedValue, Value as FeastValue};
    use millrace_proto::feast::grpc_feature_server_client::GrpcFeatureServerClient;

    /// Feast's server and its Redis; they end with it.
    struct Peer(Child);

    impl Drop for Peer {
        fn drop(&mut self) {
            // It stops its own children on SIGTERM, and `kill` is the plain way to send one.
            let _ = Command::new("kill").arg(self.0.id().to_string()).status();
            let _ = self.0.wait();
        }
    }

    /// How Feast is started: by its own command, which starts one process, and as fast as it gets here.
    const STARTS: [(&str, &[&str]); 2] = [
        (
            "as_its_command_starts_it",
            &["--processes", "1", "--threads", "10"],
        ),
        ("a_process_a_core", &[]),
    ];

    /// Feast, this program by Feast's protocol, and by its own, in turns.
    pub(super) async fn beside(bench: &Bench, handle: u64) -> Result<Value> {
        let ours = [
            "n_1h", "sum_1h", "avg_1h", "max_1h", "n_1d", "sum_1d", "avg_1d", "max_1d", "n_7d",
            "sum_7d", "avg_7d", "max_7d",
        ];
        let ours: Vec<String> = ours.iter().map(|name| format!("card:{name}")).collect();
        let mut figures = serde_json::Map::new();
        for (name, options) in STARTS {
            let (peer, said) = start(options)?;
            let address = said["grpc"].as_str().ok_or("Feast said no address")?;
            let address: SocketAddr = address.parse()?;
            let theirs = said["features"].as_array();
            let theirs = theirs.ok_or("Feast said no features")?;
            let theirs = theirs
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned));
            let theirs: Vec<String> = theirs.collect();
            let mut cases = serde_json::Map::new();
            for items in [1, BATCH] {
                let channels = connect(bench.address, 2).await?;
                // The kernel deals connections out to Feast's processes by chance: with few, one may get them all.
                let peers = connect(address, 16).await?;
                let Pace { callers, round } = bench.pace;
                let (mut slow, mut by_theirs, mut by_ours) = (None, None, None);
                for _ in 0..ROUNDS {
                    let call = ask(&theirs, items, |n| (n * 7_919 % CARDS).to_string());
                    add(&mut slow, load(&peers, callers, round, call).await);
                    let call = ask(&ours, items, card);
                    add(&mut by_theirs, load(&channels, callers, round, call).await);
                    let call = move |channel: Channel, number| async move {
                        let request = GetFeaturesRequest {
                            keys: cards(number, items),
                            ..one_card(handle, number)
                        };
                        let mut client = FeatureServiceClient::new(channel);
                        client.get_features(request).await.map(drop)
                    };
                    add(&mut by_ours, load(&channels, callers, round, call).await);
                }
                let (Some(slow), Some(by_theirs), Some(by_ours)) = (slow, by_theirs, by_ours)
                else {
                    return Err("no round".into());
                };
                let case = json!({
                    "feast_with_redis": slow.figures(items),
                    "millrace_by_feasts_protocol": by_theirs.figures(items),
                    "millrace": by_ours.figures(items),
                    "times_feasts_throughput_by_its_protocol": by_theirs.rate() / slow.rate(),
                    "times_feasts_throughput": by_ours.rate() / slow.rate(),
                });
                eprintln!("{name}: {case}");
                cases.insert(format!("entities_{items}"), case);
            }
            cases.insert("processes".to_owned(), said["processes"].clone());
            cases.insert("threads".to_owned(), said["threads"].clone());
            figures.insert(name.to_owned(), Value::Object(cases));
            drop(peer);
        }
        Ok(Value::Object(figures))
    }

    type Asked = std::pin::Pin<Box<dyn Future<Output = std::result::Result<(), Status>> + Send>>;

    fn ask(
        features: &[String],
        items: usize,
        card: fn(u64) -> String,
    ) -> impl Fn(Channel, u64) -> Asked + Send + Sync + 'static {
        let features = features.to_vec();
        move |channel, number| {
            let values = (0..items as u64).map(|item| FeastValue {
                val: Some(Val::StringVal(card(number * items as u64 + item))),
            });
            let values = RepeatedValue {
                val: values.collect(),
            };
            let request = GetOnlineFeaturesRequest {
                kind: Some(Kind::Features(FeatureList {
                    val: features.clone(),
                })),
                entities: HashMap::from([("card_id".to_owned(), values)]),
                ..GetOnlineFeaturesRequest::default()
            };
            Box::pin(async move {
                let mut client = GrpcFeatureServerClient::new(channel);
                let answer = client.get_online_features(request).await?.into_inner();
                match answer.results.len() == 13 {
                    true => Ok(()),
                    false => Err(Status::internal("an answer without all features")),
                }
            })
        }
    }

    fn start(options: &[&str]) -> Result<(Peer, Value)> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("feast/peer.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args(["serve", "--cards", &CARDS.to_string()])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        let peer = Peer(child);
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Ok(said) = serde_json::from_str::<Value>(&line)
                && said.get("grpc").is_some()
            {
                return Ok((peer, said));
            }
        }
        Err("Feast did not start".into())
    }
}
