use std::fmt;

use burn::tensor::DType;
use rectiflow_nn::{BlockType, TensorData};
use serde::{Serialize, Serializer};

/// How numbers are stored in a file.
///
/// A model's weights may be `F32`, `F16`, `BF16`, `F8E4M3` or in blocks (`Q...`); the others are named when found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the variants are the formats' own names")]
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
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Every type of safetensors (0.8) with its name in the header and the width of a number in bits, then those of GGUF that
/// store numbers in blocks, with ggml's names.
const TYPES: [(Dtype, &str, Width); 30] = [
    (Dtype::F64, "F64", Width::Bits(64)),
    (Dtype::F32, "F32", Width::Bits(32)),
    (Dtype::F16, "F16", Width::Bits(16)),
    (Dtype::BF16, "BF16", Width::Bits(16)),
    (Dtype::F8E4M3, "F8_E4M3", Width::Bits(8)),
    (Dtype::F8E5M2, "F8_E5M2", Width::Bits(8)),
    (Dtype::F8E8M0, "F8_E8M0", Width::Bits(8)),
    (Dtype::F8E4M3Fnuz, "F8_E4M3FNUZ", Width::Bits(8)),
    (Dtype::F8E5M2Fnuz, "F8_E5M2FNUZ", Width::Bits(8)),
    (Dtype::F6E2M3, "F6_E2M3", Width::Bits(6)),
    (Dtype::F6E3M2, "F6_E3M2", Width::Bits(6)),
    (Dtype::F4, "F4", Width::Bits(4)),
    (Dtype::C64, "C64", Width::Bits(64)),
    (Dtype::I64, "I64", Width::Bits(64)),
    (Dtype::I32, "I32", Width::Bits(32)),
    (Dtype::I16, "I16", Width::Bits(16)),
    (Dtype::I8, "I8", Width::Bits(8)),
    (Dtype::U64, "U64", Width::Bits(64)),
    (Dtype::U32, "U32", Width::Bits(32)),
    (Dtype::U16, "U16", Width::Bits(16)),
    (Dtype::U8, "U8", Width::Bits(8)),
    (Dtype::Bool, "BOOL", Width::Bits(8)),
    (Dtype::Q4_0, "Q4_0", Width::Blocks(BlockType::Q4_0)),
    (Dtype::Q4_1, "Q4_1", Width::Blocks(BlockType::Q4_1)),
    (Dtype::Q5_0, "Q5_0", Width::Blocks(BlockType::Q5_0)),
    (Dtype::Q5_1, "Q5_1", Width::Blocks(BlockType::Q5_1)),
    (Dtype::Q8_0, "Q8_0", Width::Blocks(BlockType::Q8_0)),
    (Dtype::Q4K, "Q4_K", Width::Blocks(BlockType::Q4K)),
    (Dtype::Q5K, "Q5_K", Width::Blocks(BlockType::Q5K)),
    (Dtype::Q6K, "Q6_K", Width::Blocks(BlockType::Q6K)),
];

/// What numbers take.
#[derive(Clone, Copy)]
enum Width {
    /// Each by itself.
    Bits(u64),
    /// Together.
    Blocks(BlockType),
}

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

    /// The type that files call `name`.
    pub fn from_name(name: &str) -> Option<Dtype> {
        TYPES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of as many numbers. `None` if they are more than a number holds, no whole bytes, or no whole blocks.
    pub fn bytes_of(self, numbers: u64) -> Option<u64> {
        let exactly = |total: u64, of: u64| total.is_multiple_of(of).then_some(total / of);
        match self.row().2 {
            Width::Bits(bits) => exactly(numbers.checked_mul(bits)?, 8),
            Width::Blocks(kind) => exactly(numbers, kind.numbers() as u64)?.checked_mul(kind.bytes() as u64),
        }
    }

    /// How its numbers share scales, where they do.
    pub fn blocks(self) -> Option<BlockType> {
        match self.row().2 {
            Width::Bits(_) => None,
            Width::Blocks(blocks) => Some(blocks),
        }
    }

    /// Bits of a number by itself; 0 where it has none.
    pub(crate) fn bits(self) -> u64 {
        match self.row().2 {
            Width::Bits(bits) => bits,
            Width::Blocks(_) => 0,
        }
    }

    /// Whether a model's weights may be stored in it.
    pub fn is_weight(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F8E4M3) || self.blocks().is_some()
    }

    fn row(self) -> &'static (Dtype, &'static str, Width) {
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
        for (dtype, name, _) in TYPES.iter().filter(|row| row.0.blocks().is_none()) {
            let theirs: safetensors::Dtype = serde_json::from_value((*name).into()).unwrap();
            assert_eq!(Some(theirs.bitsize() as u64), dtype.bytes_of(8), "{dtype}");
        }
    }

    #[test]
    fn numbers_that_do_not_fill_bytes_or_blocks_have_no_length() {
        assert_eq!((Dtype::F4.bytes_of(3), Dtype::F4.bytes_of(4)), (None, Some(2)));
        assert_eq!((Dtype::Q8_0.bytes_of(48), Dtype::Q8_0.bytes_of(64)), (None, Some(68)));
        assert_eq!((Dtype::Q4K.bytes_of(128), Dtype::Q4K.bytes_of(512)), (None, Some(288)));
        assert_eq!(Dtype::F32.bytes_of(u64::MAX / 16), None);
    }
}
