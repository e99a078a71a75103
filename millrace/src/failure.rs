//! How a command ends badly: what is wrong, the nearest thing that works, and the exit code.
//!
//! The library crates class their errors; here they are mapped, once, to what a user reads.

use std::fmt;
use std::path::Path;

use millrace_feature_store::StoreError;
use millrace_features::{FeatureError, Problem};
use millrace_ingest::IngestError;
use millrace_learner::LearnerError;
use serde::Serialize;

use crate::interrupt::EXIT_CODE;
use crate::object_stores::CREDENTIALS;

/// Exit codes of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 1: something outside failed: a broker, a disk, a server.
    Failed,
    /// 2: the user's input is wrong: a project, a file, an argument.
    Input,
    /// 1: the registry of models does not answer. It may, in a while.
    Away,
    /// 1: somebody else has moved the traffic meanwhile. What was under way is to be begun anew.
    Overtaken,
    /// 1: another process learns from the same labels, into the same registry. What it has done is to be read.
    Rival,
    /// 130: the user has stopped it. The message says what was done.
    Stopped,
}

/// A command's error, rendered once, at the end of `main`.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// What is wrong, and where.
    pub message: String,
    /// The nearest thing that works.
    pub hint: Option<String>,
    /// The mistakes in a project's files that the message tells of, for programs; none where it is of something else.
    pub(crate) mistakes: Vec<Mistake>,
}

/// One mistake, as a program reads it: what is not known of its place is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file, relative to the project's folder.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: Option<u64>,
    /// Its column, from 1.
    pub column: Option<u64>,
    /// What is wrong, without the place.
    pub message: String,
    /// The nearest thing that works, where one is known.
    pub hint: Option<String>,
    /// The setting of millrace.toml that it is of, by its whole name, while its place is not known.
    #[serde(skip)]
    pub(crate) setting: Option<String>,
}

/// The result of a command.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Something outside failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failed,
            message: message.into(),
            hint: None,
            mistakes: Vec::new(),
        }
    }

    /// The user's input is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Input,
            message: message.into(),
            hint: None,
            mistakes: Vec::new(),
        }
    }

    /// A mistake in a file of the project, at a line and a column where they are known.
    pub fn in_file(file: &str, place: Option<(u64, u64)>, what: impl Into<String>) -> Self {
        let what = what.into();
        let message = match place {
            Some((line, column)) => format!("{file}:{line}:{column}: {what}"),
            None => format!("{file}: {what}"),
        };
        let mistake = Mistake {
            file: Some(file.to_owned()),
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            message: what,
            hint: None,
            setting: None,
        };
        Self {
            mistakes: vec![mistake],
            ..Self::input(message)
        }
    }

    /// Says of which setting it is, by its whole name: `Settings::placed` finds its place.
    pub(crate) fn of_setting(mut self, name: &str) -> Self {
        for mistake in &mut self.mistakes {
            mistake.setting = Some(name.to_owned());
        }
        self
    }

    /// Somebody else has moved the traffic meanwhile.
    pub fn overtaken(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Overtaken,
            message: message.into(),
            hint: None,
            mistakes: Vec::new(),
        }
    }

    /// Another process learns from the same labels.
    pub fn rival(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Rival,
            message: message.into(),
            hint: None,
            mistakes: Vec::new(),
        }
    }

    /// The user has stopped it, and this was done.
    pub fn stopped(done: impl Into<String>) -> Self {
        Self {
            kind: Kind::Stopped,
            message: done.into(),
            hint: None,
            mistakes: Vec::new(),
        }
    }

    /// Adds the nearest thing that works.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What is wrong, one by one.
    #[must_use]
    pub fn one_by_one(&self) -> Vec<Mistake> {
        if self.mistakes.is_empty() {
            return vec![Mistake {
                file: None,
                line: None,
                column: None,
                message: self.message.clone(),
                hint: self.hint.clone(),
                setting: None,
            }];
        }
        let hinted = |mistake: &Mistake| Mistake {
            hint: mistake.hint.clone().or_else(|| self.hint.clone()),
            ..mistake.clone()
        };
        self.mistakes.iter().map(hinted).collect()
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Failed | Kind::Away | Kind::Overtaken | Kind::Rival => 1,
            Kind::Input => 2,
            Kind::Stopped => EXIT_CODE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Stopped => write!(f, "stopped: {}", self.message)?,
            _ => write!(f, "error: {}", self.message)?,
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// All mistakes of a project as one failure, a paragraph each.
impl From<Vec<Problem>> for Failure {
    fn from(problems: Vec<Problem>) -> Self {
        let paragraphs: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Self {
            mistakes: problems.into_iter().map(Mistake::from).collect(),
            ..Self::input(paragraphs.join("\n"))
        }
    }
}

impl From<Problem> for Mistake {
    fn from(problem: Problem) -> Self {
        Self {
            file: Some(problem.position.file),
            line: Some(problem.position.line),
            column: Some(problem.position.column),
            message: problem.message,
            hint: problem.hint,
            setting: None,
        }
    }
}

impl From<FeatureError> for Failure {
    fn from(error: FeatureError) -> Self {
        Self::failed(with_causes(&error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let hint = match &error {
            StoreError::NotAStore { .. } => "point store.path in millrace.toml at an empty folder",
            StoreError::NewerFormat { .. } => {
                "run the release that wrote it, or move the folder away: Kafka fills a new one"
            }
            StoreError::OtherProject { .. } => {
                "an older release filled it for other views: give store.path a new folder, which Kafka \
                 fills again, or start once with the views that filled it"
            }
            StoreError::Locked { .. } => {
                "another `millrace run` uses it: stop that one, or ask it over its port"
            }
            _ => return Self::failed(with_causes(&error)),
        };
        Self::input(with_causes(&error)).hint(hint)
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        let message = with_causes(&error);
        match &error {
            IngestError::BrokerUnreachable { detail, .. } => {
                Self::failed(message).hint(way_to_a_broker(detail))
            }
            IngestError::UnknownTopic { near, topic, .. } => {
                let near = match near.first() {
                    Some(name) => format!("did you mean '{name}'? Else "),
                    None => String::new(),
                };
                Self::input(message).hint(format!(
                    "{near}create it: `millrace run --create-topics`, or kafka-topics.sh --create \
                     --topic {topic}; a stream's topic is its LOCATION in sources.sql"
                ))
            }
            _ => Self::failed(message),
        }
    }
}

/// What to look at, by what librdkafka said.
fn way_to_a_broker(detail: &str) -> &'static str {
    if detail.contains("SASL authentication") {
        "the brokers do not know who asks, or know another password: sasl.username and sasl.password in \
         [kafka.properties] of millrace.toml; sasl.mechanism says how they are checked"
    } else if detail.contains("SASL mechanism") {
        "sasl.mechanism in [kafka.properties] of millrace.toml is one that the brokers support"
    } else if detail.contains("certificate verify failed") {
        "ssl.ca.location in [kafka.properties] of millrace.toml names the file of the authority that the brokers' \
         certificates are of"
    } else if detail.contains("SSL ") {
        "[kafka.properties] in millrace.toml must have what the listener wants: security.protocol, and where it asks \
         for a certificate ssl.certificate.location and ssl.key.location"
    } else {
        "is Kafka up? `docker compose up -d kafka` starts one; --brokers or kafka.brokers in millrace.toml name \
         another; one that is encrypted, or asks for a password, wants security.protocol in [kafka.properties]"
    }
}

impl From<LearnerError> for Failure {
    fn from(error: LearnerError) -> Self {
        let failure = Self::failed(with_causes(&error));
        match &error {
            LearnerError::Store { path, .. } => {
                let failure = Self {
                    kind: Kind::Away,
                    ..failure
                };
                match path.to_string_lossy().contains("://") {
                    true => failure.hint(CREDENTIALS),
                    false => failure,
                }
            }
            LearnerError::Stopped => Self::stopped(failure.message),
            LearnerError::Unsafe { .. } => failure.hint(
                "model.registry needs a folder, or a store that heeds `If-None-Match: *`, as S3 and Google Cloud \
                 Storage do",
            ),
            LearnerError::Damaged { file, .. } if damaged_version(file).is_some() => failure.hint(
                "`millrace models rollback` takes the traffic from a version that cannot be loaded; `millrace models \
                 list` shows which one has it",
            ),
            LearnerError::Damaged { file, .. } if is_of_log(file) => failure.hint(
                "put it back from a backup of the registry: it tells who had the traffic, and so do the files after it",
            ),
            LearnerError::Device { .. } => failure.hint(
                "learner.device = \"auto\", the default, takes a GPU where one works, and else the CPU",
            ),
            LearnerError::NoSuchVersion { .. } => failure.hint(
                "if it has the traffic, its folder was removed or its manifest is missing: `millrace models rollback \
                 --to VERSION` gives the traffic to one that is there (millrace models list)",
            ),
            _ => failure,
        }
    }
}

/// Whether a file of the registry is of the log of decisions.
fn is_of_log(file: &Path) -> bool {
    let folder = file.parent().and_then(Path::file_name);
    folder.is_some_and(|folder| folder == "log")
}

/// The version of the model that a file belongs to, by its folder's name.
pub(crate) fn damaged_version(file: &Path) -> Option<u64> {
    let folder = file.parent()?.file_name()?.to_str()?;
    folder.strip_prefix('v')?.parse().ok()
}

/// An error with its causes on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_has_a_way_out() {
        let failure = Failure::from(LearnerError::Device {
            device: "cuda:0".to_owned(),
            reason: "there is no NVIDIA device under /dev".to_owned(),
        });
        let hint = failure.hint.unwrap_or_default();
        assert!(hint.starts_with("learner.device = \"auto\""), "{hint}");
    }

    #[test]
    fn what_keeps_a_client_from_a_broker_has_a_way_out() {
        // What librdkafka says.
        for (detail, way) in [
            (
                "SASL authentication error: Authentication failed: Invalid username or password",
                "sasl.password",
            ),
            (
                "SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported \
                 mechanisms: PLAIN",
                "sasl.mechanism in",
            ),
            (
                "SSL handshake failed: certificate verify failed",
                "ssl.ca.location",
            ),
            ("SSL handshake failed: Disconnected", "security.protocol"),
            ("1/1 brokers are down", "is Kafka up?"),
        ] {
            let said = way_to_a_broker(detail);
            assert!(said.contains(way), "{detail}: {said}");
        }
    }
}
