//! The whole network: patches and text in, velocity out.
//!
//! Shape letters: B batch, C channels, H and W latent pixels, T text tokens, I image tokens, D width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Conv2d, Linear};
use rectiflow_nn::ops::{self, Window};
use rectiflow_nn::{Device, Init, Module, Param, Params, Precision, Tensor};

use crate::MmditConfig;
use crate::block::Block;
use crate::embed::{VectorEmbedder, compute_grid, crop_grid, timestep_features};
use crate::modulation::{BlockRows, EmbeddedText, Modulations, cut, rows_of_levels};

/// SD3's velocity network. Source: arXiv:2403.03206 figure 2a.
#[derive(Module, Debug)]
pub struct Mmdit {
    x_embedder: Conv2d,
    pos_embed: Option<Param<Tensor<3>>>,
    t_embedder: VectorEmbedder,
    y_embedder: VectorEmbedder,
    context_embedder: Linear,
    blocks: Vec<Block>,
    final_ada_ln: Linear,
    final_linear: Linear,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    config: MmditConfig,
}

impl Mmdit {
    /// Builds the network; `params` is the root of the official names (`x_embedder`, `joint_blocks`, ...).
    pub fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        let (width, patch) = (config.width, config.patch);
        let mut final_layer = params.at("final_layer");
        let mut final_ada_ln = final_layer.at("adaLN_modulation");
        let final_ada_ln = Linear::new(final_ada_ln.at(1).used_once(), width, 2 * width, Init::Zeros);
        let patch_out = patch * patch * config.channels_out;
        let final_linear = Linear::new(final_layer.at("linear"), width, patch_out, Init::Zeros);
        let cells = config.grid * config.grid;
        Mmdit {
            x_embedder: Conv2d::new(
                params.at("x_embedder").at("proj"),
                [config.channels_in, width],
                patch,
                Window::Patch,
            ),
            pos_embed: config.grid_stored.then(|| params.buffer("pos_embed", [1, cells, width])),
            t_embedder: VectorEmbedder::timestep(params.at("t_embedder").used_once(), width),
            y_embedder: VectorEmbedder::pooled(params.at("y_embedder").used_once(), config.pooled_width, width),
            context_embedder: Linear::new(
                params.at("context_embedder").used_once(),
                config.context_width,
                width,
                Init::XavierUniform,
            ),
            blocks: (0..config.depth)
                .map(|index| Block::new(config, index, params.at("joint_blocks").at(index)))
                .collect(),
            final_ada_ln,
            final_linear,
            precision: params.precision(),
            config: config.clone(),
        }
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &MmditConfig {
        &self.config
    }

    /// Velocity of a latent: `noise - image`, d latent / d sigma.
    ///
    /// latent `[B, C, H, W]` with H and W multiples of the patch and within the positional grid; timestep
    /// `[B]` = 1000 sigma; context `[B, T, 4096]`; pooled `[B, 2048]`. Returns `[B, C_out, H, W]`.
    ///
    /// # Panics
    /// A shape that does not fit: callers check what users give.
    pub fn forward(
        &self,
        latent_BCHW: Tensor<4>,
        timestep_B: Tensor<1>,
        context_BTC: Tensor<3>,
        pooled_BP: Tensor<2>,
    ) -> Tensor<4> {
        let batch = latent_BCHW.dims()[0];
        let text = self.embed_text(context_BTC, pooled_BP);
        let levels = self.modulations(&text, timestep_B.reshape([1, batch]));
        self.velocity(latent_BCHW, &text, &levels[0])
    }

    /// What all noise levels have in common. context `[B, T, 4096]`, pooled `[B, 2048]`.
    pub fn embed_text(&self, context_BTC: Tensor<3>, pooled_BP: Tensor<2>) -> EmbeddedText {
        EmbeddedText {
            text_BTD: self.context_embedder.forward(context_BTC),
            pooled_BD: self.y_embedder.forward(pooled_BP),
        }
    }

    /// The modulation rows of S noise levels of each sample, each weight read once for all. timestep `[S, B]` =
    /// 1000 sigma. Returns S of them, each [`MmditConfig::modulation_bytes`] for a sample.
    ///
    /// On the CPU a level's rows do not depend on the levels beside it, to the bit.
    pub fn modulations(&self, text: &EmbeddedText, timestep_SB: Tensor<2>) -> Vec<Modulations> {
        let [levels, batch] = timestep_SB.dims();
        let timesteps = self.t_embedder.forward(timestep_features(timestep_SB.reshape([levels * batch])));
        let conditioning = ops::silu(timesteps + text.pooled_BD.clone().repeat_dim(0, levels));
        let rows = |ada_ln: &Linear| rows_of_levels(ada_ln, &conditioning, levels);
        let last = rows(&self.final_ada_ln);
        let mut all: Vec<Modulations> =
            last.into_iter().map(|last_B1R| Modulations { blocks: Vec::new(), last_B1R }).collect();
        for block in &self.blocks {
            let [text, image] = block.ada_lns().map(rows);
            for ((level, text_B1R), image_B1R) in all.iter_mut().zip(text).zip(image) {
                level.blocks.push(BlockRows { text_B1R, image_B1R });
            }
        }
        all
    }

    /// [`Self::forward`] with what does not depend on the latent.
    ///
    /// # Panics
    /// As [`Self::forward`], or a text or modulations of another batch.
    pub fn velocity(&self, latent_BCHW: Tensor<4>, text: &EmbeddedText, modulations: &Modulations) -> Tensor<4> {
        let [batch, _, height, width] = latent_BCHW.dims();
        assert_eq!([text.text_BTD.dims()[0], modulations.last_B1R.dims()[0]], [batch; 2], "texts of a batch");
        let patch = self.config.patch;
        assert!(height.is_multiple_of(patch) && width.is_multiple_of(patch), "latent of {height}x{width}");
        let (rows, columns) = (height / patch, width / patch);

        let places = self.places(rows, columns, &latent_BCHW.device());
        let mut image_BID = self.patches(latent_BCHW) + places;
        let mut text_BTD = text.text_BTD.clone();
        for (block, rows) in self.blocks.iter().zip(&modulations.blocks) {
            (text_BTD, image_BID) = block.forward(text_BTD, image_BID, rows);
        }
        self.unpatch(self.finish(image_BID, &modulations.last_B1R), [batch, rows, columns])
    }

    /// One token for each patch, row by row: `[B, I, D]`.
    fn patches(&self, latent_BCHW: Tensor<4>) -> Tensor<3> {
        self.x_embedder.forward(latent_BCHW).flatten::<3>(2, 3).swap_dims(1, 2)
    }

    fn places(&self, rows: usize, columns: usize, device: &Device) -> Tensor<3> {
        match &self.pos_embed {
            Some(grid) => crop_grid(grid.val(), rows, columns),
            None => compute_grid(self.config.grid, rows, columns, self.config.width, device),
        }
    }

    /// `[B, I, D]` to `[B, I, patch * patch * C_out]`.
    fn finish(&self, image_BID: Tensor<3>, rows_B1R: &Tensor<3>) -> Tensor<3> {
        let [shift_B1D, scale_B1D] = cut(rows_B1R);
        let [normed_BID, _] = ops::modulated_norm(image_BID, shift_B1D, scale_B1D, 1e-6, self.precision);
        self.final_linear.forward(normed_BID)
    }

    /// A token's values are ordered row, column, channel.
    fn unpatch(&self, tokens_BIP: Tensor<3>, [batch, rows, columns]: [usize; 3]) -> Tensor<4> {
        let (patch, channels) = (self.config.patch, self.config.channels_out);
        tokens_BIP.reshape([batch, rows, columns, patch, patch, channels]).permute([0, 5, 1, 3, 2, 4]).reshape([
            batch,
            channels,
            rows * patch,
            columns * patch,
        ])
    }
}
