//! Tests across the crate's modules: learning, going on after a restart, scoring as trained. Those of the registry are
//! beside it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::Flex;
use burn::tensor::{Tensor, TensorData};
use rand::Rng;

use crate::network::{Network, tensor};
use crate::random::{Stream, generator};
use crate::*;

mod categories;

/// Card payments in miniature: an amount, how it compares with the card's habit (missing for new
/// cards), an hour, a count of earlier frauds at the terminal that is nearly always zero, and a
/// column of noise. Fraud is a steep but noisy function of them; about 1% of rows.
fn payments(rows: usize, seed: u64) -> Examples {
    let mut random = generator(seed, Stream::Shuffle, 0);
    let mut examples = Examples::new(5);
    for _ in 0..rows {
        let amount = (random.random::<f32>() * 5.0).exp();
        let ratio = (random.random::<f32>() * 3.0 - 1.5).exp();
        let hour = random.random_range(0..24) as f32;
        let risk = f32::from(random.random_bool(0.03)) * random.random_range(1..6) as f32;
        let night = if hour < 5.0 { 1.0 } else { 0.0 };
        let odds = -7.5
            + 1.4 * risk
            + 1.6 * night
            + if ratio > 3.0 && amount > 60.0 {
                5.0
            } else {
                0.0
            };
        let fraud = random.random::<f32>() < 1.0 / (1.0 + (-odds).exp());
        let ratio = if random.random_bool(0.1) {
            f32::NAN
        } else {
            ratio
        };
        let noise = random.random::<f32>();
        examples
            .push(&[amount, ratio, hour, risk, noise], fraud, 1.0)
            .unwrap();
    }
    examples
}

fn settings() -> LearnerSettings {
    LearnerSettings {
        hidden: vec![32, 16],
        members: 4,
        ..LearnerSettings::default()
    }
}

fn cpu_update(
    parent: Option<&Checkpoint>,
    fresh: &Examples,
    replay: &Examples,
    seed: u64,
) -> Update {
    update(&settings(), Device::Cpu, parent, fresh, replay, seed).unwrap()
}

fn none() -> Examples {
    Examples::new(5)
}

fn quality(checkpoint: &Checkpoint, test: &Examples) -> Metrics {
    let logits = Model::new(checkpoint).logits(test.inputs()).unwrap();
    Metrics::of(&logits, test.labels(), test.weights())
}

fn manifest(update: &Update) -> Manifest {
    let inputs: Vec<String> = ["amount", "ratio", "hour", "risk", "noise"]
        .map(String::from)
        .into();
    Manifest {
        version: 0,
        parent: None,
        created: "2026-01-02T03:04:05Z".to_owned(),
        inputs_hash: inputs_hash(&inputs),
        meanings: Vec::new(),
        inputs,
        label_position: 17,
        trained_until_us: 1_767_323_045_000_000,
        rows: update.rows,
        replayed: update.replayed,
        fitted_rows: update.rows,
        fitted_position: 17,
        seed: 7,
        code_version: "0.1.0".to_owned(),
        before: update.metrics.before,
        after: update.metrics.after,
        prequential: Some(Prequential {
            average_precision: None,
            rows: 3,
            frauds: 0,
        }),
        calibration: update.checkpoint.calibration(),
        device: update.device.to_string(),
        offsets: BTreeMap::from([("transactions".to_owned(), BTreeMap::from([(0, 41), (1, 7)]))]),
        settings: settings().to_json().unwrap(),
        sha256: BTreeMap::new(),
    }
}

#[test]
fn a_model_learns_is_calibrated_and_goes_on_learning() {
    let test = payments(20_000, 100);
    let base_rate = test.frauds() as f64 / test.len() as f64;

    let first = cpu_update(None, &payments(2_000, 1), &none(), 7);
    let one = quality(&first.checkpoint, &test);
    let mut checkpoint = first.checkpoint;
    for hour in 2..14 {
        let fresh = payments(4_000, hour);
        let next = cpu_update(Some(&checkpoint), &fresh, &none(), 7);
        assert!(next.metrics.before.is_some());
        checkpoint = next.checkpoint;
    }
    let last = quality(&checkpoint, &test);
    println!("base rate {base_rate:.4}; after one update {one:?}; after thirteen {last:?}");

    let (one_ap, last_ap) = (one.average_precision, last.average_precision);
    assert!(last_ap.unwrap() > 10.0 * base_rate);
    assert!(last_ap > one_ap && last.log_loss < one.log_loss);
    assert!((last.mean_prediction / base_rate - 1.0).abs() < 0.4);
}

#[test]
fn a_thinned_replay_keeps_the_base_rate() {
    let history = payments(100_000, 1);
    let labels: Vec<(u64, bool)> = (0..history.len())
        .map(|row| (row as u64, history.labels()[row] == 1.0))
        .collect();
    let thin = LearnerSettings {
        replay_negatives: 10_000,
        ..settings()
    };
    let mut replay = none();
    for (position, weight) in replay_sample(&labels, &thin, 3) {
        let row = position as usize;
        let fraud = history.labels()[row] == 1.0;
        replay.push(history.row(row), fraud, weight).unwrap();
    }
    let mut checkpoint = cpu_update(None, &payments(2_000, 2), &replay, 7).checkpoint;
    for hour in 3..9 {
        checkpoint = cpu_update(Some(&checkpoint), &payments(500, hour), &replay, 7).checkpoint;
    }
    let test = payments(20_000, 100);
    let metrics = quality(&checkpoint, &test);
    let base_rate = test.frauds() as f64 / test.len() as f64;
    let replay_rate = replay.frauds() as f64 / replay.len() as f64;
    println!("base rate {base_rate:.4}, unweighted replay {replay_rate:.4}, {metrics:?}");
    assert!(replay_rate > 5.0 * base_rate);
    assert!((metrics.mean_prediction / base_rate - 1.0).abs() < 0.3);
}

#[test]
fn a_restart_changes_no_bit() {
    let (fresh, replay) = (payments(1_000, 2), payments(700, 3));
    let first = cpu_update(None, &payments(2_000, 1), &none(), 7).checkpoint;
    let straight = cpu_update(Some(&first), &fresh, &replay, 8).checkpoint;

    let mut files: BTreeMap<_, _> = first.to_files().unwrap().into_iter().collect();
    let reopened = Checkpoint::from_files(|name| Ok(files.remove(name).unwrap())).unwrap();
    assert_eq!(reopened, first);
    let again = cpu_update(Some(&reopened), &fresh, &replay, 8).checkpoint;
    assert_eq!(again.to_files().unwrap(), straight.to_files().unwrap());
    assert!(straight.steps() > first.steps());

    let other_seed = cpu_update(Some(&reopened), &fresh, &replay, 9).checkpoint;
    assert_ne!(other_seed, straight);
}

/// Without the optimizer's state the next update would be another one.
#[test]
fn the_optimizers_state_matters() {
    let first = cpu_update(None, &payments(2_000, 1), &none(), 7).checkpoint;
    let zeros = checkpoint::Moments::zeros(first.layers());
    let amnesic = Checkpoint::new(
        first.encoder().clone(),
        first.layers().to_vec(),
        zeros,
        first.steps(),
    );
    let fresh = payments(1_000, 2);
    let straight = cpu_update(Some(&first), &fresh, &none(), 8).checkpoint;
    let forgot = cpu_update(Some(&amnesic.unwrap()), &fresh, &none(), 8).checkpoint;
    assert_ne!(straight.layers(), forgot.layers());
}

/// Rows as they are, and rows of numbers that are far from all others.
fn odd_payments() -> Examples {
    let mut rows = payments(500, 50);
    let odd = [f32::NAN, f32::INFINITY, -1e30, 2.5, -0.0];
    for shift in 0..5 {
        let row: Vec<f32> = (0..5).map(|i| odd[(i + shift) % 5]).collect();
        rows.push(&row, false, 1.0).unwrap();
    }
    rows
}

/// Ensembles and single networks, with layers that do not fill the vectors of any machine.
fn networks() -> Vec<Checkpoint> {
    let network = |(members, hidden): (usize, &[usize])| {
        let settings = LearnerSettings {
            hidden: hidden.to_vec(),
            members,
            initial_passes: 2,
            ..settings()
        };
        let examples = payments(3_000, 1);
        update(&settings, Device::Cpu, None, &examples, &none(), 7)
            .unwrap()
            .checkpoint
    };
    let shapes: [(usize, &[usize]); 6] = [
        (4, &[32, 16]),
        (3, &[5, 70, 33]),
        (2, &[129]),
        (3, &[]),
        (1, &[40, 3]),
        (1, &[]),
    ];
    shapes.map(network).into()
}

#[test]
fn the_model_scores_as_burn_does() {
    let rows = odd_payments();
    for trained in networks() {
        check_scores(&trained, &rows);
    }
}

fn check_scores(trained: &Checkpoint, rows: &Examples) {
    let model = Model::new(trained);
    let logits = model.logits(rows.inputs()).unwrap();
    let scores = model.score(rows.inputs()).unwrap();

    let width = trained.encoder().encoded_width();
    let mut codes = vec![0.0; rows.len() * width];
    for (row, codes) in codes.chunks_exact_mut(width).enumerate() {
        trained.encoder().encode(rows.row(row), codes);
    }
    let device = Default::default();
    let codes = Tensor::<Flex, 2>::from_data(TensorData::new(codes, [rows.len(), width]), &device);
    let mut parts = trained.averaged().iter().flat_map(Layer::parts);
    let network = Network::<Flex>::of(trained.averaged(), |_| {
        let (numbers, shape) = parts.find(|(numbers, _)| !numbers.is_empty()).unwrap();
        tensor(numbers.to_vec(), shape, &device)
    });
    let burn = network.forward(codes, Vec::new());
    assert_eq!(burn.dims(), [rows.len(), trained.members()]);
    let burn: Vec<f32> = burn.into_data().iter::<f32>().collect();

    for row in 0..rows.len() {
        let of_members = burn[row * trained.members()..]
            .iter()
            .take(trained.members());
        let sum: f64 = of_members
            .map(|z| 1.0 / (1.0 + (-f64::from(*z)).exp()))
            .sum();
        let score = sum / trained.members() as f64;
        assert!((f64::from(scores[row]) - score).abs() < 1e-5 * score.max(1e-3));
        let logit = (score / (1.0 - score)).ln();
        let tolerance = 1e-4 * logit.abs().max(1.0);
        assert!(
            (f64::from(logits[row]) - logit).abs() < tolerance,
            "{} {logit}",
            logits[row]
        );
    }
    assert!(model.score(&[1.0; 7]).is_err());
    assert!(model.score(&[]).unwrap().is_empty());
}

#[test]
fn a_calibrated_version_is_the_same_when_it_is_opened() {
    let mut checkpoint = cpu_update(None, &payments(2_000, 1), &none(), 7).checkpoint;
    let plain = checkpoint.to_files().unwrap();
    let rows = odd_payments();
    let raw = Model::new(&checkpoint).logits(rows.inputs()).unwrap();
    let calibration = Calibration {
        slope: 0.83,
        intercept: 1.1,
    };
    checkpoint.calibrate(calibration);
    let files = checkpoint.to_files().unwrap();
    // What is trained on is as it was.
    assert!(files[1] != plain[1] && files[0] == plain[0] && files[2] == plain[2]);
    let mut files: BTreeMap<_, _> = files.into_iter().collect();
    let opened = Checkpoint::from_files(|name| Ok(files.remove(name).unwrap())).unwrap();
    assert_eq!(opened, checkpoint);

    let model = Model::new(&opened);
    assert_eq!(model.raw_logits(rows.inputs()).unwrap(), raw);
    let logits = model.logits(rows.inputs()).unwrap();
    let scores = model.score(rows.inputs()).unwrap();
    for ((raw, logit), score) in raw.iter().zip(&logits).zip(&scores) {
        let expected = calibration.apply(f64::from(*raw));
        let tolerance = 1e-5 * expected.abs().max(1.0);
        assert!((f64::from(*logit) - expected).abs() < tolerance);
        let probability = 1.0 / (1.0 + (-expected).exp());
        let tolerance = 1e-4 * probability.max(1e-6);
        assert!((f64::from(*score) - probability).abs() < tolerance);
    }
    // The next version goes on with it, until another one is decided.
    let fresh = payments(1_000, 2);
    let mut next = cpu_update(Some(&opened), &fresh, &none(), 8);
    assert_eq!(next.checkpoint.calibration(), calibration);
    let after = next.metrics.after;
    next.calibrate(Calibration::IDENTITY, &fresh).unwrap();
    assert!(next.checkpoint.calibration().is_identity());
    assert_ne!(next.metrics.after.log_loss, after.log_loss);

    // A falling line would turn the ranking round.
    checkpoint.calibrate(Calibration {
        slope: -1.0,
        intercept: 0.0,
    });
    let mut files: BTreeMap<_, _> = checkpoint.to_files().unwrap().into_iter().collect();
    let error = Checkpoint::from_files(|name| Ok(files.remove(name).unwrap())).unwrap_err();
    assert!(error.to_string().contains("no line that rises"), "{error}");
}

/// A request gives a score that an audit, which scores thousands of rows at once, finds again.
#[test]
fn a_score_does_not_depend_on_the_rows_beside_it() {
    let rows = odd_payments();
    for trained in networks() {
        let model = Model::new(&trained);
        let together = model.score(rows.inputs()).unwrap();
        for batch in [1, 2, 3, 5, 21, 63, 64, 65, 130] {
            let parts = rows.inputs().chunks(batch * rows.width());
            let scores: Vec<f32> = parts.flat_map(|rows| model.score(rows).unwrap()).collect();
            assert_eq!(scores, together, "{batch} rows at a time");
        }
    }
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let try_update = |parent: Option<&Checkpoint>, fresh: &Examples| {
        update(&settings(), Device::Cpu, parent, fresh, &none(), 7).map(|_| ())
    };
    assert!(matches!(
        try_update(None, &none()),
        Err(LearnerError::NoExamples)
    ));

    let first = cpu_update(None, &payments(500, 1), &none(), 7).checkpoint;
    let narrow = Examples::from_parts(1, vec![0.5], vec![0.0], vec![1.0]).unwrap();
    let wrong = update(
        &settings(),
        Device::Cpu,
        Some(&first),
        &narrow,
        &Examples::new(1),
        7,
    );
    assert!(matches!(
        wrong,
        Err(LearnerError::Width {
            expected: 5,
            found: 1
        })
    ));

    // One class alone gives a finite model all the same.
    let mut genuine = none();
    (0..300).for_each(|i| genuine.push(&[i as f32; 5], false, 1.0).unwrap());
    let calm = cpu_update(None, &genuine, &none(), 7);
    assert!(calm.metrics.after.mean_prediction < 0.02);
    assert_eq!(calm.metrics.after.average_precision, None);
}

#[test]
fn a_broken_candidate_is_rejected() {
    let first = cpu_update(None, &payments(2_000, 1), &none(), 7).checkpoint;
    let wild = LearnerSettings {
        learning_rate: 30.0,
        max_shift: 1e9,
        ..settings()
    };
    let exploded = update(
        &wild,
        Device::Cpu,
        Some(&first),
        &payments(2_000, 2),
        &none(),
        7,
    );
    println!("{exploded:?}");
    assert!(matches!(
        exploded,
        Err(LearnerError::Rejected(Rejection::Exploded { .. }))
    ));

    // In the last layer the NaN reaches the loss; in the first one the ReLU hides it.
    for (layer, rejection) in [
        (2, Rejection::NonFiniteLoss),
        (0, Rejection::NonFiniteWeights),
    ] {
        let mut layers = first.layers().to_vec();
        layers[layer].weight[0] = f32::NAN;
        let moments = first.moments().clone();
        let poisoned = Checkpoint::new(first.encoder().clone(), layers, moments, 1).unwrap();
        let fresh = payments(500, 2);
        let result = update(
            &settings(),
            Device::Cpu,
            Some(&poisoned),
            &fresh,
            &none(),
            7,
        );
        match result {
            Err(LearnerError::Rejected(found)) => assert_eq!(found, rejection),
            other => panic!("{other:?}"),
        }
    }
}

/// One update is shortened to the distance that the settings allow, and no farther.
#[test]
fn an_update_moves_no_farther_than_it_may() {
    let first = cpu_update(None, &payments(2_000, 1), &none(), 7).checkpoint;
    let mut labels = payments(2_000, 2);
    // Every label is the opposite of the truth.
    let flipped = labels.labels().iter().map(|label| 1.0 - label).collect();
    let rows = labels.len();
    labels = Examples::from_parts(5, labels.inputs().to_vec(), flipped, vec![1.0; rows]).unwrap();
    let moved = |max_shift: f32| {
        let settings = LearnerSettings {
            max_shift,
            passes: 4,
            learning_rate: 5e-3,
            ..settings()
        };
        let moved = update(&settings, Device::Cpu, Some(&first), &labels, &none(), 7);
        match moved {
            Ok(update) => Some((update.shift, update.shortened)),
            Err(LearnerError::Rejected(_)) => None,
            Err(other) => panic!("{other:?}"),
        }
    };
    let (free, shortened) = moved(1e9).unwrap();
    assert!(free > 1.0 && !shortened, "{free}");
    let (held, shortened) = moved(0.25).unwrap();
    assert!(held <= 0.25 && held > 0.2 && shortened, "{held}");
}

/// Sums in another order are other sums in their last digits, and a step of AdamW is as long for a
/// tiny gradient as for a large one: the two part slowly, and by far less than an update moves.
#[test]
fn a_gpu_learns_what_the_cpu_learns() {
    let gpu = match Device::Cuda(0).resolve() {
        Ok(gpu) => gpu,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let test = payments(4_000, 100);
    let logits = |checkpoint: &Checkpoint| Model::new(checkpoint).logits(test.inputs()).unwrap();
    let mean_distance = |a: &[f32], b: &[f32]| {
        let distances = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
        distances.sum::<f64>() / a.len() as f64
    };
    let first = cpu_update(None, &payments(2_000, 1), &none(), 7).checkpoint;
    let before = logits(&first);
    for (rows, dropout, most) in [(200, 0.0, 1e-3), (4_000, 0.0, 0.02), (4_000, 0.1, 0.02)] {
        let settings = LearnerSettings {
            dropout,
            averaged_updates: 1,
            ..settings()
        };
        let labels = payments(rows, 2);
        let on = |device| {
            let update = update(&settings, device, Some(&first), &labels, &none(), 7).unwrap();
            assert_eq!(update.device, device);
            (logits(&update.checkpoint), update.training_loss)
        };
        let ((cpu, cpu_loss), (cuda, cuda_loss)) = (on(Device::Cpu), on(gpu));
        let moved = mean_distance(&before, &cpu);
        let apart = mean_distance(&cpu, &cuda) / moved;
        eprintln!("{rows} rows, dropout {dropout}: apart by {apart:.6} of the way of {moved:.3}");
        assert!(moved > 0.01 && apart < most, "{rows} {dropout} {apart}");
        assert!(
            (cpu_loss / cuda_loss - 1.0).abs() < most,
            "{cpu_loss} {cuda_loss}"
        );
    }
    // And from nothing, with passes until they no longer help.
    let [cpu, cuda] = [Device::Cpu, gpu].map(|device| {
        let first = update(&settings(), device, None, &payments(8_000, 1), &none(), 7);
        quality(&first.unwrap().checkpoint, &test).log_loss
    });
    eprintln!("from nothing: log loss {cpu} and {cuda}");
    assert!((cpu / cuda - 1.0).abs() < 0.05, "{cpu} {cuda}");
}

/// Passes over many rows end by themselves, and the model is no worse for the rows that were held
/// back for it.
#[test]
fn a_first_update_stops_when_passes_no_longer_help() {
    let rows = payments(30_000, 1);
    let many = LearnerSettings {
        initial_passes: 40,
        ..settings()
    };
    let stopped = update(&many, Device::Cpu, None, &rows, &none(), 7).unwrap();
    let pass = 30_000_u64.div_ceil(many.batch_rows as u64);
    assert!(stopped.steps < 39 * pass, "{} steps", stopped.steps);
    let test = payments(20_000, 100);
    let few = quality(&stopped.checkpoint, &test);
    let whole = cpu_update(None, &rows, &none(), 7);
    println!(
        "stopped {few:?}, eight passes {:?}",
        quality(&whole.checkpoint, &test)
    );
    assert!(few.log_loss < 1.05 * quality(&whole.checkpoint, &test).log_loss);
}

#[test]
fn an_update_that_is_cut_short_is_none() {
    let stop = AtomicBool::new(true);
    let parent = cpu_update(None, &payments(2_000, 1), &none(), 7).checkpoint;
    let long = LearnerSettings {
        initial_passes: 1_000_000,
        passes: 1_000_000,
        ..settings()
    };
    // Few rows; so many that some of them are held back; a later one.
    for (rows, parent) in [(2_000, None), (10_000, None), (300, Some(&parent))] {
        let rows = payments(rows, 2);
        let cut = update_unless(&stop, &long, Device::Cpu, parent, &rows, &none(), 7);
        assert!(matches!(cut, Err(LearnerError::Stopped)));
    }
    // While it is at it, or before.
    stop.store(false, Ordering::Relaxed);
    let rows = payments(10_000, 2);
    std::thread::scope(|scope| {
        let learn = || update_unless(&stop, &long, Device::Cpu, Some(&parent), &rows, &none(), 7);
        let cut = scope.spawn(learn);
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(cut.join().unwrap(), Err(LearnerError::Stopped)));
    });
}

/// The last rows of a later update are replayed ones: its parent knows them, and they do not say when to stop.
#[test]
fn a_later_update_makes_the_passes_that_are_set() {
    let parent = cpu_update(None, &payments(2_000, 1), &none(), 7).checkpoint;
    let (fresh, known) = (payments(4_000, 2), payments(60_000, 3));
    let mut replay = none();
    for row in 0..known.len() {
        let fraud = known.labels()[row] > 0.5;
        if fraud || row.is_multiple_of(40) {
            let weight = if fraud { 1.0 } else { 40.0 };
            replay.push(known.row(row), fraud, weight).unwrap();
        }
    }
    let twice = LearnerSettings {
        passes: 2,
        max_shift: 100.0,
        ..settings()
    };
    let updated = update(&twice, Device::Cpu, Some(&parent), &fresh, &replay, 7).unwrap();
    let pass = (fresh.len() + replay.len()).div_ceil(twice.batch_rows) as u64;
    assert_eq!(updated.steps, 2 * pass);
}

/// A logistic regression and a plain perceptron are settings of the same code.
#[test]
fn the_baselines_are_settings() {
    for (members, hidden, layers) in [(1, vec![], 1), (1, vec![16], 2), (3, vec![], 1)] {
        let baseline = LearnerSettings {
            members,
            hidden,
            ..settings()
        };
        let trained = update(
            &baseline,
            Device::Cpu,
            None,
            &payments(4_000, 1),
            &none(),
            7,
        );
        let checkpoint = trained.unwrap().checkpoint;
        assert_eq!(
            (checkpoint.members(), checkpoint.layers().len()),
            (members, layers)
        );
        let test = quality(&checkpoint, &payments(10_000, 100));
        let base_rate = test.frauds as f64 / test.rows as f64;
        assert!(
            test.average_precision.unwrap() > 4.0 * base_rate,
            "{test:?}"
        );
    }
}

/// A version of a small model, always the same.
pub(crate) fn small_version() -> (Manifest, Checkpoint) {
    static MADE: OnceLock<(Manifest, Checkpoint)> = OnceLock::new();
    let make = || {
        let update = cpu_update(None, &payments(300, 1), &none(), 7);
        (manifest(&update), update.checkpoint)
    };
    MADE.get_or_init(make).clone()
}

#[test]
fn other_inputs_are_told_apart() {
    let update = cpu_update(None, &payments(300, 1), &none(), 7);
    let manifest = manifest(&update);
    let mut inputs = manifest.inputs.clone();
    manifest
        .check_inputs(&inputs, &manifest.inputs_hash, &[])
        .unwrap();
    assert!(manifest.check_inputs(&inputs, "another", &[]).is_err());
    let meanings: Vec<String> = (0..inputs.len()).map(|i| i.to_string()).collect();
    let known = Manifest {
        meanings: meanings.clone(),
        ..manifest.clone()
    };
    let mut moved = meanings;
    moved[2] = "a longer window".to_owned();
    match known.check_inputs(&inputs, "another", &moved) {
        Err(LearnerError::InputsDiffer(differ)) => assert_eq!(differ.changed, [inputs[2].clone()]),
        other => panic!("{other:?}"),
    }
    inputs[4] = "velocity".to_owned();
    match manifest.check_inputs(&inputs, &inputs_hash(&inputs), &[]) {
        Err(LearnerError::InputsDiffer(differ)) => {
            assert_eq!(
                (&differ.added[..], &differ.removed[..]),
                (&["velocity".to_owned()][..], &["noise".to_owned()][..])
            );
        }
        other => panic!("{other:?}"),
    }
}
