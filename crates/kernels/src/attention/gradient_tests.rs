//! Every instruction set against the gradients' formulas in f64, and those against finite differences.

use half::bf16;

use super::tests::{Sizes, inputs, part, reference, sequence};
use super::*;
use crate::Isa;
use crate::product::{Output, Values};
use crate::testing::{assert_close, spoil_memory, values};

const SIZES: [Sizes; 10] = [
    Sizes { batch: 1, heads: 2, queries: 5, keys: 33, width: 9 },
    Sizes { batch: 1, heads: 1, queries: 1, keys: 1, width: 8 },
    Sizes { batch: 1, heads: 2, queries: 77, keys: 77, width: 64 },
    Sizes { batch: 2, heads: 3, queries: 33, keys: 257, width: 16 },
    Sizes { batch: 1, heads: 1, queries: 205, keys: 205, width: 40 },
    Sizes { batch: 2, heads: 1, queries: 7, keys: 333, width: 128 },
    Sizes { batch: 1, heads: 1, queries: 300, keys: 63, width: 7 },
    Sizes { batch: 2, heads: 1, queries: 129, keys: 513, width: 24 },
    Sizes { batch: 0, heads: 1, queries: 3, keys: 5, width: 8 },
    Sizes { batch: 1, heads: 1, queries: 0, keys: 5, width: 8 },
];

/// `[B, H, tokens, E]` each but the bias `[B, H, S, T]`.
struct Found {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    bias: Vec<f32>,
}

fn run<T: Attended>(
    isa: Isa,
    sizes: Sizes,
    [q, k, v]: [&[f32]; 3],
    scale: f32,
    bias: Bias<'_>,
    slope: &[f32],
) -> Found {
    let Sizes { batch, heads, queries, keys, width } = sizes;
    let parts = [[part(q, heads, queries, width)], [part(k, heads, keys, width)], [part(v, heads, keys, width)]];
    let sequences = [0, 1, 2].map(|i| sequence(sizes, parts[i][0].tokens, &parts[i]));
    let rows = batch * heads * queries;
    let (mut out, mut log_sums) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows]);
    let to = OutputPart { values: Output::F32(&mut out), tokens: queries };
    attention::<T>(isa, sequences, scale, bias, &mut [to], Some(&mut log_sums));

    let mixed = |values| Part { values, tokens: queries, strides: [queries * heads * width, width, heads * width] };
    let (out, slope) = ([mixed(Values::F32(&out))], [mixed(Values::F32(slope))]);
    let saved =
        Saved { out: sequence(sizes, queries, &out), gradient: sequence(sizes, queries, &slope), log_sums: &log_sums };
    let mut dq = vec![f32::NAN; q.len()];
    let mut rest = vec![f32::NAN; 2 * k.len()];
    let strides = |tokens: usize| [heads * tokens * width, tokens * width, width];
    let parts = vec![
        GradientPart {
            values: Output::F32(&mut dq),
            tokens: queries,
            strides: strides(queries),
            starts: [Some(0), None, None],
        },
        GradientPart {
            values: Output::F32(&mut rest),
            tokens: keys,
            strides: strides(keys),
            starts: [None, Some(0), Some(k.len())],
        },
    ];
    let mut biases = match bias {
        Bias::Added(bias) => vec![f32::NAN; bias.len()],
        Bias::None | Bias::Causal => Vec::new(),
    };
    let asked = (!biases.is_empty()).then_some(&mut biases[..]);
    attention_backward::<T>(isa, sequences, scale, bias, saved, &mut Gradients { parts, bias: asked });
    let v = rest.split_off(k.len());
    Found { q: dq, k: rest, v, bias: biases }
}

struct Expected {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    bias: Vec<f64>,
}

/// The formulas at the head of `backward.rs`, written out.
fn formulas(
    sizes: Sizes,
    [q, k, v]: [&[f32]; 3],
    scale: f64,
    bias: impl Fn(usize, usize, usize) -> f64,
    slope: &[f32],
) -> Expected {
    let Sizes { batch, heads, queries, keys, width } = sizes;
    let mut out = Expected {
        q: vec![0.0; q.len()],
        k: vec![0.0; k.len()],
        v: vec![0.0; v.len()],
        bias: vec![0.0; batch * heads * queries * keys],
    };
    for head in 0..batch * heads {
        for s in 0..queries {
            let q_at = (head * queries + s) * width;
            let slope = &slope[((head / heads * queries + s) * heads + head % heads) * width..][..width];
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let key = |t: usize| (head * keys + t) * width;
            let scores: Vec<f64> =
                (0..keys).map(|t| scale * dot(&q[q_at..][..width], &k[key(t)..][..width]) + bias(head, s, t)).collect();
            let largest = scores.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
            let total: f64 = scores.iter().map(|x| (x - largest).exp()).sum();
            let shares: Vec<f64> = scores.iter().map(|x| (x - largest).exp() / total).collect();
            let back: Vec<f64> = (0..keys).map(|t| dot(slope, &v[key(t)..][..width])).collect();
            let shared: f64 = shares.iter().zip(&back).map(|(p, d)| p * d).sum();
            for t in 0..keys {
                let score = shares[t] * (back[t] - shared);
                out.bias[(head * queries + s) * keys + t] = score;
                for e in 0..width {
                    out.v[key(t) + e] += shares[t] * f64::from(slope[e]);
                    out.q[q_at + e] += scale * score * f64::from(k[key(t) + e]);
                    out.k[key(t) + e] += scale * score * f64::from(q[q_at + e]);
                }
            }
        }
    }
    out
}

#[track_caller]
fn assert_gradients(found: &Found, expected: &Expected, relative: f64, case: &str) {
    for (name, found, expected) in
        [("q", &found.q, &expected.q), ("k", &found.k, &expected.k), ("v", &found.v, &expected.v)]
    {
        let largest = expected.iter().fold(0.2_f64, |m, x| m.max(x.abs()));
        assert_close(found, expected, relative * largest, &format!("{case}, {name}"));
    }
}

fn slope(sizes: Sizes) -> Vec<f32> {
    values(9, sizes.batch * sizes.queries * sizes.heads * sizes.width)
}

#[test]
fn gradients_of_all_sizes_with_flat_and_sharp_scores() {
    for isa in Isa::available() {
        for sizes in SIZES.into_iter().filter(Sizes::are_quick) {
            for sharpness in [1.0, 20.0] {
                let [q, k, v] = inputs(sizes, sharpness);
                let slope = slope(sizes);
                let expected = formulas(sizes, [&q, &k, &v], 0.3, |_, _, _| 0.0, &slope);
                let case = format!("{isa} {sizes:?} sharpness {sharpness}");
                let found = run::<f32>(isa, sizes, [&q, &k, &v], 0.3, Bias::None, &slope);
                assert_gradients(&found, &expected, 2e-6 * f64::from(sharpness), &case);
                let found = run::<bf16>(isa, sizes, [&q, &k, &v], 0.3, Bias::None, &slope);
                assert_gradients(&found, &expected, 2e-2 * f64::from(sharpness).sqrt(), &case);
            }
        }
    }
}

#[test]
fn gradients_under_causal_and_added_biases() {
    for isa in Isa::available() {
        for sizes in SIZES.into_iter().filter(Sizes::are_quick) {
            let [q, k, v] = inputs(sizes, 3.0);
            let slope = slope(sizes);
            let Sizes { batch, heads, queries, keys, .. } = sizes;
            let causal = |_: usize, s: usize, t: usize| if t > s { f64::NEG_INFINITY } else { 0.0 };
            let expected = formulas(sizes, [&q, &k, &v], 0.5, causal, &slope);
            let found = run::<f32>(isa, sizes, [&q, &k, &v], 0.5, Bias::Causal, &slope);
            assert_gradients(&found, &expected, 1e-5, &format!("{isa} {sizes:?} causal"));

            for shared in [heads, batch * heads] {
                let bias = values(4, shared * queries * keys);
                let at = |head: usize, s: usize, t: usize| (head % shared * queries + s) * keys + t;
                let added = |head: usize, s: usize, t: usize| f64::from(bias[at(head, s, t)]);
                let expected = formulas(sizes, [&q, &k, &v], 0.5, added, &slope);
                if bias.is_empty() {
                    continue;
                }
                let found = run::<f32>(isa, sizes, [&q, &k, &v], 0.5, Bias::Added(&bias), &slope);
                let case = format!("{isa} {sizes:?} added to {shared} heads");
                assert_gradients(&found, &expected, 1e-5, &case);
                let mut biases = vec![0.0; bias.len()];
                for (i, x) in expected.bias.iter().enumerate() {
                    biases[i % bias.len()] += x;
                }
                assert_close(&found.bias, &biases, 1e-5, &format!("{case}, bias"));
            }
        }
    }
}

/// The formulas that the kernels are held to are themselves the slopes of the forward's formula.
#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn the_formulas_are_finite_differences() {
    let sizes = Sizes { batch: 1, heads: 2, queries: 5, keys: 6, width: 4 };
    let [q, k, v] = inputs(sizes, 2.0);
    let slope = slope(sizes);
    let loss = |q: &[f32], k: &[f32], v: &[f32]| -> f64 {
        let out = reference(sizes, [q, k, v], 0.7, |_, _, _| 0.0);
        out.iter().zip(&slope).map(|(x, s)| x * f64::from(*s)).sum()
    };
    let exact = formulas(sizes, [&q, &k, &v], 0.7, |_, _, _| 0.0, &slope);
    // A step that f32 holds exactly, so that the difference is f64's.
    let step = 2.0_f32.powi(-7);
    for (which, gradient) in [&exact.q, &exact.k, &exact.v].into_iter().enumerate() {
        for (i, gradient) in gradient.iter().enumerate() {
            let at = |step: f32| {
                let mut inputs = [q.clone(), k.clone(), v.clone()];
                // Rounded to 12 bits, so that adding the step is exact.
                inputs.iter_mut().flatten().for_each(|x| *x = (*x * 4096.0).round() / 4096.0);
                inputs[which][i] += step;
                let [q, k, v] = inputs;
                loss(&q, &k, &v)
            };
            let difference = (at(step) - at(-step)) / (2.0 * f64::from(step));
            assert!((difference - gradient).abs() < 2e-3, "{which} {i}: {difference} and {gradient}");
        }
    }
}

/// Memory comes from earlier kernels with what they left in it.
#[test]
fn what_memory_held_before_reaches_no_gradient() {
    // Tiles of 6 rows and steps of 32 make 192 of 129 queries, which no step of 32 ends at.
    let sizes = Sizes { batch: 1, heads: 1, queries: 129, keys: 60, width: 24 };
    let [q, k, v] = inputs(sizes, 1.0);
    let slope = slope(sizes);
    let expected = formulas(sizes, [&q, &k, &v], 0.3, |_, _, _| 0.0, &slope);
    for isa in Isa::available() {
        spoil_memory();
        let found = run::<f32>(isa, sizes, [&q, &k, &v], 0.3, Bias::None, &slope);
        assert_gradients(&found, &expected, 2e-6, &isa.to_string());
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn gradients_do_not_depend_on_threads() {
    let sizes = Sizes { batch: 2, heads: 3, queries: 150, keys: 300, width: 64 };
    let [q, k, v] = inputs(sizes, 3.0);
    let (bias, slope) = (values(4, 3 * 150 * 300), slope(sizes));
    let found = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let found = pool.install(|| run::<bf16>(Isa::best(), sizes, [&q, &k, &v], 0.3, Bias::Added(&bias), &slope));
        [found.q, found.k, found.v, found.bias]
    });
    assert!(found[0] == found[1] && found[0] == found[2]);
}

#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn a_query_that_is_no_number_spoils_its_own_gradient_and_not_the_other_queries() {
    let sizes = Sizes { batch: 1, heads: 1, queries: 40, keys: 300, width: 16 };
    for isa in Isa::available() {
        let [mut q, k, v] = inputs(sizes, 1.0);
        q[5 * 16 + 3] = f32::NAN;
        let found = run::<bf16>(isa, sizes, [&q, &k, &v], 1.0, Bias::None, &slope(sizes));
        assert!(found.q.iter().enumerate().all(|(i, x)| x.is_nan() == (i / 16 == 5)), "{isa}");
        assert!(found.k.iter().chain(&found.v).all(|x| x.is_nan()), "{isa}: every key met it");
    }
}

/// Queries, keys and values of every head side by side, as one product makes them.
#[test]
fn gradients_go_where_the_strides_say() {
    let (batch, heads, tokens, width) = (2, 3, if cfg!(miri) { 5 } else { 45 }, 24);
    let sizes = Sizes { batch, heads, queries: tokens, keys: tokens, width };
    let [q, k, v] = inputs(sizes, 1.0);
    let slope = slope(sizes);
    let isa = Isa::best();
    let expected = run::<f32>(isa, sizes, [&q, &k, &v], 0.2, Bias::None, &slope);
    let parts = [&q, &k, &v].map(|x| [part(x, heads, tokens, width)]);
    let sequences = [0, 1, 2].map(|i| sequence(sizes, tokens, &parts[i]));
    let rows = batch * heads * tokens;
    let (mut out, mut log_sums) = (vec![0.0; rows * width], vec![0.0; rows]);
    let to = OutputPart { values: Output::F32(&mut out), tokens };
    attention::<f32>(isa, sequences, 0.2, Bias::None, &mut [to], Some(&mut log_sums));
    let mixed = |values| [Part { values, tokens, strides: [tokens * heads * width, width, heads * width] }];
    let (out, back) = (mixed(Values::F32(&out)), mixed(Values::F32(&slope)));
    let saved =
        Saved { out: sequence(sizes, tokens, &out), gradient: sequence(sizes, tokens, &back), log_sums: &log_sums };
    let mut together = vec![f32::NAN; 3 * q.len()];
    let row = 3 * heads * width;
    let part = GradientPart {
        values: Output::F32(&mut together),
        tokens,
        strides: [tokens * row, width, row],
        starts: [Some(0), Some(heads * width), Some(2 * heads * width)],
    };
    attention_backward::<f32>(isa, sequences, 0.2, Bias::None, saved, &mut Gradients { parts: vec![part], bias: None });
    for (i, found) in together.iter().enumerate() {
        let (token, role, head, e) = (i / row, i / (heads * width) % 3, i / width % heads, i % width);
        let from = [&expected.q, &expected.k, &expected.v][role];
        assert_eq!(*found, from[((token / tokens * heads + head) * tokens + token % tokens) * width + e]);
    }
}

/// Strides and starts of two heads of 8 over 3 tokens, in 200 places.
fn place(strides: [usize; 3], starts: [usize; 3]) {
    let sizes = Sizes { batch: 1, heads: 2, queries: 3, keys: 3, width: 8 };
    let [q, k, v] = inputs(sizes, 1.0);
    let parts = [&q, &k, &v].map(|x| [part(x, 2, 3, 8)]);
    let sequences = [0, 1, 2].map(|i| sequence(sizes, 3, &parts[i]));
    let mixed = [Part { values: Values::F32(&q), tokens: 3, strides: [48, 8, 16] }];
    let saved = Saved { out: sequence(sizes, 3, &mixed), gradient: sequence(sizes, 3, &mixed), log_sums: &[0.0; 6] };
    let mut values = vec![0.0; 200];
    let part = GradientPart { values: Output::F32(&mut values), tokens: 3, strides, starts: starts.map(Some) };
    let mut gradients = Gradients { parts: vec![part], bias: None };
    attention_backward::<f32>(Isa::best(), sequences, 1.0, Bias::None, saved, &mut gradients);
}

#[test]
fn gradients_that_would_lie_on_each_other_or_reach_too_far_are_refused() {
    place([0, 8, 16], [0, 48, 96]);
    for (strides, starts) in [
        ([0, 8, 16], [0, 8, 100]),
        ([0, 8, 16], [0, 48, 90]),
        ([0, 30, 60], [0, 10, 25]),
        ([0, 8, 16], [0, 48, 180]),
        ([0, 1 << 63, 16], [0, 48, 96]),
        ([0, 8, 1 << 63], [0, 48, 96]),
    ] {
        let refused = std::panic::catch_unwind(|| place(strides, starts));
        assert!(refused.is_err(), "{strides:?} {starts:?}");
    }
}

#[test]
fn an_attention_without_queries_and_keys_has_no_gradients() {
    let sizes = Sizes { batch: 2, heads: 2, queries: 0, keys: 0, width: 8 };
    let none = [part(&[], 2, 0, 8)];
    let tokens = sequence(sizes, 0, &none);
    let saved = Saved { out: tokens, gradient: tokens, log_sums: &[] };
    for isa in Isa::available() {
        let values = Output::F32(&mut []);
        let part = GradientPart { values, tokens: 0, strides: [0, 8, 16], starts: [Some(0), Some(8), Some(16)] };
        let mut gradients = Gradients { parts: vec![part], bias: None };
        attention_backward::<f32>(isa, [tokens; 3], 1.0, Bias::None, saved, &mut gradients);
    }
}
