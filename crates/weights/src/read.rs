//! From a file's bytes to Burn's tensor data.

use burn::tensor::{AllocationProperty, Bytes as TensorBytes, DType};
use bytes::Bytes;
use half::{bf16, f16};
use rectiflow_nn::TensorData;

use crate::dtype::Dtype;
use crate::fp8;

/// The numbers of `pieces`, one after the other, as one tensor. `None` for a type that Burn does not have.
///
/// One aligned piece is not copied: the tensor is the mapped file.
pub(crate) fn to_data(pieces: &[Bytes], dtype: Dtype, shape: Vec<usize>) -> Option<TensorData> {
    let stored = match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::U8 => DType::U8,
        Dtype::F8E4M3 => return Some(TensorData::new(values(pieces, |[byte]| fp8::widen(byte)), shape)),
        _ => return None,
    };
    if let [piece] = pieces
        && is_usable_in_place(piece, stored)
    {
        let bytes = TensorBytes::from_shared(piece.clone(), AllocationProperty::File);
        return Some(TensorData::from_bytes(bytes, shape, stored));
    }
    Some(copied(pieces, stored, shape))
}

/// The same values in memory of their own.
pub(crate) fn detach(data: TensorData) -> TensorData {
    let (bytes, shape, dtype) = data.into_parts();
    copied(&[Bytes::copy_from_slice(&bytes)], dtype, shape.to_vec())
}

fn is_usable_in_place(piece: &Bytes, dtype: DType) -> bool {
    cfg!(target_endian = "little") && piece.as_ptr().addr().is_multiple_of(dtype.size())
}

/// Collected as numbers, so that the copy is aligned and in the machine's byte order.
fn copied(pieces: &[Bytes], dtype: DType, shape: Vec<usize>) -> TensorData {
    match dtype {
        DType::F32 => TensorData::new(values(pieces, f32::from_le_bytes), shape),
        DType::F16 => TensorData::new(values(pieces, f16::from_le_bytes), shape),
        DType::BF16 => TensorData::new(values(pieces, bf16::from_le_bytes), shape),
        DType::I32 => TensorData::new(values(pieces, i32::from_le_bytes), shape),
        DType::I64 => TensorData::new(values(pieces, i64::from_le_bytes), shape),
        DType::U8 => TensorData::new(values(pieces, u8::from_le_bytes), shape),
        other => panic!("to_data gives no {other:?}"),
    }
}

fn values<const N: usize, T>(pieces: &[Bytes], from_le_bytes: impl Fn([u8; N]) -> T) -> Vec<T> {
    let mut values = Vec::with_capacity(pieces.iter().map(|piece| piece.len() / N).sum());
    for piece in pieces {
        values.extend(piece.as_chunks::<N>().0.iter().map(|&bytes| from_le_bytes(bytes)));
    }
    values
}
