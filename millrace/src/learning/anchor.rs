//! Whether many small steps have done harm: what served is compared with a version of some days before, the anchor, and
//! taken back.

use millrace_learner::{Aliases, Comparison, Paired, State, Watched};

use super::line::Known;
use super::notes::came_to;
use super::period::{Period, Tested};
use super::scored::usual_rate;
use super::trial::{Evidence, Trial};
use super::{Held, Learning};
use crate::failure::Outcome;

/// In how many parts what served is looked at, on the way to a full comparison.
const LOOKS: usize = 4;

/// A version of some days ago, and how it would have done since.
pub(super) struct Anchor {
    pub(super) held: Held,
    /// Number of the last label before those that it is compared on.
    pub(super) after: u64,
    pub(super) paired: Paired,
    /// Versions that came to have the traffic since, the oldest first.
    pub(super) promoted: Vec<u64>,
}

impl Anchor {
    /// What serves is compared with a version from the labels after a number on.
    pub(super) fn new(held: Held, after: u64) -> Self {
        Self {
            held,
            after,
            paired: Paired::default(),
            promoted: Vec::new(),
        }
    }

    /// What the log says of it.
    pub(super) fn watched(&self) -> Watched {
        Watched {
            version: self.held.manifest.version,
            after: self.after,
        }
    }
}

impl Learning {
    /// Compares what served with the anchor on fresh labels; takes the traffic back to the newest version that is as good as
    /// the anchor where that did harm.
    pub(super) fn compare_with_anchor(
        &mut self,
        evidence: &Evidence<'_>,
        period: &mut Period,
    ) -> Outcome<()> {
        let until = evidence.until;
        let seed = self.settings().seed ^ evidence.at_us as u64;
        let Some((comparison, reason)) = self.harm_since_anchor(evidence, seed)? else {
            return Ok(());
        };
        let Some(champion) = &self.champion else {
            return Ok(());
        };
        let bad = champion.manifest.version;
        let Some(good) = self.newest_good(bad, until, seed)? else {
            return Ok(());
        };
        let version = good.manifest.version;
        let fallen = self.take_back(bad, good, comparison, reason.clone(), evidence)?;
        period.tested.extend(fallen);
        period.rolled_back = Some((bad, version, reason));
        // What goes on is not off by what the scores of those that did harm were off by, nor compared with them.
        let mut past = self.past_now()?;
        // As the log has it once the period has ended.
        past.reigns.ended(until);
        let mut known = Known::of(past);
        self.score_again(&mut known, until)?;
        self.recall_tests(&mut known, until)
    }

    /// What was found where what served did harm, and the reason in words. Where it did none over enough labels, what serves
    /// is the next anchor.
    fn harm_since_anchor(
        &mut self,
        evidence: &Evidence<'_>,
        seed: u64,
    ) -> Outcome<Option<(Comparison, String)>> {
        let (fresh, served) = (evidence.fresh, evidence.served);
        let gate = self.settings().gate.clone();
        let (Some(anchor), Some(champion)) = (&mut self.anchor, &self.champion) else {
            return Ok(None);
        };
        let logits = anchor.held.model.logits(fresh.inputs())?;
        let before = anchor.paired.rows();
        anchor.paired.extend(&logits, served, fresh.labels());
        let rows = anchor.paired.rows();
        let look = (gate.watched_rows / LOOKS).max(1);
        if before / look == rows / look {
            return Ok(None);
        }
        let usual = || usual_rate(&self.history, self.dealt_with);
        if anchor.paired.lack(&gate, usual).is_some() {
            return Ok(None);
        }
        // Several looks at growing evidence: each must be surer, so that all together are as sure as one.
        let confidence = 1.0 - (1.0 - gate.confidence) / LOOKS as f64;
        let comparison = anchor.paired.compare(&gate, confidence, seed);
        let Some(harm) = anchor.paired.harm(&comparison, &gate) else {
            if rows >= gate.watched_rows {
                self.anchor = Some(Anchor::new(champion.clone(), evidence.until));
            }
            return Ok(None);
        };
        let version = anchor.held.manifest.version;
        let reason = format!("what served since version {version} did harm: {harm}");
        Ok(Some((comparison, reason)))
    }

    /// Gives the traffic of a bad version, and of what comes from it, to a good one, with which what serves is compared on the
    /// labels to come. Other versions are tested on, and keep a share that they have. What became of those under test that
    /// come from the bad one.
    fn take_back(
        &mut self,
        bad: u64,
        good: Held,
        comparison: Comparison,
        reason: String,
        evidence: &Evidence<'_>,
    ) -> Outcome<Vec<Tested>> {
        let (version, at_us) = (good.manifest.version, evidence.at_us);
        // A share that the good one had is a part of what it has now.
        let is_other = |(trial, _): &(Trial, usize)| trial.held.manifest.version != version;
        self.canary = self.canary.take().filter(is_other);
        let mut aliases = Aliases {
            champion: Some(version),
            challenger: None,
        };
        // Not `promote`: the version before is rolled back and not replaced.
        let mut notes = vec![came_to(
            bad,
            State::RolledBack,
            Some(comparison),
            Some(reason),
            at_us,
        )];
        let fallen = self.end_tests_of(bad, &aliases, evidence, &mut notes)?;
        if self.canary.is_some() {
            aliases.challenger = self.seen.challenger;
        }
        notes.push(came_to(version, State::Champion, None, None, at_us));
        self.decide(aliases, notes, |change| {
            if aliases.challenger.is_none() {
                change.end_canary();
            }
            change.swap(good.manifest.clone(), good.model.clone())
        })?;
        metrics::counter!("millrace_rollbacks_total").increment(1);
        self.anchor = Some(Anchor::new(good.clone(), evidence.until));
        self.champion = Some(good);
        Ok(fallen)
    }

    /// The newest version before a bad one that served since the anchor and is as good as that; else the anchor itself,
    /// if it is another one.
    ///
    /// Harm that came stays in what is learned on from there. So the versions are halved: of a hundred, seven are
    /// loaded.
    fn newest_good(&self, bad: u64, until: u64, seed: u64) -> Outcome<Option<Held>> {
        let Some(anchor) = &self.anchor else {
            return Ok(None);
        };
        let mut good = anchor.held.clone();
        let mut unknown = anchor.promoted.clone();
        unknown.retain(|version| *version != bad);
        while !unknown.is_empty() {
            let middle = unknown.len() / 2;
            let Some(held) = self.load_if_whole(unknown[middle])? else {
                unknown.remove(middle);
                continue;
            };
            if self.is_as_good(&held, &anchor.held, until, seed)? {
                good = held;
                unknown.drain(..=middle);
            } else {
                unknown.truncate(middle);
            }
        }
        Ok(Some(good).filter(|good| good.manifest.version != bad))
    }

    /// Whether a version does no harm, more likely than not, on the newest labels that neither it nor the anchor has
    /// learned. Where they are few, a test that must be sure of harm would find none in any version.
    fn is_as_good(&self, held: &Held, anchor: &Held, until: u64, seed: u64) -> Outcome<bool> {
        let gate = &self.settings().gate;
        let mut paired = Paired::default();
        self.pair(&mut paired, anchor, held, until)?;
        if self.lack(&paired).is_some() {
            return Ok(false);
        }
        let comparison = paired.compare(gate, 0.5, seed);
        Ok(paired.harm(&comparison, gate).is_none())
    }
}
