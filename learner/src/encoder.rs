//! Numbers to the codes that the network reads: piecewise-linear encoding on quantile bins, after
//! Gorishniy, Rubachev, Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning"
//! (NeurIPS 2022), section 3.2.
//!
//! An input with the edges b₀ < … < b_T becomes T numbers and one more for "missing". Bins below
//! the value's are 1, those above are 0, and the value's own bin holds how far through it the value
//! is:
//!
//! ```text
//!   edges    0     10     20           50
//!   x = 14   |  1   | 0.4  |     0      |   missing 0
//!   x = NaN  |  0   |  0   |     0      |   missing 1
//! ```
//!
//! It departs from the paper beyond the outer edges, where the paper's code goes on in a straight
//! line. Here it goes on with the logarithm, and ends at ±[`TAIL`]: what is larger than anything
//! seen when the edges were chosen still differs from the edge, and one absurd amount cannot throw
//! the network.
//!
//! The edges are chosen once, from a model's first examples, and then stay: the weights of every
//! later version depend on them. They are saved as `encoder.json`.

use serde::{Deserialize, Serialize};

use crate::error::LearnerError;
use crate::examples::Examples;

/// The farthest that a code goes below 0 or above 1.
pub(crate) const TAIL: f64 = 8.0;

/// The version of `encoder.json`.
const FORMAT: u32 = 1;

/// Frozen bin edges of every input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "EncoderFile", into = "EncoderFile")]
pub struct Encoder {
    /// One list an input: at least two finite numbers, strictly ascending.
    edges: Vec<Vec<f32>>,
    /// The first code of each input, and the number of codes at the end.
    offsets: Vec<usize>,
    /// The median of each input; none where most rows lacked it.
    medians: Vec<Option<f32>>,
}

/// Where a value falls among the bins of its input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// It is NaN.
    Missing,
    /// It lies in the bin, and the bin's code is `fraction`: 0 to 1 within the edges.
    Bin { bin: usize, fraction: f32 },
}

impl Encoder {
    /// Chooses the edges from examples: at most `bins` bins an input, with equal numbers of rows as
    /// far as repeated values allow, and a few more that split the outer two where rows are many:
    /// what is rare may be telling. Neither labels nor weights matter.
    ///
    /// # Errors
    /// [`LearnerError::NoExamples`] where there is no row or no input.
    pub fn fit(examples: &Examples, bins: usize) -> Result<Self, LearnerError> {
        if examples.is_empty() || examples.width() == 0 {
            return Err(LearnerError::NoExamples);
        }
        let column = |input: usize| {
            let values = (0..examples.len()).map(move |row| examples.row(row)[input]);
            let mut values: Vec<f32> = values.filter(|value| value.is_finite()).collect();
            values.sort_unstable_by(f32::total_cmp);
            let mut edges = quantile_edges(&values, bins);
            split_tails(&values, &mut edges);
            let is_usual = 2 * values.len() > examples.len();
            (edges, is_usual.then(|| values[values.len() / 2]))
        };
        let (edges, medians) = (0..examples.width()).map(column).unzip();
        Ok(Self::from_edges(edges, medians))
    }

    fn from_edges(edges: Vec<Vec<f32>>, medians: Vec<Option<f32>>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        for edges in &edges {
            // T bins have T + 1 edges, and "missing" takes the place of the last.
            end += edges.len();
            offsets.push(end);
        }
        Self {
            edges,
            offsets,
            medians,
        }
    }

    /// Number of inputs of a row.
    pub fn width(&self) -> usize {
        self.edges.len()
    }

    /// Number of codes of a row.
    pub fn encoded_width(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// The bin edges of each input, in the inputs' order.
    pub fn edges(&self) -> &[Vec<f32>] {
        &self.edges
    }

    /// The median of an input among the examples that its edges were chosen from; NaN where most of them lacked it.
    pub fn median(&self, input: usize) -> f32 {
        self.medians[input].unwrap_or(f32::NAN)
    }

    /// Encodes one row of `width()` inputs into `encoded_width()` codes, overwriting `codes`.
    pub fn encode(&self, row: &[f32], codes: &mut [f32]) {
        codes.fill(0.0);
        for (input, value) in row.iter().enumerate() {
            let codes = &mut codes[self.offsets[input]..self.offsets[input + 1]];
            match self.place(input, *value) {
                Place::Missing => codes[codes.len() - 1] = 1.0,
                Place::Bin { bin, fraction } => {
                    codes[..bin].fill(1.0);
                    codes[bin] = fraction;
                }
            }
        }
    }

    /// Number of bins of an input.
    pub(crate) fn bins(&self, input: usize) -> usize {
        self.edges[input].len() - 1
    }

    /// The first code of an input; its "missing" code is `bins(input)` further.
    pub(crate) fn offset(&self, input: usize) -> usize {
        self.offsets[input]
    }

    #[inline]
    pub(crate) fn place(&self, input: usize, value: f32) -> Place {
        if value.is_nan() {
            return Place::Missing;
        }
        let edges = &self.edges[input];
        let last = edges.len() - 2;
        let bin = edges[1..=last].partition_point(|edge| *edge <= value);
        let (low, high) = (f64::from(edges[bin]), f64::from(edges[bin + 1]));
        let straight = (f64::from(value) - low) / (high - low);
        let fraction = if straight > 1.0 {
            (1.0 + straight.ln()).min(1.0 + TAIL)
        } else if straight < 0.0 {
            (-(1.0 - straight).ln()).max(-TAIL)
        } else {
            straight
        };
        Place::Bin {
            bin,
            fraction: fraction as f32,
        }
    }
}

/// Edges with as even numbers of rows between them as repeated values allow.
///
/// Plain quantiles of a column that is nearly always zero, as counts of frauds are, would all be
/// zero. So each edge is chosen from the rows that are left: where one value fills more than its
/// bin, the bins that it would have wasted go to the other values.
fn quantile_edges(values: &[f32], bins: usize) -> Vec<f32> {
    let (Some(first), Some(last)) = (values.first().copied(), values.last().copied()) else {
        return vec![0.0, 1.0];
    };
    if first == last {
        return edges_around(first);
    }
    let above = values.partition_point(|value| *value <= first);
    let mut edges = vec![first];
    let (mut left, mut filled) = (values.len() - above, 0);
    for run in values[above..].chunk_by(|a, b| a == b) {
        filled += run.len();
        let bins_left = (bins + 1).saturating_sub(edges.len());
        if bins_left > 1 && filled * bins_left >= left {
            edges.push(run[0]);
            left -= filled;
            filled = 0;
        }
    }
    if edges.last() != Some(&last) {
        edges.push(last);
    }
    edges
}

/// Edges that are added in an outer bin, at most.
const TAIL_EDGES: usize = 3;
/// Rows that an outermost bin keeps, at least.
const TAIL_ROWS: usize = 32;

/// Splits the two outer bins: each new edge leaves a quarter of the outermost rows outside.
fn split_tails(values: &[f32], edges: &mut Vec<f32>) {
    let inner = edges[edges.len() - 2];
    let mut outside = values.len() - values.partition_point(|value| *value <= inner);
    for _ in 0..TAIL_EDGES {
        outside /= 4;
        if outside < TAIL_ROWS {
            break;
        }
        let edge = values[values.len() - 1 - outside];
        let at = edges.len() - 1;
        if edges[at - 1] < edge && edge < edges[at] {
            edges.insert(at, edge);
        }
    }
    let mut outside = values.partition_point(|value| *value < edges[1]);
    for _ in 0..TAIL_EDGES {
        outside /= 4;
        if outside < TAIL_ROWS {
            break;
        }
        let edge = values[outside];
        if edges[0] < edge && edge < edges[1] {
            edges.insert(1, edge);
        }
    }
}

/// One bin for a column that has been constant so far. The column may well begin to vary, as a
/// count of frauds does once the first labels are back, and its code must then show it.
fn edges_around(constant: f32) -> Vec<f32> {
    let step = constant.abs().max(1.0);
    if (constant + step).is_finite() {
        vec![constant, constant + step]
    } else {
        vec![constant - step, constant]
    }
}

/// `encoder.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EncoderFile {
    format: u32,
    edges: Vec<Vec<f32>>,
    /// Absent in the files of earlier releases.
    #[serde(default)]
    medians: Vec<Option<f32>>,
}

impl From<Encoder> for EncoderFile {
    fn from(encoder: Encoder) -> Self {
        Self {
            format: FORMAT,
            edges: encoder.edges,
            medians: encoder.medians,
        }
    }
}

impl TryFrom<EncoderFile> for Encoder {
    type Error = String;

    fn try_from(file: EncoderFile) -> Result<Self, String> {
        if file.format != FORMAT {
            return Err(format!(
                "encoder format {} was written by another release; this one reads {FORMAT}",
                file.format
            ));
        }
        if file.edges.is_empty() {
            return Err("the encoder has no inputs".to_owned());
        }
        for (input, edges) in file.edges.iter().enumerate() {
            let ascending = edges.windows(2).all(|pair| pair[0] < pair[1]);
            if edges.len() < 2 || !ascending || edges.iter().any(|edge| !edge.is_finite()) {
                return Err(format!("the bin edges of input {input} do not ascend"));
            }
        }
        let medians = match file.medians.len() == file.edges.len() {
            true => file.medians,
            false => file
                .edges
                .iter()
                .map(|edges| edges.get(edges.len() / 2).copied())
                .collect(),
        };
        Ok(Self::from_edges(file.edges, medians))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::{Stream, generator};
    use rand::Rng;

    fn column(values: &[f32]) -> Examples {
        let ones = vec![1.0; values.len()];
        Examples::from_parts(1, values.to_vec(), vec![0.0; values.len()], ones).unwrap()
    }

    fn edges(values: &[f32], bins: usize) -> Vec<f32> {
        Encoder::fit(&column(values), bins).unwrap().edges()[0].clone()
    }

    fn codes(encoder: &Encoder, row: &[f32]) -> Vec<f32> {
        let mut codes = vec![f32::NAN; encoder.encoded_width()];
        encoder.encode(row, &mut codes);
        codes
    }

    /// Each edge by counting: the smallest value v such that the rows in (previous edge, v] are at
    /// least an even share of all rows above the previous edge.
    fn slow_edges(values: &[f32], bins: usize) -> Vec<f32> {
        let mut distinct = values.to_vec();
        distinct.sort_by(f32::total_cmp);
        distinct.dedup();
        let count = |low: f32, high: f32| {
            let inside = values.iter().filter(|v| **v > low && **v <= high);
            inside.count() as f64
        };
        let last = distinct[distinct.len() - 1];
        let mut edges = vec![distinct[0]];
        while edges[edges.len() - 1] < last {
            let before = edges[edges.len() - 1];
            let bins_left = bins + 1 - edges.len();
            let share = count(before, last) / bins_left as f64;
            let full = |v: &&f32| **v > before && count(before, **v) >= share;
            let next = if bins_left > 1 {
                distinct.iter().find(full).copied()
            } else {
                None
            };
            edges.push(next.unwrap_or(last));
        }
        edges
    }

    /// The paper's equation 1, a component at a time, with the logarithmic ends.
    fn slow_codes(edges: &[f32], value: f32) -> Vec<f32> {
        let bins = edges.len() - 1;
        let mut codes: Vec<f32> = (0..bins)
            .map(|t| {
                let (low, high) = (f64::from(edges[t]), f64::from(edges[t + 1]));
                let x = f64::from(value);
                let code = if value.is_nan() || (x < low && t > 0) {
                    0.0
                } else if x >= high && t < bins - 1 {
                    1.0
                } else {
                    (x - low) / (high - low)
                };
                match code {
                    c if c > 1.0 => (1.0 + c.ln()).min(9.0) as f32,
                    c if c < 0.0 => (-(1.0 - c).ln()).max(-8.0) as f32,
                    c => c as f32,
                }
            })
            .collect();
        codes.push(if value.is_nan() { 1.0 } else { 0.0 });
        codes
    }

    #[test]
    fn edges_and_codes_equal_the_slow_references_on_random_columns() {
        for seed in 0..200 {
            let mut random = generator(seed, Stream::Weights, 0);
            let rows = random.random_range(2..200);
            let bins = random.random_range(1..20);
            // From a coin to nearly continuous, half of the columns mostly zero.
            let levels = random.random_range(1..400);
            let zeros = f64::from(random.random_range(0..2_u8)) * 0.9;
            let mut value = || match random.random_bool(zeros) {
                true => 0.0,
                false => random.random_range(-levels..=levels) as f32 / 7.0,
            };
            let values: Vec<f32> = (0..rows).map(|_| value()).collect();
            if values.iter().all(|v| *v == values[0]) {
                continue;
            }
            let encoder = Encoder::fit(&column(&values), bins).unwrap();
            let edges = &encoder.edges()[0];
            let mut sorted = values.clone();
            sorted.sort_by(f32::total_cmp);
            let quantiles = quantile_edges(&sorted, bins);
            assert_eq!(quantiles, slow_edges(&values, bins), "seed {seed}");
            assert!(quantiles.len() <= bins + 1);
            assert!(quantiles.iter().all(|edge| edges.contains(edge)));
            let probes = [f32::NAN, f32::MAX, f32::NEG_INFINITY, -100.0, 0.0, 3.3];
            for value in values.iter().chain(&probes) {
                assert_eq!(
                    codes(&encoder, &[*value]),
                    slow_codes(edges, *value),
                    "seed {seed}, {value}"
                );
            }
        }
    }

    #[test]
    fn a_rare_count_gets_bins_of_its_own() {
        let mut counts = vec![0.0; 990];
        counts.extend([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 5.0]);
        assert_eq!(edges(&counts, 16), [0.0, 1.0, 2.0, 3.0, 5.0]);
        assert_eq!(edges(&counts, 2), [0.0, 2.0, 5.0]);
    }

    #[test]
    fn the_tails_are_split_where_rows_are_many() {
        let values: Vec<f32> = (0..4_000).map(|i| i as f32).collect();
        // Outside of the outer edges lie a thousand rows; a quarter, and a sixteenth of them are left.
        let expected = [
            0.0, 62.0, 250.0, 1_000.0, 2_000.0, 3_000.0, 3_750.0, 3_937.0, 3_999.0,
        ];
        assert_eq!(edges(&values, 4), expected);
        let mut mostly_zero = vec![0.0; 100_000];
        mostly_zero.extend((1..=1_000).map(|i| i as f32));
        let split = edges(&mostly_zero, 2);
        assert_eq!(split, [0.0, 500.0, 875.0, 1_000.0]);
    }

    #[test]
    fn poor_columns_work() {
        assert_eq!(edges(&[0.0, 1.0, 0.0], 16), [0.0, 1.0]);
        assert_eq!(edges(&[0.0, -0.0], 16), [-0.0, 1.0]);
        assert_eq!(edges(&[7.0, 7.0], 16), [7.0, 14.0]);
        assert_eq!(edges(&[f32::NAN, f32::INFINITY], 16), [0.0, 1.0]);
        let huge = edges(&[f32::MAX], 16);
        assert!(huge[0] < huge[1] && huge.iter().all(|edge| edge.is_finite()));
        assert!(Encoder::fit(&Examples::new(1), 16).is_err());
    }

    #[test]
    fn codes_ascend_with_the_value_and_stay_bounded() {
        let encoder = Encoder::fit(&column(&[-3.0, 0.0, 1.0, 4.0, 9.0]), 3).unwrap();
        let mut before = f32::NEG_INFINITY;
        for value in [
            f32::NEG_INFINITY,
            -1e9,
            -4.0,
            -3.0,
            0.5,
            4.0,
            9.0,
            10.0,
            1e9,
            f32::INFINITY,
        ] {
            let sum: f32 = codes(&encoder, &[value]).iter().sum();
            assert!(
                sum >= before && sum.abs() < 12.0,
                "{value}: {sum} after {before}"
            );
            before = sum;
        }
    }

    #[test]
    fn the_file_gives_the_same_encoder_or_says_what_is_wrong() {
        let values: Vec<f32> = (0..100).map(|i| (i as f32).sqrt() / 3.0).collect();
        let encoder = Encoder::fit(&column(&values), 7).unwrap();
        let text = serde_json::to_string(&encoder).unwrap();
        assert_eq!(serde_json::from_str::<Encoder>(&text).unwrap(), encoder);

        for (bad, message) in [
            (r#"{"format":2,"edges":[[0,1]]}"#, "another release"),
            (r#"{"format":1,"edges":[[1,1]]}"#, "input 0 do not ascend"),
            (
                r#"{"format":1,"edges":[[0,1],[1]]}"#,
                "input 1 do not ascend",
            ),
            (r#"{"format":1,"edges":[]}"#, "no inputs"),
        ] {
            let error = serde_json::from_str::<Encoder>(bad).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
