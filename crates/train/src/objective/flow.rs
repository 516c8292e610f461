//! What networks are trained for: from a batch to its loss.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_mmdit::Mmdit;
use rectiflow_nn::Tensor;

/// Latents with their conditioning, and how they are made noisy.
///
/// Shape letters: B samples, C channels, H and W latent pixels, T text tokens.
#[derive(Clone, Debug)]
pub struct FlowBatch {
    /// `[B, C, H, W]`, in the scale that the network is trained in.
    pub latents_BCHW: Tensor<4>,
    /// Standard normal, `[B, C, H, W]`.
    pub noise_BCHW: Tensor<4>,
    /// The noise level of each sample, `[B]`, 0 to 1.
    pub sigmas_B: Tensor<1>,
    /// Text tokens `[B, T, D]`.
    pub context_BTD: Tensor<3>,
    /// Pooled text `[B, P]`.
    pub pooled_BP: Tensor<2>,
}

/// The conditional flow matching loss of a rectified flow: the mean of `(velocity(z, sigma) - (noise - latents))^2` with
/// `z = (1 - sigma) latents + sigma noise`. Returns one number.
///
/// Source: arXiv:2403.03206, equations 8, 12 and 13: for this path the weight of the noise levels' density is 1.
pub fn rectified_flow_loss(network: &Mmdit, batch: FlowBatch) -> Tensor<1> {
    let FlowBatch { latents_BCHW, noise_BCHW, sigmas_B, context_BTD, pooled_BP } = batch;
    let sigmas_B111 = sigmas_B.clone().reshape([-1, 1, 1, 1]);
    let velocity_BCHW = noise_BCHW - latents_BCHW.clone();
    let noisy_BCHW = latents_BCHW + velocity_BCHW.clone() * sigmas_B111;
    let found_BCHW = network.forward(noisy_BCHW, sigmas_B * 1000.0, context_BTD, pooled_BP);
    (found_BCHW - velocity_BCHW).square().mean()
}
