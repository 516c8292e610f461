//! QK-norm is added to a trained model that lacks it, and trains: arXiv:2403.03206, section 5.3.2.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::num::NonZeroU64;
use std::path::Path;

use rectiflow_flow::Formulation;
use rectiflow_mmdit::{Mmdit, MmditConfig, NetworkConfig, VelocityNetwork};
use rectiflow_nn::{
    Device, Init, Named, ParamGradients, ParamSource, Params, Precision, RandomInit, Tensor, WithNew, from_f32, to_f32,
};
use rectiflow_train::objective::flow::{FlowBatch, flow_losses};
use rectiflow_train::optimizer::{AdamW, Matrices, ModuleGradients, Optimizer};
use rectiflow_weights::{Checkpoint, ModelPaths, PartKind};

fn checkpoint() -> Checkpoint {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sd3/model");
    Checkpoint::open(&ModelPaths { model: Some(model), ..ModelPaths::default() }).unwrap()
}

fn is_norm(name: &str) -> bool {
    name.ends_with("attn.ln_q.weight") || name.ends_with("attn.ln_k.weight")
}

fn some<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let read = RandomInit { seed: 2 }.claim(name, &shape, Init::Normal(1.0));
    from_f32(read().try_into_vec().unwrap(), shape, device)
}

#[test]
fn a_model_without_qk_norm_gets_it_and_trains() {
    let device = Device::flex().autodiff();
    let checkpoint = checkpoint();
    let mut source = checkpoint.require(PartKind::Transformer).unwrap().source();
    let found = MmditConfig::find(&source).unwrap();
    assert!(!found.qk_norm);
    let config = MmditConfig { qk_norm: true, ..found };
    let mut new = RandomInit { seed: 0 };
    let mut grown = WithNew::new(&mut source, &mut new, is_norm);
    let mut named = Named::new(&mut grown);
    let kind = NetworkConfig::Mmdit(config.clone());
    let mut network = VelocityNetwork::new(&kind, Params::new(&mut named, &device, Precision::F32));
    let names = named.names();
    let made = grown.made();
    source.finish().unwrap();
    // Queries and keys of both streams of both blocks.
    assert_eq!(made.len(), 8, "{made:?}");
    assert!(made.iter().all(|name| is_norm(name)), "{made:?}");

    let formulation: Formulation = "rf".parse().unwrap();
    let batch = FlowBatch {
        latents_BCHW: some("latents", [2, config.channels_in, 8, 8], &device),
        noise_BCHW: some("noise", [2, config.channels_in, 8, 8], &device),
        levels: [0.3, 0.8].map(|sigma| formulation.level(sigma)).to_vec(),
        context_BTD: some("context", [2, 7, config.context_width], &device),
        pooled_BP: some("pooled", [2, config.pooled_width], &device),
    };
    let settings = AdamW { beta_1: 0.9, beta_2: 0.999, eps: 1e-15, weight_decay: 0.0, matrices: Matrices::Adamw };
    let mut optimizer = Optimizer::new(settings, vec![], names.clone());
    let mut losses = Vec::new();
    for _ in 0..10 {
        let loss = flow_losses(&network, batch.clone()).mean();
        losses.push(to_f32(&loss)[0]);
        let gradients = ParamGradients::of(&network, loss.backward());
        let gradients = ModuleGradients::of(&network, &names, gradients, NonZeroU64::MIN).unwrap();
        network = optimizer.step(network, gradients.clipped_to(1.0), 1e-3);
    }
    assert!(losses[9] < 0.8 * losses[0], "{losses:?}");
}

#[test]
fn what_is_missing_and_not_new_is_refused() {
    let checkpoint = checkpoint();
    let mut source = checkpoint.require(PartKind::Transformer).unwrap().source();
    let config = MmditConfig { qk_norm: true, dual_layers: vec![0], ..MmditConfig::find(&source).unwrap() };
    let mut new = RandomInit { seed: 0 };
    let mut grown = WithNew::new(&mut source, &mut new, is_norm);
    drop(Mmdit::new(&config, Params::new(&mut grown, &Device::flex(), Precision::F32)));
    let error = source.finish().unwrap_err().to_string();
    // The second attention's ten tensors, its norms with them; the first one's norms are not missed.
    assert!(error.contains("10 tensors missing") && error.contains("attn2"), "{error}");
}
