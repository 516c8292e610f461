//! What leaving out blocks costs and saves, on a model of your own:
//!
//! ```text
//! cargo run --release -p rectiflow-generate --example step_cache -- MODEL [SIDE_PX] < prompts.txt
//! ```
//!
//! Draws each prompt of standard input (one a line) with 28 steps and guidance, without a cache and with each mode and
//! threshold, and prints a table. A velocity's error is measured where the cached drawing is: by how much what it said
//! differs from what all blocks say there, in parts of that. Time is of the steps alone.
//!
//! What this does not measure: whether the pictures are still what their prompts say.
#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::error::Error;
use std::io::BufRead;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use rectiflow_flow::Schedule;
use rectiflow_generate::{Compat, Image, ModelFiles, Parts, Unwatched};
use rectiflow_mmdit::{EmbeddedText, Forecast, Modulations, Perturbation, StepCache};
use rectiflow_nn::{DeviceChoice, Precision, Rng, Tensor, from_f32, to_f32};
use rectiflow_text::Conditioning;
use rectiflow_weights::ModelPaths;

const STEPS: NonZeroUsize = NonZeroUsize::new(28).expect("not zero");
const GUIDANCE: f32 = 4.5;
const SHIFT: f32 = 3.0;
const MODES: [(&str, Forecast); 2] = [("first-block", Forecast::Same), ("taylor", Forecast::Line)];
const THRESHOLDS: [f32; 5] = [0.05, 0.1, 0.15, 0.2, 0.3];

/// One drawing's steps.
struct Drawn {
    latent: Tensor<4>,
    took: Duration,
    left_out: usize,
    /// Of each step, where a cache was measured.
    errors: Vec<f64>,
}

/// What a drawing is told, at every noise level.
struct Told {
    text: EmbeddedText,
    levels: Vec<Modulations>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("give a model's folder or file")?;
    let side: usize = arguments.next().map_or(Ok(128), |side| side.parse())?;
    let prompts = std::io::stdin().lock().lines().collect::<Result<Vec<String>, _>>()?;
    if prompts.is_empty() {
        return Err("give prompts on standard input, one a line".into());
    }
    let files = ModelFiles::open(&ModelPaths { model: Some(model.into()), ..ModelPaths::default() })?;
    let parts = Parts::load(&files, DeviceChoice::Cpu, Precision::F32, Compat::Diffusers)?;
    let facts = files.facts();
    let schedule = Schedule::released(STEPS, facts.shift.unwrap_or(SHIFT))?;
    let t5_length = facts.t5_length.unwrap_or(256);
    let texts: Vec<&str> = prompts.iter().map(String::as_str).chain([""]).collect();
    let mut all = parts.text.conditionings(&texts, Compat::Diffusers, t5_length, &mut Unwatched)?;
    let negative = all.pop().expect("the empty text was the last");
    let told: Vec<Told> = all.iter().map(|prompt| told(&parts, &schedule, [prompt, &negative])).collect();
    let shape = [1, facts.latent_channels, side / facts.latent_px, side / facts.latent_px];

    // Once for what a first use takes.
    drop(draw(&parts, &schedule, &told[0], shape, 0, None));
    let plain: Vec<Drawn> =
        (0..).zip(&told).map(|(seed, told)| draw(&parts, &schedule, told, shape, seed, None)).collect();
    let pictures: Vec<Image> = plain.iter().map(|drawn| picture(&parts, &drawn.latent)).collect();
    let time = |drawn: &[Drawn]| drawn.iter().map(|one| one.took.as_secs_f64()).sum::<f64>();
    println!("| mode | threshold | steps left out | time | velocity error | PSNR |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (name, forecast) in MODES {
        for threshold in THRESHOLDS {
            let cached = |check: bool| -> Vec<Drawn> {
                let with = (0..).zip(&told).map(|(seed, told)| {
                    let cache = Some((StepCache::new(threshold, forecast), check));
                    draw(&parts, &schedule, told, shape, seed, cache)
                });
                with.collect()
            };
            let (timed, checked) = (cached(false), cached(true));
            let left_out = timed.iter().map(|one| one.left_out).sum::<usize>() as f64 / timed.len() as f64;
            let errors: Vec<f64> = checked.iter().flat_map(|one| one.errors.iter().copied()).collect();
            let error = errors.iter().sum::<f64>() / errors.len() as f64;
            let psnrs = timed.iter().zip(&pictures).map(|(one, whole)| psnr(&picture(&parts, &one.latent), whole));
            println!(
                "| {name} | {threshold} | {left_out:.1} of {STEPS} | {:.2} | {:.1} % | {:.1} dB |",
                time(&timed) / time(&plain),
                100.0 * error,
                psnrs.sum::<f64>() / timed.len() as f64
            );
        }
    }
    Ok(())
}

fn told(parts: &Parts, schedule: &Schedule, of: [&Conditioning; 2]) -> Told {
    let Conditioning { context, pooled } = Conditioning::stacked(of.into_iter());
    let text = parts.transformer.embed_text(context, pooled);
    let starts = schedule.starts();
    let timesteps = starts.iter().flat_map(|sigma| [sigma * 1000.0; 2]).collect();
    let levels = parts.transformer.modulations(&text, from_f32(timesteps, [starts.len(), 2], &parts.device));
    Told { text, levels }
}

/// Euler's steps. With a cache and `true`, each is computed in whole too, to compare.
fn draw(
    parts: &Parts,
    schedule: &Schedule,
    told: &Told,
    shape: [usize; 4],
    seed: u64,
    mut cache: Option<(StepCache, bool)>,
) -> Drawn {
    let noise = Rng::keyed(seed, "noise of a drawing", 0).normals(shape.iter().product());
    let mut latent = from_f32(noise, shape, &parts.device);
    let mut errors = Vec::new();
    let started = Instant::now();
    for (sigmas, level) in schedule.sigmas().windows(2).zip(&told.levels) {
        let velocity = |cache: Option<&mut StepCache>| {
            let both = latent.clone().repeat_dim(0, 2);
            let cache = cache.map(|cache| (cache, sigmas[0]));
            let both = parts.transformer.velocity(both, &told.text, level, &Perturbation::None, cache);
            let (prompt, negative) = (both.clone().narrow(0, 0, 1), both.narrow(0, 1, 1));
            negative.clone() + (prompt - negative) * GUIDANCE
        };
        let said = velocity(cache.as_mut().map(|(cache, _)| cache));
        if matches!(cache, Some((_, true))) {
            let whole = velocity(None);
            errors.push(length(&(said.clone() - whole.clone())) / length(&whole));
        }
        latent = latent + said * (sigmas[1] - sigmas[0]);
    }
    // So that all of it is computed.
    to_f32(&latent);
    let left_out = cache.map_or(0, |(cache, _)| cache.reused());
    Drawn { latent, took: started.elapsed(), left_out, errors }
}

fn length(x: &Tensor<4>) -> f64 {
    to_f32(x).iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

fn picture(parts: &Parts, latent: &Tensor<4>) -> Image {
    Image::from_decoded(&parts.vae.decode(latent.clone()), Compat::Diffusers.quantise())
}

/// Between pictures of one size, in dB; 99 for equal ones.
fn psnr(one: &Image, other: &Image) -> f64 {
    let squares = one.rgb.iter().zip(&other.rgb).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / one.rgb.len() as f64;
    if mean == 0.0 { 99.0 } else { 10.0 * (255.0 * 255.0 / mean).log10() }
}
