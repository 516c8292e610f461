//! What an autoencoder is trained for: a picture that is hard to tell from the one that went in, and latents near a
//! standard normal distribution.
//!
//! Source: `LPIPSWithDiscriminator` of latent-diffusion and `GeneralLPIPSWithDiscriminator` of generative-models, the
//! only public recipe of this family. Where they take LPIPS, this takes the distance of `rectiflow-vision`.
//!
//! ```text
//! picture -> posterior -> latent -> features of the last layer -> made
//! likelihood = sum(|picture - made| + perceptual weight * distance) / exp(logvar) + count * logvar, over the batch
//! loss       = likelihood + divergence weight * divergence + critic's weight * -mean(critic(made))
//! ```
//!
//! The critic's weight needs the gradients of two of these parts at the decoder's last layer, each by itself. So the
//! parts are differentiated up to the made picture alone, which is cheap, and the autoencoder goes backward once, from
//! their sum.
//!
//! Here is the loss; the objective, which takes steps and chooses when the critic begins, is in `training`.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::module::ModuleVisitor;
use rectiflow_nn::{Gradients, Init, Module, Param, Params, Tensor, to_f32};
use rectiflow_vae::Vae;
use rectiflow_vision::{PatchGan, PerceptualDistance, adversarial};

use crate::recipe::TrainedParts;

mod training;

pub use training::{Autoencoder, AutoencoderNetwork, AutoencoderSettings, Export, NoDeviation};

/// Pictures, and the noise that their latents are drawn with.
///
/// Shape letters: B pictures, Z latent channels, H and W pixels, h and w latent pixels.
#[derive(Clone, Debug)]
pub struct AutoencoderBatch {
    /// RGB in -1..1, `[B, 3, H, W]`.
    pub pictures_B3HW: Tensor<4>,
    /// Standard normal, `[B, Z, h, w]`.
    pub noise_BZhw: Tensor<4>,
}

/// How much the parts of the loss count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoencoderWeights {
    /// Of the perceptual distance, beside the absolute difference of each number: 0.25 in generative-models.
    pub perceptual: f64,
    /// Of the divergence: 1 in generative-models' example, 1e-6 in latent-diffusion.
    pub divergence: f64,
    /// Of the critic, after its gradient was made as long as the likelihood's: 0.5.
    pub critic: f32,
}

/// What judges made pictures beside the absolute difference. Neither learns here.
#[derive(Clone, Copy, Debug)]
pub struct Judges<'a> {
    /// Without it, the distance is 0.
    pub perceptual: Option<&'a PerceptualDistance>,
    /// From the step on at which it has begun.
    pub critic: Option<&'a PatchGan>,
}

/// The logarithm of the reconstruction's variance, one learned number: `logvar` `[1]`, which starts at 0.
#[derive(Module, Debug)]
pub struct ReconstructionVariance {
    logvar: Param<Tensor<1>>,
}

impl ReconstructionVariance {
    /// `params` is the place `loss` of latent-diffusion's names.
    pub fn new(mut params: Params<'_>) -> Self {
        ReconstructionVariance { logvar: params.param("logvar", [1], Init::Zeros) }
    }
}

/// The parts of a loss, for a journal. Means over the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoencoderParts {
    /// Everything below as it is trained for.
    pub total: f32,
    /// `|picture - made|`, of one number.
    pub absolute: f32,
    /// The perceptual distance of one picture.
    pub perceptual: f32,
    /// The negative logarithm of a picture's likelihood, but for a constant.
    pub likelihood: f32,
    /// The posterior's from a standard normal distribution, of one picture, in nats.
    pub divergence: f32,
    /// The logarithm of the reconstruction's variance.
    pub log_variance: f32,
    /// What the critic says, once it has begun.
    pub critic: Option<CriticPart>,
}

/// The critic's part of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CriticPart {
    /// `-mean(critic(made))`.
    pub loss: f32,
    /// What it is multiplied with.
    pub weight: f32,
}

/// A forward pass and all that is known of its loss.
#[derive(Debug)]
pub struct AutoencoderLoss {
    /// Its gradients at the autoencoder and at the variance are the loss'; its value is not, that is in the parts.
    pub slope: Tensor<1>,
    /// What was made, `[B, 3, H, W]`, without its history: the critic learns from it.
    pub made_B3HW: Tensor<4>,
    /// For the journal.
    pub parts: AutoencoderParts,
}

/// The loss of the autoencoder for a batch.
///
/// # Panics
/// The tensors are not on a device with gradients, or their sizes do not fit: bugs of the caller.
pub fn autoencoder_loss(
    vae: &Vae,
    variance: &ReconstructionVariance,
    judges: Judges<'_>,
    weights: AutoencoderWeights,
    trains: TrainedParts,
    batch: AutoencoderBatch,
) -> AutoencoderLoss {
    let AutoencoderBatch { pictures_B3HW, noise_BZhw } = batch;
    let [pictures, channels, height, width] = pictures_B3HW.dims();
    let numbers = (channels * height * width) as f64;
    let posterior = match trains {
        TrainedParts::All => vae.encode(pictures_B3HW.clone()),
        TrainedParts::Decoder => vae.valid().encode(pictures_B3HW.clone().inner()).tracked(),
    };
    let features = vae.decode_to_last(posterior.sample(noise_BZhw));
    let made_B3HW = vae.finish(features.clone());

    // From here on the made picture is where gradients end.
    let leaf_B3HW = made_B3HW.clone().detach().require_grad();
    let distance = judges.perceptual.map(|judge| judge.between(pictures_B3HW.clone(), leaf_B3HW.clone()).sum());
    let absolute = (pictures_B3HW - leaf_B3HW.clone()).abs().sum() / pictures as f64;
    let reconstruction = match &distance {
        Some(distance) => absolute.clone() + distance.clone() * (weights.perceptual * numbers / pictures as f64),
        None => absolute.clone(),
    };
    let log_variance = variance.logvar.val();
    let precision = (-log_variance.clone()).exp();
    let of_reconstruction = gradient_at(&leaf_B3HW, &reconstruction.clone().backward());
    let of_likelihood = of_reconstruction * precision.clone().detach().reshape([1, 1, 1, 1]);
    let likelihood = reconstruction.detach() * precision + log_variance.clone() * numbers;

    let critic = judges.critic.map(|critic| {
        let loss = adversarial::generator_loss(fixed(critic).forward(leaf_B3HW.clone()));
        let of_critic = gradient_at(&leaf_B3HW, &loss.clone().backward());
        let [of_likelihood, of_critic_norm] =
            [&of_likelihood, &of_critic].map(|gradient| vae.last_gradient_norm(&features, gradient.clone()));
        let weight = adversarial::adaptive_weight(of_likelihood, of_critic_norm, weights.critic);
        (CriticPart { loss: value(&loss), weight }, of_critic * weight)
    });
    let (critic, of_made) = match critic {
        Some((part, of_critic)) => (Some(part), of_likelihood + of_critic),
        None => (None, of_likelihood),
    };

    let divergence = posterior.divergence().mean();
    let parts = AutoencoderParts {
        total: value(&likelihood)
            + weights.divergence as f32 * value(&divergence)
            + critic.map_or(0.0, |part| part.weight * part.loss),
        absolute: value(&absolute) / numbers as f32,
        perceptual: distance.map_or(0.0, |distance| value(&distance) / pictures as f32),
        likelihood: value(&likelihood),
        divergence: value(&divergence),
        log_variance: value(&log_variance),
        critic,
    };
    let slope = (made_B3HW.clone() * of_made).sum() + likelihood + divergence * weights.divergence;
    AutoencoderLoss { slope, made_B3HW: made_B3HW.detach(), parts }
}

/// The critic's loss for real pictures and those that [`autoencoder_loss`] made, `[B, 3, H, W]`: one number.
pub fn critic_loss(critic: &PatchGan, real_B3HW: Tensor<4>, made_B3HW: Tensor<4>) -> Tensor<1> {
    adversarial::critic_loss(critic.forward(real_B3HW), critic.forward(made_B3HW.detach()))
}

/// The critic with weights that have no gradients.
///
/// Burn makes a parameter when it is first used, and until then its clones are one: what is said of a clone's gradients
/// is said of the critic itself, which would never learn. So all are made first.
fn fixed(critic: &PatchGan) -> PatchGan {
    struct Make;

    impl ModuleVisitor for Make {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }

    critic.visit(&mut Make);
    critic.clone().no_grad()
}

fn gradient_at(leaf_B3HW: &Tensor<4>, gradients: &Gradients) -> Tensor<4> {
    let gradient_B3HW = leaf_B3HW.grad(gradients).expect("the loss was made of the picture");
    Tensor::from_inner(gradient_B3HW)
}

fn value(x: &Tensor<1>) -> f32 {
    to_f32(x)[0]
}
