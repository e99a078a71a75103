//! The graph against the model that it was made of. The graph is read back from its bytes and run by an interpreter
//! that does one number at a time.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use prost::Message;
use rand::Rng;

use super::messages::{DataType, GraphProto, ModelProto, NodeProto, TensorProto};
use super::to_onnx;
use crate::encoder::Scale;
use crate::random::{Stream, generator};
use crate::*;

/// Numbers of any type, row-major. f32 is rounded where it is made.
#[derive(Debug, Clone)]
struct Numbers {
    shape: Vec<usize>,
    values: Vec<f64>,
    is_f32: bool,
}

impl Numbers {
    fn new(shape: Vec<usize>, values: Vec<f64>, is_f32: bool) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let round = |value: f64| {
            if is_f32 {
                f64::from(value as f32)
            } else {
                value
            }
        };
        let values = values.into_iter().map(round).collect();
        Self {
            shape,
            values,
            is_f32,
        }
    }

    fn of_constant(tensor: &TensorProto) -> Self {
        let shape = tensor.dims.iter().map(|size| *size as usize).collect();
        let bytes = &tensor.raw_data;
        let eights = || {
            bytes
                .chunks_exact(8)
                .map(|b| <[u8; 8]>::try_from(b).unwrap())
        };
        let values = match DataType::try_from(tensor.data_type).unwrap() {
            DataType::Float => {
                let fours = bytes
                    .chunks_exact(4)
                    .map(|b| <[u8; 4]>::try_from(b).unwrap());
                fours.map(|b| f64::from(f32::from_le_bytes(b))).collect()
            }
            DataType::Double => eights().map(f64::from_le_bytes).collect(),
            DataType::Int64 => eights().map(|b| i64::from_le_bytes(b) as f64).collect(),
            DataType::Undefined => panic!("{} has no type", tensor.name),
        };
        Self::new(shape, values, tensor.data_type == DataType::Float as i32)
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        let values = self.values.iter().map(|value| f(*value)).collect();
        Self::new(self.shape.clone(), values, self.is_f32)
    }

    /// The number at a place of a larger shape: a dimension of 1, or none, is the same everywhere.
    fn at(&self, place: &[usize]) -> f64 {
        let skipped = place.len() - self.shape.len();
        let mut at = 0;
        for (size, index) in self.shape.iter().zip(&place[skipped..]) {
            at = at * size + if *size == 1 { 0 } else { *index };
        }
        self.values[at]
    }
}

/// All places of a shape, in order.
fn places(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut places = vec![vec![]];
    for size in shape {
        let longer = |place: &Vec<usize>| -> Vec<Vec<usize>> {
            (0..*size)
                .map(|index| [place.clone(), vec![index]].concat())
                .collect()
        };
        places = places.iter().flat_map(longer).collect();
    }
    places
}

fn common_shape(shapes: &[&[usize]]) -> Vec<usize> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap();
    let size = |from_the_right: usize| {
        let sizes = shapes.iter().filter(|shape| shape.len() > from_the_right);
        let sizes = sizes.map(|shape| shape[shape.len() - 1 - from_the_right]);
        let sizes: Vec<usize> = sizes.filter(|size| *size != 1).collect();
        assert!(
            sizes.windows(2).all(|pair| pair[0] == pair[1]),
            "{shapes:?}"
        );
        sizes.first().copied().unwrap_or(1)
    };
    (0..rank).rev().map(size).collect()
}

fn each(inputs: &[&Numbers], f: impl Fn(&[f64]) -> f64) -> Numbers {
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| &input.shape[..]).collect();
    let shape = common_shape(&shapes);
    let values = places(&shape).into_iter().map(|place| {
        let operands: Vec<f64> = inputs.iter().map(|input| input.at(&place)).collect();
        f(&operands)
    });
    let last = inputs[inputs.len() - 1];
    Numbers::new(shape.clone(), values.collect(), last.is_f32)
}

fn matrix_product(a: &Numbers, b: &Numbers) -> Numbers {
    let (left, right) = (a.shape.len() - 2, b.shape.len() - 2);
    let (rows, inner) = (a.shape[left], a.shape[left + 1]);
    let columns = b.shape[right + 1];
    assert_eq!(b.shape[right], inner);
    let batch = common_shape(&[&a.shape[..left], &b.shape[..right]]);
    let shape = [batch.clone(), vec![rows, columns]].concat();
    let values = places(&shape).into_iter().map(|place| {
        let (batch, row, column) = (
            &place[..batch.len()],
            place[batch.len()],
            place[batch.len() + 1],
        );
        let at = |numbers: &Numbers, last: [usize; 2]| numbers.at(&[batch, &last].concat());
        (0..inner)
            .map(|k| at(a, [row, k]) * at(b, [k, column]))
            .sum()
    });
    Numbers::new(shape.clone(), values.collect(), a.is_f32)
}

/// The mean over the first and the last dimension of three.
fn mean_over_outer(numbers: &Numbers) -> Numbers {
    let [first, rows, last] = numbers.shape[..] else {
        panic!("{:?}", numbers.shape)
    };
    let mean = |row: usize| {
        let all = (0..first).flat_map(|i| (0..last).map(move |j| [i, row, j]));
        all.map(|place| numbers.at(&place)).sum::<f64>() / (first * last) as f64
    };
    Numbers::new(vec![rows], (0..rows).map(mean).collect(), numbers.is_f32)
}

fn run_node(node: &NodeProto, inputs: &[&Numbers]) -> Numbers {
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name).unwrap();
    let first = inputs[0];
    match node.op_type.as_str() {
        "Gather" => {
            assert_eq!((attribute("axis").i, first.shape.len()), (Some(1), 2));
            let (rows, columns) = (first.shape[0], &inputs[1].values);
            let values = (0..rows)
                .flat_map(|row| columns.iter().map(move |c| first.at(&[row, *c as usize])));
            Numbers::new(vec![rows, columns.len()], values.collect(), first.is_f32)
        }
        "Cast" => {
            let is_f32 = attribute("to").i == Some(DataType::Float as i64);
            Numbers::new(first.shape.clone(), first.values.clone(), is_f32)
        }
        "Equal" => each(inputs, |x| f64::from(u8::from(x[0] == x[1]))),
        "IsNaN" => first.map(|x| f64::from(u8::from(x.is_nan()))),
        "Where" => each(inputs, |x| if x[0] != 0.0 { x[1] } else { x[2] }),
        "Sub" => each(inputs, |x| x[0] - x[1]),
        "Add" => each(inputs, |x| x[0] + x[1]),
        "Mul" => each(inputs, |x| x[0] * x[1]),
        "Div" => each(inputs, |x| x[0] / x[1]),
        // What they say of NaN differs from runtime to runtime, so a graph must not depend on it.
        "Max" => each(inputs, |x| x[0].max(x[1])),
        "Min" => each(inputs, |x| x[0].min(x[1])),
        "Log" => first.map(f64::ln),
        "Neg" => first.map(|x| -x),
        "Relu" => first.map(|x| x.max(0.0)),
        "Sigmoid" => first.map(|x| 1.0 / (1.0 + (-x).exp())),
        "MatMul" => matrix_product(first, inputs[1]),
        "ReduceMean" => {
            assert_eq!(attribute("axes").ints, [0, 2]);
            assert_eq!(attribute("keepdims").i, Some(0));
            mean_over_outer(first)
        }
        other => panic!("{other} is not known here"),
    }
}

/// Probabilities of some rows.
fn run(graph: &GraphProto, rows: &[f32], width: usize) -> Vec<f32> {
    let constants = graph.initializer.iter();
    let mut known: HashMap<&str, Numbers> = constants
        .map(|tensor| (tensor.name.as_str(), Numbers::of_constant(tensor)))
        .collect();
    let values = rows.iter().map(|value| f64::from(*value)).collect();
    known.insert(
        &graph.input[0].name,
        Numbers::new(vec![rows.len() / width, width], values, true),
    );
    for node in &graph.node {
        let inputs: Vec<&Numbers> = node
            .input
            .iter()
            .map(|name| &known[name.as_str()])
            .collect();
        let output = run_node(node, &inputs);
        assert!(
            known.insert(&node.output[0], output).is_none(),
            "{} is made twice",
            node.output[0]
        );
    }
    let output = &known[graph.output[0].name.as_str()];
    assert_eq!((output.shape.len(), output.is_f32), (1, true));
    output.values.iter().map(|value| *value as f32).collect()
}

const WIDTH: usize = 5;

/// Categories with a code of their own, one that is too rare for it, and one that is not among the examples.
const CATEGORIES: [f32; 5] = [3.0, 90_000.0, 16_777_215.0, 77.0, 5.0];

/// An amount with long tails, an input that is often missing, a flag, one that is always the same, and, where it is one,
/// a category.
fn examples(seed: u64, last: InputKind) -> Examples {
    let mut random = generator(seed, Stream::Shuffle, 0);
    let mut examples =
        Examples::of_kinds([vec![InputKind::Number; WIDTH - 1], vec![last]].concat());
    for _ in 0..1_500 {
        let amount = (random.random::<f32>() * 9.0 - 2.0).exp();
        let ratio = if random.random_bool(0.3) {
            f32::NAN
        } else {
            random.random_range(-3.0..3.0)
        };
        let flag = f32::from(random.random_bool(0.2));
        let category = match random.random_range(0..500) {
            0 => CATEGORIES[3],
            1..100 => f32::NAN,
            other => CATEGORIES[other as usize % 3],
        };
        let fraud = amount > 300.0 && (flag > 0.0 || ratio > 1.0 || category == CATEGORIES[1]);
        examples
            .push(&[amount, ratio, flag, 7.0, category], fraud, 1.0)
            .unwrap();
    }
    examples
}

fn version(settings: &LearnerSettings, last: InputKind) -> (Manifest, Checkpoint) {
    let none = Examples::new(WIDTH);
    let learn = |parent: Option<&Checkpoint>, seed: u64| {
        let examples = examples(seed, last);
        update(settings, Device::Cpu, parent, &examples, &none, seed).unwrap()
    };
    let first = learn(None, 1);
    let update = learn(Some(&first.checkpoint), 2);
    let inputs: Vec<String> = ["amount", "ratio", "say \"é\"", "same", "channel"]
        .map(String::from)
        .into();
    let manifest = Manifest {
        version: 17,
        parent: Some(16),
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
        prequential: None,
        calibration: Calibration::IDENTITY,
        device: "cpu".to_owned(),
        offsets: std::collections::BTreeMap::new(),
        settings: std::collections::BTreeMap::new(),
        sha256: std::collections::BTreeMap::new(),
    };
    (manifest, update.checkpoint)
}

/// Usual rows, and rows of every number that is known to make trouble.
fn rows(encoder: &Encoder) -> Vec<f32> {
    let mut random = generator(3, Stream::Shuffle, 0);
    let mut numbers = vec![
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-45,
        0.0,
        -0.0,
        1.0,
        -1.0,
        1e9,
        -1e9,
        16_777_217.0,
        1e20,
        -1e20,
    ];
    let of_scale = |scale: &Scale| match scale {
        Scale::Edges(numbers) | Scale::Categories(numbers) => numbers.clone(),
    };
    for edge in encoder.scales().iter().flat_map(of_scale) {
        numbers.extend([edge, edge.next_up(), edge.next_down(), -edge, 1.5 * edge]);
    }
    numbers.extend(CATEGORIES);
    let usual = examples(9, InputKind::Category);
    let mut rows = Vec::new();
    for row in 0..1_200 {
        for input in 0..WIDTH {
            let odd = numbers[random.random_range(0..numbers.len())];
            let usual = usual.row(row)[input];
            rows.push(if random.random_bool(0.5) { odd } else { usual });
        }
    }
    rows
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|p| (0.0..=1.0).contains(p)));
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn the_graph_gives_the_models_probabilities() {
    for (members, hidden, last) in [
        (4, vec![16, 8], InputKind::Category),
        (4, vec![16, 8], InputKind::Number),
        (3, vec![8], InputKind::Category),
        (3, vec![], InputKind::Number),
        (1, vec![16, 8], InputKind::Number),
        (1, vec![], InputKind::Category),
    ] {
        let settings = LearnerSettings {
            members,
            hidden: hidden.clone(),
            // So that it says yes and no with some confidence.
            initial_learning_rate: 0.05,
            learning_rate: 0.05,
            ..LearnerSettings::default()
        };
        let (manifest, checkpoint) = version(&settings, last);
        let file = ModelProto::decode(&to_onnx(&manifest, &checkpoint)[..]).unwrap();
        let rows = rows(checkpoint.encoder());
        let scores = Model::new(&checkpoint).score(&rows).unwrap();
        let difference = largest_difference(&run(&file.graph.unwrap(), &rows, WIDTH), &scores);
        let case = format!("{members} members, {hidden:?}, {last:?}: {difference:e}");
        println!("{case}");
        assert!(difference < 2e-6, "{case}");
        // The rows tell a wrong version from the right one.
        let iterate = Model::of_iterate(&checkpoint).score(&rows).unwrap();
        assert!(largest_difference(&iterate, &scores) > 1e-3);
        let spread = scores.iter().fold((1.0_f32, 0.0_f32), |(low, high), p| {
            (low.min(*p), high.max(*p))
        });
        assert!(spread.0 < 0.05 && spread.1 > 0.2, "{spread:?}");
    }
}

#[test]
fn the_graph_is_calibrated_as_the_model_is() {
    let settings = LearnerSettings {
        members: 3,
        hidden: vec![8],
        initial_learning_rate: 0.05,
        learning_rate: 0.05,
        ..LearnerSettings::default()
    };
    let (manifest, mut checkpoint) = version(&settings, InputKind::Category);
    let rows = rows(checkpoint.encoder());
    let raw = Model::new(&checkpoint).score(&rows).unwrap();
    for (slope, intercept) in [(0.7, -0.4), (1.3, 1.5)] {
        checkpoint.calibrate(Calibration { slope, intercept });
        let file = ModelProto::decode(&to_onnx(&manifest, &checkpoint)[..]).unwrap();
        let scores = Model::new(&checkpoint).score(&rows).unwrap();
        let difference = largest_difference(&run(&file.graph.unwrap(), &rows, WIDTH), &scores);
        // A slope below 1 widens what is rounded at small probabilities.
        assert!(difference < 2e-5, "{slope} {intercept}: {difference:e}");
        assert!(largest_difference(&raw, &scores) > 1e-2);
    }
}

#[test]
fn the_file_says_what_it_is() {
    let settings = LearnerSettings {
        hidden: vec![4],
        ..LearnerSettings::default()
    };
    let (manifest, checkpoint) = version(&settings, InputKind::Category);
    let bytes = to_onnx(&manifest, &checkpoint);
    assert_eq!(bytes, to_onnx(&manifest, &checkpoint));
    let file = ModelProto::decode(&bytes[..]).unwrap();
    let said = |key: &str| {
        let entry = file
            .metadata_props
            .iter()
            .find(|entry| entry.key.as_deref() == Some(key));
        entry.unwrap().value.clone().unwrap()
    };
    assert_eq!(said("millrace.version"), "17");
    assert_eq!(
        serde_json::from_str::<Vec<String>>(&said("millrace.inputs")).unwrap(),
        manifest.inputs
    );
    assert_eq!(said("millrace.categories"), r#"["channel"]"#);
    assert_eq!(said("millrace.inputs_hash"), manifest.inputs_hash);
    assert_eq!(said("millrace.code_version"), "0.1.0");
    assert_eq!(file.opset_import[0].version, Some(17));
}
