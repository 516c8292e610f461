use super::header::GgufError;

/// Reads one value after the other, and never past the end.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The file's length: `bytes` may be only its beginning.
    file_len: u64,
}

/// The types of values of metadata.
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// Arrays of arrays. Files have none; the format allows any depth.
const DEPTH_MAX: usize = 4;
/// A text that is kept. Chat templates are longer, and of no use here.
const TEXT_BYTES_MAX: usize = 4096;
/// Numbers of an array that are kept: dimensions of a tensor.
const KEPT_MAX: u64 = 16;

/// A value of metadata, as far as it is of use.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(i64),
    Other(String),
    /// A short array of whole numbers.
    Wholes(Vec<i64>),
    /// A long text or array, passed over.
    Skipped,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], file_len: u64) -> Self {
        Cursor { bytes, at: 0, file_len }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], GgufError> {
        let short = || self.short();
        let count = usize::try_from(count).map_err(|_| short())?;
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).ok_or_else(short)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn short(&self) -> GgufError {
        if self.file_len > self.bytes.len() as u64 { GgufError::HeaderTooLong } else { GgufError::CutShort }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let short = self.short();
        self.take(N as u64)?.try_into().map_err(|_| short)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], GgufError> {
        let length = self.u64()?;
        self.take(length)
    }

    /// A name, which must be text.
    pub(super) fn name(&mut self) -> Result<&'a str, GgufError> {
        std::str::from_utf8(self.string()?).map_err(|_| GgufError::NotText)
    }

    pub(super) fn value(&mut self) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        self.value_of(kind, 0)
    }

    fn value_of(&mut self, kind: u32, depth: usize) -> Result<Value, GgufError> {
        let wide = |value| Ok(Value::Whole(value));
        match kind {
            0 => wide(self.array().map(u8::from_le_bytes)?.into()),
            1 => wide(self.array().map(i8::from_le_bytes)?.into()),
            2 => wide(self.array().map(u16::from_le_bytes)?.into()),
            3 => wide(self.array().map(i16::from_le_bytes)?.into()),
            4 => wide(self.u32()?.into()),
            5 => wide(self.array().map(i32::from_le_bytes)?.into()),
            6 => Ok(Value::Other(self.array().map(f32::from_le_bytes)?.to_string())),
            7 => Ok(Value::Other((self.array::<1>()? != [0]).to_string())),
            STRING => {
                let text = self.string()?;
                let kept = if text.len() <= TEXT_BYTES_MAX { std::str::from_utf8(text).ok() } else { None };
                Ok(kept.map_or(Value::Skipped, |text| Value::Text(text.to_owned())))
            }
            ARRAY => self.array_value(depth),
            10 => {
                let number = self.u64()?;
                Ok(i64::try_from(number).map_or_else(|_| Value::Other(number.to_string()), Value::Whole))
            }
            11 => wide(self.array().map(i64::from_le_bytes)?),
            12 => Ok(Value::Other(self.array().map(f64::from_le_bytes)?.to_string())),
            _ => Err(GgufError::UnknownValue { kind }),
        }
    }

    fn array_value(&mut self, depth: usize) -> Result<Value, GgufError> {
        let (kind, count) = (self.u32()?, self.u64()?);
        if depth == DEPTH_MAX {
            return Err(GgufError::DeepArray);
        }
        if let Some(bytes) = fixed_width(kind)
            && count > KEPT_MAX
        {
            self.take(count.checked_mul(bytes).ok_or_else(|| self.short())?)?;
            return Ok(Value::Skipped);
        }
        let mut wholes = Vec::new();
        // Each takes bytes, or the header ends: the count alone makes nothing.
        for _ in 0..count {
            match self.value_of(kind, depth + 1)? {
                Value::Whole(number) if count <= KEPT_MAX => wholes.push(number),
                _ => {}
            }
        }
        Ok(if wholes.len() as u64 == count { Value::Wholes(wholes) } else { Value::Skipped })
    }
}

/// Bytes of a value, where all of its type have as many.
fn fixed_width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
