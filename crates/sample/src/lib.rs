//! Solvers and guidance for anything that has a velocity.
//!
//! - [`Velocity`]: what a solver needs to know of a model.
//! - [`Solver`]: carries noise to an image's latent along a velocity.
//! - [`Guided`]: the velocity of a model that listens to a prompt, by a [`Guidance`].
//!
//! Latents are `[B, 16, H, W]`, f32: pure noise at noise level `sigma = 1`, an image's latent at `sigma = 0`.
//!
//! This crate knows no network, draws no noise and shows no progress: the model, the noise and the watcher are
//! the caller's.

mod error;
mod guidance;
mod solver;
mod velocity;

pub use error::SampleError;
pub use guidance::{Away, BadScales, BadWindow, Conditional, Guidance, Guided, Rule, Scales, Window};
pub use solver::{BadTolerance, Solver, Step, Tolerance, UnknownSolver, no_noise};
pub use velocity::Velocity;
