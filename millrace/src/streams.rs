//! Streams as ingestion reads them, and where it goes on.

use std::sync::Arc;

use millrace_feature_store::{Offset, Store};
use millrace_features::Stream;
use millrace_ingest::{StartOffsets, StreamSpec};
use tracing::error;

use crate::failure::Outcome;
use crate::workspace::Workspace;

/// The streams of a project as ingestion reads them, in the project's order.
#[must_use]
pub fn stream_specs(workspace: &Workspace) -> Vec<StreamSpec> {
    let streams = workspace.project.streams.iter();
    streams.map(|stream| stream_spec(stream)).collect()
}

/// A stream as ingestion reads it.
#[must_use]
pub fn stream_spec(stream: &Stream) -> StreamSpec {
    StreamSpec {
        name: stream.name.clone(),
        topic: stream.topic.clone(),
        schema: Arc::clone(&stream.schema),
        time_column: stream.time,
        required: stream.required(),
        id: stream.key.filter(|_| stream.is_keyed_by_id()),
    }
}

/// Where the store stands, for ingestion to start at.
///
/// # Errors
/// A store that cannot be read.
pub fn start_offsets(store: &Arc<dyn Store>) -> Outcome<StartOffsets> {
    // Seen once here, so that a store that cannot be read is an error and not a start from the beginning.
    store.offsets()?;
    let store = Arc::clone(store);
    Ok(Arc::new(move |topic: &str, partition: i32| {
        let offsets = store.offsets().unwrap_or_else(|e| {
            error!(error = %e, "the store's offsets cannot be read; reading starts at the oldest event");
            Vec::new()
        });
        let is_it = |o: &Offset| o.topic == topic && o.partition == partition;
        offsets.into_iter().find(is_it).map(|offset| offset.next)
    }))
}
