//! The pictures that scenes are put together from, and what is known of each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use image::{ImageBuffer, Rgba, RgbaImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::colour::{Colour, Look, to_hsv, to_rgb, turned};
use super::error::SpriteError;

/// Straight sRGB in 0..1, multiplied by its alpha.
pub(super) type Premultiplied = ImageBuffer<Rgba<f32>, Vec<f32>>;

/// The largest picture that is decoded; the art has 128.
const SIDE_PX_MAX: u32 = 1024;

/// Whose drawing it is, and so how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Style {
    /// Fluent Emoji: modelled, lit and glossy.
    #[serde(rename = "3d")]
    ThreeD,
    /// Twemoji: plain areas of colour.
    #[serde(rename = "flat")]
    Flat,
    /// Noto Emoji: drawn with soft shading.
    #[serde(rename = "noto")]
    Noto,
}

impl Style {
    pub(super) const ALL: [Style; 3] = [Style::ThreeD, Style::Flat, Style::Noto];

    /// The folder of its art.
    fn folder(self) -> &'static str {
        match self {
            Style::ThreeD => "3d",
            Style::Flat => "flat",
            Style::Noto => "noto",
        }
    }
}

/// A thing that people know by name: a line of `concepts.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Concept {
    /// Its name, without an article.
    pub(super) name: String,
    /// Its file's name without the ending: the code points of the emoji.
    pub(super) art: String,
    /// The styles that have it.
    pub(super) styles: Vec<Style>,
    /// What people call it, the name first.
    pub(super) words: Vec<Word>,
}

/// One way to call a thing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Word {
    /// With its article: `an owl`.
    pub(super) one: String,
    /// `owls`.
    pub(super) many: String,
}

impl Concept {
    /// Whether its name already says a colour.
    pub(super) fn names_a_colour(&self) -> bool {
        let colours = ["red", "green", "blue", "orange", "black", "white", "yellow", "pink"];
        self.name.split(' ').any(|word| colours.contains(&word))
    }
}

/// A picture without the empty space around it.
pub(super) struct Art {
    pub(super) image: RgbaImage,
    /// Where nearly everything has one hue: it and what it looks like.
    pub(super) look: Option<Look>,
    /// Colours of pixels spread evenly over it.
    samples: Vec<[f32; 3]>,
}

/// All pictures by name and style.
pub(super) struct Gallery(BTreeMap<(String, Style), Arc<Art>>);

impl Gallery {
    /// Decodes every picture of every concept.
    pub(super) fn open(folder: &Path, concepts: &[Concept]) -> Result<Gallery, SpriteError> {
        let all: Vec<(&str, Style)> =
            concepts.iter().flat_map(|concept| concept.styles.iter().map(|style| (&concept.art[..], *style))).collect();
        let open = |(art, style): (&str, Style)| {
            // Nothing that leads out of the folder.
            let path = folder.join(style.folder()).join(format!("{art}.webp"));
            if !art.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                let problem = "its name in concepts.json is none of a picture".to_owned();
                return Err(SpriteError::BadArt { path, problem });
            }
            Ok(((art.to_owned(), style), Arc::new(Art::open(&path)?)))
        };
        Ok(Gallery(all.into_par_iter().map(open).collect::<Result<_, _>>()?))
    }

    pub(super) fn get(&self, art: &str, style: Style) -> Option<&Arc<Art>> {
        self.0.get(&(art.to_owned(), style))
    }
}

impl Art {
    fn open(path: &Path) -> Result<Art, SpriteError> {
        let bad = |problem: String| SpriteError::BadArt { path: path.to_owned(), problem };
        let unreadable = |problem| SpriteError::Unreadable { path: path.to_owned(), problem };
        let mut reader = image::ImageReader::open(path).map_err(unreadable)?;
        let mut limits = image::Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(SIDE_PX_MAX), Some(SIDE_PX_MAX));
        reader.limits(limits);
        let whole = reader.decode().map_err(|error| bad(error.to_string()))?.into_rgba8();
        trimmed(&whole).map(Art::new).ok_or_else(|| bad("it is empty".to_owned()))
    }

    fn new(image: RgbaImage) -> Art {
        let opaque: Vec<[f32; 3]> = image.pixels().filter(|pixel| pixel[3] > 128).map(|pixel| unit(pixel.0)).collect();
        let every = opaque.len().div_ceil(200).max(1);
        let samples = opaque.iter().step_by(every).copied().collect();
        Art { look: look(&opaque), samples, image }
    }

    /// The colour that everybody would call it.
    pub(super) fn colour(&self) -> Option<Colour> {
        Colour::of(self.look?)
    }

    /// Degrees to turn every hue by to make it `colour`; none if it would not honestly be that.
    pub(super) fn turn_to(&self, colour: Colour) -> Option<f32> {
        let look = self.look?;
        let (_, hue) = Colour::targets().find(|(target, _)| *target == colour)?;
        (Colour::of(Look { hue, ..look }) == Some(colour)).then(|| turned(hue, look.hue))
    }

    /// The part of it that can hardly be told from a background, 0..1.
    pub(super) fn hidden_on(&self, background: [u8; 3], turn: f32) -> f32 {
        /// Of 441 from black to white; about the difference between light grey and white.
        const SEEN: f32 = 75.0 / 255.0;
        let ground = background.map(|byte| f32::from(byte) / 255.0);
        let is_near = |rgb: &&[f32; 3]| {
            let rgb = turn_hue(**rgb, turn);
            (0..3).map(|i| (rgb[i] - ground[i]).powi(2)).sum::<f32>() < SEEN * SEEN
        };
        self.samples.iter().filter(is_near).count() as f32 / self.samples.len().max(1) as f32
    }

    /// For resizing, with every hue turned by `turn` degrees.
    pub(super) fn premultiplied(&self, turn: f32) -> Premultiplied {
        let (width, height) = self.image.dimensions();
        Premultiplied::from_fn(width, height, |x, y| {
            let pixel = self.image.get_pixel(x, y).0;
            let alpha = f32::from(pixel[3]) / 255.0;
            let [r, g, b] = turn_hue(unit(pixel), turn).map(|c| c * alpha);
            Rgba([r, g, b, alpha])
        })
    }
}

fn unit([r, g, b, _]: [u8; 4]) -> [f32; 3] {
    [r, g, b].map(|byte| f32::from(byte) / 255.0)
}

fn turn_hue(rgb: [f32; 3], turn: f32) -> [f32; 3] {
    if turn == 0.0 {
        return rgb;
    }
    let [hue, saturation, value] = to_hsv(rgb);
    to_rgb([(hue + turn).rem_euclid(360.0), saturation, value])
}

/// The smallest rectangle with everything that can be seen.
fn trimmed(image: &RgbaImage) -> Option<RgbaImage> {
    /// Fainter pixels are shadows and rounding.
    const SEEN: u8 = 16;
    let seen = || image.enumerate_pixels().filter(|(_, _, pixel)| pixel[3] >= SEEN);
    let (left, right) = (seen().map(|at| at.0).min()?, seen().map(|at| at.0).max()?);
    let (top, bottom) = (seen().map(|at| at.1).min()?, seen().map(|at| at.1).max()?);
    Some(image::imageops::crop_imm(image, left, top, right - left + 1, bottom - top + 1).to_image())
}

/// None unless most of it is coloured and that part has about one hue.
pub(super) fn look(opaque: &[[f32; 3]]) -> Option<Look> {
    /// Of all pixels. The rest is white, black and grey: eyes, shine, shadow.
    const COLOURED: f32 = 0.75;
    /// Length of the mean direction of hues; 0.97 is a standard deviation of 14 degrees.
    const ONE_HUE: f32 = 0.97;
    let coloured: Vec<[f32; 3]> =
        opaque.iter().map(|rgb| to_hsv(*rgb)).filter(|hsv| hsv[1] > 0.3 && hsv[2] > 0.25).collect();
    let count = coloured.len() as f32;
    if count == 0.0 || count < COLOURED * opaque.len() as f32 {
        return None;
    }
    let mean = |of: &dyn Fn(&[f32; 3]) -> f32| coloured.iter().map(of).sum::<f32>() / count;
    let (x, y) = (mean(&|hsv| hsv[0].to_radians().cos()), mean(&|hsv| hsv[0].to_radians().sin()));
    let look = Look {
        hue: y.atan2(x).to_degrees().rem_euclid(360.0),
        saturation: mean(&|hsv| hsv[1]),
        value: mean(&|hsv| hsv[2]),
    };
    (x.hypot(y) >= ONE_HUE).then_some(look)
}
