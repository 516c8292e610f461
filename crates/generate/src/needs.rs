//! What memory a run takes, from headers and settings alone: before any weight is read.
//!
//! Counted is what the process itself needs on the CPU. Pages of mapped files are not: the system takes them back. Other
//! devices have memory of their own, which is not foretold here.

use rectiflow_mmdit::MmditConfig;
use rectiflow_nn::Precision;
use rectiflow_text::T5Config;
use rectiflow_vae::{Decoding, VaeConfig};
use rectiflow_weights::{Layout, Part, PartKind};

use crate::denoise::READY_BYTES_MAX;
use crate::files::ModelFiles;
use crate::plan::Plan;

/// The program, its threads and its tokenizers.
const PROCESS_BYTES: u64 = 32 << 20;
/// Freed memory that is kept for its next use: of the half gigabyte that may be, so much was at the most in drawings with
/// SD3-Medium at 512x512 and 768x768.
const KEPT_BYTES_MAX: u64 = 320 << 20;
/// What kernels and parts of a weight that is used once take.
const SCRATCH_BYTES: u64 = 16 << 20;
/// Texts that an encoder takes at once.
const TEXTS_AT_ONCE: usize = 8;

/// Bytes that the process holds at most in each phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// While texts are encoded.
    pub encode: u64,
    /// While the solver steps.
    pub denoise: u64,
    /// While a latent becomes a picture.
    pub decode: u64,
}

impl Needs {
    /// Of what encoding, a step and a decode hold, and of the transformer's weights.
    fn of(encode: u64, step: u64, decode: u64, weights: u64) -> Needs {
        let with_kept = |bytes: u64, kept: u64| PROCESS_BYTES + bytes + KEPT_BYTES_MAX.min(kept);
        Needs {
            encode: with_kept(encode + SCRATCH_BYTES, encode),
            denoise: with_kept(step, 2 * step) + weights,
            decode: with_kept(decode, 2 * decode) + weights,
        }
    }

    /// The most, and what the process does then.
    pub fn most(&self) -> (u64, &'static str) {
        let phases = [(self.encode, "encodes the text"), (self.denoise, "denoises"), (self.decode, "decodes")];
        phases.into_iter().max_by_key(|(bytes, _)| *bytes).expect("three phases")
    }
}

/// Where and how a plan is carried out, as far as memory goes.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// What products are computed in.
    pub precision: Precision,
    /// A tiny decoder takes the autoencoder's place.
    pub tiny_decoder: bool,
    /// Bytes of memory that are free, where that is known: by it a decode goes in strips.
    pub available: Option<u64>,
}

impl ModelFiles {
    /// What carrying out `plan` takes on the CPU.
    pub fn needs(&self, plan: &Plan, means: Means) -> Needs {
        let Means { precision, tiny_decoder, available } = means;
        let checkpoint = self.checkpoint();
        let texts = plan.prompts.len() + 1;
        let encode = self.encoders.t5.as_ref().map_or(0, |t5| t5_bytes(t5, texts, plan.t5_length));

        let rows = self.rows(plan) as u64;
        let [height, width] = plan.latent_size();
        let tokens = (height * width / self.transformer.patch.pow(2) + self.text_tokens(plan)) as u64;
        let step = self.transformer.step_bytes(rows * tokens, precision);
        let modulations = plan.schedule.len() as u64 * rows * self.transformer.modulation_bytes() as u64;
        let transformers = checkpoint.part(PartKind::Transformer).map(|part| (part, &self.transformer));
        let worse = self
            .worse
            .iter()
            .filter_map(|worse| Some((worse.checkpoint.part(PartKind::Transformer)?, &worse.transformer)));
        let weights: u64 =
            transformers.into_iter().chain(worse).map(|(part, config)| weight_bytes(part, config, precision)).sum();

        let vae = self.encoders.vae();
        let pixels = (plan.width * plan.height) as u64;
        let decode = if tiny_decoder {
            TINY_BYTES_A_PIXEL * pixels
        } else {
            let decoding = plan.tiling.decoding(vae, plan.latent_size(), available);
            decode_bytes(vae, plan.latent_size(), decoding, precision)
        };
        Needs::of(encode, step + modulations.min(READY_BYTES_MAX as u64), decode, weights)
    }

    /// Rows of the largest batch that the transformer is asked with.
    fn rows(&self, plan: &Plan) -> usize {
        let at_once = plan.batch_size.min(plan.pictures().len());
        at_once * if plan.is_guided() { 2 } else { 1 }
    }

    /// Of the context. Prompts that fill several chunks have more.
    fn text_tokens(&self, plan: &Plan) -> usize {
        self.encoders.clip_tokens() + plan.t5_length
    }
}

/// A tiny decoder's 64 channels of a picture in f32: what comes in, what goes out, and what stands between.
const TINY_BYTES_A_PIXEL: u64 = 3 * 64 * 4;

/// Of a transformer that draws: what products keep, and copies of weights that the file has in pieces.
fn weight_bytes(part: &Part, config: &MmditConfig, precision: Precision) -> u64 {
    // Blocks of few bits are widened in each product, but for int8, which has its own form.
    let plain = 1.0 - part.share_in_blocks();
    let packed = match precision {
        Precision::Int8 => config.packed_bytes(precision),
        _ => (config.packed_bytes(precision) as f64 * plain) as u64,
    };
    let dtypes = part.inventory().dtypes;
    let plain_ones = dtypes.keys().filter(|dtype| dtype.blocks().is_none());
    let bytes_of_8 = plain_ones.filter_map(|dtype| dtype.bytes_of(8)).max().unwrap_or(0);
    // Other precisions pack what they read, and keep nothing else.
    let is_copied = part.layout() == Layout::Diffusers && precision == Precision::F32;
    let copies = if is_copied { config.qkv_weights() * bytes_of_8 / 8 } else { 0 };
    packed + (copies as f64 * plain) as u64
}

/// Of an autoencoder that decodes, and its weights as products keep them.
fn decode_bytes(vae: &VaeConfig, latent: [usize; 2], decoding: Decoding, precision: Precision) -> u64 {
    let packed = if precision == Precision::F32 { 0 } else { 2 * vae.decode_products(latent).weights as u64 };
    // That is a bound; of it so much was found to be held.
    packed + vae.decode_bytes(latent, decoding) / 7 * 6
}

/// Of T5 while it reads as many texts as it takes at once.
fn t5_bytes(config: &T5Config, texts: usize, length: usize) -> u64 {
    let texts = texts.min(TEXTS_AT_ONCE) as u64;
    let (length, floats) = (length as u64, size_of::<f32>() as u64);
    let inner = (config.heads * config.head_width).max(config.width) as u64;
    let of_token = 2 * config.mlp as u64 + 6 * inner;
    // The positions' bias is of every pair of tokens.
    (texts * length * of_token + config.heads as u64 * length * length) * floats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_is_of_the_widest_phase() {
        let needs = Needs { encode: 3, denoise: 5, decode: 4 };
        assert_eq!(needs.most(), (5, "denoises"));
    }

    /// What the whole process held in guided drawings in bf16, from a folder in f16.
    #[test]
    fn sd3_medium_needs_what_was_measured() {
        let config = MmditConfig::of_depth(24);
        for (side, steps, denoise, decode) in [(512, 28, 3.3e9, 3.8e9), (768, 12, 3.4e9, 4.4e9)] {
            let (rows, tokens) = (2, (side / 16 * side / 16 + 77 + 256) as u64);
            let step =
                config.step_bytes(rows * tokens, Precision::Bf16) + steps * rows * config.modulation_bytes() as u64;
            let latent = [side / 8; 2];
            let decoding = decode_bytes(&VaeConfig::released(), latent, Decoding::Whole, Precision::Bf16);
            let needs = Needs::of(0, step, decoding, config.packed_bytes(Precision::Bf16));
            let is_near = |said: u64, found: f64| (said as f64 / found - 1.0).abs() < 0.06;
            assert!(is_near(needs.denoise, denoise) && is_near(needs.decode, decode), "{side}: {needs:?}");
        }
    }

    /// Two texts of 256 tokens held 130 MB in a run of the released sizes.
    #[test]
    fn t5_holds_what_was_measured() {
        let bytes = t5_bytes(&T5Config::xxl(), 2, 256) as f64 + SCRATCH_BYTES as f64;
        assert!((bytes / 129.8e6 - 1.0).abs() < 0.25, "{bytes}");
    }
}
