//! What the registry's log says of which version had the traffic when labels were dealt with: the scores that they met
//! then are its.

use millrace_learner::{Made, State};

/// Which version scored which labels.
#[derive(Debug, Default)]
pub(super) struct Reigns {
    /// The version that has the traffic.
    champion: Option<u64>,
    /// Number of the last label that was dealt with.
    dealt_with: u64,
    /// After which label which version scored them, the oldest first.
    all: Vec<(u64, u64)>,
    /// The newest of them that a person chose, or that the traffic was taken back to.
    moved: Option<usize>,
    /// The traffic was taken back in the period that is under way.
    is_taken_back: bool,
}

impl Reigns {
    /// Takes what was noted of a version.
    pub(super) fn came_to(&mut self, version: u64, state: State, by_a_person: bool) {
        match state {
            State::Champion => {
                self.champion = Some(version);
                // The labels of a period meet what served before they moved the traffic, and what a person chose.
                if by_a_person {
                    self.begin();
                    self.moved = self.all.len().checked_sub(1);
                }
            }
            State::RolledBack if self.champion == Some(version) && !by_a_person => {
                self.is_taken_back = true;
            }
            _ => {}
        }
    }

    /// Takes what was noted of a version that was made, which ends a period.
    pub(super) fn made(&mut self, made: &Made) {
        self.ended(made.label_position);
    }

    /// A period has ended with a label.
    pub(super) fn ended(&mut self, last: u64) {
        self.dealt_with = self.dealt_with.max(last);
        self.begin();
        if std::mem::take(&mut self.is_taken_back) {
            self.moved = self.all.len().checked_sub(1);
        }
    }

    /// Labels from a number on were not dealt with after all: what has the traffic now scores them.
    pub(super) fn released(&mut self, first: u64) {
        self.dealt_with = self.dealt_with.min(first.saturating_sub(1));
        let dealt_with = self.dealt_with;
        self.all.retain(|(after, _)| *after <= dealt_with);
        self.begin();
        let newest = self.all.len().saturating_sub(1);
        self.moved = self.moved.map(|moved| moved.min(newest));
    }

    /// What has the traffic scores the labels to come.
    fn begin(&mut self) {
        let Some(champion) = self.champion else {
            return;
        };
        // One that scored nothing.
        if self
            .all
            .last()
            .is_some_and(|(after, _)| *after == self.dealt_with)
        {
            self.all.pop();
        }
        if self
            .all
            .last()
            .is_none_or(|(_, version)| *version != champion)
        {
            self.all.push((self.dealt_with, champion));
        }
    }

    /// Number of the last label that was dealt with.
    pub(super) fn dealt_with(&self) -> u64 {
        self.dealt_with
    }

    /// After which label which version scored them, the oldest first.
    pub(super) fn all(&self) -> &[(u64, u64)] {
        &self.all
    }

    /// Those since a person chose, or the traffic was taken back; all of them where neither happened.
    pub(super) fn since_moved(&self) -> &[(u64, u64)] {
        let since = self.moved.and_then(|moved| self.all.get(moved..));
        since.unwrap_or(&self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(label_position: u64) -> Made {
        Made {
            parent: None,
            label_position,
            trained_until_us: 0,
            watched: None,
        }
    }

    /// The first version has learned ten labels, and the labels up to 30 gave version 2 the traffic.
    fn begun() -> Reigns {
        let mut reigns = Reigns::default();
        reigns.came_to(1, State::Champion, false);
        reigns.made(&made(10));
        reigns.made(&made(20));
        reigns.came_to(1, State::Replaced, false);
        reigns.came_to(2, State::Champion, false);
        reigns.made(&made(30));
        reigns
    }

    #[test]
    fn labels_meet_what_served_before_they_moved_the_traffic() {
        let mut reigns = begun();
        assert_eq!(reigns.all(), [(10, 1), (30, 2)]);
        // Labels that were put aside end a period too.
        reigns.ended(40);
        assert_eq!(reigns.all(), [(10, 1), (30, 2)]);
        assert_eq!(reigns.dealt_with(), 40);
        assert_eq!(reigns.since_moved(), reigns.all());
    }

    #[test]
    fn what_a_person_chose_scores_the_labels_to_come_at_once() {
        let mut reigns = begun();
        for version in [5, 4] {
            reigns.came_to(version, State::Champion, true);
            reigns.made(&made(40));
        }
        // What scored nothing in between is none of them.
        assert_eq!(reigns.all(), [(10, 1), (30, 5), (40, 4)]);
        assert_eq!(reigns.since_moved(), [(40, 4)]);
        reigns.came_to(5, State::Champion, true);
        reigns.came_to(4, State::Champion, true);
        assert_eq!(reigns.all(), [(10, 1), (30, 5), (40, 4)]);
    }

    #[test]
    fn what_has_the_traffic_scores_labels_that_are_released() {
        let mut reigns = begun();
        reigns.ended(40);
        reigns.came_to(5, State::Champion, true);
        reigns.ended(50);
        assert_eq!(reigns.all(), [(10, 1), (30, 2), (40, 5)]);
        for first in [31, 41] {
            reigns.released(first);
            assert_eq!(reigns.all(), [(10, 1), (30, 5)]);
            assert_eq!(reigns.since_moved(), [(30, 5)]);
            assert_eq!(reigns.dealt_with(), 30);
        }
    }

    #[test]
    fn what_the_traffic_was_taken_back_to_scores_the_next_periods_labels() {
        let mut reigns = begun();
        reigns.came_to(3, State::RolledBack, false);
        reigns.made(&made(40));
        assert_eq!(reigns.since_moved(), reigns.all());
        reigns.came_to(2, State::RolledBack, false);
        reigns.came_to(1, State::Champion, false);
        reigns.made(&made(50));
        assert_eq!(reigns.all(), [(10, 1), (30, 2), (50, 1)]);
        assert_eq!(reigns.since_moved(), [(50, 1)]);
    }
}
