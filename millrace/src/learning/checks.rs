//! Whether a period's labels are to be believed, before a model learns them.
//!
//! Labels are joined by id, so that one delivered twice is learned once; that is not checked here.

mod flood;
mod scarcity;
mod silence;
mod usual;

use millrace_learner::{
    Cause, Check, Drift, DriftWatch, Encoder, Examples, GateSettings, Histograms, Model, Outlying,
    TailWatch, Tails, roc_auc,
};

use super::history::History;
use crate::failure::Outcome;
use flood::Flood;
use scarcity::Scarcity;
use silence::Silence;
pub(super) use silence::lack_after;
use usual::{UsualInputs, heard, newest_inputs, usual_tails};

/// What was usual so far.
pub(super) struct Checks {
    /// What all is counted in: its bins and categories.
    encoder: Encoder,
    inputs: UsualInputs,
    tails: TailWatch,
    /// The inputs of the newest rows: a period that has few is judged with them.
    newest: Vec<f32>,
    /// Labels that were believed, and frauds among them.
    believed: (usize, usize),
    scarcity: Scarcity,
    silence: Silence,
    flood: Flood,
}

/// Why a period's labels are put aside.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Disbelief {
    check: Check,
    reason: String,
}

impl Disbelief {
    fn of(check: Check, reason: String) -> Self {
        Self { check, reason }
    }

    /// Which check says so.
    pub(super) fn check(&self) -> Check {
        self.check
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn cause(&self) -> Cause {
        match self.check {
            // They are learned once their inputs are usual.
            Check::Drift => Cause::Inputs,
            // The labels, or some of their inputs, contradict what is known: they stay aside.
            _ => Cause::Labels,
        }
    }
}

/// Frauds, and genuine events, from which on labels can contradict a model.
const TELLING: usize = 20;
/// How many times too many frauds, or genuine events, may be expected before a lack of them says anything: the champion may
/// be badly calibrated, above all the first one.
const OVERESTIMATE: f64 = 3.0;
/// So few are not believed where chance alone would seldom give so few: no frauds where 28 were expected.
const UNLIKELY: f64 = 1e-4;

impl Checks {
    /// Learns what is usual from a history of periods of `every_us`, for the day of a period that ended at `end_us`. The
    /// encoder's edges are of the labels up to number `fitted`; 0 where that is not known.
    pub(super) fn new(
        encoder: &Encoder,
        history: &History,
        until: u64,
        end_us: i64,
        every_us: i64,
        fitted: u64,
        settings: &GateSettings,
    ) -> Self {
        let rows = history.numbered(0, until);
        Self {
            encoder: encoder.clone(),
            inputs: UsualInputs::new(encoder, history, &rows, end_us, every_us),
            tails: usual_tails(encoder, history, until, every_us, fitted),
            newest: newest_inputs(history, until),
            believed: with_frauds(history, &rows),
            scarcity: heard(history, until, every_us, settings),
            silence: Silence::default(),
            flood: Flood::default(),
        }
    }

    /// Whether all is counted in the bins of an encoder: those of a model that started afresh are others.
    pub(super) fn is_in_bins_of(&self, encoder: &Encoder) -> bool {
        self.encoder == *encoder
    }

    /// Goes on with what others have counted that does not depend on bins.
    #[must_use]
    pub(super) fn going_on_from(self, before: Self) -> Self {
        Self {
            scarcity: before.scarcity,
            silence: before.silence,
            flood: before.flood,
            ..self
        }
    }

    /// Learns anew what inputs and how many frauds are usual where a period that ended at `end_us` is the first of its day:
    /// as a process does that starts then, with the labels up to number `until`. That may read all that are kept.
    pub(super) fn begin_day(&mut self, end_us: i64, history: &History, until: u64, every_us: i64) {
        if self.inputs.is_of_day(end_us) {
            return;
        }
        let rows = history.numbered(0, until);
        let now = UsualInputs::new(&self.encoder, history, &rows, end_us, every_us);
        self.inputs = now.going_on_from(&self.inputs);
        self.believed = with_frauds(history, &rows);
    }

    /// Why the labels of a period that ended at `end_us` must not be learned, if there is a reason. `scores` are the
    /// champion's probabilities, `names` the inputs'.
    ///
    /// # Errors
    /// Inputs that a champion cannot score.
    pub(super) fn disbelief(
        &mut self,
        end_us: i64,
        names: &[String],
        fresh: &Examples,
        champion: &Model,
        scores: &[f32],
        settings: &GateSettings,
    ) -> Outcome<Option<Disbelief>> {
        let inputs = self.with_those_before(fresh.inputs());
        if let Some(reason) = contradiction(fresh, scores, settings) {
            return Ok(Some(Disbelief::of(Check::Contradiction, reason)));
        }
        let before = self.scarcity;
        let (labels, frauds) = (fresh.len(), fresh.frauds());
        let ratio = settings.max_fraud_ratio;
        if let Some(reason) = self.scarcity.hear(end_us, labels, frauds, ratio) {
            return Ok(Some(Disbelief::of(Check::Scarcity, reason)));
        }
        let mut disbelief = self.disbelief_of_inputs(names, fresh, &inputs, settings);
        if disbelief.is_none() {
            // Only where the inputs are as ever is the champion's expectation worth something.
            disbelief = self.disbelief_of_frauds(fresh, champion, scores, settings)?;
        }
        if disbelief.is_some() {
            self.scarcity = before;
        }
        Ok(disbelief)
    }

    /// The inputs of a period, and where it has few rows those of the newest before it: of a handful nothing can be said.
    fn with_those_before(&mut self, inputs: &[f32]) -> Vec<f32> {
        let least = DriftWatch::LEAST_ROWS * self.encoder.width();
        let lacking = least.saturating_sub(inputs.len());
        let mut all = self.newest[self.newest.len().saturating_sub(lacking)..].to_vec();
        all.extend_from_slice(inputs);
        self.newest = all[all.len().saturating_sub(least)..].to_vec();
        all
    }

    /// Why a period's labels must not be learned for their inputs. `inputs` are those of the rows that are judged.
    fn disbelief_of_inputs(
        &mut self,
        names: &[String],
        fresh: &Examples,
        inputs: &[f32],
        settings: &GateSettings,
    ) -> Option<Disbelief> {
        let encoder = &self.encoder;
        let mut histograms = Histograms::new(encoder);
        histograms.add(encoder, inputs);
        let is_enough = histograms.rows() >= DriftWatch::LEAST_ROWS as u64;
        let usual = &mut self.inputs;
        let stability = histograms.stability(&usual.reference);
        let drifts = match is_enough {
            true => usual
                .watch
                .unusual(&stability, &histograms.noise(&usual.reference)),
            false => Vec::new(),
        };
        if let Some(reason) = moved(&drifts, names) {
            return Some(Disbelief::of(Check::Drift, reason));
        }
        let mut tails = Tails::new(encoder);
        tails.add(encoder, fresh.inputs());
        let outlying = self.tails.judge(tails, settings.unusual_periods.max(1));
        let reason = beyond(&outlying, names);
        usual.unlearned += if reason.is_none() { fresh.len() } else { 0 };
        if usual.unlearned >= DriftWatch::LEAST_ROWS {
            usual.unlearned = 0;
            usual.watch.remember(&stability);
        }
        reason.map(|reason| Disbelief::of(Check::Tails, reason))
    }

    /// Why labels that say fraud too often, or too seldom, must not be learned, if they do.
    fn disbelief_of_frauds(
        &mut self,
        fresh: &Examples,
        champion: &Model,
        scores: &[f32],
        settings: &GateSettings,
    ) -> Outcome<Option<Disbelief>> {
        if let Some(reason) = self.flood.hear(fresh.labels(), scores, settings) {
            return Ok(Some(Disbelief::of(Check::Flood, reason)));
        }
        let (labels, frauds) = self.believed;
        let usual = frauds as f64 / labels.max(1) as f64;
        let ratio = settings.max_fraud_ratio;
        let reason = self.silence.hear_labels(fresh, champion, usual, ratio)?;
        if reason.is_none() {
            self.believed.0 += fresh.len();
            self.believed.1 += fresh.frauds();
        }
        Ok(reason.map(|reason| Disbelief::of(Check::Silence, reason)))
    }

    /// Takes labels that a process before this one has believed, or put aside for how seldom they said fraud, with a model
    /// that had not learned them and the share of labels that said fraud before: how often they said so counts on.
    ///
    /// # Errors
    /// Inputs that the model cannot score.
    pub(super) fn recall_silence(
        &mut self,
        labels: &Examples,
        model: &Model,
        usual: f64,
        settings: &GateSettings,
    ) -> Outcome<()> {
        let ratio = settings.max_fraud_ratio;
        // Whether they were to be believed was decided then.
        self.silence.hear_labels(labels, model, usual, ratio)?;
        Ok(())
    }

    /// Begins to count for a flood of frauds anew, with labels that were put aside for one, or none, and probabilities of
    /// them.
    pub(super) fn begin_flood(&mut self, labels: Vec<f32>, scores: Vec<f32>) {
        self.flood = Flood::begun_with(labels, scores);
    }

    /// Counts labels that were believed, and probabilities that were expected of them.
    pub(super) fn recall_flood(&mut self, labels: &[f32], scores: &[f32], settings: &GateSettings) {
        // Whether they were to be believed was decided then.
        let _ = self.flood.hear(labels, scores, settings);
    }

    /// Labels that were believed, and frauds among them.
    pub(super) fn believed(&self) -> (usize, usize) {
        self.believed
    }
}

/// How many rows there are, and how many of them are frauds.
fn with_frauds(history: &History, rows: &[usize]) -> (usize, usize) {
    let frauds = rows.iter().filter(|row| history.is_fraud(**row));
    (rows.len(), frauds.count())
}

/// Why inputs that are distributed as never before are not believed.
fn moved(drifts: &[Drift], names: &[String]) -> Option<String> {
    let (first, others) = drifts.split_first()?;
    let name = |input: usize| names.get(input).map_or("?", String::as_str);
    let mut reason = format!(
        "input '{}' moved: its stability index is {:.2} where at most {:.2} was usual",
        name(first.input),
        first.stability,
        first.usual
    );
    if !others.is_empty() {
        let others: Vec<&str> = others.iter().map(|drift| name(drift.input)).collect();
        reason.push_str(&format!("; so did {}", others.join(", ")));
    }
    Some(reason)
}

/// Why values beyond all that a model was made of are not believed.
fn beyond(outlying: &[Outlying], names: &[String]) -> Option<String> {
    let (first, others) = outlying.split_first()?;
    let name = |input: usize| names.get(input).map_or("?", String::as_str);
    let mut reason = format!(
        "values of input '{}' are beyond all that the model started from in {} of {} events, where {:.1}% is usual at \
         most: are all of them in the same unit?",
        name(first.input),
        first.beyond,
        first.rows,
        100.0 * first.usual
    );
    if !others.is_empty() {
        let others: Vec<&str> = others.iter().map(|it| name(it.input)).collect();
        reason.push_str(&format!(" So are those of {}", others.join(", ")));
    }
    Some(reason)
}

/// The probability of at most so many events of a Poisson distribution.
fn poisson_at_most(events: usize, mean: f64) -> f64 {
    let mut term = (-mean).exp();
    let mut sum = term;
    for event in 1..=events {
        term *= mean / event as f64;
        sum += term;
    }
    sum
}

/// Names the setting that says how many frauds are believed, and the value with which labels would have been, where that
/// is known: infinite where there is none.
fn way_in(max_fraud_ratio: f64, needed: Option<f64>) -> String {
    let now = format!("learner.gate.max_fraud_ratio is {max_fraud_ratio}");
    match needed {
        Some(needed) if needed.is_finite() => {
            format!("{now}; {:.0} would have let them in", needed.ceil())
        }
        Some(_) => format!("{now}; without a fraud, none lets them in"),
        None => format!("{now}; a larger one lets more in"),
    }
}

/// Labels that say the opposite of what the champion would expect of any labels.
fn contradiction(fresh: &Examples, scores: &[f32], settings: &GateSettings) -> Option<String> {
    contradiction_of(fresh.labels(), scores, settings)
}

fn contradiction_of(labels: &[f32], scores: &[f32], settings: &GateSettings) -> Option<String> {
    let frauds = labels.iter().filter(|label| **label > 0.5).count();
    let rows = labels.len();
    let expected: f64 = scores.iter().map(|score| f64::from(*score)).sum();
    let genuine = rows - frauds;
    let can_tell = frauds >= TELLING && genuine >= TELLING;
    let area = match can_tell {
        true => roc_auc(scores, labels, &vec![1.0; rows]),
        false => None,
    };
    // The standard error of the area where scores say nothing (Hanley, McNeil 1982).
    let (f, g) = (frauds as f64, genuine as f64);
    let error = ((f + g + 1.0) / (12.0 * f * g)).sqrt();
    // Frauds that the champion ranks high are frauds, however few it expected: it is the one that is wrong.
    let is_ranked = area.is_some_and(|area| area - 3.0 * error > 0.5);
    let is_much = frauds as f64 > settings.max_fraud_ratio * expected.max(1.0);
    if frauds >= TELLING && is_much && !is_ranked {
        return Some(format!(
            "{frauds} of {rows} labels are frauds where the champion expected {expected:.1} ({})",
            way_in(
                settings.max_fraud_ratio,
                Some(frauds as f64 / expected.max(1.0))
            )
        ));
    }
    let area = area?;
    (area + 3.0 * error < 0.5).then(|| {
        format!("the labels contradict the champion: its area under the ROC curve is {area:.2}")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use millrace_learner::{Device, InputKind, LearnerSettings, update};

    use super::*;
    use crate::labels::Example;

    const HOUR: i64 = 3_600_000_000;

    fn labelled(frauds: usize, genuine: usize, right: bool) -> (Examples, Vec<f32>) {
        let mut examples = Examples::new(1);
        let mut scores = Vec::new();
        for row in 0..frauds + genuine {
            let fraud = row < frauds;
            examples.push(&[row as f32], fraud, 1.0).unwrap();
            scores.push(if fraud == right { 0.9 } else { 0.004 });
        }
        (examples, scores)
    }

    fn contradicts(frauds: usize, genuine: usize, right: bool) -> Option<String> {
        let (examples, scores) = labelled(frauds, genuine, right);
        contradiction(&examples, &scores, &GateSettings::default())
    }

    /// Periods of amounts that are all alike, and what is usual of them.
    fn history(periods: usize, rows: usize) -> (History, Encoder) {
        let mut history = History::new(vec![InputKind::Number], 7);
        let mut examples = Examples::new(1);
        for row in 0..periods * rows {
            let amount = (row * 37 % 100) as f32;
            let fraud = row.is_multiple_of(20);
            examples.push(&[amount], fraud, 1.0).unwrap();
            let example = Example {
                known_us: (row / rows) as i64 * HOUR,
                event_time_us: 0,
                inputs: vec![amount],
                inputs_tag: 7,
                fraud,
                probability: None,
                version: 0,
            };
            history.push(row as u64 + 1, example);
        }
        (history, Encoder::fit(&examples, 24).unwrap())
    }

    /// Why periods of so many rows, all of one amount, are put aside, one after the other.
    fn refused(checks: &mut Checks, rows: &[usize], amount: f32) -> Vec<Option<Check>> {
        let settings = GateSettings::default();
        let judged = rows.iter().map(|rows| {
            let mut fresh = Examples::new(1);
            for _ in 0..*rows {
                fresh.push(&[amount], false, 1.0).unwrap();
            }
            let inputs = checks.with_those_before(fresh.inputs());
            let names = ["amount".to_owned()];
            let disbelief = checks.disbelief_of_inputs(&names, &fresh, &inputs, &settings);
            disbelief.map(|it| it.check())
        });
        judged.collect()
    }

    #[test]
    fn a_handful_of_labels_moves_no_input_and_many_handfuls_do() {
        let (history, encoder) = history(100, 100);
        let settings = GateSettings::default();
        let (newest, end_us) = (history.newest(), 101 * HOUR);
        let checks = || Checks::new(&encoder, &history, newest, end_us, HOUR, 0, &settings);
        assert_eq!(refused(&mut checks(), &[1, 3], 50.0), [None, None]);
        let many = refused(&mut checks(), &[5; 10], 50.0);
        assert_eq!(many.first(), Some(&None));
        assert_eq!(many.last(), Some(&Some(Check::Drift)));
        assert_eq!(refused(&mut checks(), &[60], 50.0), [Some(Check::Drift)]);
        // What is usual was not learned of handfuls either.
        let quiet = history_of_handfuls();
        let (history, encoder) = (&quiet.0, &quiet.1);
        let (newest, end_us) = (history.newest(), 2_001 * HOUR);
        let mut checks = Checks::new(encoder, history, newest, end_us, HOUR, 0, &settings);
        assert_eq!(refused(&mut checks, &[60], 50.0), [Some(Check::Drift)]);
    }

    fn history_of_handfuls() -> (History, Encoder) {
        history(2_000, 2)
    }

    #[test]
    fn inputs_are_held_against_those_of_the_days_before() {
        let (history, encoder) = history(60, 100);
        let settings = GateSettings::default();
        // A process that starts when so many hours were dealt with.
        let started = |hours: u64| {
            let (until, end_us) = (100 * hours, hours as i64 * HOUR);
            Checks::new(&encoder, &history, until, end_us, HOUR, 0, &settings)
        };
        let mut checks = started(2);
        for (hours, rows) in [
            (2, 200),
            (23, 200),
            (24, 2_400),
            (40, 2_400),
            (48, 4_800),
            (59, 4_800),
        ] {
            let end_us = (hours as i64 + 1) * HOUR;
            checks.begin_day(end_us, &history, 100 * hours, HOUR);
            assert_eq!(checks.inputs.reference.rows(), rows, "{hours}");
            assert_eq!(checks.believed.0, rows as usize);
            // One that starts judges that period alike, and so does one that starts behind it.
            if hours >= 24 {
                for hours in [hours, hours + 1] {
                    let mut other = started(hours);
                    other.begin_day(end_us, &history, 100 * hours, HOUR);
                    assert_eq!(other.inputs.reference, checks.inputs.reference);
                }
            }
        }
    }

    #[test]
    fn labels_that_say_fraud_alone_are_not_believed_where_the_inputs_are_as_ever() {
        let (history, encoder) = history(100, 100);
        let settings = GateSettings::default();
        let (newest, end_us) = (history.newest(), 101 * HOUR);
        let mut checks = Checks::new(&encoder, &history, newest, end_us, HOUR, 0, &settings);
        let champion = {
            let settings = LearnerSettings {
                hidden: Vec::new(),
                members: 1,
                bins: 4,
                initial_passes: 2,
                ..LearnerSettings::default()
            };
            let rows = history.believed(0..history.len()).map(|row| (row, 1.0));
            let labels = history.examples(rows).unwrap();
            let nothing = Examples::new(1);
            let made = update(&settings, Device::Cpu, None, &labels, &nothing, 7);
            Model::new(&made.unwrap().checkpoint)
        };
        let mut hear = |hour: i64, frauds: usize, genuine: usize| {
            let mut fresh = Examples::new(1);
            for row in 0..frauds + genuine {
                let amount = (row * 37 % 100) as f32;
                fresh.push(&[amount], row < frauds, 1.0).unwrap();
            }
            // A champion that knows that they are frauds.
            let scores = vec![0.9; fresh.len()];
            let names = ["amount".to_owned()];
            let end_us = (101 + hour) * HOUR;
            let disbelief = checks.disbelief(end_us, &names, &fresh, &champion, &scores, &settings);
            disbelief.unwrap().map(|it| it.reason().to_owned())
        };
        let told: Vec<bool> = (0..8).map(|hour| hear(hour, 4, 0).is_some()).collect();
        assert_eq!(told, [false, false, false, false, true, true, true, true]);
        let reason = hear(8, 4, 0).unwrap();
        assert!(
            reason.contains("genuine labels seem not to come"),
            "{reason}"
        );
        assert_eq!(hear(9, 5, 95), None);
    }

    #[test]
    fn turned_labels_contradict_and_a_bad_hour_does_not() {
        assert_eq!(contradicts(3, 400, true), None);
        assert_eq!(contradicts(60, 400, true), None);
        assert_eq!(contradicts(3, 400, false), None);
        assert!(contradicts(40, 400, false).unwrap().contains("ROC curve"));
        // A champion that expects next to none, and ranks them all the same, keeps no label out.
        let (plenty, scores) = labelled(76, 9_000, true);
        let timid: Vec<f32> = scores.iter().map(|score| score / 1e5).collect();
        assert_eq!(
            contradiction(&plenty, &timid, &GateSettings::default()),
            None
        );
        let blind = vec![1e-5; timid.len()];
        let reason = contradiction(&plenty, &blind, &GateSettings::default()).unwrap();
        assert!(reason.contains("76 of 9076 labels are frauds"), "{reason}");
        let (turned, _) = labelled(397, 3, true);
        let scores = vec![0.008; 400];
        let reason = contradiction(&turned, &scores, &GateSettings::default()).unwrap();
        assert!(reason.contains("397 of 400 labels are frauds"), "{reason}");
        // The value that it names lets them in, and one below does not.
        let named = "(learner.gate.max_fraud_ratio is 10; 125 would have let them in)";
        assert!(reason.ends_with(named), "{reason}");
        for (max_fraud_ratio, is_believed) in [(124.0, false), (125.0, true)] {
            let settings = GateSettings {
                max_fraud_ratio,
                ..GateSettings::default()
            };
            let reason = contradiction(&turned, &scores, &settings);
            assert_eq!(reason.is_none(), is_believed, "{reason:?}");
        }
        let of_none = way_in(10.0, Some(f64::INFINITY));
        assert!(of_none.ends_with("; without a fraud, none lets them in"));
    }
}
