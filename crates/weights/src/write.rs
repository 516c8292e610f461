use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use rectiflow_nn::TensorData;
use serde_json::{Map, Value, json};

use crate::atomic::{IfThere, write_whole};
use crate::dtype::Dtype;
use crate::error::WeightsError;

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
    let mut tensors = tensors.to_vec();
    // Wide numbers first, so that every tensor is aligned for its type.
    tensors.sort_by_key(|(name, data)| (std::cmp::Reverse(data.dtype().size()), *name));
    let header = header(&tensors, metadata)?;
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.iter().try_for_each(|(_, data)| write_values(out, data))
}

/// JSON in the order of the data, filled up with blanks so that the data begins at a multiple of 8.
fn header(tensors: &[(&str, &TensorData)], metadata: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut begin = 0;
    for (name, data) in tensors {
        let end = begin + data.bytes().len();
        let entry = json!({
            "dtype": stored_dtype(data)?.name(),
            "shape": data.shape().to_vec(),
            "data_offsets": [begin, end],
        });
        if *name == "__metadata__" || entries.insert((*name).to_owned(), entry).is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the name `{name}` is taken")));
        }
        begin = end;
    }
    let mut json = serde_json::to_vec(&Value::Object(entries))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok(json)
}

fn stored_dtype(data: &TensorData) -> io::Result<Dtype> {
    let unwritten =
        || io::Error::new(io::ErrorKind::InvalidInput, format!("tensors of {:?} are not written", data.dtype()));
    Dtype::of(data).ok_or_else(unwritten)
}

/// The format is little-endian.
fn write_values(out: &mut dyn Write, data: &TensorData) -> io::Result<()> {
    if cfg!(target_endian = "little") {
        return out.write_all(data.bytes());
    }
    data.bytes().chunks_exact(data.dtype().size()).try_for_each(|value| {
        let reversed: Vec<u8> = value.iter().rev().copied().collect();
        out.write_all(&reversed)
    })
}
