//! Every instruction set against sums in f64, over sizes that do not divide the tiles.

use half::bf16;

use super::*;
use crate::Isa;
use crate::product::{Epilogue, Output, Residual, Values};
use crate::testing::{assert_close, is_quick, values};
use crate::vector::{from_bf16, to_bf16};

fn picture(values: &[f32], shape: [usize; 4]) -> Picture<'_> {
    let [_, c, h, w] = shape;
    Picture { values: Values::F32(values), shape, strides: [c * h * w, h * w, w, 1] }
}

struct Case {
    shape: [usize; 4],
    out: usize,
    kernel: usize,
    window: Window,
    doubled: bool,
}

fn cases() -> Vec<Case> {
    let case = |shape, out, kernel, window, doubled| Case { shape, out, kernel, window, doubled };
    vec![
        case([1, 1, 1, 1], 1, 3, Window::Same, false),
        case([2, 3, 7, 5], 20, 3, Window::Same, false),
        case([1, 33, 9, 40], 17, 3, Window::Same, false),
        case([1, 64, 5, 6], 48, 1, Window::Same, false),
        case([2, 16, 8, 6], 12, 3, Window::Halve, false),
        case([2, 16, 8, 6], 70, 2, Window::Patch, false),
        case([2, 3, 9, 12], 20, 4, Window::Inside { stride: 2 }, false),
        case([1, 20, 6, 9], 33, 4, Window::Inside { stride: 1 }, false),
        case([1, 20, 6, 9], 33, 3, Window::Same, true),
        case([1, 130, 3, 37], 5, 3, Window::Same, false),
        case([1, 600, 2, 3], 40, 3, Window::Same, false),
        // Several strips of rows, the last one shorter.
        case([1, 2, 75, 900], 3, 3, Window::Same, false),
        case([2, 1, 38, 500], 2, 3, Window::Same, true),
        case([2, 1, 302, 600], 2, 3, Window::Halve, false),
        case([1, 1, 402, 402], 2, 2, Window::Patch, false),
        case([1, 1, 1, 40_000], 1, 3, Window::Same, false),
    ]
}

/// `[B, H', W', O]`, written out.
fn reference(case: &Case, x: &[f32], weight: &[f32]) -> Vec<f64> {
    let Case { shape: [batch, channels, height, width], out, kernel, window, doubled } = *case;
    let (stride, before) = match window {
        Window::Same => (1, kernel / 2),
        Window::Halve => (2, 0),
        Window::Patch => (kernel, 0),
        Window::Inside { stride } => (stride, 0),
    };
    let times = if doubled { 2 } else { 1 };
    let shape = ConvShape { channels_out: out, channels_in: channels, kernel };
    let [rows, columns] = shape.size_out(window, [height * times, width * times]);
    let pixel = |b: usize, c: usize, y: usize, x_: usize| match (y.checked_sub(before), x_.checked_sub(before)) {
        (Some(y), Some(x_)) if y < height * times && x_ < width * times => {
            f64::from(x[((b * channels + c) * height + y / times) * width + x_ / times])
        }
        _ => 0.0,
    };
    let mut result = Vec::new();
    for (b, row, column) in (0..batch * rows * columns).map(|i| (i / rows / columns, i / columns % rows, i % columns)) {
        for o in 0..out {
            let taps = (0..channels * kernel * kernel).map(|tap| {
                let (c, i, j) = (tap / kernel / kernel, tap / kernel % kernel, tap % kernel);
                f64::from(weight[o * channels * kernel * kernel + tap])
                    * pixel(b, c, row * stride + i, column * stride + j)
            });
            result.push(taps.sum());
        }
    }
    result
}

#[test]
fn windows_of_all_kinds_and_sizes() {
    for isa in Isa::available() {
        for case in cases() {
            let [batch, channels, height, width] = case.shape;
            let inner = channels * case.kernel * case.kernel;
            if !is_quick(batch * height * width * inner * case.out) {
                continue;
            }
            // Values that bf16 holds, so that both types have the same products.
            let rounded = |x: Vec<f32>| -> Vec<f32> { x.into_iter().map(|x| from_bf16(to_bf16(x))).collect() };
            let x = rounded(values(1, batch * channels * height * width));
            let weight = rounded(values(2, case.out * inner));
            let expected = reference(&case, &x, &weight);
            let shape = ConvShape { channels_out: case.out, channels_in: channels, kernel: case.kernel };
            let how = Gather { doubled: case.doubled, ..Gather::default() };
            let name = format!("{isa} {:?} {} {:?}", case.shape, case.out, case.window);

            let mut packed = vec![0.0; shape.packed_len()];
            shape.pack(isa, Values::F32(&weight), &mut packed);
            let mut out = vec![f32::NAN; expected.len()];
            let input = picture(&x, case.shape);
            let end = Epilogue::default();
            convolve::<f32>(isa, input, how, (&packed, shape), case.window, &end, Output::F32(&mut out));
            assert_close(&out, &expected, 1e-6 * inner as f64, &name);

            let mut packed = vec![bf16::ZERO; shape.packed_len()];
            shape.pack(isa, Values::F32(&weight), &mut packed);
            let mut out = vec![f32::NAN; expected.len()];
            convolve::<bf16>(isa, input, how, (&packed, shape), case.window, &end, Output::F32(&mut out));
            assert_close(&out, &expected, 1e-6 * inner as f64, &name);
        }
    }
}

/// Channels last, as a convolution leaves them: normed, activated, with bias and residual.
#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn a_norm_an_activation_and_a_residual_go_along() {
    let [batch, channels, height, width, out, groups] = [2, 48, 5, 7, 24, 4];
    let pixels = height * width;
    // Far from 0 against its deviation, which a plain sum of squares would lose.
    let x: Vec<f32> = values(1, batch * channels * pixels).into_iter().map(|x| 300.0 + x).collect();
    let input = Picture {
        values: Values::F32(&x),
        shape: [batch, channels, height, width],
        strides: [pixels * channels, 1, width * channels, channels],
    };
    let (gamma, beta, weight) = (values(2, channels), values(3, channels), values(4, out * channels));
    let (bias, skipped) = (values(5, out), values(6, batch * pixels * out));

    let at = |b: usize, p: usize, c: usize| f64::from(x[(b * pixels + p) * channels + c]);
    let in_group = channels / groups;
    let normed = |b: usize, p: usize, c: usize| {
        let group = c / in_group * in_group..(c / in_group + 1) * in_group;
        let all: Vec<f64> =
            (0..pixels).flat_map(|p| group.clone().map(move |c| (p, c))).map(|(p, c)| at(b, p, c)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        (at(b, p, c) - mean) / (variance + 1e-6).sqrt() * f64::from(gamma[c]) + f64::from(beta[c])
    };
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let mut expected = Vec::new();
    for (b, p) in (0..batch * pixels).map(|i| (i / pixels, i % pixels)) {
        let activated: Vec<f64> = (0..channels).map(|c| silu(normed(b, p, c))).collect();
        for o in 0..out {
            let sum: f64 = activated.iter().zip(&weight[o * channels..]).map(|(x, w)| x * f64::from(*w)).sum();
            expected.push(sum + f64::from(bias[o]) + f64::from(skipped[(b * pixels + p) * out + o]));
        }
    }

    for isa in Isa::available() {
        let shape = ConvShape { channels_out: out, channels_in: channels, kernel: 1 };
        let mut packed = vec![0.0; shape.packed_len()];
        shape.pack(isa, Values::F32(&weight), &mut packed);
        let [scale, shift] = group_statistics(isa, input, groups, 1e-6).scales_and_shifts([&gamma, &beta]);
        let how = Gather { normed: Some(ScaleShift { scale: &scale, shift: &shift }), silu: true, doubled: false };
        let residual = Some(Residual { x: &skipped, gate: None, rows_per_gate: 1 });
        let end = Epilogue { bias: Some(&bias), residual, ..Epilogue::default() };
        let mut found = vec![0.0; expected.len()];
        convolve::<f32>(isa, input, how, (&packed, shape), Window::Same, &end, Output::F32(&mut found));
        // The inputs themselves are rounded to 300 +- 1.5e-5.
        assert_close(&found, &expected, 2e-3, &isa.to_string());
    }
}

/// Wherever a picture is cut, its norm is the same to the bit.
#[test]
fn a_norm_of_strips_is_that_of_the_whole() {
    let [batch, channels, height, width] = [2, 6, 61, 19];
    let x = values(7, batch * channels * height * width);
    let (weight, bias) = (values(8, channels), values(9, channels));
    let affine = [&weight[..], &bias[..]];
    for isa in Isa::available() {
        let whole = group_statistics(isa, picture(&x, [batch, channels, height, width]), 3, 1e-6);
        let whole = whole.scales_and_shifts(affine);
        for rows in [1, 2, 7, 13, 14, 27, 60, 61] {
            let mut sums = PictureSums::new([batch, channels, 0, 0]);
            for first in (0..height).step_by(rows) {
                let strides = [channels * height * width, height * width, width, 1];
                let shape = [batch, channels, rows.min(height - first), width];
                sums.add(isa, Picture { values: Values::F32(&x[first * width..]), shape, strides });
            }
            assert_eq!(sums.statistics(3, 1e-6).scales_and_shifts(affine), whole, "{isa}, {rows} rows");
        }
    }
}

#[test]
fn nothing_to_convolve() {
    for isa in Isa::available() {
        let shape = ConvShape { channels_out: 3, channels_in: 2, kernel: 3 };
        let packed = vec![0.0; shape.packed_len()];
        let input = picture(&[], [0, 2, 4, 4]);
        let end = Epilogue::default();
        convolve::<f32>(isa, input, Gather::default(), (&packed, shape), Window::Same, &end, Output::F32(&mut []));
    }
}
