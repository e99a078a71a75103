//! What a history says is usual.

use millrace_learner::{DriftWatch, Encoder, GateSettings, Histograms, TailWatch, Tails};

use super::scarcity::Scarcity;
use crate::learning::history::History;

/// How the inputs of rows are distributed.
pub(super) fn distribution<'a>(
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
pub(super) fn usual_drift(
    encoder: &Encoder,
    history: &History,
    rows: &[usize],
    reference: &Histograms,
    every_us: i64,
) -> (DriftWatch, usize) {
    let mut watch = DriftWatch::new(encoder.width());
    let period = |row: &usize| history.period(*row, every_us);
    let (mut seen, mut learned) = (0, 0);
    for of_period in rows.chunk_by(|a, b| period(a) == period(b)) {
        let first = seen;
        seen += of_period.len();
        if seen - learned >= DriftWatch::LEAST_ROWS {
            learned = seen;
            let from = first.min(seen.saturating_sub(DriftWatch::LEAST_ROWS));
            let histograms = distribution(encoder, history, rows[from..seen].iter());
            watch.remember(&histograms.stability(reference));
        }
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

/// How often labels have said "genuine", those of `rows`, which are believed, and those that were put aside for that.
pub(super) fn heard(
    history: &History,
    rows: &[usize],
    until: u64,
    every_us: i64,
    settings: &GateSettings,
) -> Scarcity {
    let mut scarcity = Scarcity::new(every_us);
    let period = |row: &usize| history.period(*row, every_us);
    let all = history.among(&(1..=until));
    for of_period in all.chunk_by(|a, b| period(a) == period(b)) {
        let Some(first) = of_period.first() else {
            continue;
        };
        let end_us = (period(first) + 1).saturating_mul(every_us);
        let frauds = of_period.iter().filter(|row| history.is_fraud(**row));
        let before = scarcity;
        let ratio = settings.max_fraud_ratio;
        let reason = scarcity.hear(end_us, of_period.len(), frauds.count(), ratio);
        // What was put aside for another reason was not counted.
        if reason.is_none() && rows.binary_search(first).is_err() {
            scarcity = before;
        }
    }
    scarcity
}

/// What share of values beyond the edges is usual, by the periods of `rows`, which are believed, and how many of the
/// newest in a row were put aside for one that is not.
pub(super) fn usual_tails(
    encoder: &Encoder,
    history: &History,
    rows: &[usize],
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
    // What the edges are of is within them.
    let all = history.among(&(fitted + 1..=until));
    for of_period in all.chunk_by(|a, b| period(a) == period(b)) {
        let mut tails = Tails::new(encoder);
        for row in of_period {
            inputs.clear();
            history.copy_inputs(*row, &mut inputs);
            tails.add(encoder, &inputs);
        }
        let first = of_period.first();
        match first.is_some_and(|first| rows.binary_search(first).is_ok()) {
            true => watch.believe(tails),
            false => watch.recall(tails),
        }
    }
    watch
}
