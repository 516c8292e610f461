//! A file's or a model's tensors in another type or layout, one tensor after the other.

mod model;
mod narrow;
mod quantise;

use std::path::Path;

use burn::tensor::DType;
use bytes::Bytes;
use rectiflow_nn::TensorData;

use self::narrow::narrowed;
use crate::dtype::Dtype;
use crate::error::WeightsError;
use crate::file::{Container, TensorFile};
use crate::inventory::OtherTensors;
use crate::write::{Entry, Head, write_entries};

pub use self::model::{Form, convert_model};

/// Writes the tensors of a safetensors file as `dtype` into another, which replaces what is there. Names, shapes, metadata and tensors
/// of whole numbers stay as they are. What has fewer than two dimensions (biases, norms) is never narrower than 16 bits:
/// of such a tensor F8_E4M3 becomes BF16.
///
/// Returns the bytes of all tensors.
///
/// # Errors
/// `from` cannot be read, `to` not written; a value is not finite, or too large for `dtype`. Nothing is left behind.
///
/// # Panics
/// `dtype` is none that a model's weights may have in a safetensors file.
pub fn convert_file(from: &Path, to: &Path, dtype: Dtype) -> Result<u64, WeightsError> {
    assert!(dtype.is_weight() && Container::Safetensors.holds(dtype), "weights of {dtype}");
    let file = TensorFile::open(from)?;
    let stored = |found: Dtype, dimensions: usize| match (found, dtype) {
        (found, _) if !found.is_weight() => found,
        (_, Dtype::F8E4M3) if dimensions < 2 => Dtype::BF16,
        _ => dtype,
    };
    let entries: Vec<Entry> = file
        .tensors()
        .iter()
        .map(|(name, info)| Entry {
            name: name.clone(),
            dtype: stored(info.dtype, info.shape.len()),
            shape: info.shape.clone(),
        })
        .collect();
    let mut total = 0;
    write_entries(to, Head::Safetensors(file.metadata()), entries, |name| {
        let info = &file.tensors()[name];
        let bytes = match stored(info.dtype, info.shape.len()) {
            same if same == info.dtype => file.bytes(info),
            other => {
                let narrow = narrowed(&as_f32(&file.data(name)?), other);
                Bytes::from(narrow.map_err(|problem| problem.of(from, name, other))?)
            }
        };
        total += bytes.len() as u64;
        Ok::<_, WeightsError>(bytes)
    })?;
    Ok(total)
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Tensors of the files that have no place in what was written.
    pub left_out: Vec<OtherTensors>,
}

fn as_f32(data: &TensorData) -> Vec<f32> {
    data.clone().convert_dtype(DType::F32).iter::<f32>().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{read_all, write_safetensors};

    fn file(folder: &Path, values: Vec<f32>) -> std::path::PathBuf {
        let path = folder.join("from.safetensors");
        let count = values.len();
        let matrix = TensorData::new(values.clone(), [2, count / 2]);
        let (bias, ids) = (TensorData::new(values, [count]), TensorData::new(vec![1_i64, 2], [2]));
        let about = BTreeMap::from([("about".to_owned(), "a test".to_owned())]);
        write_safetensors(&path, &[("matrix", &matrix), ("bias", &bias), ("ids", &ids)], &about).unwrap();
        path
    }

    #[test]
    fn tensors_are_stored_in_the_type_and_widened_as_near_as_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..64).map(|i| ((i * 37) % 101) as f32 / 51.0 - 1.0).collect();
        let (from, to) = (file(folder.path(), values.clone()), folder.path().join("to.safetensors"));
        for (dtype, of_bias, near) in [
            (Dtype::F32, Dtype::F32, 0.0),
            (Dtype::F16, Dtype::F16, 5e-4),
            (Dtype::BF16, Dtype::BF16, 4e-3),
            (Dtype::F8E4M3, Dtype::BF16, 0.0626),
        ] {
            let bytes = convert_file(&from, &to, dtype).unwrap();
            assert_eq!(bytes, 64 * (dtype.bits() + of_bias.bits()) / 8 + 16, "{dtype}");
            let written = TensorFile::open(&to).unwrap();
            assert_eq!(written.metadata()["about"], "a test");
            assert_eq!((written.tensors()["matrix"].dtype, written.tensors()["bias"].dtype), (dtype, of_bias));
            let read = read_all(&to).unwrap();
            assert_eq!(read["ids"], TensorData::new(vec![1_i64, 2], [2]));
            let matrix: Vec<f32> = read["matrix"].clone().convert_dtype(DType::F32).iter().collect();
            for (found, value) in matrix.iter().zip(&values) {
                assert!((found - value).abs() <= near * value.abs().max(0.02), "{dtype}: {value} became {found}");
            }
        }
    }

    #[test]
    fn what_cannot_be_stored_is_refused_with_the_tensors_name_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("to.safetensors");
        for (value, dtype, expected) in
            [(7e4, Dtype::F16, "`bias`"), (500.0, Dtype::F8E4M3, "`matrix`"), (f32::NAN, Dtype::F16, "bias")]
        {
            let from = file(folder.path(), vec![0.0, value, 1.0, 2.0]);
            let error = convert_file(&from, &to, dtype).unwrap_err().to_string();
            assert!(error.contains("\nhint: ") && error.contains(expected), "{error}");
            assert!(!to.exists());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file stayed");
        }
    }
}
