//! Gradients and steps of training, beside the same in PyTorch: same network, batches, noise and optimiser.
//!
//! `scripts/make_gradients.py` made `fixtures/gradients`. `scripts/make_training_curve.py` made `fixtures/sd35m/training.safetensors`, and makes curves of larger networks, which
//! `RECTIFLOW_TRAINING_CURVE=DIR cargo test --release --workspace --test curve -- --ignored --nocapture` checks: DIR has
//! `model/transformer` and `training.safetensors`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test binary")]

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::ModuleVisitor;
use rectiflow_flow::{Formulation, Level};
use rectiflow_mmdit::{MmditConfig, NetworkConfig, VelocityNetwork};
use rectiflow_nn::{
    Device, Module, Named, Param, ParamGradients, ParamId, ParamNames, Params, Precision, Tensor, from_f32, to_f32,
};
use rectiflow_train::objective::flow::{FlowBatch, flow_losses};
use rectiflow_train::optimizer::{AdamW, Matrices, ModuleGradients, Optimizer};
use rectiflow_weights::{Checkpoint, ModelPaths, PartKind};
use safetensors::SafeTensors;

struct Curve {
    bytes: Vec<u8>,
}

impl Curve {
    fn read(path: &Path) -> Curve {
        Curve { bytes: std::fs::read(path).unwrap() }
    }

    fn numbers(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let numbers = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (numbers, tensor.shape().to_vec())
    }

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let (numbers, shape) = self.numbers(name);
        from_f32(numbers, shape.try_into().unwrap(), device)
    }

    /// What rectified flow does at the noise levels of a step.
    fn levels(&self, step: usize) -> Vec<Level> {
        let formulation: Formulation = "rf".parse().unwrap();
        let (sigmas, shape) = self.numbers("sigmas");
        sigmas.chunks(shape[1]).nth(step).unwrap().iter().map(|sigma| formulation.level((*sigma).into())).collect()
    }

    fn batch(&self, step: usize, device: &Device) -> FlowBatch {
        FlowBatch {
            latents_BCHW: self.tensor("latents", device),
            noise_BCHW: self.tensor::<5>("noise", device).narrow(0, step, 1).squeeze_dim(0),
            levels: self.levels(step),
            context_BTD: self.tensor("context", device),
            pooled_BP: self.tensor("pooled", device),
        }
    }

    fn learning_rate(&self) -> f64 {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        metadata.metadata().as_ref().unwrap()["lr"].parse().unwrap()
    }
}

/// One step's loss and gradient norm, ours and the other's.
struct Step {
    loss: [f64; 2],
    norm: [f64; 2],
}

impl Step {
    fn error(pair: [f64; 2]) -> f64 {
        (pair[0] - pair[1]).abs() / pair[1]
    }
}

/// The transformer in a folder, its names as the checkpoint's layout gives them.
fn network(model: &Path, device: &Device, precision: Precision) -> (VelocityNetwork, ParamNames) {
    let checkpoint = Checkpoint::open(&ModelPaths { model: Some(model.into()), ..ModelPaths::default() }).unwrap();
    let mut source = checkpoint.require(PartKind::Transformer).unwrap().source();
    let config = MmditConfig::find(&source).unwrap();
    let mut named = Named::new(&mut source);
    let config = NetworkConfig::Mmdit(config);
    let network = VelocityNetwork::new(&config, Params::new(&mut named, device, precision));
    let names = named.names();
    source.finish().unwrap();
    (network, names)
}

fn train(model: &Path, curve: &Path, precision: Precision) -> Vec<Step> {
    let device = Device::flex().autodiff();
    let (mut network, names) = network(model, &device, precision);
    let curve = Curve::read(curve);
    let (losses, norms) = (curve.numbers("losses").0, curve.numbers("norms").0);
    let settings = AdamW { beta_1: 0.9, beta_2: 0.999, eps: 1e-8, weight_decay: 0.01, matrices: Matrices::Adamw };
    let mut optimizer = Optimizer::new(settings, vec![], names.clone());
    let mut steps = Vec::new();
    for (step, (loss, norm)) in losses.into_iter().zip(norms).enumerate() {
        let start = Instant::now();
        let found = flow_losses(&network, curve.batch(step, &device)).mean();
        let value = f64::from(to_f32(&found)[0]);
        let gradients =
            ModuleGradients::of(&network, &names, ParamGradients::of(&network, found.backward()), NonZeroU64::MIN)
                .unwrap();
        let found_norm = gradients.norm();
        network = optimizer.step(network, gradients.clipped_to(1.0), curve.learning_rate());
        println!(
            "step {}: loss {value:.6} beside {loss:.6}, norm {found_norm:.5} beside {norm:.5}, {:.2} s",
            step + 1,
            start.elapsed().as_secs_f64()
        );
        steps.push(Step { loss: [value, loss.into()], norm: [found_norm, norm.into()] });
    }
    steps
}

fn largest(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(0.0, f64::max)
}

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Parameters by official name.
struct Values<'a> {
    names: &'a ParamNames,
    values: BTreeMap<String, (ParamId, Vec<f32>)>,
}

impl ModuleVisitor for Values<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.get(param.id).unwrap().to_owned();
        self.values.insert(name, (param.id, to_f32(&param.val())));
    }
}

fn values(network: &VelocityNetwork, names: &ParamNames) -> BTreeMap<String, (ParamId, Vec<f32>)> {
    let mut visitor = Values { names, values: BTreeMap::new() };
    network.visit(&mut visitor);
    visitor.values
}

/// Holds a parameter's gradient to 1e-4 of its largest number, and one that the loss does not depend on to 0.
fn check_gradients(form: &str) {
    let (folder, device) = (fixtures("gradients").join(form), Device::flex().autodiff());
    let (network, names) = network(&folder.join("model"), &device, Precision::F32);
    let curve = Curve::read(&folder.join("training.safetensors"));
    let loss = flow_losses(&network, curve.batch(0, &device)).mean();
    let mut found = ParamGradients::of(&network, loss.backward());

    // Gradients are stored as a transformer is: the key map that finds a parameter finds its gradient.
    let (golden, golden_names) = self::network(&folder.join("gradients"), &Device::flex(), Precision::F32);
    let golden = values(&golden, &golden_names);
    let mut trained = values(&network, &names);
    trained.remove("pos_embed");
    assert!(trained.keys().eq(golden.keys()), "{form}: parameters and golden gradients are not of the same names");
    let mut worst = (0.0, String::new());
    for (name, (id, golden)) in golden {
        let largest = golden.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let found = match found.remove(id) {
            Some(found) => to_f32(&found),
            None => vec![0.0; golden.len()],
        };
        assert_eq!(found.len(), golden.len(), "{form}: {name}");
        let apart = found.iter().zip(&golden).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        let error = if largest > 0.0 { apart / largest } else { apart };
        assert!(error <= 1e-4, "{form}: the gradient of {name} is off by {error:.1e} of its largest number");
        if error > worst.0 {
            worst = (error, name);
        }
    }
    println!("{form}: gradients within {:.1e}, the worst that of {}", worst.0, worst.1);
}

#[test]
fn the_gradient_of_every_parameter_is_that_of_pytorch() {
    check_gradients("plain");
    check_gradients("dual");
}

#[test]
fn ten_steps_from_random_parameters_are_those_of_pytorch() {
    for form in ["plain", "dual"] {
        let folder = fixtures("gradients").join(form);
        let steps = train(&folder.join("model"), &folder.join("training.safetensors"), Precision::F32);
        assert_eq!(steps.len(), 10);
        let loss = largest(steps.iter().map(|step| Step::error(step.loss)));
        println!("{form}: losses within {loss:.1e}");
        assert!(loss < 1e-5, "{form}: a loss is off by {loss:.1e}");
    }
}

#[test]
fn twenty_steps_are_those_of_pytorch() {
    let fixture = fixtures("sd35m");
    for (precision, of_losses, of_norms) in [(Precision::F32, 2e-6, 5e-6), (Precision::Bf16, 2e-3, 1e-2)] {
        let steps = train(&fixture.join("model"), &fixture.join("training.safetensors"), precision);
        assert_eq!(steps.len(), 20);
        let loss = largest(steps.iter().map(|step| Step::error(step.loss)));
        let norm = largest(steps.iter().map(|step| Step::error(step.norm)));
        println!("{precision}: losses within {loss:.1e}, norms within {norm:.1e}");
        assert!(loss < of_losses, "{precision}: a loss is off by {loss:.1e}");
        assert!(norm < of_norms, "{precision}: a gradient's norm is off by {norm:.1e}");
    }
}

#[test]
#[ignore = "for a curve that the user has made; see the head of this file"]
fn a_curve_of_the_users() {
    let folder = std::env::var("RECTIFLOW_TRAINING_CURVE").expect("RECTIFLOW_TRAINING_CURVE names a folder");
    let folder = Path::new(&folder);
    let steps = train(&folder.join("model"), &folder.join("training.safetensors"), Precision::Bf16);
    let loss = largest(steps.iter().map(|step| Step::error(step.loss)));
    println!("losses within {loss:.1e}");
    assert!(loss < 1e-2, "a loss is off by {loss:.1e}");
}
