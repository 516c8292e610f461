use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::dtype::Dtype;
use crate::keymap::Layout;
use crate::part::PartKind;

/// What the given files hold and lack, from their headers alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// The parts that will be used.
    pub parts: Vec<PartInventory>,
    /// The parts that no file has.
    pub missing: Vec<PartKind>,
    /// Tensors of the files that nothing will use.
    pub other: Vec<OtherTensors>,
}

/// One part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartInventory {
    /// Which part.
    pub part: PartKind,
    /// Whose names its tensors have.
    pub layout: Layout,
    /// The file, or the shards.
    pub files: Vec<PathBuf>,
    /// Tensors of the part in these files.
    pub tensors: usize,
    /// Trained numbers: without the transformer's table of positions, without tensors that are stored twice.
    pub parameters: u64,
    /// Bytes of all its tensors in the files.
    pub bytes: u64,
    /// How many tensors are stored in each type.
    pub dtypes: BTreeMap<Dtype, usize>,
}

/// Tensors of a file that nothing will use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherTensors {
    /// The file, or the folder of its shards.
    pub file: PathBuf,
    /// Why they are not used.
    pub why: Why,
    /// Their names.
    pub names: Vec<String>,
    /// Their bytes in all.
    pub bytes: u64,
}

/// Why tensors are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// They are of this part, and another file was given for it, or the file was given for another part.
    Unused(PartKind),
    /// They belong to no part that is known.
    Unknown,
}
