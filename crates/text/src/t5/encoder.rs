//! The encoder half of T5 v1.1. Source: Raffel et al. 2020, arXiv:1910.10683, and Shazeer 2020,
//! arXiv:2002.05202, for the gated MLP; the details are those of `T5EncoderModel` in transformers.
//!
//! There is no mask: SD3 was trained with the padding attended to.
//!
//! Shape letters: B batch, L tokens, D width, H heads.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use rectiflow_nn::layers::{Embedding, RmsNorm};
use rectiflow_nn::{DType, Params};

use super::bias::{Buckets, Sight};
use super::config::T5Config;
use super::layers::{self, Attention, GatedMlp};

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
        let tokens = Embedding::starting(params.at("shared"), config.vocabulary, config.width, layers::TOKENS);
        let mut encoder = params.at("encoder");
        T5Encoder {
            tokens,
            relative_attention_bias: layers::positions(encoder.at("block.0.layer.0.SelfAttention"), config),
            blocks: blocks(encoder.at("block"), config),
            final_layer_norm: RmsNorm::new(encoder.at("final_layer_norm"), config.width, config.eps),
            config: config.clone(),
        }
    }

    /// ids `[B, L]` as [`T5Tokenizer`](crate::T5Tokenizer) gives them. Returns `[B, L, D]`.
    pub fn forward(&self, ids_BL: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = ids_BL.dims();
        let buckets = Buckets::of_config(&self.config, Sight::BothWays);
        let bias_1HLL = buckets.bias(&self.relative_attention_bias, length, &ids_BL.device());
        let embedded_BLD = self.embed(ids_BL);
        let x_BLD = self.blocks.iter().fold(embedded_BLD, |x_BLD, block| block.forward(x_BLD, &bias_1HLL));
        self.final_layer_norm.forward(x_BLD, DType::F32)
    }

    /// The sizes.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// ids `[B, L]`. Returns their rows of the token table, which the decoder shares.
    pub(super) fn embed(&self, ids_BL: Tensor<2, Int>) -> Tensor<3> {
        self.tokens.forward(ids_BL)
    }
}

/// A pre-norm transformer block.
#[derive(Module, Debug)]
struct Block {
    attention: Attention,
    mlp: GatedMlp,
}

fn blocks(mut params: Params<'_>, config: &T5Config) -> Vec<Block> {
    (0..config.layers).map(|i| Block::new(params.at(i), config)).collect()
}

impl Block {
    fn new(mut params: Params<'_>, config: &T5Config) -> Self {
        Block {
            attention: Attention::new(params.at("layer.0"), "SelfAttention", config),
            mlp: GatedMlp::new(params.at("layer.1"), config),
        }
    }

    fn forward(&self, x_BLD: Tensor<3>, bias_1HLL: &Tensor<4>) -> Tensor<3> {
        self.mlp.forward(self.attention.to_itself(x_BLD, bias_1HLL.clone()))
    }
}
