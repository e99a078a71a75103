//! Labelled rows in memory, as the trainer takes them.
//!
//! Where the rows come from, and what an input is called, is not known here: see
//! [`crate::Manifest`] for the names.

use crate::error::LearnerError;

/// What an input's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// An amount: of two values one is the larger.
    Number,
    /// A name for something: two values are the same or not, and have no order.
    Category,
}

/// Labelled rows. Row `i` has the inputs `inputs[i * width .. (i + 1) * width]`, where NaN means
/// missing, the label `labels[i]`, which is 1 for a fraud and 0 otherwise, and a weight: how many
/// rows it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    kinds: Vec<InputKind>,
    inputs: Vec<f32>,
    labels: Vec<f32>,
    weights: Vec<f32>,
}

impl Examples {
    /// No rows of `width` inputs each, all of them numbers.
    pub fn new(width: usize) -> Self {
        Self::of_kinds(vec![InputKind::Number; width])
    }

    /// No rows of as many inputs each as there are kinds.
    pub fn of_kinds(kinds: Vec<InputKind>) -> Self {
        Self {
            kinds,
            inputs: Vec::new(),
            labels: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Rows from their columns, all inputs numbers. `inputs` is row-major.
    ///
    /// # Errors
    /// [`LearnerError::Width`] where the lengths do not agree, [`LearnerError::Example`] for a bad
    /// label or weight.
    pub fn from_parts(
        width: usize,
        inputs: Vec<f32>,
        labels: Vec<f32>,
        weights: Vec<f32>,
    ) -> Result<Self, LearnerError> {
        check_length(inputs.len(), width * labels.len())?;
        check_length(weights.len(), labels.len())?;
        if let Some(label) = labels.iter().find(|label| **label != 0.0 && **label != 1.0) {
            return Err(bad("label", *label));
        }
        weights
            .iter()
            .try_for_each(|weight| check_weight(*weight))?;
        Ok(Self {
            kinds: vec![InputKind::Number; width],
            inputs,
            labels,
            weights,
        })
    }

    /// Adds one row.
    ///
    /// # Errors
    /// [`LearnerError::Width`] if it has not `width` inputs, [`LearnerError::Example`] if the
    /// weight is negative or not finite.
    pub fn push(&mut self, row: &[f32], fraud: bool, weight: f32) -> Result<(), LearnerError> {
        check_length(row.len(), self.width())?;
        check_weight(weight)?;
        self.inputs.extend_from_slice(row);
        self.labels.push(if fraud { 1.0 } else { 0.0 });
        self.weights.push(weight);
        Ok(())
    }

    /// Adds all rows of another set, whose inputs are of the same kinds.
    ///
    /// # Errors
    /// [`LearnerError::Width`] if its rows have another width.
    pub fn extend(&mut self, other: &Examples) -> Result<(), LearnerError> {
        check_length(other.width(), self.width())?;
        self.inputs.extend_from_slice(&other.inputs);
        self.labels.extend_from_slice(&other.labels);
        self.weights.extend_from_slice(&other.weights);
        Ok(())
    }

    /// Inputs of a row.
    pub fn width(&self) -> usize {
        self.kinds.len()
    }

    /// What each input is, in the inputs' order. A model that starts afresh from these rows takes them so.
    pub fn kinds(&self) -> &[InputKind] {
        &self.kinds
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The inputs of row `index`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, index: usize) -> &[f32] {
        let width = self.width();
        &self.inputs[index * width..(index + 1) * width]
    }

    /// All inputs, row-major, `len() * width()` numbers.
    pub fn inputs(&self) -> &[f32] {
        &self.inputs
    }

    /// 1 for a fraud and 0 otherwise, one a row.
    pub fn labels(&self) -> &[f32] {
        &self.labels
    }

    /// How many rows each row stands for.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Number of rows that are frauds.
    pub fn frauds(&self) -> usize {
        self.labels.iter().filter(|label| **label > 0.5).count()
    }

    pub(crate) fn total_weight(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight)).sum()
    }

    pub(crate) fn scale_weights(&mut self, factor: f64) {
        for weight in &mut self.weights {
            *weight = (f64::from(*weight) * factor) as f32;
        }
    }
}

fn check_length(found: usize, expected: usize) -> Result<(), LearnerError> {
    if found == expected {
        return Ok(());
    }
    Err(LearnerError::Width { expected, found })
}

fn check_weight(weight: f32) -> Result<(), LearnerError> {
    if weight.is_finite() && weight >= 0.0 {
        return Ok(());
    }
    Err(bad("weight", weight))
}

fn bad(what: &'static str, value: f32) -> LearnerError {
    LearnerError::Example { what, value }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pushed_rows_are_the_rows_of_the_parts() {
        let mut pushed = Examples::new(2);
        pushed.push(&[1.0, 2.0], false, 1.0).unwrap();
        let mut more = Examples::new(2);
        more.push(&[3.0, 4.0], true, 2.5).unwrap();
        pushed.extend(&more).unwrap();

        let inputs = vec![1.0, 2.0, 3.0, 4.0];
        let parts = Examples::from_parts(2, inputs, vec![0.0, 1.0], vec![1.0, 2.5]).unwrap();
        assert_eq!(pushed, parts);
        assert_eq!(pushed.row(1), [3.0, 4.0]);
        assert_eq!((pushed.len(), pushed.frauds()), (2, 1));
    }

    #[test]
    fn what_cannot_be_learned_is_refused() {
        let mut examples = Examples::new(2);
        assert!(examples.push(&[1.0], false, 1.0).is_err());
        assert!(examples.push(&[1.0, 2.0], false, -1.0).is_err());
        assert!(examples.push(&[1.0, 2.0], false, f32::NAN).is_err());
        assert!(examples.extend(&Examples::new(3)).is_err());
        assert!(examples.is_empty());
        assert!(Examples::from_parts(1, vec![1.0], vec![0.5], vec![1.0]).is_err());
        assert!(Examples::from_parts(1, vec![1.0], vec![1.0], vec![]).is_err());
        assert!(Examples::from_parts(2, vec![1.0], vec![1.0], vec![1.0]).is_err());
    }
}
