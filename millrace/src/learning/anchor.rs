//! Whether many small steps have done harm: what served is compared with a version of some days before, the anchor, and
//! taken back.

use millrace_learner::{Aliases, Comparison, Examples, Paired, State, Watched};

use super::line::Known;
use super::notes::{came_to, of_bad_descent};
use super::past::Past;
use super::scored::usual_rate;
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
    /// Compares what served with the anchor on fresh labels, the last of which has a number; takes the traffic back to the
    /// newest version that is as good as the anchor where that did harm.
    pub(super) fn compare_with_anchor(
        &mut self,
        fresh: &Examples,
        served: &[f32],
        until: u64,
        at_us: i64,
    ) -> Outcome<Option<(u64, u64, String)>> {
        let seed = self.settings().seed ^ at_us as u64;
        let Some((comparison, reason)) = self.harm_since_anchor(fresh, served, until, seed)? else {
            return Ok(None);
        };
        let Some(champion) = &self.champion else {
            return Ok(None);
        };
        let bad = champion.manifest.version;
        let Some(good) = self.newest_good(bad, until, seed)? else {
            return Ok(None);
        };
        let version = good.manifest.version;
        self.take_back(bad, good, comparison, reason.clone(), until, at_us)?;
        // What goes on is not off by what the scores of those that did harm were off by.
        let past = Past::of(&self.registry.journal_entries()?);
        self.score_again(&mut Known::of(past), until)?;
        Ok(Some((bad, version, reason)))
    }

    /// What was found where what served did harm, and the reason in words. Where it did none over enough labels, what serves
    /// is the next anchor.
    fn harm_since_anchor(
        &mut self,
        fresh: &Examples,
        served: &[f32],
        until: u64,
        seed: u64,
    ) -> Outcome<Option<(Comparison, String)>> {
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
                self.anchor = Some(Anchor::new(champion.clone(), until));
            }
            return Ok(None);
        };
        let version = anchor.held.manifest.version;
        let reason = format!("what served since version {version} did harm: {harm}");
        Ok(Some((comparison, reason)))
    }

    /// Gives the traffic of a bad version, and of what comes from it, to a good one, with which it is compared from the
    /// labels after a number on.
    fn take_back(
        &mut self,
        bad: u64,
        good: Held,
        comparison: Comparison,
        reason: String,
        until: u64,
        at_us: i64,
    ) -> Outcome<()> {
        let version = good.manifest.version;
        let (rolled_back, because) = (State::RolledBack, Some(of_bad_descent(bad)));
        // Not `promote`: the version before is rolled back and not replaced.
        let mut notes = vec![came_to(
            bad,
            rolled_back,
            Some(comparison),
            Some(reason),
            at_us,
        )];
        if let Some((canary, _)) = self.canary.take() {
            let canary = canary.held.manifest.version;
            notes.push(came_to(canary, rolled_back, None, because, at_us));
        }
        notes.extend(self.reject_shadow(bad, at_us));
        notes.push(came_to(version, State::Champion, None, None, at_us));
        let aliases = Aliases {
            champion: Some(version),
            challenger: None,
        };
        self.decide(aliases, notes)?;
        self.scorer.end_canary();
        self.scorer
            .swap(good.manifest.clone(), good.model.clone())?;
        metrics::counter!("millrace_rollbacks_total").increment(1);
        metrics::gauge!("millrace_model_version").set(version as f64);
        self.anchor = Some(Anchor::new(good.clone(), until));
        self.champion = Some(good);
        Ok(())
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
