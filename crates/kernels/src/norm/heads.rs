//! The RMS norms of queries and keys, where a product has left them beside their values.

use rayon::prelude::*;

use super::backward::back_one;
use crate::product::{Output, SharedOutput, Values, chunks, read_run};
use crate::vector::{add, multiply_add, vectorised};
use crate::{Buffer, Isa};

/// Queries, keys and values of tokens, `[tokens, 3, heads, width]` without gaps.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The numbers.
    pub values: Values<'a>,
    /// Of all batches.
    pub tokens: usize,
    /// Of a token.
    pub heads: usize,
    /// Of a head.
    pub width: usize,
}

impl Heads<'_> {
    /// Numbers of one token.
    fn row(&self) -> usize {
        3 * self.heads * self.width
    }

    fn check(&self, weights: [&[f32]; 2], out: &Output<'_>) {
        assert_eq!([self.values.len(), out.len()], [self.tokens * self.row(); 2], "values of {} tokens", self.tokens);
        assert_eq!(weights.map(<[f32]>::len), [self.width; 2], "weights of heads of {}", self.width);
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` for each head of the queries and of the keys; values stay as they are.
///
/// `weights` `[width]` for queries and keys. `out` has the shape of `heads`.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn heads_norm(isa: Isa, heads: Heads<'_>, eps: f32, weights: [&[f32]; 2], mut out: Output<'_>) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    heads.check(weights, &out);
    let (row, part) = (heads.row(), heads.heads * heads.width);
    let place = SharedOutput::of(&mut out);
    if row == 0 {
        return;
    }
    chunks(heads.tokens, heads.tokens).par_iter().for_each(|&(first, tokens)| {
        let mut values = Buffer::<f32>::reused(row);
        for token in first..first + tokens {
            read_run(isa, heads.values.after(token * row), &mut values);
            for (part, weight) in values.chunks_exact_mut(part).zip(weights) {
                norm_each(isa, part, weight, eps);
            }
            // SAFETY: the output has as many places, checked above, and a token is in one chunk only.
            unsafe { place.write(isa, token * row, &values) };
        }
    });
}

/// The gradients of [`heads_norm`] with the same arguments, from that of its result.
///
/// `out` becomes that of the heads, `weight_gradients` `[width]` those of the weights.
///
/// # Panics
/// As [`heads_norm`].
pub fn heads_norm_backward(
    isa: Isa,
    heads: Heads<'_>,
    eps: f32,
    weights: [&[f32]; 2],
    gradient: Values<'_>,
    mut out: Output<'_>,
    weight_gradients: [&mut [f32]; 2],
) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    heads.check(weights, &out);
    assert_eq!(gradient.len(), out.len(), "the gradient of {} tokens", heads.tokens);
    let (row, part, width) = (heads.row(), heads.heads * heads.width, heads.width);
    let [of_queries, of_keys] = weight_gradients;
    assert_eq!([of_queries.len(), of_keys.len()], [width; 2], "gradients of weights");
    of_queries.fill(0.0);
    of_keys.fill(0.0);
    if row == 0 {
        return;
    }
    let place = SharedOutput::of(&mut out);
    let chunks = chunks(heads.tokens, heads.tokens);
    let mut partial = Buffer::<f32>::zeroed(chunks.len() * 2 * width);
    let work = chunks.par_iter().zip(partial.par_chunks_mut(2 * width));
    work.for_each(|(&(first, tokens), partial)| {
        let [mut x, mut slope] = [(); 2].map(|()| Buffer::<f32>::reused(row));
        for token in first..first + tokens {
            read_run(isa, heads.values.after(token * row), &mut x);
            read_run(isa, gradient.after(token * row), &mut slope);
            let parts = slope.chunks_exact_mut(part).zip(x.chunks_exact_mut(part)).zip(weights);
            for (((slope, x), weight), sums) in parts.zip(partial.chunks_exact_mut(width)) {
                back_each(isa, slope, x, weight, eps, sums);
            }
            // SAFETY: the output has as many places, checked above, and a token is in one chunk only.
            unsafe { place.write(isa, token * row, &slope) };
        }
    });
    for partial in partial.chunks(2 * width) {
        add(isa, of_queries, &partial[..width]);
        add(isa, of_keys, &partial[width..]);
    }
}

vectorised! {
    fn norm_each(values: &mut [f32], weight: &[f32], eps: f32) {
        for head in values.chunks_exact_mut(weight.len()) {
            let inverse = inverse_deviation::<FMA>(head, eps);
            for (x, weight) in head.iter_mut().zip(weight) {
                *x *= inverse * weight;
            }
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn inverse_deviation<const FMA: bool>(head: &[f32], eps: f32) -> f32 {
    const STRANDS: usize = 16;
    let (whole, rest) = head.as_chunks::<STRANDS>();
    let mut strands = [0.0_f32; STRANDS];
    for values in whole {
        for (strand, x) in strands.iter_mut().zip(values) {
            *strand = multiply_add::<FMA>(*x, *x, *strand);
        }
    }
    let squares = strands.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
    1.0 / (squares / head.len() as f32 + eps).sqrt()
}

vectorised! {
    /// One part of a token: all its queries or all its keys. `x` is normed on the way.
    fn back_each(slope: &mut [f32], x: &mut [f32], weight: &[f32], eps: f32, sums: &mut [f32]) {
        let width = weight.len();
        for (slope, x) in slope.chunks_exact_mut(width).zip(x.chunks_exact_mut(width)) {
            let inverse = inverse_deviation::<FMA>(x, eps);
            for (((slope, x), weight), sum) in slope.iter_mut().zip(&mut *x).zip(weight).zip(&mut *sums) {
                *x *= inverse;
                *sum = multiply_add::<FMA>(*slope, *x, *sum);
                *slope *= weight;
            }
            back_one::<FMA>(slope, x, inverse, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Affine, Norm, NormGradients, Rows, norm, norm_backward};
    use super::*;
    use crate::testing::{assert_close, values};

    /// The norms of rows, tested against their formulas, are what these are made of.
    #[test]
    fn heads_are_normed_as_rows_are_and_so_are_their_gradients() {
        for isa in Isa::available() {
            for (tokens, heads, width) in [(1, 1, 1), (5, 3, 7), (70, 2, 64), (3, 2, 128), (0, 2, 8)] {
                if !crate::testing::is_quick(20 * tokens * heads * width) {
                    continue;
                }
                let count = tokens * 3 * heads * width;
                let (x, slope) = (values(1, count), values(2, count));
                let weights = [values(3, width), values(4, width)];
                let given = Heads { values: Values::F32(&x), tokens, heads, width };
                let weight = [&weights[0][..], &weights[1][..]];
                let mut out = vec![f32::NAN; count];
                heads_norm(isa, given, 1e-3, weight, Output::F32(&mut out));
                let mut back = vec![f32::NAN; count];
                let mut sums = [vec![f32::NAN; width], vec![f32::NAN; width]];
                let [of_queries, of_keys] = &mut sums;
                let gradient = Values::F32(&slope);
                heads_norm_backward(isa, given, 1e-3, weight, gradient, Output::F32(&mut back), [of_queries, of_keys]);
                for part in 0..3 {
                    let pick = |from: &[f32]| -> Vec<f32> {
                        from.chunks(heads * width).skip(part).step_by(3).flatten().copied().collect()
                    };
                    let [x, slope, out, back] = [&x, &slope, &out, &back].map(|from| pick(from));
                    if part == 2 {
                        assert_eq!((out, back), (x, slope));
                        continue;
                    }
                    let (values, count) = (Values::F32(&x), [1, tokens * heads]);
                    let rows = Rows { values, count, strides: [0, width], width };
                    let affine = Affine::Learned { weight: weight[part], bias: None };
                    let rms = Norm::Rms { eps: 1e-3 };
                    let mut expected = vec![0.0; x.len()];
                    norm(isa, rows, rms, affine, Output::F32(&mut expected));
                    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
                    assert_close(&out, &wide(&expected), 1e-5, &format!("{isa} {tokens} {heads} {width}"));
                    let mut weights = vec![0.0; width];
                    let rows_out = Output::F32(&mut expected);
                    let gradients = NormGradients { rows: rows_out, scale: Some(&mut weights), shift: None };
                    norm_backward(isa, rows, rms, affine, Values::F32(&slope), None, gradients);
                    let case = format!("{isa} {tokens} {heads} {width} backward");
                    let largest = expected.iter().fold(1.0_f32, |m, x| m.max(x.abs()));
                    assert_close(&back, &wide(&expected), 2e-5 * f64::from(largest), &case);
                    assert_close(&sums[part], &wide(&weights), 1e-4, &case);
                }
            }
        }
    }
}
