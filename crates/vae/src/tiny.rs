//! A decoder that is fifty times smaller than the autoencoder's and draws nearly the same: TAESD3.
//!
//! Source: `DecoderTiny` in diffusers, after `taesd.py` in madebyollin/taesd. Its latents are those that the transformer
//! gives, not normalised back. Tensor names are those of `taesd3_decoder.safetensors`: numbers of `nn.Sequential`.
//!
//! What this module does not do: encode, or train.
//!
//! Shape letters: B batch, Z latent channels, C width, H and W pixels; h and w latent pixels.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::Conv2d;
use rectiflow_nn::ops::{self, Before, Window};
use rectiflow_nn::{Init, Module, ParamSource, Params, Tensor};

/// Three doublings, with three blocks before each.
const LEVELS: usize = 3;
const BLOCKS: usize = 3;
/// Latents are bounded to this, smoothly.
const LATENT_MAX: f64 = 3.0;
/// No released one is a hundredth as wide.
const WIDTH_MAX: usize = 1 << 13;

/// The sizes of a tiny decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TinyConfig {
    /// Channels of a latent: 16.
    pub latent_channels: usize,
    /// Channels of all that is between: 64.
    pub width: usize,
}

/// The tensors are not those of a tiny decoder.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a tiny decoder such as TAESD3's: `{FIRST}.weight` {what}\n\
     hint: give `taesd3_decoder.safetensors`, or the diffusers file of madebyollin/taesd3"
)]
pub struct TinyError {
    what: String,
}

/// The first convolution's place; before it latents are bounded.
const FIRST: usize = 1;

impl TinyConfig {
    /// The sizes that the tensors have.
    ///
    /// # Errors
    /// They are of something else.
    pub fn find(source: &dyn ParamSource) -> Result<TinyConfig, TinyError> {
        let shape = source.shape(&format!("{FIRST}.weight")).ok_or(TinyError { what: "is missing".into() })?;
        match shape[..] {
            [width, latent_channels, 3, 3] if (1..=WIDTH_MAX).contains(&width) && latent_channels <= WIDTH_MAX => {
                Ok(TinyConfig { latent_channels, width })
            }
            _ => Err(TinyError { what: format!("has shape {shape:?}") }),
        }
    }
}

/// The decoder.
#[derive(Module, Debug)]
pub struct TinyDecoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    last: Block,
    conv_out: Conv2d,
}

/// Blocks, and the convolution after doubling.
#[derive(Module, Debug)]
struct Level {
    blocks: Vec<Block>,
    doubling: Conv2d,
}

/// Three convolutions beside what they are added to.
#[derive(Module, Debug)]
struct Block {
    convs: Vec<Conv2d>,
}

impl TinyDecoder {
    /// Builds the decoder; `params` is the root of the names.
    pub fn new(config: TinyConfig, mut params: Params<'_>) -> Self {
        let TinyConfig { latent_channels, width } = config;
        let convolution = |params: Params<'_>, channels| Conv2d::by_fan_in(params, channels, 3, Window::Same);
        let conv_in = convolution(params.at(FIRST), [latent_channels, width]);
        // What stands between has places of its own: an activation behind the first, a doubling before each third.
        let mut place = FIRST + 2;
        let levels = (0..LEVELS).map(|_| {
            let blocks = (0..BLOCKS).map(|block| Block::new(params.at(place + block), width)).collect();
            place += BLOCKS + 1;
            let init = Init::by_fan_in(width * 9);
            let doubling = Conv2d::without_bias(params.at(place), [width; 2], 3, Window::Same, init);
            place += 1;
            Level { blocks, doubling }
        });
        let levels = levels.collect();
        let last = Block::new(params.at(place), width);
        TinyDecoder { conv_in, levels, last, conv_out: convolution(params.at(place + 1), [width, 3]) }
    }

    /// latent `[B, Z, h, w]` as the transformer gives it. Returns a picture `[B, 3, H, W]`, about -1..1.
    pub fn decode(&self, latent_BZhw: Tensor<4>) -> Tensor<4> {
        let bounded = (latent_BZhw / LATENT_MAX).tanh() * LATENT_MAX;
        let mut x_BCHW = relu(self.conv_in.forward(bounded));
        for level in &self.levels {
            x_BCHW = level.blocks.iter().fold(x_BCHW, |x, block| block.forward(x));
            x_BCHW = level.doubling.forward_after(Before { doubled: true, ..Before::default() }, x_BCHW, None);
        }
        self.conv_out.forward(self.last.forward(x_BCHW)) * 2.0 - 1.0
    }
}

impl Block {
    fn new(mut params: Params<'_>, width: usize) -> Self {
        let mut conv = params.at("conv");
        // Activations have the numbers between.
        let convs = [0, 2, 4].map(|place| Conv2d::by_fan_in(conv.at(place), [width; 2], 3, Window::Same));
        Block { convs: convs.into() }
    }

    fn forward(&self, x_BCHW: Tensor<4>) -> Tensor<4> {
        let [first, second, third] = &self.convs[..] else { unreachable!("three were built") };
        let inner = relu(second.forward(relu(first.forward(x_BCHW.clone()))));
        relu(third.forward_after(Before::default(), inner, Some(x_BCHW)))
    }
}

fn relu(x: Tensor<4>) -> Tensor<4> {
    ops::bounded(x, [0.0, f32::INFINITY])
}
