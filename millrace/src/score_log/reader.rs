//! Reads a log again, file by file: for the audit.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::TryStreamExt;
use millrace_feature_store::Store;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use super::files::LOG;
use super::outbox;
use super::rows::{DECISIONS, INPUTS_HASH};
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
    /// Where they stand: a file, by its whole name, or the store.
    pub(crate) file: String,
    /// The log that they are of.
    pub(crate) log: String,
    /// What their inputs meant.
    pub(crate) inputs_hash: String,
    /// The thresholds of their decisions, as JSON; none in files of before they were noted.
    pub(crate) decisions: Option<String>,
}

/// What a file of a log gives.
pub(crate) enum Logged {
    /// Some of its rows.
    Rows(LoggedRows),
    /// From here on it cannot be read.
    Unreadable {
        /// Its whole name.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Shows all rows of the log at a location, file by file, and says how many files there are. A file that cannot be read
/// ends nothing: the others are shown.
///
/// # Errors
/// Of kind input: a location that is none, or has no log. Else one that cannot be listed; what `visit` fails with.
pub(crate) fn each_batch(
    workspace: &Workspace,
    location: &str,
    visit: &mut dyn FnMut(Logged) -> Outcome<()>,
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
        let file = place.whole_name(&object.location);
        let get = async { place.objects.get(&object.location).await?.bytes().await };
        let opened = match runtime.block_on(get) {
            Ok(bytes) => LogFile::open(bytes).map_err(|e| with_causes(&e)),
            Err(e) => Err(with_causes(&e)),
        };
        match opened {
            Ok(opened) => opened.each_batch(&file, visit)?,
            Err(reason) => visit(Logged::Unreadable { file, reason })?,
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

/// A file of a log, opened.
struct LogFile {
    batches: ParquetRecordBatchReader,
    log: String,
    inputs_hash: String,
    decisions: Option<String>,
}

impl LogFile {
    fn open(bytes: Bytes) -> Result<Self, ParquetError> {
        let metadata = ArrowReaderMetadata::load(&bytes, Default::default())?;
        let of_file = |key: &str| {
            let pairs = metadata.metadata().file_metadata().key_value_metadata();
            let pair = pairs.into_iter().flatten().find(|pair| pair.key == key);
            pair.and_then(|pair| pair.value.clone())
        };
        let log = of_file(LOG).unwrap_or_default();
        let inputs_hash = of_file(INPUTS_HASH).unwrap_or_default();
        let decisions = of_file(DECISIONS);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata);
        Ok(Self {
            batches: reader.with_batch_size(BATCH_ROWS).build()?,
            log,
            inputs_hash,
            decisions,
        })
    }

    fn each_batch(self, file: &str, visit: &mut dyn FnMut(Logged) -> Outcome<()>) -> Outcome<()> {
        for batch in self.batches {
            match batch {
                Ok(batch) => visit(Logged::Rows(LoggedRows {
                    batch,
                    file: file.to_owned(),
                    log: self.log.clone(),
                    inputs_hash: self.inputs_hash.clone(),
                    decisions: self.decisions.clone(),
                }))?,
                Err(e) => {
                    return visit(Logged::Unreadable {
                        file: file.to_owned(),
                        reason: with_causes(&e),
                    });
                }
            }
        }
        Ok(())
    }
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
        let noted = |key: &str| schema.metadata().get(key).cloned();
        visit(LoggedRows {
            file: "the rows that wait in the store".to_owned(),
            inputs_hash: noted(INPUTS_HASH).unwrap_or_default(),
            decisions: noted(DECISIONS),
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

    /// A file's whole name, for people: a path from the root on, or a URL.
    fn whole_name(&self, file: &Path) -> String {
        match self.name.split_once("://") {
            None | Some(("file", _)) => format!("/{file}"),
            Some(_) => {
                let file = file.as_ref();
                let below = file.strip_prefix(self.path.as_ref()).unwrap_or(file);
                let (place, below) = (
                    self.name.trim_end_matches('/'),
                    below.trim_start_matches('/'),
                );
                format!("{place}/{below}")
            }
        }
    }
}
