//! How the loop goes on from what others have done: an earlier process, and a person meanwhile.

use millrace_learner::LearnerError;

use super::anchor::Anchor;
use super::past::Past;
use super::trial::Trial;
use super::{Held, Learning};
use crate::failure::Outcome;

impl Learning {
    /// Reads from the registry where an earlier process stood.
    pub(super) fn resume(&mut self) -> Outcome<Past> {
        self.seen = self.registry.aliases()?;
        let journal = self.registry.journal_entries()?;
        self.read = journal.len();
        let Some(champion) = self.seen.champion else {
            return Ok(Past::default());
        };
        let champion = self.load(champion)?;
        let mut past = Past::of(&journal);
        for range in &past.aside {
            self.history.put_aside(range.clone());
        }
        self.unusual.clone_from(&past.unusual);
        if past.lacks_what_came_after(champion.manifest.version) {
            // An older release has noted less of them.
            for manifest in self.registry.list()? {
                past.know(&manifest);
            }
        }
        // What a process published, and did not live to note, has learned nothing that others may not.
        let learned = past.made.values().map(|made| made.label_position);
        self.dealt_with = learned
            .chain([champion.manifest.label_position, past.refused_until])
            .max()
            .unwrap_or(0);
        let until = past.made.values().map(|made| made.trained_until_us);
        self.done_until_us = until.chain([champion.manifest.trained_until_us]).max();
        if let Some(version) = past.shadow_of(&self.seen) {
            self.shadow = self.load_if_whole(version)?.map(Trial::new);
        }
        if let Some((version, percent)) = self.seen.challenger.filter(|(_, share)| *share > 0) {
            self.canary = Some((Trial::new(self.load(version)?), self.step_of(percent)));
        }
        self.champion = Some(champion);
        Ok(past)
    }

    /// Follows what a person has chosen: a champion or a challenger that is not this loop's own.
    ///
    /// # Errors
    /// A registry that cannot be read. Of kind rival, where it was another process that learns.
    pub fn follow(&mut self) -> Outcome<()> {
        let now = self.registry.aliases()?;
        if now == self.seen {
            return Ok(());
        }
        self.check_rivals()?;
        let (chosen, challenger) = (now.champion, now.challenger);
        let ours = self.champion.as_ref().map(|held| held.manifest.version);
        let canary = self
            .canary
            .as_ref()
            .map(|(trial, _)| trial.held.manifest.version);
        let theirs = challenger.map(|(version, _)| version);
        if chosen == ours && theirs == canary {
            // A share that a person has changed.
            self.scorer.follow(&self.registry)?;
            self.seen = now;
            return Ok(());
        }
        // What was under way came from what is not wanted.
        self.shadow = None;
        self.canary = None;
        if let Some(version) = chosen.filter(|version| Some(*version) != ours) {
            let held = self.load(version)?;
            self.anchor = Some(Anchor::new(held.clone(), self.dealt_with));
            self.champion = Some(held);
            let past = Past::of(&self.registry.journal_entries()?);
            self.recall_labels(&past)?;
        }
        if let Some((version, percent)) = challenger.filter(|(_, percent)| *percent > 0) {
            self.canary = Some((Trial::new(self.load(version)?), self.step_of(percent)));
        }
        self.scorer.follow(&self.registry)?;
        self.seen = now;
        Ok(())
    }

    /// The step of the canary at which a share of the traffic is.
    fn step_of(&self, percent: u8) -> usize {
        let steps = &self.settings().gate.canary;
        steps
            .partition_point(|step| *step <= percent)
            .saturating_sub(1)
    }

    pub(super) fn load(&self, version: u64) -> Outcome<Held> {
        let (manifest, checkpoint) = self.registry.load(version)?;
        Ok(Held::new(manifest, checkpoint))
    }

    /// A version that the loop can do without: none where it is gone, is damaged, or has other inputs than the project.
    pub(super) fn load_if_whole(&self, version: u64) -> Outcome<Option<Held>> {
        match self.registry.load(version) {
            Ok((manifest, checkpoint)) => Ok(match self.plan().check_inputs(&manifest) {
                Ok(()) => Some(Held::new(manifest, checkpoint)),
                Err(_) => None,
            }),
            Err(LearnerError::NoSuchVersion { .. }) => Ok(None),
            Err(error @ LearnerError::Damaged { .. }) => {
                tracing::warn!(%error, "version {version} cannot be loaded: learning goes on without it");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
