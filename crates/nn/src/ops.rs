//! The operations that take nearly all of a model's time, composed from Burn's on every device.
//!
//! Shape letters: B batch, L tokens, H heads, S query tokens, T key tokens, E head width, D width,
//! C channels, I and O the inner and outer width of a product.
//!
//! What this module does not do: hold parameters (that is [`crate::layers`]) or choose shapes for a model.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::ops::{AttentionModuleOptions, ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Tensor, activation, module};

use crate::Precision;

/// `x @ weight^T + bias` over the last axis.
///
/// x `[.., I]`, weight `[O, I]` (the order of the checkpoints), bias `[O]`. Returns `[.., O]` in f32.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight_OI: Tensor<2>,
    bias_O: Option<Tensor<1>>,
    precision: Precision,
) -> Tensor<D> {
    let mut shape = x.dims();
    let [width_out, width_in] = weight_OI.dims();
    assert_eq!(shape[D - 1], width_in, "linear: input {shape:?}, weight [{width_out}, {width_in}]");
    let rows: usize = shape[..D - 1].iter().product();
    shape[D - 1] = width_out;

    let product = factor(x.reshape([rows, width_in]), precision)
        .matmul(factor(weight_OI, precision).transpose())
        .cast(DType::F32);
    let product = match bias_O {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    };
    product.reshape(shape)
}

/// What attention adds to its logits.
#[expect(clippy::large_enum_variant, reason = "made once a call and moved, never stored in numbers")]
pub enum AttentionBias {
    /// Every token sees every token.
    None,
    /// A token sees itself and those before it.
    Causal,
    /// Added to the scaled logits, `[B or 1, H, S, T]`.
    Added(Tensor<4>),
}

/// `softmax(scale q k^T + bias) v`.
///
/// q `[B, H, S, E]`, k and v `[B, H, T, E]`. Returns `[B, H, S, E]` in f32.
pub fn attention(
    q_BHSE: Tensor<4>,
    k_BHTE: Tensor<4>,
    v_BHTE: Tensor<4>,
    scale: f64,
    bias: AttentionBias,
    precision: Precision,
) -> Tensor<4> {
    let (causal, bias) = match bias {
        AttentionBias::None => (false, None),
        AttentionBias::Causal => (true, None),
        AttentionBias::Added(bias) => (false, Some(factor(bias, precision))),
    };
    let options = AttentionModuleOptions { scale: Some(scale), softcap: None, is_causal: causal };
    let [q, k, v] = [q_BHSE, k_BHTE, v_BHTE].map(|x| factor(x, precision));
    module::attention(q, k, v, None, bias, options).cast(DType::F32)
}

/// How a convolution's window moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Stride 1, zeros around, so that the size stays. Odd kernels.
    Same,
    /// Stride 2 with one row of zeros below and one column to the right: halves the size (3x3 kernel).
    Halve,
    /// Stride equal to the kernel, no zeros: one output for each patch.
    Patch,
}

/// 2-D convolution.
///
/// x `[B, C, H, W]`, weight `[O, C, K, K]`, bias `[O]`. Returns `[B, O, H', W']` in f32.
pub fn conv2d(
    x_BCHW: Tensor<4>,
    weight_OCKK: Tensor<4>,
    bias_O: Tensor<1>,
    window: Window,
    precision: Precision,
) -> Tensor<4> {
    let kernel = weight_OCKK.dims()[2];
    let (stride, before, after) = match window {
        Window::Same => (1, kernel / 2, kernel / 2),
        Window::Halve => (2, 0, 1),
        Window::Patch => (kernel, 0, 0),
    };
    let mut options = ConvOptions::new([stride; 2], [0; 2], [1; 2], 1);
    options.padding = [(before, after); 2];
    let bias = factor(bias_O, precision);
    module::conv2d(factor(x_BCHW, precision), factor(weight_OCKK, precision), Some(bias), options).cast(DType::F32)
}

/// Layer norm over the last axis, without weights: `(x - mean) / sqrt(var + eps)`.
pub fn plain_norm<const D: usize>(x: Tensor<D>, eps: f64) -> Tensor<D> {
    let ones = Tensor::ones([x.dims()[D - 1]], (&x.device(), DType::F32));
    module::layer_norm(x, ones, None, eps)
}

/// adaLN: `plain_norm(x) * (1 + scale) + shift`.
///
/// x `[B, L, D]`, shift and scale `[B, 1, D]`.
pub fn modulated_norm(x_BLD: Tensor<3>, shift_B1D: Tensor<3>, scale_B1D: Tensor<3>, eps: f64) -> Tensor<3> {
    plain_norm(x_BLD, eps) * (scale_B1D + 1.0) + shift_B1D
}

/// adaLN-Zero's end of a branch: `x + gate * y`. x and y `[B, L, D]`, gate `[B, 1, D]`.
pub fn gated_residual(x_BLD: Tensor<3>, gate_B1D: Tensor<3>, y_BLD: Tensor<3>) -> Tensor<3> {
    x_BLD + gate_B1D * y_BLD
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis. weight `[D]`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight_D: Tensor<1>, eps: f64) -> Tensor<D> {
    let inverse = (x.clone().square().mean_dim(D - 1) + eps).sqrt().recip();
    x * inverse * weight_D.unsqueeze()
}

/// Group norm. x `[B, C, H, W]`, weight and bias `[C]`, `groups` divides C.
pub fn group_norm(x_BCHW: Tensor<4>, groups: usize, weight_C: Tensor<1>, bias_C: Tensor<1>, eps: f64) -> Tensor<4> {
    let [batch, channels, height, width] = x_BCHW.dims();
    assert_eq!(channels % groups, 0, "group norm: {channels} channels in {groups} groups");
    let grouped = x_BCHW.reshape([batch, groups, channels / groups * height * width]);
    let centred = grouped.clone() - grouped.mean_dim(2);
    let inverse = (centred.clone().square().mean_dim(2) + eps).sqrt().recip();
    let normed = (centred * inverse).reshape([batch, channels, height, width]);
    normed * weight_C.reshape([1, channels, 1, 1]) + bias_C.reshape([1, channels, 1, 1])
}

/// [`group_norm`], then SiLU: what stands before nearly every convolution of the autoencoder.
pub fn group_norm_silu(
    x_BCHW: Tensor<4>,
    groups: usize,
    weight_C: Tensor<1>,
    bias_C: Tensor<1>,
    eps: f64,
) -> Tensor<4> {
    silu(group_norm(x_BCHW, groups, weight_C, bias_C, eps))
}

/// Doubles height and width by repeating pixels.
pub fn upsample_nearest_2x(x_BCHW: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x_BCHW.dims();
    let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([2 * height, 2 * width]);
    module::interpolate(x_BCHW, options)
}

/// Rows of a table. ids `[B, L]`, table `[V, D]`. Returns `[B, L, D]` in f32.
pub fn embedding(ids_BL: Tensor<2, burn::tensor::Int>, table_VD: Tensor<2>) -> Tensor<3> {
    let [batch, length] = ids_BL.dims();
    let width = table_VD.dims()[1];
    table_VD.select(0, ids_BL.reshape([batch * length])).cast(DType::F32).reshape([batch, length, width])
}

/// `x * sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::silu(x)
}

/// GELU by the error function.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu(x)
}

/// GELU by tanh: what MMDiT and T5 were trained with.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu_approximate(x)
}

/// `x * sigmoid(1.702 x)`: CLIP-L's.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * activation::sigmoid(x * 1.702)
}

/// The same values in f32. A table that is kept in a narrower type is widened where it is used.
pub fn widen<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(DType::F32)
}

/// A factor of a product, in the type the product is computed in.
fn factor<const D: usize>(x: Tensor<D>, precision: Precision) -> Tensor<D> {
    match precision {
        Precision::F32 => x.cast(DType::F32),
        Precision::Bf16 => x.cast(DType::BF16),
    }
}
