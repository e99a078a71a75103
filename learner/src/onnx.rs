//! A version as an ONNX graph: the whole of it, from the inputs as they are to the probability of fraud, in standard
//! operators, so that it runs wherever ONNX runs.
//!
//! The graph says the same as [`crate::Model`] does, in the words of [`crate::Encoder`] and [`crate::Layer`]: each
//! input is taken once for each of its codes, all codes are computed at once, and the members of the ensemble are the
//! first dimension of every number that is a member's own. It is what serves, the mean of weights, and cannot be
//! trained further. A category comes as its number; the graph has no strings.
//!
//! ```text
//!   inputs [rows, inputs] ─ Gather ─► codes [rows, codes] ─ layers ─► logits [members, rows, 1] ─► probability [rows]
//! ```

mod messages;
#[cfg(test)]
mod tests;

use prost::Message;

use crate::calibration::Calibration;
use crate::checkpoint::Checkpoint;
use crate::encoder::{Encoder, Scale, TAIL};
use crate::layer::Layer;
use crate::manifest::Manifest;
use messages::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionProto, GraphProto, ModelProto,
    NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The operators' version. From 18 on, `ReduceMean` takes its axes in another form.
const OPSET: i64 = 17;
/// The format's version, which came with that of the operators.
const IR: i64 = 8;

const INPUTS: &str = "inputs";
const PROBABILITY: &str = "probability";

/// A version as the bytes of an ONNX file.
///
/// It takes `inputs`, f32 `[rows, inputs]` in the order of the manifest, where NaN is missing and a category is the number
/// that stands for it in the examples, and gives `probability`, f32 `[rows]`. The codes and the mean are computed in
/// f64, as [`crate::Model`] does, and the layers in f32. The manifest's version, inputs and which of them are categories
/// (JSON arrays), hash of the inputs, code version and times are the file's metadata. Equal versions give equal bytes.
pub fn to_onnx(manifest: &Manifest, checkpoint: &Checkpoint) -> Vec<u8> {
    let mut graph = Graph::default();
    let codes = encode(&mut graph, checkpoint.encoder());
    let logits = forward(&mut graph, checkpoint.averaged(), codes);
    mean_probability(&mut graph, logits, checkpoint.calibration());
    let width = Dimension::Size(checkpoint.encoder().width() as i64);
    let rows = || Dimension::Name("rows".to_owned());
    let model = ModelProto {
        ir_version: Some(IR),
        producer_name: "millrace".to_owned(),
        producer_version: manifest.code_version.clone(),
        domain: String::new(),
        model_version: Some(manifest.version as i64),
        doc_string: "Probability of fraud from a row of inputs; NaN is a missing input.".to_owned(),
        graph: Some(GraphProto {
            node: graph.nodes,
            name: format!("millrace_v{}", manifest.version),
            initializer: graph.constants,
            input: vec![value(
                INPUTS,
                vec![rows(), width],
                &manifest.inputs.join(", "),
            )],
            output: vec![value(PROBABILITY, vec![rows()], "0 to 1")],
        }),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
        metadata_props: metadata(manifest, checkpoint.encoder()),
    };
    model.encode_to_vec()
}

fn metadata(manifest: &Manifest, encoder: &Encoder) -> Vec<StringStringEntryProto> {
    let inputs = manifest.inputs.iter().zip(encoder.scales());
    let categories = inputs.filter(|(_, scale)| matches!(scale, Scale::Categories(_)));
    let categories: Vec<&String> = categories.map(|(name, _)| name).collect();
    let entries = [
        ("millrace.version", manifest.version.to_string()),
        (
            "millrace.inputs",
            serde_json::json!(manifest.inputs).to_string(),
        ),
        (
            "millrace.categories",
            serde_json::json!(categories).to_string(),
        ),
        ("millrace.inputs_hash", manifest.inputs_hash.clone()),
        ("millrace.code_version", manifest.code_version.clone()),
        ("millrace.created", manifest.created.clone()),
        (
            "millrace.trained_until_us",
            manifest.trained_until_us.to_string(),
        ),
    ];
    let entry = |(key, value): (&str, String)| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    entries.into_iter().map(entry).collect()
}

/// What each code is computed from, code by code: see [`Encoder::place`].
#[derive(Default)]
struct Codes {
    /// The input that it is a code of.
    input: Vec<i64>,
    /// The lower edge of its bin, and the distance to the upper one.
    low: Vec<f64>,
    width: Vec<f64>,
    /// How far through the bin it goes at least and at most: 0 to 1, but for the outer sides of the outer bins. Codes
    /// that are of no bin go nowhere.
    least: Vec<f64>,
    most: Vec<f64>,
    /// What it is where the input is missing.
    missing: Vec<f64>,
    categories: Categories,
}

/// What the codes of categories are computed from, besides.
#[derive(Default)]
struct Categories {
    /// Inputs that are categories.
    inputs: usize,
    /// Of each code: which of those inputs it is of, or 0.
    of: Vec<i64>,
    /// Of each code: the category that it stands for, and 1 where it stands for one.
    category: Vec<f64>,
    is_one: Vec<f64>,
    /// Of each code: 1 where it stands for all others.
    is_other: Vec<f64>,
}

/// Numbers of a code that is of no bin: it is 0, and this where the input is missing.
fn of_no_bin(missing: f64) -> [f64; 5] {
    [0.0, 1.0, 0.0, 0.0, missing]
}

impl Codes {
    fn of(encoder: &Encoder) -> Self {
        let mut codes = Self::default();
        for (input, scale) in encoder.scales().iter().enumerate() {
            match scale {
                Scale::Edges(edges) => codes.push_bins(input, edges),
                Scale::Categories(categories) => codes.push_categories(input, categories),
            }
            codes.push(input, of_no_bin(1.0));
        }
        codes
    }

    fn push_bins(&mut self, input: usize, edges: &[f32]) {
        let bins = edges.len() - 1;
        for (bin, pair) in edges.windows(2).enumerate() {
            let (low, high) = (f64::from(pair[0]), f64::from(pair[1]));
            let least = if bin == 0 { f64::NEG_INFINITY } else { 0.0 };
            let most = if bin + 1 == bins { f64::INFINITY } else { 1.0 };
            self.push(input, [low, high - low, least, most, 0.0]);
        }
    }

    fn push_categories(&mut self, input: usize, known: &[f32]) {
        let of = self.categories.inputs as i64;
        self.categories.inputs += 1;
        let known = known.iter().map(|category| Some(f64::from(*category)));
        for category in known.chain([None]) {
            self.push(input, of_no_bin(0.0));
            self.categories.stand_for(of, category);
        }
    }

    fn push(&mut self, input: usize, [low, width, least, most, missing]: [f64; 5]) {
        self.input.push(input as i64);
        self.low.push(low);
        self.width.push(width);
        self.least.push(least);
        self.most.push(most);
        self.missing.push(missing);
        self.categories.push();
    }
}

impl Categories {
    /// A code that stands for no category.
    fn push(&mut self) {
        self.of.push(0);
        for numbers in [&mut self.category, &mut self.is_one, &mut self.is_other] {
            numbers.push(0.0);
        }
    }

    /// The newest code stands for a category of an input, or for all others.
    fn stand_for(&mut self, of: i64, category: Option<f64>) {
        let last = self.of.len() - 1;
        self.of[last] = of;
        match category {
            Some(category) => {
                self.category[last] = category;
                self.is_one[last] = 1.0;
            }
            None => self.is_other[last] = 1.0,
        }
    }

    /// Which codes are of which input, `[codes, inputs]`: 1 for a category that is known.
    fn of_inputs(&self) -> Vec<f64> {
        let mut of_inputs = vec![0.0; self.of.len() * self.inputs];
        for (code, (of, is_one)) in self.of.iter().zip(&self.is_one).enumerate() {
            of_inputs[code * self.inputs + *of as usize] = *is_one;
        }
        of_inputs
    }
}

/// The codes of all rows, f32 `[rows, codes]`.
fn encode(graph: &mut Graph, encoder: &Encoder) -> Name {
    let codes = Codes::of(encoder);
    let input = graph.integers("code.input", &codes.input);
    let low = graph.doubles("code.low", &codes.low);
    let width = graph.doubles("code.width", &codes.width);
    let least = graph.doubles("code.least", &codes.least);
    let most = graph.doubles("code.most", &codes.most);
    let missing = graph.doubles("code.missing", &codes.missing);
    let zero = graph.double("zero", 0.0);
    let one = graph.double("one", 1.0);
    let lowest = graph.double("lowest", -TAIL);
    let highest = graph.double("highest", 1.0 + TAIL);

    let inputs = Name(INPUTS.to_owned());
    let values = graph.with("Gather", "values", &[&inputs, &input], vec![int("axis", 1)]);
    let is_missing = graph.op("IsNaN", "is_missing", &[&values]);
    let values = graph.cast("values_f64", &values, DataType::Double);
    let way = graph.op("Sub", "way", &[&values, &low]);
    let way = graph.op("Div", "way_through", &[&way, &width]);
    let way = graph.op("Max", "way_from", &[&way, &least]);
    let way = graph.op("Min", "way_to", &[&way, &most]);
    // Within the bin itself, and the logarithms of what lies above and below it: two of the three stand still.
    let inside = graph.op("Max", "inside_from", &[&way, &zero]);
    let inside = graph.op("Min", "inside", &[&inside, &one]);
    let above = graph.op("Max", "above_from", &[&way, &one]);
    let above = graph.op("Log", "above", &[&above]);
    let below = graph.op("Min", "below_to", &[&way, &zero]);
    let below = graph.op("Sub", "below_from", &[&one, &below]);
    let below = graph.op("Log", "below", &[&below]);
    let code = graph.op("Add", "with_above", &[&inside, &above]);
    let code = graph.op("Sub", "with_below", &[&code, &below]);
    let code = graph.op("Max", "code_from", &[&code, &lowest]);
    let mut code = graph.op("Min", "code_to", &[&code, &highest]);
    if codes.categories.inputs > 0 {
        code = with_categories(graph, &codes.categories, &values, &one, &code);
    }
    let code = graph.op("Where", "codes_f64", &[&is_missing, &missing, &code]);
    graph.cast("codes", &code, DataType::Float)
}

/// The codes, f64 `[rows, codes]`, with those of categories. `values` are the inputs, once for each code, in f64.
fn with_categories(
    graph: &mut Graph,
    categories: &Categories,
    values: &Name,
    one: &Name,
    code: &Name,
) -> Name {
    let category = graph.doubles("category", &categories.category);
    let is_one = graph.doubles("category.is_one", &categories.is_one);
    let is_other = graph.doubles("category.is_other", &categories.is_other);
    let of = graph.integers("category.of", &categories.of);
    let shape = [categories.of.len(), categories.inputs];
    let of_inputs = graph.matrix("category.of_inputs", &categories.of_inputs(), shape);
    let is_equal = graph.op("Equal", "is_equal", &[values, &category]);
    let is_equal = graph.cast("is_equal_f64", &is_equal, DataType::Double);
    let known = graph.op("Mul", "known", &[&is_equal, &is_one]);
    // What none of an input's categories is, is another one: 1 less the sum of their codes.
    let is_known = graph.op("MatMul", "is_known", &[&known, &of_inputs]);
    let is_new = graph.op("Sub", "is_new", &[one, &is_known]);
    let others = graph.with("Gather", "others_of", &[&is_new, &of], vec![int("axis", 1)]);
    let others = graph.op("Mul", "others", &[&others, &is_other]);
    let code = graph.op("Add", "with_known", &[code, &known]);
    graph.op("Add", "with_others", &[&code, &others])
}

/// The logits of all members, f32 `[members, rows, 1]`: [`Layer`]'s formula, with its own shapes.
fn forward(graph: &mut Graph, layers: &[Layer], codes: Name) -> Name {
    let mut values = codes;
    for (index, layer) in layers.iter().enumerate() {
        let name = |what: &str| format!("layer{index}.{what}");
        if index > 0 {
            values = graph.op("Relu", &name("rectified"), &[&values]);
        }
        let [weight, scale_in, scale_out, bias] = layer.parts();
        let steps = [
            ("Mul", "scale_in", scale_in),
            ("MatMul", "weight", weight),
            ("Mul", "scale_out", scale_out),
            ("Add", "bias", bias),
        ];
        for (operator, part, (numbers, shape)) in steps {
            if !numbers.is_empty() {
                let part = graph.floats(&name(part), numbers, shape);
                let output = format!("{}.{operator}", part.0);
                values = graph.op(operator, &output, &[&values, &part]);
            }
        }
    }
    values
}

/// The mean of the members' probabilities, calibrated, f32 `[rows]`.
fn mean_probability(graph: &mut Graph, logits: Name, calibration: Calibration) {
    // In f64: an f32 next to 0 or 1 would not tell one member's certainty from another's.
    let logits = graph.cast("logits_f64", &logits, DataType::Double);
    if calibration.is_identity() {
        let mean = mean_sigmoid(graph, "members", "probability_f64", &logits);
        graph.cast(PROBABILITY, &mean, DataType::Float);
        return;
    }
    // The log odds of the mean: of it and of its complement, either of which may be too small to be told from the
    // other's distance to 1.
    let fraud = mean_sigmoid(graph, "members", "mean_fraud", &logits);
    let against = graph.op("Neg", "logits_against", &[&logits]);
    let genuine = mean_sigmoid(graph, "members_against", "mean_genuine", &against);
    let fraud = graph.op("Log", "log_fraud", &[&fraud]);
    let genuine = graph.op("Log", "log_genuine", &[&genuine]);
    let logit = graph.op("Sub", "raw_logit", &[&fraud, &genuine]);
    let slope = graph.double("calibration.slope", f64::from(calibration.slope));
    let intercept = graph.double("calibration.intercept", f64::from(calibration.intercept));
    let logit = graph.op("Mul", "sloped_logit", &[&logit, &slope]);
    let logit = graph.op("Add", "logit", &[&logit, &intercept]);
    let probability = graph.op("Sigmoid", "probability_f64", &[&logit]);
    graph.cast(PROBABILITY, &probability, DataType::Float);
}

/// The mean over the members of σ of their logits, f64 `[rows]`. `each` is what σ alone is called.
fn mean_sigmoid(graph: &mut Graph, each: &str, output: &str, logits: &Name) -> Name {
    let each = graph.op("Sigmoid", each, &[logits]);
    let attributes = vec![ints("axes", &[0, 2]), int("keepdims", 0)];
    graph.with("ReduceMean", output, &[&each], attributes)
}

/// A graph under way. Nodes are in the order in which they run.
#[derive(Default)]
struct Graph {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

/// What a node or a constant is called.
struct Name(String);

impl Graph {
    fn op(&mut self, operator: &str, output: &str, inputs: &[&Name]) -> Name {
        self.with(operator, output, inputs, Vec::new())
    }

    fn cast(&mut self, output: &str, input: &Name, to: DataType) -> Name {
        self.with("Cast", output, &[input], vec![int("to", to as i64)])
    }

    fn with(
        &mut self,
        operator: &str,
        output: &str,
        inputs: &[&Name],
        attribute: Vec<AttributeProto>,
    ) -> Name {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|name| name.0.clone()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: operator.to_owned(),
            attribute,
        });
        Name(output.to_owned())
    }

    fn floats(&mut self, name: &str, numbers: &[f32], shape: [usize; 3]) -> Name {
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(name, DataType::Float, &shape, bytes)
    }

    fn doubles(&mut self, name: &str, numbers: &[f64]) -> Name {
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(name, DataType::Double, &[numbers.len()], bytes)
    }

    fn matrix(&mut self, name: &str, numbers: &[f64], shape: [usize; 2]) -> Name {
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(name, DataType::Double, &shape, bytes)
    }

    fn double(&mut self, name: &str, number: f64) -> Name {
        self.constant(name, DataType::Double, &[], number.to_le_bytes().to_vec())
    }

    fn integers(&mut self, name: &str, numbers: &[i64]) -> Name {
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(name, DataType::Int64, &[numbers.len()], bytes)
    }

    fn constant(&mut self, name: &str, kind: DataType, shape: &[usize], raw_data: Vec<u8>) -> Name {
        self.constants.push(TensorProto {
            dims: shape.iter().map(|size| *size as i64).collect(),
            data_type: kind as i32,
            name: name.to_owned(),
            raw_data,
        });
        Name(name.to_owned())
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        ints: Vec::new(),
        r#type: AttributeType::Int as i32,
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: None,
        ints: values.to_vec(),
        r#type: AttributeType::Ints as i32,
    }
}

/// An f32 tensor that goes in or comes out.
fn value(name: &str, shape: Vec<Dimension>, doc: &str) -> ValueInfoProto {
    let dim = shape
        .into_iter()
        .map(|size| DimensionProto { value: Some(size) });
    let tensor = TensorTypeProto {
        elem_type: DataType::Float as i32,
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
        }),
        doc_string: doc.to_owned(),
    }
}
