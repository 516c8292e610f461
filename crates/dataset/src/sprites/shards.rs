//! Scenes on disk, for programs that read files: a thousand to a shard.

use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageResult, RgbImage};
use rayon::prelude::*;
use rectiflow_weights::{IfThere, write_whole};
use serde::{Deserialize, Serialize};

use super::error::SpriteError;
use super::{Scenes, Settings};

/// How many scenes a shard has, the last one excepted.
const SHARD_SCENES: u64 = 1000;

/// How scenes lie on disk. Each is a picture (`.png`), its caption (`.txt`) and its record (`.json`) of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `000000/0000000.png` and so on: a folder for each shard.
    Folder,
    /// `shard-000000.tar`.
    WebDataset,
}

/// A folder that scenes are written into, shard by shard.
///
/// A shard is there as a whole or not at all, so a run that was ended is gone on with.
#[derive(Debug)]
pub struct SceneFolder {
    folder: PathBuf,
    about: About,
}

/// `sprites.json`: what the folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    scenes: u64,
    size_px: u32,
    format: Format,
    settings: Settings,
}

const ABOUT: &str = "sprites.json";

impl SceneFolder {
    /// Begins a folder of scenes `0..scenes`, or goes on with one of the same settings.
    ///
    /// # Errors
    /// The folder holds something else, or scenes of other settings; it cannot be written.
    pub fn open(
        folder: impl AsRef<Path>,
        settings: Settings,
        scenes: u64,
        size_px: u32,
        format: Format,
    ) -> Result<SceneFolder, SpriteError> {
        let folder = folder.as_ref().to_owned();
        let about = About { scenes, size_px, format, settings };
        let path = folder.join(ABOUT);
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |problem| SpriteError::Unreadable { path, problem }
        };
        std::fs::create_dir_all(&folder).map_err(unwritable(&folder))?;
        let is_new = std::fs::read_dir(&folder).map_err(unreadable(&folder))?.next().is_none();
        if is_new {
            let json = serde_json::json!(about).to_string() + "\n";
            match write_whole(&path, IfThere::Keep, |out| out.write_all(json.as_bytes())) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unwritable(&path)(error)),
                _ => {}
            }
        }
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SpriteError::NotEmpty { folder }),
            read => read.map_err(unreadable(&path))?,
        };
        let there: About =
            serde_json::from_str(&text).map_err(|error| SpriteError::BadArt { path, problem: error.to_string() })?;
        if there != about {
            let [there, here] = [there, about].map(|about| serde_json::json!(about).to_string());
            return Err(SpriteError::OtherSettings { folder, there, here });
        }
        Ok(SceneFolder { folder, about })
    }

    /// How many shards there will be.
    pub fn shards(&self) -> u64 {
        self.about.scenes.div_ceil(SHARD_SCENES)
    }

    /// The shards that are not there yet, ascending.
    pub fn missing(&self) -> Vec<u64> {
        (0..self.shards()).filter(|shard| !self.path(*shard).exists()).collect()
    }

    /// Draws and writes a shard. It has its name only when it is whole.
    ///
    /// # Errors
    /// It cannot be written.
    ///
    /// # Panics
    /// The scenes have other settings than the folder.
    pub fn write(&self, scenes: &Scenes, shard: u64) -> Result<(), SpriteError> {
        assert_eq!(scenes.settings(), self.about.settings, "scenes for another folder");
        let numbers = shard * SHARD_SCENES..self.about.scenes.min((shard + 1) * SHARD_SCENES);
        let files: Vec<[(String, Vec<u8>); 3]> =
            numbers.into_par_iter().map(|number| self.files(scenes, number)).collect::<Result<_, _>>()?;
        let path = self.path(shard);
        let written = match self.about.format {
            Format::WebDataset => write_whole(&path, IfThere::Replace, |out| write_tar(out, &files)),
            Format::Folder => write_folder(&self.folder.join(format!(".{shard:06}.tmp")), &path, &files),
        };
        written.map_err(unwritable(&path))
    }

    /// A scene's files by name.
    fn files(&self, scenes: &Scenes, number: u64) -> Result<[(String, Vec<u8>); 3], SpriteError> {
        let scene = scenes.scene(number);
        let picture = scenes.draw(&scene, self.about.size_px)?;
        let png = png(&picture).map_err(|error| unwritable(&self.folder)(io::Error::other(error)))?;
        let json = serde_json::json!(scene).to_string().into_bytes();
        let name = |ending: &str| format!("{number:07}.{ending}");
        Ok([(name("png"), png), (name("txt"), scene.caption.into_bytes()), (name("json"), json)])
    }

    fn path(&self, shard: u64) -> PathBuf {
        self.folder.join(match self.about.format {
            Format::Folder => format!("{shard:06}"),
            Format::WebDataset => format!("shard-{shard:06}.tar"),
        })
    }
}

/// A picture as the bytes of a PNG file.
///
/// # Errors
/// It has no pixels.
pub fn png(picture: &RgbImage) -> ImageResult<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let (width, height) = picture.dimensions();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive).write_image(
        picture,
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes.into_inner())
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> SpriteError + use<> {
    let path = path.to_owned();
    move |problem| SpriteError::Unwritable { path, problem }
}

/// The same bytes for the same files: no times, no owners.
fn write_tar(out: &mut dyn Write, files: &[[(String, Vec<u8>); 3]]) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    for (name, bytes) in files.iter().flatten() {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &bytes[..])?;
    }
    tar.finish()
}

/// Not each file is waited for until it is on disk: that would take longer than all the rest. So a power cut, unlike the
/// end of the process, can spoil the last shards.
fn write_folder(temporary: &Path, path: &Path, files: &[[(String, Vec<u8>); 3]]) -> io::Result<()> {
    match std::fs::remove_dir_all(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir(temporary)?;
    files.iter().flatten().try_for_each(|(name, bytes)| std::fs::write(temporary.join(name), bytes))?;
    std::fs::rename(temporary, path)
}
