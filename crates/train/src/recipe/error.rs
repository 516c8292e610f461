use std::io;
use std::path::{Path, PathBuf};

use rectiflow_weights::quoted;

/// A recipe cannot be followed. Nothing was read or written but the recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file.
    #[error("the recipe {} cannot be read: {problem}\nhint: {}", path.display(), way_out(.problem))]
    Unreadable {
        /// Of the recipe.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
    /// A key or a word that no recipe has.
    #[error(
        "{}{}: `{key}` is {}{}",
        path.display(),
        line.map_or_else(String::new, |line| format!(", line {line}")),
        if *is_value { "no value for this setting" } else { "not a setting here" },
        nearest.as_ref().map_or_else(|| format!("\nhint: known are {known}"), |nearest| format!("\nhint: did you mean `{nearest}`? Known are {known}")),
    )]
    UnknownKey {
        /// Of the recipe.
        path: PathBuf,
        /// Where, counted from 1.
        line: Option<usize>,
        /// As it stands there.
        key: String,
        /// It stands for a value.
        is_value: bool,
        /// The nearest that is known.
        nearest: Option<String>,
        /// All that are.
        known: String,
    },
    /// Not TOML, or a value of another kind than its key has.
    #[error(
        "{}{}: {why}\nhint: {hint}",
        path.display(),
        line.as_ref().map_or_else(String::new, |(number, text)| format!(", line {number}, {}", quoted(text))),
    )]
    Malformed {
        /// Of the recipe.
        path: PathBuf,
        /// Where, counted from 1, and what stands there.
        line: Option<(usize, String)>,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// A value that is not possible, or that another forbids.
    #[error("`{setting}` {why}\nhint: {hint}")]
    Impossible {
        /// The key, with those of the tables around it.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
        /// What to do.
        hint: String,
    },
}

impl RecipeError {
    /// From what the parser says. Its text is the only place where it names the key and those it knows.
    pub(super) fn of(path: &Path, recipe: &str, problem: &toml::de::Error) -> RecipeError {
        let (path, message) = (path.to_owned(), problem.message());
        let table = line_of(problem);
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let is_value = message.starts_with("unknown variant");
        let is_unknown = message.starts_with("unknown field") || is_value;
        match names.split_first() {
            Some((key, known)) if is_unknown => RecipeError::UnknownKey {
                path,
                line: table.map(|table| line_in(recipe, table, |text| text.starts_with(key))),
                key: (*key).to_owned(),
                is_value,
                nearest: nearest(key, known),
                known: known.join(", "),
            },
            _ => RecipeError::malformed(path, recipe, table, message.trim()),
        }
    }

    fn malformed(path: PathBuf, recipe: &str, table: Option<usize>, message: &str) -> RecipeError {
        let text = |number: usize| recipe.lines().nth(number.checked_sub(1)?).map(|text| text.trim().to_owned());
        let has = |value: &str, text: &str| text.split_once('=').is_some_and(|(_, there)| there.trim() == value);
        let number = table.map(|table| match value_of(message) {
            Some(value) => line_in(recipe, table, |text| has(&value, text)),
            None => table,
        });
        let line = number.and_then(|number| Some((number, text(number)?)));
        if let Some(field) = message.strip_prefix("missing field ") {
            // The parser's place is that of the table around it, the first line for the whole recipe.
            let line = line.filter(|(number, _)| *number > 1);
            let why = format!("{field} is missing");
            return RecipeError::Malformed { path, line, why, hint: "add it; the files in recipes/ are examples" };
        }
        let is_value = message.starts_with("invalid ");
        let hint = match is_value {
            true => "numbers stand without quotes and units, texts in quotes",
            false => "recipes are TOML (https://toml.io); the files in recipes/ are examples",
        };
        RecipeError::Malformed { path, line, why: if is_value { in_words(message) } else { message.to_owned() }, hint }
    }
}

/// The line in a table, from its first one on, that is meant. Of a table with a `kind` the parser knows no other place
/// than its first line.
fn line_in(recipe: &str, first: usize, is_meant: impl Fn(&str) -> bool) -> usize {
    let lines = recipe.lines().map(str::trim).zip(1..).skip(first.saturating_sub(1));
    let mut inside = lines.take_while(|(text, number)| *number == first || !text.starts_with('['));
    inside.find(|(text, _)| is_meant(text)).map_or(first, |(_, number)| number)
}

/// The value that the parser does not take, as it stands in a recipe.
fn value_of(message: &str) -> Option<String> {
    let is = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    match is.strip_prefix("string ") {
        Some(text) => Some(text.rsplit_once(", expected")?.0.to_owned()),
        None => Some(is.split('`').nth(1)?.to_owned()),
    }
}

/// What a value must be, without the names of Rust's types.
fn in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("a nonzero usize", "a whole number from 1 on"),
        ("a nonzero u64", "a whole number from 1 on"),
        ("u64", "a whole number from 0 on"),
        ("u32", "a whole number from 0 on"),
        ("usize", "a whole number from 0 on"),
        ("f64", "a number"),
        ("f32", "a number"),
        ("a boolean", "true or false"),
    ];
    let said = |(name, words): &(&str, &str)| {
        Some(format!("{}expected {words}", message.strip_suffix(name)?.strip_suffix("expected ")?))
    };
    let of_type = ["expected struct ", "expected internally tagged enum "];
    let table = || {
        let (before, _) = of_type.iter().find_map(|name| message.split_once(name))?;
        Some(format!("{before}expected a table: {{ KEY = VALUE, ... }}"))
    };
    WORDS.iter().find_map(said).or_else(table).unwrap_or_else(|| message.to_owned())
}

fn way_out(problem: &io::Error) -> &'static str {
    match problem.kind() {
        io::ErrorKind::NotFound => "check its path; the files in recipes/ are examples",
        io::ErrorKind::IsADirectory => "that is a folder: name the .toml file in it",
        io::ErrorKind::InvalidData => "save it as UTF-8",
        _ => "check its permissions and its disk",
    }
}

fn line_of(problem: &toml::de::Error) -> Option<usize> {
    // The parser gives a place only in its rendered text: "TOML parse error at line 3, column 1".
    let text = problem.to_string();
    let rest = text.split_once("at line ")?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The known name that was probably meant.
pub(crate) fn nearest(name: &str, known: &[&str]) -> Option<String> {
    let likeness = |known: &&&str| strsim::jaro_winkler(name, known);
    let best = known.iter().max_by(|one, two| likeness(one).total_cmp(&likeness(two)))?;
    (likeness(&best) > 0.7).then(|| (*best).to_owned())
}
