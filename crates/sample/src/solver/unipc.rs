use rectiflow_nn::Tensor;

use super::stepper::{At, History, Past, Stepper, comparable, half_log_snr};
use crate::{SampleError, Velocity};

/// UniPC (Zhao et al. 2023, arXiv:2302.04867), order 2 with `B(h) = exp(h) - 1`, of denoised latents, in rectified flow's
/// half log-SNR: what diffusers' `UniPCMultistepScheduler` is by default.
///
/// Each evaluation first corrects the step that led to it and then predicts the next one, so a step costs one.
#[derive(Default)]
pub(super) struct UniPc {
    history: History,
    /// The step before: where it began, and of which order it was.
    before: Option<(Tensor<4>, usize)>,
}

/// A step of width `h` from `sigma` to `sigma_next`, whose first order is `x' = kept x + taken D`.
struct Move {
    kept: f64,
    taken: f64,
    /// Width in [`comparable`].
    h: f64,
}

impl Move {
    fn between(sigma: f32, sigma_next: f32) -> Move {
        let h = half_log_snr(sigma_next) - half_log_snr(sigma);
        Move {
            kept: f64::from(sigma_next) / f64::from(sigma),
            taken: -(1.0 - f64::from(sigma_next)) * (-h).exp_m1(),
            h: comparable(sigma_next) - comparable(sigma),
        }
    }

    /// The first order, and `taken` times what is added to `D`.
    fn taken_by(&self, latent: Tensor<4>, denoised: &Tensor<4>, more: Option<Tensor<4>>) -> Tensor<4> {
        let denoised = match more {
            Some(more) => denoised.clone() + more,
            None => denoised.clone(),
        };
        latent * self.kept + denoised * self.taken
    }

    /// How the denoised latent changed before `from`, for a step as wide as this one, and how far before in such steps
    /// (negative).
    fn slope(&self, from: &Past, before: &Past) -> (Tensor<4>, f64) {
        let ratio = (comparable(before.sigma) - comparable(from.sigma)) / self.h;
        ((before.value.clone() - from.value.clone()) / ratio, ratio)
    }
}

impl UniPc {
    /// The latent at `sigma`, after the step to it, now that the denoised latent there is known.
    fn corrected(&self, found: &Tensor<4>, sigma: f32) -> Option<Tensor<4>> {
        let ((start, order), from) = (self.before.as_ref()?, self.history.get(0)?);
        let step = Move::between(from.sigma, sigma);
        let change = found.clone() - from.value.clone();
        let more = match (order, self.history.get(1)) {
            (2, Some(before)) => {
                let (slope, ratio) = step.slope(from, before);
                let [of_slope, of_change] = corrector_weights(ratio, step.h);
                slope * of_slope + change * of_change
            }
            _ => change * 0.5,
        };
        Some(step.taken_by(start.clone(), &from.value, Some(more)))
    }
}

/// Weights of the slope before and of the change, such that lines and parabolas of the half log-SNR are integrated
/// exactly: the solution of the paper's equation for two points, at `ratio` and 1.
fn corrector_weights(ratio: f64, h: f64) -> [f64; 2] {
    let hh = -h;
    let phi_1 = hh.exp_m1();
    let phi_2 = phi_1 / hh - 1.0;
    let phi_3 = phi_2 / hh - 0.5;
    let (b1, b2) = (phi_2 / phi_1, 2.0 * phi_3 / phi_1);
    let of_change = (b2 - ratio * b1) / (1.0 - ratio);
    [b1 - of_change, of_change]
}

impl Stepper for UniPc {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let denoised = latent.clone() - model.velocity(&latent, at.sigma)? * at.sigma;
        let latent = self.corrected(&denoised, at.sigma).unwrap_or(latent);
        self.history.push(at.sigma, denoised, 2);
        let now = self.history.get(0).expect("it was just pushed");
        let step = Move::between(at.sigma, at.sigma_next);
        // The last step, which is infinitely wide, takes what is known as it is.
        let before = self.history.get(1).filter(|_| at.left > 0);
        let more = before.map(|before| step.slope(now, before).0 * 0.5);
        let order = if more.is_some() { 2 } else { 1 };
        self.before = Some((latent.clone(), order));
        Ok(step.taken_by(latent, &now.value, more))
    }
}
