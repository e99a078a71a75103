//! Whether a period's labels are to be believed, before a model learns them.
//!
//! Labels are joined by id, so that one delivered twice is learned once; that is not checked here.

use millrace_learner::{DriftWatch, Encoder, Examples, GateSettings, Histograms, roc_auc};

use super::history::History;

/// What was usual so far.
pub(super) struct Checks {
    reference: Histograms,
    watch: DriftWatch,
    /// Periods in a row that were refused for their inputs.
    unusual_periods: usize,
}

/// Why a period's labels are put aside.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Disbelief {
    /// The labels contradict what is known of frauds.
    Labels(String),
    /// The inputs are not what they were.
    Inputs(String),
}

impl Disbelief {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Labels(reason) | Self::Inputs(reason) => reason,
        }
    }
}

/// Frauds, and genuine events, from which on labels can contradict a model.
const TELLING: usize = 20;
/// Examples that the reference holds, about.
const REFERENCE_ROWS: usize = 20_000;

impl Checks {
    /// Learns what is usual from a history of periods of `every_us`.
    pub(super) fn new(encoder: &Encoder, history: &History, until: u64, every_us: i64) -> Self {
        let rows: Vec<usize> = history
            .believed(0..history.len())
            .take_while(|row| history.number(*row) <= until)
            .collect();
        let mut reference = Histograms::new(encoder);
        let step = rows.len().div_ceil(REFERENCE_ROWS).max(1);
        let mut inputs = Vec::new();
        for row in rows.iter().step_by(step) {
            inputs.clear();
            history.copy_inputs(*row, &mut inputs);
            reference.add(encoder, &inputs);
        }
        let mut watch = DriftWatch::new(encoder.width());
        let period = |row: &usize| history.known_us(*row).div_euclid(every_us);
        for rows in rows.chunk_by(|a, b| period(a) == period(b)) {
            let mut histograms = Histograms::new(encoder);
            for row in rows {
                inputs.clear();
                history.copy_inputs(*row, &mut inputs);
                histograms.add(encoder, &inputs);
            }
            watch.remember(&histograms.stability(&reference));
        }
        Self {
            reference,
            watch,
            unusual_periods: 0,
        }
    }

    /// Why the labels of a period must not be learned, if there is a reason. `scores` are the
    /// champion's probabilities, `names` the inputs'.
    pub(super) fn disbelief(
        &mut self,
        encoder: &Encoder,
        names: &[String],
        fresh: &Examples,
        scores: &[f32],
        settings: &GateSettings,
    ) -> Option<Disbelief> {
        if let Some(reason) = contradiction(fresh, scores, settings) {
            return Some(Disbelief::Labels(reason));
        }
        let mut histograms = Histograms::new(encoder);
        histograms.add(encoder, fresh.inputs());
        let stability = histograms.stability(&self.reference);
        let drifts = self.watch.unusual(&stability);
        let Some(first) = drifts.first() else {
            self.watch.remember(&stability);
            self.unusual_periods = 0;
            return None;
        };
        self.unusual_periods += 1;
        let name = |input: usize| names.get(input).map_or("?", String::as_str);
        let mut reason = format!(
            "input '{}' moved: its stability index is {:.2} where at most {:.2} was usual",
            name(first.input),
            first.stability,
            first.usual
        );
        if let Some((_, others)) = drifts.split_first()
            && !others.is_empty()
        {
            let others: Vec<&str> = others.iter().map(|drift| name(drift.input)).collect();
            reason.push_str(&format!("; so did {}", others.join(", ")));
        }
        Some(Disbelief::Inputs(reason))
    }

    /// Whether inputs have been unusual for so long that they are usual now.
    pub(super) fn is_new_normal(&self, settings: &GateSettings) -> bool {
        self.unusual_periods >= settings.unusual_periods.max(1)
    }
}

/// Labels that say the opposite of what the champion would expect of any labels.
fn contradiction(fresh: &Examples, scores: &[f32], settings: &GateSettings) -> Option<String> {
    let frauds = fresh.frauds();
    let rows = fresh.len();
    let expected: f64 = scores.iter().map(|score| f64::from(*score)).sum();
    let genuine = rows - frauds;
    let can_tell = frauds >= TELLING && genuine >= TELLING;
    let area = match can_tell {
        true => roc_auc(scores, fresh.labels(), fresh.weights()),
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
            "{frauds} of {rows} labels are frauds where the champion expected {expected:.1}"
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
    use super::*;

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
    }
}
