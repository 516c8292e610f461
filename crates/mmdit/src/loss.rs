//! What a velocity network is trained to say, and how far it is from it, by noise level.
//!
//! Source: Esser et al. 2024, arXiv:2403.03206, equations 8, 12 and 13. What is asked at a level, and its weight, is the
//! formulation's ([`rectiflow_flow::Formulation::level`]).
//!
//! What this module does not do: draw noise or levels, take an optimizer's step.
//!
//! Shape letters: B samples, C channels, H and W latent pixels, T text tokens, D context width, P pooled width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_flow::Level;
use rectiflow_nn::{ParamGradients, Tensor, from_f32};

use crate::backbone::NetworkInputs;
use crate::ends::Origin;
use crate::network::VelocityNetwork;
use crate::recompute::Recompute;

/// Latents with their conditioning, and how they are made noisy.
#[derive(Clone, Debug)]
pub struct FlowBatch {
    /// `[B, C, H, W]`, in the scale that the network is trained in.
    pub latents_BCHW: Tensor<4>,
    /// Standard normal, `[B, C, H, W]`.
    pub noise_BCHW: Tensor<4>,
    /// What is done at each sample's noise level.
    pub levels: Vec<Level>,
    /// Text tokens `[B, T, D]`.
    pub context_BTD: Tensor<3>,
    /// Pooled text `[B, P]`.
    pub pooled_BP: Tensor<2>,
}

impl FlowBatch {
    /// The same values where gradients are tracked, of tensors on a device without.
    pub fn tracked(self) -> FlowBatch {
        FlowBatch {
            latents_BCHW: Tensor::from_inner(self.latents_BCHW),
            noise_BCHW: Tensor::from_inner(self.noise_BCHW),
            levels: self.levels,
            context_BTD: Tensor::from_inner(self.context_BTD),
            pooled_BP: Tensor::from_inner(self.pooled_BP),
        }
    }
}

/// What the network sees of a batch, and what it is asked `[B, C, H, W]`.
pub fn asked(batch: FlowBatch, origin: Origin) -> (NetworkInputs, Asked) {
    let FlowBatch { latents_BCHW, noise_BCHW, levels, context_BTD, pooled_BP } = batch;
    let device = latents_BCHW.device();
    let each = |of: fn(&Level) -> f64| -> Tensor<1> {
        from_f32(levels.iter().map(|level| of(level) as f32).collect(), [levels.len()], &device)
    };
    let factor = |of: fn(&Level) -> f64| each(of).reshape([-1, 1, 1, 1]);
    let latent_BCHW = latents_BCHW.clone() * factor(|level| level.input_scale * level.noisy.image)
        + noise_BCHW.clone() * factor(|level| level.input_scale * level.noisy.noise);
    let target_BCHW =
        latents_BCHW * factor(|level| level.target.image) + noise_BCHW * factor(|level| level.target.noise);
    let timestep_B = each(|level| level.timestep);
    let inputs = NetworkInputs { latent_BCHW, timestep_B, context_BTC: context_BTD, pooled_BP, origin };
    (inputs, Asked { target_BCHW, weight_B: each(|level| level.weight) })
}

/// What a network should say.
#[derive(Clone, Debug)]
pub struct Asked {
    target_BCHW: Tensor<4>,
    weight_B: Tensor<1>,
}

impl Asked {
    /// Each sample's loss `[B]`: the weighted mean square of what the network says less what it is asked.
    pub fn losses(self, found_BCHW: Tensor<4>) -> Tensor<1> {
        let square_B: Tensor<2> = (found_BCHW - self.target_BCHW).square().flatten(1, 3);
        square_B.mean_dim(1).squeeze_dim::<1>(1) * self.weight_B
    }
}

/// Each sample's loss `[B]`, in the middle of the positional grid.
pub fn flow_losses(network: &VelocityNetwork, batch: FlowBatch) -> Tensor<1> {
    let (inputs, asked) = asked(batch, Origin::Centre);
    asked.losses(network.forward_at(inputs))
}

/// The mean of [`flow_losses`], one number, and its gradients with regard to every parameter; blocks that `recompute` takes
/// are computed again on the way back.
pub fn flow_gradients(
    network: &VelocityNetwork,
    batch: FlowBatch,
    recompute: Recompute,
) -> (Tensor<1>, ParamGradients) {
    let (inputs, asked) = asked(batch, Origin::Centre);
    network.gradients(inputs, recompute, |found_BCHW| asked.losses(found_BCHW).mean())
}

/// Noise levels that losses are told apart by: eighths. The paper's validation loss is the mean of all but the last
/// (arXiv:2403.03206, section 5.3.3).
pub const LOSS_BANDS: usize = 8;

/// The name of a loss at or around a noise level.
pub fn band_name(band: usize) -> String {
    format!("loss/sigma_{:.3}", band as f64 / LOSS_BANDS as f64)
}

/// The band whose middle is nearest; the lowest is the first above 0.
pub fn band_of(sigma: f64) -> usize {
    ((sigma * LOSS_BANDS as f64).round() as usize).clamp(1, LOSS_BANDS)
}
