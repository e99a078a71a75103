//! Settings that can be read and cannot work: said at once, and not when the first model is due.

use std::time::Duration;

use millrace_ingest::{IngestError, IngestSettings};
use millrace_learner::LearnerError;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use crate::failure::{Failure, Outcome};
use crate::files::nearest;
use crate::object_stores::meant_as_url;
use crate::settings::{SETTINGS_FILE, Settings, SettlingTime};

/// Bounds of a period: event times are whole microseconds, and the end of a period that holds the newest must be one.
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);
const LONGEST_PERIOD: Duration = Duration::from_secs(36_500 * 86_400);

impl Settings {
    /// Says which setting is out of its range, if one is.
    ///
    /// # Errors
    /// The first such setting, by its name in `millrace.toml`.
    pub(super) fn check(&self) -> Outcome<()> {
        self.check_kafka()?;
        self.check_rocksdb()?;
        let server = &self.server;
        let is_one = server.listen == server.metrics && server.listen.port() != 0;
        require("server.metrics", !is_one, "is the address of server.listen")?;
        if let Some(model) = &self.model {
            require("model.scores", !model.scores.is_empty(), "names no topic")?;
            require("model.keep", model.keep >= 1, "is below 1")?;
            require("model.min_labels", model.min_labels >= 1, "is below 1")?;
            require("model.min_frauds", model.min_frauds >= 1, "is below 1")?;
            let is_period = (SHORTEST_PERIOD..=LONGEST_PERIOD).contains(&model.every);
            require(
                "model.every",
                is_period,
                "is not from 1s to 36500d: write 15m, 1h or 1d",
            )?;
            // They would be gone before they are learned.
            let is_kept = match model.settling {
                SettlingTime::Auto => true,
                SettlingTime::After(time) => time < self.store.examples,
            };
            require(
                "model.settling",
                is_kept,
                "is not shorter than store.examples, for which labels are kept",
            )?;
        }
        let learner = &self.learner;
        require(
            "learner.history_rows",
            learner.history_rows >= 1,
            "is below 1",
        )?;
        require(
            "learner.afresh_at_growth",
            !learner.afresh_at_growth.is_nan(),
            "is not a number: 1 or less never starts afresh",
        )?;
        let averaged = learner.training.averaged_updates;
        require(
            "learner.training.averaged_updates",
            averaged >= 1,
            "is below 1",
        )?;
        let training = learner.training.check();
        training.map_err(|e| of_learner("learner.training", e))?;
        let gate = learner.gate.check();
        gate.map_err(|e| of_learner("learner", e))?;
        let location = self.score_log.location.as_deref();
        require(
            "score_log.location",
            location != Some(""),
            "is empty: leave it out for no log",
        )?;
        location.map_or(Ok(()), check_location)
    }

    fn check_rocksdb(&self) -> Outcome<()> {
        let rocksdb = &self.store.rocksdb;
        require(
            "store.rocksdb.sweep_seconds",
            rocksdb.sweep_seconds >= 1,
            "is below 1: old rows would never go",
        )?;
        require(
            "store.rocksdb.background_jobs",
            rocksdb.background_jobs >= 1,
            "is below 1",
        )?;
        let files = rocksdb.max_open_files;
        require(
            "store.rocksdb.max_open_files",
            files >= 1 || files == -1,
            "is neither above 0 nor -1, for as many as there are",
        )
    }

    fn check_kafka(&self) -> Outcome<()> {
        let kafka = &self.kafka;
        require(
            "kafka.brokers",
            !kafka.brokers.trim().is_empty(),
            "is empty",
        )?;
        require("kafka.group", !kafka.group.is_empty(), "is empty")?;
        require("kafka.max_rows", kafka.max_rows >= 1, "is below 1")?;
        require("kafka.buffer_rows", kafka.buffer_rows >= 1, "is below 1")?;
        check_properties(kafka)?;
        let letters = kafka.dead_letter_topic.contains("{topic}");
        require(
            "kafka.dead_letter_topic",
            letters,
            "does not have {topic} in it: the dead letters of all topics would be one",
        )?;
        require(
            "topics.partitions",
            self.topics.partitions >= 1,
            "is below 1",
        )
    }
}

/// Whether all properties are the user's to set, and Kafka's client knows them, which it says without a connection.
/// Their values may be secrets, and are not shown.
fn check_properties(kafka: &IngestSettings) -> Outcome<()> {
    match kafka.check() {
        Err(IngestError::ReservedProperty { key, because }) => {
            return Err(wrong_property(&key, &format!("cannot be set: {because}")));
        }
        other => other?,
    }
    for (name, value) in &kafka.properties {
        let mut client = ClientConfig::new();
        client.set(name, value);
        let Err(error) = client.create_native_config() else {
            continue;
        };
        return Err(match error {
            KafkaError::ClientConfig(_, said, ..) if said.starts_with(NO_SUCH) => {
                no_such_property(name)
            }
            _ => wrong_property(name, "has a value that Kafka's client does not take"),
        });
    }
    Ok(())
}

fn no_such_property(name: &str) -> Failure {
    let failure = wrong_property(name, "is no property of Kafka's client");
    match nearest(name, PROPERTIES.into_iter()) {
        Some(near) => failure.hint(format!("did you mean \"{near}\"?")),
        None => failure.hint(
            "librdkafka's CONFIGURATION.md lists its properties; those of the client for Java have other names",
        ),
    }
}

/// What most connections need. librdkafka has more properties, and no call that lists them.
const PROPERTIES: [&str; 24] = [
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.type",
    "debug",
    "enable.ssl.certificate.verification",
    "fetch.max.bytes",
    "isolation.level",
    "linger.ms",
    "message.max.bytes",
    "sasl.kerberos.keytab",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "socket.timeout.ms",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
];

fn wrong_property(name: &str, reason: &str) -> Failure {
    wrong(
        &format!("kafka.properties.{name}"),
        &format!("kafka.properties: \"{name}\" {reason}"),
    )
}

/// So begins what librdkafka says of a name.
const NO_SUCH: &str = "No such configuration property";

/// Whether a location of the log can be one, wherever it leads to.
fn check_location(location: &str) -> Outcome<()> {
    let name = "score_log.location";
    let wrong = |reason: String| wrong(name, &format!("{name} = \"{location}\": {reason}"));
    if let Some(url) = meant_as_url(location) {
        return Err(wrong(format!("did you mean {url}?")));
    }
    let Some((scheme, bucket)) = location.split_once("://") else {
        return Ok(());
    };
    match scheme.to_lowercase().as_str() {
        "file" => Ok(()),
        "s3" | "gs" if bucket.is_empty() || bucket.starts_with('/') => {
            Err(wrong("this names no bucket".to_owned()))
        }
        "s3" | "gs" => Ok(()),
        _ => Err(wrong(format!(
            "there is no store of kind {scheme}://: write a folder, s3://bucket/path or gs://bucket/path"
        ))),
    }
}

fn require(name: &str, holds: bool, reason: &str) -> Outcome<()> {
    match holds {
        true => Ok(()),
        false => Err(wrong(name, &format!("{name} {reason}"))),
    }
}

/// What the learner says of a setting in a section, which it knows by the rest of its name.
fn of_learner(section: &str, error: LearnerError) -> Failure {
    match error {
        LearnerError::Setting { name, reason } => {
            let name = format!("{section}.{name}");
            wrong(&name, &format!("{name}: {reason}"))
        }
        other => other.into(),
    }
}

fn wrong(setting: &str, what: &str) -> Failure {
    Failure::in_file(SETTINGS_FILE, None, what)
        .of_setting(setting)
        .hint("docs/settings.md lists every setting with its default")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_property_that_is_near_is_meant() {
        let hint = |name: &str| no_such_property(name).hint.unwrap();
        for name in ["securty.protocol", "security_protocol"] {
            assert_eq!(hint(name), "did you mean \"security.protocol\"?");
        }
        let java = hint("ssl.truststore.location");
        assert!(java.starts_with("librdkafka's CONFIGURATION.md"), "{java}");
        for name in PROPERTIES {
            let mut client = ClientConfig::new();
            client.set(name, "x");
            // Its value may be refused, and its name is known.
            if let Err(KafkaError::ClientConfig(_, said, ..)) = client.create_native_config() {
                assert!(!said.starts_with(NO_SUCH), "{name}: {said}");
            }
        }
    }

    #[test]
    fn what_cannot_work_is_named() {
        let of = |text: &str| toml::from_str::<Settings>(text).unwrap().check();
        of("").unwrap();
        of("[server]\nlisten = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"").unwrap();
        of("[kafka.properties]\n\"security.protocol\" = \"ssl\"").unwrap();
        of("[kafka.properties]\n\"isolation.level\" = \"read_committed\"").unwrap();
        of("[store.rocksdb]\nmax_open_files = -1").unwrap();
        let model =
            |every: &str| format!("[model]\ninputs = \"i\"\nlabel = \"l.x\"\nevery = \"{every}\"");
        for every in ["1s", "1h", "36500d"] {
            of(&model(every)).unwrap();
        }
        for every in ["1ns", "999ms", "36501d", "1000000000d"] {
            let failure = of(&model(every)).unwrap_err();
            let bounds = "model.every is not from 1s to 36500d";
            assert!(failure.message.contains(bounds), "{every}: {failure}");
        }
        for location in ["data/scores", "s3://b/l", "file:///tmp/scores"] {
            of(&format!("[score_log]\nlocation = \"{location}\"")).unwrap();
        }
        for (text, name) in [
            ("[kafka]\nbrokers = \"\"", "kafka.brokers"),
            ("[kafka]\nmax_rows = 0", "kafka.max_rows"),
            (
                "[kafka]\ndead_letter_topic = \"dl\"",
                "kafka.dead_letter_topic",
            ),
            ("[topics]\npartitions = 0", "topics.partitions"),
            ("[server]\nlisten = \"127.0.0.1:9187\"", "server.metrics"),
            (
                "[learner.training]\nmembers = 0",
                "millrace.toml: learner.training.members: 0 is below 1",
            ),
            (
                "[learner.training]\naveraged_updates = 0",
                "averaged_updates",
            ),
            (
                "[learner.gate]\ncanary = [50, 10]",
                "millrace.toml: learner.gate.canary: [50, 10] does not rise",
            ),
            ("[learner.gate]\nmin_rows = 0", "gate.min_rows"),
            ("[learner.gate]\nwatched_rows = 0", "gate.watched_rows"),
            (
                "[learner.gate]\nunusual_periods = 0",
                "gate.unusual_periods",
            ),
            (
                "[learner]\nafresh_at_growth = nan",
                "learner.afresh_at_growth is not a number",
            ),
            ("[learner.training]\nbins = 100000", "100000 is above 1024"),
            (
                "[learner.training]\ninitial_frauds = 0\ninitial_negatives = 0",
                "a model starts from nothing",
            ),
            ("[score_log]\nlocation = \"\"", "score_log.location"),
            (
                "[score_log]\nlocation = \"s3:/b/l\"",
                "did you mean s3://b/l?",
            ),
            (
                "[score_log]\nlocation = \"http://x/y\"",
                "no store of kind http://",
            ),
            ("[score_log]\nlocation = \"s3://\"", "names no bucket"),
            (
                "[kafka.properties]\n\"security.protocl\" = \"ssl\"",
                "\"security.protocl\" is no property",
            ),
            (
                "[kafka.properties]\n\"security.protocol\" = \"hunter2\"",
                "\"security.protocol\" has a value that Kafka's client does not take",
            ),
            (
                "[kafka.properties]\n\"bootstrap.servers\" = \"a:1\"",
                "\"bootstrap.servers\" cannot be set: kafka.brokers sets it",
            ),
            (
                "[kafka.properties]\n\"metadata.broker.list\" = \"a:1\"",
                "kafka.brokers sets it",
            ),
            (
                "[kafka.properties]\n\"enable.auto.commit\" = \"true\"",
                "\"enable.auto.commit\" cannot be set: offsets are stored with the state",
            ),
            (
                "[kafka.properties]\n\"acks\" = \"1\"",
                "\"acks\" cannot be set",
            ),
            (
                "[kafka.properties]\n\"transactional.id\" = \"t\"",
                "\"transactional.id\" cannot be set",
            ),
            (
                "[kafka.properties]\n\"isolation.level\" = \"read_uncommitted\"",
                "\"isolation.level\" cannot be set: events of a transaction that is aborted would count",
            ),
            (
                "[store.rocksdb]\nsweep_seconds = 0",
                "store.rocksdb.sweep_seconds",
            ),
            (
                "[store.rocksdb]\nmax_open_files = -5",
                "store.rocksdb.max_open_files",
            ),
            (
                "[store.rocksdb]\nbackground_jobs = -3",
                "store.rocksdb.background_jobs",
            ),
        ] {
            let failure = of(text).unwrap_err();
            assert!(failure.message.contains(name), "{}", failure.message);
            assert!(!failure.message.contains("hunter2"), "{}", failure.message);
        }
    }
}
