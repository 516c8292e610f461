//! Which samples a step has, and which are never trained on.

use std::collections::BTreeSet;

use rectiflow_dataset::{Batches, DatasetError, Drawn, Order, Tail};

/// The samples of a run. Those of one list are of one size, so that any run of a list can be one batch.
pub(crate) struct Split {
    batches: Batches,
    apart: Vec<Vec<u64>>,
}

impl Split {
    /// Keeps `apart` of the samples, at most a tenth, and makes batches of the others.
    ///
    /// # Errors
    /// They are fewer than a batch.
    pub(crate) fn new(members: Vec<Vec<u64>>, batch: usize, apart: usize, seed: u64) -> Result<Split, DatasetError> {
        let (training, apart) = kept_apart(members, apart, seed);
        Split::of(training, apart, batch, seed)
    }

    /// Batches of what [`kept_apart`] leaves for training.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn of(
        training: Vec<Vec<u64>>,
        apart: Vec<Vec<u64>>,
        batch: usize,
        seed: u64,
    ) -> Result<Split, DatasetError> {
        Ok(Split { batches: Batches::new(training, batch as u64, Tail::Drop, seed)?, apart })
    }

    /// The samples of a step. Another turn has others.
    pub(crate) fn drawn(&self, step: u64, turn: u64) -> Vec<Drawn> {
        // Far beyond any run's end.
        self.batches.batch(step + (turn << 40)).drawn
    }

    /// How many samples are kept for validation.
    pub(crate) fn apart_len(&self) -> usize {
        self.apart.iter().map(Vec::len).sum()
    }

    /// Those that are kept for validation, at most `count` at once, each of one size.
    pub(crate) fn apart(&self, count: usize) -> impl Iterator<Item = Vec<Drawn>> + '_ {
        self.apart.iter().flat_map(move |samples| samples.chunks(count.max(1)).map(unchanging))
    }

    /// Only whole batches of them: those of a smaller one would count for more than the others.
    pub(crate) fn apart_in_whole(&self, count: usize) -> impl Iterator<Item = Vec<Drawn>> + '_ {
        self.apart(count).filter(move |drawn| drawn.len() == count)
    }
}

/// Samples as they are seen each time.
pub(crate) fn unchanging(samples: &[u64]) -> Vec<Drawn> {
    samples.iter().map(|sample| Drawn { sample: *sample, epoch: 0 }).collect()
}

/// Takes `count` samples out of all, by the seed, and leaves the others in their order.
pub(crate) fn kept_apart(members: Vec<Vec<u64>>, count: usize, seed: u64) -> (Vec<Vec<u64>>, Vec<Vec<u64>>) {
    let all: Vec<u64> = members.iter().flatten().copied().collect();
    // Never more than a tenth: a small data set is for training.
    let count = count.min(all.len() / 10);
    let order = Order::new(seed, "validation", 0, all.len() as u64);
    let apart: BTreeSet<u64> = (0..count as u64).map(|place| all[order.at(place) as usize]).collect();
    members.into_iter().map(|samples| samples.into_iter().partition(|sample| !apart.contains(sample))).unzip()
}
