use std::num::NonZeroU64;

/// The noise level that looks as noisy at another resolution as `sigma` does at its own:
/// `shift sigma / (1 + (shift - 1) sigma)`, which takes `2 ln shift` from the log-SNR and keeps 0 and 1 where they are, the
/// latter up to rounding. Never above 1.
///
/// shift: above 1 towards noise; [`shift_of_resolutions`] says how much.  Source: arXiv:2403.03206, equation 23.
pub fn shifted(sigma: f64, shift: f64) -> f64 {
    (shift * sigma / (1.0 + (shift - 1.0) * sigma)).clamp(0.0, 1.0)
}

/// How far [`shifted`] has to go from pictures of `px_from` pixels to pictures of `px_to`: `sqrt(px_to / px_from)`.
///
/// The mean of a constant picture is known `sqrt(n)` times better from `n` noisy pixels than from one; after the shift
/// it is known equally well. From 256x256 to 1024x1024 that is 4; people preferred 3, which the releases use.
/// Source: arXiv:2403.03206, sec. 5.3.2.
pub fn shift_of_resolutions(px_from: NonZeroU64, px_to: NonZeroU64) -> f64 {
    (px_to.get() as f64 / px_from.get() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_snr;

    #[test]
    fn a_shift_takes_twice_its_logarithm_from_the_log_snr() {
        for shift in [0.5_f64, 1.0, 3.0] {
            for sigma in [0.01, 0.3, 0.5, 0.99] {
                let moved = log_snr(sigma) - log_snr(shifted(sigma, shift));
                assert!((moved - 2.0 * shift.ln()).abs() < 1e-12, "shift {shift}, sigma {sigma}: {moved}");
            }
            assert_eq!((shifted(0.0, shift), shifted(1.0, shift)), (0.0, 1.0));
        }
    }

    /// Without a bound, 1 would become more than 1 for some of these.
    #[test]
    fn rounding_leads_to_no_level_above_1() {
        for shift in (1..1000).map(|shift| 1.0 / f64::from(shift)) {
            let end = shifted(1.0, shift);
            assert!((1.0 - 1e-12..=1.0).contains(&end), "{shift}: {end}");
        }
    }

    #[test]
    fn four_times_the_side_is_a_shift_of_4() {
        let px = |side: u64| NonZeroU64::new(side * side).unwrap();
        assert_eq!(shift_of_resolutions(px(256), px(1024)), 4.0);
        assert_eq!(shift_of_resolutions(px(1024), px(512)), 0.5);
    }

    /// The paper's argument, with its constant picture: the mean of `n` pixels has a standard deviation of
    /// `sigma / (1 - sigma) / sqrt(n)`.
    #[test]
    fn a_constant_picture_is_known_equally_well_after_the_shift() {
        let std = |sigma: f64, pixels: u64| sigma / (1.0 - sigma) / (pixels as f64).sqrt();
        let (from, to) = (256 * 256, 512 * 768);
        let shift = shift_of_resolutions(NonZeroU64::new(from).unwrap(), NonZeroU64::new(to).unwrap());
        let (before, after) = (std(0.4, from), std(shifted(0.4, shift), to));
        assert!((before / after - 1.0).abs() < 1e-12, "{before}, {after}");
    }
}
