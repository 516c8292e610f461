use rectiflow_nn::Tensor;

use super::stepper::{At, Stepper};
use crate::{SampleError, Velocity};

/// `x' = x + (sigma' - sigma) v(x, sigma)`.
pub(super) struct Euler;

impl Stepper for Euler {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let velocity = model.velocity(&latent, at.sigma)?;
        Ok(latent + velocity * at.width())
    }
}
