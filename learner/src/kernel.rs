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

/// So much of a row of a [`FirstLayer`]'s table. A value is one or, between two edges, two of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term {
    /// Where the row begins in the table.
    row: usize,
    share: f32,
}

/// The first layer of all members, laid out by input and bin.
#[derive(Debug, Clone)]
pub(crate) struct FirstLayer {
    /// `[members, outputs]`, padded.
    bias: Vec<f32>,
    /// For each edge of a number's bins, the summed weights of the bins below it: a value between two edges gets what
    /// is between their rows, and one that is on an edge, as counts are, its row alone. For each category, its
    /// weights. After each input's rows, the weights of "missing". A row has all members' numbers side by side: what
    /// one event needs of an input is one stretch of memory.
    table: Vec<f32>,
    /// Where each input begins in `table`, and its number of rows without "missing".
    starts: Vec<(usize, usize)>,
    /// From a row to the next.
    stride: usize,
    outputs: usize,
    passages: Vec<Passage>,
}

/// Numbers between two rows of a table: with a power of two from row to row, those of one member would fall upon a
/// few of the places that a cache has.
const GAP: usize = 16;

impl FirstLayer {
    pub(crate) fn new(encoder: &Encoder, layer: &Layer, next: Option<&Layer>) -> Self {
        let members = layer.members;
        let outputs = layer.outputs.next_multiple_of(PANEL);
        let stride = members * outputs + GAP;
        let folded: Vec<_> = (0..members).map(|member| layer.folded(member)).collect();
        // The weights of a code, member by member.
        let weights = |code: usize| -> Vec<Vec<f64>> {
            let own = folded.iter().map(|(weight, _)| {
                let row = &weight[code * layer.outputs..(code + 1) * layer.outputs];
                row.iter().map(|weight| f64::from(*weight)).collect()
            });
            own.collect()
        };
        let (mut table, mut starts) = (Vec::new(), Vec::new());
        for input in 0..encoder.width() {
            let (from, bins) = (encoder.offset(input), encoder.bins(input));
            let codes = (from..from + bins).map(weights);
            let rows: Vec<_> = match encoder.is_categorical(input) {
                true => codes.collect(),
                false => {
                    let mut below = vec![vec![0.0; layer.outputs]; members];
                    let mut rows = vec![below.clone()];
                    rows.extend(codes.map(|weights| {
                        let numbers = below.iter_mut().flatten();
                        let weights = weights.into_iter().flatten();
                        numbers
                            .zip(weights)
                            .for_each(|(sum, weight)| *sum += weight);
                        below.clone()
                    }));
                    rows
                }
            };
            starts.push((table.len(), rows.len()));
            for row in rows.into_iter().chain([weights(from + bins)]) {
                let begin = table.len();
                for (member, numbers) in row.into_iter().enumerate() {
                    table.resize(begin + member * outputs, 0.0);
                    table.extend(numbers.into_iter().map(|number| number as f32));
                }
                table.resize(begin + stride, 0.0);
            }
        }
        Self {
            bias: folded
                .iter()
                .flat_map(|(_, bias)| padded(bias, 0, layer.outputs, 0.0))
                .collect(),
            table,
            starts,
            stride,
            outputs,
            passages: (0..members)
                .map(|member| Passage::to(next, member))
                .collect(),
        }
    }

    /// Numbers that it gives a member of a row, padding included.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// What a value takes from the table.
    #[inline]
    pub(crate) fn terms(&self, input: usize, place: Place) -> impl Iterator<Item = Term> {
        let (start, rows) = self.starts[input];
        let (row, own, after) = match place {
            Place::Missing => (rows, 1.0, 0.0),
            Place::Bin { bin, fraction: 1.0 } => (bin + 1, 1.0, 0.0),
            Place::Bin { bin, fraction } => (bin, 1.0 - fraction, fraction),
            Place::Category { code } => (code, 1.0, 0.0),
        };
        let term = |row, share| Term {
            row: start + row * self.stride,
            share,
        };
        let after = (after != 0.0).then(|| term(row + 1, after));
        [Some(term(row, own)), after].into_iter().flatten()
    }

    /// What the next layer reads of a row, as some members see it: `outs` begins with the first one's numbers, and
    /// those of the next are `apart` further.
    #[inline(always)]
    pub(crate) fn forward<S: Simd>(
        &self,
        simd: S,
        members: Range<usize>,
        terms: &[Term],
        outs: &mut [f32],
        apart: usize,
    ) {
        // As many sums at a time as stay in registers.
        let (many, few) = (8 * S::F32_LANES, 2 * S::F32_LANES);
        for (member, out) in members.zip(outs.chunks_mut(apart)) {
            let (mut at, first) = (0, member * self.outputs);
            while at + many <= self.outputs {
                let sums = self.sums::<S, 8>(simd, terms, first + at);
                self.finish(simd, member, at, sums, out);
                at += many;
            }
            while at < self.outputs {
                let sums = self.sums::<S, 2>(simd, terms, first + at);
                self.finish(simd, member, at, sums, out);
                at += few;
            }
        }
    }

    /// Some vectors of a row's sums; `at` counts the numbers of all members.
    #[inline(always)]
    fn sums<S: Simd, const N: usize>(&self, simd: S, terms: &[Term], at: usize) -> [S::f32s; N] {
        let mut sums = [simd.splat_f32s(0.0); N];
        let bias = S::as_simd_f32s(&self.bias[at..at + N * S::F32_LANES]).0;
        for (sum, bias) in sums.iter_mut().zip(bias) {
            *sum = *bias;
        }
        for term in terms {
            let row = &self.table[term.row + at..][..N * S::F32_LANES];
            let share = simd.splat_f32s(term.share);
            for (sum, numbers) in sums.iter_mut().zip(S::as_simd_f32s(row).0) {
                *sum = simd.mul_add_f32s(share, *numbers, *sum);
            }
        }
        sums
    }

    #[inline(always)]
    fn finish<S: Simd, const N: usize>(
        &self,
        simd: S,
        member: usize,
        at: usize,
        sums: [S::f32s; N],
        out: &mut [f32],
    ) {
        for (i, sum) in sums.into_iter().enumerate() {
            let at = at + i * S::F32_LANES;
            store(simd, out, at, self.passages[member].pass(simd, at, sum));
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
                        let to = Destination {
                            members: &self.members[first..],
                            rows,
                            at: panel * PANEL + at,
                            outputs: self.outputs(),
                        };
                        if row + ROWS <= rows_together {
                            let four = [
                                row_of(row),
                                row_of(row + 1),
                                row_of(row + 2),
                                row_of(row + 3),
                            ];
                            let sums = four_rows(simd, four, weights, at);
                            for (i, sums) in sums.into_iter().enumerate() {
                                to.finish(simd, row + i, sums, outs);
                            }
                        } else {
                            for row in row..rows_together {
                                let sums = one_row(simd, row_of(row), weights, at);
                                to.finish(simd, row, sums, outs);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where two vectors of sums go. A type with functions and no closure: vectors' operations are only inlined into what
/// is itself compiled for them.
struct Destination<'a> {
    /// From the first row's on.
    members: &'a [Own],
    /// Rows of a member.
    rows: usize,
    /// The sums' first output.
    at: usize,
    outputs: usize,
}

impl Destination<'_> {
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, row: usize, sums: [S::f32s; 2], outs: &mut [f32]) {
        let own = &self.members[row / self.rows];
        let out = &mut outs[row * self.outputs..][..self.outputs];
        for (sum, at) in sums.into_iter().zip([self.at, self.at + S::F32_LANES]) {
            let scale = vector(simd, &own.scale_out, at);
            let value = simd.mul_add_f32s(sum, scale, vector(simd, &own.bias, at));
            store(simd, out, at, own.passage.pass(simd, at, value));
        }
    }
}

/// The last of several layers, whose one output is the logit.
#[derive(Debug, Clone)]
pub(crate) struct LastLayer {
    /// A member's weights, padded with zeros as its inputs are, with its scale multiplied in, and its bias.
    members: Vec<(Vec<f32>, f32)>,
}

impl LastLayer {
    pub(crate) fn new(layer: &Layer) -> Self {
        // Its inputs are scaled already, by the layer before it.
        let plain = Layer {
            scale_in: Vec::new(),
            ..layer.clone()
        };
        let member = |member: usize| {
            let (weight, bias) = plain.folded(member);
            let weight = padded(&weight, 0, layer.inputs, 0.0);
            (weight, bias.first().copied().unwrap_or_default())
        };
        Self {
            members: (0..layer.members).map(member).collect(),
        }
    }

    /// A member's logit of a row.
    #[inline(always)]
    pub(crate) fn logit<S: Simd>(&self, simd: S, member: usize, inputs: &[f32]) -> f32 {
        let (weights, bias) = &self.members[member];
        let mut sums = [simd.splat_f32s(0.0); 2];
        for at in (0..weights.len()).step_by(2 * S::F32_LANES) {
            for (sum, at) in sums.iter_mut().zip([at, at + S::F32_LANES]) {
                let weight = vector(simd, weights, at);
                *sum = simd.mul_add_f32s(vector(simd, inputs, at), weight, *sum);
            }
        }
        simd.reduce_sum_f32s(simd.add_f32s(sums[0], sums[1])) + bias
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
