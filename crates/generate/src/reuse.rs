//! What steps reuse of those before them.

use rectiflow_mmdit::{Forecast, StepCache};
use serde::{Deserialize, Serialize};

/// When steps leave out the blocks after the first, and what they take instead.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReuse {
    /// How.
    pub mode: ReuseMode,
    /// How much the first block may have changed, in parts of what it adds.
    pub threshold: f32,
}

/// What takes the place of blocks that are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReuseMode {
    /// What they added the last time.
    FirstBlock,
    /// What lies on the line through the last two times.
    Taylor,
}

impl StepReuse {
    pub(crate) fn cache(self) -> StepCache {
        let forecast = match self.mode {
            ReuseMode::FirstBlock => Forecast::Same,
            ReuseMode::Taylor => Forecast::Line,
        };
        StepCache::new(self.threshold, forecast)
    }
}

impl std::fmt::Display for ReuseMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            ReuseMode::FirstBlock => "first-block",
            ReuseMode::Taylor => "taylor",
        })
    }
}

impl std::str::FromStr for ReuseMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [ReuseMode::FirstBlock, ReuseMode::Taylor].into_iter().find(|mode| mode.to_string() == text);
        known.ok_or_else(|| "give first-block or taylor".to_owned())
    }
}
