//! What requests feel of a version that takes over: the same loop with swaps and without, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use hdrhistogram::Histogram;
use millrace::scorer::Scorer;
use millrace::state::Committed;
use millrace::streams::stream_specs;
use millrace::workspace::Workspace;
use millrace_benches::manifest;
use millrace_feature_store::{MemoryStore, Store};
use millrace_ingest::JsonDecoder;
use millrace_learner::{Checkpoint, Device, LearnerSettings, Manifest, Model};
use serde_json::{Value, json};

use crate::{Result, examples, learn, microseconds};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
/// From one swap to the next: an hour's, in a few milliseconds.
const EVERY: Duration = Duration::from_millis(10);

const SETTINGS: &str = "[model]\ninputs = \"inputs\"\nlabel = \"labels.is_fraud\"\n";
const LABELS: &str = "CREATE EXTERNAL TABLE labels (tx_id VARCHAR NOT NULL, is_fraud BOOLEAN NOT NULL, \
                      event_time TIMESTAMP NOT NULL) STORED AS KAFKA LOCATION 'labels' WITH ORDER (event_time) \
                      OPTIONS ('key' 'tx_id', 'id' 'tx_id');";

/// Microseconds of requests.
struct Waits {
    all: Histogram<u64>,
    /// Those that were the first with a new version.
    first: Histogram<u64>,
}

impl Waits {
    fn new() -> Result<Self> {
        Ok(Self {
            all: Histogram::new(3)?,
            first: Histogram::new(3)?,
        })
    }

    fn figures(&self) -> Value {
        let of = |waits: &Histogram<u64>| {
            let us = |quantile: f64| waits.value_at_quantile(quantile) as f64 / 1e3;
            json!({
                "requests": waits.len(),
                "p50_us": us(0.5),
                "p99_us": us(0.99),
                "p999_us": us(0.999),
                "max_us": waits.max() as f64 / 1e3,
            })
        };
        match self.first.is_empty() {
            true => of(&self.all),
            false => json!({ "all": of(&self.all), "first_of_a_version": of(&self.first) }),
        }
    }
}

/// Two versions that take turns.
struct Versions {
    manifest: Manifest,
    checkpoints: [Checkpoint; 2],
}

pub(crate) fn beside_no_swap() -> Result<Value> {
    let (scorer, event) = scorer()?;
    let names = scorer.plan.input_names();
    let settings = LearnerSettings {
        initial_passes: 1,
        ..LearnerSettings::default()
    };
    let first = learn(&settings, Device::Cpu, None, &examples(4_096, 6))?;
    let second = learn(
        &settings,
        Device::Cpu,
        Some(&first.checkpoint),
        &examples(4_096, 7),
    )?;
    let versions = Versions {
        manifest: Manifest {
            inputs_hash: scorer.plan.inputs_hash(),
            meanings: Vec::new(),
            ..manifest(1, names, &first)
        },
        checkpoints: [first.checkpoint, second.checkpoint],
    };
    swap(&scorer, &versions, 1)?;
    let (mut calm, mut swapped) = (Waits::new()?, Waits::new()?);
    let mut version = 1;
    for _ in 0..ROUNDS {
        request(&scorer, &event, &mut calm)?;
        let stop = AtomicBool::new(false);
        version = std::thread::scope(|scope| -> Result<u64> {
            let (scorer, versions, stop) = (&scorer, &versions, &stop);
            let swaps = scope.spawn(move || swap_until(scorer, versions, version, stop));
            let requested = request(scorer, &event, &mut swapped);
            stop.store(true, Ordering::Relaxed);
            let version = swaps.join().map_err(|_| "the swaps failed")??;
            requested.map(|()| version)
        })?;
    }
    let extra = |of: &Histogram<u64>, quantile: f64| {
        let calm = calm.all.value_at_quantile(quantile) as f64;
        (of.value_at_quantile(quantile) as f64 - calm) / 1e3
    };
    let figures = json!({
        "swaps": version,
        "without_swaps": calm.figures(),
        "with_swaps": swapped.figures(),
        "extra_p999_us": extra(&swapped.all, 0.999),
        "extra_max_us": (swapped.all.max() as f64 - calm.all.max() as f64) / 1e3,
        "extra_of_the_first_of_a_version": {
            "p50_us": extra(&swapped.first, 0.5),
            "p99_us": extra(&swapped.first, 0.99),
        },
        "target_us": 1_000,
    });
    eprintln!("hot swap: {figures}");
    Ok(figures)
}

/// Lets a new version take over again and again; the last one.
fn swap_until(
    scorer: &Scorer,
    versions: &Versions,
    mut version: u64,
    stop: &AtomicBool,
) -> Result<u64> {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(EVERY);
        version += 1;
        swap(scorer, versions, version)?;
    }
    Ok(version)
}

/// As a running process does it: the weights are prepared by the thread that swaps.
fn swap(scorer: &Scorer, versions: &Versions, version: u64) -> Result<()> {
    let manifest = Manifest {
        version,
        ..versions.manifest.clone()
    };
    let model = Model::new(&versions.checkpoints[version as usize % 2]);
    Ok(scorer
        .change()
        .swap(manifest, model)
        .map_err(|e| e.to_string())?)
}

/// Scores one event again and again for a round.
fn request(scorer: &Scorer, event: &RecordBatch, waits: &mut Waits) -> Result<()> {
    let store = MemoryStore::default();
    let (started, mut last) = (Instant::now(), None);
    while started.elapsed() < ROUND {
        let asked = Instant::now();
        let moment = store.moment();
        let scores = scorer.score(&Committed(moment.as_ref()), event);
        let took = asked.elapsed();
        let version = scores.map_err(|e| e.to_string())?.versions[0];
        let nanoseconds = (1e3 * microseconds(took)) as u64;
        waits.all.record(nanoseconds)?;
        if last.replace(version).is_some_and(|last| last != version) {
            waits.first.record(nanoseconds)?;
        }
    }
    Ok(())
}

/// A scorer of events that are their own inputs, and an event.
fn scorer() -> Result<(Scorer, RecordBatch)> {
    let folder = tempfile::tempdir()?;
    let columns: Vec<String> = (0..20).map(|number| format!("a{number}")).collect();
    let sources = format!(
        "CREATE EXTERNAL TABLE tx (tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, {} DOUBLE, event_time TIMESTAMP \
         NOT NULL) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('key' 'card_id', 'id' 'tx_id');\n\
         {LABELS}",
        columns.join(" DOUBLE, ")
    );
    let inputs = format!(
        "CREATE VIEW inputs AS SELECT t.{} FROM tx t",
        columns.join(", t.")
    );
    std::fs::write(folder.path().join("millrace.toml"), SETTINGS)?;
    std::fs::write(folder.path().join("sources.sql"), sources)?;
    std::fs::write(folder.path().join("inputs.sql"), inputs)?;
    let workspace = Arc::new(Workspace::open(folder.path()).map_err(|e| e.to_string())?);
    let spec = stream_specs(&workspace).into_iter();
    let spec = spec.into_iter().find(|spec| spec.name == "tx");
    let numbers: Vec<String> = columns
        .iter()
        .map(|name| format!("\"{name}\": 3.5"))
        .collect();
    let json = format!(
        "{{\"tx_id\": \"t1\", \"card_id\": \"c1\", {}, \"event_time\": \"2026-01-01T00:00:00Z\"}}",
        numbers.join(", ")
    );
    let mut decoder = JsonDecoder::new(spec.ok_or("no stream tx")?)?;
    let event = decoder.decode(&[Some(json.as_bytes())], i64::MAX)?.batch;
    let plan = workspace.model().map_err(|e| e.to_string())?.clone();
    Ok((Scorer::new(plan), event))
}
