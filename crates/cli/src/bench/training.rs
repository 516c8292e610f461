//! A training step of a small network: what a user waits for a million times.

use std::num::NonZeroU64;

use anyhow::bail;
use rectiflow_flow::Formulation;
use rectiflow_mmdit::{MmditConfig, NetworkConfig, Recompute, VelocityNetwork};
use rectiflow_nn::{DeviceChoice, Module, Named, Params, Precision, RandomInit, to_f32};
use rectiflow_train::objective::flow::{FlowBatch, flow_gradients};
use rectiflow_train::optimizer::{AdamW, Matrices, ModuleGradients, Optimizer};

use super::networks::{number_bytes, random};
use super::{Case, Limit, Maker, Work};

/// Freed memory that the next step uses again: what a step of these sizes needs.
const KEPT_BYTES: usize = 6 << 30;

pub(super) fn cases() -> Vec<Maker> {
    let cases = [
        ("train_step/depth8", Recompute::Nothing),
        ("train_step/depth8/half_again", Recompute::First(4)),
        ("train_step/depth8/all_again", Recompute::Every),
    ];
    let maker =
        |(name, recompute)| Maker { name, make: Box::new(move |precision| train_step(name, recompute, precision)) };
    cases.map(maker).into()
}

/// Forward, backward, clipping and AdamW of 74 million parameters, with 32 latents of 16x16 and 141 text tokens each;
/// blocks that `recompute` takes are computed again on the way back, which is not counted as work.
fn train_step(name: &str, recompute: Recompute, precision: Precision) -> anyhow::Result<Case> {
    const BATCH: usize = 32;
    const SIDE: usize = 16;
    const TEXT: usize = 141;
    if precision == Precision::Int8 {
        bail!("{name}: integers are for drawing\nhint: --precision bf16 or f32");
    }
    rectiflow_train::keep_freed_memory(KEPT_BYTES);
    let device = DeviceChoice::Cpu.open()?.autodiff();
    let config =
        MmditConfig { context_width: 512, pooled_width: 256, qk_norm: true, grid: 32, ..MmditConfig::of_depth(8) };
    let mut source = RandomInit { seed: 0 };
    let mut source = Named::new(&mut source);
    let kind = NetworkConfig::Mmdit(config.clone());
    let network = VelocityNetwork::new(&kind, Params::new(&mut source, &device, precision));
    let names = source.names();
    let weights = network.num_params() as f64;
    let formulation: Formulation = "rf".parse()?;
    let levels = (0..BATCH).map(|i| formulation.level((i as f64 + 0.5) / BATCH as f64)).collect();
    let batch = FlowBatch {
        latents_BCHW: random(1, [BATCH, config.channels_in, SIDE, SIDE], &device),
        noise_BCHW: random(2, [BATCH, config.channels_in, SIDE, SIDE], &device),
        levels,
        context_BTD: random(3, [BATCH, TEXT, config.context_width], &device),
        pooled_BP: random(4, [BATCH, config.pooled_width], &device),
    };
    let settings = AdamW { beta_1: 0.9, beta_2: 0.999, eps: 1e-8, weight_decay: 0.01, matrices: Matrices::Adamw };
    let mut optimizer = Optimizer::new(settings, vec![], names.clone());
    let mut network = Some(network);
    let mut step = move || -> anyhow::Result<f32> {
        let Some(before) = network.take() else { bail!("an earlier step failed") };
        let (loss, gradients) = flow_gradients(&before, batch.clone(), recompute);
        let value = to_f32(&loss)[0];
        let gradients = ModuleGradients::of(&before, &names, gradients, NonZeroU64::MIN)?.clipped_to(1.0);
        network = Some(optimizer.step(before, gradients, 1e-4));
        Ok(value)
    };
    // A network that begins with zeros at its end gives the mean square of what it should give.
    let losses = [step()?, step()?, step()?];
    if !(losses[2] < losses[0] && losses[0].is_finite()) {
        bail!("{name} does not learn: losses {losses:?}\nhint: please report this with your processor's name");
    }
    let forward = BATCH as f64 * kind.operations((SIDE / 2).pow(2), TEXT);
    Ok(Case {
        name: name.into(),
        work: Work {
            // The backward has two products for each of the forward.
            operations: 3.0 * forward,
            // Weights as factors twice; gradients, and the parameters and both moments read and written.
            bytes: weights * (2.0 * number_bytes(precision) + 4.0 * 2.0 + 6.0 * 4.0),
            limit: Limit::Arithmetic,
        },
        run: Box::new(move || {
            step().unwrap_or_else(|error| panic!("the first steps passed, this one did not: {error}"));
        }),
    })
}
