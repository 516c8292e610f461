//! One MMDiT joint block: two token streams, one attention.
//!
//! Source: Esser et al. 2024, arXiv:2403.03206, figure 2b; MMDiT-X's second attention from Stability-AI/sd3.5
//! `mmditx.py`. Shape letters: B batch, T text tokens, I image tokens, S = T + I, L either stream's tokens,
//! H heads, E head width, D width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_nn::layers::{Linear, QkNorm, RmsNorm};
use rectiflow_nn::ops::{self, Activation, AttentionBias, Qkv};
use rectiflow_nn::{Init, Module, Params, Precision, Tensor};

use crate::MmditConfig;
use crate::config::HEAD_WIDTH;
use crate::modulation::{BlockRows, cut};

const EPS: f64 = 1e-6;

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
        let dual = config.dual_layers.contains(&index);
        match (index + 1 == config.depth, dual) {
            (true, _) => Block::Last(LastBlock::new(config, dual, params)),
            (false, true) => Block::Dual(DualBlock::new(config, params)),
            (false, false) => Block::Joint(JointBlock::new(config, params)),
        }
    }

    /// The products that make the text's and the image's modulation rows.
    pub(crate) fn ada_lns(&self) -> [&Linear; 2] {
        match self {
            Block::Joint(block) => [&block.text.ada_ln, &block.image.ada_ln],
            Block::Dual(block) => [&block.text.ada_ln, &block.image.ada_ln],
            Block::Last(block) => match &block.image {
                LastImageStream::Single(image) => [&block.text.ada_ln, &image.ada_ln],
                LastImageStream::Dual(image) => [&block.text.ada_ln, &image.ada_ln],
            },
        }
    }

    /// text `[B, T, D]`, image `[B, I, D]`, and the rows that both are modulated with. Returns both streams; the
    /// text of the last block comes back as it went in, and nobody reads it.
    pub(crate) fn forward(
        &self,
        text_BTD: Tensor<3>,
        image_BID: Tensor<3>,
        rows: &BlockRows,
    ) -> (Tensor<3>, Tensor<3>) {
        match self {
            Block::Joint(block) => block.forward(text_BTD, image_BID, rows),
            Block::Dual(block) => block.forward(text_BTD, image_BID, rows),
            Block::Last(block) => (text_BTD.clone(), block.forward(text_BTD, image_BID, rows)),
        }
    }
}

#[derive(Module, Debug)]
pub(crate) struct JointBlock {
    text: Stream,
    image: Stream,
}

impl JointBlock {
    fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        JointBlock {
            text: Stream::new(config, params.at("context_block")),
            image: Stream::new(config, params.at("x_block")),
        }
    }

    fn forward(&self, text_BTD: Tensor<3>, image_BID: Tensor<3>, rows: &BlockRows) -> (Tensor<3>, Tensor<3>) {
        let precision = self.image.attn.precision;
        let text_mods = self.text.modulations(&rows.text_B1R);
        let image_mods = self.image.modulations(&rows.image_B1R);
        let [text_normed_BTD, text_BTD] = text_mods.attention.norm(text_BTD, precision);
        let [image_normed_BID, image_BID] = image_mods.attention.norm(image_BID, precision);
        let text_qkv = self.text.attn.qkv(text_normed_BTD);
        let image_qkv = self.image.attn.qkv(image_normed_BID);

        let [text_mix_BTD, image_mix_BID] = attend([text_qkv, image_qkv], precision);

        let text_BTD = self.text.finish(text_BTD, text_mix_BTD, text_mods);
        let image_BID = self.image.finish(image_BID, image_mix_BID, image_mods);
        (text_BTD, image_BID)
    }
}

#[derive(Module, Debug)]
pub(crate) struct DualBlock {
    text: Stream,
    image: DualStream,
}

impl DualBlock {
    fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        DualBlock {
            text: Stream::new(config, params.at("context_block")),
            image: DualStream::new(config, params.at("x_block")),
        }
    }

    fn forward(&self, text_BTD: Tensor<3>, image_BID: Tensor<3>, rows: &BlockRows) -> (Tensor<3>, Tensor<3>) {
        let text_mods = self.text.modulations(&rows.text_B1R);
        let [text_normed_BTD, text_BTD] = text_mods.attention.norm(text_BTD, self.text.attn.precision);
        let text_qkv = self.text.attn.qkv(text_normed_BTD);
        let (image_BID, text_mix_BTD) = self.image.forward(image_BID, text_qkv, &rows.image_B1R);
        (self.text.finish(text_BTD, text_mix_BTD, text_mods), image_BID)
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
    fn new(config: &MmditConfig, dual: bool, mut params: Params<'_>) -> Self {
        LastBlock {
            text: LastTextStream::new(config, params.at("context_block")),
            image: if dual {
                LastImageStream::Dual(DualStream::new(config, params.at("x_block")))
            } else {
                LastImageStream::Single(Stream::new(config, params.at("x_block")))
            },
        }
    }

    fn forward(&self, text_BTD: Tensor<3>, image_BID: Tensor<3>, rows: &BlockRows) -> Tensor<3> {
        let text_qkv = self.text.qkv(text_BTD, &rows.text_B1R);
        match &self.image {
            LastImageStream::Single(image) => {
                let mods = image.modulations(&rows.image_B1R);
                let [normed_BID, image_BID] = mods.attention.norm(image_BID, image.attn.precision);
                let image_qkv = image.attn.qkv(normed_BID);
                let [_, image_mix_BID] = attend([text_qkv, image_qkv], image.attn.precision);
                image.finish(image_BID, image_mix_BID, mods)
            }
            LastImageStream::Dual(image) => image.forward(image_BID, text_qkv, &rows.image_B1R).0,
        }
    }
}

/// adaLN-Zero: `norm(x) * (1 + scale) + shift` before a branch, `* gate` after it.
struct Modulation {
    shift_B1D: Tensor<3>,
    scale_B1D: Tensor<3>,
    gate_B1D: Tensor<3>,
}

impl Modulation {
    /// The normed tokens, and the tokens for the branch to be added to.
    fn norm(&self, x_BLD: Tensor<3>, precision: Precision) -> [Tensor<3>; 2] {
        ops::modulated_norm(x_BLD, self.shift_B1D.clone(), self.scale_B1D.clone(), EPS, precision)
    }
}

struct BlockModulations {
    attention: Modulation,
    mlp: Modulation,
}

/// One stream of a joint block.
#[derive(Module, Debug)]
pub(crate) struct Stream {
    ada_ln: Linear,
    attn: Attention,
    mlp: Mlp,
}

impl Stream {
    fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        Stream {
            ada_ln: modulation_rows(6, config, &mut params),
            attn: Attention::new(config, params.at("attn")),
            mlp: Mlp::new(config.width, params.at("mlp")),
        }
    }

    fn modulations(&self, rows_B1R: &Tensor<3>) -> BlockModulations {
        let [shift, scale, gate, mlp_shift, mlp_scale, mlp_gate] = cut(rows_B1R);
        BlockModulations {
            attention: Modulation { shift_B1D: shift, scale_B1D: scale, gate_B1D: gate },
            mlp: Modulation { shift_B1D: mlp_shift, scale_B1D: mlp_scale, gate_B1D: mlp_gate },
        }
    }

    fn finish(&self, x_BLD: Tensor<3>, mix_BLD: Tensor<3>, mods: BlockModulations) -> Tensor<3> {
        let x_BLD = self.attn.proj.forward_gated(mix_BLD, x_BLD, mods.attention.gate_B1D);
        self.mlp.branch(x_BLD, mods.mlp)
    }
}

/// MMDiT-X's image stream: one norm feeds the joint attention and a second, image-only one.
#[derive(Module, Debug)]
pub(crate) struct DualStream {
    ada_ln: Linear,
    attn: Attention,
    attn2: Attention,
    mlp: Mlp,
}

impl DualStream {
    fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        DualStream {
            ada_ln: modulation_rows(9, config, &mut params),
            attn: Attention::new(config, params.at("attn")),
            attn2: Attention::new(config, params.at("attn2")),
            mlp: Mlp::new(config.width, params.at("mlp")),
        }
    }

    /// Returns the image stream after the block, and what the text tokens got from the joint attention.
    fn forward(&self, image_BID: Tensor<3>, text_qkv: Qkv, rows_B1R: &Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let [shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, shift2, scale2, gate2] = cut(rows_B1R);
        let joint = Modulation { shift_B1D: shift, scale_B1D: scale, gate_B1D: gate };
        let own = Modulation { shift_B1D: shift2, scale_B1D: scale2, gate_B1D: gate2 };

        let precision = self.attn.precision;
        let [joint_normed_BID, image_BID] = joint.norm(image_BID, precision);
        let [own_normed_BID, image_BID] = own.norm(image_BID, precision);
        let image_qkv = self.attn.qkv(joint_normed_BID);
        let own_qkv = self.attn2.qkv(own_normed_BID);
        let [text_mix_BTD, image_mix_BID] = attend([text_qkv, image_qkv], precision);
        let [own_mix_BID] = attend([own_qkv], precision);

        let image_BID = self.attn.proj.forward_gated(image_mix_BID, image_BID, joint.gate_B1D);
        let image_BID = self.attn2.proj.forward_gated(own_mix_BID, image_BID, own.gate_B1D);
        let mlp = Modulation { shift_B1D: mlp_shift, scale_B1D: mlp_scale, gate_B1D: mlp_gate };
        (self.mlp.branch(image_BID, mlp), text_mix_BTD)
    }
}

/// The last block's text stream: a norm and its keys and values.
#[derive(Module, Debug)]
pub(crate) struct LastTextStream {
    ada_ln: Linear,
    attn: QkvProduct,
}

impl LastTextStream {
    fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        LastTextStream {
            ada_ln: modulation_rows(2, config, &mut params),
            attn: QkvProduct::new(config, params.at("attn")),
        }
    }

    fn qkv(&self, text_BTD: Tensor<3>, rows_B1R: &Tensor<3>) -> Qkv {
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
    fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        let mut norm_of = |name| RmsNorm::new(params.at(name), HEAD_WIDTH, EPS);
        let norm = config.qk_norm.then(|| QkNorm::new(norm_of("ln_q"), norm_of("ln_k")));
        let precision = params.precision();
        let qkv = Linear::new(params.at("qkv"), config.width, 3 * config.width, Init::XavierUniform);
        QkvProduct { qkv, norm, precision }
    }

    fn forward(&self, x_BLD: Tensor<3>) -> Qkv {
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
    proj: Linear,
    #[module(skip)]
    precision: Precision,
}

impl Attention {
    fn new(config: &MmditConfig, mut params: Params<'_>) -> Self {
        let precision = params.precision();
        let proj = Linear::new(params.at("proj"), config.width, config.width, Init::XavierUniform);
        Attention { proj, products: QkvProduct::new(config, params), precision }
    }

    fn qkv(&self, x_BLD: Tensor<3>) -> Qkv {
        self.products.forward(x_BLD)
    }
}

/// Every token of all streams sees every other. Text goes first, as in the checkpoints' training.
///
/// Returns the mixed tokens of each stream, `[B, L, D]`.
fn attend<const N: usize>(streams: [Qkv; N], precision: Precision) -> [Tensor<3>; N] {
    let scale = (HEAD_WIDTH as f64).powf(-0.5);
    ops::attention(streams, scale, AttentionBias::None, precision)
}

#[derive(Module, Debug)]
pub(crate) struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    precision: Precision,
}

impl Mlp {
    fn new(width: usize, mut params: Params<'_>) -> Self {
        Mlp {
            precision: params.precision(),
            fc1: Linear::new(params.at("fc1"), width, 4 * width, Init::XavierUniform),
            fc2: Linear::new(params.at("fc2"), 4 * width, width, Init::XavierUniform),
        }
    }

    /// `x + gate * mlp(norm(x))`.
    fn branch(&self, x_BLD: Tensor<3>, mods: Modulation) -> Tensor<3> {
        let [normed_BLD, x_BLD] = mods.norm(x_BLD, self.precision);
        let hidden = self.fc1.forward_activated(normed_BLD, Activation::GeluTanh);
        self.fc2.forward_gated(hidden, x_BLD, mods.gate_B1D)
    }
}

/// The product that makes `count` modulation rows from the conditioning; 0 at first, so that a new block is
/// the identity. Its weight is used once for many steps, so it is not kept packed.
fn modulation_rows(count: usize, config: &MmditConfig, params: &mut Params<'_>) -> Linear {
    let mut place = params.at("adaLN_modulation");
    Linear::new(place.at(1).used_once(), config.width, count * config.width, Init::Zeros)
}
