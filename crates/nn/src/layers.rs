//! An operation with its parameters. Names and shapes are those of the official checkpoints.
//!
//! Nothing here knows which model it is part of.

use burn::module::{Module, Param};
use burn::tensor::{DType, Gradients, Int, Tensor};

use crate::ops::{
    self, Activation, After, Apart, Before, GroupNormed, PackedWeight, PictureSums, Residual, ScaleShift, Window,
};
use crate::{BlockMatrix, Init, Params, Precision, StoredMatrix};

/// `x @ weight^T + bias`: `weight` `[out, in]`, `bias` `[out]`.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
    /// What products take instead of `weight`, which is then never read.
    #[module(skip)]
    stored: Option<StoredMatrix>,
    #[module(skip)]
    packed: PackedWeight,
    #[module(skip)]
    precision: Precision,
}

impl Linear {
    /// With a bias that starts at 0.
    pub fn new(mut params: Params<'_>, width_in: usize, width_out: usize, init: Init) -> Self {
        let bias = Some(params.param("bias", [width_out], Init::Zeros));
        Linear { bias, ..Linear::without_bias(params, width_in, width_out, init) }
    }

    /// With a weight and a bias that start in the same way: `Init::by_fan_in(width_in)`, as PyTorch's own.
    pub fn by_fan_in(mut params: Params<'_>, width_in: usize, width_out: usize) -> Self {
        let init = Init::by_fan_in(width_in);
        let bias = Some(params.param("bias", [width_out], init));
        Linear { bias, ..Linear::without_bias(params, width_in, width_out, init) }
    }

    /// Without a bias.
    pub fn without_bias(mut params: Params<'_>, width_in: usize, width_out: usize, init: Init) -> Self {
        let shape = [width_out, width_in];
        let weight = params.param("weight", shape, init);
        let stored = params.stored("weight", shape);
        Linear { weight, bias: None, stored, packed: params.packed_weight(), precision: params.precision() }
    }

    /// x `[.., in]`. Returns `[.., out]` in f32.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_then(x, After::default())
    }

    /// As [`Self::forward`], rounded as the factor of another product.
    pub fn forward_factor<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_activated(x, Activation::None)
    }

    /// `activation(x @ weight^T + bias)`, rounded as the factor of another product.
    pub fn forward_activated<const D: usize>(&self, x: Tensor<D>, activation: Activation) -> Tensor<D> {
        self.forward_then(x, After { activation, out: self.precision.factor(), ..After::default() })
    }

    /// `base + x @ weight^T + bias`. base `[.., out]`.
    pub fn forward_added<const D: usize>(&self, x: Tensor<D>, base: Tensor<D>) -> Tensor<D> {
        self.forward_then(x, After { residual: Some(Residual { x: base, gate: None }), ..After::default() })
    }

    /// adaLN-Zero's end of a branch: `base + gate * (x @ weight^T + bias)`. base `[B, L, out]`, gate `[B, 1, out]`.
    pub fn forward_gated(&self, x: Tensor<3>, base: Tensor<3>, gate: Tensor<3>) -> Tensor<3> {
        self.forward_then(x, After { residual: Some(Residual { x: base, gate: Some(gate) }), ..After::default() })
    }

    /// `times * (x @ weight^T + bias)`, rounded as the factor of another product. times `[.., out]`, f32.
    pub fn forward_times<const D: usize>(&self, x: Tensor<D>, times: Tensor<D>) -> Tensor<D> {
        self.forward_then(x, After { times: Some(times), out: self.precision.factor(), ..After::default() })
    }

    /// `x @ weight^T + bias` and what follows.
    pub fn forward_then<const D: usize>(&self, x: Tensor<D>, after: After<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        if let Some(stored) = &self.stored {
            return ops::linear_of_stored(x, stored, &self.packed, bias, after, self.precision);
        }
        ops::linear(x, self.weight.val(), &self.packed, bias, after, self.precision)
    }
}

/// 2-D convolution: `weight` `[out, in, K, K]`, `bias` `[out]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: PackedWeight,
    #[module(skip)]
    window: Window,
    #[module(skip)]
    precision: Precision,
}

impl Conv2d {
    /// A `kernel` x `kernel` convolution from `channels[0]` to `channels[1]` channels, which starts as the products of
    /// a transformer do: Xavier-uniform, with a bias of 0.
    pub fn new(params: Params<'_>, channels: [usize; 2], kernel: usize, window: Window) -> Self {
        Conv2d::starting(params, channels, kernel, window, [Init::XavierUniform, Init::Zeros])
    }

    /// The same, which starts as PyTorch's own convolutions do: [`Init::by_fan_in`].
    pub fn by_fan_in(params: Params<'_>, channels: [usize; 2], kernel: usize, window: Window) -> Self {
        let init = Init::by_fan_in(channels[0] * kernel * kernel);
        Conv2d::starting(params, channels, kernel, window, [init; 2])
    }

    /// The same; `inits` of the weight and of the bias.
    pub fn starting(
        mut params: Params<'_>,
        channels: [usize; 2],
        kernel: usize,
        window: Window,
        inits: [Init; 2],
    ) -> Self {
        let bias = Some(params.param("bias", [channels[1]], inits[1]));
        Conv2d { bias, ..Conv2d::without_bias(params, channels, kernel, window, inits[0]) }
    }

    /// Without a bias.
    pub fn without_bias(
        mut params: Params<'_>,
        channels: [usize; 2],
        kernel: usize,
        window: Window,
        init: Init,
    ) -> Self {
        let weight = params.param("weight", [channels[1], channels[0], kernel, kernel], init);
        Conv2d { weight, bias: None, packed: params.packed_weight(), window, precision: params.precision() }
    }

    /// The weight's gradient of a backward pass, if it learns and was used.
    pub fn weight_gradient(&self, gradients: &Gradients) -> Option<Tensor<4>> {
        self.weight.val().grad(gradients)
    }

    /// x `[B, in, H, W]`. Returns `[B, out, H', W']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_after(Before::default(), x, None)
    }

    /// The convolution of what `before` makes of x, plus `residual` `[B, out, H', W']`.
    pub fn forward_after(&self, before: Before, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        let weight = self.weight.val();
        let bias = match &self.bias {
            Some(bias) => bias.val(),
            None => Tensor::zeros([weight.dims()[0]], (&x.device(), DType::F32)),
        };
        ops::conv2d(x, before, (weight, &self.packed), bias, self.window, residual, self.precision)
    }
}

/// A convolution of every channel with a window of its own: `weight` `[C, 1, K, K]`, `bias` `[C]`. In f32.
#[derive(Module, Debug)]
pub struct DepthwiseConv2d {
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
}

impl DepthwiseConv2d {
    /// Windows of `kernel` x `kernel`, which start as PyTorch's do: [`Init::by_fan_in`].
    pub fn new(mut params: Params<'_>, channels: usize, kernel: usize) -> Self {
        let init = Init::by_fan_in(kernel * kernel);
        let weight = params.param("weight", [channels, 1, kernel, kernel], init);
        DepthwiseConv2d { weight, bias: params.param("bias", [channels], init) }
    }

    /// x `[B, C, H, W]`. Returns `[B, C, H', W']`.
    pub fn forward(&self, x: Tensor<4>, apart: Apart) -> Tensor<4> {
        ops::depthwise_conv2d(x, self.weight.val(), self.bias.val(), apart)
    }
}

/// Group norm with `weight` and `bias` `[C]`.
#[derive(Module, Debug)]
pub struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    eps: f64,
}

impl GroupNorm {
    /// `groups` divides `channels`.
    pub fn new(mut params: Params<'_>, channels: usize, groups: usize, eps: f64) -> Self {
        let weight = params.param("weight", [channels], Init::Ones);
        let bias = params.param("bias", [channels], Init::Zeros);
        GroupNorm { weight, bias, groups, eps }
    }

    /// x `[B, C, H, W]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::group_norm(x, self.normed())
    }

    /// The norm and then SiLU, for a convolution to do as it reads the picture.
    pub fn then_silu(&self) -> Before {
        Before { normed: Some(self.normed()), silu: true, ..Before::default() }
    }

    /// The norm of a picture of which only strips are there.
    pub fn measured(&self, sums: &PictureSums) -> ScaleShift {
        sums.group_norm(self.normed())
    }

    fn normed(&self) -> GroupNormed {
        GroupNormed { groups: self.groups, weight: self.weight.val(), bias: self.bias.val(), eps: self.eps }
    }
}

/// Layer norm with `weight` and `bias` `[D]`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// Over the last axis, `width` wide.
    pub fn new(mut params: Params<'_>, width: usize, eps: f64) -> Self {
        let weight = params.param("weight", [width], Init::Ones);
        let bias = params.param("bias", [width], Init::Zeros);
        LayerNorm { weight, bias, eps }
    }

    /// x `[.., D]`. Returns the same shape as `out`: f32, or the type of the factors of the product that takes it.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, out: DType) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps, out)
    }
}

/// RMS norm with `weight` `[D]`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl RmsNorm {
    /// Over the last axis, `width` wide.
    pub fn new(mut params: Params<'_>, width: usize, eps: f64) -> Self {
        RmsNorm { weight: params.param("weight", [width], Init::Ones), eps }
    }

    /// x `[.., D]`. Returns the same shape as `out`: f32, or the type of the factors of the product that takes it.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, out: DType) -> Tensor<D> {
        ops::rms_norm(x, self.weight.val(), self.eps, out)
    }
}

/// RMS norms of queries and keys, each with `weight` `[E]`: what keeps attention's logits bounded in training.
///
/// Source: arXiv:2403.03206, section 5.3.2.
#[derive(Module, Debug)]
pub struct QkNorm {
    queries: RmsNorm,
    keys: RmsNorm,
}

impl QkNorm {
    /// Of heads of one width, each with its own weight.
    pub fn new(queries: RmsNorm, keys: RmsNorm) -> Self {
        QkNorm { queries, keys }
    }

    /// heads `[B, L, 3, H, E]`. Returns the same shape as `out`; values are not normed.
    pub fn forward(&self, heads: Tensor<5>, out: DType) -> Tensor<5> {
        ops::heads_norm(heads, [self.queries.weight.val(), self.keys.weight.val()], self.queries.eps, out)
    }
}

/// A table of vectors: `weight` `[V, D]`.
#[derive(Module, Debug)]
pub struct Embedding {
    weight: Param<Tensor<2>>,
    /// What vectors are taken from instead of `weight`, which is then never read.
    #[module(skip)]
    blocks: Option<BlockMatrix>,
}

impl Embedding {
    /// `count` vectors, `width` wide, that start as most embeddings do: normal with a deviation of 0.02.
    pub fn new(params: Params<'_>, count: usize, width: usize) -> Self {
        Embedding::starting(params, count, width, Init::Normal(0.02))
    }

    /// As [`Self::new`], with a start of its own.
    pub fn starting(mut params: Params<'_>, count: usize, width: usize, init: Init) -> Self {
        let weight = params.param("weight", [count, width], init);
        let blocks = match params.stored("weight", [count, width]) {
            Some(StoredMatrix::Blocks(blocks)) => Some(blocks),
            _ => None,
        };
        Embedding { weight, blocks }
    }

    /// ids `[B, L]`. Returns `[B, L, D]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        match &self.blocks {
            Some(blocks) => ops::embedding_of_blocks(ids, blocks),
            None => ops::embedding(ids, self.weight.val()),
        }
    }
}
