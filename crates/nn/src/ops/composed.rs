//! The operations composed from Burn's, for every device, with gradients.
//!
//! Shape letters are those of [`crate::ops`].
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::ops::{AttentionModuleOptions, ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Tensor, activation, module};

use super::{Activation, After, Apart, Before, GroupNormed, Qkv, Residual, Window};
use crate::Precision;

/// [`crate::ops::linear`].
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight_OI: Tensor<2>,
    bias_O: Option<Tensor<1>>,
    after: After<D>,
    precision: Precision,
) -> Tensor<D> {
    assert!(precision != Precision::Int8, "only the CPU's kernels have int8 products");
    let mut shape = x.dims();
    let [width_out, width_in] = weight_OI.dims();
    let rows: usize = shape[..D - 1].iter().product();
    shape[D - 1] = width_out;

    let x = x.reshape([rows, width_in]);
    let product = factor(x, precision).matmul(factor(weight_OI, precision).transpose()).cast(DType::F32);
    let product = match bias_O {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    };
    let mut y = activate(product.reshape(shape), after.activation);
    if let Some(times) = after.times {
        y = y * times;
    }
    if let Some(Residual { x, gate }) = after.residual {
        y = match gate {
            Some(gate_B1O) => {
                let batch = gate_B1O.dims()[0];
                let by_batch = y.reshape([batch, rows / batch, width_out]) * gate_B1O;
                x + by_batch.reshape(shape)
            }
            None => x + y,
        };
    }
    y.cast(after.out)
}

fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::None => x,
        Activation::Gelu => activation::gelu(x),
        Activation::GeluTanh => activation::gelu_approximate(x),
        Activation::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
        Activation::Silu => silu(x),
    }
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

/// [`crate::ops::attention`].
pub fn attention<const N: usize>(
    streams: [Qkv; N],
    scale: f64,
    bias: AttentionBias,
    precision: Precision,
) -> [Tensor<3>; N] {
    let lengths = streams.each_ref().map(|stream| stream.dims()[1]);
    let [batch, _, heads, width] = streams[0].dims();
    let streams = streams.map(Qkv::apart);
    let [q, k, v] = [0, 1, 2].map(|role| {
        let parts = streams.iter().map(|stream| factor(stream[role].clone(), precision)).collect();
        Tensor::cat(parts, 1).swap_dims(1, 2)
    });
    let (causal, bias) = match bias {
        AttentionBias::None => (false, None),
        AttentionBias::Causal => (true, None),
        AttentionBias::Added(bias) => (false, Some(factor(bias, precision))),
    };
    let options = AttentionModuleOptions { scale: Some(scale), softcap: None, is_causal: causal };
    let mixed_BSHE = module::attention(q, k, v, None, bias, options).swap_dims(1, 2);
    let mixed_BSD = mixed_BSHE.reshape([batch, lengths.iter().sum(), heads * width]).cast(precision.factor());
    let mut start = 0;
    lengths.map(|length| {
        start += length;
        mixed_BSD.clone().narrow(1, start - length, length)
    })
}

/// [`crate::ops::attention_of_each`].
pub fn attention_of_each(own: Qkv, others: &[Qkv], scale: f64, precision: Precision) -> Tensor<3> {
    let [batch, tokens, heads, width] = own.dims();
    let by_head = |x: Tensor<4>| factor(x, precision).cast(DType::F32).swap_dims(1, 2);
    let [q, k, v] = own.apart().map(by_head);
    let mixed_BHSE = if others.is_empty() {
        v
    } else {
        let own_logits = (q.clone() * k).sum_dim(3) * scale;
        let [other_k, other_v] = [1, 2]
            .map(|role| by_head(Tensor::cat(others.iter().map(|one| one.clone().apart()[role].clone()).collect(), 1)));
        let logits = q.matmul(other_k.swap_dims(2, 3)) * scale;
        let shares = activation::softmax(Tensor::cat(vec![own_logits, logits], 3), 3);
        let count = other_v.dims()[2];
        v * shares.clone().narrow(3, 0, 1) + shares.narrow(3, 1, count).matmul(other_v)
    };
    mixed_BHSE.swap_dims(1, 2).reshape([batch, tokens, heads * width]).cast(precision.factor())
}

/// [`crate::ops::conv2d`].
pub fn conv2d(
    x_BCHW: Tensor<4>,
    before: Before,
    weight_OCKK: Tensor<4>,
    bias_O: Tensor<1>,
    window: Window,
    residual: Option<Tensor<4>>,
    precision: Precision,
) -> Tensor<4> {
    let mut x = x_BCHW;
    if let Some(norm) = before.normed {
        x = group_norm(x, norm);
    }
    if before.silu {
        x = silu(x);
    }
    if before.doubled {
        x = upsample_nearest_2x(x);
    }
    let kernel = weight_OCKK.dims()[2];
    let (stride, border_before, border_after) = match window {
        Window::Same => (1, kernel / 2, kernel / 2),
        Window::Halve => (2, 0, 1),
        Window::Patch => (kernel, 0, 0),
        Window::Inside { stride } => (stride, 0, 0),
    };
    let mut options = ConvOptions::new([stride; 2], [0; 2], [1; 2], 1);
    options.padding = [(border_before, border_after); 2];
    let sums = module::conv2d(factor(x, precision), factor(weight_OCKK, precision), None, options).cast(DType::F32);
    let channels = bias_O.dims()[0];
    let y = sums + bias_O.reshape([1, channels, 1, 1]);
    match residual {
        Some(residual) => residual + y,
        None => y,
    }
}

/// [`crate::ops::depthwise_conv2d`].
pub fn depthwise_conv2d(x_BCHW: Tensor<4>, weight_C1KK: Tensor<4>, bias_C: Tensor<1>, apart: Apart) -> Tensor<4> {
    let Apart { stride, border: [[above, below], [left, right]] } = apart;
    let mut options = ConvOptions::new([stride; 2], [0; 2], [1; 2], bias_C.dims()[0]);
    options.padding = [(above, below), (left, right)];
    module::conv2d(x_BCHW, weight_C1KK.cast(DType::F32), Some(bias_C), options)
}

/// Zeros around a picture `[B, C, H, W]`: `border` rows above and below, columns to the left and to the right.
pub fn with_border(x_BCHW: Tensor<4>, border: [[usize; 2]; 2]) -> Tensor<4> {
    if border == [[0; 2]; 2] {
        return x_BCHW;
    }
    let [batch, channels, height, width] = x_BCHW.dims();
    let [[above, below], [left, right]] = border;
    let shape = [batch, above + height + below, left + width + right, channels];
    // Channels last, as convolutions leave a picture and take it: whole pixels are copied.
    let zeros = Tensor::<4>::zeros(shape, (&x_BCHW.device(), x_BCHW.dtype()));
    let place = [0..batch, above..above + height, left..left + width, 0..channels];
    zeros.slice_assign(place, x_BCHW.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
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

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis. weight `[D]`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight_D: Tensor<1>, eps: f64) -> Tensor<D> {
    let inverse = (x.clone().square().mean_dim(D - 1) + eps).sqrt().recip();
    x * inverse * weight_D.unsqueeze()
}

/// [`crate::ops::heads_norm`], in f32.
pub fn heads_norm(heads_BL3HE: Tensor<5>, [queries_E, keys_E]: [Tensor<1>; 2], eps: f64) -> Tensor<5> {
    let part = |index| widen(heads_BL3HE.clone().narrow(2, index, 1));
    Tensor::cat(vec![rms_norm(part(0), queries_E, eps), rms_norm(part(1), keys_E, eps), part(2)], 2)
}

/// Group norm. x `[B, C, H, W]`.
pub fn group_norm(x_BCHW: Tensor<4>, norm: GroupNormed) -> Tensor<4> {
    let GroupNormed { groups, weight, bias, eps } = norm;
    let [batch, channels, height, width] = x_BCHW.dims();
    assert_eq!(channels % groups, 0, "group norm: {channels} channels in {groups} groups");
    let grouped = x_BCHW.reshape([batch, groups, channels / groups * height * width]);
    let centred = grouped.clone() - grouped.mean_dim(2);
    let inverse = (centred.clone().square().mean_dim(2) + eps).sqrt().recip();
    let normed = (centred * inverse).reshape([batch, channels, height, width]);
    normed * weight.reshape([1, channels, 1, 1]) + bias.reshape([1, channels, 1, 1])
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

/// The same values in f32. A table that is kept in a narrower type is widened where it is used.
pub fn widen<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(DType::F32)
}

/// A factor of a product, in the type the product is computed in.
fn factor<const D: usize>(x: Tensor<D>, precision: Precision) -> Tensor<D> {
    x.cast(precision.factor())
}
