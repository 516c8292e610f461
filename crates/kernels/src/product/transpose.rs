//! Blocks of a matrix read along one axis and written along the other.
//!
//! A word is 32 bits: one f32, or the two bf16 that an instruction takes together.

use super::matrix::{Matrix, Values};
use super::panels::{PANEL, Packed};
use crate::Isa;
use crate::vector::{from_bf16, from_f16, vectorised};

/// 16 x 16 words.
pub(super) type Words = [[u32; PANEL]; PANEL];

vectorised! {
    /// Words of up to 16 rows from (`row`, `column`) of `a` on, whose values lie along the rows: `[row][word]`. What is
    /// behind the matrix is 0.
    pub(super) fn words_along<T: Packed>(a: &Matrix<'_>, row: usize, column: usize, words: &mut Words) {
        if let Some(values) = T::of(&a.values) {
            return along(values, |x: T| x, a, [row, column], words);
        }
        match a.values {
            Values::F32(values) => along(values, |x| T::from_f32(x), a, [row, column], words),
            Values::F16(values) => along(values, |x| T::from_f32(from_f16(x)), a, [row, column], words),
            Values::Bf16(values) => along(values, |x| T::from_f32(from_bf16(x)), a, [row, column], words),
        }
    }
}

#[inline(always)]
fn along<T: Packed, V: Copy>(
    values: &[V],
    round: impl Fn(V) -> T,
    a: &Matrix<'_>,
    [row, column]: [usize; 2],
    words: &mut Words,
) {
    let rows = PANEL.min(a.rows.saturating_sub(row));
    let width = (PANEL * T::GROUP).min(a.columns.saturating_sub(column));
    for (r, words) in words.iter_mut().enumerate() {
        if r >= rows || width == 0 {
            *words = [0; PANEL];
            continue;
        }
        let from = &values[(row + r) * a.row_stride + column..][..width];
        if width == PANEL * T::GROUP {
            for (word, from) in words.iter_mut().zip(from.chunks_exact(T::GROUP)) {
                *word = T::word(round(from[0]), round(from[T::GROUP - 1]));
            }
        } else {
            *words = [0; PANEL];
            for (word, from) in words.iter_mut().zip(from.chunks(T::GROUP)) {
                let last = from.get(T::GROUP - 1).map_or(T::from_f32(0.0), |x| round(*x));
                *word = T::word(round(from[0]), last);
            }
        }
    }
}

vectorised! {
    /// As [`words_along`] of values that lie along the columns: `[word][row]`.
    pub(super) fn words_across<T: Packed>(a: &Matrix<'_>, row: usize, column: usize, words: &mut Words) {
        across::<T>(a, [row, column], words);
    }
}

/// [`words_across`], to be compiled into a loop.
#[inline(always)]
pub(super) fn across<T: Packed>(a: &Matrix<'_>, place: [usize; 2], words: &mut Words) {
    if let Some(values) = T::of(&a.values) {
        return across_from(values, |x: T| x, a, place, words);
    }
    match a.values {
        Values::F32(values) => across_from(values, |x| T::from_f32(x), a, place, words),
        Values::F16(values) => across_from(values, |x| T::from_f32(from_f16(x)), a, place, words),
        Values::Bf16(values) => across_from(values, |x| T::from_f32(from_bf16(x)), a, place, words),
    }
}

#[inline(always)]
fn across_from<T: Packed, V: Copy>(
    values: &[V],
    round: impl Fn(V) -> T,
    a: &Matrix<'_>,
    [row, column]: [usize; 2],
    words: &mut Words,
) {
    let rows = PANEL.min(a.rows.saturating_sub(row));
    let zeros = [T::from_f32(0.0); PANEL];
    let mut group = [zeros; 2];
    for (p, words) in words.iter_mut().enumerate() {
        for (g, out) in group.iter_mut().enumerate().take(T::GROUP) {
            let column = column + p * T::GROUP + g;
            if column >= a.columns || rows == 0 {
                *out = zeros;
                continue;
            }
            let start = row * a.row_stride + column * a.column_stride;
            let from = &values[start..][..(rows - 1) * a.row_stride + 1];
            match from.first_chunk::<PANEL>() {
                Some(from) if a.row_stride == 1 => {
                    for (out, x) in out.iter_mut().zip(from) {
                        *out = round(*x);
                    }
                }
                _ => {
                    *out = zeros;
                    for (out, x) in out.iter_mut().zip(from.iter().step_by(a.row_stride)) {
                        *out = round(*x);
                    }
                }
            }
        }
        for (r, word) in words.iter_mut().enumerate() {
            *word = T::word(group[0][r], group[T::GROUP - 1][r]);
        }
    }
}

/// Rows become columns.
pub(super) fn transpose(isa: Isa, words: &mut Words) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        // SAFETY: the assertion above: the processor has these instructions.
        return unsafe { avx512(words) };
    }
    let rows = *words;
    *words = std::array::from_fn(|row| rows.each_ref().map(|from| from[row]));
}

/// Four rounds, each of which exchanges halves between rows that are 1, 2, 4 and 8 apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(words: &mut Words) {
    use std::arch::x86_64::*;
    // SAFETY: 16 rows of 64 bytes, each read whole; loads need no alignment.
    let rows: [__m512i; PANEL] = std::array::from_fn(|r| unsafe { _mm512_loadu_si512(words[r].as_ptr().cast()) });
    // Pairs of rows: words 0 and 1 of every four of both, then 2 and 3.
    let a: [__m512i; PANEL] = std::array::from_fn(|r| {
        let (even, odd) = (rows[r & !1], rows[r | 1]);
        if r & 1 == 0 { _mm512_unpacklo_epi32(even, odd) } else { _mm512_unpackhi_epi32(even, odd) }
    });
    // Fours of rows: row r has word r % 4 of each quarter of rows r & !3 and the three after it.
    let b: [__m512i; PANEL] = std::array::from_fn(|r| {
        let first = (r & !3) + (r >> 1 & 1);
        let (low, high) = (a[first], a[first + 2]);
        if r & 1 == 0 { _mm512_unpacklo_epi64(low, high) } else { _mm512_unpackhi_epi64(low, high) }
    });
    // Quarters: those of rows 4 apart, then 8 apart.
    let c: [__m512i; PANEL] = std::array::from_fn(|r| {
        let (low, high) = (b[(r & 8) + (r & 3)], b[(r & 8) + (r & 3) + 4]);
        if r & 4 == 0 {
            _mm512_shuffle_i32x4::<0b10_00_10_00>(low, high)
        } else {
            _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high)
        }
    });
    for r in 0..PANEL {
        let (low, high) = (c[r & 7], c[(r & 7) + 8]);
        let row = if r & 8 == 0 {
            _mm512_shuffle_i32x4::<0b10_00_10_00>(low, high)
        } else {
            _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high)
        };
        // SAFETY: as above, one row written whole.
        unsafe { _mm512_storeu_si512(words[r].as_mut_ptr().cast(), row) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns_on_every_instruction_set() {
        for isa in Isa::available() {
            let mut words: Words = std::array::from_fn(|r| std::array::from_fn(|c| (r * 100 + c) as u32));
            transpose(isa, &mut words);
            for (r, row) in words.iter().enumerate() {
                for (c, word) in row.iter().enumerate() {
                    assert_eq!(*word, (c * 100 + r) as u32, "{isa}: row {r}, column {c}");
                }
            }
        }
    }
}
