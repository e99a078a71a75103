//! What a history says is usual.

use millrace_learner::{Check, DriftWatch, Encoder, GateSettings, Histograms, TailWatch, Tails};

use super::scarcity::Scarcity;
use crate::learning::history::History;

/// Examples that the reference holds, about.
const REFERENCE_ROWS: usize = 20_000;
const DAY_US: i64 = 86_400_000_000;

/// How inputs are distributed as a rule. It is learned anew for each day: held against those of long ago, inputs that grow
/// slowly are as far off as others would be of another unit.
pub(super) struct UsualInputs {
    /// The day, of event time, counted from 1970.
    day: i64,
    /// The newest rows before that day.
    pub(super) reference: Histograms,
    /// How far from these the rows of periods are, those of that day too.
    pub(super) watch: DriftWatch,
    /// Rows since that was last told: it is not learned of the same rows again and again.
    pub(super) unlearned: usize,
}

impl UsualInputs {
    /// By `rows`, which are believed, for the day of a period that ended at `end_us`.
    pub(super) fn new(
        encoder: &Encoder,
        history: &History,
        rows: &[usize],
        end_us: i64,
        every_us: i64,
    ) -> Self {
        let day = day_of(end_us);
        let before = before_day(history, rows, day, every_us);
        let step = before.len().div_ceil(REFERENCE_ROWS).max(1);
        let reference = distribution(encoder, history, before.iter().step_by(step));
        let (watch, unlearned) = usual_drift(encoder, history, rows, &reference, every_us);
        Self {
            day,
            reference,
            watch,
            unlearned,
        }
    }

    /// Whether it is of the day of a period that ended at `end_us`.
    pub(super) fn is_of_day(&self, end_us: i64) -> bool {
        self.day == day_of(end_us)
    }

    /// Goes on from that of a day before, in the same bins: the rows of some of its periods are in memory no longer.
    #[must_use]
    pub(super) fn going_on_from(self, before: &Self) -> Self {
        Self {
            watch: self.watch.going_on_from(&before.watch),
            ..self
        }
    }
}

/// The day of a period, by its end: one that ends at midnight is the last of a day.
fn day_of(end_us: i64) -> i64 {
    end_us.saturating_sub(1).div_euclid(DAY_US)
}

/// Of rows those of periods that had ended when a day began: a process that starts later that day knows the same. Where they
/// are fewer than those since, all.
fn before_day<'a>(history: &History, rows: &'a [usize], day: i64, every_us: i64) -> &'a [usize] {
    let first = day.saturating_mul(DAY_US).div_euclid(every_us);
    let before = rows.partition_point(|row| history.period(*row, every_us) < first);
    match before < rows.len() - before {
        true => rows,
        false => &rows[..before],
    }
}

/// How the inputs of rows are distributed.
fn distribution<'a>(
    encoder: &Encoder,
    history: &History,
    rows: impl Iterator<Item = &'a usize>,
) -> Histograms {
    let mut histograms = Histograms::new(encoder);
    let mut inputs = Vec::new();
    for row in rows {
        inputs.clear();
        history.copy_inputs(*row, &mut inputs);
        histograms.add(encoder, &inputs);
    }
    histograms
}

/// How far the inputs of periods are from what is usual, by those of `rows`, which are believed; and how many of the newest
/// rows are too few to tell. A period that has few rows is told with those before it.
fn usual_drift(
    encoder: &Encoder,
    history: &History,
    rows: &[usize],
    reference: &Histograms,
    every_us: i64,
) -> (DriftWatch, usize) {
    let period = |row: &usize| history.period(*row, every_us);
    let (mut seen, mut learned) = (0, 0);
    let mut told = Vec::new();
    for of_period in rows.chunk_by(|a, b| period(a) == period(b)) {
        let first = seen;
        seen += of_period.len();
        if seen - learned >= DriftWatch::LEAST_ROWS {
            learned = seen;
            let from = first.min(seen.saturating_sub(DriftWatch::LEAST_ROWS));
            told.push(from..seen);
        }
    }
    let mut watch = DriftWatch::new(encoder.width());
    let forgotten = told.len().saturating_sub(DriftWatch::REMEMBERED);
    for range in told.into_iter().skip(forgotten) {
        let histograms = distribution(encoder, history, rows[range].iter());
        watch.remember(&histograms.stability(reference));
    }
    (watch, seen - learned)
}

/// The inputs of the newest rows up to a label, of as many as it takes to judge a period.
pub(super) fn newest_inputs(history: &History, until: u64) -> Vec<f32> {
    let known = (0..history.len()).take_while(|row| history.number(*row) <= until);
    let known = known.count();
    let mut inputs = Vec::new();
    for row in known.saturating_sub(DriftWatch::LEAST_ROWS)..known {
        history.copy_inputs(row, &mut inputs);
    }
    inputs
}

/// How often labels have said "genuine", those that are believed, and those that were put aside for that.
pub(super) fn heard(
    history: &History,
    until: u64,
    every_us: i64,
    settings: &GateSettings,
) -> Scarcity {
    let mut scarcity = Scarcity::new(every_us);
    let period = |row: &usize| history.period(*row, every_us);
    let all = history.believed_or(&[Check::Scarcity], &(1..=until));
    for of_period in all.chunk_by(|a, b| period(a) == period(b)) {
        let Some(first) = of_period.first() else {
            continue;
        };
        let end_us = (period(first) + 1).saturating_mul(every_us);
        let frauds = of_period.iter().filter(|row| history.is_fraud(**row));
        let before = scarcity;
        let ratio = settings.max_fraud_ratio;
        let reason = scarcity.hear(end_us, of_period.len(), frauds.count(), ratio);
        // By the settings of now it would not have been put aside; it was, and is not what is usual.
        if reason.is_none() && history.is_aside(history.number(*first)) {
            scarcity = before;
        }
    }
    scarcity
}

/// What share of values beyond the edges is usual, by the periods whose inputs were found to be so, and how many of the
/// newest in a row were put aside for a share that is not.
pub(super) fn usual_tails(
    encoder: &Encoder,
    history: &History,
    until: u64,
    every_us: i64,
    fitted: u64,
) -> TailWatch {
    let mut watch = TailWatch::default();
    if fitted == 0 {
        return watch;
    }
    let period = |row: &usize| history.period(*row, every_us);
    let mut inputs = Vec::new();
    // Labels that are put aside for how often they say fraud have usual inputs; of others it was not asked.
    let judged = [Check::Tails, Check::Flood, Check::Silence];
    // What the edges are of is within them.
    let all = history.believed_or(&judged, &(fitted + 1..=until));
    for of_period in all.chunk_by(|a, b| period(a) == period(b)) {
        let mut tails = Tails::new(encoder);
        for row in of_period {
            inputs.clear();
            history.copy_inputs(*row, &mut inputs);
            tails.add(encoder, &inputs);
        }
        let first = of_period.first().map(|first| history.number(*first));
        match first.and_then(|first| history.refused_by(first)) {
            Some(Check::Tails) => watch.recall(tails),
            _ => watch.believe(tails),
        }
    }
    watch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use millrace_learner::{Examples, InputKind};

    use super::*;
    use crate::labels::Example;

    const HOUR: i64 = 3_600_000_000;

    /// A hundred amounts, of which one in ten may be far beyond all others.
    fn amounts(is_far: bool) -> Vec<f32> {
        let amount = |row: u16| match is_far && row.is_multiple_of(10) {
            true => 10_000.0,
            false => f32::from(row),
        };
        (0..100).map(amount).collect()
    }

    /// An hour of these comes, and may be put aside.
    fn hour(history: &mut History, hour: i64, is_far: bool, refused_by: Option<Check>) {
        let first = history.newest() + 1;
        for (number, amount) in (first..).zip(amounts(is_far)) {
            let example = Example {
                known_us: hour * HOUR,
                event_time_us: 0,
                inputs: vec![amount],
                inputs_tag: 7,
                fraud: false,
                probability: None,
                version: 0,
            };
            history.push(number, example);
        }
        if let Some(check) = refused_by {
            history.put_aside(first..=history.newest(), check);
        }
    }

    #[test]
    fn a_row_of_values_beyond_the_edges_is_ended_by_labels_of_which_that_was_asked() {
        let mut examples = Examples::new(1);
        for amount in amounts(false) {
            examples.push(&[amount], false, 1.0).unwrap();
        }
        let encoder = Encoder::fit(&examples, 24).unwrap();
        for (between, goes_on) in [
            (Some(Check::Contradiction), true),
            (Some(Check::Scarcity), true),
            (Some(Check::Drift), true),
            (Some(Check::Flood), false),
            (Some(Check::Silence), false),
            (None, false),
        ] {
            let mut history = History::new(vec![InputKind::Number], 7);
            for number in 0..60 {
                hour(&mut history, number, false, None);
            }
            for number in 60..65 {
                hour(&mut history, number, true, Some(Check::Tails));
            }
            hour(&mut history, 65, false, between);
            let mut watch = usual_tails(&encoder, &history, history.newest(), HOUR, 100);
            let mut tails = Tails::new(&encoder);
            tails.add(&encoder, &amounts(true));
            // The sixth in a row is usual.
            let is_usual = watch.judge(tails, 6).is_empty();
            assert_eq!(is_usual, goes_on, "{between:?}");
        }
    }
}
