//! Which samples a step has, and which are never trained on.

use rectiflow_dataset::{Batches, DatasetError, Drawn, Tail};

use super::flow::data::kept_apart;

/// The samples of a run that all go together.
pub(crate) struct Split {
    batches: Batches,
    apart: Vec<u64>,
}

impl Split {
    /// Keeps `apart` of the samples, at most a tenth, and makes batches of the others.
    ///
    /// # Errors
    /// They are fewer than a batch.
    pub(crate) fn new(samples: Vec<u64>, batch: usize, apart: usize, seed: u64) -> Result<Split, DatasetError> {
        let (members, apart) = kept_apart(vec![samples], apart, seed);
        let batches = Batches::new(members, batch as u64, Tail::Drop, seed)?;
        Ok(Split { batches, apart: apart.into_iter().flatten().collect() })
    }

    /// The samples of a step. Another turn has others.
    pub(crate) fn drawn(&self, step: u64, turn: u64) -> Vec<Drawn> {
        // Far beyond any run's end.
        self.batches.batch(step + (turn << 40)).drawn
    }

    /// Samples that are kept for validation.
    pub(crate) fn apart(&self) -> &[u64] {
        &self.apart
    }
}

/// Samples that are kept for validation, as they are seen each time.
pub(crate) fn unchanging(samples: &[u64]) -> Vec<Drawn> {
    samples.iter().map(|sample| Drawn { sample: *sample, epoch: 0 }).collect()
}
