//! Twenty steps of training, beside the same in PyTorch: same network, batches, noise and optimiser.
//!
//! `scripts/make_training_curve.py` made `fixtures/sd35m/training.safetensors`, and makes curves of larger networks, which
//! `RECTIFLOW_TRAINING_CURVE=DIR cargo test --release --workspace --test curve -- --ignored --nocapture` checks: DIR has
//! `model/transformer` and `training.safetensors`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test binary")]

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Instant;

use rectiflow_mmdit::{Mmdit, MmditConfig};
use rectiflow_nn::{Device, Named, ParamGradients, Params, Precision, Tensor, from_f32, to_f32};
use rectiflow_train::objective::flow::{FlowBatch, rectified_flow_loss};
use rectiflow_train::optimizer::{AdamW, ModuleGradients, Optimizer};
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

fn train(model: &Path, curve: &Path, precision: Precision) -> Vec<Step> {
    let device = Device::flex().autodiff();
    let checkpoint = Checkpoint::open(&ModelPaths { model: Some(model.into()), ..ModelPaths::default() }).unwrap();
    let mut source = checkpoint.require(PartKind::Transformer).unwrap().source();
    let config = MmditConfig::find(&source).unwrap();
    let mut named = Named::new(&mut source);
    let mut network = Mmdit::new(&config, Params::new(&mut named, &device, precision));
    let names = named.names();
    source.finish().unwrap();

    let curve = Curve::read(curve);
    let (losses, norms) = (curve.numbers("losses").0, curve.numbers("norms").0);
    let (noise, sigmas) = (curve.tensor::<5>("noise", &device), curve.tensor::<2>("sigmas", &device));
    let settings = AdamW { beta_1: 0.9, beta_2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let mut optimizer = Optimizer::new(settings, vec![], names.clone());
    let mut steps = Vec::new();
    for (step, (loss, norm)) in losses.into_iter().zip(norms).enumerate() {
        let start = Instant::now();
        let batch = FlowBatch {
            latents_BCHW: curve.tensor("latents", &device),
            noise_BCHW: noise.clone().narrow(0, step, 1).squeeze_dim(0),
            sigmas_B: sigmas.clone().narrow(0, step, 1).squeeze_dim(0),
            context_BTD: curve.tensor("context", &device),
            pooled_BP: curve.tensor("pooled", &device),
        };
        let found = rectified_flow_loss(&network, batch);
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

#[test]
fn twenty_steps_are_those_of_pytorch() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sd35m");
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
