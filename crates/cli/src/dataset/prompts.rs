//! `rectiflow dataset prompts`

use std::path::PathBuf;
use std::process::ExitCode;

use rectiflow_evaluate::write_prompts;

use crate::output::data;
use crate::writable::check_folder;

/// Write the prompts of `rectiflow evaluate`: scenes that no training has, and how pictures of them are judged
///
/// One JSON object a line, a file for each task. The same art gives the same prompts; assets/evaluation has those of
/// assets/sprites.
#[derive(clap::Args)]
pub(crate) struct PromptsArgs {
    /// Folder for the prompts; files of their names are replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The art
    #[arg(long, value_name = "DIR", default_value = "assets/sprites")]
    art: PathBuf,
}

pub(crate) fn run(args: &PromptsArgs) -> anyhow::Result<ExitCode> {
    check_folder(&args.out)?;
    let count = write_prompts(&args.art, &args.out)?;
    data(&format!("{}: {count} prompts", args.out.display()));
    Ok(ExitCode::SUCCESS)
}
