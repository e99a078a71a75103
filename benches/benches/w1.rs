//! Card payments through Apache Kafka into the committed store, beside a bare consumer that only decodes; the same
//! with the answers as of each event; and a training set.
//!
//! `W1_EVENTS` names a file of JSON lines with the columns below; without it, events are generated. `PEERS=1` has DuckDB
//! and plain Python answer the same, after it.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use millrace::marks::Marks;
use millrace::produce::RawProducer;
use millrace::recent::{Cached, Recent};
use millrace::state::{Committed, Overlay, Pending};
use millrace::streams::{start_offsets, stream_specs};
use millrace::times::now_us;
use millrace::training_set::{TrainingSetArgs, training_set};
use millrace::workspace::Workspace;
use millrace_benches::{Kafka, SOURCES, VIEW, bare_consumer, payments, report};
use millrace_feature_store::{Commit, Store};
use millrace_features::Origin;
use millrace_ingest::{Ingest, JsonDecoder, ReadAhead, ensure_topics};
use rdkafka::Offset;
use rdkafka::message::Message;
use serde_json::{Value, json};

const PARTITIONS: i32 = 4;
const GENERATED: usize = 500_000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let events = events(folder.path())?;
    let kafka = Kafka::start()?;
    let project = |name: &str| project(&folder.path().join(name), &kafka.brokers);
    let workspace = project("produce")?;
    let count = produce(&workspace, &events)?;
    let rate = |time: Duration| (count as f64 / time.as_secs_f64()).round();

    let bare = rate(decode_only(&workspace, count)?);
    let (time, _) = ingest(project("commit")?, count, false)?;
    let committed = rate(time);
    let (time, sums) = ingest(project("answers")?, count, true)?;
    let answered = rate(time);
    let started = Instant::now();
    let args = TrainingSetArgs {
        events: vec![format!("tx={}", events.display())],
        spine: events.clone(),
        output: folder.path().join("training.parquet"),
        views: Vec::new(),
    };
    training_set(&workspace, &args).map_err(|e| e.to_string())?;
    let training = rate(started.elapsed());
    let peers = match std::env::var("PEERS") {
        Ok(_) => peers(&events, &sums, (answered, training))?,
        Err(_) => json!("not measured: PEERS=1 measures them"),
    };
    report(
        "w1",
        &json!({
            "events": count,
            "bare_consumer_that_decodes_per_second": bare,
            "into_the_committed_store_per_second": committed,
            "ratio_to_bare": committed / bare,
            "with_answers_as_of_each_event_per_second": answered,
            "training_set_per_second": training,
            "sums": sums,
            "peers": peers,
        }),
    )?;
    Ok(())
}

/// What the peers say, with how many times their rates ours are.
fn peers(events: &Path, sums: &Sums, (answered, training): (f64, f64)) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("w1/peer.py");
    let ran = Command::new("python3").arg(script).arg(events).output()?;
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).into());
    }
    let mut peers: Value = serde_json::from_slice(&ran.stdout)?;
    for name in ["duckdb", "plain_python"] {
        check_sums(name, &serde_json::to_value(sums)?, &peers[name]["sums"])?;
    }
    let rate_of = |peer: &Value| peer["answers_per_second"].as_f64().unwrap_or(f64::NAN);
    let times = json!({
        "answers_to_plain_python": answered / rate_of(&peers["plain_python"]),
        "training_set_to_duckdb": training / rate_of(&peers["duckdb"]),
    });
    peers["times_their_rates"] = times;
    Ok(peers)
}

/// Counts are equal, sums to 1e-9.
fn check_sums(peer: &str, ours: &Value, theirs: &Value) -> Result<()> {
    for (name, our) in ours.as_object().into_iter().flatten() {
        let (our, their) = (our.as_f64(), theirs[name].as_f64());
        let (Some(our), Some(their)) = (our, their) else {
            return Err(format!("{peer} does not say {name}").into());
        };
        if (our - their).abs() > 1e-9 * our.abs() {
            return Err(format!("{name} is {our}, and {their} by {peer}").into());
        }
    }
    Ok(())
}

fn events(folder: &Path) -> Result<PathBuf> {
    if let Ok(path) = std::env::var("W1_EVENTS") {
        return Ok(PathBuf::from(path));
    }
    let path = folder.join("events.jsonl");
    let mut file = BufWriter::new(File::create(&path)?);
    for message in payments(GENERATED, 1) {
        writeln!(file, "{message}")?;
    }
    file.flush()?;
    Ok(path)
}

/// A project of its own, with a store of its own.
fn project(folder: &Path, brokers: &str) -> Result<Arc<Workspace>> {
    std::fs::create_dir_all(folder.join("features"))?;
    let settings = format!(
        "[kafka]\nbrokers = \"{brokers}\"\n[topics]\npartitions = {PARTITIONS}\n[store]\nhistory = \"30d\"\n"
    );
    std::fs::write(folder.join("millrace.toml"), settings)?;
    std::fs::write(folder.join("sources.sql"), SOURCES)?;
    std::fs::write(folder.join("features/card.sql"), VIEW)?;
    Ok(Arc::new(
        Workspace::open(folder).map_err(|e| e.to_string())?,
    ))
}

fn produce(workspace: &Workspace, events: &Path) -> Result<usize> {
    let kafka = &workspace.settings.kafka;
    ensure_topics(
        &kafka.brokers,
        &kafka.properties,
        &[("tx".to_owned(), PARTITIONS)],
    )?;
    let producer = RawProducer::connect(kafka).map_err(|e| e.to_string())?;
    let mut count = 0;
    for line in BufReader::new(File::open(events)?).lines() {
        let line = line?;
        let key = line
            .split("\"card_id\"")
            .nth(1)
            .and_then(|rest| rest.split('"').nth(1));
        let key = key.ok_or("a line without card_id")?;
        producer
            .send("tx", Some(key.as_bytes()), line.as_bytes())
            .map_err(|e| e.to_string())?;
        count += 1;
    }
    producer
        .flush(Duration::from_secs(60))
        .map_err(|e| e.to_string())?;
    Ok(count)
}

/// The limit: librdkafka's messages through the decoder, and nothing else.
fn decode_only(workspace: &Workspace, count: usize) -> Result<Duration> {
    let brokers = &workspace.settings.kafka.brokers;
    let consumer = bare_consumer(brokers, "tx", PARTITIONS, Offset::Beginning)?;
    let mut decoder = JsonDecoder::new(stream_specs(workspace).remove(0))?;
    let (mut seen, mut started) = (0, None);
    let mut messages = Vec::new();
    while seen < count {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            started.get_or_insert_with(Instant::now);
            messages.push(message?);
        }
        if messages.len() == 4_096 || seen + messages.len() == count {
            let payloads: Vec<_> = messages.iter().map(Message::payload).collect();
            seen += decoder.decode(&payloads, i64::MAX)?.batch.num_rows();
            messages.clear();
        }
    }
    Ok(started.ok_or("no events")?.elapsed())
}

#[derive(Default, Debug, serde::Serialize)]
struct Sums {
    count: i64,
    n_1h: i64,
    n_1d: i64,
    n_7d: i64,
    merchants_1d: i64,
    sum_7d: f64,
    max_1d: f64,
}

impl Sums {
    fn add(&mut self, answers: &RecordBatch) {
        let whole = |name: &str| {
            let column = answers
                .column_by_name(name)
                .map(|c| c.as_primitive::<Int64Type>());
            column.and_then(arrow::compute::sum).unwrap_or_default()
        };
        let number = |name: &str| {
            let column = answers
                .column_by_name(name)
                .map(|c| c.as_primitive::<Float64Type>());
            column.and_then(arrow::compute::sum).unwrap_or_default()
        };
        self.count += answers.num_rows() as i64;
        self.n_1h += whole("n_1h");
        self.n_1d += whole("n_1d");
        self.n_7d += whole("n_7d");
        self.merchants_1d += whole("merchants_1d");
        self.sum_7d += number("sum_7d");
        self.max_1d += number("max_1d");
    }
}

/// From the first event to the commit of the last, durable.
fn ingest(workspace: Arc<Workspace>, count: usize, answers: bool) -> Result<(Duration, Sums)> {
    let store: Arc<dyn Store> = Arc::new(workspace.open_store().map_err(|e| e.to_string())?);
    let view = &workspace.project.views[0];
    let offsets = start_offsets(&store).map_err(|e| e.to_string())?;
    let settings = workspace.settings.kafka.clone();
    let ingest = Ingest::start(settings, stream_specs(&workspace), offsets)?;
    let mut ingest = ReadAhead::start(ingest)?;
    let (mut seen, mut started, mut sums) = (0, None, Sums::default());
    let mut marks = Marks::default();
    let recent = Recent::new(workspace.settings.store.scoring_cache_bytes);
    while seen < count {
        let step = ingest
            .poll(now_us(), Duration::from_millis(50), usize::MAX)?
            .step;
        if step.positions.is_empty() {
            continue;
        }
        started.get_or_insert_with(Instant::now);
        let mut commit = Commit::default();
        let mut pending = Pending::over(marks.seals(&workspace.project));
        for batch in &step.batches {
            let (places, offsets): (Vec<i32>, Vec<i64>) = batch.origin.iter().copied().unzip();
            let origin = Origin {
                partitions: &places,
                offsets: &offsets,
            };
            view.state_rows(&batch.batch, origin, &mut pending)?;
            seen += batch.batch.num_rows();
        }
        let mut tiles = Vec::new();
        for batch in &step.batches {
            let times = batch
                .batch
                .column(view.stream.time)
                .as_primitive::<TimestampMicrosecondType>();
            if let Some(newest) = arrow::compute::max(times) {
                marks.advance("tx", newest);
            }
            if answers {
                let committed = Cached {
                    store: Committed(store.as_ref()),
                    recent: &recent,
                };
                let state = Overlay {
                    committed: &committed,
                    pending: &pending,
                };
                let keys: Vec<ArrayRef> = vec![Arc::clone(batch.batch.column(1))];
                let keep = &mut |tile| tiles.push(tile);
                sums.add(&view.answer_and_sum_up(&state, &keys, times.values(), keep)?);
            }
        }
        let is_whole = |tile: &_| marks.is_whole(view, &workspace.settings.store, tile);
        tiles
            .into_iter()
            .filter(is_whole)
            .for_each(|tile| pending.put_tile(tile));
        recent.put_all(&pending);
        pending.drain_into(&mut commit);
        for (topic, partition, next) in &step.positions {
            commit.offset(topic.as_str(), *partition, *next);
        }
        store.commit(commit)?;
    }
    store.flush()?;
    Ok((started.ok_or("no events")?.elapsed(), sums))
}
