//! What is known of a scene: the JSON beside its caption.

use serde::{Deserialize, Serialize};

use super::art::Style;
use super::colour::Colour;

/// Which scenes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Without any combination that is held out.
    Train,
    /// Each with a pair of concepts, a count of a concept or a word that is in no scene for training.
    HeldOut,
    /// Those of both, as often as they come. Each scene is of one of the two.
    All,
}

/// A picture before it is drawn, at any size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// Its number among the scenes of its seed.
    pub number: u64,
    /// What it may be used for; never all.
    pub split: Split,
    /// True of the picture in every word.
    pub caption: String,
    /// How things are drawn. None in a scene without things.
    pub style: Option<Style>,
    /// What is behind everything.
    pub background: Background,
    /// Every thing in it. Things of one kind stand together.
    pub objects: Vec<Object>,
    /// How the things of the first kind lie to those of the second, where there are two kinds. Not every caption says it.
    pub relation: Option<Place>,
    /// A word in it.
    pub lettering: Option<Lettering>,
}

/// What is behind everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Background {
    Plain {
        colour: Colour,
    },
    /// From the top to the bottom.
    Gradient {
        top: Colour,
        bottom: Colour,
    },
}

/// One thing in a scene.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Its name.
    pub concept: String,
    /// The code points of the emoji that draws it.
    pub art: String,
    /// The colour that everybody would call it.
    pub colour: Option<Colour>,
    /// It has that colour here only.
    pub recoloured: bool,
    /// Where it is; it touches all four sides.
    pub area: Area,
}

/// A rectangle, in parts of the picture's side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Area {
    pub left: f32,
    pub top: f32,
    pub width: f32,
    pub height: f32,
}

/// Where one thing is, seen from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Place {
    LeftOf,
    RightOf,
    Above,
    Below,
}

/// A word in the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lettering {
    /// With its capitals.
    pub word: String,
    /// Its letters.
    pub font: Typeface,
    /// All of its letters.
    pub colour: Colour,
    /// Where it is: its ink touches all four sides.
    pub area: Area,
    /// Where it is, seen from the things. None where it is alone.
    pub place: Option<Place>,
    /// Where its letters are, if each has a square of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<Cells>,
}

/// Squares side by side, one for each letter of a word, in parts of the picture's side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cells {
    /// Where the first one begins.
    pub left: f32,
    /// Where they end below: the line that the letters stand on.
    pub line: f32,
    /// Of one square.
    pub side: f32,
    /// How high capital letters are; they may stand out above.
    pub capital: f32,
}

impl Cells {
    /// In another unit.
    pub(super) fn times(self, factor: f32) -> Cells {
        let Cells { left, line, side, capital } = self;
        Cells { left: left * factor, line: line * factor, side: side * factor, capital: capital * factor }
    }
}

/// How things and words are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Anywhere, in any size.
    #[default]
    Free,
    /// In squares of a grid of eight by eight, and so is each letter.
    Grid,
    /// The same, and about half of the scenes show four different things, one in each quarter: looks are learned from fewer
    /// pictures.
    Quarters,
}

impl Layout {
    /// Whether it is the first one, which scenes had before there was another.
    pub fn is_free(&self) -> bool {
        *self == Layout::Free
    }
}

/// What letters look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Typeface {
    /// Open Sans Bold.
    SansSerif,
    /// Roboto Slab Bold.
    Slab,
    /// Comic Neue Bold.
    Comic,
}

impl Area {
    pub(super) fn right(self) -> f32 {
        self.left + self.width
    }

    pub(super) fn bottom(self) -> f32 {
        self.top + self.height
    }

    /// The largest rectangle of a shape, `width / height`, inside this one, `x` and `y` (0..1) of the free space from
    /// its corner.
    pub(super) fn fitted(self, shape: f32, x: f32, y: f32) -> Area {
        let (width, height) = (self.width.min(self.height * shape), self.height.min(self.width / shape));
        Area { left: self.left + x * (self.width - width), top: self.top + y * (self.height - height), width, height }
    }

    /// A part of this one: everything in parts of its sides.
    pub(super) fn part(self, left: f32, top: f32, width: f32, height: f32) -> Area {
        Area {
            left: self.left + left * self.width,
            top: self.top + top * self.height,
            width: width * self.width,
            height: height * self.height,
        }
    }
}

impl Background {
    /// The colours in it, all others being between them.
    pub(super) fn colours(self) -> [Colour; 2] {
        match self {
            Background::Plain { colour } => [colour, colour],
            Background::Gradient { top, bottom } => [top, bottom],
        }
    }
}

impl Place {
    pub(super) const ALL: [Place; 4] = [Place::LeftOf, Place::RightOf, Place::Above, Place::Below];

    /// The same relation, told from the other side.
    pub(super) fn turned_round(self) -> Place {
        match self {
            Place::LeftOf => Place::RightOf,
            Place::RightOf => Place::LeftOf,
            Place::Above => Place::Below,
            Place::Below => Place::Above,
        }
    }
}
