//! Solvers that go below the next level and put fresh noise on: Euler ancestral and LCM.

use rectiflow_nn::Tensor;

use super::stepper::{At, Stepper};
use crate::{SampleError, Velocity};

/// Euler's step to below the next level, and noise up to it, for rectified flow, with eta 1 (ComfyUI's
/// `euler_ancestral` for such models; diffusers' `LTXEulerAncestralRFScheduler`).
///
/// The level below is `sigma'^2 / sigma`; a picture's part there, `1 - sigma_down`, is scaled to that of the next level,
/// and fresh noise makes up for what then lacks.
pub(super) struct EulerAncestral;

/// The denoised latent, made noisy again by fresh noise: for models that were distilled to say at once what they
/// say in the end (diffusers' `FlowMatchLCMScheduler`).
pub(super) struct Lcm;

impl Stepper for EulerAncestral {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let (sigma, sigma_next) = (f64::from(at.sigma), f64::from(at.sigma_next));
        let velocity = model.velocity(&latent, at.sigma)?;
        if sigma_next == 0.0 {
            return Ok(latent + velocity * at.width());
        }
        let down = sigma_next * sigma_next / sigma;
        let scale = (1.0 - sigma_next) / (1.0 - down);
        let fresh = (sigma_next.powi(2) - (down * scale).powi(2)).max(0.0).sqrt();
        Ok((latent + velocity * (down - sigma)) * scale + at.drawn() * fresh)
    }
}

impl Stepper for Lcm {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let sigma_next = f64::from(at.sigma_next);
        let denoised = latent.clone() - model.velocity(&latent, at.sigma)? * at.sigma;
        if sigma_next == 0.0 {
            return Ok(denoised);
        }
        Ok(denoised * (1.0 - sigma_next) + at.drawn() * sigma_next)
    }
}
