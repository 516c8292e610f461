//! Whole networks of the released sizes, with random weights: what a user waits for.

use anyhow::bail;
use rectiflow_mmdit::{Mmdit, MmditConfig};
use rectiflow_nn::{Device, DeviceChoice, Params, Precision, Tensor, from_f32, from_ids, is_finite};
use rectiflow_text::{T5Config, T5Encoder};
use rectiflow_vae::{Vae, VaeConfig};

use super::random::{RandomParams, numbers};
use super::{Case, Maker, Work};

/// Layers of T5-XXL that are measured, of 24: all would need 19 GB.
const T5_LAYERS: usize = 6;
/// CLIP's 77 tokens and T5's 256.
const TEXT_TOKENS: usize = 333;

pub(super) fn cases() -> Vec<Maker> {
    let maker = |name, make: fn(Precision) -> anyhow::Result<Case>| Maker { name, make: Box::new(make) };
    vec![
        maker("mmdit_step/512", |precision| mmdit_step("mmdit_step/512", 512, precision)),
        maker("mmdit_step/1024", |precision| mmdit_step("mmdit_step/1024", 1024, precision)),
        maker("vae_decode/512", |precision| vae_decode("vae_decode/512", 512, precision)),
        maker("vae_decode/1024", |precision| vae_decode("vae_decode/1024", 1024, precision)),
        maker("t5_encode/77/6-layers", |precision| t5_encode("t5_encode/77/6-layers", 77, precision)),
    ]
}

fn random<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
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
    let latent = random(1, [BATCH, 16, side / 8, side / 8], &device);
    let context = random(2, [BATCH, TEXT_TOKENS, config.context_width], &device);
    let pooled = random(3, [BATCH, config.pooled_width], &device);
    let timestep = from_f32(vec![500.0; BATCH], [BATCH], &device);
    let forward = move || model.forward(latent.clone(), timestep.clone(), context.clone(), pooled.clone());
    check(name, &forward())?;
    let operations = BATCH as f64 * mmdit_operations(&config, (side / 16).pow(2), TEXT_TOKENS);
    Ok(Case {
        name: name.into(),
        work: Work::Operations(operations),
        run: Box::new(move || drop(std::hint::black_box(forward()))),
    })
}

/// Products of one forward pass: queries, keys, values, their mixing, projection and MLP of both streams. What the
/// last block does not do for the text, and the embedders, are left out of account or below a percent.
fn mmdit_operations(config: &MmditConfig, image: usize, text: usize) -> f64 {
    let (d, s) = (config.width as f64, (image + text) as f64);
    let block = 24.0 * s * d * d + 4.0 * s * s * d;
    let text_after_last = text as f64 * 18.0 * d * d;
    config.depth as f64 * block - text_after_last + 2.0 * text as f64 * config.context_width as f64 * d
}

/// The released autoencoder's decoder.
fn vae_decode(name: &str, side: usize, precision: Precision) -> anyhow::Result<Case> {
    let device = DeviceChoice::Cpu.open()?;
    let config = VaeConfig::released();
    let operations = decoder_operations(&config, side / 8);
    let vae = Vae::new(&config, Params::new(&mut RandomParams, &device, precision));
    let latent = random(1, [1, 16, side / 8, side / 8], &device);
    let decode = move || vae.decode(latent.clone());
    check(name, &decode())?;
    Ok(Case {
        name: name.into(),
        work: Work::Operations(operations),
        run: Box::new(move || drop(std::hint::black_box(decode()))),
    })
}

/// Products of the decoder's convolutions and of its attention, for a latent of `side` x `side`.
fn decoder_operations(config: &VaeConfig, side: usize) -> f64 {
    let conv =
        |from: usize, to: usize, kernel: usize, side: usize| 2.0 * (from * to * kernel * kernel * side * side) as f64;
    let deepest = config.widths[config.widths.len() - 1];
    let tokens = (side * side) as f64;
    let middle = 4.0 * conv(deepest, deepest, 3, side)
        + 4.0 * conv(deepest, deepest, 1, side)
        + 4.0 * tokens * tokens * deepest as f64;
    let mut sum = conv(config.latent_channels, deepest, 3, side) + middle;
    let (mut width, mut side) = (deepest, side);
    for (level, &out) in config.widths.iter().enumerate().rev() {
        for _ in 0..=config.blocks {
            sum += conv(width, out, 3, side) + conv(out, out, 3, side);
            if width != out {
                sum += conv(width, out, 1, side);
            }
            width = out;
        }
        if level > 0 {
            side *= 2;
            sum += conv(width, width, 3, side);
        }
    }
    sum + conv(width, 3, 3, side)
}

/// Layers of T5-XXL, for one text: each weight is read once and used for few tokens.
fn t5_encode(name: &str, tokens: usize, precision: Precision) -> anyhow::Result<Case> {
    let device = DeviceChoice::Cpu.open()?;
    let config = T5Config { layers: T5_LAYERS, vocabulary: 32_100, ..T5Config::xxl() };
    let (d, inner, mlp) = (config.width, config.heads * config.head_width, config.mlp);
    let weights = (config.layers * (4 * d * inner + 3 * d * mlp)) as f64;
    let encoder = T5Encoder::new(Params::new(&mut RandomParams, &device, precision), &config);
    let ids: Vec<u32> = (0..tokens as u32).collect();
    let ids = from_ids(&ids, &device);
    let encode = move || encoder.forward(ids.clone());
    check(name, &encode())?;
    let bytes = match precision {
        Precision::F32 => 4.0,
        Precision::Bf16 => 2.0,
        Precision::Int8 => 1.0,
    };
    Ok(Case {
        name: name.into(),
        work: Work::Bytes(weights * bytes),
        run: Box::new(move || drop(std::hint::black_box(encode()))),
    })
}
