//! Each operation against its formula, written out in f64, on the CPU's kernels and composed from Burn's
//! operations: a device that tracks gradients takes the latter.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use rectiflow_nn::ops::{
    self, Activation, AdamwMoments, AdamwStep, After, AttentionBias, Before, GroupNormed, PackedWeight, Qkv, Residual,
    Window,
};
use rectiflow_nn::{DType, Device, Init, ParamSource, Precision, RandomInit, Tensor, from_f32, from_ids, to_f32};

/// The device whose operations are kernels, and the one whose are composed.
fn devices() -> [Device; 2] {
    [Device::flex(), Device::flex().autodiff()]
}

/// Reproducible values of deviation 1, as a tensor and in f64.
fn tensor_on<const D: usize>(device: &Device, name: &str, shape: [usize; D]) -> (Tensor<D>, Vec<f64>) {
    let (values, wide) = values(name, &shape);
    (from_f32(values, shape, device), wide)
}

fn values(name: &str, shape: &[usize]) -> (Vec<f32>, Vec<f64>) {
    let read = RandomInit { seed: 3 }.claim(name, shape, Init::Normal(1.0));
    let values: Vec<f32> = read().try_into_vec().unwrap();
    let wide = values.iter().map(|&x| f64::from(x)).collect();
    (values, wide)
}

#[track_caller]
fn assert_close<const D: usize>(found: &Tensor<D>, expected: &[f64], relative: f64) {
    let found = to_f32(found);
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30_f64, |m, x| m.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / largest;
        assert!(error <= relative, "element {i}: {found} instead of {expected} (relative error {error:.1e})");
    }
}

fn check_linear(precision: Precision, relative: f64) {
    for device in devices() {
        for [rows, width_in, width_out] in [[1, 1, 1], [3, 7, 5], [65, 63, 77]] {
            let (x, xs) = tensor_on(&device, "x", [1, rows, width_in]);
            let (weight, ws) = tensor_on(&device, "w", [width_out, width_in]);
            let (bias, bs) = tensor_on(&device, "b", [width_out]);
            let expected: Vec<f64> = (0..rows * width_out)
                .map(|i| {
                    let (row, column) = (i / width_out, i % width_out);
                    bs[column] + (0..width_in).map(|k| xs[row * width_in + k] * ws[column * width_in + k]).sum::<f64>()
                })
                .collect();
            let packed = PackedWeight::default();
            let found = ops::linear(x, weight, &packed, Some(bias), After::default(), precision);
            assert_close(&found, &expected, relative);
        }
    }
}

#[test]
fn linear_is_a_product_with_the_transposed_weight() {
    check_linear(Precision::F32, 1e-5);
}

#[test]
fn linear_in_bf16_keeps_two_to_three_digits_and_not_more() {
    check_linear(Precision::Bf16, 1.5e-2);
    for device in devices() {
        let (x, weight) = (tensor_on(&device, "x", [1, 65, 63]).0, tensor_on(&device, "w", [77, 63]).0);
        let run = |precision| {
            let packed = PackedWeight::default();
            to_f32(&ops::linear(x.clone(), weight.clone(), &packed, None, After::default(), precision))
        };
        assert_ne!(run(Precision::F32), run(Precision::Bf16), "bf16 products round");
    }
}

/// The CPU's own: integers with a scale for each row of either factor.
#[test]
fn linear_in_int8_keeps_two_digits() {
    let device = Device::flex();
    let (x, weight) = (tensor_on(&device, "x", [1, 65, 640]).0, tensor_on(&device, "w", [77, 640]).0);
    let run = |precision| {
        let packed = PackedWeight::default();
        to_f32(&ops::linear(x.clone(), weight.clone(), &packed, None, After::default(), precision))
    };
    let (exact, found) = (run(Precision::F32), run(Precision::Int8));
    let rms = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let error = rms(&mut exact.iter().zip(&found).map(|(a, b)| a - b)) / rms(&mut exact.iter().copied());
    // Normal numbers whose largest is 3 to 4 are rounded to 1/127 of it, in both factors.
    assert!((1e-3..1.5e-2).contains(&error), "{error}");
}

#[test]
fn what_follows_a_product_is_its_formula_for_each_batch() {
    let [batch, length, width_in, width_out] = [2, 3, 5, 4];
    for (device, activation) in devices().into_iter().flat_map(|device| ACTIVATIONS.map(|a| (device.clone(), a))) {
        let (x, xs) = tensor_on(&device, "x", [batch, length, width_in]);
        let (weight, ws) = tensor_on(&device, "w", [width_out, width_in]);
        let (times, ts) = tensor_on(&device, "t", [batch, length, width_out]);
        let (base, bases) = tensor_on(&device, "r", [batch, length, width_out]);
        let (gate, gates) = tensor_on(&device, "g", [batch, 1, width_out]);
        let after = After {
            activation,
            times: Some(times),
            residual: Some(Residual { x: base, gate: Some(gate) }),
            ..After::default()
        };
        let expected: Vec<f64> = (0..batch * length * width_out)
            .map(|i| {
                let (row, column) = (i / width_out, i % width_out);
                let sum: f64 = (0..width_in).map(|k| xs[row * width_in + k] * ws[column * width_in + k]).sum();
                bases[i] + gates[row / length * width_out + column] * ts[i] * formula(activation, sum)
            })
            .collect();
        let found = ops::linear(x, weight, &PackedWeight::default(), None, after, Precision::F32);
        assert_close(&found, &expected, 1e-5);
    }
}

/// The erf form has no closed form here; its own test is in the kernels.
const ACTIVATIONS: [Activation; 4] = [Activation::None, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu];

fn formula(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::None => x,
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => unreachable!("not among those that are swept"),
    }
}

/// A packed weight belongs to the numbers it was made of: others must not be answered with it.
#[test]
fn a_weight_that_changed_is_packed_again() {
    let (device, packed) = (Device::flex(), PackedWeight::default());
    let x = tensor_on(&device, "x", [1, 8]).0;
    let weights = ["v", "w"].map(|name| tensor_on(&device, name, [6, 8]).0);
    let run = |weight: &Tensor<2>, packed: &PackedWeight| {
        to_f32(&ops::linear(x.clone(), weight.clone(), packed, None, After::default(), Precision::Bf16))
    };
    let fresh = weights.each_ref().map(|weight| run(weight, &PackedWeight::default()));
    assert_ne!(fresh[0], fresh[1]);
    let kept = [&weights[0], &weights[1], &weights[0], &weights[0]].map(|weight| run(weight, &packed));
    assert_eq!(kept, [fresh[0].clone(), fresh[1].clone(), fresh[0].clone(), fresh[0].clone()]);
    let not_kept = [&weights[0], &weights[1]].map(|weight| run(weight, &PackedWeight::not_kept()));
    assert_eq!(not_kept, fresh);
    // Changed where it lies.
    let changed = weights[0].clone() * 2.0;
    assert_ne!(run(&changed, &packed), fresh[0]);
}

/// Two streams that attend together; softmax of scaled products plus a bias, token by token.
#[test]
fn attention_is_a_softmax_of_scaled_products_over_all_streams() {
    let [batch, heads, width] = [2, 2, 4];
    let lengths = [5, 3];
    let all: usize = lengths.iter().sum();
    let take = |name: &str, part: usize| values(&format!("{name}{part}"), &[batch, lengths[part], heads, width]);
    let at = |name: &str, b: usize, token: usize, h: usize, e: usize| {
        let (part, token) = if token < lengths[0] { (0, token) } else { (1, token - lengths[0]) };
        take(name, part).1[((b * lengths[part] + token) * heads + h) * width + e]
    };
    let bias_values = values("bias", &[1, heads, all, all]);
    let mixed = |b: usize, s: usize, h: usize, e: usize| {
        let logit = |t: usize| {
            let product: f64 = (0..width).map(|e| at("q", b, s, h, e) * at("k", b, t, h, e)).sum();
            0.7 * product + bias_values.1[(h * all + s) * all + t]
        };
        let weights: Vec<f64> = (0..all).map(|t| logit(t).exp()).collect();
        (0..all).map(|t| weights[t] * at("v", b, t, h, e)).sum::<f64>() / weights.iter().sum::<f64>()
    };
    for device in devices() {
        let stream = |part: usize| {
            let one = |name: &str| from_f32(take(name, part).0, [batch, lengths[part], heads, width], &device);
            Qkv::Apart { q: one("q"), k: one("k"), v: one("v") }
        };
        let bias = AttentionBias::Added(from_f32(bias_values.0.clone(), [1, heads, all, all], &device));
        let found = ops::attention([stream(0), stream(1)], 0.7, bias, Precision::F32);
        for (part, (found, start)) in found.iter().zip([0, lengths[0]]).enumerate() {
            let mut expected = Vec::new();
            for (b, s) in (0..batch * lengths[part]).map(|i| (i / lengths[part], i % lengths[part])) {
                expected.extend((0..heads * width).map(|i| mixed(b, start + s, i / width, i % width)));
            }
            assert_eq!(found.dims(), [batch, lengths[part], heads * width]);
            assert_close(found, &expected, 1e-5);
        }
    }
}

#[test]
fn a_causal_token_does_not_see_those_after_it() {
    for device in devices() {
        let (q, _) = tensor_on(&device, "q", [1, 4, 1, 8]);
        let (v, vs) = tensor_on(&device, "v", [1, 4, 1, 8]);
        let streams = [Qkv::Apart { q: q.clone(), k: q, v }];
        let [found] = ops::attention(streams, 1.0, AttentionBias::Causal, Precision::F32);
        let found = to_f32(&found);
        for e in 0..8 {
            assert!((f64::from(found[e]) - vs[e]).abs() < 1e-6, "the first token sees only itself");
            assert!((f64::from(found[8 + e]) - vs[8 + e]).abs() > 1e-6, "the second sees both");
        }
    }
}

#[test]
fn convolutions_move_their_windows_as_named() {
    let [channels, height, width, out] = [2_usize, 6, 4, 3];
    for device in devices() {
        let inside = [1, 2].map(|stride| (Window::Inside { stride }, 4));
        let windows = [(Window::Same, 3), (Window::Same, 1), (Window::Halve, 3), (Window::Patch, 2)];
        for (window, kernel) in windows.into_iter().chain(inside) {
            let (x, xs) = tensor_on(&device, "x", [1, channels, height, width]);
            let (weight, ws) = tensor_on(&device, "w", [out, channels, kernel, kernel]);
            let (bias, bs) = tensor_on(&device, "b", [out]);
            let (stride, before) = match window {
                Window::Same => (1, kernel / 2),
                Window::Halve => (2, 0),
                Window::Patch => (kernel, 0),
                Window::Inside { stride } => (stride, 0),
            };
            let (rows, columns) = match window {
                Window::Inside { .. } => ((height - kernel) / stride + 1, (width - kernel) / stride + 1),
                _ => (height / stride, width / stride),
            };
            let (residual, rs) = tensor_on(&device, "r", [1, out, rows, columns]);
            // Zero outside; `y` and `x` count from `before` pixels above and to the left.
            let pixel = |c: usize, y: usize, x: usize| match (y.checked_sub(before), x.checked_sub(before)) {
                (Some(y), Some(x)) if y < height && x < width => xs[(c * height + y) * width + x],
                _ => 0.0,
            };
            let mut expected = Vec::new();
            for (o, bias) in bs.iter().enumerate() {
                for (row, column) in (0..rows * columns).map(|i| (i / columns, i % columns)) {
                    let taps = (0..channels * kernel * kernel).map(|tap| {
                        let (c, i, j) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
                        ws[o * channels * kernel * kernel + tap] * pixel(c, row * stride + i, column * stride + j)
                    });
                    expected.push(bias + rs[expected.len()] + taps.sum::<f64>());
                }
            }
            let weight = (weight, &PackedWeight::default());
            let found = ops::conv2d(x, Before::default(), weight, bias, window, Some(residual), Precision::F32);
            assert_eq!(found.dims(), [1, out, rows, columns], "{window:?}");
            assert_close(&found, &expected, 1e-5);
        }
    }
}

/// Mean 0 and variance 1, but for `eps`.
fn normed(values: &[f64], eps: f64) -> Vec<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    values.iter().map(|x| (x - mean) / (variance + eps).sqrt()).collect()
}

#[test]
fn group_norm_norms_the_channels_of_a_group_together() {
    for device in devices() {
        let (x, xs) = tensor_on(&device, "x", [2, 4, 3, 5]);
        let (weight, ws) = tensor_on(&device, "w", [4]);
        let (bias, bs) = tensor_on(&device, "b", [4]);
        let norm = GroupNormed { groups: 2, weight, bias, eps: 0.1 };
        // Two groups of two channels of 15 pixels.
        let groups = xs.chunks(30).flat_map(|group| normed(group, 0.1));
        let expected: Vec<f64> = groups.enumerate().map(|(i, x)| x * ws[i / 15 % 4] + bs[i / 15 % 4]).collect();
        assert_close(&ops::group_norm(x.clone(), norm.clone()), &expected, 1e-5);

        // In front of a convolution, with SiLU and doubling: here one that leaves the picture as it is.
        let mut one_by_one = vec![0.0; 16];
        (0..4).for_each(|c| one_by_one[5 * c] = 1.0);
        let weight = (from_f32(one_by_one, [4, 4, 1, 1], &device), &PackedWeight::default());
        let before = Before { normed: Some(norm), silu: true, doubled: true, ..Before::default() };
        let zero = from_f32(vec![0.0; 4], [4], &device);
        let found = ops::conv2d(x, before, weight, zero, Window::Same, None, Precision::F32);
        let doubled: Vec<f64> = (0..2 * 4 * 6 * 10)
            .map(|i| expected[(i / 60 * 3 + i / 10 % 6 / 2) * 5 + i % 10 / 2])
            .map(|x| x / (1.0 + (-x).exp()))
            .collect();
        assert_close(&found, &doubled, 1e-5);
    }
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    for device in devices() {
        let (x, xs) = tensor_on(&device, "y", [1, 2, 8]);
        let (weight, ws) = tensor_on(&device, "v", [8]);
        let rms = |row: usize| (xs[row * 8..][..8].iter().map(|x| x * x).sum::<f64>() / 8.0 + 0.1).sqrt();
        let expected: Vec<f64> = xs.iter().enumerate().map(|(i, x)| x / rms(i / 8) * ws[i % 8]).collect();
        assert_close(&ops::rms_norm(x, weight, 0.1, DType::F32), &expected, 1e-5);
    }
}

/// Heads of queries inside a product's result: rows that are not evenly spaced in memory as one axis.
#[test]
fn a_norm_reads_rows_where_they_lie() {
    for device in devices() {
        let (all, xs) = tensor_on(&device, "all", [2, 3, 3, 2, 8]);
        let (weight, ws) = tensor_on(&device, "v", [8]);
        let keys: Tensor<4> = all.narrow(2, 1, 1).squeeze_dim(2);
        let expected: Vec<f64> = (0..2 * 3 * 2)
            .flat_map(|row| {
                let start = ((row / 2 * 3 + 1) * 2 + row % 2) * 8;
                let row = &xs[start..start + 8];
                let rms = (row.iter().map(|x| x * x).sum::<f64>() / 8.0 + 0.1).sqrt();
                row.iter().zip(&ws).map(|(x, w)| x / rms * w).collect::<Vec<_>>()
            })
            .collect();
        assert_close(&ops::rms_norm(keys, weight, 0.1, DType::F32), &expected, 1e-5);
    }
}

#[test]
fn modulation_scales_and_shifts_each_batch_by_its_own() {
    for device in devices() {
        let (x, xs) = tensor_on(&device, "x", [2, 3, 4]);
        let (shift, shifts) = tensor_on(&device, "shift", [2, 1, 4]);
        let (scale, scales) = tensor_on(&device, "scale", [2, 1, 4]);
        let of_batch = |i: usize| i / 12 * 4 + i % 4;
        let normed: Vec<f64> = xs.chunks(4).flat_map(|row| normed(row, 1e-6)).collect();
        let expected: Vec<f64> =
            normed.iter().enumerate().map(|(i, x)| x * (1.0 + scales[of_batch(i)]) + shifts[of_batch(i)]).collect();
        let [found, again] = ops::modulated_norm(x.clone(), shift, scale, 1e-6, Precision::F32);
        assert_close(&found, &expected, 1e-5);
        assert_eq!(to_f32(&again), to_f32(&x));
    }
}

#[test]
fn a_layer_norm_has_weights_and_an_embedding_takes_rows() {
    for device in devices() {
        let (x, xs) = tensor_on(&device, "x", [2, 3, 4]);
        let (weight, ws) = tensor_on(&device, "w", [4]);
        let (bias, bs) = tensor_on(&device, "b", [4]);
        let rows = xs.chunks(4).flat_map(|row| normed(row, 0.1));
        let expected: Vec<f64> = rows.enumerate().map(|(i, x)| x * ws[i % 4] + bs[i % 4]).collect();
        assert_close(&ops::layer_norm(x, weight, bias, 0.1, DType::F32), &expected, 1e-5);

        let table = from_f32(vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5], [3, 2], &device);
        let rows = ops::embedding(from_ids(&[2, 0, 2], &device), table);
        assert_eq!(rows.dims(), [1, 3, 2]);
        assert_eq!(to_f32(&rows), [2.0, 2.5, 0.0, 0.5, 2.0, 2.5]);
    }
}

/// A few updates by the kernel and composed; what AdamW is, the kernel's own tests say.
#[test]
fn an_update_by_the_kernel_and_a_composed_one_are_the_same() {
    for averaged in [false, true] {
        let updated = devices().map(|device| {
            let (mut param, _) = tensor_on(&device, "p", [9, 7]);
            let mut moments = AdamwMoments::new(&param, averaged);
            for number in 1..5 {
                let (gradient, _) = tensor_on(&device, &format!("g{number}"), [63]);
                let step = AdamwStep {
                    learning_rate: 0.01,
                    beta_1: 0.9,
                    beta_2: 0.99,
                    eps: 1e-3,
                    weight_decay: 0.1,
                    number: number.try_into().unwrap(),
                    gradient_factor: 0.3,
                    ema_decay: 0.8,
                };
                (param, moments) = ops::adamw_step(param, gradient, moments, &step);
            }
            let resting = moments.ema.clone().map(|ema| ops::ema_step(param.clone(), ema, 0.8));
            (param, moments, resting)
        });
        let [(param, moments, resting), (composed, composed_moments, composed_resting)] = updated;
        let wide = |x: &Tensor<1>| -> Vec<f64> { to_f32(x).into_iter().map(f64::from).collect() };
        assert_close(&param.reshape([63]), &wide(&composed.reshape([63])), 1e-6);
        assert_close(&moments.first, &wide(&composed_moments.first), 1e-6);
        assert_close(&moments.second, &wide(&composed_moments.second), 1e-6);
        assert_eq!([moments.ema.is_some(), resting.is_some()], [averaged; 2]);
        for (found, composed) in [(moments.ema, composed_moments.ema), (resting, composed_resting)] {
            let Some(found) = found else { continue };
            assert_close(&found, &wide(&composed.unwrap()), 1e-6);
        }
    }
}

/// Rows of a transposed matrix and the middle of a larger one are updated where they are read.
#[test]
fn a_parameter_in_any_order_is_updated_in_its_own() {
    let device = Device::flex();
    let step = AdamwStep {
        learning_rate: 0.5,
        beta_1: 0.0,
        beta_2: 0.0,
        eps: 0.0,
        weight_decay: 0.0,
        number: 1.try_into().unwrap(),
        gradient_factor: 1.0,
        ema_decay: 0.0,
    };
    let gradient = from_f32(vec![1.0, -2.0, 3.0, -4.0, 5.0, -6.0], [6], &device);
    let whole = from_f32((0..12).map(|i| i as f32).collect(), [4, 3], &device);
    for (param, expected) in [
        (whole.clone().slice([1..3, 0..3]), [2.5, 4.5, 4.5, 6.5, 6.5, 8.5]),
        (whole.clone().slice([1..3, 0..3]).transpose().reshape([2, 3]), [2.5, 6.5, 3.5, 7.5, 4.5, 8.5]),
        (whole.clone().slice([0..3, 0..2]).transpose(), [-0.5, 3.5, 5.5, 1.5, 3.5, 7.5]),
    ] {
        let (updated, _) = ops::adamw_step(param.clone(), gradient.clone(), AdamwMoments::new(&param, true), &step);
        assert_eq!(updated.dims(), [2, 3]);
        assert_eq!(to_f32(&updated), expected);
    }
    assert_eq!(to_f32(&whole), (0..12).map(|i| i as f32).collect::<Vec<_>>(), "a shared matrix changed");
}

#[test]
fn a_sum_of_squares_is_the_same_on_any_device() {
    for device in devices() {
        let (x, wide) = tensor_on(&device, "x", [31, 5]);
        let exact: f64 = wide.iter().map(|x| x * x).sum();
        assert!((ops::sum_of_squares(x.transpose()) - exact).abs() < 1e-5 * exact);
    }
}

/// Keys that are all the same share every query's attention evenly.
#[test]
fn attention_statistics_of_equal_keys_are_known() {
    for device in devices() {
        let [batch, length, heads, width] = [2, 9, 3, 8];
        let q = tensor_on(&device, "q", [batch, length, heads, width]).0;
        let ones = from_f32(vec![1.0; batch * length * heads * width], [batch, length, heads, width], &device);
        let streams = [Qkv::Apart { q: q.clone(), k: ones.clone(), v: ones }];
        let found = ops::attention_statistics(streams, 0.5, AttentionBias::None, Precision::F32);
        assert_eq!(found.len(), batch * heads);
        let sums = to_f32(&q.sum_dim(3));
        for (index, found) in found.into_iter().enumerate() {
            let of_head = |token: usize| sums[(index / heads * length + token) * heads + index % heads];
            let largest = (0..length).map(of_head).fold(f32::NEG_INFINITY, f32::max);
            assert!((found.logit_max - 0.5 * largest).abs() < 1e-5, "{found:?}, {largest}");
            assert!((found.entropy - (length as f32).ln()).abs() < 1e-5, "{found:?}");
        }
    }
}
