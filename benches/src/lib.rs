//! What the benchmarks share: a stream to run on, and figures that say what they were measured beside.
//!
//! A figure is a ratio against something that ran beside it, on the same work, in the same run: the machines that
//! these run on are noisy, and a rate alone says little.

mod kafka;

pub use kafka::Kafka;

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};

/// Card payments as JSON messages, in the order of their time: 50,000 cards and 20,000 merchants, a few of each
/// very busy.
#[must_use]
pub fn payments(count: usize, seed: u64) -> Vec<String> {
    let mut random = Pcg64::seed_from_u64(seed);
    let mut time_us = 1_767_225_600_000_000_i64;
    (0..count)
        .map(|number| {
            time_us += random.random_range(0..2_600_000);
            let card = (50_000.0 * random.random::<f64>().powf(2.5)) as u32;
            let merchant = (20_000.0 * random.random::<f64>().powi(4)) as u32;
            let amount = f64::from(random.random_range(100..20_000)) / 100.0;
            format!(
                "{{\"tx_id\":\"t{number:09}\",\"card_id\":\"c{card:06}\",\"merchant_id\":\"m{merchant:05}\",\
                 \"amount\":{amount:.2},\"currency\":\"EUR\",\"channel\":\"web\",\"approved\":true,\
                 \"event_time\":\"{}\"}}",
                millrace::times::rfc3339(time_us)
            )
        })
        .collect()
}

/// The shortest of several runs: what the machine can do when it is left alone.
pub fn fastest(runs: usize, mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    (0..runs).map(time).min().unwrap_or_default()
}

/// Prints figures, and writes them with the machine's description to `benches/results/NAME.json`.
///
/// # Errors
/// A file that cannot be written.
pub fn report(name: &str, figures: &Value) -> std::io::Result<()> {
    println!("{name}: {figures:#}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    std::fs::create_dir_all(&folder)?;
    let report = json!({ "machine": machine(), "figures": figures });
    std::fs::write(folder.join(format!("{name}.json")), format!("{report:#}\n"))
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": cores,
        "memory": memory.lines().next().unwrap_or_default().trim_start_matches("MemTotal:").trim(),
    })
}
