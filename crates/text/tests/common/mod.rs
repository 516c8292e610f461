//! The fixtures, and a parameter source over one safetensors file.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rectiflow_nn::{Init, ParamSource, Read, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

/// `fixtures/NAME` of the workspace.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

pub(crate) fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// One safetensors file as it is, with the names asked for and not asked for.
pub(crate) struct File {
    tensors: BTreeMap<String, (Vec<usize>, Arc<[u8]>)>,
    pub(crate) problems: Vec<String>,
    claimed: BTreeSet<String>,
}

impl File {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::F16, "{name}");
            (name.to_owned(), (view.shape().to_vec(), Arc::from(view.data())))
        });
        File { tensors: tensors.collect(), problems: Vec::new(), claimed: BTreeSet::new() }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.tensors.remove(name).unwrap();
    }

    pub(crate) fn set_shape(&mut self, name: &str, shape: &[usize]) {
        self.tensors.get_mut(name).unwrap().0 = shape.into();
    }

    /// Every tensor was asked for, in its shape, and nothing else was.
    #[track_caller]
    pub(crate) fn assert_used_up(&self) {
        assert_eq!(self.problems, Vec::<String>::new());
        let names: BTreeSet<String> = self.tensors.keys().cloned().collect();
        assert_eq!(self.claimed, names);
    }
}

impl ParamSource for File {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|(shape, _)| shape.clone())
    }

    fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
        self.claimed.insert(name.into());
        match self.tensors.get(name) {
            Some((stored, bytes)) if stored == shape => {
                let (bytes, shape) = (bytes.clone(), shape.to_vec());
                Box::new(move || TensorData::from_bytes_vec(bytes.to_vec(), shape, burn::tensor::DType::F16))
            }
            other => {
                let stored = other.map(|(stored, _)| stored);
                self.problems.push(format!("{name}: {shape:?} asked for, the file has {stored:?}"));
                Box::new(|| unreachable!("a problem was noted"))
            }
        }
    }
}
