//! What is known of a simulated run: every scored event with its label, the updates, and what of it is told.

use std::collections::{BTreeMap, HashMap};

use millrace_feature_store::Store;
use millrace_learner::{
    Calibration, Model, average_precision, calibration_error, log_loss, roc_auc,
};
use serde::Serialize;

use crate::failure::Outcome;
use crate::labels::{Example, corrections_between, examples_after};
use crate::learning::{Learned, Period, Verdict};
use crate::scored_watch::Alarm;
use crate::times::rfc3339;

const DAY_US: i64 = 86_400_000_000;

/// Labelled rows over which it is measured what each input contributes.
const CONTRIBUTION_ROWS: usize = 20_000;

/// A run so far.
pub(super) struct Tally {
    from_us: i64,
    /// Probability from which on an event is an alert.
    pub(super) alert_threshold: f64,
    last_read: u64,
    /// Number of the example that each row was read from, ascending.
    numbers: Vec<u64>,
    /// Of examples with a corrected label, the number of the first one of their event.
    first: HashMap<u64, u64>,
    times: Vec<i64>,
    scores: Vec<f32>,
    labels: Vec<f32>,
    /// Labelled events that came before there was a model, or before the time from which on is measured.
    pub(super) unscored: u64,
    /// Those of them that came before that time, and the event time of the newest.
    before_from: (u64, i64),
    /// Event time of the newest one that is to be measured, and came before there was a model.
    newest_unscored_us: Option<i64>,
    /// The newest examples, by their numbers or, where a label was corrected, by that of the first one.
    newest: Vec<(u64, Example)>,
    pub(super) updates: Vec<UpdateLine>,
    /// Inputs of scored events that moved.
    pub(super) alarms: Vec<Alarm>,
}

/// A line of updates.jsonl.
#[derive(Debug, Clone, Serialize)]
pub(super) struct UpdateLine {
    /// End of the period, in event time.
    pub(super) time: String,
    #[serde(skip)]
    pub(super) time_us: i64,
    /// The version that was made.
    pub(super) version: Option<u64>,
    pub(super) parent: Option<u64>,
    /// Whether it started afresh rather than from its parent.
    pub(super) afresh: bool,
    /// Labels of the period, and frauds among them.
    pub(super) labels: usize,
    pub(super) frauds: usize,
    /// Labels of the period that say the opposite of one that was known before.
    pub(super) corrected: usize,
    /// How long after the period's end its labels waited until they were settled.
    pub(super) waited_seconds: f64,
    /// Rows that were learned.
    pub(super) examples: u64,
    pub(super) replayed: u64,
    /// Sequence number of the last label that it knows.
    pub(super) label_offset: u64,
    /// The parent's log loss and average precision on the fresh labels, and its own after it learned them.
    pub(super) before: Option<Measured>,
    pub(super) after: Option<Measured>,
    /// How far it moved the log odds of what it learned, in nats a row.
    pub(super) shift: Option<f64>,
    /// The line that its log odds pass; none where they are answered as they are.
    pub(super) calibration: Option<Calibration>,
    /// Whether it took the traffic.
    pub(super) accepted: bool,
    /// Whether its test found it worse, or it came from a version that did harm, or training broke and there is no version.
    pub(super) rejected: bool,
    /// Whether there are too few labels for a first model.
    #[serde(skip)]
    pub(super) waits: bool,
    /// Why it did not.
    pub(super) reason: Option<String>,
    /// What it was tested on, and against what.
    pub(super) tested: Option<millrace_learner::Comparison>,
    /// Average precision of what served, on the newest labels.
    pub(super) prequential_average_precision: Option<f64>,
    /// A rollback that the labels of this period brought.
    pub(super) rolled_back: Option<String>,
    /// Labels that were delivered again in this period and learned once.
    pub(super) duplicate_labels: u64,
    pub(super) seconds: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Measured {
    log_loss: f64,
    average_precision: Option<f64>,
}

/// A run in numbers.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) name: String,
    pub(super) settings: Vec<String>,
    #[serde(flatten)]
    pub(super) quality: Quality,
    pub(super) versions: usize,
    pub(super) accepted: usize,
    pub(super) rejected: usize,
    pub(super) periods_put_aside: usize,
    pub(super) rollbacks: usize,
    pub(super) learning_seconds: f64,
    pub(super) seconds: f64,
    /// Events of all streams a second.
    pub(super) events_a_second: f64,
}

/// How good a run's scores are. What has no value where nothing was measured, or all was of one class, is none.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Quality {
    /// Event time from which on is measured, where that is not the first model's first event.
    pub(super) from: Option<String>,
    /// Labelled events that were scored by a model.
    pub(super) events: u64,
    pub(super) frauds: u64,
    pub(super) average_precision: Option<f64>,
    pub(super) roc_auc: Option<f64>,
    pub(super) log_loss: Option<f64>,
    pub(super) mean_score: Option<f64>,
    pub(super) fraud_rate: Option<f64>,
    /// Mean distance between score and share of frauds, over 20 groups of equal size.
    pub(super) calibration_error: Option<f64>,
}

/// A day of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Day {
    pub(super) day_us: i64,
    pub(super) average_precision: Option<f64>,
    pub(super) mean_score: f64,
    pub(super) fraud_rate: f64,
    /// Share of the events that are alerts.
    pub(super) alerts: f64,
}

/// What the model loses without an input.
#[derive(Debug, Clone)]
pub(super) struct Contribution {
    pub(super) input: String,
    /// Fall of average precision where the input's values are shuffled among the rows.
    pub(super) precision: f64,
    /// Rise of log loss, in nats a row.
    pub(super) log_loss: f64,
}

impl Tally {
    pub(super) fn new(from_us: i64, alert_threshold: f64) -> Self {
        Self {
            from_us,
            alert_threshold,
            last_read: 0,
            numbers: Vec::new(),
            first: HashMap::new(),
            times: Vec::new(),
            scores: Vec::new(),
            labels: Vec::new(),
            unscored: 0,
            before_from: (0, i64::MIN),
            newest_unscored_us: None,
            newest: Vec::new(),
            updates: Vec::new(),
            alarms: Vec::new(),
        }
    }

    /// Reads the examples that were joined since. An event whose label was corrected counts once, with the right one.
    pub(super) fn read(&mut self, store: &dyn Store) -> Outcome<()> {
        let before = self.last_read;
        corrections_between(store, before, u64::MAX, &mut |number, replaced| {
            let first = self.first.get(&replaced).copied().unwrap_or(replaced);
            self.first.insert(number, first);
        })?;
        examples_after(store, before, &mut |number, example| {
            self.last_read = number;
            match self.first.get(&number).copied() {
                Some(first) if first <= before => {
                    if let Ok(row) = self.numbers.binary_search(&first) {
                        self.labels[row] = f32::from(u8::from(example.fraud));
                    }
                    let newest = self
                        .newest
                        .binary_search_by_key(&first, |(known, _)| *known);
                    if let Ok(row) = newest {
                        self.newest[row].1 = example;
                    }
                    return true;
                }
                // The first one was gone before it was read.
                Some(_) => {
                    self.first.remove(&number);
                }
                None => {}
            }
            match example.probability {
                Some(score) if example.event_time_us >= self.from_us => {
                    self.numbers.push(number);
                    self.times.push(example.event_time_us);
                    self.scores.push(score);
                    self.labels.push(f32::from(u8::from(example.fraud)));
                }
                _ => {
                    self.unscored += 1;
                    if example.event_time_us < self.from_us {
                        let (events, newest_us) = self.before_from;
                        self.before_from = (events + 1, newest_us.max(example.event_time_us));
                    } else {
                        self.newest_unscored_us =
                            self.newest_unscored_us.max(Some(example.event_time_us));
                    }
                }
            }
            self.newest.push((number, example));
            true
        })?;
        let surplus = self.newest.len().saturating_sub(CONTRIBUTION_ROWS);
        if surplus > CONTRIBUTION_ROWS {
            self.newest.drain(..surplus);
        }
        Ok(())
    }

    /// Why nothing is measured, if nothing is.
    pub(super) fn why_nothing(&self) -> Option<String> {
        if !self.labels.is_empty() {
            return None;
        }
        let labelled = self.unscored;
        Some(match self.before_from {
            _ if labelled == 0 => {
                "no label has the id of an event that came before it: do the two files name the same events, and in \
                 the same way?"
                    .to_owned()
            }
            (0, _) => format!(
                "{labelled} labelled events came, all of them before the first model{}",
                self.why_no_model()
            ),
            (before, newest_us) => format!(
                "of {labelled} labelled events {before} came before --from, the newest at {}, and the others before \
                 the first model{}",
                rfc3339(newest_us),
                self.why_no_model()
            ),
        })
    }

    /// Why there is no model, if none was made.
    fn why_no_model(&self) -> String {
        let lines = self.updates.iter();
        if lines.clone().any(|line| line.version.is_some()) {
            return String::new();
        }
        let broken = lines.filter(|line| line.rejected);
        let reasons: Vec<&str> = broken.filter_map(|line| line.reason.as_deref()).collect();
        match reasons.last() {
            Some(reason) => format!(
                ", and none was made; updates that were thrown away: {}, the last because {reason} (are \
                 learner.training.learning_rate and initial_learning_rate near their defaults?)",
                reasons.len()
            ),
            None => ", and none was made: labels were too few for one (model.min_labels, model.min_frauds), or \
                     fewer than half of those said genuine"
                .to_owned(),
        }
    }

    /// Notes a period of the learner.
    pub(super) fn note(&mut self, period: &Period, duplicates: u64) {
        for tested in &period.tested {
            let is_its = |line: &&mut UpdateLine| line.version == Some(tested.version);
            let Some(line) = self.updates.iter_mut().rfind(is_its) else {
                continue;
            };
            // One that goes with another version has the numbers of its newest test.
            line.tested = tested.comparison.or(line.tested);
            match &tested.verdict {
                Verdict::Waiting(lack) => {
                    line.reason = Some(format!(
                        "{lack} yet: a newer version is tested on with them"
                    ));
                }
                Verdict::Canary(percent) => {
                    line.reason = Some(format!(
                        "canary for {percent} of 100 entities when the events ended"
                    ));
                }
                Verdict::Passed => {
                    line.reason =
                        Some("a newer version took its place while another was canary".to_owned());
                }
                Verdict::Promoted => (line.accepted, line.reason) = (true, None),
                Verdict::Rejected(reason) => {
                    (line.rejected, line.reason) = (true, Some(reason.clone()));
                }
            }
        }
        let measured = |metrics: millrace_learner::Metrics| Measured {
            log_loss: metrics.log_loss,
            average_precision: metrics.average_precision,
        };
        let (before, after) = period.metrics();
        let mut line = UpdateLine {
            time: rfc3339(period.end_us),
            time_us: period.end_us,
            version: None,
            parent: None,
            afresh: false,
            labels: period.labels,
            frauds: period.frauds,
            corrected: period.corrected,
            waited_seconds: period.waited_us as f64 / 1e6,
            examples: 0,
            replayed: 0,
            label_offset: 0,
            before: before.map(measured),
            after: after.map(measured),
            shift: None,
            calibration: None,
            accepted: false,
            rejected: false,
            waits: false,
            reason: None,
            tested: None,
            prequential_average_precision: period.prequential.average_precision,
            rolled_back: period
                .rolled_back
                .as_ref()
                .map(|(version, to, reason)| format!("version {version} to {to}: {reason}")),
            duplicate_labels: duplicates,
            seconds: period.seconds,
        };
        match &period.learned {
            Learned::Waiting => {
                (line.waits, line.reason) = (true, Some("too few labels for a first model".into()));
            }
            Learned::PutAside(reason) => {
                line.reason = Some(format!("labels were put aside: {reason}"))
            }
            Learned::Broken(reason) => {
                (line.rejected, line.reason) = (true, Some(reason.clone()));
            }
            Learned::Version(new) => {
                let manifest = &new.manifest;
                line.version = Some(manifest.version);
                line.parent = manifest.parent;
                line.afresh = new.afresh;
                line.examples = manifest.rows;
                line.replayed = manifest.replayed;
                line.label_offset = manifest.label_position;
                line.shift = Some(new.shift);
                let calibration = Some(manifest.calibration);
                line.calibration = calibration.filter(|line| !line.is_identity());
                // The first one has nothing to be compared with.
                line.accepted = manifest.version == 1;
                line.reason =
                    (!line.accepted).then(|| "not tested when the events ended".to_owned());
            }
        }
        self.updates.push(line);
    }

    /// The run in numbers.
    pub(super) fn summary(
        &self,
        name: &str,
        settings: &[String],
        seconds: f64,
        events: u64,
    ) -> Summary {
        let with = |test: &dyn Fn(&UpdateLine) -> bool| {
            self.updates.iter().filter(|line| test(line)).count()
        };
        Summary {
            name: name.to_owned(),
            settings: settings.to_vec(),
            quality: self.quality(),
            versions: with(&|line| line.version.is_some()),
            accepted: with(&|line| line.accepted),
            rejected: with(&|line| line.rejected),
            periods_put_aside: with(&|line| {
                line.reason
                    .as_ref()
                    .is_some_and(|reason| reason.starts_with("labels were put aside"))
            }),
            rollbacks: with(&|line| line.rolled_back.is_some()),
            learning_seconds: unsigned(self.updates.iter().map(|line| line.seconds).sum()),
            seconds,
            events_a_second: events as f64 / seconds.max(1e-9),
        }
    }

    /// Leaves out the events before a time.
    fn keep_from(&mut self, from_us: i64) {
        fn keep<T>(values: &mut Vec<T>, times: &[i64], from_us: i64) {
            let mut times = times.iter();
            values.retain(|_| times.next().is_some_and(|time_us| *time_us >= from_us));
        }
        self.from_us = from_us;
        keep(&mut self.numbers, &self.times, from_us);
        keep(&mut self.scores, &self.times, from_us);
        keep(&mut self.labels, &self.times, from_us);
        self.times.retain(|time_us| *time_us >= from_us);
    }

    /// How good the scores are.
    pub(super) fn quality(&self) -> Quality {
        let ones = vec![1.0; self.labels.len()];
        let rows = self.labels.len() as f64;
        let frauds: f64 = self.labels.iter().map(|label| f64::from(*label)).sum();
        let logits: Vec<f32> = self.scores.iter().map(|p| log_odds(*p)).collect();
        let scores: f64 = self.scores.iter().map(|p| f64::from(*p)).sum();
        // Of no events each of these would be 0, which looks like the best there is.
        let of_any = |value: f64| (!self.labels.is_empty()).then_some(value);
        Quality {
            from: (self.from_us > i64::MIN).then(|| rfc3339(self.from_us)),
            events: self.labels.len() as u64,
            frauds: frauds as u64,
            average_precision: average_precision(&self.scores, &self.labels, &ones),
            roc_auc: roc_auc(&self.scores, &self.labels, &ones),
            log_loss: of_any(log_loss(&logits, &self.labels, &ones)),
            mean_score: of_any(scores / rows),
            fraud_rate: of_any(frauds / rows),
            calibration_error: of_any(calibration_error(&self.scores, &self.labels, GROUPS)),
        }
    }

    /// The run day by day.
    pub(super) fn days(&self) -> Vec<Day> {
        let mut days: BTreeMap<i64, (Vec<f32>, Vec<f32>)> = BTreeMap::new();
        for ((time, score), label) in self.times.iter().zip(&self.scores).zip(&self.labels) {
            let (scores, labels) = days.entry(time.div_euclid(DAY_US)).or_default();
            scores.push(*score);
            labels.push(*label);
        }
        let is_alert = |score: f32| f64::from(score) >= self.alert_threshold;
        let day = |(day, (scores, labels)): (i64, (Vec<f32>, Vec<f32>))| {
            let rows = labels.len() as f64;
            let mean = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / rows;
            Day {
                day_us: day * DAY_US,
                average_precision: average_precision(&scores, &labels, &vec![1.0; labels.len()]),
                mean_score: mean(&scores),
                fraud_rate: mean(&labels),
                alerts: scores.iter().filter(|score| is_alert(**score)).count() as f64 / rows,
            }
        };
        days.into_iter().map(day).collect()
    }

    /// Mean score and share of frauds of groups of equal size, by ascending score.
    pub(super) fn reliability(&self) -> Vec<(f64, f64)> {
        millrace_learner::reliability(&self.scores, &self.labels, GROUPS)
    }

    /// What each input contributes to a model's answers, on the newest labelled events; the largest first.
    pub(super) fn contributions(
        &self,
        model: &Model,
        names: &[String],
    ) -> Outcome<Vec<Contribution>> {
        let from = self.newest.len().saturating_sub(CONTRIBUTION_ROWS);
        let width = names.len();
        let newest = self.newest[from..].iter().map(|(_, example)| example);
        let usable = newest.filter(|example| example.inputs.len() == width);
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for example in usable {
            rows.extend_from_slice(&example.inputs);
            labels.push(f32::from(u8::from(example.fraud)));
        }
        let ones = vec![1.0; labels.len()];
        let measure = |rows: &[f32]| -> Outcome<(f64, f64)> {
            let logits = model.logits(rows)?;
            let precision = average_precision(&logits, &labels, &ones).unwrap_or(0.0);
            Ok((precision, log_loss(&logits, &labels, &ones)))
        };
        let whole = measure(&rows)?;
        let mut contributions = Vec::new();
        for (input, name) in names.iter().enumerate() {
            let mut shuffled = rows.clone();
            // A rotation by a part that shares no factor with a day's rhythm: no value stays with its row.
            let by = labels.len() * 3 / 7 + 1;
            for row in 0..labels.len() {
                let from = (row + by) % labels.len();
                shuffled[row * width + input] = rows[from * width + input];
            }
            let (precision, loss) = measure(&shuffled)?;
            contributions.push(Contribution {
                input: name.clone(),
                precision: whole.0 - precision,
                log_loss: loss - whole.1,
            });
        }
        contributions.sort_by(|a, b| b.log_loss.total_cmp(&a.log_loss));
        Ok(contributions)
    }
}

/// Leaves in all runs the events that each of them has scored with a model, if it ever had one. One whose first model
/// comes later would else be spared the time in which there is least to learn from.
pub(super) fn keep_common(tallies: &mut [&mut Tally]) {
    let with_model = tallies.iter().filter(|tally| !tally.labels.is_empty());
    let newest = with_model.filter_map(|tally| tally.newest_unscored_us);
    // An event comes at its time or later, and all that come behind a first model are scored: behind the newest that
    // was not, no run lacks one.
    let Some(newest_us) = newest.max() else {
        return;
    };
    let times = tallies.iter().flat_map(|tally| &tally.times).copied();
    let first_us = times.filter(|time_us| *time_us > newest_us).min();
    let from_us = first_us.unwrap_or(newest_us.saturating_add(1));
    for tally in tallies {
        tally.keep_from(from_us);
    }
}

/// Groups of events by score in which calibration is measured.
const GROUPS: usize = 20;

/// Zero without its sign: the sum of no numbers is -0.
fn unsigned(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value }
}

fn log_odds(probability: f32) -> f32 {
    let p = f64::from(probability).clamp(1e-9, 1.0 - 1e-9);
    (p / (1.0 - p)).ln() as f32
}

#[cfg(test)]
mod tests;
