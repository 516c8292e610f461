//! `rectiflow generate`

pub(crate) mod afford;
pub(crate) mod clash;
mod format;
mod guidance;
pub(crate) mod latents;
mod names;
mod options;
mod preset;
mod preview;
pub(crate) mod prompts;
pub(crate) mod say;
mod sixel;
mod studio;
mod terminal;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use rectiflow_generate::{
    Format, KnownWords, ModelFacts, ModelFiles, Parts, Plan, PlanError, Request, Settings, generate,
};
use rectiflow_nn::{Device, Precision, Tensor};
use rectiflow_weights::{ModelPaths, PartKind, sha256, shown};

pub(crate) use self::afford::{Carried, Free};
pub(crate) use self::names::OutputNames;
pub(crate) use self::options::GenerateArgs;
pub(crate) use self::preset::Preset;
pub(crate) use self::preview::Previewer;
use self::studio::Studio;
use crate::interrupt::Interrupt;
use crate::onlooker::Onlooker;
use crate::progress::Progress;
use crate::writable::check_writable;
use crate::{hashes, hub};

pub(crate) fn run(args: GenerateArgs) -> anyhow::Result<ExitCode> {
    let prompts = args.prompts()?;
    if prompts.is_empty() {
        bail!(PlanError::NoPrompt);
    }
    let seed = args.seed.number();
    let pictures = prompts.len().checked_mul(args.count).ok_or(PlanError::TooMany { count: args.count })?;
    let names = OutputNames::new(args.out.as_deref(), &args.format, pictures)?;
    args.preview.check()?;
    if let Some(path) = &args.latents_out {
        check_writable(path).with_context(|| format!("`--latents-out {}` cannot be written", path.display()))?;
    }
    let paths = args.model.paths()?;
    clash::check(&names, &args.other_outputs(), &args.inputs())?;
    let device = args.compute.device.open()?;

    let mut progress = Progress::new();
    progress.phase("open and check");
    let files = open(&paths, args.guidance.autoguidance.as_deref())?;
    let facts = files.facts();
    let (prompts, count) = prompts::chosen(prompts, args.count, seed, args.wildcards.as_deref())?;
    let drawn = Drawn { prompts, count, seed };
    let (plan, noise) = resolve(&args, drawn, &facts, &device)?;
    afford::check(&files, &plan, (&args).into(), Free::of(&args))?;
    let words = known_words(&paths)?;
    let parts = load(&files, &args)?;
    fits(&plan, &parts, names.format(), noise.is_some())?;
    let lost_at_once = match &args.latents_out {
        None => "; the pictures that were named are stored",
        Some(_) => "; the pictures that were named are stored, their latents are not",
    };
    let interrupt = Interrupt::catch(lost_at_once)?;
    let known = say::Known { side_px: facts.side_px, words: words.as_ref() };
    if let Some(line) = &args.preset_line {
        progress.say(line);
    }
    let by_default = args.steps.is_none() && args.guidance.guidance.is_none() || args.preset.as_deref() == Some("auto");
    say::plan(&progress, &parts, &plan, &known, by_default);

    let preview = args.preview.open(&parts);
    let (done, latents_out, latents) = (0, args.latents_out, Vec::new());
    let taker = Studio { names, pictures, done, latents_out, latents };
    let mut seen = Onlooker { progress, interrupt, preview, taker };
    let result = generate(parts, &plan, noise.as_ref(), &mut seen);
    seen.finish(result)
}

/// The model's files, with those that autoguidance leads away from.
pub(crate) fn open(paths: &ModelPaths, autoguidance: Option<&Path>) -> anyhow::Result<ModelFiles> {
    let files = ModelFiles::open(paths)?;
    let Some(worse) = autoguidance else { return Ok(files) };
    let with_worse = || Ok::<_, anyhow::Error>(files.with_worse(&hub::model(worse, &[PartKind::Transformer])?)?);
    with_worse().context("the model of `--autoguidance`")
}

/// The model, with the digests of its files.
pub(crate) fn load(files: &ModelFiles, args: &GenerateArgs) -> anyhow::Result<Parts> {
    let mut parts = Parts::load(files, args.compute.device, args.compute.precision, args.compat)?;
    parts.name.hashes = hashes::of(files)?;
    with_tiny_decoder(parts, args.taesd.as_deref(), args.compute.precision)
}

/// TAESD3 is 5 MB, with its encoder 10.
const TINY_BYTES_MAX: u64 = 256 << 20;

/// The model with this decoder, if there is one.
pub(crate) fn with_tiny_decoder(parts: Parts, file: Option<&Path>, precision: Precision) -> anyhow::Result<Parts> {
    let Some(file) = file else { return Ok(parts) };
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(hub::part(file)?)?.take(TINY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > TINY_BYTES_MAX {
            bail!("it is larger than {} MB\nhint: give TAESD3's own file", TINY_BYTES_MAX >> 20);
        }
        let mut parts = parts.with_tiny_decoder(&bytes, precision)?;
        parts.name.hashes.insert("taesd".to_owned(), sha256(&bytes));
        Ok(parts)
    };
    read().with_context(|| format!("`--taesd` {}", shown(file)))
}

/// Whether every picture of a plan can be stored in this format, which is better known now than when it is drawn.
fn fits(plan: &Plan, parts: &Parts, format: Format, latents_given: bool) -> anyhow::Result<()> {
    for prompt in &plan.prompts {
        let settings = Settings::of(plan, &parts.name, prompt, plan.seed, latents_given);
        format.check([plan.width, plan.height], &settings.texts())?;
    }
    Ok(())
}

/// The words of a model's folder, if it has a list.
fn known_words(paths: &ModelPaths) -> anyhow::Result<Option<KnownWords>> {
    let Some(folder) = paths.model.as_deref() else { return Ok(None) };
    KnownWords::open(folder).with_context(|| {
        format!(
            "{} cannot be read\nhint: remove it, or put a list of words there",
            folder.join(KnownWords::FILE).display()
        )
    })
}

/// Prompts, pictures of each, and the first one's seed.
pub(crate) struct Drawn {
    pub(crate) prompts: Vec<String>,
    pub(crate) count: usize,
    pub(crate) seed: u64,
}

/// What will be drawn, and what it starts from if a file gives that. Before any weight is read.
pub(crate) fn resolve(
    args: &GenerateArgs,
    drawn: Drawn,
    model: &ModelFacts,
    device: &Device,
) -> anyhow::Result<(Plan, Option<Tensor<4>>)> {
    let given = args.latents_in.as_deref();
    let noise = given.map(|path| latents::read(path, model, device)).transpose()?;
    let side =
        |axis: usize, side: Option<usize>| side.or(noise.as_ref().map(|noise| noise.dims()[axis] * model.latent_px));
    let request = Request {
        prompts: drawn.prompts,
        prompt_clip: args.prompt_clip.clone(),
        prompt_t5: args.prompt_t5.clone(),
        negative: args.negative.clone(),
        syntax: args.prompt_syntax,
        long_prompts: args.long_prompts,
        width: side(3, args.width),
        height: side(2, args.height),
        steps: args.steps,
        guidance: args.guidance.request()?,
        shift: args.shift,
        spacing: args.schedule,
        sigmas: args.sigmas.clone(),
        seed: drawn.seed,
        count: drawn.count,
        batch_size: args.batch_size,
        solver: args.solver,
        t5_length: args.t5_length,
        reuse: args.reuse()?,
        compat: args.compat,
        tiling: args.vae_tiling,
    };
    let plan = request.resolve(model)?;
    if let (Some(noise), Some(path)) = (&noise, given) {
        let pictures = plan.pictures().len();
        latents::check(noise, &plan, pictures).with_context(|| format!("`--latents-in {}`", path.display()))?;
    }
    Ok((plan, noise))
}
