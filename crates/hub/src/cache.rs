//! A repository's folder in the cache, as `huggingface_hub` has it:
//!
//! ```text
//! models--OWNER--NAME/blobs/ETAG                the content, by its hash
//!                     snapshots/COMMIT/FILE     links to it
//!                     refs/REVISION             the commit that a branch or tag was at
//! .locks/models--OWNER--NAME/ETAG.lock          held by who downloads
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::HubError;
use crate::hash::ObjectId;
use crate::id::{RepositoryId, is_commit};

/// How often is looked whether another process is done.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Folders in folders that are looked into; models have one.
const DEPTH_MAX: usize = 8;

pub(crate) struct RepositoryCache {
    root: PathBuf,
    name: String,
}

impl RepositoryCache {
    pub(crate) fn new(root: &Path, id: &RepositoryId) -> Self {
        RepositoryCache { root: root.to_owned(), name: format!("models--{}--{}", id.owner, id.name) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub(crate) fn blob(&self, id: &ObjectId) -> PathBuf {
        self.folder().join("blobs").join(id.as_str())
    }

    /// Where content is while it is not whole.
    pub(crate) fn incomplete(&self, id: &ObjectId) -> PathBuf {
        self.folder().join("blobs").join(format!("{}.incomplete", id.as_str()))
    }

    /// The folder with the names of the repository.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The commit that the cache has for a revision, if it has files of it.
    pub(crate) fn commit(&self, id: &RepositoryId) -> Option<String> {
        let commit = match id.is_commit() {
            true => id.revision.clone(),
            false => fs::read_to_string(self.folder().join("refs").join(&id.revision)).ok()?.trim().to_owned(),
        };
        (is_commit(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Notes which commit a branch or tag is at.
    pub(crate) fn write_ref(&self, id: &RepositoryId, commit: &str) -> Result<(), HubError> {
        if id.is_commit() {
            return Ok(());
        }
        let path = self.folder().join("refs").join(&id.revision);
        if fs::read_to_string(&path).is_ok_and(|there| there.trim() == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&path);
        let write = || {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            io::Write::write_all(&mut file, commit.as_bytes())?;
            file.persist(&path).map_err(|error| error.error).map(drop)
        };
        write().map_err(HubError::disk(&path))
    }

    /// The names of the files of a commit that are there, and their bytes.
    pub(crate) fn files(&self, commit: &str) -> Vec<(String, u64)> {
        let mut files = Vec::new();
        add_files(&self.snapshot(commit), "", DEPTH_MAX, &mut files);
        files.sort();
        files
    }

    /// Makes the folder for content, and waits for its lock; `wait` is called once, if another process holds it.
    pub(crate) fn lock(&self, id: &ObjectId, wait: impl FnOnce()) -> Result<Lock, HubError> {
        let path = self.root.join(".locks").join(&self.name).join(format!("{}.lock", id.as_str()));
        let folders = [path.parent().map(Path::to_owned), self.blob(id).parent().map(Path::to_owned)];
        for folder in folders.iter().flatten() {
            fs::create_dir_all(folder).map_err(HubError::disk(folder))?;
        }
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(HubError::disk(&path))?;
        let mut wait = Some(wait);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    if let Some(wait) = wait.take() {
                        wait();
                    }
                    std::thread::sleep(LOOK_AGAIN);
                }
                Err(TryLockError::Error(problem)) => return Err(HubError::disk(&path)(problem)),
            }
        }
    }

    /// Gives content its name in a commit: a link that holds when the cache is moved; where the disk has none, a second name
    /// or a copy.
    pub(crate) fn link(&self, commit: &str, name: &str, id: &ObjectId) -> Result<(), HubError> {
        let (path, blob) = (self.snapshot(commit).join(name), self.blob(id));
        let place = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            match fs::remove_file(&path) {
                Err(problem) if problem.kind() != io::ErrorKind::NotFound => return Err(problem),
                _ => {}
            }
            let up = "../".repeat(2 + name.split('/').count() - 1);
            let placed = symlink(Path::new(&format!("{up}blobs/{}", id.as_str())), &path)
                .or_else(|_| fs::hard_link(&blob, &path))
                .or_else(|_| fs::copy(&blob, &path).map(drop));
            // Another process may have been as quick.
            if path.is_file() { Ok(()) } else { placed }
        };
        place().map_err(HubError::disk(&path))
    }
}

/// Held while content is downloaded; the system takes it back from a process that ends.
pub(crate) struct Lock {
    _file: File,
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(windows)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, at)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn add_files(folder: &Path, above: &str, depth: usize, files: &mut Vec<(String, u64)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, Ok(name)) = (entry.path(), entry.file_name().into_string()) else { continue };
        // Of the file behind a link; a link to nothing is no file.
        let Ok(there) = path.metadata() else { continue };
        let name = format!("{above}{name}");
        if there.is_file() {
            files.push((name, there.len()));
        } else if depth > 0 {
            add_files(&path, &format!("{name}/"), depth - 1, files);
        }
    }
}
