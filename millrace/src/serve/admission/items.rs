//! How many entities or events a request is for, seen in its message before that is decoded.
//!
//! It knows how protobuf writes fields one behind the other, and no more. Of a message that is damaged it counts what
//! stands before the damage: whoever decodes it refuses it.

/// Where a message has its entities or events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Items {
    /// It has none: it is for one thing.
    None,
    /// In `keys` of `millrace.v1.GetFeaturesRequest`.
    Keys,
    /// In `event_json` or `columns` of `millrace.v1.ScoreRequest`.
    Events,
    /// In `entities` of `feast.serving.GetOnlineFeaturesRequest`.
    Entities,
}

/// The maps of columns: `keys`, `columns`, and Feast's `entities`.
const COLUMNS: u64 = 3;
/// `event_json`.
const EVENT_JSON: u64 = 1;
/// The value of a map's entry.
const VALUE: u64 = 2;
/// The number of no field.
const NOTHING: u64 = 0;

impl Items {
    /// How many there are in an encoded message.
    pub(super) fn count(self, message: &[u8]) -> usize {
        match self {
            Self::None => 0,
            Self::Keys => longest(message, values_of_column),
            Self::Events => {
                let events = Fields(message).filter(|(number, _)| *number == EVENT_JSON);
                events.count().max(longest(message, values_of_column))
            }
            Self::Entities => longest(message, values_of_feast),
        }
    }
}

/// The length of a message's longest column.
fn longest(message: &[u8], length: fn(&[u8]) -> usize) -> usize {
    let entries = Fields(message).filter(|(number, _)| *number == COLUMNS);
    // A value that stands there in parts is all of them: they are merged when it is decoded.
    let columns = entries.filter_map(|(_, entry)| {
        let values = Fields(entry?).filter(|(number, _)| *number == VALUE);
        Some(
            values
                .filter_map(|(_, value)| value)
                .map(length)
                .sum::<usize>(),
        )
    });
    columns.max().unwrap_or_default()
}

/// The values of a `millrace.v1.Column`.
fn values_of_column(column: &[u8]) -> usize {
    let values = |(number, bytes): (u64, Option<&[u8]>)| match (number, bytes) {
        // Booleans and integers in one piece: the last byte of each has its highest bit clear.
        (2..=4, Some(packed)) => packed.iter().filter(|byte| **byte < 0x80).count(),
        (5, Some(packed)) => packed.len() / size_of::<f64>(),
        (2..=8, _) => 1,
        _ => 0,
    };
    Fields(column).map(values).sum()
}

/// The values of a `feast.types.RepeatedValue`.
fn values_of_feast(column: &[u8]) -> usize {
    Fields(column).filter(|(number, _)| *number == 1).count()
}

/// The fields of a message: their numbers, and the bytes of what says its length.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = varint(&mut self.0)?;
        let (number, wire_type) = (tag >> 3, tag & 7);
        let (length, has_length) = match wire_type {
            0 => {
                varint(&mut self.0)?;
                return Some((number, None));
            }
            1 => (8, false),
            2 => (usize::try_from(varint(&mut self.0)?).ok()?, true),
            5 => (4, false),
            // The start and the end of a group. These messages have none, and who decodes them passes over it.
            3 | 4 => return Some((NOTHING, None)),
            _ => return None,
        };
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some((number, has_length.then_some(bytes)))
    }
}

/// A number of seven bits a byte, the lowest first; what follows it stays in `bytes`.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use millrace_proto::feast::feast::serving::GetOnlineFeaturesRequest;
    use millrace_proto::feast::feast::types::{RepeatedValue, Value};
    use millrace_proto::v1::{Column, GetFeaturesRequest, ScoreRequest};
    use prost_reflect::prost::Message as _;
    use prost_types::Timestamp;

    use super::*;

    fn columns() -> Vec<Column> {
        let mut all = vec![Column::default(); 7];
        all[0].bools = vec![true, false, true];
        all[1].int64s = vec![-1, 1, 1 << 40];
        all[2].uint64s = vec![0, 127, 128];
        all[3].doubles = vec![0.5; 3];
        all[4].strings = vec!["a".to_owned(), String::new(), "c".to_owned()];
        all[5].bytes = vec![vec![0xff], Vec::new(), vec![1; 300]];
        all[6].timestamps = vec![Timestamp::default(); 3];
        for column in &mut all {
            column.name = "a name".to_owned();
            column.nulls = vec![0, 1];
        }
        all
    }

    /// Other programs may write a message in other ways, which mean the same.
    #[test]
    fn parts_of_a_column_are_merged_and_groups_are_passed_over() {
        let field = |number: u8, bytes: &[u8]| {
            let mut field = vec![(number << 3) | 2, bytes.len() as u8];
            field.extend_from_slice(bytes);
            field
        };
        let part = Column {
            strings: vec!["a".to_owned(), "b".to_owned()],
            ..Column::default()
        };
        let value = field(2, &part.encode_to_vec());
        let entry = field(3, &[value.as_slice(), &value].concat());
        // A field of a number that nobody knows: a group with a number in it.
        let group: &[u8] = &[0x7b, 0x08, 0x01, 0x7c];
        for message in [entry.clone(), [group, &entry].concat()] {
            let decoded = GetFeaturesRequest::decode(message.as_slice());
            let decoded = decoded.map(|request| request.keys[""].strings.len());
            assert_eq!(decoded.ok(), Some(4));
            assert_eq!(Items::Keys.count(&message), 4);
        }
    }

    #[test]
    fn entities_and_events_are_counted_as_they_are_decoded() {
        for column in columns() {
            let named = HashMap::from([
                ("longer".to_owned(), column),
                ("empty".to_owned(), Column::default()),
            ]);
            let look_up = GetFeaturesRequest {
                features: vec!["card".to_owned(), "shop:n".to_owned()],
                handle: Some(7),
                keys: named.clone(),
                as_of: Some(Timestamp::default()),
            };
            assert_eq!(
                Items::Keys.count(&look_up.encode_to_vec()),
                3,
                "{look_up:?}"
            );
            let score = ScoreRequest {
                columns: named,
                include_inputs: Some(true),
                ..ScoreRequest::default()
            };
            assert_eq!(Items::Events.count(&score.encode_to_vec()), 3);
        }
        let score = ScoreRequest {
            event_json: vec!["{}".to_owned(); 300],
            top_reasons: Some(3),
            ..ScoreRequest::default()
        };
        assert_eq!(Items::Events.count(&score.encode_to_vec()), 300);
        let values = RepeatedValue {
            val: vec![Value::default(); 20],
        };
        let feast = GetOnlineFeaturesRequest {
            entities: HashMap::from([("card_id".to_owned(), values)]),
            full_feature_names: true,
            ..GetOnlineFeaturesRequest::default()
        };
        let feast = feast.encode_to_vec();
        assert_eq!(Items::Entities.count(&feast), 20);
        assert_eq!(Items::None.count(&feast), 0);
        // What is cut off, or nonsense, is counted as far as it can be read.
        for end in 0..feast.len() {
            assert!(Items::Entities.count(&feast[..end]) <= 20);
        }
        for number in 0..=u8::MAX {
            assert!(Items::Keys.count(&[number; 40]) <= 40);
        }
    }
}
