//! Parameters by their official names.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use rectiflow_nn::ParamNames;

/// A parameter's name for this process, and how many values it has.
pub(super) struct Place {
    pub(super) id: ParamId,
    pub(super) count: usize,
}

/// All float parameters of a module.
pub(super) fn places<M: Module>(module: &M, names: &ParamNames) -> BTreeMap<String, Place> {
    let mut walk = Walk { names, places: BTreeMap::new() };
    module.visit(&mut walk);
    walk.places
}

/// # Panics
/// The names are of another network: a bug of the caller.
pub(super) fn name_of(names: &ParamNames, id: ParamId) -> String {
    names.get(id).expect("the names are those of this network").to_owned()
}

struct Walk<'a> {
    names: &'a ParamNames,
    places: BTreeMap<String, Place>,
}

impl ModuleVisitor for Walk<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let place = Place { id: param.id, count: param.lazy_shape().num_elements() };
        self.places.insert(name_of(self.names, param.id), place);
    }
}
