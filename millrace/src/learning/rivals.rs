//! What the loop writes to the registry's log, and how it notices another process that learns from the same labels.
//!
//! Whoever writes the next entry of the log knows all that is before it. So a loop that finds a learner's entry there
//! that it does not know, and has not made, writes nothing: of two processes that learn a period, the first one that notes
//! anything of it has it. No lease is taken: one that ends in the middle holds up nobody, and no clock is asked.

use std::sync::Arc;

use millrace_learner::{Aliases, Choice, Entry, Event};

use super::Learning;
use crate::failure::{Failure, Outcome};
use crate::scorer::Change;

impl Learning {
    /// Moves the traffic, if it is as this loop knows it; the notes are kept with that, or not at all. `serve` lets those
    /// answer then who are to: nobody who follows what was decided before, or later, comes between.
    pub(super) fn decide(
        &mut self,
        aliases: Aliases,
        notes: Vec<Entry>,
        serve: impl FnOnce(&Change<'_>) -> Outcome<()>,
    ) -> Outcome<()> {
        let scorer = Arc::clone(&self.scorer);
        let change = scorer.change();
        let (seen, was_moved) = (self.seen, self.was_moved);
        self.append(notes, |decided, news| {
            // One who moves it and back has ended a test all the same.
            let is_moved = was_moved || decided != seen || news.iter().any(Entry::is_by_a_person);
            match is_moved {
                true => Err(Failure::overtaken("the traffic was moved by somebody else")),
                false => Ok(aliases),
            }
        })?;
        self.seen = aliases;
        serve(&change)
    }

    /// Keeps notes that move no traffic.
    pub(super) fn note(&mut self, notes: Vec<Entry>) -> Outcome<()> {
        self.append(notes, |decided, _| Ok(decided))
    }

    /// Appends an entry to the log, unless another process has learned meanwhile.
    fn append(
        &mut self,
        notes: Vec<Entry>,
        aliases: impl Fn(Aliases, &[Entry]) -> Outcome<Aliases>,
    ) -> Outcome<()> {
        let read = self.read;
        let (mut known, mut is_moved) = (read, false);
        self.registry.decide(|decided| {
            let news = decided.journal.get(read..).unwrap_or_default();
            check_news(news)?;
            is_moved = news.iter().any(Entry::is_by_a_person);
            let aliases = aliases(decided.aliases, news)?;
            known = decided.journal.len() + notes.len();
            Ok::<_, Failure>(Some(Choice {
                aliases,
                notes: notes.clone(),
            }))
        })?;
        self.read = known;
        self.was_moved |= is_moved;
        Ok(())
    }

    /// Who has the traffic, and everything that was noted: of one moment.
    pub(super) fn decided(&self) -> Outcome<(Aliases, Vec<Entry>)> {
        let mut found = (Aliases::default(), Vec::new());
        self.registry.decide(|decided| {
            found = (decided.aliases, decided.journal.clone());
            Ok::<_, Failure>(None)
        })?;
        Ok(found)
    }

    /// Whether somebody has moved the traffic since this loop followed.
    pub(super) fn is_moved(&self) -> Outcome<bool> {
        let (seen, read) = (self.seen, self.read);
        let mut is_moved = self.was_moved;
        self.registry.decide(|decided| {
            let mut news = decided.journal.get(read..).unwrap_or_default().iter();
            is_moved |= decided.aliases != seen || news.any(Entry::is_by_a_person);
            Ok::<_, Failure>(None)
        })?;
        Ok(is_moved)
    }

    /// Refuses to go on where another process has learned since this one read or wrote the log.
    pub(super) fn check_rivals(&self) -> Outcome<()> {
        check_news(&self.registry.journal_after(self.read)?)
    }

    /// The end of the period that this loop was about last (µs of event time), if another process has dealt with it.
    ///
    /// # Errors
    /// A registry that cannot be read.
    pub fn done_by_another(&self) -> Outcome<Option<i64>> {
        let news = self.registry.journal_after(self.read)?;
        let is_done = |end_us: &i64| news.iter().any(|entry| ends(entry, *end_us));
        Ok(self.under_way.filter(is_done))
    }
}

fn check_news(news: &[Entry]) -> Outcome<()> {
    match news.iter().any(is_of_a_learner) {
        true => Err(
            Failure::rival("another process learns from the same labels, and was first").hint(
                "nothing is learned twice; let one process learn: `millrace run` with the role learn, or `millrace \
                 learn --once` by one scheduler that waits for the run before",
            ),
        ),
        false => Ok(()),
    }
}

fn is_of_a_learner(entry: &Entry) -> bool {
    // Whoever publishes a version may remove older ones, which changes nothing of what was learned.
    !matches!(entry.event, Event::Removed { .. }) && !entry.is_by_a_person()
}

/// Whether a learner has ended a period, or a later one, with an entry.
fn ends(entry: &Entry, end_us: i64) -> bool {
    match &entry.event {
        Event::Version {
            made: Some(made), ..
        } => made.trained_until_us >= end_us,
        Event::LabelsRefused { .. } => entry.at_us >= end_us,
        _ => false,
    }
}
