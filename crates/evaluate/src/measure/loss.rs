//! The validation loss of the transformer on held-out scenes, at eight noise levels, always with the same noise.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use rectiflow_flow::Formulation;
use rectiflow_mmdit::{FlowBatch, LOSS_BANDS, Origin, asked};
use rectiflow_nn::{Rng, from_f32, is_finite, to_f32};
use rectiflow_text::Conditioning;

use super::Ground;
use crate::EvaluateError;
use crate::artist::Artist;
use crate::make::SCENE_SEED;
use crate::results::{Figure, Of, Part, Unit, mean_of};
use crate::watch::{Watch, go_on};

/// Scenes that it is of.
const SCENES: usize = 256;
/// Scenes that go through at once, at one noise level.
const AT_ONCE: usize = 8;

/// `formulation`: how the model was trained.
pub(crate) fn measure(
    ground: &Ground<'_>,
    artist: &Artist,
    formulation: Formulation,
    watch: &mut dyn Watch,
) -> Result<Vec<Figure>, EvaluateError> {
    let scenes = ground.held_out(SCENES);
    let parts = artist.parts();
    let mut losses: Vec<Vec<f64>> = vec![Vec::new(); LOSS_BANDS];
    let steps = scenes.len().div_ceil(AT_ONCE) * LOSS_BANDS;
    let mut done = 0;
    for some in scenes.chunks(AT_ONCE) {
        let captions: Vec<&str> = some.iter().map(|scene| &scene.caption[..]).collect();
        let told = Conditioning::stacked(artist.told(&captions, watch)?.iter());
        let pictures = some.iter().map(|scene| ground.real(scene)).collect::<Result<Vec<_>, _>>()?;
        let latents_BCHW = parts.vae.normalise(parts.vae.encode(ground.tensor(&pictures)).mean);
        if !is_finite(&latents_BCHW) {
            return Err(EvaluateError::NotFinite { what: "a latent" });
        }
        let shape = latents_BCHW.dims();
        let size = shape[1..].iter().product();
        let noise = some.iter().flat_map(|scene| Rng::keyed(SCENE_SEED, "loss noise", scene.number).normals(size));
        let noise_BCHW = from_f32(noise.collect(), shape, &parts.device);
        for (band, losses) in (1..=LOSS_BANDS).zip(&mut losses) {
            go_on(watch)?;
            let level = formulation.level(band as f64 / LOSS_BANDS as f64);
            let batch = FlowBatch {
                latents_BCHW: latents_BCHW.clone(),
                noise_BCHW: noise_BCHW.clone(),
                levels: vec![level; some.len()],
                context_BTD: told.context.clone(),
                pooled_BP: told.pooled.clone(),
            };
            let (inputs, asked) = asked(batch, Origin::Centre);
            let said =
                parts.transformer.forward(inputs.latent_BCHW, inputs.timestep_B, inputs.context_BTC, inputs.pooled_BP);
            let found = to_f32(&asked.losses(said));
            if found.iter().any(|loss| !loss.is_finite()) {
                return Err(EvaluateError::NotFinite { what: "a loss" });
            }
            losses.extend(found.into_iter().map(f64::from));
            done += 1;
            watch.step(done, steps);
        }
    }
    let figure = |name: &str, values: &[f64]| mean_of(values, Part::Loss, name, Of::Model, Unit::Number);
    // As in training: all levels but the last.
    let mean = |scene: usize| {
        let levels = &losses[..LOSS_BANDS - 1];
        levels.iter().map(|level| level[scene]).sum::<f64>() / levels.len() as f64
    };
    let means: Vec<f64> = (0..scenes.len()).map(mean).collect();
    let mut figures = vec![figure("mean of the levels below 1", &means)];
    figures.extend(
        (1..)
            .zip(&losses)
            .map(|(band, values)| figure(&format!("sigma {:.3}", f64::from(band) / LOSS_BANDS as f64), values)),
    );
    Ok(figures)
}
