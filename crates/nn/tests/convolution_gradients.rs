//! Gradients of convolutions and group norms through the CPU's kernels, against Burn's own of the composed operations
//! and against finite differences of the formula in f64.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use rectiflow_nn::ops::{self, Apart, Before, GroupNormed, PackedWeight, Window, composed};
use rectiflow_nn::{DType, Device, Init, ParamSource, Precision, RandomInit, Tensor, from_f32, to_f32};

/// Reproducible values of deviation 1.
fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let read = RandomInit { seed: 3 }.claim(name, shape, Init::Normal(1.0));
    read().try_into_vec().unwrap()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f64], relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30_f64, |m, x| m.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / largest;
        assert!(error <= relative, "{what}: element {i}: {found} instead of {expected} (relative error {error:.1e})");
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    /// B, C, H, W.
    shape: [usize; 4],
    out: usize,
    kernel: usize,
    window: Window,
    groups: Option<usize>,
    silu: bool,
    doubled: bool,
    residual: bool,
}

const PLAIN: Case = Case {
    shape: [2, 6, 5, 7],
    out: 4,
    kernel: 3,
    window: Window::Same,
    groups: None,
    silu: false,
    doubled: false,
    residual: false,
};

const CASES: [Case; 10] = [
    PLAIN,
    Case { groups: Some(3), silu: true, residual: true, ..PLAIN },
    Case { groups: Some(2), ..PLAIN },
    Case { shape: [1, 20, 3, 33], out: 18, doubled: true, ..PLAIN },
    Case { silu: true, doubled: true, residual: true, ..PLAIN },
    Case { shape: [2, 17, 6, 8], window: Window::Halve, residual: true, ..PLAIN },
    Case { shape: [1, 3, 6, 8], out: 33, kernel: 2, window: Window::Patch, ..PLAIN },
    Case { shape: [1, 33, 1, 1], kernel: 1, ..PLAIN },
    Case { shape: [2, 3, 7, 8], kernel: 4, window: Window::Inside { stride: 2 }, residual: true, ..PLAIN },
    Case { shape: [1, 6, 7, 5], kernel: 4, window: Window::Inside { stride: 1 }, silu: true, ..PLAIN },
];

impl Case {
    fn result(&self) -> [usize; 4] {
        let [batch, _, height, width] = self.shape;
        let times = if self.doubled { 2 } else { 1 };
        let stride = match self.window {
            Window::Same => 1,
            Window::Halve => 2,
            Window::Patch => self.kernel,
            Window::Inside { stride } => {
                let windows = |size: usize| (size - self.kernel) / stride + 1;
                return [batch, self.out, windows(height), windows(width)];
            }
        };
        [batch, self.out, height * times / stride, width * times / stride]
    }
}

/// x, weight and bias of the norm, weight, bias, residual.
const NAMES: [&str; 6] = ["x", "norm weight", "norm bias", "weight", "bias", "residual"];

fn shapes(case: &Case) -> [Vec<usize>; 6] {
    let channels = case.shape[1];
    let weight = vec![case.out, channels, case.kernel, case.kernel];
    [case.shape.to_vec(), vec![channels], vec![channels], weight, vec![case.out], case.result().to_vec()]
}

/// Whether a case has the tensor of this place.
fn has(case: &Case, which: usize) -> bool {
    match which {
        1 | 2 => case.groups.is_some(),
        5 => case.residual,
        _ => true,
    }
}

/// A tensor's numbers as a leaf.
fn leaf<const D: usize>(values: &[f32], shape: &[usize], device: &Device) -> Tensor<D> {
    from_f32(values.to_vec(), shape.try_into().unwrap(), device)
}

/// The tensors of a case.
struct Inputs {
    x: Tensor<4>,
    norm: [Tensor<1>; 2],
    weight: Tensor<4>,
    bias: Tensor<1>,
    residual: Tensor<4>,
}

impl Inputs {
    fn new(case: &Case, device: &Device) -> Self {
        let shapes = shapes(case);
        let numbers: Vec<Vec<f32>> = NAMES.iter().zip(&shapes).map(|(name, shape)| values(name, shape)).collect();
        Inputs {
            x: leaf(&numbers[0], &shapes[0], device),
            norm: [1, 2].map(|i: usize| leaf(&numbers[i], &shapes[i], device)),
            weight: leaf(&numbers[3], &shapes[3], device),
            bias: leaf(&numbers[4], &shapes[4], device),
            residual: leaf(&numbers[5], &shapes[5], device),
        }
    }

    /// Those for which `learns` is true are tracked.
    fn tracked(self, learns: [bool; 6]) -> Self {
        fn track<const D: usize>(x: Tensor<D>, learns: bool) -> Tensor<D> {
            if learns { x.require_grad() } else { x }
        }
        let [norm_weight, norm_bias] = self.norm;
        Inputs {
            x: track(self.x, learns[0]),
            norm: [track(norm_weight, learns[1]), track(norm_bias, learns[2])],
            weight: track(self.weight, learns[3]),
            bias: track(self.bias, learns[4]),
            residual: track(self.residual, learns[5]),
        }
    }

    fn before(&self, case: &Case) -> Before {
        let [weight, bias] = self.norm.clone();
        let normed = case.groups.map(|groups| GroupNormed { groups, weight, bias, eps: 1e-3 });
        Before { normed, silu: case.silu, doubled: case.doubled, ..Before::default() }
    }

    fn residual(&self, case: &Case) -> Option<Tensor<4>> {
        case.residual.then(|| self.residual.clone())
    }

    /// By the kernels, where the device's operations are kernels.
    fn convolve(&self, case: &Case, precision: Precision) -> Tensor<4> {
        let weight = (self.weight.clone(), &PackedWeight::default());
        let (x, bias) = (self.x.clone(), self.bias.clone());
        ops::conv2d(x, self.before(case), weight, bias, case.window, self.residual(case), precision)
    }

    fn compose(&self, case: &Case, precision: Precision) -> Tensor<4> {
        let (x, weight, bias) = (self.x.clone(), self.weight.clone(), self.bias.clone());
        composed::conv2d(x, self.before(case), weight, bias, case.window, self.residual(case), precision)
    }

    /// Gradients of the sum of the result's products with numbers of its own.
    fn gradients(&self, result: Tensor<4>) -> [Option<Vec<f32>>; 6] {
        let shape = result.dims();
        let times: Tensor<4> = leaf(&values("times", &shape), &shape, &result.device());
        let grads = (result * times).sum().backward();
        let [norm_weight, norm_bias] = &self.norm;
        [
            self.x.grad(&grads).map(|x| to_f32(&x)),
            norm_weight.grad(&grads).map(|x| to_f32(&x)),
            norm_bias.grad(&grads).map(|x| to_f32(&x)),
            self.weight.grad(&grads).map(|x| to_f32(&x)),
            self.bias.grad(&grads).map(|x| to_f32(&x)),
            self.residual.grad(&grads).map(|x| to_f32(&x)),
        ]
    }
}

fn tracking() -> Device {
    Device::flex().autodiff()
}

#[test]
fn tracked_results_are_the_kernels_own() {
    for case in CASES {
        for precision in [Precision::F32, Precision::Bf16] {
            let plain = Inputs::new(&case, &Device::flex()).convolve(&case, precision);
            let tracked = Inputs::new(&case, &tracking()).tracked([true; 6]).convolve(&case, precision);
            let untracked = Inputs::new(&case, &tracking()).convolve(&case, precision);
            assert_eq!(to_f32(&plain), to_f32(&tracked), "{case:?} {precision}");
            assert_eq!(to_f32(&plain), to_f32(&untracked), "{case:?} {precision}");
        }
    }
}

#[test]
fn gradients_are_those_of_the_composed_operations() {
    for case in CASES {
        for (precision, relative) in [(Precision::F32, 2e-5), (Precision::Bf16, 3e-2)] {
            let inputs = || Inputs::new(&case, &tracking()).tracked([true; 6]);
            let (by_kernels, composed) = (inputs(), inputs());
            let found = by_kernels.gradients(by_kernels.convolve(&case, precision));
            let expected = composed.gradients(composed.compose(&case, precision));
            for (which, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                let name = format!("{} of {case:?} {precision}", NAMES[which]);
                assert_eq!(found.is_some(), has(&case, which), "{name}");
                if let (Some(found), Some(expected)) = (found, expected) {
                    assert_close(&found, &wide(&expected), relative, &name);
                }
            }
        }
    }
}

#[test]
fn bf16_gradients_are_rounded_ones() {
    let inputs = || Inputs::new(&PLAIN, &tracking()).tracked([true; 6]);
    let [full, rounded] = [Precision::F32, Precision::Bf16].map(|precision| {
        let inputs = inputs();
        inputs.gradients(inputs.convolve(&PLAIN, precision))
    });
    assert_ne!(full[0], rounded[0]);
    assert_ne!(full[3], rounded[3]);
    assert_eq!(full[4], rounded[4], "the bias is in no product");
}

/// The formula, for the six tensors of a case in f64.
fn formula(case: &Case, tensors: &[Vec<f64>; 6]) -> Vec<f64> {
    let [x, norm_weight, norm_bias, weight, bias, residual] = tensors;
    let [_, channels, height, width] = case.shape;
    let pixels = height * width;
    let mut way = x.clone();
    if let Some(groups) = case.groups {
        let group_len = channels / groups * pixels;
        for (index, group) in way.chunks_exact_mut(group_len).enumerate() {
            let mean = group.iter().sum::<f64>() / group_len as f64;
            let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / group_len as f64;
            for (i, x) in group.iter_mut().enumerate() {
                let c = index % groups * (channels / groups) + i / pixels;
                *x = (*x - mean) / (variance + 1e-3).sqrt() * norm_weight[c] + norm_bias[c];
            }
        }
    }
    if case.silu {
        way.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp());
    }
    let times = if case.doubled { 2 } else { 1 };
    let (stride, before) = match case.window {
        Window::Same => (1, case.kernel / 2),
        Window::Halve => (2, 0),
        Window::Patch => (case.kernel, 0),
        Window::Inside { stride } => (stride, 0),
    };
    let [batch, out, rows, columns] = case.result();
    (0..batch * out * rows * columns)
        .map(|place| {
            let (b, o) = (place / columns / rows / out, place / columns / rows % out);
            let (row, column) = (place / columns % rows, place % columns);
            let mut sum = bias[o] + if case.residual { residual[place] } else { 0.0 };
            for tap in 0..channels * case.kernel * case.kernel {
                let (c, i, j) = (tap / case.kernel / case.kernel, tap / case.kernel % case.kernel, tap % case.kernel);
                let (y, z) = ((row * stride + i).wrapping_sub(before), (column * stride + j).wrapping_sub(before));
                if y < height * times && z < width * times {
                    let pixel = way[((b * channels + c) * height + y / times) * width + z / times];
                    sum += pixel * weight[o * channels * case.kernel * case.kernel + tap];
                }
            }
            sum
        })
        .collect()
}

#[test]
fn gradients_are_finite_differences() {
    for case in CASES {
        let inputs = Inputs::new(&case, &tracking()).tracked([true; 6]);
        let result = inputs.convolve(&case, Precision::F32);
        let times = wide(&values("times", &result.dims()));
        let found = inputs.gradients(result);
        let mut tensors: [Vec<f64>; 6] = Default::default();
        for (which, shape) in shapes(&case).iter().enumerate() {
            tensors[which] = wide(&values(NAMES[which], shape));
        }
        let loss = |tensors: &[Vec<f64>; 6]| -> f64 {
            formula(&case, tensors).iter().zip(&times).map(|(y, times)| y * times).sum()
        };
        for which in (0..6).filter(|&which| has(&case, which)) {
            let found = found[which].as_ref().unwrap();
            // Some places of each, spread over the tensor.
            let places: Vec<usize> = (0..found.len()).step_by(found.len() / 11 + 1).collect();
            let differences: Vec<f64> = places
                .iter()
                .map(|&place| {
                    let at = |offset: f64| {
                        let mut moved = tensors.clone();
                        moved[which][place] += offset;
                        loss(&moved)
                    };
                    (at(1e-4) - at(-1e-4)) / 2e-4
                })
                .collect();
            let found: Vec<f32> = places.iter().map(|&place| found[place]).collect();
            assert_close(&found, &differences, 2e-5, &format!("{} of {case:?}", NAMES[which]));
        }
    }
}

/// Each tensor alone, so that nothing is kept or computed for another one.
#[test]
fn only_what_is_tracked_has_a_gradient() {
    for case in [CASES[1], CASES[4], CASES[5]] {
        let all = Inputs::new(&case, &tracking()).tracked([true; 6]);
        let all = all.gradients(all.convolve(&case, Precision::F32));
        for which in (0..6).filter(|&which| has(&case, which)) {
            let mut learns = [false; 6];
            learns[which] = true;
            let inputs = Inputs::new(&case, &tracking()).tracked(learns);
            let found = inputs.gradients(inputs.convolve(&case, Precision::F32));
            for other in 0..6 {
                assert_eq!(found[other].as_ref(), all[other].as_ref().filter(|_| other == which), "{which} {other}");
            }
        }
    }
}

#[test]
fn pictures_are_read_as_they_lie() {
    let case = Case { out: 6, residual: true, ..CASES[1] };
    // Channels last, and from the last line to the first.
    let ways: [fn(Tensor<4>) -> Tensor<4>; 2] = [
        |x| {
            let [batch, channels, height, width] = x.dims();
            // Row-major numbers of other axes, so that the order in memory is another one.
            x.reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
        },
        |x| x.flip([2]),
    ];
    for way in ways {
        let run = |convolve: fn(&Inputs, &Case, Precision) -> Tensor<4>| {
            let leaves = Inputs::new(&case, &tracking()).tracked([true; 6]);
            let moved = Inputs {
                x: way(leaves.x.clone()),
                residual: way(leaves.residual.clone()),
                norm: leaves.norm.clone(),
                weight: leaves.weight.clone(),
                bias: leaves.bias.clone(),
            };
            let result = convolve(&moved, &case, Precision::F32);
            (to_f32(&result), leaves.gradients(result.permute([0, 1, 3, 2])))
        };
        let (found, expected) = (run(Inputs::convolve), run(Inputs::compose));
        assert_close(&found.0, &wide(&expected.0), 1e-5, "result");
        for (which, (found, expected)) in found.1.into_iter().zip(expected.1).enumerate() {
            assert_close(&found.unwrap(), &wide(&expected.unwrap()), 2e-5, NAMES[which]);
        }
    }
}

/// A block of the autoencoder: the picture is what its own branch is added to.
#[test]
fn a_residual_that_is_the_picture_gets_both_gradients() {
    let case = Case { out: 6, ..CASES[1] };
    let run = |kernels: bool| {
        let mut inputs = Inputs::new(&case, &tracking()).tracked([true; 6]);
        inputs.residual = inputs.x.clone();
        let result =
            if kernels { inputs.convolve(&case, Precision::F32) } else { inputs.compose(&case, Precision::F32) };
        inputs.gradients(result)[0].clone().unwrap()
    };
    assert_close(&run(true), &wide(&run(false)), 2e-5, "x");
}

#[test]
fn a_narrow_weight_gets_a_narrow_gradient() {
    let mut inputs = Inputs::new(&PLAIN, &tracking());
    inputs.weight = inputs.weight.cast(DType::BF16).require_grad();
    let grads = inputs.convolve(&PLAIN, Precision::Bf16).sum().backward();
    assert_eq!(inputs.weight.grad(&grads).unwrap().dtype(), DType::BF16);
}

#[test]
fn a_group_norm_has_the_gradients_of_the_composed_one() {
    let case = Case { shape: [2, 12, 5, 7], groups: Some(3), ..PLAIN };
    let run = |device: &Device, norm: fn(Tensor<4>, GroupNormed) -> Tensor<4>| {
        let inputs = Inputs::new(&case, device).tracked([device.is_autodiff(); 6]);
        let result = norm(inputs.x.clone(), inputs.before(&case).normed.unwrap());
        (inputs, result)
    };
    let plain = to_f32(&run(&Device::flex(), ops::group_norm).1);
    let (by_kernels, result) = run(&tracking(), ops::group_norm);
    assert_eq!(plain, to_f32(&result));
    let (composed, expected) = run(&tracking(), composed::group_norm);
    assert_close(&plain, &wide(&to_f32(&expected)), 1e-5, "result");
    let (found, expected) = (by_kernels.gradients(result), composed.gradients(expected));
    for which in 0..3 {
        let expected = wide(expected[which].as_ref().unwrap());
        assert_close(found[which].as_ref().unwrap(), &expected, 2e-5, NAMES[which]);
    }
}

#[test]
fn no_picture_at_all_teaches_nothing() {
    let case = Case { shape: [0, 6, 4, 4], groups: Some(3), silu: true, residual: true, ..PLAIN };
    let inputs = Inputs::new(&case, &tracking()).tracked([true; 6]);
    let result = inputs.convolve(&case, Precision::Bf16);
    assert_eq!(result.dims(), [0, 4, 4, 4]);
    for (name, gradient) in NAMES.iter().zip(inputs.gradients(result)) {
        assert!(gradient.unwrap_or_default().iter().all(|x| *x == 0.0), "{name}");
    }
}

#[test]
fn a_depthwise_convolution_has_the_gradients_of_the_composed_one() {
    let border = [[1, 2], [2, 1]];
    for (kernel, stride) in [(3, 1), (5, 2)] {
        let run = |device: &Device, kernels: bool| {
            let leaf = |name: &str, shape: &[usize]| values(name, shape);
            let x = from_f32(leaf("x", &[2, 20, 6, 9]), [2, 20, 6, 9], device);
            let weight = from_f32(leaf("weight", &[20, 1, kernel, kernel]), [20, 1, kernel, kernel], device);
            let bias = from_f32(leaf("bias", &[20]), [20], device);
            let (x, weight, bias) = if device.is_autodiff() {
                (x.require_grad(), weight.require_grad(), bias.require_grad())
            } else {
                (x, weight, bias)
            };
            let convolve = if kernels { ops::depthwise_conv2d } else { composed::depthwise_conv2d };
            let result = convolve(x.clone(), weight.clone(), bias.clone(), Apart { stride, border });
            (x, weight, bias, result)
        };
        let plain = to_f32(&run(&Device::flex(), true).3);
        let (found, expected) = (run(&tracking(), true), run(&tracking(), false));
        assert_eq!(plain, to_f32(&found.3));
        assert_close(&plain, &wide(&to_f32(&expected.3)), 1e-5, "result");
        let gradients = |(x, weight, bias, result): (Tensor<4>, Tensor<4>, Tensor<1>, Tensor<4>)| {
            let times = from_f32(values("times", &result.dims()), result.dims(), &tracking());
            let found = (result * times).sum().backward();
            [
                to_f32(&x.grad(&found).unwrap()),
                to_f32(&weight.grad(&found).unwrap()),
                to_f32(&bias.grad(&found).unwrap()),
            ]
        };
        for (index, (found, expected)) in gradients(found).iter().zip(gradients(expected)).enumerate() {
            assert_close(found, &wide(&expected), 2e-5, ["x", "weight", "bias"][index]);
        }
    }
}

#[test]
fn a_border_is_zeros_whose_gradient_nobody_gets() {
    let x = from_f32((1..=4).map(|i| i as f32).collect(), [1, 1, 2, 2], &tracking()).require_grad();
    let bordered = ops::with_border(x.clone(), [[0, 1], [1, 0]]);
    assert_eq!(to_f32(&bordered), [0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0]);
    let times = from_f32((0..9).map(|i| i as f32).collect(), [1, 1, 3, 3], &tracking());
    assert_eq!(to_f32(&x.grad(&(bordered * times).sum().backward()).unwrap()), [1.0, 2.0, 4.0, 5.0]);
}

#[test]
fn bounds_stop_numbers_and_their_gradients() {
    let numbers = vec![-1.0, 0.0, 0.5, 5.9, 6.0, 7.0, f32::NAN, 3.0];
    let x = from_f32(numbers, [1, 2, 2, 2], &tracking()).require_grad();
    let result = ops::bounded(x.clone(), [0.0, 6.0]);
    let expected = [0.0, 0.0, 0.5, 5.9, 6.0, 6.0, f32::NAN, 3.0];
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&to_f32(&result)), bits(&expected));
    assert_eq!(bits(&to_f32(&ops::bounded(x.clone().inner(), [0.0, 6.0]))), bits(&expected));
    let times = from_f32((1..=8).map(|i| i as f32).collect(), [1, 2, 2, 2], &tracking());
    let gradient = x.grad(&(result * times).sum().backward()).unwrap();
    assert_eq!(to_f32(&gradient), [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 8.0]);
}
