//! What differs along a side of a grid: the name of an option and its values, as they are typed.
//!
//! An axis knows no option. A cell is the command line with one more option for each axis, read as any other line is: what
//! `generate` takes, an axis takes.

use std::ffi::OsString;
use std::str::FromStr;

use anyhow::{anyhow, bail};
use clap::parser::ValueSource;
use clap::{Command, CommandFactory};
use rectiflow_generate::Axis;
use rectiflow_weights::quoted;

use crate::Cli;
use crate::generate::GenerateArgs;

/// Options that say where pictures go, or how many there are, and so are the same for all cells.
const COMMON: [&str; 14] = [
    "x",
    "y",
    "cells",
    "out",
    "output",
    "format",
    "quality",
    "count",
    "batch-count",
    "prompt-file",
    "latents-out",
    "preview",
    "preview-every",
    "threads",
];

/// `NAME=VALUE,VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AxisArg {
    name: String,
    values: Vec<String>,
}

impl FromStr for AxisArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "give NAME=VALUE,VALUE, such as steps=4,8,16".to_owned();
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let name = name.trim().trim_start_matches('-').replace('_', "-");
        let between = if values.contains(';') { ';' } else { ',' };
        let values: Vec<String> = values.split(between).map(|value| value.trim().to_owned()).collect();
        match &values[..] {
            _ if name.is_empty() => Err(form()),
            [only] if only.is_empty() => Err(form()),
            _ => Ok(AxisArg { name, values }),
        }
    }
}

impl AxisArg {
    pub(super) fn axis(&self) -> Axis {
        Axis { name: self.name.clone(), values: self.values.clone() }
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }

    /// The prompt of a place on this axis.
    ///
    /// # Errors
    /// The words to replace are not in it.
    pub(super) fn replaced(&self, prompt: &str, at: usize) -> anyhow::Result<String> {
        if !self.is("prompt") {
            return Ok(prompt.to_owned());
        }
        let words = &self.values[0];
        if words.is_empty() || !prompt.contains(words.as_str()) {
            bail!(
                "the first value of prompt, {}, is not in the prompt {}\n\
                 hint: each value takes its place there, as in \"a cat\" --x prompt=cat,dog",
                quoted(words),
                quoted(prompt)
            );
        }
        Ok(prompt.replace(words.as_str(), &self.values[at]))
    }

    /// The option as it would be typed.
    fn option(&self, at: usize) -> OsString {
        format!("--{}={}", self.name, self.values[at]).into()
    }
}

/// Checks that axes name options that cells may differ in, and that nobody gave otherwise.
///
/// # Errors
/// One does not.
pub(super) fn check(line: &[OsString], axes: [(&str, Option<&AxisArg>); 2]) -> anyhow::Result<()> {
    let mut program = Cli::command();
    let matches = program.clone().try_get_matches_from(line)?;
    program.build();
    let grid = program.find_subcommand("grid").ok_or_else(|| anyhow!("there is no such command"))?;
    let given = matches.subcommand_matches("grid");
    let mut known = Vec::new();
    for (option, axis) in axes.into_iter().filter_map(|(option, axis)| Some((option, axis?))) {
        if axis.is("prompt") {
            known.push("prompt".to_owned());
            continue;
        }
        let id = option_of(grid, &axis.name).filter(|_| !COMMON.contains(&axis.name.as_str()));
        let Some(id) = id else {
            bail!(
                "{option} {} is no setting that cells can differ in\n\
                 hint: give the name of an option of `rectiflow generate` without its dashes, such as steps, guidance, \
                 seed or solver; or prompt",
                quoted(&axis.name)
            )
        };
        if given.is_some_and(|given| given.value_source(&id) == Some(ValueSource::CommandLine)) {
            bail!("--{0} is given for all cells, and {option} has {0} too\nhint: leave one of them out", axis.name);
        }
        known.push(id);
    }
    match &known[..] {
        [x, y] if x == y => bail!("--x and --y are both {x}\nhint: put all values on one of them"),
        _ => Ok(()),
    }
}

/// The option of this name, by its own or another tool's.
fn option_of(command: &Command, name: &str) -> Option<String> {
    let has_name = |arg: &&clap::Arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases).any(|long| long == name)
    };
    command.get_arguments().find(has_name).map(|arg| arg.get_id().to_string())
}

/// What a cell is drawn with: the command line, and each axis at a place.
///
/// # Errors
/// A value is none that the option takes, or does not go with another option.
pub(super) fn args_of(line: &[OsString], chosen: &[(&AxisArg, usize)]) -> anyhow::Result<GenerateArgs> {
    // Behind the command's name: at the line's end they might follow a `--`, and be words of the prompt.
    let place = line.iter().position(|word| word == "grid").map_or(line.len(), |place| place + 1);
    let options = chosen.iter().filter(|(axis, _)| !axis.is("prompt")).map(|(axis, at)| axis.option(*at));
    let words = line[..place].iter().cloned().chain(options).chain(line[place..].iter().cloned());
    let args = Cli::grid_of(&words.collect::<Vec<_>>()).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let cell: Vec<String> = chosen.iter().map(|(axis, at)| format!("{}={}", axis.name, axis.values[*at])).collect();
        anyhow!("the cell {}: {}", cell.join(", "), first.strip_prefix("error: ").unwrap_or(first))
    })?;
    Ok(args.draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> AxisArg {
        text.parse().unwrap()
    }

    #[test]
    fn an_axis_is_a_name_and_its_values() {
        let steps = axis("--t5_length= 8, 16");
        assert_eq!((steps.name.as_str(), &steps.values[..]), ("t5-length", &["8".to_owned(), "16".to_owned()][..]));
        assert_eq!(axis("guidance=7,5;4").values, ["7,5", "4"]);
        assert_eq!(axis("negative=,blurry").values, ["", "blurry"]);
        for text in ["steps", "=4", "steps="] {
            assert!(text.parse::<AxisArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_cell_is_the_line_with_its_options() {
        let line: Vec<OsString> =
            ["rectiflow", "grid", "--x", "seed=4,8", "--", "--odd prompt"].map(OsString::from).into();
        let cell = args_of(&line, &[(&axis("seed=4,8"), 1)]).unwrap();
        assert_eq!((cell.seed.number(), cell.prompts().unwrap()), (8, vec!["--odd prompt".to_owned()]));
        let error = args_of(&line, &[(&axis("steps=4,many"), 1)]).err().unwrap().to_string();
        assert!(error.starts_with("the cell steps=many: invalid value 'many'"), "{error}");
    }

    #[test]
    fn axes_that_cells_cannot_differ_in_are_refused() {
        let check = |x: &str, y: Option<&str>, more: &[&str]| {
            let axes = [Some(x), y].map(|text| text.map(axis));
            let line =
                ["rectiflow", "grid", "--x", x, "a cat"].iter().chain(more).map(OsString::from).collect::<Vec<_>>();
            check(&line, [("--x", axes[0].as_ref()), ("--y", axes[1].as_ref())]).map_err(|error| error.to_string())
        };
        assert_eq!(check("steps=4", Some("cfg-scale=2"), &[]), Ok(()));
        assert_eq!(check("prompt=cat,dog", Some("seed=1"), &["--steps", "4"]), Ok(()));
        for (x, y, more, part) in [
            ("out=a.png", None, &[][..], "no setting"),
            ("count=2", None, &[], "no setting"),
            ("colour=red", None, &[], "no setting"),
            ("steps=4", None, &["--steps", "9"], "given for all cells"),
            ("guidance=4", None, &["--cfg-scale", "9"], "given for all cells"),
            ("guidance=4", Some("cfg-scale=5"), &[], "both"),
        ] {
            let error = check(x, y, more).unwrap_err();
            assert!(error.contains(part) && error.contains("hint: "), "{error}");
        }
    }

    #[test]
    fn the_first_words_of_a_prompt_axis_are_replaced_by_each() {
        let prompt = axis("prompt=cat,dog");
        assert_eq!(
            [0, 1].map(|at| prompt.replaced("a cat and a cat", at).unwrap()),
            ["a cat and a cat", "a dog and a dog"]
        );
        assert!(prompt.replaced("a cow", 1).unwrap_err().to_string().contains("not in the prompt"));
        assert_eq!(axis("steps=4,8").replaced("a cow", 1).unwrap(), "a cow");
    }
}
