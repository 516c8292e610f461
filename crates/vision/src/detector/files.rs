//! A detector's folder: `config.json` and `model.safetensors`, as a training writes them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use rectiflow_nn::{Device, Module, ParamSource, Params, Precision};
use rectiflow_weights::shown;

use super::{Detector, DetectorConfig, DetectorNetwork, Eyes, GROUPS};
use crate::{MisfitError, NamedTensors};

/// No detector can be made of a folder.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it; the fields are what the message names")]
pub enum DetectorError {
    #[error(
        "{} cannot be read: {problem}\nhint: give a detector's folder, as `rectiflow train` leaves it in the run's model/",
        shown(.path)
    )]
    Unreadable { path: PathBuf, problem: io::Error },
    #[error("{} is not the configuration of a detector: {problem}\nhint: give a detector's folder, as `rectiflow train` leaves it in the run's model/", shown(.path))]
    BadConfig { path: PathBuf, problem: String },
    #[error("{} does not fit the configuration beside it: {problem}\nhint: take both files of one training", shown(.path))]
    Misfit { path: PathBuf, problem: MisfitError },
}

impl DetectorConfig {
    /// The text of `config.json`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self)
    }

    /// What is impossible in it.
    fn problem(&self) -> Option<String> {
        const WIDTH_MAX: usize = 1 << 12;
        let is_width = |width: &usize| (1..=WIDTH_MAX).contains(width) && width.is_multiple_of(GROUPS);
        if let Some(width) = self.widths.iter().find(|width| !is_width(width)) {
            return Some(format!("a width is {width}, and must be a multiple of {GROUPS} up to {WIDTH_MAX}"));
        }
        if self.concepts.is_empty() {
            return Some("it has no concepts".to_owned());
        }
        let names = || self.concepts.iter().chain(&self.colours);
        (names().collect::<BTreeSet<_>>().len() < names().count()).then(|| "a name is listed twice".to_owned())
    }
}

/// A detector's folder, read.
pub struct DetectorFiles {
    /// What it knows.
    pub config: DetectorConfig,
    weights_at: PathBuf,
    weights: Vec<u8>,
}

impl DetectorFiles {
    /// Reads a detector's folder.
    ///
    /// # Errors
    /// A file cannot be read, or the configuration is not a detector's.
    pub fn open(folder: &Path) -> Result<DetectorFiles, DetectorError> {
        let (config_at, weights_at) = (folder.join("config.json"), folder.join("model.safetensors"));
        let read = |path: &Path| {
            std::fs::read(path).map_err(|problem| DetectorError::Unreadable { path: path.to_owned(), problem })
        };
        let bad = |problem: String| DetectorError::BadConfig { path: config_at.clone(), problem };
        let config: DetectorConfig =
            serde_json::from_slice(&read(&config_at)?).map_err(|error| bad(error.to_string()))?;
        if let Some(problem) = config.problem() {
            return Err(bad(problem));
        }
        let weights = read(&weights_at)?;
        Ok(DetectorFiles { config, weights_at, weights })
    }

    /// The network that `make` makes of the folder's weights.
    ///
    /// # Errors
    /// They are not those of the configuration, or not finite.
    pub fn network(
        &self,
        make: impl FnOnce(&mut dyn ParamSource) -> DetectorNetwork,
    ) -> Result<DetectorNetwork, DetectorError> {
        let misfit = |problem| DetectorError::Misfit { path: self.weights_at.clone(), problem };
        let mut source = NamedTensors::of(&self.weights).map_err(misfit)?;
        let network = make(&mut source);
        source.finish_exactly().map_err(misfit)?;
        Ok(network)
    }
}

impl Detector {
    /// Opens a detector's folder, for judging: its weights do not learn.
    ///
    /// # Errors
    /// A file cannot be read; the configuration is not a detector's; the weights are not those of that configuration,
    /// or not finite.
    pub fn open(folder: &Path, device: &Device, precision: Precision) -> Result<Detector, DetectorError> {
        let files = DetectorFiles::open(folder)?;
        let network =
            files.network(|source| DetectorNetwork::new(&files.config, Params::new(source, device, precision)))?;
        Ok(Detector { eyes: Eyes::new(device, precision), network: network.no_grad() })
    }
}
