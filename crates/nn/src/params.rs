use std::collections::HashMap;
use std::fmt::Display;

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

use crate::ops::PackedWeight;
use crate::{Init, Precision, Rng, StoredMatrix};

/// Reads one parameter's values, when the model first uses them.
pub type Read = Box<dyn FnOnce() -> TensorData + Send + Sync>;

/// Where a model's parameters come from: a checkpoint, or an initialiser.
///
/// A model is built by asking its source for each parameter by the name it has in the official checkpoints.
/// Nothing is read while that goes on, so a source can find out that a file does not fit before any memory
/// is spent.
pub trait ParamSource {
    /// The shape of `name`, if the source has it. Configurations are found with this.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The model has a parameter `name` of `shape`. Returns how to read it later, in the stored type.
    ///
    /// A source that cannot give it notes that and returns a reader that will never be called.
    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read;

    /// `name` for products that take it as it is stored, or read it where they use it; asked for what was claimed, which can
    /// be read all the same. None where what was claimed costs no memory of its own.
    fn stored(&self, _name: &str, _shape: [usize; 2]) -> Option<StoredMatrix> {
        None
    }
}

/// A [`ParamSource`] at one place of a model, with what every layer needs to know.
pub struct Params<'a> {
    source: &'a mut dyn ParamSource,
    prefix: String,
    device: Device,
    precision: Precision,
    used_once: bool,
    keeps_reads: bool,
}

impl<'a> Params<'a> {
    /// The root of a model.
    pub fn new(source: &'a mut dyn ParamSource, device: &Device, precision: Precision) -> Self {
        Params {
            source,
            prefix: String::new(),
            device: device.clone(),
            precision,
            used_once: false,
            keeps_reads: false,
        }
    }

    /// The same place of a model that runs once or twice, as a text encoder does for a prompt: its weights are not
    /// kept in the order that kernels read, which would cost their size in memory.
    pub fn used_once(self) -> Self {
        Params { used_once: true, ..self }
    }

    /// The same place of a model that runs again and again, whatever else is said of it: what is read is kept as it was read.
    pub fn keeping_reads(self) -> Self {
        Params { keeps_reads: true, ..self }
    }

    /// Where a layer of this model keeps its packed weight.
    pub(crate) fn packed_weight(&self) -> PackedWeight {
        if self.used_once { PackedWeight::not_kept() } else { PackedWeight::default() }
    }

    /// The place `name` below this one: `params.at("joint_blocks").at(3)`.
    pub fn at(&mut self, name: impl Display) -> Params<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        let (device, precision) = (self.device.clone(), self.precision);
        let (used_once, keeps_reads) = (self.used_once, self.keeps_reads);
        Params { source: self.source, prefix, device, precision, used_once, keeps_reads }
    }

    /// What products are computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Where the model will live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The shape the source has for `name` below this place, if any.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(&format!("{}{name}", self.prefix))
    }

    /// A trained parameter. It is read when it is first used.
    pub fn param<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Init) -> Param<Tensor<D>> {
        self.lazy(name, shape, init, true)
    }

    /// A fixed table that is stored with the weights but not trained.
    pub fn buffer<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Init) -> Param<Tensor<D>> {
        self.lazy(name, shape, init, false)
    }

    /// The matrix `name`, which was asked for as a parameter, as its source has it, where it is only read and products take
    /// it so. What would have to be read in every product is not taken so.
    pub(crate) fn stored(&self, name: &str, shape: [usize; 2]) -> Option<StoredMatrix> {
        if self.device.is_autodiff() || !crate::ops::runs_on_kernels(&self.device) {
            return None;
        }
        let is_read_once = !self.keeps_reads && (self.used_once || self.precision != Precision::F32);
        let stored = self.source.stored(&format!("{}{name}", self.prefix), shape)?;
        (is_read_once || matches!(stored, StoredMatrix::Blocks(_))).then_some(stored)
    }

    fn lazy<const D: usize>(&mut self, name: &str, shape: [usize; D], init: Init, train: bool) -> Param<Tensor<D>> {
        let name = format!("{}{name}", self.prefix);
        let read = self.source.claim(&name, &shape, init);
        let precision = self.precision;
        Param::uninitialized(
            id_of(&name),
            move |device, require_grad| {
                let data = read();
                let dtype = resident_dtype(data.dtype(), D, precision, device);
                Tensor::<D>::from_data(data, (device, dtype)).set_require_grad(require_grad)
            },
            self.device.clone(),
            train,
            Shape::from(shape),
        )
    }
}

/// A parameter is its official name: the same in every process, and in two networks of one kind.
fn id_of(name: &str) -> ParamId {
    ParamId::from(Rng::keyed(0, name, 0).bits())
}

/// The official names of a network's parameters, for what works on parameters of any network: optimizers, checkpoints.
#[derive(Clone, Debug, Default)]
pub struct ParamNames {
    names: HashMap<ParamId, String>,
}

impl ParamNames {
    /// Of the parameter `id`, if the network has it.
    pub fn get(&self, id: ParamId) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }
}

/// A source that notes the names that a network asks for.
pub struct Named<'a> {
    source: &'a mut dyn ParamSource,
    names: ParamNames,
}

impl<'a> Named<'a> {
    /// Gives what `source` gives.
    pub fn new(source: &'a mut dyn ParamSource) -> Self {
        Named { source, names: ParamNames::default() }
    }

    /// What was asked for.
    pub fn names(self) -> ParamNames {
        self.names
    }
}

impl ParamSource for Named<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        let before = self.names.names.insert(id_of(name), name.to_owned());
        assert!(before.is_none_or(|before| before == name), "two parameters of one id: {name}");
        self.source.claim(name, shape, init)
    }

    fn stored(&self, name: &str, shape: [usize; 2]) -> Option<StoredMatrix> {
        self.source.stored(name, shape)
    }
}

/// A checkpoint's parameters, and new ones that its network did not have: how a trained model gets QK-norm, say.
///
/// What the checkpoint has is taken from it. What it lacks is made if `is_new` of its name says so, and is asked of the
/// checkpoint all the same if not, which then refuses it as it refuses anything that is missing.
pub struct WithNew<'a, F> {
    first: &'a mut dyn ParamSource,
    new: &'a mut dyn ParamSource,
    is_new: F,
    made: Vec<String>,
}

impl<'a, F: Fn(&str) -> bool> WithNew<'a, F> {
    /// Takes from `first`, and what is new from `new`.
    pub fn new(first: &'a mut dyn ParamSource, new: &'a mut dyn ParamSource, is_new: F) -> Self {
        WithNew { first, new, is_new, made: Vec::new() }
    }

    /// The names of the parameters that were made, in the order of asking.
    pub fn made(self) -> Vec<String> {
        self.made
    }
}

impl<F: Fn(&str) -> bool> ParamSource for WithNew<'_, F> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.first.shape(name)
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        if self.first.shape(name).is_none() && (self.is_new)(name) {
            self.made.push(name.to_owned());
            return self.new.claim(name, shape, init);
        }
        self.first.claim(name, shape, init)
    }

    fn stored(&self, name: &str, shape: [usize; 2]) -> Option<StoredMatrix> {
        self.first.stored(name, shape)
    }
}

/// The type a parameter is kept in.
///
/// Trained parameters and vectors are f32. A matrix that is only read stays as the file has it, so that on
/// the CPU it is the mapped file itself and costs no memory of its own; what products need of it is packed from
/// there. Other devices take products' factors as tensors, so with bf16 products it is rounded once.
fn resident_dtype(stored: DType, rank: usize, precision: Precision, device: &Device) -> DType {
    if rank == 1 || device.is_autodiff() {
        return DType::F32;
    }
    match precision {
        Precision::Bf16 | Precision::Int8 if !crate::ops::runs_on_kernels(device) => DType::BF16,
        Precision::F32 | Precision::Bf16 | Precision::Int8 => stored,
    }
}
