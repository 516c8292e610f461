//! What the blocks of T5's encoder and decoder are made of.
//!
//! Without a checkpoint, parameters start as in Mesh TensorFlow's T5 (`T5PreTrainedModel._init_weights` in transformers,
//! `initializer_factor` 1): products so that sums have unit size, queries smaller by the root of the head width, which
//! attention here does not divide by.
//!
//! Shape letters: B batch, L tokens, S tokens that are looked at, D width, F inner width of the MLP, H heads.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::module::Module;
use burn::tensor::Tensor;
use rectiflow_nn::layers::{Embedding, Linear, RmsNorm};
use rectiflow_nn::ops::{self, Activation, After, AttentionBias, Qkv};
use rectiflow_nn::{Init, Params, Precision};

use super::config::T5Config;
use crate::heads::split_heads;

/// Normal, so that a sum over this many products of unit size has unit size.
fn deviation(inputs: usize) -> Init {
    Init::Normal((inputs as f32).powf(-0.5))
}

/// A table of T5's tokens.
pub(super) const TOKENS: Init = Init::Normal(1.0);

/// What tells tokens apart at the end starts as in T5X, with logits of unit size. In transformers it starts larger by the
/// root of the width: the first loss is then many times that of guessing blindly.
pub(super) fn head(mut params: Params<'_>, config: &T5Config) -> Linear {
    Linear::without_bias(params.at("lm_head"), config.width, config.vocabulary, deviation(config.width))
}

/// The table of relative positions, where the first block of a stack has it.
pub(super) fn positions(mut first_attention: Params<'_>, config: &T5Config) -> Embedding {
    let place = first_attention.at("relative_attention_bias");
    Embedding::starting(place, config.buckets, config.heads, deviation(config.width))
}

/// Attention of tokens to tokens, with the norm before it and the tokens added after it.
#[derive(Module, Debug)]
pub(super) struct Attention {
    layer_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    precision: Precision,
}

impl Attention {
    /// `params` is at the layer; `name` is that of its attention.
    pub(super) fn new(mut params: Params<'_>, name: &str, config: &T5Config) -> Self {
        let T5Config { width, heads, head_width, .. } = *config;
        let inner = heads * head_width;
        let layer_norm = RmsNorm::new(params.at("layer_norm"), width, config.eps);
        let mut params = params.at(name);
        let precision = params.precision();
        let mut product = |name, [from, to]: [usize; 2], init| Linear::without_bias(params.at(name), from, to, init);
        Attention {
            layer_norm,
            q: product("q", [width, inner], deviation(width * head_width)),
            k: product("k", [width, inner], deviation(width)),
            v: product("v", [width, inner], deviation(width)),
            o: product("o", [inner, width], deviation(inner)),
            heads,
            precision,
        }
    }

    /// x `[B, L, D]` with what its tokens see of each other. bias `[1, H, L, L]`.
    pub(super) fn to_itself(&self, x_BLD: Tensor<3>, bias_1HLL: Tensor<4>) -> Tensor<3> {
        let normed_BLD = self.layer_norm.forward(x_BLD.clone(), self.precision.factor());
        self.mix(normed_BLD.clone(), normed_BLD, AttentionBias::Added(bias_1HLL), x_BLD)
    }

    /// x `[B, L, D]` with what its tokens see of others `[B, S, D]`, which are rounded as factors and are not normed.
    pub(super) fn to_others(&self, x_BLD: Tensor<3>, others_BSD: Tensor<3>) -> Tensor<3> {
        let normed_BLD = self.layer_norm.forward(x_BLD.clone(), self.precision.factor());
        self.mix(normed_BLD, others_BSD, AttentionBias::None, x_BLD)
    }

    fn mix(
        &self,
        asking_BLD: Tensor<3>,
        asked_BSD: Tensor<3>,
        bias: AttentionBias,
        residual_BLD: Tensor<3>,
    ) -> Tensor<3> {
        let heads = |product: &Linear, x: Tensor<3>| split_heads(product.forward_factor(x), self.heads);
        let q = heads(&self.q, asking_BLD);
        let (k, v) = (heads(&self.k, asked_BSD.clone()), heads(&self.v, asked_BSD));
        // T5 does not divide by the root of the head width: its initialisation did.
        let scale = 1.0;
        let [mixed_BLD] = ops::attention([Qkv::Apart { q, k, v }], scale, bias, self.precision);
        self.o.forward_added(mixed_BLD, residual_BLD)
    }
}

/// `x + wo (gelu(wi_0 y) * wi_1 y)`, y the norm of x.
#[derive(Module, Debug)]
pub(super) struct GatedMlp {
    layer_norm: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
    #[module(skip)]
    precision: Precision,
}

impl GatedMlp {
    /// `params` is at the layer.
    pub(super) fn new(mut params: Params<'_>, config: &T5Config) -> Self {
        let T5Config { width, mlp, .. } = *config;
        let layer_norm = RmsNorm::new(params.at("layer_norm"), width, config.eps);
        let mut params = params.at("DenseReluDense");
        let precision = params.precision();
        let mut product =
            |name, [from, to]: [usize; 2]| Linear::without_bias(params.at(name), from, to, deviation(from));
        GatedMlp {
            layer_norm,
            wi_0: product("wi_0", [width, mlp]),
            wi_1: product("wi_1", [width, mlp]),
            wo: product("wo", [mlp, width]),
            precision,
        }
    }

    /// x `[B, L, D]`.
    pub(super) fn forward(&self, x_BLD: Tensor<3>) -> Tensor<3> {
        let normed_BLD = self.layer_norm.forward(x_BLD.clone(), self.precision.factor());
        let after = After { activation: Activation::GeluTanh, ..After::default() };
        let gate_BLF = self.wi_0.forward_then(normed_BLD.clone(), after);
        self.wo.forward_added(self.wi_1.forward_times(normed_BLD, gate_BLF), x_BLD)
    }
}
