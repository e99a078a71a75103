//! What the registry's log says of what served: since when it is compared with which version, the anchor. Whose scores the
//! labels since then met says `reigns.rs`.

use millrace_learner::{Made, State, Watched};

/// What served since the anchor.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// The version that has the traffic.
    champion: Option<u64>,
    anchor: Option<Watched>,
    promoted: Vec<u64>,
}

impl Served {
    /// Takes what was noted of a version.
    pub(super) fn came_to(&mut self, version: u64, state: State, by_a_person: bool) {
        match state {
            State::Champion => {
                self.champion = Some(version);
                if by_a_person {
                    self.begin_anew();
                }
                if self.anchor.is_some() {
                    self.promoted.push(version);
                }
            }
            State::RolledBack if self.champion == Some(version) => self.begin_anew(),
            _ => {}
        }
    }

    /// Takes what was noted of a version that was made, which ends a period.
    pub(super) fn made(&mut self, made: &Made) {
        let first = self.champion.map(|version| Watched {
            version,
            after: made.label_position,
        });
        let anchor = made.watched.or(first);
        if anchor != self.anchor {
            self.anchor = anchor;
            self.promoted.clear();
        }
    }

    /// The anchor, if what serves is what the log says.
    pub(super) fn anchor_of(&self, champion: u64) -> Option<Watched> {
        self.anchor.filter(|_| self.champion == Some(champion))
    }

    /// Versions that came to have the traffic since the anchor, the oldest first.
    pub(super) fn promoted(&self) -> &[u64] {
        &self.promoted
    }

    fn begin_anew(&mut self) {
        self.anchor = None;
        self.promoted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A period ends: a version has learned the labels up to a number.
    fn made(label_position: u64, watched: Option<(u64, u64)>) -> Made {
        Made {
            parent: None,
            label_position,
            trained_until_us: 0,
            watched: watched.map(|(version, after)| Watched { version, after }),
        }
    }

    /// The first version, which has learned ten labels.
    fn begun() -> Served {
        let mut served = Served::default();
        served.came_to(1, State::Champion, false);
        served.made(&made(10, None));
        served
    }

    fn watched(served: &Served, champion: u64) -> Option<(u64, u64)> {
        let anchor = served.anchor_of(champion);
        anchor.map(|anchor| (anchor.version, anchor.after))
    }

    #[test]
    fn what_served_is_watched_until_it_is_the_anchor() {
        let mut served = begun();
        assert_eq!(watched(&served, 1), Some((1, 10)));
        served.made(&made(20, Some((1, 10))));
        // The labels up to 30 give version 2 the traffic, and those up to 40 version 3.
        served.came_to(1, State::Replaced, false);
        served.came_to(2, State::Champion, false);
        served.made(&made(30, Some((1, 10))));
        served.came_to(2, State::Replaced, false);
        served.came_to(3, State::Champion, false);
        served.made(&made(40, Some((1, 10))));
        served.made(&made(50, Some((1, 10))));
        assert_eq!(served.promoted(), [2, 3]);
        // Something else has the traffic than the log says.
        assert_eq!(watched(&served, 2), None);
        // What served for long enough is the next anchor.
        served.made(&made(60, Some((3, 60))));
        assert_eq!(watched(&served, 3), Some((3, 60)));
        assert!(served.promoted().is_empty());
    }

    #[test]
    fn what_was_taken_back_or_chosen_by_a_person_is_watched_anew() {
        for by_a_person in [false, true] {
            let mut served = begun();
            served.came_to(2, State::Champion, false);
            served.made(&made(20, Some((1, 10))));
            served.made(&made(30, Some((1, 10))));
            served.came_to(2, State::RolledBack, by_a_person);
            served.came_to(1, State::Champion, by_a_person);
            // The process that did it has not lived to make a version.
            assert_eq!(watched(&served, 1), None);
            served.made(&made(40, Some((1, 30))));
            assert_eq!(watched(&served, 1), Some((1, 30)));
            assert!(served.promoted().is_empty());
        }
        let mut served = begun();
        served.came_to(4, State::Champion, true);
        assert_eq!(watched(&served, 4), None);
        // A canary that does harm never had all of the traffic.
        let mut served = begun();
        served.came_to(2, State::RolledBack, false);
        assert_eq!(watched(&served, 1), Some((1, 10)));
    }
}
