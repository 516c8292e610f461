//! UViT: convolutions where the picture is large, a transformer where it is small, and skips from the way down to the way
//! up.
//!
//! Source: Hoogeboom et al. 2023, "simple diffusion", arXiv:2301.11093, section 3.4, as Esser et al. 2024,
//! arXiv:2403.03206, section 5.2.3, compare with it. There it is of pixels and its text comes otherwise; chosen here: the
//! first level is the latent itself and the transformer has as many image tokens as the other backbones; its blocks are
//! DiT's, with text and picture in one sequence, and the positional grid is added where the picture becomes tokens;
//! residual blocks are modulated by adaLN-Zero, as all else (`x + gate * conv(silu(norm(conv(silu(norm(x)))) * (1 + scale) +
//! shift))`); skips are added, not put beside; convolutions of 3x3 halve, and double after repeating pixels.
//!
//! Shape letters: B batch, C channels of a level, H and W its height and width, L tokens, D width of the transformer.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Conv2d, GroupNorm, Linear};
use rectiflow_nn::ops::{Before, Window, relay, silu};
use rectiflow_nn::{Module, Params, Tensor};

use crate::backbone::{Backbone, BackboneBlock, Streams};
use crate::dit::{DitBlock, image_of};
use crate::ends::{Conditioner, LastLayer, Origin, Positions, patches_of};
use crate::modulation::cut;
use crate::network::BaselineConfig;
use crate::probe::Attending;
use crate::stream::{EPS, Stream, modulation_rows};

/// Of every group norm.
pub(crate) const GROUPS: usize = 32;

/// The sizes of a UViT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UvitConfig {
    /// The transformer in the middle, and what stands around. The patch is one pixel of the lowest level: 2 for each level
    /// multiplied.
    pub middle: BaselineConfig,
    /// Channels of each level, from the latent's size downwards; multiples of 32.
    pub level_widths: Vec<usize>,
    /// Residual blocks of each level, on the way down and again on the way up.
    pub level_blocks: usize,
}

impl UvitConfig {
    /// Channels below a level: the next level's, or the transformer's width.
    pub(crate) fn below(&self, level: usize) -> usize {
        self.level_widths.get(level + 1).copied().unwrap_or(self.middle.frame.width)
    }

    /// Channels of the latent's level.
    pub(crate) fn top(&self) -> usize {
        self.level_widths.first().copied().unwrap_or(self.middle.frame.width)
    }
}

/// The network. Parameters: `x_embedder`, `down.N`, `blocks.N` and `up.N`, all else as in MMDiT.
#[derive(Module, Debug)]
pub struct Uvit {
    x_embedder: Conv2d,
    positions: Positions,
    conditioner: Conditioner,
    blocks: Vec<UvitBlock>,
    last_layer: LastLayer,
    #[module(skip)]
    patch: usize,
}

impl Uvit {
    /// `params` is the root of the names.
    ///
    /// # Panics
    /// A patch that is not 2 for each level multiplied, no level, or level widths that 32 does not divide: callers check
    /// what users give.
    pub fn new(config: &UvitConfig, mut params: Params<'_>) -> Self {
        let UvitConfig { middle, level_widths, level_blocks } = config;
        let (frame, levels) = (middle.frame, level_widths.len());
        assert!(levels > 0 && frame.patch == 1 << levels, "a patch of {} for {levels} levels", frame.patch);
        assert!(level_widths.iter().all(|width| width % GROUPS == 0 && *width > 0), "level widths {level_widths:?}");
        let mut down = Vec::new();
        for (level, &width) in level_widths.iter().enumerate() {
            let pixels = frame.patch >> level;
            for _ in 0..*level_blocks {
                let mut place = params.at("down");
                down.push(UvitBlock::Down(ResBlock::new(frame.width, width, pixels, place.at(down.len()))));
            }
            let mut place = params.at("down");
            let conv = Conv2d::new(place.at(down.len()), [width, config.below(level)], 3, Window::Halve);
            down.push(UvitBlock::Halve(Resize { conv, pixels, at_the_middle: level + 1 == levels }));
        }
        let middle = (0..middle.depth).map(|index| {
            UvitBlock::Middle(DitBlock::new(Stream::new(middle.streams(), params.at("blocks").at(index))))
        });
        let middle: Vec<UvitBlock> = middle.collect();
        let mut up = Vec::new();
        for (level, &width) in level_widths.iter().enumerate().rev() {
            let pixels = frame.patch >> level;
            let conv = Conv2d::new(params.at("up").at(up.len()), [config.below(level), width], 3, Window::Same);
            up.push(UvitBlock::Double(Resize { conv, pixels, at_the_middle: level + 1 == levels }));
            for _ in 0..*level_blocks {
                let mut place = params.at("up");
                up.push(UvitBlock::Up(ResBlock::new(frame.width, width, pixels, place.at(up.len()))));
            }
        }
        let channels = [frame.channels_in, config.top()];
        Uvit {
            x_embedder: Conv2d::new(params.at("x_embedder").at("proj"), channels, 3, Window::Same),
            positions: Positions::new(frame, &mut params),
            conditioner: Conditioner::new(frame, &mut params),
            blocks: down.into_iter().chain(middle).chain(up).collect(),
            last_layer: LastLayer::new([frame.width, config.top()], [1, frame.channels_out], &mut params),
            patch: frame.patch,
        }
    }
}

/// Streams on the way down: the text, the places, the picture `[B, C, H * W]`, and what was kept for the way up. In the
/// middle: all tokens, and what was kept. On the way up: the picture, and what was kept.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few dozen in a network, made once")]
pub(crate) enum UvitBlock {
    /// The picture goes on, and is kept too.
    Down(ResBlock),
    /// Half the height and width. The lowest one's picture becomes tokens and meets the text.
    Halve(Resize),
    /// Of the transformer.
    Middle(DitBlock),
    /// Twice the height and width.
    Double(Resize),
    /// The picture, and what was kept last.
    Up(ResBlock),
}

/// A convolution to another size.
#[derive(Module, Debug)]
pub(crate) struct Resize {
    conv: Conv2d,
    /// Of the side of a patch, in the larger of both pictures.
    #[module(skip)]
    pixels: usize,
    #[module(skip)]
    at_the_middle: bool,
}

impl BackboneBlock for UvitBlock {
    fn ada_lns(&self) -> Vec<&Linear> {
        match self {
            UvitBlock::Down(block) | UvitBlock::Up(block) => vec![&block.ada_ln],
            UvitBlock::Middle(block) => vec![block.ada_ln()],
            UvitBlock::Halve(_) | UvitBlock::Double(_) => Vec::new(),
        }
    }

    fn forward(&self, streams: Streams, rows: &[Tensor<3>], size: [usize; 2], attending: &mut Attending) -> Streams {
        let mut streams = streams.0;
        match self {
            UvitBlock::Down(block) => {
                let x = block.forward(streams[2].clone(), &rows[0], size);
                // Of its own on the tape: the next block takes it twice, which makes three with what is kept.
                streams[2] = relay(&x);
                streams.push(x);
            }
            UvitBlock::Halve(Resize { conv, pixels, at_the_middle }) => {
                let x_BCHW = conv.forward(as_picture(streams[2].clone(), *pixels, size));
                if *at_the_middle {
                    let image_BID = x_BCHW.flatten::<3>(2, 3).swap_dims(1, 2) + streams[1].clone();
                    streams.splice(0..3, [Tensor::cat(vec![streams[0].clone(), image_BID], 1)]);
                } else {
                    streams[2] = x_BCHW.flatten::<3>(2, 3);
                }
            }
            UvitBlock::Middle(block) => streams[0] = block.mix(streams[0].clone(), &rows[0], attending),
            UvitBlock::Double(Resize { conv, pixels, at_the_middle }) => {
                let x = streams[0].clone();
                let x = if *at_the_middle { image_of(x, size).swap_dims(1, 2) } else { x };
                let doubled = Before { doubled: true, ..Before::default() };
                let x_BCHW = conv.forward_after(doubled, as_picture(x, pixels / 2, size), None);
                streams[0] = x_BCHW.flatten::<3>(2, 3);
            }
            UvitBlock::Up(block) => {
                let kept = streams.pop().expect("one for each block of the way down");
                streams[0] = block.forward(streams[0].clone() + kept, &rows[0], size);
            }
        }
        Streams(streams)
    }
}

/// `[B, C, H * W]` to `[B, C, H, W]`, of patches of `pixels` x `pixels`.
fn as_picture(x: Tensor<3>, pixels: usize, [rows, columns]: [usize; 2]) -> Tensor<4> {
    let [batch, channels, _] = x.dims();
    x.reshape([batch, channels, rows * pixels, columns * pixels])
}

/// A residual block of two convolutions, the second one modulated.
#[derive(Module, Debug)]
pub(crate) struct ResBlock {
    ada_ln: Linear,
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// Of the side of a patch.
    #[module(skip)]
    pixels: usize,
}

impl ResBlock {
    fn new(conditioning: usize, channels: usize, pixels: usize, mut params: Params<'_>) -> Self {
        ResBlock {
            ada_ln: modulation_rows([conditioning, 3 * channels], &mut params),
            norm1: GroupNorm::new(params.at("norm1"), channels, GROUPS, EPS),
            conv1: Conv2d::new(params.at("conv1"), [channels; 2], 3, Window::Same),
            norm2: GroupNorm::new(params.at("norm2"), channels, GROUPS, EPS),
            conv2: Conv2d::new(params.at("conv2"), [channels; 2], 3, Window::Same),
            pixels,
        }
    }

    /// x `[B, C, H * W]`.
    fn forward(&self, x: Tensor<3>, rows_B1R: &Tensor<3>, size: [usize; 2]) -> Tensor<3> {
        let [batch, channels, _] = x.dims();
        let [shift, scale, gate] = cut(rows_B1R).map(|row: Tensor<3>| row.reshape([batch, channels, 1, 1]));
        let x_BCHW = as_picture(x, self.pixels, size);
        let inside = self.conv1.forward_after(self.norm1.then_silu(), x_BCHW.clone(), None);
        let inside = self.norm2.forward(inside) * (scale + 1.0) + shift;
        (x_BCHW + self.conv2.forward(silu(inside)) * gate).flatten::<3>(2, 3)
    }
}

impl Backbone for Uvit {
    type Block = UvitBlock;

    fn conditioner(&self) -> &Conditioner {
        &self.conditioner
    }

    fn blocks(&self) -> &[UvitBlock] {
        &self.blocks
    }

    fn last_layer(&self) -> &LastLayer {
        &self.last_layer
    }

    fn size(&self, latent_BCHW: &Tensor<4>) -> [usize; 2] {
        patches_of(latent_BCHW, self.patch)
    }

    fn enter(&self, latent_BCHW: Tensor<4>, text_BTD: Tensor<3>, origin: &Origin) -> Streams {
        let places = self.positions.window(self.size(&latent_BCHW), origin, &latent_BCHW.device());
        Streams(vec![text_BTD, places, self.x_embedder.forward(latent_BCHW).flatten(2, 3)])
    }

    /// Every pixel is a token of the last layer.
    fn leave(&self, streams: Streams, size: [usize; 2]) -> (Tensor<3>, [usize; 2]) {
        let [x] = streams.exactly();
        (x.swap_dims(1, 2), size.map(|patches| patches * self.patch))
    }
}
