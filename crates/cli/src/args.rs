//! Arguments that several subcommands share.

use std::path::{Path, PathBuf};

use anyhow::bail;
use rectiflow_nn::{DeviceChoice, Precision};
use rectiflow_weights::ModelPaths;

/// Where the model's parts are.
#[derive(clap::Args, Clone)]
pub(crate) struct ModelArgs {
    /// A diffusers folder, or a single .safetensors file in the official layout [default: the small model that comes with
    /// the program, if no part is given either]
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
    /// Autoencoder (VAE), instead of the one inside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) vae: Option<PathBuf>,
    /// Transformer (MMDiT), instead of the one inside the model
    #[arg(long, value_name = "FILE")]
    pub(crate) diffusion_model: Option<PathBuf>,
}

impl ModelArgs {
    /// The paths as given; without any, the model that comes with the program.
    ///
    /// # Errors
    /// That is not there, or `--model` is the name of a repository instead of a path.
    pub(crate) fn paths(&self) -> anyhow::Result<ModelPaths> {
        let paths = ModelPaths {
            model: self.model.clone(),
            diffusion_model: self.diffusion_model.clone(),
            vae: self.vae.clone(),
            clip_l: self.clip_l.clone(),
            clip_g: self.clip_g.clone(),
            t5xxl: self.t5xxl.clone(),
        };
        if paths == ModelPaths::default() {
            return Ok(ModelPaths { model: Some(crate::embedded::model()?), ..paths });
        }
        if let Some(id) = self.model.as_deref().filter(|path| !path.exists()).and_then(repository) {
            bail!(
                "there is no file or folder `{id}`\n\
                 hint: Hugging Face ids are not downloaded yet: `hf download {id} --local-dir DIR`, then `--model DIR`"
            );
        }
        Ok(paths)
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

/// The path as a Hugging Face id, `owner/name`, if it has that form.
fn repository(path: &Path) -> Option<&str> {
    let id = path.to_str()?;
    let (owner, name) = id.split_once('/')?;
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    (is_word(owner) && is_word(name) && !name.ends_with(".safetensors")).then_some(id)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_and_a_name_are_a_repository_and_paths_are_not() {
        let id = "stabilityai/stable-diffusion-3.5-medium";
        assert_eq!(repository(Path::new(id)), Some(id));
        for path in ["a", "a/b/c", "./a", "../a", "/a", "a/", "a/b.safetensors", "a b/c"] {
            assert_eq!(repository(Path::new(path)), None, "{path}");
        }
    }
}
