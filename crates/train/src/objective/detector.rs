//! A detector of the things in sprite scenes, by which pictures that a model drew can be judged.
//!
//! ```text
//! scene -> picture, a little softer and in a little other light -> view -> cells -> losses at centres and of centres
//! ```
//!
//! Pictures that a model draws are softer than scenes and have other faults, so in training pictures are softened; in
//! validation they are as they are drawn. What validation says beside its loss is how often a scene is judged right that
//! is right: the best that a judge of drawn pictures can be hoped to do.
//!
//! What this module does not do: build the network, or judge anything but scenes.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use rectiflow_dataset::{DatasetError, Drawn, Source, Sprites};
use rectiflow_nn::{Device, Module, Precision};
use rectiflow_vision::detector::{Eyes, View};
use rectiflow_vision::judge::{Asked, Task};
use rectiflow_vision::{DetectorConfig, DetectorNetwork};

use super::split::Split;
use super::{Objective, Problem, StepError, Values, not_finite, take_step};
use crate::encode::batch_of;
use crate::trainee::{StateError, Trainee};

mod loss;
mod scenes;
mod soften;

pub use loss::{DetectorLoss, DetectorParts, detector_loss};
pub use scenes::{Names, Thing, UnknownThing};

use soften::softened;

/// Scenes of a run, in their order.
pub struct SceneData {
    sprites: Sprites,
    names: Names,
    split: Split,
    seed: u64,
}

/// Scenes that were drawn.
struct Pictures {
    /// The pictures, and what is seen in them.
    view: View,
    /// What is in each.
    things: Vec<Vec<Thing>>,
    /// What each could have been asked for.
    asked: Vec<Vec<Asked>>,
}

impl SceneData {
    /// Batches of `batch` scenes; `apart` of them are never trained on, or a tenth of all if that is fewer.
    ///
    /// # Errors
    /// There are fewer scenes than a batch.
    pub fn new(
        sprites: Sprites,
        config: &DetectorConfig,
        batch: usize,
        apart: usize,
        seed: u64,
    ) -> Result<SceneData, DatasetError> {
        let split = Split::new(vec![(0..sprites.count()).collect()], batch, apart, seed)?;
        Ok(SceneData { sprites, names: Names::of(config), split, seed })
    }

    /// How many scenes are kept for validation.
    pub fn validation_len(&self) -> usize {
        self.split.apart_len()
    }

    fn read(&self, drawn: &[Drawn], is_training: bool, sight: &Sight) -> Result<Pictures, Problem> {
        let read = |one: &Drawn| -> Result<_, Problem> {
            let (scene, picture) = self.sprites.scene(one.sample)?;
            let things = self.names.things(&scene)?;
            let picture = if is_training { softened(&picture, self.seed, one) } else { picture };
            Ok((picture, (things, self.names.asked(&scene)?)))
        };
        let read = drawn.par_iter().map(read).collect::<Result<Vec<_>, Problem>>()?;
        let (pictures, known): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        let (things, asked) = known.into_iter().unzip();
        Ok(Pictures { view: sight.eyes.look(batch_of(&pictures, &sight.device)), things, asked })
    }
}

/// Settings of the objective.
#[derive(Clone, Copy, Debug)]
pub struct DetectorSettings {
    /// Scenes of a step.
    pub batch: usize,
    /// Parts that they go through the network in.
    pub accumulate: usize,
    /// Longer gradients are shortened to this norm.
    pub gradient_norm_max: Option<f64>,
}

/// What looks at scenes, on a device without gradients.
struct Sight {
    eyes: Eyes,
    device: Device,
}

/// Writes a trained detector into a folder.
pub type Export = Box<dyn Fn(&DetectorNetwork, &Path) -> Result<(), Problem>>;

/// A detector in training.
pub struct DetectorTraining {
    settings: DetectorSettings,
    trainee: Trainee<DetectorNetwork>,
    data: SceneData,
    export: Export,
    sight: Sight,
    /// Scenes differ between turns.
    turn: u64,
}

impl DetectorTraining {
    /// `device` is the network's, without gradients; what the network is shown is computed there in `precision`.
    pub fn new(
        settings: DetectorSettings,
        trainee: Trainee<DetectorNetwork>,
        data: SceneData,
        device: Device,
        precision: Precision,
        export: Export,
    ) -> DetectorTraining {
        let sight = Sight { eyes: Eyes::new(&device, precision), device };
        DetectorTraining { settings, trainee, data, export, sight, turn: 0 }
    }
}

impl Objective for DetectorTraining {
    fn step(&mut self, step: u64, learning_rate: f64) -> Result<Values, StepError> {
        let drawn = self.data.split.drawn(step, self.turn);
        let mut values = Values::new();
        for part in drawn.chunks(self.settings.batch / self.settings.accumulate) {
            let Pictures { view, things, .. } = match self.data.read(part, true, &self.sight) {
                Ok(pictures) => pictures,
                Err(problem) => {
                    self.trainee.forget();
                    return Err(StepError::Failed(problem));
                }
            };
            let DetectorLoss { total, parts } = detector_loss(&self.trainee.module().forward(view.tracked()), &things);
            self.trainee.add(total.backward());
            let share = part.len() as f64 / drawn.len() as f64;
            for (name, value) in parts.named() {
                *values.entry(name.to_owned()).or_default() += share * f64::from(value);
            }
        }
        take_step(&mut self.trainee, learning_rate, self.settings.gradient_norm_max, &mut values)
            .map_err(|what| not_finite(what, &drawn, |sample| self.data.sprites.id(sample)))?;
        Ok(values)
    }

    fn data_digest(&self) -> String {
        let Sizes { count, side_px } = Sizes::of(&self.data.sprites);
        let settings = self.data.sprites.scenes().settings();
        let concepts: Vec<&str> = self.data.sprites.scenes().concepts().collect();
        let known = serde_json::json!([settings, count, side_px, concepts]);
        blake3::hash(known.to_string().as_bytes()).to_hex().to_string()
    }

    fn validate(&mut self) -> Result<Values, Problem> {
        let network = self.trainee.averaged().valid();
        let (mut values, mut scenes) = (Values::new(), 0.0);
        let mut right: BTreeMap<Task, [f64; 2]> = BTreeMap::new();
        for drawn in self.data.split.apart(self.settings.batch / self.settings.accumulate) {
            let Pictures { view, things, asked } = self.data.read(&drawn, false, &self.sight)?;
            let cells = network.forward(view);
            let weight = drawn.len() as f64;
            scenes += weight;
            for (name, value) in detector_loss(&cells, &things).parts.named() {
                *values.entry(name.to_owned()).or_default() += weight * f64::from(value);
            }
            for (found, asked) in cells.things().iter().zip(asked) {
                for asked in asked {
                    let [count, all] = right.entry(asked.task()).or_default();
                    *count += f64::from(u8::from(asked.is_right(found)));
                    *all += 1.0;
                }
            }
        }
        values.values_mut().for_each(|value| *value /= scenes);
        let shares = right.into_iter().map(|(task, [count, all])| (format!("right/{}", task.name()), count / all));
        values.extend(shares);
        Ok(values)
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
        (self.export)(&self.trainee.averaged().valid(), folder)
    }
}

/// How many scenes there are, and how large.
struct Sizes {
    count: u64,
    side_px: u32,
}

impl Sizes {
    fn of(sprites: &Sprites) -> Sizes {
        Sizes { count: sprites.count(), side_px: sprites.side_px() }
    }
}
