//! GGUF, the files of llama.cpp and of those who took them over for pictures.
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>
//!
//! What this module does not do: know names of tensors, or what a type's numbers stand for.

mod cursor;
mod header;
mod write;

pub use header::GgufError;
pub(crate) use header::{MAGIC, parse};
pub(crate) use write::{ALIGNMENT, About, write_header};

use crate::dtype::Dtype;

/// The types that are read, with ggml's numbers for them.
const TYPES: [(u32, Dtype); 16] = [
    (0, Dtype::F32),
    (1, Dtype::F16),
    (2, Dtype::Q4_0),
    (3, Dtype::Q4_1),
    (6, Dtype::Q5_0),
    (7, Dtype::Q5_1),
    (8, Dtype::Q8_0),
    (12, Dtype::Q4K),
    (13, Dtype::Q5K),
    (14, Dtype::Q6K),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (27, Dtype::I64),
    (28, Dtype::F64),
    (30, Dtype::BF16),
];

/// ggml's names of types that are not read, for messages.
const UNREAD: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// ggml's number for a type, where it has one.
pub(crate) fn number_of(dtype: Dtype) -> Option<u32> {
    TYPES.iter().find(|row| row.1 == dtype).map(|row| row.0)
}
