//! Ways to space noise levels between two ends.

use crate::shifted;

/// How the levels of a schedule are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// As the SD3 releases are sampled: even, and then shifted.
    Released,
    /// Even and then shifted, with the last level as far above 0 as levels are apart (ComfyUI's `simple`, diffusers'
    /// `use_flow_sigmas`).
    Simple,
    /// Even in the seventh root (Karras et al. 2022, arXiv:2206.00364, equation 5).
    Karras,
    /// Even in the logarithm.
    Exponential,
    /// Quantiles of the beta distribution with both parameters 0.6 (arXiv:2407.12173), close together at both ends.
    Beta,
    /// Half of the steps, even, for the first 40th of the way, and the rest ever wider (Genmo's Mochi, ComfyUI's
    /// `linear_quadratic`). The shift has no part in it.
    LinearQuadratic,
}

/// No spacing has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no schedule; give {}", Spacing::ALL.map(Spacing::name).join(", "))]
pub struct UnknownSpacing {
    /// What was asked for.
    pub name: String,
}

/// Of Karras' equation 5.
const RHO: f64 = 7.0;
/// Both parameters of the beta distribution.
const BETA: f64 = 0.6;
/// How far the even half of [`Spacing::LinearQuadratic`] goes.
const LINEAR_PART: f64 = 0.025;

impl Spacing {
    /// Every spacing.
    pub const ALL: [Spacing; 6] = [
        Spacing::Released,
        Spacing::Simple,
        Spacing::Karras,
        Spacing::Exponential,
        Spacing::Beta,
        Spacing::LinearQuadratic,
    ];

    /// The name that [`Spacing::from_str`](std::str::FromStr::from_str) reads.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Released => "released",
            Spacing::Simple => "simple",
            Spacing::Karras => "karras",
            Spacing::Exponential => "exponential",
            Spacing::Beta => "beta",
            Spacing::LinearQuadratic => "linear-quadratic",
        }
    }

    /// As many levels, from the first of `released` on. Some of the spacings have its last one as well.
    pub(super) fn between(self, released: &[f32], shift: f32) -> Vec<f32> {
        let count = released.len();
        let [high, low] = [released[0], released[count - 1]].map(f64::from);
        let part = |index: usize| index as f64 / (count - 1).max(1) as f64;
        let level = |index: usize| match self {
            Spacing::Released => f64::from(released[index]),
            Spacing::Simple => shifted(1.0 - index as f64 / count as f64, shift.into()),
            Spacing::Karras => {
                let [high, low] = [high, low].map(|level| level.powf(1.0 / RHO));
                (high + part(index) * (low - high)).powf(RHO)
            }
            Spacing::Exponential => (high.ln() + part(index) * (low.ln() - high.ln())).exp(),
            Spacing::Beta => low + beta_quantile(1.0 - part(index)) * (high - low),
            Spacing::LinearQuadratic => high * (1.0 - linear_quadratic(index, count)),
        };
        // The ends are levels that are known, whatever a power or a logarithm rounds them to.
        let inner = (1..count).map(|index| level(index) as f32);
        let mut levels: Vec<f32> = std::iter::once(released[0]).chain(inner).collect();
        if !matches!(self, Spacing::Simple | Spacing::LinearQuadratic) {
            levels[count - 1] = released[count - 1];
        }
        levels
    }
}

/// How far down the level `index` of `count` is: a line, and from its end on the parabola that goes on as it does and
/// reaches 1 after the last step.
fn linear_quadratic(index: usize, count: usize) -> f64 {
    let even = count / 2;
    if even == 0 {
        return index as f64 / count as f64;
    }
    let slope = LINEAR_PART / even as f64;
    let (wide, beyond) = ((count - even) as f64, index as f64 - even as f64);
    let bend = (1.0 - LINEAR_PART - slope * wide) / wide.powi(2);
    slope * index as f64 + if beyond > 0.0 { bend * beyond.powi(2) } else { 0.0 }
}

/// Where the beta distribution with both parameters [`BETA`] has this share below.
fn beta_quantile(share: f64) -> f64 {
    if share <= 0.0 || share >= 1.0 {
        return share.clamp(0.0, 1.0);
    }
    if share > 0.5 {
        return 1.0 - beta_quantile(1.0 - share);
    }
    let whole = 2.0 * beta_below(0.5);
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if beta_below(middle) < share * whole { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The integral of `t^(a - 1) (1 - t)^(a - 1)` from 0 to `x`, at most a half: the hypergeometric series of Abramowitz and
/// Stegun 26.5.4, whose terms fall as `x^n`.
fn beta_below(x: f64) -> f64 {
    let mut term = 1.0;
    let mut sum = 1.0;
    for n in 0..200 {
        let n = f64::from(n);
        term *= x * (2.0 * BETA + n) / (BETA + 1.0 + n);
        sum += term;
    }
    x.powf(BETA) * (1.0 - x).powf(BETA) / BETA * sum
}

impl std::fmt::Display for Spacing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Spacing {
    type Err = UnknownSpacing;

    /// Reads [`Spacing::name`]; `sgm_uniform`, which is `simple` for these models; and `normal`, as other tools call the
    /// released one.
    fn from_str(text: &str) -> Result<Self, UnknownSpacing> {
        let plain = |name: &str| name.to_lowercase().replace(['_', '-', ' '], "");
        let name = match &plain(text)[..] {
            "sgmuniform" => "simple",
            "normal" => "released",
            _ => text,
        };
        let known = Spacing::ALL.into_iter().find(|spacing| plain(spacing.name()) == plain(name));
        known.ok_or_else(|| UnknownSpacing { name: text.to_owned() })
    }
}
