//! Tombstones: messages without a value. In a topic that is keyed by its events' id, one deletes the event of its key.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::bytes::bytes_of;
use crate::decode::{BadMessage, Reason};
use crate::error::IngestError;
use crate::stream::StreamSpec;

/// An event that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The partition of the message that says so.
    pub partition: i32,
    /// Its offset. What the partition has of the id after it stands.
    pub offset: i64,
    /// The event's id, as text that the type of its column admits.
    pub id: String,
}

/// The ids that keys are, in a column of their type; null where a key is none.
///
/// # Errors
/// A type that no text is read as.
pub fn ids_of(keys: &[&str], data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    if data_type == &DataType::Binary {
        let ids = keys.iter().map(|key| bytes_of(key).ok());
        return Ok(Arc::new(ids.collect::<BinaryArray>()));
    }
    cast(&StringArray::from(keys.to_vec()), data_type)
}

/// Takes the tombstones that name an event out of `bad`: the indexes of their messages, rising, and the ids. Of the
/// others, the detail says why they name none. `key` gives the key of a message.
///
/// # Errors
/// A defect alone: what messages can cause stays in `bad`.
pub(crate) fn take_deletions<'a>(
    spec: &StreamSpec,
    bad: &mut Vec<BadMessage>,
    key: impl Fn(usize) -> Option<&'a [u8]>,
) -> Result<Vec<(usize, String)>, IngestError> {
    let mut deletions = Vec::new();
    let mut faults = Vec::with_capacity(bad.len());
    for message in bad.drain(..) {
        match message.reason {
            Reason::Tombstone => match id(spec, key(message.index))? {
                Ok(id) => deletions.push((message.index, id)),
                Err(detail) => faults.push(BadMessage { detail, ..message }),
            },
            _ => faults.push(message),
        }
    }
    *bad = faults;
    Ok(deletions)
}

/// The id that a key is, or why it is none.
fn id(spec: &StreamSpec, key: Option<&[u8]>) -> Result<Result<String, String>, IngestError> {
    let Some(column) = spec.id else {
        return Ok(Err(
            "the message has no value, which deletes an event only where the topic is keyed by the events' id".into(),
        ));
    };
    let field = spec.schema.field(column);
    let Some(key) = key else {
        return Ok(Err(format!(
            "the message has neither value nor key: which `{}` it deletes is not said",
            field.name()
        )));
    };
    let Ok(text) = std::str::from_utf8(key) else {
        return Ok(Err(format!(
            "the message has no value, and its key is not a `{}` written as text",
            field.name()
        )));
    };
    if ids_of(&[text], field.data_type())?.is_valid(0) {
        return Ok(Ok(text.to_owned()));
    }
    let written = match field.data_type() {
        DataType::Binary => ", written as hexadecimal digits",
        _ => "",
    };
    Ok(Err(format!(
        "the message has no value, and its key is not a `{}`, which is of type {}{written}",
        field.name(),
        field.data_type()
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;

    fn spec(id: DataType, is_key: bool) -> StreamSpec {
        StreamSpec {
            name: "pay".into(),
            topic: "pay".into(),
            schema: Arc::new(Schema::new(vec![
                Field::new("id", id, false),
                Field::new(
                    "at",
                    DataType::Timestamp(TimeUnit::Microsecond, None),
                    false,
                ),
            ])),
            time_column: 1,
            required: vec![0],
            id: is_key.then_some(0),
        }
    }

    fn taken(spec: &StreamSpec, key: Option<&[u8]>) -> Result<String, String> {
        let message = |index, reason| BadMessage {
            index,
            reason,
            detail: String::new(),
        };
        let mut bad = vec![
            message(3, Reason::Unparsable),
            message(5, Reason::Tombstone),
        ];
        let taken = take_deletions(spec, &mut bad, |index| key.filter(|_| index == 5)).unwrap();
        assert_eq!(bad[0], message(3, Reason::Unparsable));
        match (taken.as_slice(), &bad[1..]) {
            ([(5, id)], []) => Ok(id.clone()),
            ([], [fault]) => Err(fault.detail.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_tombstone_deletes_where_its_key_is_an_id() {
        let (text, number) = (spec(DataType::Utf8, true), spec(DataType::Int64, true));
        let bytes = spec(DataType::Binary, true);
        assert_eq!(taken(&text, Some(b"t1")), Ok("t1".to_owned()));
        assert_eq!(taken(&number, Some(b"17")), Ok("17".to_owned()));
        assert_eq!(taken(&bytes, Some(b"ff00")), Ok("ff00".to_owned()));
        for (spec, key, word) in [
            (&number, Some(b"t1".as_slice()), "is of type Int64"),
            (&text, Some(b"\xff"), "written as text"),
            (
                &bytes,
                Some(b"t1"),
                "is of type Binary, written as hexadecimal digits",
            ),
            (&bytes, Some(b"\xff\0"), "written as text"),
            (&text, None, "neither value nor key"),
            (&self::spec(DataType::Utf8, false), Some(b"t1"), "keyed by"),
        ] {
            let fault = taken(spec, key).unwrap_err();
            assert!(fault.contains(word), "{fault}");
        }
    }
}
