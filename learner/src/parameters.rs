//! All numbers that training changes, as one row on the device, and AdamW over them.
//!
//! A step of this small network keeps a GPU busy for some microseconds; the time goes into asking for
//! it, operation by operation. AdamW takes a dozen of them, for each of eleven tensors or for all of
//! the numbers at once. On a CPU, it is one long loop in place of eleven short ones.

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::checkpoint::{Checkpoint, Moments};
use crate::layer::Layer;
use crate::network::{Network, numbers, tensor};

/// How fast the mean of the gradients forgets, and that of their squares.
const BETA: [f64; 2] = [0.9, 0.999];
/// As in Loshchilov and Hutter: a larger one would drown the gradients of rare codes.
const EPSILON: f64 = 1e-8;

/// The numbers of all parts, one after the other.
fn joined(layers: &[Layer]) -> Vec<f32> {
    let parts = layers.iter().flat_map(Layer::parts);
    parts.flat_map(|(numbers, _)| numbers).copied().collect()
}

/// Layers shaped as `like`, from the numbers of all parts.
fn parted(joined: &[f32], like: &[Layer]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = like.iter().map(Layer::zeros_like).collect();
    let mut rest = joined;
    for part in layers.iter_mut().flat_map(Layer::parts_mut) {
        let (numbers, others) = rest.split_at(part.len());
        part.copy_from_slice(numbers);
        rest = others;
    }
    layers
}

/// A network's weights and AdamW's state, `[numbers]` each. A clone stays as it is.
#[derive(Clone)]
pub(crate) struct Parameters<B: Backend> {
    weights: Tensor<B, 1>,
    /// AdamW's mean of the gradients.
    first: Tensor<B, 1>,
    /// AdamW's mean of their squares.
    second: Tensor<B, 1>,
    /// Steps made, those of earlier updates included.
    steps: u64,
}

impl<B: Backend> Parameters<B> {
    pub(crate) fn of(checkpoint: &Checkpoint, device: &B::Device) -> Self {
        let on_device = |layers: &[Layer]| {
            let numbers = joined(layers);
            let shape = [numbers.len()];
            tensor(numbers, shape, device)
        };
        let moments = checkpoint.moments();
        Self {
            weights: on_device(checkpoint.layers()),
            first: on_device(&moments.first),
            second: on_device(&moments.second),
            steps: checkpoint.steps(),
        }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// The weights and AdamW's state, fetched from the device.
    pub(crate) fn fetch(&self, like: &[Layer]) -> (Vec<Layer>, Moments) {
        let fetch = |tensor: &Tensor<B, 1>| parted(&numbers(tensor.clone()), like);
        let moments = Moments {
            first: fetch(&self.first),
            second: fetch(&self.second),
        };
        (fetch(&self.weights), moments)
    }

    /// The network of these weights, and the tensors that a gradient is asked for, in order.
    pub(crate) fn network<A>(&self, like: &[Layer]) -> (Network<A>, Vec<Tensor<A, 3>>)
    where
        A: AutodiffBackend<InnerBackend = B>,
    {
        let mut leaves = Vec::new();
        let mut from = 0;
        let network = Network::of(like, |shape| {
            let length = shape.iter().product();
            let part = self.weights.clone().narrow(0, from, length);
            from += length;
            let leaf = Tensor::from_inner(part.reshape(shape)).require_grad();
            leaves.push(leaf.clone());
            leaf
        });
        (network, leaves)
    }

    /// AdamW (Loshchilov and Hutter 2019): one step of size `rate` against the gradients of all
    /// parts, which are `[numbers of the part]` each.
    ///
    /// The corrections of the two means for their start at zero are numbers, and stand in the step
    /// size and in ε.
    pub(crate) fn step(&mut self, gradients: Vec<Tensor<B, 1>>, rate: f64, weight_decay: f64) {
        // Beyond a million steps the power is zero anyway.
        let steps = self.steps.min(1_000_000) as i32 + 1;
        let [correct_first, correct_second] = BETA.map(|beta| 1.0 - beta.powi(steps));
        let (length, epsilon) = (
            rate * correct_second.sqrt() / correct_first,
            EPSILON * correct_second.sqrt(),
        );
        let gradient = Tensor::cat(gradients, 0);
        let squares = gradient.clone() * gradient.clone();
        let mean = |mean: &Tensor<B, 1>, new: Tensor<B, 1>, beta: f64| {
            mean.clone() * beta + new * (1.0 - beta)
        };
        self.first = mean(&self.first, gradient, BETA[0]);
        self.second = mean(&self.second, squares, BETA[1]);
        let way = self.first.clone() / (self.second.clone().sqrt() + epsilon);
        self.weights = self.weights.clone() * (1.0 - rate * weight_decay) - way * length;
        self.steps += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::network::initial_layers;
    use burn::backend::Flex;

    #[test]
    fn layers_survive_the_way_through_one_row() {
        for members in [1, 3] {
            let layers = initial_layers(&[5, 4, 1], members, -2.0, 3);
            assert_eq!(parted(&joined(&layers), &layers), layers);
        }
    }

    /// Against the paper's algorithm 2, number by number in double precision.
    #[test]
    fn a_step_is_adamws() {
        let (rate, decay) = (2e-3, 1e-2);
        let gradients = [
            [0.5, -1e-4, 0.0, 30.0],
            [-0.1, 1e-9, 0.0, 3.0],
            [0.2, 0.0, 0.0, -7.0],
        ];
        let mut expected = [[1.0_f64, -2.0, 0.5, 3.0], [0.0; 4], [0.0; 4]];
        let row = |numbers: [f64; 4]| {
            let numbers = numbers.iter().map(|number| *number as f32).collect();
            tensor::<Flex, 1>(numbers, [4], &Default::default())
        };
        let mut parameters = Parameters {
            weights: row(expected[0]),
            first: row([0.0; 4]),
            second: row([0.0; 4]),
            steps: 0,
        };
        for (step, gradient) in gradients.iter().enumerate() {
            let parts = vec![
                row(*gradient).narrow(0, 0, 1),
                row(*gradient).narrow(0, 1, 3),
            ];
            parameters.step(parts, rate, decay);
            let [weights, first, second] = &mut expected;
            for at in 0..4 {
                first[at] = BETA[0] * first[at] + (1.0 - BETA[0]) * gradient[at];
                second[at] = BETA[1] * second[at] + (1.0 - BETA[1]) * gradient[at].powi(2);
                let power = step as i32 + 1;
                let (m, v) = (
                    first[at] / (1.0 - BETA[0].powi(power)),
                    second[at] / (1.0 - BETA[1].powi(power)),
                );
                weights[at] -= rate * (m / (v.sqrt() + EPSILON) + decay * weights[at]);
            }
        }
        assert_eq!(parameters.steps(), 3);
        for (found, expected) in [
            (&parameters.weights, expected[0]),
            (&parameters.first, expected[1]),
            (&parameters.second, expected[2]),
        ] {
            for (found, expected) in numbers(found.clone()).into_iter().zip(expected) {
                let difference = (f64::from(found) - expected).abs();
                assert!(difference <= 1e-6 * expected.abs(), "{found} {expected}");
            }
        }
    }
}
