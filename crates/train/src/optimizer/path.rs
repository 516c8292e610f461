//! Parameters by their paths in a module.

use std::collections::BTreeMap;
use std::fmt;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// Where a walk through a module is.
#[derive(Default)]
pub(super) struct Path(Vec<String>);

impl Path {
    pub(super) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    pub(super) fn exit(&mut self) {
        self.0.pop();
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A parameter's name for this process, and how many values it has.
pub(super) struct Place {
    pub(super) id: ParamId,
    pub(super) count: usize,
}

/// All float parameters by their paths.
pub(super) fn places<M: Module>(module: &M) -> BTreeMap<String, Place> {
    let mut walk = Walk { path: Path::default(), places: BTreeMap::new() };
    module.visit(&mut walk);
    walk.places
}

struct Walk {
    path: Path,
    places: BTreeMap<String, Place>,
}

impl ModuleVisitor for Walk {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let place = Place { id: param.id, count: param.lazy_shape().num_elements() };
        self.places.insert(self.path.to_string(), place);
    }
}
