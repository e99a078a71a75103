//! The ensemble that Burn trains: encoded inputs → hidden layers with ReLU and dropout → one logit a
//! member, and its loss.
//!
//! Scoring does not pass here: see [`crate::Model`].

use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand_pcg::Pcg64Mcg;

use crate::layer::Layer;
use crate::random::{Stream, generator};

/// Multi-layer perceptrons that share most of their weights, on one device.
#[derive(Debug)]
pub(crate) struct Network<B: Backend> {
    layers: Vec<SharedLinear<B>>,
}

/// [`Layer`] on a device.
#[derive(Debug)]
struct SharedLinear<B: Backend> {
    weight: Tensor<B, 3>,
    scale_in: Option<Tensor<B, 3>>,
    scale_out: Option<Tensor<B, 3>>,
    bias: Tensor<B, 3>,
}

impl<B: Backend> Network<B> {
    /// A network shaped as `like`, of the parts that `part` gives for each shape, in the order of
    /// [`Layer::parts`]; it is not asked for parts that are empty.
    pub(crate) fn of(like: &[Layer], mut part: impl FnMut([usize; 3]) -> Tensor<B, 3>) -> Self {
        let linear = |layer: &Layer| {
            let [weight, scale_in, scale_out, bias] = layer.parts();
            SharedLinear {
                weight: part(weight.1),
                scale_in: (!scale_in.0.is_empty()).then(|| part(scale_in.1)),
                scale_out: (!scale_out.0.is_empty()).then(|| part(scale_out.1)),
                bias: part(bias.1),
            }
        };
        Self {
            layers: like.iter().map(linear).collect(),
        }
    }

    /// Logits `[rows, members]` of codes `[rows, encoded width]`. `masks`, one a hidden layer and
    /// shaped `[rows, members · units]`, are multiplied in after the ReLU: the dropout of a training
    /// step. No masks, no dropout.
    ///
    /// The members of a row stand side by side in one long row. So whatever is a member's own is one
    /// row for all rows, the form of broadcast that backends have fast kernels for, and what is
    /// shared is one product of `rows · members` short rows. In the first layer it is the other way
    /// round: see [`SharedLinear::of_codes`].
    pub(crate) fn forward(&self, codes: Tensor<B, 2>, masks: Vec<Tensor<B, 2>>) -> Tensor<B, 2> {
        let last = self.layers.len() - 1;
        let mut masks = masks.into_iter();
        let mut values = codes;
        for (index, layer) in self.layers.iter().enumerate() {
            values = match index {
                0 => layer.of_codes(values),
                _ => layer.forward(values),
            };
            if index < last {
                values = relu(values);
                if let Some(mask) = masks.next() {
                    values = values * mask;
                }
            }
        }
        values
    }
}

impl<B: Backend> SharedLinear<B> {
    /// `[rows, inputs]`, which all members read, to `[rows, members · outputs]`.
    ///
    /// The members' scales go into the weights rather than into the codes, which are the longer of
    /// the two, and all members are one product. Nor is a gradient of the codes computed then, which
    /// the scales would be the only ones to need.
    fn of_codes(&self, codes: Tensor<B, 2>) -> Tensor<B, 2> {
        let weight = self.weight.clone();
        let [groups, inputs, outputs] = weight.dims();
        let members = self.bias.dims()[0];
        let mut wide = match groups {
            1 => weight.reshape([inputs, outputs]).repeat_dim(1, members),
            _ => weight.swap_dims(0, 1).reshape([inputs, members * outputs]),
        };
        if let Some(scale) = &self.scale_in {
            let scale = scale.clone().reshape([members, inputs]).swap_dims(0, 1);
            let scale = scale.reshape([inputs, members, 1]);
            let scaled = wide.reshape([inputs, members, outputs]) * scale;
            wide = scaled.reshape([inputs, members * outputs]);
        }
        self.scaled_out(codes.matmul(wide))
    }

    /// `[rows, members · inputs]` to `[rows, members · outputs]`.
    fn forward(&self, mut values: Tensor<B, 2>) -> Tensor<B, 2> {
        if let Some(scale) = &self.scale_in {
            values = values * one_row(scale);
        }
        let weight = self.weight.clone();
        let [groups, inputs, outputs] = weight.dims();
        let [rows, width] = values.dims();
        let members = width / inputs;
        values = if groups == 1 {
            let short = values.reshape([rows * members, inputs]);
            let product = short.matmul(weight.reshape([inputs, outputs]));
            product.reshape([rows, members * outputs])
        } else if outputs == 1 {
            let products = values * one_row(&self.weight);
            let sums = products.reshape([rows, members, inputs]).sum_dim(2);
            sums.reshape([rows, members])
        } else {
            let own = values.reshape([rows, members, inputs]).swap_dims(0, 1);
            let product = own.matmul(weight).swap_dims(0, 1);
            product.reshape([rows, members * outputs])
        };
        self.scaled_out(values)
    }

    /// `values ⊙ scale_out + bias`, both `[rows, members · outputs]`.
    fn scaled_out(&self, mut values: Tensor<B, 2>) -> Tensor<B, 2> {
        if let Some(scale) = &self.scale_out {
            values = values * one_row(scale);
        }
        values + one_row(&self.bias)
    }
}

/// A parameter of all members, side by side: `[1, numbers]`.
fn one_row<B: Backend>(parameter: &Tensor<B, 3>) -> Tensor<B, 2> {
    let numbers = parameter.dims().iter().product::<usize>();
    parameter.clone().reshape([1, numbers])
}

/// A number whose gradients are those of the log loss: logits `[rows, members]` times the loss's own
/// gradient there, weight · (σ(z) − label), which is taken as given. Labels and weights are
/// `[rows, 1]`.
///
/// Each member is trained on its own loss, as in TabM: a loss of the mean would let them lean on each
/// other and become one large network. The loss itself is no part of a step: a GPU would be asked
/// for thirty small things more, and [`crate::log_loss`] tells it from the logits.
pub(crate) fn as_the_log_loss<B: AutodiffBackend>(
    logits: Tensor<B, 2>,
    labels: Tensor<B::InnerBackend, 2>,
    weights: Tensor<B::InnerBackend, 2>,
) -> Tensor<B, 2> {
    let slope = (sigmoid(logits.clone().inner()) - labels) * weights;
    logits * Tensor::from_inner(slope)
}

/// First weights of `members` networks with the given widths. Drawn on the host, so that every
/// device starts from the same numbers.
///
/// Weights are uniform in ±1/√inputs, as PyTorch's linear layer has them, and biases are zero,
/// except that the last is `bias`. The members differ, as in TabM, by the signs with which they read
/// the codes, and by weights of their own in the last layer. One member alone has no scales: it is a
/// plain multi-layer perceptron, and without hidden layers a logistic regression.
pub(crate) fn initial_layers(widths: &[usize], members: usize, bias: f32, seed: u64) -> Vec<Layer> {
    let mut random = generator(seed, Stream::Weights, 0);
    let last = widths.len() - 2;
    let layer = |(index, pair): (usize, &[usize])| {
        let (inputs, outputs) = (pair[0], pair[1]);
        let own = if index == last { members } else { 1 };
        let scales = members > 1 && index < last;
        let mut scale_in = vec![1.0; if scales { members * inputs } else { 0 }];
        let weight = uniform(&mut random, own * inputs * outputs, inputs);
        if index == 0 {
            for scale in &mut scale_in {
                *scale = if random.random() { 1.0 } else { -1.0 };
            }
        }
        Layer {
            inputs,
            outputs,
            members,
            weight,
            scale_in,
            scale_out: vec![1.0; if scales { members * outputs } else { 0 }],
            bias: vec![if index == last { bias } else { 0.0 }; members * outputs],
        }
    };
    widths.windows(2).enumerate().map(layer).collect()
}

fn uniform(random: &mut Pcg64Mcg, count: usize, inputs: usize) -> Vec<f32> {
    let bound = 1.0 / (inputs as f32).sqrt();
    (0..count)
        .map(|_| (2.0 * random.random::<f32>() - 1.0) * bound)
        .collect()
}

/// Numbers on a device.
pub(crate) fn tensor<B: Backend, const D: usize>(
    numbers: Vec<f32>,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

/// Numbers from a device.
pub(crate) fn numbers<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::metrics;
    use burn::backend::{Autodiff, Flex};

    type Cpu = Autodiff<Flex>;

    #[test]
    fn a_step_follows_the_log_loss() {
        let device = Default::default();
        let logits = [-90.0, -2.0, -0.5, 0.0, 0.0, 0.7, 3.0, 90.0, 90.0];
        let other = [1.0, -1.0, 0.5, 2.0, -3.0, 0.1, 0.2, 0.3, 0.4];
        let labels = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
        let weights = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 1.0, 0.25];

        let both: Vec<f32> = logits
            .iter()
            .zip(&other)
            .flat_map(|(a, b)| [*a, *b])
            .collect();
        let z = tensor::<Cpu, 2>(both.clone(), [9, 2], &device).require_grad();
        let y = tensor(labels.to_vec(), [9, 1], &device);
        let w = tensor(weights.to_vec(), [9, 1], &device);
        let gradients = as_the_log_loss(z.clone(), y, w).backward();
        let gradient = numbers(z.grad(&gradients).unwrap());

        // Against differences of the loss, which is a weighted mean.
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let loss = |logits: &[f32]| metrics::log_loss(logits, &labels, &weights) * total;
        for (member, logits) in [logits, other].into_iter().enumerate() {
            for row in 0..9 {
                let step = 1.0 / 256.0;
                let mut at = [logits; 2];
                at[0][row] -= step;
                at[1][row] += step;
                let slope = (loss(&at[1]) - loss(&at[0])) / f64::from(2.0 * step);
                let found = f64::from(gradient[2 * row + member]);
                assert!(
                    (found - slope).abs() < 1e-5,
                    "{member} {row} {found} {slope}"
                );
            }
        }
    }

    #[test]
    fn members_differ_from_the_start() {
        for members in [1, 3] {
            let layers = initial_layers(&[5, 4, 1], members, -2.0, 3);
            assert_eq!(layers[1].bias, vec![-2.0; members]);
            assert_eq!(layers[0].scale_in.is_empty(), members == 1);
            assert_ne!(layers, initial_layers(&[5, 4, 1], members, -2.0, 4));
        }
    }
}
