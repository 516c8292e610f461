//! `rectiflow ema`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use rectiflow_train::averages::Averages;
use rectiflow_train::ema::reweigh::Profile;
use rectiflow_train::run::RunFolder;

use rectiflow_weights::shown;

use crate::output;
use crate::writable::check_outside;

/// Make a model with an average of another length, after its training
///
/// Of the power-function averages that a run kept at its checkpoints (`[[ema]] kind = "power"` in its recipe) one of any
/// length and of any step is put together (Karras et al. 2024). Prints the new model's folder.
#[derive(clap::Args)]
pub(crate) struct EmaArgs {
    /// Folder of a run
    run: PathBuf,
    /// Length of the average: its deviation over the length of the training, 0 to 0.288
    #[arg(long, value_name = "LENGTH")]
    sigma_rel: f64,
    /// Step that it is of [default: the last that was kept]
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Folder of the new model
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(args: EmaArgs) -> anyhow::Result<ExitCode> {
    if args.out.exists() {
        bail!("{} is there already\nhint: give `--out` a new folder", shown(&args.out));
    }
    let run = RunFolder::new(args.run);
    if !run.plan().is_file() {
        bail!("there is no run in {}\nhint: give the folder that `rectiflow train --out` was given", shown(run.root()));
    }
    check_outside(&args.out, run.root(), "the run's own folder")?;
    let averages = Averages::of(&run)?;
    let step = args.step.unwrap_or_else(|| averages.last_step());
    let (tensors, error) = averages.nearest(Profile { step, sigma_rel: args.sigma_rel })?;
    averages.write_model(&run, tensors, &args.out).map_err(|problem| anyhow!(problem))?;
    output::note(&format!(
        "average of length {} at step {step}; its weights of the steps are off by {:.1} %",
        args.sigma_rel,
        100.0 * error
    ));
    output::data(&args.out.display().to_string());
    Ok(ExitCode::SUCCESS)
}
