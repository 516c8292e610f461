//! Golden values, and gradients by the names of parameters.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::ModuleVisitor;
use rectiflow_nn::{Device, Gradients, Module, Param, ParamGradients, ParamNames, Tensor, from_f32, to_f32};
use safetensors::SafeTensors;

/// A file of `fixtures/vision`.
pub(crate) struct Golden {
    pub(crate) bytes: Vec<u8>,
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision");
        Golden { bytes: std::fs::read(folder.join(name)).unwrap() }
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("{name}"));
        tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    pub(crate) fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        from_f32(self.numbers(name), file.tensor(name).unwrap().shape().try_into().unwrap(), device)
    }

    /// Within a share of the largest number.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, found: &[f32], relative: f32) {
        let expected = self.numbers(name);
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(1e-30_f32, |m, x| m.max(x.abs()));
        let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
        assert!(error <= relative, "{name}: off by {error:.1e} of {largest:.1e}");
    }

    /// Every gradient of a network that the file has, and no other.
    #[track_caller]
    pub(crate) fn check_gradients(&self, found: &BTreeMap<String, Vec<f32>>, zero: &str, relative: f32) {
        for (name, gradient) in found {
            if !zero.is_empty() && name.ends_with(zero) {
                assert!(gradient.iter().all(|x| x.abs() < 1e-5), "{name}");
            } else {
                self.check(&format!("gradient.{name}"), gradient, relative);
            }
        }
    }
}

/// The gradients of a backward pass by the names of `module`'s parameters.
pub(crate) fn by_name<M: Module>(module: &M, names: &ParamNames, gradients: Gradients) -> BTreeMap<String, Vec<f32>> {
    named(module, &[names], &ParamGradients::of(module, gradients))
}

/// The same of a module whose parts were named apart.
pub(crate) fn named<M: Module>(
    module: &M,
    names: &[&ParamNames],
    gradients: &ParamGradients,
) -> BTreeMap<String, Vec<f32>> {
    struct Visitor<'a>(&'a [&'a ParamNames], &'a ParamGradients, BTreeMap<String, Vec<f32>>);

    impl ModuleVisitor for Visitor<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.1.get(param.id) {
                let name = self.0.iter().find_map(|names| names.get(param.id)).unwrap();
                self.2.insert(name.to_owned(), to_f32(gradient));
            }
        }
    }

    let mut visitor = Visitor(names, gradients, BTreeMap::new());
    module.visit(&mut visitor);
    visitor.2
}
