//! Encoder, decoder and the latent's normalisation.
//!
//! From scratch, convolutions and the attention's products start as PyTorch's own do ([`Init::by_fan_in`]), weights and
//! biases alike, and norms at 1 and 0: latent-diffusion and generative-models, whose recipe is the only public one,
//! initialise nothing themselves.
//!
//! [`Init::by_fan_in`]: rectiflow_nn::Init::by_fan_in
//!
//! Shape letters: B batch, Z latent channels, H and W pixels; h and w latent pixels.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Conv2d, GroupNorm};
use rectiflow_nn::ops::{Before, Window};
use rectiflow_nn::{Module, Params, Tensor, to_f32};

use crate::VaeConfig;
use crate::blocks::{Middle, ResnetBlock, norm, on_stream};
use crate::memory::{Decoding, LEVELS_IN_STRIPS, STRIP_ROWS};
use crate::posterior::Posterior;
use crate::strips::InStrips;

/// The autoencoder. Its latents, as the transformer sees them, have mean 0 and deviation 1.
#[derive(Module, Debug)]
pub struct Vae {
    encoder: Encoder,
    decoder: Decoder,
    #[module(skip)]
    config: VaeConfig,
}

impl Vae {
    /// Builds the autoencoder; `params` is the root of the official names (`encoder`, `decoder`).
    ///
    /// A new one does not start as PyTorch's layers would. They make a signal `sqrt(3)` times smaller in each of the dozen
    /// layers that a flat colour has to go through, and random residual branches drown what is left: shapes are learned
    /// at once, and colours thousands of steps later. Here the convolutions between picture and latent keep the size of
    /// what goes through them, and residual blocks start as nothing.
    pub fn new(config: &VaeConfig, mut params: Params<'_>) -> Self {
        Vae {
            encoder: Encoder::new(config, params.at("encoder")),
            decoder: Decoder::new(config, params.at("decoder")),
            config: config.clone(),
        }
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// picture `[B, 3, H, W]` in -1..1, H and W multiples of the downsampling.
    pub fn encode(&self, picture_B3HW: Tensor<4>) -> Posterior {
        Posterior::of_moments(self.encoder.forward(picture_B3HW))
    }

    /// latent `[B, Z, h, w]` as [`Self::normalise`] gives it. Returns a picture `[B, 3, H, W]`, about -1..1.
    pub fn decode(&self, latent_BZhw: Tensor<4>) -> Tensor<4> {
        let raw = latent_BZhw / self.config.latent_scale + self.config.latent_offset;
        self.decoder.forward(raw)
    }

    /// The same picture, with the memory that `decoding` takes ([`VaeConfig::decode_bytes`]).
    pub fn decode_as(&self, latent_BZhw: Tensor<4>, decoding: Decoding) -> Tensor<4> {
        match decoding {
            Decoding::Whole => self.decode(latent_BZhw),
            Decoding::InStrips => self.decode_in_strips(latent_BZhw, STRIP_ROWS),
        }
    }

    /// [`Self::decode`] in strips of `rows` rows, at least 1; fewer need less memory and more work.
    pub fn decode_in_strips(&self, latent_BZhw: Tensor<4>, rows: usize) -> Tensor<4> {
        let [batch, _, height, width] = latent_BZhw.dims();
        let pixels = batch * height * width * self.config.downsampling().pow(2);
        let raw = latent_BZhw / self.config.latent_scale + self.config.latent_offset;
        self.decoder.forward_in_strips(raw, rows, self.config.held_max(pixels as u64) as usize)
    }

    /// What the decoder's last norm and convolution, [`Self::finish`], take from a latent as the posterior gives it,
    /// not normalised: `[B, C, H, W]`, C the width of the largest level.
    ///
    /// `finish(decode_to_last(raw))` is the decode that training needs: the norm of a loss' gradient at the last layer
    /// weighs a critic, and is cheap where the two are apart ([`Self::last_gradient_norm`]).
    pub fn decode_to_last(&self, raw_BZhw: Tensor<4>) -> Tensor<4> {
        self.decoder.to_last(raw_BZhw)
    }

    /// The decoder's last norm and convolution. Returns a picture `[B, 3, H, W]`, about -1..1.
    pub fn finish(&self, features_BCHW: Tensor<4>) -> Tensor<4> {
        self.decoder.finish(features_BCHW)
    }

    /// The norm of a loss' gradient at the weight of the decoder's last convolution.
    ///
    /// features as [`Self::decode_to_last`] gave them; `gradient_B3HW` is the loss' at the picture that
    /// [`Self::finish`] made of them. A backward pass of the last layer alone. 0 where that weight does not learn.
    pub fn last_gradient_norm(&self, features_BCHW: &Tensor<4>, gradient_B3HW: Tensor<4>) -> f32 {
        let picture_B3HW = self.decoder.finish(features_BCHW.clone().detach());
        let gradients = (picture_B3HW * gradient_B3HW.detach()).sum().backward();
        self.decoder
            .conv_out
            .weight_gradient(&gradients)
            .map_or(0.0, |of_weight| to_f32(&of_weight.square().sum())[0].sqrt())
    }

    /// `(z - latent_offset) * latent_scale`: what the transformer is trained on.
    pub fn normalise(&self, raw_BZhw: Tensor<4>) -> Tensor<4> {
        (raw_BZhw - self.config.latent_offset) * self.config.latent_scale
    }
}

#[derive(Module, Debug)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The residual blocks of one size, and the step to the next.
#[derive(Module, Debug)]
struct Level {
    blocks: Vec<ResnetBlock>,
    resample: Option<Conv2d>,
}

impl Level {
    /// The blocks alone.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.blocks.iter().fold(x, |x, block| block.forward(x))
    }
}

/// Twice the size, and a convolution of that.
fn double(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    conv.forward_after(Before { doubled: true, ..Before::default() }, x, None)
}

impl Encoder {
    fn new(config: &VaeConfig, mut params: Params<'_>) -> Self {
        let widths = &config.widths;
        let last = widths.len() - 1;
        let mut down = params.at("down");
        let mut width = widths[0];
        let mut levels = Vec::new();
        for (i, &width_out) in widths.iter().enumerate() {
            let mut place = down.at(i);
            let blocks = residual_blocks(&mut place, config.blocks, [width, width_out], config.groups);
            let resample =
                (i < last).then(|| on_stream(place.at("downsample").at("conv"), [width_out; 2], 3, Window::Halve));
            levels.push(Level { blocks, resample });
            width = width_out;
        }
        Encoder {
            conv_in: on_stream(params.at("conv_in"), [3, widths[0]], 3, Window::Same),
            levels,
            middle: Middle::new(params.at("mid"), width, config.groups),
            norm_out: norm(params.at("norm_out"), width, config.groups),
            conv_out: on_stream(params.at("conv_out"), [width, 2 * config.latent_channels], 3, Window::Same),
        }
    }

    fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(picture);
        for level in &self.levels {
            x = level.forward(x);
            if let Some(halve) = &level.resample {
                x = halve.forward(x);
            }
        }
        self.conv_out.forward_after(self.norm_out.then_silu(), self.middle.forward(x), None)
    }
}

#[derive(Module, Debug)]
struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    /// In the order they run: the smallest pictures first.
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(config: &VaeConfig, mut params: Params<'_>) -> Self {
        let widths = &config.widths;
        let deepest = widths[widths.len() - 1];
        let mut up = params.at("up");
        let mut width = deepest;
        let mut levels = Vec::new();
        for (i, &width_out) in widths.iter().enumerate().rev() {
            let mut place = up.at(i);
            let blocks = residual_blocks(&mut place, config.blocks + 1, [width, width_out], config.groups);
            let resample = (i > 0).then(|| on_stream(place.at("upsample").at("conv"), [width_out; 2], 3, Window::Same));
            levels.push(Level { blocks, resample });
            width = width_out;
        }
        Decoder {
            conv_in: on_stream(params.at("conv_in"), [config.latent_channels, deepest], 3, Window::Same),
            middle: Middle::new(params.at("mid"), deepest, config.groups),
            levels,
            norm_out: norm(params.at("norm_out"), width, config.groups),
            conv_out: on_stream(params.at("conv_out"), [width, 3], 3, Window::Same),
        }
    }

    fn forward(&self, latent: Tensor<4>) -> Tensor<4> {
        self.finish(self.to_last(latent))
    }

    fn to_last(&self, latent: Tensor<4>) -> Tensor<4> {
        let mut x = self.middle.forward(self.conv_in.forward(latent));
        for level in &self.levels {
            x = level.forward(x);
            if let Some(conv) = &level.resample {
                x = double(conv, x);
            }
        }
        x
    }

    fn finish(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv_out.forward_after(self.norm_out.then_silu(), x, None)
    }

    /// The same; the last levels and the doubling before them in strips, of which no more than `len_max` numbers are
    /// held.
    fn forward_in_strips(&self, latent: Tensor<4>, rows: usize, len_max: usize) -> Tensor<4> {
        let (whole, in_strips) = self.levels.split_at(self.levels.len().saturating_sub(LEVELS_IN_STRIPS));
        let mut x = self.middle.forward(self.conv_in.forward(latent));
        let mut doubling = None;
        for level in whole {
            if let Some(conv) = doubling {
                x = double(conv, x);
            }
            x = level.forward(x);
            doubling = level.resample.as_ref();
        }
        let mut strips = InStrips::new(x, rows, len_max);
        for level in in_strips {
            if let Some(conv) = doubling {
                strips.double(conv);
            }
            level.blocks.iter().for_each(|block| strips.block(block));
            doubling = level.resample.as_ref();
        }
        strips.finish(&self.norm_out, &self.conv_out)
    }
}

/// The blocks of a level; only the first changes the width.
fn residual_blocks(
    place: &mut Params<'_>,
    count: usize,
    [width_in, width_out]: [usize; 2],
    groups: usize,
) -> Vec<ResnetBlock> {
    let mut block = place.at("block");
    (0..count)
        .map(|j| ResnetBlock::new(block.at(j), [if j == 0 { width_in } else { width_out }, width_out], groups))
        .collect()
}
