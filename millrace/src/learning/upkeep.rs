//! What goes: examples from memory, and versions from the registry.

use tracing::warn;

use super::Learning;
use super::period::Period;
use crate::times::rfc3339;

/// How often it is said that labels make no first model, µs of event time.
const SAID_EVERY_US: i64 = 86_400_000_000;

impl Learning {
    /// Forgets the oldest examples that a replay would choose from, or a first model. What was in no period yet stays,
    /// however much that is.
    pub(super) fn trim(&mut self) {
        let most = self.settings().history_rows;
        match (&self.champion, self.done_until_us) {
            (Some(_), _) => self.history.trim(most, self.dealt_with),
            (None, Some(done_us)) => {
                let settings = &self.plan().settings;
                let needed = settings.min_labels.max(settings.min_frauds);
                self.history.trim_waiting(most.max(needed), done_us);
            }
            (None, None) => {}
        }
    }

    /// Says once a day that labels are enough for a first model, where those of a kind are too few: a feed may have no
    /// other.
    pub(super) fn tell_waiting(&mut self, period: &Period) {
        let settings = &self.plan().settings;
        let is_said = |said: i64| period.end_us.saturating_sub(said) < SAID_EVERY_US;
        if period.labels < settings.min_labels || self.told_waiting_us.is_some_and(is_said) {
            return;
        }
        warn!(
            until = rfc3339(period.end_us),
            frauds = period.frauds,
            needed_frauds = settings.min_frauds,
            genuine = period.labels.saturating_sub(period.frauds),
            needed_genuine = settings.min_genuine(),
            "there is no first model: labels are enough for one, and those of a kind too few"
        );
        self.told_waiting_us = Some(period.end_us);
    }

    /// Removes old versions, but for those that this loop may go back to or go on from, and those that one which starts
    /// asks again. What cannot be removed now is removed with the next version.
    pub(super) fn retain(&self, at_us: i64) {
        let canary = self.canary.as_ref().map(|(trial, _)| trial);
        let mut needed: Vec<u64> = Vec::new();
        for trial in [self.shadow.as_ref(), canary].into_iter().flatten() {
            needed.push(trial.held.manifest.version);
            needed.extend(&trial.line);
        }
        let anchor = self.anchor.as_ref().map(|anchor| &anchor.held);
        let served = anchor.into_iter().chain(&self.champion);
        needed.extend(served.map(|held| held.manifest.version));
        let keep = self.plan().settings.keep;
        if let Err(error) = self.registry.retain(keep, &needed, at_us) {
            warn!(%error, "old versions could not be removed: they will be with the next version");
        }
    }
}
