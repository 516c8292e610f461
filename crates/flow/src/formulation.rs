//! Every way to train that the paper compares: its 61 formulations, by name.
//!
//! A [`Formulation`] says how pictures become noise, how often each noise level is looked at, what the network is asked
//! and how much an error counts. All of it is linear in picture and noise, so it is given as numbers:
//!
//! - training draws `sigma = quantile(u)` and takes the numbers of [`Formulation::level`];
//! - sampling turns what the network says into a velocity with the numbers of [`Formulation::conversion`], so that a
//!   solver, which only knows velocities, samples every formulation.
//!
//! Sources: Esser et al. 2024, arXiv:2403.03206, sec. 2, 3 and 5.1; Karras et al. 2022, arXiv:2206.00364.
//!
//! This module draws nothing, knows no tensor and evaluates no network.

mod density;
mod name;
mod normal;
mod path;
mod prediction;

use std::ops::RangeInclusive;

pub use density::Density;
pub use name::FormulationError;
pub use path::{Mix, Path, log_snr};
pub use prediction::Prediction;

use name::Name;
use path::{LEVELS, linear_level};
use prediction::ToVelocity;

/// The least and the greatest noise that EDM samples at, in its own sigma (arXiv:2206.00364, table 1).
const EDM_RANGE: [f64; 2] = [0.002, 80.0];

/// Where sampling begins on a path that ends in pure noise, if the network says the noise: at the end itself that says
/// nothing of the picture. Hoogeboom et al. 2023, arXiv:2301.11093, cut the log-SNR of the cosine path there.
const LOG_SNR_MIN: f64 = -15.0;

/// One way to train, named as in the paper: `rf/lognorm(0.00,1.00)`.
///
/// The name does not say the shift, nor the reading of `edm/rf` and `edm/cos`: both are as the paper's until they are
/// changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Formulation {
    name: Name,
    edm_reading: EdmReading,
    shift: f64,
}

/// What `edm/rf` and `edm/cos` are. The paper has one line on them: EDM "with a schedule such that it matches the log-SNR
/// weighting of rf" or "of v/cos".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EdmReading {
    /// EDM with its own loss, at noise levels that are drawn as those of rf or v/cos are.
    #[default]
    Density,
    /// Noise levels drawn like that, and the loss weighted so that at each level it counts as much as the loss of rf or
    /// v/cos does. rf and v/cos weight alike, so what remains between the two is how often a level is drawn.
    TotalWeight,
}

/// How much a squared error of the prediction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// 1.
    Unit,
    /// As the error of the velocity that it means.
    OfVelocity,
    /// As the error of the v that it means, on a path with `a^2 + b^2 = 1`.
    OfV,
}

/// What training does at a noise level.
///
/// `noisy = noisy.image x0 + noisy.noise eps`; the network sees `input_scale noisy` and `timestep`; the loss is
/// `weight |network - (target.image x0 + target.noise eps)|^2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The noise level, 0 to 1.
    pub sigma: f64,
    /// The path's `a` and `b`.
    pub noisy: Mix,
    /// What the noisy picture is multiplied with for the network.
    pub input_scale: f64,
    /// What the network is told of the noise level: see [`Path::timestep`].
    pub timestep: f64,
    /// What the network is asked.
    pub target: Mix,
    /// Factor of the squared error.
    pub weight: f64,
}

/// How a network's prediction becomes a velocity.
///
/// The network sees `input_scale latent` and `timestep`; then `velocity = of_latent latent + of_prediction prediction`,
/// where `latent = (1 - sigma) x0 + sigma eps` and `velocity = eps - x0`, as solvers have them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conversion {
    /// What the latent is multiplied with for the network.
    pub input_scale: f64,
    /// What the network is told of the noise level.
    pub timestep: f64,
    /// Factor of the latent.
    pub of_latent: f64,
    /// Factor of the prediction.
    pub of_prediction: f64,
}

impl Formulation {
    /// The 61 formulations of the paper, arXiv:2403.03206, sec. 5.1.
    ///
    /// Evenly spaced parameters are rounded to two decimals, as the paper prints them, so that a name says exactly what
    /// is done: the 1.2917 of seven steps from -1 to 1.75 is 1.29.
    pub fn all() -> Vec<Formulation> {
        let four = [Name::NoiseLinear, Name::VLinear, Name::NoiseCosine, Name::VCosine];
        let modes = [-1.0, -0.54, -0.08, 0.38, 0.83, 1.29, 1.75, 1.0].map(|scale| Name::RfMode { scale });
        let log_normals = [-1.0, -0.5, 0.0, 0.5, 1.0]
            .into_iter()
            .flat_map(|mean| [0.2, 0.6, 1.0, 1.4, 1.8, 2.2].map(|std| Name::RfLogitNormal { mean, std }));
        let edms =
            [-1.2, -0.6, 0.0, 0.6, 1.2].into_iter().flat_map(|mean| [0.6, 1.2, 1.8].map(|std| Name::Edm { mean, std }));
        let names =
            four.into_iter().chain(modes).chain([Name::Rf]).chain(log_normals).chain([Name::RfCosMap]).chain(edms);
        names.chain([Name::EdmRf, Name::EdmCos]).map(Formulation::named).collect()
    }

    fn named(name: Name) -> Formulation {
        Formulation { name, edm_reading: EdmReading::default(), shift: 1.0 }
    }

    /// The same with this reading of `edm/rf` and `edm/cos`; it means nothing to the others.
    #[must_use]
    pub fn read_as(self, edm_reading: EdmReading) -> Formulation {
        Formulation { edm_reading, ..self }
    }

    /// The same with every noise level that is drawn moved as [`shifted`](crate::shifted) does: `2 ln shift` down in
    /// log-SNR. Only how often a level is looked at changes, not what is done there. A second shift multiplies.
    ///
    /// # Errors
    /// `shift` is not a finite number above 0, or the levels are fixed and it is not 1.
    pub fn shifted(self, shift: f64) -> Result<Formulation, FormulationError> {
        if !(shift.is_finite() && shift > 0.0) {
            return Err(FormulationError::Shift { shift });
        }
        if self.density() == Density::Levels && shift != 1.0 {
            return Err(FormulationError::FixedLevels { name: self.to_string() });
        }
        Ok(Formulation { shift: self.shift * shift, ..self })
    }

    /// How a picture becomes noise.
    pub fn path(self) -> Path {
        match self.name {
            Name::Rf | Name::RfMode { .. } | Name::RfLogitNormal { .. } | Name::RfCosMap => Path::Straight,
            Name::Edm { .. } | Name::EdmRf | Name::EdmCos => Path::Exploding,
            Name::NoiseLinear | Name::VLinear => Path::Linear,
            Name::NoiseCosine | Name::VCosine => Path::Cosine,
        }
    }

    /// What the network is asked.
    pub fn prediction(self) -> Prediction {
        match self.name {
            Name::Rf | Name::RfMode { .. } | Name::RfLogitNormal { .. } | Name::RfCosMap => Prediction::Velocity,
            Name::Edm { .. } | Name::EdmRf | Name::EdmCos => Prediction::F,
            Name::NoiseLinear | Name::NoiseCosine => Prediction::Noise,
            Name::VLinear | Name::VCosine => Prediction::V,
        }
    }

    /// How often each noise level is drawn, before the shift.
    pub fn density(self) -> Density {
        self.name.density()
    }

    /// How much an error counts. EDM's own weight on the picture's error is 1 on the error of F.
    pub fn weight(self) -> Weight {
        match (self.name, self.edm_reading) {
            (Name::EdmRf, EdmReading::TotalWeight) => Weight::OfVelocity,
            (Name::EdmCos, EdmReading::TotalWeight) => Weight::OfV,
            _ => Weight::Unit,
        }
    }

    /// The noise level below which a share `u` of those that training draws lies: for uniform `u`, the draw itself.
    ///
    /// u: in (0, 1); at 0 and 1, the level just inside.  Returns a sigma in 0..=1.
    pub fn quantile(self, u: f64) -> f64 {
        let inside = u.clamp(f64::EPSILON / 2.0, 1.0 - f64::EPSILON / 2.0);
        crate::shifted(self.density().quantile(inside), self.shift)
    }

    /// The share of the noise levels drawn that are at most `sigma`, which is in 0..=1.
    pub fn cumulative(self, sigma: f64) -> f64 {
        self.density().cumulative(crate::shifted(sigma, 1.0 / self.shift))
    }

    /// Noise levels drawn per unit of sigma, the derivative of [`Formulation::cumulative`]; `None` if the levels are
    /// fixed.
    pub fn probability_density(self, sigma: f64) -> Option<f64> {
        let back = 1.0 / self.shift;
        let slope = back / (1.0 + (back - 1.0) * sigma).powi(2);
        Some(self.density().at(crate::shifted(sigma, back))? * slope)
    }

    /// The levels that training draws from, in increasing order, if they are fixed.
    pub fn fixed_levels(self) -> Option<impl Iterator<Item = f64>> {
        (self.density() == Density::Levels).then(|| (0..LEVELS).map(linear_level))
    }

    /// What training does at noise level `sigma`, 0 to 1.
    ///
    /// Where the path has no such level, this is the nearest that it has: the linear path stays within its first and last
    /// level, and EDM, which reaches neither end, gives those of [`Formulation::sigma_range`] at 0 and 1 exactly.
    pub fn level(self, sigma: f64) -> Level {
        let (path, range) = (self.path(), self.sigma_range());
        let at_an_end = sigma <= 0.0 || sigma >= 1.0;
        let sigma = match path {
            Path::Straight | Path::Cosine => sigma,
            Path::Exploding if !at_an_end => sigma,
            Path::Exploding | Path::Linear => sigma.clamp(*range.start(), *range.end()),
        };
        let noisy = path.noisy(sigma);
        let target = self.prediction().target(noisy);
        let weight = self.weight().at(target, sigma);
        Level { sigma, noisy, input_scale: path.input_scale(sigma), timestep: path.timestep(sigma), target, weight }
    }

    /// The noise levels at which a trained network may be asked.
    ///
    /// All of 0..=1 on the straight path and for v on the cosine path. Else less: the linear path's first level to its
    /// last; 0.002 to 80 in EDM's own sigma; for the noise on the cosine path, up to a log-SNR of -15.
    pub fn sigma_range(self) -> RangeInclusive<f64> {
        match (self.path(), self.prediction()) {
            (Path::Linear, _) => linear_level(0)..=linear_level(LEVELS - 1),
            (Path::Exploding, _) => Path::Exploding.sigma(EDM_RANGE[0])..=Path::Exploding.sigma(EDM_RANGE[1]),
            (Path::Cosine, Prediction::Noise) => 0.0..=1.0 / (1.0 + (0.5 * LOG_SNR_MIN).exp()),
            (Path::Straight | Path::Cosine, _) => 0.0..=1.0,
        }
    }

    /// How the network's prediction becomes a velocity at noise level `sigma`.
    ///
    /// Outside [`Formulation::sigma_range`] the network is asked at the range's nearest end, so every
    /// [`Schedule`](crate::Schedule) from 1 to 0 can be used. Above it, the picture that the network says there is where
    /// the velocity leads: to begin with pure noise at the last level is what all samplers of such models do. Below it,
    /// the velocity is that of the lowest level.
    ///
    /// sigma: in (0, 1], as solvers ask.
    ///
    /// # Panics
    /// `sigma` is outside.
    pub fn conversion(self, sigma: f64) -> Conversion {
        assert!(sigma > 0.0 && sigma <= 1.0, "a solver asked for a velocity at noise level {sigma}");
        let range = self.sigma_range();
        let asked = sigma.clamp(*range.start(), *range.end());
        let level = self.level(asked);
        let size = level.noisy.image + level.noisy.noise;
        let ToVelocity { of_latent, of_prediction } = ToVelocity::of(level.target, asked);
        let inside =
            Conversion { input_scale: level.input_scale * size, timestep: level.timestep, of_latent, of_prediction };
        if asked == sigma {
            return inside;
        }
        if asked > sigma {
            // As much picture as at `asked`, of which most of the latent is. A line to the picture that the network says,
            // as above, would not do: `1 / sigma` makes much of the little that it smoothes.
            let carried = (1.0 - asked) / (1.0 - sigma);
            return Conversion { input_scale: inside.input_scale * carried, of_latent: of_latent * carried, ..inside };
        }
        // As much noise as at `asked`. Then picture = carried latent - asked (of_latent carried latent + of_prediction
        // prediction), and velocity = (latent - picture) / sigma.
        let carried = asked / sigma;
        Conversion {
            input_scale: inside.input_scale * carried,
            of_latent: (1.0 - carried * (1.0 - asked * of_latent)) / sigma,
            of_prediction: asked * of_prediction / sigma,
            ..inside
        }
    }

    /// The paper's `w_t` at `sigma`: how much an error of the noise counts with everything taken together, if the loss is
    /// written as `-1/2 E[w_t lambda' |eps_hat - eps|^2]` over uniform `t` (arXiv:2403.03206, equation 7). That is twice
    /// the density of log-SNRs times the weight of the noise's error. `None` if the levels are fixed.
    ///
    /// rf has `t / (1 - t)`, and another density `pi` of its `t` has `pi(t)` times that. The others have what the
    /// paper prints times a constant: EDM 8, eps/cos 1/pi and v/cos 2/pi.
    pub fn total_weight(self, sigma: f64) -> Option<f64> {
        let level = self.level(sigma);
        let per_log_snr = self.probability_density(sigma)? * 0.5 * sigma * (1.0 - sigma);
        // With the noisy picture given, an error of the noise is one of the prediction times this.
        let of_noise = 1.0 / (ToVelocity::of(level.target, level.sigma).of_prediction * (1.0 - sigma));
        Some(2.0 * per_log_snr * level.weight * of_noise.powi(2))
    }
}

impl Weight {
    /// The factor of a squared error of a prediction whose target is `target`.
    fn at(self, target: Mix, sigma: f64) -> f64 {
        let velocity_of_error = || ToVelocity::of(target, sigma).of_prediction;
        match self {
            Weight::Unit => 1.0,
            Weight::OfVelocity => velocity_of_error().powi(2),
            Weight::OfV => {
                let v = Prediction::V.target(Path::Cosine.noisy(sigma));
                (velocity_of_error() / ToVelocity::of(v, sigma).of_prediction).powi(2)
            }
        }
    }
}

impl std::fmt::Display for Formulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name.fmt(f)
    }
}

impl std::str::FromStr for Formulation {
    type Err = FormulationError;

    /// Reads the paper's names, with any possible parameters: `rf/mode(1.29)`, `edm(-1.2, 1.2)`.
    fn from_str(text: &str) -> Result<Self, FormulationError> {
        text.parse().map(Formulation::named)
    }
}
