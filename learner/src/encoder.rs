//! Inputs to the codes that the network reads. Numbers: piecewise-linear encoding on quantile bins, after
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
//! Categories, which come as numbers without an order, have one code each, as far as they are frequent (see
//! `categories.rs`); all others share one, and "missing" has one:
//!
//! ```text
//!   known     5       7       9     other   missing
//!   x = 7  |  0   |   1   |   0   |   0   |   0
//!   x = 8  |  0   |   0   |   0   |   1   |   0
//!   x = NaN|  0   |   0   |   0   |   0   |   1
//! ```
//!
//! Edges and known categories are chosen once, from a model's first examples, and then stay: the weights of every
//! later version depend on them. They are saved as `encoder.json`.

mod categories;

use serde::{Deserialize, Serialize};

use crate::error::LearnerError;
use crate::examples::{Examples, InputKind};
use categories::vocabulary;

/// The farthest that a code goes below 0 or above 1.
pub(crate) const TAIL: f64 = 8.0;

/// One row in so many is learned as if its category were one that was never seen: of such ones nothing would be learned
/// where all categories are frequent, and what the network says of the first would be chance.
const HIDE_EVERY: usize = 50;

/// The version of `encoder.json` where all inputs are numbers …
const FORMAT: u32 = 1;
/// … and where one is a category: an older release must not take it for numbers.
const CATEGORIES_FORMAT: u32 = 2;

/// What the codes of each input mean: bin edges and known categories. Frozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "EncoderFile", into = "EncoderFile")]
pub struct Encoder {
    scales: Vec<Scale>,
    /// The first code of each input, and the number of codes at the end.
    offsets: Vec<usize>,
    /// The median of each number and the most frequent of each input's categories; none where most rows lacked it.
    usual: Vec<Option<f32>>,
}

/// How an input's values become codes. "Missing" comes behind all others.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scale {
    /// A number's bin edges: at least two finite numbers, strictly ascending.
    Edges(Vec<f32>),
    /// The categories that have a code of their own: finite, strictly ascending. Behind them is the code of all others.
    Categories(Vec<f32>),
}

impl Scale {
    /// Codes, with that of "missing".
    fn codes(&self) -> usize {
        match self {
            // T bins have T + 1 edges, and "missing" takes the place of the last.
            Self::Edges(edges) => edges.len(),
            Self::Categories(categories) => categories.len() + 2,
        }
    }
}

/// Where a value falls among the codes of its input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// It is NaN.
    Missing,
    /// It lies in the bin, and the bin's code is `fraction`: 0 to 1 within the edges.
    Bin { bin: usize, fraction: f32 },
    /// It is a category, and this one of the input's codes is 1.
    Category { code: usize },
}

impl Encoder {
    /// Chooses the codes from examples. A number has at most `bins` bins, with equal numbers of rows as
    /// far as repeated values allow, and a few more that split the outer two where rows are many:
    /// what is rare may be telling. A category's most frequent values have a code of their own. Neither labels nor
    /// weights matter.
    ///
    /// # Errors
    /// [`LearnerError::NoExamples`] where there is no row or no input.
    pub fn fit(examples: &Examples, bins: usize) -> Result<Self, LearnerError> {
        if examples.is_empty() || examples.width() == 0 {
            return Err(LearnerError::NoExamples);
        }
        let column = |(input, kind): (usize, &InputKind)| {
            let values = (0..examples.len()).map(move |row| examples.row(row)[input]);
            let mut values: Vec<f32> = values.filter(|value| value.is_finite()).collect();
            values.sort_unstable_by(f32::total_cmp);
            let is_usual = 2 * values.len() > examples.len();
            let (scale, usual) = match kind {
                InputKind::Number => {
                    let mut edges = quantile_edges(&values, bins);
                    split_tails(&values, &mut edges);
                    (Scale::Edges(edges), values.get(values.len() / 2).copied())
                }
                InputKind::Category => {
                    let (categories, usual) = vocabulary(&values);
                    (Scale::Categories(categories), usual)
                }
            };
            (scale, usual.filter(|_| is_usual))
        };
        let (scales, usual) = examples.kinds().iter().enumerate().map(column).unzip();
        Ok(Self::of_scales(scales, usual))
    }

    fn of_scales(scales: Vec<Scale>, usual: Vec<Option<f32>>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        for scale in &scales {
            end += scale.codes();
            offsets.push(end);
        }
        Self {
            scales,
            offsets,
            usual,
        }
    }

    /// Number of inputs of a row.
    pub fn width(&self) -> usize {
        self.scales.len()
    }

    /// Number of codes of a row.
    pub fn encoded_width(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Bin edges or known categories of each input, in the inputs' order.
    pub(crate) fn scales(&self) -> &[Scale] {
        &self.scales
    }

    /// Whether an input is a category.
    pub(crate) fn is_categorical(&self, input: usize) -> bool {
        matches!(self.scales[input], Scale::Categories(_))
    }

    /// The median of an input, or the most frequent category, among the examples that its codes were chosen from; NaN
    /// where most of them lacked it.
    pub fn usual(&self, input: usize) -> f32 {
        self.usual[input].unwrap_or(f32::NAN)
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
                Place::Category { code } => codes[code] = 1.0,
            }
        }
    }

    /// As [`encode`](Self::encode), for the row of this number among those that are learned: of one row in
    /// [`HIDE_EVERY`] a category is taken for one that was never seen, of each input in other rows.
    pub(crate) fn encode_to_learn(&self, number: usize, row: &[f32], codes: &mut [f32]) {
        self.encode(row, codes);
        for (input, scale) in self.scales.iter().enumerate() {
            let Scale::Categories(categories) = scale else {
                continue;
            };
            let is_hidden = (number + 7 * input).is_multiple_of(HIDE_EVERY);
            if is_hidden && !row[input].is_nan() {
                let codes = &mut codes[self.offsets[input]..self.offsets[input + 1]];
                codes.fill(0.0);
                codes[categories.len()] = 1.0;
            }
        }
    }

    /// Number of codes of an input besides "missing": bins, or categories with that of all others.
    pub(crate) fn bins(&self, input: usize) -> usize {
        self.scales[input].codes() - 1
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
        let edges = match &self.scales[input] {
            Scale::Edges(edges) => edges,
            Scale::Categories(categories) => {
                let at = categories.partition_point(|category| *category < value);
                let is_known = categories.get(at) == Some(&value);
                let code = if is_known { at } else { categories.len() };
                return Place::Category { code };
            }
        };
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
    /// Of each input; none of a category.
    edges: Vec<Vec<f32>>,
    /// Of each input, and of a category the most frequent one. Absent in the files of earlier releases.
    #[serde(default)]
    medians: Vec<Option<f32>>,
    /// Of each input the categories that have a code of their own, and null of a number. Absent where all are numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    categories: Vec<Option<Vec<f32>>>,
}

impl From<Encoder> for EncoderFile {
    fn from(encoder: Encoder) -> Self {
        let has_categories = (0..encoder.width()).any(|input| encoder.is_categorical(input));
        let parts = encoder.scales.into_iter().map(|scale| match scale {
            Scale::Edges(edges) => (edges, None),
            Scale::Categories(categories) => (Vec::new(), Some(categories)),
        });
        let (edges, categories) = parts.unzip();
        let (format, categories) = match has_categories {
            true => (CATEGORIES_FORMAT, categories),
            // So that it is the file of every release.
            false => (FORMAT, Vec::new()),
        };
        Self {
            format,
            edges,
            medians: encoder.usual,
            categories,
        }
    }
}

impl TryFrom<EncoderFile> for Encoder {
    type Error = String;

    fn try_from(file: EncoderFile) -> Result<Self, String> {
        let width = file.edges.len();
        let categories = match file.format {
            FORMAT if file.categories.is_empty() => vec![None; width],
            FORMAT => return Err(format!("format {FORMAT} has no categories")),
            CATEGORIES_FORMAT => file.categories,
            other => {
                return Err(format!(
                    "encoder format {other} was written by another release; this one reads up to {CATEGORIES_FORMAT}"
                ));
            }
        };
        if width == 0 {
            return Err("the encoder has no inputs".to_owned());
        }
        if categories.len() != width {
            return Err(format!(
                "it has the categories of {} inputs where edges are of {width}",
                categories.len()
            ));
        }
        let parts = file.edges.into_iter().zip(categories).enumerate();
        let scales = parts.map(|(input, (edges, categories))| scale(input, edges, categories));
        let scales = scales.collect::<Result<Vec<Scale>, String>>()?;
        let usual = match file.medians.len() == width {
            true => file.medians,
            false => scales.iter().map(middle).collect(),
        };
        Ok(Self::of_scales(scales, usual))
    }
}

/// An input of the file.
fn scale(input: usize, edges: Vec<f32>, categories: Option<Vec<f32>>) -> Result<Scale, String> {
    let ascends = |numbers: &[f32]| {
        numbers.windows(2).all(|pair| pair[0] < pair[1])
            && numbers.iter().all(|number| number.is_finite())
    };
    match categories {
        None if edges.len() < 2 || !ascends(&edges) => {
            Err(format!("the bin edges of input {input} do not ascend"))
        }
        None => Ok(Scale::Edges(edges)),
        Some(_) if !edges.is_empty() => Err(format!("input {input} has edges and categories")),
        Some(categories) if !ascends(&categories) => {
            Err(format!("the categories of input {input} do not ascend"))
        }
        Some(categories) => Ok(Scale::Categories(categories)),
    }
}

/// The median, about, where a file does not say it.
fn middle(scale: &Scale) -> Option<f32> {
    match scale {
        Scale::Edges(edges) => edges.get(edges.len() / 2).copied(),
        Scale::Categories(_) => None,
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
        edges_of(&Encoder::fit(&column(values), bins).unwrap())
    }

    fn edges_of(encoder: &Encoder) -> Vec<f32> {
        match &encoder.scales()[0] {
            Scale::Edges(edges) => edges.clone(),
            other => panic!("{other:?}"),
        }
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
            let edges = &edges_of(&encoder);
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
        // What releases without categories write and read.
        assert!(text.starts_with(r#"{"format":1,"edges":[[0.0,"#), "{text}");
        assert!(!text.contains("categories"), "{text}");
        let first = serde_json::from_str::<Encoder>(r#"{"format":1,"edges":[[0,1,5]]}"#).unwrap();
        assert_eq!(
            (edges_of(&first), first.usual(0)),
            (vec![0.0, 1.0, 5.0], 1.0)
        );

        for (bad, message) in [
            (r#"{"format":3,"edges":[[0,1]]}"#, "another release"),
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
