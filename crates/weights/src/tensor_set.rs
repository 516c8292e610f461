use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::WeightsError;
use crate::file::TensorFile;
use crate::folder::{self, Weights};
use crate::header::TensorInfo;
use crate::shards::ShardIndex;

/// One file, or the shards of a folder read as one.
#[derive(Debug)]
pub(crate) struct TensorSet {
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Which of `files` has a tensor.
    file_of: BTreeMap<String, usize>,
}

impl TensorSet {
    /// Opens a file, or the weights in a folder.
    pub(crate) fn open(path: &Path) -> Result<TensorSet, WeightsError> {
        if !path.is_dir() {
            return Self::open_file(path);
        }
        match folder::find_weights(path)? {
            Weights::Single(file) => Self::open_file(&file),
            Weights::Sharded(index) => Self::open_shards(path, &index),
        }
    }

    fn open_file(path: &Path) -> Result<TensorSet, WeightsError> {
        let file = TensorFile::open(path)?;
        let file_of = file.tensors().keys().map(|name| (name.clone(), 0)).collect();
        Ok(TensorSet { path: path.to_owned(), files: vec![file], file_of })
    }

    fn open_shards(folder: &Path, index_path: &Path) -> Result<TensorSet, WeightsError> {
        let index = ShardIndex::parse(&folder::read_small(index_path)?)
            .map_err(|problem| WeightsError::BadIndex { path: index_path.to_owned(), problem })?;
        let mut files = Vec::new();
        let mut file_of = BTreeMap::new();
        for shard in index.shards() {
            let file = TensorFile::open(folder.join(shard)).map_err(|error| match error {
                WeightsError::NotFound { .. } => {
                    WeightsError::MissingShard { index: index_path.to_owned(), shard: shard.to_owned() }
                }
                other => other,
            })?;
            // A shard may hold tensors that the list does not have. They stay, and no model will claim them.
            let here = |name: &&String| index.tensors().get(*name).is_none_or(|listed| listed == shard);
            file_of.extend(file.tensors().keys().filter(here).map(|name| (name.clone(), files.len())));
            files.push(file);
        }
        let lacking: Vec<String> =
            index.tensors().keys().filter(|name| !file_of.contains_key(*name)).cloned().collect();
        if !lacking.is_empty() {
            return Err(WeightsError::ShardLacks { index: index_path.to_owned(), tensors: lacking });
        }
        Ok(TensorSet { path: folder.to_owned(), files, file_of })
    }

    /// The file, or the folder of the shards.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.file_of.keys().map(String::as_str)
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.file_of.get(name)?].tensors().get(name)
    }

    /// A handle on a tensor's bytes that keeps its map alive.
    pub(crate) fn bytes(&self, name: &str) -> Option<Bytes> {
        let file = &self.files[*self.file_of.get(name)?];
        Some(file.bytes(file.tensors().get(name)?))
    }
}
