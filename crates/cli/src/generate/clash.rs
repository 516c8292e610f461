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
/// `inputs`: each file or folder that is read, with its option.
///
/// # Errors
/// An output is an input or inside a folder of them, or the latents would go where a picture goes.
pub(super) fn check(
    names: &OutputNames,
    latents_out: Option<&Path>,
    inputs: &[(&'static str, &Path)],
) -> anyhow::Result<()> {
    if let Some(latents) = latents_out.filter(|latents| names.may_be(latents)) {
        bail!(
            "the latents and a picture would both go to {}\n\
             hint: give `--latents-out` a name of its own, such as NAME.safetensors",
            shown(latents)
        );
    }
    let pictures = names.given().map(|path| ("--out", path));
    for (option, output) in pictures.into_iter().chain(latents_out.map(|path| ("--latents-out", path.to_owned()))) {
        if let Some((read_by, input)) = inputs.iter().find(|(_, input)| is_read_as(&output, input)) {
            bail!(
                "`{option}` would write to {}, which `{read_by}` reads as {}\n\
                 hint: give `{option}` a name outside the model and apart from every file that is read",
                shown(&output),
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
pub(super) fn is_same(a: &Path, b: &Path) -> bool {
    settled(a) == settled(b) || identity(a).is_some_and(|one| Some(one) == identity(b))
}

/// The path that all names of a file or folder share, whether it is there or not.
pub(super) fn settled(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| place(path))
}

/// The same for the place of a name: of a link its own, not of what it leads to.
pub(super) fn place(path: &Path) -> PathBuf {
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
