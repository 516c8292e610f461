//! What all solvers are: something that takes a latent from one noise level to the next, and what they keep for it.

use std::collections::VecDeque;

use rectiflow_nn::Tensor;

use crate::{SampleError, Velocity};

/// One step of a schedule.
pub(super) struct At<'a> {
    /// Counted from 0.
    pub(super) index: usize,
    /// Steps after this one.
    pub(super) left: usize,
    pub(super) sigma: f32,
    pub(super) sigma_next: f32,
    /// Standard normal, of the latent's shape, for a step; the same each time it is asked.
    pub(super) noise: &'a mut dyn FnMut(usize) -> Tensor<4>,
}

impl At<'_> {
    /// How far it goes, negative.
    pub(super) fn width(&self) -> f64 {
        f64::from(self.sigma_next) - f64::from(self.sigma)
    }

    /// Standard normal noise of this step.
    pub(super) fn drawn(&mut self) -> Tensor<4> {
        (self.noise)(self.index)
    }
}

/// A solver on its way down a schedule.
pub(super) trait Stepper {
    /// The latent at the step's lower level.
    ///
    /// # Errors
    /// The model's.
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError>;
}

/// What the model said in the steps before, the last one first.
#[derive(Default)]
pub(super) struct History(VecDeque<Past>);

/// What the model said at a noise level.
pub(super) struct Past {
    pub(super) sigma: f32,
    pub(super) value: Tensor<4>,
}

impl History {
    /// Adds what was said last; of what is older, `kept` are left in all.
    pub(super) fn push(&mut self, sigma: f32, value: Tensor<4>, kept: usize) {
        self.0.push_front(Past { sigma, value });
        self.0.truncate(kept);
    }

    pub(super) fn get(&self, ago: usize) -> Option<&Past> {
        self.0.get(ago)
    }
}

/// Half of rectified flow's log-SNR, `ln((1 - sigma) / sigma)`: minus infinity for noise, infinity for a picture.
pub(super) fn half_log_snr(sigma: f32) -> f64 {
    let sigma = f64::from(sigma);
    ((1.0 - sigma) / sigma).ln()
}

/// [`half_log_snr`] where steps are compared: noise is as far from a picture as 1e-6 before it is (diffusers'
/// `UniPCMultistepScheduler` begins there), so that the step from noise has a width.
pub(super) fn comparable(sigma: f32) -> f64 {
    let sigma = f64::from(sigma).min(1.0 - 1e-6);
    ((1.0 - sigma) / sigma).ln()
}
