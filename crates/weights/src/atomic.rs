use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// What to do where there is a file of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfThere {
    /// The new file takes its place.
    Replace,
    /// It stays; writing fails with [`io::ErrorKind::AlreadyExists`], also if it came a moment ago.
    Keep,
}

/// Writes a file that appears under its name only when it is complete and on disk: a reader sees the old one or
/// the new one, and so does a reader after a power cut. It has the permissions of an ordinary new file.
///
/// # Errors
/// `fill` failed, the folder is missing or not writable, the disk is full, the name is taken. Nothing is left
/// behind.
pub fn write_whole(
    path: &Path,
    if_there: IfThere,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = temporary_in(folder)?;
    let mut out = BufWriter::new(&mut temporary);
    fill(&mut out)?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    let named = match if_there {
        IfThere::Replace => temporary.persist(path),
        IfThere::Keep => temporary.persist_noclobber(path),
    };
    named.map_err(|error| error.error)?;
    sync_folder(folder)
}

/// A file with the permissions of an ordinary new one.
fn temporary_in(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rectiflow-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Puts the new name on disk too. Other systems than Unix cannot open folders and need no such step.
///
/// # Errors
/// It is no folder, or the disk is gone.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, if_there: IfThere, text: &str) -> io::Result<()> {
        write_whole(path, if_there, |out| out.write_all(text.as_bytes()))
    }

    #[test]
    fn a_file_that_is_there_is_kept_or_replaced_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write(&path, IfThere::Keep, "first").unwrap();
        assert_eq!(write(&path, IfThere::Keep, "second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
        write(&path, IfThere::Replace, "third").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "third");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_file_that_could_not_be_filled_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let failed = write_whole(&folder.path().join("x"), IfThere::Replace, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn the_permissions_are_those_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, ordinary) = (folder.path().join("ours"), folder.path().join("ordinary"));
        write(&ours, IfThere::Replace, "").unwrap();
        std::fs::write(&ordinary, "").unwrap();
        let [ours, ordinary] = [ours, ordinary].map(|path| std::fs::metadata(path).unwrap().permissions().mode());
        assert_eq!(ours, ordinary);
    }
}
