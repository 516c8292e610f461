//! `rectiflow generate`

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use rectiflow_generate::{Compat, Encoder, ImageError, Parts, Picture, Plan, Request, Watch, generate};
use rectiflow_nn::{Device, Tensor, TensorData, to_f32};
use rectiflow_sample::Solver;
use rectiflow_weights::{read_all, write_safetensors};

use crate::args::{ComputeArgs, ModelArgs};
use crate::output::{self, INTERRUPTED};
use crate::progress::Progress;

/// The name of the tensor in `--latents-in` and `--latents-out`.
const LATENTS: &str = "latents";

/// Draw pictures from prompts
#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    /// What to draw; give several for several pictures. "" draws what the model likes
    prompt: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// What to stay away from
    #[arg(long, short, default_value = "", value_name = "TEXT", allow_hyphen_values = true)]
    negative: String,
    /// Width in pixels, a multiple of 16 [default: 1024, or the model's largest]
    #[arg(long, short = 'W', value_name = "PX")]
    width: Option<usize>,
    /// Height in pixels, a multiple of 16 [default: 1024, or the model's largest]
    #[arg(long, short = 'H', value_name = "PX")]
    height: Option<usize>,
    /// Steps of the solver [default: 28]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Guidance scale; 1 or less turns guidance off [default: 7]
    #[arg(long, visible_alias = "cfg-scale", value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Stretch of the noise levels [default: the model's, or 3]
    #[arg(long, visible_alias = "flow-shift", value_name = "SHIFT", allow_negative_numbers = true)]
    shift: Option<f32>,
    /// Seed of the first picture; picture i has seed + i
    #[arg(long, short, default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// Pictures of each prompt
    #[arg(long, short, default_value_t = 1, value_name = "N")]
    count: usize,
    /// Solver: euler, heun or dpmpp_2m [default: euler]
    #[arg(long, visible_alias = "sampling-method", value_name = "NAME")]
    solver: Option<Solver>,
    /// Most T5 tokens, 77 to 512 [default: 256]
    #[arg(long, value_name = "TOKENS")]
    t5_length: Option<usize>,
    /// Whose picture to draw where the references differ: diffusers or stability; also sets the defaults
    #[arg(long, default_value_t = Compat::Diffusers, value_name = "NAME")]
    compat: Compat,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Start from these latents (safetensors, tensor `latents` [1 or N, 16, H/8, W/8]) instead of the seed's noise
    #[arg(long, value_name = "FILE")]
    latents_in: Option<PathBuf>,
    /// Store the final latents (safetensors, tensor `latents` [N, 16, H/8, W/8])
    #[arg(long, value_name = "FILE")]
    latents_out: Option<PathBuf>,
    /// A .png file, replaced if it is there, or a folder [default: a new rectiflow-NNNN.png here]
    #[arg(long, short, value_name = "PATH")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: GenerateArgs) -> anyhow::Result<ExitCode> {
    if args.prompt.is_empty() {
        bail!(rectiflow_generate::PlanError::NoPrompt);
    }
    let pictures = args.prompt.len().saturating_mul(args.count);
    let names = OutputNames::new(args.out.as_deref(), pictures)?;
    if let Some(path) = &args.latents_out {
        check_writable(path).with_context(|| format!("`--latents-out {}` cannot be written", path.display()))?;
    }
    let paths = args.model.paths();
    if paths == rectiflow_weights::ModelPaths::default() {
        bail!(
            "no model given, and none is built in yet\n\
             hint: `--model PATH` takes a diffusers folder or an official .safetensors file, such as \
             sd3_medium_incl_clips.safetensors;\n      from a clone, `--model fixtures/sd3/model` tries it out"
        );
    }
    let device = args.compute.device.open()?;

    let mut progress = Progress::new();
    progress.phase("open and check");
    let parts = Parts::open(&paths, &device, args.compute.precision, args.compat)?;
    let noise = args.latents_in.as_deref().map(|path| read_latents(path, &parts, &device)).transpose()?;
    let side = |latent: usize, given: Option<usize>| {
        given.or(noise.as_ref().map(|n| n.dims()[latent] * parts.vae.config().downsampling()))
    };
    let request = Request {
        prompts: args.prompt,
        negative: args.negative,
        width: side(3, args.width),
        height: side(2, args.height),
        steps: args.steps,
        guidance: args.guidance,
        shift: args.shift,
        seed: args.seed,
        count: args.count,
        solver: args.solver,
        t5_length: args.t5_length,
        compat: args.compat,
    };
    let plan = request.resolve(&parts.facts)?;
    if let (Some(noise), Some(path)) = (&noise, &args.latents_in) {
        check_noise(noise, &plan, &parts, pictures).with_context(|| format!("`--latents-in {}`", path.display()))?;
    }
    say_plan(&progress, &parts, &plan);

    let mut studio =
        Studio { progress, names, latents_out: args.latents_out, latents: Vec::new(), interrupted: on_interrupt()? };
    let result = generate(parts, &plan, noise.as_ref(), &mut studio);
    studio.progress.end_phase();
    match result {
        Ok(()) => {
            studio.progress.finish();
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is_stop() => {
            let done = studio.latents.len();
            output::note(&format!(
                "interrupted: {done} of {pictures} pictures are finished and stored, nothing is half written"
            ));
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error.into()),
    }
}

fn say_plan(progress: &Progress, parts: &Parts, plan: &Plan) {
    let encoders = parts.name.encoders.join(", ");
    progress.say(&format!("{}: {}, {}, text by {encoders}", parts.name.file, parts.name.variant, parts.name.precision));
    for absent in ["CLIP-L", "CLIP-G", "T5"].into_iter().filter(|name| !parts.name.encoders.iter().any(|e| e == name)) {
        progress.say(&format!("without {absent}: zeros take its place"));
    }
    let guidance = if plan.is_guided() { format!("guidance {}", plan.guidance) } else { "no guidance".into() };
    progress.say(&format!(
        "{}x{}, {} steps of {}, {guidance}, shift {}, seed {}, T5 length {}, as {} draws",
        plan.width,
        plan.height,
        plan.schedule.len(),
        plan.solver,
        plan.shift,
        plan.seed,
        plan.t5_length,
        plan.compat
    ));
}

/// Takes what a run gives: shows it, stores it.
struct Studio {
    progress: Progress,
    names: OutputNames,
    latents_out: Option<PathBuf>,
    latents: Vec<Tensor<4>>,
    interrupted: Arc<AtomicBool>,
}

impl Watch for Studio {
    fn phase(&mut self, name: &str) {
        self.progress.phase(name);
    }

    fn step(&mut self, done: usize, of: usize) -> ControlFlow<()> {
        self.progress.step(done, of);
        if self.interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn cut(&mut self, encoder: Encoder, tokens: usize, words: &str) {
        const SHOWN: usize = 200;
        let shown: String = words.chars().take(SHOWN).collect();
        let more = if words.chars().count() > SHOWN { " ..." } else { "" };
        self.progress
            .say(&format!("warning: {encoder} does not see the last {tokens} tokens: {:?}{more}", shown.trim()));
    }

    fn picture(&mut self, picture: Picture) -> Result<(), ImageError> {
        let path = self.names.of(self.latents.len(), picture.settings.seed);
        picture.image.save_png(&path, &picture.settings.texts())?;
        self.latents.push(picture.latent);
        if let Some(out) = &self.latents_out {
            store_latents(out, &self.latents).map_err(|error| ImageError::new(out, std::io::Error::other(error)))?;
        }
        output::data(&path.display().to_string());
        Ok(())
    }
}

/// The files that pictures go to.
struct OutputNames {
    place: Place,
    pictures: usize,
}

enum Place {
    File(PathBuf),
    Folder(PathBuf),
}

impl OutputNames {
    /// Finds out now, not after an hour of drawing, that a path cannot be written.
    fn new(out: Option<&Path>, pictures: usize) -> anyhow::Result<Self> {
        let place = match out {
            None => Place::Folder(PathBuf::from(".")),
            Some(path) if path.is_dir() => Place::Folder(path.to_owned()),
            Some(path) if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) => {
                Place::File(path.to_owned())
            }
            Some(path) => bail!(
                "--out {} is neither a .png file name nor a folder that is there\nhint: give NAME.png, or make the folder first",
                path.display()
            ),
        };
        let probe = match &place {
            Place::File(path) => path.clone(),
            Place::Folder(folder) => folder.join("picture.png"),
        };
        check_writable(&probe).with_context(|| {
            format!("pictures cannot be written to {}", probe.parent().unwrap_or(Path::new(".")).display())
        })?;
        Ok(OutputNames { place, pictures })
    }

    /// Picture `index` of the run: the given name, with a number if there are several; in a folder a new name.
    fn of(&self, index: usize, seed: u64) -> PathBuf {
        match &self.place {
            Place::File(path) if self.pictures == 1 => path.clone(),
            Place::File(path) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                path.with_file_name(format!("{stem}-{}.png", index + 1))
            }
            Place::Folder(folder) => {
                let names = (0..).map(|n| match n {
                    0 => folder.join(format!("rectiflow-{seed}.png")),
                    n => folder.join(format!("rectiflow-{seed}-{n}.png")),
                });
                let mut free = names.filter(|path| !path.exists());
                free.next().unwrap_or_else(|| folder.join("rectiflow.png"))
            }
        }
    }
}

/// Makes and removes a file beside `path`.
fn check_writable(path: &Path) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if path.is_dir() {
        bail!("{} is a folder\nhint: give a file name inside it", path.display());
    }
    tempfile::Builder::new().prefix(".rectiflow-").suffix(".tmp").tempfile_in(folder).map(drop).with_context(|| {
        format!("the folder {} is missing or not writable\nhint: make it first, or give another path", folder.display())
    })
}

fn read_latents(path: &Path, parts: &Parts, device: &Device) -> anyhow::Result<Tensor<4>> {
    let mut tensors = read_all(path)?;
    let data = tensors.remove(LATENTS).with_context(|| {
        format!("{} has no tensor `{LATENTS}`\nhint: `--latents-out` writes such a file", path.display())
    })?;
    let channels = parts.vae.config().latent_channels;
    let shape = data.shape().as_slice().to_vec();
    let [_, found, _, _] = shape[..] else {
        bail!("`{LATENTS}` in {} has shape {shape:?}, not [N, {channels}, H, W]", path.display())
    };
    if found != channels {
        bail!("`{LATENTS}` in {} has {found} channels; this model's have {channels}", path.display());
    }
    let latents = Tensor::<4>::from_data(data, (device, rectiflow_nn::DType::F32));
    if !rectiflow_nn::is_finite(&latents) {
        bail!("`{LATENTS}` in {} has values that are not finite", path.display());
    }
    Ok(latents)
}

fn check_noise(noise: &Tensor<4>, plan: &Plan, parts: &Parts, pictures: usize) -> anyhow::Result<()> {
    let [count, _, height, width] = noise.dims();
    let [_, _, rows, columns] = plan.latent_shape(&parts.vae);
    if (height, width) != (rows, columns) {
        bail!(
            "latents of {height}x{width} do not make {}x{} pixels\nhint: leave --width and --height out to take the file's size",
            plan.width,
            plan.height
        );
    }
    if count != 1 && count != pictures {
        bail!("{count} latents for {pictures} pictures\nhint: give one for all, or one for each");
    }
    Ok(())
}

fn store_latents(path: &Path, latents: &[Tensor<4>]) -> anyhow::Result<()> {
    let all = Tensor::cat(latents.to_vec(), 0);
    let data = TensorData::new(to_f32(&all), all.dims());
    write_safetensors(path, &[(LATENTS, &data)], &BTreeMap::new())?;
    Ok(())
}

/// The first Ctrl-C ends the run after its step, with what is finished stored; the second ends it at once.
fn on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        output::note("\nstopping after this step; press Ctrl-C again to stop at once");
    })
    .context("Ctrl-C cannot be caught")?;
    Ok(interrupted)
}
