//! What goes: examples from memory, and versions from the registry.

use super::Learning;

impl Learning {
    /// Forgets the oldest examples that a replay would choose from. What was not learned yet stays, however much that is.
    pub(super) fn trim(&mut self) {
        let most = self.settings().history_rows;
        self.history.trim(most, self.dealt_with);
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
            tracing::warn!(%error, "old versions could not be removed: they will be with the next version");
        }
    }
}
