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
    /// The processor through LibTorch (feature `libtorch`): what [`DeviceChoice::LibTorchCuda`] computes, where there is
    /// no such GPU.
    LibTorch,
    /// An NVIDIA GPU through LibTorch (feature `libtorch`).
    LibTorchCuda,
}

/// The device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is not in this build.
    #[error("this build has no {0} support; build it with `cargo build --release --features {0}`")]
    NotBuilt(DeviceChoice),
    /// The processor lacks the instructions that were asked for.
    #[error(transparent)]
    Isa(#[from] rectiflow_kernels::IsaError),
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// The device's feature was not compiled in, or the environment asks for instructions that the processor lacks.
    /// Never falls back to another device.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            DeviceChoice::Cpu => {
                rectiflow_kernels::Isa::chosen()?;
                Ok(Device::flex())
            }
            #[cfg(feature = "vulkan")]
            DeviceChoice::Vulkan => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "metal")]
            DeviceChoice::Metal => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "cuda")]
            DeviceChoice::Cuda => Ok(Device::cuda(0)),
            #[cfg(feature = "libtorch")]
            DeviceChoice::LibTorch => Ok(Device::libtorch()),
            #[cfg(feature = "libtorch")]
            DeviceChoice::LibTorchCuda => Ok(Device::libtorch_cuda(0)),
            #[cfg(not(all(feature = "vulkan", feature = "metal", feature = "cuda", feature = "libtorch")))]
            device => Err(DeviceError::NotBuilt(device)),
        }
    }
}

impl DeviceChoice {
    /// The instructions that kernels use there, by the name that `RECTIFLOW_ISA` has for them; none where our kernels do
    /// not run. Results may differ in their last bits from one set to another.
    pub fn instructions(self) -> Option<String> {
        match self {
            DeviceChoice::Cpu => rectiflow_kernels::Isa::chosen().ok().map(|isa| isa.to_string()),
            _ => None,
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
            DeviceChoice::LibTorch => "libtorch",
            DeviceChoice::LibTorchCuda => "libtorch-cuda",
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
            "libtorch" => Ok(DeviceChoice::LibTorch),
            "libtorch-cuda" => Ok(DeviceChoice::LibTorchCuda),
            other => Err(format!("`{other}` is not a device; give cpu, vulkan, metal or cuda")),
        }
    }
}
