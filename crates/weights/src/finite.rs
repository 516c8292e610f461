//! Looks for values that are not numbers, on the stored bits.
//!
//! A released checkpoint has none; one that has was damaged or came out of a training that diverged. Either
//! way every picture would be black, hours later and without a word.

use rayon::prelude::*;
use rectiflow_nn::BlockType;

use crate::dtype::Dtype;

/// Small enough to share a big tensor among threads, large enough to make the sharing cheap.
const CHUNK_BYTES: usize = 1 << 20;

/// How many values of each tensor are NaN or infinite. All tensors are read, on all threads.
pub(crate) fn count_not_finite(tensors: &[(Dtype, &[u8])]) -> Vec<u64> {
    let chunks: Vec<(usize, Dtype, &[u8])> = tensors
        .iter()
        .enumerate()
        .flat_map(|(at, &(dtype, bytes))| bytes.chunks(chunk_bytes(dtype)).map(move |chunk| (at, dtype, chunk)))
        .collect();
    let bad: Vec<(usize, u64)> = chunks
        .par_iter()
        .filter(|(_, dtype, chunk)| has_not_finite(*dtype, chunk))
        .map(|&(at, dtype, chunk)| (at, count(dtype, chunk)))
        .collect();
    let mut counts = vec![0; tensors.len()];
    for (at, count) in bad {
        counts[at] += count;
    }
    counts
}

/// In whole blocks, where numbers share scales.
fn chunk_bytes(dtype: Dtype) -> usize {
    let whole = dtype.blocks().map_or(1, BlockType::bytes);
    CHUNK_BYTES / whole * whole
}

/// A value is not finite when its exponent bits are all ones; e4m3fn gives up only one pattern for that.
const F32_EXPONENT: u32 = 0x7f80_0000;
const F16_EXPONENT: u16 = 0x7c00;
const BF16_EXPONENT: u16 = 0x7f80;
const E4M3_NAN: u8 = 0x7f;

/// Written without an early exit, so that it becomes vector code. 4 GiB on two cores: 0.2 s from the page
/// cache, in every type; 2 s from a disk from which `dd` needs 4 s.
fn has_not_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    fn any<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool) -> bool {
        bytes.as_chunks::<N>().0.iter().fold(false, |found, &value| found | is_bad(value))
    }
    match dtype {
        Dtype::F32 => any(bytes, f32_is_bad),
        Dtype::F16 => any(bytes, f16_is_bad),
        Dtype::BF16 => any(bytes, bf16_is_bad),
        Dtype::F8E4M3 => any(bytes, e4m3_is_bad),
        _ => dtype.blocks().is_some_and(|kind| bad_blocks(kind, bytes) > 0),
    }
}

fn count(dtype: Dtype, bytes: &[u8]) -> u64 {
    fn all<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool) -> u64 {
        bytes.as_chunks::<N>().0.iter().filter(|value| is_bad(**value)).count() as u64
    }
    match dtype {
        Dtype::F32 => all(bytes, f32_is_bad),
        Dtype::F16 => all(bytes, f16_is_bad),
        Dtype::BF16 => all(bytes, bf16_is_bad),
        Dtype::F8E4M3 => all(bytes, e4m3_is_bad),
        _ => dtype.blocks().map_or(0, |kind| bad_blocks(kind, bytes) * kind.numbers() as u64),
    }
}

/// Blocks that have a scale which is not finite: then none of their numbers is.
fn bad_blocks(kind: BlockType, bytes: &[u8]) -> u64 {
    let is_bad = |block: &&[u8]| block[kind.scales()].as_chunks().0.iter().any(|scale| f16_is_bad(*scale));
    bytes.chunks_exact(kind.bytes()).filter(is_bad).count() as u64
}

fn f32_is_bad(value: [u8; 4]) -> bool {
    u32::from_le_bytes(value) & F32_EXPONENT == F32_EXPONENT
}

fn f16_is_bad(value: [u8; 2]) -> bool {
    u16::from_le_bytes(value) & F16_EXPONENT == F16_EXPONENT
}

fn bf16_is_bad(value: [u8; 2]) -> bool {
    u16::from_le_bytes(value) & BF16_EXPONENT == BF16_EXPONENT
}

fn e4m3_is_bad([value]: [u8; 1]) -> bool {
    value & E4M3_NAN == E4M3_NAN
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::fp8;

    fn counted(dtype: Dtype, bytes: &[u8]) -> u64 {
        count_not_finite(&[(dtype, bytes)])[0]
    }

    #[test]
    fn every_16_bit_pattern_is_judged_as_half_judges_it() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            assert_eq!(counted(Dtype::F16, &bytes), u64::from(!f16::from_bits(bits).is_finite()), "{bits:#x}");
            assert_eq!(counted(Dtype::BF16, &bytes), u64::from(!bf16::from_bits(bits).is_finite()), "{bits:#x}");
        }
    }

    #[test]
    fn every_8_bit_pattern_is_judged_as_the_table_judges_it() {
        for byte in 0..=u8::MAX {
            assert_eq!(counted(Dtype::F8E4M3, &[byte]), u64::from(!fp8::widen(byte).is_finite()), "{byte:#x}");
        }
    }

    #[test]
    fn a_bad_scale_makes_all_numbers_of_its_block_bad() {
        for dtype in [Dtype::Q8_0, Dtype::Q4_1, Dtype::Q4K, Dtype::Q6K] {
            let kind = dtype.blocks().unwrap();
            // More than a chunk; the last scale of the last block is bad.
            let mut bytes = vec![0x3c; (CHUNK_BYTES / kind.bytes() + 2) * kind.bytes()];
            assert_eq!(counted(dtype, &bytes), 0, "{dtype}");
            let at = bytes.len() - kind.bytes() + kind.scales().end - 2;
            bytes[at..at + 2].copy_from_slice(&f16::INFINITY.to_le_bytes());
            assert_eq!(counted(dtype, &bytes), kind.numbers() as u64, "{dtype}");
        }
    }

    #[test]
    fn f32_is_judged_at_its_edges() {
        for (value, bad) in
            [(f32::MAX, 0), (f32::MIN, 0), (-0.0, 0), (f32::INFINITY, 1), (-f32::INFINITY, 1), (f32::NAN, 1)]
        {
            assert_eq!(counted(Dtype::F32, &value.to_le_bytes()), bad, "{value}");
        }
    }

    #[test]
    fn bad_values_are_found_wherever_they_are_and_charged_to_their_tensor() {
        let good = vec![0_u8; 3 * CHUNK_BYTES];
        let mut all_bad = good.clone();
        for at in [0, CHUNK_BYTES / 2 - 1, CHUNK_BYTES / 2, 3 * CHUNK_BYTES / 2 - 1] {
            let mut bytes = good.clone();
            for spoilt in [&mut bytes, &mut all_bad] {
                spoilt[2 * at..2 * at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
            }
            assert_eq!(count_not_finite(&[(Dtype::F16, &good), (Dtype::F16, &bytes)]), [0, 1], "{at}");
        }
        assert_eq!(counted(Dtype::F16, &all_bad), 4);
    }
}
