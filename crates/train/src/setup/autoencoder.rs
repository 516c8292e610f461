//! From a plan to an autoencoder that can take its first step.

use std::path::Path;

use rectiflow_dataset::{Dataset, Size};
use rectiflow_nn::{Device, DeviceChoice, Module, Named, ParamNames, ParamSource, Params, RandomInit, WithNew};
use rectiflow_vae::{Vae, VaeConfig};
use rectiflow_vision::{PatchGan, PerceptualDistance, SIDE_PX_MIN};
use rectiflow_weights::{Checkpoint, PartKind};

use super::{Ready, agrees, beside, impossible, model_at, whole_latents};
use crate::export::write_autoencoder;
use crate::objective::Problem;
use crate::objective::autoencoder::{
    Autoencoder, AutoencoderNetwork, AutoencoderSettings, AutoencoderWeights, ReconstructionVariance,
};
use crate::objective::pictures::PictureData;
use crate::plan::Plan;
use crate::recipe::{Adversarial, AutoencoderModel, AutoencoderObjective, Model, RecipeError, TrainedParts};
use crate::trainee::Trainee;

/// Layers of the critic that halve the picture, as in the reference.
const CRITIC_HALVINGS: usize = 3;

/// Makes a plan's autoencoder objective ready.
///
/// # Errors
/// A file is missing or of another kind, sizes do not fit each other, or the data set is empty.
pub fn autoencoder(
    plan: &Plan,
    objective: &AutoencoderObjective,
    on: DeviceChoice,
) -> Result<Ready<Autoencoder>, Problem> {
    let recipe = &plan.recipe;
    let Model::Autoencoder(model) = &recipe.model else { return Err("the plan's model is no autoencoder".into()) };
    let device = on.open()?.autodiff();
    let (network, names) = build(plan, model, &device)?;

    let (dataset, findings) = Dataset::open_pictures(&recipe.data.source)?;
    let validation = if recipe.validation.every > 0 { recipe.validation.samples } else { 0 };
    let data = PictureData::new(dataset, recipe.seed, recipe.batch.get(), validation)?;

    let critic = objective.adversarial.as_ref().map(|adversarial| critic(plan, adversarial, &device));
    let perceptual =
        (objective.perceptual_weight > 0.0).then(|| PerceptualDistance::new(&device, recipe.precision.into()));
    let settings = AutoencoderSettings {
        seed: recipe.seed,
        batch: recipe.batch.get(),
        accumulate: recipe.accumulate.get(),
        weights: AutoencoderWeights {
            perceptual: objective.perceptual_weight,
            divergence: objective.kl_weight,
            critic: objective.adversarial.as_ref().map_or(0.0, |adversarial| adversarial.weight as f32),
        },
        critic_from: objective.adversarial.as_ref().map_or(0, |adversarial| adversarial.start_step),
        gradient_norm_max: plan.gradient_norm_max(),
        trains: model.train,
    };
    let encoders = beside(plan)?;
    let parameters = network.num_params();
    let trainee = Trainee::new("autoencoder", network, names.clone(), plan.adamw(), recipe.ema.clone());
    let export =
        move |vae: &Vae, config: &VaeConfig, to: &Path| write_autoencoder(vae, &names, config, encoders.as_deref(), to);
    let objective = Autoencoder::new(settings, trainee, critic, perceptual, data, device, Box::new(export));
    Ok(Ready { objective, parameters, operations: 0.0, findings: Some(findings), notes: Vec::new() })
}

/// The autoencoder that the recipe names, from scratch or from a checkpoint. That the pictures' sizes fit is checked
/// before a weight is read.
fn build(plan: &Plan, model: &AutoencoderModel, device: &Device) -> Result<(AutoencoderNetwork, ParamNames), Problem> {
    let precision = plan.recipe.precision.into();
    let pictures = plan.recipe.data.source.sizes()?;
    let mut random = RandomInit { seed: plan.recipe.seed };
    let named = |config: &VaeConfig, source: &mut dyn ParamSource| {
        let mut source = Named::new(source);
        let vae = Vae::new(config, Params::new(&mut source, device, precision));
        let variance = ReconstructionVariance::new(Params::new(&mut source, device, precision).at("loss"));
        (AutoencoderNetwork { vae, variance }, source.names())
    };
    let Some(from) = &model.from else {
        if model.train == TrainedParts::Decoder {
            let hint = "give model.from a checkpoint with an encoder, or leave model.train out";
            return Err(impossible("model.train", "is decoder, and a new encoder must learn too", hint).into());
        }
        let config = model.from_scratch();
        check_sizes(pictures.sizes(), &config)?;
        return Ok(named(&config, &mut random));
    };
    let checkpoint = Checkpoint::open(&model_at(from))?;
    let part = checkpoint.require(PartKind::Vae)?;
    let mut source = part.source();
    let config = VaeConfig::find(&source, part.config())?;
    agrees("model.latent_channels", model.latent_channels.map(|count| count.get()), config.latent_channels)?;
    agrees("model.widths", model.widths.clone(), config.widths.clone())?;
    agrees("model.blocks", model.blocks.map(|count| count.get()), config.blocks)?;
    agrees("model.groups", model.groups.map(|count| count.get()), config.groups)?;
    check_sizes(pictures.sizes(), &config)?;
    // No released checkpoint has the variance.
    let built = named(&config, &mut WithNew::new(&mut source, &mut random, |name| name.starts_with("loss.")));
    source.finish()?;
    Ok(built)
}

/// A new critic, under the names of latent-diffusion.
fn critic(plan: &Plan, adversarial: &Adversarial, device: &Device) -> Trainee<PatchGan> {
    let mut random = RandomInit { seed: plan.recipe.seed };
    let mut source = Named::new(&mut random);
    let mut params = Params::new(&mut source, device, plan.recipe.precision.into());
    let module = PatchGan::new(params.at("loss.discriminator"), adversarial.width.get(), CRITIC_HALVINGS);
    let names = source.names();
    Trainee::new("critic", module, names, plan.adamw(), Vec::new())
}

/// All sizes of pictures are whole latent pixels, and large enough for those who judge them.
fn check_sizes(sizes: &[Size], config: &VaeConfig) -> Result<(), RecipeError> {
    whole_latents(sizes, config)?;
    let small = |size: &&Size| (size.width_px.min(size.height_px) as usize) < SIDE_PX_MIN;
    match sizes.iter().find(small) {
        Some(size) => {
            let hint = format!("sides must be at least {SIDE_PX_MIN} px for what judges them");
            Err(impossible("data.source", format!("makes pictures of {size} px"), hint))
        }
        None => Ok(()),
    }
}
