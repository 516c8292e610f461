//! A model's files before any weight is read: which parts there are, and whether they fit each other.

use std::path::Path;

use rectiflow_mmdit::MmditConfig;
use rectiflow_text::{ClipConfig, ClipKind, ClipSize, ConditioningWidths, T5_LENGTHS, T5Config, T5Tokenizer};
use rectiflow_vae::VaeConfig;
use rectiflow_weights::{Checkpoint, ModelPaths, Part, PartKind};

use crate::error::OpenError;
use crate::plan::{DRAWN, ModelFacts};

/// A model of which only headers and configurations have been read. [`Parts::load`](crate::Parts::load) does
/// the rest, after the settings were checked against [`ModelFiles::facts`].
pub struct ModelFiles {
    /// All but the transformer.
    pub(crate) encoders: EncoderFiles,
    pub(crate) transformer: MmditConfig,
    /// A transformer that draws worse, where pictures are to be led away from what it says.
    pub(crate) worse: Option<WorseFiles>,
}

/// The transformer of another checkpoint.
pub(crate) struct WorseFiles {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) transformer: MmditConfig,
    pub(crate) name: String,
}

/// A model's autoencoder and text encoders, of which only headers and configurations have been read: what a data set
/// is encoded with. There need be no transformer.
pub struct EncoderFiles {
    pub(crate) checkpoint: Checkpoint,
    /// File or folder name of the model, without its path.
    pub(crate) name: String,
    pub(crate) vae: VaeConfig,
    pub(crate) clip_l: Option<ClipConfig>,
    pub(crate) clip_g: Option<ClipConfig>,
    pub(crate) t5: Option<T5Config>,
}

impl EncoderFiles {
    /// Opens the files and finds every part's sizes.
    ///
    /// # Errors
    /// A file is missing or damaged, there is no autoencoder or no text encoder, or a part is of another kind.
    pub fn open(paths: &ModelPaths) -> Result<EncoderFiles, OpenError> {
        EncoderFiles::of(Checkpoint::open(paths)?, paths)
    }

    fn of(checkpoint: Checkpoint, paths: &ModelPaths) -> Result<EncoderFiles, OpenError> {
        let files = EncoderFiles {
            name: file_name(paths),
            vae: vae(&checkpoint)?,
            clip_l: clip(&checkpoint, PartKind::ClipL, ClipKind::L)?,
            clip_g: clip(&checkpoint, PartKind::ClipG, ClipKind::G)?,
            t5: t5(&checkpoint)?,
            checkpoint,
        };
        if files.clip_l.is_none() && files.clip_g.is_none() && files.t5.is_none() {
            return Err(OpenError::NoEncoder);
        }
        Ok(files)
    }

    /// Sizes of the autoencoder.
    pub fn vae(&self) -> &VaeConfig {
        &self.vae
    }

    /// What of a part is known beside its tensors and decides what they give, as text: sizes, activations, the scale of
    /// latents. Empty where it is no part of these, or not there.
    pub fn settings_of(&self, kind: PartKind) -> String {
        let text = |config: Option<&dyn std::fmt::Debug>| config.map_or_else(String::new, |known| format!("{known:?}"));
        match kind {
            PartKind::Vae => text(Some(&self.vae)),
            PartKind::ClipL => text(self.clip_l.as_ref().map(|config| config as _)),
            PartKind::ClipG => text(self.clip_g.as_ref().map(|config| config as _)),
            PartKind::T5 => text(self.t5.as_ref().map(|config| config as _)),
            PartKind::Transformer => String::new(),
        }
    }

    /// The widths of the context and of the pooled text that a new transformer for these encoders has.
    pub fn conditioning_widths(&self) -> (usize, usize) {
        let width = |clip: &Option<ClipConfig>| clip.as_ref().map_or(0, |clip| clip.width);
        let clips = width(&self.clip_l) + width(&self.clip_g);
        (clips.max(self.t5.as_ref().map_or(0, |t5| t5.width)), clips)
    }

    /// Tokens that the CLIPs make of a text, which stand first in a context.
    pub fn clip_tokens(&self) -> usize {
        let clip = self.clip_l.as_ref().or(self.clip_g.as_ref());
        clip.map_or(ClipSize::RELEASED, ClipConfig::size).length
    }

    /// The checkpoint that the parts are in.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

impl ModelFiles {
    /// Opens the files and finds every part's sizes.
    ///
    /// # Errors
    /// A file is missing or damaged, a part is missing or of another kind, or the parts do not fit each other.
    pub fn open(paths: &ModelPaths) -> Result<ModelFiles, OpenError> {
        let checkpoint = Checkpoint::open(paths)?;
        let transformer = transformer(&checkpoint)?;
        let encoders = EncoderFiles::of(checkpoint, paths)?;
        check_channels(&transformer, &encoders.vae)?;
        let EncoderFiles { clip_l, clip_g, t5, .. } = &encoders;
        check_widths(&transformer, (clip_l.as_ref(), clip_g.as_ref(), t5.as_ref()))?;
        Ok(ModelFiles { encoders, transformer, worse: None })
    }

    /// What autoguidance leads away from.
    pub fn worse_transformer(&self) -> Option<&Part> {
        self.worse.as_ref()?.checkpoint.part(PartKind::Transformer)
    }

    /// The same with the transformer of another checkpoint, a file or a folder, that autoguidance leads away from.
    ///
    /// # Errors
    /// There is none, or it does not take what this model's takes.
    pub fn with_worse(mut self, path: &Path) -> Result<ModelFiles, OpenError> {
        let paths = ModelPaths { model: Some(path.to_owned()), ..ModelPaths::default() };
        let checkpoint = Checkpoint::open(&paths)?;
        let worse = transformer(&checkpoint)?;
        if let Some(formulation) = formulation(&checkpoint).filter(|name| !name.starts_with(DRAWN)) {
            return Err(OpenError::WorseFormulation { file: path.to_owned(), formulation });
        }
        let takes = |of: &MmditConfig| [of.channels_in, of.channels_out, of.patch, of.context_width, of.pooled_width];
        if takes(&worse) != takes(&self.transformer) {
            let [worse, drawing] = [&worse, &self.transformer].map(takes);
            return Err(OpenError::Worse { file: path.to_owned(), worse, drawing });
        }
        self.worse = Some(WorseFiles { checkpoint, transformer: worse, name: file_name(&paths) });
        Ok(self)
    }

    /// The checkpoint that the parts are in.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.encoders.checkpoint
    }

    /// What pictures call the model: the name of its file or folder.
    pub fn name(&self) -> &str {
        &self.encoders.name
    }

    /// As diffusers reads it: latent pixels in the transformer's settings.
    fn side_px(&self) -> Option<usize> {
        let EncoderFiles { vae, checkpoint, .. } = &self.encoders;
        let side = checkpoint.part(PartKind::Transformer)?.config()?.get("sample_size")?.as_u64()?;
        usize::try_from(side).ok()?.checked_mul(vae.downsampling())
    }

    /// The released model it is, by its tensors, or a description.
    pub fn variant(&self) -> String {
        self.transformer.variant()
    }

    /// What settings must fit.
    pub fn facts(&self) -> ModelFacts {
        let EncoderFiles { vae, checkpoint, .. } = &self.encoders;
        let unit_px = vae.downsampling() * self.transformer.patch;
        ModelFacts {
            unit_px,
            side_px_max: self.transformer.grid * unit_px,
            worse_side_px_max: self.worse.as_ref().map(|worse| worse.transformer.grid * unit_px),
            side_px: self.side_px(),
            formulation: formulation(checkpoint),
            latent_channels: vae.latent_channels,
            latent_px: vae.downsampling(),
            depth: self.transformer.depth,
            qk_norm: self.transformer.qk_norm,
            shift: checkpoint.shift().map(|shift| shift as f32),
            // What is wrong with the file is said when the tokenizer is opened.
            t5_length: checkpoint
                .tokenizer_folder(PartKind::T5)
                .and_then(|folder| T5Tokenizer::stated_length(folder).ok().flatten())
                .filter(|length| T5_LENGTHS.contains(length)),
        }
    }
}

/// What a network was trained by, if its scheduler's settings say so.
fn formulation(checkpoint: &Checkpoint) -> Option<String> {
    checkpoint.scheduler_config()?.get(FORMULATION)?.as_str().map(str::to_owned)
}

/// Where a scheduler's settings name what a network was trained by, which diffusers has no name for.
pub const FORMULATION: &str = "rectiflow_formulation";

/// Latents must be the same for both.
pub(crate) fn check_channels(transformer: &MmditConfig, vae: &VaeConfig) -> Result<(), OpenError> {
    let (channels, latents) = (transformer.channels_in, vae.latent_channels);
    if channels != latents || transformer.channels_out != latents {
        return Err(OpenError::Channels { transformer: channels, vae: latents });
    }
    Ok(())
}

/// The encoders' outputs, joined, must be what the transformer takes.
pub(crate) fn check_widths(
    transformer: &MmditConfig,
    (clip_l, clip_g, t5): (Option<&ClipConfig>, Option<&ClipConfig>, Option<&T5Config>),
) -> Result<(), OpenError> {
    let (context, pooled) = (transformer.context_width, transformer.pooled_width);
    ConditioningWidths::find(clip_l, clip_g, t5, context, pooled, *T5_LENGTHS.start())?;
    Ok(())
}

pub(crate) fn transformer(checkpoint: &Checkpoint) -> Result<MmditConfig, OpenError> {
    let part = checkpoint.require(PartKind::Transformer)?;
    let failed = |source| OpenError::Transformer { file: part.path().to_owned(), source };
    let config = MmditConfig::find(&part.source()).map_err(failed)?;
    part.config().map_or(Ok(()), |settings| config.check_settings(settings)).map_err(failed)?;
    Ok(config)
}

pub(crate) fn vae(checkpoint: &Checkpoint) -> Result<VaeConfig, OpenError> {
    let part = checkpoint.require(PartKind::Vae)?;
    VaeConfig::find(&part.source(), part.config())
        .map_err(|source| OpenError::Vae { file: part.path().to_owned(), source })
}

pub(crate) fn clip(checkpoint: &Checkpoint, part: PartKind, kind: ClipKind) -> Result<Option<ClipConfig>, OpenError> {
    let Some(part) = checkpoint.part(part) else { return Ok(None) };
    ClipConfig::find(&part.source(), kind, part.config())
        .map(Some)
        .map_err(|source| OpenError::Encoder { file: part.path().to_owned(), source })
}

pub(crate) fn t5(checkpoint: &Checkpoint) -> Result<Option<T5Config>, OpenError> {
    let Some(part) = checkpoint.part(PartKind::T5) else { return Ok(None) };
    T5Config::find(&part.source(), part.config())
        .map(Some)
        .map_err(|source| OpenError::Encoder { file: part.path().to_owned(), source })
}

/// The name that pictures carry: of the model's file or folder, without the path to it.
fn file_name(paths: &ModelPaths) -> String {
    let path = paths.model.as_deref().or(paths.diffusion_model.as_deref()).unwrap_or(Path::new(""));
    if let Some(id) = hub_id(path) {
        return id;
    }
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolved.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// What a path into a hub's cache is the place of, `OWNER/NAME`, and what of it: the folder's own name is a commit, and the
/// file behind a name there is called by its hash.
fn hub_id(path: &Path) -> Option<String> {
    let names: Vec<_> = path.iter().filter_map(|name| name.to_str()).collect();
    let at = names.windows(2).position(|two| two[0].starts_with("models--") && two[1] == "snapshots")?;
    let id = names[at].strip_prefix("models--")?.replacen("--", "/", 1);
    // Behind the commit.
    let inside = names.iter().skip(at + 3).map(|name| format!("/{name}"));
    Some(id + &inside.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_in_a_hubs_cache_has_the_name_of_its_repository() {
        let id = |path: &str| hub_id(Path::new(path));
        let commit = "/c/hub/models--stabilityai--sd3.5--x/snapshots/0123";
        assert_eq!(id(commit).as_deref(), Some("stabilityai/sd3.5--x"));
        assert_eq!(id(&format!("{commit}/a/b.safetensors")).as_deref(), Some("stabilityai/sd3.5--x/a/b.safetensors"));
        assert_eq!(id("/models/sd3.safetensors"), None);
    }
}
