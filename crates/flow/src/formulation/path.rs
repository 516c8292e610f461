use std::f64::consts::FRAC_PI_2;
use std::sync::LazyLock;

/// Levels of the discrete path.
pub(super) const LEVELS: usize = 1000;

/// Standard deviation that EDM takes pictures to have (Karras et al. 2022, arXiv:2206.00364, table 1).
pub(super) const SIGMA_DATA: f64 = 0.5;

/// How a picture `x0` becomes noise `eps`: `z = a x0 + b eps`.
///
/// Paths differ in the size of `z` and in their own time. What they have in common is the noise level
/// `sigma = b / (a + b)`, 0 to 1, which decides the log-SNR ([`log_snr`]) and is what solvers know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Rectified flow: `a = 1 - t`, `b = t`. Time is `sigma` itself.
    Straight,
    /// `a = cos(pi t / 2)`, `b = sin(pi t / 2)`, time 0 to 1.
    Cosine,
    /// 1000 levels, of which `a^2` is the product of all `1 - beta` so far (Rombach et al. 2022, arXiv:2112.10752), and
    /// `a^2 + b^2 = 1`. Time is the level's number, 0 to 999.
    Linear,
    /// EDM: `a = 1`, `b` without a bound. Time is `b`, which is what EDM calls sigma.
    Exploding,
}

/// So much of a picture and so much of noise: `image x0 + noise eps`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Factor of the picture.
    pub image: f64,
    /// Factor of the noise.
    pub noise: f64,
}

/// `ln(a^2 / b^2)` of every path at `sigma`, from infinity at 0 to minus infinity at 1.
pub fn log_snr(sigma: f64) -> f64 {
    2.0 * ((1.0 - sigma) / sigma).ln()
}

impl Path {
    /// `a` and `b` at `sigma`, 0 to 1; the exploding path has none at 1.
    pub fn noisy(self, sigma: f64) -> Mix {
        let size = match self {
            Path::Straight => 1.0,
            Path::Cosine | Path::Linear => (1.0 - sigma).hypot(sigma),
            Path::Exploding => 1.0 - sigma,
        };
        Mix { image: (1.0 - sigma) / size, noise: sigma / size }
    }

    /// The noise level at the path's own time. Between two levels of the linear path, `ln(b/a)` is interpolated (as
    /// `t_to_sigma` in crowsonkb/k-diffusion `external.py` does), and beyond the first and the last it stays with them.
    pub fn sigma(self, time: f64) -> f64 {
        match self {
            Path::Straight => time,
            Path::Cosine => {
                let (noise, image) = (FRAC_PI_2 * time).sin_cos();
                noise / (image + noise)
            }
            Path::Linear => {
                let time = time.clamp(0.0, (LEVELS - 1) as f64);
                let below = (time as usize).min(LEVELS - 2);
                let [low, high] = [below, below + 1].map(|level| LN_NOISE_TO_IMAGE[level]);
                sigma_of_ratio((low + (high - low) * (time - below as f64)).exp())
            }
            Path::Exploding => sigma_of_ratio(time),
        }
    }

    /// The path's own time at `sigma`: the inverse of [`Path::sigma`].
    pub fn time(self, sigma: f64) -> f64 {
        match self {
            Path::Straight => sigma,
            Path::Cosine => sigma.atan2(1.0 - sigma) / FRAC_PI_2,
            Path::Linear => {
                let wanted = (sigma / (1.0 - sigma)).ln();
                let above = LN_NOISE_TO_IMAGE.partition_point(|&level| level < wanted).clamp(1, LEVELS - 1);
                let [low, high] = [above - 1, above].map(|level| LN_NOISE_TO_IMAGE[level]);
                ((above - 1) as f64 + (wanted - low) / (high - low)).clamp(0.0, (LEVELS - 1) as f64)
            }
            Path::Exploding => sigma / (1.0 - sigma),
        }
    }

    /// What the network is told of the noise level.
    ///
    /// - straight: `1000 t` (Stability-AI/sd3.5 `sd3_impls.py`);
    /// - linear: the level's number, 0 to 999 (arXiv:2112.10752);
    /// - cosine: `1000 t`, so that the embedder sees the range that it sees on the other two;
    /// - exploding: `ln(b) / 4` (arXiv:2206.00364, table 1, `c_noise`).
    pub fn timestep(self, sigma: f64) -> f64 {
        let time = self.time(sigma);
        match self {
            Path::Straight | Path::Cosine => 1000.0 * time,
            Path::Linear => time,
            Path::Exploding => time.ln() / 4.0,
        }
    }

    /// What `z` is multiplied with before the network sees it: `1 / sqrt(b^2 + 0.5^2)` on the exploding path
    /// (arXiv:2206.00364, table 1, `c_in`), else 1.
    pub(super) fn input_scale(self, sigma: f64) -> f64 {
        match self {
            Path::Straight | Path::Cosine | Path::Linear => 1.0,
            Path::Exploding => 1.0 / self.time(sigma).hypot(SIGMA_DATA),
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Path::Straight => "(1-t) x0 + t eps",
            Path::Cosine => "cos(pi t/2) x0 + sin(pi t/2) eps",
            Path::Linear => "a x0 + sqrt(1-a^2) eps, 1000 levels",
            Path::Exploding => "x0 + b eps",
        })
    }
}

/// The noise level of `b / a`.
fn sigma_of_ratio(ratio: f64) -> f64 {
    ratio / (1.0 + ratio)
}

/// The noise level of a level of the linear path.
pub(super) fn linear_level(level: usize) -> f64 {
    sigma_of_ratio(LN_NOISE_TO_IMAGE[level].exp())
}

/// `a^2` of each level of the linear path. The roots of beta are evenly spaced from that of 0.00085 to that of 0.012
/// (`LegacyDDPMDiscretization` in Stability-AI/generative-models `discretizer.py`; the paper does not repeat the two).
fn image_share() -> impl Iterator<Item = f64> {
    let (first, last) = (0.00085_f64.sqrt(), 0.012_f64.sqrt());
    (0..LEVELS).scan(1.0, move |share, level| {
        let beta = (first + level as f64 / (LEVELS - 1) as f64 * (last - first)).powi(2);
        *share *= 1.0 - beta;
        Some(*share)
    })
}

/// `ln(b/a)` of each level of the linear path, in increasing order.
static LN_NOISE_TO_IMAGE: LazyLock<Vec<f64>> =
    LazyLock::new(|| image_share().map(|share| 0.5 * ((1.0 - share) / share).ln()).collect());

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Path; 4] = [Path::Straight, Path::Cosine, Path::Linear, Path::Exploding];

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found}, expected {expected}");
    }

    #[test]
    fn a_path_mixes_in_the_proportion_of_its_noise_level() {
        for path in ALL {
            for sigma in [0.03, 0.2, 0.5, 0.9] {
                let Mix { image, noise } = path.noisy(sigma);
                close(noise / (image + noise), sigma);
                close((image / noise).powi(2).ln(), log_snr(sigma));
                close(path.sigma(path.time(sigma)), sigma);
            }
        }
    }

    #[test]
    fn each_path_is_the_papers_in_its_own_time() {
        for t in [0.05, 0.3, 0.5, 0.8] {
            let angle = FRAC_PI_2 * t;
            for (path, time, image, noise) in [
                (Path::Straight, t, 1.0 - t, t),
                (Path::Cosine, t, angle.cos(), angle.sin()),
                (Path::Exploding, 10.0 * t, 1.0, 10.0 * t),
            ] {
                let mix = path.noisy(path.sigma(time));
                close(mix.image, image);
                close(mix.noise, noise);
            }
            // The paper's section 3 and what follows from it.
            close(log_snr(Path::Straight.sigma(t)), 2.0 * ((1.0 - t) / t).ln());
            close(log_snr(Path::Cosine.sigma(t)), -2.0 * angle.tan().ln());
            close((std::f64::consts::PI * t).sin(), 1.0 / (0.5 * log_snr(Path::Cosine.sigma(t))).cosh());
            close(log_snr(Path::Exploding.sigma(t)), -2.0 * t.ln());
        }
    }

    #[test]
    fn the_linear_path_has_the_levels_of_latent_diffusion() {
        // The schedule's formula at 30 digits; the last a is 0.0683.
        for (level, share) in [(0, 0.99915), (500, 0.276_332_683_822_974_75), (999, 0.004_660_098_513_077_24)] {
            let Mix { image, noise } = Path::Linear.noisy(Path::Linear.sigma(f64::from(level)));
            close(image.powi(2), share);
            close(noise.powi(2), 1.0 - share);
            close(Path::Linear.time(Path::Linear.sigma(f64::from(level))), f64::from(level));
            close(linear_level(level as usize), Path::Linear.sigma(f64::from(level)));
        }
        let between = Path::Linear.sigma(500.25);
        close(Path::Linear.time(between), 500.25);
        let ln_ratio = |time| log_snr(Path::Linear.sigma(time));
        close(ln_ratio(500.25), 0.75 * ln_ratio(500.0) + 0.25 * ln_ratio(501.0));
    }

    #[test]
    fn beyond_its_levels_the_linear_path_stays_at_the_nearest() {
        assert_eq!((Path::Linear.time(0.001), Path::Linear.time(0.99)), (0.0, 999.0));
        assert_eq!(Path::Linear.sigma(2000.0), Path::Linear.sigma(999.0));
    }

    #[test]
    fn timesteps_are_the_originals() {
        close(Path::Straight.timestep(0.25), 250.0);
        close(Path::Cosine.timestep(0.5), 500.0);
        close(Path::Linear.timestep(Path::Linear.sigma(321.0)), 321.0);
        close(Path::Exploding.timestep(Path::Exploding.sigma(3.0)), 3.0_f64.ln() / 4.0);
        close(Path::Exploding.input_scale(Path::Exploding.sigma(3.0)), 1.0 / 9.25_f64.sqrt());
    }
}
