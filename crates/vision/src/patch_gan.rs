//! A critic of patches: real or made, for every part of a picture.
//!
//! Source: Isola et al. 2017, arXiv:1611.07004, as `NLayerDiscriminator` of taming-transformers and latent-diffusion;
//! names are those of its checkpoints. Convolutions of 4x4, batch norm between them, LeakyReLU of 0.2.
//!
//! Batch norms always take the mean and variance of the batch that is before them, as in training; running means, which
//! the reference stores and a trainer never reads, are not kept.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::activation::leaky_relu;
use rectiflow_nn::layers::Conv2d;
use rectiflow_nn::ops::{self, GroupNormed, Window, with_border};
use rectiflow_nn::{Init, Module, Param, Params, Tensor};

/// Deviation of convolutions' weights and of norms' weights around 1, at the start: `weights_init` of the reference.
const STD: f32 = 0.02;
const EPS: f64 = 1e-5;
const SLOPE: f64 = 0.2;
const KERNEL: usize = 4;
/// Layers are at most so many times as wide as the first.
const WIDENING_MAX: usize = 8;

/// The critic.
#[derive(Module, Debug)]
pub struct PatchGan {
    first: Conv2d,
    layers: Vec<Layer>,
    last: Conv2d,
}

#[derive(Module, Debug)]
struct Layer {
    conv: Conv2d,
    norm: BatchNorm,
}

/// With the statistics of the batch; `weight` and `bias` `[C]`.
#[derive(Module, Debug)]
struct BatchNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl PatchGan {
    /// For RGB pictures: the first layer is `width` wide (64 in the reference), and `halvings` (3) are the layers that
    /// halve the picture. Each number of the result then sees 70 pixels on a side.
    ///
    /// # Panics
    /// No halvings: a bug of the caller.
    pub fn new(mut params: Params<'_>, width: usize, halvings: usize) -> Self {
        assert!(halvings > 0, "a critic that halves its picture");
        let mut main = params.at("main");
        // The reference leaves biases as PyTorch starts them.
        let biased = |params: Params<'_>, channels: [usize; 2], stride: usize| {
            let inits = [Init::Normal(STD), Init::by_fan_in(channels[0] * KERNEL * KERNEL)];
            Conv2d::starting(params, channels, KERNEL, Window::Inside { stride }, inits)
        };
        let first = biased(main.at(0), [3, width], 2);
        let mut before = width;
        let layers = (1..=halvings).map(|index| {
            let width_out = width * (1 << index).min(WIDENING_MAX);
            let window = Window::Inside { stride: if index < halvings { 2 } else { 1 } };
            // A convolution, a norm and an activation have three numbers in `main`.
            let place = 3 * index - 1;
            let conv = Conv2d::without_bias(main.at(place), [before, width_out], KERNEL, window, Init::Normal(STD));
            before = width_out;
            Layer { conv, norm: BatchNorm::new(main.at(place + 1), width_out) }
        });
        let layers = layers.collect();
        PatchGan { first, layers, last: biased(main.at(3 * halvings + 2), [before, 1], 1) }
    }

    /// How real every patch looks, `[B, 1, H', W']`: above 0 real, below made. picture `[B, 3, H, W]` in -1..1; with
    /// three halvings H' = H / 8 - 2.
    ///
    /// # Panics
    /// A picture that is smaller than the windows: below 24 px on a side with three halvings.
    pub fn forward(&self, picture_B3HW: Tensor<4>) -> Tensor<4> {
        let mut x = leaky_relu(self.first.forward(around(picture_B3HW)), SLOPE);
        for Layer { conv, norm } in &self.layers {
            x = leaky_relu(norm.forward(conv.forward(around(x))), SLOPE);
        }
        self.last.forward(around(x))
    }
}

/// One pixel of zeros on every side.
fn around(x_BCHW: Tensor<4>) -> Tensor<4> {
    with_border(x_BCHW, [[1; 2]; 2])
}

impl BatchNorm {
    fn new(mut params: Params<'_>, channels: usize) -> Self {
        BatchNorm {
            weight: params.param("weight", [channels], Init::NormalAroundOne(STD)),
            bias: params.param("bias", [channels], Init::Zeros),
        }
    }

    fn forward(&self, x_BCHW: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x_BCHW.dims();
        // A group norm of one picture that holds all of them below each other, and each channel a group.
        let below = x_BCHW.permute([0, 2, 3, 1]).reshape([1, batch * height, width, channels]).permute([0, 3, 1, 2]);
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let normed = ops::group_norm(below, GroupNormed { groups: channels, weight, bias, eps: EPS });
        normed.permute([0, 2, 3, 1]).reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
    }
}
