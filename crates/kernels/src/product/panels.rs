//! Factors in the order that a tile reads them.

use half::{bf16, f16};
use rayon::prelude::*;

use super::epilogue::Output;
use super::matrix::{Matrix, Values};
use crate::vector::{from_bf16, from_f16, to_bf16, vectorised};
use crate::{Buffer, Isa, Plain};

/// Columns of the result that stand side by side in a panel: as many f32 as a vector of 64 bytes holds.
pub const PANEL: usize = 16;

/// The inner width is padded with zeros to a multiple of this: 64 bytes of bf16, one row of an AMX tile.
pub(crate) const STEP: usize = 32;

/// A number that factors are packed as.
pub trait Packed: Plain + Sized {
    /// Inner values that stand side by side for one column, because one instruction takes them together.
    const GROUP: usize;
    /// Rounded to this type.
    fn from_f32(x: f32) -> Self;
    /// The numbers, if they are of this type.
    fn of<'a>(values: &Values<'a>) -> Option<&'a [Self]>;
    /// The numbers as factors come.
    fn values(numbers: &[Self]) -> Values<'_>;
    /// The numbers as a place for results.
    fn output(numbers: &mut [Self]) -> Output<'_>;
    /// The same number.
    fn to_f32(self) -> f32;
}

impl Packed for f32 {
    const GROUP: usize = 1;

    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }

    fn of<'a>(values: &Values<'a>) -> Option<&'a [f32]> {
        match values {
            Values::F32(values) => Some(values),
            _ => None,
        }
    }

    fn values(numbers: &[f32]) -> Values<'_> {
        Values::F32(numbers)
    }

    fn output(numbers: &mut [f32]) -> Output<'_> {
        Output::F32(numbers)
    }

    fn to_f32(self) -> f32 {
        self
    }
}

impl Packed for bf16 {
    const GROUP: usize = 2;

    #[inline(always)]
    fn from_f32(x: f32) -> bf16 {
        to_bf16(x)
    }

    fn of<'a>(values: &Values<'a>) -> Option<&'a [bf16]> {
        match values {
            Values::Bf16(values) => Some(values),
            _ => None,
        }
    }

    fn values(numbers: &[bf16]) -> Values<'_> {
        Values::Bf16(numbers)
    }

    fn output(numbers: &mut [bf16]) -> Output<'_> {
        Output::Bf16(numbers)
    }

    fn to_f32(self) -> f32 {
        from_bf16(self)
    }
}

/// The sizes of a packed factor `B [N, K]`: panels of [`PANEL`] columns, each `[K / group][16][group]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedShape {
    /// N, columns of the result.
    pub columns: usize,
    /// K, the inner width.
    pub inner: usize,
}

impl PackedShape {
    /// Panels, the last one padded with zero columns.
    pub fn panels(self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// K with its padding.
    pub fn padded_inner(self) -> usize {
        self.inner.next_multiple_of(STEP)
    }

    /// Numbers in a panel.
    pub fn panel_len(self) -> usize {
        self.padded_inner() * PANEL
    }

    /// Numbers in all.
    ///
    /// # Panics
    /// More than memory can hold.
    pub fn len(self) -> usize {
        self.panels().checked_mul(self.panel_len()).expect("a packed factor fits memory")
    }

    /// Whether the factor has no numbers.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Packs `b` `[N, K]`, on all threads of the pool.
    ///
    /// # Panics
    /// `b` or `out` has other sizes.
    pub fn pack<T: Packed>(self, isa: Isa, b: Matrix<'_>, out: &mut [T]) {
        assert_eq!((b.rows, b.columns), (self.columns, self.inner), "the factor to pack");
        assert_eq!(out.len(), self.len(), "numbers of a packed {self:?}");
        if self.is_empty() {
            return;
        }
        out.par_chunks_mut(self.panel_len()).enumerate().for_each(|(panel, out)| pack_panel(isa, &b, panel, out));
    }

    /// [`Self::pack`] into new memory.
    pub fn packed<T: Packed>(self, isa: Isa, b: Matrix<'_>) -> Buffer<T> {
        let mut out = Buffer::zeroed(self.len());
        self.pack(isa, b, &mut out);
        out
    }
}

vectorised! {
    /// Packs 16 columns from `panel * 16` on.
    pub(crate) fn pack_panel<T: Packed>(b: &Matrix<'_>, panel: usize, out: &mut [T]) {
        let first = panel * PANEL;
        let columns = PANEL.min(b.rows - first);
        if b.row_stride == 1 && b.column_stride != 1 {
            return pack_across(b, first, columns, out);
        }
        let mut block = [[0.0_f32; STEP]; PANEL];
        for (step, out) in out.chunks_exact_mut(STEP * PANEL).enumerate() {
            let inner = step * STEP;
            let width = STEP.min(b.columns - inner);
            if width < STEP {
                block = [[0.0; STEP]; PANEL];
            }
            read_block(b, first, columns, inner, width, &mut block);
            write_block(&block, out);
        }
    }
}

/// [`pack_panel`] where columns lie side by side, as the panel has them: nothing is transposed.
#[inline(always)]
fn pack_across<T: Packed>(b: &Matrix<'_>, first: usize, columns: usize, out: &mut [T]) {
    let mut group = [[0.0_f32; PANEL]; 2];
    for (step, out) in out.chunks_exact_mut(T::GROUP * PANEL).enumerate() {
        for (g, values) in group.iter_mut().enumerate().take(T::GROUP) {
            let inner = step * T::GROUP + g;
            if inner < b.columns {
                let start = first + inner * b.column_stride;
                match b.values {
                    Values::F32(from) => read_columns(&from[start..][..columns], |x| x, values),
                    Values::F16(from) => read_columns(&from[start..][..columns], from_f16, values),
                    Values::Bf16(from) => read_columns(&from[start..][..columns], from_bf16, values),
                }
            } else {
                *values = [0.0; PANEL];
            }
        }
        for (column, out) in out.chunks_exact_mut(T::GROUP).enumerate() {
            for (out, values) in out.iter_mut().zip(&group) {
                *out = T::from_f32(values[column]);
            }
        }
    }
}

/// The first values of a row of a panel; the rest stay 0.
#[inline(always)]
fn read_columns<V: Copy>(from: &[V], widen: impl Fn(V) -> f32, values: &mut [f32; PANEL]) {
    if let Ok(from) = <&[V; PANEL]>::try_from(from) {
        for (out, x) in values.iter_mut().zip(from) {
            *out = widen(*x);
        }
    } else {
        for (out, x) in values.iter_mut().zip(from) {
            *out = widen(*x);
        }
    }
}

/// `rows` x `width` values from (`row`, `column`) of `b` on, in f32.
#[inline(always)]
fn read_block(b: &Matrix<'_>, row: usize, rows: usize, column: usize, width: usize, block: &mut [[f32; STEP]; PANEL]) {
    match b.values {
        Values::F32(values) => read_values(values, |x| x, b, [row, rows, column, width], block),
        Values::F16(values) => read_values(values, from_f16, b, [row, rows, column, width], block),
        Values::Bf16(values) => read_values(values, from_bf16, b, [row, rows, column, width], block),
    }
}

#[inline(always)]
fn read_values<V: Copy>(
    values: &[V],
    widen: impl Fn(V) -> f32,
    b: &Matrix<'_>,
    [row, rows, column, width]: [usize; 4],
    block: &mut [[f32; STEP]; PANEL],
) {
    let start = row * b.row_stride + column * b.column_stride;
    if b.column_stride == 1 {
        for (r, out) in block.iter_mut().enumerate().take(rows) {
            let from = &values[start + r * b.row_stride..][..width];
            for (out, x) in out.iter_mut().zip(from) {
                *out = widen(*x);
            }
        }
    } else {
        for c in 0..width {
            let from = &values[start + c * b.column_stride..][..(rows - 1) * b.row_stride + 1];
            for (r, x) in from.iter().step_by(b.row_stride).enumerate() {
                block[r][c] = widen(*x);
            }
        }
    }
}

#[inline(always)]
fn write_block<T: Packed>(block: &[[f32; STEP]; PANEL], out: &mut [T]) {
    for (k, out) in out.chunks_exact_mut(T::GROUP * PANEL).enumerate() {
        for (out, values) in out.chunks_exact_mut(T::GROUP).zip(block) {
            for (g, out) in out.iter_mut().enumerate() {
                *out = T::from_f32(values[k * T::GROUP + g]);
            }
        }
    }
}

vectorised! {
    /// Copies rows of `a` from `first` on into `out`, `stride` apart, rounded, padded with zeros to whole steps.
    pub(crate) fn copy_rows<T: Packed>(a: &Matrix<'_>, first: usize, stride: usize, out: &mut [T]) {
        for (group, out) in out.chunks_mut(PANEL * stride).enumerate() {
            let row = first + group * PANEL;
            let count = PANEL.min(a.rows.saturating_sub(row)).min(out.len() / stride);
            for column in (0..a.columns).step_by(STEP) {
                let width = STEP.min(a.columns - column);
                let mut block = [[0.0_f32; STEP]; PANEL];
                if count > 0 {
                    read_block(a, row, count, column, width, &mut block);
                }
                for (values, out) in block.iter().zip(out.chunks_exact_mut(stride)) {
                    for (out, x) in out[column..column + STEP].iter_mut().zip(values) {
                        *out = T::from_f32(*x);
                    }
                }
            }
        }
    }
}

vectorised! {
    /// Rounds to bf16 and keeps the type.
    pub(crate) fn round(values: &mut [f32]) {
        for x in values {
            *x = from_bf16(to_bf16(*x));
        }
    }
}

/// Copies as many numbers as `out` has, rounded to its type.
///
/// # Panics
/// There are fewer: a bug of the caller.
pub(crate) fn read_run<T: Packed>(isa: Isa, values: Values<'_>, out: &mut [T]) {
    match values.first(out.len()) {
        Values::F32(values) => round_f32(isa, values, out),
        Values::F16(values) => round_f16(isa, values, out),
        Values::Bf16(values) => round_bf16(isa, values, out),
    }
}

vectorised! {
    fn round_f32<T: Packed>(values: &[f32], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(values) {
            *out = T::from_f32(*x);
        }
    }
}

vectorised! {
    fn round_f16<T: Packed>(values: &[f16], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(values) {
            *out = T::from_f32(from_f16(*x));
        }
    }
}

vectorised! {
    fn round_bf16<T: Packed>(values: &[bf16], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(values) {
            *out = T::from_f32(from_bf16(*x));
        }
    }
}
