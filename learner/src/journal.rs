//! What becomes of versions and labels: notes that the registry keeps beside the versions, which never change
//! themselves.

use serde::{Deserialize, Serialize};

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
    /// Versions were removed, for there are newer ones.
    Removed {
        /// Which.
        versions: Vec<u64>,
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
