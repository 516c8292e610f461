//! The mathematics of rectified flow and its relatives that needs no tensor: formulations, noise levels and noise.
//!
//! A latent at noise level `sigma` is `(1 - sigma) image + sigma noise`, so `sigma = 1` is pure noise and
//! `sigma = 0` the image, and its velocity is `noise - image` (Esser et al. 2024, arXiv:2403.03206, sec. 3).
//!
//! - [`Formulation`]: how a network is trained, of the 61 ways that the paper compares, and how what it says becomes a
//!   velocity.
//! - [`Schedule`]: the noise levels that a solver visits.
//! - [`noise`]: the noise that it starts from, the same as torch draws for a seed.
//!
//! This crate evaluates no model and takes no step: solvers and guidance are in `rectiflow-sample`.

pub mod noise;

mod formulation;
mod schedule;
mod shift;

pub use formulation::{
    Conversion, Density, EdmReading, Formulation, FormulationError, Level, Mix, Path, Prediction, Weight, log_snr,
};
pub use schedule::{Schedule, ScheduleError, Spacing, UnknownSpacing};
pub use shift::{Shift, shift_of_resolutions, shifted};
