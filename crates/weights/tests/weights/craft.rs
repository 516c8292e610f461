//! Files for the tests: the fixtures, and safetensors files made byte by byte, good or bad.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rectiflow_nn::{Init, ParamSource, TensorData};
use rectiflow_weights::{Checkpoint, LoadReport, ModelPaths, Part, PartKind, TensorFile, WeightsError};

/// The project's tiny models; `scripts/make_fixtures.py` makes them.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

/// A tensor of a file that is made here.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn tensor(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

/// Zeros of one of the two-byte types.
pub(crate) fn zeros(name: &str, shape: &[usize]) -> Tensor {
    tensor(name, "F16", shape, vec![0; 2 * shape.iter().product::<usize>()])
}

/// All of a fixture's tensors, to be changed and written again.
pub(crate) fn tensors_of(path: &Path) -> Vec<Tensor> {
    let file = TensorFile::open(path).unwrap();
    let raw = |name: &String| {
        let raw = file.raw(name).unwrap();
        tensor(name, raw.dtype.name(), raw.shape, raw.bytes.to_vec())
    };
    file.tensors().keys().map(raw).collect()
}

/// A file's bytes. The header is not filled up to a round length.
pub(crate) fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for Tensor { name, dtype, shape, bytes } in tensors {
        let (begin, end) = (data.len(), data.len() + bytes.len());
        data.extend_from_slice(bytes);
        entries.push(format!(r#"{name:?}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#));
    }
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

pub(crate) fn with_header(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), data].concat()
}

/// A file in a folder of its own, which is removed with the value.
pub(crate) struct Scratch {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn scratch(name: &str, content: &[u8]) -> Scratch {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    Scratch { _folder: folder, path }
}

pub(crate) fn open_model(path: &Path) -> Result<Checkpoint, WeightsError> {
    Checkpoint::open(&ModelPaths { model: Some(path.to_owned()), ..ModelPaths::default() })
}

/// One file as one part, as its flag gives it.
pub(crate) fn open_as(kind: PartKind, path: &Path) -> Result<Checkpoint, WeightsError> {
    let mut paths = ModelPaths::default();
    let place = match kind {
        PartKind::Transformer => &mut paths.diffusion_model,
        PartKind::Vae => &mut paths.vae,
        PartKind::ClipL => &mut paths.clip_l,
        PartKind::ClipG => &mut paths.clip_g,
        PartKind::T5 => &mut paths.t5xxl,
    };
    *place = Some(path.to_owned());
    Checkpoint::open(&paths)
}

/// Does as a model would: claims these tensors, asks whether all is well, then reads.
pub(crate) fn load<'a>(
    part: &Part,
    shapes: impl IntoIterator<Item = (&'a str, Vec<usize>)>,
) -> Result<(BTreeMap<String, TensorData>, LoadReport), WeightsError> {
    let mut source = part.source();
    let claims: Vec<_> =
        shapes.into_iter().map(|(name, shape)| (name.to_owned(), source.claim(name, &shape, Init::Zeros))).collect();
    let report = source.finish()?;
    Ok((claims.into_iter().map(|(name, read)| (name, read())).collect(), report))
}

/// The shapes that a source has for these names.
pub(crate) fn shapes_of<'a>(part: &Part, names: &[&'a str]) -> Vec<(&'a str, Vec<usize>)> {
    let source = part.source();
    names.iter().filter_map(|name| Some((*name, source.shape(name)?))).collect()
}

/// The two lines of a message: what is wrong and what to do.
#[track_caller]
pub(crate) fn message(error: &WeightsError) -> (String, String) {
    let text = error.to_string();
    let (problem, hint) = text.split_once("\nhint: ").unwrap_or_else(|| panic!("no hint: {text}"));
    assert!(!problem.contains('\n') && !hint.contains('\n') && !hint.is_empty(), "{text}");
    (problem.to_owned(), hint.to_owned())
}

/// A GGUF file that is made here, field by field.
#[derive(Clone, Debug)]
pub(crate) struct Gguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// What the header says, where that is not how many there are.
    pub(crate) counts: [Option<u64>; 2],
    /// Metadata: a key, its type, and the bytes of its value.
    pub(crate) values: Vec<(String, u32, Vec<u8>)>,
    /// Names, dimensions fastest first, ggml's types and offsets.
    pub(crate) tensors: Vec<(String, Vec<u64>, u32, u64)>,
    pub(crate) data: Vec<u8>,
}

/// ggml's numbers of types.
pub(crate) const F32: u32 = 0;
pub(crate) const Q8_0: u32 = 8;

impl Gguf {
    /// Tensors of these dimensions, fastest first, and types, filled with zeros, one after the other.
    pub(crate) fn of(tensors: &[(&str, &[u64], u32)]) -> Gguf {
        let mut file = Gguf {
            magic: *b"GGUF",
            version: 3,
            counts: [None; 2],
            values: Vec::new(),
            tensors: Vec::new(),
            data: Vec::new(),
        };
        for (name, dims, kind) in tensors {
            let numbers = dims.iter().product::<u64>() as usize;
            let bytes = if *kind == Q8_0 { numbers / 32 * 34 } else { numbers * 4 };
            file.tensors.push(((*name).to_owned(), dims.to_vec(), *kind, file.data.len() as u64));
            file.data.resize((file.data.len() + bytes).next_multiple_of(32), 0);
        }
        file
    }

    pub(crate) fn value(mut self, key: &str, kind: u32, bytes: &[u8]) -> Gguf {
        self.values.push((key.to_owned(), kind, bytes.to_vec()));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.values.len() as u64];
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        for (stated, count) in self.counts.iter().zip(counts) {
            bytes.extend(stated.unwrap_or(count).to_le_bytes());
        }
        for (key, kind, value) in &self.values {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

/// A text as GGUF has it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// An array as GGUF has it: of this type, and this long.
pub(crate) fn array(kind: u32, count: u64, values: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), values].concat()
}
