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
mod without_texts;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use image::RgbImage;
use rectiflow_weights::shown;
use serde::{Deserialize, Serialize};

pub use self::parquet::Parquet;
use crate::buckets::Size;
use crate::captions::Captions;
use crate::error::{DatasetError, Reason, listed};
use crate::findings::{Choice, LeftOut};
use crate::settings::DataSettings;
use file::Below;
pub use folder::Folder;
pub use jsonl::Jsonl;
pub use lines::Lines;
pub use sprites::Sprites;
pub use webdataset::WebDataset;
pub(crate) use without_texts::WithoutTexts;

/// Samples by number. The same data give the same numbers on every machine.
pub trait Source: Send + Sync {
    /// How many there are.
    fn count(&self) -> u64;

    /// What sample `number` is called: its path below the root, or shard and key.
    fn id(&self, number: u64) -> String;

    /// The name of the picture's file, where it has one.
    fn picture_name(&self, number: u64) -> Option<String>;

    /// The bytes of the picture's file.
    fn picture(&self, number: u64) -> Result<Vec<u8>, Reason> {
        self.picture_start(number, u64::MAX)
    }

    /// At least the first `bytes` of them; fewer only where there are no more.
    fn picture_start(&self, number: u64, bytes: u64) -> Result<Vec<u8>, Reason>;

    /// Which picture is the sample's, where there are several.
    fn choice(&self, number: u64) -> Option<Choice> {
        let _ = number;
        None
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
    open_for(path, kind, Use::Pictures { column: picture_column })
}

/// The source that a recipe names.
///
/// # Errors
/// As [`open`]; settings that cannot be met.
pub(crate) fn with_pictures(settings: &DataSettings) -> Result<Box<dyn Source>, DatasetError> {
    match drawn(settings)? {
        Some(sprites) => Ok(Box::new(sprites)),
        None => open(&settings.path, settings.kind, settings.picture_column.as_deref()),
    }
}

/// The same where only captions are read.
///
/// # Errors
/// As [`with_pictures`], but for what pictures need.
pub(crate) fn of_texts(settings: &DataSettings) -> Result<Box<dyn Source>, DatasetError> {
    match scenes(settings)? {
        Some(count) => Ok(Box::new(Sprites::undrawn(&settings.path, settings.scenes(), settings.side_px, count)?)),
        None => open_for(&settings.path, settings.kind, Use::Texts),
    }
}

/// What is read of a source.
#[derive(Clone, Copy)]
enum Use<'a> {
    /// And captions. The column is for Parquet.
    Pictures { column: Option<&'a str> },
    /// Captions alone.
    Texts,
}

fn open_for(path: &Path, kind: Option<Kind>, used: Use<'_>) -> Result<Box<dyn Source>, DatasetError> {
    let Recognised { kind, files, linked_folders } = recognise(path, kind)?;
    let links = || file::links(&linked_folders);
    Ok(match kind {
        Kind::Folder => Box::new(Folder::open(path)?),
        Kind::WebDataset => {
            let mut shards = WebDataset::open(path, &files)?;
            shards.left_out.extend(links());
            Box::new(shards)
        }
        Kind::Parquet => {
            let mut tables = match used {
                Use::Pictures { column } => Parquet::open(path, &files, column)?,
                Use::Texts => Parquet::of_texts(path, &files)?,
            };
            tables.left_out.extend(links());
            Box::new(tables)
        }
        Kind::Jsonl => {
            let mut list = Jsonl::open(&files[0])?;
            // Pictures may well be named through a link.
            let passed_over = linked_folders.iter().filter(|folder| !list.is_used(&path.join(folder)));
            let passed_over: Vec<PathBuf> = passed_over.cloned().collect();
            list.left_out.extend(file::links(&passed_over));
            Box::new(list)
        }
        Kind::Texts => {
            let mut lines = Lines::open(&files[0])?;
            lines.left_out.extend(links());
            Box::new(lines)
        }
        Kind::Sprites => return Err(refused("scenes are drawn, and lie in no file", "open them with `Sprites::open`")),
    })
}

/// The scenes that a recipe names, if any.
fn drawn(settings: &DataSettings) -> Result<Option<Sprites>, DatasetError> {
    let Some(count) = scenes(settings)? else { return Ok(None) };
    if settings.flip {
        return Err(refused("`flip` is set, and scenes have words, and things left of others", "leave it out"));
    }
    Ok(Some(Sprites::open(&settings.path, settings.scenes(), settings.side_px, count)?))
}

/// How many scenes are drawn, if any.
fn scenes(settings: &DataSettings) -> Result<Option<NonZeroU64>, DatasetError> {
    match (settings.kind, settings.count) {
        (Some(Kind::Sprites), None) => Err(refused("`count` is missing", "give the number of scenes to draw")),
        (Some(Kind::Sprites), count) => Ok(count),
        _ => {
            let given = [
                ("count", settings.count.is_some()),
                ("seed", settings.seed.is_some()),
                ("split", settings.split.is_some()),
                ("layout", settings.layout.is_some()),
            ];
            match given.into_iter().find(|(_, is_given)| *is_given) {
                Some((name, _)) => {
                    Err(refused(&format!("`{name}` is for scenes"), "leave it out, or set `kind = \"sprites\"`"))
                }
                None => Ok(None),
            }
        }
    }
}

fn refused(problem: &str, hint: &'static str) -> DatasetError {
    DatasetError::Settings { problem: problem.to_owned(), hint }
}

/// The list that the hub's own loader reads beside pictures.
const METADATA: &str = "metadata.jsonl";

/// What lies at a path.
struct Recognised {
    kind: Kind,
    /// What it is made of; none for a folder of pictures.
    files: Vec<PathBuf>,
    /// Below the path, where more such files may be that are passed over.
    linked_folders: Vec<PathBuf>,
}

fn recognise(path: &Path, kind: Option<Kind>) -> Result<Recognised, DatasetError> {
    if kind == Some(Kind::Sprites) {
        return Ok(Recognised { kind: Kind::Sprites, files: vec![], linked_folders: vec![] });
    }
    let metadata = std::fs::metadata(path).map_err(|problem| DatasetError::reading(path, problem))?;
    if kind == Some(Kind::Texts) {
        let mut below = if metadata.is_dir() { file::below(path)? } else { Below::default() };
        below.files.retain(|file| ["txt", "jsonl"].contains(&&file::extension(file)[..]));
        let files: Vec<PathBuf> = below.files.iter().map(|file| path.join(file)).collect();
        let file = Lines::find(path, &files)
            .map_err(|found| unrecognised(path, found + &not_followed(&below.linked_folders)))?;
        return Ok(Recognised { kind: Kind::Texts, files: vec![file], linked_folders: below.linked_folders });
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
            _ => Ok(Recognised { kind: found, files: vec![path.to_owned()], linked_folders: vec![] }),
        };
    }
    let Below { files, linked_folders } = file::below(path)?;
    let links = not_followed(&linked_folders);
    let all = |kind, files| Recognised { kind, files, linked_folders: linked_folders.clone() };
    // That list stands at the top, and goes before any other.
    let hubs = || Recognised { kind: Kind::Jsonl, files: vec![path.join(METADATA)], linked_folders: vec![] };
    let with = |extension: &str| -> Vec<PathBuf> {
        files.iter().filter(|file| file::extension(file) == extension).map(|file| path.join(file)).collect()
    };
    let of_kind = |kind: Kind| match kind {
        Kind::Folder | Kind::Texts | Kind::Sprites => vec![],
        Kind::WebDataset => with("tar"),
        Kind::Parquet => with("parquet"),
        Kind::Jsonl => with("jsonl"),
    };
    if let Some(kind) = kind {
        return match (kind, of_kind(kind)) {
            (Kind::Folder, _) => Ok(all(kind, vec![])),
            (Kind::Jsonl, _) if path.join(METADATA).is_file() => Ok(hubs()),
            (_, files) if files.is_empty() => Err(unrecognised(path, format!("no {} is in it{links}", kind.name()))),
            (Kind::Jsonl, files) if files.len() > 1 => Err(unrecognised(
                path,
                format!("{} lists are in it ({}, ...); name one", files.len(), shown(&files[0])),
            )),
            (_, files) => Ok(all(kind, files)),
        };
    }
    let shards = [Kind::WebDataset, Kind::Parquet].map(|kind| (kind, of_kind(kind)));
    match shards {
        [(_, tars), (_, tables)] if !tars.is_empty() && !tables.is_empty() => {
            Err(unrecognised(path, "it has both .tar and .parquet files; say which with `kind`".into()))
        }
        [(kind, files), _] | [_, (kind, files)] if !files.is_empty() => Ok(all(kind, files)),
        _ if path.join(METADATA).is_file() => Ok(hubs()),
        _ if files.iter().any(|file| file::is_picture(file)) => Ok(all(Kind::Folder, vec![])),
        _ => match &with("jsonl")[..] {
            [list] => Ok(all(Kind::Jsonl, vec![list.clone()])),
            _ => {
                let found = format!("{} files are in it, and no picture, shard or list{links}", files.len());
                Err(unrecognised(path, found))
            }
        },
    }
}

/// What an error adds, since what is missed may lie there.
fn not_followed(linked_folders: &[PathBuf]) -> String {
    let names: Vec<String> = linked_folders.iter().map(|folder| file::id_of(folder)).collect();
    if names.is_empty() { String::new() } else { format!("; links to folders ({}) are not followed", listed(&names)) }
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
