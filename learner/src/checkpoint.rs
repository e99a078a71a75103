//! Everything that the next update needs to go on where this one stopped: encoder, weights and the
//! optimizer's state.
//!
//! It is plain numbers, so it passes between backends, and three files, whose bytes depend on
//! nothing else. Burn's own byte recorders are not used: they abort on damaged bytes, and they
//! write the optimizer's state in the order of a hash map. Where the files lie is
//! [`crate::Registry`]'s to know.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dense::{Dense, DenseFile, to_safetensors};
use crate::encoder::Encoder;
use crate::error::LearnerError;

const WEIGHTS: &str = "weights.safetensors";
const ENCODER: &str = "encoder.json";
const OPTIMIZER: &str = "optimizer.safetensors";

/// The version of the two safetensors files.
const FORMAT: u32 = 1;

/// A model at rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    encoder: Encoder,
    layers: Vec<Dense>,
    moments: Moments,
    steps: u64,
}

/// AdamW's running means of each gradient and of its square, shaped as the layers are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<Dense>,
    pub(crate) second: Vec<Dense>,
}

impl Moments {
    /// The state before the first step.
    pub(crate) fn zeros(layers: &[Dense]) -> Self {
        let zeros = |layer: &Dense| Dense::zeros(layer.inputs, layer.outputs);
        Self {
            first: layers.iter().map(zeros).collect(),
            second: layers.iter().map(zeros).collect(),
        }
    }
}

/// What the safetensors files say about themselves.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    steps: u64,
}

impl Checkpoint {
    /// Puts the parts together. The layers must lead from the encoder's codes to one logit, and the
    /// moments must have the layers' shapes; the reason is returned if they do not.
    pub(crate) fn new(
        encoder: Encoder,
        layers: Vec<Dense>,
        moments: Moments,
        steps: u64,
    ) -> Result<Self, String> {
        let mut width = encoder.encoded_width();
        for (index, layer) in layers.iter().enumerate() {
            if layer.inputs != width {
                return Err(format!(
                    "layer {index} takes {} numbers and gets {width}",
                    layer.inputs
                ));
            }
            width = layer.outputs;
        }
        if layers.is_empty() || width != 1 {
            return Err(format!(
                "{} layers end in {width} numbers and not in one",
                layers.len()
            ));
        }
        if shapes(&moments.first) != shapes(&layers) || shapes(&moments.second) != shapes(&layers) {
            return Err("the optimizer's state has other shapes than the weights".to_owned());
        }
        Ok(Self {
            encoder,
            layers,
            moments,
            steps,
        })
    }

    /// The encoder of the inputs.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The layers of the network, from the codes to the logit, with ReLU between them.
    pub fn layers(&self) -> &[Dense] {
        &self.layers
    }

    /// Training steps since the model started afresh.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn moments(&self) -> &Moments {
        &self.moments
    }

    pub(crate) fn is_finite(&self) -> bool {
        let moments = self.moments.first.iter().chain(&self.moments.second);
        self.layers.iter().chain(moments).all(Dense::is_finite)
    }

    /// The checkpoint as (file name, bytes): `weights.safetensors`, `encoder.json` and
    /// `optimizer.safetensors`. Equal checkpoints give equal bytes.
    ///
    /// # Errors
    /// [`LearnerError::Damaged`] if a part cannot be written in its format.
    pub fn to_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, LearnerError> {
        let header = Header {
            format: FORMAT,
            steps: self.steps,
        };
        let header = || serde_json::to_string(&header).map_err(|error| error.to_string());
        let weights = header().and_then(|h| to_safetensors(&[("layers", &self.layers)], h));
        let moments = [
            ("first_moment", &self.moments.first[..]),
            ("second_moment", &self.moments.second[..]),
        ];
        let optimizer = header().and_then(|h| to_safetensors(&moments, h));
        let encoder = serde_json::to_vec(&self.encoder).map_err(|error| error.to_string());
        let named = |name, bytes: Result<Vec<u8>, String>| match bytes {
            Ok(bytes) => Ok((name, bytes)),
            Err(reason) => Err(damaged(name, reason)),
        };
        Ok(vec![
            named(WEIGHTS, weights)?,
            named(ENCODER, encoder)?,
            named(OPTIMIZER, optimizer)?,
        ])
    }

    /// The checkpoint from its files, which `read` fetches by name.
    ///
    /// # Errors
    /// Those of `read`, and [`LearnerError::Damaged`] with the file's name where its content is not
    /// what [`Checkpoint::to_files`] writes.
    pub fn from_files(
        mut read: impl FnMut(&'static str) -> Result<Vec<u8>, LearnerError>,
    ) -> Result<Self, LearnerError> {
        let encoder = serde_json::from_slice(&read(ENCODER)?);
        let encoder = encoder.map_err(|error| damaged(ENCODER, error.to_string()))?;
        let (layers, steps) = parse_weights(&read(WEIGHTS)?).map_err(|r| damaged(WEIGHTS, r))?;
        let moments = parse_moments(&read(OPTIMIZER)?, steps);
        let moments = moments.map_err(|reason| damaged(OPTIMIZER, reason))?;
        Self::new(encoder, layers, moments, steps).map_err(|reason| damaged(WEIGHTS, reason))
    }

    /// Writes the files into an existing folder.
    ///
    /// # Errors
    /// [`LearnerError::Io`] where the file system refuses.
    pub fn save(&self, folder: &Path) -> Result<(), LearnerError> {
        for (name, bytes) in self.to_files()? {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(|source| io("write", &path, source))?;
        }
        Ok(())
    }

    /// Reads the files from a folder.
    ///
    /// # Errors
    /// [`LearnerError::Io`] for a file that cannot be read, [`LearnerError::Damaged`] for one that
    /// cannot be understood; both name it.
    pub fn open(folder: &Path) -> Result<Self, LearnerError> {
        let read = |name: &'static str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| io("read", &path, source))
        };
        Self::from_files(read).map_err(|error| match error {
            LearnerError::Damaged { file, reason } => LearnerError::Damaged {
                file: folder.join(file),
                reason,
            },
            other => other,
        })
    }
}

fn parse_weights(bytes: &[u8]) -> Result<(Vec<Dense>, u64), String> {
    let file = DenseFile::open(bytes)?;
    let header = parse_header(&file.metadata)?;
    Ok((file.layers("layers")?, header.steps))
}

fn parse_moments(bytes: &[u8], steps: u64) -> Result<Moments, String> {
    let file = DenseFile::open(bytes)?;
    let header = parse_header(&file.metadata)?;
    if header.steps != steps {
        return Err(format!(
            "the optimizer stands at step {} and the weights at step {steps}",
            header.steps
        ));
    }
    Ok(Moments {
        first: file.layers("first_moment")?,
        second: file.layers("second_moment")?,
    })
}

fn parse_header(text: &str) -> Result<Header, String> {
    let header: Header = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if header.format != FORMAT {
        return Err(format!(
            "format {} was written by another release; this one reads {FORMAT}",
            header.format
        ));
    }
    Ok(header)
}

fn shapes(layers: &[Dense]) -> Vec<(usize, usize)> {
    let shape = |layer: &Dense| (layer.inputs, layer.outputs);
    layers.iter().map(shape).collect()
}

fn damaged(name: &str, reason: String) -> LearnerError {
    LearnerError::Damaged {
        file: PathBuf::from(name),
        reason,
    }
}

pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> LearnerError {
    LearnerError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
