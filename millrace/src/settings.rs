//! `millrace.toml`: every setting, and its default, in one place.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_feature_store::StoreSettings;
use millrace_ingest::IngestSettings;
use millrace_learner::{Device, LearnerSettings};
use serde::{Deserialize, Deserializer};

use crate::failure::{Failure, Outcome};

/// The settings of a project. Paths are relative to its folder.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where events come from.
    pub kafka: IngestSettings,
    /// Topics that Millrace creates.
    pub topics: TopicSettings,
    /// Where state lives.
    pub store: StoreSection,
    /// Where look-ups and scores are answered.
    pub server: ServerSettings,
    /// The model; without this section nothing is scored or learned.
    pub model: Option<ModelSettings>,
    /// How the model learns.
    pub learner: LearnerSection,
}

/// `[topics]`: topics that Millrace creates.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSettings {
    /// Partitions of a new topic.
    pub partitions: i32,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { partitions: 4 }
    }
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// Folder of the RocksDB store.
    pub path: PathBuf,
    /// How far in the past an `as_of` may lie and still find all the events of its windows.
    #[serde(deserialize_with = "duration")]
    pub history: Duration,
    /// How long a scored event waits for its label.
    #[serde(deserialize_with = "duration")]
    pub label_wait: Duration,
    /// How long examples are kept for replay.
    #[serde(deserialize_with = "duration")]
    pub examples: Duration,
    /// How often what was committed is made durable. Bounds what is read again after a crash.
    #[serde(deserialize_with = "duration")]
    pub flush_every: Duration,
    /// Bytes of memory for the events of entities that were scored lately.
    pub scoring_cache_bytes: usize,
    /// RocksDB.
    pub rocksdb: StoreSettings,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            path: "data/store".into(),
            history: 7 * DAY,
            label_wait: 60 * DAY,
            examples: 60 * DAY,
            flush_every: Duration::from_secs(10),
            scoring_cache_bytes: 128 << 20,
            rocksdb: StoreSettings::default(),
        }
    }
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address of the gRPC services.
    pub listen: SocketAddr,
    /// Address of the Prometheus endpoint.
    pub metrics: SocketAddr,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7077)),
            metrics: SocketAddr::from(([127, 0, 0, 1], 9187)),
        }
    }
}

/// `[model]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The view in `inputs.sql` that the model sees.
    pub inputs: String,
    /// `stream.column`: true or 1 where the event was fraud.
    pub label: String,
    /// Period of the updates, in event time.
    #[serde(default = "hour", deserialize_with = "duration")]
    pub every: Duration,
    /// Folder of the model registry.
    #[serde(default = "models")]
    pub registry: PathBuf,
    /// Topic of the scores.
    #[serde(default = "scores")]
    pub scores: String,
    /// Labels that a first model needs.
    #[serde(default = "min_labels")]
    pub min_labels: usize,
    /// Frauds among them.
    #[serde(default = "min_frauds")]
    pub min_frauds: usize,
    /// Versions that are kept.
    #[serde(default = "keep")]
    pub keep: usize,
}

fn hour() -> Duration {
    Duration::from_secs(3_600)
}

fn models() -> PathBuf {
    "data/models".into()
}

fn scores() -> String {
    "scores".to_owned()
}

fn min_labels() -> usize {
    1_000
}

fn min_frauds() -> usize {
    25
}

fn keep() -> usize {
    100
}

/// `[learner]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerSection {
    /// `auto` (CUDA where there is a GPU), `cpu`, `cuda` or `cuda:N`.
    pub device: Device,
    /// Labels of the recent history that an update may choose its replay from.
    pub history_rows: usize,
    /// Seed of everything random in training.
    pub seed: u64,
    /// Network and optimizer.
    pub training: LearnerSettings,
}

impl Default for LearnerSection {
    fn default() -> Self {
        Self {
            device: Device::Auto,
            history_rows: 200_000,
            seed: 0,
            training: LearnerSettings::default(),
        }
    }
}

impl Settings {
    /// Reads `millrace.toml` of a project.
    ///
    /// # Errors
    /// A file that is missing, or has a mistake: with its line.
    pub fn read(folder: &Path) -> Outcome<Self> {
        let path = folder.join("millrace.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| not_a_project(folder, &e))?;
        toml::from_str(&text).map_err(|e| {
            let place = e
                .span()
                .map(|span| place(&text, span.start))
                .unwrap_or_default();
            Failure::input(format!(
                "millrace.toml{place}: {}",
                e.message().replace('\n', " ")
            ))
            .hint("docs/settings.md lists every setting with its default")
        })
    }
}

fn not_a_project(folder: &Path, error: &std::io::Error) -> Failure {
    let folder = folder.display();
    Failure::input(format!(
        "{folder} is not a Millrace project: millrace.toml: {error}"
    ))
    .hint("name the project's folder with --project DIR; examples/fraud is one to start from")
}

fn place(text: &str, offset: usize) -> String {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, str::len) + 1;
    format!(":{line}:{column}")
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

/// A length of time as people write it: `90s`, `15m`, `1h`, `7d`.
///
/// # Errors
/// What is wrong, and how one is written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err(format!(
            "'{text}' is no time at all: write 90s, 15m, 1h or 7d"
        )),
        Err(e) => Err(format!(
            "'{text}' is not a length of time ({e}): write 90s, 15m, 1h or 7d"
        )),
    }
}

/// Microseconds of a length of time, as event times count.
#[must_use]
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        let settings: Settings = toml::from_str("").unwrap();
        assert_eq!(settings.kafka.group, "millrace");
        assert!(settings.model.is_none());
    }

    /// docs/settings.md shows every setting with its default: what it shows must parse, and be the default.
    #[test]
    fn the_reference_is_the_defaults() {
        let page = include_str!("../../docs/settings.md");
        let block = page
            .split("```toml")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        let shown: Settings = toml::from_str(block).unwrap();
        let least = "[model]\ninputs = 'fraud_inputs'\nlabel = 'labels.is_fraud'";
        let defaults: Settings = toml::from_str(least).unwrap();
        assert_eq!(format!("{shown:#?}"), format!("{defaults:#?}"));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |text: &str| toml::from_str::<Settings>(text).unwrap_err().to_string();
        assert!(wrong("[kafka]\nbroker = 'x'").contains("broker"));
        assert!(wrong("[model]\ninputs='a'\nlabel='b.c'\nevery='1 fortnight'").contains("1h"));
        assert!(wrong("[model]\ninputs='a'\nlabel='b.c'\nevery='0s'").contains("no time at all"));
    }
}
