//! Finds out now, not after an hour of work, that a file cannot be written.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rectiflow_weights::shown;

/// Checks that `path` may become a file, without touching what is there.
///
/// # Errors
/// It is a folder, a device or a pipe, its name is none that the file system takes, its folder is missing or not
/// writable.
pub(crate) fn check_writable(path: &Path) -> anyhow::Result<()> {
    check_name(path)?;
    check_can_hold(folder_of(path))
}

/// Checks that `folder` takes new files, or can be made.
///
/// # Errors
/// A part of it is a file, or has a name that the file system does not take; nothing can be written there.
pub(crate) fn check_folder(folder: &Path) -> anyhow::Result<()> {
    // Without the separator at its end, which hides a file of that name.
    let folder: PathBuf = folder.components().collect();
    let there = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."));
    if !there.is_dir() {
        bail!("{} is a file\nhint: give the name of a folder; where the file is meant, without a slash", shown(there));
    }
    // Each where it would be made: below a folder that is missing every name would do.
    for name in folder.strip_prefix(there).unwrap_or(&folder).components() {
        check_takes_name(&there.join(name))?;
    }
    check_can_hold(there)
}

/// Checks that `folder` does not lie in another one, whose files would be taken for its own or copied into themselves.
///
/// # Errors
/// It does.
pub(crate) fn check_outside(folder: &Path, other: &Path, what: &str) -> anyhow::Result<()> {
    let Ok(other_there) = other.canonicalize() else { return Ok(()) };
    let is_inside = std::path::absolute(folder).is_ok_and(|whole| {
        whole.ancestors().any(|ancestor| ancestor.canonicalize().is_ok_and(|ancestor| ancestor == other_there))
    });
    if is_inside && other_there.is_dir() {
        bail!("{} lies in {}, {what}\nhint: give another folder", shown(folder), shown(other));
    }
    Ok(())
}

/// The folder that `path` is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether the last character is a slash.
pub(crate) fn ends_in_separator(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().last().is_some_and(|&byte| std::path::is_separator(byte.into()))
}

fn check_name(path: &Path) -> anyhow::Result<()> {
    match path.metadata() {
        Ok(there) if there.is_dir() => bail!("{} is a folder\nhint: give a file name inside it", shown(path)),
        Ok(there) if !there.is_file() => {
            bail!(
                "{} is a device or a pipe, and a file would take its place\nhint: give the name of a file",
                shown(path)
            )
        }
        _ => check_takes_name(path)?,
    }
    // `x/` and `x/.` have a file name too, but no file can be written under them.
    let whole = path.as_os_str().as_encoded_bytes();
    if !path.file_name().is_some_and(|name| whole.ends_with(name.as_encoded_bytes())) {
        bail!("{} is no name for a file\nhint: give a file name", shown(path));
    }
    Ok(())
}

/// Whether something is there or not does not matter here.
fn check_takes_name(path: &Path) -> anyhow::Result<()> {
    match path.metadata() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            bail!("{} is no name for a file: {error}\nhint: give a shorter name, or another folder", shown(path))
        }
        _ => Ok(()),
    }
}

/// Makes and removes a file.
fn check_can_hold(folder: &Path) -> anyhow::Result<()> {
    tempfile::Builder::new().prefix(".rectiflow-").suffix(".tmp").tempfile_in(folder).map(drop).with_context(|| {
        format!("the folder {} is missing or not writable\nhint: make it first, or give another path", folder.display())
    })
}
