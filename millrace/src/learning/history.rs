//! The newest examples in memory, in the order of their numbers, and which of them are put aside.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use millrace_learner::{Check, Examples, InputKind};

use crate::failure::Outcome;
use crate::labels::Example;

/// The newest examples.
pub(super) struct History {
    kinds: Vec<InputKind>,
    inputs_tag: u32,
    /// Number of the last example that was read.
    pub(super) last_read: u64,
    /// Number up to which corrections were read.
    pub(super) corrected_until: u64,
    numbers: VecDeque<u64>,
    known_us: VecDeque<i64>,
    frauds: VecDeque<bool>,
    inputs: VecDeque<f32>,
    /// Numbers of labels that must not be learned, in ascending ranges that have none in common, and which check says so.
    aside: Vec<(RangeInclusive<u64>, Check)>,
    /// Numbers of examples whose label was wrong, each of which another has taken the place of …
    replaced: BTreeSet<u64>,
    /// … and the numbers of those.
    corrections: BTreeSet<u64>,
}

impl History {
    /// None yet, of inputs of these kinds.
    pub(super) fn new(kinds: Vec<InputKind>, inputs_tag: u32) -> Self {
        Self {
            kinds,
            inputs_tag,
            last_read: 0,
            corrected_until: 0,
            numbers: VecDeque::new(),
            known_us: VecDeque::new(),
            frauds: VecDeque::new(),
            inputs: VecDeque::new(),
            aside: Vec::new(),
            replaced: BTreeSet::new(),
            corrections: BTreeSet::new(),
        }
    }

    fn width(&self) -> usize {
        self.kinds.len()
    }

    /// Adds an example; one whose inputs meant something else cannot be learned from.
    pub(super) fn push(&mut self, number: u64, example: Example) {
        self.last_read = number;
        if example.inputs_tag != self.inputs_tag || example.inputs.len() != self.width() {
            return;
        }
        self.numbers.push_back(number);
        self.known_us.push_back(example.known_us);
        self.frauds.push_back(example.fraud);
        self.inputs.extend(example.inputs);
    }

    /// Notes that an example has taken the place of another, whose label was wrong: from then on no sample holds that.
    pub(super) fn correct(&mut self, number: u64, replaced: u64) {
        self.corrections.insert(number);
        self.replaced.insert(replaced);
    }

    /// Forgets examples that were deleted, learned or not.
    pub(super) fn forget(&mut self, gone: &BTreeSet<u64>) {
        let is_there = |number: &u64| self.numbers.binary_search(number).is_ok();
        if !gone.iter().any(is_there) {
            return;
        }
        let stays: Vec<bool> = self.numbers.iter().map(|it| !gone.contains(it)).collect();
        self.retain(&stays);
    }

    /// Forgets the oldest examples up to a number, which were dealt with: of those that are believed the newest `most` stay,
    /// and as many of the others. Labels that are put aside push none out that a replay may choose.
    pub(super) fn trim(&mut self, most: usize, dealt_with: u64) {
        let rows = self.numbers.partition_point(|number| *number <= dealt_with);
        self.keep_newest(most, rows, Self::is_believed);
    }

    /// Before there is a model: of the examples that became known before a time, which were too few of a kind for one, the
    /// newest `most` frauds stay, and as many genuine events.
    pub(super) fn trim_waiting(&mut self, most: usize, before_us: i64) {
        let rows = self.known_us.partition_point(|known| *known < before_us);
        self.keep_newest(most, rows, Self::is_fraud);
    }

    /// Of the first rows keeps the newest `most` of each of two kinds.
    fn keep_newest(
        &mut self,
        most: usize,
        rows: usize,
        is_of_the_first: impl Fn(&Self, usize) -> bool,
    ) {
        if rows <= most {
            return;
        }
        let history = &*self;
        let mut left = [most; 2];
        let mut stays = vec![false; rows];
        for (row, stays) in stays.iter_mut().enumerate().rev() {
            let left = &mut left[usize::from(is_of_the_first(history, row))];
            *stays = *left > 0;
            *left = left.saturating_sub(1);
        }
        self.retain(&stays);
        if let Some(first) = self.numbers.front() {
            self.aside.retain(|(range, _)| range.end() >= first);
            self.replaced = self.replaced.split_off(first);
            self.corrections = self.corrections.split_off(first);
        }
    }

    /// Of the first rows keeps those that stay, and all rows behind them.
    fn retain(&mut self, stays: &[bool]) {
        let first = stays.iter().position(|stays| *stays);
        let gone = first.unwrap_or(stays.len());
        let width = self.width();
        // The oldest go in every period: that moves none of the others.
        self.numbers.drain(..gone);
        self.known_us.drain(..gone);
        self.frauds.drain(..gone);
        self.inputs.drain(..gone * width);
        let stays = &stays[gone..];
        // Seldom: all that is behind the first that goes is moved.
        if stays.contains(&false) {
            retain_rows(&mut self.numbers, 1, stays);
            retain_rows(&mut self.known_us, 1, stays);
            retain_rows(&mut self.frauds, 1, stays);
            retain_rows(&mut self.inputs, width, stays);
        }
    }

    /// Puts labels aside that a check does not believe: from then on no sample holds them.
    pub(super) fn put_aside(&mut self, numbers: RangeInclusive<u64>, check: Check) {
        let at = self
            .aside
            .partition_point(|(range, _)| range.start() <= numbers.start());
        if at
            .checked_sub(1)
            .is_none_or(|last| self.aside[last].0 != numbers)
        {
            self.aside.insert(at, (numbers, check));
        }
    }

    /// Whether a label is put aside.
    pub(super) fn is_aside(&self, number: u64) -> bool {
        self.refused_by(number).is_some()
    }

    /// Which check put a label aside, if one did. There may be a range for each hour of a month.
    pub(super) fn refused_by(&self, number: u64) -> Option<Check> {
        let at = self
            .aside
            .partition_point(|(range, _)| *range.end() < number);
        let (range, check) = self.aside.get(at)?;
        range.contains(&number).then_some(*check)
    }

    /// Takes labels back that were put aside.
    pub(super) fn take_back(&mut self, numbers: &RangeInclusive<u64>) {
        self.aside.retain(|(range, _)| range != numbers);
    }

    /// Number of the newest example, 0 without one.
    pub(super) fn newest(&self) -> u64 {
        self.numbers.back().copied().unwrap_or(0)
    }

    /// Examples, those that are put aside too.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// How many examples there is room for: no more than twice as many as there ever were.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.numbers.capacity()
    }

    /// Adds a row's inputs to a list.
    pub(super) fn copy_inputs(&self, row: usize, to: &mut Vec<f32>) {
        let width = self.width();
        to.extend(self.inputs.range(row * width..(row + 1) * width));
    }

    pub(super) fn number(&self, row: usize) -> u64 {
        self.numbers[row]
    }

    pub(super) fn is_fraud(&self, row: usize) -> bool {
        self.frauds[row]
    }

    /// How long after the first label of an event its correction became known, µs. The store has no more of the first one
    /// than its number: it is as old as the label in front of it. None where that is not in memory.
    pub(super) fn waited_us(&self, first: u64, correction: u64) -> Option<i64> {
        let in_front = self.numbers.partition_point(|number| *number < first);
        let known_us = self.known_us[in_front.checked_sub(1)?];
        let row = self.numbers.binary_search(&correction).ok()?;
        Some(self.known_us[row].saturating_sub(known_us))
    }

    /// In which period, of so many µs of event time, a row's label became known; counted from 1970.
    pub(super) fn period(&self, row: usize, every_us: i64) -> i64 {
        self.known_us[row].div_euclid(every_us)
    }

    /// Whether a row's label says the opposite of one that was known before.
    pub(super) fn is_correction(&self, row: usize) -> bool {
        self.corrections.contains(&self.numbers[row])
    }

    /// When the first example after a number became known.
    pub(super) fn first_known_after(&self, number: u64) -> Option<i64> {
        let from = self.numbers.partition_point(|other| *other <= number);
        let is_there = |row: &usize| !self.replaced.contains(&self.numbers[*row]);
        let row = (from..self.numbers.len()).find(is_there)?;
        Some(self.known_us[row])
    }

    /// When the newest label became known.
    pub(super) fn newest_known(&self) -> Option<i64> {
        self.known_us.back().copied()
    }

    /// Rows after a number that became known before a time, without those that are put aside.
    pub(super) fn between(&self, after: u64, before_us: i64) -> Vec<usize> {
        let from = self.numbers.partition_point(|number| *number <= after);
        let to = self.known_us.partition_point(|known| *known < before_us);
        self.believed(from..to.max(from)).collect()
    }

    /// Rows after a number, up to another, without those that are put aside.
    pub(super) fn numbered(&self, after: u64, until: u64) -> Vec<usize> {
        let from = self.numbers.partition_point(|number| *number <= after);
        let to = self.numbers.partition_point(|number| *number <= until);
        self.believed(from..to.max(from)).collect()
    }

    /// Rows of numbers, whether they are put aside or not, but for those that a correction has taken the place of.
    pub(super) fn among(&self, numbers: &RangeInclusive<u64>) -> Vec<usize> {
        let from = self.numbers.partition_point(|it| it < numbers.start());
        let to = self.numbers.partition_point(|it| it <= numbers.end());
        let is_there = |row: &usize| !self.replaced.contains(&self.numbers[*row]);
        (from..to.max(from)).filter(is_there).collect()
    }

    /// Rows of numbers that are believed, and those that one of some checks put aside: the rows that a check has counted.
    pub(super) fn believed_or(
        &self,
        checks: &[Check],
        numbers: &RangeInclusive<u64>,
    ) -> Vec<usize> {
        let mut rows = self.among(numbers);
        rows.retain(|row| {
            let check = self.refused_by(self.numbers[*row]);
            check.is_none_or(|check| checks.contains(&check))
        });
        rows
    }

    /// The rows of a range that are not put aside, and that no correction has taken the place of.
    pub(super) fn believed(
        &self,
        rows: std::ops::Range<usize>,
    ) -> impl DoubleEndedIterator<Item = usize> + '_ {
        rows.filter(move |row| self.is_believed(*row))
    }

    /// Whether a row is not put aside, and no correction has taken its place.
    fn is_believed(&self, row: usize) -> bool {
        let number = self.numbers[row];
        !self.replaced.contains(&number) && !self.is_aside(number)
    }

    /// Rows, each behind the number of its label.
    pub(super) fn by_number(&self, rows: &[usize]) -> Vec<(u64, usize)> {
        rows.iter().map(|row| (self.number(*row), *row)).collect()
    }

    /// Examples of rows, each of which stands for itself alone.
    pub(super) fn unweighted(&self, rows: impl Iterator<Item = usize>) -> Outcome<Examples> {
        self.examples(rows.map(|row| (row, 1.0)))
    }

    /// Examples of rows, each with its weight.
    pub(super) fn examples(&self, rows: impl Iterator<Item = (usize, f32)>) -> Outcome<Examples> {
        let mut examples = Examples::of_kinds(self.kinds.clone());
        let mut inputs = Vec::with_capacity(self.width());
        for (row, weight) in rows {
            inputs.clear();
            self.copy_inputs(row, &mut inputs);
            examples.push(&inputs, self.frauds[row], weight)?;
        }
        Ok(examples)
    }
}

/// Of values, so many a row, removes those of the first rows that do not stay.
fn retain_rows<T>(values: &mut VecDeque<T>, width: usize, stays: &[bool]) {
    let mut at = 0;
    values.retain(|_| {
        let stays = stays.get(at / width).copied().unwrap_or(true);
        at += 1;
        stays
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CHECK: Check = Check::Contradiction;

    fn example(known_us: i64, inputs_tag: u32) -> Example {
        Example {
            known_us,
            event_time_us: 0,
            inputs: vec![known_us as f32, -1.0],
            inputs_tag,
            fraud: known_us % 2 == 0,
            probability: None,
            version: 0,
        }
    }

    fn history(rows: usize) -> History {
        let mut history = History::new(vec![InputKind::Number, InputKind::Category], 7);
        for number in 1..=rows as u64 {
            history.push(number, example(number as i64 * 10, 7));
        }
        history
    }

    #[test]
    fn a_period_is_what_was_not_learned_and_is_known() {
        let history = history(6);
        assert_eq!(history.first_known_after(2), Some(30));
        assert_eq!(history.between(2, 50), [2, 3]);
        assert_eq!(history.between(2, 51), [2, 3, 4]);
        assert_eq!(history.between(6, 1_000), Vec::<usize>::new());
        assert_eq!(history.between(5, 20), Vec::<usize>::new());
        let examples = history.examples([(1, 1.0), (4, 2.5)].into_iter()).unwrap();
        assert_eq!(examples.inputs(), [20.0, -1.0, 50.0, -1.0]);
        assert_eq!(examples.weights(), [1.0, 2.5]);
        assert_eq!(examples.kinds(), [InputKind::Number, InputKind::Category]);
    }

    #[test]
    fn what_is_put_aside_is_in_no_sample_until_it_is_taken_back() {
        let mut history = history(6);
        for _ in 0..2 {
            history.put_aside(3..=4, CHECK);
        }
        assert_eq!(history.aside.len(), 1);
        assert_eq!(history.between(1, 1_000), [1, 4, 5]);
        assert_eq!(history.believed(0..6).count(), 4);
        history.take_back(&(3..=4));
        assert_eq!(history.between(1, 1_000), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_is_put_aside_is_found_among_many_ranges() {
        let mut history = history(9);
        for numbers in [5..=6, 1..=1, 8..=9] {
            history.put_aside(numbers, CHECK);
        }
        let numbers = |history: &History| -> Vec<u64> {
            let rows = history.between(0, 1_000).into_iter();
            rows.map(|row| history.number(row)).collect()
        };
        assert_eq!(numbers(&history), [2, 3, 4, 7]);
        history.take_back(&(5..=6));
        assert_eq!(numbers(&history), [2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn which_check_put_labels_aside_is_known() {
        let mut history = history(9);
        for (numbers, check) in [(2..=3, Check::Silence), (5..=6, Check::Drift)] {
            history.put_aside(numbers, check);
        }
        let checks = [1, 3, 4, 5].map(|number| history.refused_by(number));
        let expected = [None, Some(Check::Silence), None, Some(Check::Drift)];
        assert_eq!(checks, expected);
        let counted = history.believed_or(&[Check::Silence, Check::Flood], &(2..=8));
        assert_eq!(counted, [1, 2, 3, 6, 7]);
    }

    #[test]
    fn trimming_keeps_what_was_not_dealt_with() {
        let mut history = history(10);
        // Nor does that push out what a replay may choose.
        history.trim(4, 4);
        assert_eq!(history.len(), 10);
        history.trim(4, 9);
        assert_eq!(history.numbers, [6, 7, 8, 9, 10]);
        history.trim(4, 10);
        assert_eq!(history.numbers, [7, 8, 9, 10]);
        assert_eq!(history.first_known_after(0), Some(70));
        assert_eq!(history.inputs.len(), 8);
    }

    #[test]
    fn what_is_put_aside_pushes_no_believed_labels_out() {
        let mut history = history(12);
        for numbers in [2..=2, 5..=9] {
            history.put_aside(numbers, CHECK);
        }
        history.trim(3, 12);
        assert_eq!(history.numbers, [7, 8, 9, 10, 11, 12]);
        history.push(13, example(130, 7));
        history.put_aside(13..=13, CHECK);
        history.trim(3, 13);
        assert_eq!(history.numbers, [8, 9, 10, 11, 12, 13]);
        // Some in the middle go, with all that is known of them.
        for number in 14..=16 {
            history.push(number, example(number as i64 * 10, 7));
        }
        history.put_aside(14..=16, CHECK);
        history.trim(3, 16);
        assert_eq!(history.numbers, [10, 11, 12, 14, 15, 16]);
        assert_eq!(history.known_us, [100, 110, 120, 140, 150, 160]);
        let inputs: Vec<f32> = history.inputs.range(6..).copied().collect();
        assert_eq!(inputs, [140.0, -1.0, 150.0, -1.0, 160.0, -1.0]);
        assert_eq!(history.frauds.len(), 6);
        assert_eq!(history.between(0, 1_000), [0, 1, 2]);
        history.take_back(&(14..=16));
        assert_eq!(history.between(12, 1_000), [3, 4, 5]);
    }

    #[test]
    fn before_there_is_a_model_some_of_each_kind_stay() {
        let mut history = History::new(vec![InputKind::Number, InputKind::Category], 7);
        for number in 1..=12_u64 {
            let fraud = number == 2 || number > 10;
            let known_us = number as i64 * 10;
            let example = Example {
                fraud,
                ..example(known_us, 7)
            };
            history.push(number, example);
        }
        history.trim_waiting(3, 110);
        // What came since was in no period yet.
        assert_eq!(history.numbers, [2, 8, 9, 10, 11, 12]);
        assert_eq!(history.frauds, [true, false, false, false, true, true]);
        history.trim_waiting(2, 1_000);
        assert_eq!(history.numbers, [9, 10, 11, 12]);
    }

    #[test]
    fn a_corrected_label_is_in_samples_once() {
        let mut history = history(6);
        history.put_aside(2..=2, CHECK);
        for replaced in [2, 4] {
            let number = history.last_read + 1;
            history.push(number, example(70, 7));
            history.correct(number, replaced);
        }
        assert_eq!(history.between(0, 1_000), [0, 2, 4, 5, 6, 7]);
        assert_eq!(history.between(3, 71), [4, 5, 6, 7]);
        history.put_aside(3..=3, CHECK);
        assert_eq!(history.among(&(2..=5)), [2, 4]);
        history.take_back(&(3..=3));
        assert_eq!(history.first_known_after(3), Some(50));
        let is_correction = |row: &usize| history.is_correction(*row);
        let rows: Vec<usize> = (0..8).filter(is_correction).collect();
        assert_eq!(rows, [6, 7]);
        history.trim(1, 8);
        assert_eq!(history.numbers, [4, 8]);
        assert_eq!(history.between(0, 1_000), [1]);
        let left = (history.replaced.len(), history.corrections.len());
        assert_eq!(left, (1, 2));
    }

    #[test]
    fn what_was_deleted_is_forgotten_whether_it_was_learned_or_not() {
        let mut history = history(6);
        history.push(7, example(70, 7));
        history.correct(7, 2);
        history.put_aside(3..=4, CHECK);
        for _ in 0..2 {
            history.forget(&BTreeSet::from([3, 5, 7, 9]));
            assert_eq!(history.numbers, [1, 2, 4, 6]);
            assert_eq!(history.known_us, [10, 20, 40, 60]);
            assert_eq!(history.frauds, [true; 4]);
            let inputs = [10.0, -1.0, 20.0, -1.0, 40.0, -1.0, 60.0, -1.0];
            assert_eq!(history.inputs, inputs);
        }
        // What the deleted one took the place of does not come back.
        assert_eq!(history.between(0, 1_000), [0, 3]);
        assert_eq!(history.first_known_after(4), Some(60));
        history.trim(1, 6);
        // The newest of each kind: 4 is put aside, 6 is believed.
        assert_eq!(history.numbers, [4, 6]);
        assert_eq!(history.last_read, 7);
    }

    #[test]
    fn inputs_of_another_meaning_are_left_out() {
        let mut history = History::new(vec![InputKind::Number; 2], 7);
        history.push(1, example(10, 6));
        history.push(2, example(20, 7));
        assert_eq!((history.numbers.len(), history.last_read), (1, 2));
    }
}
