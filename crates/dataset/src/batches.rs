use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
use crate::order::Order;

/// What becomes of the samples of a bucket that do not fill a batch at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// They wait for another epoch, in which others will be left over: an epoch has only whole batches of its own, and
    /// no batch has a sample twice. A bucket with fewer samples than a batch is never drawn. For what compares the
    /// samples of a batch with each other.
    Drop,
    /// The batch is filled with the first samples of the bucket's next epochs: no sample is ever passed over, and each
    /// is seen once in an epoch. A batch may have a sample twice, in two epochs, and has where its bucket is smaller.
    Fill,
}

/// A sample of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The sample's number in the data set.
    pub sample: u64,
    /// How many times the sample was drawn before.
    pub epoch: u64,
}

/// The samples of one optimizer step, all of one size. A rank, or a micro-batch, takes a part of `drawn`: how the
/// batch is split does not change what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The number of the bucket.
    pub bucket: usize,
    /// The epoch in which the batch begins.
    pub epoch: u64,
    /// In order.
    pub drawn: Vec<Drawn>,
}

/// Batches of samples of one bucket each, asked for by their number in the run. Which samples a batch has is a
/// function of the seed, the batch size, the data set and that number: nothing is walked through, so that a resumed
/// run starts anywhere at once.
#[derive(Clone, Debug)]
pub struct Batches {
    seed: u64,
    batch_len: u64,
    tail: Tail,
    /// The samples of each bucket that has any (with [`Tail::Drop`]: enough for a batch), and the bucket's number.
    members: Vec<(usize, Vec<u64>)>,
}

impl Batches {
    /// Batches of `batch_len` out of the samples `members` of each bucket.
    ///
    /// # Errors
    /// Batches without samples, or no bucket that yields one.
    pub fn new(members: Vec<Vec<u64>>, batch_len: u64, tail: Tail, seed: u64) -> Result<Self, DatasetError> {
        let refused = |problem, hint| Err(DatasetError::Settings { problem, hint });
        if batch_len == 0 {
            return refused("a batch of 0 samples".into(), "take at least 1");
        }
        let needed = if tail == Tail::Drop { batch_len } else { 1 };
        let members: Vec<_> =
            members.into_iter().enumerate().filter(|(_, samples)| samples.len() as u64 >= needed).collect();
        if members.is_empty() {
            let problem = match tail {
                Tail::Drop => format!("no size of pictures has the {batch_len} samples of a batch"),
                Tail::Fill => "there is no sample to make batches of".into(),
            };
            return refused(problem, "set a smaller `batch`, or give more data");
        }
        Ok(Batches { seed, batch_len, tail, members })
    }

    /// How many batches begin in the epochs before `epoch`.
    pub fn before_epoch(&self, epoch: u64) -> u64 {
        (0..self.members.len()).map(|place| self.before_epoch_in(place, epoch)).sum()
    }

    /// Samples that an epoch passes over, because their bucket's last batch is not full; buckets that are never drawn
    /// not counted.
    pub fn passed_over(&self) -> u64 {
        match self.tail {
            Tail::Drop => self.count() - self.before_epoch(1) * self.batch_len,
            Tail::Fill => 0,
        }
    }

    /// Samples that are drawn.
    fn count(&self) -> u64 {
        self.members.iter().map(|(_, samples)| samples.len() as u64).sum()
    }

    /// Batch number `number` of the run.
    pub fn batch(&self, number: u64) -> Batch {
        let epoch = self.epoch_of(number);
        let first = self.before_epoch(epoch);
        // The place of the batch among this epoch's, bucket after bucket. With one bucket there is nothing to mix, and
        // the samples come in one order whatever the size of the batches.
        let mut rest = match self.members.len() {
            1 => number - first,
            _ => Order::new(self.seed, "batches", epoch, self.before_epoch(epoch + 1) - first).at(number - first),
        };
        let mut place = 0;
        loop {
            let before = self.before_epoch_in(place, epoch);
            let here = self.before_epoch_in(place, epoch + 1) - before;
            if rest < here {
                return self.batch_in(place, epoch, before + rest);
            }
            rest -= here;
            place += 1;
        }
    }

    /// The epoch in which a batch begins.
    fn epoch_of(&self, number: u64) -> u64 {
        if self.tail == Tail::Drop {
            return number / self.before_epoch(1);
        }
        // So many epochs have `number` whole batches; each bucket rounds its own up.
        let (mut low, mut high) = (0, number * self.batch_len / self.count() + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.before_epoch(middle) <= number { low = middle } else { high = middle }
        }
        low
    }

    /// How many batches of one bucket begin before `epoch`.
    fn before_epoch_in(&self, place: usize, epoch: u64) -> u64 {
        let count = self.members[place].1.len() as u64;
        match self.tail {
            Tail::Drop => count / self.batch_len * epoch,
            // The bucket's epochs stand in one row that is cut into batches.
            Tail::Fill => (count * epoch).div_ceil(self.batch_len),
        }
    }

    /// Batch `number` of those that one bucket has in the run.
    fn batch_in(&self, place: usize, epoch: u64, number: u64) -> Batch {
        let (bucket, samples) = &self.members[place];
        let count = samples.len() as u64;
        // The order of each bucket is its own: two of one count would else go in step.
        let order = |epoch| Order::new(self.seed, &format!("samples of bucket {bucket}"), epoch, count);
        let drawn = |(epoch, position): (u64, u64), order: &Order| Drawn {
            sample: samples[order.at(position) as usize],
            epoch,
        };
        let drawn = match self.tail {
            Tail::Drop => {
                let first = number % (count / self.batch_len) * self.batch_len;
                let order = order(epoch);
                (first..first + self.batch_len).map(|position| drawn((epoch, position), &order)).collect()
            }
            Tail::Fill => {
                let first = number * self.batch_len;
                let epochs = first / count..=(first + self.batch_len - 1) / count;
                let orders: Vec<_> = epochs.map(|epoch| (epoch, order(epoch))).collect();
                let at = |at: u64| {
                    let (epoch, order) = &orders[(at / count - first / count) as usize];
                    drawn((*epoch, at % count), order)
                };
                (first..first + self.batch_len).map(at).collect()
            }
        };
        Batch { bucket: *bucket, epoch, drawn }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Buckets of these counts; bucket 1's samples are numbered from 1000, and so on.
    fn members(counts: &[u64]) -> Vec<Vec<u64>> {
        counts.iter().zip(0..).map(|(count, bucket)| (bucket * 1_000..bucket * 1_000 + count).collect()).collect()
    }

    fn batches(counts: &[u64], batch_len: u64, tail: Tail) -> Batches {
        Batches::new(members(counts), batch_len, tail, 5).unwrap()
    }

    /// How often each sample comes in these batches, by the epoch that the sample is in.
    fn seen(batches: &Batches, numbers: std::ops::Range<u64>) -> BTreeMap<(u64, u64), u32> {
        let mut seen = BTreeMap::new();
        for batch in numbers.map(|number| batches.batch(number)) {
            for drawn in &batch.drawn {
                assert_eq!(drawn.sample / 1_000, batch.bucket as u64, "one bucket in a batch");
                *seen.entry((drawn.epoch, drawn.sample)).or_default() += 1;
            }
        }
        seen
    }

    #[test]
    fn an_epoch_of_whole_batches_has_every_sample_once() {
        let batches = batches(&[12, 8, 4], 4, Tail::Drop);
        assert_eq!((batches.before_epoch(1), batches.passed_over()), (6, 0));
        let seen = seen(&batches, 6..12);
        assert!(seen.len() == 24 && seen.iter().all(|((epoch, _), times)| (*epoch, *times) == (1, 1)));
    }

    #[test]
    fn dropped_tails_are_counted_and_are_others_in_another_epoch() {
        let batches = batches(&[14, 3, 8], 4, Tail::Drop);
        // Two of 14; the bucket of 3 is none that is drawn.
        assert_eq!((batches.before_epoch(1), batches.passed_over()), (5, 2));
        let epochs: Vec<Vec<u64>> = (0..4)
            .map(|epoch| seen(&batches, epoch * 5..epoch * 5 + 5).into_keys().map(|key| key.1).collect())
            .collect();
        assert!(epochs.iter().all(|samples| samples.len() == 20));
        assert!(epochs.iter().any(|samples| *samples != epochs[0]));
    }

    #[test]
    fn batches_far_beyond_any_end_are_answered() {
        // As runs that went back and begin a turn of their own ask.
        let batches = batches(&[70_000, 3, 1], 4_096, Tail::Fill);
        for number in [1 << 40, (2 << 40) + 5] {
            let batch = batches.batch(number);
            assert_eq!(batch.drawn.len(), 4_096);
            assert!(batches.before_epoch(batch.epoch) <= number && number < batches.before_epoch(batch.epoch + 1));
        }
    }

    #[test]
    fn batches_of_different_buckets_are_mixed() {
        let batches = batches(&[400, 400], 4, Tail::Drop);
        let buckets: Vec<usize> = (0..200).map(|number| batches.batch(number).bucket).collect();
        let changes = buckets.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!((70..130).contains(&changes), "{changes}");
    }

    #[test]
    fn without_buckets_the_batch_size_does_not_change_the_order_of_samples() {
        let row = |batch_len| -> Vec<Drawn> {
            let batches = batches(&[31], batch_len, Tail::Fill);
            (0..60 / batch_len).flat_map(|number| batches.batch(number).drawn).collect()
        };
        assert_eq!(row(2), row(6));
    }

    #[test]
    fn batches_that_cannot_be_are_refused() {
        assert!(Batches::new(members(&[3, 3]), 4, Tail::Drop, 0).is_err());
        assert!(Batches::new(members(&[3, 3]), 4, Tail::Fill, 0).is_ok());
        assert!(Batches::new(members(&[0]), 4, Tail::Fill, 0).is_err());
        assert!(Batches::new(members(&[3]), 0, Tail::Fill, 0).is_err());
    }

    proptest! {
        #[test]
        fn filled_batches_pass_no_sample_over(
            counts in proptest::collection::vec(0_u64..30, 1..5), batch_len in 1_u64..12, epochs in 1_u64..6,
        ) {
            prop_assume!(counts.iter().sum::<u64>() > 0);
            let batches = batches(&counts, batch_len, Tail::Fill);
            let seen = seen(&batches, 0..batches.before_epoch(epochs));
            prop_assert!(seen.values().all(|times| *times == 1));
            for (count, bucket) in counts.iter().zip(0..) {
                for sample in bucket * 1_000..bucket * 1_000 + count {
                    for epoch in 0..epochs {
                        prop_assert!(seen.contains_key(&(epoch, sample)), "sample {sample} in epoch {epoch}");
                    }
                }
            }
        }
    }
}
