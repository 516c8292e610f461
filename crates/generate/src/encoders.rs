//! A model's text encoders and autoencoder, for data sets: texts become features, pictures latents, and back.
//!
//! What this module does not do: store anything, or know a transformer.
//!
//! Shape letters: B pictures, Z latent channels, H and W pixels, h and w latent pixels.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::{Device, DeviceChoice, Precision, Tensor, is_finite};
use rectiflow_text::{ConditioningWidths, Cut, Pads, TextFeatures};
use rectiflow_vae::{Decoding, Vae};
use rectiflow_weights::PartKind;

use crate::compat::{Compat, Quantise};
use crate::error::{GenerateError, OpenError};
use crate::files::EncoderFiles;
use crate::image::Image;
use crate::parts::{Builder, Tokenizers};
use crate::prompt::{Encoder, EncoderTexts, TextEncoders};

/// Text encoders and autoencoder, ready for many texts and pictures.
pub struct Encoders {
    text: TextEncoders,
    vae: Vae,
    t5_length: usize,
    device: Device,
}

/// Texts are made tokens as diffusers makes them, which is what `generate` does where nothing else is asked for.
const COMPAT: Compat = Compat::Diffusers;

/// What became of a text.
pub struct EncodedText {
    /// What the encoders gave, at all places.
    pub features: TextFeatures,
    /// Real tokens of each encoder, in the order of [`TextFeatures`]; 0 where there is no such encoder.
    pub real: [usize; 3],
    /// What encoders did not see.
    pub cut: Vec<(Encoder, Cut)>,
}

impl EncodedText {
    /// The features with this behind the text's end.
    pub fn padded(self, pads: Pads) -> TextFeatures {
        match pads {
            Pads::AsEncoded => self.features,
            Pads::Zeros => self.features.without_padding(self.real),
        }
    }
}

impl Encoders {
    /// Builds the networks and checks that each tensor has its place and finite values. T5 gets texts of `t5_length`
    /// tokens. `widths` are those of the context and of the pooled text that the transformer takes
    /// ([`EncoderFiles::conditioning_widths`] for a new one).
    ///
    /// # Errors
    /// The device is not in this build, a tokenizer is broken, tensors do not fit, or the encoders do not fit the
    /// transformer. Nothing is loaded.
    pub fn load(
        files: &EncoderFiles,
        on: DeviceChoice,
        precision: Precision,
        t5_length: usize,
        widths: (usize, usize),
    ) -> Result<Encoders, OpenError> {
        let clips = [&files.clip_l, &files.clip_g].map(Option::as_ref);
        ConditioningWidths::find(clips[0], clips[1], files.t5.as_ref(), widths.0, widths.1, t5_length)?;
        let device = on.open()?;
        let tokenizers = Tokenizers::open(files, COMPAT)?;
        let checkpoint = &files.checkpoint;
        let mut builder = Builder { checkpoint, device: &device, precision, many_texts: true, reports: Vec::new() };
        let vae = builder.build(PartKind::Vae, |params| Vae::new(&files.vae, params))?;
        let text = builder.texts(files, tokenizers, widths)?;
        Ok(Encoders { text, vae, t5_length, device })
    }

    /// Where they run.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// How features of a text are joined for a transformer.
    ///
    /// # Errors
    /// The encoders do not fit each other.
    pub fn widths(&self) -> Result<ConditioningWidths, GenerateError> {
        Ok(self.text.widths(COMPAT, self.t5_length)?)
    }

    /// Encodes texts.
    ///
    /// # Errors
    /// A tokenizer's table does not cover a text, or an encoder's output is not finite.
    pub fn texts(&self, texts: &[&str]) -> Result<Vec<EncodedText>, GenerateError> {
        let tokens = texts.iter().map(|text| self.text.tokenize(&EncoderTexts::plain(text), COMPAT, self.t5_length));
        let tokens = tokens.collect::<Result<Vec<_>, GenerateError>>()?;
        let features = self.text.features(&tokens, COMPAT)?;
        let encoded = features.into_iter().zip(tokens).map(|(features, tokens)| {
            let all = [(Encoder::ClipL, tokens.clip_l), (Encoder::ClipG, tokens.clip_g), (Encoder::T5, tokens.t5)];
            let real = [0, 1, 2].map(|index| all[index].1.as_ref().map_or(0, |tokens| tokens.real));
            let cut = all.into_iter().filter_map(|(encoder, tokens)| Some((encoder, tokens?.cut?)));
            EncodedText { features, real, cut: cut.collect() }
        });
        Ok(encoded.collect())
    }

    /// Latents `[B, Z, H/8, W/8]` as a transformer is trained on, of pictures `[B, 3, H, W]` in -1..1: drawn from the
    /// posterior with this standard normal `noise` of the latents' shape, or its mean without.
    ///
    /// # Errors
    /// They are not finite.
    pub fn latents(&self, pictures_B3HW: Tensor<4>, noise_BZhw: Option<Tensor<4>>) -> Result<Tensor<4>, GenerateError> {
        let posterior = self.vae.encode(pictures_B3HW);
        let raw = match noise_BZhw {
            Some(noise) => posterior.sample(noise),
            None => posterior.mean,
        };
        let latents = self.vae.normalise(raw);
        if is_finite(&latents) { Ok(latents) } else { Err(GenerateError::NotFinite { stage: "a latent" }) }
    }

    /// Pictures of latents `[B, Z, h, w]`.
    ///
    /// # Errors
    /// They are not finite.
    pub fn pictures(&self, latents_BZhw: &Tensor<4>) -> Result<Vec<Image>, GenerateError> {
        let count = latents_BZhw.dims()[0];
        let pictures = latents_BZhw.clone().chunk(count, 0).into_iter().map(|latent| {
            let decoded = self.vae.decode_as(latent, Decoding::Whole);
            if !is_finite(&decoded) {
                return Err(GenerateError::NotFinite { stage: "the decoded picture" });
            }
            Ok(Image::from_decoded(&decoded, Quantise::Round))
        });
        pictures.collect()
    }
}
