//! Weights in blocks of few bits, as ggml's files have them: a block's numbers share a scale.
//!
//! Sources: ggml's block layouts (`ggml-common.h` in ggml-org/llama.cpp), and what `gguf.quants` of its Python package
//! makes of each, to which [`BlockType::widen`] is equal to the bit.
//!
//! What this module does not do: round numbers to blocks.

use half::f16;

use super::matrix::{Matrix, Values};
use super::panels::{PANEL, Packed, pack_panels};
use crate::Isa;
use crate::vector::{from_f16, vectorised};

/// Numbers that are widened together. Every block has a multiple of it.
pub const UNIT: usize = 32;
/// Numbers of a row that are widened before they are packed: a block of the largest type. Those of a panel's rows stay in
/// the first cache.
const STRIP: usize = 256;

/// How numbers share scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockType {
    /// 32 of 4 bits: `d (q - 8)`.
    Q4_0,
    /// 32 of 4 bits: `d q + m`.
    Q4_1,
    /// 32 of 5 bits: `d (q - 16)`.
    Q5_0,
    /// 32 of 5 bits: `d q + m`.
    Q5_1,
    /// 32 of 8 bits: `d q`.
    Q8_0,
    /// 256 of 4 bits: `d s q - e m`, where every 32 have a scale s and an offset m of 6 bits.
    Q4K,
    /// 256 of 5 bits, otherwise as [`BlockType::Q4K`].
    Q5K,
    /// 256 of 6 bits: `d s (q - 32)`, where every 16 have a scale s of 8 bits.
    Q6K,
}

impl BlockType {
    /// All of them.
    pub const ALL: [BlockType; 8] = [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
    ];

    /// Numbers in a block.
    pub const fn numbers(self) -> usize {
        match self {
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => 32,
            BlockType::Q4K | BlockType::Q5K | BlockType::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            BlockType::Q4_0 => 2 + 16,
            BlockType::Q4_1 => 4 + 16,
            BlockType::Q5_0 => 2 + 4 + 16,
            BlockType::Q5_1 => 4 + 4 + 16,
            BlockType::Q8_0 => 2 + 32,
            BlockType::Q4K => 4 + 12 + 128,
            BlockType::Q5K => 4 + 12 + 32 + 128,
            BlockType::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Where in a block its f16 scales stand; the second one, where there is one, follows the first.
    pub const fn scales(self) -> std::ops::Range<usize> {
        match self {
            BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => 0..2,
            BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => 0..4,
            BlockType::Q6K => 208..210,
        }
    }

    /// The numbers from `start` on that fill `out`.
    ///
    /// # Panics
    /// `start` or the length of `out` is no multiple of [`UNIT`], or `bytes` ends before: bugs of the caller.
    pub fn widen(self, isa: Isa, bytes: &[u8], start: usize, out: &mut [f32]) {
        assert!(start.is_multiple_of(UNIT) && out.len().is_multiple_of(UNIT), "{} numbers from {start} on", out.len());
        match self {
            BlockType::Q4_0 => q4_0(isa, bytes, start, out),
            BlockType::Q4_1 => q4_1(isa, bytes, start, out),
            BlockType::Q5_0 => q5_0(isa, bytes, start, out),
            BlockType::Q5_1 => q5_1(isa, bytes, start, out),
            BlockType::Q8_0 => q8_0(isa, bytes, start, out),
            BlockType::Q4K => q4_k(isa, bytes, start, out),
            BlockType::Q5K => q5_k(isa, bytes, start, out),
            BlockType::Q6K => q6_k(isa, bytes, start, out),
        }
    }
}

/// A second factor in blocks, `[rows, columns]`, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    bytes: &'a [u8],
    kind: BlockType,
    rows: usize,
    columns: usize,
}

impl<'a> Blocks<'a> {
    /// Of these bytes.
    ///
    /// # Panics
    /// A row is not in whole blocks, or there are more or fewer bytes than its blocks have: bugs of the caller.
    pub fn new(bytes: &'a [u8], kind: BlockType, rows: usize, columns: usize) -> Self {
        assert!(columns.is_multiple_of(kind.numbers()), "rows of {columns} in {kind:?}");
        assert_eq!(bytes.len(), rows * columns / kind.numbers() * kind.bytes(), "{rows} x {columns} in {kind:?}");
        Blocks { bytes, kind, rows, columns }
    }

    /// How many rows, and of how many numbers each.
    pub fn sizes(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The numbers of a row from `column` on that fill `out`.
    ///
    /// # Panics
    /// As [`BlockType::widen`].
    pub fn widen(&self, isa: Isa, row: usize, column: usize, out: &mut [f32]) {
        self.kind.widen(isa, self.bytes, row * self.columns + column, out);
    }
}

/// Packs panels of `length` numbers each, as many as `out` has, from row `first` and column `column` on.
pub(super) fn pack_blocks<T: Packed>(
    isa: Isa,
    b: &Blocks<'_>,
    [first, column]: [usize; 2],
    length: usize,
    out: &mut [T],
) {
    let mut wide = [0.0_f32; PANEL * STRIP];
    for (panel, out) in out.chunks_exact_mut(length).enumerate() {
        let first = first + panel * PANEL;
        let rows = PANEL.min(b.rows.saturating_sub(first));
        for (strip, out) in out.chunks_mut(STRIP * PANEL).enumerate() {
            let column = column + strip * STRIP;
            let width = (out.len() / PANEL).min(b.columns.saturating_sub(column));
            for (row, wide) in wide.chunks_exact_mut(STRIP).take(rows).enumerate() {
                b.widen(isa, first + row, column, &mut wide[..width]);
            }
            let part = Matrix::strided(Values::F32(&wide), [rows, width], [STRIP, 1]);
            pack_panels(isa, &part, 0, out.len(), out);
        }
    }
}

/// Calls `unit` with each block's bytes, the number of its unit, and the place of its numbers.
#[inline(always)]
fn units<const NUMBERS: usize, const BYTES: usize>(
    bytes: &[u8],
    start: usize,
    out: &mut [f32],
    unit: impl Fn(&[u8; BYTES], usize, &mut [f32; UNIT]),
) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (index, out) in (start / UNIT..).zip(out.as_chunks_mut::<UNIT>().0) {
        unit(&blocks[index / (NUMBERS / UNIT)], index % (NUMBERS / UNIT), out);
    }
}

#[inline(always)]
fn scale(block: &[u8], at: usize) -> f32 {
    from_f16(f16::from_le_bytes([block[at], block[at + 1]]))
}

/// `bytes` as the low halves of the first 16 numbers and the high halves of the others.
#[inline(always)]
fn nibbles(bytes: &[u8; 16]) -> [u8; UNIT] {
    let mut numbers = [0; UNIT];
    let (low, high) = numbers.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = byte & 15;
        *high = byte >> 4;
    }
    numbers
}

/// [`nibbles`] with a fifth bit each.
#[inline(always)]
fn with_fifth_bit(bits: [u8; 4], bytes: &[u8; 16]) -> [u8; UNIT] {
    let bits = u32::from_le_bytes(bits);
    let mut numbers = nibbles(bytes);
    for (i, number) in numbers.iter_mut().enumerate() {
        *number |= ((bits >> i & 1) << 4) as u8;
    }
    numbers
}

#[inline(always)]
fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block of the type's length")
}

vectorised! {
    fn q4_0(bytes: &[u8], start: usize, out: &mut [f32]) {
        units::<32, 18>(bytes, start, out, |block, _, out| {
            let d = scale(block, 0);
            for (out, q) in out.iter_mut().zip(nibbles(part(block, 2))) {
                *out = d * f32::from(q as i8 - 8);
            }
        });
    }
}

vectorised! {
    fn q4_1(bytes: &[u8], start: usize, out: &mut [f32]) {
        units::<32, 20>(bytes, start, out, |block, _, out| {
            let (d, m) = (scale(block, 0), scale(block, 2));
            for (out, q) in out.iter_mut().zip(nibbles(part(block, 4))) {
                *out = d * f32::from(q) + m;
            }
        });
    }
}

vectorised! {
    fn q5_0(bytes: &[u8], start: usize, out: &mut [f32]) {
        units::<32, 22>(bytes, start, out, |block, _, out| {
            let d = scale(block, 0);
            for (out, q) in out.iter_mut().zip(with_fifth_bit(*part(block, 2), part(block, 6))) {
                *out = d * f32::from(q as i8 - 16);
            }
        });
    }
}

vectorised! {
    fn q5_1(bytes: &[u8], start: usize, out: &mut [f32]) {
        units::<32, 24>(bytes, start, out, |block, _, out| {
            let (d, m) = (scale(block, 0), scale(block, 2));
            for (out, q) in out.iter_mut().zip(with_fifth_bit(*part(block, 4), part(block, 8))) {
                *out = d * f32::from(q) + m;
            }
        });
    }
}

vectorised! {
    fn q8_0(bytes: &[u8], start: usize, out: &mut [f32]) {
        units::<32, 34>(bytes, start, out, |block, _, out| {
            let d = scale(block, 0);
            for (out, q) in out.iter_mut().zip(part::<32>(block, 2)) {
                *out = d * f32::from(*q as i8);
            }
        });
    }
}

/// The 6-bit scale and offset of a unit, of eight that lie in 12 bytes: the low six bits of each byte are those of the
/// first four, and the high two of the first eight, with the halves of the last four, those of the others.
#[inline(always)]
fn six_bits(packed: &[u8; 12], unit: usize) -> (u8, u8) {
    if unit < 4 {
        return (packed[unit] & 63, packed[unit + 4] & 63);
    }
    let halves = packed[unit + 4];
    (halves & 15 | packed[unit - 4] >> 6 << 4, halves >> 4 | packed[unit] >> 6 << 4)
}

vectorised! {
    fn q4_k(bytes: &[u8], start: usize, out: &mut [f32]) {
        units::<256, 144>(bytes, start, out, |block, unit, out| {
            let (s, m) = six_bits(part(block, 4), unit);
            let (scale, offset) = (scale(block, 0) * f32::from(s), scale(block, 2) * f32::from(m));
            let shift = 4 * (unit % 2);
            for (out, byte) in out.iter_mut().zip(part::<UNIT>(block, 16 + unit / 2 * 32)) {
                *out = scale * f32::from(byte >> shift & 15) - offset;
            }
        });
    }
}

vectorised! {
    fn q5_k(bytes: &[u8], start: usize, out: &mut [f32]) {
        units::<256, 176>(bytes, start, out, |block, unit, out| {
            let (s, m) = six_bits(part(block, 4), unit);
            let (scale, offset) = (scale(block, 0) * f32::from(s), scale(block, 2) * f32::from(m));
            let shift = 4 * (unit % 2);
            let fifth = part::<UNIT>(block, 16);
            for ((out, byte), fifth) in out.iter_mut().zip(part::<UNIT>(block, 48 + unit / 2 * 32)).zip(fifth) {
                *out = scale * f32::from((byte >> shift & 15) | (fifth >> unit & 1) << 4) - offset;
            }
        });
    }
}

vectorised! {
    fn q6_k(bytes: &[u8], start: usize, out: &mut [f32]) {
        units::<256, 210>(bytes, start, out, |block, unit, out| {
            // Each half of the block is four units: of two, the low four bits are low halves of bytes, of two, high ones.
            let (half, quarter) = (unit / 4, unit % 4);
            let low = part::<UNIT>(block, 64 * half + 32 * (quarter % 2));
            let high = part::<UNIT>(block, 128 + 32 * half);
            let d = scale(block, 208);
            let scales = [0, 1].map(|i| d * f32::from(block[192 + 2 * unit + i] as i8));
            let (shift_low, shift_high) = (4 * (quarter / 2), 2 * quarter);
            for (i, ((out, low), high)) in out.iter_mut().zip(low).zip(high).enumerate() {
                let q = (low >> shift_low & 15) | (high >> shift_high & 3) << 4;
                *out = scales[i / 16] * f32::from(q as i8 - 32);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::{Epilogue, Factor, Int8Factor, Output, PackedShape, multiply, multiply_int8};
    use crate::{Buffer, Plain};
    use half::bf16;

    /// Bytes of blocks with scales of ordinary size.
    fn blocks(kind: BlockType, count: usize) -> Vec<u8> {
        let byte = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 13) as u8;
        let mut bytes: Vec<u8> = (0..count * kind.bytes()).map(byte).collect();
        for (i, block) in bytes.chunks_exact_mut(kind.bytes()).enumerate() {
            for at in kind.scales().step_by(2) {
                // What 32 numbers are added to is negative; what 256 have taken off is not.
                let sign = if at == 2 && kind.numbers() == UNIT { -9.0 } else { 1.0 };
                let scale = f16::from_f32(sign * (i % 7 + 1) as f32 / 4096.0);
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }

    fn widened(isa: Isa, b: &Blocks<'_>) -> Vec<f32> {
        let mut wide = vec![0.0; b.rows * b.columns];
        b.kind.widen(isa, b.bytes, 0, &mut wide);
        wide
    }

    #[test]
    fn every_instruction_set_widens_alike_and_from_any_unit_on() {
        for kind in BlockType::ALL {
            let (bytes, count) = (blocks(kind, 12), 12 * kind.numbers());
            let b = Blocks::new(&bytes, kind, 1, count);
            let plain = widened(Isa::Portable, &b);
            assert!(plain.iter().any(|x| *x < 0.0) && plain.iter().any(|x| *x > 0.0), "{kind:?}");
            for isa in Isa::available() {
                assert_eq!(widened(isa, &b), plain, "{kind:?} {isa}");
                for start in (0..count).step_by(UNIT) {
                    let mut part = [0.0; UNIT];
                    b.widen(isa, 0, start, &mut part);
                    assert_eq!(part, plain[start..][..UNIT], "{kind:?} {isa} from {start}");
                }
            }
        }
    }

    fn product<T: crate::product::Factored>(isa: Isa, a: Matrix<'_>, b: Factor<'_, T>, columns: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; a.rows() * columns];
        multiply(isa, a, b, &Epilogue::default(), Output::F32(&mut out));
        out
    }

    /// The bits of products of blocks and of what they stand for; both packed in the same way, so nothing may differ.
    #[track_caller]
    fn check<T: crate::product::Factored + Plain>(isa: Isa, a: Matrix<'_>, b: &Blocks<'_>) {
        let wide = widened(isa, b);
        let wide = Matrix::new(Values::F32(&wide), b.rows, b.columns);
        let found = product::<T>(isa, a, Factor::Blocks(*b), b.rows);
        assert_eq!(found, product::<T>(isa, a, Factor::Plain(wide), b.rows), "{isa} {:?}", b.kind);
        let shape = PackedShape { columns: b.rows, inner: b.columns };
        let packed: Buffer<T> = shape.packed(isa, wide);
        assert_eq!(found, product::<T>(isa, a, Factor::Packed(&packed, shape), b.rows), "{isa} {:?}", b.kind);
    }

    #[test]
    fn products_of_blocks_are_those_of_the_numbers_they_stand_for() {
        for kind in BlockType::ALL {
            // Few rows meet panels that are packed on the way, many a factor that was packed before.
            for (rows, inner, columns) in [(3, 512, 37), (300, 256, 20), (1, 4096, 5), (70, 1536, 129)] {
                if !crate::testing::is_quick(rows * inner * columns) {
                    continue;
                }
                let bytes = blocks(kind, inner * columns / kind.numbers());
                let b = Blocks::new(&bytes, kind, columns, inner);
                let a: Vec<f32> = (0..rows * inner).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
                let a = Matrix::new(Values::F32(&a), rows, inner);
                for isa in Isa::available() {
                    check::<f32>(isa, a, &b);
                    check::<bf16>(isa, a, &b);
                    let wide = widened(isa, &b);
                    let factors = [
                        Int8Factor::of_blocks(isa, &b),
                        Int8Factor::new(isa, Matrix::new(Values::F32(&wide), columns, inner)),
                    ];
                    let [found, expected] = factors.map(|factor| {
                        let mut out = vec![f32::NAN; rows * columns];
                        multiply_int8(isa, a, &factor, &Epilogue::default(), Output::F32(&mut out));
                        out
                    });
                    assert_eq!(found, expected, "{isa} {kind:?} in int8");
                }
            }
        }
    }
}
