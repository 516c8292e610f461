//! AdamW over a module: the norm of all gradients, then one pass over each parameter with its state and average.
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

mod places;
#[cfg(test)]
mod tests;

use places::Place;

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
}

/// A running average of the parameters: `average = decay * average + (1 - decay) * parameter` after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ema {
    /// Share of the average that a step keeps, 0 to 1.
    pub decay: f64,
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
        let mut visitor = Squares { gradients: &gradients, sum: 0.0, not_finite: None };
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
    sum: f64,
    not_finite: Option<ParamId>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.get(param.id) else { return };
        let squares = ops::sum_of_squares(gradient.clone());
        if !squares.is_finite() && self.not_finite.is_none() {
            self.not_finite = Some(param.id);
        }
        self.sum += squares;
    }
}

/// What is remembered of a parameter.
#[derive(Clone, Debug)]
pub struct ParamState {
    /// How many updates it had.
    pub updates: u64,
    /// As many values in each as the parameter has.
    pub moments: AdamwMoments,
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

/// AdamW and its memory of each parameter.
pub struct Optimizer {
    settings: AdamW,
    ema: Option<Ema>,
    names: ParamNames,
    states: HashMap<ParamId, ParamState>,
}

impl Optimizer {
    /// Before the first step. With `ema`, an average of the parameters is kept.
    pub fn new(settings: AdamW, ema: Option<Ema>, names: ParamNames) -> Self {
        Optimizer { settings, ema, names, states: HashMap::new() }
    }

    /// One step. A parameter without a gradient stays as it is.
    ///
    /// Parameters change in place where nobody else holds their memory: give the only copy of the module, and drop what
    /// was computed with it.
    #[must_use]
    pub fn step<M: Module>(&mut self, module: M, gradients: ModuleGradients, learning_rate: f64) -> M {
        module.map(&mut Update { optimizer: self, gradients, learning_rate })
    }

    /// The module with the average of each parameter in its place; `module` itself if none is kept.
    pub fn averaged<M: Module>(&self, module: &M) -> M {
        module.clone().map(&mut Averaged { states: &self.states })
    }

    /// What is remembered, by the parameters' official names.
    pub fn states<M: Module>(&self, module: &M) -> BTreeMap<String, &ParamState> {
        let places = places::places(module, &self.names);
        places.into_iter().filter_map(|(name, place)| Some((name, self.states.get(&place.id)?))).collect()
    }

    /// Continues with what [`Self::states`] gave before, perhaps in another process.
    ///
    /// # Errors
    /// The module has no such parameter, or one of another size. Nothing was changed.
    pub fn restore<M: Module>(
        &mut self,
        module: &M,
        states: impl IntoIterator<Item = (String, ParamState)>,
    ) -> Result<(), StateMismatch> {
        let places = places::places(module, &self.names);
        let mut restored = HashMap::new();
        for (name, state) in states {
            let Some(&Place { id, count: values }) = places.get(&name) else {
                return Err(StateMismatch { name, why: "it has no such parameter".into() });
            };
            let AdamwMoments { first, second, ema } = &state.moments;
            if ema.is_some() != self.ema.is_some() {
                let why = if ema.is_some() { "it has an average, which" } else { "it has no average, which" };
                let why = format!("{why} is not what this optimizer was made for");
                return Err(StateMismatch { name, why });
            }
            for count in [Some(first), Some(second), ema.as_ref()].into_iter().flatten().map(|x| x.dims()[0]) {
                if count != values {
                    let why = format!("{count} values for a parameter of {values}");
                    return Err(StateMismatch { name, why });
                }
            }
            restored.insert(id, state);
        }
        self.states = restored;
        Ok(())
    }

    fn rates(&self, number: NonZeroU64, learning_rate: f64, gradient_factor: f64) -> AdamwStep {
        let AdamW { beta_1, beta_2, eps, weight_decay } = self.settings;
        let ema_decay = self.ema.map_or(0.0, |ema| ema.decay);
        AdamwStep { learning_rate, beta_1, beta_2, eps, weight_decay, number, gradient_factor, ema_decay }
    }

    fn update<const D: usize>(
        &mut self,
        id: ParamId,
        param: Tensor<D>,
        gradient: Tensor<1>,
        learning_rate: f64,
        factor: f64,
    ) -> Tensor<D> {
        let kept = self.states.remove(&id);
        let ParamState { updates, moments } =
            kept.unwrap_or_else(|| ParamState { updates: 0, moments: AdamwMoments::new(&param, self.ema.is_some()) });
        let number = NonZeroU64::MIN.saturating_add(updates);
        let step = self.rates(number, learning_rate, factor);
        let (param, moments) = ops::adamw_step(param, gradient, moments, &step);
        self.states.insert(id, ParamState { updates: number.get(), moments });
        param
    }

    /// The average of a parameter that had updates before and none in this step.
    fn rest<const D: usize>(&mut self, id: ParamId, param: Tensor<D>) {
        let (Some(Ema { decay }), Some(state)) = (self.ema, self.states.get_mut(&id)) else { return };
        state.moments.ema = state.moments.ema.take().map(|ema| ops::ema_step(param, ema, decay));
    }
}

struct Update<'a> {
    optimizer: &'a mut Optimizer,
    gradients: ModuleGradients,
    learning_rate: f64,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let Some(gradient) = self.gradients.gradients.remove(id) else {
            self.optimizer.rest(id, tensor.clone().inner());
            return Param::from_mapped_value(id, tensor, mapper);
        };
        // An operation refuses tensors of two strategies, so the updated one gets that of the parameter.
        let strategy = tensor.gradient_checkpointing_strategy();
        let factor = self.gradients.factor;
        let updated = self.optimizer.update(id, tensor.inner(), gradient, self.learning_rate, factor);
        let mut tensor = Tensor::from_inner(updated);
        if let Some(strategy) = strategy {
            tensor = tensor.with_gradient_checkpointing_strategy(strategy);
        }
        Param::from_mapped_value(id, tensor.require_grad(), mapper)
    }
}

struct Averaged<'a> {
    states: &'a HashMap<ParamId, ParamState>,
}

impl ModuleMapper for Averaged<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(ema) = self.states.get(&param.id).and_then(|state| state.moments.ema.clone()) else { return param };
        param.map(|tensor| {
            let (required, strategy) = (tensor.is_require_grad(), tensor.gradient_checkpointing_strategy());
            let average = ema.reshape(tensor.dims());
            let Some(strategy) = strategy else { return average };
            let average = Tensor::from_inner(average).with_gradient_checkpointing_strategy(strategy);
            average.set_require_grad(required)
        })
    }
}
