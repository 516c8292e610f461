use rectiflow_nn::Tensor;

use crate::SampleError;

/// Anything with a velocity field: a prompted model, a guided model, a closed form in a test.
pub trait Velocity {
    /// d latent / d sigma at noise level `sigma`.
    ///
    /// latent: `[B, 16, H, W]`.  sigma: in (0, 1], 1 = noise, for the whole batch; no solver asks at 0.
    /// Returns the latent's shape.
    ///
    /// # Errors
    /// The model failed; the solver stops and passes the error on.
    fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError>;
}
