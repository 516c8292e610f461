//! CrossDiT: DiT on the picture's tokens, which look at the text in an attention of their own.
//!
//! Source: Chen et al. 2023, PixArt-alpha, arXiv:2310.00426, section 2.3 and figure 4, as Esser et al. 2024,
//! arXiv:2403.03206, section 5.2.3, compare with it. As there, the cross-attention stands between self-attention and MLP,
//! takes the picture without a norm, has no modulation and no gate, and its projection is 0 at first. Chosen here: the
//! modulation is MMDiT's, not PixArt's shared one, so that the conditioning is the same; with QK-norm the cross-attention's
//! queries and keys are normed too.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Linear, RmsNorm};
use rectiflow_nn::ops::{Qkv, relay};
use rectiflow_nn::{Init, Module, Params, Precision, Tensor};

use crate::backbone::{Backbone, BackboneBlock, Streams};
use crate::config::HEAD_WIDTH;
use crate::ends::{Conditioner, LastLayer, Origin, Patches};
use crate::network::BaselineConfig;
use crate::probe::{Attending, Queries};
use crate::stream::{EPS, Stream, StreamSizes, attend};

/// The network. Parameters: `blocks.N.{adaLN_modulation, attn, cross_attn, mlp}`, all else as in MMDiT.
#[derive(Module, Debug)]
pub struct CrossDit {
    patches: Patches,
    conditioner: Conditioner,
    blocks: Vec<CrossBlock>,
    last_layer: LastLayer,
}

impl CrossDit {
    /// `params` is the root of the names.
    pub fn new(config: &BaselineConfig, mut params: Params<'_>) -> Self {
        let frame = config.frame;
        CrossDit {
            patches: Patches::new(frame, &mut params),
            conditioner: Conditioner::new(frame, &mut params),
            blocks: (0..config.depth)
                .map(|index| CrossBlock::new(config.streams(), params.at("blocks").at(index)))
                .collect(),
            last_layer: LastLayer::new([frame.width; 2], [frame.patch, frame.channels_out], &mut params),
        }
    }
}

#[derive(Module, Debug)]
pub(crate) struct CrossBlock {
    cross: CrossAttention,
    stream: Stream,
}

impl CrossBlock {
    fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        CrossBlock { cross: CrossAttention::new(sizes, params.at("cross_attn")), stream: Stream::new(sizes, params) }
    }
}

impl BackboneBlock for CrossBlock {
    fn ada_lns(&self) -> Vec<&Linear> {
        vec![&self.stream.ada_ln]
    }

    /// Text `[B, T, D]`, which goes on as it is, and image `[B, I, D]`.
    fn forward(&self, streams: Streams, rows: &[Tensor<3>], _: [usize; 2], attending: &mut Attending) -> Streams {
        let [text_BTD, image_BID] = streams.exactly();
        let (mods, attn) = (self.stream.modulations(&rows[0]), &self.stream.attn);
        let [normed_BID, image_BID] = mods.attention.norm(image_BID, attn.precision);
        let [mix_BID] = attend([attn.qkv(normed_BID)], [Queries::ImageAlone], attn.precision, attending);
        let image_BID = attn.proj.forward_gated(mix_BID, image_BID, mods.attention.gate_B1D);
        let image_BID = self.cross.branch(image_BID, text_BTD.clone(), attending);
        Streams(vec![relay(&text_BTD), self.stream.mlp.branch(image_BID, mods.mlp)])
    }
}

/// Queries of the picture, keys and values of the text.
#[derive(Module, Debug)]
struct CrossAttention {
    q_linear: Linear,
    kv_linear: Linear,
    norms: Option<[RmsNorm; 2]>,
    proj: Linear,
    #[module(skip)]
    precision: Precision,
}

impl CrossAttention {
    fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        let width = sizes.width;
        let mut norm_of = |name| RmsNorm::new(params.at(name), HEAD_WIDTH, EPS);
        let norms = sizes.qk_norm.then(|| [norm_of("ln_q"), norm_of("ln_k")]);
        CrossAttention {
            norms,
            q_linear: Linear::new(params.at("q_linear"), width, width, Init::XavierUniform),
            kv_linear: Linear::new(params.at("kv_linear"), width, 2 * width, Init::XavierUniform),
            proj: Linear::new(params.at("proj"), width, width, Init::Zeros),
            precision: params.precision(),
        }
    }

    /// `image + attention(image, text)`.
    fn branch(&self, image_BID: Tensor<3>, text_BTD: Tensor<3>, attending: &mut Attending) -> Tensor<3> {
        let [batch, image, width] = image_BID.dims();
        let (text, heads) = (text_BTD.dims()[1], width / HEAD_WIDTH);
        let q = self.q_linear.forward_factor(image_BID.clone()).reshape([batch, image, heads, HEAD_WIDTH]);
        let kv = self.kv_linear.forward_factor(text_BTD).reshape([batch, text, 2, heads, HEAD_WIDTH]);
        let [k, v] = [0, 1].map(|role| kv.clone().narrow(2, role, 1).squeeze_dim::<4>(2));
        let (q, k) = match &self.norms {
            Some([of_q, of_k]) => {
                let out = self.precision.factor();
                (of_q.forward(q, out), of_k.forward(k, out))
            }
            None => (q, k),
        };
        let [mix_BID] = attend([Qkv::Apart { q, k, v }], [Queries::ImageOfText], self.precision, attending);
        self.proj.forward_added(mix_BID, image_BID)
    }
}

impl Backbone for CrossDit {
    type Block = CrossBlock;

    fn conditioner(&self) -> &Conditioner {
        &self.conditioner
    }

    fn blocks(&self) -> &[CrossBlock] {
        &self.blocks
    }

    fn last_layer(&self) -> &LastLayer {
        &self.last_layer
    }

    fn size(&self, latent_BCHW: &Tensor<4>) -> [usize; 2] {
        self.patches.size(latent_BCHW)
    }

    /// Text, then image.
    fn enter(&self, latent_BCHW: Tensor<4>, text_BTD: Tensor<3>, origin: &Origin) -> Streams {
        Streams(vec![text_BTD, self.patches.forward(latent_BCHW, origin)])
    }

    fn leave(&self, streams: Streams, size: [usize; 2]) -> (Tensor<3>, [usize; 2]) {
        let [_, image_BID] = streams.exactly();
        (image_BID, size)
    }
}
