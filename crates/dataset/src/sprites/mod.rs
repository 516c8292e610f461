//! Scenes put together from open sprite art, with captions that are exactly true.
//!
//! A scene has things that people know by name: one, several of a kind, two kinds in a relation; drawn in one of three
//! styles, some in other colours than they were; on a plain or shaded background; and some have a word. What is in it
//! is a function of a seed and the scene's number, so a data set needs no disk. Since everything in a scene is known,
//! counting, places, colours and spelling of pictures that a model drew can be measured against it.
//!
//! ```no_run
//! use rectiflow_dataset::sprites::{Layout, Scenes, Settings, Split};
//!
//! # fn main() -> Result<(), rectiflow_dataset::sprites::SpriteError> {
//! let settings = Settings { seed: 0, split: Split::Train, letters_max: 5, layout: Layout::Free };
//! let scenes = Scenes::open("assets/sprites", settings)?;
//! let scene = scenes.scene(17);
//! let picture = scenes.draw(&scene, 64)?;
//! println!("{}: {} x {}", scene.caption, picture.width(), picture.height());
//! # Ok(())
//! # }
//! ```
//!
//! This module prints nothing, and judges no picture.

mod art;
mod caption;
mod colour;
mod compose;
mod draw;
mod error;
mod grid;
mod held_out;
mod letters;
mod scene;
mod shards;
mod sheet;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use art::Style;
pub use colour::Colour;
pub use error::SpriteError;
pub use scene::{Area, Background, Cells, Layout, Lettering, Object, Place, Scene, Split, Typeface};
pub use shards::{Format, SceneFolder, png};

use art::{Art, Concept, Gallery};
use letters::Fonts;

/// What decides the scenes, besides the art.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Other scenes for each.
    pub seed: u64,
    /// Which scenes.
    pub split: Split,
    /// The longest word, in letters: 5 can be read at 64 px, 8 at 128 px.
    pub letters_max: usize,
    /// How things and words are placed.
    #[serde(default, skip_serializing_if = "Layout::is_free")]
    pub layout: Layout,
}

impl Settings {
    /// The longest word that can be read in pictures of this side.
    pub fn letters_max_at(side_px: u32) -> usize {
        if side_px < 128 { 5 } else { LETTERS_MAX }
    }
}

/// All scenes of some settings.
pub struct Scenes {
    settings: Settings,
    concepts: Vec<Concept>,
    gallery: Gallery,
    /// For each style, in the order of the enum: the concepts that it has, and how they look.
    drawn: [Vec<(usize, Arc<Art>)>; 3],
    words: Vec<String>,
    fonts: Fonts,
}

/// The longest word of the list.
const LETTERS_MAX: usize = 8;
/// With fewer it may take forever to find a scene that shows something held out.
const CONCEPTS_MIN: usize = 60;

impl Scenes {
    /// Opens the art: `concepts.json`, `words.txt`, `fonts/` and a folder for each style, as in `assets/sprites`.
    ///
    /// # Errors
    /// Something of it is missing or unreadable; a setting is out of bounds.
    pub fn open(folder: impl AsRef<Path>, settings: Settings) -> Result<Scenes, SpriteError> {
        let folder = folder.as_ref();
        let concepts = concepts(&folder.join("concepts.json"))?;
        let words = words(&folder.join("words.txt"), settings)?;
        let gallery = Gallery::open(folder, &concepts)?;
        let drawn = Style::ALL.map(|style| {
            let art = |(at, concept): (usize, &Concept)| Some((at, Arc::clone(gallery.get(&concept.art, style)?)));
            concepts.iter().enumerate().filter_map(art).collect::<Vec<_>>()
        });
        if drawn.iter().any(|concepts| concepts.len() < CONCEPTS_MIN) {
            let problem = format!("a style has fewer than {CONCEPTS_MIN} concepts");
            return Err(SpriteError::BadArt { path: folder.join("concepts.json"), problem });
        }
        let fonts = Fonts::open(&folder.join("fonts"))?;
        Ok(Scenes { settings, concepts, gallery, drawn, words, fonts })
    }

    /// What decides the scenes.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The words of the list that are short enough. A scene may have others, which nobody knows.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(|word| &word[..])
    }

    /// What a scene is called: by its number, and by what else tells it from the first training's scenes of that number.
    pub fn id(&self, number: u64) -> String {
        let Settings { seed, split, layout, .. } = self.settings;
        let of_seed = if seed == 0 { String::new() } else { format!(" of seed {seed}") };
        let of_split = match split {
            Split::Train => "",
            Split::HeldOut => ", held out",
            Split::All => ", of both splits",
        };
        let of_layout = match layout {
            Layout::Free => "",
            Layout::Grid => ", on a grid",
            Layout::Quarters => ", on a grid with quarters",
        };
        format!("scene {number}{of_seed}{of_split}{of_layout}")
    }

    /// The names of everything that can be in a scene.
    pub fn concepts(&self) -> impl Iterator<Item = &str> {
        self.concepts.iter().map(|concept| &concept.name[..])
    }
}

fn concepts(path: &Path) -> Result<Vec<Concept>, SpriteError> {
    let bad = |problem: String| SpriteError::BadArt { path: path.to_owned(), problem };
    let concepts: Vec<Concept> = serde_json::from_str(&read(path)?).map_err(|error| bad(error.to_string()))?;
    let mut names: Vec<&str> = concepts.iter().map(|concept| &concept.name[..]).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(bad(format!("the concept `{}` is listed twice", twice[0])));
    }
    match concepts.iter().find(|concept| concept.words.is_empty()) {
        Some(concept) => Err(bad(format!("the concept `{}` has no words", concept.name))),
        None => Ok(concepts),
    }
}

/// Those that are short enough.
fn words(path: &Path, settings: Settings) -> Result<Vec<String>, SpriteError> {
    if !(2..=LETTERS_MAX).contains(&settings.letters_max) {
        let problem = format!("{} is not from 2 to {LETTERS_MAX}", settings.letters_max);
        let hint = "5 letters can be read at 64 px, 8 at 128 px";
        return Err(SpriteError::BadSetting { setting: "letters_max", problem, hint });
    }
    let bad = |problem: String| SpriteError::BadArt { path: path.to_owned(), problem };
    let text = read(path)?;
    if let Some(odd) = text.lines().find(|word| word.is_empty() || !word.bytes().all(|c| c.is_ascii_lowercase())) {
        return Err(bad(format!("`{odd}` is no word of small letters")));
    }
    let words: Vec<String> =
        text.lines().filter(|word| word.len() <= settings.letters_max).map(ToOwned::to_owned).collect();
    let held_out = words.iter().filter(|word| held_out::word(word)).count();
    if held_out == 0 || held_out == words.len() {
        return Err(bad(format!("{held_out} of {} short words are held out", words.len())));
    }
    Ok(words)
}

fn read(path: &Path) -> Result<String, SpriteError> {
    std::fs::read_to_string(path).map_err(|problem| SpriteError::Unreadable { path: path.to_owned(), problem })
}
