//! Solvers that diffusers has too: on a model whose velocity is known they lead where diffusers' lead
//! (`fixtures/solvers.json`, by `scripts/make_solvers.py`); and on that model, what a higher order is worth in ten steps.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::tensor::DType;
use rectiflow_flow::{Schedule, Spacing};
use rectiflow_nn::{Device, Tensor, TensorData};
use rectiflow_sample::{SampleError, Solver, Step, Velocity, no_noise};
use serde::Deserialize;

/// Share and mean of each part of the mixture.
const PARTS: [(f64, f64); 2] = [(0.4, -1.2), (0.6, 0.8)];
/// Their standard deviation.
const STD: f64 = 0.3;

/// Images of which each number is drawn from the mixture by itself.
struct Mixture;

impl Mixture {
    fn variance(sigma: f64) -> f64 {
        ((1.0 - sigma) * STD).powi(2) + sigma.powi(2)
    }

    fn denoised(x: f64, sigma: f64) -> f64 {
        let variance = Mixture::variance(sigma);
        let parts = PARTS.map(|(share, mean)| {
            let apart = x - (1.0 - sigma) * mean;
            (share.ln() - apart.powi(2) / (2.0 * variance), mean + STD.powi(2) * (1.0 - sigma) / variance * apart)
        });
        let largest = parts.iter().map(|part| part.0).fold(f64::NEG_INFINITY, f64::max);
        let weights = parts.map(|part| (part.0 - largest).exp());
        weights.iter().zip(parts).map(|(weight, part)| weight * part.1).sum::<f64>() / weights.iter().sum::<f64>()
    }

    /// The share of noisy images below `x`.
    fn below(x: f64, sigma: f64) -> f64 {
        let std = Mixture::variance(sigma).sqrt();
        PARTS.iter().map(|(share, mean)| share * normal_below((x - (1.0 - sigma) * mean) / std)).sum()
    }

    /// Where the noise `x` leads at `sigma`: numbers do not pass each other on the way, so as many stay below.
    fn exact(x: f64, sigma: f64) -> f64 {
        let (share, mut low, mut high) = (normal_below(x), -9.0, 9.0);
        for _ in 0..80 {
            let middle = f64::midpoint(low, high);
            if Mixture::below(middle, sigma) < share { low = middle } else { high = middle }
        }
        f64::midpoint(low, high)
    }
}

/// The standard normal distribution's, by Simpson's rule on its density.
fn normal_below(x: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (count, width) = (400, x / 400.0);
    let weight = |index: usize| if index.is_multiple_of(2) { 2.0 } else { 4.0 };
    let inner: f64 = (1..count).map(|index| weight(index) * density(index as f64 * width)).sum();
    0.5 + width / 3.0 * (density(0.0) + inner + density(x))
}

impl Velocity for Mixture {
    fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError> {
        let sigma = f64::from(sigma);
        Ok(tensor(&values(latent).iter().map(|x| (x - Mixture::denoised(*x, sigma)) / sigma).collect::<Vec<_>>()))
    }
}

fn tensor(values: &[f64]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, 1, 1, values.len()]), (&Device::flex(), DType::F64))
}

fn values(latent: &Tensor<4>) -> Vec<f64> {
    latent.to_data().try_into_vec().unwrap()
}

#[derive(Deserialize)]
struct Golden {
    noise: Vec<f64>,
    /// Of each step.
    fresh: Vec<Vec<f64>>,
    runs: BTreeMap<String, Led>,
}

#[derive(Deserialize)]
struct Led {
    /// Where it was asked, and where it ended.
    sigmas: Vec<f32>,
    latent: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../fixtures/solvers.json")).unwrap()
}

#[test]
fn solvers_lead_where_diffusers_lead() {
    let Golden { noise, fresh, runs } = golden();
    assert_eq!(runs.len(), 7);
    for (name, Led { sigmas, latent }) in runs {
        let solver: Solver = name.parse().unwrap();
        // DEIS stops above 0 there: so far they are compared.
        let (end, schedule) = (*sigmas.last().unwrap(), Schedule::custom(&sigmas).unwrap());
        let mut found = Vec::new();
        let watch = &mut |step: Step<'_>| {
            if step.sigma == end {
                found = values(step.latent);
            }
            ControlFlow::Continue(())
        };
        solver.run(&mut Mixture, tensor(&noise), &schedule, &mut |step| tensor(&fresh[step]), watch).unwrap();
        assert_eq!(found.len(), latent.len(), "{name} was not at {end}");
        let worst = found.iter().zip(&latent).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

/// The mean error of the picture, of numbers that the noise has equally often.
fn error(solver: Solver, schedule: &Schedule) -> f64 {
    let shares = (1..40).map(|index| f64::from(index) / 40.0);
    let noise: Vec<f64> = shares.map(|share| (share / (1.0 - share)).ln() / 1.702).collect();
    let watch = &mut |_: Step<'_>| ControlFlow::Continue(());
    let found = values(&solver.run(&mut Mixture, tensor(&noise), schedule, &mut no_noise, watch).unwrap());
    let apart = found.iter().zip(&noise).map(|(found, noise)| (found - Mixture::exact(*noise, 0.0)).abs());
    apart.sum::<f64>() / noise.len() as f64
}

/// Each as it is used where nobody says otherwise, and all of them on levels as far apart. The reference's DPM++ 2M alone
/// loses on its own schedule, whose last step is too wide for it.
#[test]
fn in_ten_steps_every_higher_order_beats_euler() {
    let spaced = |spacing| Schedule::spaced(spacing, NonZeroUsize::new(10).unwrap(), 3.0).unwrap();
    let higher = Solver::ALL.into_iter().filter(|solver| !solver.is_stochastic() && *solver != Solver::Euler);
    for solver in higher {
        let usual = if solver == Solver::Dpmpp2m { Spacing::Karras } else { solver.usual_spacing() };
        for spacing in [usual, Spacing::Simple, Spacing::Karras] {
            let [found, euler] = [solver, Solver::Euler].map(|solver| error(solver, &spaced(spacing)));
            assert!(found < euler, "{spacing}, {solver}: {found}, Euler's {euler}");
        }
        assert!(error(solver, &spaced(usual)) < error(Solver::Euler, &spaced(Spacing::Released)), "{solver}");
    }
}
