//! Alarms on the events that are scored now, days before their labels are back: whether the model's inputs, and its
//! scores, are still distributed as they were.
//!
//! A period's inputs are compared with the first ones that were seen, as the learner's checks compare labelled ones,
//! and an input is named where it moved farther than it ever did. An alarm changes nothing by itself: the events are
//! real, whatever they look like, and must be scored.

use millrace_learner::{DriftWatch, Encoder, Histograms, Model};

/// Scored events that the reference holds before anything is compared.
const REFERENCE_ROWS: u64 = 20_000;

/// Periods in a row after which what moved is usual: nobody reads the same alarm every hour.
const NEW_NORMAL: usize = 6;

/// How alarms and metrics call the scores, beside the inputs.
const SCORE: &str = "score";

/// What was scored lately.
pub struct ScoredWatch {
    every_us: i64,
    names: Vec<String>,
    state: Option<State>,
}

struct State {
    encoder: Encoder,
    reference: Histograms,
    current: Histograms,
    watch: DriftWatch,
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
    /// Its population stability index.
    pub stability: f64,
    /// The largest that was usual.
    pub usual: f64,
}

impl ScoredWatch {
    /// Watches the inputs of these names, and the scores, in periods of so many microseconds.
    #[must_use]
    pub fn new(mut names: Vec<String>, every_us: i64) -> Self {
        names.push(SCORE.to_owned());
        Self {
            every_us,
            names,
            state: None,
        }
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
        let state = self
            .state
            .get_or_insert_with(|| State::new(model.encoder()));
        let ended = state.period.filter(|before| *before < period);
        state.period = Some(state.period.map_or(period, |before| before.max(period)));
        let mut alarms = Vec::new();
        if let Some(ended) = ended {
            let current = std::mem::replace(&mut state.current, Histograms::new(&state.encoder));
            if state.reference.rows() >= REFERENCE_ROWS && current.rows() > 0 {
                let stability = current.stability(&state.reference);
                for (name, value) in self.names.iter().zip(&stability) {
                    metrics::gauge!("millrace_input_stability_index", "input" => name.clone())
                        .set(*value);
                }
                let drifts = state.watch.unusual(&stability);
                state.unusual_periods = if drifts.is_empty() {
                    0
                } else {
                    state.unusual_periods + 1
                };
                if drifts.is_empty() || state.unusual_periods >= NEW_NORMAL {
                    state.watch.remember(&stability);
                }
                for drift in drifts {
                    let input = self.names.get(drift.input).cloned().unwrap_or_default();
                    metrics::counter!("millrace_drift_alarms_total", "input" => input.clone())
                        .increment(1);
                    alarms.push(Alarm {
                        until_us: (ended + 1) * self.every_us,
                        input,
                        stability: drift.stability,
                        usual: drift.usual,
                    });
                }
            }
        }
        if state.reference.rows() < REFERENCE_ROWS {
            state.reference.add(&state.encoder, rows);
            state.reference.add_scores(scores);
        }
        state.current.add(&state.encoder, rows);
        state.current.add_scores(scores);
        alarms
    }
}

impl State {
    fn new(encoder: &Encoder) -> Self {
        Self {
            encoder: encoder.clone(),
            reference: Histograms::new(encoder),
            current: Histograms::new(encoder),
            watch: DriftWatch::new(encoder.width() + 1),
            period: None,
            unusual_periods: 0,
        }
    }
}
