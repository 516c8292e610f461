//! DiT on text and picture: all tokens in one sequence, with one set of weights.
//!
//! Source: Peebles and Xie 2023, arXiv:2212.09748, as Esser et al. 2024, arXiv:2403.03206, section 5.2.3, compare with it:
//! "text and image tokens concatenated". What they do not say and is chosen here: the text goes first, as in MMDiT; the
//! text's tokens get no positions, as in MMDiT; the last block is like the others, so its text is computed and dropped.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::Linear;
use rectiflow_nn::{Module, Params, Tensor};

use crate::backbone::{Backbone, BackboneBlock, Streams};
use crate::ends::{Conditioner, LastLayer, Origin, Patches};
use crate::network::BaselineConfig;
use crate::probe::{Attending, Queries};
use crate::stream::{Stream, attend};

/// The network. Parameters: `blocks.N.{adaLN_modulation, attn, mlp}`, all else as in MMDiT.
#[derive(Module, Debug)]
pub struct Dit {
    patches: Patches,
    conditioner: Conditioner,
    blocks: Vec<DitBlock>,
    last_layer: LastLayer,
}

impl Dit {
    /// `params` is the root of the names.
    pub fn new(config: &BaselineConfig, mut params: Params<'_>) -> Self {
        let frame = config.frame;
        Dit {
            patches: Patches::new(frame, &mut params),
            conditioner: Conditioner::new(frame, &mut params),
            blocks: (0..config.depth)
                .map(|index| DitBlock { stream: Stream::new(config.streams(), params.at("blocks").at(index)) })
                .collect(),
            last_layer: LastLayer::new([frame.width; 2], [frame.patch, frame.channels_out], &mut params),
        }
    }
}

/// MMDiT's stream, for all tokens.
#[derive(Module, Debug)]
pub(crate) struct DitBlock {
    stream: Stream,
}

impl DitBlock {
    pub(crate) fn new(stream: Stream) -> Self {
        DitBlock { stream }
    }

    /// tokens `[B, L, D]`.
    pub(crate) fn mix(&self, tokens_BLD: Tensor<3>, rows_B1R: &Tensor<3>, attending: &mut Attending) -> Tensor<3> {
        let (mods, attn) = (self.stream.modulations(rows_B1R), &self.stream.attn);
        let [normed_BLD, tokens_BLD] = mods.attention.norm(tokens_BLD, attn.precision);
        let [mix_BLD] = attend([attn.qkv(normed_BLD)], [Queries::All], attn.precision, attending);
        self.stream.finish(tokens_BLD, mix_BLD, mods)
    }

    pub(crate) fn ada_ln(&self) -> &Linear {
        &self.stream.ada_ln
    }
}

impl BackboneBlock for DitBlock {
    fn ada_lns(&self) -> Vec<&Linear> {
        vec![self.ada_ln()]
    }

    fn forward(&self, streams: Streams, rows: &[Tensor<3>], _: [usize; 2], attending: &mut Attending) -> Streams {
        let [tokens_BLD] = streams.exactly();
        Streams(vec![self.mix(tokens_BLD, &rows[0], attending)])
    }
}

impl Backbone for Dit {
    type Block = DitBlock;

    fn conditioner(&self) -> &Conditioner {
        &self.conditioner
    }

    fn blocks(&self) -> &[DitBlock] {
        &self.blocks
    }

    fn last_layer(&self) -> &LastLayer {
        &self.last_layer
    }

    fn size(&self, latent_BCHW: &Tensor<4>) -> [usize; 2] {
        self.patches.size(latent_BCHW)
    }

    fn enter(&self, latent_BCHW: Tensor<4>, text_BTD: Tensor<3>, origin: &Origin) -> Streams {
        Streams(vec![Tensor::cat(vec![text_BTD, self.patches.forward(latent_BCHW, origin)], 1)])
    }

    fn leave(&self, streams: Streams, size: [usize; 2]) -> (Tensor<3>, [usize; 2]) {
        let [tokens_BLD] = streams.exactly();
        (image_of(tokens_BLD, size), size)
    }
}

/// The picture's tokens, which are the last ones.
pub(crate) fn image_of(tokens_BLD: Tensor<3>, [rows, columns]: [usize; 2]) -> Tensor<3> {
    let (all, image) = (tokens_BLD.dims()[1], rows * columns);
    tokens_BLD.narrow(1, all - image, image)
}
