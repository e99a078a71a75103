//! How a version is made of a period's labels: what it goes on from, which examples it learns and replays, and how it
//! comes to be tested. Training itself is `millrace-learner`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_learner::{
    Examples, LearnerError, LearnerSettings, Made, Manifest, State, Update, replay_sample,
    update_unless,
};

use super::anchor::Anchor;
use super::notes::{came_to, just_made};
use super::period::{Learned, NewVersion, Period};
use super::trial::Trial;
use super::{Held, Learning};
use crate::failure::Outcome;
use crate::times::{now_us, rfc3339};
use crate::traces::step;

/// How many times as many labels a model that was broken or refused, though it had started afresh, needs for another try.
const AGAIN_AT_GROWTH: f64 = 1.25;

/// What an update starts from.
struct Start<'a> {
    /// The newest version that has not done harm.
    newest: Option<&'a Held>,
    /// Whether it starts afresh all the same.
    is_afresh: bool,
    /// Number of the last label that was known when a model last started afresh: this one, if it does.
    afresh_at: u64,
    /// Labels that are known at the period's end, those too that are in memory no longer.
    labels: u64,
    /// Rows of those that are.
    known: Vec<usize>,
    /// Number of the last label that it learns.
    last: u64,
    training: LearnerSettings,
    seed: u64,
}

impl<'a> Start<'a> {
    /// The version that it goes on from.
    fn parent(&self) -> Option<&'a Held> {
        self.newest.filter(|_| !self.is_afresh)
    }
}

impl Learning {
    /// Makes a version of what serves, or is tested, and the period's labels.
    pub(super) fn learn(&mut self, period: &mut Period, rows: &[usize]) -> Outcome<()> {
        let start = self.start(period.end_us, rows);
        let parent = start.parent().map(|parent| &parent.checkpoint);
        let before = start.newest.map(|newest| newest.checkpoint.calibration());
        // One that starts afresh is tested with it too: scores are mostly off for what labels are like.
        let calibration = self.next_calibration(before.unwrap_or_default());
        let (fresh, replay) = self.lessons(&start, rows)?;
        let (training, seed) = (&start.training, start.seed);
        let training_step = step("update");
        let (stop, device) = (&self.stop, self.device);
        let updated = update_unless(stop, training, device, parent, &fresh, &replay, seed);
        drop(training_step);
        let (last, afresh_at) = (start.last, start.afresh_at);
        let mut updated = match updated {
            Ok(updated) => updated,
            Err(LearnerError::Rejected(reason)) => {
                metrics::counter!("millrace_updates_total", "outcome" => "refused").increment(1);
                (self.dealt_with, self.afresh_at) = (last, afresh_at);
                period.learned = Learned::Broken(reason.to_string());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        updated.calibrate(calibration, &fresh)?;
        let manifest = self.manifest(period, &start, &updated)?;
        let is_afresh = start.is_afresh;
        let before = (self.dealt_with, self.afresh_at);
        (self.dealt_with, self.afresh_at) = (last, afresh_at);
        let published = self.publish(period, manifest, updated, is_afresh);
        if published.is_err() {
            // A period that is begun anew has its labels.
            (self.dealt_with, self.afresh_at) = before;
        }
        published
    }

    /// What the update of a period that ended at `end_us` starts from. `rows` are its labels.
    fn start(&self, end_us: i64, rows: &[usize]) -> Start<'_> {
        let known = self.history.between(0, end_us);
        let newest = self.newest();
        let last = rows.last().map(|row| self.history.number(*row));
        let last = last.unwrap_or(self.dealt_with);
        let is_afresh = newest.is_none_or(|newest| self.has_outgrown(&newest.manifest, last));
        Start {
            newest,
            is_afresh,
            afresh_at: match is_afresh {
                true => last,
                false => self.afresh_at,
            },
            labels: match newest {
                Some(newest) => labels_until(&newest.manifest, last),
                None => known.len() as u64,
            },
            known,
            last,
            training: scaled(&self.settings().training, self.plan().settings.every),
            seed: self.settings().seed ^ end_us as u64,
        }
    }

    /// The examples that an update learns, and those that it replays.
    fn lessons(&self, start: &Start<'_>, rows: &[usize]) -> Outcome<(Examples, Examples)> {
        let training = &start.training;
        if start.is_afresh {
            let sample = LearnerSettings {
                replay_frauds: training.initial_frauds,
                replay_negatives: training.initial_negatives,
                ..training.clone()
            };
            let fresh = self.sample(&self.settled(start.known.clone()), &sample, start.seed)?;
            let replay = self.history.unweighted(std::iter::empty())?;
            return Ok((fresh, replay));
        }
        let fresh = self.history.unweighted(rows.iter().copied())?;
        let first = rows.first().copied().unwrap_or(0);
        let past: Vec<usize> = self.history.believed(0..first).collect();
        let replay = self.sample(&self.settled(past), training, start.seed)?;
        Ok((fresh, replay))
    }

    /// A replay sample of some rows.
    fn sample(&self, rows: &[usize], settings: &LearnerSettings, seed: u64) -> Outcome<Examples> {
        let labels: Vec<(u64, bool)> = rows
            .iter()
            .map(|row| (*row as u64, self.history.is_fraud(*row)))
            .collect();
        let sample = replay_sample(&labels, settings, seed).into_iter();
        self.history
            .examples(sample.map(|(row, weight)| (row as usize, weight)))
    }

    /// What is written of a version that an update has made; its number is given later.
    fn manifest(&self, period: &Period, start: &Start<'_>, updated: &Update) -> Outcome<Manifest> {
        let parent = start.parent().map(|parent| &parent.manifest);
        Ok(Manifest {
            version: 0,
            parent: parent.map(|parent| parent.version),
            created: rfc3339(now_us()),
            inputs: self.plan().input_names(),
            inputs_hash: self.plan().inputs_hash(),
            meanings: self.plan().input_meanings(),
            label_position: start.last,
            trained_until_us: period.end_us,
            rows: updated.rows,
            replayed: updated.replayed,
            fitted_rows: parent.map_or(start.labels, |parent| parent.fitted_rows),
            fitted_position: parent.map_or(start.last, |parent| parent.fitted_position),
            seed: start.seed,
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            before: updated.metrics.before,
            after: updated.metrics.after,
            prequential: Some(period.prequential),
            calibration: updated.checkpoint.calibration(),
            device: updated.device.to_string(),
            offsets: self.offsets()?,
            settings: start.training.to_json()?,
            sha256: BTreeMap::new(),
        })
    }

    /// The data that the store reflects: the next offset of each partition, by topic.
    fn offsets(&self) -> Outcome<BTreeMap<String, BTreeMap<i32, i64>>> {
        let mut topics: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        for offset in self.store.offsets()? {
            let partitions = topics.entry(offset.topic).or_default();
            partitions.insert(offset.partition, offset.next);
        }
        Ok(topics)
    }

    /// Writes a version; the first one serves at once, and the others are tested.
    fn publish(
        &mut self,
        period: &mut Period,
        mut manifest: Manifest,
        updated: Update,
        afresh: bool,
    ) -> Outcome<()> {
        // Others learned while this one did: a version that is not noted is of no use.
        self.check_rivals()?;
        manifest.version = self
            .registry
            .publish(manifest.clone(), &updated.checkpoint)?;
        let held = Held::new(manifest.clone(), updated.checkpoint);
        if self.champion.is_none() {
            self.promote(held, period.end_us, None, Some(manifest.made()))?;
            self.learn_what_is_usual();
        } else {
            self.begin_test(held, afresh, period.end_us)?;
        }
        self.retain(period.end_us);
        period.learned = Learned::Version(Box::new(NewVersion {
            manifest,
            shift: updated.shift,
            shortened: updated.shortened,
            afresh,
        }));
        Ok(())
    }

    /// Tests a version that was made just now, in place of the one before.
    fn begin_test(&mut self, held: Held, is_afresh: bool, at_us: i64) -> Outcome<()> {
        let shadow = came_to(held.manifest.version, State::Shadow, None, None, at_us);
        let made = Made {
            watched: self.anchor.as_ref().map(Anchor::watched),
            ..held.manifest.made()
        };
        let mut trial = Trial::new(held);
        let mut notes = Vec::new();
        if let Some(before) = self.shadow.take() {
            let because = "a newer version took its place in the test".to_owned();
            let version = before.held.manifest.version;
            let (state, because) = (State::Replaced, Some(because));
            notes.push(came_to(version, state, None, because, at_us));
            // Where labels are few, they are counted together over several versions, each of which is a step
            // from the one before and has scored only labels that it had not seen.
            if self.lack(&before.paired).is_some() && !is_afresh {
                trial.go_on_from(before);
            }
        }
        notes.push(just_made(shadow, made));
        self.note(notes)?;
        self.shadow = Some(trial);
        Ok(())
    }

    /// The newest version that has not done harm. One to which a person has given a share may be older than the champion.
    pub(super) fn newest(&self) -> Option<&Held> {
        let shadow = self.shadow.as_ref().map(|trial| &trial.held);
        let canary = self.canary.as_ref().map(|(trial, _)| &trial.held);
        let canary = canary.filter(|held| !self.is_older_than_champion(held));
        shadow.or(canary).or(self.champion.as_ref())
    }

    /// Whether the champion has learned labels that a version has not.
    pub(super) fn is_older_than_champion(&self, held: &Held) -> bool {
        let champion = self.champion.as_ref();
        let learned = champion.map_or(0, |champion| champion.manifest.label_position);
        held.manifest.label_position < learned
    }

    /// Whether there are so many more labels, up to the number `last`, than at a model's start that it should start afresh:
    /// its bins were cut from few, and its first passes saw few.
    fn has_outgrown(&self, manifest: &Manifest, last: u64) -> bool {
        let growth = self.settings().afresh_at_growth;
        let labels = |number: u64| labels_until(manifest, number) as f64;
        // One that was broken or refused is not tried again with nearly the same labels.
        let tried = AGAIN_AT_GROWTH * labels(self.afresh_at);
        growth > 1.0
            && labels(last) >= growth * manifest.fitted_rows.max(1) as f64
            && labels(last) >= tried
    }
}

/// How many labels are known up to a number, by how many a model started from. Those that have come since are counted by
/// their numbers: no more than the newest are in memory. Labels that came before the registry's first model knew any are
/// not counted.
fn labels_until(manifest: &Manifest, number: u64) -> u64 {
    // An older release did not say up to which number. It is this at least, as the first label has number 1.
    let started_at = manifest.fitted_position.max(manifest.fitted_rows);
    let since = number.saturating_sub(started_at);
    manifest.fitted_rows.saturating_add(since)
}

/// The settings of hourly updates, for updates of another period.
fn scaled(hourly: &LearnerSettings, every: Duration) -> LearnerSettings {
    let hours = every.as_secs_f64() / 3_600.0;
    let averaged = hourly.averaged_updates as f64 / hours;
    // An update of many hours has as many steps to make as theirs, and what is old is not to be forgotten in them.
    let replayed = |rows: usize| (rows as f64 * hours.max(1.0)).round() as usize;
    LearnerSettings {
        // What serves is not to be older because updates are rarer.
        averaged_updates: (averaged.round() as u64).max(1),
        replay_frauds: replayed(hourly.replay_frauds),
        replay_negatives: replayed(hourly.replay_negatives),
        ..hourly.clone()
    }
}
