use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use burn::tensor::DType;
use rectiflow_nn::TensorData;
use serde_json::{Map, Value, json};

use crate::atomic::{IfThere, write_whole};
use crate::dtype::Dtype;
use crate::error::WeightsError;
use crate::gguf::{self, About};

/// Writes tensors and free text as a safetensors file.
///
/// The file appears under its name only when it is complete and on disk: a reader sees the old one or the
/// new one, and so does a reader after a power cut. Types: f32, f16, bf16, i32, i64, u8; names differ.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: &[(&str, &TensorData)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let path = path.as_ref();
    write(path, tensors, metadata).map_err(|problem| WeightsError::Unwritable { path: path.to_owned(), problem })
}

/// What the header says of a tensor before its values are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorOutline {
    /// Differs from those of the others.
    pub name: String,
    /// One of the types that [`write_safetensors`] writes.
    pub dtype: DType,
    /// Its dimensions, slowest first.
    pub shape: Vec<usize>,
}

/// As [`write_safetensors`], of tensors that need not be in memory together: `values` is asked for each of them once, by
/// name, in the order of the file, and what it gave is dropped before the next. The bytes are the same.
///
/// # Errors
/// As of [`write_safetensors`]; or `values` fails. Nothing is left behind.
///
/// # Panics
/// `values` gives another type or shape than the outline has: a bug of the caller.
pub fn write_tensor_by_tensor<E: From<WeightsError>>(
    path: impl AsRef<Path>,
    outlines: Vec<TensorOutline>,
    metadata: &BTreeMap<String, String>,
    mut values: impl FnMut(&str) -> Result<TensorData, E>,
) -> Result<(), E> {
    let path = path.as_ref();
    let entries = outlines.iter().map(Entry::of).collect::<io::Result<Vec<_>>>();
    let entries = entries.map_err(|problem| WeightsError::Unwritable { path: path.to_owned(), problem })?;
    // No name came twice, or there would be no header.
    let by_name: BTreeMap<&str, &TensorOutline> = outlines.iter().map(|outline| (&outline.name[..], outline)).collect();
    write_entries(path, Head::Safetensors(metadata), entries, |name| {
        let data = values(name)?;
        assert_eq!(TensorOutline::of(name, &data), *by_name[name], "what was outlined, and what came");
        Ok(data)
    })
}

/// What stands in a file before its tensors.
pub(crate) enum Head<'a> {
    /// With this free text.
    Safetensors(&'a BTreeMap<String, String>),
    Gguf(About),
}

impl Head<'_> {
    fn write(&self, out: &mut dyn Write, entries: &[Entry]) -> io::Result<()> {
        match self {
            Head::Safetensors(metadata) => write_header(out, entries, metadata),
            Head::Gguf(about) => gguf::write_header(out, entries, *about),
        }
    }

    /// Bytes that a tensor ends at a multiple of.
    fn alignment(&self) -> u64 {
        if matches!(self, Head::Gguf(_)) { gguf::ALIGNMENT } else { 1 }
    }
}

/// Writes a file of these tensors, whose stored bytes `values` gives by name, in the order of the file.
pub(crate) fn write_entries<E: From<WeightsError>, B: StoredBytes>(
    path: &Path,
    head: Head<'_>,
    entries: Vec<Entry>,
    mut values: impl FnMut(&str) -> Result<B, E>,
) -> Result<(), E> {
    let entries = in_file_order(entries);
    let mut failed = None;
    let written = write_whole(path, IfThere::Replace, |out| {
        head.write(out, &entries)?;
        for entry in &entries {
            let bytes = values(&entry.name).map_err(|problem| {
                failed = Some(problem);
                io::Error::other("a tensor has no values")
            })?;
            let bytes = bytes.stored();
            assert_eq!(bytes.len() as u64, entry.bytes(), "bytes of {}", entry.name);
            out.write_all(&bytes)?;
            let padding = entry.bytes().next_multiple_of(head.alignment()) - entry.bytes();
            out.write_all(&[0; gguf::ALIGNMENT as usize][..padding as usize])?;
        }
        Ok(())
    });
    match (failed, written) {
        (Some(problem), _) => Err(problem),
        (None, Err(problem)) => Err(WeightsError::Unwritable { path: path.to_owned(), problem }.into()),
        (None, Ok(())) => Ok(()),
    }
}

fn write(path: &Path, tensors: &[(&str, &TensorData)], metadata: &BTreeMap<String, String>) -> io::Result<()> {
    write_whole(path, IfThere::Replace, |out| safetensors_into(out, tensors, metadata))
}

/// The bytes of a safetensors file, for who counts or hashes them on their way to a file: see
/// [`write_safetensors`]. The same tensors and text in any order make the same bytes.
///
/// # Errors
/// Writing fails; a tensor has a type that is not written; two tensors have one name, or one is `__metadata__`. In the
/// last three cases nothing was written.
pub fn safetensors_into(
    out: &mut dyn Write,
    tensors: &[(&str, &TensorData)],
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    let outlined = tensors.iter().map(|(name, data)| Entry::of(&TensorOutline::of(name, data)));
    let entries = in_file_order(outlined.collect::<io::Result<_>>()?);
    write_header(out, &entries, metadata)?;
    // No name came twice, or there would be no header.
    let by_name: BTreeMap<&str, &TensorData> = tensors.iter().copied().collect();
    entries.iter().try_for_each(|entry| out.write_all(&by_name[&entry.name[..]].stored()))
}

impl TensorOutline {
    fn of(name: &str, data: &TensorData) -> Self {
        TensorOutline { name: name.to_owned(), dtype: data.dtype(), shape: data.shape().to_vec() }
    }
}

/// A tensor's bytes as the file has them.
pub(crate) trait StoredBytes {
    fn stored(&self) -> Cow<'_, [u8]>;
}

impl StoredBytes for bytes::Bytes {
    fn stored(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self)
    }
}

impl StoredBytes for TensorData {
    /// The format is little-endian.
    fn stored(&self) -> Cow<'_, [u8]> {
        if cfg!(target_endian = "little") {
            return Cow::Borrowed(self.bytes());
        }
        Cow::Owned(
            self.bytes().chunks_exact(self.dtype().size()).flat_map(|value| value.iter().rev().copied()).collect(),
        )
    }
}

/// A tensor as the header has it.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

impl Entry {
    fn of(outline: &TensorOutline) -> io::Result<Entry> {
        let TensorOutline { name, dtype, shape } = outline;
        Ok(Entry { name: name.clone(), dtype: stored_dtype(*dtype)?, shape: shape.clone() })
    }

    /// What its numbers take. Those of a type that is narrower than a byte and does not fill its last one are not written.
    pub(crate) fn bytes(&self) -> u64 {
        self.dtype.bytes_of(self.shape.iter().map(|&side| side as u64).product()).unwrap_or_default()
    }
}

/// Wide numbers first, so that every tensor is aligned for its type; then by name.
fn in_file_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|one, two| (two.dtype.bits(), &one.name).cmp(&(one.dtype.bits(), &two.name)));
    entries
}

fn write_header(out: &mut dyn Write, entries: &[Entry], metadata: &BTreeMap<String, String>) -> io::Result<()> {
    let header = header(entries, metadata)?;
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}

/// JSON in the order of the data, filled up with blanks so that the data begins at a multiple of 8.
fn header(tensors: &[Entry], metadata: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut begin = 0;
    for tensor in tensors {
        let Entry { name, dtype, shape } = tensor;
        let end = begin + tensor.bytes();
        let entry = json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [begin, end] });
        if name == "__metadata__" || entries.insert(name.clone(), entry).is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the name `{name}` is taken")));
        }
        begin = end;
    }
    let mut json = serde_json::to_vec(&Value::Object(entries))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok(json)
}

fn stored_dtype(dtype: DType) -> io::Result<Dtype> {
    let unwritten = || io::Error::new(io::ErrorKind::InvalidInput, format!("tensors of {dtype:?} are not written"));
    Dtype::of_elements(dtype).ok_or_else(unwritten)
}
