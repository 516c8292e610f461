use rectiflow_nn::Rng;

/// The numbers of `purpose` for one sample in one epoch.
pub(crate) fn keyed(seed: u64, purpose: &str, epoch: u64, sample: u64) -> Rng {
    Rng::keyed(Rng::keyed(seed, "epoch", epoch).bits(), purpose, sample)
}

/// Whether `sample` is mirrored left to right in `epoch`: half of them are.
pub fn is_flipped(seed: u64, epoch: u64, sample: u64) -> bool {
    keyed(seed, "flip", epoch, sample).bits() >> 63 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_all_samples_are_flipped_and_others_in_another_epoch() {
        let flipped =
            |seed, epoch| -> Vec<bool> { (0..10_000).map(|sample| is_flipped(seed, epoch, sample)).collect() };
        let one = flipped(1, 0);
        assert!((4_800..5_200).contains(&one.iter().filter(|flipped| **flipped).count()));
        for other in [flipped(1, 1), flipped(2, 0)] {
            let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
            assert!((4_800..5_200).contains(&same), "{same}");
        }
    }
}
