use std::io;
use std::path::{Path, PathBuf};

use rectiflow_weights::{quoted, shown};
use serde::{Serialize, Serializer};

use crate::buckets::Size;
use crate::sprites::SpriteError;

/// What can be wrong with a data set as a whole. The message says what is wrong and, in a second line, what to do
/// next. What is wrong with one sample is a [`Reason`].
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it; the fields are what the message names")]
pub enum DatasetError {
    #[error("{} does not exist\nhint: check `data.source.path` of the recipe", shown(.path))]
    NotFound { path: PathBuf },
    #[error("{} cannot be read: {problem}\nhint: check its permissions and its disk", shown(.path))]
    Unreadable { path: PathBuf, problem: io::Error },
    #[error(
        "{} is not a data set that is read here: {found}\nhint: give a folder of pictures with .txt files beside them, of .tar shards or of .parquet files, or a .jsonl file",
        shown(.path)
    )]
    Unrecognised { path: PathBuf, found: String },
    #[error("{} is damaged: {problem}\nhint: download it again, or move it out of the data set", shown(.path))]
    Damaged { path: PathBuf, problem: String },
    #[error("{} has no column of pictures; its columns are {}\nhint: name the column with `data.source.picture_column`", shown(.path), listed(.columns))]
    NoPictureColumn { path: PathBuf, columns: Vec<String> },
    #[error("{} has several columns of pictures: {}\nhint: choose one with `data.source.picture_column`", shown(.path), listed(.columns))]
    PictureColumns { path: PathBuf, columns: Vec<String> },
    #[error("no sample of {} has a caption {}; there are {}\nhint: name one of these in `data.source.captions`", shown(.path), quoted(.column), listed(.columns))]
    NoCaptionColumn { path: PathBuf, column: String, columns: Vec<String> },
    #[error("no sample of {} has a caption\nhint: put NAME.txt beside NAME.png, or set `data.source.without_caption = \"empty\"` to train without captions", shown(.path))]
    NoCaptions { path: PathBuf },
    #[error("{} has several kinds of captions, {}, and none is called caption or text\nhint: say which with `data.source.captions = {{ NAME = 1 }}`", shown(.path), listed(.columns))]
    WhichCaptions { path: PathBuf, columns: Vec<String> },
    #[error("{} holds no sample that can be used: {found}\nhint: {hint}", shown(.path))]
    Empty { path: PathBuf, found: String, hint: &'static str },
    #[error(transparent)]
    Sprites(#[from] SpriteError),
    #[error("the data set's settings cannot be met: {problem}\nhint: {hint}")]
    Settings { problem: String, hint: &'static str },
}

impl DatasetError {
    /// Of a failed read of `path`.
    pub(crate) fn reading(path: &Path, problem: io::Error) -> Self {
        let path = path.to_owned();
        match problem.kind() {
            io::ErrorKind::NotFound => DatasetError::NotFound { path },
            _ => DatasetError::Unreadable { path, problem },
        }
    }
}

/// The first names of many.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| quoted(name)).collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Why one sample is left out. It serialises as its message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it; the fields are what the message names")]
pub enum Reason {
    #[error("it has no picture")]
    NoPicture,
    #[error("its picture is not there")]
    PictureNotThere,
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("its picture is an empty file")]
    EmptyPicture,
    #[error("its picture has {bytes} bytes, and at most {max} are read")]
    PictureBytes { bytes: u64, max: u64 },
    #[error("its picture is not PNG, JPEG, WebP, GIF or BMP")]
    NotAPicture,
    #[error("pictures of this kind ({0}) are not read")]
    UnreadFormat(String),
    #[error("its picture ends in the middle")]
    PictureCutShort,
    #[error("its picture is damaged: {0}")]
    DamagedPicture(String),
    #[error("its picture has {size} px, more than `pixels_max` = {max}")]
    TooManyPixels { size: Size, max: u64 },
    #[error("its picture has {size} px, and `side_px_min` is {min}")]
    TooSmall { size: Size, min: u32 },
    #[error("its picture has {size} px and would be enlarged to {wanted}; `enlarge = true` allows that")]
    WouldBeEnlarged { size: Size, wanted: Size },
    #[error("it has no caption")]
    NoCaption,
    #[error("its caption is not UTF-8")]
    CaptionNotUtf8,
    #[error("its caption has {bytes} bytes, and at most {max} are read")]
    CaptionBytes { bytes: u64, max: u64 },
    #[error("its JSON cannot be read: {0}")]
    BadJson(String),
    #[error("the shard ends in the middle of it")]
    ShardCutShort,
    #[error("it is cut short or damaged after {}, and what followed is lost", quoted(.after))]
    ShardUnfinished { after: String },
    #[error("links to folders are not followed")]
    LinkToFolder,
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
