//! A layer of the ensemble as plain numbers, and a list of them as a safetensors file.
//!
//! Plain numbers are the common ground between backends: a layer that was trained on a GPU is the
//! same numbers on a CPU. The layer that Burn trains is in [`crate::network`].

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// One fully connected layer of all members of the ensemble. Member m computes
///
/// ```text
///   y = ((x ⊙ scale_in[m]) · W) ⊙ scale_out[m] + bias[m]
/// ```
///
/// where W is the same for all members or, with as many matrices as there are members, W[m]. It is
/// BatchEnsemble (Wen, Tran, Ba, ICLR 2020) as TabM uses it (Gorishniy, Kotelnikov, Babenko, "TabM",
/// ICLR 2025). Also the shape that the optimizer's moments have, one for each number.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Numbers that go into a member.
    pub inputs: usize,
    /// Numbers that come out of a member.
    pub outputs: usize,
    /// Members of the ensemble.
    pub members: usize,
    /// W, row-major: `[1, inputs, outputs]` where the members share it, else `[members, inputs,
    /// outputs]`.
    pub weight: Vec<f32>,
    /// `[members, inputs]`, or nothing for ones that are not trained.
    pub scale_in: Vec<f32>,
    /// `[members, outputs]`, or nothing for ones that are not trained.
    pub scale_out: Vec<f32>,
    /// `[members, outputs]`.
    pub bias: Vec<f32>,
}

/// The parts of a layer, in the order of [`Layer::parts`].
pub(crate) const PARTS: [&str; 4] = ["weight", "scale_in", "scale_out", "bias"];

impl Layer {
    /// A layer of the same shape, all zeros.
    pub(crate) fn zeros_like(&self) -> Self {
        let zeros = |numbers: &Vec<f32>| vec![0.0; numbers.len()];
        Self {
            inputs: self.inputs,
            outputs: self.outputs,
            members: self.members,
            weight: zeros(&self.weight),
            scale_in: zeros(&self.scale_in),
            scale_out: zeros(&self.scale_out),
            bias: zeros(&self.bias),
        }
    }

    /// Numbers of each part, and their shape as rank 3; an empty part has none.
    pub(crate) fn parts(&self) -> [(&[f32], [usize; 3]); 4] {
        let (inputs, outputs, members) = (self.inputs, self.outputs, self.members);
        let groups = self.weight.len() / (inputs * outputs).max(1);
        [
            (&self.weight, [groups, inputs, outputs]),
            (&self.scale_in, [members, 1, inputs]),
            (&self.scale_out, [members, 1, outputs]),
            (&self.bias, [members, 1, outputs]),
        ]
    }

    /// The parts, to be overwritten.
    pub(crate) fn parts_mut(&mut self) -> [&mut Vec<f32>; 4] {
        [
            &mut self.weight,
            &mut self.scale_in,
            &mut self.scale_out,
            &mut self.bias,
        ]
    }

    /// What distinguishes the shapes of two layers.
    pub(crate) fn shape(&self) -> [[usize; 3]; 4] {
        self.parts().map(|(numbers, shape)| match numbers {
            [] => [0; 3],
            _ => shape,
        })
    }

    /// Member `member`'s layer with its scales multiplied in: a weight `[inputs, outputs]` and a
    /// bias `[outputs]`.
    pub(crate) fn folded(&self, member: usize) -> (Vec<f32>, Vec<f32>) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let matrices = self.weight.chunks_exact(inputs * outputs);
        let shared = matrices.len() == 1;
        let from = if shared { 0 } else { member * inputs * outputs };
        let mut weight = self.weight[from..from + inputs * outputs].to_vec();
        for (input, row) in weight.chunks_exact_mut(outputs).enumerate() {
            let scale_in = self.scale_in.get(member * inputs + input).unwrap_or(&1.0);
            for (output, weight) in row.iter_mut().enumerate() {
                let at = member * outputs + output;
                *weight *= scale_in * self.scale_out.get(at).unwrap_or(&1.0);
            }
        }
        let bias = self.bias[member * outputs..(member + 1) * outputs].to_vec();
        (weight, bias)
    }

    pub(crate) fn is_finite(&self) -> bool {
        let parts = self.parts();
        let mut numbers = parts.iter().flat_map(|(numbers, _)| numbers.iter());
        numbers.all(|number| number.is_finite())
    }

    /// Moves every number the given share of the way from `from` to where it is now.
    pub(crate) fn shorten_way(&mut self, from: &Layer, share: f32) {
        for (numbers, (from, _)) in self.parts_mut().into_iter().zip(from.parts()) {
            for (number, from) in numbers.iter_mut().zip(from) {
                *number = from + share * (*number - from);
            }
        }
    }
}

/// The key of the one metadata entry. One, because the format keeps them in a hash map, and the
/// order of several would change from run to run.
const METADATA: &str = "millrace";

/// Layers as a safetensors file: the tensors `<group>.<layer>.weight` of shape `[1 or members,
/// inputs, outputs]`, `….scale_in` of shape `[members, 1, inputs]`, `….scale_out` and `….bias` of
/// shape `[members, 1, outputs]`, f32, and one text of metadata. Scales that are not trained are not
/// there. Equal input gives equal bytes.
pub(crate) fn to_safetensors(
    groups: &[(&str, &[Layer])],
    metadata: String,
) -> Result<Vec<u8>, String> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (group, layers) in groups {
        for (index, layer) in layers.iter().enumerate() {
            for (part, (numbers, shape)) in PARTS.iter().zip(layer.parts()) {
                if !numbers.is_empty() {
                    let name = format!("{group}.{index}.{part}");
                    tensors.push((name, shape.to_vec(), bytes(numbers)));
                }
            }
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
pub(crate) struct LayerFile<'a> {
    tensors: SafeTensors<'a>,
    /// The text that was stored with the tensors.
    pub(crate) metadata: String,
}

impl<'a> LayerFile<'a> {
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
    pub(crate) fn layers(&self, group: &str) -> Result<Vec<Layer>, String> {
        let has = |index: &usize| {
            let name = format!("{group}.{index}.weight");
            self.tensors.tensor(&name).is_ok()
        };
        let layers = (0..).take_while(has);
        layers.map(|index| self.layer(group, index)).collect()
    }

    fn layer(&self, group: &str, index: usize) -> Result<Layer, String> {
        let name = |part: &str| format!("{group}.{index}.{part}");
        let ([groups, inputs, outputs], weight) = self.tensor(&name("weight"))?;
        let ([members, _, _], bias) = self.tensor(&name("bias"))?;
        let mut layer = Layer {
            inputs,
            outputs,
            members,
            weight,
            scale_in: Vec::new(),
            scale_out: Vec::new(),
            bias,
        };
        for (part, scales, width) in [
            ("scale_in", &mut layer.scale_in, inputs),
            ("scale_out", &mut layer.scale_out, outputs),
        ] {
            if self.tensors.tensor(&name(part)).is_ok() {
                *scales = self.tensor(&name(part))?.1;
                if scales.len() != members * width {
                    return Err(format!("{} has {} numbers", name(part), scales.len()));
                }
            }
        }
        if layer.bias.len() != members * outputs || (groups != 1 && groups != members) {
            return Err(format!("the shapes of {group}.{index} do not fit together"));
        }
        Ok(layer)
    }

    fn tensor(&self, name: &str) -> Result<([usize; 3], Vec<f32>), String> {
        let tensor = self.tensors.tensor(name);
        let tensor = tensor.map_err(|error| error.to_string())?;
        if tensor.dtype() != Dtype::F32 {
            return Err(format!("{name} is {:?} and not F32", tensor.dtype()));
        }
        let shape = <[usize; 3]>::try_from(tensor.shape());
        let shape = shape.map_err(|_| format!("{name} has the shape {:?}", tensor.shape()))?;
        let numbers = tensor.data().chunks_exact(4);
        let numbers = numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok((shape, numbers.collect()))
    }
}

/// Safetensors is little-endian everywhere.
fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}
