//! What the encoder and the decoder are made of.
//!
//! Shape letters: B batch, C channels, H and W pixels of the level.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Conv2d, GroupNorm, Linear};
use rectiflow_nn::ops::{self, AttentionBias, Before, Qkv, Window};
use rectiflow_nn::{Init, Module, Params, Precision, Tensor};

const EPS: f64 = 1e-6;

/// A norm with the autoencoder's groups and epsilon.
pub(crate) fn norm(params: Params<'_>, channels: usize, groups: usize) -> GroupNorm {
    GroupNorm::new(params, channels, groups, EPS)
}

/// A convolution that everything goes through, from the picture to the latent and back. It starts with outputs as large
/// as its inputs: [`Vae::new`](crate::Vae::new) says why.
pub(crate) fn on_stream(params: Params<'_>, channels: [usize; 2], kernel: usize, window: Window) -> Conv2d {
    let inits = [Init::keeping_size(channels[0] * kernel * kernel), Init::Zeros];
    Conv2d::starting(params, channels, kernel, window, inits)
}

/// Two convolutions and a shortcut.
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(crate) fn new(mut params: Params<'_>, [width_in, width_out]: [usize; 2], groups: usize) -> Self {
        ResnetBlock {
            norm1: norm(params.at("norm1"), width_in, groups),
            conv1: Conv2d::by_fan_in(params.at("conv1"), [width_in, width_out], 3, Window::Same),
            norm2: norm(params.at("norm2"), width_out, groups),
            conv2: Conv2d::starting(params.at("conv2"), [width_out, width_out], 3, Window::Same, [Init::Zeros; 2]),
            shortcut: (width_in != width_out)
                .then(|| on_stream(params.at("nin_shortcut"), [width_in, width_out], 1, Window::Same)),
        }
    }

    pub(crate) fn forward(&self, x_BCHW: Tensor<4>) -> Tensor<4> {
        let hidden = self.first(x_BCHW.clone(), self.norm1.then_silu());
        self.second(hidden, x_BCHW, self.norm2.then_silu())
    }

    /// The first convolution.
    pub(crate) fn first(&self, x_BCHW: Tensor<4>, norm: Before) -> Tensor<4> {
        self.conv1.forward_after(norm, x_BCHW, None)
    }

    /// The second one, beside the shortcut. x is gone before it begins.
    pub(crate) fn second(&self, hidden: Tensor<4>, x_BCHW: Tensor<4>, norm: Before) -> Tensor<4> {
        let skipped = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x_BCHW),
            None => x_BCHW,
        };
        self.conv2.forward_after(norm, hidden, Some(skipped))
    }

    /// Those of the first and of the second convolution.
    pub(crate) fn norms(&self) -> [&GroupNorm; 2] {
        [&self.norm1, &self.norm2]
    }
}

/// Attention of every pixel to every pixel, one head as wide as the level.
#[derive(Module, Debug)]
pub(crate) struct PixelAttention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    proj_out: Linear,
    #[module(skip)]
    precision: Precision,
}

impl PixelAttention {
    pub(crate) fn new(mut params: Params<'_>, width: usize, groups: usize) -> Self {
        let precision = params.precision();
        // Stored as 1x1 convolutions; a product over channels is the same thing.
        let mut product = |name| Linear::by_fan_in(params.at(name), width, width);
        let [q, k, v, proj_out] = ["q", "k", "v", "proj_out"].map(&mut product);
        PixelAttention { norm: norm(params.at("norm"), width, groups), q, k, v, proj_out, precision }
    }

    pub(crate) fn forward(&self, x_BCHW: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x_BCHW.dims();
        let tokens_BLC = self.norm.forward(x_BCHW.clone()).flatten::<3>(2, 3).swap_dims(1, 2);
        let [q, k, v] =
            [&self.q, &self.k, &self.v].map(|product| product.forward_factor(tokens_BLC.clone()).unsqueeze_dim(2));
        let scale = (channels as f64).powf(-0.5);
        let [mixed_BLC] = ops::attention([Qkv::Apart { q, k, v }], scale, AttentionBias::None, self.precision);
        let mixed_BLC = self.proj_out.forward(mixed_BLC);
        x_BCHW + mixed_BLC.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}

/// The deepest level: residual, attention, residual.
#[derive(Module, Debug)]
pub(crate) struct Middle {
    block_1: ResnetBlock,
    attn_1: PixelAttention,
    block_2: ResnetBlock,
}

impl Middle {
    pub(crate) fn new(mut params: Params<'_>, width: usize, groups: usize) -> Self {
        Middle {
            block_1: ResnetBlock::new(params.at("block_1"), [width, width], groups),
            attn_1: PixelAttention::new(params.at("attn_1"), width, groups),
            block_2: ResnetBlock::new(params.at("block_2"), [width, width], groups),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.block_2.forward(self.attn_1.forward(self.block_1.forward(x)))
    }
}
