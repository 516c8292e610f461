//! Pictures alone, for objectives that look at no text: which ones a step has, and which are kept for validation.
//!
//! What this module does not do: encode anything, or read captions.

use std::collections::BTreeMap;

use rectiflow_dataset::{Batches, Dataset, Drawn, Kept, Size, Tail};
use rectiflow_nn::{Device, Tensor};

use super::Problem;
use super::flow::data::kept_apart;
use crate::encode::{EncodeError, batch_of};

/// The pictures of a run, in their order.
pub struct PictureData {
    dataset: Dataset,
    kept: BTreeMap<u64, Kept>,
    seed: u64,
    batches: Batches,
    /// By size, so that any run of a list can be one batch.
    training: Vec<Vec<u64>>,
    validation: Vec<Vec<u64>>,
}

impl PictureData {
    /// Batches of `batch` pictures; `validation` of them are never trained on, or a tenth of all if that is fewer.
    ///
    /// # Errors
    /// The data set has fewer pictures than a batch.
    pub fn new(dataset: Dataset, seed: u64, batch: usize, validation: usize) -> Result<PictureData, Problem> {
        let mut members = vec![Vec::new(); dataset.buckets().sizes().len()];
        dataset.kept().iter().for_each(|one| members[one.bucket].push(one.sample));
        let kept = dataset.kept().iter().map(|one| (one.sample, *one)).collect();
        let (training, validation) = kept_apart(members, validation, seed);
        let batches = Batches::new(training.clone(), batch as u64, Tail::Drop, seed)?;
        Ok(PictureData { dataset, kept, seed, batches, training, validation })
    }

    /// The sizes that its pictures have.
    pub fn sizes(&self) -> &[Size] {
        self.dataset.buckets().sizes()
    }

    /// The pictures of a step. Another turn has others.
    pub fn drawn(&self, step: u64, turn: u64) -> Vec<Drawn> {
        // Far beyond any run's end.
        self.batches.batch(step + (turn << 40)).drawn
    }

    /// The pictures that are kept for validation, at most `count` at once, each of one size.
    pub fn validation(&self, count: usize) -> impl Iterator<Item = Vec<Drawn>> + '_ {
        self.validation.iter().flat_map(move |samples| samples.chunks(count.max(1)).map(first_epoch))
    }

    /// Pictures that are trained on, at most `most` of them all over the data set, `count` at once.
    pub fn some(&self, most: usize, count: usize) -> impl Iterator<Item = Vec<Drawn>> + '_ {
        let all: usize = self.training.iter().map(Vec::len).sum();
        let apart = all.div_ceil(most.max(1)).max(1);
        self.training.iter().flat_map(move |samples| {
            let some: Vec<u64> = samples.iter().step_by(apart).copied().collect();
            some.chunks(count.max(1)).map(first_epoch).collect::<Vec<_>>()
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
        let picture = |one: &Drawn| {
            let read = self.dataset.augmented(self.seed, one.epoch, self.kept[&one.sample]);
            let read = read.map_err(|reason| EncodeError::LeftOut { id: self.id(one.sample), reason });
            read.map(|prepared| prepared.picture)
        };
        let pictures = drawn.iter().map(picture).collect::<Result<Vec<_>, _>>()?;
        Ok(batch_of(&pictures, device))
    }
}

fn first_epoch(samples: &[u64]) -> Vec<Drawn> {
    samples.iter().map(|sample| Drawn { sample: *sample, epoch: 0 }).collect()
}
