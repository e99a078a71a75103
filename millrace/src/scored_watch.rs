//! Alarms on the events that are scored now, days before their labels are back: whether the model's inputs, and its
//! scores, are still distributed as they were.
//!
//! A period's inputs are compared with the first ones that were seen, as the learner's checks compare labelled ones,
//! and an input is named where it moved farther than it ever did, or where more of its values than ever are beyond all
//! that the first model started from. An alarm changes nothing by itself: the events are real, whatever they look like,
//! and must be scored. So less is enough for one than for putting labels aside: a small share that adds up over a day.
//!
//! What is usual takes days to know, so it is kept in the store, in the commits of the steps that it saw.

use millrace_feature_store::{Commit, Store, StoreError, Table, decode, encode};
use millrace_learner::{DriftWatch, Encoder, Histograms, Model, TailWatch, Tails};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};

/// Scored events that the reference holds before anything is compared.
const REFERENCE_ROWS: u64 = 20_000;

/// Periods in a row after which what moved is usual: nobody reads the same alarm every hour.
const NEW_NORMAL: usize = 6;

/// How alarms and metrics call the scores, beside the inputs.
const SCORE: &str = "score";

/// Events after which what was seen is kept, besides at the end of a period. A process that ends loses fewer.
const KEPT_ROWS: u64 = 1_000;

/// Key of what is compared with, as JSON.
const REFERENCE: &[u8] = b"drift-reference";

/// Key of what changes with each period.
const LATELY: &[u8] = b"drift-lately";

/// What was scored lately.
pub struct ScoredWatch {
    every_us: i64,
    inputs_hash: String,
    names: Vec<String>,
    state: Option<State>,
}

struct State {
    reference: Reference,
    lately: Lately,
    /// Events since it was kept last.
    unkept: u64,
    /// Whether the reference has grown since.
    has_grown: bool,
    /// Whether a period has ended since.
    has_ended: bool,
    /// Whether events of the period under way may have been seen by a process before, and not kept.
    is_cut: bool,
}

/// What is compared with.
#[derive(Serialize, Deserialize)]
struct Reference {
    /// What the inputs mean, and how long a period is: of others, nothing is known.
    inputs_hash: String,
    every_us: i64,
    encoder: Encoder,
    histograms: Histograms,
}

#[derive(Serialize, Deserialize)]
struct Lately {
    current: Histograms,
    watch: DriftWatch,
    current_tails: Tails,
    tails: TailWatch,
    period: Option<i64>,
    /// Periods in a row in which something moved.
    unusual_periods: usize,
}

/// An input that moved, or the scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// End of the period in which it was seen, µs of event time.
    pub until_us: i64,
    /// The input.
    pub input: String,
    /// What of it is unusual.
    pub measure: Measure,
    /// How much that is.
    pub value: f64,
    /// The most that was usual.
    pub usual: f64,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The population stability index.
    StabilityIndex,
    /// The share of values that are beyond all that the first model started from, in the period or in some together.
    ShareBeyond,
}

impl Measure {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StabilityIndex => "stability index",
            Self::ShareBeyond => "share beyond the model's range",
        }
    }
}

impl ScoredWatch {
    /// Watches the inputs of these names, and the scores, in periods of so many microseconds. It goes on from what the
    /// store has of inputs that mean the same.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn open(
        store: &dyn Store,
        mut names: Vec<String>,
        inputs_hash: String,
        every_us: i64,
    ) -> Result<Self, StoreError> {
        names.push(SCORE.to_owned());
        let mut watch = Self {
            every_us,
            inputs_hash,
            names,
            state: None,
        };
        let reference = store.get(Table::Meta, REFERENCE)?;
        let lately = store.get(Table::Meta, LATELY)?;
        watch.state = reference
            .zip(lately)
            .and_then(|(reference, lately)| watch.state_of(&reference, &lately));
        Ok(watch)
    }

    /// What was kept; none where it is of other inputs, of another period, or of a release that kept something else.
    fn state_of(&self, reference: &[u8], lately: &[u8]) -> Option<State> {
        let reference: Reference = serde_json::from_slice(reference).ok()?;
        let lately: Lately = decode(lately).ok()?;
        let encoder = &reference.encoder;
        let is_ours = reference.inputs_hash == self.inputs_hash
            && reference.every_us == self.every_us
            && encoder.width() + 1 == self.names.len()
            && lately.watch.inputs() == self.names.len()
            && reference.histograms.is_of(encoder)
            && lately.current.is_of(encoder)
            && lately.current_tails.is_of(encoder)
            && lately.tails.is_of(encoder);
        is_ours.then_some(State {
            reference,
            lately,
            unkept: 0,
            has_grown: false,
            has_ended: false,
            is_cut: true,
        })
    }

    /// Looks at rows that were scored by a model, row-major, and their scores; the newest is of a time (µs). What moved
    /// in the period that ended, if one did.
    pub fn see(
        &mut self,
        model: &Model,
        rows: &[f32],
        scores: &[f32],
        newest_us: i64,
    ) -> Vec<Alarm> {
        let period = newest_us.div_euclid(self.every_us);
        // The bins of the first model: those of a later one would begin to learn what is usual again.
        let State {
            reference,
            lately,
            unkept,
            has_grown,
            has_ended,
            is_cut,
        } = self
            .state
            .get_or_insert_with(|| State::new(model.encoder(), &self.inputs_hash, self.every_us));
        let encoder = &reference.encoder;
        let ended = lately.period.filter(|before| *before < period);
        lately.period = Some(lately.period.map_or(period, |before| before.max(period)));
        let mut alarms = Vec::new();
        // A handful of events says nothing of a period: it is judged with the next one …
        let is_enough = lately.current.rows() >= DriftWatch::LEAST_ROWS as u64;
        if let Some(ended) = ended {
            *has_ended = true;
            // … but for one of which the others were not kept.
            let is_whole = !std::mem::take(is_cut) || lately.current.rows() >= KEPT_ROWS;
            if is_enough || !is_whole {
                let until_us = (ended + 1) * self.every_us;
                let is_known = reference.histograms.rows() >= REFERENCE_ROWS;
                alarms = lately.end_period(reference, is_known && is_whole, until_us, &self.names);
            }
        }
        let before = lately.current.rows();
        if reference.histograms.rows() < REFERENCE_ROWS {
            reference.histograms.add(encoder, rows);
            reference.histograms.add_scores(scores);
            *has_grown = true;
        }
        lately.current.add(encoder, rows);
        lately.current.add_scores(scores);
        lately.current_tails.add(encoder, rows);
        *unkept += lately.current.rows() - before;
        alarms
    }

    /// Keeps what it knows with a step that it has seen, where it is time to.
    ///
    /// # Errors
    /// What cannot be encoded.
    pub fn keep(&mut self, commit: &mut Commit) -> Outcome<()> {
        let Some(state) = &mut self.state else {
            return Ok(());
        };
        if state.unkept < KEPT_ROWS && !state.has_ended {
            return Ok(());
        }
        if state.has_grown {
            let reference = serde_json::to_vec(&state.reference);
            let reference = reference.map_err(|e| Failure::failed(format!("as JSON: {e}")))?;
            commit.put(Table::Meta, REFERENCE, reference);
        }
        commit.put(Table::Meta, LATELY, encode(&state.lately)?);
        state.unkept = 0;
        state.has_grown = false;
        state.has_ended = false;
        Ok(())
    }
}

impl Lately {
    /// Ends a period, and judges it where that can be done. What is unusual of it.
    fn end_period(
        &mut self,
        reference: &Reference,
        can_be_judged: bool,
        until_us: i64,
        names: &[String],
    ) -> Vec<Alarm> {
        let encoder = &reference.encoder;
        let current = std::mem::replace(&mut self.current, Histograms::new(encoder));
        let tails = std::mem::replace(&mut self.current_tails, Tails::new(encoder));
        if !can_be_judged {
            return Vec::new();
        }
        let stability = current.stability(&reference.histograms);
        for (name, value) in names.iter().zip(&stability) {
            metrics::gauge!("millrace_input_stability_index", "input" => name.clone()).set(*value);
        }
        let noise = current.noise(&reference.histograms);
        let drifts = self.watch.unusual(&stability, &noise);
        self.unusual_periods = if drifts.is_empty() {
            0
        } else {
            self.unusual_periods + 1
        };
        if drifts.is_empty() || self.unusual_periods >= NEW_NORMAL {
            self.watch.remember(&stability);
        }
        let alarm = |input: usize, measure: Measure, value: f64, usual: f64| Alarm {
            until_us,
            input: names.get(input).cloned().unwrap_or_default(),
            measure,
            value,
            usual,
        };
        let mut alarms: Vec<Alarm> = drifts
            .iter()
            .map(|it| alarm(it.input, Measure::StabilityIndex, it.stability, it.usual))
            .collect();
        let mut outlying = self.tails.adding_up(&tails);
        outlying.extend(self.tails.judge(tails, NEW_NORMAL));
        for it in outlying {
            let share = it.beyond as f64 / it.rows.max(1) as f64;
            let alarm = alarm(it.input, Measure::ShareBeyond, share, it.usual);
            // Once an input is enough.
            if alarms.iter().all(|other| other.input != alarm.input) {
                alarms.push(alarm);
            }
        }
        for alarm in &alarms {
            metrics::counter!("millrace_drift_alarms_total", "input" => alarm.input.clone())
                .increment(1);
        }
        alarms
    }
}

impl State {
    fn new(encoder: &Encoder, inputs_hash: &str, every_us: i64) -> Self {
        Self {
            reference: Reference {
                inputs_hash: inputs_hash.to_owned(),
                every_us,
                encoder: encoder.clone(),
                histograms: Histograms::new(encoder),
            },
            lately: Lately {
                current: Histograms::new(encoder),
                watch: DriftWatch::new(encoder.width() + 1),
                current_tails: Tails::new(encoder),
                tails: TailWatch::default(),
                period: None,
                unusual_periods: 0,
            },
            unkept: 0,
            has_grown: true,
            has_ended: false,
            is_cut: false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use millrace_feature_store::MemoryStore;

    use super::*;
    use crate::serve::tests::{live, model};

    const HOUR: i64 = 3_600_000_000;

    struct Setting {
        model: Model,
        names: Vec<String>,
        store: MemoryStore,
    }

    impl Setting {
        fn new() -> Self {
            let live = live();
            let (manifest, checkpoint) = model(&live);
            Self {
                model: Model::new(&checkpoint),
                names: manifest.inputs,
                store: MemoryStore::new(),
            }
        }

        /// A process that starts.
        fn start(&self, inputs_hash: &str) -> ScoredWatch {
            let (names, hash) = (self.names.clone(), inputs_hash.to_owned());
            ScoredWatch::open(&self.store, names, hash, HOUR).unwrap()
        }

        /// So many events of an hour are scored: amounts of all sizes, or none at all. What was said to have moved.
        fn see(
            &self,
            watch: &mut ScoredWatch,
            hour: i64,
            events: usize,
            is_odd: bool,
        ) -> Vec<Alarm> {
            let value = |event: usize| match is_odd {
                true => f32::NAN,
                false => (event * 37 % 100) as f32,
            };
            let width = self.model.width();
            let rows = (0..events).flat_map(|event| vec![value(event); width]);
            let rows: Vec<f32> = rows.collect();
            let alarms = watch.see(&self.model, &rows, &vec![0.1; events], hour * HOUR);
            let mut commit = Commit::default();
            watch.keep(&mut commit).unwrap();
            self.store.commit(commit).unwrap();
            alarms
        }

        /// A process that has learned what is usual, up to an hour.
        fn usual(&self) -> (ScoredWatch, i64) {
            let mut watch = self.start("a");
            for hour in 0..5 {
                assert_eq!(self.see(&mut watch, hour, 4_000, false), []);
            }
            for hour in 5..70 {
                assert_eq!(self.see(&mut watch, hour, 100, false), [], "hour {hour}");
            }
            (watch, 70)
        }
    }

    #[test]
    fn a_process_that_starts_knows_what_is_usual() {
        let setting = Setting::new();
        let (watch, hour) = setting.usual();
        drop(watch);
        let mut watch = setting.start("a");
        assert_eq!(setting.see(&mut watch, hour, 100, false), []);
        assert_eq!(setting.see(&mut watch, hour + 1, 100, true), []);
        let alarms = setting.see(&mut watch, hour + 2, 100, false);
        let moved: Vec<&str> = alarms.iter().map(|alarm| alarm.input.as_str()).collect();
        assert!(moved.contains(&setting.names[0].as_str()), "{moved:?}");
        assert!(!moved.contains(&SCORE), "{moved:?}");
        assert_eq!(alarms[0].until_us, (hour + 2) * HOUR);
    }

    #[test]
    fn values_beyond_all_that_the_model_started_from_are_named_when_they_are_scored() {
        let setting = Setting::new();
        let mut watch = setting.start("a");
        // Of all events of an hour, so many have values that are far beyond.
        let mut see = |hour: i64, events: usize, beyond: usize| -> Vec<(String, Measure)> {
            let value = |event: usize| match event < beyond {
                true => 1e9,
                false => (event * 37 % 32) as f32,
            };
            let width = setting.model.width();
            let rows = (0..events).flat_map(|event| vec![value(event); width]);
            let rows: Vec<f32> = rows.collect();
            let alarms = watch.see(&setting.model, &rows, &vec![0.1; events], hour * HOUR);
            let named = alarms.into_iter().map(|it| (it.input, it.measure));
            named.collect()
        };
        for hour in 0..80 {
            let events = if hour < 5 { 4_000 } else { 100 };
            assert!(see(hour, events, 0).is_empty(), "{hour}");
        }
        // A few in each hour say nothing, and add up within a day.
        let named = (setting.names[0].clone(), Measure::ShareBeyond);
        let told = (80..104).find(|hour| see(*hour, 100, 3).contains(&named));
        assert!(told.is_some_and(|hour| hour > 81), "{told:?}");
    }

    #[test]
    fn an_hour_with_a_handful_of_events_is_judged_with_the_next_one() {
        let setting = Setting::new();
        let (mut watch, hour) = setting.usual();
        assert_eq!(setting.see(&mut watch, hour, 5, true), []);
        for later in 1..12 {
            // Five events an hour that all lack their inputs: fifty of them tell.
            let alarms = setting.see(&mut watch, hour + later, 5, true);
            assert_eq!(alarms.is_empty(), later != 10, "{later}");
        }
    }

    #[test]
    fn a_period_of_which_little_was_kept_is_not_judged() {
        let setting = Setting::new();
        let (watch, hour) = setting.usual();
        drop(watch);
        // In the middle of an hour a process starts, and sees a few odd events of it.
        let mut watch = setting.start("a");
        assert_eq!(setting.see(&mut watch, hour - 1, 10, true), []);
        assert_eq!(setting.see(&mut watch, hour, 100, false), []);
        drop(watch);
        // Another sees many.
        let mut watch = setting.start("a");
        assert_eq!(setting.see(&mut watch, hour, 1_000, true), []);
        assert!(!setting.see(&mut watch, hour + 1, 100, false).is_empty());
    }

    #[test]
    fn of_other_inputs_or_periods_nothing_is_known() {
        let setting = Setting::new();
        setting.usual();
        assert!(setting.start("a").state.is_some());
        assert!(setting.start("b").state.is_none());
        let names = setting.names.clone();
        let watch = ScoredWatch::open(&setting.store, names, "a".to_owned(), 2 * HOUR);
        assert!(watch.unwrap().state.is_none());
        let mut commit = Commit::default();
        commit.put(Table::Meta, LATELY, vec![1, 2, 3]);
        setting.store.commit(commit).unwrap();
        assert!(setting.start("a").state.is_none());
    }
}
