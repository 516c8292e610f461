use rectiflow_nn::Tensor;

use super::stepper::{At, History, Past, Stepper};
use crate::{SampleError, Velocity};

/// DPM-Solver++(2M), Lu et al. 2022, arXiv:2211.01095, algorithm 2, with `-ln sigma` as the variable, as in the
/// SD3.5 reference (`sample_dpmpp_2m` in Stability-AI/sd3.5 `sd3_impls.py`).
///
/// With `D = x - sigma v` the denoised latent, rectified flow's `dx/dsigma = (x - D) / sigma` reads like the
/// equation of variance-exploding diffusion, whose half log-SNR is `-ln sigma`. So that variable, though not
/// rectified flow's own log-SNR, loses no order: the rest `D` is integrated to second order in it.
///
/// `x' = (sigma'/sigma) x + (1 - sigma'/sigma) D*`, where `D*` is `D` carried half a step ahead along the line
/// through it and the `D` before. The first step, which has none before, and the last, which is infinitely wide
/// in `-ln sigma`, take `D* = D`: Euler's step.
#[derive(Default)]
pub(super) struct Dpmpp2m(History);

impl Stepper for Dpmpp2m {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let denoised = latent.clone() - model.velocity(&latent, at.sigma)? * at.sigma;
        let kept = f64::from(at.sigma_next) / f64::from(at.sigma);
        let ahead = match self.0.get(0) {
            Some(Past { sigma, value }) if at.sigma_next > 0.0 => {
                let width_before = (f64::from(*sigma) / f64::from(at.sigma)).ln();
                denoised.clone() + (denoised.clone() - value.clone()) * (-kept.ln() / (2.0 * width_before))
            }
            _ => denoised.clone(),
        };
        self.0.push(at.sigma, denoised, 1);
        Ok(latent * kept + ahead * (1.0 - kept))
    }
}
