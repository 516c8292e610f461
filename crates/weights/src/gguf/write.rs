use std::collections::BTreeMap;
use std::io::{self, Write};

use super::{MAGIC, number_of};
use crate::dtype::Dtype;
use crate::write::Entry;

/// Bytes from which tensors begin at multiples of.
pub(crate) const ALIGNMENT: u64 = 32;
const VERSION: u32 = 3;
/// Of ggml's types in blocks.
const QUANTIZATION_VERSION: u32 = 2;
/// Types of metadata's values.
const U32: u32 = 4;
const STRING: u32 = 8;

/// What a file says of itself, as ComfyUI-GGUF and llama.cpp ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About {
    /// `sd3`, or that of a text encoder.
    pub(crate) architecture: &'static str,
}

/// Writes everything before the tensors' bytes, which follow in this order, each filled up to [`ALIGNMENT`].
pub(crate) fn write_header(out: &mut dyn Write, entries: &[Entry], about: About) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((entries.len() as u64).to_le_bytes());
    let file_type = file_type(entries);
    head.extend((2 + u64::from(file_type.is_some())).to_le_bytes());
    string(&mut head, "general.architecture");
    head.extend(STRING.to_le_bytes());
    string(&mut head, about.architecture);
    number(&mut head, "general.quantization_version", QUANTIZATION_VERSION);
    if let Some(file_type) = file_type {
        number(&mut head, "general.file_type", file_type);
    }
    let mut offset = 0_u64;
    for entry in entries {
        let unwritten = || io::Error::other(format!("GGUF has no type {}", entry.dtype));
        string(&mut head, &entry.name);
        // A single number has one dimension there.
        let shape = if entry.shape.is_empty() { &[1][..] } else { &entry.shape };
        head.extend((shape.len() as u32).to_le_bytes());
        for side in shape.iter().rev() {
            head.extend((*side as u64).to_le_bytes());
        }
        head.extend(number_of(entry.dtype).ok_or_else(unwritten)?.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += entry.bytes().next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    out.write_all(&head)
}

fn string(head: &mut Vec<u8>, text: &str) {
    head.extend((text.len() as u64).to_le_bytes());
    head.extend(text.as_bytes());
}

fn number(head: &mut Vec<u8>, key: &str, value: u32) {
    string(head, key);
    head.extend(U32.to_le_bytes());
    head.extend(value.to_le_bytes());
}

/// llama.cpp's number (`LLAMA_FTYPE_MOSTLY_...`) for the type that most numbers are in: if there are any, of those in blocks.
fn file_type(entries: &[Entry]) -> Option<u32> {
    let mut numbers = BTreeMap::<Dtype, usize>::new();
    for entry in entries {
        *numbers.entry(entry.dtype).or_default() += entry.shape.iter().product::<usize>();
    }
    let (most, _) = numbers.into_iter().max_by_key(|(dtype, numbers)| (dtype.blocks().is_some(), *numbers))?;
    Some(match most {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Q4_0 => 2,
        Dtype::Q4_1 => 3,
        Dtype::Q8_0 => 7,
        Dtype::Q5_0 => 8,
        Dtype::Q5_1 => 9,
        // Those of the K types whose tensors are of few other types, "small".
        Dtype::Q4K => 14,
        Dtype::Q5K => 16,
        Dtype::Q6K => 18,
        Dtype::BF16 => 32,
        _ => return None,
    })
}
