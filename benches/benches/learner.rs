//! The learner's speed: training steps, on the CPU and, where there is one, on a GPU, with `TORCH=1` beside the same
//! network in PyTorch, in turns; an hour's update; scoring; and what requests feel of a version that takes over.
//!
//! `RAYON_NUM_THREADS` is how many threads train at most, and PyTorch's number (default: all cores). Scoring is on one
//! core. `TORCH=eager,graphs` asks for these ways of PyTorch alone: `compiled` can take minutes to compile.
//!
//! With a GPU the figures go to `learner-speed-cuda.json`, beside those of machines without one.

use std::error::Error;
use std::time::{Duration, Instant};

use millrace_benches::{fastest, report};
use millrace_learner::{Checkpoint, Device, Examples, LearnerSettings, Model, Update, update};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};

#[path = "learner/peer.rs"]
mod peer;
#[path = "learner/swap.rs"]
mod swap;

use peer::Peer;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of a pass: too few for a part of them to be held back, so that all passes are made.
const ROWS: usize = 4_096;
const PASSES: usize = 8;
const ROUNDS: usize = 7;
/// New labels of an hour at a million events a day.
const HOURLY: usize = 41_667;

fn main() -> Result<()> {
    let settings = LearnerSettings {
        // A model that was shortened would be scored several times more.
        max_shift: 1e9,
        ..LearnerSettings::default()
    };
    let first = learn(&settings, Device::Cpu, None, &examples(20_000, 1))?.checkpoint;
    let mut figures = json!({
        "network": {
            "inputs": first.encoder().width(),
            "codes": first.encoder().encoded_width(),
            "hidden": settings.hidden,
            "members": settings.members,
            "batch_rows": settings.batch_rows,
        },
        "threads": threads(),
    });
    for (name, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0))] {
        figures[name] = match device.resolve() {
            Ok(device) => json!({
                "training": training(&settings, &first, device)?,
                "hourly_update": hourly_update(&settings, &first, device)?,
            }),
            Err(reason) => json!(reason.to_string()),
        };
    }
    figures["scoring"] = scoring(&first)?;
    figures["hot_swap"] = swap::beside_no_swap()?;
    let name = match figures["cuda"].is_object() {
        true => "learner-speed-cuda",
        false => "learner-speed",
    };
    Ok(report(name, &figures)?)
}

fn threads() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn learn(
    settings: &LearnerSettings,
    device: Device,
    parent: Option<&Checkpoint>,
    examples: &Examples,
) -> Result<Update> {
    let none = Examples::new(examples.width());
    Ok(update(settings, device, parent, examples, &none, 1)?)
}

/// Rows a second of the steps alone: an update of many passes, less one of a single pass. PyTorch's rows are encoded
/// beforehand; ours are encoded in each pass.
fn training(settings: &LearnerSettings, parent: &Checkpoint, device: Device) -> Result<Value> {
    let rows = examples(ROWS, 2);
    let seconds = |passes: usize| -> Result<f64> {
        let settings = LearnerSettings {
            passes,
            ..settings.clone()
        };
        let started = Instant::now();
        learn(&settings, device, Some(parent), &rows)?;
        Ok(started.elapsed().as_secs_f64())
    };
    let mut peer = match std::env::var("TORCH") {
        Ok(_) => Some(Peer::start(settings, parent, &rows, threads(), device)?),
        Err(_) => None,
    };
    let modes = modes(device)?;
    // A GPU's kernels are compiled when they are first asked for.
    let first = seconds(1)?;
    let (mut ours, mut theirs) = (vec![], vec![vec![]; modes.len()]);
    let mut ratios = theirs.clone();
    for round in 0..ROUNDS {
        let steps = seconds(1 + PASSES)? - seconds(1)?;
        let rate = (PASSES * ROWS) as f64 / steps;
        ours.push(rate);
        let Some(peer) = &mut peer else { continue };
        for (at, mode) in modes.iter().enumerate() {
            // The first passes of a mode compile it.
            if round == 0 {
                peer.train(mode, 2)?;
            }
            if let Some(steps) = peer.train(mode, PASSES)? {
                let their_rate = (PASSES * ROWS) as f64 / steps;
                theirs[at].push(their_rate);
                ratios[at].push(rate / their_rate);
            }
        }
    }
    let mut figures = json!({
        "rows_per_second": median(ours).map(f64::round),
        "seconds_of_the_first_update": first,
    });
    figures["pytorch"] = match &peer {
        None => json!("not measured: TORCH=1 measures it"),
        Some(peer) => json!({ "version": peer.version() }),
    };
    for ((mode, theirs), ratios) in modes.iter().zip(theirs).zip(ratios) {
        if peer.is_some() {
            figures[format!("pytorch_{mode}")] = match median(theirs) {
                Some(rate) => {
                    json!({ "rows_per_second": rate.round(), "times_its_rate": median(ratios) })
                }
                None => json!("does not run here"),
            };
        }
    }
    eprintln!("training on {device}: {figures}");
    Ok(figures)
}

/// The ways in which PyTorch is asked to train: those that `TORCH` names, or all with `TORCH=1`.
fn modes(device: Device) -> Result<Vec<&'static str>> {
    const ALL: [&str; 3] = ["eager", "compiled", "graphs"];
    let here = match device {
        Device::Cuda(_) => &ALL[..],
        Device::Cpu | Device::Auto => &ALL[..2],
    };
    let asked = std::env::var("TORCH").unwrap_or_default();
    if asked.is_empty() || asked == "1" {
        return Ok(here.to_vec());
    }
    let names: Vec<&str> = asked.split(',').collect();
    match names.iter().find(|name| !ALL.contains(name)) {
        Some(name) => {
            Err(format!("TORCH={name}: there are {}, and 1 for all", ALL.join(", ")).into())
        }
        None => Ok(here
            .iter()
            .copied()
            .filter(|mode| names.contains(mode))
            .collect()),
    }
}

/// A whole update, with the parent's and the candidate's metrics.
fn hourly_update(settings: &LearnerSettings, parent: &Checkpoint, device: Device) -> Result<Value> {
    let fresh = examples(HOURLY, 3);
    let replay = examples(settings.replay_frauds + settings.replay_negatives, 4);
    let mut failed = None;
    let whole = fastest(3, || {
        let update = update(settings, device, Some(parent), &fresh, &replay, 1);
        failed = update.err();
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let figures = json!({
        "new_labels": fresh.len(),
        "replayed": replay.len(),
        "seconds": whole.as_secs_f64(),
        "target_seconds": 10,
    });
    eprintln!("hourly update on {device}: {figures}");
    Ok(figures)
}

/// From inputs to probabilities, on one core.
fn scoring(checkpoint: &Checkpoint) -> Result<Value> {
    let model = Model::new(checkpoint);
    let rows = examples(ROWS, 5);
    let mut figures = json!({ "target_us_a_row_in_batches_of_64": 5 });
    for batch in [1, 64] {
        let mut sum = 0.0;
        let mut times = Vec::new();
        for _ in 0..15 {
            let started = Instant::now();
            for inputs in rows.inputs().chunks(batch * rows.width()) {
                sum += model.score(inputs)?.iter().sum::<f32>();
            }
            times.push(1e6 * started.elapsed().as_secs_f64() / ROWS as f64);
        }
        // So that nothing is left out because nobody looks.
        if !f32::is_finite(sum) {
            return Err("a score is not a number".into());
        }
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        figures[format!("us_a_row_in_batches_of_{batch}")] =
            json!({ "median": median(times), "least": least });
    }
    eprintln!("scoring: {figures}");
    Ok(figures)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn microseconds(time: Duration) -> f64 {
    1e6 * time.as_secs_f64()
}

/// Labelled rows of twenty inputs, as many kinds as `examples/fraud` has: amounts, ratios that may be missing, counts
/// of which some are nearly always zero, flags. About 1% are frauds.
fn examples(rows: usize, seed: u64) -> Examples {
    let mut random = Pcg64::seed_from_u64(seed);
    let mut examples = Examples::new(20);
    for _ in 0..rows {
        let mut row = Vec::with_capacity(20);
        row.extend((0..4).map(|_| random.random_range(-2.0_f32..5.0).exp()));
        row.extend((0..3).map(|_| match random.random_bool(0.4) {
            true => f32::NAN,
            false => random.random::<f32>(),
        }));
        row.extend((0..2).map(|_| random.random_range(0.0_f32..6.0).exp().floor()));
        row.extend((0..8).map(|_| {
            f32::from(random.random_bool(0.05)) * random.random_range(1.0_f32..6.0).floor()
        }));
        row.extend((0..3).map(|_| f32::from(random.random_bool(0.25))));
        let odds = -7.0 + 2.0 * row[9] + 1.5 * row[17] + 0.02 * row[0];
        let is_fraud = random.random::<f32>() < 1.0 / (1.0 + (-odds).exp());
        // Twenty finite or missing numbers and a weight of 1 are an example.
        let _ = examples.push(&row, is_fraud, 1.0);
    }
    examples
}
