//! Every solver draws from a known distribution with every formulation, asked as a trained network would be.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::f64::consts::FRAC_PI_2;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::tensor::DType;
use rectiflow_flow::noise::TorchRng;
use rectiflow_flow::{Formulation, Path, Prediction, Schedule};
use rectiflow_nn::{DeviceChoice, Tensor, TensorData};
use rectiflow_sample::{SampleError, Solver, Step, Velocity, no_noise};

const POINTS: usize = 1500;
const STEPS: usize = 64;

/// A share of the points, normal around a mean with the same variance in both directions.
struct Component {
    share: f64,
    mean: [f64; 2],
    variance: f64,
}

const MIXTURE: [Component; 3] = [
    Component { share: 0.5, mean: [-1.5, 0.5], variance: 0.09 },
    Component { share: 0.3, mean: [1.0, 1.2], variance: 0.16 },
    Component { share: 0.2, mean: [0.6, -1.4], variance: 0.04 },
];

/// The mean of the pictures `x0` that could have become `z = a x0 + b eps`.
fn picture(z: [f64; 2], a: f64, b: f64) -> [f64; 2] {
    let mut total = 0.0;
    let mut sum = [0.0; 2];
    // Against underflow far away from all of them, weights are relative to the largest.
    let logs = MIXTURE.map(|Component { share, mean, variance }| {
        let variance = a * a * variance + b * b;
        let square: f64 = (0..2).map(|axis| (z[axis] - a * mean[axis]).powi(2)).sum();
        share.ln() - variance.ln() - 0.5 * square / variance
    });
    let largest = logs.into_iter().fold(f64::NEG_INFINITY, f64::max);
    for (Component { mean, variance, .. }, log) in MIXTURE.iter().zip(logs) {
        let weight = (log - largest).exp();
        total += weight;
        let pull = a * variance / (a * a * variance + b * b);
        for axis in 0..2 {
            sum[axis] += weight * (mean[axis] + pull * (z[axis] - a * mean[axis]));
        }
    }
    sum.map(|sum| sum / total)
}

/// `ln(b/a)` of latent diffusion's levels, from its betas.
fn linear_levels() -> Vec<f64> {
    let mut kept = 1.0_f64;
    let level = |index: i32| {
        let root = 0.00085_f64.sqrt() + f64::from(index) / 999.0 * (0.012_f64.sqrt() - 0.00085_f64.sqrt());
        kept *= 1.0 - root * root;
        ((1.0 - kept) / kept).ln() / 2.0
    };
    (0..1000).map(level).collect()
}

/// What a perfectly trained network says. It knows its input and the timestep, nothing else.
struct Network {
    path: Path,
    prediction: Prediction,
    linear: Vec<f64>,
}

impl Network {
    fn predict(&self, input: [f64; 2], timestep: f64) -> [f64; 2] {
        let (a, b) = match self.path {
            Path::Straight => (1.0 - timestep / 1000.0, timestep / 1000.0),
            Path::Cosine => ((FRAC_PI_2 * timestep / 1000.0).cos(), (FRAC_PI_2 * timestep / 1000.0).sin()),
            Path::Linear => {
                let below = (timestep as usize).min(998);
                let rest = timestep - below as f64;
                let ratio = (self.linear[below] * (1.0 - rest) + self.linear[below + 1] * rest).exp();
                (1.0 / ratio.hypot(1.0), ratio / ratio.hypot(1.0))
            }
            Path::Exploding => (1.0, (4.0 * timestep).exp()),
        };
        let variance = b * b + 0.25;
        let scale = if self.path == Path::Exploding { variance.sqrt() } else { 1.0 };
        let z = input.map(|value| value * scale);
        let picture = picture(z, a, b);
        std::array::from_fn(|axis| {
            let (z, x0) = (z[axis], picture[axis]);
            let eps = (z - a * x0) / b;
            match self.prediction {
                Prediction::Velocity => eps - x0,
                Prediction::Noise => eps,
                Prediction::V => a * eps - b * x0,
                Prediction::F => (x0 - 0.25 / variance * z) / (0.5 * b / variance.sqrt()),
            }
        })
    }
}

/// The network behind the formulation's conversion, as a sampler uses it.
struct Converted {
    formulation: Formulation,
    network: Network,
}

impl Velocity for Converted {
    fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError> {
        let conversion = self.formulation.conversion(f64::from(sigma));
        let input = points(&(latent.clone() * conversion.input_scale));
        let said = input.into_iter().map(|input| self.network.predict(input, conversion.timestep)).collect();
        Ok(latent.clone() * conversion.of_latent + tensor(said) * conversion.of_prediction)
    }
}

fn tensor(points: Vec<[f64; 2]>) -> Tensor<4> {
    let device = DeviceChoice::Cpu.open().unwrap();
    let shape = [points.len(), 1, 1, 2];
    Tensor::from_data(TensorData::new(points.into_flattened(), shape), (&device, DType::F64))
}

fn points(tensor: &Tensor<4>) -> Vec<[f64; 2]> {
    let values: Vec<f64> = tensor.to_data().try_into_vec().unwrap();
    values.as_chunks().0.to_vec()
}

/// How far the points are from the mixture: the largest error of a share, of a mean, and of a variance, which is relative.
fn errors(points: &[[f64; 2]]) -> [f64; 3] {
    let distance = |point: &[f64; 2], mean: [f64; 2]| (point[0] - mean[0]).hypot(point[1] - mean[1]);
    let nearest = |point: &[f64; 2]| {
        let near = |&one: &usize, &other: &usize| {
            distance(point, MIXTURE[one].mean).total_cmp(&distance(point, MIXTURE[other].mean))
        };
        (0..MIXTURE.len()).min_by(near).unwrap()
    };
    let mut worst = [0.0_f64; 3];
    for (index, Component { share, mean, variance }) in MIXTURE.iter().enumerate() {
        let own: Vec<_> = points.iter().filter(|point| nearest(point) == index).collect();
        let count = own.len() as f64;
        worst[0] = worst[0].max((count / points.len() as f64 - share).abs());
        for axis in 0..2 {
            let found = own.iter().map(|point| point[axis]).sum::<f64>() / count;
            let spread = own.iter().map(|point| (point[axis] - found).powi(2)).sum::<f64>() / count;
            worst[1] = worst[1].max((found - mean[axis]).abs());
            worst[2] = worst[2].max((spread / variance - 1.0).abs());
        }
    }
    worst
}

#[test]
fn every_formulation_draws_from_the_mixture() {
    let normals = TorchRng::new(11).standard_normal(2 * POINTS);
    let noise: Vec<[f64; 2]> = normals.as_chunks::<2>().0.iter().map(|pair| pair.map(f64::from)).collect();
    let schedule = Schedule::released(NonZeroUsize::new(STEPS).unwrap(), 1.0).unwrap();
    for formulation in Formulation::all() {
        for solver in [Solver::Euler, Solver::Heun, Solver::Dpmpp2m] {
            let (path, prediction) = (formulation.path(), formulation.prediction());
            let network = Network { path, prediction, linear: linear_levels() };
            let mut model = Converted { formulation, network };
            let watch = &mut |_: Step<'_>| ControlFlow::Continue(());
            let drawn = solver.run(&mut model, tensor(noise.clone()), &schedule, &mut no_noise, watch);
            let [share, mean, variance] = errors(&points(&drawn.unwrap()));
            // Measured: up to 0.016, 0.018 and 0.173, most of it of so few points.
            assert!(
                share < 0.025 && mean < 0.03 && variance < 0.2,
                "{formulation}, {solver}: {share}, {mean}, {variance}"
            );
        }
    }
}
