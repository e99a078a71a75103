//! Which versions stay, and how the others go.

use super::{Abandoned, Aliases, Choice, Decided, MANIFEST, Number, Registry, lock, path};
use crate::error::LearnerError;
use crate::journal::{Cause, Entry, Event};

impl Registry {
    /// Removes all versions but the `newest` newest (at least one), those in `needed`, champion, challenger and the
    /// version that a rollback would go back to. Returns the numbers of the removed ones. Of versions that the log has
    /// noted, no manifest is read but of those that may be removed.
    ///
    /// # Errors
    /// [`LearnerError::Store`]; what is not removed then is removed by the next call.
    pub fn retain(
        &self,
        newest: usize,
        needed: &[u64],
        at_us: i64,
    ) -> Result<Vec<u64>, LearnerError> {
        let numbers = self.numbers()?;
        let mut gone = Vec::new();
        let mut oldest = 0;
        self.decide(|decided| {
            let versions = self.versions_by_log(&numbers, decided)?;
            let surplus = versions.len().saturating_sub(newest.max(1));
            oldest = versions.get(surplus).copied().unwrap_or(0);
            let Aliases {
                champion,
                challenger,
            } = decided.aliases;
            let before = self.readable_champion_before(decided, &versions)?;
            let kept = [champion, challenger.map(|(version, _)| version), before];
            let mut old = versions[..surplus].to_vec();
            old.retain(|it| !kept.contains(&Some(*it)) && !needed.contains(it));
            // One whose manifest cannot be read stays for a person to mend.
            gone = self.versions_of(&old, &decided.removed)?;
            Ok::<_, LearnerError>((!gone.is_empty()).then(|| Choice {
                aliases: decided.aliases,
                notes: vec![Entry {
                    at_us,
                    event: Event::Removed {
                        versions: gone.clone(),
                    },
                    reason: None,
                    cause: Some(Cause::Learner),
                }],
            }))
        })?;
        let (noted, removed) = {
            let log = self.lock();
            (log.decided.noted.clone(), log.decided.removed.clone())
        };
        for number in numbers {
            if removed.contains(&number) {
                self.remove(number)?;
                continue;
            }
            if number >= oldest && noted.contains(&number) {
                continue;
            }
            let unfinished = match self.look_at(number) {
                // What is left of a damaged version stays for a person to mend.
                Ok(Some(Number::Version(_))) | Err(LearnerError::Damaged { .. }) => false,
                Ok(Some(Number::Abandoned { is_empty })) => !is_empty,
                Ok(None) => number < oldest,
                Err(error) => return Err(error),
            };
            if unfinished {
                self.abandon(number)?;
            }
        }
        Ok(gone)
    }

    /// The versions among numbers, ascending. Of one that the log has noted, the manifest need not be read.
    fn versions_by_log(
        &self,
        numbers: &[u64],
        decided: &Decided,
    ) -> Result<Vec<u64>, LearnerError> {
        let is_noted = |number: &u64| decided.noted.contains(number);
        let (mut versions, others): (Vec<u64>, Vec<u64>) =
            numbers.iter().copied().partition(is_noted);
        versions.retain(|number| !decided.removed.contains(number));
        versions.extend(self.versions_of(&others, &decided.removed)?);
        versions.sort_unstable();
        Ok(versions)
    }

    /// The version that a rollback goes back to, of some: the newest champion before whose manifest can be read.
    fn readable_champion_before(
        &self,
        decided: &Decided,
        versions: &[u64],
    ) -> Result<Option<u64>, LearnerError> {
        let Some(champion) = decided.aliases.champion else {
            return Ok(None);
        };
        let mut known = versions.to_vec();
        while let Some(before) = decided.champion_before(champion, &known) {
            if !self.versions_of(&[before], &decided.removed)?.is_empty() {
                return Ok(Some(before));
            }
            known.retain(|it| *it != before);
        }
        Ok(None)
    }

    /// Removes a version that the log says is removed. It is no version from the first step on.
    fn remove(&self, version: u64) -> Result<(), LearnerError> {
        lock(&self.known).remove(&version);
        self.objects.delete(&path(version, MANIFEST))?;
        self.remove_files(version)
    }

    /// Takes a number from a process that has probably ended in the middle of writing its version. One that is merely
    /// slow cannot finish it any more, and takes another number.
    fn abandon(&self, number: u64) -> Result<(), LearnerError> {
        let text = serde_json::to_vec(&Abandoned { abandoned: true });
        let text = text.map_err(|e| LearnerError::Bug(e.to_string()))?;
        if self
            .objects
            .create_or_find(&path(number, MANIFEST), &text)?
        {
            self.remove_files(number)?;
            lock(&self.known).insert(number, Number::Abandoned { is_empty: true });
        }
        Ok(())
    }
}
