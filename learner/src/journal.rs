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
    /// What it came of, for programs. None where an older release wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// What a decision came of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A person chose it.
    Person,
    /// The learning loop made a version, or its tests said so.
    Learner,
    /// Labels contradict what is known of frauds.
    Labels,
    /// The inputs of labelled events are not what they were.
    Inputs,
}

/// Which check put labels aside. Each is asked where those before it believed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// They say the opposite of what the champion expects of any labels.
    Contradiction,
    /// They hardly ever say "genuine".
    Scarcity,
    /// Their inputs are distributed as never before.
    Drift,
    /// Too many values are beyond all that the model started from.
    Tails,
    /// They say fraud far too often, in periods that have too few labels to tell alone.
    Flood,
    /// They say fraud too seldom.
    Silence,
}

/// What the reasons of checks had in them before entries named the check, but for inputs that moved.
const WORDS: [(&str, Check); 4] = [
    ("genuine labels seem not to come", Check::Scarcity),
    ("are beyond all that the model started from", Check::Tails),
    ("in the newest periods together, ", Check::Flood),
    ("does the feed of labels still say", Check::Silence),
];

impl Entry {
    /// Whether a person chose it.
    pub fn is_by_a_person(&self) -> bool {
        self.is_of(Cause::Person, |reason| {
            reason.ends_with("chosen by a person")
        })
    }

    /// Which check put labels aside, where an older release wrote it: by the words of its reason.
    pub fn check_by_words(&self) -> Check {
        if self.is_for_inputs() {
            return Check::Drift;
        }
        let reason = self.reason.as_deref().unwrap_or_default();
        let known = WORDS.iter().find(|(words, _)| reason.contains(*words));
        known.map_or(Check::Contradiction, |(_, check)| *check)
    }

    /// Whether it was for the inputs of labelled events, which are not what they were.
    fn is_for_inputs(&self) -> bool {
        self.is_of(Cause::Inputs, |reason| reason.starts_with("input '"))
    }

    /// Leaves out a comparison that has a number that is not finite: JSON has none, and the reason says what was found.
    pub(crate) fn leave_out_odd_numbers(&mut self) {
        if let Event::Version { comparison, .. } = &mut self.event {
            *comparison = comparison.take().filter(|found| found.is_finite());
        }
    }

    /// Entries of older releases tell it by the words of their reason alone.
    fn is_of(&self, cause: Cause, by_words: impl Fn(&str) -> bool) -> bool {
        match self.cause {
            Some(known) => known == cause,
            None => self.reason.as_deref().is_some_and(by_words),
        }
    }
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
        /// Where it comes from, if this is the first that is said of it. None where an older release wrote it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        made: Option<Box<Made>>,
    },
    /// Labels were put aside, and are not learned.
    LabelsRefused {
        /// The first label's sequence number.
        first: u64,
        /// The last label's.
        last: u64,
        /// Which check says so. None where an older release wrote it: [`Entry::check_by_words`] tells it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        check: Option<Check>,
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

/// What a version was made of: what its manifest says too, for those who read the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The version that it was warm-started from; none for a model that started afresh.
    pub parent: Option<u64>,
    /// Sequence number of the last label that it has learned.
    pub label_position: u64,
    /// End of the period whose labels it has learned, µs of event time since 1970.
    pub trained_until_us: i64,
    /// What that which serves was compared with then; none for a registry's first version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
}

/// A version that what has served since is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Which.
    pub version: u64,
    /// Sequence number of the last label before those that the two are compared on.
    pub after: u64,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(line: &str) -> Entry {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn a_line_is_pinned() {
        // An older release names no check.
        for (named, check) in [("", None), (r#""check":"drift","#, Some(Check::Drift))] {
            let line = format!(
                r#"{{"at_us":6,"event":"labels_refused","first":3,"last":8,{named}"reason":"input 'a' moved","cause":"inputs"}}"#
            );
            let refused = entry(&line);
            assert_eq!(refused.cause, Some(Cause::Inputs));
            let (first, last) = (3, 8);
            let expected = Event::LabelsRefused { first, last, check };
            assert_eq!(refused.event, expected);
            assert_eq!(serde_json::to_string(&refused).unwrap(), line);
        }
    }

    #[test]
    fn what_a_version_was_made_of_is_pinned() {
        let line = r#"{"at_us":6,"event":"version","version":2,"state":"shadow","made":{"parent":1,"label_position":17,"trained_until_us":6,"watched":{"version":1,"after":9}},"cause":"learner"}"#;
        let shadow = entry(line);
        let made = Made {
            parent: Some(1),
            label_position: 17,
            trained_until_us: 6,
            watched: Some(Watched {
                version: 1,
                after: 9,
            }),
        };
        match &shadow.event {
            Event::Version { made: found, .. } => assert_eq!(found.as_deref(), Some(&made)),
            other => panic!("{other:?}"),
        }
        assert_eq!(serde_json::to_string(&shadow).unwrap(), line);
    }

    /// As release 0.1.0 wrote them.
    #[test]
    fn entries_without_a_cause_are_told_apart_by_their_words() {
        let of = |event: &str, reason: &str| {
            entry(&format!("{{\"at_us\":6,{event},\"reason\":\"{reason}\"}}"))
        };
        let version = "\"event\":\"version\",\"version\":2,\"state\":\"champion\"";
        let refused = "\"event\":\"labels_refused\",\"first\":3,\"last\":8";
        assert!(of(version, "version 3 was chosen by a person").is_by_a_person());
        assert!(!of(version, "a newer version took its place").is_by_a_person());
        for (reason, check) in [
            ("input 'amount' moved: far", Check::Drift),
            ("397 of 400 labels are frauds where …", Check::Contradiction),
            (
                "in the newest periods together, 21 of 120 labels are frauds where …",
                Check::Flood,
            ),
            (
                "21 of the newest 21 labels say fraud where …: genuine labels seem not to come (…)",
                Check::Scarcity,
            ),
            (
                "values of input 'amount' are beyond all that the model started from in 9 of 20 events, …",
                Check::Tails,
            ),
            (
                "0 of the newest 9 labels are frauds where …: does the feed of labels still say which …",
                Check::Silence,
            ),
        ] {
            assert_eq!(of(refused, reason).check_by_words(), check, "{reason}");
        }
    }

    #[test]
    fn a_cause_counts_for_more_than_words() {
        let line = r#"{"at_us":6,"event":"version","version":2,"state":"champion","reason":"chosen by a person"}"#;
        let mut chosen = entry(line);
        chosen.cause = Some(Cause::Learner);
        assert!(!chosen.is_by_a_person());
        chosen.reason = None;
        chosen.cause = Some(Cause::Person);
        assert!(chosen.is_by_a_person() && !chosen.is_for_inputs());
    }
}
