//! The scorer's side of a model: rows in, probabilities out, on the CPU and without Burn.
//!
//! A row's codes are mostly ones and zeros, so the first layer need not be multiplied out: for each
//! input, the sum of the weights below the value's bin is known beforehand, and only the bin's own
//! code is a real product. The loops over numbers are in `kernel.rs`; how a model is trained is in
//! [`crate::trainer`](crate::update).

use std::ops::Range;

use crate::calibration::Calibration;
use crate::checkpoint::Checkpoint;
use crate::encoder::Encoder;
use crate::error::LearnerError;
use crate::kernel::{DenseLayer, FirstLayer, LastLayer, Term};
use crate::layer::Layer;

/// A model ready to score. It does not change, and may be shared between threads.
#[derive(Debug, Clone)]
pub struct Model {
    encoder: Encoder,
    members: usize,
    first: FirstLayer,
    /// The layers between the first and the last.
    middle: Vec<DenseLayer>,
    /// None where the first layer is the last.
    last: Option<LastLayer>,
    calibration: Calibration,
}

impl Model {
    /// Prepares a checkpoint's networks for scoring.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        Self::of(checkpoint, checkpoint.averaged(), checkpoint.calibration())
    }

    /// As training left it, and not as it serves.
    pub(crate) fn of_iterate(checkpoint: &Checkpoint) -> Self {
        Self::of(checkpoint, checkpoint.layers(), Calibration::IDENTITY)
    }

    fn of(checkpoint: &Checkpoint, layers: &[Layer], calibration: Calibration) -> Self {
        let encoder = checkpoint.encoder();
        // A checkpoint has at least one layer.
        let (first, rest) = (&layers[0], &layers[1..]);
        let (last, middle) = match rest {
            [middle @ .., last] => (Some(last), middle),
            [] => (None, &[][..]),
        };
        let next = rest.iter().skip(1).map(Some);
        Self {
            members: checkpoint.members(),
            first: FirstLayer::new(encoder, first, rest.first()),
            middle: middle
                .iter()
                .zip(next)
                .map(|(layer, next)| DenseLayer::new(layer, next))
                .collect(),
            last: last.map(LastLayer::new),
            encoder: encoder.clone(),
            calibration,
        }
    }

    /// The encoder of the inputs.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Number of inputs of a row.
    pub fn width(&self) -> usize {
        self.encoder.width()
    }

    /// The last step of its scores.
    pub fn calibration(&self) -> Calibration {
        self.calibration
    }

    /// Fraud probabilities, one a row: the mean over the members, calibrated. `rows` is row-major with
    /// `width()` inputs a row, NaN where an input is missing.
    ///
    /// # Errors
    /// [`LearnerError::Width`] if the last row is incomplete.
    pub fn score(&self, rows: &[f32]) -> Result<Vec<f32>, LearnerError> {
        let odds = self.odds(rows)?;
        let mean = |o: &Odds| (o.fraud / (o.fraud + o.genuine)) as f32;
        let calibrated =
            |o: &Odds| (1.0 / (1.0 + (-self.calibration.apply(o.logit())).exp())) as f32;
        Ok(match self.calibration.is_identity() {
            true => odds.iter().map(mean).collect(),
            false => odds.iter().map(calibrated).collect(),
        })
    }

    /// Log odds of the probability, one a row; otherwise as [`Model::score`].
    ///
    /// # Errors
    /// [`LearnerError::Width`] if the last row is incomplete.
    pub fn logits(&self, rows: &[f32]) -> Result<Vec<f32>, LearnerError> {
        let odds = self.odds(rows)?;
        let logit = |o: &Odds| self.calibration.apply(o.logit()) as f32;
        Ok(odds.iter().map(logit).collect())
    }

    /// The same before calibration: the log odds of the members' mean.
    ///
    /// # Errors
    /// [`LearnerError::Width`] if the last row is incomplete.
    pub fn raw_logits(&self, rows: &[f32]) -> Result<Vec<f32>, LearnerError> {
        let odds = self.odds(rows)?;
        Ok(odds.iter().map(|o| o.logit() as f32).collect())
    }

    /// How far each input of one row moves the log odds: what they are, less what they would be with the input's
    /// [usual value](Encoder::usual) and all others unchanged. One number an input.
    ///
    /// The numbers of inputs that stand for one thing (a count of an hour and of a day) do not add up to the whole:
    /// each is told alone.
    ///
    /// # Errors
    /// [`LearnerError::Width`] if the row is not of `width()` inputs.
    pub fn contributions(&self, row: &[f32]) -> Result<Vec<f64>, LearnerError> {
        let width = self.width();
        if row.len() != width {
            return Err(LearnerError::Width {
                expected: width,
                found: row.len(),
            });
        }
        let mut rows = row.repeat(width + 1);
        for input in 0..width {
            rows[(input + 1) * width + input] = self.encoder.usual(input);
        }
        let logits = self.logits(&rows)?;
        let (whole, without) = logits
            .split_first()
            .map_or((0.0, &[][..]), |(w, r)| (*w, r));
        Ok(without
            .iter()
            .map(|logit| f64::from(whole) - f64::from(*logit))
            .collect())
    }

    fn odds(&self, rows: &[f32]) -> Result<Vec<Odds>, LearnerError> {
        let width = self.width();
        let count = rows.len() / width;
        if rows.len() != count * width {
            return Err(LearnerError::Width {
                expected: width,
                found: rows.len() - count * width,
            });
        }
        // Where each value falls is the same for all members.
        let mut terms = Vec::with_capacity(2 * rows.len());
        let mut of_rows = Vec::with_capacity(count);
        for row in rows.chunks_exact(width) {
            let first = terms.len();
            for (input, value) in row.iter().enumerate() {
                let place = self.encoder.place(input, *value);
                terms.extend(self.first.terms(input, place));
            }
            of_rows.push(first..terms.len());
        }
        let mut odds = vec![Odds::default(); count];
        // With the widest vectors that this machine has.
        pulp::Arch::new().dispatch(Scoring {
            model: self,
            terms: &terms,
            rows: &of_rows,
            odds: &mut odds,
        });
        Ok(odds)
    }
}

/// Rows, each as a member sees it, that pass the layers together: few enough for a core's nearest cache.
const TOGETHER: usize = 64;

/// The members' answers to some rows, compiled once for each kind of vector unit.
struct Scoring<'a> {
    model: &'a Model,
    /// What the rows take from the first layer's table.
    terms: &'a [Term],
    /// Each row's place in `terms`.
    rows: &'a [Range<usize>],
    odds: &'a mut [Odds],
}

impl pulp::WithSimd for Scoring<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let model = self.model;
        let middle = model.middle.iter().map(DenseLayer::outputs);
        let widest = middle.fold(model.first.outputs(), usize::max);
        // As much as passes the layers together, and no more: a request has few rows.
        let pairs = TOGETHER.min(self.odds.len() * model.members);
        let mut values = vec![0.0; pairs * widest];
        let mut next = values.clone();
        let tiles = self.odds.chunks_mut(TOGETHER);
        for (odds, rows) in tiles.zip(self.rows.chunks(TOGETHER)) {
            // Few rows go through several members at once, for these share their matrix; many go member by member,
            // for the weights of one fit into a core's cache, and those of all do not.
            let at_once = (TOGETHER / odds.len()).max(1);
            for member in (0..model.members).step_by(at_once) {
                let members = member..(member + at_once).min(model.members);
                let pairs = members.len() * odds.len();
                let mut stride = model.first.outputs();
                for (row, terms) in rows.iter().enumerate() {
                    let terms = &self.terms[terms.clone()];
                    let outs = &mut values[row * stride..pairs * stride];
                    let apart = odds.len() * stride;
                    let members = members.clone();
                    model.first.forward(simd, members, terms, outs, apart);
                }
                for layer in &model.middle {
                    let inputs = &values[..pairs * stride];
                    layer.forward(simd, members.clone(), odds.len(), inputs, &mut next);
                    stride = layer.outputs();
                    std::mem::swap(&mut values, &mut next);
                }
                let mut outputs = values.chunks_exact(stride);
                for member in members {
                    for (odds, outputs) in odds.iter_mut().zip(&mut outputs) {
                        odds.add(f64::from(match &model.last {
                            Some(last) => last.logit(simd, member, outputs),
                            None => outputs[0],
                        }));
                    }
                }
            }
        }
    }
}

/// Sums over the members of the probability of fraud and of its complement. Both, because one of
/// them may be too small to be told from the other's distance to 1.
#[derive(Debug, Clone, Copy, Default)]
struct Odds {
    fraud: f64,
    genuine: f64,
}

impl Odds {
    fn add(&mut self, logit: f64) {
        // Beyond, e^z is no finite number.
        let logit = logit.clamp(-700.0, 700.0);
        self.fraud += 1.0 / (1.0 + (-logit).exp());
        self.genuine += 1.0 / (1.0 + logit.exp());
    }

    fn logit(&self) -> f64 {
        (self.fraud / self.genuine).ln()
    }
}
