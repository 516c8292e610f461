use rectiflow_nn::Tensor;

use super::euler;
use crate::{SampleError, Velocity};

/// Euler's step predicts, the mean of the velocities at both ends corrects (the trapezoid rule):
/// `x' = x + (sigma' - sigma) (v(x, sigma) + v(x_euler, sigma')) / 2`.
///
/// The step to noise level 0 is Euler's: models are not trained there (Karras et al. 2022, arXiv:2206.00364,
/// algorithm 1, does the same).
pub(super) fn step(
    model: &mut impl Velocity,
    latent: Tensor<4>,
    sigma: f32,
    sigma_next: f32,
) -> Result<Tensor<4>, SampleError> {
    if sigma_next == 0.0 {
        return euler::step(model, latent, sigma, sigma_next);
    }
    let width = f64::from(sigma_next) - f64::from(sigma);
    let velocity = model.velocity(&latent, sigma)?;
    let predicted = latent.clone() + velocity.clone() * width;
    let velocity_next = model.velocity(&predicted, sigma_next)?;
    Ok(latent + (velocity + velocity_next) * (width / 2.0))
}
