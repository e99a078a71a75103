//! Burn's AdamW, with a state that can be put in and taken out as plain numbers.
//!
//! When and how far to step is the trainer's.

use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::record::AdaptorRecord;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

use crate::checkpoint::Moments;
use crate::dense::Dense;
use crate::network::{Network, bias_id, matrix, to_dense, vector, weight_id};

/// AdamW over a [`Network`].
pub(crate) type NetworkOptimizer<B> = OptimizerAdaptor<AdamW, Network<B>, B>;

/// AdamW as it stood after `steps` steps. Zero moments at step zero are a new optimizer.
///
/// ε is 1e-8 as in Loshchilov and Hutter, for Burn's 1e-5 would drown the gradients of rare codes.
pub(crate) fn restore<B: AutodiffBackend>(
    moments: &Moments,
    steps: u64,
    weight_decay: f32,
    device: &B::Device,
) -> NetworkOptimizer<B> {
    let config = AdamWConfig::new().with_epsilon(1e-8);
    let optimizer: NetworkOptimizer<B> = config.with_weight_decay(weight_decay).init();
    let mut records = Vec::new();
    for (layer, (first, second)) in moments.first.iter().zip(&moments.second).enumerate() {
        let weight = state::<B, 2>(matrix(first, device), matrix(second, device), steps);
        let bias = (vector(&first.bias, device), vector(&second.bias, device));
        let bias = state::<B, 1>(bias.0, bias.1, steps);
        records.push((
            weight_id(layer),
            AdaptorRecord::<AdamW, B>::from_state::<2>(weight),
        ));
        records.push((
            bias_id(layer),
            AdaptorRecord::<AdamW, B>::from_state::<1>(bias),
        ));
    }
    optimizer.load_record(records.into_iter().collect())
}

/// The moments as they stand, fetched from the device. `layers` tells how many there are; a layer
/// that was never trained has zeros.
pub(crate) fn moments<B: AutodiffBackend>(
    optimizer: &NetworkOptimizer<B>,
    layers: &[Dense],
) -> Moments {
    let mut records = optimizer.to_record();
    let mut moments = Moments::zeros(layers);
    for layer in 0..layers.len() {
        let weight = records.remove(&weight_id(layer));
        let bias = records.remove(&bias_id(layer));
        if let (Some(weight), Some(bias)) = (weight, bias) {
            let weight = weight.into_state::<2>().momentum;
            let bias = bias.into_state::<1>().momentum;
            moments.first[layer] = to_dense(weight.moment_1, Some(bias.moment_1));
            moments.second[layer] = to_dense(weight.moment_2, Some(bias.moment_2));
        }
    }
    moments
}

fn state<B: AutodiffBackend, const D: usize>(
    first: Tensor<B::InnerBackend, D>,
    second: Tensor<B::InnerBackend, D>,
    steps: u64,
) -> AdamWState<B::InnerBackend, D> {
    AdamWState::new(AdaptiveMomentumState {
        // Burn raises β to this power as an i32; beyond a million steps the power is zero anyway.
        time: steps.min(1_000_000) as usize,
        moment_1: first,
        moment_2: second,
        max_moment_2: None,
    })
}
