//! One model update: the parent's weights and optimizer state, fresh and replayed examples in; a
//! candidate and its metrics out.
//!
//! The candidate is refused here only where it is plainly broken. Whether it is better than the
//! serving version is a question for labels that it has not seen, and is asked elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use rand::RngCore;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use crate::calibration::Calibration;
use crate::checkpoint::{Checkpoint, Moments};
use crate::device::Device;
use crate::encoder::Encoder;
use crate::error::{LearnerError, Rejection};
use crate::examples::Examples;
use crate::layer::Layer;
use crate::metrics::{Metrics, log_loss};
use crate::model::Model;
use crate::network::{as_the_log_loss, initial_layers, numbers, tensor};
use crate::parameters::Parameters;
use crate::random::{Stream, generator};
use crate::settings::LearnerSettings;

/// A finished update.
#[derive(Debug, Clone)]
pub struct Update {
    /// The candidate.
    pub checkpoint: Checkpoint,
    /// How the parent and the candidate do on the fresh rows.
    pub metrics: UpdateMetrics,
    /// Fresh rows that were learned.
    pub rows: u64,
    /// Rows of the history that were learned again.
    pub replayed: u64,
    /// Training steps of this update.
    pub steps: u64,
    /// How far the learned rows' log odds moved, in nats, as a mean over the rows: 0 for a model
    /// that starts afresh. Never above [`LearnerSettings::max_shift`].
    pub shift: f64,
    /// Whether it would have moved them farther.
    pub shortened: bool,
    /// Mean weighted loss of the last pass, in nats a row, with dropout.
    pub training_loss: f64,
    /// Where it was trained; never [`Device::Auto`].
    pub device: Device,
}

impl Update {
    /// Lets the candidate serve through a calibration, and measures it so on the fresh rows. From [`update`] it has its
    /// parent's, or none where it started afresh.
    ///
    /// # Errors
    /// [`LearnerError::Width`] for rows of another model.
    pub fn calibrate(
        &mut self,
        calibration: Calibration,
        fresh: &Examples,
    ) -> Result<(), LearnerError> {
        if self.checkpoint.calibration() != calibration {
            self.checkpoint.calibrate(calibration);
            self.metrics.after = evaluate(&self.checkpoint, fresh)?;
        }
        Ok(())
    }
}

/// Metrics on an update's fresh rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateMetrics {
    /// The parent's, which had not seen these labels: an honest forecast. `None` without a parent.
    pub before: Option<Metrics>,
    /// The candidate's, which has learned these labels: too good, and only fit to see that training
    /// worked.
    pub after: Metrics,
}

/// A candidate is refused if its log loss on the rows that it learned exceeds this times its
/// parent's …
const EXPLODED_FACTOR: f64 = 2.0;
/// … plus this, in nats a row.
const EXPLODED_MARGIN: f64 = 0.1;

/// Updates a model, or makes the first one if there is no `parent`.
///
/// The first update chooses the encoder's edges and categories, draws weights from the seed, and makes
/// `initial_passes` passes. A later one goes on from the parent's weights and AdamW state with
/// `passes` passes; the parent's encoder and layer sizes stay, whatever the settings say now. The
/// rows of a pass are `fresh` and `replay` together in an order that the seed and the parent's step
/// count decide. On the CPU, the same arguments give the same bytes.
///
/// # Errors
/// [`LearnerError::Setting`], [`LearnerError::Device`], [`LearnerError::Width`] and
/// [`LearnerError::NoExamples`] for arguments that do not fit, [`LearnerError::Rejected`] for a
/// candidate that must not be used.
pub fn update(
    settings: &LearnerSettings,
    device: Device,
    parent: Option<&Checkpoint>,
    fresh: &Examples,
    replay: &Examples,
    seed: u64,
) -> Result<Update, LearnerError> {
    let never = AtomicBool::new(false);
    update_unless(&never, settings, device, parent, fresh, replay, seed)
}

/// As [`update`], but for a process that may be told to end: training is cut short within some steps once `is_stopped`.
///
/// # Errors
/// As [`update`]; [`LearnerError::Stopped`] where it was cut short.
pub fn update_unless(
    is_stopped: &AtomicBool,
    settings: &LearnerSettings,
    device: Device,
    parent: Option<&Checkpoint>,
    fresh: &Examples,
    replay: &Examples,
    seed: u64,
) -> Result<Update, LearnerError> {
    settings.check()?;
    let device = device.resolve()?;
    let examples = training_set(settings, fresh, replay)?;
    let start = match parent {
        Some(parent) => parent.clone(),
        None => first_checkpoint(settings, &examples, seed)?,
    };
    check_width(&start, &examples)?;
    let task = Task {
        settings,
        schedule: Schedule::new(settings, parent.is_none(), examples.len()),
        start: &start,
        examples: &examples,
        seed,
        is_stopped,
    };
    let (checkpoint, training_loss) = train_on(device, &task)?;
    let way = match parent {
        Some(parent) => shorten(parent, checkpoint, &examples, settings.max_shift)?,
        None => Way::new(checkpoint),
    };
    let mut checkpoint = way.checkpoint;
    if let Some(parent) = parent {
        checkpoint.average_with(parent, settings.averaged_updates);
        checkpoint.calibrate(parent.calibration());
    }
    let metrics = UpdateMetrics {
        before: parent.map(|parent| evaluate(parent, fresh)).transpose()?,
        after: evaluate(&checkpoint, fresh)?,
    };
    refuse_explosion(&metrics)?;
    Ok(Update {
        metrics,
        rows: fresh.len() as u64,
        replayed: replay.len() as u64,
        steps: checkpoint.steps() - start.steps(),
        checkpoint,
        training_loss,
        shift: way.shift,
        shortened: way.shortened,
        device,
    })
}

/// Everything that training depends on, besides the device.
struct Task<'a> {
    settings: &'a LearnerSettings,
    schedule: Schedule,
    start: &'a Checkpoint,
    examples: &'a Examples,
    seed: u64,
    /// Set once it is to be cut short.
    is_stopped: &'a AtomicBool,
}

/// How many steps to make, and how long each is.
struct Schedule {
    /// Whether the model starts afresh.
    is_first: bool,
    passes: usize,
    batches: usize,
    first_rate: f64,
    last_rate: f64,
}

impl Schedule {
    /// Batches of nearly equal size: a last one of a few rows would step as far as the others on
    /// far less evidence.
    fn new(settings: &LearnerSettings, first: bool, rows: usize) -> Self {
        let (passes, first_rate) = match first {
            true => (settings.initial_passes, settings.initial_learning_rate),
            false => (settings.passes, settings.learning_rate),
        };
        Self {
            is_first: first,
            passes,
            batches: rows.div_ceil(settings.batch_rows),
            first_rate,
            last_rate: settings.learning_rate,
        }
    }

    fn rate(&self, step: usize) -> f64 {
        let progress = step as f64 / (self.passes * self.batches) as f64;
        self.first_rate + (self.last_rate - self.first_rate) * progress
    }
}

/// A candidate, and how far it is from its parent.
struct Way {
    checkpoint: Checkpoint,
    shift: f64,
    shortened: bool,
}

impl Way {
    fn new(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            shift: 0.0,
            shortened: false,
        }
    }
}

/// Rows that tell how far an update moved the model, at most.
const SHIFT_ROWS: usize = 1_024;
/// The log odds do not move in a straight line with the weights, so the right length is searched
/// for: halving this often finds it to a hundredth.
const HALVINGS: usize = 7;

/// Brings a candidate that went too far back on its way from the parent.
fn shorten(
    parent: &Checkpoint,
    candidate: Checkpoint,
    examples: &Examples,
    max_shift: f32,
) -> Result<Way, LearnerError> {
    let step = examples.len().div_ceil(SHIFT_ROWS).max(1);
    let rows: Vec<f32> = (0..examples.len())
        .step_by(step)
        .flat_map(|row| examples.row(row).iter().copied())
        .collect();
    let before = Model::of_iterate(parent).logits(&rows)?;
    let shift = |candidate: &Checkpoint| -> Result<f64, LearnerError> {
        let after = Model::of_iterate(candidate).logits(&rows)?;
        let moved = before
            .iter()
            .zip(&after)
            .map(|(b, a)| f64::from((a - b).abs()));
        Ok(moved.sum::<f64>() / before.len().max(1) as f64)
    };
    let mut way = Way {
        shift: shift(&candidate)?,
        checkpoint: candidate,
        shortened: false,
    };
    let most = f64::from(max_shift);
    if way.shift <= most {
        return Ok(way);
    }
    let whole = way.checkpoint.clone();
    let (mut low, mut high) = (0.0_f32, 1.0_f32);
    way = Way {
        shift: 0.0,
        checkpoint: parent.clone(),
        shortened: true,
    };
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        let shorter = whole.shortened(parent, middle);
        let moved = shift(&shorter)?;
        if moved <= most {
            low = middle;
            way.shift = moved;
            way.checkpoint = shorter;
        } else {
            high = middle;
        }
    }
    Ok(way)
}

/// Fresh and replayed rows together. The replayed rows' total weight becomes `replay_weight` times
/// that of the fresh rows, and the mean weight becomes 1, so that a step is as long whatever the
/// weights stand for.
fn training_set(
    settings: &LearnerSettings,
    fresh: &Examples,
    replay: &Examples,
) -> Result<Examples, LearnerError> {
    let (fresh_weight, replay_weight) = (fresh.total_weight(), replay.total_weight());
    if fresh_weight <= 0.0 {
        return Err(LearnerError::NoExamples);
    }
    let mut examples = fresh.clone();
    if replay_weight > 0.0 {
        let mut replay = replay.clone();
        let share = f64::from(settings.replay_weight) * fresh_weight;
        replay.scale_weights(share / replay_weight);
        examples.extend(&replay)?;
    }
    examples.scale_weights(examples.len() as f64 / examples.total_weight());
    Ok(examples)
}

fn first_checkpoint(
    settings: &LearnerSettings,
    examples: &Examples,
    seed: u64,
) -> Result<Checkpoint, LearnerError> {
    let encoder = Encoder::fit(examples, settings.bins)?;
    let mut widths = vec![encoder.encoded_width()];
    widths.extend(&settings.hidden);
    widths.push(1);
    let layers = initial_layers(&widths, settings.members, base_log_odds(examples), seed);
    assemble(encoder, layers, None, 0)
}

/// Log odds of the weighted base rate, with half a row of each class added, so that rows of one
/// class give a finite number.
fn base_log_odds(examples: &Examples) -> f32 {
    let rows = examples.labels().iter().zip(examples.weights());
    let frauds: f64 = rows.map(|(y, w)| f64::from(*y) * f64::from(*w)).sum();
    let genuine = examples.total_weight() - frauds;
    ((frauds + 0.5) / (genuine.max(0.0) + 0.5)).ln() as f32
}

fn assemble(
    encoder: Encoder,
    layers: Vec<Layer>,
    moments: Option<Moments>,
    steps: u64,
) -> Result<Checkpoint, LearnerError> {
    let moments = moments.unwrap_or_else(|| Moments::zeros(&layers));
    Checkpoint::new(encoder, layers, moments, steps).map_err(LearnerError::Bug)
}

fn check_width(checkpoint: &Checkpoint, examples: &Examples) -> Result<(), LearnerError> {
    let expected = checkpoint.encoder().width();
    if expected == examples.width() {
        return Ok(());
    }
    Err(LearnerError::Width {
        expected,
        found: examples.width(),
    })
}

fn evaluate(checkpoint: &Checkpoint, examples: &Examples) -> Result<Metrics, LearnerError> {
    let logits = Model::new(checkpoint).logits(examples.inputs())?;
    Ok(Metrics::of(&logits, examples.labels(), examples.weights()))
}

fn refuse_explosion(metrics: &UpdateMetrics) -> Result<(), LearnerError> {
    let after = metrics.after.log_loss;
    if !after.is_finite() {
        return Err(Rejection::NonFiniteLoss.into());
    }
    match metrics.before.map(|before| before.log_loss) {
        Some(before) if after > EXPLODED_FACTOR * before + EXPLODED_MARGIN => {
            Err(Rejection::Exploded { before, after }.into())
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "cuda")]
fn train_on(device: Device, task: &Task<'_>) -> Result<(Checkpoint, f64), LearnerError> {
    use burn::backend::{Cuda, cuda::CudaDevice};
    match device {
        Device::Cuda(index) => train::<Autodiff<Cuda>>(task, &CudaDevice::new(index)),
        Device::Cpu | Device::Auto => train::<Autodiff<Flex>>(task, &Default::default()),
    }
}

#[cfg(not(feature = "cuda"))]
fn train_on(_device: Device, task: &Task<'_>) -> Result<(Checkpoint, f64), LearnerError> {
    train::<Autodiff<Flex>>(task, &Default::default())
}

/// All steps of an update on one device. Returns the candidate and the mean loss of the last pass.
fn train<B: AutodiffBackend>(
    task: &Task<'_>,
    device: &B::Device,
) -> Result<(Checkpoint, f64), LearnerError> {
    let start = task.start;
    let mut run = Run::<B>::new(task, device);
    let mut shuffle = generator(task.seed, Stream::Shuffle, start.steps());
    let loss = match task.held_back() {
        0 => run.passes(task.examples.len(), &mut shuffle),
        held => run.passes_while_they_help(held, &mut shuffle)?,
    };
    // What a pass was not ended for is no candidate, whatever it looks like.
    if task.is_stopped() {
        return Err(LearnerError::Stopped);
    }
    if !loss.is_finite() {
        return Err(Rejection::NonFiniteLoss.into());
    }
    let checkpoint = run.checkpoint()?;
    if !checkpoint.is_finite() {
        return Err(Rejection::NonFiniteWeights.into());
    }
    Ok((checkpoint, loss))
}

/// Rows, and frauds among the newest tenth of them, from which on a first update holds that tenth
/// back: fewer say too little of whether a pass helped.
const HOLD_BACK_ROWS: usize = 5_000;
const HOLD_BACK_FRAUDS: usize = 20;
/// Passes without an improvement after which no more are made.
const PATIENCE: usize = 2;

impl Task<'_> {
    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// How many of the newest rows tell when to stop, where a model starts afresh: its examples are in
    /// the order in which they became known. Those of a later update end with the replayed ones, which
    /// the parent has learned: they say nothing.
    fn held_back(&self) -> usize {
        let rows = self.examples.len();
        let may_stop = self.schedule.is_first && self.schedule.passes > 1;
        if !may_stop || rows < HOLD_BACK_ROWS {
            return 0;
        }
        let newest = &self.examples.labels()[rows - rows / 10..];
        let frauds = newest.iter().filter(|label| **label > 0.5).count();
        if frauds < HOLD_BACK_FRAUDS {
            0
        } else {
            newest.len()
        }
    }
}

/// Batches that are encoded at once, on all cores, and lie on the device together.
const BATCHES_AHEAD: usize = 32;

/// Training under way.
struct Run<'a, B: AutodiffBackend> {
    task: &'a Task<'a>,
    device: &'a B::Device,
    parameters: Parameters<B::InnerBackend>,
    dropout: Dropout,
    /// Whether the steps are as small as they get.
    is_last_pass: bool,
}

impl<'a, B: AutodiffBackend> Run<'a, B> {
    fn new(task: &'a Task<'a>, device: &'a B::Device) -> Self {
        let (start, settings) = (task.start, task.settings);
        Self {
            task,
            device,
            parameters: Parameters::of(start, device),
            dropout: Dropout::new(settings.dropout, task.seed, start),
            is_last_pass: false,
        }
    }

    /// All passes over the first `rows` rows. Returns the mean loss of the last.
    fn passes(&mut self, rows: usize, shuffle: &mut Pcg64Mcg) -> f64 {
        let mut order: Vec<usize> = (0..rows).collect();
        let mut loss = f64::NAN;
        for _ in 0..self.task.schedule.passes {
            order.shuffle(shuffle);
            let logits = self.pass(&order);
            if self.task.is_stopped() {
                break;
            }
            loss = self.loss(&order, logits);
        }
        loss
    }

    /// Passes over all rows but the `held` newest, until those are predicted no better; then those
    /// are learned too, in one pass with as many of the others. Returns the mean loss of the best
    /// pass on the rows that were held back.
    fn passes_while_they_help(
        &mut self,
        held: usize,
        shuffle: &mut Pcg64Mcg,
    ) -> Result<f64, LearnerError> {
        let examples = self.task.examples;
        let learned = examples.len() - held;
        let mut order: Vec<usize> = (0..learned).collect();
        let mut best = f64::INFINITY;
        let mut kept = self.parameters.clone();
        let mut without_help = 0;
        for _ in 0..self.task.schedule.passes {
            order.shuffle(shuffle);
            self.pass(&order);
            if self.task.is_stopped() {
                return Err(LearnerError::Stopped);
            }
            let model = Model::new(&self.checkpoint()?);
            let logits = model.logits(&examples.inputs()[learned * examples.width()..])?;
            let rows = (
                &examples.labels()[learned..],
                &examples.weights()[learned..],
            );
            let loss = log_loss(&logits, rows.0, rows.1);
            // Not `>=`: what is not a number is no help either.
            if loss < best {
                best = loss;
                kept = self.parameters.clone();
                without_help = 0;
            } else {
                without_help += 1;
                if without_help == PATIENCE {
                    break;
                }
            }
        }
        self.parameters = kept;
        self.is_last_pass = true;
        order.truncate(held);
        order.extend(learned..examples.len());
        order.shuffle(shuffle);
        self.pass(&order);
        Ok(best)
    }

    /// Where training stands, fetched from the device.
    fn checkpoint(&self) -> Result<Checkpoint, LearnerError> {
        let start = self.task.start;
        let (layers, moments) = self.parameters.fetch(start.layers());
        let steps = self.parameters.steps();
        assemble(start.encoder().clone(), layers, Some(moments), steps)
    }

    /// One pass over the rows in the given order, or a part of it where it is cut short. Returns the logits `[rows of a batch, members]`
    /// that each step found, still on the device, so that a GPU is not waited for at each step.
    fn pass(&mut self, order: &[usize]) -> Vec<Tensor<B::InnerBackend, 2>> {
        let batches = order.len().div_ceil(self.task.settings.batch_rows);
        let start = |batch: usize| batch * order.len() / batches;
        let mut logits = Vec::with_capacity(batches);
        for first in (0..batches).step_by(BATCHES_AHEAD) {
            if self.task.is_stopped() {
                break;
            }
            let end = (first + BATCHES_AHEAD).min(batches);
            let sizes: Vec<usize> = (first..end).map(|b| start(b + 1) - start(b)).collect();
            let rows = Rows::<B>::encoded(
                self.task,
                &order[start(first)..start(end)],
                &sizes,
                self.device,
            );
            let mut from = 0;
            for size in sizes {
                logits.push(self.learn(&rows, from, size));
                from += size;
            }
        }
        logits
    }

    /// One step on `size` rows. Returns their logits `[size, members]`.
    fn learn(&mut self, rows: &Rows<B>, from: usize, size: usize) -> Tensor<B::InnerBackend, 2> {
        let masks = self.dropout.masks(size, self.device);
        let (network, leaves) = self.parameters.network::<B>(self.task.start.layers());
        let codes = Tensor::from_inner(rows.codes.clone().narrow(0, from, size));
        let logits = network.forward(codes, masks);
        let labels = rows.labels.clone().narrow(0, from, size);
        let weights = rows.weights.clone().narrow(0, from, size);
        let gradients = as_the_log_loss(logits.clone(), labels, weights).backward();
        let gradients = leaves.iter().map(|leaf| {
            let gradient = leaf.grad(&gradients);
            let gradient = gradient.unwrap_or_else(|| leaf.clone().inner().zeros_like());
            let length = gradient.dims().iter().product::<usize>();
            gradient.reshape([length])
        });
        let steps = (self.parameters.steps() - self.task.start.steps()) as usize;
        let rate = match self.is_last_pass {
            true => self.task.schedule.last_rate,
            false => self.task.schedule.rate(steps),
        };
        let decay = f64::from(self.task.settings.weight_decay);
        self.parameters.step(gradients.collect(), rate, decay);
        logits.inner()
    }

    /// Mean loss of a pass, in nats a row, from the logits of its steps.
    fn loss(&self, order: &[usize], logits: Vec<Tensor<B::InnerBackend, 2>>) -> f64 {
        let members = self.task.start.members();
        let logits = numbers(Tensor::cat(logits, 0));
        let examples = self.task.examples;
        let of_each_member = |column: &[f32]| -> Vec<f32> {
            let rows = order.iter().map(|row| column[*row]);
            rows.flat_map(|value| std::iter::repeat_n(value, members))
                .collect()
        };
        let (labels, weights) = (
            of_each_member(examples.labels()),
            of_each_member(examples.weights()),
        );
        let weight: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        log_loss(&logits, &labels, &weights) * weight / logits.len() as f64
    }
}

/// Rows of several batches on the device.
struct Rows<B: AutodiffBackend> {
    /// `[rows, encoded width]`.
    codes: Tensor<B::InnerBackend, 2>,
    /// `[rows, 1]`.
    labels: Tensor<B::InnerBackend, 2>,
    /// `[rows, 1]`: a row's weight in the mean over its batch and over the members.
    weights: Tensor<B::InnerBackend, 2>,
}

impl<B: AutodiffBackend> Rows<B> {
    fn encoded(task: &Task<'_>, rows: &[usize], sizes: &[usize], device: &B::Device) -> Self {
        let (encoder, examples) = (task.start.encoder(), task.examples);
        let width = encoder.encoded_width();
        let mut codes = vec![0.0; rows.len() * width];
        let each = codes.par_chunks_exact_mut(width).zip(rows);
        each.with_min_len(64)
            .for_each(|(codes, row)| encoder.encode_to_learn(*row, examples.row(*row), codes));
        let labels = rows.iter().map(|row| examples.labels()[*row]).collect();
        let members = task.start.members();
        let shares = sizes
            .iter()
            .flat_map(|size| std::iter::repeat_n(1.0 / (size * members) as f32, *size));
        let weights = rows.iter().zip(shares);
        let weights = weights.map(|(row, share)| examples.weights()[*row] * share);
        Self {
            codes: tensor(codes, [rows.len(), width], device),
            labels: tensor(labels, [rows.len(), 1], device),
            weights: tensor(weights.collect(), [rows.len(), 1], device),
        }
    }
}

/// Inverted dropout (Srivastava et al. 2014): a unit is silenced with the given probability, and
/// the others are scaled up, so that the expected sum is the same as without.
struct Dropout {
    random: Pcg64Mcg,
    /// Of 65,536 equally likely numbers, how many silence a unit.
    silenced: u16,
    /// Units of each hidden layer of a member.
    hidden: Vec<usize>,
    members: usize,
}

impl Dropout {
    fn new(share: f32, seed: u64, start: &Checkpoint) -> Self {
        let layers = start.layers();
        let hidden = &layers[..layers.len() - 1];
        Self {
            random: generator(seed, Stream::Dropout, start.steps()),
            silenced: (share * 65_536.0).round().min(65_535.0) as u16,
            hidden: hidden.iter().map(|layer| layer.outputs).collect(),
            members: start.members(),
        }
    }

    /// A mask `[rows, members · units]` for each hidden layer, or none where no unit is ever silenced.
    fn masks<B: AutodiffBackend>(&mut self, rows: usize, device: &B::Device) -> Vec<Tensor<B, 2>> {
        if self.silenced == 0 {
            return Vec::new();
        }
        let (hidden, members) = (self.hidden.clone(), self.members);
        let mask = |units: usize| {
            let mask = self.mask(rows * members * units);
            tensor(mask, [rows, members * units], device)
        };
        hidden.into_iter().map(mask).collect()
    }

    fn mask(&mut self, length: usize) -> Vec<f32> {
        let scale = 65_536.0 / (65_536.0 - f32::from(self.silenced));
        let mut mask = vec![0.0; length];
        for four in mask.chunks_mut(4) {
            let bits = self.random.next_u64();
            for (place, value) in four.iter_mut().enumerate() {
                if (bits >> (16 * place)) as u16 >= self.silenced {
                    *value = scale;
                }
            }
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn replay_weighs_as_much_as_the_setting_says() {
        let fresh = Examples::from_parts(1, vec![1.0; 3], vec![0.0; 3], vec![1.0; 3]).unwrap();
        let mut replay = Examples::new(1);
        (0..10).for_each(|i| replay.push(&[2.0], i == 0, 50.0 + i as f32).unwrap());
        let settings = LearnerSettings {
            replay_weight: 2.0,
            ..LearnerSettings::default()
        };
        let set = training_set(&settings, &fresh, &replay).unwrap();
        let fresh_weight: f32 = set.weights()[..3].iter().sum();
        let replay_weight: f32 = set.weights()[3..].iter().sum();
        assert!((replay_weight / fresh_weight - 2.0).abs() < 1e-4);
        assert!((set.total_weight() / 13.0 - 1.0).abs() < 1e-6);

        let alone = training_set(&settings, &fresh, &Examples::new(1)).unwrap();
        assert_eq!(alone, fresh);
    }

    #[test]
    fn batches_are_even_and_rates_fall_from_the_first_to_the_last() {
        let settings = LearnerSettings::default();
        let schedule = Schedule::new(&settings, true, 700);
        assert_eq!((schedule.passes, schedule.batches), (8, 3));
        assert_eq!(schedule.rate(0), settings.initial_learning_rate);
        assert!((schedule.rate(24) - settings.learning_rate).abs() < 1e-12);
        let later = Schedule::new(&settings, false, 100);
        assert_eq!((later.passes, later.batches), (1, 1));
        assert_eq!(later.rate(0), settings.learning_rate);
    }

    #[test]
    fn dropout_silences_its_share_and_keeps_the_sum() {
        let mut dropout = Dropout {
            random: generator(5, Stream::Dropout, 0),
            silenced: 16_384,
            hidden: vec![],
            members: 1,
        };
        let mask = dropout.mask(100_003);
        let silent = mask.iter().filter(|value| **value == 0.0).count() as f64;
        let deviation = (100_003.0 * 0.25 * 0.75_f64).sqrt();
        assert!((silent - 25_000.75).abs() < 5.0 * deviation, "{silent}");
        assert!(
            mask.iter()
                .all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6)
        );
    }
}
