//! Labels that say fraud too seldom, as when a feed has stopped to say which events are frauds, or says it of few.

use millrace_learner::{Examples, Model};

use super::{OVERESTIMATE, UNLIKELY, poisson_at_most};
use crate::failure::Outcome;

/// Labels since frauds last were as many as is plausible.
#[derive(Default)]
pub(super) struct Silence {
    labels: usize,
    frauds: usize,
    expected: f64,
    /// See [`lack_after`].
    lack: f64,
    /// Labels were put aside: they are until nothing lacks.
    is_told: bool,
    before: Option<Before>,
}

/// What was expected before the first of these labels: what has learned that there are no frauds expects none.
struct Before {
    champion: Model,
    /// The share of labels that said fraud.
    usual: f64,
}

impl Silence {
    /// Takes a period's labels, with the champion, which has not learned them, and the share of labels that said fraud so
    /// far. Why they are not believed, if labels have said fraud too seldom for too long.
    ///
    /// # Errors
    /// Inputs that the champion cannot score.
    pub(super) fn hear_labels(
        &mut self,
        labels: &Examples,
        champion: &Model,
        usual: f64,
        max_fraud_ratio: f64,
    ) -> Outcome<Option<String>> {
        let (model, usual) = match &self.before {
            Some(before) => (&before.champion, before.usual),
            None => (champion, usual),
        };
        let scores = model.score(labels.inputs())?;
        let expected = expected_frauds(&scores, usual);
        let reason = self.hear(labels.len(), labels.frauds(), expected, max_fraud_ratio);
        if self.before.is_none() && self.labels > 0 {
            self.before = Some(Before {
                champion: champion.clone(),
                usual,
            });
        }
        Ok(reason)
    }

    /// Takes a period's labels, as [`Self::hear_labels`] does.
    fn hear(
        &mut self,
        labels: usize,
        frauds: usize,
        expected: f64,
        max_fraud_ratio: f64,
    ) -> Option<String> {
        self.lack = lack_after(self.lack, frauds, expected, max_fraud_ratio);
        if self.lack <= 0.0 {
            *self = Self::default();
            return None;
        }
        self.labels += labels;
        self.frauds += frauds;
        self.expected += expected;
        let by_chance = poisson_at_most(self.frauds, self.expected / OVERESTIMATE);
        self.is_told |= by_chance < UNLIKELY;
        self.is_told.then(|| {
            format!(
                "{} of the newest {} labels are frauds where {:.1} were expected: does the feed of labels still say \
                 which events are frauds? ({})",
                self.frauds,
                self.labels,
                self.expected,
                super::way_in(
                    max_fraud_ratio,
                    Some(self.expected / self.frauds as f64)
                )
            )
        })
    }
}

/// How many frauds lack after a period that had some where others were expected, in frauds that were expected.
///
/// This is the cumulative sum of Page (1954, "Continuous inspection schemes"), as for a flood: of the frauds that were
/// expected less the most that is plausible for those that came, counted from where it was last at its lowest. One fraud
/// in a period that expects one ends nothing where ten lack, and rates that are plausible never add up. What periods
/// before may add is bounded by what tells without any fraud: a feed that is back is believed after a few frauds.
pub(in crate::learning) fn lack_after(
    lack: f64,
    frauds: usize,
    expected: f64,
    max_fraud_ratio: f64,
) -> f64 {
    let most = -OVERESTIMATE * UNLIKELY.ln();
    // A champion that expects too many is no reason, whatever the ratio.
    let plausible = frauds as f64 * max_fraud_ratio.max(OVERESTIMATE);
    (lack.min(most) + expected - plausible).max(0.0)
}

/// How many of some labels are frauds at least, by a champion's probabilities and by the share that has been usual:
/// neither a champion that expects too many nor a wave that is over makes later labels look wrong, nor do labels of
/// events that seldom are frauds.
fn expected_frauds(scores: &[f32], usual: f64) -> f64 {
    let by_champion: f64 = scores.iter().map(|score| f64::from(*score)).sum();
    by_champion.min(usual * scores.len() as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use millrace_learner::{Device, GateSettings, LearnerSettings, update};

    use super::*;
    use crate::generate::draw::{Draw, Purpose};

    /// A model that expects one fraud in so many.
    fn model(one_in: usize) -> Model {
        let mut examples = Examples::new(1);
        for row in 0..2_000_usize {
            let fraud = row.is_multiple_of(one_in);
            examples.push(&[(row % 7) as f32], fraud, 1.0).unwrap();
        }
        let settings = LearnerSettings {
            hidden: Vec::new(),
            members: 1,
            bins: 4,
            initial_passes: 60,
            initial_learning_rate: 0.05,
            ..LearnerSettings::default()
        };
        let nothing = Examples::new(1);
        let made = update(&settings, Device::Cpu, None, &examples, &nothing, 7);
        Model::new(&made.unwrap().checkpoint)
    }

    #[test]
    fn what_has_learned_the_silence_is_not_asked() {
        let (before, after) = (model(10), model(200));
        let ratio = GateSettings::default().max_fraud_ratio;
        let mut labels = Examples::new(1);
        for row in 0..50 {
            labels.push(&[(row % 7) as f32], false, 1.0).unwrap();
        }
        let mut silence = Silence::default();
        let mut hear = |champion: &Model, usual: f64| {
            let reason = silence.hear_labels(&labels, champion, usual, ratio);
            reason.unwrap().is_some()
        };
        // Five are to be expected each time, and 28 tell: whatever is learned meanwhile.
        assert!(!hear(&before, 0.1));
        let told = (2..20).find(|_| hear(&after, 0.005));
        assert!(
            told.is_some_and(|period| (5..=8).contains(&period)),
            "{told:?}"
        );
        // A champion that expects few from the start is asked, and so is what labels have said.
        for (champion, usual) in [(&after, 0.1), (&before, 0.005)] {
            let mut silence = Silence::default();
            for period in 0..20 {
                let reason = silence.hear_labels(&labels, champion, usual, ratio);
                assert_eq!(reason.unwrap(), None, "{period}");
            }
        }
    }

    #[test]
    fn labels_that_stop_saying_fraud_are_not_believed() {
        let ratio = GateSettings::default().max_fraud_ratio;
        let mut silence = Silence::default();
        let mut hear = |frauds, expected| silence.hear(400, frauds, expected, ratio);
        assert_eq!(hear(5, 4.0), None);
        // Nothing for a while is chance, until it is not.
        for period in 1..=6 {
            assert_eq!(hear(0, 4.0), None, "period {period}");
        }
        let reason = hear(0, 4.0).unwrap();
        let said = "0 of the newest 2800 labels are frauds where 28.0 were expected";
        assert!(reason.contains(said), "{reason}");
        assert!(hear(0, 4.0).is_some());
        // Not silent, and far from usual.
        assert!(hear(1, 4.0).is_some());
        // They are back, and soon believed.
        assert_eq!(hear(3, 4.0), None);
        assert_eq!(hear(0, 4.0), None);
        // Many labels at once decide at once.
        assert!(hear(2, 200.0).is_some());
    }

    /// How many of so many periods are put aside, and how many frauds were expected when the first was, if a share of the
    /// frauds comes.
    fn heard(expected: f64, share: f64, periods: usize) -> (usize, Option<f64>) {
        let ratio = GateSettings::default().max_fraud_ratio;
        let mut draw = Draw::new(7, Purpose::Payments, 0, 0);
        let exp_minus_mean = (-share * expected).exp();
        let mut silence = Silence::default();
        let (mut refused, mut first) = (0, None);
        for period in 1..=periods {
            let frauds = draw.poisson(exp_minus_mean) as usize;
            if silence.hear(100, frauds, expected, ratio).is_some() {
                refused += 1;
                first = first.or(Some(period as f64 * expected));
            }
        }
        (refused, first)
    }

    #[test]
    fn a_feed_that_loses_most_frauds_is_told_from_few_frauds() {
        for expected in [0.3, 1.0, 3.0, 10.0] {
            for share in [1.0, 0.5] {
                let (refused, _) = heard(expected, share, 10_000);
                assert_eq!(refused, 0, "{expected} {share}");
            }
            // Single frauds do not end it, nor do they when it was told.
            for share in [0.05, 0.03] {
                let (refused, first) = heard(expected, share, 10_000);
                assert!(refused > 7_000, "{expected} {share}: {refused}");
                let is_soon = first.is_some_and(|first| first < 400.0);
                assert!(is_soon, "{expected} {share}: {first:?}");
            }
            let (_, first) = heard(expected, 0.0, 200);
            let is_soon = first.is_some_and(|first| first < 27.7 + expected);
            assert!(is_soon, "{expected}: {first:?}");
        }
    }

    #[test]
    fn a_feed_that_is_back_is_believed_after_a_few_frauds_however_long_it_was_silent() {
        let ratio = GateSettings::default().max_fraud_ratio;
        let mut silence = Silence::default();
        let told = (0..1_000).filter(|_| silence.hear(100, 0, 1.0, ratio).is_some());
        assert_eq!(told.count(), 1_000 - 27);
        let mut hear = |frauds| silence.hear(100, frauds, 1.0, ratio);
        let reason = hear(1).unwrap();
        let said = "1 of the newest 100100 labels are frauds where 1001.0 were expected";
        assert!(reason.starts_with(said), "{reason}");
        assert!(hear(1).is_some());
        assert!(hear(0).is_some());
        assert_eq!((hear(2), hear(0)), (None, None));
        // It began anew: what is said is of what came since.
        let reason = (1..40).find_map(|_| hear(0)).unwrap();
        let said = "0 of the newest 2800 labels are frauds where 28.0 were expected";
        assert!(reason.starts_with(said), "{reason}");
    }

    #[test]
    fn a_champion_that_expects_three_times_too_many_keeps_no_label_out() {
        let ratio = GateSettings::default().max_fraud_ratio;
        let mut silence = Silence::default();
        for period in 0..1_000 {
            let frauds = usize::from(period % 3 == 0);
            assert_eq!(silence.hear(100, frauds, 1.0, ratio), None, "{period}");
            assert_eq!(silence.hear(4_000, 13, 40.0, ratio), None, "{period}");
        }
        // It is held to how often labels have said fraud before.
        let wild = vec![0.5; 100];
        assert_eq!(expected_frauds(&wild, 0.01), 1.0);
        assert_eq!(expected_frauds(&[0.25, 0.25], 0.9), 0.5);
        assert_eq!(expected_frauds(&wild, 0.0), 0.0);
        assert!((poisson_at_most(0, 9.25) - (-9.25_f64).exp()).abs() < 1e-12);
        assert!((poisson_at_most(2, 2.0) - 5.0 * (-2.0_f64).exp()).abs() < 1e-12);
    }
}
