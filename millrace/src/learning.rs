//! The learning loop: when an update is due, what it learns from, whether it is believed, and how its version
//! comes to take the traffic.
//!
//! Training itself is `millrace-learner`'s, and so are the comparisons. Periods are of event time: an update at P
//! learns the labels that became known before P, and a loop that runs late catches up period by period. Nothing
//! here reads a clock: live it is the newest label's time, in a simulation the time of the event being replayed.
//!
//! ```text
//!   labels of a period ─► believed? ─► test: shadow against champion ─► learn: a new shadow
//!                            │              │
//!                            │              ├─ no harm: it takes the traffic
//!                            ▼              └─ harm: rejected; the next one starts from the champion
//!                         put aside
//! ```
//!
//! So a version takes traffic a period after it was made, once it was tested on labels that it has not seen. What
//! served is compared with a version of some days before, and where many small steps have done harm, the traffic goes back
//! to the newest version before it (`learning/anchor.rs`).

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use millrace_feature_store::Store;
use millrace_learner::{Aliases, Checkpoint, Device, Examples, Manifest, Model, Registry};

use crate::failure::{Kind, Outcome};
use crate::labels::{corrections_between, deletions_after, examples_after};
use crate::scorer::Scorer;
use crate::settings::{LearnerSection, micros};
use crate::traces::Traces;
use crate::workspace::{ModelPlan, Workspace};

mod anchor;
mod checks;
mod doubts;
mod history;
mod line;
mod make;
mod notes;
mod past;
mod period;
mod prequential;
mod recall;
mod recount;
mod reigns;
mod resume;
mod rivals;
mod scored;
mod served;
mod settling;
mod trial;
mod upkeep;

#[cfg(test)]
mod tests;

use anchor::Anchor;
use checks::Checks;
use history::History;
use past::Released;
pub use period::{Learned, NewVersion, Period, Tested, Verdict};
use scored::Scored;
use settling::{Settling, SettlingSeen};
use trial::{Evidence, Trial};

/// The loop's state between updates.
pub struct Learning {
    workspace: Arc<Workspace>,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    scorer: Arc<Scorer>,
    device: Device,
    history: History,
    /// Who has the traffic, as far as this loop knows.
    seen: Aliases,
    /// How many of the registry's notes it knows, or has made.
    read: usize,
    /// Whether one of them moved the traffic, and was not followed yet.
    was_moved: bool,
    /// End of the period that it was about last, µs of event time.
    under_way: Option<i64>,
    champion: Option<Held>,
    /// The newest version, while it is tested beside the champion.
    shadow: Option<Trial>,
    /// A version that answers for some entities, and at which step of `learner.gate.canary` it is.
    canary: Option<(Trial, usize)>,
    /// A version of some days ago, and how it would have done since.
    anchor: Option<Anchor>,
    checks: Option<Checks>,
    /// The newest periods whose labels were put aside for their inputs, with none between them that was believed.
    unusual: Vec<RangeInclusive<u64>>,
    /// Those that are learned after all, in the period that is under way.
    released: Option<Released>,
    /// Sequence number of the last label that was learned or put aside.
    dealt_with: u64,
    /// Number of the last label that was known when a model last started afresh.
    afresh_at: u64,
    /// End of the last period that was dealt with, µs of event time.
    done_until_us: Option<i64>,
    /// End of the period of which it was said last that labels make no first model, µs of event time.
    told_waiting_us: Option<i64>,
    /// Sequence number up to which examples are known to survive a crash.
    durable: u64,
    prequential: VecDeque<(f32, bool)>,
    /// What the calibration of the next version is fitted on.
    scored: Scored,
    /// How long labels take to be settled, as it was when that was looked at.
    settling: Settling,
    settling_seen: SettlingSeen,
    /// Set once the process is to end.
    stop: Arc<AtomicBool>,
    traces: Traces,
}

/// A version in memory.
#[derive(Clone)]
struct Held {
    manifest: Manifest,
    checkpoint: Checkpoint,
    model: Model,
}

impl Held {
    fn new(manifest: Manifest, checkpoint: Checkpoint) -> Self {
        Self {
            model: Model::new(&checkpoint),
            manifest,
            checkpoint,
        }
    }
}

impl Learning {
    /// Goes on from the registry's champion, the version under test and the store's examples.
    ///
    /// # Errors
    /// A store or a registry that cannot be read; a device that is not there.
    pub fn open(
        workspace: Arc<Workspace>,
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        scorer: Arc<Scorer>,
    ) -> Outcome<Self> {
        workspace.settings.learner.gate.check()?;
        let device = workspace.settings.learner.device.resolve()?;
        let mut learning = Self {
            history: History::new(scorer.plan.input_kinds(), scorer.plan.inputs_tag()),
            workspace,
            store,
            registry,
            scorer,
            device,
            seen: Aliases::default(),
            read: 0,
            was_moved: false,
            under_way: None,
            champion: None,
            shadow: None,
            canary: None,
            anchor: None,
            checks: None,
            unusual: Vec::new(),
            released: None,
            dealt_with: 0,
            afresh_at: 0,
            done_until_us: None,
            told_waiting_us: None,
            durable: 0,
            prequential: VecDeque::new(),
            scored: Scored::default(),
            settling: Settling::default(),
            settling_seen: SettlingSeen::default(),
            stop: Arc::default(),
            traces: Traces::default(),
        };
        learning.take_up()?;
        Ok(learning)
    }

    /// Makes a span of each period.
    #[must_use]
    pub fn traced(mut self, traces: Traces) -> Self {
        self.traces = traces;
        self
    }

    /// Cuts an update short once it is told to: the period that was under way is begun anew by the next process.
    #[must_use]
    pub fn stopped_by(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    fn learn_what_is_usual(&mut self) {
        self.checks = self.champion.as_ref().map(|champion| {
            Checks::new(
                champion.checkpoint.encoder(),
                &self.history,
                self.judged_until(),
                self.under_way.or(self.done_until_us).unwrap_or_default(),
                micros(self.plan().settings.every),
                champion.manifest.fitted_position,
                &self.settings().gate,
            )
        });
    }

    /// Number of the last label of which it is known whether it is believed: what was released is, and is not learned yet.
    fn judged_until(&self) -> u64 {
        let released = self.released.as_ref();
        released
            .map_or(0, |released| *released.numbers.end())
            .max(self.dealt_with)
    }

    /// Where it trains.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Deals with the next period that ended before `clock_us` (event time), if one did: where much of what is called fraud
    /// is set right later, so long before that its labels are settled. Where somebody else moves the
    /// traffic meanwhile, that is followed, and the period is left to the next call.
    ///
    /// # Errors
    /// A store or a registry that fails. A refused candidate is no error. Of kind stopped, an update that was cut short. Of
    /// kind rival, another process that has learned
    /// meanwhile: a loop that is opened anew goes on from what it has done.
    pub fn next_period(&mut self, clock_us: i64) -> Outcome<Option<Period>> {
        match self.deal_with_next(clock_us) {
            Err(failure) if failure.kind == Kind::Overtaken => {
                tracing::info!("the traffic was moved by somebody else: the period is begun anew");
                // As in a process that starts, so that each label is counted once.
                self.take_up()?;
                Ok(None)
            }
            other => other,
        }
    }

    /// Deals with the next period that ended before `clock_us`. One that has too few labels for a first model is followed
    /// by the next, which has its labels too; the last of them is told.
    ///
    /// # Errors
    /// As [`Learning::next_period`].
    pub fn once(&mut self, clock_us: i64) -> Outcome<Option<Period>> {
        let mut waiting = None;
        while let Some(period) = self.next_period(clock_us)? {
            if !matches!(period.learned, Learned::Waiting) {
                return Ok(Some(period));
            }
            waiting = Some(period);
        }
        Ok(waiting)
    }

    fn deal_with_next(&mut self, clock_us: i64) -> Outcome<Option<Period>> {
        if self.was_moved {
            self.follow()?;
        }
        self.read_examples()?;
        let Some(end_us) = self.next_end().filter(|end| *end <= clock_us) else {
            return Ok(None);
        };
        self.look_at_settling(clock_us);
        if end_us.saturating_add(self.settling.wait_us) > clock_us {
            return Ok(None);
        }
        self.trim();
        let work = self.traces.period(end_us);
        let learned = self.learn_period(end_us);
        if let Some(work) = work {
            match &learned {
                Ok(period) => period.note_on(&work),
                Err(failure) => work.fail(failure.message.clone()),
            }
        }
        learned.map(Some)
    }

    fn learn_period(&mut self, end_us: i64) -> Outcome<Period> {
        let started = Instant::now();
        self.under_way = Some(end_us);
        self.check_rivals()?;
        let rows = self.history.between(self.dealt_with, end_us);
        let mut period = Period {
            end_us,
            labels: rows.len(),
            frauds: rows
                .iter()
                .filter(|row| self.history.is_fraud(**row))
                .count(),
            corrected: rows
                .iter()
                .filter(|row| self.history.is_correction(**row))
                .count(),
            waited_us: self.settling.wait_us,
            learned: Learned::Waiting,
            tested: Vec::new(),
            rolled_back: None,
            prequential: self.prequential(),
            seconds: 0.0,
        };
        if self.champion.is_none() {
            let settings = &self.plan().settings;
            if settings.make_a_first(period.labels, period.frauds) {
                self.ensure_durable()?;
                self.learn(&mut period, &rows)?;
            } else {
                self.tell_waiting(&period);
            }
        } else {
            self.ensure_durable()?;
            self.test_then_learn(&mut period, rows)?;
        }
        self.done_until_us = Some(end_us);
        self.released = None;
        period.seconds = started.elapsed().as_secs_f64();
        period.log();
        Ok(period)
    }

    /// The end of the next period that has labels.
    fn next_end(&self) -> Option<i64> {
        let every = micros(self.plan().settings.every);
        let end_of = |time: i64| {
            let number = time.div_euclid(every).saturating_add(1);
            number.saturating_mul(every)
        };
        let first = self.history.first_known_after(self.dealt_with)?;
        let after = self
            .done_until_us
            .map_or(i64::MIN, |done| done.saturating_add(every));
        let end = end_of(first).max(after);
        // Until there are labels enough for a first model none is dealt with: a period must have a new one all the same,
        // however late it is by the clock.
        let is_new = || {
            self.history
                .newest_known()
                .is_some_and(|newest| end <= end_of(newest))
        };
        (self.champion.is_some() || is_new()).then_some(end)
    }

    fn plan(&self) -> &ModelPlan {
        &self.scorer.plan
    }

    fn settings(&self) -> &LearnerSection {
        &self.workspace.settings.learner
    }

    /// A version must not know labels that a crash could number anew.
    fn ensure_durable(&mut self) -> Outcome<()> {
        let newest = self.history.newest();
        if self.durable < newest {
            self.store.flush()?;
            self.durable = newest;
        }
        Ok(())
    }

    fn test_then_learn(&mut self, period: &mut Period, mut rows: Vec<usize>) -> Outcome<()> {
        let mut fresh = self.history.unweighted(rows.iter().copied())?;
        let mut served = self.score_by_champion(&fresh)?;
        let released = self.released.as_ref();
        let disbelief = match released.is_some_and(|it| it.end_us == period.end_us) {
            // It is begun anew, and was judged before.
            true => None,
            false => self.disbelief(&fresh, &served)?,
        };
        if let Some(disbelief) = disbelief {
            let is_new_normal = self.put_aside(&rows, &disbelief, period.end_us)?;
            if !is_new_normal {
                period.learned = Learned::PutAside(disbelief.reason().to_owned());
                return Ok(());
            }
            rows = self.release(period.end_us)?;
            fresh = self.history.unweighted(rows.iter().copied())?;
            served = self.score_by_champion(&fresh)?;
        } else {
            self.unusual.clear();
        }
        self.note_scores(&rows, &served);
        let champion = self.champion.as_ref();
        let evidence = Evidence {
            fresh: &fresh,
            served: &served,
            served_by: champion.map_or(0, |champion| champion.manifest.version),
            until: rows
                .last()
                .map_or(self.dealt_with, |row| self.history.number(*row)),
            at_us: period.end_us,
        };
        period.tested.extend(self.test_canary(&evidence)?);
        period.tested.extend(self.test_shadow(&evidence)?);
        self.compare_with_anchor(&evidence, period)?;
        // Only now: a period that is begun anew counts once.
        self.remember_scores(&served, &fresh);
        period.prequential = self.prequential();
        self.learn(period, &rows)
    }

    /// The champion's log odds of fresh labels, which it has not seen; they are the scores of the served model too.
    fn score_by_champion(&self, fresh: &Examples) -> Outcome<Vec<f32>> {
        match &self.champion {
            Some(champion) => Ok(champion.model.logits(fresh.inputs())?),
            None => Ok(Vec::new()),
        }
    }

    fn read_examples(&mut self) -> Outcome<()> {
        let after = self.history.last_read;
        let (most, dealt_with) = (self.settings().history_rows, self.dealt_with);
        let history = &mut self.history;
        let mut read: usize = 0;
        examples_after(self.store.as_ref(), after, &mut |number, example| {
            history.push(number, example);
            read += 1;
            // A process that starts reads all that the store has, which may be far more than it keeps.
            if read.is_multiple_of(most) {
                history.trim(most, dealt_with);
            }
            true
        })?;
        let mut gone = BTreeSet::new();
        deletions_after(self.store.as_ref(), after, &mut |number| {
            gone.insert(number);
        })?;
        // Each was committed with its example, which may have been deleted before it was read.
        let after = history.corrected_until;
        let until = gone.last().copied().unwrap_or(0).max(history.last_read);
        if until > after {
            let scored = &mut self.scored;
            let mut correct = |number, replaced| {
                history.correct(number, replaced);
                scored.correct(number, replaced);
            };
            corrections_between(self.store.as_ref(), after, until, &mut correct)?;
            history.corrected_until = until;
        }
        // What they took the place of is known by now.
        history.forget(&gone);
        self.scored.forget(&gone);
        Ok(())
    }
}
