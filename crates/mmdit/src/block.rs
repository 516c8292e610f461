//! One MMDiT joint block: two token streams, one attention.
//!
//! Source: Esser et al. 2024, arXiv:2403.03206, figure 2b; MMDiT-X's second attention from Stability-AI/sd3.5
//! `mmditx.py`. Shape letters: B batch, T text tokens, I image tokens, D width, R modulation rows side by side.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::Linear;
use rectiflow_nn::{Module, Params, Tensor};

use crate::MmditConfig;
use crate::backbone::{BackboneBlock, Streams};
use crate::probe::{Attending, Queries};
use crate::stream::{DualStream, LastTextStream, Stream, StreamSizes, attend};

/// The three kinds of block a network is made of.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few dozen in a network, made once")]
pub(crate) enum Block {
    /// Both streams go on.
    Joint(JointBlock),
    /// The image stream attends to itself a second time (MMDiT-X).
    Dual(DualBlock),
    /// The last one: text only gives keys and values, and ends here.
    Last(LastBlock),
}

impl Block {
    pub(crate) fn new(config: &MmditConfig, index: usize, params: Params<'_>) -> Self {
        let sizes = config.streams();
        let dual = config.dual_layers.contains(&index);
        match (index + 1 == config.depth, dual) {
            (true, _) => Block::Last(LastBlock::new(sizes, dual, params)),
            (false, true) => Block::Dual(DualBlock::new(sizes, params)),
            (false, false) => Block::Joint(JointBlock::new(sizes, params)),
        }
    }
}

impl BackboneBlock for Block {
    /// The products that make the text's and the image's modulation rows.
    fn ada_lns(&self) -> Vec<&Linear> {
        match self {
            Block::Joint(block) => vec![&block.text.ada_ln, &block.image.ada_ln],
            Block::Dual(block) => vec![&block.text.ada_ln, &block.image.ada_ln],
            Block::Last(block) => match &block.image {
                LastImageStream::Single(image) => vec![&block.text.ada_ln, &image.ada_ln],
                LastImageStream::Dual(image) => vec![&block.text.ada_ln, &image.ada_ln],
            },
        }
    }

    /// Text `[B, T, D]` and image `[B, I, D]`. The text ends in the last block.
    fn forward(&self, streams: Streams, rows: &[Tensor<3>], _: [usize; 2], attending: &mut Attending) -> Streams {
        let [text_BTD, image_BID] = streams.exactly();
        let [text_rows, image_rows] = rows else { panic!("rows of {} streams", rows.len()) };
        let rows = [text_rows, image_rows];
        Streams(match self {
            Block::Joint(block) => block.forward(text_BTD, image_BID, rows, attending).into(),
            Block::Dual(block) => block.forward(text_BTD, image_BID, rows, attending).into(),
            Block::Last(block) => vec![block.forward(text_BTD, image_BID, rows, attending)],
        })
    }
}

#[derive(Module, Debug)]
pub(crate) struct JointBlock {
    text: Stream,
    image: Stream,
}

impl JointBlock {
    fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        JointBlock {
            text: Stream::new(sizes, params.at("context_block")),
            image: Stream::new(sizes, params.at("x_block")),
        }
    }

    fn forward(
        &self,
        text_BTD: Tensor<3>,
        image_BID: Tensor<3>,
        [text_B1R, image_B1R]: [&Tensor<3>; 2],
        attending: &mut Attending,
    ) -> [Tensor<3>; 2] {
        let precision = self.image.attn.precision;
        let text_mods = self.text.modulations(text_B1R);
        let image_mods = self.image.modulations(image_B1R);
        let [text_normed_BTD, text_BTD] = text_mods.attention.norm(text_BTD, precision);
        let [image_normed_BID, image_BID] = image_mods.attention.norm(image_BID, precision);
        let text_qkv = self.text.attn.qkv(text_normed_BTD);
        let image_qkv = self.image.attn.qkv(image_normed_BID);

        let [text_mix_BTD, image_mix_BID] =
            attend([text_qkv, image_qkv], [Queries::Text, Queries::Image], precision, attending);

        let text_BTD = self.text.finish(text_BTD, text_mix_BTD, text_mods);
        let image_BID = self.image.finish(image_BID, image_mix_BID, image_mods);
        [text_BTD, image_BID]
    }
}

#[derive(Module, Debug)]
pub(crate) struct DualBlock {
    text: Stream,
    image: DualStream,
}

impl DualBlock {
    fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        DualBlock {
            text: Stream::new(sizes, params.at("context_block")),
            image: DualStream::new(sizes, params.at("x_block")),
        }
    }

    fn forward(
        &self,
        text_BTD: Tensor<3>,
        image_BID: Tensor<3>,
        [text_B1R, image_B1R]: [&Tensor<3>; 2],
        attending: &mut Attending,
    ) -> [Tensor<3>; 2] {
        let text_mods = self.text.modulations(text_B1R);
        let [text_normed_BTD, text_BTD] = text_mods.attention.norm(text_BTD, self.text.attn.precision);
        let text_qkv = self.text.attn.qkv(text_normed_BTD);
        let (image_BID, text_mix_BTD) = self.image.forward(image_BID, text_qkv, image_B1R, attending);
        [self.text.finish(text_BTD, text_mix_BTD, text_mods), image_BID]
    }
}

#[derive(Module, Debug)]
pub(crate) struct LastBlock {
    text: LastTextStream,
    image: LastImageStream,
}

/// The last block's image stream is of either kind.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few dozen in a network, made once")]
pub(crate) enum LastImageStream {
    Single(Stream),
    Dual(DualStream),
}

impl LastBlock {
    fn new(sizes: StreamSizes, dual: bool, mut params: Params<'_>) -> Self {
        LastBlock {
            text: LastTextStream::new(sizes, params.at("context_block")),
            image: if dual {
                LastImageStream::Dual(DualStream::new(sizes, params.at("x_block")))
            } else {
                LastImageStream::Single(Stream::new(sizes, params.at("x_block")))
            },
        }
    }

    fn forward(
        &self,
        text_BTD: Tensor<3>,
        image_BID: Tensor<3>,
        [text_B1R, image_B1R]: [&Tensor<3>; 2],
        attending: &mut Attending,
    ) -> Tensor<3> {
        let text_qkv = self.text.qkv(text_BTD, text_B1R);
        match &self.image {
            LastImageStream::Single(image) => {
                let mods = image.modulations(image_B1R);
                let [normed_BID, image_BID] = mods.attention.norm(image_BID, image.attn.precision);
                let image_qkv = image.attn.qkv(normed_BID);
                let [_, image_mix_BID] =
                    attend([text_qkv, image_qkv], [Queries::Text, Queries::Image], image.attn.precision, attending);
                image.finish(image_BID, image_mix_BID, mods)
            }
            LastImageStream::Dual(image) => image.forward(image_BID, text_qkv, image_B1R, attending).0,
        }
    }
}
