//! `rectiflow cache`

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use rectiflow_dataset::{CacheError, CacheWriter, Dataset};
use rectiflow_generate::Encoders;
use rectiflow_nn::DeviceChoice;
use rectiflow_train::encode::{self, CacheMaker, Made};
use rectiflow_train::plan::{Overrides, Plan};
use rectiflow_train::recipe::Recipe;
use rectiflow_train::setup::{encoder_files, whole_latents};
use rectiflow_weights::shown;

use crate::hub;
use crate::interrupt::Interrupt;
use crate::left_out;
use crate::output::{self, INTERRUPTED};
use crate::progress::Progress;
use crate::writable::check_folder;

/// Encode the data of a recipe once: latents and text features
///
/// Writes the cache that the recipe's `data.cache` names. Several processes may make one cache together, and make what
/// one of them left that was stopped or killed. A cache is gone on with only with the data, the encoders and the settings
/// that it was begun with; training needs the same encoders and settings, and no longer the data. Prints the cache's
/// folder.
#[derive(clap::Args)]
pub(crate) struct CacheArgs {
    /// The recipe that will be trained
    recipe: PathBuf,
    /// Folder of the cache, instead of the recipe's
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Read all of a cache that is there, and make what is damaged again
    #[arg(long)]
    verify: bool,
    /// Where to compute: cpu; or vulkan, metal or cuda where built in, of which none has been tried yet
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    device: DeviceChoice,
}

pub(crate) fn run(args: CacheArgs) -> anyhow::Result<ExitCode> {
    let Plan { mut recipe, .. } = Plan::resolve(Recipe::read(&args.recipe)?, Overrides::default())?;
    let folder = args.out.or(recipe.data.cache.clone()).ok_or_else(|| {
        anyhow!("the recipe names no cache\nhint: set `data.cache`, or give `--out`; caches are for the flow objective")
    })?;
    hub::bring_models_of(&mut recipe)?;
    let encoders_at = recipe.data.encoders.clone().ok_or_else(|| {
        anyhow!("the recipe names no encoders\nhint: set `data.encoders` to the model whose encoders are used")
    })?;
    check_cache_folder(&folder)?;
    let interrupt = Interrupt::catch("; finished shards stay")?;
    let mut progress = Progress::new();
    progress.phase("look at the data");
    let files = encoder_files(&encoders_at)?;
    whole_latents(recipe.data.source.sizes()?.sizes(), files.vae())?;
    let (dataset, findings) = Dataset::open(&recipe.data.source)?;
    progress.phase("open and check encoders");
    let encoding = recipe.data.encoding;
    let keys = encode::keys(&files, &recipe.data.source, &encoding, recipe.seed)?;
    let precision = encoding.precision.into();
    let widths = files.conditioning_widths();
    let encoders = Encoders::load(&files, args.device, precision, encoding.t5_tokens, widths)?;
    let maker = CacheMaker { dataset: &dataset, findings: &findings, encoders: &encoders, encoding, seed: recipe.seed };
    let mut writer = CacheWriter::open(&folder, maker.plan(keys))?;
    progress.say(&left_out::list(&findings, &folder)?);
    if args.verify {
        progress.phase("verify");
        for damaged in writer.discard_damaged()? {
            progress.say(&format!("{damaged}"));
        }
    }
    progress.phase("encode");
    let total = maker.left(&writer)?;
    let mut watch = |made: &Made| {
        let done = made.samples + made.left_out;
        progress.step(done as usize, total.max(done) as usize);
        wish(&interrupt)
    };
    let (mut made, mut took, mut is_waiting) = (Made::default(), Duration::ZERO, false);
    let cache = loop {
        let started = Instant::now();
        let ended = maker.make(&mut writer, &mut made, &mut watch).map_err(|problem| anyhow!(problem))?;
        took += started.elapsed();
        if ended.is_break() {
            break None;
        }
        match writer.finish() {
            Err(error @ CacheError::Unfinished { .. }) => {
                if !std::mem::replace(&mut is_waiting, true) {
                    output::note(&format!("waiting: {error}"));
                }
                std::thread::sleep(AGAIN);
            }
            finished => break Some(finished?),
        }
        if interrupt.is_asked() {
            break None;
        }
    };
    progress.end_phase();
    output::note(&format!("{} samples encoded{}{}", made.samples, rate(&made, took), left(&made)));
    let Some(cache) = cache else {
        output::note("stopped; the shards that were finished stay, and the same command goes on");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    output::note(&format!("the cache holds {} of {} samples", cache.manifest().stored, dataset.kept().len()));
    output::data(&folder.display().to_string());
    Ok(ExitCode::SUCCESS)
}

/// How long is waited between looks at what other processes have made, or left when they ended.
const AGAIN: Duration = Duration::from_millis(200);

/// Before hours of work: that the cache can be written, or gone on with.
fn check_cache_folder(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() && !folder.is_dir() {
        bail!("{} is a file, and a cache is a folder\nhint: give another folder", shown(folder));
    }
    check_folder(folder)
}

/// Nothing where nothing was encoded.
fn rate(made: &Made, took: Duration) -> String {
    match made.samples {
        0 => String::new(),
        samples => format!(", {:.1} a second", samples as f64 / took.as_secs_f64()),
    }
}

fn wish(interrupt: &Interrupt) -> ControlFlow<()> {
    if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// What was not encoded in whole.
fn left(made: &Made) -> String {
    let mut text = String::new();
    if made.left_out > 0 {
        text += &format!("; {} left out, which its manifest.json lists", made.left_out);
    }
    if made.cut > 0 {
        text += &format!("; of {} captions an encoder does not see the end", made.cut);
    }
    text
}
