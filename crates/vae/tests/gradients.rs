//! Training's side of the autoencoder, beside diffusers and PyTorch.
//!
//! `scripts/make_vae_gradients.py` made `fixtures/vae/gradients.safetensors`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rectiflow_nn::{
    Device, Gradients, Init, Module, Named, Param, ParamGradients, ParamNames, ParamSource, Params, Precision,
    RandomInit, Read, Tensor, TensorData, from_f32, to_f32,
};
use rectiflow_vae::{Posterior, Vae, VaeConfig};

/// The numbers of a file of this test, and what was asked of it.
struct Golden {
    tensors: BTreeMap<String, TensorData>,
    asked: BTreeSet<String>,
}

impl Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vae/gradients.safetensors");
        Golden { tensors: rectiflow_weights::read_all(&path).unwrap(), asked: BTreeSet::new() }
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.tensors[name].try_to_vec().unwrap()
    }

    fn tensor(&self, name: &str, device: &Device) -> Tensor<4> {
        let shape: Vec<usize> = self.tensors[name].shape().iter().copied().collect();
        from_f32(self.numbers(name), shape.try_into().unwrap(), device)
    }
}

impl ParamSource for Golden {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|tensor| tensor.shape().iter().copied().collect())
    }

    fn claim(&mut self, name: &str, shape: &[usize], _: Init) -> Read {
        self.asked.insert(name.to_owned());
        // The attention's 1x1 convolutions are matrices to us.
        let (numbers, shape) = (self.numbers(name), shape.to_vec());
        assert_eq!(numbers.len(), shape.iter().product::<usize>(), "{name}");
        Box::new(move || TensorData::new(numbers, shape))
    }
}

fn config() -> VaeConfig {
    VaeConfig { widths: vec![8, 12, 16, 16], blocks: 1, latent_channels: 4, groups: 4, ..VaeConfig::released() }
}

/// Largest error over the largest number.
#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], relative: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30_f32, |m, x| m.max(x.abs()));
    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
    assert!(error <= relative, "{what}: off by {error:.1e} of {largest:.1e}");
}

/// The gradients of a backward pass, by name.
struct ByName<'a> {
    names: &'a ParamNames,
    gradients: ParamGradients,
    found: BTreeMap<String, Vec<f32>>,
}

impl ByName<'_> {
    fn of(vae: &Vae, names: &ParamNames, gradients: Gradients) -> BTreeMap<String, Vec<f32>> {
        let gradients = ParamGradients::of(vae, gradients);
        let mut by_name = ByName { names, gradients, found: BTreeMap::new() };
        vae.visit(&mut by_name);
        by_name.found
    }
}

impl burn::module::ModuleVisitor for ByName<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get(param.id) {
            self.found.insert(self.names.get(param.id).unwrap().to_owned(), to_f32(gradient));
        }
    }
}

#[test]
fn every_parameter_has_the_gradient_that_pytorch_finds() {
    const KL_WEIGHT: f64 = 0.3;
    let device = Device::flex().autodiff();
    let mut golden = Golden::read();
    let mut named = Named::new(&mut golden);
    let vae = Vae::new(&config(), Params::new(&mut named, &device, Precision::F32));
    let names = named.names();

    let picture = golden.tensor("picture", &device);
    let posterior = vae.encode(picture.clone());
    let decoded = vae.finish(vae.decode_to_last(posterior.sample(golden.tensor("noise", &device))));
    for (name, found) in [("mean", &posterior.mean), ("log_variance", &posterior.log_variance), ("decoded", &decoded)] {
        assert_close(&to_f32(found), &golden.numbers(name), 2e-5, name);
    }
    let l1 = (picture - decoded).abs().sum() / 2.0;
    let kl = posterior.divergence().sum() / 2.0;
    assert_close(&to_f32(&l1), &golden.numbers("l1"), 2e-6, "l1");
    assert_close(&to_f32(&kl), &golden.numbers("kl"), 2e-6, "kl");

    let found = ByName::of(&vae, &names, (l1 + kl * KL_WEIGHT).backward());
    let expected: Vec<&str> = golden.tensors.keys().filter_map(|name| name.strip_prefix("gradient.")).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected, "parameters with a gradient");
    assert!(golden.asked.iter().eq(expected.iter()), "parameters");
    for (name, found) in &found {
        // A key's bias moves all logits of a query alike: its gradient is what rounding leaves of 0.
        if name.ends_with("attn_1.k.bias") {
            assert!(found.iter().all(|x| x.abs() < 1e-4), "{name}: {found:?}");
        } else {
            assert_close(found, &golden.numbers(&format!("gradient.{name}")), 1e-4, name);
        }
    }
}

#[test]
fn the_last_layers_gradient_norm_is_that_of_the_whole_backward() {
    let device = Device::flex().autodiff();
    let mut golden = Golden::read();
    let mut named = Named::new(&mut golden);
    let vae = Vae::new(&config(), Params::new(&mut named, &device, Precision::F32));
    let names = named.names();
    let features = vae.decode_to_last(golden.tensor("mean", &device));
    let picture = vae.finish(features.clone());
    let weights = golden.tensor("picture", &device);
    let found = vae.last_gradient_norm(&features, weights.clone());
    let gradients = ByName::of(&vae, &names, (picture * weights).sum().backward());
    let expected = gradients["decoder.conv_out.weight"].iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
}

/// How much smaller than its inputs' the variance of a layer's outputs is at the start: 3 as PyTorch has it.
fn shrinks(weight: &str) -> f64 {
    let is_in_branch = weight.contains("conv1") || weight.contains("attn_1");
    if is_in_branch { 3.0 } else { 1.0 }
}

#[test]
fn a_new_autoencoder_keeps_the_size_of_what_goes_through_it() {
    let device = Device::flex();
    for channels in [4, 8, 16] {
        let config = VaeConfig { widths: vec![16, 24, 32, 32], latent_channels: channels, groups: 8, ..config() };
        let mut source = Statistics { random: RandomInit { seed: 1 }, shapes: BTreeMap::new() };
        let vae = Vae::new(&config, Params::new(&mut source, &device, Precision::F32));
        let posterior = vae.encode(from_f32(vec![0.5; 3 * 64], [1, 3, 8, 8], &device));
        assert_eq!(posterior.mean.dims(), [1, channels, 1, 1]);
        assert_eq!(vae.decode(posterior.mean).dims(), [1, 3, 8, 8]);
        for (name, (shape, values)) in &source.shapes {
            let all = |expected: f32| assert!(values.iter().all(|x| *x == expected), "{name}");
            let weight = name.replace(".bias", ".weight");
            let fan_in: usize = source.shapes[&weight].0[1..].iter().product();
            let shrinks = shrinks(&weight);
            let is_bias = shape.len() == 1;
            if name.contains("norm") {
                all(if name.ends_with("weight") { 1.0 } else { 0.0 });
            } else if name.contains("conv2") || (is_bias && shrinks == 1.0) {
                all(0.0);
            } else {
                // Uniform in +-bound has a variance of a third of its square.
                let bound = (3.0 / (shrinks * fan_in as f64)).sqrt();
                let largest = values.iter().fold(0.0_f64, |m, x| m.max(f64::from(*x).abs()));
                assert!(largest <= bound && largest > 0.0, "{name}: {largest}, bound {bound}");
                if !is_bias {
                    let squares = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64;
                    let error = squares * shrinks * fan_in as f64 - 1.0;
                    assert!(error.abs() < 5.0 / (values.len() as f64).sqrt(), "{name}: variance off by {error}");
                }
            }
        }
    }
}

/// Random parameters, and what they are.
struct Statistics {
    random: RandomInit,
    shapes: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl ParamSource for Statistics {
    fn shape(&self, _: &str) -> Option<Vec<usize>> {
        None
    }

    fn claim(&mut self, name: &str, shape: &[usize], init: Init) -> Read {
        let values = self.random.claim(name, shape, init)().try_into_vec().unwrap();
        self.shapes.insert(name.to_owned(), (shape.to_vec(), values));
        self.random.claim(name, shape, init)
    }
}

#[test]
fn the_divergence_of_a_standard_normal_posterior_is_0_and_a_sample_of_it_the_noise() {
    let device = Device::flex();
    let zeros = || from_f32(vec![0.0; 16], [2, 2, 2, 2], &device);
    let noise: Vec<f32> = (0..16).map(|i| (i as f32).sin()).collect();
    let posterior = Posterior { mean: zeros(), log_variance: zeros() };
    assert_eq!(to_f32(&posterior.divergence()), [0.0, 0.0]);
    assert_eq!(to_f32(&posterior.sample(from_f32(noise.clone(), [2, 2, 2, 2], &device))), noise);
    // Of N(3, e^2) in each of 8 numbers: 8 (9 + e^2 - 1 - 2) / 2.
    let posterior = Posterior { mean: zeros() + 3.0, log_variance: zeros() + 2.0 };
    let expected = 4.0 * (6.0 + 2.0_f32.exp());
    assert!(to_f32(&posterior.divergence()).iter().all(|found| (found / expected - 1.0).abs() < 1e-6));
}
