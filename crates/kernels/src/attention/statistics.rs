use half::bf16;
use rayon::prelude::*;

use super::forward::{Attended, Bias, Call, Share, pack_rows};
use super::sequence::Sequence;
use super::tiles::{Factors, GAP, tiles};
use crate::product::{Kernel, Matrix, PANEL, PackedShape, STEP, bf16_kernel, f32_kernel, round};
use crate::vector::{exp, multiply_add, vectorised};
use crate::{Buffer, Isa};

/// How one head's queries look at the keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadStatistics {
    /// The largest scaled logit of all queries. Source: arXiv:2403.03206, figure 5, left.
    pub logit_max: f32,
    /// The mean over the queries of the softmax's entropy, in nats. Source: the same figure, right.
    pub entropy: f32,
}

/// Queries and keys that meet at once.
const QUERIES: usize = 96;
const KEYS: usize = 512;
const SUM_STRIDE: usize = KEYS + PANEL;

/// What [`super::attention`] of the same queries and keys does, in two numbers for each head of each batch, `[B * H]`.
///
/// A probe, run now and then: it computes the logits again. Logits are products of factors rounded to `T`. Without
/// queries, the maximum is minus infinity and the entropy 0. Results do not depend on the number of threads.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn attention_statistics<T: Attended>(
    isa: Isa,
    [query, key]: [Sequence<'_>; 2],
    scale: f32,
    bias: Bias<'_>,
) -> Vec<HeadStatistics> {
    assert!(query.width > 0, "heads without width");
    let call = Call::new(isa, [query, key, key], scale, bias);
    T::dispatch_statistics(&call)
}

pub(super) fn of_f32(call: &Call<'_>) -> Vec<HeadStatistics> {
    run(call, &f32_kernel(call.isa), None)
}

pub(super) fn of_bf16(call: &Call<'_>) -> Vec<HeadStatistics> {
    match bf16_kernel(call.isa) {
        Some(kernel) => run::<bf16>(call, &kernel, None),
        None => run::<f32>(call, &f32_kernel(call.isa), Some(round)),
    }
}

fn run<T: Share>(call: &Call<'_>, kernel: &Kernel<T>, adjust: Option<fn(Isa, &mut [T])>) -> Vec<HeadStatistics> {
    let heads = call.query.batch * call.query.heads;
    (0..heads)
        .into_par_iter()
        .map(|index| {
            #[cfg(target_arch = "x86_64")]
            let _tiles = kernel.tiles.then(crate::tiles::Tiles::configure);
            head(call, kernel, adjust, index)
        })
        .collect()
}

fn head<T: Share>(
    call: &Call<'_>,
    kernel: &Kernel<T>,
    adjust: Option<fn(Isa, &mut [T])>,
    index: usize,
) -> HeadStatistics {
    let (isa, place) = (call.isa, [index / call.query.heads, index % call.query.heads]);
    let (queries, keys) = (call.query.tokens(), call.key.tokens());
    let shape = PackedShape { columns: keys, inner: call.query.width };
    let stride = shape.padded_inner() + GAP;
    let gather = |sequence: &Sequence<'_>, first: usize, tokens: usize| {
        let mut rows = Buffer::<T>::reused(tokens * stride);
        sequence.gather(isa, place, first, stride, &mut rows);
        if let Some(adjust) = adjust {
            adjust(isa, &mut rows);
        }
        rows
    };
    let rows = gather(&call.key, 0, keys);
    let mut packed = Buffer::<T>::reused(shape.len());
    pack_rows(isa, &Matrix::strided(T::values(&rows), [keys, shape.inner], [stride, 1]), shape, &mut packed);

    let rows = QUERIES.next_multiple_of(kernel.rows);
    let mut scores = Buffer::<f32>::reused(rows * SUM_STRIDE);
    let (mut logit_max, mut entropies) = (f32::NEG_INFINITY, 0.0_f64);
    for first in (0..queries).step_by(QUERIES) {
        let a = gather(&call.query, first, rows);
        let mut states = [Row::default(); QUERIES];
        let count = QUERIES.min(queries - first);
        for key in (0..keys).step_by(KEYS) {
            let seen = KEYS.min(keys - key);
            let factors = Factors {
                a: &a,
                a_stride: stride,
                b: &packed,
                first_panel: key / PANEL,
                panels: seen.div_ceil(PANEL),
                panel_stride: shape.panel_len(),
                start: 0,
                inner: shape.padded_inner(),
                accumulate: false,
            };
            // SAFETY: `Call::new` checked the instruction set, and `run` configured tiles where the kernel needs them.
            unsafe { tiles(kernel, rows, &factors, &mut scores, SUM_STRIDE) };
            for (row, state) in states.iter_mut().enumerate().take(count) {
                let scores = &mut scores[row * SUM_STRIDE..][..seen];
                let seen = biased(call, index, first + row, key, scores);
                *state = look(isa, &scores[..seen], *state);
            }
        }
        for state in &states[..count] {
            logit_max = if state.maximum > logit_max || state.maximum.is_nan() { state.maximum } else { logit_max };
            entropies += f64::from(state.sum.ln() - state.weighted / state.sum);
        }
    }
    HeadStatistics { logit_max, entropy: (entropies / queries.max(1) as f64) as f32 }
}

/// Scales a row's scores and adds its bias. Returns how many of them the query sees.
fn biased(call: &Call<'_>, head: usize, query: usize, key: usize, scores: &mut [f32]) -> usize {
    match call.bias {
        Bias::None => scale_all(call.isa, scores, call.scale),
        Bias::Causal => {
            scale_all(call.isa, scores, call.scale);
            return scores.len().min((query + 1).saturating_sub(key));
        }
        Bias::Added(bias) => {
            let bias = &bias[call.bias_row(bias.len(), head, query) + key..][..scores.len()];
            for (score, bias) in scores.iter_mut().zip(bias) {
                *score = *score * call.scale + bias;
            }
        }
    }
    scores.len()
}

/// A softmax's row so far: with `d` a logit less the maximum, the sums of `e^d` and of `d e^d`.
#[derive(Clone, Copy)]
struct Row {
    maximum: f32,
    sum: f32,
    weighted: f32,
}

impl Default for Row {
    fn default() -> Self {
        Row { maximum: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0 }
    }
}

vectorised! {
    fn scale_all(scores: &mut [f32], scale: f32) {
        for score in scores {
            *score *= scale;
        }
    }
}

vectorised! {
    fn look(logits: &[f32], row: Row) -> Row {
        let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
        let maximum = logits.iter().fold(row.maximum, |a, b| larger(a, *b));
        if maximum == f32::NEG_INFINITY {
            return row;
        }
        const STRANDS: usize = STEP;
        let mut sums = [[0.0_f32; STRANDS]; 2];
        for logits in logits.chunks(STRANDS) {
            for (strand, logit) in logits.iter().enumerate() {
                let below = logit - maximum;
                let share = exp::<FMA>(below);
                sums[0][strand] += share;
                // A logit of minus infinity has no share, and 0 times infinity would be no number.
                let weighted = if share > 0.0 || share.is_nan() { share * below } else { 0.0 };
                sums[1][strand] += weighted;
            }
        }
        let [sum, weighted] = sums.map(|sums| sums.iter().sum::<f32>());
        if row.sum == 0.0 {
            return Row { maximum, sum, weighted };
        }
        // The logits before are further below the new maximum, by this much.
        let below = row.maximum - maximum;
        let rescale = exp::<FMA>(below);
        let before = rescale * multiply_add::<FMA>(row.sum, below, row.weighted);
        Row { maximum, sum: multiply_add::<FMA>(row.sum, rescale, sum), weighted: before + weighted }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Sizes, inputs, part, sequence};
    use super::*;
    use crate::testing::values;

    const SIZES: [Sizes; 4] = [
        Sizes { batch: 1, heads: 1, queries: 1, keys: 1, width: 8 },
        Sizes { batch: 2, heads: 3, queries: 77, keys: 77, width: 16 },
        Sizes { batch: 1, heads: 2, queries: 205, keys: 1357, width: 64 },
        Sizes { batch: 1, heads: 1, queries: 0, keys: 5, width: 8 },
    ];

    /// One head's logits in f64.
    fn expected(sizes: Sizes, head: usize, [q, k]: [&[f32]; 2], logit: impl Fn(f64, usize, usize) -> f64) -> [f64; 2] {
        let Sizes { queries, keys, width, .. } = sizes;
        let (mut largest, mut entropy) = (f64::NEG_INFINITY, 0.0);
        for s in 0..queries {
            let logits: Vec<f64> = (0..keys)
                .map(|t| {
                    let (q, k) = (&q[(head * queries + s) * width..], &k[(head * keys + t) * width..]);
                    logit((0..width).map(|e| f64::from(q[e]) * f64::from(k[e])).sum(), s, t)
                })
                .collect();
            let most = logits.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
            let total: f64 = logits.iter().map(|x| (x - most).exp()).sum();
            let shares = logits.iter().map(|x| (x - most).exp() / total);
            entropy -= shares.map(|p| if p > 0.0 { p * p.ln() } else { 0.0 }).sum::<f64>();
            largest = largest.max(most);
        }
        [largest, entropy / queries.max(1) as f64]
    }

    #[test]
    fn maxima_and_entropies_are_those_of_the_softmax() {
        for isa in Isa::available() {
            for sizes in SIZES {
                for sharpness in [1.0, 30.0] {
                    let [q, k, _] = inputs(sizes, sharpness);
                    let Sizes { batch, heads, queries, keys, width } = sizes;
                    let parts = [[part(&q, heads, queries, width)], [part(&k, heads, keys, width)]];
                    let given = [sequence(sizes, queries, &parts[0]), sequence(sizes, keys, &parts[1])];
                    let bias = values(6, batch * heads * queries * keys);
                    for (name, how) in [("none", Bias::None), ("causal", Bias::Causal), ("added", Bias::Added(&bias))] {
                        let found = attention_statistics::<f32>(isa, given, 0.2, how);
                        let rounded = attention_statistics::<bf16>(isa, given, 0.2, how);
                        assert_eq!(found.len(), batch * heads);
                        for (head, (found, rounded)) in found.into_iter().zip(rounded).enumerate() {
                            let logit = |x: f64, s: usize, t: usize| match name {
                                "causal" if t > s => f64::NEG_INFINITY,
                                "added" => 0.2 * x + f64::from(bias[(head * queries + s) * keys + t]),
                                _ => 0.2 * x,
                            };
                            let [largest, entropy] = expected(sizes, head, [&q, &k], logit);
                            let case = format!("{isa} {sizes:?} {sharpness} {name}: {found:?}, {largest} {entropy}");
                            let near = |x: f32, exact: f64, tolerance: f64| {
                                f64::from(x) == exact || (f64::from(x) - exact).abs() < tolerance
                            };
                            assert!(near(found.logit_max, largest, 1e-4), "{case}");
                            assert!(near(found.entropy, entropy, 1e-4), "{case}");
                            assert!(
                                near(rounded.logit_max, largest, 0.01 * f64::from(sharpness)),
                                "{case} {rounded:?}"
                            );
                            assert!(near(rounded.entropy, entropy, 0.01 * f64::from(sharpness)), "{case} {rounded:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_query_that_is_no_number_is_seen() {
        let sizes = Sizes { batch: 1, heads: 1, queries: 9, keys: 40, width: 8 };
        let [mut q, k, _] = inputs(sizes, 1.0);
        q[20] = f32::NAN;
        let parts = [[part(&q, 1, 9, 8)], [part(&k, 1, 40, 8)]];
        let given = [sequence(sizes, 9, &parts[0]), sequence(sizes, 40, &parts[1])];
        for isa in Isa::available() {
            let [found] = attention_statistics::<f32>(isa, given, 1.0, Bias::None)[..] else { panic!("one head") };
            assert!(found.logit_max.is_nan() && found.entropy.is_nan(), "{isa}: {found:?}");
        }
    }
}
