//! By what a partition of a topic is known again after a stop: the last of its messages that is in the store. A topic that
//! was deleted and made anew has other messages behind the same offsets.

use std::sync::Arc;

use millrace_feature_store::{Commit, Store, StoreError, Table, decode, encode};
use millrace_features::Stream;
use millrace_ingest::{Step, Witness, Witnesses};
use tracing::warn;

fn key(topic: &str, partition: i32) -> String {
    format!("witness/{topic}/{partition}")
}

/// Puts the last message that a step has of each partition.
///
/// # Errors
/// A record that cannot be encoded.
pub(crate) fn put(
    step: &Step,
    streams: &[Arc<Stream>],
    commit: &mut Commit,
) -> Result<(), StoreError> {
    for (topic, partition, _) in &step.positions {
        let stream = |index: usize| streams.get(index).is_some_and(|s| s.topic == *topic);
        let Some(batch) = step.batches.iter().find(|batch| stream(batch.stream)) else {
            continue;
        };
        // A partition's rows are in the order of their offsets.
        let Some(row) = batch.origin.iter().rposition(|(of, _)| of == partition) else {
            continue;
        };
        let witness = Witness {
            offset: batch.origin[row].1,
            kafka_ts: batch.kafka_ts[row],
        };
        if witness.kafka_ts >= 0 {
            commit.put(Table::Meta, key(topic, *partition), encode(&witness)?);
        }
    }
    Ok(())
}

/// What the store has, for ingestion to compare.
pub(crate) fn witnesses(store: &Arc<dyn Store>) -> Witnesses {
    let store = Arc::clone(store);
    Arc::new(move |topic: &str, partition: i32| {
        let record = store.get(Table::Meta, key(topic, partition).as_bytes());
        let witness = record.and_then(|bytes| bytes.map(|bytes| decode(&bytes)).transpose());
        witness.unwrap_or_else(|error| {
            warn!(topic, partition, %error, "whether the topic is still the same is not looked at");
            None
        })
    })
}
