//! Files of events in the store: which were read into it, what of them is taken, and what they have of a topic.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use millrace_feature_store::{Store, Table};
use millrace_features::{FeatureView, Stream};
use xxhash_rust::xxh3::xxh3_64;

use crate::failure::{Failure, Outcome};
use crate::settings::micros;
use crate::times::{now_us, rfc3339};
use crate::workspace::Workspace;

/// What the keys of the files that were read start with.
const READ: &str = "backfill/";

/// Under which key the store has how far a stream's file was read.
pub(crate) fn key(stream: &str, path: &Path) -> String {
    format!("{READ}{stream}/{}", path.display())
}

/// The files that were read into a store for a stream.
///
/// # Errors
/// A store that cannot be read.
pub(crate) fn files_read(store: &dyn Store, stream: &str) -> Outcome<Vec<PathBuf>> {
    let prefix = format!("{READ}{stream}/");
    let mut files = Vec::new();
    let mut end = prefix.clone().into_bytes();
    end.push(0xFF);
    let mut note = |key: &[u8], _: &[u8]| {
        let path = key.get(prefix.len()..).unwrap_or_default();
        files.push(PathBuf::from(String::from_utf8_lossy(path).into_owned()));
        ControlFlow::Continue(())
    };
    store.scan(Table::Meta, prefix.as_bytes(), &end, false, &mut note)?;
    Ok(files)
}

/// The latest event time (µs) that is taken now: as of a topic, that of the clock and what is allowed.
pub(crate) fn latest_us(workspace: &Workspace) -> i64 {
    now_us().saturating_add(micros(workspace.settings.kafka.allowed_future))
}

/// Refuses an event that is further ahead of the clock than a topic's may be: all that a bounded view keeps would expire
/// before it.
///
/// # Errors
/// Of kind input: the first of such events.
pub(crate) fn check_ahead(
    stream: &Stream,
    path: &Path,
    batch: &RecordBatch,
    rows_before: u64,
    latest_us: i64,
) -> Outcome<()> {
    let times = batch.column(stream.time);
    let times = times.as_primitive::<TimestampMicrosecondType>().values();
    let Some(row) = times.iter().position(|time| *time > latest_us) else {
        return Ok(());
    };
    Err(Failure::input(format!(
        "{}: row {}: column '{}': {} is further ahead than {}, the latest that is taken now (the clock and \
         kafka.allowed_future)",
        path.display(),
        rows_before + row as u64 + 1,
        stream.schema.field(stream.time).name(),
        rfc3339(times[row]),
        rfc3339(latest_us)
    ))
    .hint("mend the row or take it out: a topic's event with that time is a dead letter"))
}

/// Events and their places in their topic.
pub(crate) type Placed = (RecordBatch, Vec<(i32, i64)>);

/// Events of a topic without those that files have brought already, as far as they are settled: in a view with a resolution
/// they can no longer be told from new ones. `complete_us` says up to when the files count as complete; none: there are
/// none. Gives none where no event is left out.
///
/// # Errors
/// Events and places that are not as many.
pub(crate) fn newer_than_files(
    view: &FeatureView,
    complete_us: Option<i64>,
    events: &RecordBatch,
    origin: &[(i32, i64)],
) -> Outcome<Option<Placed>> {
    let Some(complete) = complete_us else {
        return Ok(None);
    };
    let times = events.column(view.stream.time);
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let is_new: BooleanArray = times.iter().map(|t| t.map(|t| t >= complete)).collect();
    if is_new.false_count() == 0 {
        return Ok(None);
    }
    metrics::counter!("millrace_events_of_files_total", "view" => view.name.clone())
        .increment(is_new.false_count() as u64);
    let newer = filter_record_batch(events, &is_new)
        .map_err(|e| Failure::failed(format!("events of '{}': {e}", view.stream.name)))?;
    let places = origin.iter().zip(&is_new);
    let places = places.filter(|(_, is_new)| *is_new == Some(true));
    Ok(Some((newer, places.map(|(place, _)| *place).collect())))
}

/// What tells the events of a file from those of others, and of topics: Kafka has no partitions below 0.
pub(crate) fn place_of(path: &Path) -> i32 {
    let hash = xxh3_64(path.as_os_str().as_encoded_bytes());
    -1 - (hash >> 33) as i32
}
