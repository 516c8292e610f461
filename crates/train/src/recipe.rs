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
use crate::optimizer::Matrices;

mod detector;
mod error;
mod model;
mod objective;

pub use detector::{DetectorModel, DetectorObjective};
pub use error::RecipeError;
pub use model::{
    AutoencoderModel, ClipEncoderKind, ClipModel, ImageTower, Model, T5Model, TrainedParts, Transformer,
    VocabularyRecipe,
};
pub use objective::{
    Adversarial, AutoencoderObjective, ClipObjective, Dropout, Dropped, EdmReadingRecipe, FlowObjective, Objective,
    SpanObjective,
};

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
    /// What updates the matrices of blocks.
    #[serde(skip_serializing_if = "is_adamw")]
    pub matrices: Matrices,
}

fn is_adamw(matrices: &Matrices) -> bool {
    *matrices == Matrices::Adamw
}

/// Exactly two numbers: an array of Rust takes the first two of more.
fn two<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 2], D::Error> {
    let numbers = Vec::<f64>::deserialize(deserializer)?;
    let count = numbers.len();
    numbers.try_into().map_err(|_| D::Error::custom(format!("{count} numbers where there must be 2")))
}

impl Default for AdamWRecipe {
    fn default() -> Self {
        AdamWRecipe {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            gradient_norm_max: 1.0,
            matrices: Matrices::Adamw,
        }
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
