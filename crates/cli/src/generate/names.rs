//! Where pictures go.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rectiflow_generate::ImageError;
use rectiflow_weights::IfThere;

/// The files that pictures go to.
pub(super) struct OutputNames {
    place: Place,
    pictures: usize,
}

enum Place {
    File(PathBuf),
    /// Made with the first picture if it is not there.
    Folder(PathBuf),
}

impl OutputNames {
    /// Finds out now, not after an hour of drawing, that a path cannot be written.
    pub(super) fn new(out: Option<&Path>, pictures: usize) -> anyhow::Result<Self> {
        let place = match out {
            None => Place::Folder(PathBuf::from(".")),
            Some(path) if path.is_dir() || ends_in_separator(path) => Place::Folder(path.to_owned()),
            Some(path) if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) => {
                Place::File(path.to_owned())
            }
            Some(path) => bail!(
                "--out {} is neither a .png file name nor a folder that is there\n\
                 hint: give NAME.png, or {0}/ to have the folder made",
                path.display()
            ),
        };
        let probe = match &place {
            Place::File(path) => path.clone(),
            Place::Folder(folder) => nearest_that_is_there(folder).join("picture.png"),
        };
        check_writable(&probe).with_context(|| {
            format!("pictures cannot be written to {}", probe.parent().unwrap_or(Path::new(".")).display())
        })?;
        Ok(OutputNames { place, pictures })
    }

    /// Has picture `index` of the run saved: under the given name, with a number if there are several, or in a
    /// folder under a name that no other file has, not even one that came a moment ago.
    pub(super) fn store(
        &self,
        index: usize,
        seed: u64,
        save: impl Fn(&Path, IfThere) -> Result<(), ImageError>,
    ) -> Result<PathBuf, ImageError> {
        match &self.place {
            Place::File(path) => {
                let path = if self.pictures == 1 { path.clone() } else { numbered(path, index + 1) };
                save(&path, IfThere::Replace).map(|()| path)
            }
            Place::Folder(folder) => {
                std::fs::create_dir_all(folder).map_err(|source| ImageError::new(folder, source))?;
                store_under_new_name(folder, seed, save)
            }
        }
    }
}

fn store_under_new_name(
    folder: &Path,
    seed: u64,
    save: impl Fn(&Path, IfThere) -> Result<(), ImageError>,
) -> Result<PathBuf, ImageError> {
    let mut number = 0_u64;
    loop {
        let path = folder.join(match number {
            0 => format!("rectiflow-{seed}.png"),
            n => format!("rectiflow-{seed}-{n}.png"),
        });
        // Looking first only saves writing for nothing; another run may still be quicker.
        if !path.exists() {
            match save(&path, IfThere::Keep) {
                Err(error) if error.is_taken() => {}
                done => return done.map(|()| path),
            }
        }
        number += 1;
    }
}

/// `x.png` as `x-3.png`, whatever bytes its name has.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}.png"));
    path.with_file_name(name)
}

fn ends_in_separator(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().last().is_some_and(|&byte| std::path::is_separator(byte.into()))
}

/// The folder itself, or the one in which it will be made.
fn nearest_that_is_there(folder: &Path) -> &Path {
    let there = folder.ancestors().find(|ancestor| ancestor.exists());
    there.unwrap_or(Path::new("."))
}

/// Makes and removes a file beside `path`.
pub(super) fn check_writable(path: &Path) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if path.is_dir() {
        bail!("{} is a folder\nhint: give a file name inside it", path.display());
    }
    tempfile::Builder::new().prefix(".rectiflow-").suffix(".tmp").tempfile_in(folder).map(drop).with_context(|| {
        format!("the folder {} is missing or not writable\nhint: make it first, or give another path", folder.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another run takes the first two names between the look and the write.
    #[test]
    fn a_name_that_was_taken_a_moment_ago_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let names = OutputNames::new(Some(folder.path()), 1).unwrap();
        let path = names.store(0, 7, |path, if_there| {
            if !path.ends_with("rectiflow-7-2.png") {
                std::fs::write(path, "theirs").unwrap();
            }
            let ours = rectiflow_weights::write_whole(path, if_there, |out| out.write_all(b"ours"));
            ours.map_err(|source| ImageError::new(path, source))
        });
        assert_eq!(path.unwrap(), folder.path().join("rectiflow-7-2.png"));
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            ["rectiflow-7.png", "rectiflow-7-1.png", "rectiflow-7-2.png"].map(read),
            ["theirs", "theirs", "ours"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_name_keeps_its_bytes_when_it_gets_a_number() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9.png"));
        assert_eq!(numbered(path, 3).as_os_str().as_bytes(), b"caf\xe9-3.png");
    }
}
