use std::path::Path;

/// Free bytes on the disk of a folder that is there, for this user; none where the system does not tell.
#[cfg(unix)]
#[allow(clippy::unnecessary_cast, reason = "the fields have other widths on other systems")]
pub(crate) fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    (disk.f_bavail as u64).checked_mul(disk.f_frsize as u64)
}

/// Free bytes on the disk of a folder that is there, for this user; none where the system does not tell.
#[cfg(not(unix))]
pub(crate) fn free(_: &Path) -> Option<u64> {
    None
}
