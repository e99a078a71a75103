//! Whether a period's labels are to be believed, before a model learns them.
//!
//! Labels are joined by id, so that one delivered twice is learned once; that is not checked here.

use millrace_learner::{
    Cause, DriftWatch, Encoder, Examples, GateSettings, Histograms, Outlying, TailWatch, Tails,
    roc_auc,
};

use super::history::History;

/// What was usual so far.
pub(super) struct Checks {
    /// What all is counted in: its bins and categories.
    encoder: Encoder,
    reference: Histograms,
    watch: DriftWatch,
    tails: TailWatch,
    /// Periods in a row that were refused for their inputs.
    unusual_periods: usize,
    /// Labels that were believed, and frauds among them.
    believed: (usize, usize),
    silence: Silence,
    flood: Flood,
}

/// Labels since the newest period that said fraud about as often as was to be expected.
#[derive(Default)]
struct Silence {
    labels: usize,
    frauds: usize,
    expected: f64,
}

/// Labels since frauds last were no more than is plausible, with the champion's probabilities.
#[derive(Default)]
struct Flood {
    labels: Vec<f32>,
    scores: Vec<f32>,
}

/// Why a period's labels are put aside.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Disbelief {
    /// The labels, or some of their inputs, contradict what is known: they stay aside.
    Labels(String),
    /// The inputs are not what they were: they are learned once they are usual.
    Inputs(String),
}

impl Disbelief {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Labels(reason) | Self::Inputs(reason) => reason,
        }
    }

    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Labels(_) => Cause::Labels,
            Self::Inputs(_) => Cause::Inputs,
        }
    }
}

/// Frauds, and genuine events, from which on labels can contradict a model.
const TELLING: usize = 20;
/// How many times too many frauds may be expected before a lack of them says anything: the champion may be badly
/// calibrated, above all the first one.
const OVERESTIMATE: f64 = 3.0;
/// So few frauds are not believed where chance alone would seldom give so few: none where 28 were expected.
const UNLIKELY: f64 = 1e-4;
/// Labels that are counted together for a flood of frauds, at most. A process that starts counts fewer: see `recall.rs`.
const FLOOD_ROWS: usize = 50_000;
/// Examples that the reference holds, about.
const REFERENCE_ROWS: usize = 20_000;

impl Checks {
    /// Learns what is usual from a history of periods of `every_us`. The encoder's edges are of the labels up to number
    /// `fitted`; 0 where that is not known.
    pub(super) fn new(
        encoder: &Encoder,
        history: &History,
        until: u64,
        every_us: i64,
        fitted: u64,
    ) -> Self {
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
            encoder: encoder.clone(),
            reference,
            watch,
            tails: usual_tails(encoder, history, &rows, until, every_us, fitted),
            unusual_periods: 0,
            believed: (
                rows.len(),
                rows.iter().filter(|row| history.is_fraud(**row)).count(),
            ),
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
            unusual_periods: before.unusual_periods,
            silence: before.silence,
            flood: before.flood,
            ..self
        }
    }

    /// Why the labels of a period must not be learned, if there is a reason. `scores` are the
    /// champion's probabilities, `names` the inputs'.
    pub(super) fn disbelief(
        &mut self,
        names: &[String],
        fresh: &Examples,
        scores: &[f32],
        settings: &GateSettings,
    ) -> Option<Disbelief> {
        if let Some(reason) = contradiction(fresh, scores, settings) {
            return Some(Disbelief::Labels(reason));
        }
        let encoder = &self.encoder;
        let mut histograms = Histograms::new(encoder);
        histograms.add(encoder, fresh.inputs());
        let stability = histograms.stability(&self.reference);
        let drifts = self.watch.unusual(&stability);
        let Some(first) = drifts.first() else {
            self.unusual_periods = 0;
            let mut tails = Tails::new(encoder);
            tails.add(encoder, fresh.inputs());
            let outlying = self.tails.judge(tails, settings.unusual_periods.max(1));
            if let Some(reason) = beyond(&outlying, names) {
                return Some(Disbelief::Labels(reason));
            }
            self.watch.remember(&stability);
            // Only where the inputs are as ever is the champion's expectation worth something.
            if let Some(reason) = self.flood.hear(fresh.labels(), scores, settings) {
                return Some(Disbelief::Labels(reason));
            }
            return self.silence(fresh, scores, settings);
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

    /// Why labels that say fraud too seldom must not be learned, if they do.
    fn silence(
        &mut self,
        fresh: &Examples,
        scores: &[f32],
        settings: &GateSettings,
    ) -> Option<Disbelief> {
        let (labels, frauds) = (fresh.len(), fresh.frauds());
        let expected = expected_frauds(scores, self.believed);
        let ratio = settings.max_fraud_ratio;
        let reason = self.silence.hear(labels, frauds, expected, ratio);
        if reason.is_none() {
            self.believed.0 += labels;
            self.believed.1 += frauds;
        }
        reason.map(Disbelief::Labels)
    }

    /// Takes labels that a process before this one has believed, and the champion's probabilities of them: how often they
    /// said fraud counts on.
    pub(super) fn recall_silence(
        &mut self,
        labels: &Examples,
        scores: &[f32],
        settings: &GateSettings,
    ) {
        let expected = expected_frauds(scores, self.believed);
        let ratio = settings.max_fraud_ratio;
        // Whether they were to be believed was decided then.
        let (labels, frauds) = (labels.len(), labels.frauds());
        let _ = self.silence.hear(labels, frauds, expected, ratio);
    }

    /// Begins to count for a flood of frauds anew, with labels that were put aside, or none, and probabilities of them. Those
    /// that were put aside for what they say alone were not counted.
    pub(super) fn begin_flood(&mut self, labels: &[f32], scores: &[f32], settings: &GateSettings) {
        self.flood = Flood::default();
        if contradiction_of(labels, scores, settings).is_none() {
            self.recall_flood(labels, scores, settings);
        }
    }

    /// Counts labels that were believed, and probabilities that were expected of them.
    pub(super) fn recall_flood(&mut self, labels: &[f32], scores: &[f32], settings: &GateSettings) {
        // Whether they were to be believed was decided then.
        let _ = self.flood.hear(labels, scores, settings);
    }

    /// Labels that were believed, and frauds among them.
    #[cfg(test)]
    pub(super) fn believed(&self) -> (usize, usize) {
        self.believed
    }

    /// Whether inputs have been unusual for so long that they are usual now.
    pub(super) fn is_new_normal(&self, settings: &GateSettings) -> bool {
        self.unusual_periods >= settings.unusual_periods.max(1)
    }
}

/// What share of values beyond the edges is usual, by the periods of `rows`, which are believed, and how many of the
/// newest in a row were put aside for one that is not.
fn usual_tails(
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
    let period = |row: &usize| history.known_us(*row).div_euclid(every_us);
    let tails = |rows: &[usize]| {
        let mut tails = Tails::new(encoder);
        let mut inputs = Vec::new();
        for row in rows {
            inputs.clear();
            history.copy_inputs(*row, &mut inputs);
            tails.add(encoder, &inputs);
        }
        tails
    };
    // What the edges are of is within them.
    let newer = rows.partition_point(|row| history.number(*row) <= fitted);
    for rows in rows[newer..].chunk_by(|a, b| period(a) == period(b)) {
        watch.remember(tails(rows));
    }
    let aside = rows.last().map_or(0, |last| last + 1)..history.len();
    let aside: Vec<usize> = aside
        .take_while(|row| history.number(*row) <= until)
        .collect();
    for rows in aside.chunk_by(|a, b| period(a) == period(b)) {
        watch.recall(tails(rows));
    }
    watch
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

/// How many of some labels are frauds at least, by the champion's probabilities and by how often labels have said so
/// before: neither a champion that expects too many nor a wave that is over makes later labels look wrong.
fn expected_frauds(scores: &[f32], (labels, frauds): (usize, usize)) -> f64 {
    let by_champion: f64 = scores.iter().map(|score| f64::from(*score)).sum();
    let usual = frauds as f64 / labels.max(1) as f64;
    by_champion.min(usual * scores.len() as f64)
}

impl Silence {
    /// Takes a period's labels. Why they are not believed, if labels have said fraud too seldom for too long.
    fn hear(
        &mut self,
        labels: usize,
        frauds: usize,
        expected: f64,
        max_fraud_ratio: f64,
    ) -> Option<String> {
        self.labels += labels;
        self.frauds += frauds;
        self.expected += expected;
        let is_usual = frauds >= 1 && frauds as f64 * OVERESTIMATE >= expected;
        if is_usual || self.frauds as f64 * max_fraud_ratio >= self.expected {
            *self = Self::default();
            return None;
        }
        let by_chance = poisson_at_most(self.frauds, self.expected / OVERESTIMATE);
        (by_chance < UNLIKELY).then(|| {
            format!(
                "{} of the newest {} labels are frauds where {:.1} were expected: does the feed of labels still say \
                 which events are frauds?",
                self.frauds, self.labels, self.expected
            )
        })
    }
}

impl Flood {
    /// Takes a period's labels and the champion's probabilities of them. Why they are not believed, if periods together
    /// say what one of them is too short to say.
    ///
    /// This is the cumulative sum of Page (1954, "Continuous inspection schemes"): of the frauds less the most that is
    /// plausible, counted from where it was last at its lowest. Rates below that, such as those of a new pattern, never
    /// add up.
    fn hear(&mut self, labels: &[f32], scores: &[f32], settings: &GateSettings) -> Option<String> {
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
        // They are back, and at once believed.
        assert_eq!(hear(3, 4.0), None);
        assert_eq!(hear(0, 4.0), None);
        // Many labels at once decide at once.
        assert!(hear(2, 200.0).is_some());
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
        assert_eq!(expected_frauds(&wild, (1_000, 10)), 1.0);
        assert_eq!(expected_frauds(&[0.25, 0.25], (10, 9)), 0.5);
        assert_eq!(expected_frauds(&wild, (0, 0)), 0.0);
        assert!((poisson_at_most(0, 9.25) - (-9.25_f64).exp()).abs() < 1e-12);
        assert!((poisson_at_most(2, 2.0) - 5.0 * (-2.0_f64).exp()).abs() < 1e-12);
    }

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
