//! A run's folder: of one process at a time, and of one recipe.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use rectiflow_train::plan::Plan;
use rectiflow_train::recipe::Recipe;
use rectiflow_train::run::RunFolder;
use rectiflow_weights::{IfThere, shown, write_whole};

use crate::writable::{check_folder, check_outside};

/// A folder that this process may write into, until it is dropped.
pub(super) struct Taken {
    run: RunFolder,
    /// Locked.
    _lock: File,
}

impl Taken {
    pub(super) fn run(&self) -> &RunFolder {
        &self.run
    }
}

/// Whether the folder can become that of a run of this plan: a new one, or with `resume` the one that is there. Nothing
/// is written, so that a run which cannot begin leaves no folder.
pub(super) fn check(out: &Path, plan: &Plan, resume: bool) -> anyhow::Result<()> {
    let run = RunFolder::new(out.to_owned());
    let is_there = run.plan().exists();
    if is_there && !resume {
        bail!(
            "there is a run in {}\nhint: `--resume` goes on with it; give `--out` another folder for a new one",
            shown(out)
        );
    }
    if resume && !is_there {
        bail!("there is no run in {}\nhint: leave out `--resume` to begin one", shown(out));
    }
    let is_other = out.is_dir() && !is_there && fs::read_dir(out).is_ok_and(|mut entries| entries.any(is_foreign));
    if is_other {
        bail!("{} has other files\nhint: give `--out` a new or an empty folder", shown(out));
    }
    check_folder(out)?;
    check_apart(out, &plan.recipe)?;
    if out.join(LOCK).exists() {
        lock(out)?;
    }
    if is_there {
        plan.check_same(&run.plan()).map_err(|problem| anyhow!(problem))?;
    }
    Ok(())
}

/// Whether the folder lies in none of those that the run reads.
fn check_apart(out: &Path, recipe: &Recipe) -> anyhow::Result<()> {
    let read = [
        (recipe.data.encoders.as_deref(), "the model whose encoders it takes"),
        (recipe.model.from(), "the model that it begins with"),
        (Some(recipe.data.source.path.as_path()), "its data"),
        (recipe.data.cache.as_deref(), "its cache"),
    ];
    read.into_iter().try_for_each(|(folder, what)| folder.map_or(Ok(()), |folder| check_outside(out, folder, what)))
}

/// Takes the folder for a run of this plan, after [`check`].
pub(super) fn take(out: &Path, plan: &Plan, resume: bool) -> anyhow::Result<Taken> {
    let run = RunFolder::new(out.to_owned());
    fs::create_dir_all(out).with_context(|| format!("{} cannot be made", shown(out)))?;
    let lock = lock(out)?;
    // Another process may have begun or ended a run since it was looked.
    if run.plan().exists() != resume {
        bail!("another process was in {} just now\nhint: look at it, and start again", shown(out));
    }
    write_whole(&run.plan(), IfThere::Replace, |file| file.write_all(plan.to_toml().as_bytes()))
        .with_context(|| format!("{} cannot be written", shown(&run.plan())))?;
    Ok(Taken { run, _lock: lock })
}

/// The lock, and a plan half written, may be left by a process that was killed before it had a plan.
fn is_foreign(entry: std::io::Result<fs::DirEntry>) -> bool {
    entry.is_ok_and(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name != LOCK && !(name.starts_with(".rectiflow-") && name.ends_with(".tmp"))
    })
}

const LOCK: &str = "run.lock";

fn lock(out: &Path) -> anyhow::Result<File> {
    let path = out.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} cannot be written", shown(&path)))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another process trains in {}\nhint: wait for it, or give `--out` another folder", shown(out))
        }
        Err(TryLockError::Error(problem)) => {
            Err(anyhow!(problem)).with_context(|| format!("{} cannot be locked", shown(&path)))
        }
    }
}
