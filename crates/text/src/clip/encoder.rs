//! The CLIP text encoder. Source: Radford et al. 2021, arXiv:2103.00020, section 2.4; the details are those of
//! `CLIPTextModelWithProjection` in transformers and of `other_impls.py` in Stability-AI/sd3.5.
//!
//! Without a checkpoint, parameters start as in openai/CLIP (`initialize_parameters` in `model.py`), but biases at 0, as
//! in transformers.
//!
//! Shape letters: B batch, L tokens, D width, H heads, E head width, P width of the pooled output.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use rectiflow_nn::layers::{Embedding, LayerNorm, Linear};
use rectiflow_nn::ops::{self, AttentionBias, Qkv};
use rectiflow_nn::{DType, Init, Params, Precision};

use super::config::{Activation, ClipConfig, Pooling};
use crate::heads::split_heads;

/// What SD3 takes from a CLIP text encoder.
#[derive(Clone, Debug)]
pub struct ClipOutput {
    /// `[B, L, D]`: what the last block but one gives, without the final norm.
    pub penultimate: Tensor<3>,
    /// `[B, P]`: the last block's end-of-text token after the final norm, perhaps projected.
    pub pooled: Tensor<2>,
}

/// A CLIP text encoder.
#[derive(Module, Debug)]
pub struct ClipEncoder {
    tokens: Embedding,
    positions: Embedding,
    layers: ClipBlocks,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    #[module(skip)]
    config: ClipConfig,
}

impl ClipEncoder {
    /// Asks `params` for every parameter, by the names of transformers and of the official files.
    ///
    /// The projection is asked for if the config has one, even if it will not be applied.
    ///
    /// # Panics
    /// The config has no layers, or its heads do not divide its width. [`ClipConfig::find`] gives none such.
    pub fn new(mut params: Params<'_>, config: &ClipConfig) -> Self {
        let &ClipConfig { width, vocabulary, positions, projection, .. } = config;
        assert!(config.layers > 0 && width.is_multiple_of(config.heads), "impossible encoder: {config:?}");
        let start = deviation(width);
        let text_projection =
            projection.map(|out| Linear::without_bias(params.at("text_projection"), width, out, start));
        let mut model = params.at("text_model");
        let mut tables = model.at("embeddings");
        ClipEncoder {
            tokens: Embedding::new(tables.at("token_embedding"), vocabulary, width),
            positions: Embedding::starting(tables.at("position_embedding"), positions, width, Init::Normal(0.01)),
            layers: ClipBlocks::new(model.at("encoder"), config, Sees::Earlier),
            final_layer_norm: LayerNorm::new(model.at("final_layer_norm"), width, config.eps),
            text_projection,
            config: config.clone(),
        }
    }

    /// ids `[B, L]` as [`ClipTokenizer`](crate::ClipTokenizer) gives them.
    ///
    /// # Panics
    /// A row has no end of text, or is longer than the position table: ids that no CLIP tokenizer gives.
    pub fn forward(&self, ids_BL: Tensor<2, Int>, pooling: Pooling) -> ClipOutput {
        let ends = ends_of_text(&ids_BL, self.config.size().end_of_text());
        let (last, earlier) = self.layers.layers.split_last().expect("an encoder has layers");
        let penultimate = earlier.iter().fold(self.embed(ids_BL), |x_BLD, layer| layer.forward(x_BLD));
        let pooled = self.pool(last.forward(penultimate.clone()), &ends, pooling);
        ClipOutput { penultimate, pooled }
    }

    /// The sizes.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    fn embed(&self, ids_BL: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = ids_BL.dims();
        assert!(length <= self.config.positions, "{length} tokens, {} positions", self.config.positions);
        let places_1L = Tensor::arange(0..length as i64, &ids_BL.device()).unsqueeze();
        self.tokens.forward(ids_BL) + self.positions.forward(places_1L)
    }

    /// The norm works on each token alone, so only the tokens at `ends` go through it.
    fn pool(&self, x_BLD: Tensor<3>, ends: &[usize], pooling: Pooling) -> Tensor<2> {
        let rows = ends.iter().enumerate().map(|(row, &end)| x_BLD.clone().slice([row..row + 1, end..end + 1]));
        let end_B1D = self.final_layer_norm.forward(Tensor::cat(rows.collect(), 0), DType::F32);
        let end_BD: Tensor<2> = end_B1D.squeeze_dim(1);
        match (pooling, &self.text_projection) {
            (Pooling::Projected, Some(projection)) => projection.forward(end_BD),
            (Pooling::Projected, None) | (Pooling::Unprojected, _) => end_BD,
        }
    }
}

/// Normal, so that a sum over this many products of unit size has unit size.
fn deviation(inputs: usize) -> Init {
    Init::Normal((inputs as f32).powf(-0.5))
}

/// Of what is added to the residual stream, smaller the more layers add to it.
fn residual_deviation(config: &ClipConfig) -> Init {
    deviation(config.width * 2 * config.layers)
}

/// The place of the first end of text in each row.
///
/// Stability-AI/sd3.5 takes the largest id, which is the same as long as nobody has added tokens.
fn ends_of_text(ids_BL: &Tensor<2, Int>, end_of_text: u32) -> Vec<usize> {
    let [_, length] = ids_BL.dims();
    let ids: Vec<i64> = ids_BL.to_data().iter().collect();
    let end_of = |row: &[i64]| row.iter().position(|&id| id == i64::from(end_of_text));
    ids.chunks(length).map(|row| end_of(row).expect("every CLIP text has an end")).collect()
}

/// A pre-norm transformer block.
#[derive(Module, Debug)]
struct Layer {
    layer_norm1: LayerNorm,
    self_attn: SelfAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    precision: Precision,
}

/// Which tokens a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Itself and those before it: texts.
    Earlier,
    /// All: pictures.
    All,
}

/// The blocks of a CLIP transformer, which are the same for texts and for pictures.
#[derive(Module, Debug)]
pub struct ClipBlocks {
    layers: Vec<Layer>,
}

impl ClipBlocks {
    /// `params` is the place `encoder` of transformers' names. Of the sizes, those of tables are not read.
    pub fn new(mut params: Params<'_>, config: &ClipConfig, sees: Sees) -> Self {
        let mut place = params.at("layers");
        ClipBlocks { layers: (0..config.layers).map(|i| Layer::new(place.at(i), config, sees)).collect() }
    }

    /// All blocks. x `[B, L, D]`.
    pub fn forward(&self, x_BLD: Tensor<3>) -> Tensor<3> {
        self.layers.iter().fold(x_BLD, |x_BLD, layer| layer.forward(x_BLD))
    }
}

impl Layer {
    fn new(mut params: Params<'_>, config: &ClipConfig, sees: Sees) -> Self {
        Layer {
            layer_norm1: LayerNorm::new(params.at("layer_norm1"), config.width, config.eps),
            self_attn: SelfAttention::new(params.at("self_attn"), config, sees),
            layer_norm2: LayerNorm::new(params.at("layer_norm2"), config.width, config.eps),
            mlp: Mlp::new(params.at("mlp"), config),
            precision: params.precision(),
        }
    }

    fn forward(&self, x_BLD: Tensor<3>) -> Tensor<3> {
        let factor = self.precision.factor();
        let x_BLD = self.self_attn.forward(self.layer_norm1.forward(x_BLD.clone(), factor), x_BLD);
        self.mlp.forward(self.layer_norm2.forward(x_BLD.clone(), factor), x_BLD)
    }
}

/// Attention to the tokens that a token sees.
#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    sees: Sees,
    #[module(skip)]
    precision: Precision,
}

impl SelfAttention {
    fn new(mut params: Params<'_>, config: &ClipConfig, sees: Sees) -> Self {
        let precision = params.precision();
        let start = deviation(config.width);
        let mut product = |name, init| Linear::new(params.at(name), config.width, config.width, init);
        SelfAttention {
            q_proj: product("q_proj", start),
            k_proj: product("k_proj", start),
            v_proj: product("v_proj", start),
            out_proj: product("out_proj", residual_deviation(config)),
            heads: config.heads,
            sees,
            precision,
        }
    }

    /// What the tokens become, added to `residual`.
    fn forward(&self, x_BLD: Tensor<3>, residual_BLD: Tensor<3>) -> Tensor<3> {
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj]
            .map(|product| split_heads(product.forward_factor(x_BLD.clone()), self.heads));
        let scale = (q.dims()[3] as f64).powf(-0.5);
        let bias = match self.sees {
            Sees::Earlier => AttentionBias::Causal,
            Sees::All => AttentionBias::None,
        };
        let [mixed_BLD] = ops::attention([Qkv::Apart { q, k, v }], scale, bias, self.precision);
        self.out_proj.forward_added(mixed_BLD, residual_BLD)
    }
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    fn new(mut params: Params<'_>, config: &ClipConfig) -> Self {
        Mlp {
            fc1: Linear::new(params.at("fc1"), config.width, config.mlp, deviation(2 * config.width)),
            fc2: Linear::new(params.at("fc2"), config.mlp, config.width, residual_deviation(config)),
            activation: config.activation,
        }
    }

    /// What the tokens become, added to `residual`.
    fn forward(&self, x_BLD: Tensor<3>, residual_BLD: Tensor<3>) -> Tensor<3> {
        let activation = match self.activation {
            Activation::QuickGelu => ops::Activation::QuickGelu,
            Activation::Gelu => ops::Activation::Gelu,
        };
        self.fc2.forward_added(self.fc1.forward_activated(x_BLD, activation), residual_BLD)
    }
}
