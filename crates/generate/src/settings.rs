//! A picture's settings, as other tools read them and as ours does.
//!
//! This module does not read them back: pictures from elsewhere are somebody else's words.

use serde::Serialize;

use crate::plan::Plan;

/// Everything that decides one picture.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Program and version.
    pub software: String,
    /// File or folder name of the model, without its path.
    pub model: String,
    /// The released model it is, by its tensors.
    pub variant: String,
    /// What was drawn.
    pub prompt: String,
    /// What it was kept away from.
    pub negative_prompt: String,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Steps of the solver.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f32,
    /// Stretch of the noise levels.
    pub shift: f32,
    /// This picture's seed.
    pub seed: u64,
    /// Solver.
    pub solver: String,
    /// Most T5 tokens.
    pub t5_length: usize,
    /// f32 or bf16 products.
    pub precision: String,
    /// Where it was computed: cpu, vulkan, metal or cuda.
    pub device: String,
    /// Whose picture, where references differ.
    pub compat: String,
    /// Text encoders that were there.
    pub encoders: Vec<String>,
    /// The noise came from a file, not from the seed.
    pub latents_given: bool,
}

/// What the settings need to know of the model.
#[derive(Clone, Debug)]
pub struct ModelName {
    /// File or folder name, without its path.
    pub file: String,
    /// The released model it is, by its tensors.
    pub variant: String,
    /// f32 or bf16 products.
    pub precision: String,
    /// Where it computes: cpu, vulkan, metal or cuda.
    pub device: String,
    /// Text encoders that are there.
    pub encoders: Vec<String>,
}

impl Settings {
    /// The settings of one picture of a plan.
    pub fn of(plan: &Plan, model: &ModelName, prompt: &str, seed: u64, latents_given: bool) -> Settings {
        Settings {
            software: format!("rectiflow {}", env!("CARGO_PKG_VERSION")),
            model: model.file.clone(),
            variant: model.variant.clone(),
            prompt: prompt.into(),
            negative_prompt: plan.negative.clone(),
            width: plan.width,
            height: plan.height,
            steps: plan.schedule.len(),
            guidance: plan.guidance,
            shift: plan.shift,
            seed,
            solver: plan.solver.to_string(),
            t5_length: plan.t5_length,
            precision: model.precision.clone(),
            device: model.device.clone(),
            compat: plan.compat.to_string(),
            encoders: model.encoders.clone(),
            latents_given,
        }
    }

    /// The text chunks of a PNG: `parameters` in the words of AUTOMATIC1111's web UI, which most tools read,
    /// and `rectiflow` with every setting as JSON.
    pub fn texts(&self) -> [(&'static str, String); 2] {
        let json = serde_json::to_string(self).expect("numbers and strings always become JSON");
        [("parameters", self.parameters()), ("rectiflow", json)]
    }

    fn parameters(&self) -> String {
        let negative = match self.negative_prompt.as_str() {
            "" => String::new(),
            negative => format!("Negative prompt: {negative}\n"),
        };
        format!(
            "{}\n{negative}Steps: {}, Sampler: {}, Schedule type: Simple, CFG scale: {}, Shift: {}, Seed: {}, \
             Size: {}x{}, Model: {}, Version: {}",
            self.prompt,
            self.steps,
            self.solver,
            self.guidance,
            self.shift,
            self.seed,
            self.width,
            self.height,
            self.model,
            self.software
        )
    }
}
