//! Values beyond all that a model was made of: what is left of a wrong unit that only some events have, as when one of
//! many producers begins to send cents.
//!
//! Such a change moves a tenth of an input's values far away and leaves the others where they were. The stability index
//! of [`crate::DriftWatch`] weighs that like an hour of the night; but next to none of the usual values are outside of
//! the outermost bin edges, which are the smallest and the largest value that a model started from, so that the share of
//! those tells it apart.
//!
//! A change that begins in a quiet hour, or that few events have, is too little for one period. So periods are counted
//! together from the first on in which there was more than usual (Page 1954), and are held to what was usual before it:
//! a few of them where the change is large, which is a reason not to believe labels, and up to a day of them where it is
//! small, which is worth an alarm.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::encoder::{Encoder, Place};

/// How many rows of a period have a value of each input outside of its outermost edges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

    /// Whether these are of an encoder's inputs, as far as that can be told.
    pub fn is_of(&self, encoder: &Encoder) -> bool {
        self.beyond.len() == encoder.width()
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
    /// Rows that have such a value, of the period or of some that were counted together.
    pub beyond: u64,
    /// All of these rows.
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

/// Periods that are counted together for a change that began in quiet ones, at most. With more, what only grows would be
/// taken for a change.
const SHORT_RUN: usize = 4;
/// A share of these that is usual, whatever was before: what a new shop sells may be as much.
const SHORT_RUN_USUAL: f64 = 0.02;
/// Periods that are counted together for a change that few events have, at most.
const LONG_RUN: usize = 24;
/// They are judged only where no more than this would be usual: a larger share is one that grows as a matter of course, such
/// as that of counts over a month which has not passed yet.
const LONG_RUN_USUAL: f64 = 0.01;
/// Their share must be so many times as large as would be usual …
const LONG_RUN_RATIO: f64 = 2.0;
/// … and be given by chance this seldom: what one card does comes several times.
const LONG_RUN_UNLIKELY: f64 = 1e-9;

/// What share of values beyond the edges is usual for each input, period by period.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TailWatch {
    usual: VecDeque<Tails>,
    /// The newest periods in a row that were not usual.
    run: Vec<Tails>,
    /// Of each input, how many of the newest remembered periods are counted together: for a large change …
    short: Vec<usize>,
    /// … and for a small one.
    long: Vec<usize>,
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
        self.end_run();
        Vec::new()
    }

    /// What the newest periods in a row had is usual from now on, and nothing is held against the next ones.
    fn end_run(&mut self) {
        for period in std::mem::take(&mut self.run) {
            self.remember(period);
        }
        self.short.fill(0);
        self.long.fill(0);
    }

    /// The inputs that have had somewhat more values beyond their edges than is usual for some periods, of which this is
    /// the newest; it is not remembered yet. Each is named once, and counted anew from then on.
    pub fn adding_up(&mut self, period: &Tails) -> Vec<Outlying> {
        let mut outlying = Vec::new();
        if self.usual.len() < LEARNED {
            return outlying;
        }
        for input in 0..self.long.len() {
            let run = self.long[input];
            let usual = self.usual_before(input, run, run + 1);
            let (beyond, rows) = self.together(input, run, period);
            let is_much = beyond as f64 > LONG_RUN_RATIO * usual * rows as f64;
            if run > 0
                && usual < LONG_RUN_USUAL
                && is_much
                && chance_of(beyond, rows, usual) < LONG_RUN_UNLIKELY
            {
                self.long[input] = 0;
                outlying.push(Outlying {
                    input,
                    beyond,
                    rows,
                    usual,
                });
            }
        }
        outlying
    }

    /// Takes a period that was put aside for these values before, the newest so far: whether it is one more in a row.
    pub fn recall(&mut self, period: Tails) {
        match self.unusual(&period).is_empty() {
            true => self.run.clear(),
            false => self.run.push(period),
        }
    }

    /// Takes a period that was found usual before, the newest so far. If it is not usual, it came after so many that were not
    /// that what they had was usual from then on.
    pub fn believe(&mut self, period: Tails) {
        if self.unusual(&period).is_empty() {
            self.run.clear();
            self.remember(period);
        } else {
            self.run.push(period);
            self.end_run();
        }
    }

    /// Whether all that is known is of an encoder's inputs, as far as that can be told.
    pub fn is_of(&self, encoder: &Encoder) -> bool {
        let mut periods = self.usual.iter().chain(&self.run);
        let is_empty = self.usual.is_empty();
        let runs = [&self.short, &self.long];
        periods.all(|period| period.is_of(encoder))
            && runs
                .iter()
                .all(|run| is_empty || run.len() == encoder.width())
    }

    /// Remembers a period as usual.
    fn remember(&mut self, period: Tails) {
        let inputs = period.beyond.len();
        self.short.resize(inputs, 0);
        self.long.resize(inputs, 0);
        if self.usual.len() >= LEARNED {
            for input in 0..inputs {
                let (short, long) = (self.short[input], self.long[input]);
                let goes_on = self.is_more(input, short, 1, &period) && short + 1 < SHORT_RUN;
                self.short[input] = if goes_on { short + 1 } else { 0 };
                let goes_on = self.is_more(input, long, long + 1, &period) && long + 1 < LONG_RUN;
                self.long[input] = if goes_on { long + 1 } else { 0 };
            }
        }
        self.usual.push_back(period);
        if self.usual.len() > REMEMBERED {
            self.usual.pop_front();
        }
    }

    /// Whether a period and so many before it have together more than is usual.
    fn is_more(&self, input: usize, run: usize, periods: usize, period: &Tails) -> bool {
        // As it is mostly.
        if run == 0 && period.beyond[input] == 0 {
            return false;
        }
        let (beyond, rows) = self.together(input, run, period);
        beyond as f64 > self.usual_before(input, run, periods) * rows as f64
    }

    /// Values beyond the edges of an input, and rows, of a period and so many before it.
    fn together(&self, input: usize, run: usize, period: &Tails) -> (u64, u64) {
        let before = self.usual.iter().rev().take(run);
        before.fold((period.beyond[input], period.rows), |(beyond, rows), it| {
            (beyond + it.beyond[input], rows + it.rows)
        })
    }

    /// The largest share that is usual of an input in so many `periods` together, by what is remembered but for the newest
    /// `run`.
    fn usual_before(&self, input: usize, run: usize, periods: usize) -> f64 {
        let before = self.usual.iter().rev().skip(run);
        let counts: Vec<(u64, u64)> = before.map(|it| (it.beyond[input], it.rows)).collect();
        let (beyond, rows) = sum(&counts);
        let mean = (beyond + 1.0) / (rows + 1.0);
        let together = periods.clamp(1, counts.len().max(1));
        let steadied = counts.windows(together).map(|counts| {
            let (beyond, rows) = sum(counts);
            (beyond + mean * STEADYING) / (rows + STEADYING)
        });
        let (in_newest, of_newest) = sum(&counts[..counts.len().min(NEWEST)]);
        let recent = in_newest / of_newest.max(1.0);
        steadied.fold(recent.max(USUAL * mean), f64::max)
    }

    fn unusual(&self, period: &Tails) -> Vec<Outlying> {
        if self.usual.len() < LEARNED {
            return Vec::new();
        }
        let mut outlying: Vec<(f64, Outlying)> = Vec::new();
        for input in 0..period.beyond.len() {
            outlying.extend(self.unusual_alone(input, period));
        }
        outlying.sort_by(|a, b| a.0.total_cmp(&b.0));
        outlying.into_iter().map(|(_, outlying)| outlying).collect()
    }

    /// Whether an input has too many values beyond its edges in a period, or in that and the few before it; and how
    /// seldom chance gives as many.
    fn unusual_alone(&self, input: usize, period: &Tails) -> Option<(f64, Outlying)> {
        let (beyond, rows) = (period.beyond[input], period.rows);
        let found = |beyond: u64, rows: u64, usual: f64| {
            let chance = chance_of(beyond, rows, usual);
            let outlying = Outlying {
                input,
                beyond,
                rows,
                usual,
            };
            (chance < UNLIKELY).then_some((chance, outlying))
        };
        // As it is mostly.
        if beyond == 0 {
            return None;
        }
        let alone = found(beyond, rows, self.usual_before(input, 0, 1));
        let run = self.short.get(input).copied().unwrap_or(0);
        if alone.is_some() || run == 0 {
            return alone;
        }
        let usual = self.usual_before(input, run, 1).max(SHORT_RUN_USUAL);
        // Usual periods are usual again at once.
        if beyond as f64 <= usual * rows as f64 {
            return None;
        }
        let (beyond, rows) = self.together(input, run, period);
        found(beyond, rows, usual)
    }
}

/// Values and rows of periods, newest first, in all.
fn sum(counts: &[(u64, u64)]) -> (f64, f64) {
    let add = |a: (u64, u64), b: &(u64, u64)| (a.0 + b.0, a.1 + b.1);
    let (beyond, rows) = counts.iter().fold((0, 0), add);
    (beyond as f64, rows as f64)
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
        let mut next = watch.clone();
        let hour = || period(&encoder, &rows(200, 1_205, 10));
        assert!(watch.judge(hour(), PATIENCE).is_empty());
        // So does that one, in the next process.
        next.believe(hour());
        for at in 1_206..1_209 {
            let hour = || period(&encoder, &rows(200, at, 10));
            assert!(watch.judge(hour(), PATIENCE).is_empty());
            assert!(next.judge(hour(), PATIENCE).is_empty());
        }
    }

    /// Whether periods of so many rows, one after the other, are usual; one in so many amounts is in cents.
    fn judged(
        watch: &mut TailWatch,
        encoder: &Encoder,
        sizes: &[usize],
        cents_in: usize,
    ) -> String {
        let judged = sizes.iter().enumerate().map(|(at, size)| {
            let period = period(encoder, &rows(*size, 1_200 + at as u64, cents_in));
            match watch.judge(period, PATIENCE).is_empty() {
                true => '.',
                false => '!',
            }
        });
        judged.collect()
    }

    #[test]
    fn what_begins_in_a_quiet_hour_is_held_to_what_was_usual_before() {
        let encoder = encoder();
        let night = [10, 30, 60, 160];
        let mut watch = learned(&encoder);
        // A handful of values says nothing, and does not make the next ones usual.
        assert_eq!(judged(&mut watch, &encoder, &night, 10), "...!");
        let mut watch = learned(&encoder);
        assert_eq!(judged(&mut watch, &encoder, &night, 0), "....");
        // What only some events of a new shop have is no reason.
        let mut watch = learned(&encoder);
        assert_eq!(
            judged(&mut watch, &encoder, &[300; 20], 100),
            ".".repeat(20)
        );
    }

    #[test]
    fn what_few_events_have_adds_up_and_is_named_once() {
        let encoder = encoder();
        let named = |cents_in: usize| -> Vec<usize> {
            let mut watch = learned(&encoder);
            let mut named = Vec::new();
            for at in 0..48_usize {
                let hour = period(&encoder, &rows(300, 1_200 + at as u64, cents_in));
                let outlying = watch.adding_up(&hour);
                named.extend(outlying.iter().filter(|it| it.input == 0).map(|_| at));
                watch.judge(hour, PATIENCE);
            }
            named
        };
        assert_eq!(named(0), [0; 0]);
        let named = named(100);
        assert!(named.len() == 1 && named[0] > 0, "{named:?}");
    }

    #[test]
    fn a_watch_that_was_kept_goes_on() {
        let encoder = encoder();
        let mut watch = learned(&encoder);
        let kept = serde_json::to_string(&watch).unwrap();
        let mut kept: TailWatch = serde_json::from_str(&kept).unwrap();
        for at in 0..4 {
            let hour = || period(&encoder, &rows(200, 1_200 + at, 10));
            assert_eq!(watch.judge(hour(), PATIENCE), kept.judge(hour(), PATIENCE));
        }
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
