//! The operations that take nearly all of a model's time.
//!
//! On the CPU device they run on `rectiflow-kernels`, with gradients (`tracked`) and without (`cpu`); on every other
//! device they are composed from Burn's operations ([`composed`]). All compute the same formulas with the same
//! roundings of factors.
//!
//! Shape letters: B batch, L tokens, H heads, S query tokens, T key tokens, E head width, D width,
//! C channels, I and O the inner and outer width of a product.
//!
//! What this module does not do: hold parameters (that is [`crate::layers`]) or choose shapes for a model.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

pub mod composed;
mod cpu;
mod optimizer;
mod strips;
mod tracked;

use burn::tensor::{DType, Device, Int, Tensor};
pub use rectiflow_kernels::product::Activation;

pub use rectiflow_kernels::attention::HeadStatistics;
pub use rectiflow_kernels::optimizer::AdamwStep;
pub use rectiflow_kernels::picture::Window;

pub use composed::{AttentionBias, embedding, silu, widen, with_border};
pub use cpu::PackedWeight;
pub(crate) use cpu::isa;
pub use cpu::runs_on_kernels;
pub use optimizer::{AdamwMoments, adamw_step, ema_start, ema_step, sum_of_squares};
pub use strips::{PictureSums, ScaleShift, stack_rows};

use crate::{BlockMatrix, Precision, StoredMatrix, from_f32, to_f32};

/// What follows the sums of a product: `x + gate * times * activation(sums + bias)`, then storing as `out`.
#[derive(Debug)]
pub struct After<const D: usize> {
    /// After the bias.
    pub activation: Activation,
    /// After the activation, `[.., O]`.
    pub times: Option<Tensor<D>>,
    /// `x` `[.., O]` and its gate `[B, 1, O]`, last.
    pub residual: Option<Residual<D>>,
    /// The type of the result: f32, or that of the product that takes it.
    pub out: DType,
}

/// What a branch is added to.
#[derive(Debug)]
pub struct Residual<const D: usize> {
    /// `[.., O]`, f32.
    pub x: Tensor<D>,
    /// `[B, 1, O]`; without it, 1.
    pub gate: Option<Tensor<3>>,
}

impl<const D: usize> Default for After<D> {
    /// Nothing: the sums in f32.
    fn default() -> Self {
        After { activation: Activation::None, times: None, residual: None, out: DType::F32 }
    }
}

/// `x @ weight^T + bias` over the last axis, and what follows.
///
/// x `[.., I]`, weight `[O, I]` (the order of the checkpoints), bias `[O]`. Returns `[.., O]`. `packed` keeps the
/// weight in the order that kernels read; give the same one with the same weight.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight_OI: Tensor<2>,
    packed: &PackedWeight,
    bias_O: Option<Tensor<1>>,
    after: After<D>,
    precision: Precision,
) -> Tensor<D> {
    let (shape, [width_out, width_in]) = (x.dims(), weight_OI.dims());
    assert_eq!(shape[D - 1], width_in, "linear: input {shape:?}, weight [{width_out}, {width_in}]");
    if cpu::serves(&x) {
        cpu::linear(x, weight_OI, packed, bias_O, after, precision)
    } else if tracked::serves(&x.device()) {
        tracked::linear(x, weight_OI, bias_O, after, precision)
    } else {
        composed::linear(x, weight_OI, bias_O, after, precision)
    }
}

/// [`linear`] with a weight as it is stored, on the processor: blocks are widened strip by strip in each product, and what is
/// to be read is read where it is packed. No gradients.
pub fn linear_of_stored<const D: usize>(
    x: Tensor<D>,
    weight_OI: &StoredMatrix,
    packed: &PackedWeight,
    bias_O: Option<Tensor<1>>,
    after: After<D>,
    precision: Precision,
) -> Tensor<D> {
    let (shape, [width_out, width_in]) = (x.dims(), weight_OI.shape());
    assert_eq!(shape[D - 1], width_in, "linear: input {shape:?}, weight [{width_out}, {width_in}]");
    cpu::linear_of_stored(x, weight_OI, packed, bias_O, after, precision)
}

/// [`embedding`] of a table in blocks, on the processor: only the vectors that are taken are widened.
pub fn embedding_of_blocks(ids_BL: Tensor<2, Int>, table_VD: &BlockMatrix) -> Tensor<3> {
    cpu::embedding_of_blocks(ids_BL, table_VD)
}

/// Queries, keys and values of one stream.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "made once a call and moved, never stored in numbers")]
pub enum Qkv {
    /// In this order, as one product makes them: `[B, L, 3, H, E]`.
    Together(Tensor<5>),
    /// Each `[B, L, H, E]`. Keys and values may be as many as they like, together: those of another text.
    Apart {
        /// What asks.
        q: Tensor<4>,
        /// What is asked.
        k: Tensor<4>,
        /// What is mixed.
        v: Tensor<4>,
    },
}

impl Qkv {
    /// `[B, L, H, E]`, of the queries.
    pub fn dims(&self) -> [usize; 4] {
        match self {
            Qkv::Together(heads) => {
                let [batch, length, _, heads, width] = heads.dims();
                [batch, length, heads, width]
            }
            Qkv::Apart { q, .. } => q.dims(),
        }
    }

    fn device(&self) -> Device {
        match self {
            Qkv::Together(heads) => heads.device(),
            Qkv::Apart { q, .. } => q.device(),
        }
    }

    /// Each `[B, L, H, E]`, without a copy.
    pub fn apart(self) -> [Tensor<4>; 3] {
        match self {
            Qkv::Together(heads) => [0, 1, 2].map(|index| heads.clone().narrow(2, index, 1).squeeze_dim(2)),
            Qkv::Apart { q, k, v } => [q, k, v],
        }
    }
}

/// `softmax(scale q k^T + bias) v` over the tokens of all streams, which see each other in the order given.
///
/// Returns the mixed tokens of each stream, `[B, L, H * E]`, in the type of the precision's factors.
pub fn attention<const N: usize>(
    streams: [Qkv; N],
    scale: f64,
    bias: AttentionBias,
    precision: Precision,
) -> [Tensor<3>; N] {
    let device = streams[0].device();
    if cpu::runs_on_kernels(&device) {
        cpu::attention(streams, scale, bias, precision)
    } else if tracked::serves(&device) {
        tracked::attention(streams, scale, bias, precision)
    } else {
        composed::attention(streams, scale, bias, precision)
    }
}

/// Attention of tokens that see themselves and all tokens of other streams, but not each other.
///
/// Returns the mixed tokens of `own`, `[B, L, H * E]`, in the type of the precision's factors. It is composed of Burn's
/// operations on every device: only guidance asks for it, and in a few blocks.
pub fn attention_of_each(own: Qkv, others: &[Qkv], scale: f64, precision: Precision) -> Tensor<3> {
    composed::attention_of_each(own, others, scale, precision)
}

/// What [`attention`] of the same streams looks at: the largest logit and the mean entropy of every head of each batch,
/// `[B * H]`, which tell an attention that goes wrong in training before the loss does.
///
/// A probe: it computes the logits again, on the CPU, where the tensors are brought if they are elsewhere. No gradients.
pub fn attention_statistics<const N: usize>(
    streams: [Qkv; N],
    scale: f64,
    bias: AttentionBias,
    precision: Precision,
) -> Vec<HeadStatistics> {
    fn to_cpu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
        if cpu::serves(&x) { x } else { from_f32(to_f32(&x), x.dims(), &Device::flex()) }
    }
    let streams = streams.map(|stream| match stream {
        Qkv::Together(heads) => Qkv::Together(to_cpu(heads)),
        Qkv::Apart { q, k, v } => Qkv::Apart { q: to_cpu(q), k: to_cpu(k), v: to_cpu(v) },
    });
    let bias = match bias {
        AttentionBias::Added(bias) => AttentionBias::Added(to_cpu(bias)),
        other => other,
    };
    cpu::attention_statistics(streams, scale, bias, precision)
}

/// A group norm: `groups` of channels, weight and bias `[C]`.
#[derive(Clone, Debug)]
pub struct GroupNormed {
    /// Divides C.
    pub groups: usize,
    /// Multiplied with each channel.
    pub weight: Tensor<1>,
    /// Added to each channel.
    pub bias: Tensor<1>,
    /// Added to the variance.
    pub eps: f64,
}

/// What happens to a picture before its convolution, in this order.
#[derive(Debug, Default)]
pub struct Before {
    /// First.
    pub normed: Option<GroupNormed>,
    /// Instead of it, where the picture is a strip of the one that is normed.
    pub measured: Option<ScaleShift>,
    /// `x * sigmoid(x)`, after it.
    pub silu: bool,
    /// Height and width twice as large, pixels repeated.
    pub doubled: bool,
}

/// 2-D convolution of what `before` makes of x, plus the residual.
///
/// x `[B, C, H, W]`, weight `[O, C, K, K]`, bias `[O]`, residual `[B, O, H', W']`. Returns `[B, O, H', W']` in f32.
/// `packed` as for [`linear`].
pub fn conv2d(
    x_BCHW: Tensor<4>,
    before: Before,
    (weight_OCKK, packed): (Tensor<4>, &PackedWeight),
    bias_O: Tensor<1>,
    window: Window,
    residual: Option<Tensor<4>>,
    precision: Precision,
) -> Tensor<4> {
    assert!(before.normed.is_none() || before.measured.is_none(), "a picture is normed once");
    if cpu::serves(&x_BCHW) {
        return cpu::conv2d(x_BCHW, before, (weight_OCKK, packed), bias_O, window, residual, precision);
    }
    let (x_BCHW, before) = measured_first(x_BCHW, before);
    if tracked::serves(&x_BCHW.device()) {
        tracked::conv2d(x_BCHW, before, weight_OCKK, bias_O, window, residual, precision)
    } else {
        composed::conv2d(x_BCHW, before, weight_OCKK, bias_O, window, residual, precision)
    }
}

/// How the windows of [`depthwise_conv2d`] move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    /// Pixels from a window to the next.
    pub stride: usize,
    /// Rows of zeros above and below, columns of zeros to the left and to the right.
    pub border: [[usize; 2]; 2],
}

/// 2-D convolution of every channel with a window of its own, in f32 whatever the precision of products.
///
/// x `[B, C, H, W]`, weight `[C, 1, K, K]`, bias `[C]`. Returns `[B, C, H', W']`.
pub fn depthwise_conv2d(x_BCHW: Tensor<4>, weight_C1KK: Tensor<4>, bias_C: Tensor<1>, apart: Apart) -> Tensor<4> {
    if cpu::serves(&x_BCHW) {
        cpu::depthwise_conv2d(x_BCHW, weight_C1KK, bias_C, apart)
    } else if tracked::serves(&x_BCHW.device()) {
        tracked::depthwise_conv2d(x_BCHW, weight_C1KK, bias_C, apart)
    } else {
        composed::depthwise_conv2d(x_BCHW, weight_C1KK, bias_C, apart)
    }
}

/// Every number kept within two bounds, the lower one first: ReLU6 with 0 and 6. No gradient where a bound was met.
///
/// x `[B, C, H, W]`. As Burn's `clamp`, in one pass over channels that lie last.
pub fn bounded(x_BCHW: Tensor<4>, bounds: [f32; 2]) -> Tensor<4> {
    if cpu::serves(&x_BCHW) {
        cpu::bounded_picture(x_BCHW, bounds)
    } else if tracked::serves(&x_BCHW.device()) {
        tracked::bounded(x_BCHW, bounds)
    } else {
        x_BCHW.clamp(bounds[0], bounds[1])
    }
}

/// Applies a norm that is known; the rest is left to be done.
fn measured_first(x_BCHW: Tensor<4>, mut before: Before) -> (Tensor<4>, Before) {
    match before.measured.take() {
        Some(norm) => (norm.apply(x_BCHW), before),
        None => (x_BCHW, before),
    }
}

/// Group norm alone. x `[B, C, H, W]`.
pub fn group_norm(x_BCHW: Tensor<4>, norm: GroupNormed) -> Tensor<4> {
    if cpu::serves(&x_BCHW) {
        cpu::group_norm(x_BCHW, norm)
    } else if tracked::serves(&x_BCHW.device()) {
        tracked::group_norm(x_BCHW, norm)
    } else {
        composed::group_norm(x_BCHW, norm)
    }
}

/// adaLN: `plain_norm(x) * (1 + scale) + shift`, for a product to take, and x again, for the branch that begins here to
/// be added to: what comes back to both is then added in one pass.
///
/// x `[B, L, D]`, shift and scale `[B, 1, D]`. Returns `[B, L, D]` in the type of the precision's factors, and x.
pub fn modulated_norm(
    x_BLD: Tensor<3>,
    shift_B1D: Tensor<3>,
    scale_B1D: Tensor<3>,
    eps: f64,
    precision: Precision,
) -> [Tensor<3>; 2] {
    let out = precision.factor();
    if cpu::serves(&x_BLD) {
        [cpu::modulated_norm(x_BLD.clone(), shift_B1D, scale_B1D, eps, out), x_BLD]
    } else if tracked::serves(&x_BLD.device()) {
        tracked::modulated_norm(x_BLD, shift_B1D, scale_B1D, eps, out)
    } else {
        [composed::modulated_norm(x_BLD.clone(), shift_B1D, scale_B1D, eps).cast(out), x_BLD]
    }
}

/// `plain_norm(x) * weight + bias` over the last axis, as `out`. weight and bias `[D]`.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight_D: Tensor<1>,
    bias_D: Tensor<1>,
    eps: f64,
    out: DType,
) -> Tensor<D> {
    if cpu::serves(&x) {
        cpu::layer_norm(x, weight_D, bias_D, eps, out)
    } else if tracked::serves(&x.device()) {
        tracked::layer_norm(x, weight_D, bias_D, eps, out)
    } else {
        (composed::plain_norm(x, eps) * weight_D.unsqueeze() + bias_D.unsqueeze()).cast(out)
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis, as `out`. weight `[D]`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight_D: Tensor<1>, eps: f64, out: DType) -> Tensor<D> {
    if cpu::serves(&x) {
        cpu::rms_norm(x, weight_D, eps, out)
    } else if tracked::serves(&x.device()) {
        tracked::rms_norm(x, weight_D, eps, out)
    } else {
        composed::rms_norm(widen(x), weight_D, eps).cast(out)
    }
}

/// x again, as a tensor of its own on the tape.
///
/// Where many take one tensor, their gradients are added in an order that the tape chooses. Where each takes the one that
/// was made from the last one's, they are added pair by pair, and so to the same bits however the tape is cut.
pub fn relay<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().reshape(x.dims())
}

/// The RMS norm of every head of the queries and of the keys, as `out`; values stay as they are.
///
/// heads `[B, L, 3, H, E]`, weights of queries and keys `[E]`.
pub fn heads_norm(heads_BL3HE: Tensor<5>, weights: [Tensor<1>; 2], eps: f64, out: DType) -> Tensor<5> {
    let device = heads_BL3HE.device();
    if cpu::runs_on_kernels(&device) {
        cpu::heads_norm(heads_BL3HE, weights, eps, out)
    } else if tracked::serves(&device) {
        tracked::heads_norm(heads_BL3HE, weights, eps, out)
    } else {
        composed::heads_norm(heads_BL3HE, weights, eps).cast(out)
    }
}
