use rectiflow_nn::Tensor;

use super::stepper::{At, History, Stepper};
use crate::{SampleError, Velocity};

/// DEIS (Zhang and Chen 2022, arXiv:2204.13902), order 2, with the noise as a line of `ln rho`, `rho = sigma / (1 -
/// sigma)`: what diffusers' `DEISMultistepScheduler` is by default.
///
/// `x' / (1 - sigma') = x / (1 - sigma) + integral of the noise over rho`. The first step, the one from pure noise, where
/// `rho` is infinite, and the last are Euler's, which is the same with a noise that does not change.
#[derive(Default)]
pub(super) struct Deis(History);

/// The integral over `rho`, from `from` to `to`, of the line of `ln rho` that is 1 at `one` and 0 at `zero`.
fn integral(from: f64, to: f64, one: f64, zero: f64) -> f64 {
    let primitive = |rho: f64| rho * (rho.ln() - zero.ln() - 1.0) / (one.ln() - zero.ln());
    primitive(to) - primitive(from)
}

impl Stepper for Deis {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let image = 1.0 - f64::from(at.sigma);
        let velocity = model.velocity(&latent, at.sigma)?;
        let noise = latent.clone() + velocity.clone() * image;
        let next = match self.0.get(0) {
            Some(before) if at.left > 0 && before.sigma < 1.0 => {
                let rho = |sigma: f32| f64::from(sigma) / (1.0 - f64::from(sigma));
                let (from, to, earlier) = (rho(at.sigma), rho(at.sigma_next), rho(before.sigma));
                let moved = noise.clone() * integral(from, to, from, earlier)
                    + before.value.clone() * integral(from, to, earlier, from);
                (latent / image + moved) * (1.0 - f64::from(at.sigma_next))
            }
            _ => latent + velocity * at.width(),
        };
        self.0.push(at.sigma, noise, 1);
        Ok(next)
    }
}
