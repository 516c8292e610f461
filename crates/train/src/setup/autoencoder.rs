//! From a plan to an autoencoder that can take its first step.

use std::path::Path;

use rectiflow_dataset::{Dataset, WithoutCaption};
use rectiflow_nn::{Device, DeviceChoice, Module, Named, ParamNames, ParamSource, Params, RandomInit, WithNew};
use rectiflow_vae::{Vae, VaeConfig};
use rectiflow_vision::{PatchGan, PerceptualDistance, SIDE_PX_MIN};
use rectiflow_weights::{Checkpoint, PartKind};

use super::{Ready, agrees, impossible, model_at, said};
use crate::export::write_autoencoder;
use crate::objective::Problem;
use crate::objective::autoencoder::{
    Autoencoder, AutoencoderNetwork, AutoencoderSettings, AutoencoderWeights, ReconstructionVariance,
};
use crate::objective::pictures::PictureData;
use crate::plan::Plan;
use crate::recipe::{Adversarial, AutoencoderModel, AutoencoderObjective, Model};
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
    let config = network.vae.config().clone();

    // Nobody looks at captions here, so a picture needs none.
    let mut source = recipe.data.source.clone();
    (source.captions, source.without_caption) = (None, WithoutCaption::Empty);
    let (dataset, findings) = Dataset::open(&source)?;
    let mut notes = Vec::from_iter(said(&findings));
    let validation = if recipe.validation.every > 0 { recipe.validation.samples } else { 0 };
    let data = PictureData::new(dataset, recipe.seed, recipe.batch.get(), validation)?;
    check_sizes(&data, &config)?;

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
    };
    let encoders = recipe.data.encoders.clone();
    if let Some(encoders) = encoders.as_ref().filter(|encoders| !encoders.is_dir()) {
        notes.push(format!("{} is no folder: the model at the end will be the autoencoder alone", encoders.display()));
    }
    let parameters = network.num_params();
    let trainee = Trainee::new("autoencoder", network, names.clone(), plan.adamw(), recipe.ema.clone());
    let export =
        move |vae: &Vae, config: &VaeConfig, to: &Path| write_autoencoder(vae, &names, config, encoders.as_deref(), to);
    let objective = Autoencoder::new(settings, trainee, critic, perceptual, data, device, Box::new(export));
    Ok(Ready { objective, parameters, operations: 0.0, notes })
}

/// The autoencoder that the recipe names, from scratch or from a checkpoint.
fn build(plan: &Plan, model: &AutoencoderModel, device: &Device) -> Result<(AutoencoderNetwork, ParamNames), Problem> {
    let precision = plan.recipe.precision.into();
    let mut random = RandomInit { seed: plan.recipe.seed };
    let named = |config: &VaeConfig, source: &mut dyn ParamSource| {
        let mut source = Named::new(source);
        let vae = Vae::new(config, Params::new(&mut source, device, precision));
        let variance = ReconstructionVariance::new(Params::new(&mut source, device, precision).at("loss"));
        (AutoencoderNetwork { vae, variance }, source.names())
    };
    let Some(from) = &model.from else { return Ok(named(&model.from_scratch(), &mut random)) };
    let checkpoint = Checkpoint::open(&model_at(from))?;
    let part = checkpoint.require(PartKind::Vae)?;
    let mut source = part.source();
    let config = VaeConfig::find(&source, part.config())?;
    agrees("model.latent_channels", model.latent_channels.map(|count| count.get()), config.latent_channels)?;
    agrees("model.widths", model.widths.clone(), config.widths.clone())?;
    agrees("model.blocks", model.blocks.map(|count| count.get()), config.blocks)?;
    agrees("model.groups", model.groups.map(|count| count.get()), config.groups)?;
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
fn check_sizes(data: &PictureData, config: &VaeConfig) -> Result<(), Problem> {
    let unit = config.downsampling();
    for size in data.sizes() {
        let sides = [size.width_px as usize, size.height_px as usize];
        if sides.iter().any(|side| !side.is_multiple_of(unit) || *side < SIDE_PX_MIN) {
            let why = format!("makes pictures of {size} px");
            let hint = format!("sides must be multiples of {unit}, and at least {SIDE_PX_MIN}");
            return Err(impossible("data.source", why, hint).into());
        }
    }
    Ok(())
}
