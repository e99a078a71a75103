//! Reads a log again, file by file: for the audit.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use millrace_feature_store::Store;
use object_store::{Error, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};

use super::files::LOG;
use super::outbox;
use super::rows::INPUTS_HASH;
use super::writer::{MARKER, Marker, Place};
use crate::failure::{Failure, Outcome, with_causes};
use crate::files::BATCH_ROWS;
use crate::object_stores;
use crate::runtime::runtime;
use crate::workspace::Workspace;

/// Rows of a log.
pub(crate) struct LoggedRows {
    /// As the file has them.
    pub(crate) batch: RecordBatch,
    /// The log that they are of.
    pub(crate) log: String,
    /// What their inputs meant.
    pub(crate) inputs_hash: String,
}

/// Shows all rows of the log at a location, file by file, and says how many files there are.
///
/// # Errors
/// Of kind input: a location that is none, or has no log. Else one that cannot be read, or a damaged file.
pub(crate) fn each_batch(
    workspace: &Workspace,
    location: &str,
    visit: &mut dyn FnMut(LoggedRows) -> Outcome<()>,
) -> Outcome<u64> {
    let place = Place::open(workspace, location)?;
    let runtime = runtime()?;
    let failed = |e: Error| Failure::failed(format!("{location}: {}", with_causes(&e)));
    let mut found = place.objects.list(Some(&place.path));
    let mut files = 0;
    while let Some(object) = runtime.block_on(found.try_next()).map_err(failed)? {
        if object.location.extension() != Some("parquet") {
            continue;
        }
        files += 1;
        let get = async { place.objects.get(&object.location).await?.bytes().await };
        let bytes = runtime.block_on(get).map_err(failed)?;
        let damaged = |e: &dyn std::error::Error| {
            Failure::failed(format!("{}: {}", object.location, with_causes(e)))
        };
        let metadata =
            ArrowReaderMetadata::load(&bytes, Default::default()).map_err(|e| damaged(&e))?;
        let of_file = |key: &str| {
            let pairs = metadata.metadata().file_metadata().key_value_metadata();
            let pair = pairs.into_iter().flatten().find(|pair| pair.key == key);
            pair.and_then(|pair| pair.value.clone()).unwrap_or_default()
        };
        let (log, inputs_hash) = (of_file(LOG), of_file(INPUTS_HASH));
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata);
        let reader = reader.with_batch_size(BATCH_ROWS).build();
        for batch in reader.map_err(|e| damaged(&e))? {
            visit(LoggedRows {
                batch: batch.map_err(|e| damaged(&e))?,
                log: log.clone(),
                inputs_hash: inputs_hash.clone(),
            })?;
        }
    }
    if files == 0 && marker(&place).is_none() {
        return Err(
            Failure::input(format!("{location}: there is no log of scores"))
                .hint("name the place that score_log.location named when the events were scored"),
        );
    }
    Ok(files)
}

/// Shows the rows that wait in a store for the log at a location.
///
/// # Errors
/// As [`each_batch`]; a store that cannot be read.
pub(crate) fn each_waiting(
    workspace: &Workspace,
    location: &str,
    store: &dyn Store,
    visit: &mut dyn FnMut(LoggedRows) -> Outcome<()>,
) -> Outcome<()> {
    let place = Place::open(workspace, location)?;
    let (Some(position), Some(marker)) = (outbox::position(store)?, marker(&place)) else {
        return Ok(());
    };
    if position.log != marker.log {
        return Ok(());
    }
    outbox::read(store, position.written..u64::MAX, &mut |batch| {
        let schema: SchemaRef = batch.schema();
        let inputs_hash = schema.metadata().get(INPUTS_HASH);
        visit(LoggedRows {
            inputs_hash: inputs_hash.cloned().unwrap_or_default(),
            log: position.log.clone(),
            batch,
        })
    })
}

/// The marker of a place, if it has one that can be read.
fn marker(place: &Place) -> Option<Marker> {
    let get = async {
        let path = place.under(&MARKER.into());
        place.objects.get(&path).await?.bytes().await
    };
    let bytes = runtime().ok()?.block_on(get).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl Place {
    /// The place that a location names.
    ///
    /// # Errors
    /// Of kind input: a location that is none.
    pub(crate) fn open(workspace: &Workspace, location: &str) -> Outcome<Self> {
        let (objects, path) = object_stores::open(location, &workspace.folder)?;
        Ok(Self {
            objects,
            path,
            name: location.to_owned(),
        })
    }
}
