//! The encoder half of T5 v1.1. Source: Raffel et al. 2020, arXiv:1910.10683, and Shazeer 2020,
//! arXiv:2002.05202, for the gated MLP; the details are those of `T5EncoderModel` in transformers.
//!
//! There is no mask: SD3 was trained with the padding attended to.
//!
//! Shape letters: B batch, L tokens, D width, H heads, E head width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use rectiflow_nn::layers::{Embedding, Linear, RmsNorm};
use rectiflow_nn::ops::{self, Activation, After, AttentionBias, Qkv};
use rectiflow_nn::{DType, Init, Params, Precision};

use super::bias::Buckets;
use super::config::T5Config;
use crate::heads::split_heads;

/// A T5 v1.1 encoder.
#[derive(Module, Debug)]
pub struct T5Encoder {
    tokens: Embedding,
    /// Stored in the first block, used by all.
    relative_attention_bias: Embedding,
    blocks: Vec<Block>,
    final_layer_norm: RmsNorm,
    #[module(skip)]
    config: T5Config,
}

impl T5Encoder {
    /// Asks `params` for every parameter, by the names of transformers and of the official files.
    pub fn new(mut params: Params<'_>, config: &T5Config) -> Self {
        let tokens = Embedding::new(params.at("shared"), config.vocabulary, config.width);
        let mut encoder = params.at("encoder");
        let mut first_attention = encoder.at("block.0.layer.0.SelfAttention");
        let relative_attention_bias =
            Embedding::new(first_attention.at("relative_attention_bias"), config.buckets, config.heads);
        T5Encoder {
            tokens,
            relative_attention_bias,
            blocks: blocks(encoder.at("block"), config),
            final_layer_norm: RmsNorm::new(encoder.at("final_layer_norm"), config.width, config.eps),
            config: config.clone(),
        }
    }

    /// ids `[B, L]` as [`T5Tokenizer`](crate::T5Tokenizer) gives them. Returns `[B, L, D]`.
    pub fn forward(&self, ids_BL: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = ids_BL.dims();
        let buckets = Buckets { count: self.config.buckets, max_distance: self.config.max_distance };
        let bias_1HLL = buckets.bias(&self.relative_attention_bias, length, &ids_BL.device());
        let embedded_BLD = self.tokens.forward(ids_BL);
        let x_BLD = self.blocks.iter().fold(embedded_BLD, |x_BLD, block| block.forward(x_BLD, &bias_1HLL));
        self.final_layer_norm.forward(x_BLD, DType::F32)
    }

    /// The sizes.
    pub fn config(&self) -> &T5Config {
        &self.config
    }
}

/// A pre-norm transformer block.
#[derive(Module, Debug)]
struct Block {
    attention_norm: RmsNorm,
    attention: SelfAttention,
    mlp_norm: RmsNorm,
    mlp: GatedMlp,
}

fn blocks(mut params: Params<'_>, config: &T5Config) -> Vec<Block> {
    (0..config.layers).map(|i| Block::new(params.at(i), config)).collect()
}

impl Block {
    fn new(mut params: Params<'_>, config: &T5Config) -> Self {
        let mut attention = params.at("layer.0");
        let attention_norm = RmsNorm::new(attention.at("layer_norm"), config.width, config.eps);
        let attention = SelfAttention::new(attention.at("SelfAttention"), config);
        let mut mlp = params.at("layer.1");
        let mlp_norm = RmsNorm::new(mlp.at("layer_norm"), config.width, config.eps);
        let mlp = GatedMlp::new(mlp.at("DenseReluDense"), config);
        Block { attention_norm, attention, mlp_norm, mlp }
    }

    fn forward(&self, x_BLD: Tensor<3>, bias_1HLL: &Tensor<4>) -> Tensor<3> {
        let factor = self.attention.precision.factor();
        let normed_BLD = self.attention_norm.forward(x_BLD.clone(), factor);
        let x_BLD = self.attention.forward(normed_BLD, bias_1HLL.clone(), x_BLD);
        self.mlp.forward(self.mlp_norm.forward(x_BLD.clone(), factor), x_BLD)
    }
}

/// Attention of every token to every token.
#[derive(Module, Debug)]
struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    precision: Precision,
}

impl SelfAttention {
    fn new(mut params: Params<'_>, config: &T5Config) -> Self {
        let precision = params.precision();
        let inner = config.heads * config.head_width;
        let mut product =
            |name, width_in, width_out| Linear::without_bias(params.at(name), width_in, width_out, Init::XavierUniform);
        SelfAttention {
            q: product("q", config.width, inner),
            k: product("k", config.width, inner),
            v: product("v", config.width, inner),
            o: product("o", inner, config.width),
            heads: config.heads,
            precision,
        }
    }

    /// What the tokens become, added to `residual`.
    fn forward(&self, x_BLD: Tensor<3>, bias_1HLL: Tensor<4>, residual_BLD: Tensor<3>) -> Tensor<3> {
        let [q, k, v] =
            [&self.q, &self.k, &self.v].map(|product| split_heads(product.forward_factor(x_BLD.clone()), self.heads));
        // T5 does not divide by the root of the head width: its initialisation did.
        let scale = 1.0;
        let bias = AttentionBias::Added(bias_1HLL);
        let [mixed_BLD] = ops::attention([Qkv::Apart { q, k, v }], scale, bias, self.precision);
        self.o.forward_added(mixed_BLD, residual_BLD)
    }
}

/// `wo (gelu(wi_0 x) * wi_1 x)`.
#[derive(Module, Debug)]
struct GatedMlp {
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

impl GatedMlp {
    fn new(mut params: Params<'_>, config: &T5Config) -> Self {
        let mut product =
            |name, width_in, width_out| Linear::without_bias(params.at(name), width_in, width_out, Init::XavierUniform);
        GatedMlp {
            wi_0: product("wi_0", config.width, config.mlp),
            wi_1: product("wi_1", config.width, config.mlp),
            wo: product("wo", config.mlp, config.width),
        }
    }

    /// What the tokens become, added to `residual`.
    fn forward(&self, x_BLD: Tensor<3>, residual_BLD: Tensor<3>) -> Tensor<3> {
        let gate_BLF =
            self.wi_0.forward_then(x_BLD.clone(), After { activation: Activation::GeluTanh, ..After::default() });
        self.wo.forward_added(self.wi_1.forward_times(x_BLD, gate_BLF), residual_BLD)
    }
}
