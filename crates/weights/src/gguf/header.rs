//! The head of a GGUF file: a magic word, how many tensors and values of metadata, these, and then the tensors' bytes at
//! aligned places.
//!
//! Nothing is believed before it is checked, and no allocation depends on a number: what is kept is copied from bytes that
//! are really there, within the `*_MAX` limits.

use std::collections::BTreeMap;

use super::cursor::{Cursor, Value};
use super::{TYPES, UNREAD};
use crate::dtype::Dtype;
use crate::error::quoted;
use crate::header::{Header, RANK_MAX, TENSORS_MAX, TensorInfo, byte_len};

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Versions whose counts and lengths have 64 bits.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// A tokenizer of 256,000 words takes 8 MB.
const HEADER_BYTES_MAX: usize = 64 << 20;
/// Models have a few dozen.
const VALUES_MAX: u64 = 1 << 16;
/// Unless the file says otherwise.
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 16;

/// Shapes before they were changed for a quantiser, by the tensor's name: of city96's converter for ComfyUI.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// Why a file is not a readable GGUF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum GgufError {
    #[error("it is cut short within its header")]
    CutShort,
    #[error("its header is longer than the {HEADER_BYTES_MAX} bytes that are read")]
    HeaderTooLong,
    #[error("it does not begin with `GGUF`")]
    NotGguf,
    #[error("it is of version {version}; versions 2 and 3 are read")]
    Version { version: u32 },
    #[error("its numbers are big-endian")]
    BigEndian,
    #[error("it should have {count} tensors; at most {TENSORS_MAX} are read")]
    TooManyTensors { count: u64 },
    #[error("it should have {count} values of metadata; at most {VALUES_MAX} are read")]
    TooManyValues { count: u64 },
    #[error("it is one of {count} pieces of a model")]
    Piece { count: i64 },
    #[error("a name in it is not UTF-8 text")]
    NotText,
    #[error("its metadata has a value of type {kind}, which the format does not have")]
    UnknownValue { kind: u32 },
    #[error("its metadata has arrays in arrays in arrays")]
    DeepArray,
    #[error("its tensors are aligned to {alignment} bytes, which is no power of two from 8 to {ALIGNMENT_MAX}")]
    Alignment { alignment: i64 },
    #[error("tensor {} is listed twice", quoted(.name))]
    Duplicate { name: String },
    #[error("tensor {} has {rank} dimensions; at most {RANK_MAX} are read", quoted(.name))]
    Rank { name: String, rank: u32 },
    #[error("tensor {} is stored as {}, which is not read", quoted(.name), type_name(*.number))]
    UnknownType { name: String, number: u32 },
    #[error("tensor {} has an impossible shape, {shape:?} of {dtype}", quoted(.name))]
    ImpossibleShape { name: String, dtype: Dtype, shape: Vec<u64> },
    #[error("tensor {} begins at {offset}, which is not aligned", quoted(.name))]
    Unaligned { name: String, offset: u64 },
    #[error("tensor {} overlaps the one before it", quoted(.name))]
    Overlap { name: String },
    #[error("it is cut short: expected at least {expected} bytes, it has {found}")]
    Truncated { expected: u64, found: u64 },
}

impl GgufError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            GgufError::CutShort | GgufError::Truncated { .. } => "the download was interrupted: download it again",
            GgufError::UnknownType { .. } => "use a file in Q8_0, Q4_0 to Q5_1, Q4_K to Q6_K, F16, BF16 or F32",
            GgufError::Version { .. } => "use a file that was made since August 2023",
            GgufError::BigEndian => "use the little-endian file",
            GgufError::Piece { .. } => "join the pieces with `llama-gguf-split --merge`",
            _ => "it is damaged or something else: download it again",
        }
    }
}

fn type_name(number: u32) -> String {
    UNREAD.iter().find(|row| row.0 == number).map_or_else(|| format!("type {number}"), |row| row.1.to_owned())
}

/// Reads and checks a header. `start` is the file's beginning, at least through the header; `file_len` the length of all
/// of it. Of the metadata, single values are kept, as text.
pub(crate) fn parse(start: &[u8], file_len: u64) -> Result<Header, GgufError> {
    let mut cursor = Cursor::new(&start[..start.len().min(HEADER_BYTES_MAX)], file_len);
    let (tensors, values) = counts(&mut cursor)?;
    let metadata = Metadata::read(&mut cursor, values)?;
    let mut listed = Vec::new();
    for _ in 0..tensors {
        listed.push(Entry::read(&mut cursor, &metadata)?);
    }
    let data_start = (cursor.at() as u64).next_multiple_of(metadata.alignment);
    let tensors = check(listed, &metadata, data_start, file_len)?;
    // A file without tensors may end before its data would begin.
    let data_start = usize::try_from(data_start.min(file_len)).unwrap_or(usize::MAX);
    Ok(Header { tensors, metadata: metadata.texts, data_start })
}

fn counts(cursor: &mut Cursor<'_>) -> Result<(u64, u64), GgufError> {
    if cursor.take(MAGIC.len() as u64)? != MAGIC {
        return Err(GgufError::NotGguf);
    }
    let version = cursor.u32()?;
    if VERSIONS.contains(&version.swap_bytes()) {
        return Err(GgufError::BigEndian);
    }
    if !VERSIONS.contains(&version) {
        return Err(GgufError::Version { version });
    }
    let (tensors, values) = (cursor.u64()?, cursor.u64()?);
    if tensors > TENSORS_MAX as u64 {
        return Err(GgufError::TooManyTensors { count: tensors });
    }
    if values > VALUES_MAX {
        return Err(GgufError::TooManyValues { count: values });
    }
    Ok((tensors, values))
}

struct Metadata {
    texts: BTreeMap<String, String>,
    alignment: u64,
    /// By the tensor's name.
    shapes: BTreeMap<String, Vec<i64>>,
}

impl Metadata {
    fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, GgufError> {
        let mut metadata = Metadata { texts: BTreeMap::new(), alignment: ALIGNMENT_DEFAULT, shapes: BTreeMap::new() };
        for _ in 0..count {
            let key = cursor.name()?;
            match (key, cursor.value()?) {
                ("general.alignment", Value::Whole(alignment)) => {
                    let fits = u64::try_from(alignment).ok().filter(|a| a.is_power_of_two());
                    metadata.alignment =
                        fits.filter(|a| (8..=ALIGNMENT_MAX).contains(a)).ok_or(GgufError::Alignment { alignment })?;
                }
                ("split.count", Value::Whole(count)) if count > 1 => return Err(GgufError::Piece { count }),
                (key, Value::Wholes(shape)) => {
                    if let Some(name) = key.strip_prefix(ORIGINAL_SHAPE) {
                        metadata.shapes.insert(name.to_owned(), shape);
                    }
                }
                (key, Value::Text(text) | Value::Other(text)) => {
                    metadata.texts.insert(key.to_owned(), text);
                }
                (key, Value::Whole(number)) => {
                    metadata.texts.insert(key.to_owned(), number.to_string());
                }
                (_, Value::Skipped) => {}
            }
        }
        Ok(metadata)
    }
}

/// One tensor as the header has it.
struct Entry {
    name: String,
    dtype: Dtype,
    /// Slowest first.
    shape: Vec<u64>,
    offset: u64,
}

impl Entry {
    fn read(cursor: &mut Cursor<'_>, metadata: &Metadata) -> Result<Entry, GgufError> {
        let name = cursor.name()?.to_owned();
        let rank = cursor.u32()?;
        if rank as usize > RANK_MAX {
            return Err(GgufError::Rank { name, rank });
        }
        let mut shape = (0..rank).map(|_| cursor.u64()).collect::<Result<Vec<_>, _>>()?;
        // ggml's first dimension is the one whose numbers lie side by side.
        shape.reverse();
        let number = cursor.u32()?;
        let Some((_, dtype)) = TYPES.iter().find(|row| row.0 == number) else {
            return Err(GgufError::UnknownType { name, number });
        };
        let offset = cursor.u64()?;
        // Rows are in whole blocks, also those of a shape that was changed for that.
        let in_blocks = dtype
            .blocks()
            .is_none_or(|blocks| shape.last().is_some_and(|row| row.is_multiple_of(blocks.numbers() as u64)));
        if !in_blocks || byte_len(&shape, *dtype).is_none() {
            return Err(GgufError::ImpossibleShape { name, dtype: *dtype, shape });
        }
        let shape = match metadata.shapes.get(&name) {
            None => shape,
            Some(original) => original_shape(original, &shape).ok_or_else(|| GgufError::ImpossibleShape {
                name: name.clone(),
                dtype: *dtype,
                shape,
            })?,
        };
        Ok(Entry { name, dtype: *dtype, shape, offset })
    }
}

/// The shape before it was changed, if it has as many numbers.
fn original_shape(original: &[i64], changed: &[u64]) -> Option<Vec<u64>> {
    let shape = original.iter().map(|&side| u64::try_from(side).ok()).collect::<Option<Vec<_>>>()?;
    let numbers = |shape: &[u64]| shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
    let is_possible = shape.len() <= RANK_MAX && byte_len(&shape, Dtype::I8).is_some();
    (is_possible && numbers(&shape) == numbers(changed)).then_some(shape)
}

/// Every tensor lies inside the file, aligned, and on no other.
fn check(
    listed: Vec<Entry>,
    metadata: &Metadata,
    data_start: u64,
    file_len: u64,
) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
    let mut tensors = BTreeMap::new();
    for Entry { name, dtype, shape, offset } in listed {
        if !offset.is_multiple_of(metadata.alignment) {
            return Err(GgufError::Unaligned { name, offset });
        }
        let bytes = byte_len_of_all(&shape, dtype);
        let end = bytes.and_then(|bytes| offset.checked_add(bytes)).unwrap_or(u64::MAX);
        let expected = data_start.saturating_add(end);
        if expected > file_len {
            return Err(GgufError::Truncated { expected, found: file_len });
        }
        let sides = shape.iter().map(|&side| usize::try_from(side)).collect::<Result<Vec<_>, _>>();
        match (sides, usize::try_from(offset), usize::try_from(end)) {
            (Ok(sides), Ok(offset), Ok(end)) => {
                let info = TensorInfo { dtype, shape: sides, range: offset..end };
                if tensors.insert(name.clone(), info).is_some() {
                    return Err(GgufError::Duplicate { name });
                }
            }
            _ => return Err(GgufError::ImpossibleShape { name, dtype, shape }),
        }
    }
    let mut in_file_order: Vec<_> = tensors.iter().collect();
    in_file_order.sort_by_key(|(_, info)| (info.range.start, info.range.end));
    let pairs = in_file_order.windows(2);
    for pair in pairs {
        if pair[1].1.range.start < pair[0].1.range.end {
            return Err(GgufError::Overlap { name: pair[1].0.clone() });
        }
    }
    Ok(tensors)
}

fn byte_len_of_all(shape: &[u64], dtype: Dtype) -> Option<u64> {
    dtype.bytes_of(shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side))?)
}
