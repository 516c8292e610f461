use std::f64::consts::{FRAC_PI_2, PI};

use super::name::Decimals;
use super::normal;
use super::path::{LEVELS, Path, linear_level};

/// How often training looks at each noise level.
///
/// In the variable `sigma = b / (a + b)` that all paths have in common, different papers' choices are the same few
/// densities: EDM's normal `ln b` is a normal logit of `sigma`, and a cosine path's uniform time is CosMap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Density {
    /// Every `sigma` as often.
    Uniform,
    /// `ln(sigma / (1 - sigma))` is normal (arXiv:2403.03206, equation 19).
    LogitNormal {
        /// Above 0 towards noise.
        mean: f64,
        /// Above 0.
        std: f64,
    },
    /// The middle more often and no level never: `sigma = 1 - u - scale (cos^2(pi u / 2) - 1 + u)` for a uniform `u`
    /// (arXiv:2403.03206, equation 20).
    Mode {
        /// -1 to 2 / (pi - 2): 0 is uniform, above it the middle comes more often, below it the ends.
        scale: f64,
    },
    /// The log-SNR of the cosine path: `sigma = 1 - 1 / (tan(pi u / 2) + 1)` for a uniform `u` (arXiv:2403.03206,
    /// sec. 3.1).
    CosMap,
    /// The 1000 levels of the linear path, each as often.
    Levels,
}

/// The largest scale of [`Density::Mode`]: beyond it, `u` no longer decides `sigma` in one direction.
pub(super) const MODE_SCALE_MAX: f64 = 2.0 / (PI - 2.0);

impl Density {
    /// The noise level below which a share `u` of those drawn lies.
    pub(super) fn quantile(self, u: f64) -> f64 {
        match self {
            Density::Uniform => u,
            Density::LogitNormal { mean, std } => 1.0 / (1.0 + (-(mean + std * normal::quantile(u))).exp()),
            Density::Mode { scale } => mode(u, scale),
            Density::CosMap => Path::Cosine.sigma(u),
            Density::Levels => linear_level(((u * LEVELS as f64) as usize).min(LEVELS - 1)),
        }
    }

    /// The share of the levels drawn that are at most `sigma`: the inverse of [`Density::quantile`].
    pub(super) fn cumulative(self, sigma: f64) -> f64 {
        match self {
            Density::Uniform => sigma,
            Density::LogitNormal { mean, std } => normal::cumulative((logit(sigma) - mean) / std),
            Density::Mode { scale } => mode_inverse(sigma, scale),
            Density::CosMap => Path::Cosine.time(sigma),
            Density::Levels => (0..LEVELS).filter(|&level| linear_level(level) <= sigma).count() as f64 / LEVELS as f64,
        }
    }

    /// The derivative of [`Density::cumulative`]; `None` for levels, which have none.
    pub(super) fn at(self, sigma: f64) -> Option<f64> {
        match self {
            Density::Uniform => Some(1.0),
            Density::LogitNormal { mean, std } => {
                let normal = normal::density((logit(sigma) - mean) / std) / std;
                // Beyond the range of f64 the normal wins over the Jacobian.
                Some(if normal == 0.0 { 0.0 } else { normal / (sigma * (1.0 - sigma)) })
            }
            Density::Mode { scale } => {
                let u = mode_inverse(sigma, scale);
                Some(1.0 / (1.0 + scale * (1.0 - FRAC_PI_2 * (PI * u).sin())))
            }
            Density::CosMap => Some(2.0 / (PI - 2.0 * PI * sigma + 2.0 * PI * sigma * sigma)),
            Density::Levels => None,
        }
    }
}

impl std::fmt::Display for Density {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Density::Uniform => f.pad("sigma uniform"),
            Density::LogitNormal { mean, std } => {
                f.pad(&format!("logit sigma ~ N({}, {}^2)", Decimals(mean), Decimals(std)))
            }
            Density::Mode { scale } => f.pad(&format!("sigma = f_mode(u; {})", Decimals(scale))),
            Density::CosMap => f.pad("sigma = 1 - 1/(tan(pi u/2) + 1)"),
            Density::Levels => f.pad("1000 levels, each as often"),
        }
    }
}

fn logit(sigma: f64) -> f64 {
    (sigma / (1.0 - sigma)).ln()
}

/// The paper's `f_mode(1 - u)`: its own falls with `u`, a quantile rises. `cos^2(pi (1 - u) / 2) = sin^2(pi u / 2)`.
fn mode(u: f64, scale: f64) -> f64 {
    u + scale * (u - (FRAC_PI_2 * u).sin().powi(2))
}

/// The `u` of [`mode`], by bisection: it has no closed form, and Newton's steps fail where its slope is 0.
fn mode_inverse(sigma: f64, scale: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    // As often as f64 can halve 1 and still tell the middle from both ends.
    for _ in 0..53 {
        let middle = 0.5 * (low + high);
        if mode(middle, scale) < sigma { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}
