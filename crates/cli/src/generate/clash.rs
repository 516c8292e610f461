//! Outputs that would take the place of an input or of each other.

use std::path::{Path, PathBuf};

use anyhow::bail;
use rectiflow_weights::shown;

use super::names::OutputNames;
use crate::writable::folder_of;

/// Files of a model's folder lie in it or in the folders of its parts.
const FOLDERS_DEEP: usize = 2;

/// Checks that everything that is written has a name of its own.
///
/// `others`: each file that is written beside the pictures, and `inputs`: each file or folder that is read, with its
/// option.
///
/// # Errors
/// An output is an input or inside a folder of them, or two outputs have one name.
pub(crate) fn check(
    names: &OutputNames,
    others: &[(&'static str, &Path)],
    inputs: &[(&'static str, &Path)],
) -> anyhow::Result<()> {
    for (index, (option, output)) in others.iter().enumerate() {
        let second = others[..index].iter().find(|(_, earlier)| is_same(earlier, output));
        let (beside, hint) = match second {
            Some((earlier, _)) => (format!("`{earlier}`"), "give one of them another name"),
            None if names.may_be(output) => ("a picture".to_owned(), "give the option a name that no picture has"),
            None => continue,
        };
        bail!("`{option}` and {beside} would both go to {}\nhint: {hint}", shown(output));
    }
    let pictures = names.given();
    let pictures = pictures.iter().map(|path| ("--out", path.as_path()));
    check_apart(&pictures.chain(others.iter().copied()).collect::<Vec<_>>(), inputs)
}

/// Checks that no output is an input or inside a folder of them, each with its option.
///
/// # Errors
/// One is.
pub(crate) fn check_apart(outputs: &[(&'static str, &Path)], inputs: &[(&'static str, &Path)]) -> anyhow::Result<()> {
    for (option, output) in outputs {
        if let Some((read_by, input)) = inputs.iter().find(|(_, input)| is_read_as(output, input)) {
            bail!(
                "`{option}` would write to {}, which `{read_by}` reads as {}\n\
                 hint: give `{option}` a name outside the model and apart from every file that is read",
                shown(output),
                shown(input)
            );
        }
    }
    Ok(())
}

/// Whether writing to `output` would change what `input` holds.
fn is_read_as(output: &Path, input: &Path) -> bool {
    if !input.is_dir() {
        return is_same(output, input);
    }
    place(output).starts_with(settled(input)) || files_in(input, FOLDERS_DEEP).iter().any(|file| is_same(output, file))
}

/// Whether both names lead to the same file, over links of both kinds, or would if it were there.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    settled(a) == settled(b) || identity(a).is_some_and(|one| Some(one) == identity(b))
}

/// The path that all names of a file or folder share, whether it is there or not.
pub(crate) fn settled(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| place(path))
}

/// The same for the place of a name: of a link its own, not of what it leads to.
pub(crate) fn place(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(name) => settled(folder_of(path)).join(name),
        None => path.to_owned(),
    }
}

fn files_in(folder: &Path, folders_deep: usize) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let inside = |path: PathBuf| match (path.is_dir(), folders_deep) {
        (false, _) => vec![path],
        (true, 0 | 1) => Vec::new(),
        (true, deep) => files_in(&path, deep - 1),
    };
    entries.flat_map(inside).collect()
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn identity(_path: &Path) -> Option<(u64, u64)> {
    None
}
