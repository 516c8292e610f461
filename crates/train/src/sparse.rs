//! For tests: files that are long and take no room on the disk.

use std::fs;
use std::io::Write;
use std::path::Path;

use rectiflow_weights::TensorFile;
use serde_json::{Value, json};

/// Two gigabytes, twice what is read whole.
const BYTES: u64 = 2 << 30;

/// Adds a tensor of zeros at the end of a safetensors file.
pub(crate) fn lengthen(path: &Path, name: &str, dtype: &str, dtype_bytes: u64) {
    let bytes = fs::read(path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let begin = data.len() as u64;
    header[name] = json!({ "dtype": dtype, "shape": [BYTES / dtype_bytes], "data_offsets": [begin, begin + BYTES] });
    let header = header.to_string();
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(data).unwrap();
    file.set_len(8 + header.len() as u64 + begin + BYTES).unwrap();
    assert!(TensorFile::open(path).unwrap().tensors().contains_key(name));
}
