//! Far too many frauds, in periods that have too few labels to tell alone.

use millrace_learner::GateSettings;

use super::contradiction_of;

/// Labels that are counted together for a flood of frauds, at most. A process that starts counts fewer: see `recount.rs`.
const FLOOD_ROWS: usize = 50_000;

/// Labels since frauds last were no more than is plausible, with the champion's probabilities.
#[derive(Default)]
pub(super) struct Flood {
    labels: Vec<f32>,
    scores: Vec<f32>,
}

impl Flood {
    /// Begins anew with the labels of a period that was put aside for a flood, as [`Self::hear`] does.
    pub(super) fn begun_with(labels: Vec<f32>, scores: Vec<f32>) -> Self {
        Self { labels, scores }
    }

    /// Takes a period's labels and the champion's probabilities of them. Why they are not believed, if periods together
    /// say what one of them is too short to say.
    ///
    /// This is the cumulative sum of Page (1954, "Continuous inspection schemes"): of the frauds less the most that is
    /// plausible, counted from where it was last at its lowest. Rates below that, such as those of a new pattern, never
    /// add up.
    pub(super) fn hear(
        &mut self,
        labels: &[f32],
        scores: &[f32],
        settings: &GateSettings,
    ) -> Option<String> {
        self.labels.extend_from_slice(labels);
        self.scores.extend_from_slice(scores);
        let frauds = self.labels.iter().filter(|label| **label > 0.5).count();
        let expected: f64 = self.scores.iter().map(|score| f64::from(*score)).sum();
        let is_plausible = frauds as f64 <= settings.max_fraud_ratio * expected;
        if is_plausible || self.labels.len() > FLOOD_ROWS {
            *self = Self::default();
            return None;
        }
        let reason = contradiction_of(&self.labels, &self.scores, settings)?;
        // The next period begins with this one: those before it were believed, and must not speak against it for long.
        let before = self.labels.len() - labels.len();
        self.labels.drain(..before);
        self.scores.drain(..before);
        Some(format!("in the newest periods together, {reason}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frauds_that_are_far_too_many_for_periods_together_are_not_believed() {
        let settings = GateSettings::default();
        let mut flood = Flood::default();
        // Of 40 labels, scored low as frauds and genuine events alike.
        let mut hear = |frauds: usize| {
            let labels: Vec<f32> = (0..40_usize)
                .map(|row| f32::from(u8::from(row.is_multiple_of(5) && row / 5 < frauds)))
                .collect();
            let scores: Vec<f32> = (0..40).map(|row| 0.004 + (row % 3) as f32 / 1e4).collect();
            flood.hear(&labels, &scores, &settings)
        };
        // Ten times as many as expected are plausible, for however long.
        for period in 0..200 {
            assert_eq!(hear(1), None, "{period}");
        }
        assert_eq!((hear(7), hear(7)), (None, None));
        let reason = hear(7).unwrap();
        let said = "in the newest periods together, 21 of 120 labels are frauds";
        assert!(reason.starts_with(said), "{reason}");
        // Its labels and the next ones are fewer than tell anything, and usual ones end it.
        assert_eq!(hear(7), None);
        assert!(hear(7).is_some());
        for _ in 0..6 {
            assert_eq!(hear(0), None);
        }
        assert!(flood.labels.is_empty());
    }
}
