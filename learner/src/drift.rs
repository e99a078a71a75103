//! Whether inputs or scores are still distributed as they were, without any label.
//!
//! The measure is the population stability index, Σ (pᵢ − qᵢ) ln(pᵢ / qᵢ) over the cells of a
//! histogram, which is the sum of both Kullback-Leibler divergences. Its usual reading (0.1 some,
//! 0.25 much) is of little use for an hour of payments: an hour of the night differs from the day by
//! far more in everything that knows the time. So a value is judged by what is usual for the same
//! input: see [`DriftWatch`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::encoder::{Encoder, Place};

/// Cells between the outermost edges of an input, at most.
const CELLS: usize = 10;
/// Added to every cell: one that was never seen must not make the index infinite.
const SMOOTHING: f64 = 0.5;
/// How seldom noise is larger than it is said to be: once in e to the power of this many times.
const SELDOM: f64 = 9.21;

/// How rows fall into the cells of each input: below all edges, between them, above, missing; of a category one for each
/// that is known, all others, missing. A last column is of their scores, where those are counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histograms {
    counts: Vec<Vec<u64>>,
    rows: u64,
}

impl Histograms {
    /// No rows yet, of an encoder's inputs.
    pub fn new(encoder: &Encoder) -> Self {
        let cells = (0..encoder.width()).map(|input| cells(encoder, input));
        Self {
            counts: cells
                .chain([CELLS + 3])
                .map(|cells| vec![0; cells])
                .collect(),
            rows: 0,
        }
    }

    /// Counts rows: row-major, the encoder's width each.
    pub fn add(&mut self, encoder: &Encoder, rows: &[f32]) {
        for row in rows.chunks_exact(encoder.width().max(1)) {
            self.rows += 1;
            for (input, value) in row.iter().enumerate() {
                self.counts[input][cell(encoder, input, *value)] += 1;
            }
        }
    }

    /// Counts the scores of rows: probabilities.
    pub fn add_scores(&mut self, scores: &[f32]) {
        if let Some(counts) = self.counts.last_mut() {
            scores
                .iter()
                .for_each(|score| counts[score_cell(*score)] += 1);
        }
    }

    /// Whether these have the cells of an encoder's inputs: what was kept may be of another one, or another release.
    pub fn is_of(&self, encoder: &Encoder) -> bool {
        let cells = |of: &Self| -> Vec<usize> { of.counts.iter().map(Vec::len).collect() };
        cells(self) == cells(&Self::new(encoder))
    }

    /// Rows that were counted.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The largest indexes of [`Self::stability`] that chance alone gives where nothing moved, but for one time in 10,000.
    ///
    /// With n and m rows in k cells that any of them are in, an index is on average (k − 1)(1/n + 1/m), and is distributed
    /// as χ² of k − 1 degrees of freedom; this is the bound of Laurent and Massart (2000) of that.
    pub fn noise(&self, reference: &Histograms) -> Vec<f64> {
        let rows = |counts: &[u64]| counts.iter().sum::<u64>().max(1) as f64;
        let pairs = self.counts.iter().zip(&reference.counts);
        pairs
            .map(|(ours, theirs)| {
                let cells = ours.iter().zip(theirs).filter(|(a, b)| **a + **b > 0);
                let freedom = cells.count().saturating_sub(1) as f64;
                let bound = freedom + 2.0 * (freedom * SELDOM).sqrt() + 2.0 * SELDOM;
                bound * (1.0 / rows(ours) + 1.0 / rows(theirs))
            })
            .collect()
    }

    /// The population stability index of each input against a reference, and behind them that of the scores.
    pub fn stability(&self, reference: &Histograms) -> Vec<f64> {
        let pairs = self.counts.iter().zip(&reference.counts);
        pairs
            .map(|(ours, theirs)| stability(ours, theirs))
            .collect()
    }
}

/// Cells of an input; the last is of those that are missing.
fn cells(encoder: &Encoder, input: usize) -> usize {
    match encoder.is_categorical(input) {
        true => encoder.bins(input) + 1,
        false => CELLS + 3,
    }
}

fn cell(encoder: &Encoder, input: usize, value: f32) -> usize {
    match encoder.place(input, value) {
        Place::Missing => cells(encoder, input) - 1,
        Place::Category { code } => code,
        Place::Bin { bin: 0, fraction } if fraction < 0.0 => 0,
        Place::Bin { bin, fraction } => {
            let bins = encoder.bins(input);
            if bin + 1 == bins && fraction > 1.0 {
                CELLS + 1
            } else {
                1 + bin * CELLS.min(bins) / bins
            }
        }
    }
}

/// The cell of a probability: two for each power of ten, from one in 100,000 on.
fn score_cell(score: f32) -> usize {
    if score.is_nan() {
        return CELLS + 2;
    }
    let place = (CELLS + 1) as f64 + 2.0 * f64::from(score.max(1e-9)).log10();
    place.clamp(0.0, (CELLS + 1) as f64) as usize
}

/// The population stability index of two histograms with the same cells. Cells that both have nothing in say nothing: what
/// is added to them would be another share of few rows than of many.
fn stability(ours: &[u64], theirs: &[u64]) -> f64 {
    let cells: Vec<(u64, u64)> = ours
        .iter()
        .copied()
        .zip(theirs.iter().copied())
        .filter(|(ours, theirs)| ours + theirs > 0)
        .collect();
    let smoothed = SMOOTHING * cells.len() as f64;
    let share = |count: u64, all: u64| (count as f64 + SMOOTHING) / (all as f64 + smoothed);
    let (all_ours, all_theirs) = (ours.iter().sum(), theirs.iter().sum());
    let of_cell = |(ours, theirs): &(u64, u64)| {
        let (p, q) = (share(*ours, all_ours), share(*theirs, all_theirs));
        (p - q) * (p / q).ln()
    };
    cells.iter().map(of_cell).sum()
}

/// An input that moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Which one, counted from 0.
    pub input: usize,
    /// Its population stability index.
    pub stability: f64,
    /// The largest that was usual.
    pub usual: f64,
}

/// What is usual for each input, period by period.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DriftWatch {
    usual: Vec<VecDeque<f64>>,
}

/// Periods before which nothing is unusual: of hours, two days.
const LEARNED: usize = 48;
/// How far above the largest remembered index one is unusual …
const UNUSUAL: f64 = 3.0;
/// … where it is at least this.
const LEAST: f64 = 0.25;

impl DriftWatch {
    /// Rows that an index takes: of fewer it is chance.
    pub const LEAST_ROWS: usize = 50;
    /// Periods that are remembered: a week of hours and a day, so that a weekend is compared with the
    /// one before it.
    pub const REMEMBERED: usize = 192;

    /// Knows nothing yet of `inputs` inputs.
    pub fn new(inputs: usize) -> Self {
        Self {
            usual: vec![VecDeque::new(); inputs],
        }
    }

    /// Inputs that it watches.
    pub fn inputs(&self) -> usize {
        self.usual.len()
    }

    /// The inputs whose index is unusual, the farthest first. What is no more than `noise`, as [`Histograms::noise`] has it,
    /// is chance.
    pub fn unusual(&self, stability: &[f64], noise: &[f64]) -> Vec<Drift> {
        let mut drifts: Vec<Drift> = Vec::new();
        let values = stability.iter().zip(noise);
        for (input, ((value, noise), usual)) in values.zip(&self.usual).enumerate() {
            if usual.len() < LEARNED {
                continue;
            }
            let largest = usual.iter().copied().fold(0.0, f64::max);
            if *value > LEAST.max(*noise) && *value > UNUSUAL * largest {
                drifts.push(Drift {
                    input,
                    stability: *value,
                    usual: largest,
                });
            }
        }
        let excess = |drift: &Drift| drift.stability / drift.usual.max(1e-9);
        drifts.sort_by(|a, b| excess(b).total_cmp(&excess(a)));
        drifts
    }

    /// Remembers a period as usual.
    pub fn remember(&mut self, stability: &[f64]) {
        for (usual, value) in self.usual.iter_mut().zip(stability) {
            usual.push_back(*value);
            if usual.len() > Self::REMEMBERED {
                usual.pop_front();
            }
        }
    }

    /// Goes on from one that remembers periods before these too: its newest are the same, as they were told before.
    #[must_use]
    pub fn going_on_from(mut self, before: &Self) -> Self {
        for (ours, theirs) in self.usual.iter_mut().zip(&before.usual) {
            let older = theirs.len().saturating_sub(ours.len());
            for value in theirs.iter().take(older).rev() {
                ours.push_front(*value);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::examples::{Examples, InputKind};
    use crate::random::{Stream, generator};
    use rand::Rng;

    /// Rows of a number and a category: each category with its share, and the rest missing.
    fn categories(rows: usize, seed: u64, of: &[(f32, f64)]) -> Vec<f32> {
        let mut random = generator(seed, Stream::Shuffle, 0);
        let mut category = || {
            let mut left = random.random::<f64>();
            let chosen = of.iter().find(|(_, share)| {
                left -= share;
                left < 0.0
            });
            chosen.map_or(f32::NAN, |(category, _)| *category)
        };
        (0..rows).flat_map(|row| [row as f32, category()]).collect()
    }

    #[test]
    fn a_category_that_moves_is_named() {
        let usual = [(812_000.0, 0.7), (4.0, 0.2), (15_000_000.0, 0.05)];
        let mut examples = Examples::of_kinds(vec![InputKind::Number, InputKind::Category]);
        for row in categories(5_000, 1, &usual).chunks_exact(2) {
            examples.push(row, false, 1.0).unwrap();
        }
        let encoder = Encoder::fit(&examples, 24).unwrap();
        let reference = counted(&encoder, examples.inputs());
        let mut watch = DriftWatch::new(2);
        let moved = |rows: &[f32]| counted(&encoder, rows).stability(&reference)[1];
        let noise = counted(&encoder, &categories(400, 99, &usual)).noise(&reference);
        for period in 0..60 {
            let stability = [0.0, moved(&categories(400, 100 + period, &usual))];
            assert_eq!(watch.unusual(&stability, &noise), [], "period {period}");
            watch.remember(&stability);
        }
        let shifts: [&[(f32, f64)]; 3] = [
            &[(812_000.0, 0.2), (4.0, 0.7), (15_000_000.0, 0.05)],
            // One that was never seen, whose number is next to that of another.
            &[(812_000.0, 0.4), (4.0, 0.2), (15_000_001.0, 0.35)],
            // Missing.
            &[(812_000.0, 0.3), (4.0, 0.2)],
        ];
        for shift in shifts {
            let drifts = watch.unusual(&[0.0, moved(&categories(400, 9, shift))], &noise);
            let inputs: Vec<usize> = drifts.iter().map(|drift| drift.input).collect();
            assert_eq!(inputs, [1], "{shift:?}");
        }
    }

    /// Amounts, hours of one day part, and a flag that is always 0; `rows` of them.
    fn rows(rows: usize, seed: u64, night: bool, factor: f32) -> Vec<f32> {
        let mut random = generator(seed, Stream::Shuffle, 0);
        let mut row = || {
            let amount = (random.random::<f32>() * 4.0).exp() * factor;
            let hour = random.random_range(0..6) + if night { 0 } else { 12 };
            [amount, hour as f32, 0.0]
        };
        (0..rows).flat_map(|_| row()).collect()
    }

    fn encoder() -> Encoder {
        let mut all = rows(5_000, 1, false, 1.0);
        all.extend(rows(2_000, 2, true, 1.0));
        let count = all.len() / 3;
        let examples = Examples::from_parts(3, all, vec![0.0; count], vec![1.0; count]);
        Encoder::fit(&examples.unwrap(), 24).unwrap()
    }

    fn counted(encoder: &Encoder, rows: &[f32]) -> Histograms {
        let mut histograms = Histograms::new(encoder);
        histograms.add(encoder, rows);
        histograms
    }

    #[test]
    fn the_index_is_the_sum_of_both_divergences() {
        let (ours, theirs) = ([30, 50, 20], [10, 60, 30]);
        let p: Vec<f64> = ours.iter().map(|c| (*c as f64 + 0.5) / 101.5).collect();
        let q: Vec<f64> = theirs.iter().map(|c| (*c as f64 + 0.5) / 101.5).collect();
        let divergence =
            |p: &[f64], q: &[f64]| -> f64 { p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum() };
        let expected = divergence(&p, &q) + divergence(&q, &p);
        assert!((stability(&ours, &theirs) - expected).abs() < 1e-12);
        assert_eq!(stability(&ours, &ours), 0.0);
        // What nobody has anything in does not count, however few the rows.
        let (few, many) = ([0, 50, 0, 0], [0, 20_000, 0, 0]);
        assert_eq!(stability(&few, &many), 0.0);
        assert_eq!(stability(&[0, 0], &[0, 0]), 0.0);
    }

    #[test]
    fn scores_are_a_column_of_their_own() {
        let cells = [0.0, 1e-6, 2e-5, 0.05, 0.2, 0.5, 1.0, f32::NAN].map(score_cell);
        assert_eq!(cells, [0, 0, 1, 8, 9, 10, 11, 12]);
        let encoder = encoder();
        let with = |score: f32| {
            let mut histograms = counted(&encoder, &rows(400, 5, false, 1.0));
            histograms.add_scores(&[score; 400]);
            histograms
        };
        let same = with(0.01).stability(&with(0.01));
        assert_eq!(same, [0.0; 4]);
        let moved = with(0.2).stability(&with(0.01));
        assert!(moved[..3].iter().all(|index| *index == 0.0) && moved[3] > 1.0);
    }

    #[test]
    fn hours_of_the_night_are_usual_and_another_unit_is_not() {
        let encoder = encoder();
        let mut reference = rows(5_000, 3, false, 1.0);
        reference.extend(rows(2_000, 4, true, 1.0));
        let reference = counted(&encoder, &reference);
        let unusual = |watch: &DriftWatch, rows: &[f32]| {
            let period = counted(&encoder, rows);
            watch.unusual(&period.stability(&reference), &period.noise(&reference))
        };
        let mut watch = DriftWatch::new(3);
        for period in 0..200 {
            let hour = rows(400, 100 + period, period % 4 == 0, 1.0);
            assert_eq!(unusual(&watch, &hour), [], "period {period}");
            watch.remember(&counted(&encoder, &hour).stability(&reference));
        }
        let drifts = unusual(&watch, &rows(400, 9, true, 100.0));
        assert_eq!(drifts.iter().map(|d| d.input).collect::<Vec<_>>(), [0]);

        let mut missing = rows(400, 10, false, 1.0);
        missing
            .iter_mut()
            .step_by(3)
            .for_each(|amount| *amount = f32::NAN);
        let drifts = unusual(&watch, &missing);
        assert_eq!(drifts.iter().map(|d| d.input).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn periods_that_are_told_anew_take_the_place_of_the_newest() {
        let watch = |usual: &[f64]| {
            let mut watch = DriftWatch::new(1);
            usual.iter().for_each(|value| watch.remember(&[*value]));
            watch
        };
        let check = |anew: &[f64], before: &[f64], expected: &[f64]| {
            let watch = watch(anew).going_on_from(&watch(before));
            let usual: Vec<f64> = watch.usual[0].iter().copied().collect();
            assert_eq!(usual, expected);
        };
        check(&[5.0, 6.0], &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 5.0, 6.0]);
        check(&[5.0, 6.0], &[1.0], &[5.0, 6.0]);
        check(&[], &[1.0, 2.0], &[1.0, 2.0]);
    }

    #[test]
    fn what_few_rows_differ_by_is_noise() {
        let encoder = encoder();
        let reference = counted(&encoder, &rows(20_000, 3, false, 1.0));
        let mut watch = DriftWatch::new(3);
        for period in 0..100 {
            let hour = counted(&encoder, &rows(2_000, 100 + period, false, 1.0));
            watch.remember(&hour.stability(&reference));
        }
        // Hours that were large so far become quiet.
        for period in 0..50 {
            let few = rows(DriftWatch::LEAST_ROWS, 300 + period, false, 1.0);
            let few = counted(&encoder, &few);
            let (stability, noise) = (few.stability(&reference), few.noise(&reference));
            assert_eq!(watch.unusual(&stability, &noise), [], "period {period}");
        }
        let moved = rows(DriftWatch::LEAST_ROWS, 400, false, 100.0);
        let moved = counted(&encoder, &moved);
        let drifts = watch.unusual(&moved.stability(&reference), &moved.noise(&reference));
        assert_eq!(drifts.iter().map(|d| d.input).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn noise_is_what_chance_seldom_exceeds() {
        let encoder = encoder();
        let reference = counted(&encoder, &rows(20_000, 3, false, 1.0));
        let periods: Vec<Histograms> = (0..200)
            .map(|period| counted(&encoder, &rows(500, 100 + period, false, 1.0)))
            .collect();
        let indexes: Vec<f64> = periods
            .iter()
            .map(|period| period.stability(&reference)[0])
            .collect();
        let mean = indexes.iter().sum::<f64>() / indexes.len() as f64;
        let largest = indexes.iter().copied().fold(0.0, f64::max);
        let noise = periods[0].noise(&reference)[0];
        assert!(
            largest < noise && noise < 8.0 * mean,
            "{mean} {largest} {noise}"
        );
    }
}
