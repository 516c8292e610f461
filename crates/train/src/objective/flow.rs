//! Velocity networks: noise becomes pictures. One step of each of the paper's formulations.
//!
//! Shape letters: B samples, C channels, H and W latent pixels, T text tokens, D context width, P pooled width.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use rectiflow_dataset::Drawn;
use rectiflow_flow::{Formulation, Level};
use rectiflow_generate::{columns, sheet};
pub use rectiflow_mmdit::{FlowBatch, LOSS_BANDS, flow_gradients, flow_losses};
use rectiflow_mmdit::{Origin, Recompute, VelocityNetwork, asked, band_name, band_of, last_blocks};
use rectiflow_nn::ops::runs_on_kernels;
use rectiflow_nn::{Device, Module, Rng, from_f32, to_f32};
use rectiflow_text::{Conditioning, Keep};

use super::ahead::Ahead;
use super::{Objective, Problem, StepError, Values, not_finite, take_step, turned};
use crate::trainee::{StateError, Trainee};

pub mod data;
mod draw;

pub use data::FlowData;
pub use draw::Drawing;

/// What the objective does, as the plan has it.
#[derive(Clone, Copy, Debug)]
pub struct FlowSettings {
    /// Decides every draw.
    pub seed: u64,
    /// Samples of a step.
    pub batch: usize,
    /// Parts they go through the network in.
    pub accumulate: usize,
    /// How the network is trained.
    pub formulation: Formulation,
    /// Probability that an encoder is dropped: CLIP-L, CLIP-G, T5.
    pub dropout: [f64; 3],
    /// What gradients are shortened to.
    pub gradient_norm_max: Option<f64>,
    /// Blocks that are computed again on the way back.
    pub recompute: Recompute,
    /// Share of the parts whose window into the positional grid lies anywhere.
    pub position_crop: f64,
    /// Room that a window has to lie in: rows and columns of the grid.
    pub grid: usize,
    /// Latent pixels of a patch's side.
    pub patch: usize,
}

/// Writes a network that was trained on these data as a model into a folder.
pub type Export = Box<dyn Fn(&VelocityNetwork, &FlowData, &Path) -> Result<(), Problem>>;

/// A velocity network in training.
pub struct Flow {
    trainee: Trainee<VelocityNetwork>,
    maker: Arc<BatchMaker>,
    drawing: Option<Drawing>,
    export: Export,
    /// Draws differ between turns.
    turn: u64,
    /// The part after the one that was taken last, on its way.
    ahead: Ahead<PartOf, Result<(FlowBatch, usize), Problem>>,
}

impl Flow {
    /// Of a network on `device`, which tracks gradients. `export` writes a trained network as a model.
    pub fn new(
        settings: FlowSettings,
        trainee: Trainee<VelocityNetwork>,
        data: FlowData,
        drawing: Option<Drawing>,
        device: Device,
        export: Export,
    ) -> Flow {
        // Where the network is computed by what makes its batches, one waits for the other anyway.
        let ahead = if runs_on_kernels(&device.clone().inner()) { Ahead::never() } else { Ahead::by_one() };
        let maker = Arc::new(BatchMaker { settings, data });
        Flow { trainee, maker, drawing, export, turn: 0, ahead }
    }

    /// What the attentions look at, in one batch that is kept for validation, half noise: the numbers of the paper's
    /// figure 5.
    fn probe(&self, network: &VelocityNetwork, values: &mut Values) -> Result<(), Problem> {
        let Some(drawn) = self.maker.data.validation(self.maker.settings.batch / self.maker.settings.accumulate).next()
        else {
            return Ok(());
        };
        let (inputs, _) = asked(self.validation_batch(&drawn, 0.5)?, Origin::Centre);
        if let Some([logit_max, entropy]) = last_blocks(&network.probe(inputs)) {
            values.insert("attention/logit_max".to_owned(), logit_max.into());
            values.insert("attention/entropy".to_owned(), entropy.into());
        }
        Ok(())
    }

    /// Samples that are kept for validation, always with the same noise.
    fn validation_batch(&self, drawn: &[Drawn], sigma: f64) -> Result<FlowBatch, Problem> {
        let examples = self.maker.data.examples(drawn)?;
        let Conditioning { context, pooled } =
            self.maker.data.conditioning(&examples.texts, &vec![Keep::ALL; drawn.len()])?;
        let shape = examples.latents_BCHW.dims();
        let size = shape[1..].iter().product();
        let noise = |one: &Drawn| Rng::keyed(self.maker.settings.seed, "validation noise", one.sample).normals(size);
        Ok(FlowBatch {
            noise_BCHW: from_f32(drawn.iter().flat_map(noise).collect(), shape, &examples.latents_BCHW.device()),
            latents_BCHW: examples.latents_BCHW,
            levels: vec![self.maker.settings.formulation.level(sigma); drawn.len()],
            context_BTD: context,
            pooled_BP: pooled,
        })
    }

    /// The mean loss at one level of every sample that is kept for validation.
    fn losses_at(&self, network: &VelocityNetwork, sigma: f64) -> Result<f64, Problem> {
        let (mut sum, mut count) = (0.0, 0);
        for drawn in self.maker.data.validation(self.maker.settings.batch / self.maker.settings.accumulate) {
            let batch = self.validation_batch(&drawn, sigma)?;
            sum += to_f32(&flow_losses(network, batch)).into_iter().map(f64::from).sum::<f64>();
            count += drawn.len();
        }
        Ok(sum / count as f64)
    }
}

/// What makes the batches of a run.
struct BatchMaker {
    settings: FlowSettings,
    data: FlowData,
}

/// A part of a step, which goes through the network at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PartOf {
    step: u64,
    turn: u64,
    part: usize,
}

impl BatchMaker {
    /// Samples of a part.
    fn part_len(&self) -> usize {
        self.settings.batch / self.settings.accumulate
    }

    /// Draws of a turn: of no other.
    fn rng(&self, turn: u64, purpose: &str, number: u64) -> Rng {
        Rng::keyed(turned(self.settings.seed, turn), purpose, number)
    }

    /// The first sample of a part, among all that the run sees.
    fn place(&self, of: PartOf) -> u64 {
        of.step * self.settings.batch as u64 + (of.part * self.part_len()) as u64
    }

    /// The part after this one.
    fn next(&self, of: PartOf) -> PartOf {
        let PartOf { step, turn, part } = of;
        if part + 1 < self.settings.accumulate {
            PartOf { step, turn, part: part + 1 }
        } else {
            PartOf { step: step + 1, turn, part: 0 }
        }
    }

    /// The noise level of the sample at `place` among all that the run sees.
    fn level(&self, turn: u64, place: u64) -> Level {
        let formulation = self.settings.formulation;
        formulation.level(formulation.quantile(self.rng(turn, "noise level", place).uniform()))
    }

    /// Samples and all that is drawn for them, without gradients. Returns also how many captions were cut.
    fn batch(&self, of: PartOf) -> Result<(FlowBatch, usize), Problem> {
        let drawn = self.data.drawn(of.step, of.turn);
        let drawn = &drawn[of.part * self.part_len()..][..self.part_len()];
        let examples = self.data.examples(drawn)?;
        let first = self.place(of);
        let places: Vec<u64> = (first..first + drawn.len() as u64).collect();
        let seed = turned(self.settings.seed, of.turn);
        let keep: Vec<Keep> = places.iter().map(|place| Keep::drawn(self.settings.dropout, seed, *place)).collect();
        let Conditioning { context, pooled } = self.data.conditioning(&examples.texts, &keep)?;
        let shape = examples.latents_BCHW.dims();
        let count = shape[1..].iter().product();
        let mut noise = vec![0.0; drawn.len() * count];
        noise.par_chunks_mut(count).zip(&places).for_each(|(noise, place)| {
            noise.copy_from_slice(&self.rng(of.turn, "noise", *place).normals(count));
        });
        let batch = FlowBatch {
            noise_BCHW: from_f32(noise, shape, &examples.latents_BCHW.device()),
            latents_BCHW: examples.latents_BCHW,
            levels: places.iter().map(|place| self.level(of.turn, *place)).collect(),
            context_BTD: context,
            pooled_BP: pooled,
        };
        Ok((batch, examples.cut))
    }

    /// Where in the positional grid a part's pictures lie.
    fn origin(&self, batch: &FlowBatch, of: PartOf) -> Origin {
        let mut rng = self.rng(of.turn, "position", self.place(of));
        if rng.uniform() >= self.settings.position_crop {
            return Origin::Centre;
        }
        let [.., height, width] = batch.latents_BCHW.dims();
        let corner = |side: usize| (self.settings.grid - side / self.settings.patch + 1) as u64;
        Origin::At([height, width].map(|side| rng.below(corner(side)) as usize))
    }
}

impl Objective for Flow {
    fn step(&mut self, step: u64, learning_rate: f64) -> Result<Values, StepError> {
        let FlowSettings { accumulate, gradient_norm_max, recompute, .. } = self.maker.settings;
        let (mut values, mut cut) = (Bands::default(), 0);
        for part in 0..accumulate {
            let part = PartOf { step, turn: self.turn, part };
            let made = self.ahead.take(part, || self.maker.batch(part));
            let (next, maker) = (self.maker.next(part), Arc::clone(&self.maker));
            self.ahead.begin(next, move || maker.batch(next));
            let batch = match made {
                Ok((batch, cut_here)) => {
                    cut += cut_here;
                    batch.tracked()
                }
                Err(problem) => {
                    self.trainee.forget();
                    return Err(StepError::Failed(problem));
                }
            };
            let sigmas: Vec<f64> = batch.levels.iter().map(|level| level.sigma).collect();
            let origin = self.maker.origin(&batch, part);
            let (inputs, asked) = asked(batch, origin);
            let (_, gradients) = self.trainee.module().gradients(inputs, recompute, |found_BCHW| {
                let losses = asked.losses(found_BCHW);
                values.add(&sigmas, &to_f32(&losses));
                losses.mean()
            });
            self.trainee.add_gathered(gradients);
        }
        let mut values = values.means();
        take_step(&mut self.trainee, learning_rate, gradient_norm_max, &mut values).map_err(|what| {
            let drawn = self.maker.data.drawn(step, self.turn);
            not_finite(what, &drawn, |sample| self.maker.data.id(sample))
        })?;
        if cut > 0 {
            values.insert("captions_cut".to_owned(), cut as f64);
        }
        Ok(values)
    }

    fn data_digest(&self) -> String {
        self.maker.data.digest()
    }

    fn validate(&mut self) -> Result<Values, Problem> {
        if self.maker.data.validation_len() == 0 {
            return Ok(Values::new());
        }
        let network = self.trainee.averaged().valid();
        let mut values = Values::new();
        let mut sum = 0.0;
        for band in 1..=LOSS_BANDS {
            let loss = self.losses_at(&network, band as f64 / LOSS_BANDS as f64)?;
            values.insert(band_name(band), loss);
            sum += if band < LOSS_BANDS { loss } else { 0.0 };
        }
        values.insert("loss".to_owned(), sum / (LOSS_BANDS - 1) as f64);
        self.probe(&network, &mut values)?;
        Ok(values)
    }

    fn samples(&mut self) -> Result<Option<rectiflow_generate::Image>, Problem> {
        let Some(drawing) = &self.drawing else { return Ok(None) };
        let network = self.trainee.averaged().valid();
        let pictures = drawing.draw(&network, self.maker.settings.formulation, &self.maker.data)?;
        Ok(Some(sheet(&pictures, columns(pictures.len()))))
    }

    fn save(&self, folder: &Path) -> Result<(), StateError> {
        self.trainee.save(folder)
    }

    fn load(&mut self, folder: &Path, step: u64) -> Result<(), StateError> {
        self.trainee.load(folder, step)
    }

    fn turn(&mut self, turn: u64) {
        self.turn = turn;
    }

    fn export(&self, folder: &Path) -> Result<(), Problem> {
        (self.export)(&self.trainee.averaged().valid(), &self.maker.data, folder)
    }
}

/// Losses of a step, all together and by noise level.
#[derive(Default)]
struct Bands {
    all: (f64, usize),
    bands: [(f64, usize); LOSS_BANDS + 1],
}

impl Bands {
    fn add(&mut self, sigmas: &[f64], losses: &[f32]) {
        for (sigma, loss) in sigmas.iter().zip(losses) {
            for (sum, count) in [&mut self.all, &mut self.bands[band_of(*sigma)]] {
                *sum += f64::from(*loss);
                *count += 1;
            }
        }
    }

    fn means(self) -> Values {
        let bands = self.bands.into_iter().enumerate().map(|(band, sums)| (band_name(band), sums));
        let all = bands.chain([("loss".to_owned(), self.all)]);
        all.filter(|(_, (_, count))| *count > 0).map(|(name, (sum, count))| (name, sum / count as f64)).collect()
    }
}
