use rectiflow_nn::Tensor;

use crate::{SampleError, Velocity};

/// `x' = x + (sigma' - sigma) v(x, sigma)`.
pub(super) fn step(
    model: &mut impl Velocity,
    latent: Tensor<4>,
    sigma: f32,
    sigma_next: f32,
) -> Result<Tensor<4>, SampleError> {
    let velocity = model.velocity(&latent, sigma)?;
    Ok(latent + velocity * (f64::from(sigma_next) - f64::from(sigma)))
}
