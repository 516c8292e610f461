//! Which samples a step has, and which are never trained on.

use std::collections::BTreeSet;

use rectiflow_dataset::{Batches, DatasetError, Drawn, Order, Tail};

/// The samples of a run. Those of one list are of one size, so that any run of a list can be one batch.
pub(crate) struct Split {
    batches: Batches,
    apart: Vec<Vec<u64>>,
}

impl Split {
    /// Keeps `apart` of the samples, at most a tenth, and makes batches of the others. Each of these is seen once in an
    /// epoch; where samples of a size do not fill their last batch, their next epoch does.
    ///
    /// # Errors
    /// They are fewer than a batch.
    pub(crate) fn new(members: Vec<Vec<u64>>, batch: usize, apart: usize, seed: u64) -> Result<Split, DatasetError> {
        let (training, apart) = kept_apart(members, apart, seed);
        Split::of(training, apart, batch, seed)
    }

    /// The same with batches of samples that all differ, for what compares them with each other. Samples that do not
    /// fill a batch wait for another epoch.
    ///
    /// # Errors
    /// No size has the samples of a batch.
    pub(crate) fn of_different(
        members: Vec<Vec<u64>>,
        batch: usize,
        apart: usize,
        seed: u64,
    ) -> Result<Split, DatasetError> {
        let (training, apart) = kept_apart(members, apart, seed);
        Ok(Split { batches: Batches::new(training, batch as u64, Tail::Drop, seed)?, apart })
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
        let count: usize = training.iter().map(Vec::len).sum();
        if count < batch {
            let problem = format!("{count} samples are left to train on, and a batch has {batch}");
            return Err(DatasetError::Settings { problem, hint: "set a smaller `batch`, or give more data" });
        }
        Ok(Split { batches: Batches::new(training, batch as u64, Tail::Fill, seed)?, apart })
    }

    /// Samples that an epoch passes over; another passes over others.
    pub(crate) fn passed_over(&self) -> u64 {
        self.batches.passed_over()
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
    if count == 0 {
        return (members, Vec::new());
    }
    let order = Order::new(seed, "validation", 0, all.len() as u64);
    let apart: BTreeSet<u64> = (0..count as u64).map(|place| all[order.at(place) as usize]).collect();
    members.into_iter().map(|samples| samples.into_iter().partition(|sample| !apart.contains(sample))).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_size_that_few_have_are_trained_on_too() {
        let members = vec![(0..40).collect(), vec![100, 101, 102], vec![]];
        let split = Split::new(members.clone(), 8, 0, 1).unwrap();
        let seen: BTreeSet<u64> = (0..20).flat_map(|step| split.drawn(step, 0)).map(|one| one.sample).collect();
        assert!(seen.iter().eq(members.iter().flatten()), "{seen:?}");
        assert_eq!(split.passed_over(), 0);
        // Other turns have other samples, and far beyond the run's end there are some too.
        assert_ne!(split.drawn(3, 0), split.drawn(3, 1));
    }

    #[test]
    fn batches_of_what_is_compared_have_no_sample_twice() {
        let split = Split::of_different(vec![(0..11).collect()], 4, 0, 1).unwrap();
        for step in 0..40 {
            let drawn = split.drawn(step, 0);
            assert_eq!(drawn.iter().map(|one| one.sample).collect::<BTreeSet<_>>().len(), 4, "{drawn:?}");
        }
        assert_eq!(split.passed_over(), 3);
    }

    #[test]
    fn too_few_samples_are_an_error_and_none_too() {
        for members in [vec![], vec![vec![]], vec![vec![1, 2], vec![3]]] {
            let refused = |split: Result<Split, DatasetError>| split.map(drop).unwrap_err().to_string();
            assert!(refused(Split::new(members.clone(), 4, 2, 1)).contains("a batch has 4\nhint: "));
            assert!(refused(Split::of_different(members, 4, 2, 1)).contains("the 4 samples of a batch\nhint: "));
        }
    }
}
