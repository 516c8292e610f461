//! `rectiflow dataset`

mod prompts;
mod sprites;

use std::process::ExitCode;

/// Make data sets
#[derive(clap::Args)]
pub(crate) struct DatasetArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Sprites(sprites::SpritesArgs),
    Prompts(prompts::PromptsArgs),
}

pub(crate) fn run(args: DatasetArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Sprites(args) => sprites::run(args),
        Command::Prompts(args) => prompts::run(&args),
    }
}
