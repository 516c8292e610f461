//! Whole networks of the released sizes, with random weights: what a user waits for.

use anyhow::bail;
use rectiflow_mmdit::{Mmdit, MmditConfig, NetworkConfig, Perturbation};
use rectiflow_nn::{Device, DeviceChoice, Module, Params, Precision, Tensor, from_f32, from_ids, is_finite};
use rectiflow_text::{T5Config, T5Encoder};
use rectiflow_vae::{Vae, VaeConfig};

use super::random::{RandomParams, numbers};
use super::{Case, Limit, Maker, Work};

/// Layers of T5-XXL that are measured, of 24: all would need 19 GB.
const T5_LAYERS: usize = 6;
/// CLIP's 77 tokens and T5's 256.
const TEXT_TOKENS: usize = 333;

pub(super) fn cases() -> Vec<Maker> {
    let maker = |name, make: fn(Precision) -> anyhow::Result<Case>| Maker { name, make: Box::new(make) };
    vec![
        maker("mmdit_step/512", |precision| mmdit_step("mmdit_step/512", 512, precision)),
        maker("mmdit_step/1024", |precision| mmdit_step("mmdit_step/1024", 1024, precision)),
        maker("mmdit_levels/28", |precision| mmdit_levels("mmdit_levels/28", 28, precision)),
        maker("vae_decode/512", |precision| vae_decode("vae_decode/512", 512, precision)),
        maker("vae_decode/1024", |precision| vae_decode("vae_decode/1024", 1024, precision)),
        maker("t5_encode/77/6-layers", |precision| t5_encode("t5_encode/77/6-layers", 77, precision)),
    ]
}

pub(super) fn random<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
    from_f32(numbers(seed, shape.iter().product(), 1.7).collect(), shape, device)
}

fn check<const D: usize>(name: &str, x: &Tensor<D>) -> anyhow::Result<()> {
    if !is_finite(x) {
        bail!("{name} gave values that are not finite\nhint: please report this with your processor's name");
    }
    Ok(())
}

/// SD3-Medium's transformer, prompt and negative prompt in one batch.
fn mmdit_step(name: &str, side: usize, precision: Precision) -> anyhow::Result<Case> {
    const BATCH: usize = 2;
    let device = DeviceChoice::Cpu.open()?;
    let config = MmditConfig { grid_stored: false, ..MmditConfig::of_depth(24) };
    let model = Mmdit::new(&config, Params::new(&mut RandomParams, &device, precision));
    let weights = (model.num_params() - modulation_weights(&config)) as f64;
    let latent = random(1, [BATCH, 16, side / 8, side / 8], &device);
    let context = random(2, [BATCH, TEXT_TOKENS, config.context_width], &device);
    let pooled = random(3, [BATCH, config.pooled_width], &device);
    let text = model.embed_text(context, pooled);
    let timestep = from_f32(vec![500.0; BATCH], [1, BATCH], &device);
    let modulations = model.modulations(&text, timestep).remove(0);
    let forward = move || model.velocity(latent.clone(), &text, &modulations, &Perturbation::None, None);
    check(name, &forward())?;
    let operations = BATCH as f64 * NetworkConfig::Mmdit(config.clone()).operations((side / 16).pow(2), TEXT_TOKENS);
    // The latent comes and the velocity goes in f32, and the context comes.
    let tensors = 4 * BATCH * (2 * 16 * (side / 8).pow(2) + TEXT_TOKENS * config.context_width);
    Ok(Case {
        name: name.into(),
        work: Work { operations, bytes: weights * number_bytes(precision) + tensors as f64, limit: Limit::Arithmetic },
        run: Box::new(move || drop(std::hint::black_box(forward()))),
    })
}

/// What SD3-Medium's steps share: text and modulations of all noise levels, each weight read once.
fn mmdit_levels(name: &str, levels: usize, precision: Precision) -> anyhow::Result<Case> {
    const BATCH: usize = 2;
    let device = DeviceChoice::Cpu.open()?;
    let config = MmditConfig { grid_stored: false, ..MmditConfig::of_depth(24) };
    let model = Mmdit::new(&config, Params::new(&mut RandomParams, &device, precision));
    let context = random(2, [BATCH, TEXT_TOKENS, config.context_width], &device);
    let pooled = random(3, [BATCH, config.pooled_width], &device);
    let timesteps = random(4, [levels, BATCH], &device) * 300.0 + 500.0;
    let weights = modulation_weights(&config);
    let make = move || {
        let text = model.embed_text(context.clone(), pooled.clone());
        model.modulations(&text, timesteps.clone())
    };
    drop(make());
    // The weights are stored in bf16.
    let operations = 2.0 * (levels * BATCH * weights) as f64;
    let work = Work { operations, bytes: 2.0 * weights as f64, limit: Limit::Memory };
    Ok(Case { name: name.into(), work, run: Box::new(move || drop(std::hint::black_box(make()))) })
}

/// Numbers of the weights that make modulations.
fn modulation_weights(config: &MmditConfig) -> usize {
    config.modulation_bytes() / size_of::<f32>() * config.width
}

/// The released autoencoder's decoder.
fn vae_decode(name: &str, side: usize, precision: Precision) -> anyhow::Result<Case> {
    let device = DeviceChoice::Cpu.open()?;
    let config = VaeConfig::released();
    let products = config.decode_products([side / 8; 2]);
    // Convolutions are bf16 where linear layers are int8.
    let number = number_bytes(if precision == Precision::Int8 { Precision::Bf16 } else { precision });
    let tensors = 4 * (16 * (side / 8).pow(2) + 3 * side * side);
    let vae = Vae::new(&config, Params::new(&mut RandomParams, &device, precision));
    let latent = random(1, [1, 16, side / 8, side / 8], &device);
    let decode = move || vae.decode(latent.clone());
    check(name, &decode())?;
    Ok(Case {
        name: name.into(),
        work: Work {
            operations: products.operations,
            bytes: products.weights * number + tensors as f64,
            limit: Limit::Arithmetic,
        },
        run: Box::new(move || drop(std::hint::black_box(decode()))),
    })
}

/// Bytes of a weight as it is multiplied.
pub(super) fn number_bytes(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 4.0,
        Precision::Bf16 => 2.0,
        Precision::Int8 => 1.0,
    }
}

/// Layers of T5-XXL, for one text: each weight is read once and used for few tokens.
fn t5_encode(name: &str, tokens: usize, precision: Precision) -> anyhow::Result<Case> {
    let device = DeviceChoice::Cpu.open()?;
    let config = T5Config { layers: T5_LAYERS, vocabulary: 32_100, ..T5Config::xxl() };
    let (d, inner, mlp) = (config.width, config.heads * config.head_width, config.mlp);
    let weights = (config.layers * (4 * d * inner + 3 * d * mlp)) as f64;
    let encoder = T5Encoder::new(Params::new(&mut RandomParams, &device, precision).used_once(), &config);
    let ids: Vec<u32> = (0..tokens as u32).collect();
    let ids = from_ids(&ids, &device);
    let encode = move || encoder.forward(ids.clone());
    check(name, &encode())?;
    // Features come from a table and go, in f32.
    let tensors = (4 * 2 * tokens * d) as f64;
    // Scores and mixing are below a percent of the products with weights.
    let work = Work {
        operations: 2.0 * tokens as f64 * weights,
        bytes: weights * number_bytes(precision) + tensors,
        limit: Limit::Memory,
    };
    Ok(Case { name: name.into(), work, run: Box::new(move || drop(std::hint::black_box(encode()))) })
}
