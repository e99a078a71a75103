//! A fully connected layer as plain numbers, and a list of them as a safetensors file.
//!
//! Plain numbers are the common ground between backends: a layer that was trained on a GPU is the
//! same numbers on a CPU. The layer that Burn trains is in [`crate::network`].

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// y = x·W + b. Also the shape that the optimizer's moments have, one for each weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// Numbers that go in.
    pub inputs: usize,
    /// Numbers that come out.
    pub outputs: usize,
    /// W, `[inputs, outputs]`, row-major.
    pub weight: Vec<f32>,
    /// b, `[outputs]`.
    pub bias: Vec<f32>,
}

impl Dense {
    /// A layer of zeros.
    pub fn zeros(inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            outputs,
            weight: vec![0.0; inputs * outputs],
            bias: vec![0.0; outputs],
        }
    }

    pub(crate) fn is_finite(&self) -> bool {
        let mut numbers = self.weight.iter().chain(&self.bias);
        numbers.all(|number| number.is_finite())
    }
}

/// The key of the one metadata entry. One, because the format keeps them in a hash map, and the
/// order of several would change from run to run.
const METADATA: &str = "millrace";

/// Layers as a safetensors file: the tensors `<group>.<layer>.weight` of shape `[inputs, outputs]`
/// and `<group>.<layer>.bias` of shape `[outputs]`, f32, and one text of metadata. Equal input
/// gives equal bytes.
pub(crate) fn to_safetensors(
    groups: &[(&str, &[Dense])],
    metadata: String,
) -> Result<Vec<u8>, String> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (group, layers) in groups {
        for (index, layer) in layers.iter().enumerate() {
            let shape = vec![layer.inputs, layer.outputs];
            tensors.push((
                format!("{group}.{index}.weight"),
                shape,
                bytes(&layer.weight),
            ));
            let shape = vec![layer.outputs];
            tensors.push((format!("{group}.{index}.bias"), shape, bytes(&layer.bias)));
        }
    }
    let mut views = Vec::with_capacity(tensors.len());
    for (name, shape, data) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), data);
        views.push((name, view.map_err(|error| error.to_string())?));
    }
    let metadata = HashMap::from([(METADATA.to_owned(), metadata)]);
    safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
}

/// An open safetensors file of layers.
pub(crate) struct DenseFile<'a> {
    tensors: SafeTensors<'a>,
    /// The text that was stored with the tensors.
    pub(crate) metadata: String,
}

impl<'a> DenseFile<'a> {
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let entries = header.metadata().as_ref();
        let metadata = entries.and_then(|entries| entries.get(METADATA)).cloned();
        Ok(Self {
            tensors: SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?,
            metadata: metadata.ok_or("it was not written by Millrace")?,
        })
    }

    /// The layers of one group, first to last.
    pub(crate) fn layers(&self, group: &str) -> Result<Vec<Dense>, String> {
        let has = |index: &usize| {
            let name = format!("{group}.{index}.weight");
            self.tensors.tensor(&name).is_ok()
        };
        let layers = (0..).take_while(has);
        layers.map(|index| self.layer(group, index)).collect()
    }

    fn layer(&self, group: &str, index: usize) -> Result<Dense, String> {
        let (shape, weight) = self.tensor(&format!("{group}.{index}.weight"))?;
        let (bias_shape, bias) = self.tensor(&format!("{group}.{index}.bias"))?;
        match (&shape[..], &bias_shape[..]) {
            ([inputs, outputs], [biases]) if outputs == biases => Ok(Dense {
                inputs: *inputs,
                outputs: *outputs,
                weight,
                bias,
            }),
            _ => Err(format!(
                "{group}.{index} has a weight of shape {shape:?} and a bias of shape {bias_shape:?}"
            )),
        }
    }

    fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), String> {
        let tensor = self.tensors.tensor(name);
        let tensor = tensor.map_err(|error| error.to_string())?;
        if tensor.dtype() != Dtype::F32 {
            return Err(format!("{name} is {:?} and not F32", tensor.dtype()));
        }
        let numbers = tensor.data().chunks_exact(4);
        let numbers = numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok((tensor.shape().to_vec(), numbers.collect()))
    }
}

/// Safetensors is little-endian everywhere.
fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}
