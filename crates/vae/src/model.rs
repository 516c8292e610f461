//! Encoder, decoder and the latent's normalisation.
//!
//! Shape letters: B batch, Z latent channels, H and W pixels; h and w latent pixels.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Conv2d, GroupNorm};
use rectiflow_nn::ops::{Before, Window};
use rectiflow_nn::{Module, Params, Tensor};

use crate::VaeConfig;
use crate::blocks::{Middle, ResnetBlock, norm};

/// The autoencoder. Its latents, as the transformer sees them, have mean 0 and deviation 1.
#[derive(Module, Debug)]
pub struct Vae {
    encoder: Encoder,
    decoder: Decoder,
    #[module(skip)]
    config: VaeConfig,
}

/// The distribution of a picture's latent, before normalisation.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// `[B, Z, h, w]`.
    pub mean: Tensor<4>,
    /// Logarithm of the variance, within -30..20. `[B, Z, h, w]`.
    pub log_variance: Tensor<4>,
}

impl Vae {
    /// Builds the autoencoder; `params` is the root of the official names (`encoder`, `decoder`).
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
        let moments = self.encoder.forward(picture_B3HW);
        let channels = self.config.latent_channels;
        Posterior {
            mean: moments.clone().narrow(1, 0, channels),
            log_variance: moments.narrow(1, channels, channels).clamp(-30.0, 20.0),
        }
    }

    /// latent `[B, Z, h, w]` as [`Self::normalise`] gives it. Returns a picture `[B, 3, H, W]`, about -1..1.
    pub fn decode(&self, latent_BZhw: Tensor<4>) -> Tensor<4> {
        let raw = latent_BZhw / self.config.latent_scale + self.config.latent_offset;
        self.decoder.forward(raw)
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
                (i < last).then(|| Conv2d::new(place.at("downsample").at("conv"), [width_out; 2], 3, Window::Halve));
            levels.push(Level { blocks, resample });
            width = width_out;
        }
        Encoder {
            conv_in: Conv2d::new(params.at("conv_in"), [3, widths[0]], 3, Window::Same),
            levels,
            middle: Middle::new(params.at("mid"), width, config.groups),
            norm_out: norm(params.at("norm_out"), width, config.groups),
            conv_out: Conv2d::new(params.at("conv_out"), [width, 2 * config.latent_channels], 3, Window::Same),
        }
    }

    fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(picture);
        for level in &self.levels {
            x = level.blocks.iter().fold(x, |x, block| block.forward(x));
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
            let resample =
                (i > 0).then(|| Conv2d::new(place.at("upsample").at("conv"), [width_out; 2], 3, Window::Same));
            levels.push(Level { blocks, resample });
            width = width_out;
        }
        Decoder {
            conv_in: Conv2d::new(params.at("conv_in"), [config.latent_channels, deepest], 3, Window::Same),
            middle: Middle::new(params.at("mid"), deepest, config.groups),
            levels,
            norm_out: norm(params.at("norm_out"), width, config.groups),
            conv_out: Conv2d::new(params.at("conv_out"), [width, 3], 3, Window::Same),
        }
    }

    fn forward(&self, latent: Tensor<4>) -> Tensor<4> {
        let mut x = self.middle.forward(self.conv_in.forward(latent));
        for level in &self.levels {
            x = level.blocks.iter().fold(x, |x, block| block.forward(x));
            if let Some(conv) = &level.resample {
                x = conv.forward_after(Before { doubled: true, ..Before::default() }, x, None);
            }
        }
        self.conv_out.forward_after(self.norm_out.then_silu(), x, None)
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
