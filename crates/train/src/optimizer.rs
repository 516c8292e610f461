//! AdamW, or AdamW and Muon, over a module: the norm of all gradients, then one pass over each parameter with its state and average.
//!
//! A step is two calls. [`ModuleGradients::of`] takes the norm of all gradients and refuses those that are not finite,
//! while nothing has changed yet; [`Optimizer::step`] takes only what passed, and cannot fail.
//!
//! What this module does not do: choose a learning rate, or write a file.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use rectiflow_nn::ops::{self, AdamwMoments, AdamwStep};
use rectiflow_nn::{ParamGradients, ParamNames};
use serde::{Deserialize, Serialize};

mod joined;
mod muon;
mod places;
#[cfg(test)]
mod tests;

use places::Place;

use crate::ema::Ema;

/// Settings of AdamW, as `torch.optim.AdamW` has them. Decay is of every parameter that has a gradient, biases and
/// norm weights too, as in SD3's trainers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Share of a gradient's running mean that a step keeps, 0 up to but not 1.
    pub beta_1: f64,
    /// The same for the mean of its square.
    pub beta_2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Share of a parameter that is lost in a step, before the learning rate is multiplied with it.
    pub weight_decay: f64,
    /// What updates the matrices of a network's blocks.
    pub matrices: Matrices,
}

/// What updates the matrices of a network's blocks; everything else is AdamW's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Matrices {
    /// As everything else.
    #[default]
    Adamw,
    /// Muon, at the same learning rate and decay. The second moment of such a matrix stays 0.
    Muon,
}

/// The gradients of a module, all of them finite, and their norm.
pub struct ModuleGradients {
    gradients: ParamGradients,
    norm: f64,
    /// What every gradient is still multiplied with.
    factor: f64,
}

/// Gradients that would have destroyed the parameters. Nothing was changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "the gradient of {name} is not finite; nothing was updated\n\
     hint: lower the learning rate or compute in f32; if it comes at once, look for values in the batch that are not finite"
)]
pub struct NotFinite {
    /// The first parameter with such a gradient, in the module's order.
    pub name: String,
}

impl ModuleGradients {
    /// Takes the norm over all parameters of `module` together. `gradients` are those of its backward passes, `parts` of
    /// them, of whose mean the step is made.
    ///
    /// # Errors
    /// A gradient has values that are not finite.
    pub fn of<M: Module>(
        module: &M,
        names: &ParamNames,
        gradients: ParamGradients,
        parts: NonZeroU64,
    ) -> Result<Self, NotFinite> {
        let known = joined::squares(module, &gradients);
        let mut visitor = Squares { gradients: &gradients, known, sum: 0.0, not_finite: None };
        module.visit(&mut visitor);
        let Squares { sum, not_finite, .. } = visitor;
        match not_finite {
            Some(id) => Err(NotFinite { name: places::name_of(names, id) }),
            None => {
                let factor = 1.0 / parts.get() as f64;
                Ok(ModuleGradients { gradients, norm: sum.sqrt() * factor, factor })
            }
        }
    }

    /// The square root of the sum of all squares, before clipping.
    pub fn norm(&self) -> f64 {
        self.norm
    }

    /// The same direction with a norm of at most `norm_max`, as `torch.nn.utils.clip_grad_norm_` does it.
    #[must_use]
    ///
    /// # Panics
    /// `norm_max` is negative or no number: settings are checked where they are read.
    pub fn clipped_to(self, norm_max: f64) -> Self {
        assert!(norm_max >= 0.0, "gradients clipped to {norm_max}");
        // torch adds 1e-6 against a norm of 0.
        let factor = (norm_max / (self.norm + 1e-6)).min(1.0) * self.factor;
        ModuleGradients { factor, ..self }
    }
}

struct Squares<'a> {
    gradients: &'a ParamGradients,
    /// Sums that were taken together.
    known: HashMap<ParamId, f64>,
    sum: f64,
    not_finite: Option<ParamId>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.get(param.id) else { return };
        let known = self.known.get(&param.id).copied();
        let squares = known.unwrap_or_else(|| ops::sum_of_squares(gradient.clone()));
        if !squares.is_finite() && self.not_finite.is_none() {
            self.not_finite = Some(param.id);
        }
        self.sum += squares;
    }
}

/// What is remembered of a parameter. As many values in each tensor as the parameter has.
#[derive(Clone, Debug)]
pub struct ParamState {
    /// How many updates it had.
    pub updates: u64,
    /// With the first of its averages, which an update computes as it goes.
    pub moments: AdamwMoments,
    /// Its other averages.
    pub more_averages: Vec<Tensor<1>>,
}

impl ParamState {
    /// All averages, in the order of the optimizer's.
    pub fn averages(&self) -> impl Iterator<Item = &Tensor<1>> {
        self.moments.ema.iter().chain(&self.more_averages)
    }
}

/// A state that no parameter of the module takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the optimizer's state for {name} does not fit the module: {why}\nhint: give the state that was stored with it"
)]
pub struct StateMismatch {
    /// Of the parameter.
    pub name: String,
    /// What is different.
    pub why: String,
}

/// AdamW, with or without Muon, and its memory of each parameter.
pub struct Optimizer {
    settings: AdamW,
    averages: Vec<Ema>,
    names: ParamNames,
    steps: u64,
    states: HashMap<ParamId, ParamState>,
}

impl Optimizer {
    /// Before the first step of the network that has these names. Keeps each of these averages of its parameters.
    pub fn new(settings: AdamW, averages: Vec<Ema>, names: ParamNames) -> Self {
        Optimizer { settings, averages, names, steps: 0, states: HashMap::new() }
    }

    /// How many averages it keeps of each parameter.
    pub fn averages_kept(&self) -> usize {
        self.averages.len()
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Of the network's parameters.
    pub fn names(&self) -> &ParamNames {
        &self.names
    }

    /// One step. A parameter without a gradient stays as it is.
    ///
    /// Parameters change in place where nobody else holds their memory: give the only copy of the module, and drop what
    /// was computed with it.
    #[must_use]
    pub fn step<M: Module>(&mut self, module: M, mut gradients: ModuleGradients, learning_rate: f64) -> M {
        self.steps += 1;
        let mut updated = muon::update(self, &module, &mut gradients, learning_rate);
        updated.extend(joined::update(self, &module, &mut gradients, learning_rate));
        module.map(&mut Update { optimizer: self, gradients, learning_rate, updated })
    }

    /// The module with an average of each parameter in its place, the one that was given as `index`-th; `module` itself
    /// if there is no such average, or it has not begun.
    pub fn averaged<M: Module>(&self, module: &M, index: usize) -> M {
        match self.averages.get(index) {
            Some(ema) if ema.has_begun(self.steps) => module.clone().map(&mut Averaged { states: &self.states, index }),
            _ => module.clone(),
        }
    }

    /// What is remembered, by the parameters' official names.
    pub fn states<M: Module>(&self, module: &M) -> BTreeMap<String, &ParamState> {
        let places = places::places(module, &self.names);
        places.into_iter().filter_map(|(name, place)| Some((name, self.states.get(&place.id)?))).collect()
    }

    /// Continues with what [`Self::states`] gave after `steps` steps, perhaps in another process.
    ///
    /// # Errors
    /// The module has no such parameter, or one of another size. Nothing was changed.
    pub fn restore<M: Module>(
        &mut self,
        module: &M,
        steps: u64,
        states: impl IntoIterator<Item = (String, ParamState)>,
    ) -> Result<(), StateMismatch> {
        let places = places::places(module, &self.names);
        let mut restored = HashMap::new();
        for (name, state) in states {
            let Some(&Place { id, count: values }) = places.get(&name) else {
                return Err(StateMismatch { name, why: "it has no such parameter".into() });
            };
            let (found, kept) = (state.averages().count(), self.averages.len());
            if found != kept {
                let why = format!("it has {found} averages, and this optimizer keeps {kept}");
                return Err(StateMismatch { name, why });
            }
            let AdamwMoments { first, second, .. } = &state.moments;
            for count in [first, second].into_iter().chain(state.averages()).map(|x| x.dims()[0]) {
                if count != values {
                    let why = format!("{count} values for a parameter of {values}");
                    return Err(StateMismatch { name, why });
                }
            }
            restored.insert(id, state);
        }
        self.states = restored;
        self.steps = steps;
        Ok(())
    }

    /// Drops what is remembered of all parameters, to make room for what [`Self::restore`] is given.
    pub fn forget(&mut self) {
        self.states = HashMap::new();
    }

    fn rates(&self, number: NonZeroU64, learning_rate: f64, gradient_factor: f64) -> AdamwStep {
        let AdamW { beta_1, beta_2, eps, weight_decay, .. } = self.settings;
        let ema_decay = self.kept(0).unwrap_or(0.0);
        AdamwStep { learning_rate, beta_1, beta_2, eps, weight_decay, number, gradient_factor, ema_decay }
    }

    /// Share of an average that this step keeps.
    fn kept(&self, index: usize) -> Option<f64> {
        let number = NonZeroU64::new(self.steps)?;
        self.averages.get(index).map(|ema| ema.kept(number))
    }

    fn update<const D: usize>(
        &mut self,
        id: ParamId,
        param: Tensor<D>,
        gradient: Tensor<1>,
        learning_rate: f64,
        factor: f64,
    ) -> Tensor<D> {
        let ParamState { updates, moments, more_averages } = self.take_state(id, &param);
        let number = NonZeroU64::MIN.saturating_add(updates);
        let step = self.rates(number, learning_rate, factor);
        let (param, moments) = ops::adamw_step(param, gradient, moments, &step);
        let more_averages = self.followed(more_averages, &param);
        self.states.insert(id, ParamState { updates: number.get(), moments, more_averages });
        param
    }

    /// What is remembered of a parameter, or what an optimizer begins with.
    fn take_state<const D: usize>(&mut self, id: ParamId, param: &Tensor<D>) -> ParamState {
        self.states.remove(&id).unwrap_or_else(|| self.first_state(param))
    }

    /// The first average one step on, where no update of the moments computes it.
    fn first_followed<const D: usize>(&self, ema: Option<Tensor<1>>, param: &Tensor<D>) -> Option<Tensor<1>> {
        match (self.kept(0), ema) {
            (Some(kept), Some(ema)) => Some(ops::ema_step(param.clone(), ema, kept)),
            (_, ema) => ema,
        }
    }

    /// Averages begin with the parameter as it is.
    fn first_state<const D: usize>(&self, param: &Tensor<D>) -> ParamState {
        let more_averages = self.averages.iter().skip(1).map(|_| ops::ema_start(param)).collect();
        ParamState { updates: 0, moments: AdamwMoments::new(param, !self.averages.is_empty()), more_averages }
    }

    /// The averages after the first, one step on.
    fn followed<const D: usize>(&self, averages: Vec<Tensor<1>>, param: &Tensor<D>) -> Vec<Tensor<1>> {
        let followed = |(index, ema)| match self.kept(index + 1) {
            Some(kept) if kept < 1.0 => ops::ema_step(param.clone(), ema, kept),
            _ => ema,
        };
        averages.into_iter().enumerate().map(followed).collect()
    }

    /// The averages of a parameter that had updates before and none in this step.
    fn rest<const D: usize>(&mut self, id: ParamId, param: Tensor<D>) {
        let Some(mut state) = self.states.remove(&id) else { return };
        state.moments.ema = self.first_followed(state.moments.ema.take(), &param);
        state.more_averages = self.followed(state.more_averages, &param);
        self.states.insert(id, state);
    }
}

struct Update<'a> {
    optimizer: &'a mut Optimizer,
    gradients: ModuleGradients,
    learning_rate: f64,
    /// Parameters that were updated before, flat.
    updated: HashMap<ParamId, Tensor<1>>,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        // An operation refuses tensors of two strategies, so the updated one gets that of the parameter.
        let strategy = tensor.gradient_checkpointing_strategy();
        let updated = match (self.updated.remove(&id), self.gradients.gradients.remove(id)) {
            (Some(updated), _) => updated.reshape(tensor.dims()),
            (None, Some(gradient)) => {
                let factor = self.gradients.factor;
                self.optimizer.update(id, tensor.inner(), gradient, self.learning_rate, factor)
            }
            (None, None) => {
                self.optimizer.rest(id, tensor.clone().inner());
                return Param::from_mapped_value(id, tensor, mapper);
            }
        };
        let mut tensor = Tensor::from_inner(updated);
        if let Some(strategy) = strategy {
            tensor = tensor.with_gradient_checkpointing_strategy(strategy);
        }
        Param::from_mapped_value(id, tensor.require_grad(), mapper)
    }
}

struct Averaged<'a> {
    states: &'a HashMap<ParamId, ParamState>,
    index: usize,
}

impl ModuleMapper for Averaged<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let average = |state: &ParamState| state.averages().nth(self.index).cloned();
        let Some(ema) = self.states.get(&param.id).and_then(average) else { return param };
        param.map(|tensor| {
            let (required, strategy) = (tensor.is_require_grad(), tensor.gradient_checkpointing_strategy());
            let average = ema.reshape(tensor.dims());
            let Some(strategy) = strategy else { return average };
            let average = Tensor::from_inner(average).with_gradient_checkpointing_strategy(strategy);
            average.set_require_grad(required)
        })
    }
}
