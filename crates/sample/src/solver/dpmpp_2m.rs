use rectiflow_nn::Tensor;

use crate::{SampleError, Velocity};

/// The step before this one, if there was one.
#[derive(Default)]
pub(super) struct History(Option<Past>);

struct Past {
    denoised: Tensor<4>,
    /// How far the step went in `-ln sigma`.
    width: f64,
}

/// DPM-Solver++(2M), Lu et al. 2022, arXiv:2211.01095, algorithm 2, with `-ln sigma` as the variable, as in the
/// SD3.5 reference (`sample_dpmpp_2m` in Stability-AI/sd3.5 `sd3_impls.py`).
///
/// With `D = x - sigma v` the denoised latent, rectified flow's `dx/dsigma = (x - D) / sigma` reads like the
/// equation of variance-exploding diffusion, whose half log-SNR is `-ln sigma`. So that variable, though not
/// rectified flow's own log-SNR, loses no order: the rest `D` is integrated to second order in it.
///
/// `x' = (sigma'/sigma) x + (1 - sigma'/sigma) D*`, where `D*` is `D` carried half a step ahead along the line
/// through it and the `D` before. The first step, which has none before, and the last, which is infinitely wide
/// in `-ln sigma`, take `D* = D`: Euler's step.
pub(super) fn step(
    model: &mut impl Velocity,
    latent: Tensor<4>,
    sigma: f32,
    sigma_next: f32,
    history: &mut History,
) -> Result<Tensor<4>, SampleError> {
    let velocity = model.velocity(&latent, sigma)?;
    let denoised = latent.clone() - velocity * sigma;
    let kept = f64::from(sigma_next) / f64::from(sigma);
    let width = -kept.ln();

    let past = history.0.replace(Past { denoised: denoised.clone(), width });
    let ahead = match past {
        Some(past) if sigma_next > 0.0 => denoised.clone() + (denoised - past.denoised) * (width / (2.0 * past.width)),
        _ => denoised,
    };
    Ok(latent * kept + ahead * (1.0 - kept))
}
