//! The `rectiflow` program: parse, resolve, run, report. One file a subcommand; everything else is in the crates.

mod args;
mod bench;
mod bounded;
mod cache;
mod convert;
mod dataset;
mod ema;
mod embedded;
mod evaluate;
mod formulations;
mod generate;
mod grid;
mod hashes;
mod hub;
mod inspect;
mod interrupt;
mod left_out;
mod memory;
mod onlooker;
mod output;
mod plan;
mod progress;
mod replay;
mod threads;
mod train;
mod verify;
mod writable;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::generate::Preset;

/// Stable Diffusion 3 on your own machine
///
/// Exit status: 0 done, 1 `verify` found a stage over its bound or `replay` another picture, 2 an error, 130 interrupted.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Threads that compute; results do not depend on it [default: RECTIFLOW_THREADS, or one a core]
    #[arg(long, short, value_name = "N", global = true)]
    threads: Option<threads::Threads>,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::GenerateArgs>),
    Grid(Box<grid::GridArgs>),
    Plan(Box<plan::PlanArgs>),
    Replay(replay::ReplayArgs),
    Train(train::TrainArgs),
    Cache(cache::CacheArgs),
    Convert(convert::ConvertArgs),
    Ema(ema::EmaArgs),
    Evaluate(Box<evaluate::EvaluateArgs>),
    Bench(bench::BenchArgs),
    Formulations(formulations::FormulationsArgs),
    Dataset(dataset::DatasetArgs),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
}

impl Cli {
    /// What a line of words asks of `grid`.
    ///
    /// # Errors
    /// It asks for what cannot be.
    fn grid_of(line: &[OsString]) -> anyhow::Result<grid::GridArgs> {
        match Cli::try_parse_from(line)?.with_preset(line)?.command {
            Command::Grid(args) => Ok(*args),
            _ => unreachable!("the line is that of a grid"),
        }
    }

    /// The line, read a second time where it names a preset, which decides what options are without the line.
    ///
    /// # Errors
    /// There is no such preset, or it asks for what cannot be.
    fn with_preset(self, line: &[OsString]) -> anyhow::Result<Cli> {
        let (name, args) = match &self.command {
            Command::Generate(args) => ("generate", &**args),
            Command::Grid(args) => ("grid", &args.draw),
            Command::Plan(args) => ("plan", &args.draw),
            _ => return Ok(self),
        };
        let Some(named) = &args.preset else { return Ok(self) };
        let mut command = Cli::command();
        let of_line = command.clone().try_get_matches_from(line)?;
        let options = command.find_subcommand(name).zip(of_line.subcommand_matches(name));
        let (options, of_line) = options.expect("it was read from the line");
        let preset = Preset::of(named, args, options, of_line)?;
        command = command.mut_subcommand(name, |options| preset.applied(options));
        let matches = command.try_get_matches_from(line).map_err(|problem| preset.refused(&problem))?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        let said = Some(preset.line());
        match &mut cli.command {
            Command::Generate(args) => args.preset_line = said,
            Command::Grid(args) => args.draw.preset_line = said,
            Command::Plan(args) => args.draw.preset_line = said,
            _ => {}
        }
        Ok(cli)
    }
}

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    output::end(Cli::parse().with_preset(&line).and_then(run).unwrap_or_else(|error| output::report(&error)))
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    threads::start(cli.threads)?;
    match cli.command {
        Command::Generate(args) => generate::run(*args),
        Command::Grid(args) => grid::run(*args),
        Command::Plan(args) => plan::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Train(args) => train::run(args),
        Command::Cache(args) => cache::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Ema(args) => ema::run(args),
        Command::Evaluate(args) => evaluate::run(*args),
        Command::Bench(args) => bench::run(args),
        Command::Formulations(args) => formulations::run(&args),
        Command::Dataset(args) => dataset::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// clap looks for this only in builds with debug assertions.
    #[test]
    fn no_two_options_of_a_command_have_the_same_name() {
        let mut cli = Cli::command();
        // Hands the options that all commands have to each.
        cli.build();
        for command in cli.get_subcommands() {
            let mut names = BTreeSet::new();
            for argument in command.get_arguments() {
                let long = argument.get_long().into_iter().chain(argument.get_all_aliases().unwrap_or_default());
                let long = long.map(|name| format!("--{name}"));
                let short =
                    argument.get_short().into_iter().chain(argument.get_all_short_aliases().unwrap_or_default());
                for name in long.chain(short.map(|name| format!("-{name}"))) {
                    assert!(names.insert(name.clone()), "{} {name}", command.get_name());
                }
            }
        }
    }
}
