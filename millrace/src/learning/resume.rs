//! How the loop goes on from what others have done: an earlier process, and a person meanwhile.

use millrace_learner::{Entry, LearnerError};

use super::line::Known;
use super::past::{Past, Released};
use super::trial::Trial;
use super::{Held, Learning};
use crate::failure::Outcome;
use crate::settings::micros;

impl Learning {
    /// Goes on from what the registry's log says, and the store's labels.
    pub(super) fn take_up(&mut self) -> Outcome<()> {
        // Until all of it is done, nothing is decided.
        self.was_moved = true;
        let mut known = Known::of(self.resume()?);
        // Later than that: what is chosen from now on differs from what was seen.
        self.scorer.follow(&self.registry)?;
        self.read_examples()?;
        self.trim();
        self.settling = self.settling_now();
        self.recall_afresh(&known.past);
        self.recall_tests(&mut known, self.dealt_with)?;
        self.recall_anchor(&mut known)?;
        self.recall_labels(&mut known)?;
        self.recall_prequential(&mut known)?;
        self.was_moved = false;
        Ok(())
    }

    /// Reads from the registry where an earlier process stood.
    fn resume(&mut self) -> Outcome<Past> {
        let (seen, journal) = self.decided()?;
        (self.shadow, self.canary) = (None, None);
        (self.seen, self.read) = (seen, journal.len());
        let Some(champion) = seen.champion else {
            return Ok(Past::default());
        };
        let champion = self.load(champion)?;
        let past = self.past(&champion, &journal)?;
        for (range, check) in &past.aside {
            self.history.put_aside(range.clone(), *check);
        }
        self.unusual.clone_from(&past.unusual);
        self.released.clone_from(&past.released);
        let released = past.released.as_ref();
        let refused_until = released.map_or(past.refused_until, Released::after);
        // What a process published, and did not live to note, has learned nothing that others may not.
        let learned = past.made.values().map(|made| made.label_position);
        self.dealt_with = learned
            .chain([champion.manifest.label_position, refused_until])
            .max()
            .unwrap_or(0)
            .max(self.dealt_with);
        let until = past.made.values().map(|made| made.trained_until_us);
        // The period that was to learn them is begun anew, and not each of those that they came in.
        let every = micros(self.plan().settings.every);
        let released = released.map(|released| released.end_us.saturating_sub(every));
        self.done_until_us = until
            .chain([champion.manifest.trained_until_us])
            .chain(released)
            .max()
            .max(self.done_until_us);
        if let Some(version) = past.shadow_of(&seen) {
            self.shadow = self.load_if_whole(version)?.map(Trial::new);
        }
        if let Some((version, percent)) = seen.challenger.filter(|(_, share)| *share > 0) {
            let trial = Trial {
                share: past.share_of(version),
                ..Trial::new(self.load(version)?)
            };
            self.canary = Some((trial, self.step_of(percent)));
        }
        self.champion = Some(champion);
        Ok(past)
    }

    /// What the registry's log says by now.
    pub(super) fn past_now(&self) -> Outcome<Past> {
        let journal = self.registry.journal_entries()?;
        match &self.champion {
            Some(champion) => self.past(champion, &journal),
            None => Ok(Past::of(&journal)),
        }
    }

    /// What a log says.
    fn past(&self, champion: &Held, journal: &[Entry]) -> Outcome<Past> {
        let mut past = Past::of(journal);
        if past.lacks_what_came_after(champion.manifest.version) {
            // An older release has noted less of them.
            for manifest in self.registry.list()? {
                past.know(&manifest);
            }
        }
        Ok(past)
    }

    /// Follows what a person has chosen, as a process does that starts: what comes from what is not wanted is tested no
    /// further.
    ///
    /// # Errors
    /// A registry that cannot be read. Of kind rival, where it was another process that learns.
    pub fn follow(&mut self) -> Outcome<()> {
        if !self.is_moved()? {
            return Ok(());
        }
        self.check_rivals()?;
        self.take_up()
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
