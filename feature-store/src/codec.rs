//! The record format: one version byte, then bincode (little endian, variable-length integers).
//!
//! Everything structured that is stored goes through here, so bincode could be swapped for a
//! wire-compatible crate in this one file. A record is not self-describing: a type that was written
//! may only change together with [`RECORD_VERSION`], and serde's `skip`, `flatten`, `untagged` and
//! internally tagged enums must not be used in it.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;

/// The version byte that leads each record.
pub const RECORD_VERSION: u8 = 1;

/// The most bytes that decoding one record may claim: a damaged length must not exhaust the memory.
const RECORD_LIMIT: usize = 1 << 30;

const CONFIG: Configuration<LittleEndian, Varint, Limit<RECORD_LIMIT>> =
    bincode::config::standard().with_limit::<RECORD_LIMIT>();

/// `value` as a record.
///
/// # Errors
/// [`StoreError::Record`] where serde refuses the value or it exceeds 1 GiB.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut record = vec![RECORD_VERSION];
    bincode::serde::encode_into_std_write(value, &mut record, CONFIG)
        .map_err(|error| StoreError::Record(error.to_string()))?;
    Ok(record)
}

/// The value in `record`, all of whose bytes must belong to it.
///
/// # Errors
/// [`StoreError::RecordVersion`] where another version leads it, [`StoreError::Record`] where it is
/// cut short, has bytes left over or is not a `T`.
pub fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T, StoreError> {
    let (&version, body) = record
        .split_first()
        .ok_or_else(|| StoreError::Record("it is empty".to_owned()))?;
    if version != RECORD_VERSION {
        return Err(StoreError::RecordVersion {
            found: version,
            supported: RECORD_VERSION,
        });
    }
    let (value, read) = bincode::serde::decode_from_slice(body, CONFIG)
        .map_err(|error| StoreError::Record(error.to_string()))?;
    if read < body.len() {
        let left = body.len() - read;
        return Err(StoreError::Record(format!("{left} bytes are left over")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Empty,
        Number(i64),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        name: String,
        count: u64,
        delta: i32,
        ratio: f64,
        flag: bool,
        missing: Option<u8>,
        kinds: Vec<Kind>,
        raw: Vec<u8>,
    }

    fn sample() -> Sample {
        Sample {
            name: "card".to_owned(),
            count: 300,
            delta: -2,
            ratio: 1.5,
            flag: true,
            missing: None,
            kinds: vec![Kind::Empty, Kind::Number(-1)],
            raw: vec![0, 255],
        }
    }

    /// The bytes of record version 1, worked out by hand from bincode's specification.
    const SAMPLE_V1: &str = concat!(
        "01",               // record version
        "0463617264",       // name: length, UTF-8
        "fb2c01",           // count: 251 says that a u16 follows
        "03",               // delta: zigzag
        "000000000000f83f", // ratio: IEEE 754, little endian
        "01",               // flag
        "00",               // missing
        "02000101",         // kinds: length, variant 0, variant 1 and its zigzag number
        "0200ff",           // raw: length, two bytes
    );

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn record_version_1_is_pinned() {
        assert_eq!(hex(&encode(&sample()).unwrap()), SAMPLE_V1);
        assert_eq!(decode::<Sample>(&unhex(SAMPLE_V1)).unwrap(), sample());
    }

    #[test]
    fn another_version_is_named() {
        let mut record = encode(&sample()).unwrap();
        record[0] = 9;
        let error = decode::<Sample>(&record).unwrap_err();
        assert!(matches!(
            error,
            StoreError::RecordVersion {
                found: 9,
                supported: 1
            }
        ));
        assert_eq!(
            error.to_string(),
            "a record has version 9; this release reads version 1"
        );
    }

    #[test]
    fn damaged_records_are_errors() {
        let record = encode(&sample()).unwrap();
        for length in 0..record.len() {
            assert!(
                decode::<Sample>(&record[..length]).is_err(),
                "cut to {length}"
            );
        }
        let mut longer = record;
        longer.push(0);
        let error = decode::<Sample>(&longer).unwrap_err().to_string();
        assert_eq!(error, "a record does not decode: 1 bytes are left over");
        // A length of 2^63 must be refused, not allocated.
        let huge = unhex("01fd0000000000000080");
        assert!(decode::<Vec<u8>>(&huge).is_err());
        assert!(decode::<String>(&huge).is_err());
    }
}
