//! What networks are trained for. An objective is its data, its networks and one training step; [`crate::run`] does
//! the rest, which is the same for all.

use std::collections::BTreeMap;
use std::path::Path;

use rectiflow_dataset::Drawn;
use rectiflow_generate::Image;
use rectiflow_nn::Module;

use crate::trainee::{StateError, Trainee};

mod ahead;
pub mod autoencoder;
pub mod clip;
pub mod detector;
pub mod flow;
pub mod pictures;
pub mod span;
mod split;
pub mod t5;

/// Numbers by name: `loss`, `gradient_norm`, `loss/sigma_0.25`.
pub type Values = BTreeMap<String, f64>;

/// Whatever went wrong in data or networks.
pub type Problem = Box<dyn std::error::Error + Send + Sync>;

/// A step could not be taken. Parameters are as they were.
#[derive(Debug)]
pub enum StepError {
    /// A loss or gradient is not finite.
    NotFinite {
        /// What.
        what: String,
        /// Ids of the step's samples.
        samples: Vec<String>,
    },
    /// Data or networks.
    Failed(Problem),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for StepError {
    fn from(problem: E) -> Self {
        StepError::Failed(Box::new(problem))
    }
}

/// What is not finite in a step with these samples.
fn not_finite(what: String, drawn: &[Drawn], id: impl Fn(u64) -> String) -> StepError {
    StepError::NotFinite { what, samples: drawn.iter().map(|one| id(one.sample)).collect() }
}

/// The optimizer's step at the end of an objective's, of a network whose `loss` is in `values`; adds what it was done
/// with. Else what is not finite: then nothing was changed, and the gradients are gone.
fn take_step<M: Module>(
    trainee: &mut Trainee<M>,
    learning_rate: f64,
    gradient_norm_max: Option<f64>,
    values: &mut Values,
) -> Result<(), String> {
    if !values["loss"].is_finite() {
        trainee.forget();
        return Err("the loss".to_owned());
    }
    let norm = trainee.step(learning_rate, gradient_norm_max);
    let norm = norm.map_err(|error| format!("the gradient of {}", error.name))?;
    values.insert("gradient_norm".to_owned(), norm);
    values.insert("learning_rate".to_owned(), learning_rate);
    Ok(())
}

/// The seed of a turn's draws.
fn turned(seed: u64, turn: u64) -> u64 {
    seed.wrapping_add(turn << 48)
}

/// One thing to train.
///
/// Every random draw is a function of the seed and of the step's or sample's number, so that a run which was
/// interrupted anywhere repeats itself to the bit.
pub trait Objective {
    /// Step number `step`, counted from 0, in all its parts.
    ///
    /// # Errors
    /// Nothing was changed.
    fn step(&mut self, step: u64, learning_rate: f64) -> Result<Values, StepError>;

    /// A digest, in hex, of the data that the draws choose from: two runs of one digest, seed and batch have the same
    /// samples in a step. Of a cache it is of all that is in it, of texts likewise; of pictures, of which samples there
    /// are ([`rectiflow_dataset::Dataset::digest`]).
    fn data_digest(&self) -> String;

    /// Losses on data that is not trained on, with averaged parameters; `loss` is what the best checkpoint is chosen by.
    ///
    /// # Errors
    /// The data cannot be read.
    fn validate(&mut self) -> Result<Values, Problem>;

    /// A sheet of pictures that show what was learned, if there is anything to see.
    ///
    /// # Errors
    /// They cannot be drawn.
    fn samples(&mut self) -> Result<Option<Image>, Problem> {
        Ok(None)
    }

    /// Writes all that a later process needs to go on.
    ///
    /// # Errors
    /// A file cannot be written.
    fn save(&self, folder: &Path) -> Result<(), StateError>;

    /// Goes on from what [`Self::save`] wrote after `step` steps.
    ///
    /// # Errors
    /// A file is missing or does not fit. Nothing was changed.
    fn load(&mut self, folder: &Path, step: u64) -> Result<(), StateError>;

    /// From now on other samples, noise and levels than those of any other `turn`: after something was not finite.
    fn turn(&mut self, turn: u64);

    /// Writes the trained network, with averaged parameters, as a model that can be used.
    ///
    /// # Errors
    /// A file cannot be written.
    fn export(&self, folder: &Path) -> Result<(), Problem>;
}
