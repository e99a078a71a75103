//! The online learner: a fraud model that is warm-started from the serving version at every update.
//!
//! It knows Burn, examples and files of models. It knows neither Kafka, RocksDB nor Arrow, reads no
//! clock, opens no socket and draws no random number of its own: times, seeds and the store of the
//! registry are passed in, so a simulation and the live loop run the same code. Who joins labels to inputs, and when an update is due, is the
//! `millrace` crate's to decide.
//!
//! The way of one update: [`Examples`] → [`Encoder`] (numbers and categories to codes) →
//! [`update`] (AdamW on the CPU or on CUDA) → [`Checkpoint`] → [`Registry`] (versions on an object store) →
//! [`Model`] (what the scorer holds; always on the CPU).

mod calibration;
mod checkpoint;
mod device;
mod drift;
mod encoder;
mod error;
mod examples;
mod gate;
mod journal;
mod kernel;
mod layer;
mod manifest;
mod metrics;
mod model;
mod network;
mod onnx;
mod parameters;
mod random;
mod registry;
mod replay;
mod settings;
mod tails;
#[cfg(test)]
mod tests;
mod trainer;

pub use calibration::Calibration;
pub use checkpoint::Checkpoint;
pub use device::Device;
pub use drift::{Drift, DriftWatch, Histograms};
pub use encoder::Encoder;
pub use error::{InputsDiffer, LearnerError, Rejection};
pub use examples::{Examples, InputKind};
pub use gate::{Comparison, GateSettings, Harm, Interval, Lack, Paired};
pub use journal::{Cause, Check, Entry, Event, Made, State, Watched};
pub use layer::Layer;
pub use manifest::{Manifest, Prequential, inputs_hash};
pub use metrics::{Metrics, average_precision, calibration_error, log_loss, reliability, roc_auc};
pub use model::Model;
pub use onnx::to_onnx;
pub use registry::{Aliases, Choice, Decided, Drive, Objects, Registry, Request};
pub use replay::replay_sample;
pub use settings::LearnerSettings;
pub use tails::{Outlying, TailWatch, Tails};
pub use trainer::{Update, UpdateMetrics, update, update_unless};
