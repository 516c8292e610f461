use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::folder;
use crate::header::TensorInfo;
use crate::inventory::PartInventory;
use crate::keymap::{self, KeyMap, Layout};
use crate::source::PartSource;
use crate::tensor_set::TensorSet;

/// The networks that Stable Diffusion 3 is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// The velocity network, MMDiT or MMDiT-X.
    Transformer,
    /// The autoencoder between pictures and latents.
    Vae,
    /// The text encoder CLIP ViT-L/14.
    ClipL,
    /// The text encoder OpenCLIP ViT-bigG/14.
    ClipG,
    /// The text encoder T5-v1.1-XXL.
    T5,
}

impl PartKind {
    /// All of them.
    pub const ALL: [PartKind; 5] =
        [PartKind::Transformer, PartKind::Vae, PartKind::ClipL, PartKind::ClipG, PartKind::T5];

    /// The name of its folder in a diffusers folder.
    pub fn folder(self) -> &'static str {
        folder::part_folder(self)
    }

    /// The command's option that gives a file for it alone.
    pub fn flag(self) -> &'static str {
        match self {
            PartKind::Transformer => "--diffusion-model",
            PartKind::Vae => "--vae",
            PartKind::ClipL => "--clip-l",
            PartKind::ClipG => "--clip-g",
            PartKind::T5 => "--t5xxl",
        }
    }
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PartKind::Transformer => "transformer",
            PartKind::Vae => "autoencoder",
            PartKind::ClipL => "CLIP-L text encoder",
            PartKind::ClipG => "CLIP-G text encoder",
            PartKind::T5 => "T5 text encoder",
        })
    }
}

/// One network's tensors: a file, some shards, or what has its prefix in a file of several.
#[derive(Debug)]
pub struct Part {
    pub(crate) kind: PartKind,
    pub(crate) layout: Layout,
    pub(crate) prefix: &'static str,
    pub(crate) set: Arc<TensorSet>,
    pub(crate) config: Option<Value>,
}

impl Part {
    /// Which network it is.
    pub fn kind(&self) -> PartKind {
        self.kind
    }

    /// Whose names its tensors have.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The `config.json` of its folder in a diffusers folder; of a part that is alone in its file, the one beside
    /// the file, if that is of the same kind and size.
    pub fn config(&self) -> Option<&Value> {
        self.config.as_ref()
    }

    /// The file, or the folder of its shards.
    pub fn path(&self) -> &Path {
        self.set.path()
    }

    /// A source for building its model once.
    pub fn source(&self) -> PartSource<'_> {
        PartSource::new(self)
    }

    /// What is in it, without reading values.
    pub fn inventory(&self) -> PartInventory {
        let map = self.key_map();
        let mut dtypes = BTreeMap::new();
        let (mut tensors, mut parameters, mut bytes) = (0, 0, 0);
        for (name, info) in self.tensors() {
            tensors += 1;
            bytes += info.range.len() as u64;
            *dtypes.entry(info.dtype).or_default() += 1;
            if !keymap::is_buffer(self.kind, name) && !map.is_not_needed(name) {
                parameters += info.elements();
            }
        }
        let files: Vec<PathBuf> = self.set.files().iter().map(|file| file.path().to_owned()).collect();
        PartInventory { part: self.kind, layout: self.layout, files, tensors, parameters, bytes, dtypes }
    }

    /// A blake3 digest of its tensors in hex: of names, types, shapes and values, as they are stored. Reads all of it.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, info) in self.tensors() {
            hasher.update(name.as_bytes()).update(&[0]).update(info.dtype.name().as_bytes());
            info.shape.iter().for_each(|size| {
                hasher.update(&(*size as u64).to_le_bytes());
            });
            if let Some(bytes) = self.bytes(name) {
                hasher.update(&bytes);
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    pub(crate) fn key_map(&self) -> KeyMap {
        KeyMap::new(self.kind, self.layout, self.names())
    }

    /// Its names, without the prefix.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.set.names().filter_map(|name| name.strip_prefix(self.prefix))
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.names().filter_map(|name| Some((name, self.info(name)?)))
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.set.info(&self.name_in_file(name))
    }

    pub(crate) fn bytes(&self, name: &str) -> Option<bytes::Bytes> {
        self.set.bytes(&self.name_in_file(name))
    }

    pub(crate) fn name_in_file(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
