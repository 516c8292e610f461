use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Gradients, Tensor};

/// The gradients of parameters, each flat in f32. What several backward passes give is added up: those of the parts of
/// a batch, or of the blocks of a network that went backward one by one.
#[derive(Clone, Debug, Default)]
pub struct ParamGradients {
    gradients: HashMap<ParamId, Tensor<1>>,
}

impl ParamGradients {
    /// Of one backward pass of `module`.
    pub fn of<M: Module>(module: &M, gradients: Gradients) -> Self {
        let mut all = ParamGradients::default();
        all.add(module, gradients);
        all
    }

    /// Adds those of another backward pass, of the same module or of a part of it.
    pub fn add<M: Module>(&mut self, module: &M, gradients: Gradients) {
        module.visit(&mut Add { all: self, gradients });
    }

    /// Adds those that another pass gave.
    pub fn merge(&mut self, other: ParamGradients) {
        for (id, gradient) in other.gradients {
            self.add_one(id, gradient);
        }
    }

    fn add_one(&mut self, id: ParamId, gradient: Tensor<1>) {
        let gradient = match self.gradients.remove(&id) {
            Some(before) => before + gradient,
            None => gradient,
        };
        self.gradients.insert(id, gradient);
    }

    /// Of one parameter, flat in its order, if it has one.
    pub fn get(&self, id: ParamId) -> Option<&Tensor<1>> {
        self.gradients.get(&id)
    }

    /// Takes that of one parameter.
    pub fn remove(&mut self, id: ParamId) -> Option<Tensor<1>> {
        self.gradients.remove(&id)
    }
}

struct Add<'a> {
    all: &'a mut ParamGradients,
    gradients: Gradients,
}

impl ModuleVisitor for Add<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = param.base().grad_remove(&mut self.gradients) else { return };
        let count = gradient.shape().num_elements();
        self.all.add_one(param.id, gradient.reshape([count]).cast(DType::F32));
    }
}
