//! What can go wrong between Kafka and a batch, and what the caller should do about it.
//!
//! Exit codes and hints are made elsewhere (the `millrace` command); a bad message is no error (`decode`).

use arrow::error::ArrowError;
use rdkafka::error::KafkaError;

use crate::step::StateError;

/// Everything that this crate returns as an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// No broker answered within the request timeout. `detail` is the last thing that librdkafka said (refused,
    /// wrong password, ...).
    #[error("no Kafka broker answered at {brokers}: {detail}")]
    BrokerUnreachable {
        /// The addresses that were tried.
        brokers: String,
        /// Why, as far as it is known.
        detail: String,
    },
    /// A stream names a topic that the cluster does not have. `near` are the most similar names that it has.
    #[error("there is no topic `{topic}`")]
    UnknownTopic {
        /// The topic that was asked for.
        topic: String,
        /// Up to three similar names, the most similar first.
        near: Vec<String>,
    },
    /// Two streams read the same topic.
    #[error("two streams read the topic `{topic}`")]
    DuplicateTopic {
        /// That topic.
        topic: String,
    },
    /// A property that would break what Millrace promises.
    #[error("the Kafka property `{key}` cannot be set: {because}")]
    ReservedProperty {
        /// The property's name.
        key: String,
        /// What to do instead, or why it is fixed.
        because: &'static str,
    },
    /// librdkafka does not know a property or refuses its value (which is left out: it may be a secret).
    #[error("the Kafka property `{key}` is not accepted: {detail}")]
    Property {
        /// The property's name.
        key: String,
        /// What librdkafka said.
        detail: String,
    },
    /// A stream's schema cannot be decoded.
    #[error("stream `{stream}`: {detail}")]
    Schema {
        /// The stream's name.
        stream: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The dead-letter topic did not take a message. No position has moved past it, and of no topic is anything read; the
    /// next poll tries again.
    #[error("the dead-letter topic `{topic}` did not take a message: {detail}")]
    DeadLetters {
        /// The dead-letter topic.
        topic: String,
        /// What the broker or librdkafka said.
        detail: String,
    },
    /// Topics could not be created.
    #[error("the topic `{topic}` could not be created: {detail}")]
    CreateTopic {
        /// The topic.
        topic: String,
        /// What the broker said.
        detail: String,
    },
    /// Any other failure of the Kafka client.
    #[error("{doing}: {source}")]
    Kafka {
        /// What was being done.
        doing: &'static str,
        /// The client's error.
        source: KafkaError,
    },
    /// The consumer is beyond repair (librdkafka calls it fatal), or its thread of calls is: start a new one.
    #[error("the Kafka consumer cannot go on: {detail}")]
    Fatal {
        /// What the client said.
        detail: String,
    },
    /// The caller's state does not say up to where a partition was read.
    #[error("asking the state up to where {topic}/{partition} was read: {source}")]
    State {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What the state said.
        source: StateError,
    },
    /// Arrow refused what this crate built.
    #[error("building a batch: {0}")]
    Arrow(#[from] ArrowError),
}

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The user's settings or project are wrong.
    MendInput,
    /// Call again: nothing was lost, and the cause may pass.
    Retry,
    /// This consumer is done; a new one may work.
    Restart,
    /// A defect of this crate.
    ReportBug,
}

impl IngestError {
    /// What the caller should do.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::UnknownTopic { .. }
            | Self::DuplicateTopic { .. }
            | Self::ReservedProperty { .. }
            | Self::Property { .. }
            | Self::Schema { .. } => Remedy::MendInput,
            Self::BrokerUnreachable { .. }
            | Self::DeadLetters { .. }
            | Self::CreateTopic { .. }
            | Self::Kafka { .. } => Remedy::Retry,
            Self::Fatal { .. } | Self::State { .. } => Remedy::Restart,
            Self::Arrow(_) => Remedy::ReportBug,
        }
    }

    /// The caller's state failed when it was asked about a partition.
    pub(crate) fn state(topic: &str, partition: i32, source: StateError) -> Self {
        Self::State {
            topic: topic.to_owned(),
            partition,
            source,
        }
    }

    /// An error of the client while it was `doing` something; a refused property is told apart.
    pub(crate) fn kafka(doing: &'static str, source: KafkaError) -> Self {
        match source {
            KafkaError::ClientConfig(_, detail, key, _) => Self::Property { key, detail },
            source => Self::Kafka { doing, source },
        }
    }
}
