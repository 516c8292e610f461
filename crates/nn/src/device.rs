use burn::tensor::Device;

/// Where tensors live and operations run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor, on every machine.
    #[default]
    Cpu,
    /// A GPU through Vulkan (feature `vulkan`).
    Vulkan,
    /// An Apple GPU (feature `metal`).
    Metal,
    /// An NVIDIA GPU through CUDA (feature `cuda`).
    Cuda,
}

/// The device is not in this build.
#[derive(Debug, thiserror::Error)]
#[error("this build has no {device} support; build it with `cargo build --release --features {device}`")]
pub struct DeviceError {
    device: DeviceChoice,
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// The device's feature was not compiled in. Never falls back to another device.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            DeviceChoice::Cpu => Ok(Device::flex()),
            #[cfg(feature = "vulkan")]
            DeviceChoice::Vulkan => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "metal")]
            DeviceChoice::Metal => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda => Ok(Device::cuda(0)),
            #[cfg(not(all(feature = "vulkan", feature = "metal", feature = "cuda")))]
            device => Err(DeviceError { device }),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DeviceChoice::Cpu => "cpu",
            DeviceChoice::Vulkan => "vulkan",
            DeviceChoice::Metal => "metal",
            DeviceChoice::Cuda => "cuda",
        })
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(DeviceChoice::Cpu),
            "vulkan" => Ok(DeviceChoice::Vulkan),
            "metal" => Ok(DeviceChoice::Metal),
            "cuda" => Ok(DeviceChoice::Cuda),
            other => Err(format!("`{other}` is not a device; give cpu, vulkan, metal or cuda")),
        }
    }
}
