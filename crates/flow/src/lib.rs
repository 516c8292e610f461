//! The mathematics of rectified flow that needs no tensor: noise levels and noise.
//!
//! A latent at noise level `sigma` is `(1 - sigma) image + sigma noise`, so `sigma = 1` is pure noise and
//! `sigma = 0` the image, and its velocity is `noise - image` (Esser et al. 2024, arXiv:2403.03206, sec. 3).
//!
//! - [`Schedule`]: the noise levels that a solver visits.
//! - [`noise`]: the noise that it starts from, the same as torch draws for a seed.
//!
//! This crate evaluates no model and takes no step: solvers and guidance are in `rectiflow-sample`.

pub mod noise;

mod schedule;

pub use schedule::{Schedule, ScheduleError};
