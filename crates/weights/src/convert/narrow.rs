use std::path::Path;

use half::{bf16, f16};

use super::quantise::quantised;
use crate::dtype::Dtype;
use crate::error::WeightsError;
use crate::fp8;

/// What keeps a tensor from being stored.
pub(super) enum Problem {
    NotFinite(u64),
    TooLarge(f32),
}

impl Problem {
    pub(super) fn of(self, file: &Path, name: &str, dtype: Dtype) -> WeightsError {
        match self {
            Problem::NotFinite(count) => {
                WeightsError::NotFinite { file: file.to_owned(), tensors: vec![(name.to_owned(), count)] }
            }
            Problem::TooLarge(value) => {
                WeightsError::TooLargeFor { file: file.to_owned(), name: name.to_owned(), dtype, value }
            }
        }
    }
}

/// The bytes of numbers in a type that weights may have. Of blocks, Q8_0 and Q4_K.
pub(super) fn narrowed(values: &[f32], dtype: Dtype) -> Result<Vec<u8>, Problem> {
    let lost = values.iter().filter(|value| !value.is_finite()).count() as u64;
    if lost > 0 {
        return Err(Problem::NotFinite(lost));
    }
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let bound = match dtype {
        Dtype::F16 => f16::MAX.to_f32(),
        Dtype::F8E4M3 => 448.0,
        // The largest whole number of a block, times a scale.
        Dtype::Q8_0 => 127.0 * f16::MAX.to_f32(),
        Dtype::Q4K => 63.0 * f16::MAX.to_f32(),
        _ => f32::MAX,
    };
    if largest > bound {
        return Err(Problem::TooLarge(largest));
    }
    Ok(match dtype {
        Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        Dtype::F8E4M3 => values.iter().map(|&value| fp8::narrow(value)).collect(),
        _ => match dtype.blocks() {
            Some(kind) => quantised(kind, values),
            None => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        },
    })
}
