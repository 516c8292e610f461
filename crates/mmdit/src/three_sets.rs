//! MMDiT with three sets of weights: CLIP's tokens, T5's tokens and the picture's each have their own.
//!
//! Source: Esser et al. 2024, arXiv:2403.03206, section 5.2.3. What they do not say and is chosen here: one context
//! embedder for both texts, so that only the blocks differ; in the last block both texts give queries, keys and values
//! alone, as MMDiT's text does; CLIP goes first, then T5, then the picture.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::Linear;
use rectiflow_nn::{Module, Params, Tensor};

use crate::backbone::{Backbone, BackboneBlock, Streams};
use crate::ends::{Conditioner, LastLayer, Origin, Patches};
use crate::network::BaselineConfig;
use crate::probe::{Attending, Queries};
use crate::stream::{LastTextStream, Stream, StreamSizes, attend};

const QUERIES: [Queries; 3] = [Queries::Clip, Queries::T5, Queries::Image];

/// The network. Parameters: `joint_blocks.N.{clip_block, t5_block, x_block}`, all else as in MMDiT.
#[derive(Module, Debug)]
pub struct ThreeSets {
    patches: Patches,
    conditioner: Conditioner,
    blocks: Vec<ThreeBlock>,
    last_layer: LastLayer,
    #[module(skip)]
    clip_tokens: usize,
}

impl ThreeSets {
    /// The first `clip_tokens` of the context are CLIP's, those behind them T5's; SD3 has 77. `params` is the root of the
    /// names.
    pub fn new(config: &BaselineConfig, clip_tokens: usize, mut params: Params<'_>) -> Self {
        let frame = config.frame;
        ThreeSets {
            patches: Patches::new(frame, &mut params),
            conditioner: Conditioner::new(frame, &mut params),
            blocks: (0..config.depth)
                .map(|index| {
                    let last = index + 1 == config.depth;
                    ThreeBlock::new(config.streams(), last, params.at("joint_blocks").at(index))
                })
                .collect(),
            last_layer: LastLayer::new([frame.width; 2], [frame.patch, frame.channels_out], &mut params),
            clip_tokens,
        }
    }
}

#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few dozen in a network, made once")]
pub(crate) enum ThreeBlock {
    /// All streams go on.
    Joint(JointBlock),
    /// The last one: the texts end here.
    Last(LastBlock),
}

#[derive(Module, Debug)]
pub(crate) struct JointBlock {
    clip: Stream,
    t5: Stream,
    image: Stream,
}

#[derive(Module, Debug)]
pub(crate) struct LastBlock {
    clip: LastTextStream,
    t5: LastTextStream,
    image: Stream,
}

impl ThreeBlock {
    fn new(sizes: StreamSizes, last: bool, mut params: Params<'_>) -> Self {
        let image = Stream::new(sizes, params.at("x_block"));
        if last {
            let mut text = |name| LastTextStream::new(sizes, params.at(name));
            ThreeBlock::Last(LastBlock { clip: text("clip_block"), t5: text("t5_block"), image })
        } else {
            let mut text = |name| Stream::new(sizes, params.at(name));
            ThreeBlock::Joint(JointBlock { clip: text("clip_block"), t5: text("t5_block"), image })
        }
    }
}

impl BackboneBlock for ThreeBlock {
    fn ada_lns(&self) -> Vec<&Linear> {
        match self {
            ThreeBlock::Joint(block) => vec![&block.clip.ada_ln, &block.t5.ada_ln, &block.image.ada_ln],
            ThreeBlock::Last(block) => vec![&block.clip.ada_ln, &block.t5.ada_ln, &block.image.ada_ln],
        }
    }

    /// CLIP's tokens, T5's tokens and the image, `[B, L, D]` each. The texts end in the last block.
    fn forward(&self, streams: Streams, rows: &[Tensor<3>], _: [usize; 2], attending: &mut Attending) -> Streams {
        let streams: [Tensor<3>; 3] = streams.exactly();
        match self {
            ThreeBlock::Joint(block) => block.forward(streams, rows, attending),
            ThreeBlock::Last(block) => block.forward(streams, rows, attending),
        }
    }
}

impl JointBlock {
    fn forward(&self, streams: [Tensor<3>; 3], rows: &[Tensor<3>], attending: &mut Attending) -> Streams {
        let precision = self.image.attn.precision;
        let layers = [&self.clip, &self.t5, &self.image];
        let mut given = Vec::new();
        let mut index = 0;
        let qkvs = streams.map(|x_BLD| {
            let (layer, mods) = (layers[index], layers[index].modulations(&rows[index]));
            let [normed_BLD, x_BLD] = mods.attention.norm(x_BLD, precision);
            given.push((layer, x_BLD, mods));
            index += 1;
            layer.attn.qkv(normed_BLD)
        });
        let mixed = attend(qkvs, QUERIES, precision, attending);
        let finished = given.into_iter().zip(mixed).map(|((layer, x_BLD, mods), mix)| layer.finish(x_BLD, mix, mods));
        Streams(finished.collect())
    }
}

impl LastBlock {
    fn forward(&self, [clip, t5, image_BID]: [Tensor<3>; 3], rows: &[Tensor<3>], attending: &mut Attending) -> Streams {
        let precision = self.image.attn.precision;
        let mods = self.image.modulations(&rows[2]);
        let [normed_BID, image_BID] = mods.attention.norm(image_BID, precision);
        let qkvs = [self.clip.qkv(clip, &rows[0]), self.t5.qkv(t5, &rows[1]), self.image.attn.qkv(normed_BID)];
        let [_, _, mix_BID] = attend(qkvs, QUERIES, precision, attending);
        Streams(vec![self.image.finish(image_BID, mix_BID, mods)])
    }
}

impl Backbone for ThreeSets {
    type Block = ThreeBlock;

    fn conditioner(&self) -> &Conditioner {
        &self.conditioner
    }

    fn blocks(&self) -> &[ThreeBlock] {
        &self.blocks
    }

    fn last_layer(&self) -> &LastLayer {
        &self.last_layer
    }

    fn size(&self, latent_BCHW: &Tensor<4>) -> [usize; 2] {
        self.patches.size(latent_BCHW)
    }

    fn enter(&self, latent_BCHW: Tensor<4>, text_BTD: Tensor<3>, origin: &Origin) -> Streams {
        let (text, clip) = (text_BTD.dims()[1], self.clip_tokens);
        assert!(clip > 0 && clip < text, "{text} text tokens, {clip} of them CLIP's: T5 has none or CLIP has none");
        let (clip, t5) = (text_BTD.clone().narrow(1, 0, clip), text_BTD.narrow(1, clip, text - clip));
        Streams(vec![clip, t5, self.patches.forward(latent_BCHW, origin)])
    }

    fn leave(&self, streams: Streams, size: [usize; 2]) -> (Tensor<3>, [usize; 2]) {
        let [image_BID] = streams.exactly();
        (image_BID, size)
    }
}
