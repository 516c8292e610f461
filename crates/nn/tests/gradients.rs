//! Gradients through the CPU's kernels, against those of the same formulas composed from Burn's operations.
//!
//! The kernels' own tests hold their backward to finite differences in f64; here it is the wiring: which gradient goes
//! to which input, in which shape and type, when only some inputs want one.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use rectiflow_nn::ops::{self, Activation, After, AttentionBias, PackedWeight, Qkv, Residual, composed};
use rectiflow_nn::{DType, Device, Init, ParamSource, Precision, RandomInit, Tensor, from_f32, to_f32};

fn tensor<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    let read = RandomInit { seed: 5 }.claim(name, &shape, Init::Normal(1.0));
    from_f32(read().try_into_vec().unwrap(), shape, &Device::flex().autodiff())
}

fn leaf<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    tensor(name, shape).require_grad()
}

/// A loss in which every element has a slope of its own.
fn loss<const D: usize>(y: Tensor<D>) -> Tensor<1> {
    let weights = tensor("loss", y.dims());
    (y.cast(DType::F32) * weights).sum()
}

#[track_caller]
fn assert_same<const D: usize>(name: &str, found: Option<Tensor<D>>, expected: Option<Tensor<D>>, relative: f64) {
    let (found, expected) = (found.expect(name), expected.expect(name));
    assert_eq!((found.dims(), found.dtype()), (expected.dims(), expected.dtype()), "{name}");
    let (found, expected) = (to_f32(&found), to_f32(&expected));
    let largest = expected.iter().fold(1e-3_f64, |m, x| m.max(f64::from(x.abs())));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = f64::from(found - expected).abs() / largest;
        assert!(error <= relative, "{name}, element {i}: {found} instead of {expected} (relative error {error:.1e})");
    }
}

/// The inputs of a linear layer, each wanting a gradient.
struct LinearInputs {
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    times: Tensor<3>,
    base: Tensor<3>,
    gate: Tensor<3>,
}

fn linear_inputs() -> LinearInputs {
    let [batch, length, width_in, width_out] = [2, 35, 23, 18];
    LinearInputs {
        x: leaf("x", [batch, length, width_in]),
        weight: leaf("w", [width_out, width_in]),
        bias: leaf("b", [width_out]),
        times: leaf("t", [batch, length, width_out]),
        base: leaf("r", [batch, length, width_out]),
        gate: leaf("g", [batch, 1, width_out]),
    }
}

fn check_linear(precision: Precision, out: DType, relative: f64) {
    const ACTIVATIONS: [Activation; 4] =
        [Activation::None, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu];
    for activation in ACTIVATIONS {
        for [with_times, with_residual, with_gate] in
            [[false, false, false], [true, false, false], [false, true, false], [false, true, true], [true, true, true]]
        {
            let run = |kernels: bool| {
                let given = linear_inputs();
                let gate = with_gate.then(|| given.gate.clone());
                let after = After {
                    activation,
                    times: with_times.then(|| given.times.clone()),
                    residual: with_residual.then(|| Residual { x: given.base.clone(), gate }),
                    out,
                };
                let (x, weight, bias) = (given.x.clone(), given.weight.clone(), Some(given.bias.clone()));
                let y = if kernels {
                    ops::linear(x, weight, &PackedWeight::default(), bias, after, precision)
                } else {
                    composed::linear(x, weight, bias, after, precision)
                };
                assert_eq!(y.dtype(), out);
                let gradients = loss(y).backward();
                (given, gradients)
            };
            let ((a, found), (b, expected)) = (run(true), run(false));
            let case = format!("{precision} {activation:?} {with_times} {with_residual} {with_gate}");
            assert_same(&format!("{case} x"), a.x.grad(&found), b.x.grad(&expected), relative);
            assert_same(&format!("{case} weight"), a.weight.grad(&found), b.weight.grad(&expected), relative);
            assert_same(&format!("{case} bias"), a.bias.grad(&found), b.bias.grad(&expected), relative);
            if with_times {
                assert_same(&format!("{case} times"), a.times.grad(&found), b.times.grad(&expected), relative);
            }
            if with_residual {
                assert_same(&format!("{case} base"), a.base.grad(&found), b.base.grad(&expected), relative);
            }
            if with_gate {
                assert_same(&format!("{case} gate"), a.gate.grad(&found), b.gate.grad(&expected), relative);
            }
        }
    }
}

#[test]
fn gradients_of_linear_layers() {
    check_linear(Precision::F32, DType::F32, 2e-5);
    check_linear(Precision::Bf16, DType::F32, 3e-2);
    check_linear(Precision::Bf16, DType::BF16, 3e-2);
}

/// As a frozen encoder before a trained layer, and as a frozen layer that gradients go through.
#[test]
fn inputs_that_want_no_gradient_get_none_and_others_theirs() {
    for [x_wants, weight_wants, bias_wants] in [[false, false, true], [true, false, false], [false, true, true]] {
        let run = |kernels: bool| {
            let given = linear_inputs();
            let pick = |wants: bool, x: Tensor<3>| if wants { x } else { x.detach() };
            let x = pick(x_wants, given.x.clone());
            let weight = if weight_wants { given.weight.clone() } else { given.weight.clone().detach() };
            let bias = Some(if bias_wants { given.bias.clone() } else { given.bias.clone().detach() });
            let after = After { activation: Activation::Silu, ..After::default() };
            let y = if kernels {
                ops::linear(x, weight, &PackedWeight::default(), bias, after, Precision::F32)
            } else {
                composed::linear(x, weight, bias, after, Precision::F32)
            };
            let gradients = loss(y).backward();
            (given.x.grad(&gradients), given.weight.grad(&gradients), given.bias.grad(&gradients))
        };
        let (found, expected) = (run(true), run(false));
        assert_eq!([found.0.is_some(), found.1.is_some(), found.2.is_some()], [x_wants, weight_wants, bias_wants]);
        if x_wants {
            assert_same("x", found.0, expected.0, 2e-5);
        }
        if weight_wants {
            assert_same("weight", found.1, expected.1, 2e-5);
        }
        if bias_wants {
            assert_same("bias", found.2, expected.2, 2e-5);
        }
    }
}

fn sum(losses: impl IntoIterator<Item = Tensor<1>>) -> Tensor<1> {
    losses.into_iter().reduce(|a, b| a + b).unwrap()
}

/// Two streams that one product made each, as MMDiT's blocks have them.
#[test]
fn gradients_of_a_joint_attention() {
    for (precision, relative) in [(Precision::F32, 1e-4), (Precision::Bf16, 4e-2)] {
        let run = |kernels: bool| {
            let streams = [leaf("text", [2, 21, 3, 2, 16]), leaf("image", [2, 37, 3, 2, 16])];
            let heads = streams.clone().map(|x| Qkv::Together(x.cast(precision.factor())));
            let mixed = if kernels {
                ops::attention(heads, 0.25, AttentionBias::None, precision)
            } else {
                composed::attention(heads, 0.25, AttentionBias::None, precision)
            };
            let gradients = sum(mixed.map(loss)).backward();
            streams.map(|stream| stream.grad(&gradients))
        };
        let ([text, image], [text_expected, image_expected]) = (run(true), run(false));
        assert_same("text", text, text_expected, relative);
        assert_same("image", image, image_expected, relative);
    }
}

/// Only one of two streams is read, as in MMDiT's last block.
#[test]
fn gradients_of_a_joint_attention_whose_text_nobody_reads() {
    let run = |kernels: bool| {
        let streams = [leaf("text", [1, 5, 3, 2, 8]), leaf("image", [1, 9, 3, 2, 8])];
        let heads = streams.clone().map(Qkv::Together);
        let [_, image] = if kernels {
            ops::attention(heads, 0.5, AttentionBias::None, Precision::F32)
        } else {
            composed::attention(heads, 0.5, AttentionBias::None, Precision::F32)
        };
        let gradients = loss(image).backward();
        streams.map(|stream| stream.grad(&gradients))
    };
    let ([text, image], [text_expected, image_expected]) = (run(true), run(false));
    assert_same("text", text, text_expected, 1e-4);
    assert_same("image", image, image_expected, 1e-4);
}

/// Queries, keys and values of their own, under each bias, and the bias's gradient: the text encoders.
#[test]
fn gradients_of_attention_apart_and_biased() {
    for (name, shared) in [("none", 0), ("causal", 0), ("added", 1), ("added", 2)] {
        let run = |kernels: bool| {
            let [q, k, v] = ["q", "k", "v"].map(|name| leaf(name, [2, 19, 3, 8]));
            let bias = leaf("bias", [shared.max(1), 3, 19, 19]);
            let how = match name {
                "none" => AttentionBias::None,
                "causal" => AttentionBias::Causal,
                _ => AttentionBias::Added(bias.clone()),
            };
            let stream = [Qkv::Apart { q: q.clone(), k: k.clone(), v: v.clone() }];
            let [mixed] = if kernels {
                ops::attention(stream, 0.35, how, Precision::F32)
            } else {
                composed::attention(stream, 0.35, how, Precision::F32)
            };
            let gradients = loss(mixed).backward();
            ([q, k, v].map(|x| x.grad(&gradients)), bias.grad(&gradients))
        };
        let ((found, bias), (expected, bias_expected)) = (run(true), run(false));
        for (role, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            assert_same(&format!("{name} {shared} {role}"), found, expected, 1e-4);
        }
        if name == "added" {
            assert_same(&format!("bias of {shared}"), bias, bias_expected, 1e-4);
        }
    }
}

/// As many queries as a picture has tokens, as many keys as its text: cross-attention. Two streams, so that the second's
/// gradients have their places behind the first's.
#[test]
fn gradients_of_attention_between_other_numbers_of_queries_and_keys() {
    for (precision, relative) in [(Precision::F32, 1e-4), (Precision::Bf16, 4e-2)] {
        let run = |kernels: bool| {
            let stream = |name: &str, queries, keys| {
                let leaf = |role: &str, length| leaf(&format!("{name} {role}"), [2, length, 3, 16]);
                [leaf("q", queries), leaf("k", keys), leaf("v", keys)]
            };
            let leaves = [stream("first", 37, 11), stream("second", 5, 70)];
            let streams = leaves.clone().map(|leaves| {
                let [q, k, v] = leaves.map(|x| x.cast(precision.factor()));
                Qkv::Apart { q, k, v }
            });
            let mixed = if kernels {
                ops::attention(streams, 0.25, AttentionBias::None, precision)
            } else {
                composed::attention(streams, 0.25, AttentionBias::None, precision)
            };
            assert_eq!(mixed.each_ref().map(|mixed| mixed.dims()), [[2, 37, 48], [2, 5, 48]]);
            let gradients = sum(mixed.map(loss)).backward();
            leaves.map(|leaves| leaves.map(|leaf| leaf.grad(&gradients)))
        };
        let (found, expected) = (run(true), run(false));
        for (role, (found, expected)) in found.into_iter().flatten().zip(expected.into_iter().flatten()).enumerate() {
            assert_same(&format!("{precision} {role}"), found, expected, relative);
        }
    }
}

#[test]
fn gradients_of_norms() {
    let run = |kernels: bool| {
        let x = leaf("x", [2, 70, 24]);
        let (shift, scale) = (leaf("shift", [2, 1, 24]), leaf("scale", [2, 1, 24]));
        let (weight, bias) = (leaf("weight", [24]), leaf("bias", [24]));
        let ys = if kernels {
            let [normed, again] = ops::modulated_norm(x.clone(), shift.clone(), scale.clone(), 1e-3, Precision::F32);
            [
                normed,
                again.square(),
                ops::layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-3, DType::F32),
                ops::rms_norm(x.clone(), weight.clone(), 1e-3, DType::F32),
            ]
        } else {
            [
                composed::modulated_norm(x.clone(), shift.clone(), scale.clone(), 1e-3),
                x.clone().square(),
                composed::plain_norm(x.clone(), 1e-3) * weight.clone().unsqueeze() + bias.clone().unsqueeze(),
                composed::rms_norm(x.clone(), weight.clone(), 1e-3),
            ]
        };
        let gradients = sum(ys.map(loss)).backward();
        let all = (x.grad(&gradients), shift.grad(&gradients), scale.grad(&gradients));
        (all, weight.grad(&gradients), bias.grad(&gradients))
    };
    let ((found, weight, bias), (expected, weight_expected, bias_expected)) = (run(true), run(false));
    assert_same("x", found.0, expected.0, 2e-5);
    assert_same("shift", found.1, expected.1, 2e-5);
    assert_same("scale", found.2, expected.2, 2e-5);
    assert_same("weight", weight, weight_expected, 2e-5);
    assert_same("bias", bias, bias_expected, 2e-5);
}

#[test]
fn gradients_of_the_norms_of_heads() {
    for (dtype, relative) in [(DType::F32, 2e-5), (DType::BF16, 3e-2)] {
        let run = |kernels: bool| {
            let heads = leaf("heads", [2, 11, 3, 4, 16]);
            let weights = [leaf("queries", [16]), leaf("keys", [16])];
            let given = heads.clone().cast(dtype);
            let normed = if kernels {
                ops::heads_norm(given, weights.clone(), 1e-3, dtype)
            } else {
                composed::heads_norm(given, weights.clone(), 1e-3).cast(dtype)
            };
            let gradients = loss(normed).backward();
            (heads.grad(&gradients), weights.map(|weight| weight.grad(&gradients)))
        };
        let ((found, [queries, keys]), (expected, [queries_expected, keys_expected])) = (run(true), run(false));
        assert_same("heads", found, expected, relative);
        assert_same("queries", queries, queries_expected, relative);
        assert_same("keys", keys, keys_expected, relative);
    }
}

/// Either of two results may be read alone.
#[test]
fn gradients_of_a_norm_of_which_one_result_is_read() {
    for read in [0, 1] {
        let run = |kernels: bool| {
            let x = leaf("x", [2, 7, 24]);
            let (shift, scale) = (leaf("shift", [2, 1, 24]), leaf("scale", [2, 1, 24]));
            let results = if kernels {
                ops::modulated_norm(x.clone(), shift.clone(), scale.clone(), 1e-3, Precision::F32)
            } else {
                [composed::modulated_norm(x.clone(), shift.clone(), scale.clone(), 1e-3), x.clone()]
            };
            let gradients = loss(results[read].clone()).backward();
            (x.grad(&gradients), shift.grad(&gradients))
        };
        let ((x, shift), (x_expected, shift_expected)) = (run(true), run(false));
        assert_same("x", x, x_expected, 2e-5);
        if read == 0 {
            assert_same("shift", shift, shift_expected, 2e-5);
        }
    }
}

/// Every subset of an operation's inputs may want gradients; each gets its own.
fn check_subsets<const N: usize>(name: &str, run: impl Fn([Tensor<4>; N], bool) -> Tensor<1>, leaves: [Tensor<4>; N]) {
    for wanted in 1..1_u32 << N {
        let gradients = [true, false].map(|kernels| {
            let mut index = 0;
            let inputs = leaves.clone().map(|leaf| {
                index += 1;
                leaf.detach().set_require_grad(wanted >> (index - 1) & 1 == 1)
            });
            let gradients = run(inputs.clone(), kernels).backward();
            inputs.map(|input| input.grad(&gradients))
        });
        let [found, expected] = gradients;
        for (index, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            let case = format!("{name}, wanted {wanted:b}, input {index}");
            assert_eq!(found.is_some(), wanted >> index & 1 == 1, "{case}");
            if found.is_some() {
                assert_same(&case, found, expected, 1e-4);
            }
        }
    }
}

#[test]
fn gradients_for_every_subset_of_the_inputs() {
    let of_attention = |[q, k, v, bias]: [Tensor<4>; 4], kernels: bool| {
        let (stream, bias) = ([Qkv::Apart { q, k, v }], AttentionBias::Added(bias));
        let [mixed] = if kernels {
            ops::attention(stream, 0.35, bias, Precision::F32)
        } else {
            composed::attention(stream, 0.35, bias, Precision::F32)
        };
        loss(mixed)
    };
    let [q, k, v] = ["q", "k", "v"].map(|name| leaf(name, [2, 5, 3, 8]));
    check_subsets("attention", of_attention, [q, k, v, leaf("bias", [1, 3, 5, 5])]);

    let of_norm = |[x, shift, scale]: [Tensor<4>; 3], kernels: bool| {
        let [x, shift, scale] = [x, shift, scale].map(|x| x.squeeze_dim::<3>(0));
        loss(if kernels {
            let [normed, again] = ops::modulated_norm(x, shift, scale, 1e-3, Precision::F32);
            normed + again
        } else {
            composed::modulated_norm(x.clone(), shift, scale, 1e-3) + x
        })
    };
    let [shift, scale] = ["shift", "scale"].map(|name| leaf(name, [1, 2, 1, 24]));
    check_subsets("norm", of_norm, [leaf("x", [1, 2, 7, 24]), shift, scale]);

    let of_heads = |[heads, queries, keys]: [Tensor<4>; 3], kernels: bool| {
        let heads = heads.reshape([2, 3, 3, 2, 8]);
        let weights = [queries, keys].map(|weight| weight.reshape([8]));
        loss(if kernels {
            ops::heads_norm(heads, weights, 1e-3, DType::F32)
        } else {
            composed::heads_norm(heads, weights, 1e-3)
        })
    };
    let weights = ["queries", "keys"].map(|name| leaf(name, [1, 1, 1, 8]));
    let [queries, keys] = weights;
    check_subsets("heads", of_heads, [leaf("heads", [2, 3, 6, 8]), queries, keys]);
}

/// A gradient has the type of its tensor, also of a weight in bf16 and of tokens in f16.
#[test]
fn gradients_have_the_types_of_their_tensors() {
    let x = leaf("x", [1, 5, 8]).cast(DType::F16).detach().require_grad();
    let weight = leaf("w", [6, 8]).cast(DType::BF16).detach().require_grad();
    let y = ops::linear(
        x.clone(),
        weight.clone(),
        &PackedWeight::default(),
        None,
        After { activation: Activation::Silu, ..After::default() },
        Precision::F32,
    );
    let gradients = loss(y).backward();
    let types = (x.grad(&gradients).unwrap().dtype(), weight.grad(&gradients).unwrap().dtype());
    assert_eq!(types, (DType::F16, DType::BF16));
}

/// Results that are put together share one gradient, of which each takes a part.
#[test]
fn a_gradient_may_be_a_part_of_a_longer_one() {
    let run = |kernels: bool| {
        let leaves = (leaf("x", [3, 8]), leaf("w", [6, 8]), leaf("b", [6]));
        let (x, weight, bias) = leaves.clone();
        let product = || {
            let (x, weight, bias) = (x.clone(), weight.clone(), Some(bias.clone()));
            if kernels {
                ops::linear(x, weight, &PackedWeight::default(), bias, After::default(), Precision::F32)
            } else {
                composed::linear(x, weight, bias, After::default(), Precision::F32)
            }
        };
        let gradients = loss(Tensor::cat(vec![product(), product() * 2.0, product()], 0)).backward();
        (leaves.0.grad(&gradients), leaves.1.grad(&gradients), leaves.2.grad(&gradients))
    };
    let (found, expected) = (run(true), run(false));
    assert_same("x", found.0, expected.0, 1e-5);
    assert_same("weight", found.1, expected.1, 1e-5);
    assert_same("bias", found.2, expected.2, 1e-5);
}
