//! Norms of rows, and what a transformer does to normed rows.
//!
//! Rows are independent: each is read once from memory and written once.

mod backward;
mod heads;

use rayon::prelude::*;

use crate::product::{Output, Packed, Values, read_run};
use crate::vector::{multiply_add, vectorised};
use crate::{Buffer, Isa};

pub use backward::{NormGradients, norm_backward};
pub use heads::{Heads, heads_norm, heads_norm_backward};

/// Rows of equal width, anywhere in memory: `count[0] * count[1]` of them, `strides` apart along either axis.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The first value is the first row's first.
    pub values: Values<'a>,
    /// Rows along the outer and the inner axis.
    pub count: [usize; 2],
    /// Values from a row to the next along either axis.
    pub strides: [usize; 2],
    /// Values in a row, side by side.
    pub width: usize,
}

/// What is done to a row of mean 0 and variance 1, or of mean square 1.
#[derive(Clone, Copy, Debug)]
pub enum Affine<'a> {
    /// Nothing.
    None,
    /// `x * weight + bias`, the same for all rows.
    Learned {
        /// `[width]`.
        weight: &'a [f32],
        /// `[width]`.
        bias: Option<&'a [f32]>,
    },
    /// `x * (1 + scale) + shift`, for each outer index its own: adaLN.
    Modulated {
        /// `[count[0], width]`.
        shift: &'a [f32],
        /// `[count[0], width]`.
        scale: &'a [f32],
    },
}

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// `(x - mean) / sqrt(variance + eps)`.
    Layer {
        /// Added to the variance.
        eps: f32,
    },
    /// `x / sqrt(mean of squares + eps)`.
    Rms {
        /// Added to the mean of squares.
        eps: f32,
    },
}

impl Rows<'_> {
    /// Where a row begins; rows are counted along the inner axis first.
    fn start(&self, row: usize) -> usize {
        row / self.count[1] * self.strides[0] + row % self.count[1] * self.strides[1]
    }

    /// Panics unless there are values for every row.
    fn check(&self) {
        if self.count[0] * self.count[1] * self.width > 0 {
            let end = self.start(self.count[0] * self.count[1] - 1) + self.width;
            assert!(self.values.len() >= end, "{} values for rows that reach {end}", self.values.len());
        }
    }
}

impl Affine<'_> {
    /// Panics unless it fits rows of `width` in `outer` groups.
    fn check(&self, outer: usize, width: usize) {
        match self {
            Affine::None => {}
            Affine::Learned { weight, bias } => {
                assert_eq!(weight.len(), width, "weights of rows of {width}");
                assert!(bias.is_none_or(|bias| bias.len() == width), "biases of rows of {width}");
            }
            Affine::Modulated { shift, scale } => {
                assert_eq!([shift.len(), scale.len()], [outer * width; 2], "modulations of {outer} groups");
            }
        }
    }
}

/// The mean that a norm takes away, and what it multiplies with.
fn statistics(isa: Isa, row: &[f32], norm: Norm) -> (f32, f32) {
    let width = row.len() as f32;
    match norm {
        Norm::Layer { eps } => {
            let mean = sum(isa, row) / width;
            (mean, 1.0 / (sum_of_squares(isa, row, mean) / width + eps).sqrt())
        }
        Norm::Rms { eps } => (0.0, 1.0 / (sum_of_squares(isa, row, 0.0) / width + eps).sqrt()),
    }
}

/// Norms every row. `out` is `[count[0], count[1], width]`, without gaps.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn norm(isa: Isa, rows: Rows<'_>, norm: Norm, affine: Affine<'_>, out: Output<'_>) {
    let Rows { count, width, .. } = rows;
    assert_eq!(out.len(), count[0] * count[1] * width, "values of normed rows");
    rows.check();
    affine.check(count[0], width);
    if out.len() == 0 {
        return;
    }
    match out {
        Output::F32(out) => run(isa, rows, norm, affine, out),
        Output::Bf16(out) => run(isa, rows, norm, affine, out),
    }
}

/// Rows that a thread takes at once.
const ROWS_AT_ONCE: usize = 16;

fn run<T: Packed>(isa: Isa, rows: Rows<'_>, norm: Norm, affine: Affine<'_>, out: &mut [T]) {
    let Rows { count, width, .. } = rows;
    out.par_chunks_mut(ROWS_AT_ONCE * width).enumerate().for_each(|(chunk, out)| {
        let mut wide = Buffer::<f32>::reused(width);
        for (index, out) in out.chunks_exact_mut(width).enumerate() {
            let row = chunk * ROWS_AT_ONCE + index;
            let outer = row / count[1];
            let wide = &mut wide[..];
            read_run(isa, rows.values.after(rows.start(row)), wide);
            let (mean, inverse) = statistics(isa, wide, norm);
            match affine {
                Affine::None => plain(isa, wide, mean, inverse, out),
                Affine::Learned { weight, bias: None } => scaled(isa, wide, mean, inverse, weight, out),
                Affine::Learned { weight, bias: Some(bias) } => {
                    learned(isa, wide, mean, inverse, weight, bias, out);
                }
                Affine::Modulated { shift, scale } => {
                    let (shift, scale) = (&shift[outer * width..][..width], &scale[outer * width..][..width]);
                    modulated(isa, wide, mean, inverse, scale, shift, out);
                }
            }
        }
    });
}

/// Sums run in this many strands, so that they vectorise and do not wait for each other.
const STRANDS: usize = 64;

vectorised! {
    fn sum(values: &[f32]) -> f32 {
        let (whole, rest) = values.as_chunks::<STRANDS>();
        let mut strands = [0.0_f32; STRANDS];
        for values in whole {
            for (strand, x) in strands.iter_mut().zip(values) {
                *strand += x;
            }
        }
        strands.iter().sum::<f32>() + rest.iter().sum::<f32>()
    }
}

vectorised! {
    fn sum_of_squares(values: &[f32], mean: f32) -> f32 {
        let (whole, rest) = values.as_chunks::<STRANDS>();
        let mut strands = [0.0_f32; STRANDS];
        for values in whole {
            for (strand, x) in strands.iter_mut().zip(values) {
                *strand = multiply_add::<FMA>(x - mean, x - mean, *strand);
            }
        }
        strands.iter().sum::<f32>() + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>()
    }
}

vectorised! {
    fn plain<T: Packed>(values: &[f32], mean: f32, inverse: f32, out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(values) {
            *out = T::from_f32((x - mean) * inverse);
        }
    }
}

vectorised! {
    fn scaled<T: Packed>(values: &[f32], mean: f32, inverse: f32, weight: &[f32], out: &mut [T]) {
        for ((out, x), weight) in out.iter_mut().zip(values).zip(weight) {
            *out = T::from_f32((x - mean) * inverse * weight);
        }
    }
}

vectorised! {
    fn learned<T: Packed>(values: &[f32], mean: f32, inverse: f32, weight: &[f32], bias: &[f32], out: &mut [T]) {
        for (((out, x), weight), bias) in out.iter_mut().zip(values).zip(weight).zip(bias) {
            *out = T::from_f32(multiply_add::<FMA>((x - mean) * inverse, *weight, *bias));
        }
    }
}

vectorised! {
    fn modulated<T: Packed>(values: &[f32], mean: f32, inverse: f32, scale: &[f32], shift: &[f32], out: &mut [T]) {
        for (((out, x), scale), shift) in out.iter_mut().zip(values).zip(scale).zip(shift) {
            *out = T::from_f32(multiply_add::<FMA>((x - mean) * inverse, 1.0 + scale, *shift));
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn values(seed: u32, count: usize) -> Vec<f32> {
        (0..count as u32).map(|i| ((i.wrapping_add(seed) * 7919) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    /// Rows inside wider ones, every affine form, against f64.
    #[test]
    fn norms_are_their_formulas_for_all_widths() {
        for isa in Isa::available() {
            let widths = if cfg!(miri) { &[1, 65][..] } else { &[1, 7, 63, 64, 65, 77, 333, 1536] };
            for &width in widths {
                let (count, strides) = ([2, 19], [20 * (width + 3), width + 3]);
                let x = values(1, 2 * strides[0]);
                let rows = Rows { values: Values::F32(&x), count, strides, width };
                let (weight, bias) = (values(2, width), values(3, width));
                let (shift, scale) = (values(4, 2 * width), values(5, 2 * width));
                let forms = [
                    Affine::None,
                    Affine::Learned { weight: &weight, bias: None },
                    Affine::Learned { weight: &weight, bias: Some(&bias) },
                    Affine::Modulated { shift: &shift, scale: &scale },
                ];
                for (form, which) in forms
                    .into_iter()
                    .flat_map(|form| [Norm::Layer { eps: 1e-3 }, Norm::Rms { eps: 1e-3 }].map(|which| (form, which)))
                {
                    let mut out = vec![f32::NAN; 2 * 19 * width];
                    norm(isa, rows, which, form, Output::F32(&mut out));
                    for (i, found) in out.iter().enumerate() {
                        let (outer, inner, column) = (i / width / 19, i / width % 19, i % width);
                        let row = &x[outer * strides[0] + inner * strides[1]..][..width];
                        let expected = formula(row, which, form, outer, column);
                        assert!((f64::from(*found) - expected).abs() < 2e-5, "{isa} {width} {which:?} {form:?}: {i}");
                    }
                    let mut rounded = vec![bf16::ZERO; out.len()];
                    norm(isa, rows, which, form, Output::Bf16(&mut rounded));
                    assert!(rounded.iter().zip(&out).all(|(a, b)| *a == bf16::from_f32(*b)));
                }
            }
        }
    }

    fn formula(row: &[f32], which: Norm, form: Affine<'_>, outer: usize, column: usize) -> f64 {
        let width = row.len();
        let mean_of = |f: &dyn Fn(f64) -> f64| row.iter().map(|&x| f(f64::from(x))).sum::<f64>() / width as f64;
        let (mean, eps) = match which {
            Norm::Layer { eps } => (mean_of(&|x| x), eps),
            Norm::Rms { eps } => (0.0, eps),
        };
        let normed = (f64::from(row[column]) - mean) / (mean_of(&|x| (x - mean).powi(2)) + f64::from(eps)).sqrt();
        let at = |values: &[f32], i: usize| f64::from(values[i]);
        match form {
            Affine::None => normed,
            Affine::Learned { weight, bias } => normed * at(weight, column) + bias.map_or(0.0, |b| at(b, column)),
            Affine::Modulated { shift, scale } => {
                normed * (1.0 + at(scale, outer * width + column)) + at(shift, outer * width + column)
            }
        }
    }

    #[test]
    fn nothing_to_norm_and_a_row_that_is_no_number() {
        for isa in Isa::available() {
            let rows = Rows { values: Values::F32(&[]), count: [0, 5], strides: [0, 0], width: 8 };
            norm(isa, rows, Norm::Rms { eps: 0.1 }, Affine::None, Output::F32(&mut []));
            let mut x = values(1, 24);
            x[9] = f32::NAN;
            let rows = Rows { values: Values::F32(&x), count: [1, 3], strides: [0, 8], width: 8 };
            let mut out = [0.0; 24];
            norm(isa, rows, Norm::Layer { eps: 0.1 }, Affine::None, Output::F32(&mut out));
            assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i / 8 == 1)), "{isa}");
        }
    }
}
