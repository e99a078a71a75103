//! Everything that the next update needs to go on where this one stopped: encoder, weights and the
//! optimizer's state.
//!
//! It is plain numbers, so it passes between backends, and three files, whose bytes depend on
//! nothing else. Burn's own byte recorders are not used: they abort on damaged bytes, and they
//! write the optimizer's state in the order of a hash map. Where the files lie is
//! [`crate::Registry`]'s to know.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::calibration::Calibration;
use crate::encoder::Encoder;
use crate::error::LearnerError;
use crate::layer::{Layer, LayerFile, to_safetensors};

const WEIGHTS: &str = "weights.safetensors";
const ENCODER: &str = "encoder.json";
const OPTIMIZER: &str = "optimizer.safetensors";

/// The version of the two safetensors files …
const FORMAT: u32 = 2;
/// … and of weights that serve through a calibration, which a release that knows none must not score with.
const CALIBRATED_FORMAT: u32 = 3;

/// A model at rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    encoder: Encoder,
    /// Where training stands.
    layers: Vec<Layer>,
    /// The mean over the last updates: what serves.
    averaged: Vec<Layer>,
    /// Updates that the mean is over, as far as they count.
    averaged_over: u64,
    moments: Moments,
    steps: u64,
    /// The last step of what serves.
    calibration: Calibration,
}

/// AdamW's running means of each gradient and of its square, shaped as the layers are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<Layer>,
    pub(crate) second: Vec<Layer>,
}

impl Moments {
    /// The state before the first step.
    pub(crate) fn zeros(layers: &[Layer]) -> Self {
        let zeros: Vec<Layer> = layers.iter().map(Layer::zeros_like).collect();
        Self {
            first: zeros.clone(),
            second: zeros,
        }
    }
}

/// What the safetensors files say about themselves.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    steps: u64,
    averaged_over: u64,
    #[serde(default, skip_serializing_if = "Calibration::is_identity")]
    calibration: Calibration,
}

impl Checkpoint {
    /// Puts the parts together. The layers must lead from the encoder's codes to one logit, and the
    /// moments must have the layers' shapes; the reason is returned if they do not.
    pub(crate) fn new(
        encoder: Encoder,
        layers: Vec<Layer>,
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
        let members = layers.first().map_or(0, |layer| layer.members);
        if members == 0 || layers.iter().any(|layer| layer.members != members) {
            return Err("the layers have not the same members".to_owned());
        }
        if width != 1 {
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
            averaged: layers.clone(),
            averaged_over: 1,
            layers,
            moments,
            steps,
            calibration: Calibration::IDENTITY,
        })
    }

    /// Goes on with the mean of the updates before, of which the newest `updates` count.
    ///
    /// Averaging the iterates of a stochastic gradient takes their noise away and keeps what they have in common
    /// (Polyak, Juditsky 1992; with a fading memory as in Izmailov et al. 2018): the updates may then step far
    /// enough to follow the stream, and what serves still moves calmly.
    pub(crate) fn average_with(&mut self, before: &Checkpoint, updates: u64) {
        self.averaged_over = (before.averaged_over + 1).min(updates.max(1));
        let share = 1.0 / self.averaged_over as f32;
        for (layer, before) in self.averaged.iter_mut().zip(&before.averaged) {
            layer.shorten_way(before, share);
        }
    }

    /// The encoder of the inputs.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Networks that the model is the mean of.
    pub fn members(&self) -> usize {
        self.layers[0].members
    }

    /// The layers that serve, from the codes to the logits, with ReLU between them.
    pub fn averaged(&self) -> &[Layer] {
        &self.averaged
    }

    /// The same layers as training left them: where the next update goes on.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The last step of its scores.
    pub fn calibration(&self) -> Calibration {
        self.calibration
    }

    /// Lets it serve through a calibration.
    pub fn calibrate(&mut self, calibration: Calibration) {
        self.calibration = calibration;
    }

    /// Training steps since the model started afresh.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The same with every weight moved only a share of its way from `from`'s, which has the same
    /// shapes. The optimizer's state stays: it is a mean over many steps.
    pub(crate) fn shortened(&self, from: &Checkpoint, share: f32) -> Self {
        let mut shorter = self.clone();
        for (layer, from) in shorter.layers.iter_mut().zip(&from.layers) {
            layer.shorten_way(from, share);
        }
        shorter.averaged.clone_from(&shorter.layers);
        shorter
    }

    pub(crate) fn moments(&self) -> &Moments {
        &self.moments
    }

    pub(crate) fn is_finite(&self) -> bool {
        let moments = self.moments.first.iter().chain(&self.moments.second);
        let weights = self.layers.iter().chain(&self.averaged);
        weights.chain(moments).all(Layer::is_finite)
    }

    /// The names of a checkpoint's files.
    pub const FILES: [&str; 3] = [ENCODER, WEIGHTS, OPTIMIZER];

    /// The checkpoint as (file name, bytes), in the order of [`Checkpoint::FILES`]. Equal checkpoints give equal
    /// bytes.
    ///
    /// # Errors
    /// [`LearnerError::Damaged`] if a part cannot be written in its format.
    pub fn to_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, LearnerError> {
        let header = |format, calibration| {
            let header = Header {
                format,
                steps: self.steps,
                averaged_over: self.averaged_over,
                calibration,
            };
            serde_json::to_string(&header).map_err(|error| error.to_string())
        };
        let format = match self.calibration.is_identity() {
            true => FORMAT,
            false => CALIBRATED_FORMAT,
        };
        let weights = header(format, self.calibration)
            .and_then(|h| to_safetensors(&[("layers", &self.averaged)], h));
        let moments = [
            ("iterate", &self.layers[..]),
            ("first_moment", &self.moments.first[..]),
            ("second_moment", &self.moments.second[..]),
        ];
        // Where training stands is calibrated nowhere.
        let optimizer = header(FORMAT, Calibration::IDENTITY);
        let optimizer = optimizer.and_then(|h| to_safetensors(&moments, h));
        let encoder = serde_json::to_vec(&self.encoder).map_err(|error| error.to_string());
        let named = |name, bytes: Result<Vec<u8>, String>| match bytes {
            Ok(bytes) => Ok((name, bytes)),
            Err(reason) => Err(damaged(name, reason)),
        };
        Ok(vec![
            named(ENCODER, encoder)?,
            named(WEIGHTS, weights)?,
            named(OPTIMIZER, optimizer)?,
        ])
    }

    /// The checkpoint from its files, which `read` fetches by name.
    ///
    /// # Errors
    /// Those of `read`, and [`LearnerError::Damaged`] with the file's name where its content is not
    /// what [`Checkpoint::to_files`] writes, or has a number that is not finite.
    pub fn from_files(
        mut read: impl FnMut(&'static str) -> Result<Vec<u8>, LearnerError>,
    ) -> Result<Self, LearnerError> {
        let encoder = serde_json::from_slice(&read(ENCODER)?);
        let encoder = encoder.map_err(|error| damaged(ENCODER, error.to_string()))?;
        let (averaged, header) = parse_weights(&read(WEIGHTS)?).map_err(|r| damaged(WEIGHTS, r))?;
        let parsed = parse_optimizer(&read(OPTIMIZER)?, header.steps);
        let (layers, moments) = parsed.map_err(|reason| damaged(OPTIMIZER, reason))?;
        if shapes(&averaged) != shapes(&layers) {
            let reason = "it has other shapes than the weights".to_owned();
            return Err(damaged(OPTIMIZER, reason));
        }
        if !header.calibration.is_rising() {
            let reason = "its calibration is no line that rises".to_owned();
            return Err(damaged(WEIGHTS, reason));
        }
        // Such a model gives no scores, and none that is learned from it does.
        let moving = [&layers, &moments.first, &moments.second];
        for (name, of_file) in [(WEIGHTS, &[&averaged][..]), (OPTIMIZER, &moving[..])] {
            if !of_file.iter().copied().flatten().all(Layer::is_finite) {
                return Err(damaged(name, "a number in it is not finite".to_owned()));
            }
        }
        let checkpoint = Self::new(encoder, layers, moments, header.steps);
        Ok(Self {
            averaged,
            averaged_over: header.averaged_over,
            calibration: header.calibration,
            ..checkpoint.map_err(|reason| damaged(WEIGHTS, reason))?
        })
    }
}

fn parse_weights(bytes: &[u8]) -> Result<(Vec<Layer>, Header), String> {
    let file = LayerFile::open(bytes)?;
    let header = parse_header(&file.metadata)?;
    Ok((file.layers("layers")?, header))
}

fn parse_optimizer(bytes: &[u8], steps: u64) -> Result<(Vec<Layer>, Moments), String> {
    let file = LayerFile::open(bytes)?;
    let header = parse_header(&file.metadata)?;
    if header.steps != steps {
        return Err(format!(
            "the optimizer stands at step {} and the weights at step {steps}",
            header.steps
        ));
    }
    let moments = Moments {
        first: file.layers("first_moment")?,
        second: file.layers("second_moment")?,
    };
    Ok((file.layers("iterate")?, moments))
}

fn parse_header(text: &str) -> Result<Header, String> {
    let header: Header = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if ![FORMAT, CALIBRATED_FORMAT].contains(&header.format) {
        return Err(format!(
            "format {} was written by another release; this one reads {FORMAT} and {CALIBRATED_FORMAT}",
            header.format
        ));
    }
    Ok(header)
}

fn shapes(layers: &[Layer]) -> Vec<[[usize; 3]; 4]> {
    layers.iter().map(Layer::shape).collect()
}

fn damaged(name: &str, reason: String) -> LearnerError {
    LearnerError::Damaged {
        file: PathBuf::from(name),
        reason,
    }
}
