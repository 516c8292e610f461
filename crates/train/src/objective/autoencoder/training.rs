//! The objective: steps of the autoencoder and of its critic, what is measured of them, and the model at the end.
//!
//! Shape letters: B pictures, Z latent channels, H and W pixels, h and w latent pixels.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::path::Path;

use rectiflow_dataset::Drawn;
use rectiflow_generate::{Image, Quantise, sheet};
use rectiflow_nn::{Device, Module, Rng, Tensor, from_f32, to_f32};
use rectiflow_vae::{LatentStatistics, Posterior, Vae, VaeConfig};
use rectiflow_vision::{PatchGan, PerceptualDistance};

use super::{
    AutoencoderBatch, AutoencoderParts, AutoencoderWeights, Judges, ReconstructionVariance, autoencoder_loss,
    critic_loss,
};
use crate::objective::pictures::PictureData;
use crate::objective::{Objective, Problem, StepError, Values, not_finite, turned};
use crate::recipe::TrainedParts;
use crate::trainee::{StateError, Trainee};

/// Pictures whose latents tell mean and deviation. With SD3's sizes at 256 px that is 32 million numbers.
const STATISTICS_PICTURES: usize = 2000;

/// Pictures of a sheet, each beside what was made of it.
const SHEET_PICTURES: usize = 16;
/// Pictures and their likes in a row of a sheet.
const SHEET_COLUMNS: usize = 8;

/// What learns of the autoencoder's loss.
#[derive(Module, Debug)]
pub struct AutoencoderNetwork {
    /// The autoencoder.
    pub vae: Vae,
    /// Weighs its reconstruction.
    pub variance: ReconstructionVariance,
}

/// What the objective does, as the plan has it.
#[derive(Clone, Copy, Debug)]
pub struct AutoencoderSettings {
    /// Decides every draw.
    pub seed: u64,
    /// Pictures of a step.
    pub batch: usize,
    /// Parts they go through the network in.
    pub accumulate: usize,
    /// Of the parts of the loss.
    pub weights: AutoencoderWeights,
    /// The first step, counted from 0, that has a critic.
    pub critic_from: u64,
    /// What gradients are shortened to, of the autoencoder and of the critic each.
    pub gradient_norm_max: Option<f64>,
    /// What learns.
    pub trains: TrainedParts,
}

/// Writes a trained autoencoder as a model into a folder; its latents' mean and deviation are those of the sizes.
pub type Export = Box<dyn Fn(&Vae, &VaeConfig, &Path) -> Result<(), Problem>>;

/// All latents of the data are the same number, or not finite: nothing makes their deviation 1.
#[derive(Debug, thiserror::Error)]
#[error(
    "the latents of the data have no deviation, so no scale fits them\nhint: train longer, or with a lower kl_weight"
)]
pub struct NoDeviation;

/// An autoencoder in training.
pub struct Autoencoder {
    settings: AutoencoderSettings,
    network: Trainee<AutoencoderNetwork>,
    critic: Option<Trainee<PatchGan>>,
    /// None: the perceptual distance counts for nothing.
    perceptual: Option<PerceptualDistance>,
    data: PictureData,
    export: Export,
    device: Device,
    /// Draws differ between turns.
    turn: u64,
}

impl Autoencoder {
    /// Of networks on `device`, which tracks gradients. `export` writes the trained one as a model.
    pub fn new(
        settings: AutoencoderSettings,
        network: Trainee<AutoencoderNetwork>,
        critic: Option<Trainee<PatchGan>>,
        perceptual: Option<PerceptualDistance>,
        data: PictureData,
        device: Device,
        export: Export,
    ) -> Autoencoder {
        Autoencoder { settings, network, critic, perceptual, data, export, device, turn: 0 }
    }

    /// Pictures of a part, and the noise of each place among all that the run sees. `place`: of the first.
    fn batch(&self, drawn: &[Drawn], place: u64) -> Result<AutoencoderBatch, Problem> {
        let pictures_B3HW = self.data.pictures(drawn, &self.device)?;
        let seed = turned(self.settings.seed, self.turn);
        let places = place..place + drawn.len() as u64;
        let noise_BZhw = self.noise(&pictures_B3HW, places.map(|place| Rng::keyed(seed, "posterior noise", place)));
        Ok(AutoencoderBatch { pictures_B3HW, noise_BZhw })
    }

    /// Standard normal noise for the latents of pictures, of one generator for each.
    fn noise(&self, pictures_B3HW: &Tensor<4>, each: impl Iterator<Item = Rng>) -> Tensor<4> {
        let config = self.network.module().vae.config();
        let [pictures, _, height, width] = pictures_B3HW.dims();
        let side = config.downsampling();
        let shape = [pictures, config.latent_channels, height / side, width / side];
        let count = shape[1..].iter().product();
        from_f32(each.flat_map(|mut rng| rng.normals(count)).collect(), shape, &pictures_B3HW.device())
    }

    /// The critic, once it has begun.
    fn critic_at(&self, step: u64) -> Option<&Trainee<PatchGan>> {
        self.critic.as_ref().filter(|_| step >= self.settings.critic_from)
    }

    /// Adds the gradients of one part of a step.
    fn add_part(&mut self, step: u64, batch: AutoencoderBatch, values: &mut Means) {
        let [_, channels, height, width] = batch.pictures_B3HW.dims();
        // Sums over a picture are divided by its numbers here, so that gradients of all sizes of pictures are alike.
        let numbers = (channels * height * width) as f64;
        let critic = self.critic_at(step).map(Trainee::module);
        let judges = Judges { perceptual: self.perceptual.as_ref(), critic };
        let AutoencoderNetwork { vae, variance } = self.network.module();
        let pictures_B3HW = batch.pictures_B3HW.clone();
        let loss = autoencoder_loss(vae, variance, judges, self.settings.weights, self.settings.trains, batch);
        values.add_parts(&loss.parts, numbers);
        self.network.add((loss.slope / numbers).backward());
        if step >= self.settings.critic_from
            && let Some(critic) = &mut self.critic
        {
            let loss = critic_loss(critic.module(), pictures_B3HW, loss.made_B3HW);
            values.add("critic", to_f32(&loss)[0].into());
            critic.add(loss.backward());
        }
    }

    /// Takes the step of all gradients that were added: of both networks, or of none. An error names what is not
    /// finite.
    fn take_step(&mut self, step: u64, learning_rate: f64, values: &mut Values) -> Result<(), String> {
        let norm_max = self.settings.gradient_norm_max;
        let named = |error: crate::optimizer::NotFinite| format!("the gradient of {}", error.name);
        let critic = self.critic.as_mut().filter(|_| step >= self.settings.critic_from);
        let for_critic = match critic {
            Some(critic) => match critic.gathered() {
                Ok(gradients) => Some((critic, gradients)),
                Err(error) => {
                    self.network.forget();
                    return Err(named(error));
                }
            },
            None => None,
        };
        values.insert("gradient_norm".to_owned(), self.network.step(learning_rate, norm_max).map_err(named)?);
        if let Some((critic, gradients)) = for_critic {
            let norm = critic.step_with(gradients, learning_rate, norm_max);
            values.insert("critic_gradient_norm".to_owned(), norm);
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.network.forget();
        self.critic.iter_mut().for_each(Trainee::forget);
    }

    /// Pictures that are kept for validation, without gradients.
    fn validation(&self) -> impl Iterator<Item = Result<Tensor<4>, Problem>> + '_ {
        let device = self.device.clone().inner();
        let batches = self.data.validation(self.settings.batch / self.settings.accumulate);
        batches.map(move |drawn| self.data.pictures(&drawn, &device))
    }
}

/// What the decoder makes of the posterior's mean, `[B, 3, H, W]`.
fn made(vae: &Vae, posterior: &Posterior) -> Tensor<4> {
    vae.finish(vae.decode_to_last(posterior.mean.clone()))
}

/// The peak signal-to-noise ratio of each picture in dB, for values in -1..1: `10 log10(2^2 / mean square)`. What was
/// made is clipped to that range first, as in a file.
fn psnr(pictures_B3HW: Tensor<4>, made_B3HW: Tensor<4>) -> Vec<f64> {
    let square_B1 = (pictures_B3HW - made_B3HW.clamp(-1.0, 1.0)).square().flatten::<2>(1, 3).mean_dim(1);
    // Bytes differ by 1/255 at least: an equal picture gets what half of that would give, and not infinity.
    const SMALLEST: f64 = (1.0 / 255.0) * (1.0 / 255.0);
    to_f32(&square_B1).into_iter().map(|square| 10.0 * (4.0 / f64::from(square).max(SMALLEST)).log10()).collect()
}

impl Objective for Autoencoder {
    fn step(&mut self, step: u64, learning_rate: f64) -> Result<Values, StepError> {
        let AutoencoderSettings { batch, accumulate, .. } = self.settings;
        let drawn = self.data.drawn(step, self.turn);
        let mut means = Means::default();
        for (part, drawn) in drawn.chunks(batch / accumulate).enumerate() {
            let place = step * batch as u64 + (part * (batch / accumulate)) as u64;
            match self.batch(drawn, place) {
                Ok(batch) => self.add_part(step, batch, &mut means),
                Err(problem) => {
                    self.forget();
                    return Err(StepError::Failed(problem));
                }
            }
        }
        let mut values = means.values();
        if let Some((name, _)) = values.iter().find(|(_, value)| !value.is_finite()) {
            let what = format!("the part \"{name}\" of the loss");
            self.forget();
            return Err(not_finite(what, &drawn, |sample| self.data.id(sample)));
        }
        self.take_step(step, learning_rate, &mut values)
            .map_err(|what| not_finite(what, &drawn, |sample| self.data.id(sample)))?;
        values.insert("learning_rate".to_owned(), learning_rate);
        Ok(values)
    }

    fn data_digest(&self) -> String {
        self.data.digest()
    }

    fn validate(&mut self) -> Result<Values, Problem> {
        let vae = self.network.averaged().valid().vae;
        let perceptual = self.perceptual.clone().map(|perceptual| perceptual.valid());
        let mut means = Means::default();
        for pictures_B3HW in self.validation() {
            let pictures_B3HW = pictures_B3HW?;
            let posterior = vae.encode(pictures_B3HW.clone());
            let made_B3HW = made(&vae, &posterior);
            let absolute_B1 = (pictures_B3HW.clone() - made_B3HW.clone()).abs().flatten::<2>(1, 3).mean_dim(1);
            means.add_all("absolute", to_f32(&absolute_B1));
            means.add_all("kl", to_f32(&posterior.divergence()));
            if let Some(perceptual) = &perceptual {
                let apart_B = perceptual.between(pictures_B3HW.clone(), made_B3HW.clone());
                means.add_all("perceptual", to_f32(&apart_B));
            }
            psnr(pictures_B3HW, made_B3HW).into_iter().for_each(|decibels| means.add("psnr", decibels));
        }
        let mut values = means.values();
        if let Some(absolute) = values.get("absolute") {
            let perceptual = values.get("perceptual").map_or(0.0, |apart| self.settings.weights.perceptual * apart);
            values.insert("loss".to_owned(), absolute + perceptual);
        }
        Ok(values)
    }

    fn samples(&mut self) -> Result<Option<Image>, Problem> {
        let Some(drawn) = self.data.validation(SHEET_PICTURES).next() else { return Ok(None) };
        let vae = self.network.averaged().valid().vae;
        let pictures_B3HW = self.data.pictures(&drawn, &self.device.clone().inner())?;
        let made_B3HW = made(&vae, &vae.encode(pictures_B3HW.clone()));
        let tiles = |x_B3HW: Tensor<4>| {
            let count = x_B3HW.dims()[0];
            x_B3HW.chunk(count, 0).into_iter().map(|one| Image::from_decoded(&one, Quantise::Round))
        };
        let pairs: Vec<Image> =
            tiles(pictures_B3HW).zip(tiles(made_B3HW)).flat_map(|(one, made)| [one, made]).collect();
        Ok(Some(sheet(&pairs, SHEET_COLUMNS)))
    }

    fn save(&self, folder: &Path) -> Result<(), StateError> {
        self.network.save(folder)?;
        self.critic.iter().try_for_each(|critic| critic.save(folder))
    }

    fn load(&mut self, folder: &Path, step: u64) -> Result<(), StateError> {
        // The critic first: its file is missing where the run has none, and then nothing is changed.
        if let Some(critic) = &mut self.critic {
            critic.load(folder, step.saturating_sub(self.settings.critic_from))?;
        }
        self.network.load(folder, step)
    }

    fn turn(&mut self, turn: u64) {
        self.turn = turn;
    }

    /// With the latents' mean and deviation over the data, so that a transformer sees mean 0 and deviation 1. Where they
    /// stay as they are, so do those.
    fn export(&self, folder: &Path) -> Result<(), Problem> {
        let vae = self.network.averaged().valid().vae;
        if self.settings.trains == TrainedParts::Decoder {
            return (self.export)(&vae, vae.config(), folder);
        }
        let device = self.device.clone().inner();
        let mut statistics = LatentStatistics::new(vae.config().latent_channels);
        for drawn in self.data.some(STATISTICS_PICTURES, self.settings.batch / self.settings.accumulate) {
            let pictures_B3HW = self.data.pictures(&drawn, &device)?;
            let seed = self.settings.seed;
            let each = drawn.iter().map(|one| Rng::keyed(seed, "statistics noise", one.sample));
            let noise_BZhw = self.noise(&pictures_B3HW, each);
            statistics.add(&vae.encode(pictures_B3HW).sample(noise_BZhw));
        }
        let [latent_offset, latent_scale] = statistics.normalisation().ok_or(NoDeviation)?;
        let config = VaeConfig { latent_offset, latent_scale, ..vae.config().clone() };
        (self.export)(&vae, &config, folder)
    }
}

/// Means by name.
#[derive(Default)]
struct Means(std::collections::BTreeMap<&'static str, (f64, u64)>);

impl Means {
    fn add(&mut self, name: &'static str, value: f64) {
        let (sum, count) = self.0.entry(name).or_default();
        *sum += value;
        *count += 1;
    }

    fn add_all(&mut self, name: &'static str, values: Vec<f32>) {
        values.into_iter().for_each(|value| self.add(name, value.into()));
    }

    /// `numbers`: of a picture.
    fn add_parts(&mut self, parts: &AutoencoderParts, numbers: f64) {
        self.add("loss", f64::from(parts.total) / numbers);
        self.add("absolute", parts.absolute.into());
        self.add("perceptual", parts.perceptual.into());
        self.add("kl", parts.divergence.into());
        self.add("log_variance", parts.log_variance.into());
        if let Some(critic) = parts.critic {
            self.add("adversarial", critic.loss.into());
        }
    }

    fn values(self) -> Values {
        self.0.into_iter().map(|(name, (sum, count))| (name.to_owned(), sum / count as f64)).collect()
    }
}
