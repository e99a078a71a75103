//! Where an update is trained. Scoring is always on the CPU.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::LearnerError;

/// A device for training, written `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first CUDA device if this build has CUDA support and the device works, else the CPU.
    #[default]
    Auto,
    /// One core of the CPU. The same input gives the same bytes.
    Cpu,
    /// The CUDA device of this number, counted from 0.
    Cuda(usize),
}

impl Device {
    /// Settles what [`Device::Auto`] means on this machine, and sees that a CUDA device works. The
    /// answer is never `Auto`.
    ///
    /// # Errors
    /// [`LearnerError::Device`] if a CUDA device was asked for by name and cannot be used.
    pub fn resolve(self) -> Result<Self, LearnerError> {
        match self {
            Self::Cpu => Ok(Self::Cpu),
            Self::Cuda(index) => match probe::cuda(index) {
                Ok(()) => Ok(self),
                Err(reason) => Err(LearnerError::Device {
                    device: self.to_string(),
                    reason,
                }),
            },
            Self::Auto => Ok(match probe::cuda(0) {
                Ok(()) => Self::Cuda(0),
                Err(reason) => {
                    tracing::debug!(%reason, "training on the CPU");
                    Self::Cpu
                }
            }),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let index = match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => "0",
            other => other.strip_prefix("cuda:").unwrap_or_default(),
        };
        let index = index.parse().map(Self::Cuda);
        index.map_err(|_| format!("`{text}` is not a device: use auto, cpu, cuda or cuda:N"))
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

#[cfg(not(feature = "cuda"))]
mod probe {
    pub(super) fn cuda(_index: usize) -> Result<(), String> {
        Err("this build has no CUDA support (cargo feature `cuda`)".to_owned())
    }
}

#[cfg(feature = "cuda")]
mod probe {
    use std::path::Path;

    use burn::backend::Cuda;
    use burn::backend::cuda::CudaDevice;
    use burn::tensor::Tensor;

    /// What the driver's kernel module, WSL and Jetson boards put under `/dev`.
    const DEVICE_FILES: [&str; 3] = ["/dev/nvidiactl", "/dev/dxg", "/dev/nvmap"];

    /// Whether a small sum on the device comes back right.
    ///
    /// The CUDA libraries are loaded on first use and panic where they are absent or too old, and
    /// Burn offers no question to ask beforehand. The usual machine without a GPU is told by its
    /// device files, so that it sees no panic; what is left is caught.
    pub(super) fn cuda(index: usize) -> Result<(), String> {
        let device_file = DEVICE_FILES.iter().any(|file| Path::new(file).exists());
        if cfg!(target_os = "linux") && !device_file {
            return Err("there is no NVIDIA device under /dev".to_owned());
        }
        match std::panic::catch_unwind(move || sum_on(index)) {
            Ok(3.0) => Ok(()),
            Ok(sum) => Err(format!("the device adds 1 and 2 to {sum}")),
            Err(_) => Err("the CUDA driver or its libraries do not work".to_owned()),
        }
    }

    fn sum_on(index: usize) -> f32 {
        let device = CudaDevice::new(index);
        let numbers = Tensor::<Cuda, 1>::from_floats([1.0, 2.0], &device);
        numbers.sum().into_scalar()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, device) in [
            ("auto", Device::Auto),
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("cuda:1", Device::Cuda(1)),
        ] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda1", "CPU"] {
            assert!(
                text.parse::<Device>().unwrap_err().contains("cuda:N"),
                "{text}"
            );
        }
        let parsed: Device = serde_json::from_str(r#""cuda:2""#).unwrap();
        assert_eq!(parsed, Device::Cuda(2));
    }

    #[test]
    fn resolving_never_leaves_auto() {
        assert_ne!(Device::Auto.resolve().unwrap(), Device::Auto);
        assert_eq!(Device::Cpu.resolve().unwrap(), Device::Cpu);
        assert!(Device::Cuda(9_999).resolve().is_err());
    }
}
