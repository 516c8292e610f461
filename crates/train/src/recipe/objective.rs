//! `[objective]` of a recipe.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::DetectorObjective;

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
    /// Share of texts that are repeated instead: nothing is hidden, and the decoder says all of it.
    #[serde(default)]
    pub repeated: f64,
}

fn noise_density() -> f64 {
    0.15
}

fn mean_span() -> f64 {
    3.0
}
