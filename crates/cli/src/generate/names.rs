//! Where pictures go.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rectiflow_generate::{Format, ImageError};
use rectiflow_weights::{IfThere, shown};

use super::clash::{is_same, place, settled};
use super::format::FormatArgs;
use crate::writable::{check_folder, check_writable, ends_in_separator, folder_of};

/// What the names of pictures in a folder begin with.
const PREFIX: &str = "rectiflow-";

/// The files that pictures go to.
pub(crate) struct OutputNames {
    place: Place,
    pictures: usize,
    format: Format,
}

enum Place {
    File(PathBuf),
    /// Made with the first picture if it is not there.
    Folder(PathBuf),
}

impl OutputNames {
    /// Finds out now, not after an hour of drawing, that a path cannot be written.
    pub(crate) fn new(out: Option<&Path>, wished: &FormatArgs, pictures: usize) -> anyhow::Result<Self> {
        let (place, of_name) = match out {
            None => (Place::Folder(PathBuf::from(".")), None),
            Some(path) if path.is_dir() || ends_in_separator(path) => (Place::Folder(path.to_owned()), None),
            Some(path) => match ending_of(path).and_then(Format::of_ending) {
                Some(format) => (Place::File(path.to_owned()), Some(format)),
                None => bail!(
                    "--out {} is neither a .png, .jpg or .webp file name nor a folder that is there\n\
                     hint: give NAME.png, or {0}/ to have the folder made",
                    path.display()
                ),
            },
        };
        let names = OutputNames { place, pictures, format: wished.resolve(of_name)? };
        names.check().with_context(|| format!("pictures cannot be written to {}", names.folder().display()))?;
        Ok(names)
    }

    /// How pictures are stored.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    fn folder(&self) -> &Path {
        match &self.place {
            Place::File(path) => folder_of(path),
            Place::Folder(folder) => folder,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        match &self.place {
            Place::File(path) if self.pictures == 1 => check_writable(path),
            Place::File(path) => {
                if let Some(taken) = first_taken(path, self.pictures) {
                    bail!(
                        "{} is already there, and only a name that was given is replaced\n\
                         hint: move it away, or give another `--out`",
                        shown(&taken)
                    );
                }
                // The longest of the names.
                check_writable(&numbered(path, self.pictures))
            }
            Place::Folder(folder) => check_folder(folder),
        }
    }

    /// The name of the first picture, if the user decides it.
    pub(crate) fn given(&self) -> Option<PathBuf> {
        match &self.place {
            Place::File(path) if self.pictures == 1 => Some(path.clone()),
            Place::File(path) => Some(numbered(path, 1)),
            Place::Folder(_) => None,
        }
    }

    /// Whether a picture may go to `other`, or needs a folder of that name.
    pub(crate) fn may_be(&self, other: &Path) -> bool {
        let beside = settled(self.folder()) == settled(folder_of(other));
        let name = other.file_name().unwrap_or_default();
        match &self.place {
            Place::File(path) if self.pictures == 1 => place(path) == place(other) || is_same(path, other),
            Place::File(path) => beside && number_of(path, name).is_some_and(|number| number <= self.pictures),
            Place::Folder(folder) => {
                let ending = format!(".{}", self.format.ending());
                let is_ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(&ending));
                beside && is_ours || settled(folder).starts_with(place(other))
            }
        }
    }

    /// Has picture `index` of the run saved: under the given name, with a number if there are several, or in a
    /// folder under a name that no other file has, not even one that came a moment ago.
    pub(crate) fn store(
        &self,
        index: usize,
        seed: u64,
        save: impl Fn(&Path, IfThere) -> Result<(), ImageError>,
    ) -> Result<PathBuf, ImageError> {
        match &self.place {
            Place::File(path) => {
                let (path, if_there) = match self.pictures {
                    1 => (path.clone(), IfThere::Replace),
                    _ => (numbered(path, index + 1), IfThere::Keep),
                };
                save(&path, if_there).map(|()| path)
            }
            Place::Folder(folder) => {
                std::fs::create_dir_all(folder).map_err(|source| ImageError::new(folder, source))?;
                store_under_new_name(folder, seed, self.format.ending(), save)
            }
        }
    }
}

fn store_under_new_name(
    folder: &Path,
    seed: u64,
    ending: &str,
    save: impl Fn(&Path, IfThere) -> Result<(), ImageError>,
) -> Result<PathBuf, ImageError> {
    let mut number = 0_u64;
    loop {
        let path = folder.join(match number {
            0 => format!("{PREFIX}{seed}.{ending}"),
            n => format!("{PREFIX}{seed}-{n}.{ending}"),
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

/// The ending of a name, in small letters.
fn ending(path: &Path) -> String {
    ending_of(path).unwrap_or_default().to_ascii_lowercase()
}

fn ending_of(path: &Path) -> Option<&str> {
    path.extension().and_then(OsStr::to_str)
}

/// `x.png` as `x-3.png`, whatever bytes its name has.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}.{}", ending(path)));
    path.with_file_name(name)
}

/// The number in a name that [`numbered`] gave: 1 or more.
fn number_of(path: &Path, name: &OsStr) -> Option<usize> {
    let rest = name.as_encoded_bytes().strip_prefix(path.file_stem()?.as_encoded_bytes())?;
    let digits = rest.strip_prefix(b"-")?.strip_suffix(ending(path).as_bytes())?.strip_suffix(b".")?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok().filter(|&number| number > 0)?;
    // `+1` and `01` are numbers too.
    (numbered(path, number).file_name()? == name).then_some(number)
}

/// The first of the numbered names that something has. Asks the folder: there may be far more numbers than files.
fn first_taken(path: &Path, pictures: usize) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder_of(path)).ok()?.flatten();
    let taken = entries.filter_map(|entry| number_of(path, &entry.file_name())).filter(|&number| number <= pictures);
    taken.min().map(|number| numbered(path, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_that_of_the_name_or_the_one_that_was_wished() {
        let format = |out: Option<&str>, format: Option<Format>, quality| {
            let names = OutputNames::new(out.map(Path::new), &FormatArgs { format, quality }, 1);
            names.map(|names| names.format()).map_err(|error| error.to_string())
        };
        let jpeg = |quality| Format::Jpeg { quality };
        assert_eq!(format(None, None, None), Ok(Format::Png));
        assert_eq!(format(Some("x.JPG"), None, None), Ok(jpeg(95)));
        assert_eq!(format(Some("x.jpeg"), Some(jpeg(95)), Some(80)), Ok(jpeg(80)));
        assert_eq!(format(Some("./"), Some(Format::WebP), None), Ok(Format::WebP));
        for (out, wished, quality, part) in [
            (Some("x.png"), Some(Format::WebP), None, "--format"),
            (Some("x.png"), None, Some(80), "--quality"),
            (None, Some(Format::WebP), Some(80), "lossless"),
            (Some("x.gif"), None, None, ".png, .jpg or .webp"),
        ] {
            let error = format(out, wished, quality).unwrap_err();
            assert!(error.contains(part) && error.contains("hint: "), "{error}");
        }
    }

    /// Another run takes the first two names between the look and the write.
    #[test]
    fn a_name_that_was_taken_a_moment_ago_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let names = OutputNames::new(Some(folder.path()), &FormatArgs::default(), 1).unwrap();
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
        assert_eq!(number_of(path, numbered(path, 3).as_os_str()), Some(3));
        for other in ["caf-3.png", "3.png"] {
            assert_eq!(number_of(path, OsStr::new(other)), None);
        }
    }

    #[test]
    fn only_names_that_a_run_gives_have_a_number() {
        let number = |name: &str| number_of(Path::new("k.png"), OsStr::new(name));
        assert_eq!(["k-1.png", "k-20.png"].map(number), [Some(1), Some(20)]);
        assert_eq!(number_of(Path::new("k.JPG"), OsStr::new("k-7.jpg")), Some(7));
        assert_eq!(["k-0.png", "k-01.png", "k-+1.png", "k.png", "k-1.jpg", "kk-1.png"].map(number), [None; 6]);
    }
}
