//! The scorer's side of a model: rows in, probabilities out, on the CPU and without Burn.
//!
//! A row's codes are mostly ones and zeros, so the first layer need not be multiplied out: for each
//! input, the sum of the weights below the value's bin is known beforehand, and only the bin's own
//! code is a real product. How a model is trained is in [`crate::trainer`](crate::update).

use crate::checkpoint::Checkpoint;
use crate::dense::Dense;
use crate::encoder::{Encoder, Place};
use crate::error::LearnerError;

/// A model ready to score. It does not change, and may be shared between threads.
#[derive(Debug, Clone)]
pub struct Model {
    encoder: Encoder,
    first: FirstLayer,
    rest: Vec<Dense>,
    widest: usize,
}

impl Model {
    /// Prepares a checkpoint's network for scoring.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let layers = checkpoint.layers();
        Self {
            encoder: checkpoint.encoder().clone(),
            first: FirstLayer::new(checkpoint.encoder(), &layers[0]),
            rest: layers[1..].to_vec(),
            widest: layers.iter().map(|layer| layer.outputs).max().unwrap_or(0),
        }
    }

    /// Number of inputs of a row.
    pub fn width(&self) -> usize {
        self.encoder.width()
    }

    /// Fraud probabilities, one a row. `rows` is row-major with `width()` inputs a row, NaN where
    /// an input is missing.
    ///
    /// # Errors
    /// [`LearnerError::Width`] if the last row is incomplete.
    pub fn score(&self, rows: &[f32]) -> Result<Vec<f32>, LearnerError> {
        let mut scores = self.logits(rows)?;
        for score in &mut scores {
            *score = 1.0 / (1.0 + (-*score).exp());
        }
        Ok(scores)
    }

    /// Log odds of fraud, one a row; otherwise as [`Model::score`].
    ///
    /// # Errors
    /// [`LearnerError::Width`] if the last row is incomplete.
    pub fn logits(&self, rows: &[f32]) -> Result<Vec<f32>, LearnerError> {
        let rows = rows.chunks_exact(self.width());
        if !rows.remainder().is_empty() {
            return Err(LearnerError::Width {
                expected: self.width(),
                found: rows.remainder().len(),
            });
        }
        let mut buffers = (vec![0.0; self.widest], vec![0.0; self.widest]);
        Ok(rows.map(|row| self.logit(row, &mut buffers)).collect())
    }

    fn logit(&self, row: &[f32], (inputs, outputs): &mut (Vec<f32>, Vec<f32>)) -> f32 {
        self.first.forward(&self.encoder, row, inputs);
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
    /// Where each input begins in `table`.
    starts: Vec<usize>,
}

impl FirstLayer {
    fn new(encoder: &Encoder, layer: &Dense) -> Self {
        let outputs = layer.outputs;
        let mut table = Vec::with_capacity(2 * layer.weight.len());
        let mut starts = Vec::with_capacity(encoder.width());
        for input in 0..encoder.width() {
            starts.push(table.len());
            let (from, bins) = (encoder.offset(input), encoder.bins(input));
            let mut below = vec![0.0_f64; outputs];
            for code in from..=from + bins {
                if code == from + bins {
                    below.fill(0.0);
                }
                let weights = &layer.weight[code * outputs..(code + 1) * outputs];
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
            bias: layer.bias.clone(),
            table,
            starts,
        }
    }

    fn forward(&self, encoder: &Encoder, row: &[f32], sums: &mut [f32]) {
        let sums = &mut sums[..self.outputs];
        sums.copy_from_slice(&self.bias);
        for (input, value) in row.iter().enumerate() {
            let (entry, code) = match encoder.place(input, *value) {
                Place::Missing => (encoder.bins(input), 1.0),
                Place::Bin { bin, fraction } => (bin, fraction),
            };
            let at = self.starts[input] + entry * 2 * self.outputs;
            let (below, own) = self.table[at..at + 2 * self.outputs].split_at(self.outputs);
            for ((sum, below), own) in sums.iter_mut().zip(below).zip(own) {
                *sum += below + code * own;
            }
        }
    }
}

/// outputs = relu(inputs)·W + b. Inputs at or below zero are skipped.
fn rectified_forward(layer: &Dense, inputs: &[f32], outputs: &mut [f32]) {
    let outputs = &mut outputs[..layer.outputs];
    outputs.copy_from_slice(&layer.bias);
    let rows = layer.weight.chunks_exact(layer.outputs);
    for (input, weights) in inputs.iter().zip(rows) {
        if *input > 0.0 {
            for (output, weight) in outputs.iter_mut().zip(weights) {
                *output += input * weight;
            }
        }
    }
}
