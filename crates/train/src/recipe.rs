//! A recipe: what somebody typed. [`Recipe::read`] finds what is misspelt; [`crate::plan`] finds what is impossible.
//!
//! Names are those of the field. A key that is not known is an error that names the nearest one that is.
//!
//! What this module does not do: open any other file, or choose a device.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::ema::Ema;
use crate::learning_rate::Schedule;

mod detector;
mod error;

pub use detector::{DetectorModel, DetectorObjective};
pub use error::RecipeError;

/// What a recipe says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Decides every random draw.
    #[serde(default)]
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Samples of a step, in all its parts together.
    pub batch: NonZeroUsize,
    /// Parts that a step's samples go through the network in, one after the other, to save memory.
    #[serde(default = "one")]
    pub accumulate: NonZeroUsize,
    /// What products are computed in. Parameters and what is between products are f32.
    #[serde(default)]
    pub precision: TrainPrecision,
    /// What the network learns.
    pub objective: Objective,
    /// The network.
    pub model: Model,
    /// Pictures and texts.
    pub data: Data,
    /// AdamW.
    #[serde(default)]
    pub optimizer: AdamWRecipe,
    /// The learning rate.
    pub schedule: Schedule,
    /// Running averages of the parameters. The first is what samples, validation and the model at the end are made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ema: Vec<Ema>,
    /// Steps from one line of the journal to the next.
    #[serde(default = "ten")]
    pub record_every: NonZeroU64,
    /// Loss on data that is not trained on.
    #[serde(default)]
    pub validation: Validation,
    /// Pictures on the way.
    #[serde(default)]
    pub samples: Samples,
    /// States to go on from.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// What is done about a loss or gradient that is not finite.
    #[serde(default)]
    pub not_finite: NotFiniteRule,
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

fn ten() -> NonZeroU64 {
    NonZeroU64::new(10).unwrap_or(NonZeroU64::MIN)
}

/// What products are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainPrecision {
    /// bf16 factors, f32 sums.
    #[default]
    Bf16,
    /// f32 throughout.
    F32,
}

/// What the network learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Objective {
    /// The velocity of noise turning into latents (arXiv:2403.03206, section 3).
    Flow(FlowObjective),
    /// Latents that a picture can be made of again.
    Autoencoder(AutoencoderObjective),
    /// Texts and pictures that belong together, close together (arXiv:2103.00020).
    Clip(ClipObjective),
    /// Texts with gaps, and what stood there (arXiv:1910.10683, section 3.1.4).
    SpanCorruption(SpanObjective),
    /// Which things are where in a scene, and in which colour.
    Detector(DetectorObjective),
}

/// Settings of the flow objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowObjective {
    /// One of the paper's formulations, by its name.
    #[serde(default = "lognorm")]
    pub formulation: String,
    /// Stretch of the noise levels towards noise; 1 leaves them.
    #[serde(default = "unit")]
    pub shift: f64,
    /// Which of the two readings of `edm/rf` and `edm/cos`.
    #[serde(default)]
    pub edm_reading: EdmReadingRecipe,
    /// Share of samples for which each text encoder's output is replaced.
    #[serde(default)]
    pub dropout: Dropout,
    /// What it is replaced by.
    #[serde(default)]
    pub dropped: Dropped,
}

/// What stands for an encoder that was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dropped {
    /// Zeros, as in the paper: what drawing puts where an encoder is not there.
    #[default]
    Zeros,
    /// What the encoder gives for the empty text: what drawing puts for the negative prompt.
    EmptyText,
}

fn lognorm() -> String {
    "rf/lognorm(0.00,1.00)".to_owned()
}

fn unit() -> f64 {
    1.0
}

/// How `edm/rf` and `edm/cos` are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdmReadingRecipe {
    /// Noise levels drawn as rf or cosine draws them, with EDM's own weight.
    #[default]
    Density,
    /// The same noise levels, with the total weight of rf and cosine.
    TotalWeight,
}

/// Share of samples for which an encoder's output is replaced, each encoder on its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropout {
    /// CLIP-L.
    #[serde(default)]
    pub clip_l: f64,
    /// CLIP-G.
    #[serde(default)]
    pub clip_g: f64,
    /// T5.
    #[serde(default)]
    pub t5: f64,
}

impl Default for Dropout {
    /// The paper's (appendix B.3): all three are gone for a tenth of the samples.
    fn default() -> Self {
        Dropout { clip_l: 0.464, clip_g: 0.464, t5: 0.464 }
    }
}

/// Settings of the autoencoder's objective.
///
/// As in latent-diffusion, whose weights can be taken as they are: everything is summed over a picture, its numbers
/// (3 for each pixel) and its latent's, and the reconstruction's part is divided by a variance that is learned, so that
/// it counts more the better it gets. The journal has the loss of one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderObjective {
    /// Of the divergence of the posterior from the standard normal, in nats of a picture's latent. 1 is the likelihood's
    /// own bound, and 1e-6 (latent-diffusion) hardly holds latents at all.
    #[serde(default = "kl_weight")]
    pub kl_weight: f64,
    /// Of the distance of features of a picture, added to the absolute error of each of its numbers.
    #[serde(default = "perceptual_weight")]
    pub perceptual_weight: f64,
    /// The critic's term; none without it.
    #[serde(default)]
    pub adversarial: Option<Adversarial>,
}

fn kl_weight() -> f64 {
    1e-6
}

fn perceptual_weight() -> f64 {
    0.25
}

/// A critic that tells real patches from reconstructed ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adversarial {
    /// Multiplied with the weight that balances its gradient with the reconstruction's.
    pub weight: f64,
    /// The first step, counted from 0, at which it is heard.
    pub start_step: u64,
    /// Channels of its first layer.
    #[serde(default = "critic_width")]
    pub width: NonZeroUsize,
}

fn critic_width() -> NonZeroUsize {
    NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN)
}

/// Settings of the contrastive objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipObjective {}

/// Settings of span corruption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanObjective {
    /// Share of tokens that are taken out.
    #[serde(default = "noise_density")]
    pub noise_density: f64,
    /// Tokens of a gap, on average.
    #[serde(default = "mean_span")]
    pub mean_span: f64,
}

fn noise_density() -> f64 {
    0.15
}

fn mean_span() -> f64 {
    3.0
}

/// The network that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Model {
    /// SD3's transformer.
    Mmdit(Transformer),
    /// Text and image tokens in one sequence with one set of weights.
    Dit(Transformer),
    /// Image tokens that look at text tokens.
    CrossDit(Transformer),
    /// Convolutions around a transformer.
    Uvit(Transformer),
    /// Encoder and decoder of pictures.
    Autoencoder(AutoencoderModel),
    /// A text tower and an image tower.
    Clip(ClipModel),
    /// An encoder of texts, and for the training a decoder.
    T5(T5Model),
    /// What finds the things in sprite scenes.
    Detector(DetectorModel),
}

impl Model {
    /// Its settings where it is a velocity network.
    pub fn transformer(&self) -> Option<&Transformer> {
        match self {
            Model::Mmdit(model) | Model::Dit(model) | Model::CrossDit(model) | Model::Uvit(model) => Some(model),
            Model::Autoencoder(_) | Model::Clip(_) | Model::T5(_) | Model::Detector(_) => None,
        }
    }

    /// The checkpoint that it begins with.
    pub fn from(&self) -> Option<&Path> {
        match self {
            Model::Autoencoder(model) => model.from.as_deref(),
            other => other.transformer()?.from.as_deref(),
        }
    }
}

/// A velocity network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transformer {
    /// A checkpoint to begin with; without it, from scratch.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// Blocks.
    #[serde(default)]
    pub depth: Option<NonZeroUsize>,
    /// Width of both streams, 64 for each head. From scratch: as many heads as blocks, as in the paper.
    #[serde(default)]
    pub width: Option<NonZeroUsize>,
    /// RMS norm on queries and keys. With `from` a network without them, new ones are added.
    #[serde(default)]
    pub qk_norm: Option<bool>,
    /// Blocks in which the image attends to itself a second time.
    #[serde(default)]
    pub dual_attention_layers: Option<Vec<usize>>,
    /// 2: text and image; 3: CLIP's tokens, T5's tokens and image.
    #[serde(default)]
    pub token_sets: Option<usize>,
    /// Side of the positional grid in patches.
    #[serde(default)]
    pub grid: Option<NonZeroUsize>,
    /// Share of batches whose window into the positional grid lies anywhere instead of in its middle (SD3.5-Medium).
    #[serde(default)]
    pub position_crop: f64,
    /// Keeps only the blocks' inputs and computes the rest again on the way back.
    #[serde(default)]
    pub checkpoint_blocks: bool,
}

/// An autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderModel {
    /// A checkpoint to begin with; without it, from scratch.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// Channels of a latent: the paper's table 3 has 4, 8 and 16. From scratch: 16.
    #[serde(default)]
    pub latent_channels: Option<NonZeroUsize>,
    /// Channels at each level, the full-size one first; each level after it has half the pixels on a side. From scratch:
    /// 32, 64, 128, 128, which is right for sprites of 64 to 128 px; the released one has 128, 256, 512, 512.
    #[serde(default)]
    pub widths: Option<Vec<usize>>,
    /// Residual blocks of a level of the encoder; the decoder has one more. From scratch: 1.
    #[serde(default)]
    pub blocks: Option<NonZeroUsize>,
    /// Groups of the group norms. From scratch: 8. The released one has 32.
    #[serde(default)]
    pub groups: Option<NonZeroUsize>,
    /// What learns. With `from` alone: the decoder, for latents that a transformer was trained on already.
    #[serde(default)]
    pub train: TrainedParts,
}

/// What of an autoencoder learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainedParts {
    /// Encoder and decoder.
    #[default]
    All,
    /// The decoder; latents stay as they are.
    Decoder,
}

/// A text tower and an image tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipModel {
    /// Which of SD3's two it will be: decides padding and activation.
    #[serde(default)]
    pub encoder: ClipEncoderKind,
    /// Width of the text tower's tokens.
    pub width: NonZeroUsize,
    /// Blocks of the text tower.
    pub layers: NonZeroUsize,
    /// Heads of the text tower.
    pub heads: NonZeroUsize,
    /// Width that both towers' outputs are compared in.
    pub projection: NonZeroUsize,
    /// Tokens that the text tower knows. Left away: the 49,408 of SD3's CLIPs; fewer have narrower uses, and a smaller table.
    #[serde(default)]
    pub vocabulary: Option<NonZeroUsize>,
    /// Places of a text. Left away: the 77 of SD3's CLIPs; fewer are quicker, and cut long texts.
    #[serde(default)]
    pub tokens: Option<NonZeroUsize>,
    /// The image tower.
    pub image: ImageTower,
}

/// One of SD3's CLIP encoders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipEncoderKind {
    /// CLIP-L.
    #[default]
    L,
    /// CLIP-G.
    G,
}

/// A vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTower {
    /// Of its tokens.
    pub width: NonZeroUsize,
    /// Blocks.
    pub layers: NonZeroUsize,
    /// Heads.
    pub heads: NonZeroUsize,
    /// Side of a patch in pixels.
    pub patch: NonZeroUsize,
}

/// A T5-style encoder with a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct T5Model {
    /// What a token is.
    #[serde(default)]
    pub vocabulary: VocabularyRecipe,
    /// Of a token.
    pub width: NonZeroUsize,
    /// Blocks of the encoder.
    pub layers: NonZeroUsize,
    /// Blocks of the decoder, which is thrown away afterwards.
    pub decoder_layers: NonZeroUsize,
    /// Heads.
    pub heads: NonZeroUsize,
    /// Of a head.
    pub head_width: NonZeroUsize,
    /// Of the feed-forward layer's inside.
    pub mlp: NonZeroUsize,
    /// Tokens of a text: shorter ones are padded, longer ones cut.
    pub tokens: NonZeroUsize,
}

/// What a token is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VocabularyRecipe {
    /// A byte (ByT5).
    #[default]
    Bytes,
    /// A piece of T5's own vocabulary.
    Unigram,
}

/// Where pictures and texts come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// A folder of pictures, tars, Parquet files or a manifest, and which part of the pictures is trained on.
    pub source: rectiflow_dataset::DataSettings,
    /// What `rectiflow cache` makes of it: latents and text features. Without it they are made in every step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// The model whose autoencoder and text encoders are used, and that a trained transformer is stored with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoders: Option<PathBuf>,
    /// How they are used.
    #[serde(default)]
    pub encoding: Encoding,
}

/// How latents and text features are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Encoding {
    /// Tokens that T5 gets of a text: shorter ones are padded, longer ones cut. Draw with the same number.
    pub t5_tokens: usize,
    /// What a latent is.
    pub latent: LatentOf,
    /// How a cache stores latents.
    pub latents_stored: LatentsStored,
    /// What stands where a text has ended.
    pub pads: PadsRecipe,
    /// What products are computed in.
    pub precision: TrainPrecision,
}

impl Default for Encoding {
    fn default() -> Self {
        Encoding {
            t5_tokens: 77,
            latent: LatentOf::Sample,
            latents_stored: LatentsStored::F32,
            pads: PadsRecipe::AsEncoded,
            precision: TrainPrecision::F32,
        }
    }
}

/// What a latent is of the autoencoder's posterior.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LatentOf {
    /// Drawn from it, once for a sample.
    Sample,
    /// Its mean.
    Mean,
}

/// How a cache stores latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LatentsStored {
    /// As they are.
    F32,
    /// Rounded, in half the room.
    Bf16,
}

/// What stands where a text has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PadsRecipe {
    /// What the encoder gives there: what drawing feeds the transformer.
    AsEncoded,
    /// Zeros: a cache then holds real tokens only.
    Zeros,
}

/// AdamW's settings, with torch's names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWRecipe {
    /// Shares of the running means that a step keeps.
    #[serde(deserialize_with = "two")]
    pub betas: [f64; 2],
    /// Added to the root of the mean square; from 1e-20. The paper's high-resolution runs have 1e-15.
    pub eps: f64,
    /// Share of a parameter that is lost in a step, before the learning rate is multiplied with it.
    pub weight_decay: f64,
    /// Longer gradients are shortened to this norm; 0: never.
    pub gradient_norm_max: f64,
}

/// Exactly two numbers: an array of Rust takes the first two of more.
fn two<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 2], D::Error> {
    let numbers = Vec::<f64>::deserialize(deserializer)?;
    let count = numbers.len();
    numbers.try_into().map_err(|_| D::Error::custom(format!("{count} numbers where there must be 2")))
}

impl Default for AdamWRecipe {
    fn default() -> Self {
        AdamWRecipe { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, gradient_norm_max: 1.0 }
    }
}

/// Loss on data that is not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Validation {
    /// Steps from one to the next; 0: never.
    pub every: u64,
    /// Samples kept apart for it.
    pub samples: usize,
}

impl Default for Validation {
    fn default() -> Self {
        Validation { every: 500, samples: 64 }
    }
}

/// Pictures on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Samples {
    /// Steps from one sheet to the next; 0: never.
    pub every: u64,
    /// What is drawn.
    pub prompts: Vec<String>,
    /// Steps of the solver.
    pub steps: NonZeroUsize,
    /// Guidance scale.
    pub guidance: f32,
    /// Of the first picture; the next ones have the next.
    pub seed: u64,
}

impl Default for Samples {
    fn default() -> Self {
        let steps = NonZeroUsize::new(28).unwrap_or(NonZeroUsize::MIN);
        Samples { every: 0, prompts: Vec::new(), steps, guidance: 4.0, seed: 0 }
    }
}

/// States to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Steps from one to the next.
    pub every: NonZeroU64,
    /// How many stay, besides the best.
    pub keep: NonZeroUsize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Checkpoint {
            every: NonZeroU64::new(1000).unwrap_or(NonZeroU64::MIN),
            keep: NonZeroUsize::new(2).unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// What is done about a loss or gradient that is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotFiniteRule {
    /// The run ends, and names the samples of that step.
    #[default]
    Stop,
    /// Back to the last good checkpoint; from there every step has other samples, noise and levels than before. The
    /// third time from one checkpoint it ends.
    RollBack,
}

impl Recipe {
    /// Reads a recipe's file. Paths in it are relative to the folder where the program runs.
    ///
    /// # Errors
    /// It cannot be read, is no TOML, or has keys or values that are not known.
    pub fn read(path: &Path) -> Result<Recipe, RecipeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|problem| RecipeError::Unreadable { path: path.to_owned(), problem })?;
        Recipe::parse(&text, path)
    }

    /// Reads a recipe's text, which came from `path`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Recipe, RecipeError> {
        toml::from_str(text).map_err(|problem| RecipeError::of(path, text, &problem))
    }

    /// Every setting by its path, `schedule.learning_rate`, as JSON: for comparing two recipes.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let value = serde_json::to_value(self).unwrap_or_default();
        flatten("", &value, &mut settings);
        settings
    }
}

fn flatten(path: &str, value: &serde_json::Value, settings: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, settings);
            }
        }
        other => {
            settings.insert(path.to_owned(), other.to_string());
        }
    }
}
