//! Convolution, the group norm that stands before nearly every one of them, and the gradients of both.
//!
//! Letters: B batch, H and W pixels, C channels in, O channels out.
//!
//! A convolution is a product whose rows are pixels. The picture is first gathered as `[B, H', W', C]` with a border
//! of zeros, rounded to the factor's type; on the way it can be normed, activated and doubled in size. Every tap of
//! the window is then the same rows, a fixed distance away, so nothing is copied for each tap. Results are
//! `[B, H, W, O]`.

mod backward;
mod bound;
mod convolution;
mod depthwise;
mod gather;
mod group_norm;

pub use backward::{NormOf, bias_gradient, convolve_input_gradient, convolve_weight_gradient, gather_gradient};
pub use bound::{bound, bound_gradient};
pub use convolution::{ConvShape, Convolved, Window, convolve};
pub use depthwise::Depthwise;
pub use gather::{Gather, Picture, ScaleShift, gathered_picture};
pub use group_norm::{GroupStatistics, PictureSums, group_statistics};

#[cfg(test)]
mod tests;
