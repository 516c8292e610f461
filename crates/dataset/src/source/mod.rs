//! Where samples come from: folders, WebDataset shards, Parquet files, JSONL lists, sprite scenes, and texts alone.
//!
//! A source knows where each sample is and hands out its bytes and texts. It decodes no picture and judges none.

mod file;
mod folder;
mod jsonl;
mod lines;
mod parquet;
mod sprites;
mod texts;
mod webdataset;

use std::path::{Path, PathBuf};

use image::RgbImage;
use rectiflow_weights::shown;
use serde::{Deserialize, Serialize};

pub use self::parquet::Parquet;
use crate::buckets::Size;
use crate::captions::Captions;
use crate::error::{DatasetError, Reason};
use crate::findings::LeftOut;
pub use folder::Folder;
pub use jsonl::Jsonl;
pub use lines::Lines;
pub use sprites::Sprites;
pub use webdataset::WebDataset;

/// Samples by number. The same data give the same numbers on every machine.
pub trait Source: Send + Sync {
    /// How many there are.
    fn count(&self) -> u64;

    /// What sample `number` is called: its path below the root, or shard and key.
    fn id(&self, number: u64) -> String;

    /// The name of the picture's file, where it has one.
    fn picture_name(&self, number: u64) -> Option<String>;

    /// The bytes of the picture's file.
    fn picture(&self, number: u64) -> Result<Vec<u8>, Reason>;

    /// At least the first `bytes` of them.
    fn picture_start(&self, number: u64, bytes: u64) -> Result<Vec<u8>, Reason> {
        let _ = bytes;
        self.picture(number)
    }

    /// The texts of the sample.
    fn captions(&self, number: u64) -> Result<Captions, Reason>;

    /// What was found that could not become a sample.
    fn left_out(&self) -> &[LeftOut];

    /// What draws the pictures, where they lie in no file: their pixels are there without decoding.
    fn canvas(&self) -> Option<&dyn Canvas> {
        None
    }
}

/// Pictures that are drawn when they are asked for, the same every time.
pub trait Canvas {
    /// Of each.
    fn size(&self) -> Size;

    /// The pixels of sample `number`.
    fn draw(&self, number: u64) -> Result<RgbImage, Reason>;
}

/// What a data set is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Pictures with text files beside them, in a folder and the folders inside.
    Folder,
    /// `.tar` shards.
    WebDataset,
    /// `.parquet` files, as hubs publish them.
    Parquet,
    /// A list: a line of JSON for each sample, with the path of its picture.
    Jsonl,
    /// Texts without pictures, one a line: never what shows, since any `.txt` or `.jsonl` file could be one.
    Texts,
    /// Scenes that are drawn of the art in a folder: `count` of them, each `side_px` wide.
    Sprites,
}

/// Opens the data set at `path`: of the given kind, or of that which shows. `picture_column` is for Parquet. Sprite
/// scenes are in no file; [`Sprites::open`] is for them.
///
/// # Errors
/// Nothing there, nothing that is recognised, a damaged file.
pub fn open(path: &Path, kind: Option<Kind>, picture_column: Option<&str>) -> Result<Box<dyn Source>, DatasetError> {
    let (kind, files) = recognise(path, kind)?;
    Ok(match kind {
        Kind::Folder => Box::new(Folder::open(path)?),
        Kind::WebDataset => Box::new(WebDataset::open(path, &files)?),
        Kind::Parquet => Box::new(Parquet::open(path, &files, picture_column)?),
        Kind::Jsonl => Box::new(Jsonl::open(&files[0])?),
        Kind::Texts => Box::new(Lines::open(&files[0])?),
        Kind::Sprites => return Err(unrecognised(path, "sprite scenes are in no file".into())),
    })
}

/// The list that the hub's own loader reads beside pictures.
const METADATA: &str = "metadata.jsonl";

/// The kind, and the files it is made of (none for a folder of pictures).
fn recognise(path: &Path, kind: Option<Kind>) -> Result<(Kind, Vec<PathBuf>), DatasetError> {
    let metadata = std::fs::metadata(path).map_err(|problem| DatasetError::reading(path, problem))?;
    if kind == Some(Kind::Texts) {
        let mut files = if metadata.is_dir() { file::below(path)?.files } else { vec![] };
        files.retain(|file| ["txt", "jsonl"].contains(&&file::extension(file)[..]));
        let files: Vec<PathBuf> = files.iter().map(|file| path.join(file)).collect();
        let file = Lines::find(path, &files).map_err(|found| unrecognised(path, found))?;
        return Ok((Kind::Texts, vec![file]));
    }
    if !metadata.is_dir() {
        let found = match file::extension(path).as_str() {
            "tar" => Kind::WebDataset,
            "parquet" => Kind::Parquet,
            "jsonl" => Kind::Jsonl,
            // A list by any name is one, if that is what was said.
            _ if kind == Some(Kind::Jsonl) => Kind::Jsonl,
            _ => return Err(unrecognised(path, "it is one file, and neither .tar nor .parquet nor .jsonl".into())),
        };
        return match kind {
            Some(kind) if kind != found => Err(unrecognised(path, format!("it is no {}", kind.name()))),
            _ => Ok((found, vec![path.to_owned()])),
        };
    }
    let files = file::below(path)?.files;
    let with = |extension: &str| -> Vec<PathBuf> {
        files.iter().filter(|file| file::extension(file) == extension).map(|file| path.join(file)).collect()
    };
    let of_kind = |kind: Kind| match kind {
        Kind::Folder | Kind::Texts | Kind::Sprites => vec![],
        Kind::WebDataset => with("tar"),
        Kind::Parquet => with("parquet"),
        Kind::Jsonl if path.join(METADATA).is_file() => vec![path.join(METADATA)],
        Kind::Jsonl => with("jsonl"),
    };
    if let Some(kind) = kind {
        return match (kind, of_kind(kind)) {
            (Kind::Folder, _) => Ok((kind, vec![])),
            (_, files) if files.is_empty() => Err(unrecognised(path, format!("no {} is in it", kind.name()))),
            (Kind::Jsonl, files) if files.len() > 1 => Err(unrecognised(
                path,
                format!("{} lists are in it ({}, ...); name one", files.len(), shown(&files[0])),
            )),
            (_, files) => Ok((kind, files)),
        };
    }
    let shards = [Kind::WebDataset, Kind::Parquet].map(|kind| (kind, of_kind(kind)));
    match shards {
        [(_, tars), (_, tables)] if !tars.is_empty() && !tables.is_empty() => {
            Err(unrecognised(path, "it has both .tar and .parquet files; say which with `kind`".into()))
        }
        [(kind, files), _] | [_, (kind, files)] if !files.is_empty() => Ok((kind, files)),
        _ if path.join(METADATA).is_file() => Ok((Kind::Jsonl, vec![path.join(METADATA)])),
        _ if files.iter().any(|file| file::is_picture(file)) => Ok((Kind::Folder, vec![])),
        _ => match &with("jsonl")[..] {
            [list] => Ok((Kind::Jsonl, vec![list.clone()])),
            _ => Err(unrecognised(path, format!("{} files are in it, and no picture, shard or list", files.len()))),
        },
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Folder => "folder of pictures",
            Kind::WebDataset => ".tar shard",
            Kind::Parquet => ".parquet file",
            Kind::Jsonl => ".jsonl list",
            Kind::Texts => "file of texts",
            Kind::Sprites => "scene",
        }
    }
}

fn unrecognised(path: &Path, found: String) -> DatasetError {
    DatasetError::Unrecognised { path: path.to_owned(), found }
}
