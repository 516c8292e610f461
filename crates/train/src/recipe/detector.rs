use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use rectiflow_vision::DetectorConfig;
use rectiflow_vision::detector::LEVELS;

/// Settings of the detector's objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorObjective {}

/// A detector of the things in sprite scenes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorModel {
    /// Channels of each of five levels, from 2 times smaller than the picture to 32 times.
    #[serde(default = "widths")]
    pub widths: Vec<usize>,
    /// The folder of a detector of the same widths to go on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
}

fn widths() -> Vec<usize> {
    DetectorConfig::WIDTHS.to_vec()
}

impl DetectorModel {
    /// Its widths, if they are as many as there are levels.
    pub fn widths(&self) -> Option<[usize; LEVELS]> {
        self.widths.clone().try_into().ok()
    }
}
