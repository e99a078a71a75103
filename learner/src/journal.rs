//! What became of versions and labels: an append-only file of one JSON object a line, beside the
//! versions, which never change themselves.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::checkpoint::io;
use crate::error::LearnerError;
use crate::gate::Comparison;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in microseconds of event time since 1970.
    pub at_us: i64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A version came to a state.
    Version {
        /// Which.
        version: u64,
        /// Where it is now.
        state: State,
        /// The comparison that brought it there, if one did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comparison: Option<Box<Comparison>>,
    },
    /// Labels were put aside, and are not learned.
    LabelsRefused {
        /// The first label's sequence number.
        first: u64,
        /// The last label's.
        last: u64,
    },
    /// Labels that had been put aside are learned after all.
    LabelsReleased {
        /// The first label's sequence number.
        first: u64,
        /// The last label's.
        last: u64,
    },
}

/// The life of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is tested beside the champion and answers nobody.
    Shadow,
    /// It answers for a share of the entities.
    Canary {
        /// How many of a hundred.
        percent: u8,
    },
    /// It takes the traffic.
    Champion,
    /// Another version took its place.
    Replaced,
    /// It was tested and did harm, or was not better than what it was to replace.
    Rejected,
    /// It took traffic, did harm, and was taken back.
    RolledBack,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shadow => f.write_str("shadow"),
            Self::Canary { percent } => write!(f, "canary {percent}%"),
            Self::Champion => f.write_str("champion"),
            Self::Replaced => f.write_str("replaced"),
            Self::Rejected => f.write_str("rejected"),
            Self::RolledBack => f.write_str("rolled back"),
        }
    }
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    pub(crate) file: PathBuf,
    /// Whether an entry is forced to disk before [`Journal::add`] returns.
    pub(crate) durable: bool,
}

impl Journal {
    pub(crate) fn add(&self, entry: &Entry) -> Result<(), LearnerError> {
        let failed = |source| io("write", &self.file, source);
        let mut line = match serde_json::to_vec(entry) {
            Ok(line) => line,
            Err(error) => return Err(LearnerError::Bug(error.to_string())),
        };
        line.push(b'\n');
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true);
        let mut file = file.open(&self.file).map_err(failed)?;
        if self.ends_in_half_a_line().map_err(failed)? {
            line.insert(0, b'\n');
        }
        // One write: two writers' lines do not mix.
        file.write_all(&line).map_err(failed)?;
        if self.durable {
            file.sync_all().map_err(failed)?;
        }
        Ok(())
    }

    /// A crash in the middle of a write leaves that.
    fn ends_in_half_a_line(&self) -> std::io::Result<bool> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = std::fs::File::open(&self.file)?;
        if file.seek(SeekFrom::End(0))? == 0 {
            return Ok(false);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last != *b"\n")
    }

    /// All entries, oldest first. Half a line is no entry: what it told did not happen.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, LearnerError> {
        let text = match std::fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io("read", &self.file, source)),
        };
        let lines = text.lines().filter(|line| !line.is_empty());
        Ok(lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_come_back_and_half_a_line_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("journal.jsonl");
        let journal = Journal {
            file: file.clone(),
            durable: true,
        };
        assert!(journal.entries().unwrap().is_empty());
        let entry = |version, state, reason: Option<&str>| Entry {
            at_us: 5,
            event: Event::Version {
                version,
                state,
                comparison: None,
            },
            reason: reason.map(str::to_owned),
        };
        let first = entry(1, State::Canary { percent: 10 }, None);
        journal.add(&first).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}{}", &text[..text.len() / 2])).unwrap();
        assert_eq!(journal.entries().unwrap(), std::slice::from_ref(&first));
        let second = entry(2, State::Rejected, Some("it did harm"));
        journal.add(&second).unwrap();
        let third = Entry {
            at_us: 9,
            event: Event::LabelsRefused { first: 3, last: 8 },
            reason: None,
        };
        journal.add(&third).unwrap();
        assert_eq!(journal.entries().unwrap(), [first, second, third]);
    }
}
