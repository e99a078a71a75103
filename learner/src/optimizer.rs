//! Burn's AdamW, with a state that can be put in and taken out as plain numbers.
//!
//! When and how far to step is the trainer's.

use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::record::AdaptorRecord;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;

use crate::checkpoint::Moments;
use crate::layer::{Layer, PARTS};
use crate::network::{Network, numbers, part_id, tensor};

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
        let parts = first.parts().into_iter().zip(second.parts());
        for (part, ((first, shape), (second, _))) in parts.enumerate() {
            if first.is_empty() {
                continue;
            }
            let state = state::<B>(
                tensor(first, shape, device),
                tensor(second, shape, device),
                steps,
            );
            let record = AdaptorRecord::<AdamW, B>::from_state::<3>(state);
            records.push((part_id(layer, part), record));
        }
    }
    optimizer.load_record(records.into_iter().collect())
}

/// The moments as they stand, fetched from the device. `layers` tells how many there are; a part
/// that was never trained has zeros.
pub(crate) fn moments<B: AutodiffBackend>(
    optimizer: &NetworkOptimizer<B>,
    layers: &[Layer],
) -> Moments {
    let mut records = optimizer.to_record();
    let mut moments = Moments::zeros(layers);
    let both = moments.first.iter_mut().zip(&mut moments.second);
    for (layer, (first, second)) in both.enumerate() {
        let (first, second) = (first.parts_mut(), second.parts_mut());
        for part in 0..PARTS.len() {
            if let Some(record) = records.remove(&part_id(layer, part)) {
                let momentum = record.into_state::<3>().momentum;
                *first[part] = numbers(momentum.moment_1);
                *second[part] = numbers(momentum.moment_2);
            }
        }
    }
    moments
}

fn state<B: AutodiffBackend>(
    first: Tensor<B::InnerBackend, 3>,
    second: Tensor<B::InnerBackend, 3>,
    steps: u64,
) -> AdamWState<B::InnerBackend, 3> {
    AdamWState::new(AdaptiveMomentumState {
        // Burn raises β to this power as an i32; beyond a million steps the power is zero anyway.
        time: steps.min(1_000_000) as usize,
        moment_1: first,
        moment_2: second,
        max_moment_2: None,
    })
}
