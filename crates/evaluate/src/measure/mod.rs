//! The parts of an evaluation: each takes pictures and gives figures.

pub(crate) mod clip;
pub(crate) mod distance;
pub(crate) mod loss;
pub(crate) mod reconstruction;
pub(crate) mod spelling;
pub(crate) mod tasks;

use rectiflow_dataset::sprites::{Scene, Scenes};
use rectiflow_generate::{Image, Quantise, to_network};
use rectiflow_nn::{Device, Tensor, is_finite};
use rectiflow_vae::Vae;

use crate::EvaluateError;
use crate::gallery::Gallery;
use crate::prompts::{Prompt, Prompts};

/// Scenes or pictures that go through a network at once.
pub(crate) const AT_ONCE: usize = 16;

/// What all parts have in common.
pub(crate) struct Ground<'a> {
    pub(crate) prompts: &'a Prompts,
    pub(crate) gallery: &'a Gallery,
    pub(crate) scenes: &'a Scenes,
    pub(crate) side_px: usize,
    /// Pictures of each prompt.
    pub(crate) seeds: usize,
    /// Real scenes, where those alone are measured.
    pub(crate) scenes_max: usize,
    pub(crate) device: &'a Device,
}

impl Ground<'_> {
    /// A prompt's drawn pictures.
    pub(crate) fn drawn(&self, prompt: &Prompt) -> Result<Vec<Image>, EvaluateError> {
        (0..self.seeds).map(|place| self.gallery.picture(prompt, place, self.side_px)).collect()
    }

    /// A scene as it is.
    pub(crate) fn real(&self, scene: &Scene) -> Result<Image, EvaluateError> {
        let picture = self.scenes.draw(scene, self.side_px as u32)?;
        Ok(Image { width: self.side_px, height: self.side_px, rgb: picture.into_raw() })
    }

    /// The first held-out scenes, `most` at most.
    pub(crate) fn held_out(&self, most: usize) -> Vec<Scene> {
        (0..self.scenes_max.min(most) as u64).map(|number| self.scenes.scene(number)).collect()
    }

    /// As networks see them, `[B, 3, H, W]` in -1..1.
    pub(crate) fn tensor(&self, pictures: &[Image]) -> Tensor<4> {
        let bytes: Vec<&[u8]> = pictures.iter().map(|picture| &picture.rgb[..]).collect();
        to_network(&bytes, [self.side_px; 2], self.device)
    }

    /// What an autoencoder makes of pictures: of the posterior's mean.
    pub(crate) fn reconstructed(&self, vae: &Vae, pictures: &[Image]) -> Result<Vec<Image>, EvaluateError> {
        let latents = vae.normalise(vae.encode(self.tensor(pictures)).mean);
        let decoded = vae.decode(latents);
        if !is_finite(&decoded) {
            return Err(EvaluateError::NotFinite { what: "a picture that the autoencoder decoded" });
        }
        let each = decoded.chunk(pictures.len(), 0).into_iter();
        Ok(each.map(|picture| Image::from_decoded(&picture, Quantise::Round)).collect())
    }

    /// For each of these prompts another one that asks something else: the next such, and so on round.
    pub(crate) fn others<'p>(prompts: &[&'p Prompt]) -> Vec<Option<&'p Prompt>> {
        let count = prompts.len();
        let other = |at: usize| {
            let next = (1..count).map(|by| prompts[(at + by) % count]);
            next.into_iter().find(|other| !other.asks_as(prompts[at]))
        };
        (0..count).map(other).collect()
    }
}
