use rayon::prelude::*;

use super::{Affine, Norm, Rows, statistics};
use crate::product::{Output, SharedOutput, Values, chunks, read_run};
use crate::vector::{add, add_products, multiply, multiply_add, vectorised};
use crate::{Buffer, Isa};

/// Where the gradients of a norm go.
#[derive(Debug)]
pub struct NormGradients<'a> {
    /// Of the rows, `[count[0], count[1], width]` without gaps.
    pub rows: Output<'a>,
    /// Of what is multiplied: the weight `[width]`, or the scale `[count[0], width]`.
    pub scale: Option<&'a mut [f32]>,
    /// Of what is added: the bias or the shift, of the same size.
    pub shift: Option<&'a mut [f32]>,
}

/// The gradients of [`super::norm`] with the same arguments, from that of its result, `[count[0], count[1], width]`.
///
/// `also` `[count[0], count[1], width]` is a gradient that reached the rows another way, as a residual's does; that of
/// the rows is the sum of both.
///
/// With `xhat` the normed row and `g` the gradient times weight or scale, that of the row is
/// `(g - mean(g) - xhat mean(g xhat)) / deviation`, without `mean(g)` for an RMS norm. Results do not depend on the
/// number of threads.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn norm_backward(
    isa: Isa,
    rows: Rows<'_>,
    norm: Norm,
    affine: Affine<'_>,
    gradient: Values<'_>,
    also: Option<Values<'_>>,
    mut out: NormGradients<'_>,
) {
    let Rows { count, width, .. } = rows;
    rows.check();
    affine.check(count[0], width);
    let all = count[0] * count[1];
    assert_eq!([gradient.len(), out.rows.len()], [all * width; 2], "gradients of normed rows");
    assert!(also.is_none_or(|also| also.len() == all * width), "the other gradient of normed rows");
    let groups = if matches!(affine, Affine::Modulated { .. }) { count[0] } else { 1 };
    for sums in [&out.scale, &out.shift].into_iter().flatten() {
        assert_eq!(sums.len(), groups * width, "gradients of weights or modulations");
    }
    if all * width == 0 {
        out.scale.into_iter().chain(out.shift).for_each(|sums| sums.fill(0.0));
        return;
    }
    let rows_per_group = all / groups;
    let chunks = chunks(all, rows_per_group);
    let mut partial = Buffer::<f32>::zeroed(chunks.len() * 2 * width);
    let place = SharedOutput::of(&mut out.rows);
    let work = chunks.par_iter().zip(partial.par_chunks_mut(2 * width));
    work.for_each(|(&(first, length), partial)| {
        let (scales, shifts) = partial.split_at_mut(width);
        let [mut x, mut slope] = [(); 2].map(|()| Buffer::<f32>::reused(width));
        for row in first..first + length {
            read_run(isa, rows.values.after(rows.start(row)), &mut x);
            read_run(isa, gradient.after(row * width), &mut slope);
            let (mean, inverse) = statistics(isa, &x, norm);
            whiten(isa, &mut x, mean, inverse);
            add_products(isa, scales, &slope, &x);
            add(isa, shifts, &slope);
            match affine {
                Affine::None => {}
                Affine::Learned { weight, .. } => multiply(isa, &mut slope, weight),
                Affine::Modulated { scale, .. } => {
                    multiply_by_1_and(isa, &mut slope, &scale[row / rows_per_group * width..][..width]);
                }
            }
            back(isa, &mut slope, &x, inverse, matches!(norm, Norm::Layer { .. }));
            if let Some(also) = also {
                // The normed row is not needed any more.
                read_run(isa, also.after(row * width), &mut x);
                add(isa, &mut slope, &x);
            }
            // SAFETY: the output has a place for every row, checked above, and a row is in one chunk only.
            unsafe { place.write(isa, row * width, &slope) };
        }
    });
    for (sums, from) in [(out.scale, 0), (out.shift, width)] {
        let Some(sums) = sums else { continue };
        sums.fill(0.0);
        for (&(row, _), partial) in chunks.iter().zip(partial.chunks(2 * width)) {
            add(isa, &mut sums[row / rows_per_group * width..][..width], &partial[from..][..width]);
        }
    }
}

vectorised! {
    fn whiten(values: &mut [f32], mean: f32, inverse: f32) {
        for x in values {
            *x = (*x - mean) * inverse;
        }
    }
}

vectorised! {
    fn multiply_by_1_and(values: &mut [f32], scale: &[f32]) {
        for (x, scale) in values.iter_mut().zip(scale) {
            *x *= 1.0 + scale;
        }
    }
}

/// Sums run in this many strands, so that they vectorise and do not wait for each other.
const STRANDS: usize = 32;

vectorised! {
    fn back(slope: &mut [f32], normed: &[f32], inverse: f32, centred: bool) {
        back_one::<FMA>(slope, normed, inverse, centred);
    }
}

/// From the gradient of a normed row to the row's.
#[inline(always)]
pub(super) fn back_one<const FMA: bool>(slope: &mut [f32], normed: &[f32], inverse: f32, centred: bool) {
    let mut sums = [[0.0_f32; STRANDS]; 2];
    let ((slopes, slopes_rest), (norms, norms_rest)) = (slope.as_chunks::<STRANDS>(), normed.as_chunks::<STRANDS>());
    for (slope, normed) in slopes.iter().zip(norms) {
        for strand in 0..STRANDS {
            sums[0][strand] += slope[strand];
            sums[1][strand] = multiply_add::<FMA>(slope[strand], normed[strand], sums[1][strand]);
        }
    }
    for (strand, (slope, normed)) in slopes_rest.iter().zip(norms_rest).enumerate() {
        sums[0][strand] += slope;
        sums[1][strand] = multiply_add::<FMA>(*slope, *normed, sums[1][strand]);
    }
    let [mean, along] = sums.map(|sums| sums.iter().sum::<f32>() / slope.len() as f32);
    let mean = if centred { mean } else { 0.0 };
    for (slope, normed) in slope.iter_mut().zip(normed) {
        *slope = (*slope - mean - normed * along) * inverse;
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::norm;
    use super::*;
    use crate::testing::{assert_close, values};

    /// `sum(slope * norm(x))` in f64.
    fn loss(x: &[f64], which: Norm, [scale, shift]: [&[f64]; 2], slope: &[f32], width: usize, per: usize) -> f64 {
        let mut sum = 0.0;
        for (row, (x, slope)) in x.chunks(width).zip(slope.chunks(width)).enumerate() {
            let (mean, eps) = match which {
                Norm::Layer { eps } => (x.iter().sum::<f64>() / width as f64, eps),
                Norm::Rms { eps } => (0.0, eps),
            };
            let square = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            for i in 0..width {
                let normed = (x[i] - mean) / (square + f64::from(eps)).sqrt();
                let group = row / per * width + i;
                sum += f64::from(slope[i]) * (normed * scale[group] + shift[group]);
            }
        }
        sum
    }

    /// Weights and modulations, both norms, against central differences.
    #[test]
    fn gradients_of_norms_are_finite_differences() {
        for isa in Isa::available() {
            for (count, width) in [([1, 1], 1), ([2, 3], 7), ([2, 2], 33), ([1, 4], 65)] {
                if cfg!(miri) && width > 1 {
                    continue;
                }
                for which in [Norm::Layer { eps: 1e-2 }, Norm::Rms { eps: 1e-2 }] {
                    for modulated in [false, true] {
                        check(isa, count, width, which, modulated);
                    }
                }
            }
        }
    }

    fn check(isa: Isa, count: [usize; 2], width: usize, which: Norm, modulated: bool) {
        let all = count[0] * count[1];
        let groups = if modulated { count[0] } else { 1 };
        // Rows with a gap between them.
        let stride = width + 3;
        let x = values(1, all * stride);
        let rows = Rows { values: Values::F32(&x), count, strides: [count[1] * stride, stride], width };
        let (scale, shift, slope) = (values(2, groups * width), values(3, groups * width), values(4, all * width));
        let affine = if modulated {
            Affine::Modulated { scale: &scale, shift: &shift }
        } else {
            Affine::Learned { weight: &scale, bias: Some(&shift) }
        };
        let mut found = [vec![f32::NAN; all * width], vec![f32::NAN; groups * width], vec![f32::NAN; groups * width]];
        let [out, scales, shifts] = &mut found;
        let gradients = NormGradients { rows: Output::F32(out), scale: Some(scales), shift: Some(shifts) };
        // As if the rows had also been added to the result: their slope is 1 for the loss below.
        let ones = vec![bf16::ONE; all * width];
        let also = modulated.then_some(Values::Bf16(&ones));
        norm_backward(isa, rows, which, affine, Values::F32(&slope), also, gradients);

        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let whole: Vec<f32> = x.chunks(stride).flat_map(|row| &row[..width]).copied().collect();
        let mut inputs = [wide(&whole), wide(&scale), wide(&shift)];
        if modulated {
            inputs[1].iter_mut().for_each(|x| *x += 1.0);
        }
        let step = 1e-5;
        for (which_input, found) in found.iter().enumerate() {
            let expected: Vec<f64> = (0..found.len())
                .map(|i| {
                    let mut at = |by: f64| {
                        inputs[which_input][i] += by;
                        let [x, scale, shift] = &inputs;
                        let added = if modulated { x.iter().sum::<f64>() } else { 0.0 };
                        let loss = added + loss(x, which, [scale, shift], &slope, width, all / groups);
                        inputs[which_input][i] -= by;
                        loss
                    };
                    (at(step) - at(-step)) / (2.0 * step)
                })
                .collect();
            let largest = expected.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
            assert_close(found, &expected, 3e-5 * largest, &format!("{isa} {count:?} {width} {which:?} {which_input}"));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow")]
    fn many_rows_do_not_depend_on_threads_and_no_rows_give_zero() {
        let (count, width) = ([3, 150], 40);
        let x = values(1, 450 * width);
        let (scale, shift, slope) = (values(2, 3 * width), values(3, 3 * width), values(4, 450 * width));
        let slope: Vec<bf16> = slope.into_iter().map(bf16::from_f32).collect();
        let rows = Rows { values: Values::F32(&x), count, strides: [150 * width, width], width };
        let run = |threads: usize| {
            let mut found = [vec![0.0; 450 * width], vec![0.0; 3 * width], vec![0.0; 3 * width]];
            let [out, scales, shifts] = &mut found;
            let gradients = NormGradients { rows: Output::F32(out), scale: Some(scales), shift: Some(shifts) };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let affine = Affine::Modulated { scale: &scale, shift: &shift };
            let norm = Norm::Layer { eps: 1e-6 };
            pool.install(|| norm_backward(Isa::best(), rows, norm, affine, Values::Bf16(&slope), None, gradients));
            found
        };
        let one = run(1);
        assert!(one == run(2) && one == run(5));
        let none = Rows { values: Values::F32(&[]), count: [0, 5], strides: [0, 0], width };
        let mut scales = [1.0; 40];
        let gradients = NormGradients { rows: Output::F32(&mut []), scale: Some(&mut scales), shift: None };
        let affine = Affine::Learned { weight: &scale[..40], bias: None };
        norm_backward(Isa::best(), none, Norm::Rms { eps: 0.1 }, affine, Values::F32(&[]), None, gradients);
        assert_eq!(scales, [0.0; 40]);
    }

    /// A row that is no number spoils its own gradient only.
    #[test]
    fn not_a_number_stays_in_its_row() {
        for isa in Isa::available() {
            let mut x = values(1, 24);
            x[9] = f32::NAN;
            let rows = Rows { values: Values::F32(&x), count: [1, 3], strides: [0, 8], width: 8 };
            let (slope, mut out) = (values(2, 24), [0.0; 24]);
            let gradients = NormGradients { rows: Output::F32(&mut out), scale: None, shift: None };
            norm_backward(isa, rows, Norm::Layer { eps: 0.1 }, Affine::None, Values::F32(&slope), None, gradients);
            assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i / 8 == 1)), "{isa}");
            let mut normed = [0.0; 24];
            norm(isa, rows, Norm::Layer { eps: 0.1 }, Affine::None, Output::F32(&mut normed));
            assert!(normed[9].is_nan());
        }
    }
}
