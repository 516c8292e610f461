//! Products of 8-bit integers: `A B^T` where every row of A and every row of B has a scale of its own.
//!
//! `x = scale * q` with q in -127..=127, so that the largest number of a row is exact and 0 stays 0. Weights are
//! rounded once, activations in each call; sums are exact.

use rayon::prelude::*;

use super::blocks::Blocks;
use super::driver::{Direct, Ends, Factor, Panels, Product, RowSource, Segment, lines, multiply};
use super::epilogue::{Epilogue, Output};
use super::matrix::{Matrix, Values};
use super::micro::{Kernel, f32_kernel, int8_kernel};
use super::panels::{PANEL, PackedShape, STEP, copy_rows};
use crate::vector::vectorised;
use crate::{Buffer, Isa};

/// The inner width is padded to a multiple of this: 64 bytes.
const INT8_STEP: usize = 64;
/// Inner values that one instruction takes together.
const GROUP: usize = 4;
/// The largest magnitude of a rounded number.
const LARGEST: f32 = 127.0;

/// A second factor `B [N, K]`, rounded and packed.
pub struct Int8Factor {
    /// Panels `[K / 4][16][4]`.
    numbers: Buffer<i8>,
    /// `[N]`.
    scales: Buffer<f32>,
    /// Sums of the rounded numbers of each row of B, `[N]`: what A's offset adds to a sum.
    totals: Buffer<i32>,
    columns: usize,
    inner: usize,
}

impl Int8Factor {
    /// Rounds and packs `b` `[N, K]`, on all threads of the pool.
    ///
    /// # Panics
    /// An instruction set that the machine lacks: a bug of the caller.
    pub fn new(isa: Isa, b: Matrix<'_>) -> Self {
        Self::of_rows(isa, [b.rows, b.columns], |first, stride, wide| copy_rows(isa, &b, first, stride, wide))
    }

    /// The same of a factor in blocks: a row's scale takes the place of its blocks' scales.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn of_blocks(isa: Isa, b: &Blocks<'_>) -> Self {
        let [columns, inner] = b.sizes();
        Self::of_rows(isa, [columns, inner], |first, stride, wide| {
            for (row, wide) in (first..columns).zip(wide.chunks_exact_mut(stride)) {
                b.widen(isa, row, 0, &mut wide[..inner]);
            }
        })
    }

    /// `widen` writes rows from one on, `stride` apart, in f32.
    fn of_rows(isa: Isa, [columns, inner]: [usize; 2], widen: impl Fn(usize, usize, &mut [f32]) + Sync) -> Self {
        let shape = padded(columns, inner);
        let mut factor = Int8Factor {
            numbers: Buffer::zeroed(shape.len()),
            scales: Buffer::zeroed(columns),
            totals: Buffer::zeroed(columns),
            columns,
            inner,
        };
        if shape.is_empty() {
            return factor;
        }
        let panels = factor.numbers.par_chunks_exact_mut(shape.panel_len());
        let rows = factor.scales.par_chunks_mut(PANEL).zip(factor.totals.par_chunks_mut(PANEL));
        panels.zip(rows).enumerate().for_each(|(panel, (numbers, (scales, totals)))| {
            let stride = inner.next_multiple_of(STEP);
            let mut wide = Buffer::<f32>::reused(PANEL * stride);
            widen(panel * PANEL, stride, &mut wide);
            let rows = wide.chunks_exact(stride).zip(scales).zip(totals).enumerate();
            for (column, ((row, scale), total)) in rows {
                let inverse = scale_of(isa, row, scale);
                *total = 0;
                for (k, x) in row.iter().enumerate().take(inner) {
                    let q = rounded(*x, inverse);
                    numbers[(k / GROUP * PANEL + column) * GROUP + k % GROUP] = q;
                    *total += i32::from(q);
                }
            }
        });
        factor
    }
}

fn padded(columns: usize, inner: usize) -> PackedShape {
    PackedShape { columns, inner: inner.next_multiple_of(INT8_STEP) }
}

/// Stores a row's scale and returns its inverse. A row of zeros keeps zeros; one with a NaN or an infinity gets a
/// scale of NaN, so that its products are NaN and not in silence something else.
fn scale_of(isa: Isa, row: &[f32], scale: &mut f32) -> f32 {
    let largest = largest(isa, row);
    if !largest.is_finite() {
        *scale = f32::NAN;
        return 0.0;
    }
    *scale = largest / LARGEST;
    if largest > 0.0 { LARGEST / largest } else { 0.0 }
}

vectorised! {
    /// The largest magnitude; NaN if there is one.
    fn largest(row: &[f32]) -> f32 {
        const STRANDS: usize = 32;
        let larger = |most: f32, x: f32| if x.abs() <= most { most } else { x.abs() };
        let (whole, rest) = row.as_chunks::<STRANDS>();
        let mut strands = [0.0_f32; STRANDS];
        for values in whole {
            for (strand, x) in strands.iter_mut().zip(values) {
                // A comparison with NaN is false: it is taken, and then kept by the test of itself.
                *strand = if strand.is_nan() { *strand } else { larger(*strand, *x) };
            }
        }
        let keep = |most: f32, x: f32| if most.is_nan() { most } else { larger(most, x) };
        rest.iter().copied().fold(strands.into_iter().fold(0.0, keep), keep)
    }
}

/// The nearest whole number, ties to even.
#[inline(always)]
fn rounded(x: f32, inverse: f32) -> i8 {
    /// Adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    ((x * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32) as i8
}

vectorised! {
    /// `out` gets the rounded numbers plus `offset`, which fills an unsigned byte if it is 128.
    fn round_row(row: &[f32], inverse: f32, offset: i32, out: &mut [i8]) {
        for (out, x) in out.iter_mut().zip(row) {
            *out = (i32::from(rounded(*x, inverse)) + offset) as i8;
        }
    }
}

/// `out = epilogue(a b^T)`: `a` `[M, K]`, `out` `[M, N]`, both factors rounded to 8 bits.
///
/// Where the instruction set has no product of int8, the rounded numbers are multiplied in f32.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn multiply_int8(isa: Isa, a: Matrix<'_>, b: &Int8Factor, epilogue: &Epilogue<'_>, out: Output<'_>) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    assert_eq!(a.columns, b.inner, "inner widths of a product");
    assert_eq!(out.len(), a.rows * b.columns, "results of {} x {}", a.rows, b.columns);
    epilogue.check(a.rows, b.columns);
    if out.len() == 0 {
        return;
    }
    if b.inner == 0 {
        return multiply(isa, a, Factor::<f32>::Plain(Matrix::new(Values::F32(&[]), b.columns, 0)), epilogue, out);
    }
    let shape = padded(b.columns, b.inner);
    match int8_kernel(isa) {
        Some(kernel) => {
            let panels = Direct { values: &b.numbers, shape };
            run(isa, a, b, kernel, panels, (round_row, scale_integer_sums), epilogue, out);
        }
        None => {
            let (kernel, panels) = (f32_kernel(isa), WidenedInt8 { values: &b.numbers, shape });
            run(isa, a, b, kernel, panels, (round_row_f32, scale_sums), epilogue, out);
        }
    }
}

vectorised! {
    fn round_row_f32(row: &[f32], inverse: f32, _offset: i32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(row) {
            *out = f32::from(rounded(*x, inverse));
        }
    }
}

/// Rows of A, rounded, `stride` apart.
struct RoundedRows<'a, T> {
    numbers: &'a [T],
    stride: usize,
}

impl<T: crate::Plain> RowSource<T> for RoundedRows<'_, T> {
    fn at(&self, _: usize, row: usize, rows: usize, width: usize) -> (*const T, usize) {
        (lines(self.numbers, row * self.stride, self.stride, rows, width), self.stride)
    }
}

/// How rows of A are rounded, and how the sums of their products become f32.
type Ways<T> = (fn(Isa, &[f32], f32, i32, &mut [T]), fn(Isa, &mut [f32], f32, &[f32], i32, &[i32]));

#[expect(clippy::too_many_arguments, reason = "the two ways differ in three of them, and nothing else calls this")]
fn run<T: crate::Plain, P: Panels<T>>(
    isa: Isa,
    a: Matrix<'_>,
    b: &Int8Factor,
    kernel: Kernel<T>,
    panels: P,
    (round, scale_row): Ways<T>,
    epilogue: &Epilogue<'_>,
    out: Output<'_>,
) {
    let shape = padded(b.columns, b.inner);
    // A gap, so that rows of a power of two do not all fall on the same cache lines.
    let (rows, stride) = (a.rows.next_multiple_of(kernel.rows), shape.inner + INT8_STEP);
    let mut numbers = Buffer::<T>::reused(rows * stride);
    let mut scales = Buffer::<f32>::reused(rows);
    let wide_stride = a.columns.next_multiple_of(STEP);
    numbers.par_chunks_mut(PANEL * stride).zip(scales.par_chunks_mut(PANEL)).enumerate().for_each(
        |(chunk, (numbers, scales))| {
            let mut wide = Buffer::<f32>::reused(scales.len() * wide_stride);
            copy_rows(isa, &a, chunk * PANEL, wide_stride, &mut wide);
            let rows = numbers.chunks_mut(stride).zip(wide.chunks_exact(wide_stride));
            for ((numbers, wide), scale) in rows.zip(scales) {
                let inverse = scale_of(isa, wide, scale);
                let (numbers, rest) = numbers.split_at_mut(wide_stride);
                round(isa, wide, inverse, kernel.offset, numbers);
                // B is 0 there, so that anything finite would do.
                round(isa, &[0.0; 2 * INT8_STEP][..rest.len()], 0.0, 0, rest);
            }
        },
    );
    let (scales, offset) = (&scales[..], kernel.offset);
    let finish = |sums: &mut [f32], row: usize, first: usize| {
        let columns = first..first + sums.len();
        let (column_scales, totals) = (&b.scales[columns.clone()], &b.totals[columns]);
        scale_row(isa, sums, scales[row], column_scales, offset, totals);
    };
    let segments = [Segment::plain(a.rows)];
    let product = Product {
        isa,
        kernel,
        segments: &segments,
        taps: &[0],
        shape: PackedShape { columns: b.columns, ..shape },
        panels,
        ends: Ends { epilogue, sums_to_f32: Some(&finish), kept: None },
    };
    product.run(&RoundedRows { numbers: &numbers, stride }, out);
}

vectorised! {
    /// Sums of whole numbers in f32, of rows without an offset.
    fn scale_sums(sums: &mut [f32], row_scale: f32, column_scales: &[f32], _offset: i32, _totals: &[i32]) {
        for (sum, scale) in sums.iter_mut().zip(column_scales) {
            *sum *= row_scale * scale;
        }
    }
}

vectorised! {
    /// Integer sums in the bits of f32.
    fn scale_integer_sums(sums: &mut [f32], row_scale: f32, column_scales: &[f32], offset: i32, totals: &[i32]) {
        for ((sum, scale), total) in sums.iter_mut().zip(column_scales).zip(totals) {
            let exact = (sum.to_bits() as i32).wrapping_sub(offset.wrapping_mul(*total));
            *sum = exact as f32 * (row_scale * scale);
        }
    }
}

/// Packed in int8, for a kernel of f32.
struct WidenedInt8<'a> {
    values: &'a [i8],
    shape: PackedShape,
}

impl Panels<f32> for WidenedInt8<'_> {
    fn at(&self, panel: usize, panels: usize, inner: usize, depth: usize, out: &mut [f32]) -> (*const f32, usize) {
        for (index, out) in out.chunks_exact_mut(depth * PANEL).take(panels).enumerate() {
            let start = (panel + index) * self.shape.panel_len() + inner * PANEL;
            let quads = self.values[start..][..depth * PANEL].chunks_exact(GROUP * PANEL);
            for (quads, out) in quads.zip(out.chunks_exact_mut(GROUP * PANEL)) {
                for (i, x) in quads.iter().enumerate() {
                    out[i % GROUP * PANEL + i / GROUP] = f32::from(*x);
                }
            }
        }
        (out.as_ptr(), depth * PANEL)
    }

    fn scratch(&self, panels: usize, depth: usize) -> usize {
        panels * depth * PANEL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u32, count: usize) -> Vec<f32> {
        (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8e6 - 1.0).collect()
    }

    /// As the module's formula has it, in f64.
    fn reference(a: &[f32], b: &[f32], [rows, inner, columns]: [usize; 3]) -> Vec<f64> {
        let round = |row: &[f32]| -> (f64, Vec<f64>) {
            let largest = row.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
            let q = row.iter().map(|x| f64::from((x * inverse).round_ties_even())).collect();
            (f64::from(largest / LARGEST), q)
        };
        let rounded = |values: &[f32], count: usize| -> Vec<_> {
            (0..count).map(|i| round(&values[i * inner..][..inner])).collect()
        };
        let (a, b) = (rounded(a, rows), rounded(b, columns));
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        a.iter().flat_map(|(s, x)| b.iter().map(move |(t, y)| s * t * dot(x, y))).collect()
    }

    #[test]
    fn products_of_all_sizes_are_those_of_the_rounded_numbers() {
        for isa in Isa::available() {
            for size @ [rows, inner, columns] in [
                [1, 1, 1],
                [7, 63, 65],
                [64, 64, 64],
                [33, 65, 49],
                [2, 333, 130],
                [40, 1357, 50],
                [270, 100, 33],
                [33, 6500, 20],
                [5, 0, 7],
            ] {
                if !crate::testing::is_quick(size.iter().product()) {
                    continue;
                }
                let (mut a, b) = (values(1, rows * inner), values(2, columns * inner));
                if rows > 1 {
                    a[..inner].fill(0.0);
                }
                let factor = Int8Factor::new(isa, Matrix::new(Values::F32(&b), columns, inner));
                let mut out = vec![f32::NAN; rows * columns];
                let rows_of_a = Matrix::new(Values::F32(&a), rows, inner);
                multiply_int8(isa, rows_of_a, &factor, &Epilogue::default(), Output::F32(&mut out));
                for (i, (found, expected)) in out.iter().zip(reference(&a, &b, size)).enumerate() {
                    // Integer sums are exact; those of f32, where there are none, round on the way.
                    let rounding = if int8_kernel(isa).is_some() { 0.0 } else { 1e-4 * expected.abs() };
                    let tolerance = 1e-6 * inner as f64 + rounding;
                    assert!(
                        (f64::from(*found) - expected).abs() <= tolerance,
                        "{isa} {size:?} {i}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow_their_sums() {
        let inner = if cfg!(miri) { 256 } else { 10_240 };
        for isa in Isa::available() {
            let (a, b) = (vec![-3.0; 2 * inner], vec![5.0; 3 * inner]);
            let factor = Int8Factor::new(isa, Matrix::new(Values::F32(&b), 3, inner));
            let mut out = [0.0; 6];
            let a = Matrix::new(Values::F32(&a), 2, inner);
            multiply_int8(isa, a, &factor, &Epilogue::default(), Output::F32(&mut out));
            // Integer sums are exact; those of f32, where there are none, round on the way.
            assert!(out.iter().all(|x| (x / (-15.0 * inner as f32) - 1.0).abs() < 1e-4), "{isa}: {out:?}");
        }
    }

    #[test]
    fn a_row_that_is_no_number_stays_so() {
        for isa in Isa::available() {
            let (mut a, b) = (values(1, 4 * 70), values(2, 20 * 70));
            a[70 + 3] = f32::NAN;
            a[140 + 69] = f32::INFINITY;
            let factor = Int8Factor::new(isa, Matrix::new(Values::F32(&b), 20, 70));
            let mut out = vec![0.0; 80];
            let a = Matrix::new(Values::F32(&a), 4, 70);
            multiply_int8(isa, a, &factor, &Epilogue::default(), Output::F32(&mut out));
            assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (1..=2).contains(&(i / 20))), "{isa}");
        }
    }
}
