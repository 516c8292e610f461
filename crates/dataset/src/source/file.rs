//! Files and parts of files.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{DatasetError, Reason};
use crate::findings::LeftOut;
use crate::picture::FILE_BYTES_MAX;

/// What pictures are called.
const PICTURES: [&str; 7] = ["png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp"];
/// What pictures are called that are not read.
const OTHER_PICTURES: [&str; 8] = ["tif", "tiff", "avif", "heic", "heif", "jxl", "jp2", "psd"];

/// The last part of a name, in small letters.
pub(super) fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// Whether it is called a picture that is read here.
pub(super) fn is_picture(path: &Path) -> bool {
    PICTURES.contains(&extension(path).as_str())
}

/// Whether it is called a picture that is not.
pub(super) fn is_other_picture(path: &Path) -> bool {
    OTHER_PICTURES.contains(&extension(path).as_str())
}

/// A relative path with slashes, on every system.
pub(super) fn id_of(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// What is said of linked folders.
pub(super) fn links(folders: &[PathBuf]) -> impl Iterator<Item = LeftOut> {
    folders.iter().map(|folder| LeftOut::no_sample(id_of(folder), Reason::LinkToFolder))
}

/// Paths relative to a folder, sorted.
#[derive(Debug, Default)]
pub(super) struct Below {
    pub(super) files: Vec<PathBuf>,
    /// They may lead round in a circle.
    pub(super) linked_folders: Vec<PathBuf>,
}

/// All files in a folder and the folders inside, but for those whose name begins with a dot.
pub(super) fn below(root: &Path) -> Result<Below, DatasetError> {
    let mut found = Below::default();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let failed = |problem| DatasetError::reading(&root.join(&folder), problem);
        for entry in std::fs::read_dir(root.join(&folder)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_symlink() && entry.path().is_dir() {
                found.linked_folders.push(path);
            } else {
                found.files.push(path);
            }
        }
    }
    found.files.sort();
    found.linked_folders.sort();
    Ok(found)
}

/// A part of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Reads a part of a file, or its first `bytes_max`.
pub(super) fn read_section(path: &Path, section: Section, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(section.offset))?;
    let wanted = section.bytes.min(bytes_max);
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads the file of a picture, or its first `bytes_max`.
pub(super) fn read_picture(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Reason> {
    let section = whole(path).map_err(|problem| match problem.kind() {
        io::ErrorKind::NotFound => Reason::PictureNotThere,
        _ => Reason::Unreadable(problem.to_string()),
    })?;
    read_picture_section(path, section, bytes_max)
}

/// Reads a picture that is a part of a file, or its first `bytes_max`.
pub(super) fn read_picture_section(path: &Path, section: Section, bytes_max: u64) -> Result<Vec<u8>, Reason> {
    if section.bytes > FILE_BYTES_MAX {
        return Err(Reason::PictureBytes { bytes: section.bytes, max: FILE_BYTES_MAX });
    }
    read_section(path, section, bytes_max).map_err(|problem| Reason::Unreadable(problem.to_string()))
}

/// All of a regular file. What else has a path, a pipe or a device, may never end.
pub(super) fn whole(path: &Path) -> io::Result<Section> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    Ok(Section { offset: 0, bytes: metadata.len() })
}
