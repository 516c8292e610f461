//! The distribution of a picture's latent.
//!
//! Shape letters: B batch, Z latent channels, h and w latent pixels.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::Tensor;

/// The distribution of a picture's latent, before normalisation: a normal one in each number.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// `[B, Z, h, w]`.
    pub mean: Tensor<4>,
    /// Logarithm of the variance, within -30..20. `[B, Z, h, w]`.
    pub log_variance: Tensor<4>,
}

impl Posterior {
    /// Of what an encoder gives, `[B, 2 Z, h, w]`: means, then logarithms of variances, which are clamped.
    pub(crate) fn of_moments(moments: Tensor<4>) -> Self {
        let channels = moments.dims()[1] / 2;
        Posterior {
            mean: moments.clone().narrow(1, 0, channels),
            log_variance: moments.narrow(1, channels, channels).clamp(-30.0, 20.0),
        }
    }

    /// The same values where gradients are tracked, of what comes after.
    #[must_use]
    pub fn tracked(self) -> Self {
        Posterior { mean: Tensor::from_inner(self.mean), log_variance: Tensor::from_inner(self.log_variance) }
    }

    /// `mean + exp(log_variance / 2) noise`, a latent that is not normalised. Standard normal noise `[B, Z, h, w]`.
    pub fn sample(&self, noise_BZhw: Tensor<4>) -> Tensor<4> {
        assert_eq!(noise_BZhw.dims(), self.mean.dims(), "noise for a posterior");
        self.mean.clone() + (self.log_variance.clone() / 2.0).exp() * noise_BZhw
    }

    /// The divergence from a standard normal distribution, `sum(mean^2 + variance - 1 - ln variance) / 2` over a
    /// picture's latent, in nats. Returns `[B]`.
    ///
    /// Source: `DiagonalGaussianDistribution.kl` in latent-diffusion.
    pub fn divergence(&self) -> Tensor<1> {
        let terms = self.mean.clone().square() + self.log_variance.clone().exp() - self.log_variance.clone() - 1.0;
        terms.flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1) / 2.0
    }
}
