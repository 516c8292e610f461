//! A picture's settings, as other tools read them and as ours does.
//!
//! This module does not read them back: [`Settings::from_json`] and [`Settings::request`] do, with the care that other
//! people's words need.

use std::collections::BTreeMap;

use rectiflow_sample::{Rule, Window};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::guidance::Hindered;
use crate::labels::Axis;
use crate::parameters;
use crate::plan::Plan;
use crate::reuse::StepReuse;

/// Everything that decides one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Program and version.
    pub software: String,
    /// File or folder name of the model, without its path.
    pub model: String,
    /// The released model it is, by its tensors.
    pub variant: String,
    /// What was drawn.
    pub prompt: String,
    /// What the CLIP encoders read instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_clip: Option<String>,
    /// What T5 read instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_t5: Option<String>,
    /// What it was kept away from.
    pub negative_prompt: String,
    /// How brackets and BREAK in prompts were read.
    pub prompt_syntax: String,
    /// What became of prompts that are too long for CLIP.
    pub long_prompts: String,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Steps of the solver.
    pub steps: usize,
    /// Guidance scale, or those of all steps.
    pub guidance: OneOrAll,
    /// In which steps there is guidance, in parts of the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_window: Option<Window>,
    /// How the velocities for the prompt and the negative prompt become one, where that is not plain guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_rule: Option<Rule>,
    /// How far the velocity's deviation is brought back to the prompt's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_rescale: Option<f32>,
    /// What else the picture is led away from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hindered: Vec<Hindered>,
    /// File or folder name of the model that autoguidance leads away from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoguidance: Option<String>,
    /// Stretch of the noise levels.
    pub shift: f32,
    /// How the noise levels are spaced, or `custom`.
    pub schedule: String,
    /// The noise levels, where they are the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmas: Option<Vec<f32>>,
    /// What steps reused of those before them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_cache: Option<StepReuse>,
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
    /// What made the latent a picture: `autoencoder` or `tiny`.
    pub decoder: String,
    /// The noise came from a file, not from the seed.
    pub latents_given: bool,
    /// SHA-256 of that noise: its numbers as f32, the low byte first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents_sha256: Option<String>,
    /// What the CPU computed with: portable, avx2, avx512, avx512bf16 or amx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// SHA-256 of the files of each part of the model, and of its small files (configurations, tokenizers).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hashes: BTreeMap<String, String>,
    /// Quality of the JPEG that the picture was stored in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jpeg_quality: Option<u8>,
}

/// A number for all steps, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrAll {
    /// For all.
    One(f32),
    /// For each.
    All(Vec<f32>),
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
    /// What makes latents pictures: `autoencoder` or `tiny`.
    pub decoder: String,
    /// File or folder name of the model that autoguidance leads away from.
    pub worse: Option<String>,
    /// What the CPU computes with.
    pub instructions: Option<String>,
    /// SHA-256 of the files of each part, where somebody found them out.
    pub hashes: BTreeMap<String, String>,
}

impl Settings {
    /// The settings of one picture of a plan.
    pub fn of(plan: &Plan, model: &ModelName, prompt: &str, seed: u64, latents_given: bool) -> Settings {
        Settings {
            software: format!("rectiflow {}", env!("CARGO_PKG_VERSION")),
            model: model.file.clone(),
            variant: model.variant.clone(),
            prompt: prompt.into(),
            prompt_clip: plan.prompt_clip.clone(),
            prompt_t5: plan.prompt_t5.clone(),
            negative_prompt: plan.negative.clone(),
            prompt_syntax: plan.syntax.to_string(),
            long_prompts: plan.long_prompts.to_string(),
            width: plan.width,
            height: plan.height,
            steps: plan.schedule.len(),
            guidance: match plan.guidance.scales.all() {
                [one] => OneOrAll::One(*one),
                all => OneOrAll::All(all.to_vec()),
            },
            guidance_window: Some(plan.guidance.window).filter(|window| *window != Window::ALL),
            guidance_rule: Some(plan.guidance.rule).filter(|rule| *rule != Rule::Plain),
            guidance_rescale: Some(plan.guidance.rescale).filter(|rescale| *rescale != 0.0),
            hindered: plan.hindered.clone(),
            autoguidance: model.worse.clone(),
            shift: plan.shift,
            schedule: plan.schedule_name().to_owned(),
            sigmas: plan.spacing.is_none().then(|| plan.schedule.sigmas().to_vec()),
            step_cache: plan.reuse,
            seed,
            solver: plan.solver.to_string(),
            t5_length: plan.t5_length,
            precision: model.precision.clone(),
            device: model.device.clone(),
            compat: plan.compat.to_string(),
            encoders: model.encoders.clone(),
            decoder: model.decoder.clone(),
            latents_given,
            latents_sha256: None,
            instructions: model.instructions.clone(),
            hashes: model.hashes.clone(),
            jpeg_quality: None,
        }
    }

    /// The texts of a picture file: `parameters` in the words of AUTOMATIC1111's web UI, which most tools read, and
    /// `rectiflow` with every setting as JSON.
    pub fn texts(&self) -> [(&'static str, String); 2] {
        let json = serde_json::to_string(self).expect("numbers and strings always become JSON");
        [("parameters", parameters::of(self)), ("rectiflow", json)]
    }
}

/// The texts of a sheet: what its cells have in common, and what differs along its sides.
///
/// # Panics
/// There is no cell: a bug of the caller.
pub fn texts_of_sheet(cells: &[Settings], x: Option<&Axis>, y: Option<&Axis>) -> [(&'static str, String); 2] {
    let first = cells.first().expect("a sheet of at least one cell");
    let json = |cell: &Settings| match serde_json::to_value(cell) {
        Ok(Value::Object(all)) => all,
        _ => unreachable!("settings are a JSON object"),
    };
    let mut common = json(first);
    for cell in &cells[1..] {
        let cell = json(cell);
        common.retain(|key, value| cell.get(key) == Some(value));
    }
    let axes: Map<String, Value> = [("x", x), ("y", y)]
        .into_iter()
        .filter_map(|(side, axis)| {
            axis.map(|axis| (side.to_owned(), json!({"name": axis.name, "values": axis.values})))
        })
        .collect();
    common.insert("grid".into(), axes.into());
    let mut words = format!("{}, Script: X/Y/Z plot", parameters::of(first));
    for (side, axis) in [("X", x), ("Y", y)] {
        if let Some(axis) = axis {
            let values = Value::from(axis.values.join(", "));
            words.push_str(&format!(", {side} Type: {}, {side} Values: {values}", axis.name));
        }
    }
    [("parameters", words), ("rectiflow", Value::Object(common).to_string())]
}
