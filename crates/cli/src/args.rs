//! Arguments that several subcommands share.

use std::path::{Path, PathBuf};

use rectiflow_nn::{DeviceChoice, Precision};
use rectiflow_weights::{ModelPaths, PartKind};

use crate::hub;

/// Where the model's parts are.
#[derive(clap::Args, Clone)]
pub(crate) struct ModelArgs {
    /// A diffusers folder, or a single .safetensors or .gguf file in the official layout; or an id on Hugging Face, OWNER/NAME,
    /// with @REVISION and /FILE where needed, which is downloaded [default: the small model that comes with the program, if no
    /// part is given either]
    #[arg(long, short, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// CLIP-L, instead of the one inside the model; for this and every part also OWNER/NAME/FILE on Hugging Face
    #[arg(long, visible_alias = "clip_l", value_name = "FILE")]
    pub(crate) clip_l: Option<PathBuf>,
    /// CLIP-G, instead of the one inside the model
    #[arg(long, visible_alias = "clip_g", value_name = "FILE")]
    pub(crate) clip_g: Option<PathBuf>,
    /// T5-XXL, instead of the one inside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) t5xxl: Option<PathBuf>,
    /// Autoencoder (VAE), instead of the one inside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) vae: Option<PathBuf>,
    /// Transformer (MMDiT), instead of the one inside the model
    #[arg(long, visible_alias = "transformer", value_name = "FILE")]
    pub(crate) diffusion_model: Option<PathBuf>,
}

impl ModelArgs {
    /// The paths as given, ids of a hub as the paths of what they name, downloaded if need be; without any, the model that
    /// comes with the program.
    ///
    /// # Errors
    /// That is not there, or what an id names cannot be had.
    pub(crate) fn paths(&self) -> anyhow::Result<ModelPaths> {
        let part = |given: &Option<PathBuf>| given.as_deref().map(hub::part).transpose();
        let parts = ModelPaths {
            model: None,
            diffusion_model: part(&self.diffusion_model)?,
            vae: part(&self.vae)?,
            clip_l: part(&self.clip_l)?,
            clip_g: part(&self.clip_g)?,
            t5xxl: part(&self.t5xxl)?,
        };
        let model = match self.model.as_deref() {
            // Parts that were given take the place of the model's, which are many gigabytes.
            Some(model) => Some(hub::model(model, &self.other_parts())?),
            None if parts == ModelPaths::default() => Some(crate::embedded::model()?),
            None => None,
        };
        Ok(ModelPaths { model, ..parts })
    }

    /// The parts that no option of their own gives.
    fn other_parts(&self) -> Vec<PartKind> {
        let is_given = |kind: &PartKind| self.given().any(|(option, _)| option == kind.flag());
        PartKind::ALL.into_iter().filter(|kind| !is_given(kind)).collect()
    }

    /// Each path that was given, with its option.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let all = [
            ("--model", &self.model),
            ("--clip-l", &self.clip_l),
            ("--clip-g", &self.clip_g),
            ("--t5xxl", &self.t5xxl),
            ("--vae", &self.vae),
            ("--diffusion-model", &self.diffusion_model),
        ];
        all.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)))
    }
}

/// How to compute.
#[derive(clap::Args, Clone)]
pub(crate) struct ComputeArgs {
    /// What products are computed in: f32, bf16 or int8 (linear layers; the rest in bf16). On a CPU with AVX-512 BF16 or
    /// AMX, bf16 is several times faster than f32
    #[arg(long, default_value_t = Precision::F32)]
    pub(crate) precision: Precision,
    /// Where to compute: cpu; or vulkan, metal or cuda where built in, of which none has been tried yet
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    pub(crate) device: DeviceChoice,
}
