//! The folder of an evaluation: its pictures, and how they were drawn.
//!
//! `drawing.json` is written first, then `pictures/TASK/NUMBER-PLACE.png`, each whole or not there, and at the end
//! `results.json`, `grid.png` and `report.html`. So an evaluation that was ended is gone on with, and pictures that are
//! there can be judged again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rectiflow_generate::Image;
use rectiflow_weights::{IfThere, write_whole};

use crate::EvaluateError;
use crate::prompts::Prompt;
use crate::watch::Watch;

/// Everything that decides the pictures, in words.
pub type Decided = BTreeMap<String, String>;

/// An evaluation's folder.
#[derive(Clone, Debug)]
pub struct Gallery {
    folder: PathBuf,
}

const DRAWING: &str = "drawing.json";

impl Gallery {
    /// A new folder, or with `resume` the one that is there.
    ///
    /// # Errors
    /// It holds something else, or pictures that something else decided; it cannot be read.
    pub fn check(folder: &Path, decided: &Decided, resume: bool) -> Result<Gallery, EvaluateError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |problem| EvaluateError::Unreadable { path, problem }
        };
        let about = folder.join(DRAWING);
        let is_there = about.exists();
        if resume && !is_there {
            return Err(EvaluateError::NothingThere { folder: folder.to_owned() });
        }
        if !resume && folder.exists() && fs::read_dir(folder).map_err(unreadable(folder))?.next().is_some() {
            return Err(EvaluateError::NotEmpty { folder: folder.to_owned() });
        }
        if is_there {
            let text = fs::read_to_string(&about).map_err(unreadable(&about))?;
            let there: Decided = serde_json::from_str(&text).map_err(|problem| EvaluateError::Unreadable {
                path: about.clone(),
                problem: io::Error::new(io::ErrorKind::InvalidData, problem),
            })?;
            let names = there.keys().chain(decided.keys());
            let of = |from: &Decided, name: &str| from.get(name).cloned().unwrap_or_else(|| "none".to_owned());
            for name in names {
                let (there, here) = (of(&there, name), of(decided, name));
                if there != here {
                    return Err(EvaluateError::OtherPictures {
                        folder: folder.to_owned(),
                        what: name.clone(),
                        there,
                        here,
                    });
                }
            }
        }
        Ok(Gallery { folder: folder.to_owned() })
    }

    /// Makes the folder, after [`Gallery::check`].
    ///
    /// # Errors
    /// It cannot be written.
    pub fn make(&self, decided: &Decided, watch: &mut dyn Watch) -> Result<(), EvaluateError> {
        let text = serde_json::to_string_pretty(decided).unwrap_or_default() + "\n";
        self.write(DRAWING, text.as_bytes(), watch)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a prompt's picture number `place`, within the folder.
    pub fn name(prompt: &Prompt, place: usize) -> String {
        format!("pictures/{}-{place}.png", prompt.name())
    }

    /// Whether a picture is there.
    pub fn has(&self, prompt: &Prompt, place: usize) -> bool {
        self.folder.join(Gallery::name(prompt, place)).is_file()
    }

    /// Stores a picture; `texts` are the text chunks of its file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(
        &self,
        prompt: &Prompt,
        place: usize,
        image: &Image,
        texts: &[(&str, String)],
        watch: &mut dyn Watch,
    ) -> Result<(), EvaluateError> {
        let path = self.folder.join(Gallery::name(prompt, place));
        make_folder_of(&path)?;
        watch.write(&mut || Ok(image.save_png(&path, IfThere::Replace, texts)?))
    }

    /// The bytes of a picture's file.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn bytes(&self, prompt: &Prompt, place: usize) -> Result<Vec<u8>, EvaluateError> {
        let path = self.folder.join(Gallery::name(prompt, place));
        fs::read(&path).map_err(|problem| EvaluateError::Unreadable { path, problem })
    }

    /// A picture, which must have this side.
    ///
    /// # Errors
    /// It is not there, damaged, or of another size.
    pub fn picture(&self, prompt: &Prompt, place: usize, side_px: usize) -> Result<Image, EvaluateError> {
        let bytes = self.bytes(prompt, place)?;
        let bad = |problem: String| EvaluateError::BadPicture {
            path: self.folder.join(Gallery::name(prompt, place)),
            problem,
        };
        let read = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png);
        let rgb = read.map_err(|error| bad(error.to_string()))?.into_rgb8();
        let (width, height) = (rgb.width() as usize, rgb.height() as usize);
        if [width, height] != [side_px; 2] {
            return Err(bad(format!("it has {width}x{height} px, not {side_px}x{side_px}")));
        }
        Ok(Image { width, height, rgb: rgb.into_raw() })
    }

    /// Writes a file of the folder; one that is there is replaced.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8], watch: &mut dyn Watch) -> Result<(), EvaluateError> {
        let path = self.folder.join(name);
        make_folder_of(&path)?;
        watch.write(&mut || {
            let written = write_whole(&path, IfThere::Replace, |out: &mut dyn Write| out.write_all(bytes));
            written.map_err(|problem| EvaluateError::Unwritable { path: path.clone(), problem })
        })
    }
}

fn make_folder_of(path: &Path) -> Result<(), EvaluateError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|problem| EvaluateError::Unwritable { path: folder.to_owned(), problem })
}
