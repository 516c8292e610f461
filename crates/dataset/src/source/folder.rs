use std::path::{Path, PathBuf};

use crate::captions::Captions;
use crate::error::{DatasetError, Reason};
use crate::findings::LeftOut;
use crate::source::file;
use crate::source::{Source, texts};

/// Pictures in a folder and the folders inside, each with `NAME.txt` (or kohya's `NAME.caption`) and `NAME.json`
/// beside it. The text file is the column "caption", whole; JSON's keys are columns of their own.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Relative to the root, sorted.
    pictures: Vec<PathBuf>,
    left_out: Vec<LeftOut>,
}

impl Folder {
    /// Lists the pictures; none is opened.
    pub fn open(root: &Path) -> Result<Self, DatasetError> {
        let below = file::below(root)?;
        let others = below.files.iter().filter(|path| file::is_other_picture(path));
        let left_out = others
            .map(|path| LeftOut::no_sample(file::id_of(path), Reason::UnreadFormat(file::extension(path))))
            .chain(file::links(&below.linked_folders))
            .collect();
        let pictures = below.files.into_iter().filter(|path| file::is_picture(path)).collect();
        Ok(Folder { root: root.to_owned(), pictures, left_out })
    }

    fn picture_path(&self, number: u64) -> PathBuf {
        self.root.join(&self.pictures[number as usize])
    }
}

impl Source for Folder {
    fn count(&self) -> u64 {
        self.pictures.len() as u64
    }

    fn id(&self, number: u64) -> String {
        file::id_of(&self.pictures[number as usize])
    }

    fn picture_name(&self, number: u64) -> Option<String> {
        Some(self.id(number))
    }

    fn picture_start(&self, number: u64, bytes: u64) -> Result<Vec<u8>, Reason> {
        file::read_picture(&self.picture_path(number), bytes)
    }

    fn captions(&self, number: u64) -> Result<Captions, Reason> {
        let picture = self.picture_path(number);
        let mut captions = Captions::default();
        let text = match beside(&picture, "txt")? {
            Some(text) => Some(text),
            None => beside(&picture, "caption")?,
        };
        if let Some(text) = text {
            captions.add("caption", texts::utf8(&text)?);
        }
        if let Some(json) = beside(&picture, "json")? {
            texts::add_json(&mut captions, &json)?;
        }
        Ok(captions)
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

/// The file of the same name with another extension, if it is there.
fn beside(picture: &Path, extension: &str) -> Result<Option<Vec<u8>>, Reason> {
    let path = picture.with_extension(extension);
    match file::whole(&path) {
        Ok(section) => texts::read(&path, section).map(Some),
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(problem) => Err(Reason::Unreadable(problem.to_string())),
    }
}
