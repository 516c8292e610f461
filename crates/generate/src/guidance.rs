//! Guidance as it is asked for, and as it will be done.

use rectiflow_mmdit::Perturbation;
use rectiflow_sample::{Guidance, Rule, Scales, Window};
use serde::{Deserialize, Serialize};

use crate::plan::PlanError;

/// Guidance as a user gives it; `None` is "not given".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuidanceRequest {
    /// Guidance scale of all steps or of each; 1 or less is no guidance.
    pub scales: Option<Scales>,
    /// In which steps.
    pub window: Option<Window>,
    /// How the velocities for the prompt and the negative prompt become one.
    pub rule: Rule,
    /// How far the velocity's deviation is brought back to the prompt's, 0 to 1.
    pub rescale: f32,
    /// What else is gone away from.
    pub hindered: Vec<Hindered>,
}

/// What the hindered transformer says for the prompt, and how far the picture is led away from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hindered {
    /// How it is hindered.
    pub how: Hindrance,
    /// In which blocks, counted from 0; none for another model.
    pub blocks: Vec<usize>,
    /// How far.
    pub scale: f32,
    /// In which steps.
    pub window: Window,
}

/// How a transformer is hindered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindrance {
    /// Blocks are left out: skip-layer guidance.
    SkippedBlocks,
    /// Image tokens see only themselves and the text: perturbed attention guidance.
    IsolatedTokens,
    /// A model that draws worse takes its place: autoguidance.
    WorseModel,
}

impl GuidanceRequest {
    /// Of this scale, and nothing else.
    pub fn of(scale: f32) -> GuidanceRequest {
        GuidanceRequest { scales: Some(Scales::one(scale)), ..GuidanceRequest::default() }
    }

    /// What will be done, by a transformer of `depth` blocks.
    ///
    /// # Errors
    /// A scale or a block that cannot be.
    pub(crate) fn resolve(self, usual: f32, depth: usize) -> Result<(Guidance, Vec<Hindered>), PlanError> {
        let scales = self.scales.unwrap_or(Scales::one(usual));
        let is_possible = |scale: &f32| scale.is_finite() && *scale >= 0.0;
        if let Some(scale) = scales.all().iter().find(|scale| !is_possible(scale)) {
            return Err(PlanError::Guidance(*scale));
        }
        if !(0.0..=1.0).contains(&self.rescale) {
            return Err(PlanError::Rescale(self.rescale));
        }
        if let Rule::Projected { eta, norm_max, momentum } = self.rule
            && !(eta.is_finite() && is_possible(&norm_max) && momentum.abs() < 1.0)
        {
            return Err(PlanError::Projection { eta, norm_max, momentum });
        }
        for Hindered { how, blocks, scale, .. } in &self.hindered {
            if !scale.is_finite() {
                return Err(PlanError::HinderedScale { option: how.option(), scale: *scale });
            }
            if let Some(block) = blocks.iter().find(|block| **block >= depth) {
                return Err(PlanError::Block { option: how.option(), block: *block, depth });
            }
        }
        let guidance = Guidance {
            scales: scales.map(|scale| scale.max(1.0)),
            window: self.window.unwrap_or(Window::ALL),
            rule: self.rule,
            rescale: self.rescale,
        };
        let hinders = |one: &Hindered| one.scale != 0.0 && (one.how == Hindrance::WorseModel || !one.blocks.is_empty());
        let hindered = self.hindered.into_iter().filter(hinders).collect();
        Ok((guidance, hindered))
    }
}

impl Hindered {
    /// What is done to the transformer.
    pub(crate) fn perturbation(&self) -> Perturbation {
        match self.how {
            Hindrance::SkippedBlocks => Perturbation::SkippedBlocks(self.blocks.clone()),
            Hindrance::IsolatedTokens => Perturbation::IsolatedTokens(self.blocks.clone()),
            Hindrance::WorseModel => Perturbation::None,
        }
    }
}

impl Hindrance {
    /// What the option with its blocks is called.
    fn option(self) -> &'static str {
        match self {
            Hindrance::SkippedBlocks => "--skip-layers",
            Hindrance::IsolatedTokens => "--pag-layers",
            Hindrance::WorseModel => "--autoguidance-scale",
        }
    }
}
