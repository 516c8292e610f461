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

/// How far [`shifted`] goes, as a user says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shift {
    /// So far.
    By(f32),
    /// By the number of image tokens, as diffusers' `use_dynamic_shifting` with the usual settings: the logarithm is 0.5
    /// for 256 tokens, 1.15 for 4096, and on the line through both for others.
    Dynamic,
}

impl Shift {
    /// The number, for pictures of so many image tokens.
    pub fn of(self, tokens: usize) -> f32 {
        const ENDS: [(f64, f64); 2] = [(256.0, 0.5), (4096.0, 1.15)];
        let [(few, low), (many, high)] = ENDS;
        match self {
            Shift::By(shift) => shift,
            Shift::Dynamic => (low + (high - low) * (tokens as f64 - few) / (many - few)).exp() as f32,
        }
    }
}

impl std::str::FromStr for Shift {
    type Err = String;

    /// A number, or `dynamic`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "dynamic" {
            return Ok(Shift::Dynamic);
        }
        text.parse().map(Shift::By).map_err(|_| "give a number above 0, or `dynamic`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_shift_is_diffusers() {
        for (tokens, mu) in [(256, 0.5_f32), (4096, 1.15), (1024, 0.63)] {
            assert!((Shift::Dynamic.of(tokens).ln() - mu).abs() < 1e-6, "{tokens}");
        }
        assert_eq!(["3", "dynamic"].map(str::parse), [Ok(Shift::By(3.0)), Ok(Shift::Dynamic)]);
        assert_eq!(Shift::By(3.0).of(7), 3.0);
        assert!("auto".parse::<Shift>().unwrap_err().contains("dynamic"));
    }
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
