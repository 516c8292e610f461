use std::path::Path;

use rectiflow_dataset::Dataset;
use rectiflow_nn::{DeviceChoice, Module, Named, Params, RandomInit};
use rectiflow_text::{Activation, ClipConfig, ClipEncoder, ClipKind, ClipSize, ClipTokenizer};
use rectiflow_vision::{ClipImageConfig, ClipImageTower, LogitScale};

use super::{Ready, beside, impossible};
use crate::export::write_clip;
use crate::objective::Problem;
use crate::objective::clip::{ClipData, ClipNetwork, ClipPair};
use crate::plan::Plan;
use crate::recipe::{ClipEncoderKind, ClipModel, Model, RecipeError};
use crate::trainee::Trainee;

/// Makes a plan's pair of towers ready, from scratch.
///
/// # Errors
/// The data set has fewer samples than a batch.
pub fn clip(plan: &Plan, on: DeviceChoice) -> Result<Ready<ClipPair>, Problem> {
    let recipe = &plan.recipe;
    let Model::Clip(model) = &recipe.model else { return Err("the plan's model is no pair of towers".into()) };
    let kind = match model.encoder {
        ClipEncoderKind::L => ClipKind::L,
        ClipEncoderKind::G => ClipKind::G,
    };
    let beside = beside(plan)?;
    let (text, image) = (text_config(model, kind)?, image_config(model, kind, recipe.data.source.side_px as usize));
    let (dataset, findings) = Dataset::open(&recipe.data.source)?;
    let mut notes = Vec::new();
    // As diffusers, and drawing, cut texts: CLIP-G's padding token is found inside texts too.
    let tokenizer = ClipTokenizer::sized(kind, text.size()).with_pad_inside_texts();
    let apart = if recipe.validation.every > 0 { recipe.validation.samples } else { 0 };
    let data = ClipData::new(dataset, tokenizer, recipe.batch.get(), apart, recipe.seed)?;
    let compared = data.validation_batch();
    if apart > 0 && compared < recipe.batch.get() {
        notes.push(format!(
            "validation compares {compared} pairs at once and training {}: its losses are lower for that alone",
            recipe.batch
        ));
    }

    let passed_over = data.passed_over();
    if passed_over > 0 {
        notes.push(format!(
            "an epoch passes over {passed_over} pairs, others each time: they do not fill a batch of {}, and a batch has \
             no pair twice",
            recipe.batch
        ));
    }

    let device = on.open()?.autodiff();
    let mut source = RandomInit { seed: recipe.seed };
    let mut source = Named::new(&mut source);
    let network = ClipNetwork {
        text: ClipEncoder::new(Params::new(&mut source, &device, recipe.precision.into()), &text),
        image: ClipImageTower::new(Params::new(&mut source, &device, recipe.precision.into()), &image),
        scale: LogitScale::new(Params::new(&mut source, &device, recipe.precision.into())),
    };
    let names = source.names();
    let parameters = network.num_params();
    let patches = (image.side_px / image.patch_px).pow(2);
    let one = blocks(text.width, text.layers, text.positions) + blocks(image.width, image.layers, patches + 1);
    let trainee = Trainee::new("clip", network, names.clone(), plan.adamw(), recipe.ema.clone());
    let export = move |network: &ClipNetwork, to: &Path| write_clip(network, &names, kind, beside.as_deref(), to);
    let objective = ClipPair::new(trainee, data, plan.gradient_norm_max(), device, Box::new(export));
    Ok(Ready {
        objective,
        parameters,
        operations: 3.0 * recipe.batch.get() as f64 * one,
        findings: Some(findings),
        notes,
    })
}

/// Inner width of an MLP, in widths: of every CLIP.
const MLP: usize = 4;

fn activation(kind: ClipKind) -> Activation {
    match kind {
        ClipKind::L => Activation::QuickGelu,
        ClipKind::G => Activation::Gelu,
    }
}

fn text_config(model: &ClipModel, kind: ClipKind) -> Result<ClipConfig, RecipeError> {
    let ClipSize { vocabulary, length } = ClipSize::RELEASED;
    let [vocabulary, length] = [(model.vocabulary, vocabulary), (model.tokens, length)]
        .map(|(size, released)| size.map_or(released, |size| size.get()));
    if !(ClipSize { vocabulary, ..ClipSize::RELEASED }).is_possible() {
        let why = format!("is {vocabulary}, and CLIP's tokenizer has from 514 to 49408 tokens");
        return Err(impossible("model.vocabulary", why, "4096 are right for plain words"));
    }
    if !(ClipSize { length, ..ClipSize::RELEASED }).is_possible() {
        return Err(impossible("model.tokens", format!("is {length}"), "give 3 to 77; SD3's CLIPs have 77"));
    }
    Ok(ClipConfig {
        width: model.width.get(),
        layers: model.layers.get(),
        heads: model.heads.get(),
        mlp: MLP * model.width.get(),
        activation: activation(kind),
        projection: Some(model.projection.get()),
        vocabulary,
        positions: length,
        ..ClipConfig::clip_l()
    })
}

fn image_config(model: &ClipModel, kind: ClipKind, side_px: usize) -> ClipImageConfig {
    let image = &model.image;
    ClipImageConfig {
        side_px,
        patch_px: image.patch.get(),
        width: image.width.get(),
        layers: image.layers.get(),
        heads: image.heads.get(),
        mlp: MLP * image.width.get(),
        activation: activation(kind),
        projection: model.projection.get(),
        ..ClipImageConfig::vit_l_14()
    }
}

/// Operations of the products of one forward through blocks of a tower.
fn blocks(width: usize, layers: usize, tokens: usize) -> f64 {
    let (d, l) = (width as f64, tokens as f64);
    let products = (4.0 + 2.0 * MLP as f64) * d * d;
    layers as f64 * 2.0 * (l * products + 2.0 * l * l * d)
}
