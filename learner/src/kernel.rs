//! A model's layers as the scorer has them, and their loops: laid out for vectors, and written for all widths of them.
//!
//! The result of a row does not depend on the rows beside it, to the bit: each of its sums is made in the same order in
//! every batch.

use std::ops::Range;

use pulp::Simd;

use crate::encoder::{Encoder, Place};
use crate::layer::Layer;

/// Outputs are padded with zeros to a multiple of this: two of the widest vectors.
const PANEL: usize = 32;
/// Rows that pass a matrix together: with two vectors each, their sums stay in registers.
const ROWS: usize = 4;

/// Numbers of a member, padded; `missing` where the layer has none, as scales that are not trained.
fn padded(numbers: &[f32], member: usize, count: usize, missing: f32) -> Vec<f32> {
    let mut padded = match numbers {
        [] => vec![missing; count],
        _ => numbers[member * count..(member + 1) * count].to_vec(),
    };
    padded.resize(count.next_multiple_of(PANEL), 0.0);
    padded
}

/// What an output passes on its way to the next layer: a ReLU and the scale with which that layer reads it.
#[derive(Debug, Clone)]
struct Passage(Option<Vec<f32>>);

impl Passage {
    /// None for the last layer: its output is the logit as it is.
    fn to(next: Option<&Layer>, member: usize) -> Self {
        Self(next.map(|next| padded(&next.scale_in, member, next.inputs, 1.0)))
    }

    #[inline(always)]
    fn pass<S: Simd>(&self, simd: S, at: usize, value: S::f32s) -> S::f32s {
        match &self.0 {
            Some(scale) => {
                let rectified = simd.max_f32s(value, simd.splat_f32s(0.0));
                simd.mul_f32s(rectified, vector::<S>(simd, scale, at))
            }
            None => value,
        }
    }
}

/// The vector that begins at a place.
#[inline(always)]
fn vector<S: Simd>(_simd: S, numbers: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&numbers[at..at + S::F32_LANES]).0[0]
}

#[inline(always)]
fn store<S: Simd>(_simd: S, numbers: &mut [f32], at: usize, value: S::f32s) {
    S::as_mut_simd_f32s(&mut numbers[at..at + S::F32_LANES]).0[0] = value;
}

/// Where the numbers of a value are in a [`FirstLayer`]'s table, and the code of its bin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    at: usize,
    code: f32,
}

/// A member's first layer, laid out by input and bin.
#[derive(Debug, Clone)]
pub(crate) struct FirstLayer {
    /// Padded.
    bias: Vec<f32>,
    /// For each bin of each input: the summed weights of the bins below it, then its own weights,
    /// `2 * outputs` numbers. Below a category there is nothing: zeros. For each input, the weights of "missing" come
    /// last, after as many zeros.
    table: Vec<f32>,
    /// Where each input begins in `table`, and its number of bins.
    starts: Vec<(usize, usize)>,
    passage: Passage,
}

impl FirstLayer {
    pub(crate) fn new(
        encoder: &Encoder,
        layer: &Layer,
        next: Option<&Layer>,
        member: usize,
    ) -> Self {
        let (weight, bias) = layer.folded(member);
        let outputs = bias.len();
        let width = outputs.next_multiple_of(PANEL);
        let mut table = Vec::with_capacity(2 * width * encoder.encoded_width());
        let mut starts = Vec::with_capacity(encoder.width());
        let mut push = |numbers: &mut dyn Iterator<Item = f32>| {
            table.extend(numbers);
            table.resize(table.len().next_multiple_of(PANEL), 0.0);
            table.len()
        };
        let mut end = 0;
        for input in 0..encoder.width() {
            let (from, bins) = (encoder.offset(input), encoder.bins(input));
            starts.push((end, bins));
            let mut below = vec![0.0_f64; outputs];
            for code in from..=from + bins {
                if code == from + bins || encoder.is_categorical(input) {
                    below.fill(0.0);
                }
                let weights = &weight[code * outputs..(code + 1) * outputs];
                push(&mut below.iter().map(|sum| *sum as f32));
                end = push(&mut weights.iter().copied());
                below
                    .iter_mut()
                    .zip(weights)
                    .for_each(|(sum, w)| *sum += f64::from(*w));
            }
        }
        Self {
            bias: padded(&bias, 0, outputs, 0.0),
            table,
            starts,
            passage: Passage::to(next, member),
        }
    }

    /// Numbers that it gives of a row, padding included.
    pub(crate) fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Where a value's numbers are: the same for all members.
    #[inline]
    pub(crate) fn entry(&self, input: usize, place: Place) -> Entry {
        let (start, bins) = self.starts[input];
        let (row, code) = match place {
            Place::Missing => (bins, 1.0),
            Place::Bin { bin, fraction } => (bin, fraction),
            Place::Category { code } => (code, 1.0),
        };
        let at = start + row * 2 * self.outputs();
        Entry { at, code }
    }

    /// What the next layer reads of a row.
    #[inline(always)]
    pub(crate) fn forward<S: Simd>(&self, simd: S, entries: &[Entry], out: &mut [f32]) {
        for at in (0..self.outputs()).step_by(2 * S::F32_LANES) {
            let places = [at, at + S::F32_LANES];
            let mut sums = places.map(|at| vector(simd, &self.bias, at));
            for entry in entries {
                let numbers = &self.table[entry.at..entry.at + 2 * self.outputs()];
                let (below, own) = numbers.split_at(self.outputs());
                let code = simd.splat_f32s(entry.code);
                for (sum, at) in sums.iter_mut().zip(places) {
                    let value =
                        simd.mul_add_f32s(code, vector(simd, own, at), vector(simd, below, at));
                    *sum = simd.add_f32s(*sum, value);
                }
            }
            for (sum, at) in sums.into_iter().zip(places) {
                store(simd, out, at, self.passage.pass(simd, at, sum));
            }
        }
    }
}

/// A later layer of all members: y = (x·W) ⊙ scale_out + b, of inputs that are rectified and scaled already.
#[derive(Debug, Clone)]
pub(crate) struct DenseLayer {
    /// The matrices: one, or one a member. Each is cut into panels of [`PANEL`] outputs, row by row.
    matrices: Vec<Vec<[f32; PANEL]>>,
    inputs: usize,
    members: Vec<Own>,
}

/// What a member has of its own, padded.
#[derive(Debug, Clone)]
struct Own {
    scale_out: Vec<f32>,
    bias: Vec<f32>,
    passage: Passage,
}

impl DenseLayer {
    pub(crate) fn new(layer: &Layer, next: Option<&Layer>) -> Self {
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let panels = |matrix: &[f32]| {
            let panel = |first: usize| {
                let row = move |row: &[f32]| {
                    let mut panel = [0.0; PANEL];
                    let row = &row[first..outputs.min(first + PANEL)];
                    panel[..row.len()].copy_from_slice(row);
                    panel
                };
                matrix.chunks_exact(outputs).map(row)
            };
            (0..outputs).step_by(PANEL).flat_map(panel).collect()
        };
        let own = |member: usize| Own {
            scale_out: padded(&layer.scale_out, member, outputs, 1.0),
            bias: padded(&layer.bias, member, outputs, 0.0),
            passage: Passage::to(next, member),
        };
        Self {
            matrices: layer
                .weight
                .chunks_exact((inputs * outputs).max(1))
                .map(panels)
                .collect(),
            inputs,
            members: (0..layer.members).map(own).collect(),
        }
    }

    /// Numbers that it gives of a row, padding included.
    pub(crate) fn outputs(&self) -> usize {
        self.members[0].bias.len()
    }

    /// What the next layer reads of some rows, as some members see them: all rows of the first, then of the second,
    /// and so on.
    #[inline(always)]
    pub(crate) fn forward<S: Simd>(
        &self,
        simd: S,
        members: Range<usize>,
        rows: usize,
        inputs: &[f32],
        outs: &mut [f32],
    ) {
        let stride = inputs.len() / (members.len() * rows);
        let shares = self.matrices.len() == 1;
        let rows_together = if shares { members.len() * rows } else { rows };
        let inputs = inputs.chunks(rows_together * stride);
        let outs = outs.chunks_mut(rows_together * self.outputs());
        let firsts = members.step_by(if shares { usize::MAX } else { 1 });
        for ((first, inputs), outs) in firsts.zip(inputs).zip(outs) {
            let matrix = &self.matrices[if shares { 0 } else { first }];
            for (panel, weights) in matrix.chunks_exact(self.inputs).enumerate() {
                for at in (0..PANEL).step_by(2 * S::F32_LANES) {
                    for row in (0..rows_together).step_by(ROWS) {
                        let row_of = |row: usize| &inputs[row * stride..][..self.inputs];
                        let mut finish = |row: usize, sums: [S::f32s; 2]| {
                            let own = &self.members[first + row / rows];
                            let out = &mut outs[row * self.outputs()..][..self.outputs()];
                            own.finish(simd, panel * PANEL + at, sums, out);
                        };
                        if row + ROWS <= rows_together {
                            let four = [
                                row_of(row),
                                row_of(row + 1),
                                row_of(row + 2),
                                row_of(row + 3),
                            ];
                            let sums = four_rows(simd, four, weights, at);
                            sums.into_iter()
                                .enumerate()
                                .for_each(|(i, sums)| finish(row + i, sums));
                        } else {
                            (row..rows_together).for_each(|row| {
                                finish(row, one_row(simd, row_of(row), weights, at))
                            });
                        }
                    }
                }
            }
        }
    }
}

impl Own {
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, at: usize, sums: [S::f32s; 2], out: &mut [f32]) {
        for (sum, at) in sums.into_iter().zip([at, at + S::F32_LANES]) {
            let scale = vector(simd, &self.scale_out, at);
            let value = simd.mul_add_f32s(sum, scale, vector(simd, &self.bias, at));
            store(simd, out, at, self.passage.pass(simd, at, value));
        }
    }
}

/// Two vectors of the products of [`ROWS`] rows with a panel.
#[inline(always)]
fn four_rows<S: Simd>(
    simd: S,
    rows: [&[f32]; ROWS],
    panel: &[[f32; PANEL]],
    at: usize,
) -> [[S::f32s; 2]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    let [a, b, c, d] = rows;
    for ((((a, b), c), d), weights) in a.iter().zip(b).zip(c).zip(d).zip(panel) {
        let weights = [
            vector(simd, weights, at),
            vector(simd, weights, at + S::F32_LANES),
        ];
        for (sums, input) in sums.iter_mut().zip([a, b, c, d]) {
            let input = simd.splat_f32s(*input);
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = simd.mul_add_f32s(input, weight, *sum);
            }
        }
    }
    sums
}

/// The same of one row.
#[inline(always)]
fn one_row<S: Simd>(simd: S, row: &[f32], panel: &[[f32; PANEL]], at: usize) -> [S::f32s; 2] {
    let mut sums = [simd.splat_f32s(0.0); 2];
    for (input, weights) in row.iter().zip(panel) {
        let input = simd.splat_f32s(*input);
        for (sum, at) in sums.iter_mut().zip([at, at + S::F32_LANES]) {
            *sum = simd.mul_add_f32s(input, vector(simd, weights, at), *sum);
        }
    }
    sums
}
