//! What the benchmarks share: a stream to run on, and figures that say what they were measured beside.
//!
//! A figure is a ratio against something that ran beside it, on the same work, in the same run: the machines that
//! these run on are noisy, and a rate alone says little.

mod echo;
mod kafka;
mod load;
mod model;

pub use echo::{ask_echo, serve_echo};
pub use kafka::{Kafka, bare_consumer};
pub use load::{Load, connect, load};
pub use model::manifest;

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};

/// The stream of [`payments`].
pub const SOURCES: &str = "CREATE EXTERNAL TABLE tx (
  tx_id VARCHAR NOT NULL, card_id VARCHAR NOT NULL, merchant_id VARCHAR NOT NULL, amount DOUBLE NOT NULL,
  event_time TIMESTAMP NOT NULL
) STORED AS KAFKA LOCATION 'tx' WITH ORDER (event_time) OPTIONS ('key' 'card_id', 'id' 'tx_id');";

/// What is known of a card over an hour, a day and a week.
pub const VIEW: &str = "CREATE VIEW card AS SELECT card_id,
  count(*) OVER h1 AS n_1h, sum(amount) OVER h1 AS sum_1h, avg(amount) OVER h1 AS avg_1h, max(amount) OVER h1 AS max_1h,
  count(*) OVER d1 AS n_1d, sum(amount) OVER d1 AS sum_1d, avg(amount) OVER d1 AS avg_1d, max(amount) OVER d1 AS max_1d,
  count(*) OVER d7 AS n_7d, sum(amount) OVER d7 AS sum_7d, avg(amount) OVER d7 AS avg_7d, max(amount) OVER d7 AS max_7d,
  count(DISTINCT merchant_id) OVER d1 AS merchants_1d
FROM tx
WINDOW h1 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
       d1 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
       d7 AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW)";

/// Card payments as JSON messages, in the order of their time: 50,000 cards and 20,000 merchants, a few of each
/// very busy. One comes every 1.3 s, from the start of 2026 on.
#[must_use]
pub fn payments(count: usize, seed: u64) -> Vec<String> {
    payments_from(1_767_225_600_000_000, count, seed)
}

/// As [`payments`], from another time on, µs.
#[must_use]
pub fn payments_from(start_us: i64, count: usize, seed: u64) -> Vec<String> {
    let mut random = Pcg64::seed_from_u64(seed);
    let mut time_us = start_us;
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

/// The first GPU, as NVIDIA's tool names it; null where there is none.
fn gpu() -> Value {
    let asked = std::process::Command::new("nvidia-smi")
        .args(["--query-gpu=name,driver_version", "--format=csv,noheader"])
        .output();
    let said = asked.ok().filter(|said| said.status.success());
    said.and_then(|said| {
        let text = String::from_utf8_lossy(&said.stdout);
        text.lines().next().map(|line| json!(line.trim()))
    })
    .unwrap_or_default()
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
        "gpu": gpu(),
        "memory": memory.lines().next().unwrap_or_default().trim_start_matches("MemTotal:").trim(),
    })
}
