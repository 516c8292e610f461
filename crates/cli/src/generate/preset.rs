//! `--preset`: settings that stand in a TOML file, or come with the program. Its keys are the long names of the options of
//! `rectiflow generate`, and what it says takes the place of their defaults, so the line has the last word.
//!
//! What this module does not do: know what an option means. clap reads a preset's values as it reads the line's.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};
use rectiflow_generate::ModelFiles;
use rectiflow_weights::shown;

use super::GenerateArgs;
use crate::bounded;

/// Those that come with the program: Stability's own table.
const BUILT_IN: [(&str, &str); 4] = [
    ("sd3-medium", include_str!("../../presets/sd3-medium.toml")),
    ("sd3.5-medium", include_str!("../../presets/sd3.5-medium.toml")),
    ("sd3.5-large", include_str!("../../presets/sd3.5-large.toml")),
    ("sd3.5-large-turbo", include_str!("../../presets/sd3.5-large-turbo.toml")),
];
/// The one of the model that is drawn with.
const AUTO: &str = "auto";
/// Longer is no preset.
const BYTES_MAX: u64 = 1 << 20;
/// Options that decide where a preset is looked for, or have no meaning in one.
const NOT_IN_ONE: [&str; 3] = ["preset", "help", "version"];

/// Settings by the names of their options.
pub(crate) struct Preset {
    name: String,
    settings: Vec<Setting>,
    /// Keys of what the line says itself, or what does not go with it.
    overridden: Vec<String>,
}

struct Setting {
    /// As it is written.
    key: String,
    option: clap::Id,
    /// One for most options.
    values: Vec<String>,
}

impl Preset {
    /// The preset of that name. `command` is what the arguments are of, and `line` what the line says.
    ///
    /// # Errors
    /// There is none of that name, its file cannot be read, a key is no option, or two do not go together.
    pub(crate) fn of(name: &str, args: &GenerateArgs, command: &Command, line: &ArgMatches) -> anyhow::Result<Preset> {
        let name = if name == AUTO { variant(args)? } else { name };
        let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None => read(Path::new(name))?,
        };
        let table: toml::Table = toml::from_str(&text)
            .map_err(|problem| anyhow!("the preset {} is no TOML: {problem}", shown(Path::new(name))))?;
        let settings = table.into_iter().map(|(key, value)| {
            let values = values(&value).with_context(|| format!("`{key}` of the preset {name}"))?;
            let option = option(command, &key).with_context(|| format!("the preset {name}"))?;
            Ok(Setting { key, option, values })
        });
        let settings = settings.collect::<anyhow::Result<Vec<_>>>()?;
        for (place, one) in settings.iter().enumerate() {
            if let Some(other) = settings[..place].iter().find(|other| exclude(command, &one.option, &other.option)) {
                bail!(
                    "the preset {name} has both `{}` and `{}`, which do not go together\nhint: take one of them out",
                    other.key,
                    one.key
                );
            }
        }
        let of_line: Vec<&clap::Id> =
            line.ids().filter(|id| line.value_source(id.as_str()) == Some(ValueSource::CommandLine)).collect();
        let is_overridden = |setting: &Setting| {
            of_line.iter().any(|said| **said == setting.option || exclude(command, said, &setting.option))
        };
        let (overridden, settings): (Vec<_>, Vec<_>) = settings.into_iter().partition(is_overridden);
        let overridden = overridden.into_iter().map(|setting| setting.key).collect();
        Ok(Preset { name: name.to_owned(), settings, overridden })
    }

    /// The command with these settings for defaults.
    pub(crate) fn applied(&self, command: Command) -> Command {
        self.settings.iter().fold(command, |command, Setting { option, values, .. }| {
            command.mut_arg(option, |argument| {
                let takes_several = matches!(argument.get_action(), ArgAction::Append);
                match argument.get_value_delimiter() {
                    None if !takes_several => argument.default_value(values.join(",")),
                    _ => argument.default_values(values.clone()),
                }
            })
        })
    }

    /// What it sets, and what of it the line overrides.
    pub(crate) fn line(&self) -> String {
        let set: Vec<String> =
            self.settings.iter().map(|Setting { key, values, .. }| format!("{key} {}", values.join(","))).collect();
        let set = if set.is_empty() { "nothing".to_owned() } else { set.join(", ") };
        let overridden = self.overridden.join(", ");
        let yours = if overridden.is_empty() { String::new() } else { format!("; not its {overridden}") };
        format!("preset {}: {set}{yours}", self.name)
    }

    /// A value that its option does not take.
    pub(crate) fn refused(&self, problem: &clap::Error) -> anyhow::Error {
        let problem = problem.to_string();
        let problem = problem.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        anyhow!("the preset {}: {problem}\nhint: `rectiflow generate --help` says what each option takes", self.name)
    }
}

/// Whether one of two options must be left out.
fn exclude(command: &Command, one: &clap::Id, other: &clap::Id) -> bool {
    let has = |id: &clap::Id, other: &clap::Id| {
        let argument = command.get_arguments().find(|argument| argument.get_id() == id);
        argument.is_some_and(|argument| {
            command.get_arg_conflicts_with(argument).iter().any(|conflict| conflict.get_id() == other)
        })
    };
    has(one, other) || has(other, one)
}

/// The option of a key, with dashes or underlines.
fn option(command: &Command, key: &str) -> anyhow::Result<clap::Id> {
    let dashed = key.replace('_', "-");
    let names = |argument: &clap::Arg| {
        let aliases = argument.get_all_aliases().unwrap_or_default();
        argument.get_long().into_iter().chain(aliases).map(str::to_owned).collect::<Vec<_>>()
    };
    let is_setting = |one: &&clap::Arg| one.get_long().is_some_and(|name| !NOT_IN_ONE.contains(&name));
    let options = || command.get_arguments().filter(is_setting);
    if let Some(found) = options().find(|one| names(one).iter().any(|name| *name == dashed || name == key)) {
        return Ok(found.get_id().clone());
    }
    let likeness = |name: &String| strsim::jaro_winkler(&dashed, name);
    let nearest = options().flat_map(names).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let nearest = nearest.map_or_else(String::new, |name| format!("; the nearest is `{name}`"));
    bail!(
        "it has `{key}`, which is no option of `rectiflow generate`{nearest}\n\
         hint: keys are the long names of its options, without dashes in front"
    )
}

/// The preset of the release that the model is of. Turbo has Large's tensors, and gets Large's.
fn variant(args: &GenerateArgs) -> anyhow::Result<&'static str> {
    let variant = ModelFiles::open(&args.model.paths()?)?.variant();
    let is_it = |name: &&str| variant.to_lowercase().starts_with(name);
    BUILT_IN.map(|(name, _)| name).into_iter().find(is_it).ok_or_else(|| {
        anyhow!(
            "`--preset auto` has none for this model, {variant}\nhint: give one of {}, or a file of your own",
            names()
        )
    })
}

fn names() -> String {
    BUILT_IN.map(|(name, _)| name).join(", ")
}

fn read(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::File::open(path).and_then(|file| bounded::text(file, BYTES_MAX));
    let whole = text.and_then(|text| text.ok_or_else(|| std::io::Error::other("it is larger than a megabyte")));
    whole.map_err(|problem| {
        anyhow!("there is no preset {}: {problem}\nhint: give {AUTO}, {}, or a TOML file", shown(path), names())
    })
}

fn values(value: &toml::Value) -> anyhow::Result<Vec<String>> {
    Ok(match value {
        toml::Value::Array(all) => all.iter().map(one_value).collect::<anyhow::Result<_>>()?,
        one => vec![one_value(one)?],
    })
}

fn one_value(value: &toml::Value) -> anyhow::Result<String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        _ => bail!("it is neither a text nor a number, nor a list of them"),
    }
}
