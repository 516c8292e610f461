use rectiflow_nn::Tensor;

use super::stepper::{At, History, Stepper, comparable, half_log_snr};
use crate::{SampleError, Velocity};

/// DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) in rectified flow's own half log-SNR, `ln((1 - sigma) / sigma)`.
///
/// Exact for a denoised latent that is a polynomial of that variable, through the last ones (`order` of them). The first
/// steps have fewer, and the last, which is infinitely wide, takes the denoised latent as it is.
pub(super) struct DpmppFlow {
    order: Order,
    /// Fresh noise takes the place of that which a step takes away: the stochastic differential equation.
    is_stochastic: bool,
    history: History,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Two,
    Three,
}

impl DpmppFlow {
    /// diffusers' `dpmsolver++` with `use_flow_sigmas`, order 2, "midpoint".
    pub(super) fn two() -> Self {
        DpmppFlow { order: Order::Two, is_stochastic: false, history: History::default() }
    }

    /// diffusers' `sde-dpmsolver++` of order 2, k-diffusion's `dpmpp_2m_sde` with eta 1, "midpoint".
    pub(super) fn two_stochastic() -> Self {
        DpmppFlow { is_stochastic: true, ..DpmppFlow::two() }
    }

    /// k-diffusion's `dpmpp_3m_sde` with eta 1. Like there, the second difference counts half of what the polynomial has.
    pub(super) fn three_stochastic() -> Self {
        DpmppFlow { order: Order::Three, is_stochastic: true, history: History::default() }
    }

    /// How the denoised latent changes in a step of width `h`: first and second difference, where there are enough
    /// before.
    fn differences(&self, now: &Tensor<4>, sigma: f32, h: f64) -> [Option<Tensor<4>>; 2] {
        let Some(before) = self.history.get(0) else { return [None, None] };
        let h0 = comparable(sigma) - comparable(before.sigma);
        let first = (now.clone() - before.value.clone()) * (h / h0);
        let (Order::Three, Some(earlier)) = (self.order, self.history.get(1)) else { return [Some(first), None] };
        let h1 = comparable(before.sigma) - comparable(earlier.sigma);
        let bend = first.clone() - (before.value.clone() - earlier.value.clone()) * (h / h1);
        let second = bend.clone() * (h / (h0 + h1));
        [Some(first + bend * (h0 / (h0 + h1))), Some(second)]
    }
}

impl Stepper for DpmppFlow {
    fn step(&mut self, model: &mut dyn Velocity, latent: Tensor<4>, at: &mut At<'_>) -> Result<Tensor<4>, SampleError> {
        let (sigma, sigma_next) = (f64::from(at.sigma), f64::from(at.sigma_next));
        let denoised = latent.clone() - model.velocity(&latent, at.sigma)? * sigma;
        if sigma_next == 0.0 {
            return Ok(denoised);
        }
        let h = half_log_snr(at.sigma_next) - half_log_snr(at.sigma);
        // What is left of the latent's noise; with fresh noise the step is as wide again.
        let (exponent, lost) = if self.is_stochastic { (2.0 * h, (-h).exp()) } else { (h, 1.0) };
        let taken = -(-exponent).exp_m1();
        let [first, second] = self.differences(&denoised, at.sigma, comparable(at.sigma_next) - comparable(at.sigma));
        self.history.push(at.sigma, denoised.clone(), 2);

        let mut found = denoised * taken;
        if let Some(first) = first {
            let weight = match self.order {
                Order::Two => taken / 2.0,
                Order::Three => 1.0 - taken / exponent,
            };
            found = found + first * weight;
        }
        if let Some(second) = second {
            found = found + second * (0.5 - (exponent - taken) / exponent.powi(2));
        }
        let next = latent * (sigma_next / sigma * lost) + found * (1.0 - sigma_next);
        Ok(if self.is_stochastic { next + at.drawn() * (sigma_next * taken.sqrt()) } else { next })
    }
}
