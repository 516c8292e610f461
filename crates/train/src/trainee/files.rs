//! The files of a network in training, one tensor at a time: a large network's parameters, moments and averages take most
//! of the memory, so there is no room for a second copy of them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use rayon::prelude::*;
use rectiflow_nn::ops::AdamwMoments;
use rectiflow_weights::{Dtype, TensorFile, TensorOutline, write_tensor_by_tensor};

use super::StateError;
use crate::optimizer::ParamState;

/// One file of a checkpoint before it is written. It shares the tensors' memory.
pub(super) struct Outgoing<'a> {
    /// Its name in the checkpoint.
    file: String,
    outlines: Vec<TensorOutline>,
    /// Copies a tensor's values.
    values: HashMap<String, Box<dyn FnOnce() -> TensorData + 'a>>,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(file: String) -> Self {
        Outgoing { file, outlines: Vec::new(), values: HashMap::new() }
    }

    /// A tensor as it is.
    pub(super) fn add_owned<const D: usize>(&mut self, name: String, tensor: Tensor<D>) {
        self.announce(name, tensor.dtype(), tensor.shape().to_vec(), move || tensor.into_data());
    }

    /// A flat tensor, stored in a shape.
    pub(super) fn add(&mut self, name: String, shape: &[usize], tensor: &'a Tensor<1>) {
        let stored_shape = Shape::from(shape.to_vec());
        self.announce(name, tensor.dtype(), shape.to_vec(), move || shaped(tensor.to_data(), stored_shape));
    }

    pub(super) fn add_number(&mut self, name: String, number: i64) {
        self.announce(name, DType::I64, vec![1], move || TensorData::new(vec![number], [1]));
    }

    fn announce(&mut self, name: String, dtype: DType, shape: Vec<usize>, values: impl FnOnce() -> TensorData + 'a) {
        self.values.insert(name.clone(), Box::new(values));
        self.outlines.push(TensorOutline { name, dtype, shape });
    }

    /// The shapes of its tensors.
    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.outlines.iter().map(|one| (one.name.clone(), one.shape.clone())).collect()
    }

    /// # Errors
    /// It cannot be written; a value is not finite, and then there is no such file.
    pub(super) fn write(self, folder: &Path) -> Result<(), StateError> {
        let Outgoing { file, outlines, mut values } = self;
        write_tensor_by_tensor(folder.join(&file), outlines, &BTreeMap::new(), |name| {
            let data = values.remove(name).expect("every tensor is asked for once")();
            if is_finite(&data) {
                return Ok(data);
            }
            Err(StateError::NotFinite { file: file.clone(), name: name.to_owned() })
        })
    }
}

/// Reads all values once. Written without an early exit, so that it becomes vector code.
fn is_finite(data: &TensorData) -> bool {
    const CHUNK: usize = 1 << 18;
    match data.as_slice::<f32>() {
        Ok(values) => {
            values.par_chunks(CHUNK).all(|chunk| chunk.iter().fold(true, |finite, value| finite & value.is_finite()))
        }
        Err(_) => data.iter::<f32>().all(f32::is_finite),
    }
}

/// The files of a checkpoint, opened: what their headers say is known, and no value was read.
pub(super) struct Stored {
    weights: TensorFile,
    optimizer: TensorFile,
    averages: Vec<TensorFile>,
}

impl Stored {
    /// `files`: weights, optimizer, averages.
    ///
    /// # Errors
    /// One is missing or no safetensors file.
    pub(super) fn open(folder: &Path, files: impl Iterator<Item = String>) -> Result<Self, StateError> {
        let mut files = files.map(|file| TensorFile::open(folder.join(file)));
        let mut next = || files.next().expect("weights and optimizer come first");
        let (weights, optimizer) = (next()?, next()?);
        Ok(Stored { weights, optimizer, averages: files.collect::<Result<_, _>>()? })
    }

    /// Checks names, shapes and types of all that [`Self::weight`] and [`Self::state`] will read, for a network with
    /// parameters of these shapes. Returns the parameters that have moments, each with how many updates it had.
    ///
    /// # Errors
    /// What is different.
    pub(super) fn check(&self, shapes: &BTreeMap<String, Vec<usize>>) -> Result<Vec<(String, u64)>, StateError> {
        let mut updates = Vec::new();
        for (name, shape) in shapes {
            found(&self.weights, name, shape)?;
            // A parameter that never had a gradient has no memory.
            if !self.optimizer.tensors().contains_key(&format!("{name}.exp_avg")) {
                continue;
            }
            for moment in ["exp_avg", "exp_avg_sq"] {
                found(&self.optimizer, &format!("{name}.{moment}"), shape)?;
            }
            for average in &self.averages {
                found(average, name, shape)?;
            }
            updates.push((name.clone(), self.updates(&format!("{name}.step"))?));
        }
        if self.weights.tensors().len() != shapes.len() {
            return Err(misfit(&self.weights, "it has tensors that the network has not".to_owned()));
        }
        Ok(updates)
    }

    fn updates(&self, name: &str) -> Result<u64, StateError> {
        if !self.optimizer.tensors().contains_key(name) {
            return Err(misfit(&self.optimizer, format!("{name} is missing")));
        }
        let data = self.optimizer.read(name)?;
        let number = data.as_slice::<i64>().ok().and_then(|numbers| u64::try_from(*numbers.first()?).ok());
        number.ok_or_else(|| misfit(&self.optimizer, format!("{name} is no number of steps")))
    }

    /// A parameter's values.
    pub(super) fn weight(&self, name: &str) -> Result<TensorData, StateError> {
        Ok(self.weights.read(name)?)
    }

    /// What the optimizer remembers of a parameter.
    pub(super) fn state(&self, name: &str, updates: u64, device: &Device) -> Result<ParamState, StateError> {
        let flat = |file: &TensorFile, name: &str| -> Result<Tensor<1>, StateError> {
            let data = file.read(name)?;
            let count = data.num_elements();
            Ok(Tensor::from_data(shaped(data, [count].into()), device))
        };
        let first = flat(&self.optimizer, &format!("{name}.exp_avg"))?;
        let second = flat(&self.optimizer, &format!("{name}.exp_avg_sq"))?;
        let averages = self.averages.iter().map(|file| flat(file, name)).collect::<Result<Vec<_>, _>>()?;
        let mut averages = averages.into_iter();
        let moments = AdamwMoments { first, second, ema: averages.next() };
        Ok(ParamState { updates, moments, more_averages: averages.collect() })
    }
}

/// Checks that a file has a tensor of numbers with that name and shape.
fn found(file: &TensorFile, name: &str, shape: &[usize]) -> Result<(), StateError> {
    match file.tensors().get(name) {
        None => Err(misfit(file, format!("{name} is missing"))),
        Some(info) if info.shape != shape => {
            Err(misfit(file, format!("{name} has shape {:?} instead of {shape:?}", info.shape)))
        }
        Some(info) if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) => {
            Err(misfit(file, format!("{name} is stored as {}", info.dtype)))
        }
        Some(_) => Ok(()),
    }
}

fn misfit(file: &TensorFile, why: String) -> StateError {
    let name = file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    StateError::Misfit { file: name, why }
}

/// The same values in another shape.
fn shaped(data: TensorData, shape: Shape) -> TensorData {
    let (bytes, _, dtype) = data.into_parts();
    TensorData::from_bytes(bytes, shape, dtype)
}
