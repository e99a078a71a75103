//! The settings of ingestion, their defaults, and the librdkafka configuration that follows from them.

use std::collections::BTreeMap;
use std::env::VarError;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::align::AlignSettings;
use crate::error::IngestError;

/// How events are read. Durations are written like `2s` or `5m`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestSettings {
    /// The bootstrap brokers, `host:port`, separated by commas.
    pub brokers: String,
    /// The consumer group, one for each store: its members share the partitions out.
    pub group: String,
    /// A name for this worker that survives its restarts (Kafka's static membership): a worker that comes back
    /// under its old name gets its partitions back at once. Without it, the group first waits for the session of
    /// a killed worker to time out. (`millrace run` gives the name that is kept in its store.)
    pub instance: Option<String>,
    /// More librdkafka properties (security, fetch sizes), passed to every client.
    #[serde(deserialize_with = "texts")]
    pub properties: BTreeMap<String, String>,
    /// The most rows that one poll returns; fewer where their messages have 64 MiB together.
    pub max_rows: usize,
    /// The most decoded rows that wait per partition, or as many as have 32 MiB of messages; above it the partition is left
    /// alone until half of them have gone. (librdkafka's own buffer in front of it is bounded by
    /// `queued.max.messages.kbytes` per partition.)
    pub buffer_rows: usize,
    /// How long a partition that is behind and sends nothing may hold the others back.
    #[serde(with = "duration")]
    pub patience: Duration,
    /// How far ahead of the clock an event time may be before the event is a dead letter.
    #[serde(with = "duration")]
    pub allowed_future: Duration,
    /// How long one request to the brokers (metadata, watermarks, dead letters) may take.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// The name of a topic's dead-letter topic; `{topic}` stands for the topic's name.
    pub dead_letter_topic: String,
    /// Whether a missing dead-letter topic is created when the first bad message comes.
    pub create_dead_letter_topics: bool,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self {
            brokers: "localhost:9092".into(),
            group: "millrace".into(),
            instance: None,
            properties: BTreeMap::new(),
            max_rows: 8_192,
            buffer_rows: 16_384,
            patience: Duration::from_secs(2),
            allowed_future: Duration::from_secs(300),
            request_timeout: Duration::from_secs(5),
            dead_letter_topic: "{topic}.dead-letters".into(),
            create_dead_letter_topics: true,
        }
    }
}

/// A partition whose decoded messages have so many bytes is left alone: more wait by one turn at most (4 MiB and a message).
/// 16,384 events of 2 kB have as many, so that events of the usual size are bounded by their number.
const BUFFER_BYTES: usize = 32 << 20;

/// A step ends with the message that brings it to so many bytes. It becomes one batch a stream, and the texts of a column
/// of a batch must stay below 2 GiB.
const STEP_BYTES: usize = 64 << 20;

/// What a user may not set, and why: it is set here, whatever the user says, or would break a promise. Some have two
/// names, and librdkafka takes whichever comes last.
const RESERVED: [(&str, &str); 17] = [
    ("bootstrap.servers", "kafka.brokers sets it"),
    ("metadata.broker.list", "kafka.brokers sets it"),
    (
        "test.mock.num.brokers",
        "events come from kafka.brokers, and from no mock",
    ),
    ("group.id", "kafka.group sets it"),
    ("group.instance.id", "kafka.instance sets it"),
    ("enable.auto.commit", STORED),
    ("auto.commit.enable", STORED),
    ("enable.auto.offset.store", STORED),
    (
        "auto.offset.reset",
        "a position that Kafka no longer has is reported, and reading goes on at the oldest event",
    ),
    (
        "enable.partition.eof",
        "event-time order needs to know the end of a partition",
    ),
    (
        "group.protocol",
        "only the classic group protocol is supported",
    ),
    ("acks", REPLICAS),
    ("request.required.acks", REPLICAS),
    (
        "transactional.id",
        "messages are sent outside of transactions, and Kafka's client would refuse them all",
    ),
    (
        "delivery.report.only.error",
        "a message is sent when Kafka's client reports that it is",
    ),
    (
        "queuing.strategy",
        "messages leave in the order in which they come",
    ),
    ("log_level", "RUST_LOG says how much is logged"),
];

const STORED: &str = "offsets are stored with the state that they stand behind";
const METADATA_REFRESH: &str = "topic.metadata.refresh.interval.ms";
const REPLICAS: &str = "a dead letter and a score count when every replica has them";

/// Why a property may not have a value, if it may not.
fn refused(key: &str, value: &str) -> Option<&'static str> {
    let reserved = RESERVED.iter().find(|(name, _)| *name == key);
    if let Some((_, because)) = reserved {
        return Some(because);
    }
    match key {
        "partition.assignment.strategy" if value.contains("cooperative") => {
            Some("use range or roundrobin: partitions change hands in one step")
        }
        "isolation.level" if value == "read_uncommitted" => {
            Some("events of a transaction that is aborted would count")
        }
        "statistics.interval.ms" if value == "0" => {
            Some("how far a partition goes is known from the statistics: 1000 is the default")
        }
        _ => None,
    }
}

impl IngestSettings {
    /// The dead-letter topic of `topic`.
    pub fn dead_letter_topic_of(&self, topic: &str) -> String {
        self.dead_letter_topic.replace("{topic}", topic)
    }

    pub(crate) fn align(&self) -> AlignSettings {
        AlignSettings {
            patience: self.patience,
            max_rows: self.max_rows.max(1),
            high_rows: self.buffer_rows.max(1),
            low_rows: self.buffer_rows.max(1).div_ceil(2),
            max_bytes: STEP_BYTES,
            high_bytes: BUFFER_BYTES,
            low_bytes: BUFFER_BYTES / 2,
        }
    }

    pub(crate) fn allowed_future_us(&self) -> i64 {
        i64::try_from(self.allowed_future.as_micros()).unwrap_or(i64::MAX)
    }

    /// Refuses properties that would break a promise.
    ///
    /// # Errors
    /// [`IngestError::ReservedProperty`], of the first such property.
    pub fn check(&self) -> Result<(), IngestError> {
        let mut properties = self.properties.iter();
        match properties.find_map(|(key, value)| Some((key, refused(key, value)?))) {
            Some((key, because)) => Err(IngestError::ReservedProperty {
                key: key.clone(),
                because,
            }),
            None => Ok(()),
        }
    }

    /// The configuration of the group's consumer.
    pub(crate) fn consumer(&self) -> ClientConfig {
        let mut config = self.reading();
        // Where it says that a topic is another one (see `group`).
        let debug = self.properties.get("debug");
        let debug = debug.map_or_else(|| "metadata".to_owned(), |own| format!("{own},metadata"));
        config.set("debug", debug);
        config.set_log_level(RDKafkaLogLevel::Debug);
        config
    }

    /// What all consumers have. A user's properties override the tuning, not the contract.
    fn reading(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // `range` gives a worker the same partition numbers of every topic, so that streams with one key stay
        // together.
        config.set("partition.assignment.strategy", "range");
        // The end of a partition is known when an empty fetch comes back; this is how long a broker keeps it.
        config.set("fetch.wait.max.ms", "100");
        // A partition has a queue of its own, so both bounds hold for each partition.
        config.set("queued.max.messages.kbytes", "16384");
        config.set("queued.min.messages", "20000");
        // How long librdkafka leaves a partition alone whose queue was full. Its default of a second lets a consumer
        // that empties the queue in a tenth of that starve.
        config.set("fetch.queue.backoff.ms", "5");
        // How long the partitions of a killed worker stay without an owner.
        config.set("session.timeout.ms", "10000");
        config.set("heartbeat.interval.ms", "2000");
        config.set("statistics.interval.ms", "1000");
        // How soon partitions that are new are seen, and shared out. What is known of topics counts for longer:
        // brokers that are away do not take it with them.
        config.set(METADATA_REFRESH, "5000");
        if !self.properties.contains_key(METADATA_REFRESH) {
            config.set("metadata.max.age.ms", "180000");
        }
        config.extend(own(&self.properties));
        config.set("bootstrap.servers", &self.brokers);
        config.set("group.id", &self.group);
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "true");
        // An invalid position is an error here, so that it is handled in the open (see `consumer`).
        config.set("auto.offset.reset", "error");
        config.set_log_level(log_level(&self.properties));
        config
    }

    /// The configuration of a consumer outside the group, which reads what was read before.
    pub(crate) fn replay(&self) -> ClientConfig {
        let mut config = self.reading();
        config.set("group.id", format!("{}.replay", self.group));
        config.remove("group.instance.id");
        // Retention goes on while it reads; what goes meanwhile is the oldest of what is wanted.
        config.set("auto.offset.reset", "earliest");
        config.set("statistics.interval.ms", "0");
        config
    }

    /// The dead-letter producer's configuration.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("linger.ms", "0");
        // The record as it came, and the headers that are added to it.
        config.set("message.max.bytes", "16777216");
        config.set(
            "message.timeout.ms",
            self.request_timeout.as_millis().max(1).to_string(),
        );
        config.extend(own(&self.properties));
        config.set("bootstrap.servers", &self.brokers);
        config.set("acks", "all");
        config.set_log_level(log_level(&self.properties));
        config
    }
}

/// A bare client of `brokers`.
pub(crate) fn client(brokers: &str, properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(own(properties));
    config.set("bootstrap.servers", brokers);
    config.set_log_level(log_level(properties));
    config
}

fn own(properties: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    properties
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
}

/// librdkafka filters its log itself; its `debug` property is of no use below the level `Debug`.
fn log_level(properties: &BTreeMap<String, String>) -> RDKafkaLogLevel {
    if properties.contains_key("debug") {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Notice
    }
}

/// librdkafka's properties are texts. What is none is refused without being shown: it may be a password. A password
/// need not stand in the settings: the environment or a file may have it.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let properties = BTreeMap::<String, Property>::deserialize(deserializer)?;
    let text = |(key, property): (String, Property)| match property.text() {
        Ok(text) => Ok((key, text)),
        Err(reason) => Err(D::Error::custom(format_args!("{key}: {reason}"))),
    };
    properties.into_iter().map(text).collect()
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a property of Kafka's client is a text in quotes, { env = \"VARIABLE\" } or { file = \"/whole/path\" }"
)]
enum Property {
    Text(String),
    Env(EnvProperty),
    File(FileProperty),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvProperty {
    env: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProperty {
    file: PathBuf,
}

impl Property {
    fn text(self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Env(EnvProperty { env }) => std::env::var(&env).map_err(|error| match error {
                VarError::NotPresent => format!("there is no variable {env} in the environment"),
                VarError::NotUnicode(_) => format!("the variable {env} is no text"),
            }),
            Self::File(FileProperty { file }) if file.is_relative() => Err(format!(
                "write the whole path of the file, not {}",
                file.display()
            )),
            Self::File(FileProperty { file }) => std::fs::read_to_string(&file)
                // Editors end a file with a new line, and no password does.
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("{}: {error}", file.display())),
        }
    }
}

/// Durations as people write them.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn settings_survive_serialization_and_only_differences_need_to_be_written() {
        let settings: IngestSettings =
            serde_json::from_str(r#"{"patience": "1500ms", "max_rows": 7}"#).unwrap();
        let expected = IngestSettings {
            patience: Duration::from_millis(1500),
            max_rows: 7,
            ..IngestSettings::default()
        };
        assert_eq!(settings, expected);
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(
            serde_json::from_str::<IngestSettings>(&text).unwrap(),
            expected
        );
        assert!(serde_json::from_str::<IngestSettings>(r#"{"patiense": "1s"}"#).is_err());
    }

    #[test]
    fn a_property_that_is_no_text_is_refused_and_not_shown() {
        let read = |value: &str| {
            let settings = format!(r#"{{"properties": {{"sasl.password": {value}}}}}"#);
            serde_json::from_str::<IngestSettings>(&settings)
        };
        assert_eq!(
            read(r#""4711""#).unwrap().properties["sasl.password"],
            "4711"
        );
        for value in ["4711", "47.11", "true", "[4711]"] {
            let error = read(value).unwrap_err().to_string();
            assert!(
                error.contains("in quotes") && !error.contains(value),
                "{error}"
            );
        }
    }

    #[test]
    fn a_password_may_stand_in_a_file_or_in_the_environment() {
        let read = |value: &str| {
            let settings = format!(r#"{{"properties": {{"sasl.password": {value}}}}}"#);
            let settings = serde_json::from_str::<IngestSettings>(&settings);
            settings
                .map(|settings| settings.properties["sasl.password"].clone())
                .map_err(|error| error.to_string())
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\n").unwrap();
        let file = format!("{{\"file\": {:?}}}", file.path());
        assert_eq!(read(&file).unwrap(), "from a file");
        let path = std::env::var("PATH").unwrap();
        assert_eq!(read(r#"{"env": "PATH"}"#).unwrap(), path);
        for (value, reason) in [
            (r#"{"env": "NO_SUCH"}"#, "no variable NO_SUCH"),
            (r#"{"file": "/no/such"}"#, "/no/such: No such file"),
            (r#"{"file": "here"}"#, "the whole path"),
            (r#"{"path": "/no/such"}"#, "in quotes"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn properties_override_tuning_and_never_the_contract() {
        let with = |key: &str, value: &str| IngestSettings {
            properties: BTreeMap::from([(key.to_string(), value.to_string())]),
            ..IngestSettings::default()
        };
        let tuned = with("fetch.wait.max.ms", "7");
        assert!(tuned.check().is_ok());
        assert_eq!(tuned.consumer().get("fetch.wait.max.ms"), Some("7"));
        let refresh = |settings: IngestSettings| {
            let config = settings.consumer();
            [METADATA_REFRESH, "metadata.max.age.ms"].map(|key| config.get(key).map(str::to_owned))
        };
        let texts = |ms: [Option<&str>; 2]| ms.map(|ms| ms.map(str::to_owned));
        assert_eq!(
            refresh(IngestSettings::default()),
            texts([Some("5000"), Some("180000")])
        );
        // librdkafka takes three times the refresh.
        assert_eq!(
            refresh(with(METADATA_REFRESH, "300000")),
            texts([Some("300000"), None])
        );
        for (key, _) in RESERVED {
            assert!(with(key, "x").check().is_err(), "{key}");
        }
        for (key, refused, taken) in [
            (
                "partition.assignment.strategy",
                "cooperative-sticky",
                "roundrobin",
            ),
            ("isolation.level", "read_uncommitted", "read_committed"),
            ("statistics.interval.ms", "0", "500"),
        ] {
            let error = with(key, refused).check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
            assert!(with(key, taken).check().is_ok(), "{key}");
        }
        // A cluster may not have idempotent producers.
        assert!(with("enable.idempotence", "false").check().is_ok());
    }

    #[test]
    fn the_dead_letter_topic_carries_the_topic_name() {
        let settings = IngestSettings::default();
        assert_eq!(settings.dead_letter_topic_of("tx"), "tx.dead-letters");
    }
}
