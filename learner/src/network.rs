//! The network that Burn trains: encoded inputs → hidden layers with ReLU and dropout → one logit,
//! and its loss.
//!
//! Scoring does not pass here: see [`crate::Model`].

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::activation::{log_sigmoid, relu};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rand::Rng;

use crate::dense::Dense;
use crate::random::{Stream, generator};

/// A multi-layer perceptron on one device.
#[derive(Module, Debug)]
pub(crate) struct Network<B: Backend> {
    layers: Vec<Linear<B>>,
}

/// Identifies the weight of a layer. Ids depend on the place alone, so that the optimizer's state
/// finds its parameter again after a restart.
pub(crate) fn weight_id(layer: usize) -> ParamId {
    ParamId::from(2 * layer as u64 + 1)
}

/// Identifies the bias of a layer.
pub(crate) fn bias_id(layer: usize) -> ParamId {
    ParamId::from(2 * layer as u64 + 2)
}

impl<B: Backend> Network<B> {
    /// The network with the given weights, on a device.
    pub(crate) fn from_dense(layers: &[Dense], device: &B::Device) -> Self {
        let linear = |(index, layer): (usize, &Dense)| Linear {
            weight: parameter(weight_id(index), matrix(layer, device)),
            bias: Some(parameter(bias_id(index), vector(&layer.bias, device))),
        };
        Self {
            layers: layers.iter().enumerate().map(linear).collect(),
        }
    }

    /// The weights, fetched from the device.
    pub(crate) fn to_dense(&self) -> Vec<Dense> {
        let dense = |layer: &Linear<B>| {
            let bias = layer.bias.as_ref().map(|bias| bias.val());
            to_dense(layer.weight.val(), bias)
        };
        self.layers.iter().map(dense).collect()
    }

    /// Logits `[rows]` of codes `[rows, encoded width]`. `masks`, one a hidden layer and shaped
    /// `[rows, units]`, are multiplied in after the ReLU: the dropout of a training step. No masks,
    /// no dropout.
    pub(crate) fn forward(&self, codes: Tensor<B, 2>, masks: Vec<Tensor<B, 2>>) -> Tensor<B, 1> {
        let [rows, _] = codes.dims();
        let last = self.layers.len() - 1;
        let mut masks = masks.into_iter();
        let mut values = codes;
        for (index, layer) in self.layers.iter().enumerate() {
            values = layer.forward(values);
            if index < last {
                values = relu(values);
                if let Some(mask) = masks.next() {
                    values = values * mask;
                }
            }
        }
        values.reshape([rows])
    }
}

/// Σ weight · −log p(label) over the rows, in nats, from logits; all tensors are `[rows]`.
///
/// −log p is −log σ(z) for a fraud and −log σ(−z) otherwise, and log σ is computed so that it
/// neither overflows nor rounds to zero.
pub(crate) fn weighted_log_loss<B: Backend>(
    logits: Tensor<B, 1>,
    labels: Tensor<B, 1>,
    weights: Tensor<B, 1>,
) -> Tensor<B, 1> {
    let fraud = labels.clone() * log_sigmoid(logits.clone());
    let genuine = (labels.neg() + 1.0) * log_sigmoid(logits.neg());
    ((fraud + genuine).neg() * weights).sum()
}

/// First weights: uniform in ±1/√inputs, as PyTorch's linear layer has them, and zero biases,
/// except that the last bias is `bias`. Drawn on the host, so that every device starts from the
/// same numbers.
pub(crate) fn initial_layers(widths: &[usize], bias: f32, seed: u64) -> Vec<Dense> {
    let mut random = generator(seed, Stream::Weights, 0);
    let mut layer = |inputs: usize, outputs: usize| {
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut layer = Dense::zeros(inputs, outputs);
        for weight in &mut layer.weight {
            *weight = (2.0 * random.random::<f32>() - 1.0) * bound;
        }
        layer
    };
    let mut layers: Vec<Dense> = widths.windows(2).map(|w| layer(w[0], w[1])).collect();
    if let Some(last) = layers.last_mut() {
        last.bias.fill(bias);
    }
    layers
}

/// A layer's weight on a device, `[inputs, outputs]`.
pub(crate) fn matrix<B: Backend>(layer: &Dense, device: &B::Device) -> Tensor<B, 2> {
    let shape = [layer.inputs, layer.outputs];
    Tensor::from_data(TensorData::new(layer.weight.clone(), shape), device)
}

/// Numbers on a device.
pub(crate) fn vector<B: Backend>(numbers: &[f32], device: &B::Device) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), [numbers.len()]), device)
}

/// A layer from a weight `[inputs, outputs]` and a bias `[outputs]`; no bias is a bias of zeros.
pub(crate) fn to_dense<B: Backend>(weight: Tensor<B, 2>, bias: Option<Tensor<B, 1>>) -> Dense {
    let [inputs, outputs] = weight.dims();
    Dense {
        inputs,
        outputs,
        weight: numbers(weight.into_data()),
        bias: bias.map_or_else(|| vec![0.0; outputs], |bias| numbers(bias.into_data())),
    }
}

fn numbers(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

fn parameter<B: Backend, const D: usize>(id: ParamId, tensor: Tensor<B, D>) -> Param<Tensor<B, D>> {
    Param::initialized(id, tensor.require_grad())
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
        let labels = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
        let weights = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 1.0, 0.25];

        let z = vector::<Cpu>(&logits, &device).require_grad();
        let y = vector::<Cpu>(&labels, &device);
        let w = vector::<Cpu>(&weights, &device);
        let loss = weighted_log_loss(z.clone(), y, w);
        let gradients = loss.backward();
        let gradient = numbers(z.grad(&gradients).unwrap().into_data());

        let total: f32 = weights.iter().sum();
        let expected = metrics::log_loss(&logits, &labels, &weights) * f64::from(total);
        assert!((f64::from(loss.into_scalar()) / expected - 1.0).abs() < 1e-6);
        for row in 0..logits.len() {
            let p = 1.0 / (1.0 + (-logits[row]).exp());
            let expected = weights[row] * (p - labels[row]);
            assert!((gradient[row] - expected).abs() < 1e-6, "row {row}");
        }
    }

    #[test]
    fn layers_survive_the_way_through_burn() {
        let layers = initial_layers(&[5, 4, 1], -2.0, 3);
        let network = Network::<Cpu>::from_dense(&layers, &Default::default());
        assert_eq!(network.to_dense(), layers);
        assert_eq!(layers[1].bias, [-2.0]);
        assert_ne!(layers, initial_layers(&[5, 4, 1], -2.0, 4));
    }
}
