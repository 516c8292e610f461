//! Factors in the order that a tile reads them.

use half::{bf16, f16};
use rayon::prelude::*;

use super::epilogue::Output;
use super::matrix::{Matrix, Values};
use super::transpose::{WIDE, transpose, transposed_part, words_across, words_along};
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
    /// The numbers of a group as they lie in memory; a group of one is `first`.
    fn word(first: Self, last: Self) -> u32;
    /// Groups one after the other.
    fn write_words(words: &[u32; PANEL], out: &mut [Self]);
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

    #[inline(always)]
    fn word(first: f32, _: f32) -> u32 {
        first.to_bits()
    }

    #[inline(always)]
    fn write_words(words: &[u32; PANEL], out: &mut [f32]) {
        // Of a length that the compiler knows: otherwise each line is a call of the system's copy.
        let out: &mut [f32; PANEL] = out.first_chunk_mut().expect("room for the words");
        for (out, word) in out.iter_mut().zip(words) {
            *out = f32::from_bits(*word);
        }
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

    #[inline(always)]
    fn word(first: bf16, last: bf16) -> u32 {
        u32::from(first.to_bits()) | u32::from(last.to_bits()) << 16
    }

    #[inline(always)]
    fn write_words(words: &[u32; PANEL], out: &mut [bf16]) {
        let out: &mut [[bf16; 2]; PANEL] = out.as_chunks_mut().0.first_chunk_mut().expect("room for the words");
        for (out, word) in out.iter_mut().zip(words) {
            *out = [bf16::from_bits(*word as u16), bf16::from_bits((word >> 16) as u16)];
        }
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
        let panels = if b.column_stride == 1 { 1 } else { WIDE / PANEL };
        out.par_chunks_mut(panels * self.panel_len())
            .enumerate()
            .for_each(|(chunk, out)| pack_panels(isa, &b, chunk * panels, self.panel_len(), out));
    }

    /// [`Self::pack`] into new memory.
    pub fn packed<T: Packed>(self, isa: Isa, b: Matrix<'_>) -> Buffer<T> {
        let mut out = Buffer::zeroed(self.len());
        self.pack(isa, b, &mut out);
        out
    }
}

/// Packs 16 columns from `panel * 16` on.
pub(crate) fn pack_panel<T: Packed>(isa: Isa, b: &Matrix<'_>, panel: usize, out: &mut [T]) {
    pack_panels(isa, b, panel, out.len(), out);
}

/// Packs panels of `length` numbers each, as many as `out` has.
pub(super) fn pack_panels<T: Packed>(isa: Isa, b: &Matrix<'_>, panel: usize, length: usize, out: &mut [T]) {
    if b.column_stride != 1 {
        return pack_across(isa, b, panel, length, out);
    }
    let mut words = [[0; PANEL]; PANEL];
    for (panel, out) in (panel..).zip(out.chunks_exact_mut(length)) {
        for (step, out) in out.chunks_exact_mut(T::GROUP * PANEL * PANEL).enumerate() {
            words_along::<T>(isa, b, panel * PANEL, step * T::GROUP * PANEL, &mut words);
            transpose(isa, &mut words);
            for (words, out) in words.iter().zip(out.chunks_exact_mut(T::GROUP * PANEL)) {
                T::write_words(words, out);
            }
        }
    }
}

/// [`pack_panels`] of values that lie along the columns, as the panels have them: nothing is transposed.
fn pack_across<T: Packed>(isa: Isa, b: &Matrix<'_>, panel: usize, length: usize, out: &mut [T]) {
    let mut words = [[0; WIDE]; PANEL];
    let line = T::GROUP * PANEL;
    for (chunk, out) in out.chunks_mut(WIDE / PANEL * length).enumerate() {
        let (first, rows) = (panel * PANEL + chunk * WIDE, out.len() / length * PANEL);
        for start in (0..length).step_by(line * PANEL) {
            words_across::<T>(isa, b, first, start / PANEL, rows, &mut words);
            for (group, out) in out.chunks_exact_mut(length).enumerate() {
                for (words, out) in words.iter().zip(out[start..].chunks_exact_mut(line)) {
                    T::write_words(words[group * PANEL..].first_chunk().expect("whole panels"), out);
                }
            }
        }
    }
}

/// Copies rows of `a` from `first` on into `out`, `stride` apart, rounded, padded with zeros to whole steps.
pub(crate) fn copy_rows<T: Packed>(isa: Isa, a: &Matrix<'_>, first: usize, stride: usize, out: &mut [T]) {
    if a.column_stride == 1 {
        return copy_rows_along(isa, a, first, stride, out);
    }
    let padded = a.columns.next_multiple_of(STEP);
    let (mut wide, mut words) = ([[0; WIDE]; PANEL], [[0; PANEL]; PANEL]);
    for (chunk, out) in out.chunks_mut(WIDE * stride).enumerate() {
        let rows = (out.len() / stride).next_multiple_of(PANEL);
        for column in (0..padded).step_by(PANEL * T::GROUP) {
            words_across::<T>(isa, a, first + chunk * WIDE, column, rows, &mut wide);
            for (group, out) in out.chunks_mut(PANEL * stride).enumerate() {
                transposed_part(isa, &wide, group * PANEL, &mut words);
                for (words, out) in words.iter().zip(out.chunks_exact_mut(stride)) {
                    T::write_words(words, &mut out[column..][..PANEL * T::GROUP]);
                }
            }
        }
    }
}

vectorised! {
    fn copy_rows_along<T: Packed>(a: &Matrix<'_>, first: usize, stride: usize, out: &mut [T]) {
        for (row, out) in (first..).zip(out.chunks_exact_mut(stride)) {
            let (whole, padding) = out[..a.columns.next_multiple_of(STEP)].split_at_mut(a.columns);
            padding.fill(T::from_f32(0.0));
            if row >= a.rows {
                whole.fill(T::from_f32(0.0));
                continue;
            }
            let start = row * a.row_stride;
            if let Some(values) = T::of(&a.values) {
                whole.copy_from_slice(&values[start..][..a.columns]);
                continue;
            }
            match a.values {
                Values::F32(values) => copy(&values[start..], |x| x, whole),
                Values::F16(values) => copy(&values[start..], from_f16, whole),
                Values::Bf16(values) => copy(&values[start..], from_bf16, whole),
            }
        }
    }
}

#[inline(always)]
fn copy<T: Packed, V: Copy>(values: &[V], widen: impl Fn(V) -> f32, out: &mut [T]) {
    for (out, x) in out.iter_mut().zip(values) {
        *out = T::from_f32(widen(*x));
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
    if let Some(values) = T::of(&values) {
        return out.copy_from_slice(&values[..out.len()]);
    }
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
