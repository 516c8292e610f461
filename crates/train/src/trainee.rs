//! A network that is trained: its parameters, their gradients so far, and the optimizer's memory of them.
//!
//! What this module does not do: know what the network is for.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rectiflow_nn::{ParamGradients, ParamNames};
use rectiflow_weights::WeightsError;

use crate::ema::Ema;
use crate::optimizer::{AdamW, ModuleGradients, NotFinite, Optimizer, StateMismatch};

mod files;
#[cfg(test)]
mod tests;

use files::{Outgoing, Stored};

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
    /// Values that a run could not go on from.
    #[error(
        "{name} in {file} has values that are not finite, so no checkpoint is made of them\n\
         hint: go on from the checkpoint before with a lower learning rate, or with precision \"f32\""
    )]
    NotFinite {
        /// The file's name in the checkpoint.
        file: String,
        /// The parameter's, with `.exp_avg` or `.exp_avg_sq` if it is the optimizer's memory of it.
        name: String,
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
    /// Takes memory for one tensor: each is copied when its turn comes.
    ///
    /// # Errors
    /// A file cannot be written; a value is not finite. Files that were written before it stay.
    pub fn save(&self, folder: &Path) -> Result<(), StateError> {
        let mut weights = Outgoing::new(self.file("weights"));
        self.module().visit(&mut Gather { names: self.names(), weights: &mut weights });
        let shapes: BTreeMap<String, Vec<usize>> = weights.shapes();
        weights.write(folder)?;

        let mut memory = Outgoing::new(self.file("optimizer"));
        let averages = (0..self.optimizer.averages_kept()).map(|index| self.file(&format!("ema-{index}")));
        let mut averages: Vec<Outgoing<'_>> = averages.map(Outgoing::new).collect();
        let states = self.optimizer.states(self.module());
        for (name, state) in &states {
            let shape = &shapes[name];
            memory.add(format!("{name}.exp_avg"), shape, &state.moments.first);
            memory.add(format!("{name}.exp_avg_sq"), shape, &state.moments.second);
            memory.add_number(format!("{name}.step"), state.updates as i64);
            for (file, average) in averages.iter_mut().zip(state.averages()) {
                file.add(name.clone(), shape, average);
            }
        }
        memory.write(folder)?;
        // Before the first step there are none.
        averages.into_iter().filter(|_| !states.is_empty()).try_for_each(|file| file.write(folder))
    }

    /// Goes on from what [`Self::save`] wrote after `steps` steps.
    ///
    /// What was there before goes as the new comes: memory is taken for one of the two, and a tensor.
    ///
    /// # Errors
    /// A file is missing or of another network. Nothing was changed.
    pub fn load(&mut self, folder: &Path, steps: u64) -> Result<(), StateError> {
        let averages = (0..self.optimizer.averages_kept()).map(|index| self.file(&format!("ema-{index}")));
        let files = [self.file("weights"), self.file("optimizer")].into_iter().chain(averages);
        let stored = Stored::open(folder, files)?;
        let mut shapes = Shapes { names: self.names(), shapes: BTreeMap::new() };
        self.module().visit(&mut shapes);
        let memory = stored.check(&shapes.shapes)?;

        // Every name, shape and type was found as it must be, so nothing below is refused.
        let device = self.device();
        self.optimizer.forget();
        let state = |(name, updates): (String, u64)| Ok((stored.state(&name, updates, &device)?, name));
        let states: Vec<_> = memory.into_iter().map(state).collect::<Result<_, StateError>>()?;
        let module = self.module.as_ref().expect("a step puts it back");
        self.optimizer.restore(module, steps, states.into_iter().map(|(state, name)| (name, state)))?;
        let module = self.module.take().expect("it was there");
        let mut load = Load { names: self.optimizer.names(), stored: &stored, device, problem: None };
        self.module = Some(module.map(&mut load));
        load.problem.map_or(Ok(()), Err)
    }

    /// The name of one of its files in a checkpoint.
    fn file(&self, kind: &str) -> String {
        format!("{}.{kind}.safetensors", self.name)
    }

    /// Where its parameters are, without gradients.
    fn device(&self) -> Device {
        let devices = self.module().devices();
        devices.first().cloned().unwrap_or_default().inner()
    }
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

/// Announces parameters for their file.
struct Gather<'a, 'b> {
    names: &'a ParamNames,
    weights: &'b mut Outgoing<'static>,
}

impl ModuleVisitor for Gather<'_, '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.get(param.id).expect("the names are those of this network");
        self.weights.add_owned(name.to_owned(), param.val().inner());
    }
}

/// The shapes of parameters, whose values need not be there.
struct Shapes<'a> {
    names: &'a ParamNames,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl ModuleVisitor for Shapes<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.get(param.id).expect("the names are those of this network");
        self.shapes.insert(name.to_owned(), param.lazy_shape().to_vec());
    }
}

struct Load<'a> {
    names: &'a ParamNames,
    stored: &'a Stored,
    device: Device,
    problem: Option<StateError>,
}

impl ModuleMapper for Load<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.names.get(param.id).expect("the names are those of this network");
        let data = match self.stored.weight(name) {
            Ok(data) => data,
            Err(problem) => {
                self.problem.get_or_insert(problem);
                return param;
            }
        };
        let device = self.device.clone();
        param.map(|before| {
            let (required, strategy) = (before.is_require_grad(), before.gradient_checkpointing_strategy());
            drop(before);
            let mut tensor = Tensor::from_inner(Tensor::from_data(data, &device));
            if let Some(strategy) = strategy {
                tensor = tensor.with_gradient_checkpointing_strategy(strategy);
            }
            tensor.set_require_grad(required)
        })
    }
}
