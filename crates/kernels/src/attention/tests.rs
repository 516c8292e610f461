//! Every instruction set against a softmax in f64, over sizes that do not divide the blocks.

use half::bf16;

use super::*;
use crate::Isa;
use crate::product::{Output, Values};
use crate::testing::{assert_close, is_quick, values};

/// Sizes of one case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) width: usize,
}

impl Sizes {
    pub(super) fn are_quick(&self) -> bool {
        is_quick(self.batch * self.heads * self.queries * self.keys * self.width)
    }
}

pub(super) const SIZES: [Sizes; 9] = [
    Sizes { batch: 1, heads: 1, queries: 1, keys: 1, width: 8 },
    Sizes { batch: 1, heads: 2, queries: 5, keys: 33, width: 9 },
    Sizes { batch: 1, heads: 2, queries: 77, keys: 77, width: 64 },
    Sizes { batch: 2, heads: 3, queries: 33, keys: 257, width: 64 },
    Sizes { batch: 1, heads: 1, queries: 65, keys: 513, width: 16 },
    Sizes { batch: 2, heads: 1, queries: 7, keys: 333, width: 128 },
    Sizes { batch: 1, heads: 2, queries: 64, keys: 63, width: 40 },
    Sizes { batch: 1, heads: 1, queries: 3, keys: 1357, width: 7 },
    Sizes { batch: 0, heads: 1, queries: 3, keys: 5, width: 8 },
];

/// `[B, H, tokens, E]` to `[B, tokens, H * E]`, the softmax written out.
pub(super) fn reference(
    sizes: Sizes,
    [q, k, v]: [&[f32]; 3],
    scale: f64,
    bias: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let Sizes { batch, heads, queries, keys, width } = sizes;
    let mut out = vec![0.0; batch * queries * heads * width];
    for head in 0..batch * heads {
        for s in 0..queries {
            let score = |t: usize| {
                let (q, k) = (&q[(head * queries + s) * width..], &k[(head * keys + t) * width..]);
                scale * (0..width).map(|e| f64::from(q[e]) * f64::from(k[e])).sum::<f64>() + bias(head, s, t)
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let largest = scores.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
            let shares: Vec<f64> = scores.iter().map(|x| (x - largest).exp()).collect();
            let total: f64 = shares.iter().sum();
            for e in 0..width {
                let mixed = (0..keys).map(|t| shares[t] / total * f64::from(v[(head * keys + t) * width + e]));
                out[((head / heads * queries + s) * heads + head % heads) * width + e] = mixed.sum();
            }
        }
    }
    out
}

/// Heads one after the other.
pub(super) fn sequence<'a>(sizes: Sizes, tokens: usize, part: &'a [Part<'a>]) -> Sequence<'a> {
    assert_eq!(part.iter().map(|part| part.tokens).sum::<usize>(), tokens);
    Sequence { batch: sizes.batch, heads: sizes.heads, width: sizes.width, parts: part }
}

pub(super) fn part(values: &[f32], heads: usize, tokens: usize, width: usize) -> Part<'_> {
    Part { values: Values::F32(values), tokens, strides: [heads * tokens * width, tokens * width, width] }
}

fn run<T: Attended>(isa: Isa, sizes: Sizes, [q, k, v]: [&[f32]; 3], scale: f32, bias: Bias<'_>) -> Vec<f32> {
    let Sizes { batch, heads, queries, keys, width } = sizes;
    let (q, k, v) = ([part(q, heads, queries, width)], [part(k, heads, keys, width)], [part(v, heads, keys, width)]);
    let mut out = vec![f32::NAN; batch * queries * heads * width];
    let sequences = [sequence(sizes, queries, &q), sequence(sizes, keys, &k), sequence(sizes, keys, &v)];
    attention::<T>(
        isa,
        sequences,
        scale,
        bias,
        &mut [OutputPart { values: Output::F32(&mut out), tokens: queries }],
        None,
    );
    out
}

pub(super) fn inputs(sizes: Sizes, sharpness: f32) -> [Vec<f32>; 3] {
    let Sizes { batch, heads, queries, keys, width } = sizes;
    let mut q = values(1, batch * heads * queries * width);
    q.iter_mut().for_each(|x| *x *= sharpness);
    [q, values(2, batch * heads * keys * width), values(3, batch * heads * keys * width)]
}

#[test]
fn all_sizes_with_flat_and_sharp_scores() {
    for isa in Isa::available() {
        for sizes in SIZES.into_iter().filter(Sizes::are_quick) {
            for sharpness in [1.0, 60.0] {
                let [q, k, v] = inputs(sizes, sharpness);
                let expected = reference(sizes, [&q, &k, &v], 0.125, |_, _, _| 0.0);
                let case = format!("{isa} {sizes:?} sharpness {sharpness}");
                let found = run::<f32>(isa, sizes, [&q, &k, &v], 0.125, Bias::None);
                assert_close(&found, &expected, 5e-6 * f64::from(sharpness), &case);
                let rounded = run::<bf16>(isa, sizes, [&q, &k, &v], 0.125, Bias::None);
                assert_close(&rounded, &expected, 1e-2 * f64::from(sharpness).sqrt() * 2.0, &case);
            }
        }
    }
}

#[test]
fn causal_and_added_biases() {
    for isa in Isa::available() {
        for sizes in SIZES.into_iter().filter(Sizes::are_quick) {
            let [q, k, v] = inputs(sizes, 3.0);
            let Sizes { heads, queries, keys, .. } = sizes;
            let bias = values(4, heads * queries * keys);
            let added = |head: usize, s: usize, t: usize| f64::from(bias[(head % heads * queries + s) * keys + t]);
            let expected = reference(sizes, [&q, &k, &v], 1.0, added);
            let found = run::<f32>(isa, sizes, [&q, &k, &v], 1.0, Bias::Added(&bias));
            assert_close(&found, &expected, 2e-5, &format!("{isa} {sizes:?} added"));

            let causal = |_: usize, s: usize, t: usize| if t > s { f64::NEG_INFINITY } else { 0.0 };
            let expected = reference(sizes, [&q, &k, &v], 1.0, causal);
            let found = run::<f32>(isa, sizes, [&q, &k, &v], 1.0, Bias::Causal);
            assert_close(&found, &expected, 2e-5, &format!("{isa} {sizes:?} causal"));
        }
    }
}

/// Text and image tokens from tensors `[B, tokens, 3, H, E]`, as a product leaves them.
#[test]
fn joint_sequences_are_read_where_they_lie() {
    let (batch, heads, width) = (2, 3, 24);
    let tokens = if cfg!(miri) { [3, 5] } else { [45, 70] };
    let all = tokens.iter().sum::<usize>();
    let sizes = Sizes { batch, heads, queries: all, keys: all, width };
    let products = tokens.map(|tokens| values(tokens as u32, batch * tokens * 3 * heads * width));
    let pick = |which: usize| -> Vec<f32> {
        let mut out = Vec::new();
        for (batch, head) in (0..batch * heads).map(|i| (i / heads, i % heads)) {
            for (values, tokens) in products.iter().zip(tokens) {
                for token in 0..tokens {
                    let start = (((batch * tokens + token) * 3 + which) * heads + head) * width;
                    out.extend_from_slice(&values[start..][..width]);
                }
            }
        }
        out
    };
    let [q, k, v] = [pick(0), pick(1), pick(2)];
    for isa in Isa::available() {
        let expected = run::<f32>(isa, sizes, [&q, &k, &v], 0.2, Bias::None);
        let parts = [0, 1, 2].map(|which| {
            [0, 1].map(|part| Part {
                values: Values::F32(&products[part][which * heads * width..]),
                tokens: tokens[part],
                strides: [tokens[part] * 3 * heads * width, width, 3 * heads * width],
            })
        });
        let sequences = [0, 1, 2].map(|which| Sequence { batch, heads, width, parts: &parts[which] });
        let mut outs = tokens.map(|tokens| vec![0.0; batch * tokens * heads * width]);
        let [text, image] = &mut outs;
        attention::<f32>(
            isa,
            sequences,
            0.2,
            Bias::None,
            &mut [
                OutputPart { values: Output::F32(text), tokens: tokens[0] },
                OutputPart { values: Output::F32(image), tokens: tokens[1] },
            ],
            None,
        );
        let row = heads * width;
        let joined: Vec<f32> = (0..batch)
            .flat_map(|b| outs.iter().zip(tokens).flat_map(move |(out, n)| &out[b * n * row..][..n * row]))
            .copied()
            .collect();
        assert_eq!(joined, expected, "{isa}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn not_a_number_stays_in_its_row() {
    let sizes = Sizes { batch: 1, heads: 1, queries: 40, keys: 300, width: 16 };
    for isa in Isa::available() {
        let [mut q, k, v] = inputs(sizes, 1.0);
        q[5 * 16 + 3] = f32::NAN;
        for found in [
            run::<f32>(isa, sizes, [&q, &k, &v], 1.0, Bias::None),
            run::<bf16>(isa, sizes, [&q, &k, &v], 1.0, Bias::None),
        ] {
            assert!(found.iter().enumerate().all(|(i, x)| x.is_nan() == (i / 16 == 5)), "{isa}");
        }
    }
}
