//! The generate journey: prompt to picture.
//!
//! ```text
//! prompt -> tokens -> conditioning -> noise -> steps of the solver -> latent -> picture
//! ```
//!
//! [`generate`] is the whole of it on one page. [`ModelFiles`] finds a model's parts, with them a [`Request`]
//! becomes a [`Plan`] in which nothing is left open, [`Parts`] loads the networks, and a [`Watch`] sees what happens
//! and takes each picture as it is done.
//!
//! This crate prints nothing and knows no terminal, no HTTP and no training.

mod again;
mod check;
mod compat;
mod denoise;
mod encoders;
mod error;
mod exif;
mod files;
mod format;
mod guidance;
mod image;
mod known_words;
mod labels;
mod needs;
mod notes;
mod observed;
mod parameters;
mod parts;
mod plan;
mod preview;
mod prompt;
mod rehearsal;
mod reuse;
mod settings;
mod sheet;
mod stored;
mod syntax;
mod tiling;
mod wildcards;

use std::ops::ControlFlow;

use rectiflow_flow::noise::TorchRng;
use rectiflow_nn::{Tensor, from_f32, is_finite, to_f32};
use rectiflow_weights::sha256;

pub use again::{BadSettings, Difference, stored_setting};
pub use check::check;
pub use compat::{Compat, Defaults, Quantise};
pub use denoise::{Transformers, denoise};
pub use encoders::{EncodedText, Encoders};
pub use error::{GenerateError, OpenError, TinyDecoderError};
pub use files::{EncoderFiles, FORMULATION, ModelFiles};
pub use format::{Format, NoRoom, UnknownFormat};
pub use guidance::{GuidanceRequest, Hindered, Hindrance};
pub use image::{Image, ImageError, to_network};
pub use known_words::KnownWords;
pub use labels::{Axis, labelled_sheet};
pub use needs::{Means, Needs};
pub use notes::Note;
pub use parameters::Parameters;
pub use parts::Parts;
pub use plan::{ModelFacts, Plan, PlanError, Request};
pub use preview::Preview;
pub use prompt::{Conditionings, Encoder, EncoderTexts, PromptTokens, TextEncoders, Told};
pub use rehearsal::{Rehearsal, rehearse};
pub use reuse::{ReuseMode, StepReuse};
pub use settings::{ModelName, Settings, texts_of_sheet};
pub use sheet::{columns, sheet};
pub use stored::{StoredError, StoredPicture};
pub use syntax::{LongPrompts, PromptSyntax, plain_markup};
use tiling::Decoder;
pub use tiling::Tiling;
pub use wildcards::{WildcardError, Wildcards, expand, has_alternatives};

/// A picture and how it came about.
pub struct Picture {
    /// The picture.
    pub image: Image,
    /// What was decoded to it, `[1, 16, H/8, W/8]`.
    pub latent: Tensor<4>,
    /// Everything that decided it.
    pub settings: Settings,
}

/// Sees a run happen.
pub trait Watch {
    /// A phase begins: `encode T5`, `denoise`, `decode`, `decode in strips` or `decode with the tiny decoder`, `write`. `Break` stops the run; a
    /// picture that is decoded is still handed over.
    fn phase(&mut self, name: &str) -> ControlFlow<()>;

    /// A step of the solver is done. `Break` stops the run; pictures that were taken stay.
    fn step(&mut self, done: usize, of: usize) -> ControlFlow<()>;

    /// After a step, for who wants to see what becomes of the pictures: `denoised` computes what the model takes their
    /// latents for, `[N, 16, H/8, W/8]`, from what it said last.
    fn denoised(&mut self, _done: usize, _of: usize, _denoised: &dyn Fn() -> Tensor<4>) {}

    /// A text did not fit an encoder: `words` are what it will not see.
    fn cut(&mut self, encoder: Encoder, tokens: usize, words: &str);

    /// Bytes of memory that are free now, where that is known: [`Tiling::Auto`] asks.
    fn memory_available(&self) -> Option<u64> {
        None
    }

    /// Of the askings of a batch's transformer, in so many what the blocks after the first add was reused.
    fn reused(&mut self, _reused: usize, _asked: usize) {}

    /// Takes a picture.
    ///
    /// # Errors
    /// It could not be stored; the run stops.
    fn picture(&mut self, picture: Picture) -> Result<(), ImageError>;
}

/// Watches nothing and stops nothing: for runs whose result is all that counts.
pub struct Unwatched;

impl Watch for Unwatched {
    fn phase(&mut self, _name: &str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn step(&mut self, _done: usize, _of: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn cut(&mut self, _encoder: Encoder, _tokens: usize, _words: &str) {}

    fn picture(&mut self, _picture: Picture) -> Result<(), ImageError> {
        Ok(())
    }
}

/// Draws every picture of a plan.
///
/// `noise` gives the latents to start from, one for each picture, or one `[1, 16, H/8, W/8]` for all; without it
/// each is drawn from its seed. The text encoders are gone from memory when the first step begins.
///
/// # Errors
/// A stage gave values that are not finite, the watcher stopped the run or could not take a picture.
pub fn generate(
    parts: Parts,
    plan: &Plan,
    noise: Option<&Tensor<4>>,
    watch: &mut dyn Watch,
) -> Result<(), GenerateError> {
    let mut parts = parts;
    let told = encode(&mut parts, plan, watch)?;
    draw(parts, &told, plan, noise, watch)
}

/// The first half of [`generate`]: what the model is told. Takes the text encoders out of `parts`.
///
/// # Errors
/// Those of [`generate`].
pub fn encode(parts: &mut Parts, plan: &Plan, watch: &mut dyn Watch) -> Result<Conditionings, GenerateError> {
    parts.text.take().encode_plan(plan, watch)
}

/// The second half of [`generate`], as often as wanted. `told` is this plan's, or that of one for which
/// [`Plan::is_told_as`] says so: pictures are of what it was made of.
///
/// # Errors
/// Those of [`generate`].
pub fn draw(
    parts: Parts,
    told: &Conditionings,
    plan: &Plan,
    noise: Option<&Tensor<4>>,
    watch: &mut dyn Watch,
) -> Result<(), GenerateError> {
    let Parts { text, transformer, worse, vae, tiny, device, name, .. } = parts;
    drop(text);
    let transformers = Transformers { drawing: &transformer, worse: worse.as_ref() };
    let mut left = plan.pictures().enumerate().peekable();
    while let Some((first, prompt)) = left.next() {
        let mut prompts = vec![prompt];
        while prompts.len() < plan.batch_size
            && let Some((_, next)) = left.next_if(|(_, next)| told.are_alike(prompt, *next))
        {
            prompts.push(next);
        }
        let pictures = first..first + prompts.len();
        let seeds: Vec<u64> = pictures.clone().map(|picture| plan.seed + picture as u64).collect();
        let starts = pictures.map(|picture| match noise {
            Some(given) => pick(given, picture),
            None => draw_noise(plan, plan.seed + picture as u64, &device),
        });
        let starts: Vec<Tensor<4>> = starts.collect();
        let digests: Vec<Option<String>> = starts.iter().map(|start| noise.map(|_| latent_digest(start))).collect();
        let start = Tensor::cat(starts, 0);

        go_on(watch.phase("denoise"))?;
        let (prompt, negative) = told.of(&prompts);
        let told = Told { prompt: &prompt, negative: negative.as_ref() };
        let latents = denoise(transformers, &told, start, &seeds, plan, watch)
            .map_err(|error| GenerateError::from(error).under(plan.guidance.largest()))?;

        let drawn = prompts.iter().zip(seeds).zip(digests).zip(latents.split(1, 0));
        for (((prompt, seed), latents_sha256), latent) in drawn {
            let decoder = Decoder::of(&vae, tiny.as_ref(), plan, watch.memory_available());
            go_on(watch.phase(decoder.phase()))?;
            let decoded = decoder.decode(latent.clone());
            if !is_finite(&decoded) {
                return Err(GenerateError::NotFinite { stage: "the decoded picture" }.under(plan.guidance.largest()));
            }

            let wish = watch.phase("write");
            let image = Image::from_decoded(&decoded, plan.compat.quantise());
            let settings = Settings::of(plan, &name, &plan.prompts[*prompt], seed, noise.is_some());
            let settings = Settings { latents_sha256, ..settings };
            watch.picture(Picture { image, latent, settings })?;
            go_on(wish)?;
        }
    }
    Ok(())
}

fn go_on(wish: ControlFlow<()>) -> Result<(), GenerateError> {
    if wish.is_break() { Err(GenerateError::Stopped) } else { Ok(()) }
}

impl Plan {
    /// The prompt's index for each picture, in the order they are drawn.
    pub fn pictures(&self) -> impl ExactSizeIterator<Item = usize> + use<> {
        let count = self.count;
        (0..self.prompts.len().saturating_mul(count)).map(move |picture| picture / count)
    }
}

/// The noise of a plan's picture `[1, 16, H/8, W/8]`: what diffusers draws with
/// `torch.Generator("cpu").manual_seed(seed)`.
pub fn draw_noise(plan: &Plan, seed: u64, device: &rectiflow_nn::Device) -> Tensor<4> {
    let shape = plan.latent_shape;
    from_f32(TorchRng::new(seed).standard_normal(shape.iter().product()), shape, device)
}

/// SHA-256 of a latent's numbers as f32, the low byte first: what a picture's settings say of noise from a file.
pub fn latent_digest(latent: &Tensor<4>) -> String {
    sha256(&to_f32(latent).iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

/// The latent for picture `index`: its own, or the only one.
fn pick(given: &Tensor<4>, index: usize) -> Tensor<4> {
    let count = given.dims()[0];
    given.clone().narrow(0, if count == 1 { 0 } else { index }, 1)
}
