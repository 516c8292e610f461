//! What a critic and the network it judges are trained for.
//!
//! Sources: the hinge losses of Lim and Ye 2017, arXiv:1705.02894, and `LPIPSWithDiscriminator` of latent-diffusion,
//! whose weight makes the critic's word count as much as the reconstruction's at the last layer.

use burn::tensor::activation::relu;
use rectiflow_nn::Tensor;

/// The critic's loss: half of `mean(max(0, 1 - real)) + mean(max(0, 1 + made))`, one number.
///
/// `real` and `made` are its words on real and on made pictures, of any shape.
pub fn critic_loss(real: Tensor<4>, made: Tensor<4>) -> Tensor<1> {
    (relu(-real + 1.0).mean() + relu(made + 1.0).mean()) / 2.0
}

/// What the critic costs the network that made the pictures: `-mean(made)`, one number.
pub fn generator_loss(made: Tensor<4>) -> Tensor<1> {
    -made.mean()
}

/// The weight of [`generator_loss`]: `scale * clamp(reconstruction / (generator + 1e-4), 0, 1e4)`.
///
/// Both are norms of a loss' gradient at the weight of the network's last layer, each loss by itself; `scale` is 0.5 in
/// the reference.
pub fn adaptive_weight(reconstruction_norm: f32, generator_norm: f32, scale: f32) -> f32 {
    (reconstruction_norm / (generator_norm + 1e-4)).clamp(0.0, 1e4) * scale
}
