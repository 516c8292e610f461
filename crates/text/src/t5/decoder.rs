//! The decoder half of T5 v1.1 and its language-model head, which only training needs: guessing hidden words is what an
//! encoder learns from, and then the decoder is thrown away.
//!
//! The details are those of `T5ForConditionalGeneration` in transformers, without tied embeddings. The encoder's output
//! is looked at whole, padding included: the transformer that draws looks at all of it too, so what stands at the places
//! of the padding has to be learnt like the rest. What this module does not do: write text.
//!
//! Shape letters: B batch, L tokens of the decoder, S tokens of the encoder, D width, V vocabulary, H heads.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use rectiflow_nn::layers::{Embedding, Linear, RmsNorm};
use rectiflow_nn::{Params, Precision};

use super::bias::{Buckets, Sight};
use super::config::T5Config;
use super::encoder::T5Encoder;
use super::layers::{self, Attention, GatedMlp};

/// A T5 v1.1 decoder without a token table: it has the encoder's.
#[derive(Module, Debug)]
pub struct T5Decoder {
    /// Stored in the first block, used by all. Not the encoder's.
    relative_attention_bias: Embedding,
    blocks: Vec<Block>,
    final_layer_norm: RmsNorm,
    lm_head: Linear,
    #[module(skip)]
    config: T5Config,
    #[module(skip)]
    precision: Precision,
}

impl T5Decoder {
    /// Asks `params` for every parameter, by the names of transformers. `config` is that of the encoder; `layers` are
    /// the decoder's own.
    ///
    /// # Panics
    /// There are no layers, or the table of positions has too many rows for its distance: no T5 is so.
    pub fn new(mut params: Params<'_>, config: &T5Config, layers: usize) -> Self {
        assert!(layers > 0 && config.max_distance > config.buckets / 2, "impossible decoder: {layers} of {config:?}");
        let mut decoder = params.at("decoder");
        let relative_attention_bias = layers::positions(decoder.at("block.0.layer.0.SelfAttention"), config);
        let blocks = blocks(decoder.at("block"), config, layers);
        let final_layer_norm = RmsNorm::new(decoder.at("final_layer_norm"), config.width, config.eps);
        let precision = params.precision();
        let lm_head = layers::head(params, config);
        T5Decoder { relative_attention_bias, blocks, final_layer_norm, lm_head, config: config.clone(), precision }
    }

    /// What each token could be followed by: logits `[B, L, V]`.
    ///
    /// encoded `[B, S, D]` is what `encoder` gave. ids `[B, L]` are the targets moved by one place, with the padding
    /// token first.
    pub fn forward(&self, encoder: &T5Encoder, encoded_BSD: Tensor<3>, ids_BL: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = ids_BL.dims();
        let buckets = Buckets::of_config(&self.config, Sight::Behind);
        let bias_1HLL = buckets.bias(&self.relative_attention_bias, length, &ids_BL.device());
        // Rounded once for all blocks.
        let encoded_BSD = encoded_BSD.cast(self.precision.factor());
        let x_BLD = self
            .blocks
            .iter()
            .fold(encoder.embed(ids_BL), |x_BLD, block| block.forward(x_BLD, &bias_1HLL, encoded_BSD.clone()));
        self.lm_head.forward(self.final_layer_norm.forward(x_BLD, self.precision.factor()))
    }
}

/// A pre-norm transformer block.
#[derive(Module, Debug)]
struct Block {
    to_itself: Attention,
    to_encoder: Attention,
    mlp: GatedMlp,
}

fn blocks(mut params: Params<'_>, config: &T5Config, layers: usize) -> Vec<Block> {
    (0..layers).map(|i| Block::new(params.at(i), config)).collect()
}

impl Block {
    fn new(mut params: Params<'_>, config: &T5Config) -> Self {
        Block {
            to_itself: Attention::new(params.at("layer.0"), "SelfAttention", config),
            to_encoder: Attention::new(params.at("layer.1"), "EncDecAttention", config),
            mlp: GatedMlp::new(params.at("layer.2"), config),
        }
    }

    fn forward(&self, x_BLD: Tensor<3>, bias_1HLL: &Tensor<4>, encoded_BSD: Tensor<3>) -> Tensor<3> {
        let x_BLD = self.to_itself.to_itself(x_BLD, bias_1HLL.clone());
        self.mlp.forward(self.to_encoder.to_others(x_BLD, encoded_BSD))
    }
}
