//! What the brokers say of topics: whether those that are to be read are there, how many partitions they have, and who
//! leads these.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataTopic};

use crate::consumer::GroupConsumer;
use crate::error::IngestError;
use crate::group::hear_errors;
use crate::settings::IngestSettings;
use crate::stream::StreamSpec;

pub(crate) fn check_topics_differ(streams: &[StreamSpec]) -> Result<(), IngestError> {
    let mut seen = BTreeSet::new();
    match streams.iter().find(|spec| !seen.insert(&spec.topic)) {
        None => Ok(()),
        Some(spec) => Err(IngestError::DuplicateTopic {
            topic: spec.topic.clone(),
        }),
    }
}

pub(crate) fn check_topics_exist(
    consumer: &GroupConsumer,
    settings: &IngestSettings,
    streams: &[StreamSpec],
) -> Result<(), IngestError> {
    let metadata = consumer
        .fetch_metadata(None, settings.request_timeout)
        .map_err(|error| unreachable_brokers(consumer, settings, &error))?;
    let topics = metadata.topics().iter();
    let topics = topics.filter(|topic| !topic.partitions().is_empty());
    let existing: Vec<&str> = topics.map(|topic| topic.name()).collect();
    let missing = streams
        .iter()
        .find(|spec| !existing.contains(&spec.topic.as_str()));
    match missing {
        None => Ok(()),
        Some(spec) => Err(IngestError::UnknownTopic {
            topic: spec.topic.clone(),
            near: near(&spec.topic, &existing),
        }),
    }
}

/// The brokers that lead a topic's partitions, by partition; those that nobody leads are left out.
pub(crate) fn leaders(metadata: &Metadata, topic: &str) -> BTreeMap<i32, i32> {
    let partitions = described(metadata, topic).map_or(&[][..], MetadataTopic::partitions);
    let led = partitions.iter();
    let led = led.filter(|partition| partition.leader() >= 0);
    led.map(|partition| (partition.id(), partition.leader()))
        .collect()
}

/// How many partitions a topic has; none where it is not there.
pub(crate) fn partition_count(metadata: &Metadata, topic: &str) -> Option<i32> {
    i32::try_from(described(metadata, topic)?.partitions().len()).ok()
}

fn described<'a>(metadata: &'a Metadata, topic: &str) -> Option<&'a MetadataTopic> {
    let mut topics = metadata.topics().iter();
    topics.find(|of| of.name() == topic && of.error().is_none())
}

fn unreachable_brokers(
    consumer: &GroupConsumer,
    settings: &IngestSettings,
    error: &KafkaError,
) -> IngestError {
    hear_errors(consumer);
    let last = &consumer.context().last_error;
    last.unreachable(&settings.brokers, error)
}

/// Up to three names that one could have meant, the nearest first.
fn near(wanted: &str, existing: &[&str]) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let scored = existing.iter().filter(|name| !name.starts_with("__"));
    let scored = scored.map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), *name));
    let mut scored: Vec<_> = scored.filter(|(score, _)| *score > 0.75).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.truncate(3);
    scored.into_iter().map(|(_, name)| name.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_nearest_first() {
        let existing = [
            "transactions",
            "transaction-labels",
            "labels",
            "__consumer_offsets",
        ];
        assert_eq!(
            near("transactoins", &existing),
            ["transactions", "transaction-labels"]
        );
        assert!(near("clicks", &existing).is_empty());
    }
}
