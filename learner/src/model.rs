//! The scorer's side of a model: rows in, probabilities out, on the CPU and without Burn.
//!
//! A row's codes are mostly ones and zeros, so the first layer need not be multiplied out: for each
//! input, the sum of the weights below the value's bin is known beforehand, and only the bin's own
//! code is a real product. How a model is trained is in [`crate::trainer`](crate::update).

use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::encoder::{Encoder, Place};
use crate::error::LearnerError;
use crate::layer::Layer;

/// A model ready to score. It does not change, and may be shared between threads.
#[derive(Debug, Clone)]
pub struct Model {
    encoder: Encoder,
    members: Vec<Member>,
    widest: usize,
}

/// One network of the ensemble. Its first layer has its scales multiplied in; the others share their matrix, which
/// then stays in a core's nearest cache from member to member.
#[derive(Debug, Clone)]
struct Member {
    first: FirstLayer,
    rest: Vec<Dense>,
}

/// y = ((x ⊙ scale_in)·W) ⊙ scale_out + b, with W `[inputs, outputs]` row-major.
#[derive(Debug, Clone)]
struct Dense {
    weight: Arc<[f32]>,
    scale_in: Vec<f32>,
    scale_out: Vec<f32>,
    bias: Vec<f32>,
}

/// The matrices of a layer: one, or one a member.
fn matrices(layer: &Layer) -> Vec<Arc<[f32]>> {
    let size = (layer.inputs * layer.outputs).max(1);
    layer.weight.chunks_exact(size).map(Arc::from).collect()
}

impl Dense {
    fn new(layer: &Layer, matrices: &[Arc<[f32]>], member: usize) -> Self {
        let own = |numbers: &[f32], count: usize| match numbers {
            [] => vec![1.0; count],
            _ => numbers[member * count..(member + 1) * count].to_vec(),
        };
        Self {
            weight: Arc::clone(matrices.get(member).unwrap_or(&matrices[0])),
            scale_in: own(&layer.scale_in, layer.inputs),
            scale_out: own(&layer.scale_out, layer.outputs),
            bias: own(&layer.bias, layer.outputs),
        }
    }
}

impl Model {
    /// Prepares a checkpoint's networks for scoring.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        Self::of(checkpoint, checkpoint.averaged())
    }

    /// As training left it, and not as it serves.
    pub(crate) fn of_iterate(checkpoint: &Checkpoint) -> Self {
        Self::of(checkpoint, checkpoint.layers())
    }

    fn of(checkpoint: &Checkpoint, layers: &[Layer]) -> Self {
        let rest = layers.iter().skip(1);
        let rest: Vec<_> = rest.map(|layer| (layer, matrices(layer))).collect();
        let member = |member: usize| {
            let first = layers.first()?;
            Some(Member {
                first: FirstLayer::new(checkpoint.encoder(), first.folded(member)),
                rest: rest
                    .iter()
                    .map(|(layer, matrices)| Dense::new(layer, matrices, member))
                    .collect(),
            })
        };
        Self {
            encoder: checkpoint.encoder().clone(),
            members: (0..checkpoint.members()).filter_map(member).collect(),
            widest: layers.iter().map(|layer| layer.outputs).max().unwrap_or(0),
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

    /// Fraud probabilities, one a row: the mean over the members. `rows` is row-major with
    /// `width()` inputs a row, NaN where an input is missing.
    ///
    /// # Errors
    /// [`LearnerError::Width`] if the last row is incomplete.
    pub fn score(&self, rows: &[f32]) -> Result<Vec<f32>, LearnerError> {
        let odds = self.odds(rows)?;
        Ok(odds
            .iter()
            .map(|o| (o.fraud / (o.fraud + o.genuine)) as f32)
            .collect())
    }

    /// Log odds of the probability, one a row; otherwise as [`Model::score`].
    ///
    /// # Errors
    /// [`LearnerError::Width`] if the last row is incomplete.
    pub fn logits(&self, rows: &[f32]) -> Result<Vec<f32>, LearnerError> {
        let odds = self.odds(rows)?;
        Ok(odds
            .iter()
            .map(|o| (o.fraud / o.genuine).ln() as f32)
            .collect())
    }

    /// How far each input of one row moves the log odds: what they are, less what they would be with the input's
    /// [median](Encoder::median) and all others unchanged. One number an input.
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
            rows[(input + 1) * width + input] = self.encoder.median(input);
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
        let places: Vec<Place> = (0..rows.len())
            .map(|at| self.encoder.place(at % width, rows[at]))
            .collect();
        let mut odds = vec![Odds::default(); count];
        // With the widest vectors that this machine has.
        pulp::Arch::new().dispatch(Scoring {
            model: self,
            places: &places,
            odds: &mut odds,
        });
        Ok(odds)
    }
}

/// The members' answers to some rows, compiled once for each kind of vector unit.
struct Scoring<'a> {
    model: &'a Model,
    places: &'a [Place],
    odds: &'a mut [Odds],
}

impl pulp::WithSimd for Scoring<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _simd: S) {
        let (width, widest) = (self.model.width(), self.model.widest);
        let mut buffers = (vec![0.0; widest], vec![0.0; widest]);
        // Member by member: the weights of one fit into a core's cache, those of all do not.
        for member in &self.model.members {
            for (odds, places) in self.odds.iter_mut().zip(self.places.chunks_exact(width)) {
                odds.add(f64::from(member.logit(places, &mut buffers)));
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
}

impl Member {
    #[inline(always)]
    fn logit(&self, places: &[Place], (inputs, outputs): &mut (Vec<f32>, Vec<f32>)) -> f32 {
        self.first.forward(places, inputs);
        for layer in &self.rest {
            rectified_forward(layer, inputs, outputs);
            std::mem::swap(inputs, outputs);
        }
        inputs[0]
    }
}

/// The first layer, laid out by input and bin.
#[derive(Debug, Clone)]
struct FirstLayer {
    outputs: usize,
    bias: Vec<f32>,
    /// For each bin of each input: the summed weights of the bins below it, then its own weights,
    /// `2 * outputs` numbers. For each input, the weights of "missing" come last, after as many
    /// zeros.
    table: Vec<f32>,
    /// Where each input begins in `table`, and its number of bins.
    starts: Vec<(usize, usize)>,
}

impl FirstLayer {
    fn new(encoder: &Encoder, (weight, bias): (Vec<f32>, Vec<f32>)) -> Self {
        let outputs = bias.len();
        let mut table = Vec::with_capacity(2 * weight.len());
        let mut starts = Vec::with_capacity(encoder.width());
        for input in 0..encoder.width() {
            let (from, bins) = (encoder.offset(input), encoder.bins(input));
            starts.push((table.len(), bins));
            let mut below = vec![0.0_f64; outputs];
            for code in from..=from + bins {
                if code == from + bins {
                    below.fill(0.0);
                }
                let weights = &weight[code * outputs..(code + 1) * outputs];
                table.extend(below.iter().map(|sum| *sum as f32));
                table.extend_from_slice(weights);
                below
                    .iter_mut()
                    .zip(weights)
                    .for_each(|(sum, w)| *sum += f64::from(*w));
            }
        }
        Self {
            outputs,
            bias,
            table,
            starts,
        }
    }

    #[inline(always)]
    fn forward(&self, places: &[Place], sums: &mut [f32]) {
        let sums = &mut sums[..self.outputs];
        sums.copy_from_slice(&self.bias);
        for ((start, bins), place) in self.starts.iter().zip(places) {
            let (entry, code) = match *place {
                Place::Missing => (*bins, 1.0),
                Place::Bin { bin, fraction } => (bin, fraction),
            };
            let at = start + entry * 2 * self.outputs;
            let (below, own) = self.table[at..at + 2 * self.outputs].split_at(self.outputs);
            for ((sum, below), own) in sums.iter_mut().zip(below).zip(own) {
                *sum += below + code * own;
            }
        }
    }
}

/// Outputs that are summed up in registers at a time.
const BLOCK: usize = 64;

/// outputs = ((relu(inputs) ⊙ scale_in)·W) ⊙ scale_out + b. Inputs at or below zero are skipped.
#[inline(always)]
fn rectified_forward(layer: &Dense, inputs: &[f32], outputs: &mut [f32]) {
    let width = layer.bias.len();
    if width == 1 {
        outputs[0] = rectified_dot(layer, inputs) * layer.scale_out[0] + layer.bias[0];
        return;
    }
    for start in (0..width).step_by(BLOCK) {
        let end = width.min(start + BLOCK);
        let mut sums = [0.0_f32; BLOCK];
        for ((input, scale), weights) in inputs
            .iter()
            .zip(&layer.scale_in)
            .zip(layer.weight.chunks_exact(width))
        {
            if *input > 0.0 {
                let input = input * scale;
                // A block of a length that is known is kept in registers.
                match <&[f32; BLOCK]>::try_from(&weights[start..end]) {
                    Ok(weights) => (0..BLOCK).for_each(|at| sums[at] += input * weights[at]),
                    Err(_) => sums
                        .iter_mut()
                        .zip(&weights[start..end])
                        .for_each(|(sum, weight)| *sum += input * weight),
                }
            }
        }
        for at in start..end {
            outputs[at] = sums[at - start] * layer.scale_out[at] + layer.bias[at];
        }
    }
}

/// The only output of a last layer, before its scale and bias.
#[inline(always)]
fn rectified_dot(layer: &Dense, inputs: &[f32]) -> f32 {
    const LANES: usize = 16;
    let inputs = &inputs[..layer.scale_in.len()];
    let mut sums = [0.0_f32; LANES];
    let products = inputs.chunks(LANES).zip(layer.scale_in.chunks(LANES));
    for ((inputs, scales), weights) in products.zip(layer.weight.chunks(LANES)) {
        for (((sum, input), scale), weight) in sums.iter_mut().zip(inputs).zip(scales).zip(weights)
        {
            *sum += input.max(0.0) * scale * weight;
        }
    }
    sums.iter().sum()
}
