//! From a plan to a detector that can take its first step.

use std::path::Path;

use rectiflow_dataset::Sprites;
use rectiflow_dataset::sprites::Colour;
use rectiflow_nn::{DeviceChoice, Module, Named, ParamNames, ParamSource, Params, RandomInit};
use rectiflow_vision::{DetectorConfig, DetectorFiles, DetectorNetwork};
use rectiflow_weights::shown;

use super::Ready;
use crate::export::write_detector;
use crate::objective::Problem;
use crate::objective::detector::{DetectorSettings, DetectorTraining, SceneData};
use crate::plan::Plan;
use crate::recipe::Model;
use crate::trainee::Trainee;

/// Makes a plan's detector ready, from scratch or from another one. It knows every concept of the art, and every colour that things have.
///
/// # Errors
/// The art is not there or not whole; there are fewer scenes than a batch; the detector to go on from is not there, or
/// knows other things.
pub fn detector(plan: &Plan, on: DeviceChoice) -> Result<Ready<DetectorTraining>, Problem> {
    let recipe = &plan.recipe;
    let Model::Detector(model) = &recipe.model else { return Err("the plan's model is no detector".into()) };
    let sprites = Sprites::of(&recipe.data.source)?;
    let config = DetectorConfig {
        side_px: recipe.data.source.side_px as usize,
        widths: model.widths().ok_or("the plan's detector has no widths")?,
        concepts: sprites.scenes().concepts().map(str::to_owned).collect(),
        colours: Colour::of_things().map(|colour| colour.name().to_owned()).collect(),
    };
    let (batch, wanted) = (recipe.batch.get(), recipe.validation.samples);
    let apart = if recipe.validation.every > 0 { wanted } else { 0 };
    let data = SceneData::new(sprites, &config, batch, apart, recipe.seed)?;
    let mut notes = Vec::new();
    let kept = data.validation_len();
    if kept < apart {
        notes.push(format!("scenes kept for validation: {kept} instead of {wanted}; a tenth of the data is the most"));
    }

    let device = on.open()?;
    let precision = recipe.precision.into();
    let build = |source: &mut dyn ParamSource| {
        let mut source = Named::new(source);
        let network = DetectorNetwork::new(&config, Params::new(&mut source, &device.clone().autodiff(), precision));
        (network, source.names())
    };
    let (network, names) = match &model.from {
        None => build(&mut RandomInit { seed: recipe.seed }),
        Some(folder) => {
            let files = DetectorFiles::open(folder)?;
            let known = DetectorConfig { side_px: config.side_px, ..files.config.clone() };
            if known != config {
                let why = "has other widths or knows other things\nhint: give one that was trained with the same art, and its widths";
                return Err(format!("the detector of `model.from`, {}, {why}", shown(folder)).into());
            }
            let mut names = ParamNames::default();
            let network = files.network(|source| {
                let (network, found) = build(source);
                names = found;
                network
            })?;
            (network, names)
        }
    };
    let parameters = network.num_params();
    let operations = 3.0 * batch as f64 * config.operations(config.side_px);
    let trainee = Trainee::new("detector", network, names.clone(), plan.adamw(), recipe.ema.clone());
    let export = move |network: &DetectorNetwork, to: &Path| write_detector(network, &names, to);
    let settings =
        DetectorSettings { batch, accumulate: recipe.accumulate.get(), gradient_norm_max: plan.gradient_norm_max() };
    let objective = DetectorTraining::new(settings, trainee, data, device, precision, Box::new(export));
    Ok(Ready { objective, parameters, operations, findings: None, notes })
}
