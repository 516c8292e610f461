//! Parameters by the names that a file has for them.

use std::collections::BTreeSet;

use rectiflow_nn::{DType, Init, ParamSource, Read, TensorData};
use safetensors::{Dtype, SafeTensors};

/// Parameters from the bytes of a safetensors file, under the names in it.
///
/// Build the network with it, then ask [`NamedTensors::finish`]; use the network only if that agrees.
pub struct NamedTensors<'a> {
    file: SafeTensors<'a>,
    asked: BTreeSet<String>,
    problems: Vec<String>,
}

/// The bytes are not the parameters of the network.
#[derive(Debug, thiserror::Error)]
pub enum MisfitError {
    /// They are not a safetensors file.
    #[error("not a safetensors file: {0}; give the file as it was published")]
    Unreadable(#[from] safetensors::SafeTensorError),
    /// Tensors are missing, or have other shapes or types.
    #[error("{count} tensors do not fit the network, the first: {first}; give the weights of this very network")]
    Tensors {
        /// How many.
        count: usize,
        /// One of them, and what is wrong with it.
        first: String,
    },
    /// A value that no network computes with.
    #[error("`{0}` has a value that is not finite; the file is damaged, or its training went wrong")]
    NotFinite(String),
}

impl<'a> NamedTensors<'a> {
    /// From all bytes of the file.
    ///
    /// # Errors
    /// They are not a safetensors file.
    pub fn of(bytes: &'a [u8]) -> Result<Self, MisfitError> {
        Ok(NamedTensors { file: SafeTensors::deserialize(bytes)?, asked: BTreeSet::new(), problems: Vec::new() })
    }

    /// The tensors that nobody asked for.
    ///
    /// # Errors
    /// Something that was asked for is not there, or not as it should be.
    pub fn finish(self) -> Result<Vec<String>, MisfitError> {
        match self.problems.first() {
            Some(first) => Err(MisfitError::Tensors { count: self.problems.len(), first: first.clone() }),
            None => {
                let names = self.file.names().into_iter().filter(|name| !self.asked.contains(*name));
                Ok(names.map(str::to_owned).collect())
            }
        }
    }

    /// As [`Self::finish`], where the file must hold nothing else, and only finite values.
    ///
    /// # Errors
    /// Something is missing, not as it should be, or not asked for; a value is not finite.
    pub fn finish_exactly(self) -> Result<(), MisfitError> {
        let is_finite = |data: &TensorData| data.iter::<f32>().all(f32::is_finite);
        let values = |name: &str| self.values(name, self.file.tensor(name).ok()?.shape()).ok();
        let odd = self.asked.iter().find(|name| values(name).is_some_and(|data| !is_finite(&data)));
        if let Some(name) = odd {
            return Err(MisfitError::NotFinite(name.clone()));
        }
        match &self.finish()?[..] {
            [] => Ok(()),
            left => Err(MisfitError::Tensors { count: left.len(), first: format!("`{}` is not part of it", left[0]) }),
        }
    }

    /// The values of a tensor that fits, or what is wrong with it.
    fn values(&self, name: &str, shape: &[usize]) -> Result<TensorData, String> {
        let tensor = self.file.tensor(name).map_err(|_| format!("`{name}` is missing"))?;
        if tensor.shape() != shape {
            return Err(format!("`{name}` has shape {:?} instead of {shape:?}", tensor.shape()));
        }
        let dtype = match tensor.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(format!("`{name}` is stored as {other:?}, not as f32, f16 or bf16")),
        };
        Ok(TensorData::from_bytes_vec(tensor.data().to_vec(), shape.to_vec(), dtype))
    }
}

impl ParamSource for NamedTensors<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.file.tensor(name).ok().map(|tensor| tensor.shape().to_vec())
    }

    fn claim(&mut self, name: &str, shape: &[usize], _: Init) -> Read {
        self.asked.insert(name.to_owned());
        match self.values(name, shape) {
            Ok(values) => Box::new(move || values),
            Err(problem) => {
                self.problems.push(problem.clone());
                Box::new(move || unreachable!("a network that does not fit was used: {problem}"))
            }
        }
    }
}
