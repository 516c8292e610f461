//! From a file's bytes to Burn's tensor data.

use burn::tensor::{AllocationProperty, Bytes as TensorBytes, DType};
use bytes::Bytes;
use half::{bf16, f16};
use rayon::prelude::*;
use rectiflow_nn::{BlockType, TensorData, widen_blocks};

use crate::dtype::Dtype;
use crate::fp8;

/// The numbers of `pieces`, one after the other, as one tensor. `None` for a type that Burn does not have.
///
/// One aligned piece is not copied: the tensor is the mapped file. Blocks are widened to f32; every piece has whole ones.
pub(crate) fn to_data(pieces: &[Bytes], dtype: Dtype, shape: Vec<usize>) -> Option<TensorData> {
    if is_in_place(pieces, dtype)
        && let ([piece], Some(stored)) = (pieces, in_place(dtype))
    {
        let bytes = TensorBytes::from_shared(piece.clone(), AllocationProperty::File);
        return Some(TensorData::from_bytes(bytes, shape, stored));
    }
    to_owned_data(pieces, dtype, shape)
}

/// Whether [`to_data`] gives the mapped file itself.
pub(crate) fn is_in_place(pieces: &[Bytes], dtype: Dtype) -> bool {
    matches!((pieces, in_place(dtype)), ([piece], Some(stored)) if is_usable_in_place(piece, stored))
}

/// As [`to_data`], always in memory of its own.
///
/// Collected as numbers, so that the copy is aligned and in the machine's byte order.
pub(crate) fn to_owned_data(pieces: &[Bytes], dtype: Dtype, shape: Vec<usize>) -> Option<TensorData> {
    Some(match dtype {
        Dtype::F32 => TensorData::new(values(pieces, f32::from_le_bytes), shape),
        Dtype::F16 => TensorData::new(values(pieces, f16::from_le_bytes), shape),
        Dtype::BF16 => TensorData::new(values(pieces, bf16::from_le_bytes), shape),
        Dtype::I32 => TensorData::new(values(pieces, i32::from_le_bytes), shape),
        Dtype::I64 => TensorData::new(values(pieces, i64::from_le_bytes), shape),
        Dtype::U8 => TensorData::new(values(pieces, |[byte]| byte), shape),
        Dtype::F8E4M3 => TensorData::new(values(pieces, |[byte]| fp8::widen(byte)), shape),
        _ => TensorData::new(widened(pieces, dtype.blocks()?), shape),
    })
}

/// Burn's name for numbers that need no conversion.
fn in_place(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::I32 => Some(DType::I32),
        Dtype::I64 => Some(DType::I64),
        Dtype::U8 => Some(DType::U8),
        _ => None,
    }
}

fn is_usable_in_place(piece: &Bytes, dtype: DType) -> bool {
    cfg!(target_endian = "little") && piece.as_ptr().addr().is_multiple_of(dtype.size())
}

/// The numbers that blocks stand for, on all threads.
fn widened(pieces: &[Bytes], kind: BlockType) -> Vec<f32> {
    /// Enough to share, few enough to share evenly.
    const BLOCKS_AT_ONCE: usize = 1 << 10;
    let blocks = |piece: &Bytes| piece.len() / kind.bytes();
    let mut wide = vec![0.0; pieces.iter().map(blocks).sum::<usize>() * kind.numbers()];
    let mut rest = &mut wide[..];
    for piece in pieces {
        let (out, behind) = rest.split_at_mut(blocks(piece) * kind.numbers());
        let chunks = piece.par_chunks(BLOCKS_AT_ONCE * kind.bytes());
        chunks.zip(out.par_chunks_mut(BLOCKS_AT_ONCE * kind.numbers())).for_each(|(bytes, out)| {
            widen_blocks(kind, bytes, out);
        });
        rest = behind;
    }
    wide
}

/// On all threads: a matrix that is widened where it is used is waited for.
fn values<const N: usize, T: Send>(pieces: &[Bytes], from_le_bytes: impl Fn([u8; N]) -> T + Sync) -> Vec<T> {
    let chunks = pieces.par_iter().flat_map(|piece| piece.as_chunks::<N>().0.par_chunks(1 << 16));
    let numbers = chunks.flat_map_iter(|chunk| chunk.iter().map(|&bytes| from_le_bytes(bytes)));
    numbers.collect()
}
