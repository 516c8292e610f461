use std::io;
use std::path::{Path, PathBuf};

/// A recipe cannot be followed. Nothing was read or written but the recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file.
    #[error("the recipe {} cannot be read: {problem}", path.display())]
    Unreadable {
        /// Of the recipe.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
    /// A key that no recipe has.
    #[error(
        "{}{}: `{key}` is not a setting here{}",
        path.display(),
        line.map_or_else(String::new, |line| format!(", line {line}")),
        nearest.as_ref().map_or_else(|| format!("\nhint: known are {known}"), |nearest| format!("\nhint: did you mean `{nearest}`? Known are {known}")),
    )]
    UnknownKey {
        /// Of the recipe.
        path: PathBuf,
        /// Where, counted from 1.
        line: Option<usize>,
        /// As it stands there.
        key: String,
        /// The nearest that is known.
        nearest: Option<String>,
        /// All that are.
        known: String,
    },
    /// Not TOML, or a value of another kind than its key has.
    #[error(
        "{}{}: {why}",
        path.display(),
        line.map_or_else(String::new, |line| format!(", line {line}")),
    )]
    Malformed {
        /// Of the recipe.
        path: PathBuf,
        /// Where, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        why: String,
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
    pub(super) fn of(path: &Path, problem: &toml::de::Error) -> RecipeError {
        let (path, message) = (path.to_owned(), problem.message());
        let line = line_of(problem);
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
        match names.split_first() {
            Some((key, known)) if is_unknown => RecipeError::UnknownKey {
                path,
                line,
                key: (*key).to_owned(),
                nearest: nearest(key, known),
                known: known.join(", "),
            },
            _ => RecipeError::Malformed { path, line, why: message.trim().to_owned() },
        }
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
