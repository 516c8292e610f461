//! Depthwise convolutions and their gradients.

use burn::tensor::Tensor;
use rectiflow_kernels::Buffer;
use rectiflow_kernels::picture::Depthwise;

use super::super::Apart;
use super::convolution::{from_stored, last_channels, pixels};
use super::{Floats, Result, Stored, isa, stored};

/// A picture's pixels `[B, H, W, C]`, the windows of all channels `[K, K, C, 1]`, and how they move.
#[derive(Debug)]
pub(in super::super) struct Windows {
    pub(in super::super) x: Floats,
    pub(in super::super) weight: Floats,
    pub(in super::super) apart: Apart,
}

impl Windows {
    /// x `[B, C, H, W]`, weight `[C, 1, K, K]`.
    pub(in super::super) fn new(x: Stored, weight: Stored, apart: Apart) -> Self {
        Windows { x: pixels(x), weight: Floats::new(weight.permute(&[2, 3, 0, 1])), apart }
    }

    fn sizes(&self) -> Depthwise {
        let (x, weight) = (self.x.shape(), self.weight.shape());
        assert_eq!(x[3], weight[2], "channels of a depthwise convolution");
        let Apart { stride, border } = self.apart;
        Depthwise { picture: [x[0], x[1], x[2], x[3]], kernel: weight[0], stride, border }
    }

    /// `[B, C, H', W']`. bias `[C]`.
    pub(in super::super) fn forward(&self, bias: &Floats) -> Stored {
        let sizes = self.sizes();
        let ([batch, _, _, channels], [lines, columns]) = (sizes.picture, sizes.size_out());
        let mut out = Buffer::<f32>::reused(batch * lines * columns * channels);
        sizes.forward(isa(), self.x.get(), self.weight.get(), bias.get(), &mut out);
        last_channels(out, [batch, channels, lines, columns])
    }

    /// `[B, C, H, W]`, from the result's, channels last.
    pub(in super::super) fn input_gradient(&self, gradient: &Floats) -> Stored {
        let sizes = self.sizes();
        let [batch, height, width, channels] = sizes.picture;
        let mut out = Buffer::<f32>::reused(batch * height * width * channels);
        sizes.input_gradient(isa(), self.weight.get(), gradient.get(), &mut out);
        last_channels(out, [batch, channels, height, width])
    }

    /// `[C, 1, K, K]`, from the result's, channels last.
    pub(in super::super) fn weight_gradient(&self, gradient: &Floats) -> Stored {
        let (sizes, shape) = (self.sizes(), self.weight.shape());
        let mut out = Buffer::<f32>::reused(self.weight.get().len());
        sizes.weight_gradient(isa(), self.x.get(), gradient.get(), &mut out);
        Result::F32(out).stored(shape).permute(&[2, 3, 0, 1])
    }
}

/// [`crate::ops::depthwise_conv2d`].
pub(in super::super) fn depthwise_conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, apart: Apart) -> Tensor<4> {
    from_stored(Windows::new(stored(x), stored(weight), apart).forward(&Floats::of(bias)))
}
