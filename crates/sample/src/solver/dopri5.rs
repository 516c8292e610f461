//! Dormand and Prince's pair of orders 5 and 4, which chooses its steps itself (J. Comp. Appl. Math. 6, 1980).

use std::ops::ControlFlow;

use rectiflow_flow::Schedule;
use rectiflow_nn::{Tensor, is_finite};

use super::{Step, Tolerance};
use crate::{SampleError, Velocity};

/// Where the velocities of a step are asked, in parts of it.
const NODES: [f64; 6] = [1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];
/// What leads there, of the velocities before. The last row is the step of order 5.
const ROWS: [&[f64]; 6] = [
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// The step of order 5 less that of order 4.
const DIFFERENCE: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0];

/// Of the step that would just do.
const SAFETY: f64 = 0.9;
/// How much narrower or wider the next step may be.
const FACTORS: [f64; 2] = [0.2, 5.0];
/// Noise levels nearer to each other are one.
const WIDTH_MIN: f64 = 1e-6;

/// From the first level of a schedule to the last above 0, and from there to 0 as Euler does. Of the levels between only
/// the number counts: it says how wide the first step is. The watcher is told when a step passes one of them.
pub(super) fn run(
    tolerance: Tolerance,
    model: &mut dyn Velocity,
    noise: Tensor<4>,
    schedule: &Schedule,
    watch: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<Tensor<4>, SampleError> {
    let levels = schedule.sigmas();
    let [mut sigma, end] = [levels[0], levels[levels.len() - 2]].map(f64::from);
    let mut width = (sigma - end) / (levels.len() as f64 - 2.0).max(1.0);
    let (mut latent, mut told) = (noise, 0);
    let mut velocity = model.velocity(&latent, levels[0])?;
    while sigma > end {
        width = width.min(sigma - end);
        let Tried { next, velocity_next, error } = tried(tolerance, model, &latent, velocity.clone(), sigma, width)?;
        if !is_finite(&next) || !error.is_finite() {
            return Err(SampleError::NotFinite { step: told, sigma: sigma as f32 });
        }
        if error <= 1.0 {
            sigma = if sigma - width - end < WIDTH_MIN { end } else { sigma - width };
            (latent, velocity) = (next, velocity_next);
            let passed = levels[1..].iter().take_while(|level| f64::from(**level) >= sigma).count();
            if passed > told {
                told = passed;
                if watch(Step { index: told - 1, sigma: sigma as f32, latent: &latent }).is_break() {
                    return Err(SampleError::Stopped { step: told - 1 });
                }
            }
        }
        width *= (SAFETY * error.powf(-0.2)).clamp(FACTORS[0], FACTORS[1]);
        if width < WIDTH_MIN {
            return Err(SampleError::Tolerance { tolerance: tolerance.value(), sigma: sigma as f32 });
        }
    }
    let image = latent - velocity * end;
    let last = levels.len() - 2;
    if !is_finite(&image) {
        return Err(SampleError::NotFinite { step: last, sigma: end as f32 });
    }
    match watch(Step { index: last, sigma: 0.0, latent: &image }) {
        ControlFlow::Continue(()) => Ok(image),
        ControlFlow::Break(()) => Err(SampleError::Stopped { step: last }),
    }
}

/// A step that may be too wide.
struct Tried {
    next: Tensor<4>,
    /// There.
    velocity_next: Tensor<4>,
    /// The largest of the latents' errors, in tolerances.
    error: f64,
}

fn tried(
    tolerance: Tolerance,
    model: &mut dyn Velocity,
    latent: &Tensor<4>,
    velocity: Tensor<4>,
    sigma: f64,
    width: f64,
) -> Result<Tried, SampleError> {
    let mut velocities = vec![velocity];
    let mut next = latent.clone();
    for (node, row) in NODES.iter().zip(ROWS) {
        next = latent.clone() - mixed(&velocities, row) * width;
        velocities.push(model.velocity(&next, (sigma - node * width) as f32)?);
    }
    let scale = latent.clone().abs().max_pair(next.clone().abs()).clamp_min(1.0) * f64::from(tolerance.value());
    let square = (mixed(&velocities, &DIFFERENCE) * width / scale).square();
    let of_each: Tensor<2> = square.flatten::<2>(1, 3).mean_dim(1);
    let error = of_each.into_data().iter::<f64>().fold(0.0, f64::max).sqrt();
    let velocity_next = velocities.pop().expect("one for each node");
    Ok(Tried { next, velocity_next, error })
}

fn mixed(velocities: &[Tensor<4>], weights: &[f64]) -> Tensor<4> {
    let weighted = velocities.iter().zip(weights).filter(|(_, weight)| **weight != 0.0);
    let weighted = weighted.map(|(velocity, weight)| velocity.clone() * *weight);
    weighted.reduce(|sum, one| sum + one).expect("weights that are not 0")
}
