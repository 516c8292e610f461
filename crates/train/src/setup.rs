//! From a plan to an objective that can take its first step: files are opened, networks built, data looked at.
//!
//! What this module does not do: train, or say anything. What the user should know comes back in [`Ready::notes`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rectiflow_dataset::{Cache, Dataset, Findings, Kind, Size};
use rectiflow_flow::{EdmReading, Formulation};
use rectiflow_generate::{EncoderFiles, Encoders, KnownWords};
use rectiflow_mmdit::{BaselineConfig, MmditConfig, NetworkConfig, Recompute, UvitConfig, VelocityNetwork};
use rectiflow_nn::{Device, DeviceChoice, Named, ParamNames, ParamSource, Params, Precision, RandomInit, WithNew};
use rectiflow_text::Pads;
use rectiflow_vae::VaeConfig;
use rectiflow_weights::{Checkpoint, ModelPaths, PartKind};

use crate::encode::{self, Pictures};
use crate::export::{ModelFolder, write_transformer};
use crate::objective::Problem;
use crate::objective::flow::data::Use;
use crate::objective::flow::{Drawing, Flow, FlowData, FlowSettings};
use crate::plan::Plan;
use crate::recipe::{
    Dropped, EdmReadingRecipe, FlowObjective, Model, PadsRecipe, RecipeError, TrainPrecision, Transformer,
};
use crate::trainee::Trainee;

mod autoencoder;
mod clip;
mod detector;
mod t5;

pub use autoencoder::autoencoder;
pub use clip::clip;
pub use detector::detector;
pub use t5::t5;

/// Side of a positional grid in patches where nothing else is asked for: that of SD3-Medium.
const GRID: usize = 192;

/// An objective, and what the user should know of it.
pub struct Ready<O> {
    /// Before its first step.
    pub objective: O,
    /// Parameters that are trained.
    pub parameters: usize,
    /// Operations of a step: products of forward and backward; 0 where that is not known.
    pub operations: f64,
    /// What was found in the data; `None` where a cache holds them.
    pub findings: Option<Findings>,
    /// What was changed or stands in for something else.
    pub notes: Vec<String>,
}

impl From<TrainPrecision> for Precision {
    fn from(precision: TrainPrecision) -> Self {
        match precision {
            TrainPrecision::Bf16 => Precision::Bf16,
            TrainPrecision::F32 => Precision::F32,
        }
    }
}

impl From<PadsRecipe> for Pads {
    fn from(pads: PadsRecipe) -> Self {
        match pads {
            PadsRecipe::AsEncoded => Pads::AsEncoded,
            PadsRecipe::Zeros => Pads::Zeros,
        }
    }
}

/// The text encoders and the autoencoder that a recipe names.
///
/// # Errors
/// They are not there, or not whole.
pub fn encoder_files(at: &Path) -> Result<EncoderFiles, RecipeError> {
    EncoderFiles::open(&model_at(at)).map_err(|problem| unusable("data.encoders", &problem))
}

/// A model's folder or file, alone.
pub fn model_at(path: &Path) -> ModelPaths {
    ModelPaths { model: Some(path.to_owned()), ..ModelPaths::default() }
}

/// The formulation that a recipe names.
///
/// # Errors
/// It names none, or its noise levels cannot be shifted.
pub fn formulation_of(flow: &FlowObjective) -> Result<Formulation, RecipeError> {
    let impossible = |setting, problem: String| {
        let (why, hint) = problem.split_once("\nhint: ").unwrap_or((&problem, "`rectiflow formulations` lists them"));
        RecipeError::Impossible { setting, why: format!("cannot be used: {why}"), hint: hint.to_owned() }
    };
    let named: Formulation = flow
        .formulation
        .parse()
        .map_err(|error: rectiflow_flow::FormulationError| impossible("objective.formulation", error.to_string()))?;
    let reading = match flow.edm_reading {
        EdmReadingRecipe::Density => EdmReading::Density,
        EdmReadingRecipe::TotalWeight => EdmReading::TotalWeight,
    };
    let named = named.read_as(reading);
    if flow.shift == 1.0 {
        return Ok(named);
    }
    named.shifted(flow.shift).map_err(|error| impossible("objective.shift", error.to_string()))
}

/// Makes a plan's flow objective ready.
///
/// # Errors
/// A file is missing or of another kind, sizes do not fit each other, or the data set is empty.
pub fn flow(plan: &Plan, flow: &FlowObjective, on: DeviceChoice) -> Result<Ready<Flow>, Problem> {
    let recipe = &plan.recipe;
    let formulation = formulation_of(flow)?;
    let encoders_at = recipe.data.encoders.as_deref().ok_or("the plan names no encoders")?;
    let files = encoder_files(encoders_at)?;
    let side_px = recipe.data.source.side_px as usize;
    let mut notes = Vec::new();

    let cache = recipe.data.cache.as_ref().map(Cache::open).transpose()?;
    let mut pictures = match &cache {
        Some(cache) => cache.sizes_px().into_iter().map(Size::from).collect(),
        None => recipe.data.source.sizes()?.sizes().to_vec(),
    };
    // What samples are drawn at.
    pictures.push(Size::new(recipe.data.source.side_px, recipe.data.source.side_px));
    let device = on.open()?.autodiff();
    let (config, network, names) = build(plan, &files, &pictures, &device, &mut notes)?;
    let encoding = recipe.data.encoding;
    let sizes = config.frame();
    let taken = (sizes.context_width, sizes.pooled_width);
    let encoders = Arc::new(Encoders::load(&files, on, encoding.precision.into(), encoding.t5_tokens, taken)?);

    let (widths, plain) = (encoders.widths()?, encoders.device().clone());
    let dropped = match flow.dropped {
        Dropped::Zeros => None,
        Dropped::EmptyText => Some(encoders.texts(&[""])?.remove(0).features),
    };
    let with = Use {
        seed: recipe.seed,
        batch: recipe.batch.get(),
        validation: if recipe.validation.every > 0 { recipe.validation.samples } else { 0 },
        widths,
        pads: encoding.pads.into(),
        dropped,
    };
    let latent_px = side_px / files.vae().downsampling();
    let drawing = drawing(plan, flow, &encoders, [files.vae().latent_channels, latent_px, latent_px])?;
    let (data, findings) = match cache {
        Some(cache) => {
            cache.require(&encode::keys(&files, &recipe.data.source, &encoding, recipe.seed)?)?;
            (FlowData::cached(cache, recipe.data.source.captions.clone(), &plain, with)?, None)
        }
        None => {
            let (dataset, findings) = Dataset::open(&recipe.data.source)?;
            let pictures = Pictures { latent: encoding.latent, seed: recipe.seed };
            (FlowData::live(dataset, encoders, pictures, with)?, Some(findings))
        }
    };
    let (kept, wanted) = (data.validation_len(), recipe.validation.samples);
    if recipe.validation.every > 0 && kept < wanted {
        notes.push(format!("samples kept for validation: {kept} instead of {wanted}; a tenth of the data is the most"));
    }
    let dropout = flow.dropout;
    let settings = FlowSettings {
        seed: recipe.seed,
        batch: recipe.batch.get(),
        accumulate: recipe.accumulate.get(),
        formulation,
        dropout: [dropout.clip_l, dropout.clip_g, dropout.t5],
        gradient_norm_max: plan.gradient_norm_max(),
        recompute: if recipe.model.transformer().is_some_and(|model| model.checkpoint_blocks) {
            Recompute::Every
        } else {
            Recompute::Nothing
        },
        position_crop: recipe.model.transformer().map_or(0.0, |model| model.position_crop),
        grid: sizes.grid,
        patch: sizes.patch,
    };
    let image_tokens = (latent_px / sizes.patch).pow(2);
    let operations = config.operations(image_tokens, widths.clip_tokens + encoding.t5_tokens);
    let trainee = Trainee::new("transformer", network, names.clone(), plan.adamw(), recipe.ema.clone());
    let folder = ModelFolder {
        encoders: encoders_at.to_owned(),
        shift: flow.shift,
        formulation: flow.formulation.clone(),
        latent_px,
    };
    // Words of scenes come again and again; those of other data nobody counts.
    let is_of_few_words = recipe.data.source.kind == Some(Kind::Sprites);
    let export = move |network: &VelocityNetwork, data: &FlowData, to: &Path| {
        let known = if is_of_few_words { data.known_words()? } else { KnownWords::default() };
        write_transformer(network, &names, &folder, &known, to)
    };
    let objective = Flow::new(settings, trainee, data, drawing, device, Box::new(export));
    Ok(Ready {
        objective,
        parameters: config.parameters(),
        operations: 3.0 * recipe.batch.get() as f64 * operations,
        findings,
        notes,
    })
}

/// The folder whose other parts a new autoencoder or text encoder is stored with.
fn beside(plan: &Plan) -> Result<Option<PathBuf>, RecipeError> {
    match &plan.recipe.data.encoders {
        Some(folder) if !folder.is_dir() => {
            let why = format!("is {}, and no folder of a model's parts (diffusers) is there", folder.display());
            Err(impossible("data.encoders", why, "give one to take its parts over, or leave it out"))
        }
        folder => Ok(folder.clone()),
    }
}

/// The network that the recipe names, from scratch or from a checkpoint, on a device with gradients.
fn build(
    plan: &Plan,
    files: &EncoderFiles,
    pictures: &[Size],
    device: &Device,
    notes: &mut Vec<String>,
) -> Result<(NetworkConfig, VelocityNetwork, ParamNames), Problem> {
    let recipe = &plan.recipe;
    let model = recipe.model.transformer().ok_or("the plan's model is no velocity network")?;
    let mut random = RandomInit { seed: recipe.seed };
    let Some(from) = &model.from else {
        let config = from_scratch(&recipe.model, model, files, recipe.data.source.side_px as usize, pictures)?;
        let (network, names) = named(&config, &mut random, device, recipe.precision.into());
        return Ok((config, network, names));
    };
    let checkpoint = Checkpoint::open(&model_at(from)).map_err(|problem| unusable("model.from", &problem))?;
    let part = checkpoint.require(PartKind::Transformer).map_err(|problem| unusable("model.from", &problem))?;
    let mut source = part.source();
    let mut config = MmditConfig::find(&source)?;
    let adds_norm = model.qk_norm == Some(true) && !config.qk_norm;
    config.qk_norm |= adds_norm;
    agrees("model.depth", model.depth.map(|depth| depth.get()), config.depth)?;
    agrees("model.width", model.width.map(|width| width.get()), config.width)?;
    agrees("model.qk_norm", model.qk_norm, config.qk_norm)?;
    agrees("model.dual_attention_layers", model.dual_attention_layers.clone(), config.dual_layers.clone())?;
    if !matches!(recipe.model, Model::Mmdit(_)) || model.token_sets.is_some_and(|sets| sets != 2) {
        return Err(impossible("model.from", "is an MMDiT of two token sets", "set model.kind to mmdit").into());
    }
    if config.channels_in != files.vae().latent_channels {
        let why = format!(
            "takes {} latent channels, the autoencoder makes {}",
            config.channels_in,
            files.vae().latent_channels
        );
        return Err(impossible("model.from", why, "name encoders of the same release").into());
    }
    let widths = files.conditioning_widths();
    if (config.context_width, config.pooled_width) != widths {
        let why = format!(
            "takes texts of width {} and {}, the text encoders make {} and {}",
            config.context_width, config.pooled_width, widths.0, widths.1
        );
        return Err(impossible("model.from", why, "name encoders of the same release").into());
    }
    agrees("model.grid", model.grid.map(|grid| grid.get()), config.grid)?;
    fits(pictures, files, &config)?;
    let config = NetworkConfig::Mmdit(config);
    let norms = |name: &str| name.ends_with(".ln_q.weight") || name.ends_with(".ln_k.weight");
    let mut with_new = WithNew::new(&mut source, &mut random, |name| adds_norm && norms(name));
    let (network, names) = named(&config, &mut with_new, device, recipe.precision.into());
    let made = with_new.made().len();
    source.finish()?;
    if made > 0 {
        notes.push(format!("{made} new norms of queries and keys, which the checkpoint does not have"));
    }
    Ok((config, network, names))
}

/// Builds a network and notes the names of its parameters.
fn named(
    config: &NetworkConfig,
    source: &mut dyn ParamSource,
    device: &Device,
    precision: Precision,
) -> (VelocityNetwork, ParamNames) {
    let mut source = Named::new(source);
    let network = VelocityNetwork::new(config, Params::new(&mut source, device, precision));
    (network, source.names())
}

fn impossible(setting: &'static str, why: impl Into<String>, hint: impl Into<String>) -> RecipeError {
    RecipeError::Impossible { setting, why: why.into(), hint: hint.into() }
}

/// What a recipe says of a checkpoint must be so.
fn agrees<T: PartialEq + std::fmt::Debug>(
    setting: &'static str,
    wanted: Option<T>,
    found: T,
) -> Result<(), RecipeError> {
    match wanted {
        Some(wanted) if wanted != found => {
            let why = format!("is {wanted:?}, and the checkpoint has {found:?}");
            Err(impossible(setting, why, "leave it out: a checkpoint knows its sizes"))
        }
        _ => Ok(()),
    }
}

/// Pictures are in whole patches, and the positional grid has room for them.
fn fits(pictures: &[Size], files: &EncoderFiles, config: &MmditConfig) -> Result<(), RecipeError> {
    let patch_px = files.vae().downsampling() * config.patch;
    whole(pictures, patch_px, "patches")?;
    for size in pictures {
        let patches = size.width_px.max(size.height_px) as usize / patch_px;
        if config.grid < patches {
            let why = format!("is {}, and a picture of {size} px has {patches} patches on a side", config.grid);
            return Err(impossible("model.grid", why, "give at least that, or smaller pictures"));
        }
    }
    Ok(())
}

/// Pictures of these sizes are in whole latent pixels.
///
/// # Errors
/// One is not.
pub fn whole_latents(pictures: &[Size], vae: &VaeConfig) -> Result<(), RecipeError> {
    whole(pictures, vae.downsampling(), "latent pixels")
}

fn whole(pictures: &[Size], unit_px: usize, units: &str) -> Result<(), RecipeError> {
    let is_whole = |side: u32| side > 0 && (side as usize).is_multiple_of(unit_px);
    let odd = pictures.iter().find(|size| !is_whole(size.width_px) || !is_whole(size.height_px));
    let Some(size) = odd else { return Ok(()) };
    let why = format!("makes pictures of {size} px, which are not in {units} of {unit_px} px");
    let hint = "give multiples of that for `side_px`, and for `buckets` or their `step_px` where there are some";
    Err(impossible("data.source", why, hint))
}

/// A file that a recipe names cannot be used for what it is named for.
fn unusable(setting: &'static str, problem: &dyn std::error::Error) -> RecipeError {
    let text = problem.to_string();
    let (why, hint) = text.split_once("\nhint: ").unwrap_or((&text, "check the path"));
    // A recipe has no options of the command line.
    let hint = if hint.contains("`--") { "name the folder or the file of a model that has it" } else { hint };
    impossible(setting, format!("cannot be used: {why}"), hint)
}

/// The sizes of a new network for pictures of these sizes, most of them of `side_px` squared pixels.
fn from_scratch(
    kind: &Model,
    model: &Transformer,
    files: &EncoderFiles,
    side_px: usize,
    pictures: &[Size],
) -> Result<NetworkConfig, RecipeError> {
    let depth = model.depth.ok_or_else(|| {
        impossible("model.depth", "is missing", "give the number of blocks, or model.from a checkpoint to begin with")
    })?;
    let latent_px = side_px / files.vae().downsampling();
    let (context_width, pooled_width) = files.conditioning_widths();
    let mut mmdit = MmditConfig::of_depth(depth.get());
    if let Some(width) = model.width {
        if !width.get().is_multiple_of(MmditConfig::HEAD_WIDTH) {
            let why = format!("is {width}, and heads are {} wide", MmditConfig::HEAD_WIDTH);
            return Err(impossible("model.width", why, "give a multiple of that"));
        }
        mmdit.width = width.get();
    }
    let patch = mmdit.patch;
    let longest = pictures.iter().map(|size| size.width_px.max(size.height_px) as usize).max().unwrap_or(side_px);
    let grid = model.grid.map_or(GRID.max(longest / files.vae().downsampling() / patch), |grid| grid.get());
    mmdit.grid = grid;
    fits(pictures, files, &mmdit)?;
    let layers = model.dual_attention_layers.clone().unwrap_or_default();
    if let Some(layer) = layers.iter().find(|layer| **layer >= depth.get()) {
        let why = format!("names block {layer}, and the depth is {depth}");
        return Err(impossible("model.dual_attention_layers", why, "blocks are counted from 0"));
    }
    let channels = files.vae().latent_channels;
    mmdit = MmditConfig {
        channels_in: channels,
        channels_out: channels,
        context_width,
        pooled_width,
        // Third parties trained from scratch in 16 bits only with it.
        qk_norm: model.qk_norm.unwrap_or(true),
        dual_layers: layers,
        grid,
        grid_trained: latent_px / patch,
        ..mmdit
    };
    let baseline = || BaselineConfig::like(&mmdit);
    let is_mmdit = matches!(kind, Model::Mmdit(_));
    for (setting, is_given) in [
        ("model.token_sets", model.token_sets.is_some()),
        ("model.dual_attention_layers", !mmdit.dual_layers.is_empty()),
    ] {
        if is_given && !is_mmdit {
            return Err(impossible(setting, "is for mmdit", "leave it out"));
        }
    }
    Ok(match (kind, model.token_sets.unwrap_or(2)) {
        (Model::Dit(_), _) => NetworkConfig::Dit(baseline()),
        (Model::CrossDit(_), _) => NetworkConfig::CrossDit(baseline()),
        (Model::Uvit(_), _) => {
            // One level of half the width, whose lowest pixel is a patch of 2.
            let width = (mmdit.width / 2).next_multiple_of(32);
            NetworkConfig::Uvit(UvitConfig { middle: baseline(), level_widths: vec![width], level_blocks: 2 })
        }
        (_, 2) => NetworkConfig::Mmdit(mmdit),
        (_, 3) if mmdit.dual_layers.is_empty() => {
            NetworkConfig::ThreeSets { sizes: baseline(), clip_tokens: files.clip_tokens() }
        }
        (_, 3) => {
            let hint = "leave out dual_attention_layers";
            return Err(impossible("model.token_sets", "is 3, and dual attention is for 2", hint));
        }
        (_, sets) => {
            let hint = "2 are text and image, 3 are CLIP's tokens, T5's tokens and image";
            return Err(impossible("model.token_sets", format!("is {sets}"), hint));
        }
    })
}

/// What samples are drawn of, if the recipe wants some.
fn drawing(
    plan: &Plan,
    flow: &FlowObjective,
    encoders: &Arc<Encoders>,
    latent_shape: [usize; 3],
) -> Result<Option<Drawing>, Problem> {
    let samples = plan.recipe.samples.clone();
    if samples.every == 0 || samples.prompts.is_empty() {
        return Ok(None);
    }
    let prompts: Vec<&str> = samples.prompts.iter().map(String::as_str).collect();
    let pads = plan.recipe.data.encoding.pads.into();
    let texts = encoders.texts(&prompts)?.into_iter().map(|text| text.padded(pads)).collect();
    Ok(Some(Drawing {
        texts,
        latent_shape,
        steps: samples.steps,
        shift: flow.shift as f32,
        guidance: samples.guidance,
        seed: samples.seed,
        encoders: Arc::clone(encoders),
    }))
}
