//! Gradients of a convolution, and of what is done to a picture on its way into one.
//!
//! Gradients of results come as `[B, H', W', O]` in f32, as results themselves. The two products round their factors
//! as the forward product does, and sum in f32. Nothing of the forward pass is needed but its input and the
//! [statistics](super::GroupStatistics) of its norm: the gathered picture is made again.
//!
//! What this module does not do: the gradient of a residual, which is the result's own.

mod front;
mod input;
mod weight;

pub use front::{NormOf, gather_gradient};
pub(super) use input::InputGradient;
pub use input::convolve_input_gradient;
pub(super) use weight::WeightGradient;
pub use weight::{bias_gradient, convolve_weight_gradient};

/// Pixels whose sums are taken in f32 before they go on in f64.
const PIXELS_AT_ONCE: usize = 256;

#[cfg(test)]
mod tests;
