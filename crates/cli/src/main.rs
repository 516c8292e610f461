//! The `rectiflow` program: parse, resolve, run, report. One file a subcommand; everything else is in the crates.

mod args;
mod generate;
mod inspect;
mod memory;
mod output;
mod progress;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Stable Diffusion 3 on your own machine
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::GenerateArgs),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(args) => generate::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
    };
    result.unwrap_or_else(|error| output::report(&error))
}
