//! Values beyond all that a model was made of: what is left of a wrong unit that only some events have, as when one of
//! many producers begins to send cents.
//!
//! Such a change moves a tenth of an input's values far away and leaves the others where they were. The stability index
//! of [`crate::DriftWatch`] weighs that like an hour of the night; but next to none of the usual values are outside of
//! the outermost bin edges, which are the smallest and the largest value that a model started from, so that the share of
//! those tells it apart.

use std::collections::VecDeque;

use crate::encoder::{Encoder, Place};

/// How many rows of a period have a value of each input outside of its outermost edges.
#[derive(Debug, Clone, PartialEq)]
pub struct Tails {
    beyond: Vec<u64>,
    rows: u64,
}

impl Tails {
    /// No rows yet, of an encoder's inputs.
    pub fn new(encoder: &Encoder) -> Self {
        Self {
            beyond: vec![0; encoder.width()],
            rows: 0,
        }
    }

    /// Counts rows: row-major, the encoder's width each.
    pub fn add(&mut self, encoder: &Encoder, rows: &[f32]) {
        for row in rows.chunks_exact(encoder.width().max(1)) {
            self.rows += 1;
            for (input, value) in row.iter().enumerate() {
                self.beyond[input] += u64::from(is_beyond(encoder, input, *value));
            }
        }
    }
}

fn is_beyond(encoder: &Encoder, input: usize, value: f32) -> bool {
    let Place::Bin { bin, fraction } = encoder.place(input, value) else {
        return false;
    };
    let is_last = bin + 1 == encoder.bins(input);
    (bin == 0 && fraction < 0.0) || (is_last && fraction > 1.0)
}

/// An input with more values beyond its edges than is usual.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlying {
    /// Which one, counted from 0.
    pub input: usize,
    /// Rows of the period that have such a value.
    pub beyond: u64,
    /// All of its rows.
    pub rows: u64,
    /// The largest share that would be usual.
    pub usual: f64,
}

/// Periods that are remembered, and those before which nothing is unusual: as for the stability index.
const REMEMBERED: usize = 192;
const LEARNED: usize = 48;
/// How many times the mean share of the remembered periods is still usual.
const USUAL: f64 = 5.0;
/// So is the largest share of one of them, as if it had so many rows more with the mean share: one value in a quiet
/// hour's fifty is no share.
const STEADYING: f64 = 200.0;
/// And so is the share of the newest periods together: what they had was accepted.
const NEWEST: usize = 6;
/// What is usual gives a share so large this seldom, or more seldom.
const UNLIKELY: f64 = 1e-6;

/// What share of values beyond the edges is usual for each input, period by period.
#[derive(Debug, Clone, Default)]
pub struct TailWatch {
    usual: VecDeque<Tails>,
    /// The newest periods in a row that were not usual.
    run: Vec<Tails>,
}

impl TailWatch {
    /// The inputs with an unusual share of a period's values beyond their edges, the most unlikely first. After
    /// `patience` such periods in a row, this one among them, what they had is usual.
    pub fn judge(&mut self, period: Tails, patience: usize) -> Vec<Outlying> {
        let outlying = self.unusual(&period);
        if outlying.is_empty() {
            self.run.clear();
            self.remember(period);
            return outlying;
        }
        self.run.push(period);
        if self.run.len() < patience {
            return outlying;
        }
        for period in std::mem::take(&mut self.run) {
            self.remember(period);
        }
        Vec::new()
    }

    /// Takes a period that was put aside before, the newest so far: whether it is one more in a row.
    pub fn recall(&mut self, period: Tails) {
        match self.unusual(&period).is_empty() {
            true => self.run.clear(),
            false => self.run.push(period),
        }
    }

    /// Remembers a period as usual.
    pub fn remember(&mut self, period: Tails) {
        self.usual.push_back(period);
        if self.usual.len() > REMEMBERED {
            self.usual.pop_front();
        }
    }

    fn unusual(&self, period: &Tails) -> Vec<Outlying> {
        if self.usual.len() < LEARNED {
            return Vec::new();
        }
        let rows: u64 = self.usual.iter().map(|usual| usual.rows).sum();
        let mut outlying: Vec<(f64, Outlying)> = Vec::new();
        for (input, beyond) in period.beyond.iter().enumerate() {
            let all: u64 = self.usual.iter().map(|usual| usual.beyond[input]).sum();
            let mean = (all as f64 + 1.0) / (rows as f64 + 1.0);
            let steadied = self.usual.iter().map(|usual| {
                (usual.beyond[input] as f64 + mean * STEADYING) / (usual.rows as f64 + STEADYING)
            });
            let newest = || self.usual.iter().rev().take(NEWEST);
            let in_newest: u64 = newest().map(|usual| usual.beyond[input]).sum();
            let of_newest: u64 = newest().map(|usual| usual.rows).sum();
            let recent = in_newest as f64 / of_newest.max(1) as f64;
            let usual = steadied.fold(recent.max(USUAL * mean), f64::max);
            let chance = chance_of(*beyond, period.rows, usual);
            if chance < UNLIKELY {
                outlying.push((
                    chance,
                    Outlying {
                        input,
                        beyond: *beyond,
                        rows: period.rows,
                        usual,
                    },
                ));
            }
        }
        outlying.sort_by(|a, b| a.0.total_cmp(&b.0));
        outlying.into_iter().map(|(_, outlying)| outlying).collect()
    }
}

/// The probability that so many of some rows, or more, are what a row is with a probability of `share`, at most: the bound
/// of Chernoff (1952), e^(−rows · D), where D is the divergence of the share that was found from that.
fn chance_of(beyond: u64, rows: u64, share: f64) -> f64 {
    let found = beyond as f64 / rows.max(1) as f64;
    if found <= share || share >= 1.0 {
        return 1.0;
    }
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    let divergence = part(found, share) + part(1.0 - found, 1.0 - share);
    (-(rows as f64) * divergence).exp()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::examples::Examples;
    use crate::random::{Stream, generator};
    use rand::Rng;

    const PATIENCE: usize = 6;

    /// Amounts with a long tail, of which one in `cents_in` is in cents (0: none), and counts that grow with the period.
    fn rows(rows: usize, seed: u64, cents_in: usize) -> Vec<f32> {
        let mut random = generator(seed, Stream::Shuffle, 0);
        let row = |row: usize| {
            let amount = (random.random::<f32>() * 5.0).exp();
            let is_cents = cents_in > 0 && row.is_multiple_of(cents_in);
            let count = random.random_range(0..20 + seed as usize % 1_000 / 40);
            [amount * if is_cents { 100.0 } else { 1.0 }, count as f32]
        };
        (0..rows).flat_map(row).collect()
    }

    fn encoder() -> Encoder {
        let all = rows(5_000, 0, 0);
        let count = all.len() / 2;
        let examples = Examples::from_parts(2, all, vec![0.0; count], vec![1.0; count]);
        Encoder::fit(&examples.unwrap(), 24).unwrap()
    }

    fn period(encoder: &Encoder, rows: &[f32]) -> Tails {
        let mut tails = Tails::new(encoder);
        tails.add(encoder, rows);
        tails
    }

    fn inputs(outlying: &[Outlying]) -> Vec<usize> {
        outlying.iter().map(|outlying| outlying.input).collect()
    }

    /// What 200 periods of 100 to 400 rows have made usual.
    fn learned(encoder: &Encoder) -> TailWatch {
        let mut watch = TailWatch::default();
        for at in 0..200 {
            let hour = rows(100 + at % 4 * 100, 1_000 + at as u64, 0);
            let outlying = watch.judge(period(encoder, &hour), PATIENCE);
            assert_eq!(inputs(&outlying), [0; 0], "period {at}");
        }
        watch
    }

    #[test]
    fn a_tenth_of_the_amounts_in_cents_is_named_at_once() {
        let encoder = encoder();
        let mut watch = learned(&encoder);
        let hour = period(&encoder, &rows(200, 1_200, 10));
        let outlying = watch.judge(hour, PATIENCE);
        assert_eq!(inputs(&outlying), [0]);
        assert_eq!(outlying[0].rows, 200);
        assert!(outlying[0].beyond > 10 && outlying[0].usual < 0.02);
        // Usual hours are usual again at once.
        let hour = period(&encoder, &rows(200, 1_201, 0));
        assert!(watch.judge(hour, PATIENCE).is_empty());
    }

    #[test]
    fn what_stays_is_usual_after_some_periods() {
        let encoder = encoder();
        let mut watch = learned(&encoder);
        let mut judged = (0..12).map(|at| {
            let hour = period(&encoder, &rows(200, 1_200 + at, 10));
            watch.judge(hour, PATIENCE).is_empty()
        });
        let first: Vec<bool> = judged.by_ref().take(PATIENCE).collect();
        assert_eq!(first, [false, false, false, false, false, true]);
        assert!(judged.all(|is_usual| is_usual));
        // Those that another process has put aside count.
        let mut watch = learned(&encoder);
        for at in 0..5 {
            watch.recall(period(&encoder, &rows(200, 1_200 + at, 10)));
        }
        let hour = period(&encoder, &rows(200, 1_205, 10));
        assert!(watch.judge(hour, PATIENCE).is_empty());
    }

    #[test]
    fn the_bound_is_above_the_probability() {
        // Of 20 rows with a probability of 0.1: 6 or more 0.0113 of the time, 2 or more 0.6083.
        let six = chance_of(6, 20, 0.1);
        assert!(six > 0.0113 && six < 0.1, "{six}");
        assert_eq!(chance_of(2, 20, 0.1), 1.0);
        assert!(chance_of(20, 20, 0.1) < 1e-19);
        assert_eq!(chance_of(0, 0, 0.1), 1.0);
    }
}
