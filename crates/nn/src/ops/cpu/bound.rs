//! Pictures kept between two bounds.

use burn::backend::TensorMetadata;
use burn::tensor::Tensor;
use rectiflow_kernels::Buffer;
use rectiflow_kernels::picture::{bound, bound_gradient};

use super::convolution::{from_stored, last_channels, pixels};
use super::{Floats, Stored, isa, stored};

/// x `[B, C, H, W]`.
pub(in super::super) fn bounded(x: Stored, bounds: [f32; 2]) -> Stored {
    let shape = x.shape().dims();
    let x = pixels(x);
    let mut out = Buffer::<f32>::reused(x.get().len());
    bound(isa(), x.get(), bounds, &mut out);
    last_channels(out, shape)
}

/// From the result `[B, C, H, W]` and its gradient.
pub(in super::super) fn bounded_gradient(result: Stored, bounds: [f32; 2], gradient: Stored) -> Stored {
    let shape = result.shape().dims();
    let [result, gradient]: [Floats; 2] = [result, gradient].map(pixels);
    let mut out = Buffer::<f32>::reused(result.get().len());
    bound_gradient(isa(), result.get(), bounds, gradient.get(), &mut out);
    last_channels(out, shape)
}

/// [`crate::ops::bounded`].
pub(in super::super) fn bounded_picture(x_bchw: Tensor<4>, bounds: [f32; 2]) -> Tensor<4> {
    from_stored(bounded(stored(x_bchw), bounds))
}
