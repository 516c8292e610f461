//! Every instruction set against gradients in f64, written out, and those against finite differences.

use half::bf16;

use super::*;
use crate::Isa;
use crate::picture::convolution::Convolved;
use crate::picture::{ConvShape, Gather, Picture, ScaleShift, Window, group_statistics};
use crate::product::Values;
use crate::testing::{assert_close, spoil_memory, values};
use crate::vector::{from_bf16, to_bf16};

const EPS: f64 = 1e-3;

/// What is convolved, and how.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// B, C, H, W.
    shape: [usize; 4],
    out: usize,
    kernel: usize,
    window: Window,
    /// Of the norm, if there is one.
    groups: Option<usize>,
    silu: bool,
    doubled: bool,
}

const PLAIN: Case =
    Case { shape: [1, 1, 1, 1], out: 1, kernel: 3, window: Window::Same, groups: None, silu: false, doubled: false };

const CASES: [Case; 19] = [
    PLAIN,
    Case { shape: [2, 3, 7, 5], out: 20, ..PLAIN },
    Case { shape: [1, 33, 7, 33], out: 17, ..PLAIN },
    Case { shape: [1, 64, 5, 6], out: 48, kernel: 1, ..PLAIN },
    Case { shape: [2, 8, 7, 7], out: 3, kernel: 5, ..PLAIN },
    Case { shape: [2, 16, 8, 6], out: 12, window: Window::Halve, ..PLAIN },
    Case { shape: [1, 20, 7, 33], out: 35, window: Window::Halve, ..PLAIN },
    Case { shape: [2, 5, 1, 7], out: 4, window: Window::Halve, ..PLAIN },
    Case { shape: [1, 5, 6, 7], out: 4, kernel: 1, window: Window::Halve, ..PLAIN },
    Case { shape: [2, 16, 8, 6], out: 70, kernel: 2, window: Window::Patch, ..PLAIN },
    Case { shape: [1, 3, 7, 33], out: 18, kernel: 2, window: Window::Patch, ..PLAIN },
    Case { shape: [2, 17, 9, 34], out: 18, kernel: 4, window: Window::Inside { stride: 2 }, ..PLAIN },
    Case { shape: [1, 3, 7, 33], out: 18, kernel: 4, window: Window::Inside { stride: 1 }, ..PLAIN },
    Case { shape: [2, 3, 8, 9], out: 5, kernel: 3, window: Window::Inside { stride: 2 }, ..PLAIN },
    Case { shape: [1, 20, 6, 9], out: 33, doubled: true, ..PLAIN },
    Case { shape: [2, 48, 5, 7], out: 24, groups: Some(4), silu: true, ..PLAIN },
    Case { shape: [2, 12, 7, 3], out: 5, groups: Some(3), ..PLAIN },
    Case { shape: [1, 18, 7, 33], out: 7, window: Window::Halve, silu: true, ..PLAIN },
    Case { shape: [2, 6, 7, 5], out: 4, groups: Some(2), silu: true, doubled: true, ..PLAIN },
];

impl Case {
    fn sizes(&self) -> [usize; 2] {
        let times = if self.doubled { 2 } else { 1 };
        [times * self.shape[2], times * self.shape[3]]
    }

    fn conv(&self) -> ConvShape {
        ConvShape { channels_out: self.out, channels_in: self.shape[1], kernel: self.kernel }
    }

    /// Rows and columns of the result.
    fn result(&self) -> [usize; 2] {
        self.conv().size_out(self.window, self.sizes())
    }

    /// Calls `product` with the places in result `[B, H', W', O]`, picture `[B, H, W, C]` and weight `[O, C, K, K]` that
    /// a convolution brings together.
    fn products(&self, mut product: impl FnMut(usize, usize, usize)) {
        let ([batch, channels, ..], [height, width], [rows, columns]) = (self.shape, self.sizes(), self.result());
        let (stride, before) = match self.window {
            Window::Same => (1, self.kernel / 2),
            Window::Halve => (2, 0),
            Window::Patch => (self.kernel, 0),
            Window::Inside { stride } => (stride, 0),
        };
        let taps = self.kernel * self.kernel;
        for pixel in 0..batch * rows * columns {
            let (b, row, column) = (pixel / rows / columns, pixel / columns % rows, pixel % columns);
            for tap in 0..taps {
                let y = (row * stride + tap / self.kernel).wrapping_sub(before);
                let x = (column * stride + tap % self.kernel).wrapping_sub(before);
                if y >= height || x >= width {
                    continue;
                }
                for (o, c) in (0..self.out * channels).map(|i| (i / channels, i % channels)) {
                    let from = ((b * height + y) * width + x) * channels + c;
                    product(pixel * self.out + o, from, (o * channels + c) * taps + tap);
                }
            }
        }
    }
}

/// Everything that a result depends on, and its gradients.
#[derive(Clone, Debug, Default)]
struct Numbers {
    /// `[B, H, W, C]`.
    x: Vec<f64>,
    norm_weight: Vec<f64>,
    norm_bias: Vec<f64>,
    /// `[O, C, K, K]`.
    weight: Vec<f64>,
    bias: Vec<f64>,
}

/// The picture on its way: after the norm, and as it is convolved.
struct Way {
    /// `(x - mean) * inverse`, and `inverse`.
    unit: Vec<[f64; 2]>,
    normed: Vec<f64>,
    gathered: Vec<f64>,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Places of `[B, H, W, C]` in the same picture and group.
fn same_group(case: &Case, groups: usize, place: usize) -> Vec<usize> {
    let [_, channels, height, width] = case.shape;
    let (picture, in_group) = (channels * height * width, channels / groups);
    let first = place / picture * picture;
    (first..first + picture).filter(|i| i % channels / in_group == place % channels / in_group).collect()
}

fn way(case: &Case, numbers: &Numbers) -> Way {
    let ([_, channels, height, width], x) = (case.shape, &numbers.x);
    let unit: Vec<[f64; 2]> = match case.groups {
        None => x.iter().map(|x| [*x, 1.0]).collect(),
        Some(groups) => {
            let of = |place: usize| {
                let all = same_group(case, groups, place);
                let mean = all.iter().map(|i| x[*i]).sum::<f64>() / all.len() as f64;
                let variance = all.iter().map(|i| (x[*i] - mean).powi(2)).sum::<f64>() / all.len() as f64;
                let inverse = 1.0 / (variance + EPS).sqrt();
                [mean, inverse]
            };
            let pixels = height * width;
            let in_group = channels / groups;
            // Once for each group of each picture.
            let statistics: Vec<[f64; 2]> = (0..case.shape[0] * groups)
                .map(|i| of(i / groups * pixels * channels + i % groups * in_group))
                .collect();
            let mine = |place: usize| {
                let group = place % channels / in_group;
                statistics[place / (pixels * channels) * groups + group]
            };
            x.iter().enumerate().map(|(i, x)| [(x - mine(i)[0]) * mine(i)[1], mine(i)[1]]).collect()
        }
    };
    let normed: Vec<f64> = match case.groups {
        None => x.clone(),
        Some(_) => unit
            .iter()
            .enumerate()
            .map(|(i, [unit, _])| unit * numbers.norm_weight[i % channels] + numbers.norm_bias[i % channels])
            .collect(),
    };
    let activated: Vec<f64> = normed.iter().map(|x| if case.silu { x * sigmoid(*x) } else { *x }).collect();
    let gathered = (0..doubled_len(case)).map(|i| activated[copied_from(case, i)]).collect();
    Way { unit, normed, gathered }
}

fn doubled_len(case: &Case) -> usize {
    let [batch, channels, ..] = case.shape;
    batch * channels * case.sizes()[0] * case.sizes()[1]
}

/// The place in the picture that a place in the gathered one is copied from.
fn copied_from(case: &Case, place: usize) -> usize {
    let ([_, channels, height, width], [tall, wide]) = (case.shape, case.sizes());
    let (c, pixel) = (place % channels, place / channels);
    let (b, y, x) = (pixel / wide / tall, pixel / wide % tall, pixel % wide);
    ((b * height + y * height / tall) * width + x * width / wide) * channels + c
}

/// The sum of all results, each times its gradient.
fn loss(case: &Case, numbers: &Numbers, gradient: &[f64]) -> f64 {
    let gathered = way(case, numbers).gathered;
    let biased: f64 = gradient.iter().enumerate().map(|(i, d)| d * numbers.bias[i % case.out]).sum();
    let mut sum = biased;
    case.products(|result, from, weight| sum += gradient[result] * gathered[from] * numbers.weight[weight]);
    sum
}

/// Gradients of the two products: of the weight and of the gathered picture.
fn of_products(case: &Case, weight: &[f64], gathered: &[f64], gradient: &[f64]) -> [Vec<f64>; 2] {
    let (mut of_weight, mut of_gathered) = (vec![0.0; weight.len()], vec![0.0; gathered.len()]);
    case.products(|result, from, place| {
        of_weight[place] += gradient[result] * gathered[from];
        of_gathered[from] += gradient[result] * weight[place];
    });
    [of_weight, of_gathered]
}

/// All gradients, and that of the gathered picture.
fn gradients(case: &Case, numbers: &Numbers, gradient: &[f64]) -> (Numbers, Vec<f64>) {
    let channels = case.shape[1];
    let Way { unit, normed, gathered } = way(case, numbers);
    let [weight, of_gathered] = of_products(case, &numbers.weight, &gathered, gradient);
    let mut bias = vec![0.0; case.out];
    for (i, d) in gradient.iter().enumerate() {
        bias[i % case.out] += d;
    }
    let mut through = vec![0.0; numbers.x.len()];
    for (i, d) in of_gathered.iter().enumerate() {
        through[copied_from(case, i)] += d;
    }
    if case.silu {
        for (d, x) in through.iter_mut().zip(&normed) {
            *d *= sigmoid(*x) * (1.0 + x * (1.0 - sigmoid(*x)));
        }
    }
    let mut all = Numbers { x: through.clone(), weight, bias, ..Numbers::default() };
    if let Some(groups) = case.groups {
        all.norm_weight = vec![0.0; channels];
        all.norm_bias = vec![0.0; channels];
        for (i, d) in through.iter().enumerate() {
            all.norm_weight[i % channels] += d * unit[i][0];
            all.norm_bias[i % channels] += d;
        }
        let weighted: Vec<f64> =
            through.iter().enumerate().map(|(i, d)| d * numbers.norm_weight[i % channels]).collect();
        for (i, x) in all.x.iter_mut().enumerate() {
            let group = same_group(case, groups, i);
            let mean = |of: &dyn Fn(usize) -> f64| group.iter().map(|i| of(*i)).sum::<f64>() / group.len() as f64;
            let [unit_here, inverse] = unit[i];
            let along = unit_here * mean(&|i| weighted[i] * unit[i][0]);
            *x = inverse * (weighted[i] - mean(&|i| weighted[i]) - along);
        }
    }
    (all, of_gathered)
}

/// Values that bf16 holds, so that both types have the same products.
fn rounded(seed: u32, count: usize) -> Vec<f64> {
    values(seed, count).into_iter().map(|x| f64::from(from_bf16(to_bf16(x)))).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// The numbers of a case and the gradient of its result.
fn numbers(case: &Case) -> (Numbers, Vec<f64>) {
    let [batch, channels, height, width] = case.shape;
    let [rows, columns] = case.result();
    let numbers = Numbers {
        x: rounded(1, batch * channels * height * width),
        norm_weight: rounded(2, channels),
        norm_bias: rounded(3, channels),
        weight: rounded(4, case.out * channels * case.kernel * case.kernel),
        bias: rounded(5, case.out),
    };
    (numbers, rounded(6, batch * rows * columns * case.out))
}

#[test]
fn the_written_out_gradients_are_finite_differences() {
    for case in CASES {
        let (numbers, gradient) = numbers(&case);
        let (found, _) = gradients(&case, &numbers, &gradient);
        type Field = fn(&mut Numbers) -> &mut Vec<f64>;
        let fields: [Field; 5] =
            [|n| &mut n.x, |n| &mut n.norm_weight, |n| &mut n.norm_bias, |n| &mut n.weight, |n| &mut n.bias];
        for (which, field) in fields.into_iter().enumerate() {
            let found = field(&mut found.clone()).clone();
            let largest = found.iter().fold(1e-3_f64, |most, x| most.max(x.abs()));
            for place in (0..found.len()).step_by(found.len() / 5 + 1) {
                let at = |offset: f64| {
                    let mut moved = numbers.clone();
                    field(&mut moved)[place] += offset;
                    loss(&case, &moved, &gradient)
                };
                let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                let error = (found[place] - difference).abs() / largest;
                assert!(error < 1e-6, "{case:?} {which}: {} instead of {difference}", found[place]);
            }
        }
    }
}

/// Gradients as the kernels have them.
struct Found {
    x: Vec<f32>,
    of_norm: Option<[Vec<f32>; 2]>,
    gathered: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn found<T: Convolved>(isa: Isa, case: &Case, numbers: &Numbers, gradient: &[f64], channels_last: bool) -> Found {
    let [batch, channels, height, width] = case.shape;
    let [x, norm_weight, norm_bias, weight, gradient] =
        [&numbers.x, &numbers.norm_weight, &numbers.norm_bias, &numbers.weight, gradient].map(|x: &[f64]| narrow(x));
    let pixels = height * width;
    let first: Vec<f32> = (0..x.len())
        .map(|i| x[(i / channels / pixels * pixels + i % pixels) * channels + i / pixels % channels])
        .collect();
    let picture = if channels_last {
        let strides = [pixels * channels, 1, width * channels, channels];
        Picture { values: Values::F32(&x), shape: case.shape, strides }
    } else {
        Picture { values: Values::F32(&first), shape: case.shape, strides: [pixels * channels, pixels, width, 1] }
    };
    let statistics = case.groups.map(|groups| group_statistics(isa, picture, groups, EPS as f32));
    let scales = statistics.as_ref().map(|s| s.scales_and_shifts([&norm_weight, &norm_bias]));
    let normed = scales.as_ref().map(|[scale, shift]| ScaleShift { scale, shift });
    let how = Gather { normed, silu: case.silu, doubled: case.doubled };
    let mut found = Found {
        x: vec![f32::NAN; x.len()],
        of_norm: None,
        gathered: vec![f32::NAN; doubled_len(case)],
        weight: vec![f32::NAN; weight.len()],
        bias: vec![f32::NAN; case.out],
    };
    let ways = (case.conv(), case.window);
    convolve_weight_gradient::<T>(isa, (picture, how), ways, &gradient, &mut found.weight);
    bias_gradient(isa, &gradient, &mut found.bias);
    let (sizes, weight) = ([batch, case.sizes()[0], case.sizes()[1]], (Values::F32(&weight[..]), case.conv()));
    convolve_input_gradient::<T>(isa, &gradient, sizes, weight, case.window, &mut found.gathered);
    let norm = statistics.as_ref().map(|statistics| NormOf { statistics, weight: &norm_weight, bias: &norm_bias });
    let actions = [case.silu, case.doubled];
    found.of_norm = gather_gradient(isa, picture, norm, actions, &found.gathered, &mut found.x);
    found
}

/// The largest sum of absolute products, for gradients of the weight and of the gathered picture.
fn largest_sums(case: &Case, numbers: &Numbers, gradient: &[f64]) -> [f64; 2] {
    let absolute = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let gathered = way(case, numbers).gathered;
    of_products(case, &absolute(&numbers.weight), &absolute(&gathered), &absolute(gradient))
        .map(|sums| sums.into_iter().fold(1e-30, f64::max))
}

#[track_caller]
fn check<T: Convolved>(isa: Isa, case: &Case, of_weight: f64) {
    let (numbers, gradient) = numbers(case);
    let (expected, gathered) = gradients(case, &numbers, &gradient);
    let [weight_sum, input_sum] = largest_sums(case, &numbers, &gradient);
    for channels_last in [false, true] {
        let found = found::<T>(isa, case, &numbers, &gradient, channels_last);
        let name = |of: &str| format!("{of} of {isa} {} {case:?}", std::any::type_name::<T>());
        assert_close(&found.weight, &expected.weight, of_weight * weight_sum, &name("weight"));
        assert_close(&found.bias, &expected.bias, 1e-6 * gradient.len() as f64 / case.out as f64, &name("bias"));
        assert_close(&found.gathered, &gathered, 1e-6 * input_sum, &name("gathered"));
        let through = |x: &[f64]| 5e-6 * x.iter().fold(input_sum, |most, x| most.max(x.abs()));
        assert_close(&found.x, &expected.x, through(&expected.x), &name("x"));
        if let Some([norm_weight, norm_bias]) = &found.of_norm {
            assert_close(norm_weight, &expected.norm_weight, through(&expected.norm_weight), &name("norm's weight"));
            assert_close(norm_bias, &expected.norm_bias, through(&expected.norm_bias), &name("norm's bias"));
        }
        assert_eq!(found.of_norm.is_some(), case.groups.is_some());
    }
}

#[test]
fn every_gradient_is_the_written_out_one() {
    for isa in Isa::available() {
        for case in CASES {
            check::<f32>(isa, &case, 2e-6);
            // What is normed or activated is rounded to bf16, by half a unit of 8 digits.
            let exact = case.groups.is_none() && !case.silu;
            check::<bf16>(isa, &case, if exact { 2e-6 } else { 1.0 / 256.0 });
        }
    }
}

#[test]
fn what_memory_held_before_reaches_no_gradient() {
    for isa in Isa::available() {
        for case in [CASES[2], CASES[6], CASES[8], CASES[10], CASES[15]] {
            spoil_memory();
            check::<f32>(isa, &case, 2e-6);
            spoil_memory();
            check::<bf16>(isa, &case, 1.0 / 256.0);
        }
    }
}

/// Enough pixels that the sums of a weight are cut, in a picture and between pictures.
#[test]
fn sums_over_many_pixels_are_cut_and_put_together() {
    let case = Case { shape: [2, 2, 100, 97], out: 300, kernel: 3, ..PLAIN };
    let [_, channels, height, width] = case.shape;
    let x = rounded(1, 2 * channels * height * width);
    let gradient = rounded(6, 2 * height * width * case.out);
    let isa = Isa::best();
    let (x_narrow, gradient_narrow) = (narrow(&x), narrow(&gradient));
    let strides = [height * width * channels, 1, width * channels, channels];
    let picture = Picture { values: Values::F32(&x_narrow), shape: case.shape, strides };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut out = vec![f32::NAN; case.out * channels * 9];
        let given = (picture, Gather::default());
        pool.install(|| {
            convolve_weight_gradient::<bf16>(isa, given, (case.conv(), case.window), &gradient_narrow, &mut out);
        });
        out
    };
    let out = run(1);
    assert_eq!(out, run(5));
    for (o, c, tap) in [(0, 0, 0), (299, 1, 8), (150, 1, 4), (17, 0, 5)] {
        let mut exact = 0.0;
        for (pixel, d) in gradient.iter().skip(o).step_by(case.out).enumerate() {
            let (b, row, column) = (pixel / height / width, pixel / width % height, pixel % width);
            let (y, z) = ((row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1));
            if y < height && z < width {
                exact += d * x[((b * height + y) * width + z) * channels + c];
            }
        }
        let found = f64::from(out[(o * channels + c) * 9 + tap]);
        assert!((found - exact).abs() < 2e-3, "{o} {c} {tap}: {found} instead of {exact}");
    }
}

#[test]
fn the_number_of_threads_changes_no_gradient() {
    let cases = [CASES[2], CASES[6], CASES[12], CASES[15]];
    for isa in Isa::available() {
        for case in cases {
            let (numbers, gradient) = numbers(&case);
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| found::<bf16>(isa, &case, &numbers, &gradient, true));
                (found.x, found.of_norm, found.weight, found.bias)
            };
            let one = run(1);
            assert_eq!(one, run(2), "{isa} {case:?}");
            assert_eq!(one, run(5), "{isa} {case:?}");
        }
    }
}

#[test]
fn not_a_number_reaches_what_it_touches_and_nothing_else() {
    for isa in Isa::available() {
        let case = Case { shape: [2, 6, 7, 9], out: 5, ..PLAIN };
        let (numbers, mut gradient) = numbers(&case);
        // Picture 0, row 3, column 4, channel 2.
        gradient[(3 * 9 + 4) * 5 + 2] = f64::NAN;
        let found = found::<bf16>(isa, &case, &numbers, &gradient, true);
        let nan = |x: &[f32], which: &dyn Fn(usize) -> bool| x.iter().enumerate().all(|(i, x)| x.is_nan() == which(i));
        assert!(nan(&found.weight, &|i| i / (6 * 9) == 2), "{isa}");
        assert!(nan(&found.bias, &|i| i == 2), "{isa}");
        let near = |pixel: usize| pixel < 7 * 9 && (pixel / 9).abs_diff(3) < 2 && (pixel % 9).abs_diff(4) < 2;
        assert!(nan(&found.x, &|i| near(i / 6)), "{isa}");

        let case = Case { groups: Some(3), silu: true, ..case };
        let found = self::found::<f32>(isa, &case, &numbers, &gradient, true);
        // Through the norm it reaches all of its picture.
        assert!(nan(&found.x, &|i| i < 7 * 9 * 6), "{isa}");
    }
}

#[test]
fn a_picture_that_is_no_number_makes_its_weights_none() {
    for isa in Isa::available() {
        let case = Case { shape: [1, 3, 4, 5], out: 2, kernel: 1, ..PLAIN };
        let (mut numbers, gradient) = numbers(&case);
        numbers.x[7 * 3 + 1] = f64::NAN;
        let found = found::<bf16>(isa, &case, &numbers, &gradient, true);
        assert!(found.weight.iter().enumerate().all(|(i, x)| x.is_nan() == (i % 3 == 1)), "{isa}");
        assert!(found.x.iter().all(|x| x.is_finite()), "{isa}");
    }
}

#[test]
fn no_pictures_have_gradients_of_zero() {
    for isa in Isa::available() {
        for case in [CASES[1], CASES[5], CASES[12], CASES[15]] {
            let case = Case { shape: [0, case.shape[1], case.shape[2], case.shape[3]], ..case };
            let (numbers, gradient) = numbers(&case);
            let found = found::<f32>(isa, &case, &numbers, &gradient, true);
            assert!(found.x.is_empty() && found.weight.iter().chain(&found.bias).all(|x| *x == 0.0), "{isa}");
            assert!(found.of_norm.iter().flatten().flatten().all(|x| *x == 0.0), "{isa}");
        }
    }
}

#[test]
fn a_gathered_picture_is_the_formula() {
    for isa in Isa::available() {
        for case in CASES {
            let (numbers, _) = numbers(&case);
            let [_, channels, height, width] = case.shape;
            let x = narrow(&numbers.x);
            let strides = [height * width * channels, 1, width * channels, channels];
            let picture = Picture { values: Values::F32(&x), shape: case.shape, strides };
            let affine = [narrow(&numbers.norm_weight), narrow(&numbers.norm_bias)];
            let scales = case.groups.map(|groups| {
                group_statistics(isa, picture, groups, EPS as f32).scales_and_shifts([&affine[0], &affine[1]])
            });
            let normed = scales.as_ref().map(|[scale, shift]| ScaleShift { scale, shift });
            let how = Gather { normed, silu: case.silu, doubled: case.doubled };
            let mut out = vec![f32::NAN; doubled_len(&case)];
            crate::picture::gathered_picture(isa, picture, how, &mut out);
            assert_close(&out, &way(&case, &numbers).gathered, 3e-6, &format!("{isa} {case:?}"));
        }
    }
}
