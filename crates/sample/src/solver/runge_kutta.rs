//! Solvers that ask several times in a step and keep nothing: Heun, midpoint, the classical fourth order.
//!
//! Their step to noise level 0 is Euler's: models are not trained there (Karras et al. 2022, arXiv:2206.00364,
//! algorithm 1, does the same).

use rectiflow_nn::Tensor;

use super::euler::Euler;
use super::stepper::{At, Stepper};
use crate::{SampleError, Velocity};

/// Euler's step predicts, the mean of the velocities at both ends corrects (the trapezoid rule):
/// `x' = x + (sigma' - sigma) (v(x, sigma) + v(x_euler, sigma')) / 2`.
pub(super) struct Heun;

/// The velocity in the middle of Euler's step.
pub(super) struct Midpoint;

/// The classical fourth order.
pub(super) struct Rk4;

impl Stepper for Heun {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        if at.sigma_next == 0.0 {
            return Euler.step(model, latent, at);
        }
        let width = at.width();
        let velocity = model.velocity(&latent, at.sigma)?;
        let predicted = latent.clone() + velocity.clone() * width;
        let velocity_next = model.velocity(&predicted, at.sigma_next)?;
        Ok(latent + (velocity + velocity_next) * (width / 2.0))
    }
}

impl Stepper for Midpoint {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let width = at.width();
        let velocity = model.velocity(&latent, at.sigma)?;
        if at.sigma_next == 0.0 {
            return Ok(latent + velocity * width);
        }
        let middle = latent.clone() + velocity * (width / 2.0);
        Ok(latent + model.velocity(&middle, halfway(at))? * width)
    }
}

impl Stepper for Rk4 {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        if at.sigma_next == 0.0 {
            return Euler.step(model, latent, at);
        }
        let (width, middle) = (at.width(), halfway(at));
        let first = model.velocity(&latent, at.sigma)?;
        let second = model.velocity(&(latent.clone() + first.clone() * (width / 2.0)), middle)?;
        let third = model.velocity(&(latent.clone() + second.clone() * (width / 2.0)), middle)?;
        let fourth = model.velocity(&(latent.clone() + third.clone() * width), at.sigma_next)?;
        Ok(latent + (first + (second + third) * 2.0 + fourth) * (width / 6.0))
    }
}

fn halfway(at: &At<'_>) -> f32 {
    ((f64::from(at.sigma) + f64::from(at.sigma_next)) / 2.0) as f32
}
