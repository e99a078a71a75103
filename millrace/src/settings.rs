//! `millrace.toml`: every setting, and its default, in one place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_feature_store::StoreSettings;
use millrace_ingest::IngestSettings;
use millrace_learner::{Device, GateSettings, LearnerSettings};
use serde::{Deserialize, Deserializer};

use crate::failure::{Failure, Outcome};
use crate::files::nearest;
use crate::mlflow::MlflowSettings;
use crate::registry::Place;
use crate::serve::access::AccessSettings;
use crate::serve::admission::LimitSettings;
use crate::serve::tls::TlsSettings;
use crate::traces::TraceSettings;

mod check;
mod reference;

/// Where a project's settings stand.
pub(crate) const SETTINGS_FILE: &str = "millrace.toml";

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
    /// Where traces go.
    pub traces: TraceSettings,
    /// The model; without this section nothing is scored or learned.
    pub model: Option<ModelSettings>,
    /// How the model learns.
    pub learner: LearnerSection,
    /// The log of what was scored, in Parquet.
    pub score_log: ScoreLogSettings,
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
    /// Who may call.
    pub access: AccessSettings,
    /// Encryption; without this section there is none.
    pub tls: Option<TlsSettings>,
    /// How much is answered at once.
    pub limits: LimitSettings,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7077)),
            metrics: SocketAddr::from(([127, 0, 0, 1], 9187)),
            access: AccessSettings::default(),
            tls: None,
            limits: LimitSettings::default(),
        }
    }
}

impl ServerSettings {
    /// Where a client on this machine finds the server. A certificate is of a name, and seldom of an address.
    #[must_use]
    pub fn url(&self) -> String {
        let ip = self.listen.ip();
        match &self.tls {
            None => self.listen.to_string(),
            Some(_) if ip.is_loopback() || ip.is_unspecified() => {
                format!("https://localhost:{}", self.listen.port())
            }
            Some(_) => format!("https://{}", self.listen),
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
    /// Where the registry of models lies.
    #[serde(default = "models")]
    pub registry: Place,
    /// Topic of the scores.
    #[serde(default = "scores")]
    pub scores: String,
    /// Labels that a first model needs, half of them genuine at least.
    #[serde(default = "min_labels")]
    pub min_labels: usize,
    /// Frauds among them.
    #[serde(default = "min_frauds")]
    pub min_frauds: usize,
    /// How long labels wait before they are learned, as they may be set right.
    #[serde(default)]
    pub settling: SettlingTime,
    /// Whether probabilities are calibrated.
    #[serde(default)]
    pub calibration: Calibrating,
    /// Versions that are kept.
    #[serde(default = "keep")]
    pub keep: usize,
    /// What is done from which probability of fraud on: `{ approve = 0.0, review = 0.2, decline = 0.7 }`.
    #[serde(default)]
    pub decisions: Decisions,
    /// Where MLflow is told of versions; without this section it is not.
    #[serde(default)]
    pub mlflow: Option<MlflowSettings>,
}

/// Whether a version's probabilities are calibrated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Calibrating {
    /// Where labels say that they are too high or too low.
    #[default]
    Auto,
    /// They are what the networks give.
    None,
}

/// How long labels wait before they are learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SettlingTime {
    /// Not at all, but where much of what is called fraud is set right later: until most of that has come.
    #[default]
    Auto,
    /// So long.
    After(Duration),
}

impl TryFrom<String> for SettlingTime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            time => match parse_delay(time) {
                Ok(time) => Ok(Self::After(time)),
                Err(reason) => Err(format!("{reason}, or auto")),
            },
        }
    }
}

/// Names of decisions, by the probability from which on they hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "BTreeMap<String, f64>")]
pub struct Decisions(Vec<(f64, String)>);

impl Decisions {
    /// The decision that a probability leads to; none below the lowest threshold.
    #[must_use]
    pub fn of(&self, probability: f64) -> Option<&str> {
        let reached = self.0.iter().rfind(|(from, _)| *from <= probability);
        reached.map(|(_, name)| name.as_str())
    }

    /// For who reads later what was decided: thresholds by name.
    #[must_use]
    pub fn to_json(&self) -> String {
        let thresholds = self.0.iter().map(|(from, name)| (name.as_str(), *from));
        let thresholds: BTreeMap<&str, f64> = thresholds.collect();
        serde_json::json!(thresholds).to_string()
    }
}

impl TryFrom<BTreeMap<String, f64>> for Decisions {
    type Error = String;

    fn try_from(thresholds: BTreeMap<String, f64>) -> Result<Self, String> {
        let mut decisions: Vec<(f64, String)> = Vec::new();
        for (name, from) in thresholds {
            if !(0.0..=1.0).contains(&from) {
                return Err(format!(
                    "'{name}' is to hold from {from} on, and a probability is 0 to 1"
                ));
            }
            if let Some((_, other)) = decisions.iter().find(|(other, _)| *other == from) {
                return Err(format!("'{other}' and '{name}' both hold from {from} on"));
            }
            decisions.push((from, name));
        }
        decisions.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(Self(decisions))
    }
}

fn hour() -> Duration {
    Duration::from_secs(3_600)
}

fn models() -> Place {
    Place::Folder("data/models".into())
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

impl ModelSettings {
    /// Whether so many labels, with so many frauds among them, make a first model. Labels of frauds alone would make one
    /// that calls everything fraud, and nothing that it is tested against.
    pub fn make_a_first(&self, labels: usize, frauds: usize) -> bool {
        let genuine = labels.saturating_sub(frauds);
        labels >= self.min_labels && frauds >= self.min_frauds && genuine >= self.min_genuine()
    }

    /// Genuine events that a first model needs.
    pub fn min_genuine(&self) -> usize {
        self.min_labels.div_ceil(2)
    }
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
    /// Labels of the recent history that an update may choose its replay from, without those that are put aside: as many
    /// of these are kept besides, and all that were not learned yet.
    pub history_rows: usize,
    /// Seed of everything random in training.
    pub seed: u64,
    /// How many times as many labels as at its start have come when a model starts afresh, with new bins, from those that
    /// are kept. 1 or less: never.
    pub afresh_at_growth: f64,
    /// Network and optimizer.
    pub training: LearnerSettings,
    /// When a candidate is refused.
    pub gate: GateSettings,
}

impl Default for LearnerSection {
    fn default() -> Self {
        Self {
            device: Device::Auto,
            history_rows: 500_000,
            seed: 0,
            afresh_at_growth: 2.0,
            training: LearnerSettings::default(),
            gate: GateSettings::default(),
        }
    }
}

/// `[score_log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreLogSettings {
    /// Where the log is: a folder, `s3://bucket/path` or `gs://bucket/path`. None: nothing is logged.
    pub location: Option<String>,
    /// How often what was scored is written, at least.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// Rows that are written at once, at most; so many that wait are not kept waiting.
    pub max_rows: NonZeroU64,
    /// Bytes of rows that may wait in the store while the location takes none. At the bound no more events are
    /// read from Kafka.
    pub max_waiting_bytes: u64,
}

impl Default for ScoreLogSettings {
    fn default() -> Self {
        Self {
            location: None,
            every: Duration::from_secs(300),
            max_rows: NonZeroU64::new(250_000).unwrap_or(NonZeroU64::MIN),
            max_waiting_bytes: 1 << 30,
        }
    }
}

impl Settings {
    /// Reads `millrace.toml` of a project.
    ///
    /// # Errors
    /// A file that is missing, or has a mistake: with its line.
    pub fn read(folder: &Path) -> Outcome<Self> {
        Self::read_with(folder, &[])
    }

    /// Reads `millrace.toml`, with `section.name=value` in place of what it says.
    ///
    /// # Errors
    /// As [`read`](Self::read); a change that names no setting, or a value that it cannot have.
    pub fn read_with(folder: &Path, changes: &[String]) -> Outcome<Self> {
        let settings = Self::read_changed(folder, changes)?;
        settings
            .check()
            .map_err(|failure| of_change(folder, changes, failure))?;
        Ok(settings)
    }

    /// A failure at the place of the setting that it is of, where the project's file has that setting.
    pub(crate) fn placed(folder: &Path, failure: Failure) -> Failure {
        let mistake = failure.mistakes.first();
        let named = mistake.and_then(|m| Some((m.setting.clone()?, m.message.clone())));
        let text = std::fs::read_to_string(folder.join(SETTINGS_FILE));
        let (Some((setting, what)), Ok(text)) = (named, text) else {
            return failure;
        };
        let Some(start) = reference::value_of(&text, &setting) else {
            return failure;
        };
        Failure {
            hint: failure.hint,
            ..Failure::in_file(SETTINGS_FILE, Some(place(&text, start)), what)
        }
    }

    fn read_changed(folder: &Path, changes: &[String]) -> Outcome<Self> {
        let mut settings = Self::read_file(folder)?;
        if changes.is_empty() {
            return Ok(settings);
        }
        let text = std::fs::read_to_string(folder.join(SETTINGS_FILE))
            .map_err(|e| not_a_project(folder, &e))?;
        let mut table: toml::Table =
            toml::from_str(&text).map_err(|e| Failure::input(e.to_string()))?;
        for text in changes {
            let refused =
                |reason: String| {
                    let failure = Failure::input(format!(
                        "{text}: {}",
                        reference::in_words(without_list(&reason))
                    ));
                    let default = text
                        .split_once('=')
                        .and_then(|(key, _)| reference::line_of(whole_name(key)));
                    failure.hint(nearest_setting(&reason).unwrap_or_else(|| {
                        match default {
                    Some(line) => {
                        format!("its default is {line}; docs/settings.md says what it is")
                    }
                    None => "write learner.training.members=1; docs/settings.md lists every setting"
                        .to_owned(),
                }
                    }))
                };
            change(&mut table, text, false).map_err(refused)?;
            check_properties(&table).map_err(|(name, reason)| {
                Failure::input(format!("kafka.properties: \"{name}\": {reason}"))
            })?;
            // One by one, so that a message is of the one that is wrong.
            let read = match from_table(&table) {
                // A command line has no quotes for a text: 24 is one where one is wanted.
                Err(reason) if reason.ends_with(", expected a string") => {
                    change(&mut table, text, true).map_err(refused)?;
                    from_table(&table)
                }
                read => read,
            };
            settings = read.map_err(refused)?;
        }
        Ok(settings)
    }

    fn read_file(folder: &Path) -> Outcome<Self> {
        let path = folder.join(SETTINGS_FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| not_a_project(folder, &e))?;
        let table = match toml::from_str::<toml::Table>(&text) {
            Ok(table) => table,
            // The settings would take it, and a change of any other one would not read the file.
            Err(e) if e.message() == "u64 value was too large" => return Err(of_file(&text, &e)),
            Err(_) => toml::Table::new(),
        };
        check_properties(&table).map_err(|(name, reason)| {
            let place = text.find(&name).map(|start| place(&text, start));
            let what = format!("kafka.properties: \"{name}\": {reason}");
            Failure::in_file(SETTINGS_FILE, place, what)
        })?;
        toml::from_str(&text).map_err(|e| of_file(&text, &e))
    }
}

/// What is wrong in the file of settings, and where.
fn of_file(text: &str, error: &toml::de::Error) -> Failure {
    let place = error.span().map(|span| place(text, span.start));
    let message = error.message().replace('\n', " ");
    let written = error.span().and_then(|span| text.get(span));
    let said = match (message.as_str(), written) {
        ("invalid socket address syntax", Some(written)) => {
            format!("{written} is not an address and its port")
        }
        (message, _) => reference::in_words(without_list(message)),
    };
    let setting = error
        .span()
        .and_then(|span| reference::setting_at(text, span.start));
    let default = setting.and_then(|setting| reference::line_of(&setting));
    let hint = nearest_setting(&message).unwrap_or_else(|| match default {
        Some(line) => format!("its default is {line}; docs/settings.md says what it is"),
        None => "docs/settings.md lists every setting with its default".to_owned(),
    });
    Failure::in_file(SETTINGS_FILE, place, said).hint(hint)
}

/// Refuses a property of Kafka's client that is neither a text nor a table, by its name, before anything is made of its
/// value: that may be a password, and is not shown. serde would read a list as the table's fields.
fn check_properties(table: &toml::Table) -> Result<(), (String, &'static str)> {
    let kafka = table.get("kafka").and_then(toml::Value::as_table);
    let properties = kafka.and_then(|kafka| kafka.get("properties")?.as_table());
    let is_wrong = |(_, value): &(&String, &toml::Value)| !value.is_str() && !value.is_table();
    match properties.into_iter().flatten().find(is_wrong) {
        None => Ok(()),
        Some((name, _)) => Err((
            name.clone(),
            "a property of Kafka's client is a text in quotes, { env = \"VARIABLE\" } or { file = \"/whole/path\" }",
        )),
    }
}

/// The names in what serde says of one that it does not know: the wrong one, and those that there are.
fn names_in(message: &str) -> Option<(&str, Vec<&str>)> {
    let is_of_a_name =
        message.starts_with("unknown field") || message.starts_with("unknown variant");
    let mut names = message.split('`').skip(1).step_by(2);
    let wrong = names.next().filter(|_| is_of_a_name)?;
    Some((wrong, names.collect()))
}

/// "did you mean 'x'?", of a setting that does not exist; all that there are, where none is near.
fn nearest_setting(message: &str) -> Option<String> {
    let (wrong, names) = names_in(message)?;
    // A value that there is not is no setting of another section.
    if message.starts_with("unknown field")
        && let Some(name) = reference::elsewhere(wrong, &names)
    {
        return Some(format!(
            "did you mean '{name}'? docs/settings.md lists every setting"
        ));
    }
    Some(match nearest(wrong, names.iter().copied()) {
        Some(near) => format!("did you mean '{near}'? docs/settings.md lists every setting"),
        None => format!(
            "there are {}; docs/settings.md says what each is",
            names.join(", ")
        ),
    })
}

/// What is wrong, without the list that is a hint.
fn without_list(message: &str) -> &str {
    match (names_in(message), message.split_once(", ")) {
        (Some(_), Some((wrong, _))) => wrong,
        _ => message,
    }
}

/// What a change that is out of its range is of: the first one with which the settings are, or else the file.
fn of_change(folder: &Path, changes: &[String], failure: Failure) -> Failure {
    let is_wrong = |changes: &[String]| {
        let settings = Settings::read_changed(folder, changes);
        settings.is_ok_and(|settings| settings.check().is_err())
    };
    let first = (0..=changes.len()).find(|count| is_wrong(&changes[..*count]));
    let Some(change) = first.and_then(|count| changes.get(count.checked_sub(1)?)) else {
        return Settings::placed(folder, failure);
    };
    // A property of Kafka's client may be a password.
    if change.contains("kafka.properties") {
        return failure;
    }
    let file = format!("{SETTINGS_FILE}: ");
    let what = failure.message.strip_prefix(&file);
    let said = Failure::input(format!("{change}: {}", what.unwrap_or(&failure.message)));
    match failure.hint {
        Some(hint) => said.hint(hint),
        None => said,
    }
}

/// A setting's name as it is meant.
fn whole_name(key: &str) -> &str {
    match key.trim() {
        // The period belongs to the model, and is looked for at the learner.
        "learner.every" => "model.every",
        key => key,
    }
}

fn from_table(table: &toml::Table) -> Result<Settings, String> {
    let read = table.clone().try_into();
    read.map_err(|e: toml::de::Error| e.message().replace('\n', " "))
}

/// `section.name=value` in place of what a file says. A value that is no TOML is a text, and with `is_text` any is.
fn change(table: &mut toml::Table, text: &str, is_text: bool) -> Result<(), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "this gives no value".to_owned())?;
    let key = whole_name(key);
    let value = value.trim();
    let parsed = format!("value = {value}").parse::<toml::Table>();
    let value = parsed
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .filter(|_| !is_text)
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let (sections, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = table;
    for section in sections.split('.').filter(|section| !section.is_empty()) {
        let entry = table
            .entry(section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry
            .as_table_mut()
            .ok_or_else(|| format!("'{section}' is a setting and no section"))?;
    }
    table.insert(name.to_owned(), value);
    Ok(())
}

fn not_a_project(folder: &Path, error: &std::io::Error) -> Failure {
    let folder = folder.display();
    Failure::input(format!(
        "{folder} is not a Millrace project: millrace.toml: {error}"
    ))
    .hint("name the project's folder with --project DIR; examples/fraud is one to start from")
}

/// The line and the column of an offset, from 1.
fn place(text: &str, offset: usize) -> (u64, u64) {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, str::len) + 1;
    (line as u64, column as u64)
}

pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

/// A length of time as people write it: `90s`, `15m`, `1h`, `7d`.
///
/// # Errors
/// What is wrong, and how one is written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_delay(text)?;
    if duration.is_zero() {
        return Err(format!(
            "'{text}' is no time at all: write 90s, 15m, 1h or 7d"
        ));
    }
    Ok(duration)
}

/// The same where it may be none: `0s`.
///
/// # Errors
/// As [`parse_duration`].
pub fn parse_delay(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| match &error {
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
            format!("'{text}' lacks a unit: write 90s, 15m, 1h or 7d")
        }
        _ => format!("'{text}' is not a length of time ({error}): write 90s, 15m, 1h or 7d"),
    })
}

/// Microseconds of a length of time, as event times count.
#[must_use]
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
