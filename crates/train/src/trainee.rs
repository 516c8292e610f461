//! A network that is trained: its parameters, their gradients so far, and the optimizer's memory of them.
//!
//! What this module does not do: know what the network is for.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Shape, Tensor, TensorData};
use rectiflow_nn::ops::AdamwMoments;
use rectiflow_nn::{ParamGradients, ParamNames};
use rectiflow_weights::{WeightsError, read_all, write_safetensors};

use crate::ema::Ema;
use crate::optimizer::{AdamW, ModuleGradients, NotFinite, Optimizer, ParamState, StateMismatch};

/// A network in training.
pub struct Trainee<M> {
    /// Names its files in a checkpoint.
    name: &'static str,
    /// Away only while a step is taken.
    module: Option<M>,
    optimizer: Optimizer,
    gradients: ParamGradients,
    /// Backward passes that `gradients` are the sum of.
    parts: u64,
}

/// What was stored does not fit the network, or cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file of the checkpoint.
    #[error(transparent)]
    File(Box<WeightsError>),
    /// Moments or averages.
    #[error(transparent)]
    Optimizer(#[from] StateMismatch),
    /// Tensors.
    #[error(
        "{file} does not fit the network: {why}\n\
         hint: a checkpoint continues with the recipe that it was made with"
    )]
    Misfit {
        /// Its name in the checkpoint.
        file: String,
        /// What is different.
        why: String,
    },
}

impl From<WeightsError> for StateError {
    fn from(problem: WeightsError) -> Self {
        StateError::File(Box::new(problem))
    }
}

impl<M: Module> Trainee<M> {
    /// Before its first step. `names` are those of its parameters.
    pub fn new(name: &'static str, module: M, names: ParamNames, settings: AdamW, averages: Vec<Ema>) -> Self {
        let optimizer = Optimizer::new(settings, averages, names);
        Trainee { name, module: Some(module), optimizer, gradients: ParamGradients::default(), parts: 0 }
    }

    /// The network as it is now.
    pub fn module(&self) -> &M {
        self.module.as_ref().expect("a step puts it back")
    }

    /// Steps taken so far, those before a checkpoint too.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Adds what one backward pass gave: a step is of the mean of all since the step before.
    pub fn add(&mut self, gradients: Gradients) {
        let module = self.module.as_ref().expect("a step puts it back");
        self.gradients.add(module, gradients);
        self.parts += 1;
    }

    /// Adds gradients that a backward pass gave in pieces.
    pub fn add_gathered(&mut self, gradients: ParamGradients) {
        self.gradients.merge(gradients);
        self.parts += 1;
    }

    /// Drops the gradients that were added: no step will be taken with them.
    pub fn forget(&mut self) {
        self.gradients = ParamGradients::default();
        self.parts = 0;
    }

    /// One step of the optimizer with the mean of the gradients that were added. Returns their norm before clipping.
    ///
    /// # Errors
    /// A gradient is not finite. Nothing was changed; the gradients are gone.
    pub fn step(&mut self, learning_rate: f64, norm_max: Option<f64>) -> Result<f64, NotFinite> {
        let gradients = self.gathered()?;
        Ok(self.step_with(gradients, learning_rate, norm_max))
    }

    /// The mean of the gradients that were added, for [`Self::step_with`]: where several networks take a step or none.
    ///
    /// # Errors
    /// A gradient is not finite. Nothing was changed; the gradients are gone.
    pub fn gathered(&mut self) -> Result<ModuleGradients, NotFinite> {
        let gradients = std::mem::take(&mut self.gradients);
        let parts = NonZeroU64::new(std::mem::take(&mut self.parts)).unwrap_or(NonZeroU64::MIN);
        ModuleGradients::of(self.module(), self.optimizer.names(), gradients, parts)
    }

    /// One step of the optimizer with what [`Self::gathered`] gave. Returns the norm before clipping.
    pub fn step_with(&mut self, gradients: ModuleGradients, learning_rate: f64, norm_max: Option<f64>) -> f64 {
        let norm = gradients.norm();
        let gradients = match norm_max {
            Some(norm_max) => gradients.clipped_to(norm_max),
            None => gradients,
        };
        let module = self.module.take().expect("a step puts it back");
        self.module = Some(self.optimizer.step(module, gradients, learning_rate));
        norm
    }

    /// The network with its first average, or as it is where none is kept.
    pub fn averaged(&self) -> M {
        self.optimizer.averaged(self.module(), 0)
    }

    /// Values by official name, in f32.
    pub fn weights(module: &M, names: &ParamNames) -> BTreeMap<String, TensorData> {
        let mut store = Store { names, tensors: BTreeMap::new() };
        module.visit(&mut store);
        store.tensors
    }

    /// Names of its parameters.
    pub fn names(&self) -> &ParamNames {
        self.optimizer.names()
    }

    /// Writes all that a later process needs to go on: `NAME.weights`, `NAME.optimizer` (torch's names: `exp_avg`,
    /// `exp_avg_sq`, `step`) and `NAME.ema-0` and on, each a safetensors file of official names.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), StateError> {
        let weights = Self::weights(self.module(), self.names());
        self.write(folder, "weights", &weights)?;
        let states = self.optimizer.states(self.module());
        let mut memory = BTreeMap::new();
        let mut averages: Vec<BTreeMap<String, TensorData>> = Vec::new();
        for (name, state) in states {
            let shape = weights[&name].shape().clone();
            let stored = |x: &Tensor<1>| shaped(x.to_data(), shape.clone());
            for (index, average) in state.averages().enumerate() {
                if averages.len() == index {
                    averages.push(BTreeMap::new());
                }
                averages[index].insert(name.clone(), stored(average));
            }
            memory.insert(format!("{name}.exp_avg"), stored(&state.moments.first));
            memory.insert(format!("{name}.exp_avg_sq"), stored(&state.moments.second));
            memory.insert(format!("{name}.step"), TensorData::new(vec![state.updates as i64], [1]));
        }
        self.write(folder, "optimizer", &memory)?;
        averages.iter().enumerate().try_for_each(|(index, ema)| self.write(folder, &format!("ema-{index}"), ema))
    }

    /// Goes on from what [`Self::save`] wrote after `steps` steps.
    ///
    /// # Errors
    /// A file is missing or of another network. Nothing was changed.
    pub fn load(&mut self, folder: &Path, steps: u64) -> Result<(), StateError> {
        let file = |kind: &str| format!("{}.{kind}.safetensors", self.name);
        let read = |kind: &str| read_all(folder.join(file(kind)));
        let weights = read("weights")?;
        let mut memory = read("optimizer")?;
        let mut averages = Vec::new();
        for index in 0..self.optimizer.averages_kept() {
            averages.push(read(&format!("ema-{index}"))?);
        }
        let mut check = Check { names: self.names(), weights: &weights, misfit: None, found: 0 };
        self.module().visit(&mut check);
        let unknown = check.found != weights.len();
        let misfit = check.misfit.or(unknown.then(|| "it has tensors that the network has not".to_owned()));
        if let Some(why) = misfit {
            return Err(StateError::Misfit { file: file("weights"), why });
        }
        let device = self.device();
        let names: Vec<String> = weights.keys().cloned().collect();
        let mut states = Vec::new();
        for name in names {
            // A parameter that never had a gradient has no memory.
            let Some(first) = memory.remove(&format!("{name}.exp_avg")) else { continue };
            let missing = |what: &str| StateError::Misfit { file: file("optimizer"), why: format!("no {name}.{what}") };
            let second = memory.remove(&format!("{name}.exp_avg_sq")).ok_or_else(|| missing("exp_avg_sq"))?;
            let updates = memory.remove(&format!("{name}.step")).ok_or_else(|| missing("step"))?;
            let updates = updates.as_slice::<i64>().ok().and_then(|updates| u64::try_from(*updates.first()?).ok());
            let updates = updates.ok_or_else(|| missing("step"))?;
            let mut ema = Vec::new();
            for (index, average) in averages.iter_mut().enumerate() {
                let lacking = || StateError::Misfit { file: file(&format!("ema-{index}")), why: format!("no {name}") };
                ema.push(flat(average.remove(&name).ok_or_else(lacking)?, &device));
            }
            let mut ema = ema.into_iter();
            let moments = AdamwMoments { first: flat(first, &device), second: flat(second, &device), ema: ema.next() };
            states.push((name, ParamState { updates, moments, more_averages: ema.collect() }));
        }
        let module = self.module.as_ref().expect("a step puts it back");
        self.optimizer.restore(module, steps, states)?;
        let module = self.module.take().expect("it was there");
        self.module = Some(module.map(&mut Load { names: self.optimizer.names(), weights, device }));
        Ok(())
    }

    fn write(&self, folder: &Path, kind: &str, tensors: &BTreeMap<String, TensorData>) -> Result<(), StateError> {
        let path = folder.join(format!("{}.{kind}.safetensors", self.name));
        let tensors: Vec<_> = tensors.iter().map(|(name, data)| (&name[..], data)).collect();
        Ok(write_safetensors(path, &tensors, &BTreeMap::new())?)
    }

    /// Where its parameters are, without gradients.
    fn device(&self) -> Device {
        let devices = self.module().devices();
        devices.first().cloned().unwrap_or_default().inner()
    }
}

fn flat(data: TensorData, device: &Device) -> Tensor<1> {
    let count = data.num_elements();
    Tensor::from_data(shaped(data, [count].into()), device)
}

/// The same values in another shape.
fn shaped(data: TensorData, shape: Shape) -> TensorData {
    let (bytes, _, dtype) = data.into_parts();
    TensorData::from_bytes(bytes, shape, dtype)
}

struct Store<'a> {
    names: &'a ParamNames,
    tensors: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Store<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.get(param.id).expect("the names are those of this network");
        self.tensors.insert(name.to_owned(), param.val().inner().into_data());
    }
}

struct Check<'a> {
    names: &'a ParamNames,
    weights: &'a BTreeMap<String, TensorData>,
    misfit: Option<String>,
    found: usize,
}

impl ModuleVisitor for Check<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.get(param.id).expect("the names are those of this network");
        let wanted = param.lazy_shape();
        let why = match self.weights.get(name) {
            None => format!("{name} is missing"),
            Some(data) if *data.shape() != wanted => {
                format!("{name} has shape {:?} instead of {:?}", data.shape().to_vec(), wanted.to_vec())
            }
            Some(_) => {
                self.found += 1;
                return;
            }
        };
        self.misfit.get_or_insert(why);
    }
}

struct Load<'a> {
    names: &'a ParamNames,
    weights: BTreeMap<String, TensorData>,
    device: Device,
}

impl ModuleMapper for Load<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.names.get(param.id).expect("the names are those of this network");
        let data = self.weights.remove(name).expect("it was checked");
        let device = self.device.clone();
        param.map(|before| {
            let (required, strategy) = (before.is_require_grad(), before.gradient_checkpointing_strategy());
            let mut tensor = Tensor::from_inner(Tensor::from_data(data, &device));
            if let Some(strategy) = strategy {
                tensor = tensor.with_gradient_checkpointing_strategy(strategy);
            }
            tensor.set_require_grad(required)
        })
    }
}
