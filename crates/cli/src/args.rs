//! Arguments that several subcommands share.

use std::path::PathBuf;

use rectiflow_nn::{DeviceChoice, Precision};
use rectiflow_weights::ModelPaths;

/// Where the model's parts are.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// A diffusers folder, or a single .safetensors file in the official layout
    #[arg(long, short, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// CLIP-L, instead of the one inside the model
    #[arg(long, visible_alias = "clip_l", value_name = "FILE")]
    pub(crate) clip_l: Option<PathBuf>,
    /// CLIP-G, instead of the one inside the model
    #[arg(long, visible_alias = "clip_g", value_name = "FILE")]
    pub(crate) clip_g: Option<PathBuf>,
    /// T5-XXL, instead of the one inside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) t5xxl: Option<PathBuf>,
    /// Autoencoder, instead of the one inside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) vae: Option<PathBuf>,
    /// Transformer, instead of the one inside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) diffusion_model: Option<PathBuf>,
}

impl ModelArgs {
    pub(crate) fn paths(self) -> ModelPaths {
        ModelPaths {
            model: self.model,
            diffusion_model: self.diffusion_model,
            vae: self.vae,
            clip_l: self.clip_l,
            clip_g: self.clip_g,
            t5xxl: self.t5xxl,
        }
    }
}

/// How to compute.
#[derive(clap::Args)]
pub(crate) struct ComputeArgs {
    /// What products are computed in: f32 or bf16
    #[arg(long, default_value_t = Precision::F32)]
    pub(crate) precision: Precision,
    /// Where to compute: cpu, vulkan, metal or cuda (the last three when built in)
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    pub(crate) device: DeviceChoice,
}
