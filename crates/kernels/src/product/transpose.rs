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

/// Rows that are read across together: of bf16, what is read of a column is four cache lines, all at once, since
/// columns of a power of two all fall on the same lines of the first cache.
pub(super) const WIDE: usize = 8 * PANEL;

/// 16 words of each of [`WIDE`] rows: `[word][row]`.
pub(super) type WideWords = [[u32; WIDE]; PANEL];

vectorised! {
    /// As [`words_along`] of up to `rows` rows whose values lie along the columns: `[word][row]`. What is behind the
    /// matrix is 0.
    pub(super) fn words_across<T: Packed>(
        a: &Matrix<'_>,
        row: usize,
        column: usize,
        rows: usize,
        words: &mut WideWords,
    ) {
        let place = [row, column, rows];
        if let Some(values) = T::of(&a.values) {
            return across(values, |x: T| x, a, place, words);
        }
        match a.values {
            Values::F32(values) => across(values, |x| T::from_f32(x), a, place, words),
            Values::F16(values) => across(values, |x| T::from_f32(from_f16(x)), a, place, words),
            Values::Bf16(values) => across(values, |x| T::from_f32(from_bf16(x)), a, place, words),
        }
    }
}

#[inline(always)]
fn across<T: Packed, V: Copy>(
    values: &[V],
    round: impl Fn(V) -> T,
    a: &Matrix<'_>,
    [row, column, rows]: [usize; 3],
    words: &mut WideWords,
) {
    let there = rows.min(a.rows.saturating_sub(row));
    let zero = T::from_f32(0.0);
    let run = |column: usize| {
        let start = row * a.row_stride + column * a.column_stride;
        (column < a.columns && there > 0).then(|| &values[start..][..(there - 1) * a.row_stride + 1])
    };
    for (p, words) in words.iter_mut().enumerate() {
        let column = column + p * T::GROUP;
        let (words, behind) = words[..rows].split_at_mut(there);
        behind.fill(0);
        match (run(column), run(column + T::GROUP - 1)) {
            (None, _) => words.fill(0),
            (Some(first), Some(last)) if a.row_stride == 1 => {
                for ((word, first), last) in words.iter_mut().zip(first).zip(last) {
                    *word = T::word(round(*first), round(*last));
                }
            }
            (Some(first), last) => {
                for (r, word) in words.iter_mut().enumerate() {
                    let last = last.map_or(zero, |last| round(last[r * a.row_stride]));
                    *word = T::word(round(first[r * a.row_stride]), last);
                }
            }
        }
    }
}

/// 16 rows of words that were read across, from `row` on, one row after the other: `[row][word]`.
pub(super) fn transposed_part(isa: Isa, wide: &WideWords, row: usize, words: &mut Words) {
    for (words, wide) in words.iter_mut().zip(wide) {
        *words = *wide[row..].first_chunk().expect("whole groups of rows");
    }
    transpose(isa, words);
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
