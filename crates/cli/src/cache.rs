//! `rectiflow cache`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use rectiflow_dataset::{CacheWriter, Dataset};
use rectiflow_generate::Encoders;
use rectiflow_nn::DeviceChoice;
use rectiflow_train::encode::{self, CacheMaker, Made};
use rectiflow_train::plan::{Overrides, Plan};
use rectiflow_train::recipe::Recipe;
use rectiflow_train::setup::{encoder_files, said};

use crate::interrupt::Interrupt;
use crate::output::{self, INTERRUPTED};
use crate::progress::Progress;

/// Encode the data of a recipe once: latents and text features
///
/// Writes the cache that the recipe's `data.cache` names. Several processes may make one cache together; one that was
/// stopped or killed is gone on with. Prints the cache's folder.
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
    let Plan { recipe, .. } = Plan::resolve(Recipe::read(&args.recipe)?, Overrides::default())?;
    let folder = args.out.or(recipe.data.cache.clone()).ok_or_else(|| {
        anyhow!("the recipe names no cache\nhint: set `data.cache`, or give `--out`; caches are for the flow objective")
    })?;
    let encoders_at = recipe.data.encoders.clone().ok_or_else(|| {
        anyhow!("the recipe names no encoders\nhint: set `data.encoders` to the model whose encoders are used")
    })?;
    let interrupt = Interrupt::catch("; finished shards stay")?;
    let mut progress = Progress::new();
    progress.phase("look at the data");
    let (dataset, findings) = Dataset::open(&recipe.data.source)?;
    if let Some(found) = said(&findings) {
        progress.say(&found);
    }
    progress.phase("open and check encoders");
    let files = encoder_files(&encoders_at)?;
    let encoding = recipe.data.encoding;
    let keys = encode::keys(&files, &recipe.data.source, &encoding, recipe.seed);
    let precision = encoding.precision.into();
    let widths = files.conditioning_widths();
    let encoders = Encoders::load(&files, args.device, precision, encoding.t5_tokens, widths)?;
    let maker = CacheMaker { dataset: &dataset, encoders: &encoders, encoding, seed: recipe.seed };
    let mut writer = CacheWriter::open(&folder, maker.plan(keys))?;
    if args.verify {
        progress.phase("verify");
        for damaged in writer.discard_damaged()? {
            progress.say(&format!("{damaged}"));
        }
    }
    progress.phase("encode");
    let (started, total) = (Instant::now(), dataset.kept().len());
    let mut watch = |made: &Made| {
        progress.step(made.samples as usize, total);
        wish(&interrupt)
    };
    let (made, ended) = maker.make(&mut writer, &mut watch).map_err(|problem| anyhow!(problem))?;
    progress.end_phase();
    let rate = made.samples as f64 / started.elapsed().as_secs_f64();
    output::note(&format!("{} samples encoded, {rate:.1} a second{}", made.samples, left(&made)));
    if ended.is_break() {
        output::note("stopped; the shards that were finished stay, and the same command goes on");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let mut said_so = false;
    let cache = encode::finish(&writer, &mut |error| {
        if !std::mem::replace(&mut said_so, true) {
            output::note(&format!("waiting: {error}"));
        }
        std::thread::sleep(Duration::from_millis(200));
        wish(&interrupt)
    })?;
    output::note(&format!("the cache holds {} of {} samples", cache.manifest().stored, total));
    output::data(&folder.display().to_string());
    Ok(ExitCode::SUCCESS)
}

fn wish(interrupt: &Interrupt) -> ControlFlow<()> {
    if interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// What was not encoded in whole.
fn left(made: &Made) -> String {
    let mut text = String::new();
    if made.left_out > 0 {
        text += &format!("; {} left out, which the cache lists", made.left_out);
    }
    if made.cut > 0 {
        text += &format!("; of {} captions an encoder does not see the end", made.cut);
    }
    text
}
