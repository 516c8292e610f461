//! Each operation against its formula, written out in f64.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use rectiflow_nn::ops::{self, AttentionBias, Window};
use rectiflow_nn::{Device, Init, ParamSource, Precision, RandomInit, Tensor, from_f32, from_ids, to_f32};

/// Reproducible values of deviation 1, as a tensor and in f64.
fn tensor<const D: usize>(name: &str, shape: [usize; D]) -> (Tensor<D>, Vec<f64>) {
    let read = RandomInit { seed: 3 }.claim(name, &shape, Init::Normal(1.0));
    let values: Vec<f32> = read().try_into_vec().unwrap();
    let wide = values.iter().map(|&x| f64::from(x)).collect();
    (from_f32(values, shape, &Device::flex()), wide)
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
    for [rows, width_in, width_out] in [[1, 1, 1], [3, 7, 5], [65, 63, 77]] {
        let (x, xs) = tensor("x", [1, rows, width_in]);
        let (weight, ws) = tensor("w", [width_out, width_in]);
        let (bias, bs) = tensor("b", [width_out]);
        let expected: Vec<f64> = (0..rows * width_out)
            .map(|i| {
                let (row, column) = (i / width_out, i % width_out);
                bs[column] + (0..width_in).map(|k| xs[row * width_in + k] * ws[column * width_in + k]).sum::<f64>()
            })
            .collect();
        assert_close(&ops::linear(x, weight, Some(bias), precision), &expected, relative);
    }
}

#[test]
fn linear_is_a_product_with_the_transposed_weight() {
    check_linear(Precision::F32, 1e-5);
}

#[test]
fn linear_in_bf16_keeps_two_to_three_digits_and_not_more() {
    check_linear(Precision::Bf16, 1.5e-2);
    let (x, weight) = (tensor("x", [1, 65, 63]).0, tensor("w", [77, 63]).0);
    let exact = to_f32(&ops::linear(x.clone(), weight.clone(), None, Precision::F32));
    let rounded = to_f32(&ops::linear(x, weight, None, Precision::Bf16));
    assert_ne!(exact, rounded, "bf16 products round");
}

#[test]
fn attention_is_a_softmax_of_scaled_products() {
    let [heads, queries, keys, width] = [2, 5, 9, 4];
    let (q, qs) = tensor("q", [1, heads, queries, width]);
    let (k, ks) = tensor("k", [1, heads, keys, width]);
    let (v, vs) = tensor("v", [1, heads, keys, width]);
    let (bias, bs) = tensor("bias", [1, heads, queries, keys]);
    let mut expected = vec![0.0; heads * queries * width];
    for h in 0..heads {
        for s in 0..queries {
            let logit = |t: usize| {
                let (q, k) = ((h * queries + s) * width, (h * keys + t) * width);
                0.7 * (0..width).map(|e| qs[q + e] * ks[k + e]).sum::<f64>() + bs[(h * queries + s) * keys + t]
            };
            let weights: Vec<f64> = (0..keys).map(|t| logit(t).exp()).collect();
            let total: f64 = weights.iter().sum();
            for e in 0..width {
                expected[(h * queries + s) * width + e] =
                    (0..keys).map(|t| weights[t] / total * vs[(h * keys + t) * width + e]).sum();
            }
        }
    }
    let found = ops::attention(q, k, v, 0.7, AttentionBias::Added(bias), Precision::F32);
    assert_close(&found, &expected, 1e-5);
}

#[test]
fn a_causal_token_does_not_see_those_after_it() {
    let (q, _) = tensor("q", [1, 1, 4, 8]);
    let (v, vs) = tensor("v", [1, 1, 4, 8]);
    let found = to_f32(&ops::attention(q.clone(), q, v, 1.0, AttentionBias::Causal, Precision::F32));
    for e in 0..8 {
        assert!((f64::from(found[e]) - vs[e]).abs() < 1e-6, "the first token sees only itself");
        assert!((f64::from(found[8 + e]) - vs[8 + e]).abs() > 1e-6, "the second sees both");
    }
}

#[test]
fn convolutions_move_their_windows_as_named() {
    let [channels, height, width, out] = [2_usize, 6, 4, 3];
    for (window, kernel) in [(Window::Same, 3), (Window::Same, 1), (Window::Halve, 3), (Window::Patch, 2)] {
        let (x, xs) = tensor("x", [1, channels, height, width]);
        let (weight, ws) = tensor("w", [out, channels, kernel, kernel]);
        let (bias, bs) = tensor("b", [out]);
        let (stride, before) = match window {
            Window::Same => (1, kernel / 2),
            Window::Halve => (2, 0),
            Window::Patch => (kernel, 0),
        };
        let (rows, columns) = (height / stride, width / stride);
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
                expected.push(bias + taps.sum::<f64>());
            }
        }
        let found = ops::conv2d(x, weight, bias, window, Precision::F32);
        assert_eq!(found.dims(), [1, out, rows, columns], "{window:?}");
        assert_close(&found, &expected, 1e-5);
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
    let (x, xs) = tensor("x", [2, 4, 3, 5]);
    let (weight, ws) = tensor("w", [4]);
    let (bias, bs) = tensor("b", [4]);
    // Two groups of two channels of 15 pixels.
    let groups = xs.chunks(30).flat_map(|group| normed(group, 0.1));
    let expected: Vec<f64> = groups.enumerate().map(|(i, x)| x * ws[i / 15 % 4] + bs[i / 15 % 4]).collect();
    assert_close(&ops::group_norm(x.clone(), 2, weight.clone(), bias.clone(), 0.1), &expected, 1e-5);
    let silu: Vec<f64> = expected.iter().map(|x| x / (1.0 + (-x).exp())).collect();
    assert_close(&ops::group_norm_silu(x, 2, weight, bias, 0.1), &silu, 1e-5);
}

#[test]
fn rms_norm_divides_by_the_root_of_the_mean_square() {
    let (x, xs) = tensor("y", [1, 2, 8]);
    let (weight, ws) = tensor("v", [8]);
    let rms = |row: usize| (xs[row * 8..][..8].iter().map(|x| x * x).sum::<f64>() / 8.0 + 0.1).sqrt();
    let expected: Vec<f64> = xs.iter().enumerate().map(|(i, x)| x / rms(i / 8) * ws[i % 8]).collect();
    assert_close(&ops::rms_norm(x, weight, 0.1), &expected, 1e-5);
}

#[test]
fn modulation_scales_shifts_and_gates_each_batch_by_its_own() {
    let (x, xs) = tensor("x", [2, 3, 4]);
    let (shift, shifts) = tensor("shift", [2, 1, 4]);
    let (scale, scales) = tensor("scale", [2, 1, 4]);
    let of_batch = |i: usize| i / 12 * 4 + i % 4;
    let normed: Vec<f64> = xs.chunks(4).flat_map(|row| normed(row, 1e-6)).collect();
    let expected: Vec<f64> =
        normed.iter().enumerate().map(|(i, x)| x * (1.0 + scales[of_batch(i)]) + shifts[of_batch(i)]).collect();
    assert_close(&ops::modulated_norm(x.clone(), shift, scale.clone(), 1e-6), &expected, 1e-5);

    let expected: Vec<f64> = xs.iter().enumerate().map(|(i, x)| x + scales[of_batch(i)] * x).collect();
    assert_close(&ops::gated_residual(x.clone(), scale, x), &expected, 1e-6);
}

#[test]
fn activations_are_their_formulas() {
    let (x, xs) = tensor("x", [1, 50]);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let tanh_gelu =
        |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    let map = |f: &dyn Fn(f64) -> f64| xs.iter().map(|&x| f(x)).collect::<Vec<_>>();
    assert_close(&ops::silu(x.clone()), &map(&|x| x * sigmoid(x)), 1e-6);
    assert_close(&ops::quick_gelu(x.clone()), &map(&|x| x * sigmoid(1.702 * x)), 1e-6);
    assert_close(&ops::gelu_tanh(x.clone()), &map(&tanh_gelu), 1e-6);
    // Both GELUs agree to about 5e-4 and not better: neither may stand for the other.
    let (erf, tanh) = (to_f32(&ops::gelu(x.clone())), to_f32(&ops::gelu_tanh(x)));
    let apart = erf.iter().zip(&tanh).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
    assert!((1e-5..1e-3).contains(&apart), "{apart}");
}

#[test]
fn upsampling_repeats_pixels_and_an_embedding_takes_rows() {
    let x = from_f32(vec![1.0, 2.0, 3.0, 4.0], [1, 1, 2, 2], &Device::flex());
    let expected = [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 3.0, 3.0, 4.0, 4.0];
    assert_eq!(to_f32(&ops::upsample_nearest_2x(x)), expected);

    let table = from_f32(vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5], [3, 2], &Device::flex());
    let rows = ops::embedding(from_ids(&[2, 0, 2], &Device::flex()), table);
    assert_eq!(rows.dims(), [1, 3, 2]);
    assert_eq!(to_f32(&rows), [2.0, 2.5, 0.0, 0.5, 2.0, 2.5]);
}
