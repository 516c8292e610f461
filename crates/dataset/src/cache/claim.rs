//! Who makes a shard: the process that holds the lock of its file in `claims/`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::CacheError;

/// A shard is claimed for as long as this lives.
///
/// The lock is the system's, so it ends with its process, also when that is killed: nobody has to judge from a number
/// in a file whether a process is dead.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    /// Closing it unlocks it.
    _locked: File,
}

/// Each try more than the first means that somebody ended a claim at that moment.
const TRIES_MAX: usize = 100;

impl Claim {
    /// None if somebody has it, in this process or another.
    pub(super) fn try_take(folder: &Path, shard: u64) -> Result<Option<Claim>, CacheError> {
        let claims = claims_folder(folder);
        let path = claims.join(format!("{shard:06}"));
        for _ in 0..TRIES_MAX {
            let opened = std::fs::create_dir_all(&claims)
                .and_then(|()| OpenOptions::new().create(true).write(true).truncate(false).open(&path));
            let file = match opened {
                Ok(file) => file,
                // `tidy` took the folder away.
                Err(problem) if problem.kind() == io::ErrorKind::NotFound => continue,
                Err(problem) => return Err(CacheError::Unwritable { path, problem }),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(problem)) => return Err(CacheError::NoLocks { path, problem }),
            }
            // Who had it may have removed the file after it was opened here; then another may lock a new one.
            if is_at(&file, &path) {
                note_owner(&file);
                return Ok(Some(Claim { path, _locked: file }));
            }
        }
        Ok(None)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is still locked. What remains, remains unlocked, and is taken over.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes the folder of the claims away if there are none.
pub(super) fn tidy(folder: &Path) {
    let _ = std::fs::remove_dir(claims_folder(folder));
}

fn claims_folder(folder: &Path) -> PathBuf {
    folder.join("claims")
}

/// Whether `path` still names that file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Other systems keep the name taken while the file is open.
#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// For people who look into the folder; nothing reads it, so failing to write it is no failure.
fn note_owner(mut file: &File) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let _ = file.set_len(0);
    let _ = writeln!(file, "process {}, since {seconds} s after 1970", std::process::id());
}
