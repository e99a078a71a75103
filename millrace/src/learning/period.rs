//! What happened in a period of the learning loop, and how it is told: to a person, and to the log.

use std::fmt;

use millrace_learner::{Comparison, Lack, Manifest, Metrics, Prequential};
use tracing::{info, warn};

use crate::times::rfc3339;
use crate::traces::Entered;

/// What happened in a period.
#[derive(Debug, Clone)]
pub struct Period {
    /// Its end, µs of event time.
    pub end_us: i64,
    /// Labels that became known in it, or were left from before.
    pub labels: usize,
    /// Frauds among them.
    pub frauds: usize,
    /// Labels among them that say the opposite of one that was known before.
    pub corrected: usize,
    /// How long after its end its labels waited until they were settled, µs.
    pub waited_us: i64,
    /// What became of the labels.
    pub learned: Learned,
    /// What became of the versions before, which the labels tested.
    pub tested: Vec<Tested>,
    /// The version that was taken back, the one that serves in its place, and why.
    pub rolled_back: Option<(u64, u64, String)>,
    /// Average precision of what served on the newest labels.
    pub prequential: Prequential,
    /// Wall time, s.
    pub seconds: f64,
}

/// What became of a period's labels.
#[derive(Debug, Clone)]
pub enum Learned {
    /// Too few labels for a first model.
    Waiting,
    /// They were put aside, for a reason.
    PutAside(String),
    /// An update that was broken was thrown away, for a reason.
    Broken(String),
    /// A new version; the first one serves at once.
    Version(Box<NewVersion>),
}

/// A version that an update has made.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// What is written of it.
    pub manifest: Manifest,
    /// How far it moved the log odds, in nats a row.
    pub shift: f64,
    /// Whether it would have moved them farther.
    pub shortened: bool,
    /// Whether it started afresh rather than from its parent.
    pub afresh: bool,
}

/// What the labels of a period said of a version that had not seen them, or of one that it comes from.
#[derive(Debug, Clone)]
pub struct Tested {
    /// The version.
    pub version: u64,
    /// What served when they came: what it was compared with.
    pub champion: u64,
    /// The numbers; none while the labels do not make a test, and where it went with another version.
    pub comparison: Option<Comparison>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a version under test.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The labels do not make a test yet, and a newer version takes its place in it.
    Waiting(Lack),
    /// It answers for so many of a hundred entities.
    Canary(u8),
    /// It passed, and the traffic stays as it is: another version is the canary, a person has set its share, or the same
    /// labels gave it that, before the period was begun anew.
    Passed,
    /// It takes the traffic.
    Promoted,
    /// It does not, for a reason: it did harm, or comes from a version that did.
    Rejected(String),
}

/// What a person wants to know of it.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for tested in &self.tested {
            let version = tested.version;
            match &tested.verdict {
                Verdict::Waiting(lack) => {
                    writeln!(f, "version {version} is not tested yet: {lack}")?;
                }
                Verdict::Canary(percent) => {
                    writeln!(f, "version {version} answers for {percent} of 100 entities")?;
                }
                Verdict::Passed => writeln!(f, "version {version} has passed its test")?,
                Verdict::Promoted => writeln!(f, "version {version} serves")?,
                Verdict::Rejected(reason) => {
                    writeln!(f, "version {version} was rejected: {reason}")?
                }
            }
        }
        if let Some((version, to, reason)) = &self.rolled_back {
            writeln!(f, "version {version} was rolled back to {to}: {reason}")?;
        }
        let (labels, frauds) = (self.labels, self.frauds);
        match &self.learned {
            Learned::Waiting => write!(
                f,
                "{labels} labels with {frauds} frauds and {} genuine events are too few for a first model",
                labels - frauds
            ),
            Learned::PutAside(reason) => write!(f, "{labels} labels were put aside: {reason}"),
            Learned::Broken(reason) => write!(f, "the update was thrown away: {reason}"),
            Learned::Version(new) => write!(
                f,
                "version {} learned {} labels until {} and {} replayed in {:.2} s on {}",
                new.manifest.version,
                new.manifest.rows,
                rfc3339(new.manifest.trained_until_us),
                new.manifest.replayed,
                self.seconds,
                new.manifest.device
            ),
        }
    }
}

impl Period {
    /// Logs what a person who runs the loop should see.
    pub(super) fn log(&self) {
        let until = rfc3339(self.end_us);
        for tested in &self.tested {
            let version = tested.version;
            match &tested.verdict {
                // A night has few labels, and maybe no fraud.
                Verdict::Waiting(Lack::Labels | Lack::Frauds) | Verdict::Passed => {}
                Verdict::Waiting(Lack::Genuine) => warn!(
                    version,
                    until, "a version is not tested: labels say fraud, and too few of them genuine"
                ),
                Verdict::Canary(percent) => info!(version, until, percent, "a version is canary"),
                Verdict::Promoted => info!(version, until, "a version serves"),
                Verdict::Rejected(reason) => {
                    warn!(version, until, reason, "a version was rejected");
                }
            }
        }
        if let Some((version, to, reason)) = &self.rolled_back {
            warn!(version, to, until, reason, "a version was rolled back");
        }
        match &self.learned {
            Learned::Waiting => {}
            Learned::PutAside(reason) => {
                warn!(until, labels = self.labels, reason, "labels were put aside");
            }
            Learned::Broken(reason) => warn!(until, reason, "an update was thrown away"),
            Learned::Version(new) => info!(
                version = new.manifest.version, until, labels = new.manifest.rows, replayed = new.manifest.replayed,
                average_precision = ?self.prequential.average_precision, seconds = self.seconds,
                "a new version was made"
            ),
        }
    }

    /// Notes it on its span.
    pub(super) fn note_on(&self, work: &Entered) {
        work.note("millrace.period.labels", self.labels as i64);
        work.note("millrace.period.frauds", self.frauds as i64);
        work.note("millrace.period.corrected", self.corrected as i64);
        let outcome = match &self.learned {
            Learned::Waiting => "waiting",
            Learned::PutAside(_) => "labels_refused",
            Learned::Broken(_) => "broken",
            Learned::Version(new) => {
                work.note("millrace.model.version", new.manifest.version as i64);
                "learned"
            }
        };
        work.note("millrace.period.outcome", outcome);
        if let Some((version, _, _)) = &self.rolled_back {
            work.note("millrace.period.rolled_back", *version as i64);
        }
    }

    /// The metrics of the version before on this period's labels, and of the new one.
    #[must_use]
    pub fn metrics(&self) -> (Option<Metrics>, Option<Metrics>) {
        match &self.learned {
            Learned::Version(new) => (new.manifest.before, Some(new.manifest.after)),
            _ => (None, None),
        }
    }
}
