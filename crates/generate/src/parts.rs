//! Loading a model: its files become networks. Values are checked here and kept when a network is used.

use std::collections::BTreeMap;
use std::sync::Arc;

use rectiflow_mmdit::Mmdit;
use rectiflow_nn::{Device, DeviceChoice, Init, ParamSource, Params, Precision, Read};
use rectiflow_text::{ClipConfig, ClipEncoder, ClipKind, ClipTokenizer, Origin, T5Encoder, T5Tokenizer};
use rectiflow_vae::{TinyConfig, TinyDecoder, Vae};
use rectiflow_vision::NamedTensors;
use rectiflow_weights::{Checkpoint, LoadReport, PartKind};

use crate::compat::Compat;
use crate::error::{OpenError, TinyDecoderError};
use crate::files::{EncoderFiles, ModelFiles};
use crate::notes::{Note, notes};
use crate::prompt::{Clip, Encoder, T5, TextEncoders};
use crate::settings::ModelName;

/// A model, ready to draw. A clone shares its weights, also those that kernels ordered for themselves.
#[derive(Clone)]
pub struct Parts {
    /// Reads prompts.
    pub text: TextEncoders,
    /// Gives velocities.
    pub transformer: Mmdit,
    /// Draws worse, for autoguidance to lead away from.
    pub worse: Option<Mmdit>,
    /// Makes latents pictures, and pictures latents.
    pub vae: Vae,
    /// Decodes instead of it, sooner and less exactly.
    pub tiny: Option<TinyDecoder>,
    /// Where all of it lives.
    pub device: Device,
    /// What pictures say of the model.
    pub name: ModelName,
    /// What was found in each file.
    pub reports: Vec<LoadReport>,
    /// What in the files is not used, or stands in for something else.
    pub notes: Vec<Note>,
}

impl Parts {
    /// Builds the networks and checks that each tensor has its place and finite values: reads all of the files.
    ///
    /// # Errors
    /// The device is not in this build, a tokenizer is broken, or tensors do not fit. Nothing is loaded.
    pub fn load(
        files: &ModelFiles,
        on: DeviceChoice,
        precision: Precision,
        compat: Compat,
    ) -> Result<Parts, OpenError> {
        if precision == Precision::Int8 && on != DeviceChoice::Cpu {
            return Err(OpenError::Int8Elsewhere { device: on });
        }
        let device = on.open()?;
        // Tokenizers first: they are small.
        let encoders = &files.encoders;
        let tokenizers = Tokenizers::open(encoders, compat)?;
        let notes = notes(files, &tokenizers.origins());
        let mut builder = Builder {
            checkpoint: &encoders.checkpoint,
            device: &device,
            precision,
            many_texts: false,
            reports: Vec::new(),
        };
        let transformer = builder.build(PartKind::Transformer, |params| Mmdit::new(&files.transformer, params))?;
        let mut reports = Vec::new();
        let worse = files.worse.as_ref().map(|worse| {
            let checkpoint = &worse.checkpoint;
            let mut builder =
                Builder { checkpoint, device: &device, precision, many_texts: false, reports: Vec::new() };
            let built = builder.build(PartKind::Transformer, |params| Mmdit::new(&worse.transformer, params));
            reports = builder.reports;
            built
        });
        let worse = worse.transpose()?;
        let vae = builder.build(PartKind::Vae, |params| Vae::new(&encoders.vae, params))?;
        let widths = (files.transformer.context_width, files.transformer.pooled_width);
        let text = builder.texts(encoders, tokenizers, widths)?;
        reports.extend(builder.reports);
        Ok(Parts {
            name: ModelName {
                file: encoders.name.clone(),
                variant: files.variant(),
                precision: precision.to_string(),
                device: on.to_string(),
                encoders: text.present().iter().map(ToString::to_string).collect(),
                decoder: "autoencoder".to_owned(),
                worse: files.worse.as_ref().map(|worse| worse.name.clone()),
                instructions: on.instructions(),
                hashes: BTreeMap::new(),
            },
            text,
            transformer,
            worse,
            vae,
            tiny: None,
            device,
            reports,
            notes,
        })
    }

    /// The same, whose pictures a tiny decoder makes. `bytes` are of TAESD3's file, by its own names or by diffusers'.
    ///
    /// # Errors
    /// They are none of a decoder of such latents.
    pub fn with_tiny_decoder(mut self, bytes: &[u8], precision: Precision) -> Result<Parts, TinyDecoderError> {
        let tensors = NamedTensors::of(bytes)?;
        let mut source = TinySource { is_diffusers: tensors.shape(TinySource::OF_DIFFUSERS).is_some(), tensors };
        let config = TinyConfig::find(&source)?;
        let latents = self.vae.config().latent_channels;
        if config.latent_channels != latents {
            return Err(TinyDecoderError::Channels(config.latent_channels, latents));
        }
        let tiny = TinyDecoder::new(config, Params::new(&mut source, &self.device, of_pictures(precision)));
        source.tensors.finish()?;
        self.tiny = Some(tiny);
        self.name.decoder = "tiny".to_owned();
        Ok(self)
    }
}

/// A tiny decoder's tensors by their own names.
struct TinySource<'a> {
    tensors: NamedTensors<'a>,
    is_diffusers: bool,
}

impl TinySource<'_> {
    /// The first of a diffusers file.
    const OF_DIFFUSERS: &'static str = "decoder.layers.0.weight";

    /// What the file calls a tensor. diffusers does not count the bound of the latents as a layer.
    fn in_file(&self, name: &str) -> String {
        let renamed = || {
            let (place, rest) = name.split_once('.')?;
            Some(format!("decoder.layers.{}.{rest}", place.parse::<usize>().ok()?.checked_sub(1)?))
        };
        if self.is_diffusers { renamed().unwrap_or_else(|| name.to_owned()) } else { name.to_owned() }
    }
}

impl ParamSource for TinySource<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.shape(&self.in_file(name))
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        self.tensors.claim(&self.in_file(name), shape, init)
    }
}

/// What cuts text for the encoders that are there.
pub(crate) struct Tokenizers {
    clip_l: Option<ClipTokenizer>,
    clip_g: Option<ClipTokenizer>,
    t5: Option<T5Tokenizer>,
}

impl Tokenizers {
    pub(crate) fn open(files: &EncoderFiles, compat: Compat) -> Result<Tokenizers, OpenError> {
        let folder = |part| files.checkpoint.tokenizer_folder(part);
        let clip = |part, kind, config: &Option<ClipConfig>| {
            let Some(config) = config else { return Ok(None) };
            Ok::<_, OpenError>(Some(compat.clip_tokenizer(folder(part), kind, config)?))
        };
        let t5 = match &files.t5 {
            None => None,
            Some(config) => {
                let own = folder(PartKind::T5).map(T5Tokenizer::from_folder).transpose()?;
                let tokenizer = own.unwrap_or_else(|| T5Tokenizer::built_in(config.vocabulary));
                tokenizer.check_vectors(config.vocabulary)?;
                Some(tokenizer)
            }
        };
        Ok(Tokenizers {
            clip_l: clip(PartKind::ClipL, ClipKind::L, &files.clip_l)?,
            clip_g: clip(PartKind::ClipG, ClipKind::G, &files.clip_g)?,
            t5,
        })
    }

    fn origins(&self) -> Vec<(Encoder, &Origin)> {
        let clips = [(Encoder::ClipL, &self.clip_l), (Encoder::ClipG, &self.clip_g)];
        let clips = clips.into_iter().filter_map(|(encoder, clip)| Some((encoder, clip.as_ref()?.origin())));
        clips.chain(self.t5.iter().map(|t5| (Encoder::T5, t5.origin()))).collect()
    }
}

/// Builds networks from a checkpoint, each checked in whole before it is handed on.
pub(crate) struct Builder<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) device: &'a Device,
    pub(crate) precision: Precision,
    /// Texts come again and again, not once.
    pub(crate) many_texts: bool,
    pub(crate) reports: Vec<LoadReport>,
}

impl Builder<'_> {
    /// The text encoders, for a transformer that takes these widths of context and pooled text.
    pub(crate) fn texts(
        &mut self,
        files: &EncoderFiles,
        tokenizers: Tokenizers,
        (context_width, pooled_width): (usize, usize),
    ) -> Result<TextEncoders, OpenError> {
        Ok(TextEncoders {
            clip_l: self.clip(PartKind::ClipL, files.clip_l.as_ref(), tokenizers.clip_l)?,
            clip_g: self.clip(PartKind::ClipG, files.clip_g.as_ref(), tokenizers.clip_g)?,
            t5: self.t5(files, tokenizers.t5)?,
            context_width,
            pooled_width,
            device: self.device.clone(),
        })
    }

    fn clip(
        &mut self,
        part: PartKind,
        config: Option<&ClipConfig>,
        tokenizer: Option<ClipTokenizer>,
    ) -> Result<Option<Clip>, OpenError> {
        let (Some(config), Some(tokenizer)) = (config, tokenizer) else { return Ok(None) };
        let encoder = self.build_encoder(part, |params| ClipEncoder::new(params, config))?;
        Ok(Some(Clip { tokenizer: Arc::new(tokenizer), encoder }))
    }

    fn t5(&mut self, files: &EncoderFiles, tokenizer: Option<T5Tokenizer>) -> Result<Option<T5>, OpenError> {
        let (Some(config), Some(tokenizer)) = (&files.t5, tokenizer) else { return Ok(None) };
        let encoder = self.build_encoder(PartKind::T5, |params| T5Encoder::new(params, config))?;
        Ok(Some(T5 { tokenizer: Arc::new(tokenizer), encoder }))
    }

    fn build_encoder<M>(&mut self, part: PartKind, make: impl FnOnce(Params<'_>) -> M) -> Result<M, OpenError> {
        let many_texts = self.many_texts;
        self.build(part, |params| {
            let params = params.used_once();
            make(if many_texts { params.keeping_reads() } else { params })
        })
    }

    pub(crate) fn build<M>(&mut self, part: PartKind, make: impl FnOnce(Params<'_>) -> M) -> Result<M, OpenError> {
        let mut source = self.checkpoint.require(part)?.source();
        let model = make(Params::new(&mut source, self.device, self.precision_of(part)));
        self.reports.push(source.finish()?);
        Ok(model)
    }

    fn precision_of(&self, part: PartKind) -> Precision {
        if part == PartKind::Vae { of_pictures(self.precision) } else { self.precision }
    }
}

/// What pictures are made in: linear layers take no time there, and what int8 loses in them would be seen.
fn of_pictures(precision: Precision) -> Precision {
    match precision {
        Precision::Int8 => Precision::Bf16,
        other => other,
    }
}
