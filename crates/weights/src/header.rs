//! The head of a safetensors file: 8 bytes of length, that much JSON, then the tensors' bytes without gaps.
//! <https://github.com/huggingface/safetensors#format>
//!
//! Nothing in a header is believed before it is checked, and no allocation depends on a number in it: names
//! and shapes are copied from JSON that is really there, within the `*_MAX` limits below.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::dtype::Dtype;
use crate::error::quoted;
use crate::gguf::{self, GgufError};

/// The largest published SD3 file has a header of about 0.2 MB.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// What the format itself allows. The first bytes of anything else, read as a length, are nearly always more.
const HEADER_BYTES_OF_FORMAT: u64 = 100_000_000;
/// The largest published SD3 file has about 1,500 tensors.
pub(crate) const TENSORS_MAX: usize = 1 << 16;
/// Convolutions have 4.
pub(crate) const RANK_MAX: usize = 8;

const LENGTH_BYTES: usize = 8;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Its dimensions, slowest first.
    pub shape: Vec<usize>,
    /// Where its bytes are, counted from the end of the header.
    pub range: Range<usize>,
}

impl TensorInfo {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        // Checked when the header was read.
        self.shape.iter().map(|&dim| dim as u64).product()
    }
}

/// A checked header: the tensors lie inside the file, none on another, and are as long as their shapes say. In a
/// safetensors file they fill it; a GGUF file has gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The free text under `__metadata__`; of a GGUF file, its single values as text.
    pub metadata: BTreeMap<String, String>,
    /// Where the tensors' bytes begin in the file.
    pub data_start: usize,
}

/// Why a file is not a readable safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum HeaderError {
    #[error("it is empty")]
    Empty,
    #[error("it has {bytes} bytes and even the length of a header takes 8")]
    TooShort { bytes: u64 },
    #[error("its first 8 bytes are not the length of a header")]
    NotALength,
    #[error("its header should be {header} bytes long, but the file has {file} bytes in all")]
    HeaderPastEnd { header: u64, file: u64 },
    #[error("its header is {header} bytes long; at most {HEADER_BYTES_MAX} are read")]
    HeaderTooLong { header: u64 },
    #[error("its header is not what the format asks for: {0}")]
    Malformed(String),
    #[error("tensor {} is listed twice", quoted(.name))]
    Duplicate { name: String },
    #[error("tensor {} has type {}, which the format does not have", quoted(.name), quoted(.dtype))]
    UnknownDtype { name: String, dtype: String },
    #[error("tensor {} has an impossible shape, {shape:?} of {dtype}", quoted(.name))]
    ImpossibleShape { name: String, dtype: Dtype, shape: Vec<u64> },
    #[error("tensor {} takes {found} bytes, but {shape:?} of {dtype} takes {expected}", quoted(.name))]
    WrongLength { name: String, dtype: Dtype, shape: Vec<u64>, expected: u64, found: u64 },
    #[error("tensor {} ends before it begins", quoted(.name))]
    Backwards { name: String },
    #[error("tensor {} overlaps the one before it", quoted(.name))]
    Overlap { name: String },
    #[error("{bytes} bytes before tensor {} belong to no tensor", quoted(.name))]
    Hole { name: String, bytes: u64 },
    #[error("it is cut short: expected {expected} bytes, it has {found}")]
    Truncated { expected: u64, found: u64 },
    #[error("it has {found} bytes where its tensors end at {expected}")]
    Trailing { expected: u64, found: u64 },
}

impl HeaderError {
    /// Whether an interrupted download looks like this.
    pub(crate) fn is_cut_short(&self) -> bool {
        use HeaderError::{Empty, HeaderPastEnd, TooShort, Truncated};
        matches!(self, Empty | TooShort { .. } | HeaderPastEnd { .. } | Truncated { .. })
    }
}

impl Header {
    /// Reads and checks the header of a GGUF file: arguments as of [`Header::parse`].
    pub fn parse_gguf(start: &[u8], file_len: u64) -> Result<Header, GgufError> {
        gguf::parse(start, file_len)
    }

    /// Reads and checks the header of a safetensors file.
    ///
    /// `start` is the file's beginning, at least through the header; `file_len` the length of all of it.
    pub fn parse(start: &[u8], file_len: u64) -> Result<Header, HeaderError> {
        let json = json_part(start, file_len)?;
        let listed: Listed = serde_json::from_slice(json).map_err(|error| HeaderError::Malformed(error.to_string()))?;
        let data_start = LENGTH_BYTES + json.len();
        let tensors = check(listed.tensors, data_start as u64, file_len)?;
        Ok(Header { tensors, metadata: listed.metadata, data_start })
    }
}

fn json_part(start: &[u8], file_len: u64) -> Result<&[u8], HeaderError> {
    if file_len == 0 {
        return Err(HeaderError::Empty);
    }
    let Some((length, rest)) = start.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(HeaderError::TooShort { bytes: file_len });
    };
    let header = u64::from_le_bytes(*length);
    if header > HEADER_BYTES_OF_FORMAT {
        return Err(HeaderError::NotALength);
    }
    if header > HEADER_BYTES_MAX {
        return Err(HeaderError::HeaderTooLong { header });
    }
    if header > file_len.saturating_sub(LENGTH_BYTES as u64) {
        return Err(HeaderError::HeaderPastEnd { header, file: file_len });
    }
    let json = rest.get(..header as usize).ok_or(HeaderError::HeaderPastEnd { header, file: LENGTH_BYTES as u64 })?;
    match json.first() {
        Some(b'{') => Ok(json),
        _ => Err(HeaderError::Malformed("it does not begin with `{`".to_owned())),
    }
}

/// Checks every tensor by itself, then that together they fill the file.
fn check(
    listed: Vec<(String, Entry<'_>)>,
    data_start: u64,
    file_len: u64,
) -> Result<BTreeMap<String, TensorInfo>, HeaderError> {
    let mut tensors = BTreeMap::new();
    for (name, entry) in listed {
        let info = entry.check(&name)?;
        if tensors.contains_key(&name) {
            return Err(HeaderError::Duplicate { name });
        }
        tensors.insert(name, info);
    }
    let expected = data_start.saturating_add(check_tiling(&tensors)?);
    match expected.cmp(&file_len) {
        Ordering::Equal => Ok(tensors),
        Ordering::Greater => Err(HeaderError::Truncated { expected, found: file_len }),
        Ordering::Less => Err(HeaderError::Trailing { expected, found: file_len }),
    }
}

/// The tensors lie one after the other. Returns where the last one ends.
fn check_tiling(tensors: &BTreeMap<String, TensorInfo>) -> Result<u64, HeaderError> {
    let mut in_file_order: Vec<_> = tensors.iter().collect();
    in_file_order.sort_by_key(|(_, info)| (info.range.start, info.range.end));
    let mut end = 0;
    for (name, info) in in_file_order {
        if info.range.start < end {
            return Err(HeaderError::Overlap { name: name.clone() });
        }
        if info.range.start > end {
            return Err(HeaderError::Hole { name: name.clone(), bytes: (info.range.start - end) as u64 });
        }
        end = info.range.end;
    }
    Ok(end as u64)
}

/// One tensor as the header has it.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Dims,
    data_offsets: (u64, u64),
}

impl Entry<'_> {
    fn check(self, name: &str) -> Result<TensorInfo, HeaderError> {
        let name = || name.to_owned();
        // The format has no numbers in blocks.
        let Some(dtype) = Dtype::from_name(&self.dtype).filter(|dtype| dtype.blocks().is_none()) else {
            return Err(HeaderError::UnknownDtype { name: name(), dtype: self.dtype.into_owned() });
        };
        let (begin, end) = self.data_offsets;
        let shape = self.shape.0;
        let Some(expected) = byte_len(&shape, dtype) else {
            return Err(HeaderError::ImpossibleShape { name: name(), dtype, shape });
        };
        let found = end.checked_sub(begin).ok_or_else(|| HeaderError::Backwards { name: name() })?;
        if found != expected {
            return Err(HeaderError::WrongLength { name: name(), dtype, shape, expected, found });
        }
        let dims = shape.iter().map(|&dim| usize::try_from(dim)).collect();
        match (dims, usize::try_from(begin), usize::try_from(end)) {
            (Ok(dims), Ok(begin), Ok(end)) => Ok(TensorInfo { dtype, shape: dims, range: begin..end }),
            _ => Err(HeaderError::ImpossibleShape { name: name(), dtype, shape }),
        }
    }
}

/// `None` if the product does not fit or does not fill whole bytes or blocks.
///
/// A 0 does not make the other dimensions possible: whoever works with them would overflow, depending on their
/// order.
pub(crate) fn byte_len(shape: &[u64], dtype: Dtype) -> Option<u64> {
    /// Of the widest type.
    const BITS_MAX: u64 = 64;
    let numbers_at_least =
        |dim_min: u64| shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim.max(dim_min)));
    numbers_at_least(1)?.checked_mul(BITS_MAX)?;
    dtype.bytes_of(numbers_at_least(0)?)
}

/// At most [`RANK_MAX`] dimensions.
struct Dims(Vec<u64>);

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(DimsVisitor)
    }
}

struct DimsVisitor;

impl<'de> Visitor<'de> for DimsVisitor {
    type Value = Dims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a shape of at most {RANK_MAX} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims, A::Error> {
        let mut dims = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if dims.len() == RANK_MAX {
                return Err(serde::de::Error::invalid_length(RANK_MAX + 1, &self));
            }
            dims.push(dim);
        }
        Ok(Dims(dims))
    }
}

/// The header's object, kept as a list so that a name given twice is seen.
#[derive(Default)]
struct Listed<'a> {
    tensors: Vec<(String, Entry<'a>)>,
    metadata: BTreeMap<String, String>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Listed<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ListedVisitor)
    }
}

struct ListedVisitor;

impl<'de> Visitor<'de> for ListedVisitor {
    type Value = Listed<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {TENSORS_MAX} tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed<'de>, A::Error> {
        let mut listed = Listed::default();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                listed.metadata = map.next_value()?;
                continue;
            }
            if listed.tensors.len() == TENSORS_MAX {
                return Err(serde::de::Error::invalid_length(TENSORS_MAX + 1, &self));
            }
            listed.tensors.push((name, map.next_value()?));
        }
        Ok(listed)
    }
}
