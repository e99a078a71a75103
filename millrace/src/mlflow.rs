//! What the registry of models tells MLflow: a run for each version, a version of a registered model for each that had
//! traffic, and who has it now.
//!
//! The registry's journal is the queue: what is to be sent stands there, and how much of it was sent is a tag of the
//! registered model in MLflow itself. So an MLflow that was away, or is a new one, is told all of it later, in order;
//! and telling it twice changes nothing. All of it has the registry's id, for others may tell the same MLflow of versions
//! with the same numbers: another project, or a registry that was begun anew. A thread of its own does it: learning
//! never waits for MLflow, and fails with it in no way.

mod client;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_learner::{
    Aliases, Comparison, Entry, Event, LearnerError, Manifest, Metrics, Registry, State,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use url::Url;

use crate::failure::{Failure, Outcome, with_causes};
use crate::times::{parse_time, rfc3339};

use client::{CallError, Client, Credentials, Run};

/// `[model.mlflow]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlflowSettings {
    /// Address of the tracking server: `http://…`, `https://…`.
    #[serde(deserialize_with = "tracking_uri")]
    pub tracking_uri: Url,
    /// Experiment that the runs belong to.
    #[serde(default = "name")]
    pub experiment: String,
    /// Registered model that the versions belong to.
    #[serde(default = "name")]
    pub registered_model: String,
    /// Environment variable with a token that is sent with each call, where it is set.
    #[serde(default = "token_variable")]
    pub token_variable: String,
}

fn name() -> String {
    "millrace".to_owned()
}

fn token_variable() -> String {
    "MLFLOW_TRACKING_TOKEN".to_owned()
}

fn tracking_uri<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = "write the address of a tracking server: http://localhost:5000";
    match Url::parse(&text) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => Ok(url),
        Ok(url) => Err(format!(
            "'{}://' is no tracking server: {known}",
            url.scheme()
        )),
        Err(error) => Err(format!("'{text}' is no URL ({error}): {known}")),
    }
    .map_err(serde::de::Error::custom)
}

/// Tag of the registered model, with the registry's id behind it: how many notes of the journal were sent.
const SENT: &str = "millrace.journal";

/// Tags of a run and of a model's version: the id of Millrace's registry,
const REGISTRY: &str = "millrace.registry";

/// and the version there.
const VERSION: &str = "millrace.version";

/// Notes that are sent before how far it is is noted.
const BATCH: usize = 100;

/// Longest value of a tag or a parameter.
const LONGEST: usize = 5_000;

/// Sends what the registry tells.
pub struct Exporter {
    client: Client,
    settings: MlflowSettings,
    registry: Arc<Registry>,
    /// The registry's id; empty until it was asked for.
    id: String,
    /// Notes that this process has sent, or found sent.
    done: usize,
    /// Aliases as they were sent last.
    sent: Option<Aliases>,
    /// What MLflow calls the newest versions.
    runs: BTreeMap<u64, String>,
}

/// Why not all was sent.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// MLflow does not answer, or not now.
    #[error("MLflow: {0}")]
    Mlflow(String),
    /// The registry cannot be read.
    #[error("{}", with_causes(.0))]
    Registry(#[from] LearnerError),
}

impl From<CallError> for ExportError {
    fn from(error: CallError) -> Self {
        Self::Mlflow(error.to_string())
    }
}

impl Exporter {
    /// Makes a client. No call is made.
    ///
    /// # Errors
    /// A client that cannot be made.
    pub fn new(settings: &MlflowSettings, registry: Arc<Registry>) -> Outcome<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let credentials = Credentials {
            token: variable(&settings.token_variable),
            user: variable("MLFLOW_TRACKING_USERNAME").zip(variable("MLFLOW_TRACKING_PASSWORD")),
        };
        let client = Client::new(&settings.tracking_uri, credentials);
        let client = client
            .map_err(|e| Failure::failed(format!("model.mlflow {}: {e}", settings.tracking_uri)))?;
        Ok(Self {
            client,
            settings: settings.clone(),
            registry,
            id: String::new(),
            done: 0,
            sent: None,
            runs: BTreeMap::new(),
        })
    }

    /// Sends what was not sent yet; the number of notes.
    ///
    /// # Errors
    /// What kept it from sending all. It goes on from there when it is called again.
    pub fn catch_up(&mut self) -> Result<usize, ExportError> {
        if self.id.is_empty() {
            self.id = self.registry.id(&fresh_id())?;
        }
        let (model, tag) = (self.settings.registered_model.clone(), self.sent_tag());
        let sent = self.client.model_tag(&model, &tag)?;
        // A journal that is shorter than what was sent was put back from a backup.
        let mut done = sent.and_then(|sent| sent.parse().ok()).unwrap_or(0);
        let total = self.registry.journal_len()?;
        if done > total {
            done = 0;
        }
        if done < self.done {
            // An MLflow that has begun anew knows none of what this process remembers.
            self.sent = None;
            self.runs.clear();
        }
        self.done = done;
        let notes = self.registry.journal_after(done)?;
        let behind = |rest: usize| metrics::gauge!("millrace_mlflow_behind").set(rest as f64);
        let experiment = match notes.is_empty() && self.sent.is_some() {
            true => String::new(),
            false => self.client.experiment(&self.settings.experiment)?,
        };
        let mut rest = notes.len();
        for batch in notes.chunks(BATCH) {
            behind(rest);
            for note in batch {
                self.send(&experiment, note)?;
            }
            rest -= batch.len();
            self.done += batch.len();
            self.client
                .set_model_tag(&model, &tag, &self.done.to_string())?;
        }
        behind(0);
        self.send_aliases(&experiment)?;
        Ok(notes.len())
    }

    fn send(&mut self, experiment: &str, note: &Entry) -> Result<(), ExportError> {
        let Event::Version {
            version,
            state,
            comparison,
            ..
        } = &note.event
        else {
            return Ok(());
        };
        let sent = self.send_state(experiment, *version, *state, comparison.as_deref(), note);
        match sent {
            Err(Unsent::Refused(reason)) => {
                // It would be refused for ever: what comes after it must not wait for that.
                metrics::counter!("millrace_mlflow_refused_total").increment(1);
                tracing::warn!(version, reason, "MLflow takes no notice of a version");
                Ok(())
            }
            Err(Unsent::Later(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    fn send_state(
        &mut self,
        experiment: &str,
        version: u64,
        state: State,
        comparison: Option<&Comparison>,
        note: &Entry,
    ) -> Result<(), Unsent> {
        let manifest = match self.registry.manifest(version) {
            Ok(manifest) => manifest,
            Err(LearnerError::NoSuchVersion { .. }) => {
                return Err(Unsent::Refused(
                    "it was removed before it was sent".to_owned(),
                ));
            }
            Err(error) => return Err(Unsent::Later(error.into())),
        };
        let run = self.run(experiment, &manifest)?;
        let tags = BTreeMap::from([
            ("millrace.state", state.to_string()),
            ("millrace.state_since", rfc3339(note.at_us)),
            // In the place of an earlier state's.
            ("millrace.reason", note.reason.clone().unwrap_or_default()),
        ]);
        let metrics = comparison.map(test_metrics).unwrap_or_default();
        let at_ms = note.at_us.div_euclid(1_000);
        self.client.log(
            &run,
            &as_metrics(&metrics, at_ms, version),
            &json!([]),
            &as_pairs(&tags),
        )?;
        if matches!(state, State::Champion | State::Canary { .. }) {
            self.model_version(&run, version)?;
        }
        Ok(())
    }

    /// The run of a version, with all that its manifest says.
    fn run(&mut self, experiment: &str, manifest: &Manifest) -> Result<String, CallError> {
        let version = manifest.version;
        if let Some(run) = self.runs.get(&version) {
            return Ok(run.clone());
        }
        let created_ms = parse_time(&manifest.created).map_or(0, |us| us.div_euclid(1_000));
        let tags = self.identity(version);
        let run = match self.client.run_with_tags(experiment, &tags)? {
            Some(run) => run,
            None => {
                let name = format!("v{version:06}");
                self.client
                    .create_run(experiment, &name, created_ms, &as_pairs(&tags))?
            }
        };
        let Run { id, is_finished } = run;
        if !is_finished {
            let metrics = as_metrics(&metrics_of(manifest), created_ms, version);
            let (params, tags) = (as_pairs(&params_of(manifest)), as_pairs(&tags_of(manifest)));
            self.client.log(&id, &metrics, &params, &tags)?;
            self.client.finish_run(&id, created_ms)?;
        }
        self.runs.insert(version, id.clone());
        // Nobody asks for old ones again.
        while self.runs.len() > BATCH {
            self.runs.pop_first();
        }
        Ok(id)
    }

    fn model_version(&self, run: &str, version: u64) -> Result<String, CallError> {
        // Weights stay where they are. MLflow takes a path of its own disks alone, so a folder has a scheme before it.
        let place = self.registry.name();
        let source = match place.contains("://") {
            true => format!("{place}/v{version:06}"),
            false => format!("millrace://{place}/v{version:06}"),
        };
        let tags = self.identity(version);
        let model = &self.settings.registered_model;
        self.client
            .model_version(model, run, &source, &as_pairs(&tags))
    }

    /// What tells a version from all others that MLflow knows.
    fn identity(&self, version: u64) -> BTreeMap<&'static str, String> {
        [(REGISTRY, self.id.clone()), (VERSION, version.to_string())].into()
    }

    /// The tag of the registered model that says how much of this registry's journal was sent.
    fn sent_tag(&self) -> String {
        format!("{SENT}.{}", self.id)
    }

    /// Tells who has the traffic now.
    fn send_aliases(&mut self, experiment: &str) -> Result<(), ExportError> {
        let now = self.registry.aliases()?;
        if self.sent == Some(now) {
            return Ok(());
        }
        let experiment = match experiment.is_empty() {
            true => self.client.experiment(&self.settings.experiment)?,
            false => experiment.to_owned(),
        };
        let challenger = now.challenger.map(|(version, _)| version);
        for (alias, version) in [("champion", now.champion), ("challenger", challenger)] {
            let version = match version {
                Some(version) => {
                    let manifest = self.registry.manifest(version)?;
                    let run = self.run(&experiment, &manifest)?;
                    Some(self.model_version(&run, version)?)
                }
                None => None,
            };
            let model = &self.settings.registered_model;
            self.client.set_alias(model, alias, version.as_deref())?;
        }
        self.sent = Some(now);
        Ok(())
    }
}

/// An id for a registry that has none.
fn fresh_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Why a note was not sent.
enum Unsent {
    Refused(String),
    Later(ExportError),
}

impl From<CallError> for Unsent {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(reason) => Self::Refused(reason),
            other => Self::Later(other.into()),
        }
    }
}

/// Everything in a manifest that was chosen.
fn params_of(manifest: &Manifest) -> BTreeMap<String, String> {
    let parent = manifest
        .parent
        .map_or("none".to_owned(), |it| it.to_string());
    let fixed = [
        ("parent", parent),
        ("seed", manifest.seed.to_string()),
        ("device", manifest.device.clone()),
        ("inputs_hash", manifest.inputs_hash.clone()),
        ("label_position", manifest.label_position.to_string()),
        ("trained_until", rfc3339(manifest.trained_until_us)),
    ];
    let settings = manifest.settings.iter().map(|(name, value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (format!("training.{name}"), value)
    });
    let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
    fixed.into_iter().chain(settings).collect()
}

fn tags_of(manifest: &Manifest) -> BTreeMap<String, String> {
    let offsets = serde_json::to_string(&manifest.offsets).unwrap_or_default();
    [
        ("millrace.code_version", manifest.code_version.clone()),
        ("millrace.inputs", manifest.inputs.join(", ")),
        ("millrace.offsets", offsets),
        ("mlflow.source.name", "millrace".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Everything in a manifest that was measured.
fn metrics_of(manifest: &Manifest) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::from([
        ("rows".to_owned(), manifest.rows as f64),
        ("replayed".to_owned(), manifest.replayed as f64),
        ("fitted_rows".to_owned(), manifest.fitted_rows as f64),
        (
            "calibration.slope".to_owned(),
            f64::from(manifest.calibration.slope),
        ),
        (
            "calibration.intercept".to_owned(),
            f64::from(manifest.calibration.intercept),
        ),
    ]);
    let mut add = |prefix: &str, of: &Metrics| {
        let all = [
            ("rows", Some(of.rows as f64)),
            ("frauds", Some(of.frauds as f64)),
            ("mean_prediction", Some(of.mean_prediction)),
            ("log_loss", Some(of.log_loss)),
            ("average_precision", of.average_precision),
            ("roc_auc", of.roc_auc),
        ];
        for (name, value) in all {
            metrics.extend(value.map(|value| (format!("{prefix}.{name}"), value)));
        }
    };
    add("after", &manifest.after);
    if let Some(before) = &manifest.before {
        add("before", before);
    }
    if let Some(lived) = &manifest.prequential {
        let precision = lived.average_precision;
        metrics.extend(precision.map(|it| ("prequential.average_precision".to_owned(), it)));
        metrics.insert("prequential.rows".to_owned(), lived.rows as f64);
        metrics.insert("prequential.frauds".to_owned(), lived.frauds as f64);
    }
    metrics
}

/// What a test against the champion has shown.
fn test_metrics(test: &Comparison) -> BTreeMap<String, f64> {
    let precision = test.average_precision.map(|it| it.mean);
    let all = [
        ("test.rows", Some(test.rows as f64)),
        ("test.frauds", Some(test.frauds as f64)),
        ("test.champion_log_loss", Some(test.champion_log_loss)),
        ("test.log_loss_difference", Some(test.log_loss.mean)),
        ("test.average_precision_difference", precision),
        ("test.alerts", Some(test.candidate_alerts)),
        ("test.champion_alerts", Some(test.champion_alerts)),
    ];
    let known = all
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.collect()
}

/// Metrics as MLflow takes them; one that is no number is none.
fn as_metrics(metrics: &BTreeMap<String, f64>, at_ms: i64, version: u64) -> Json {
    let finite = metrics.iter().filter(|(_, value)| value.is_finite());
    finite
        .map(|(key, value)| json!({ "key": key, "value": value, "timestamp": at_ms, "step": version }))
        .collect()
}

/// Tags and parameters as MLflow takes them.
fn as_pairs<K: AsRef<str>>(pairs: &BTreeMap<K, String>) -> Json {
    let short = |value: &str| value.chars().take(LONGEST).collect::<String>();
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| json!({ "key": key.as_ref(), "value": short(value) }))
        .collect()
}
