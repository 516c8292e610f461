//! Opening a model: its files become networks. Only headers are read until a network is used.

use std::path::Path;

use rectiflow_mmdit::{Mmdit, MmditConfig};
use rectiflow_nn::{Device, Params, Precision};
use rectiflow_text::{ClipConfig, ClipEncoder, ClipKind, ClipTokenizer, T5_LENGTHS, T5Config, T5Encoder, T5Tokenizer};
use rectiflow_vae::{Vae, VaeConfig};
use rectiflow_weights::{Checkpoint, LoadReport, ModelPaths, Part, PartKind};

use crate::compat::Compat;
use crate::error::OpenError;
use crate::plan::ModelFacts;
use crate::prompt::{Clip, T5, TextEncoders};
use crate::settings::ModelName;

/// A model, ready to draw.
pub struct Parts {
    /// Reads prompts.
    pub text: TextEncoders,
    /// Gives velocities.
    pub transformer: Mmdit,
    /// Makes latents pictures, and pictures latents.
    pub vae: Vae,
    /// Where all of it lives.
    pub device: Device,
    /// What settings must fit.
    pub facts: ModelFacts,
    /// What pictures say of the model.
    pub name: ModelName,
    /// What was found in each file.
    pub reports: Vec<LoadReport>,
}

impl Parts {
    /// Opens the files, finds every part and checks that each tensor has its place and finite values.
    ///
    /// # Errors
    /// A file is missing or damaged, or the parts do not fit their networks or each other. Nothing is loaded.
    pub fn open(paths: &ModelPaths, device: &Device, precision: Precision, compat: Compat) -> Result<Parts, OpenError> {
        let checkpoint = Checkpoint::open(paths)?;
        let mut builder = Builder { checkpoint: &checkpoint, device, precision, compat, reports: Vec::new() };
        let transformer = builder.transformer()?;
        let vae = builder.vae()?;
        let config = transformer.config();
        let (latents_in, latents_out) = (config.channels_in, vae.config().latent_channels);
        if latents_in != latents_out || config.channels_out != latents_out {
            return Err(OpenError::Channels { transformer: latents_in, vae: latents_out });
        }
        let text = TextEncoders {
            clip_l: builder.clip(PartKind::ClipL, ClipKind::L)?,
            clip_g: builder.clip(PartKind::ClipG, ClipKind::G)?,
            t5: builder.t5()?,
            context_width: config.context_width,
            pooled_width: config.pooled_width,
            device: device.clone(),
        };
        if text.present().is_empty() {
            return Err(OpenError::NoEncoder);
        }
        text.widths(compat, *T5_LENGTHS.start())?;
        let reports = builder.reports;
        Ok(Parts {
            facts: facts(config, vae.config(), &checkpoint),
            name: ModelName {
                file: file_name(paths),
                variant: config.variant(),
                precision: precision.to_string(),
                encoders: text.present().iter().map(ToString::to_string).collect(),
            },
            text,
            transformer,
            vae,
            device: device.clone(),
            reports,
        })
    }
}

fn facts(transformer: &MmditConfig, vae: &VaeConfig, checkpoint: &Checkpoint) -> ModelFacts {
    let unit_px = vae.downsampling() * transformer.patch;
    ModelFacts {
        unit_px,
        side_px_max: transformer.grid * unit_px,
        depth: transformer.depth,
        qk_norm: transformer.qk_norm,
        shift: checkpoint.shift().map(|shift| shift as f32),
    }
}

/// The name that pictures carry: of the model's file or folder, without the path to it.
fn file_name(paths: &ModelPaths) -> String {
    let path = paths.model.as_deref().or(paths.diffusion_model.as_deref()).unwrap_or(Path::new(""));
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolved.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Builds networks from a checkpoint, each checked in whole before it is handed on.
struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    precision: Precision,
    compat: Compat,
    reports: Vec<LoadReport>,
}

impl Builder<'_> {
    fn transformer(&mut self) -> Result<Mmdit, OpenError> {
        let part = self.checkpoint.require(PartKind::Transformer)?;
        let wrong = |source| OpenError::Transformer { file: part.path().to_owned(), source };
        let config = MmditConfig::find(&part.source()).map_err(wrong)?;
        self.build(part, |params| Mmdit::new(&config, params))
    }

    fn vae(&mut self) -> Result<Vae, OpenError> {
        let part = self.checkpoint.require(PartKind::Vae)?;
        let wrong = |source| OpenError::Vae { file: part.path().to_owned(), source };
        let config = VaeConfig::find(&part.source(), part.config()).map_err(wrong)?;
        self.build(part, |params| Vae::new(&config, params))
    }

    fn clip(&mut self, part: PartKind, kind: ClipKind) -> Result<Option<Clip>, OpenError> {
        let Some(part) = self.checkpoint.part(part) else { return Ok(None) };
        let wrong = |source| OpenError::Encoder { file: part.path().to_owned(), source };
        let config = ClipConfig::find(&part.source(), kind, part.config()).map_err(wrong)?;
        let tokenizer = match self.checkpoint.tokenizer_folder(part.kind()) {
            Some(folder) => ClipTokenizer::from_folder(folder, kind)?,
            None => self.compat.clip_tokenizer(kind),
        };
        tokenizer.check_vectors(config.vocabulary)?;
        let encoder = self.build(part, |params| ClipEncoder::new(params, &config))?;
        Ok(Some(Clip { tokenizer, encoder }))
    }

    fn t5(&mut self) -> Result<Option<T5>, OpenError> {
        let Some(part) = self.checkpoint.part(PartKind::T5) else { return Ok(None) };
        let wrong = |source| OpenError::Encoder { file: part.path().to_owned(), source };
        let config = T5Config::find(&part.source(), part.config()).map_err(wrong)?;
        let tokenizer = match self.checkpoint.tokenizer_folder(PartKind::T5) {
            Some(folder) => T5Tokenizer::from_folder(folder)?,
            None => T5Tokenizer::embedded(),
        };
        tokenizer.check_vectors(config.vocabulary)?;
        let encoder = self.build(part, |params| T5Encoder::new(params, &config))?;
        Ok(Some(T5 { tokenizer, encoder }))
    }

    fn build<M>(&mut self, part: &Part, make: impl FnOnce(Params<'_>) -> M) -> Result<M, OpenError> {
        let mut source = part.source();
        let model = make(Params::new(&mut source, self.device, self.precision));
        self.reports.push(source.finish()?);
        Ok(model)
    }
}
