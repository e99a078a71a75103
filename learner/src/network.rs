//! The ensemble that Burn trains: encoded inputs → hidden layers with ReLU and dropout → one logit a
//! member, and its loss.
//!
//! Scoring does not pass here: see [`crate::Model`].

use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::{log_sigmoid, relu};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rand::Rng;
use rand_pcg::Pcg64Mcg;

use crate::layer::Layer;
use crate::random::{Stream, generator};

/// Multi-layer perceptrons that share most of their weights, on one device.
#[derive(Module, Debug)]
pub(crate) struct Network<B: Backend> {
    layers: Vec<SharedLinear<B>>,
}

/// [`Layer`] on a device.
#[derive(Module, Debug)]
struct SharedLinear<B: Backend> {
    weight: Param<Tensor<B, 3>>,
    scale_in: Option<Param<Tensor<B, 3>>>,
    scale_out: Option<Param<Tensor<B, 3>>>,
    bias: Param<Tensor<B, 3>>,
}

/// Identifies a part of a layer. Ids depend on the place alone, so that the optimizer's state finds
/// its parameter again after a restart.
pub(crate) fn part_id(layer: usize, part: usize) -> ParamId {
    ParamId::from(4 * layer as u64 + part as u64 + 1)
}

impl<B: Backend> Network<B> {
    /// The network with the given weights, on a device.
    pub(crate) fn from_layers(layers: &[Layer], device: &B::Device) -> Self {
        let linear = |(index, layer): (usize, &Layer)| {
            let part = |part: usize| {
                let (numbers, shape) = layer.parts()[part];
                let tensor = tensor::<B>(numbers, shape, device).require_grad();
                Param::initialized(part_id(index, part), tensor)
            };
            SharedLinear {
                weight: part(0),
                scale_in: (!layer.scale_in.is_empty()).then(|| part(1)),
                scale_out: (!layer.scale_out.is_empty()).then(|| part(2)),
                bias: part(3),
            }
        };
        Self {
            layers: layers.iter().enumerate().map(linear).collect(),
        }
    }

    /// The weights, fetched from the device.
    pub(crate) fn to_layers(&self) -> Vec<Layer> {
        self.layers.iter().map(SharedLinear::to_layer).collect()
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
        let weight = self.weight.val();
        let [groups, inputs, outputs] = weight.dims();
        let members = self.bias.val().dims()[0];
        let mut wide = match groups {
            1 => weight.reshape([inputs, outputs]).repeat_dim(1, members),
            _ => weight.swap_dims(0, 1).reshape([inputs, members * outputs]),
        };
        if let Some(scale) = &self.scale_in {
            let scale = scale.val().reshape([members, inputs]).swap_dims(0, 1);
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
        let weight = self.weight.val();
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

    fn to_layer(&self) -> Layer {
        let [_, inputs, outputs] = self.weight.val().dims();
        let [members, _, _] = self.bias.val().dims();
        let scales = |scale: &Option<Param<Tensor<B, 3>>>| {
            let numbers = scale.as_ref().map(|scale| numbers(scale.val()));
            numbers.unwrap_or_default()
        };
        Layer {
            inputs,
            outputs,
            members,
            weight: numbers(self.weight.val()),
            scale_in: scales(&self.scale_in),
            scale_out: scales(&self.scale_out),
            bias: numbers(self.bias.val()),
        }
    }
}

/// A parameter of all members, side by side: `[1, numbers]`.
fn one_row<B: Backend>(parameter: &Param<Tensor<B, 3>>) -> Tensor<B, 2> {
    let tensor = parameter.val();
    let numbers = tensor.dims().iter().product::<usize>();
    tensor.reshape([1, numbers])
}

/// Σ weight · mean over the members of −log p(label), in nats, from logits `[rows, members]`; labels
/// and weights are `[rows]`. Each member is trained on its own loss, as in TabM: a loss of the mean
/// would let them lean on each other and become one large network.
///
/// −log p is −log σ(z) for a fraud and −log σ(−z) otherwise, and log σ is computed so that it
/// neither overflows nor rounds to zero.
pub(crate) fn weighted_log_loss<B: Backend>(
    logits: Tensor<B, 2>,
    labels: Tensor<B, 1>,
    weights: Tensor<B, 1>,
) -> Tensor<B, 1> {
    let [rows, members] = logits.dims();
    let (labels, weights) = (labels.reshape([rows, 1]), weights.reshape([rows, 1]));
    let fraud = labels.clone() * log_sigmoid(logits.clone());
    let genuine = (labels.neg() + 1.0) * log_sigmoid(logits.neg());
    ((fraud + genuine).neg() * weights)
        .sum()
        .div_scalar(members as f32)
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
pub(crate) fn tensor<B: Backend>(
    numbers: &[f32],
    shape: [usize; 3],
    device: &B::Device,
) -> Tensor<B, 3> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), shape), device)
}

/// Numbers on a device, `[numbers]`.
pub(crate) fn vector<B: Backend>(numbers: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), [numbers.len()]), device)
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
    fn the_loss_is_the_metric_and_its_gradient_is_the_error() {
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
        let z = vector::<Cpu>(&both, &device).reshape([9, 2]).require_grad();
        let y = vector::<Cpu>(&labels, &device);
        let w = vector::<Cpu>(&weights, &device);
        let loss = weighted_log_loss(z.clone(), y, w);
        let gradients = loss.backward();
        let gradient = numbers(z.grad(&gradients).unwrap());

        let total: f32 = weights.iter().sum();
        let of_member = |logits: &[f32]| metrics::log_loss(logits, &labels, &weights);
        let expected = (of_member(&logits) + of_member(&other)) / 2.0 * f64::from(total);
        assert!((f64::from(loss.into_scalar()) / expected - 1.0).abs() < 1e-6);
        for (at, logit) in both.iter().enumerate() {
            let row = at / 2;
            let p = 1.0 / (1.0 + (-logit).exp());
            let expected = weights[row] * (p - labels[row]) / 2.0;
            assert!((gradient[at] - expected).abs() < 1e-6, "row {row}");
        }
    }

    #[test]
    fn layers_survive_the_way_through_burn() {
        for members in [1, 3] {
            let layers = initial_layers(&[5, 4, 1], members, -2.0, 3);
            let network = Network::<Cpu>::from_layers(&layers, &Default::default());
            assert_eq!(network.to_layers(), layers);
            assert_eq!(layers[1].bias, vec![-2.0; members]);
            assert_eq!(layers[0].scale_in.is_empty(), members == 1);
            assert_ne!(layers, initial_layers(&[5, 4, 1], members, -2.0, 4));
        }
    }
}
