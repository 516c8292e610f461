//! Pictures alone, for objectives that look at no text: which ones a step has, and which are kept for validation.
//!
//! What this module does not do: encode anything, or read captions.

use rayon::prelude::*;
use rectiflow_dataset::{Dataset, Drawn};
use rectiflow_nn::{Device, Tensor};

use super::Problem;
use super::split::{Split, kept_apart, unchanging};
use crate::encode::{batch_of, picture};

/// The pictures of a run, in their order.
pub struct PictureData {
    dataset: Dataset,
    seed: u64,
    split: Split,
    /// By size.
    training: Vec<Vec<u64>>,
}

impl PictureData {
    /// Batches of `batch` pictures; `validation` of them are never trained on, or a tenth of all if that is fewer.
    ///
    /// # Errors
    /// The data set has fewer pictures than a batch.
    pub fn new(dataset: Dataset, seed: u64, batch: usize, validation: usize) -> Result<PictureData, Problem> {
        let (training, apart) = kept_apart(dataset.members(), validation, seed);
        let split = Split::of(training.clone(), apart, batch, seed)?;
        Ok(PictureData { dataset, seed, split, training })
    }

    /// See [`Dataset::digest`].
    pub fn digest(&self) -> String {
        self.dataset.digest()
    }

    /// The pictures of a step. Another turn has others.
    pub fn drawn(&self, step: u64, turn: u64) -> Vec<Drawn> {
        self.split.drawn(step, turn)
    }

    /// The pictures that are kept for validation, at most `count` at once, each of one size.
    pub fn validation(&self, count: usize) -> impl Iterator<Item = Vec<Drawn>> + '_ {
        self.split.apart(count)
    }

    /// Pictures that are trained on, at most `most` of them all over the data set, `count` at once.
    pub fn some(&self, most: usize, count: usize) -> impl Iterator<Item = Vec<Drawn>> + '_ {
        let all: usize = self.training.iter().map(Vec::len).sum();
        let apart = all.div_ceil(most.max(1)).max(1);
        self.training.iter().flat_map(move |samples| {
            let some: Vec<u64> = samples.iter().step_by(apart).copied().collect();
            some.chunks(count.max(1)).map(unchanging).collect::<Vec<_>>()
        })
    }

    /// What a picture is called.
    pub fn id(&self, sample: u64) -> String {
        self.dataset.id(sample)
    }

    /// The pictures themselves, which are of one size: `[B, 3, H, W]` in -1..1.
    ///
    /// # Errors
    /// One cannot be read any more.
    pub fn pictures(&self, drawn: &[Drawn], device: &Device) -> Result<Tensor<4>, Problem> {
        let read = drawn.par_iter().map(|one| picture(&self.dataset, self.seed, one));
        let pictures = read.collect::<Result<Vec<_>, _>>()?;
        Ok(batch_of(&pictures, device))
    }
}
