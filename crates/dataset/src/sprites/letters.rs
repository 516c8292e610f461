//! Words as pixels.

use std::path::Path;

use ab_glyph::{Font, FontVec, OutlinedGlyph, PxScale, ScaleFont, point};

use super::error::SpriteError;
use super::scene::{Area, Cells, Typeface};

/// Fine enough that the ink's rounding to whole pixels does not count.
const MEASURED_AT: f32 = 1000.0;

/// Width of the widest letter, in parts of its square.
const WIDE_MAX: f32 = 0.92;
/// Letters narrower than this part of their squares are made wider, so that words are not read letter by letter, but not
/// by more than so much.
const WIDE: f32 = 0.8;
const WIDER_MAX: f32 = 1.3;

/// The typefaces of scenes.
pub(super) struct Fonts([FontVec; 3]);

impl Fonts {
    pub(super) fn open(folder: &Path) -> Result<Fonts, SpriteError> {
        let open = |name: &str| {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Err(problem) => Err(SpriteError::Unreadable { path, problem }),
                Ok(bytes) => FontVec::try_from_vec(bytes)
                    .map_err(|_| SpriteError::BadArt { path, problem: "it is no font".to_owned() }),
            }
        };
        Ok(Fonts([open("OpenSans-Bold.ttf")?, open("RobotoSlab-Bold.otf")?, open("ComicNeue-Bold.otf")?]))
    }

    /// Width of a word's ink by its height. None if the font lacks its letters.
    pub(super) fn shape(&self, face: Typeface, word: &str) -> Option<f32> {
        let ink = Ink::of(&self.glyphs(face, word, MEASURED_AT))?;
        Some(ink.width() / ink.height())
    }

    /// Calls `cover` with every pixel that the word touches and how much of it it covers, 0..1. The ink's left upper
    /// corner is at `left`, `top`, and it is `width` wide, all in pixels.
    pub(super) fn draw(
        &self,
        face: Typeface,
        word: &str,
        [left, top, width]: [f32; 3],
        cover: impl FnMut(i64, i64, f32),
    ) {
        let Some(measured) = Ink::of(&self.glyphs(face, word, MEASURED_AT)) else { return };
        let scale = MEASURED_AT * width / measured.width();
        let (dx, dy) = (left - measured.left * scale / MEASURED_AT, top - measured.top * scale / MEASURED_AT);
        self.line(face, word, scale, [dx, dy], cover);
    }

    /// Like [`Fonts::draw`], at a font's size in pixels, from a point on the line that letters stand on.
    pub(super) fn line(
        &self,
        face: Typeface,
        text: &str,
        size_px: f32,
        [x, y]: [f32; 2],
        cover: impl FnMut(i64, i64, f32),
    ) {
        cover_each(&self.placed(face, text, size_px, x, y), cover);
    }

    /// Calls `cover` as [`Fonts::draw`] does, for a word whose letters have squares of their own; `cells` in pixels.
    pub(super) fn draw_in(&self, face: Typeface, word: &str, cells: Cells, cover: impl FnMut(i64, i64, f32)) {
        cover_each(&self.placed_in(face, word, cells), cover);
    }

    /// What such a word's ink touches, in the unit of `cells`. None if the font lacks its letters.
    pub(super) fn area_in(&self, face: Typeface, word: &str, cells: Cells) -> Option<Area> {
        let large = cells.times(MEASURED_AT);
        let ink = Ink::of(&self.placed_in(face, word, large))?;
        let [left, top, width, height] = [ink.left, ink.top, ink.width(), ink.height()].map(|px| px / MEASURED_AT);
        Some(Area { left, top, width, height })
    }

    /// Letters in the middle of their squares, all as high.
    fn placed_in(&self, face: Typeface, word: &str, cells: Cells) -> Vec<OutlinedGlyph> {
        let font = &self.0[face as usize];
        let Some(capital) = Ink::of(&self.glyphs(face, "H", MEASURED_AT)) else { return Vec::new() };
        let size = MEASURED_AT * cells.capital / capital.height();
        let letters = word.chars().enumerate().filter_map(|(index, letter)| {
            let ink = Ink::of(&self.glyphs(face, letter.encode_utf8(&mut [0; 4]), MEASURED_AT))?;
            let (left, width) = (ink.left * size / MEASURED_AT, ink.width() * size / MEASURED_AT);
            let stretch = (WIDE * cells.side / width).clamp(1.0, WIDER_MAX).min(WIDE_MAX * cells.side / width);
            let middle = cells.left + (index as f32 + 0.5) * cells.side;
            let x = middle - (left + width / 2.0) * stretch;
            let scale = PxScale { x: size * stretch, y: size };
            font.outline_glyph(font.glyph_id(letter).with_scale_and_position(scale, point(x, cells.line)))
        });
        letters.collect()
    }

    /// How far a line of that size reaches, in pixels.
    pub(super) fn line_px(&self, face: Typeface, text: &str, size_px: f32) -> f32 {
        Ink::of(&self.glyphs(face, text, size_px)).map_or(0.0, |ink| ink.right)
    }

    fn glyphs(&self, face: Typeface, word: &str, scale: f32) -> Vec<OutlinedGlyph> {
        self.placed(face, word, scale, 0.0, 0.0)
    }

    /// The letters on a line that begins at `x`, `y`.
    fn placed(&self, face: Typeface, word: &str, scale: f32, x: f32, y: f32) -> Vec<OutlinedGlyph> {
        let font = &self.0[face as usize];
        let scaled = font.as_scaled(PxScale::from(scale));
        let (mut glyphs, mut caret, mut before) = (Vec::new(), x, None);
        for letter in word.chars() {
            let id = font.glyph_id(letter);
            caret += before.map_or(0.0, |before| scaled.kern(before, id));
            glyphs.extend(font.outline_glyph(id.with_scale_and_position(PxScale::from(scale), point(caret, y))));
            caret += scaled.h_advance(id);
            before = Some(id);
        }
        glyphs
    }
}

/// Calls `cover` with every pixel that letters touch and how much of it they cover, 0..1.
fn cover_each(glyphs: &[OutlinedGlyph], mut cover: impl FnMut(i64, i64, f32)) {
    for glyph in glyphs {
        let bounds = glyph.px_bounds();
        glyph.draw(|x, y, part| {
            cover(bounds.min.x as i64 + i64::from(x), bounds.min.y as i64 + i64::from(y), part.min(1.0));
        });
    }
}

/// The rectangle that letters touch.
struct Ink {
    left: f32,
    right: f32,
    top: f32,
    bottom: f32,
}

impl Ink {
    fn of(glyphs: &[OutlinedGlyph]) -> Option<Ink> {
        let join = |a: Ink, b: Ink| Ink {
            left: a.left.min(b.left),
            right: a.right.max(b.right),
            top: a.top.min(b.top),
            bottom: a.bottom.max(b.bottom),
        };
        let one = |glyph: &OutlinedGlyph| {
            let bounds = glyph.px_bounds();
            Ink { left: bounds.min.x, right: bounds.max.x, top: bounds.min.y, bottom: bounds.max.y }
        };
        glyphs.iter().map(one).reduce(join)
    }

    fn width(&self) -> f32 {
        self.right - self.left
    }

    fn height(&self) -> f32 {
        self.bottom - self.top
    }
}
