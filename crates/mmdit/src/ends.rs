//! What stands around the blocks of every backbone: patches with their places, the conditioning, the last layer.
//!
//! It is the same for all backbones, so that a comparison of two compares their blocks alone. Which blocks, this module
//! does not know. Shape letters: B batch, C channels, H and W latent pixels, T text tokens, I image tokens, D width,
//! R modulation rows side by side.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Conv2d, Linear};
use rectiflow_nn::ops::{self, Window};
use rectiflow_nn::{Device, Init, Module, Param, Params, Precision, Tensor};

use crate::config::Frame;
use crate::embed::{VectorEmbedder, compute_grid, crop_grid, timestep_features};
use crate::modulation::{EmbeddedText, cut};
use crate::stream::EPS;

/// Where in the positional grid a picture lies.
///
/// Drawing takes the middle. SD3.5-Medium's training also takes other places, so that the whole of a grid is trained on
/// pictures that are smaller than it; kohya's trainer draws one place for a batch (`pos_emb_random_crop_rate`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// In the middle.
    #[default]
    Centre,
    /// With its top left patch at this row and column, all pictures of the batch.
    At([usize; 2]),
    /// Each picture of the batch at its own row and column.
    Each(Vec<[usize; 2]>),
}

/// The positional grid: stored, or computed where it is used.
#[derive(Module, Debug)]
pub(crate) struct Positions {
    stored: Option<Param<Tensor<3>>>,
    #[module(skip)]
    frame: Frame,
}

impl Positions {
    pub(crate) fn new(frame: Frame, params: &mut Params<'_>) -> Self {
        let shape = [1, frame.grid * frame.grid, frame.width];
        let stored = frame.grid_stored.then(|| params.buffer("pos_embed", shape, frame.positions()));
        Positions { stored, frame }
    }

    /// Of `rows` x `columns` patches: `[1, I, D]`, or `[B, I, D]` where pictures have places of their own.
    pub(crate) fn window(&self, size: [usize; 2], origin: &Origin, device: &Device) -> Tensor<3> {
        let at = |corner| match &self.stored {
            Some(grid) => crop_grid(grid.val(), corner, size),
            None => compute_grid(&self.frame, corner, size, device),
        };
        match origin {
            Origin::Centre => at(self.centre(size)),
            Origin::At(corner) => at(self.checked(*corner, size)),
            Origin::Each(corners) => {
                Tensor::cat(corners.iter().map(|corner| at(self.checked(*corner, size))).collect(), 0)
            }
        }
    }

    fn centre(&self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        let side = self.frame.grid;
        assert!(rows <= side && columns <= side, "{rows}x{columns} patches in a positional grid of side {side}");
        [(side - rows) / 2, (side - columns) / 2]
    }

    fn checked(&self, [top, left]: [usize; 2], [rows, columns]: [usize; 2]) -> [usize; 2] {
        let side = self.frame.grid;
        let fits = top + rows <= side && left + columns <= side;
        assert!(fits, "{rows}x{columns} patches at {top}, {left} of a positional grid of side {side}");
        [top, left]
    }
}

/// Patches of a latent.
#[derive(Module, Debug)]
pub(crate) struct Patches {
    x_embedder: Conv2d,
    positions: Positions,
    #[module(skip)]
    patch: usize,
}

impl Patches {
    pub(crate) fn new(frame: Frame, params: &mut Params<'_>) -> Self {
        let channels = [frame.channels_in, frame.width];
        Patches {
            x_embedder: Conv2d::new(params.at("x_embedder").at("proj"), channels, frame.patch, Window::Patch),
            positions: Positions::new(frame, params),
            patch: frame.patch,
        }
    }

    /// How many rows and columns of patches a latent has.
    pub(crate) fn size(&self, latent_BCHW: &Tensor<4>) -> [usize; 2] {
        patches_of(latent_BCHW, self.patch)
    }

    /// One token for each patch with its place, row by row. latent `[B, C, H, W]`. Returns `[B, I, D]`.
    pub(crate) fn forward(&self, latent_BCHW: Tensor<4>, origin: &Origin) -> Tensor<3> {
        let places = self.positions.window(self.size(&latent_BCHW), origin, &latent_BCHW.device());
        self.x_embedder.forward(latent_BCHW).flatten::<3>(2, 3).swap_dims(1, 2) + places
    }
}

pub(crate) fn patches_of(latent_BCHW: &Tensor<4>, patch: usize) -> [usize; 2] {
    let [_, _, height, width] = latent_BCHW.dims();
    assert!(height.is_multiple_of(patch) && width.is_multiple_of(patch), "latent of {height}x{width}");
    [height / patch, width / patch]
}

/// The text, and the vector that blocks are modulated with.
#[derive(Module, Debug)]
pub(crate) struct Conditioner {
    t_embedder: VectorEmbedder,
    y_embedder: VectorEmbedder,
    context_embedder: Linear,
}

impl Conditioner {
    pub(crate) fn new(frame: Frame, params: &mut Params<'_>) -> Self {
        let Frame { width, context_width, pooled_width, .. } = frame;
        let context = params.at("context_embedder").used_once();
        Conditioner {
            context_embedder: Linear::new(context, context_width, width, Init::XavierUniform),
            t_embedder: VectorEmbedder::timestep(params.at("t_embedder").used_once(), width),
            y_embedder: VectorEmbedder::pooled(params.at("y_embedder").used_once(), pooled_width, width),
        }
    }

    /// context `[B, T, 4096]`, pooled `[B, 2048]`.
    pub(crate) fn text(&self, context_BTC: Tensor<3>, pooled_BP: Tensor<2>) -> EmbeddedText {
        EmbeddedText {
            text_BTD: self.context_embedder.forward(context_BTC),
            pooled_BD: self.y_embedder.forward(pooled_BP),
        }
    }

    /// What modulation rows are products of. timestep `[S, B]`, pooled `[B, D]`. Returns `[S * B, D]`, after its SiLU.
    pub(crate) fn conditioning(&self, pooled_BD: &Tensor<2>, timestep_SB: Tensor<2>) -> Tensor<2> {
        let [levels, batch] = timestep_SB.dims();
        let timesteps = self.t_embedder.forward(timestep_features(timestep_SB.reshape([levels * batch])));
        ops::silu(timesteps + pooled_BD.clone().repeat_dim(0, levels))
    }
}

/// A modulated norm and a product, both 0 at first: a new network's velocity is 0.
#[derive(Module, Debug)]
pub(crate) struct LastLayer {
    pub(crate) ada_ln: Linear,
    linear: Linear,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    patch: usize,
}

impl LastLayer {
    /// Of tokens `width` wide, modulated from a conditioning `conditioning` wide; each becomes `patch` x `patch` pixels.
    pub(crate) fn new(
        [conditioning, width]: [usize; 2],
        [patch, channels]: [usize; 2],
        params: &mut Params<'_>,
    ) -> Self {
        let mut params = params.at("final_layer");
        let mut ada_ln = params.at("adaLN_modulation");
        LastLayer {
            ada_ln: Linear::new(ada_ln.at(1).used_once(), conditioning, 2 * width, Init::Zeros),
            linear: Linear::new(params.at("linear"), width, patch * patch * channels, Init::Zeros),
            precision: params.precision(),
            patch,
        }
    }

    /// image `[B, I, D]` of `size` patches. Returns `[B, C, H, W]`.
    pub(crate) fn forward(&self, image_BID: Tensor<3>, rows_B1R: &Tensor<3>, [rows, columns]: [usize; 2]) -> Tensor<4> {
        let [shift_B1D, scale_B1D] = cut(rows_B1R);
        let [normed_BID, _] = ops::modulated_norm(image_BID, shift_B1D, scale_B1D, EPS, self.precision);
        let tokens_BIP = self.linear.forward(normed_BID);
        // A token's values are ordered row, column, channel.
        let ([batch, _, width], patch) = (tokens_BIP.dims(), self.patch);
        let channels = width / (patch * patch);
        tokens_BIP.reshape([batch, rows, columns, patch, patch, channels]).permute([0, 5, 1, 3, 2, 4]).reshape([
            batch,
            channels,
            rows * patch,
            columns * patch,
        ])
    }
}
