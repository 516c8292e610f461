use std::fmt;

use burn::tensor::DType;
use rectiflow_nn::TensorData;
use serde::{Serialize, Serializer};

/// How one number is stored in a safetensors file.
///
/// A model's weights may be `F32`, `F16`, `BF16` or `F8E4M3`; the others are named when found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the variants are the format's own names")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    F6E2M3,
    F6E3M2,
    F4,
    C64,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

/// Every type of the format (safetensors 0.8) with its name in the header and its width.
const TYPES: [(Dtype, &str, u64); 22] = [
    (Dtype::F64, "F64", 64),
    (Dtype::F32, "F32", 32),
    (Dtype::F16, "F16", 16),
    (Dtype::BF16, "BF16", 16),
    (Dtype::F8E4M3, "F8_E4M3", 8),
    (Dtype::F8E5M2, "F8_E5M2", 8),
    (Dtype::F8E8M0, "F8_E8M0", 8),
    (Dtype::F8E4M3Fnuz, "F8_E4M3FNUZ", 8),
    (Dtype::F8E5M2Fnuz, "F8_E5M2FNUZ", 8),
    (Dtype::F6E2M3, "F6_E2M3", 6),
    (Dtype::F6E3M2, "F6_E3M2", 6),
    (Dtype::F4, "F4", 4),
    (Dtype::C64, "C64", 64),
    (Dtype::I64, "I64", 64),
    (Dtype::I32, "I32", 32),
    (Dtype::I16, "I16", 16),
    (Dtype::I8, "I8", 8),
    (Dtype::U64, "U64", 64),
    (Dtype::U32, "U32", 32),
    (Dtype::U16, "U16", 16),
    (Dtype::U8, "U8", 8),
    (Dtype::Bool, "BOOL", 8),
];

impl Dtype {
    /// What a tensor's numbers are stored as. None for types that are not written.
    pub fn of(data: &TensorData) -> Option<Dtype> {
        Dtype::of_elements(data.dtype())
    }

    /// What numbers of Burn's type are stored as.
    pub(crate) fn of_elements(dtype: DType) -> Option<Dtype> {
        match dtype {
            DType::F32 => Some(Dtype::F32),
            DType::F16 => Some(Dtype::F16),
            DType::BF16 => Some(Dtype::BF16),
            DType::I32 => Some(Dtype::I32),
            DType::I64 => Some(Dtype::I64),
            DType::U8 => Some(Dtype::U8),
            _ => None,
        }
    }

    /// The type that a header calls `name`.
    pub fn from_name(name: &str) -> Option<Dtype> {
        TYPES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Its name in a header.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Width of one element. Some types are narrower than a byte.
    pub fn bits(self) -> u64 {
        self.row().2
    }

    /// Whether a model's weights may be stored in it.
    pub fn is_weight(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8E4M3)
    }

    fn row(self) -> &'static (Dtype, &'static str, u64) {
        // The table is in the order of the enum; a test holds them together.
        &TYPES[self as usize]
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Dtype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (at, (dtype, name, _)) in TYPES.iter().enumerate() {
            assert_eq!(*dtype as usize, at, "{name}");
            assert_eq!(Dtype::from_name(name), Some(*dtype));
        }
    }

    #[test]
    fn widths_agree_with_the_formats_own_crate() {
        for (dtype, name, bits) in TYPES {
            let theirs: safetensors::Dtype = serde_json::from_value(name.into()).unwrap();
            assert_eq!(theirs.bitsize() as u64, bits, "{dtype}");
        }
    }
}
