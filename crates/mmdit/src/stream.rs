//! The streams that blocks are made of: a norm with its modulation, an attention's products, an MLP.
//!
//! Source: Esser et al. 2024, arXiv:2403.03206, figure 2b; MMDiT-X's second attention from Stability-AI/sd3.5
//! `mmditx.py`. Shape letters: B batch, T text tokens, I image tokens, L either stream's tokens, H heads, E head width,
//! D width, R modulation rows side by side.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Linear, QkNorm, RmsNorm};
use rectiflow_nn::ops::{self, Activation, AttentionBias, Qkv};
use rectiflow_nn::{Init, Module, Params, Precision, Tensor};

use crate::config::HEAD_WIDTH;
use crate::modulation::cut;
use crate::probe::{Attending, Queries};

pub(crate) const EPS: f64 = 1e-6;

/// What all streams of a network have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamSizes {
    /// D.
    pub(crate) width: usize,
    /// RMS norm on queries and keys.
    pub(crate) qk_norm: bool,
}

/// adaLN-Zero: `norm(x) * (1 + scale) + shift` before a branch, `* gate` after it.
pub(crate) struct Modulation {
    pub(crate) shift_B1D: Tensor<3>,
    pub(crate) scale_B1D: Tensor<3>,
    pub(crate) gate_B1D: Tensor<3>,
}

impl Modulation {
    /// The normed tokens, and the tokens for the branch to be added to.
    pub(crate) fn norm(&self, x_BLD: Tensor<3>, precision: Precision) -> [Tensor<3>; 2] {
        ops::modulated_norm(x_BLD, self.shift_B1D.clone(), self.scale_B1D.clone(), EPS, precision)
    }
}

pub(crate) struct BlockModulations {
    pub(crate) attention: Modulation,
    pub(crate) mlp: Modulation,
}

/// One stream of a joint block.
#[derive(Module, Debug)]
pub(crate) struct Stream {
    pub(crate) ada_ln: Linear,
    pub(crate) attn: Attention,
    pub(crate) mlp: Mlp,
}

impl Stream {
    pub(crate) fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        Stream {
            ada_ln: modulation_rows([sizes.width, 6 * sizes.width], &mut params),
            attn: Attention::new(sizes, params.at("attn")),
            mlp: Mlp::new(sizes.width, params.at("mlp")),
        }
    }

    pub(crate) fn modulations(&self, rows_B1R: &Tensor<3>) -> BlockModulations {
        let [shift, scale, gate, mlp_shift, mlp_scale, mlp_gate] = cut(rows_B1R);
        BlockModulations {
            attention: Modulation { shift_B1D: shift, scale_B1D: scale, gate_B1D: gate },
            mlp: Modulation { shift_B1D: mlp_shift, scale_B1D: mlp_scale, gate_B1D: mlp_gate },
        }
    }

    pub(crate) fn finish(&self, x_BLD: Tensor<3>, mix_BLD: Tensor<3>, mods: BlockModulations) -> Tensor<3> {
        let x_BLD = self.attn.proj.forward_gated(mix_BLD, x_BLD, mods.attention.gate_B1D);
        self.mlp.branch(x_BLD, mods.mlp)
    }
}

/// MMDiT-X's image stream: one norm feeds the joint attention and a second, image-only one.
#[derive(Module, Debug)]
pub(crate) struct DualStream {
    pub(crate) ada_ln: Linear,
    attn: Attention,
    attn2: Attention,
    mlp: Mlp,
}

impl DualStream {
    pub(crate) fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        DualStream {
            ada_ln: modulation_rows([sizes.width, 9 * sizes.width], &mut params),
            attn: Attention::new(sizes, params.at("attn")),
            attn2: Attention::new(sizes, params.at("attn2")),
            mlp: Mlp::new(sizes.width, params.at("mlp")),
        }
    }

    /// Returns the image stream after the block, and what the text tokens got from the joint attention.
    pub(crate) fn forward(
        &self,
        image_BID: Tensor<3>,
        text_qkv: Qkv,
        rows_B1R: &Tensor<3>,
        attending: &mut Attending,
    ) -> (Tensor<3>, Tensor<3>) {
        let [shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, shift2, scale2, gate2] = cut(rows_B1R);
        let joint = Modulation { shift_B1D: shift, scale_B1D: scale, gate_B1D: gate };
        let own = Modulation { shift_B1D: shift2, scale_B1D: scale2, gate_B1D: gate2 };

        let precision = self.attn.precision;
        let [joint_normed_BID, image_BID] = joint.norm(image_BID, precision);
        let [own_normed_BID, image_BID] = own.norm(image_BID, precision);
        let image_qkv = self.attn.qkv(joint_normed_BID);
        let own_qkv = self.attn2.qkv(own_normed_BID);
        let [text_mix_BTD, image_mix_BID] =
            attend([text_qkv, image_qkv], [Queries::Text, Queries::Image], precision, attending);
        let [own_mix_BID] = attend([own_qkv], [Queries::ImageAlone], precision, attending);

        let image_BID = self.attn.proj.forward_gated(image_mix_BID, image_BID, joint.gate_B1D);
        let image_BID = self.attn2.proj.forward_gated(own_mix_BID, image_BID, own.gate_B1D);
        let mlp = Modulation { shift_B1D: mlp_shift, scale_B1D: mlp_scale, gate_B1D: mlp_gate };
        (self.mlp.branch(image_BID, mlp), text_mix_BTD)
    }
}

/// The last block's text stream: a norm and its keys and values.
#[derive(Module, Debug)]
pub(crate) struct LastTextStream {
    pub(crate) ada_ln: Linear,
    attn: QkvProduct,
}

impl LastTextStream {
    pub(crate) fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        LastTextStream {
            ada_ln: modulation_rows([sizes.width, 2 * sizes.width], &mut params),
            attn: QkvProduct::new(sizes, params.at("attn")),
        }
    }

    pub(crate) fn qkv(&self, text_BTD: Tensor<3>, rows_B1R: &Tensor<3>) -> Qkv {
        let [shift_B1D, scale_B1D] = cut(rows_B1R);
        let [normed_BTD, _] = ops::modulated_norm(text_BTD, shift_B1D, scale_B1D, EPS, self.attn.precision);
        self.attn.forward(normed_BTD)
    }
}

/// The product that makes queries, keys and values, with their norms.
#[derive(Module, Debug)]
pub(crate) struct QkvProduct {
    qkv: Linear,
    norm: Option<QkNorm>,
    #[module(skip)]
    precision: Precision,
}

impl QkvProduct {
    pub(crate) fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        let mut norm_of = |name| RmsNorm::new(params.at(name), HEAD_WIDTH, EPS);
        let norm = sizes.qk_norm.then(|| QkNorm::new(norm_of("ln_q"), norm_of("ln_k")));
        let precision = params.precision();
        let qkv = Linear::new(params.at("qkv"), sizes.width, 3 * sizes.width, Init::XavierUniform);
        QkvProduct { qkv, norm, precision }
    }

    pub(crate) fn forward(&self, x_BLD: Tensor<3>) -> Qkv {
        let [batch, length, width] = x_BLD.dims();
        let heads = self.qkv.forward_factor(x_BLD).reshape([batch, length, 3, width / HEAD_WIDTH, HEAD_WIDTH]);
        Qkv::Together(match &self.norm {
            Some(norm) => norm.forward(heads, self.precision.factor()),
            None => heads,
        })
    }
}

/// One attention's products. The attention itself may span two streams.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    products: QkvProduct,
    pub(crate) proj: Linear,
    #[module(skip)]
    pub(crate) precision: Precision,
}

impl Attention {
    pub(crate) fn new(sizes: StreamSizes, mut params: Params<'_>) -> Self {
        let precision = params.precision();
        let proj = Linear::new(params.at("proj"), sizes.width, sizes.width, Init::XavierUniform);
        Attention { proj, products: QkvProduct::new(sizes, params), precision }
    }

    pub(crate) fn qkv(&self, x_BLD: Tensor<3>) -> Qkv {
        self.products.forward(x_BLD)
    }
}

/// Every token of all streams sees every other. Text goes first, as in the checkpoints' training.
///
/// Returns the mixed tokens of each stream, `[B, L, D]`.
pub(crate) fn attend<const N: usize>(
    streams: [Qkv; N],
    queries: [Queries; N],
    precision: Precision,
    attending: &mut Attending,
) -> [Tensor<3>; N] {
    attending.see(&streams, queries, precision);
    if attending.is_isolated() {
        return isolated(streams, queries, precision);
    }
    ops::attention(streams, attention_scale(), AttentionBias::None, precision)
}

/// As [`attend`], but image tokens see of the image only themselves.
fn isolated<const N: usize>(streams: [Qkv; N], queries: [Queries; N], precision: Precision) -> [Tensor<3>; N] {
    let is_image = queries.map(|queries| matches!(queries, Queries::Image | Queries::ImageAlone));
    let others: Vec<Qkv> =
        streams.iter().zip(is_image).filter(|(_, is_image)| !is_image).map(|(stream, _)| stream.clone()).collect();
    let alone = streams.each_ref().map(|stream| stream.clone());
    let mut plain = ops::attention(streams, attention_scale(), AttentionBias::None, precision).into_iter();
    let mut is_image = is_image.into_iter();
    alone.map(|stream| {
        let (plain, is_image) = (plain.next().expect("as many"), is_image.next().expect("as many"));
        if is_image { ops::attention_of_each(stream, &others, attention_scale(), precision) } else { plain }
    })
}

pub(crate) fn attention_scale() -> f64 {
    (HEAD_WIDTH as f64).powf(-0.5)
}

#[derive(Module, Debug)]
pub(crate) struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    precision: Precision,
}

impl Mlp {
    pub(crate) fn new(width: usize, mut params: Params<'_>) -> Self {
        Mlp {
            precision: params.precision(),
            fc1: Linear::new(params.at("fc1"), width, 4 * width, Init::XavierUniform),
            fc2: Linear::new(params.at("fc2"), 4 * width, width, Init::XavierUniform),
        }
    }

    /// `x + gate * mlp(norm(x))`.
    pub(crate) fn branch(&self, x_BLD: Tensor<3>, mods: Modulation) -> Tensor<3> {
        let [normed_BLD, x_BLD] = mods.norm(x_BLD, self.precision);
        let hidden = self.fc1.forward_activated(normed_BLD, Activation::GeluTanh);
        self.fc2.forward_gated(hidden, x_BLD, mods.gate_B1D)
    }
}

/// The product that makes modulation rows from the conditioning; 0 at first, so that a new block is the identity. Its
/// weight is used once for many steps, so it is not kept packed.
pub(crate) fn modulation_rows([conditioning, rows]: [usize; 2], params: &mut Params<'_>) -> Linear {
    let mut place = params.at("adaLN_modulation");
    Linear::new(place.at(1).used_once(), conditioning, rows, Init::Zeros)
}
