//! Ways down a schedule.

mod deis;
mod dopri5;
mod dpmpp_2m;
mod dpmpp_flow;
mod euler;
mod ipndm;
mod renoising;
mod runge_kutta;
mod stepper;
#[cfg(test)]
mod tests;
mod tolerance;
mod unipc;

use std::ops::ControlFlow;

use rectiflow_flow::{Schedule, Spacing};
use rectiflow_nn::{Tensor, is_finite};

use crate::{SampleError, Velocity};
use stepper::{At, Stepper};
pub use tolerance::{BadTolerance, Tolerance};

/// A way to follow a velocity down a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// First order, one evaluation a step.
    Euler,
    /// Second order, two evaluations a step and one for the last.
    Heun,
    /// Second order, two evaluations a step and one for the last: the velocity in the middle.
    Midpoint,
    /// Fourth order, four evaluations a step and one for the last.
    Rk4,
    /// Fifth order, six evaluations a step; chooses its steps itself, by the error that may be made in each. A
    /// schedule says only where it ends and how wide the first step is.
    Dopri5(Tolerance),
    /// Second order, one evaluation a step: DPM-Solver++(2M), in the form of the SD3.5 reference.
    ///
    /// The order pays late: the last steps of a released schedule are very wide in this solver's variable. On
    /// Gaussian data at shift 3 it passes Euler at some 20 steps (standard deviation 2) to 60 (0.5).
    Dpmpp2m,
    /// Second order, one evaluation a step: DPM-Solver++(2M) in rectified flow's own log-SNR, as diffusers has it.
    Dpmpp2mFlow,
    /// DPM-Solver++(2M) of the stochastic equation: fresh noise in each step.
    Dpmpp2mSde,
    /// DPM-Solver++(3M) of the stochastic equation, as k-diffusion has it.
    Dpmpp3mSde,
    /// Second order and a corrector, one evaluation a step.
    UniPc,
    /// Second order in the logarithm of `sigma / (1 - sigma)`, one evaluation a step.
    Deis,
    /// Adams-Bashforth of up to fourth order, one evaluation a step.
    Ipndm,
    /// Euler to below the next level, and fresh noise up to it.
    EulerAncestral,
    /// The denoised latent with fresh noise: for models that were distilled for it.
    Lcm,
}

/// For solvers that add no noise.
///
/// # Panics
/// Always: a solver that adds noise was given none.
pub fn no_noise(_step: usize) -> Tensor<4> {
    panic!("a stochastic solver was given no noise")
}

/// What a watcher sees after each step.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The step just taken, counted from 0.
    pub index: usize,
    /// The noise level of `latent`: 0 after the last step.
    pub sigma: f32,
    /// The latent so far, `[B, 16, H, W]`; all its values are finite.
    pub latent: &'a Tensor<4>,
}

/// No solver has this name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnknownSolver {
    /// None is called so.
    #[error("`{name}` is not a solver; give {}", Solver::ALL.map(Solver::name).join(", "))]
    Name {
        /// What was asked for.
        name: String,
    },
    /// It takes the schedule's steps.
    #[error("{solver} takes no tolerance: its steps are those of the schedule; dopri5 chooses its own")]
    NoTolerance {
        /// Which solver.
        solver: &'static str,
    },
    /// No tolerance.
    #[error(transparent)]
    Tolerance(#[from] BadTolerance),
}

impl Solver {
    /// Every solver, with the usual tolerance.
    pub const ALL: [Solver; 14] = [
        Solver::Euler,
        Solver::Heun,
        Solver::Midpoint,
        Solver::Rk4,
        Solver::Dopri5(Tolerance::USUAL),
        Solver::Dpmpp2m,
        Solver::Dpmpp2mFlow,
        Solver::Dpmpp2mSde,
        Solver::Dpmpp3mSde,
        Solver::UniPc,
        Solver::Deis,
        Solver::Ipndm,
        Solver::EulerAncestral,
        Solver::Lcm,
    ];

    /// Carries `noise` down `schedule` along the velocity of `model`.
    ///
    /// noise: `[B, 16, H, W]`, standard normal.  fresh: what a stochastic solver adds in a step, counted from 0:
    /// standard normal, of the same shape; others never ask.  watch: called after each step; `Break` stops the run.
    /// Returns the latent at noise level 0, of the same shape.
    ///
    /// # Errors
    /// The model failed, a step gave values that are not finite, the watcher stopped the run, or a tolerance cannot be
    /// kept.
    pub fn run(
        self,
        model: &mut dyn Velocity,
        noise: Tensor<4>,
        schedule: &Schedule,
        fresh: &mut dyn FnMut(usize) -> Tensor<4>,
        watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Tensor<4>, SampleError> {
        let mut stepper: Box<dyn Stepper> = match self {
            Solver::Dopri5(tolerance) => return dopri5::run(tolerance, model, noise, schedule, watch),
            Solver::Euler => Box::new(euler::Euler),
            Solver::Heun => Box::new(runge_kutta::Heun),
            Solver::Midpoint => Box::new(runge_kutta::Midpoint),
            Solver::Rk4 => Box::new(runge_kutta::Rk4),
            Solver::Dpmpp2m => Box::new(dpmpp_2m::Dpmpp2m::default()),
            Solver::Dpmpp2mFlow => Box::new(dpmpp_flow::DpmppFlow::two()),
            Solver::Dpmpp2mSde => Box::new(dpmpp_flow::DpmppFlow::two_stochastic()),
            Solver::Dpmpp3mSde => Box::new(dpmpp_flow::DpmppFlow::three_stochastic()),
            Solver::UniPc => Box::new(unipc::UniPc::default()),
            Solver::Deis => Box::new(deis::Deis::default()),
            Solver::Ipndm => Box::new(ipndm::Ipndm::default()),
            Solver::EulerAncestral => Box::new(renoising::EulerAncestral),
            Solver::Lcm => Box::new(renoising::Lcm),
        };
        let mut latent = noise;
        for (index, (sigma, sigma_next)) in schedule.steps().enumerate() {
            let at = &mut At { index, left: schedule.len() - index - 1, sigma, sigma_next, noise: &mut *fresh };
            latent = stepper.step(model, latent, at)?;
            if !is_finite(&latent) {
                return Err(SampleError::NotFinite { step: index, sigma });
            }
            if watch(Step { index, sigma: sigma_next, latent: &latent }).is_break() {
                return Err(SampleError::Stopped { step: index });
            }
        }
        Ok(latent)
    }

    /// How levels are spaced where nobody says. Solvers that look back in the log-SNR are misled by the released
    /// schedule's last step, which is as wide there as several of the others: ten steps of them lead farther from the
    /// solution than Euler's.
    pub fn usual_spacing(self) -> Spacing {
        match self {
            Solver::Dpmpp2mFlow
            | Solver::Dpmpp2mSde
            | Solver::Dpmpp3mSde
            | Solver::UniPc
            | Solver::Deis
            | Solver::Ipndm => Spacing::Simple,
            // The reference has its DPM++ 2M on its own schedule.
            _ => Spacing::Released,
        }
    }

    /// Whether it chooses its steps itself, by the errors of all latents that it carries at once.
    pub fn is_adaptive(self) -> bool {
        matches!(self, Solver::Dopri5(_))
    }

    /// Whether it adds noise, so that [`Solver::run`] asks for it.
    pub fn is_stochastic(self) -> bool {
        matches!(self, Solver::Dpmpp2mSde | Solver::Dpmpp3mSde | Solver::EulerAncestral | Solver::Lcm)
    }

    /// The name that [`Solver::from_str`](std::str::FromStr::from_str) reads, without a tolerance.
    pub fn name(self) -> &'static str {
        match self {
            Solver::Euler => "euler",
            Solver::Heun => "heun",
            Solver::Midpoint => "midpoint",
            Solver::Rk4 => "rk4",
            Solver::Dopri5(_) => "dopri5",
            Solver::Dpmpp2m => "dpmpp_2m",
            Solver::Dpmpp2mFlow => "dpmpp_2m_flow",
            Solver::Dpmpp2mSde => "dpmpp_2m_sde",
            Solver::Dpmpp3mSde => "dpmpp_3m_sde",
            Solver::UniPc => "uni_pc",
            Solver::Deis => "deis",
            Solver::Ipndm => "ipndm",
            Solver::EulerAncestral => "euler_a",
            Solver::Lcm => "lcm",
        }
    }
}

/// Other tools' names that are not a spelling of ours.
const OTHER_NAMES: [(&str, &str); 4] =
    [("euler_ancestral", "euler_a"), ("dpm2", "midpoint"), ("bh2", "uni_pc"), ("dormand_prince", "dopri5")];

impl std::fmt::Display for Solver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Solver::Dopri5(tolerance) if *tolerance != Tolerance::USUAL => {
                f.pad(&format!("{}({})", self.name(), tolerance.value()))
            }
            _ => f.pad(self.name()),
        }
    }
}

impl std::str::FromStr for Solver {
    type Err = UnknownSolver;

    /// Reads [`Solver::name`] and other tools' spellings of it: `dpm++2m`, `dpmpp2m`, `DPM++ 2M`; a tolerance
    /// behind it in parentheses, `dopri5(1e-4)`.
    fn from_str(text: &str) -> Result<Self, UnknownSolver> {
        let plain = |name: &str| name.to_lowercase().replace("++", "pp").replace(['_', '-', ' '], "");
        let unknown = || UnknownSolver::Name { name: text.to_owned() };
        let (name, tolerance) = match text.split_once('(') {
            Some((name, rest)) => (name, Some(rest.strip_suffix(')').ok_or_else(unknown)?)),
            None => (text, None),
        };
        let other = OTHER_NAMES.iter().find(|(other, _)| plain(other) == plain(name));
        let name = other.map_or(name, |(_, ours)| ours);
        let known = Solver::ALL.into_iter().find(|solver| plain(solver.name()) == plain(name));
        match (known.ok_or_else(unknown)?, tolerance) {
            (Solver::Dopri5(_), Some(tolerance)) => Ok(Solver::Dopri5(tolerance.parse()?)),
            (solver, Some(_)) => Err(UnknownSolver::NoTolerance { solver: solver.name() }),
            (solver, None) => Ok(solver),
        }
    }
}
