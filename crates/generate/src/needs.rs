//! What memory a run takes, from headers and settings alone: before any weight is read.
//!
//! Counted is what the process itself needs on the CPU. Pages of mapped files are not: the system takes them back. Other
//! devices have memory of their own, which is not foretold here.

use rectiflow_mmdit::{MmditConfig, packed_bytes};
use rectiflow_nn::{ParamSource, Precision, StoredMatrix};
use rectiflow_text::T5Config;
use rectiflow_vae::{Decoding, VaeConfig};
use rectiflow_weights::{Dtype, Part, PartKind};

use crate::denoise::READY_BYTES_MAX;
use crate::files::ModelFiles;
use crate::guidance::Hindrance;
use crate::plan::Plan;
use crate::prompt::TEXTS_AT_ONCE;

/// The program, its threads and its tokenizers.
const PROCESS_BYTES: u64 = 32 << 20;
/// Freed memory that is kept for its next use: of the half gigabyte that may be, so much was at the most in drawings with
/// SD3-Medium at 512x512 and 768x768.
const KEPT_BYTES_MAX: u64 = 320 << 20;
/// What kernels and parts of a weight that is used once take.
const SCRATCH_BYTES: u64 = 16 << 20;

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
    /// Of what encoding, a step and a decode hold, and of weights and what else steps and decodes stand beside.
    fn of(encode: u64, step: u64, decode: u64, weights: u64) -> Needs {
        let all = |bytes: u64, kept: u64, weights: u64| {
            let kept = KEPT_BYTES_MAX.min(kept);
            bytes.saturating_add(weights).saturating_add(PROCESS_BYTES + kept)
        };
        Needs {
            encode: all(encode + SCRATCH_BYTES, encode, 0),
            denoise: all(step, step.saturating_mul(2), weights),
            decode: all(decode, decode / 2, weights),
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
        let texts = plan.prompts.len() + 1;
        let encoding = self.encoders.t5.as_ref().map_or(0, |t5| t5_bytes(t5, texts, plan.t5_length));
        // What texts became is there until the last picture is drawn.
        let told = product(&[texts, self.text_tokens(plan), self.transformer.context_width, FLOAT]);
        let weights = self.transformers().map(|(part, config)| weight_bytes(part, config, precision)).sum::<u64>();
        let beside = weights.saturating_add(told);

        let vae = self.encoders.vae();
        let decoding = if tiny_decoder {
            product(&[TINY_BYTES_A_PIXEL, plan.width, plan.height])
        } else {
            // The rest is taken when it is decided how a picture is decoded.
            let left = available.map(|free| free.saturating_sub(PROCESS_BYTES).saturating_sub(beside));
            let decoding = plan.tiling.decoding(vae, plan.latent_size(), left);
            decode_bytes(vae, plan.latent_size(), decoding, precision)
        };
        Needs::of(encoding, self.step_bytes(plan, precision), decoding, beside)
    }

    /// The transformer, and that which autoguidance leads away from.
    fn transformers(&self) -> impl Iterator<Item = (&Part, &MmditConfig)> {
        let drawing = self.checkpoint().part(PartKind::Transformer).map(|part| (part, &self.transformer));
        let worse = self
            .worse
            .iter()
            .filter_map(|worse| Some((worse.checkpoint.part(PartKind::Transformer)?, &worse.transformer)));
        drawing.into_iter().chain(worse)
    }

    /// What a step holds beside weights: of the batches that it asks the largest, and of each what it is told.
    fn step_bytes(&self, plan: &Plan, precision: Precision) -> u64 {
        let at_once = plan.batch_size.min(plan.pictures().len());
        let rows = at_once.saturating_mul(if plan.is_guided() { 2 } else { 1 });
        let [height, width] = plan.latent_size();
        let (image, text) = (height * width / self.transformer.patch.pow(2), self.text_tokens(plan));
        let of = |config: &MmditConfig, rows: usize| {
            let modulations = product(&[plan.schedule.len(), rows, config.modulation_bytes()]);
            let ready = modulations.min((READY_BYTES_MAX as u64).max(product(&[rows, config.modulation_bytes()])));
            let told = product(&[rows, text, config.context_width + config.width, FLOAT]);
            // What the first block added, and what the later ones did in two steps.
            let kept = if plan.reuse.is_some() { product(&[3 * FLOAT, rows, image, config.width]) } else { 0 };
            ready.saturating_add(told).saturating_add(kept)
        };
        let hindered = plan.hindered.iter().map(|hindered| match (&self.worse, hindered.how) {
            (Some(worse), Hindrance::WorseModel) => of(&worse.transformer, at_once),
            _ => of(&self.transformer, at_once),
        });
        let beside = hindered.fold(of(&self.transformer, rows), u64::saturating_add);
        let tokens = product(&[rows, image + text]);
        let widest = self.transformers().map(|(_, config)| config.step_bytes(tokens, precision)).max();
        widest.unwrap_or(0).saturating_add(beside)
    }

    /// Of the context. Prompts that fill several chunks have more.
    fn text_tokens(&self, plan: &Plan) -> usize {
        self.encoders.clip_tokens() + plan.t5_length
    }
}

const FLOAT: usize = size_of::<f32>();
/// A tiny decoder's 64 channels of a picture: what comes in, what goes out, and what stands between.
const TINY_BYTES_A_PIXEL: usize = 3 * 64 * FLOAT;

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, factor| product.saturating_mul(*factor as u64))
}

/// Of a transformer that draws: what products keep of each matrix, and copies of those that are not in the file as they are
/// multiplied.
fn weight_bytes(part: &Part, config: &MmditConfig, precision: Precision) -> u64 {
    // fp8 is widened to 16 bits.
    let dtypes = part.inventory().dtypes;
    let copied = if dtypes.contains_key(&Dtype::F32) { FLOAT } else { size_of::<u16>() };
    let source = part.source();
    let of = |(name, shape): (String, [usize; 2])| match (source.stored(&name, shape), precision) {
        // Widened in each product, but int8 has its own form.
        (Some(StoredMatrix::Blocks(_)), Precision::F32 | Precision::Bf16) => 0,
        (Some(StoredMatrix::Reread(_)), Precision::F32) => product(&[shape[0], shape[1], copied]),
        _ => packed_bytes(shape, precision),
    };
    config.step_matrices().map(of).sum()
}

/// Of an autoencoder that decodes, and its weights as products keep them.
fn decode_bytes(vae: &VaeConfig, latent: [usize; 2], decoding: Decoding, precision: Precision) -> u64 {
    let packed = if precision == Precision::F32 { 0 } else { 2 * vae.decode_products(latent).weights as u64 };
    // That is a bound; of it so much was found to be held.
    packed + vae.decode_bytes(latent, decoding) / 7 * 6
}

/// Of T5 while it reads as many texts as it takes at once.
fn t5_bytes(config: &T5Config, texts: usize, length: usize) -> u64 {
    let inner = (config.heads * config.head_width).max(config.width);
    let of_tokens = product(&[texts.min(TEXTS_AT_ONCE), length, 2 * config.mlp + 6 * inner, FLOAT]);
    // The positions' bias is of every pair of tokens.
    of_tokens + product(&[config.heads, length, length, FLOAT])
}

#[cfg(test)]
mod tests {
    use rectiflow_sample::Window;
    use rectiflow_weights::ModelPaths;

    use super::*;
    use crate::{GuidanceRequest, Hindered, Request, ReuseMode, StepReuse};

    #[test]
    fn the_most_is_of_the_widest_phase() {
        let needs = Needs { encode: 3, denoise: 5, decode: 4 };
        assert_eq!(needs.most(), (5, "denoises"));
    }

    /// What the whole process held in guided drawings in bf16, from a folder in f16.
    #[test]
    fn sd3_medium_needs_what_was_measured() {
        let config = MmditConfig::of_depth(24);
        let weights: u64 = config.step_matrices().map(|(_, shape)| packed_bytes(shape, Precision::Bf16)).sum();
        for (side, steps, denoise, decode) in [(512, 28, 3.3e9, 3.8e9), (768, 12, 3.4e9, 4.4e9)] {
            let (rows, tokens) = (2, (side / 16 * side / 16 + 77 + 256) as u64);
            let step = config.step_bytes(rows * tokens, Precision::Bf16)
                + steps * rows * config.modulation_bytes() as u64
                + rows * 333 * (4096 + 1536) * 4;
            let latent = [side / 8; 2];
            let decoding = decode_bytes(&VaeConfig::released(), latent, Decoding::Whole, Precision::Bf16);
            let needs = Needs::of(0, step, decoding, weights);
            let is_near = |said: u64, found: f64| (said as f64 / found - 1.0).abs() < 0.06;
            assert!(is_near(needs.denoise, denoise) && is_near(needs.decode, decode), "{side}: {needs:?}");
        }
    }

    fn files(model: &str) -> ModelFiles {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(model);
        ModelFiles::open(&ModelPaths { model: Some(path), ..ModelPaths::default() }).unwrap()
    }

    fn needs_of(model: &str, request: Request, precision: Precision) -> Needs {
        let files = files(model);
        let plan = request.resolve(&files.facts()).unwrap();
        files.needs(&plan, Means { precision, tiny_decoder: false, available: None })
    }

    fn request() -> Request {
        Request { prompts: vec!["a".into()], count: 1, ..Request::default() }
    }

    #[test]
    fn weights_are_counted_as_they_are_kept() {
        let bytes = |model: &str, precision| {
            let files = files(model);
            let (part, config) = files.transformers().next().unwrap();
            weight_bytes(part, config, precision)
        };
        let [folder, file] = ["sd3/model", "sd3/official.safetensors"];
        // Depth 2, width 128, in f16; f32 products keep only what the folder has in pieces.
        let width = 128 * 128;
        assert_eq!(bytes(folder, Precision::F32), 4 * 3 * width * 2);
        for (precision, of_number) in [(Precision::Bf16, 2), (Precision::Int8, 1)] {
            for model in [folder, file] {
                assert_eq!(bytes(model, precision), (4 * 12 - 9) * width * of_number, "{model} {precision}");
            }
        }
    }

    #[test]
    fn what_is_asked_more_takes_more_and_no_number_is_too_large() {
        let denoise = |request: Request| needs_of("sd3/model", request, Precision::F32).denoise;
        let plain = denoise(request());
        let hindered = Hindered { how: Hindrance::SkippedBlocks, blocks: vec![0], scale: 1.0, window: Window::ALL };
        let guidance = GuidanceRequest { hindered: vec![hindered], ..GuidanceRequest::of(4.0) };
        let reuse = Some(StepReuse { mode: ReuseMode::Taylor, threshold: 0.1 });
        for more in [
            Request { count: 2, batch_size: Some(2), ..request() },
            Request { guidance, ..request() },
            Request { reuse, ..request() },
            Request { prompts: vec!["a".into(); 50], ..request() },
        ] {
            assert!(denoise(more.clone()) > plain, "{more:?}");
        }
        let most = Request { count: usize::MAX / 2, batch_size: Some(usize::MAX), ..request() };
        assert_eq!(denoise(most), u64::MAX);
    }

    /// Two texts of 256 tokens held 130 MB in a run of the released sizes.
    #[test]
    fn t5_holds_what_was_measured() {
        let bytes = t5_bytes(&T5Config::xxl(), 2, 256) as f64 + SCRATCH_BYTES as f64;
        assert!((bytes / 129.8e6 - 1.0).abs() < 0.25, "{bytes}");
    }
}
