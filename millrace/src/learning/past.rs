//! What the registry's log says of what was under way: a process that starts goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use millrace_learner::{Aliases, Check, Entry, Event, Made, Manifest, State};

use super::reigns::Reigns;
use super::served::Served;

/// How things stand at the log's end.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Every version of which something was noted.
    versions: BTreeSet<u64>,
    /// What they were made of, as far as that is known.
    pub(super) made: BTreeMap<u64, Made>,
    /// Versions that were removed.
    removed: BTreeSet<u64>,
    /// Labels that are put aside, and which check says so.
    pub(super) aside: Vec<(RangeInclusive<u64>, Check)>,
    /// The last label that ever was.
    pub(super) refused_until: u64,
    /// Labels that were released, and that no version has learned yet.
    pub(super) released: Option<Released>,
    /// The newest that were put aside for a flood of frauds, if none were released since.
    pub(super) flood: Option<RangeInclusive<u64>>,
    /// Number of the last label with which the count of a flood began anew: of those, or of the newest that were released.
    pub(super) flood_until: u64,
    /// Labels of the newest periods that were put aside for their inputs, with none between them that was believed.
    pub(super) unusual: Vec<RangeInclusive<u64>>,
    /// The newest version under test, as long as nobody chose another.
    shadow: Option<u64>,
    canary: Option<Canary>,
    /// Versions that were tested, had no traffic, and did no harm; also those that were removed.
    pub(super) tested: BTreeSet<u64>,
    /// Versions that were rolled back, or that a person has replaced, and did not have traffic again.
    unwanted: BTreeSet<u64>,
    /// What served since the anchor.
    pub(super) served: Served,
    /// What served when.
    pub(super) reigns: Reigns,
}

/// A version that answers for some entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Canary {
    version: u64,
    share: Share,
}

/// Labels that had been put aside and are to be learned after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Released {
    /// From the first of them to the last. Between them may be others that stay aside.
    pub(super) numbers: RangeInclusive<u64>,
    /// End of the period that learns them, µs of event time.
    pub(super) end_us: i64,
}

impl Released {
    /// Number of the last label before them.
    pub(super) fn after(&self) -> u64 {
        self.numbers.start().saturating_sub(1)
    }
}

/// Whose a canary's share is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// A person has set it.
    pub(super) is_pinned: bool,
    /// The number of the last label that was dealt with when a person chose the version; 0 where the learner did.
    pub(super) after: u64,
    /// End of the period whose labels gave it, µs of event time; none where a person did.
    pub(super) stepped_us: Option<i64>,
}

impl Past {
    /// Reads a log, oldest entries first.
    pub(super) fn of(journal: &[Entry]) -> Self {
        let mut past = Self::default();
        for entry in journal {
            match &entry.event {
                Event::Version {
                    version,
                    state,
                    made,
                    ..
                } => {
                    let by_a_person = entry.is_by_a_person();
                    past.came_to(*version, *state, by_a_person, entry.at_us);
                    past.served.came_to(*version, *state, by_a_person);
                    past.reigns.came_to(*version, *state, by_a_person);
                    if let Some(made) = made {
                        past.made.insert(*version, **made);
                        past.served.made(made);
                        past.reigns.made(made);
                        past.released = None;
                    }
                    // A version comes of labels that were believed.
                    if !by_a_person {
                        past.unusual.clear();
                    }
                }
                Event::LabelsRefused { first, last, check } => {
                    let check = check.unwrap_or_else(|| entry.check_by_words());
                    past.aside.push((*first..=*last, check));
                    past.refused_until = past.refused_until.max(*last);
                    past.reigns.ended(*last);
                    past.released = None;
                    match check {
                        Check::Drift => past.unusual.push(*first..=*last),
                        Check::Flood => {
                            past.flood = Some(*first..=*last);
                            past.flood_until = *last;
                        }
                        _ => {}
                    }
                }
                Event::LabelsReleased { first, last } => {
                    past.aside.retain(|(range, _)| *range != (*first..=*last));
                    past.unusual.clear();
                    past.flood = None;
                    past.flood_until = past.flood_until.max(*last);
                    past.reigns.released(*first);
                    let numbers = match past.released.take() {
                        Some(others) => {
                            let (start, end) = others.numbers.into_inner();
                            start.min(*first)..=end.max(*last)
                        }
                        None => *first..=*last,
                    };
                    let end_us = entry.at_us;
                    past.released = Some(Released { numbers, end_us });
                }
                Event::Removed { versions } => past.removed.extend(versions),
            }
        }
        past
    }

    /// Whether the log does not say what some version after another was made of: an older release has noted it.
    pub(super) fn lacks_what_came_after(&self, version: u64) -> bool {
        let mut later = self.versions.range(version + 1..);
        later.any(|it| !self.made.contains_key(it) && !self.removed.contains(it))
    }

    /// Takes from a manifest what the log does not say of its version.
    pub(super) fn know(&mut self, manifest: &Manifest) {
        if self.versions.contains(&manifest.version) {
            let made = self.made.entry(manifest.version);
            made.or_insert_with(|| manifest.made());
        }
    }

    /// What a version was made of, if that is known and the version was not removed.
    pub(super) fn kept(&self, version: u64) -> Option<&Made> {
        let made = self.made.get(&version)?;
        (!self.is_removed(version)).then_some(made)
    }

    /// Whether a version was removed.
    pub(super) fn is_removed(&self, version: u64) -> bool {
        self.removed.contains(&version)
    }

    /// Number of the last label that the newest version had learned that started afresh.
    pub(super) fn afresh_until(&self) -> Option<u64> {
        let mut newest = self.made.values().rev();
        let afresh = newest.find(|made| made.parent.is_none())?;
        Some(afresh.label_position)
    }

    fn came_to(&mut self, version: u64, state: State, by_a_person: bool, at_us: i64) {
        self.versions.insert(version);
        match state {
            State::Shadow => self.shadow = Some(version),
            // What was under way came from what is not wanted.
            State::Champion if by_a_person => self.shadow = None,
            _ if self.shadow == Some(version) => self.shadow = None,
            _ => {}
        }
        let canary = self.canary.filter(|canary| canary.version == version);
        match state {
            State::Canary { .. } => {
                let after = match (canary, by_a_person) {
                    (Some(canary), _) => canary.share.after,
                    (None, true) => self.reigns.dealt_with(),
                    (None, false) => 0,
                };
                let share = Share {
                    is_pinned: by_a_person,
                    after,
                    stepped_us: (!by_a_person).then_some(at_us),
                };
                self.canary = Some(Canary { version, share });
            }
            // One that the learner gives the traffic back to takes no share from another.
            State::Champion if by_a_person => self.canary = None,
            _ if canary.is_some() => self.canary = None,
            _ => {}
        }
        match state {
            State::Shadow => {
                self.tested.insert(version);
            }
            State::Replaced => {}
            _ => {
                self.tested.remove(&version);
            }
        }
        match state {
            State::RolledBack => {
                self.unwanted.insert(version);
            }
            State::Replaced if by_a_person => {
                self.unwanted.insert(version);
            }
            State::Canary { .. } | State::Champion => {
                self.unwanted.remove(&version);
            }
            _ => {}
        }
    }

    /// Whose the share of a canary is.
    pub(super) fn share_of(&self, version: u64) -> Share {
        let canary = self.canary.filter(|canary| canary.version == version);
        canary.map(|canary| canary.share).unwrap_or_default()
    }

    /// The version that is to be tested on, of those that are kept: it was not chosen against, and comes from none that
    /// is not wanted.
    pub(super) fn shadow_of(&self, chosen: &Aliases) -> Option<u64> {
        let shadow = self.shadow.filter(|it| self.kept(*it).is_some())?;
        let is_unwanted = |version: u64| self.unwanted.contains(&version);
        (!self.comes_from(shadow, is_unwanted, chosen)).then_some(shadow)
    }

    /// Whether a version, or one that it was made from, is a bad one. Whatever came before a version that has traffic, that
    /// one is wanted.
    pub(super) fn comes_from(
        &self,
        version: u64,
        is_bad: impl Fn(u64) -> bool,
        chosen: &Aliases,
    ) -> bool {
        let parent_of = |version: &u64| {
            let parent = self.made.get(version)?.parent;
            parent.filter(|parent| parent < version)
        };
        let canary = chosen.challenger.map(|(version, _)| version);
        let is_chosen = |version: &u64| [chosen.champion, canary].contains(&Some(*version));
        std::iter::successors(Some(version), parent_of)
            .take_while(|version| !is_chosen(version))
            .any(is_bad)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use millrace_learner::Cause;

    use super::*;

    const OURS: Cause = Cause::Learner;
    const THEIRS: Cause = Cause::Person;

    /// A log, as this release or an older one writes it. Each version comes from the one before it.
    fn journal(notes: &[(u64, State, Cause)], is_older: bool) -> Vec<Entry> {
        let entry = |(version, state, cause): &(u64, State, Cause)| Entry {
            at_us: 0,
            event: Event::Version {
                version: *version,
                state: *state,
                comparison: None,
                made: (!is_older).then(|| Box::new(manifest(*version).made())),
            },
            reason: (is_older && *cause == THEIRS).then(|| "chosen by a person".to_owned()),
            cause: (!is_older).then_some(*cause),
        };
        notes.iter().map(entry).collect()
    }

    const MANIFEST: &str = r#"{"version":1,"parent":null,"created":"","inputs":[],"inputs_hash":"","label_position":0,
        "trained_until_us":0,"rows":0,"replayed":0,"fitted_rows":0,"seed":0,"code_version":"","before":null,
        "after":{"rows":0,"frauds":0,"mean_prediction":0.0,"log_loss":0.0,"average_precision":null,"roc_auc":null},
        "prequential":null,"device":"cpu"}"#;

    fn manifest(version: u64) -> Manifest {
        Manifest {
            version,
            parent: Some(version - 1).filter(|parent| *parent > 0),
            label_position: 10 * version,
            ..serde_json::from_str(MANIFEST).unwrap()
        }
    }

    /// The log of this release says all; to that of an older one, manifests are read.
    fn past(notes: &[(u64, State, Cause)], is_older: bool) -> Past {
        let mut past = Past::of(&journal(notes, is_older));
        assert_eq!(past.lacks_what_came_after(0), is_older);
        if is_older {
            (1..=9).for_each(|version| past.know(&manifest(version)));
        }
        past
    }

    fn check(champion: u64, notes: &[(u64, State, Cause)], expected: Option<u64>) {
        let chosen = Aliases {
            champion: Some(champion),
            challenger: None,
        };
        for is_older in [false, true] {
            let past = past(notes, is_older);
            assert_eq!(past.shadow_of(&chosen), expected, "{notes:?}");
        }
    }

    #[test]
    fn a_version_that_was_removed_is_tested_no_further_and_what_it_learned_is_known() {
        let notes = [
            (1, State::Champion, OURS),
            (2, State::Shadow, OURS),
            (2, State::Replaced, OURS),
            (3, State::Shadow, OURS),
        ];
        let chosen = Aliases {
            champion: Some(1),
            challenger: None,
        };
        let mut journal = journal(&notes, false);
        let whole = Past::of(&journal);
        assert_eq!(whole.shadow_of(&chosen), Some(3));
        assert_eq!(whole.tested, BTreeSet::from([2, 3]));
        journal.push(Entry {
            at_us: 0,
            event: Event::Removed {
                versions: vec![2, 3],
            },
            reason: None,
            cause: Some(OURS),
        });
        let past = Past::of(&journal);
        assert_eq!(past.shadow_of(&chosen), None);
        assert!(past.is_removed(2) && past.is_removed(3) && !past.is_removed(1));
        assert_eq!(past.tested, whole.tested);
        assert!(!past.lacks_what_came_after(1));
        let learned = past.made.values().map(|made| made.label_position);
        assert_eq!(learned.max(), Some(30));
    }

    #[test]
    fn with_which_labels_the_count_of_a_flood_began_anew_is_known() {
        let entry = |event| Entry {
            at_us: 0,
            event,
            reason: None,
            cause: None,
        };
        let refused = |first: u64, check: Check| {
            entry(Event::LabelsRefused {
                first,
                last: first + 4,
                check: Some(check),
            })
        };
        let (first, last) = (16, 20);
        let mut journal = Vec::new();
        for (next, flood, until) in [
            (refused(1, Check::Contradiction), None, 0),
            (refused(6, Check::Flood), Some(6..=10), 10),
            (refused(11, Check::Silence), Some(6..=10), 10),
            (refused(16, Check::Drift), Some(6..=10), 10),
            (entry(Event::LabelsReleased { first, last }), None, 20),
            (refused(21, Check::Tails), None, 20),
        ] {
            journal.push(next);
            let past = Past::of(&journal);
            assert_eq!((past.flood, past.flood_until), (flood, until));
        }
        assert_eq!(Past::of(&journal).refused_until, 25);
    }

    #[test]
    fn which_check_put_labels_aside_is_told_by_words_where_an_older_release_wrote_it() {
        let refused = |reason: &str| Entry {
            at_us: 0,
            event: Event::LabelsRefused {
                first: 1,
                last: 5,
                check: None,
            },
            reason: Some(reason.to_owned()),
            cause: Some(Cause::Labels),
        };
        let past = Past::of(&[refused("in the newest periods together, 21 of 120 labels")]);
        assert_eq!(past.aside, [(1..=5, Check::Flood)]);
        assert_eq!(past.flood, Some(1..=5));
    }

    #[test]
    fn labels_that_were_released_are_to_be_learned_until_a_version_has() {
        let entry = |event| Entry {
            at_us: 7,
            event,
            reason: None,
            cause: Some(Cause::Inputs),
        };
        let numbers = [(11, 15), (16, 20)];
        let check = Some(Check::Drift);
        let refused = |(first, last)| entry(Event::LabelsRefused { first, last, check });
        let refused = numbers.map(refused);
        let released = numbers.map(|(first, last)| entry(Event::LabelsReleased { first, last }));
        let begun = [refused.to_vec(), released.to_vec()].concat();
        let expected = Released {
            numbers: 11..=20,
            end_us: 7,
        };
        assert_eq!(expected.after(), 10);
        // A step of the canary does not end the period; what ends it is a version that was made, or the next period.
        let step = journal(&[(1, State::Canary { percent: 10 }, OURS)], true);
        let made = journal(&[(2, State::Shadow, OURS)], false);
        let next = vec![entry(Event::LabelsRefused {
            first: 21,
            last: 25,
            check,
        })];
        for (news, expected) in [
            (Vec::new(), Some(expected.clone())),
            (step, Some(expected)),
            (made, None),
            (next, None),
        ] {
            let past = Past::of(&[begun.clone(), news].concat());
            assert_eq!(past.released, expected);
            assert!(past.aside.iter().all(|(range, _)| *range.start() == 21));
        }
    }

    #[test]
    fn labels_that_say_too_much_do_not_end_a_row_of_unusual_inputs() {
        let refused = |(first, check): (u64, Check)| Entry {
            at_us: 0,
            event: Event::LabelsRefused {
                first,
                last: first + 4,
                check: Some(check),
            },
            reason: None,
            cause: None,
        };
        let mut journal = journal(&[(1, State::Champion, OURS)], false);
        let checks = [
            (11, Check::Drift),
            (16, Check::Contradiction),
            (21, Check::Drift),
        ];
        journal.extend(checks.map(refused));
        let past = Past::of(&journal);
        assert_eq!(past.unusual, [11..=15, 21..=25]);
        let aside = checks.map(|(first, check)| (first..=first + 4, check));
        assert_eq!(past.aside, aside);
    }

    #[test]
    fn what_the_newest_version_that_started_afresh_had_learned_is_known() {
        assert_eq!(Past::default().afresh_until(), None);
        let notes = [(1, State::Champion, OURS), (2, State::Shadow, OURS)];
        let mut journal = journal(&notes, false);
        assert_eq!(Past::of(&journal).afresh_until(), Some(10));
        let mut afresh = manifest(2).made();
        afresh.parent = None;
        if let Some(Event::Version { made, .. }) = journal.last_mut().map(|it| &mut it.event) {
            *made = Some(Box::new(afresh));
        }
        assert_eq!(Past::of(&journal).afresh_until(), Some(20));
    }

    #[test]
    fn whose_a_canarys_share_is_is_known() {
        use State::{Canary, Champion, RolledBack, Shadow};
        let canary = |percent: u8, cause: Cause| (2, Canary { percent }, cause);
        let share = |is_pinned: bool, after: u64| Share {
            is_pinned,
            after,
            stepped_us: None,
        };
        let ours = Share {
            stepped_us: Some(0),
            ..Share::default()
        };
        let mut notes = vec![(1, Champion, OURS), (2, Shadow, OURS)];
        for (note, expected) in [
            (canary(10, OURS), ours),
            // Another share of the same test.
            (canary(20, THEIRS), share(true, 0)),
            (canary(50, OURS), ours),
            (canary(40, THEIRS), share(true, 0)),
            ((2, RolledBack, THEIRS), share(false, 0)),
            // It is tested anew: version 2 has learned 20 labels.
            (canary(40, THEIRS), share(true, 20)),
            (canary(30, THEIRS), share(true, 20)),
            // The traffic goes back to another version, and then a person gives it away.
            ((1, Champion, OURS), share(true, 20)),
            ((1, Champion, THEIRS), Share::default()),
        ] {
            notes.push(note);
            let past = Past::of(&journal(&notes, false));
            assert_eq!(past.share_of(2), expected, "{notes:?}");
            assert_eq!(past.share_of(3), Share::default());
        }
    }

    #[test]
    fn a_version_under_test_is_taken_up_unless_somebody_chose_another_way() {
        use State::{Canary, Champion, Rejected, Replaced, RolledBack, Shadow};
        let first = (1, Champion, OURS);
        check(1, &[first], None);
        check(1, &[first, (2, Shadow, OURS)], Some(2));
        check(1, &[first, (2, Shadow, OURS), (2, Rejected, OURS)], None);
        let newer = [(2, Replaced, OURS), (3, Shadow, OURS)];
        check(1, &[[first, (2, Shadow, OURS)], newer].concat(), Some(3));
        // The loop's own step is no choice against the version that comes from it.
        let step = [(2, Canary { percent: 10 }, OURS), (3, Shadow, OURS)];
        let served = [(1, Replaced, OURS), (2, Champion, OURS)];
        check(
            2,
            &[[first, (2, Shadow, OURS)], step, served].concat(),
            Some(3),
        );
        // A person's is, but for another share.
        let share = [
            (2, Canary { percent: 20 }, THEIRS),
            (2, Canary { percent: 30 }, THEIRS),
        ];
        check(
            1,
            &[[first, (2, Shadow, OURS)], step, share].concat(),
            Some(3),
        );
        let back = [(2, RolledBack, THEIRS), (1, Champion, THEIRS)];
        check(
            1,
            &[[first, (2, Shadow, OURS)], step, served, back].concat(),
            None,
        );
        // What was published at that moment, of a version that was taken back.
        let late = [(4, Shadow, OURS), (4, Shadow, OURS)];
        check(
            1,
            &[[first, (2, Shadow, OURS)], step, served, back, late].concat(),
            None,
        );
        // A share that is taken back ends what comes from its version, whoever noted that last, and nothing else.
        let taken = [(2, RolledBack, THEIRS)];
        check(1, &[[first, (2, Shadow, OURS)], step].concat(), Some(3));
        check(
            1,
            &[&[first, (2, Shadow, OURS)][..], &step, &taken].concat(),
            None,
        );
        check(
            1,
            &[
                &[first, (2, Shadow, OURS)][..],
                &step[..1],
                &taken,
                &step[1..],
            ]
            .concat(),
            None,
        );
        let other = [(9, Canary { percent: 40 }, THEIRS), (9, RolledBack, THEIRS)];
        check(
            1,
            &[&[first, (2, Shadow, OURS)][..], &other].concat(),
            Some(2),
        );
        // So does one that goes to another version.
        let displaced = [(2, Replaced, THEIRS), (9, Canary { percent: 40 }, THEIRS)];
        check(
            1,
            &[&[first, (2, Shadow, OURS)][..], &step, &displaced].concat(),
            None,
        );
        // One that is chosen all the same is wanted, and so is what comes from it.
        let again = [(1, Replaced, THEIRS), (3, Champion, THEIRS)];
        check(
            3,
            &[[first, (2, Shadow, OURS)], step, served, back, again, late].concat(),
            Some(4),
        );
    }
}
