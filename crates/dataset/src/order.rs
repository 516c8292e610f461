use rectiflow_nn::Rng;

/// A Feistel network of this many rounds is taken for a random permutation; four would pass for one.
const ROUNDS: u64 = 6;
/// Half the bits of the smallest network. Networks on fewer numbers have too few keys to be even.
const HALF_BITS_MIN: u32 = 4;

/// The order in which an epoch takes `count` things: a permutation of `0..count` that depends on the seed, a purpose
/// and the epoch alone.
///
/// Nothing is shuffled and nothing stored: any position is answered on its own, in constant time and memory. So a
/// resumed run continues anywhere, and several processes agree without a word.
///
/// A Feistel network permutes the next power of four; what falls outside `0..count` is sent through again until it
/// falls inside (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), fewer than four
/// times on average from 64 things on.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    key: u64,
    count: u64,
    half_bits: u32,
}

impl Order {
    /// The order of `count` things in `epoch`; `purpose` tells orders of one run apart.
    ///
    /// # Panics
    /// `count` is 0 or above 2^52.
    pub fn new(seed: u64, purpose: &str, epoch: u64, count: u64) -> Self {
        assert!((1..=1 << 52).contains(&count), "an order of {count} things");
        let bits = u64::BITS - (count - 1).leading_zeros();
        Order { key: Rng::keyed(seed, purpose, epoch).bits(), count, half_bits: bits.div_ceil(2).max(HALF_BITS_MIN) }
    }

    /// What stands at `position`.
    ///
    /// # Panics
    /// `position` is not below the count.
    pub fn at(&self, position: u64) -> u64 {
        assert!(position < self.count, "position {position} of {}", self.count);
        let mut number = position;
        loop {
            number = self.permuted(number);
            if number < self.count {
                return number;
            }
        }
    }

    fn permuted(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for round in 0..ROUNDS {
            // Half a number has 26 bits at most, so that the round's number has room above.
            let mixed = Rng::keyed(self.key, "round", (round + 1) << 32 | right).bits() >> (u64::BITS - self.half_bits);
            (left, right) = (right, left ^ mixed);
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(seed: u64, epoch: u64, count: u64) -> Vec<u64> {
        let order = Order::new(seed, "samples", epoch, count);
        (0..count).map(|position| order.at(position)).collect()
    }

    #[test]
    fn every_thing_comes_once() {
        let counts =
            (1..200).chain((200..2_000).step_by(37)).chain([255, 256, 257, 1_023, 1_024, 1_025, 2_000, 65_537]);
        for count in counts {
            let mut seen = whole(3, 1, count);
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..count), "count {count}");
        }
    }

    #[test]
    fn epochs_seeds_and_purposes_have_orders_of_their_own() {
        let one = whole(1, 0, 100);
        assert_eq!(one, whole(1, 0, 100));
        assert_ne!(one, whole(1, 1, 100));
        assert_ne!(one, whole(2, 0, 100));
        assert_ne!(one[0..20], (0..20).map(|at| Order::new(1, "batches", 0, 100).at(at)).collect::<Vec<_>>());
    }

    /// Pearson's statistic of `counts` that should be equal.
    fn chi_square(counts: &[u64]) -> f64 {
        let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
    }

    /// With k degrees of freedom the statistic has mean k and variance 2k; five deviations are never seen by chance.
    #[track_caller]
    fn assert_even(counts: &[u64], freedom: f64) {
        let deviations = (chi_square(counts) - freedom) / (2.0 * freedom).sqrt();
        assert!(deviations.abs() < 5.0, "{deviations} deviations");
    }

    #[test]
    fn every_thing_is_as_likely_at_every_position() {
        const COUNT: usize = 24;
        let mut seen = vec![0; COUNT * COUNT];
        for epoch in 0..4_000 {
            for (position, number) in whole(9, epoch, COUNT as u64).into_iter().enumerate() {
                seen[position * COUNT + number as usize] += 1;
            }
        }
        // A table whose rows and columns have the same sum.
        assert_even(&seen, ((COUNT - 1) * (COUNT - 1)) as f64);
    }

    #[test]
    fn every_thing_is_as_likely_to_follow_every_other() {
        const COUNT: usize = 20;
        let mut seen = vec![0; COUNT * COUNT];
        for seed in 0..2_000 {
            whole(seed, 5, COUNT as u64)
                .windows(2)
                .for_each(|pair| seen[pair[0] as usize * COUNT + pair[1] as usize] += 1);
        }
        let pairs: Vec<u64> = (0..COUNT * COUNT).filter(|at| at / COUNT != at % COUNT).map(|at| seen[at]).collect();
        assert_even(&pairs, (COUNT * (COUNT - 1) - 1) as f64);
    }

    #[test]
    fn a_thousand_million_samples_need_no_list() {
        let order = Order::new(1, "samples", 0, 1_000_000_007);
        let some: std::collections::BTreeSet<u64> = (0..1_000).map(|at| order.at(at * 1_000_000)).collect();
        assert!(some.len() == 1_000 && some.iter().all(|number| *number < 1_000_000_007));
    }
}
