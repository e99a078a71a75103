//! Deletes: where a topic is keyed by its events' ids, a message without a value takes the event of its key out of all
//! views.
//!
//! An index leads from an id to rows. For the store it is one view more for each view whose events can be deleted: its
//! entity is the id, its rows have the event's time and say whose row it is. So it is written with the event, read like
//! an entity, and expires as the event does. Views that are being filled have one even where nothing can be deleted: an
//! older delivery that is read later does not take the place of a newer one. What was deleted is noted in the same way,
//! for those who read older events of the topic later: views that are new, and files.

use std::sync::Arc;

use arrow::datatypes::DataType;
use millrace_feature_store::{event_key, event_time_us};
use millrace_features::{DeletedId, FeatureError, FeatureView, StateError, StateRow, Stream};
use millrace_ingest::{Deletion, ids_of};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::failure::{Failure, Outcome, with_causes};
use crate::state::{Base, Pending};

/// A message's partition and offset. Files have partitions below 0.
pub(crate) type Place = (i32, i64);

/// Of any time.
const ALWAYS: std::ops::Range<i64> = i64::MIN..i64::MAX;

const PLACE_BYTES: usize = 12;

/// What an index says of an event: whose row it is, and which message it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) time_us: i64,
    pub(crate) entity: Vec<u8>,
}

impl Entry {
    /// The entry of a row: key and value.
    pub(crate) fn of(row: &StateRow) -> (Vec<u8>, Vec<u8>) {
        let mut value = place_bytes(row.origin).to_vec();
        value.extend_from_slice(&row.entity);
        let key = Self::key_of(row.view, &row.unique, row.time_us, &row.entity);
        (key, value)
    }

    pub(crate) fn key_of(view: u32, unique: &[u8; 16], time_us: i64, entity: &[u8]) -> Vec<u8> {
        let entity = xxh3_128(entity).to_be_bytes();
        event_key(index_of(view), unique, time_us, &entity)
    }

    pub(crate) fn key(&self, view: u32, unique: &[u8; 16]) -> Vec<u8> {
        Self::key_of(view, unique, self.time_us, &self.entity)
    }

    fn read(time_us: i64, value: &[u8]) -> Result<Self, StateError> {
        let (place, entity) = value.split_at_checked(PLACE_BYTES).unwrap_or_default();
        Ok(Self {
            place: place_from(place)?,
            time_us,
            entity: entity.to_vec(),
        })
    }
}

/// The store's name of a view's index.
pub(crate) fn index_of(view: u32) -> u32 {
    xxh3_64(format!("index of {view}").as_bytes()) as u32
}

/// The store's name of what was deleted of a stream.
pub(crate) fn deleted_of(stream: &Stream) -> u32 {
    xxh3_64(format!("deleted of {} in {}", stream.name, stream.topic).as_bytes()) as u32
}

fn place_bytes((partition, offset): Place) -> [u8; PLACE_BYTES] {
    let mut bytes = [0; PLACE_BYTES];
    bytes[..4].copy_from_slice(&partition.to_be_bytes());
    bytes[4..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

fn place_from(bytes: &[u8]) -> Result<Place, StateError> {
    let damaged = || StateError("a row of an index for deletes is damaged".to_owned());
    let bytes: &[u8; PLACE_BYTES] = bytes.first_chunk().ok_or_else(damaged)?;
    let mut partition = [0; 4];
    let mut offset = [0; 8];
    partition.copy_from_slice(&bytes[..4]);
    offset.copy_from_slice(&bytes[4..]);
    Ok((i32::from_be_bytes(partition), i64::from_be_bytes(offset)))
}

/// Whether a message comes before another of its partition, or from a file: what files have is older than the topic.
fn is_before(one: Place, other: Place) -> bool {
    match (one.0 < 0, other.0 < 0) {
        (true, false) => true,
        (false, true) => false,
        _ => one.0 == other.0 && one.1 < other.1,
    }
}

/// Deletes of one stream in some views over it.
pub(crate) struct Deletes<'a> {
    stream: &'a Stream,
    views: Vec<&'a FeatureView>,
    /// What the store has.
    committed: &'a dyn Base,
    /// Whether what the store has may be newer than what is read: it is for a view that is being filled.
    is_older: bool,
}

impl<'a> Deletes<'a> {
    /// In those of the views that are over the stream.
    pub(crate) fn new(
        stream: &'a Stream,
        views: impl IntoIterator<Item = &'a Arc<FeatureView>>,
        committed: &'a dyn Base,
        is_older: bool,
    ) -> Self {
        let views = views.into_iter().map(AsRef::as_ref);
        Self {
            stream,
            views: views
                .filter(|view: &&FeatureView| view.stream.name == stream.name)
                .collect(),
            committed,
            is_older,
        }
    }

    /// Deletes events in `pending`, and notes that at a time (µs) from which on events of the stream are kept no longer
    /// than the notes. Events of `pending` that came after their delete stay. Gives the ids, and for each whether some
    /// view had the event.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub(crate) fn apply(
        &self,
        deletions: &[Deletion],
        noted_us: i64,
        pending: &mut Pending,
    ) -> Outcome<Vec<(DeletedId, bool)>> {
        if deletions.is_empty() {
            return Ok(Vec::new());
        }
        let ids = self.ids(deletions)?;
        let mut applied = Vec::with_capacity(ids.len());
        for (deletion, id) in deletions.iter().zip(ids) {
            let place = (deletion.partition, deletion.offset);
            let mut was_there = false;
            for view in &self.views {
                for entry in self.entries(view.id, &id.unique, place, pending)? {
                    pending.delete(view.id, &id.unique, &entry);
                    was_there = true;
                }
            }
            let mut tail = [0; 16];
            tail[..PLACE_BYTES].copy_from_slice(&place_bytes(place));
            let key = event_key(deleted_of(self.stream), &id.unique, noted_us, &tail);
            pending.put_row(key, place_bytes(place).to_vec());
            applied.push((id, was_there));
        }
        Ok(applied)
    }

    fn ids(&self, deletions: &[Deletion]) -> Outcome<Vec<DeletedId>> {
        let keys: Vec<&str> = deletions.iter().map(|d| d.id.as_str()).collect();
        let type_of = |column: usize| self.stream.schema.field(column).data_type().clone();
        let data_type = self.stream.id.map_or(DataType::Utf8, type_of);
        let ids = ids_of(&keys, &data_type).map_err(|e| Failure::failed(with_causes(&e)))?;
        Ok(self.stream.deleted_ids(&ids)?)
    }

    /// The events of an id that came before a delete.
    fn entries(
        &self,
        view: u32,
        unique: &[u8; 16],
        deleted: Place,
        pending: &Pending,
    ) -> Outcome<Vec<Entry>> {
        let index = index_of(view);
        let mut entries = Vec::new();
        let mut damaged = None;
        let mut newer: Vec<Vec<u8>> = Vec::new();
        for (key, value) in pending.rows_of(index, unique) {
            newer.push(key.to_vec());
            if let Some(value) = value {
                let entry = Entry::read(event_time_us(key).unwrap_or_default(), value);
                let entry = entry.map_err(FeatureError::from)?;
                if is_before(entry.place, deleted) {
                    entries.push(entry);
                }
            }
        }
        let collect = &mut |(time_us, tail), value: &[u8]| {
            if !newer.contains(&event_key(index, unique, time_us, &tail)) {
                match Entry::read(time_us, value) {
                    Ok(entry) if !self.is_older || is_before(entry.place, deleted) => {
                        entries.push(entry);
                    }
                    Ok(_) => {}
                    Err(error) => damaged = Some(error),
                }
            }
            damaged.is_none()
        };
        let read = self.committed.each(index, unique, ALWAYS, false, collect);
        read.and(damaged.map_or(Ok(()), Err))
            .map_err(FeatureError::from)?;
        Ok(entries)
    }

    /// Takes back the events of `pending` that were deleted after they came, or of which the store has a newer delivery.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub(crate) fn keep_what_stands(&self, pending: &mut Pending) -> Outcome<()> {
        let mut gone = Vec::new();
        for view in &self.views {
            for (key, value) in pending.rows_of_view(index_of(view.id)) {
                let Some((unique, value)) = id_of(key).zip(value) else {
                    continue;
                };
                let time_us = event_time_us(key).unwrap_or_default();
                let entry = Entry::read(time_us, value).map_err(FeatureError::from)?;
                if self.is_superseded(view.id, &unique, &entry)? {
                    gone.push((view.id, unique, entry));
                }
            }
        }
        for (view, unique, entry) in gone {
            pending.take_back(view, &unique, &entry);
        }
        Ok(())
    }

    fn is_superseded(&self, view: u32, unique: &[u8; 16], entry: &Entry) -> Outcome<bool> {
        let mut places = Vec::new();
        let deleted = deleted_of(self.stream);
        let note = &mut |_, value: &[u8]| {
            places.push(place_from(value));
            true
        };
        let read = self.committed.each(deleted, unique, ALWAYS, false, note);
        read.map_err(FeatureError::from)?;
        let own = entry.key(view, unique);
        let index = index_of(view);
        let newer = &mut |(time_us, tail), value: &[u8]| {
            if own == event_key(index, unique, time_us, &tail) {
                places.push(place_from(value));
            }
            true
        };
        let read = self.committed.each(index, unique, ALWAYS, false, newer);
        read.map_err(FeatureError::from)?;
        let places = places.into_iter().collect::<Result<Vec<_>, _>>();
        let places = places.map_err(FeatureError::from)?;
        Ok(places.iter().any(|place| is_before(entry.place, *place)))
    }
}

/// The id in the key of an index's row.
fn id_of(key: &[u8]) -> Option<[u8; 16]> {
    millrace_feature_store::EventKey::read(key)?
        .entity
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests;
