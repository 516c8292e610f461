//! The prompts of a run: from the line, from a file, with their alternatives chosen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, bail};
use rectiflow_generate::{Wildcards, expand, has_alternatives};
use rectiflow_weights::shown;

use crate::bounded;

/// Bytes of a file of prompts or of wildcards.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Prompts from a file, one a line; `-` is standard input. Empty lines and those that begin with `#` are none.
///
/// # Errors
/// It cannot be read, is no text, is too long, or has no prompt.
pub(super) fn from_file(path: &Path) -> anyhow::Result<Vec<String>> {
    let lines = lines_of(path).with_context(|| format!("`--prompt-file` {} cannot be read", shown(path)))?;
    if lines.is_empty() {
        bail!("`--prompt-file` {} has no prompt\nhint: write one a line", shown(path));
    }
    Ok(lines)
}

fn lines_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = if path == Path::new("-") {
        bounded::text(std::io::stdin().lock(), FILE_BYTES_MAX)?
    } else {
        bounded::text(std::fs::File::open(path)?, FILE_BYTES_MAX)?
    };
    let Some(text) = text else {
        bail!("it is longer than {} MB\nhint: cut it into several files", FILE_BYTES_MAX >> 20);
    };
    let is_said = |line: &&str| !line.is_empty() && !line.starts_with('#');
    Ok(text.lines().map(str::trim).filter(is_said).map(str::to_owned).collect())
}

/// Prompts whose alternatives are chosen picture by picture, and how many pictures each has then.
///
/// # Errors
/// An alternative cannot be chosen.
pub(crate) fn chosen(
    prompts: Vec<String>,
    count: usize,
    seed: u64,
    folder: Option<&Path>,
) -> anyhow::Result<(Vec<String>, usize)> {
    if !prompts.iter().any(|prompt| has_alternatives(prompt)) {
        return Ok((prompts, count));
    }
    let mut files = Files { folder: folder.map(Path::to_owned), read: BTreeMap::new() };
    let pictures = prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, count)).zip(0..);
    let chosen = pictures.map(|(prompt, index)| {
        let prompt_of = |error| anyhow::anyhow!("in the prompt {prompt:?}: {error}");
        expand(prompt, seed.saturating_add(index), &mut files).map_err(prompt_of)
    });
    Ok((chosen.collect::<anyhow::Result<_>>()?, 1))
}

/// Files of a folder, each read once.
struct Files {
    folder: Option<PathBuf>,
    read: BTreeMap<String, Rc<[String]>>,
}

impl Wildcards for Files {
    fn lines(&mut self, name: &str) -> Result<Rc<[String]>, String> {
        if let Some(lines) = self.read.get(name) {
            return Ok(Rc::clone(lines));
        }
        let keep = format!("write \\__{name}__ if it is part of the text");
        let Some(folder) = &self.folder else {
            return Err(format!(
                "__{name}__ stands for a line of a file, and there is no folder of such files\n\
                 hint: give it with `--wildcards`, or {keep}"
            ));
        };
        let path = folder.join(format!("{}.txt", name.trim_start_matches('/')));
        let lines = lines_of(&path).map_err(|error| {
            format!(
                "__{name}__ is a line of {}, which cannot be read: {error}\nhint: make the file, or {keep}",
                shown(&path)
            )
        })?;
        if lines.is_empty() {
            return Err(format!(
                "__{name}__ is a line of {}, which has none\nhint: write a choice a line",
                shown(&path)
            ));
        }
        let lines: Rc<[String]> = lines.into();
        self.read.insert(name.to_owned(), Rc::clone(&lines));
        Ok(lines)
    }
}
