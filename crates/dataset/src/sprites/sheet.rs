//! Many scenes on one picture, each with its caption, for people to look at.

use image::imageops::{FilterType, overlay, resize};
use image::{Rgb, RgbImage};
use rayon::prelude::*;

use super::Scenes;
use super::error::SpriteError;
use super::scene::Typeface;

/// How large a scene is shown.
const SHOWN_PX: u32 = 192;
const RIM_PX: u32 = 8;
const COLUMNS: u32 = 6;
const LINES: usize = 5;
const LETTERS_PX: f32 = 14.0;
const LINE_PX: f32 = 14.0;

impl Scenes {
    /// Draws scenes `0..count` at `side_px`, enlarged without smoothing where that is small, with their captions.
    ///
    /// # Errors
    /// As [`Scenes::draw`].
    pub fn sheet(&self, count: u32, side_px: u32) -> Result<RgbImage, SpriteError> {
        let cell = [SHOWN_PX + RIM_PX, SHOWN_PX + RIM_PX + (LINES as f32 * LINE_PX) as u32 + RIM_PX];
        let size = [COLUMNS * cell[0] + RIM_PX, count.div_ceil(COLUMNS) * cell[1] + RIM_PX];
        let mut sheet = RgbImage::from_pixel(size[0], size[1], Rgb([250; 3]));
        let one = |number: u32| {
            let scene = self.scene(u64::from(number));
            let picture = self.draw(&scene, side_px)?;
            Ok((resize(&picture, SHOWN_PX, SHOWN_PX, FilterType::Nearest), scene.caption))
        };
        let drawn: Vec<(RgbImage, String)> = (0..count).into_par_iter().map(one).collect::<Result<_, _>>()?;
        for (number, (picture, caption)) in (0..).zip(drawn) {
            let (x, y) = (RIM_PX + number % COLUMNS * cell[0], RIM_PX + number / COLUMNS * cell[1]);
            overlay(&mut sheet, &picture, i64::from(x), i64::from(y));
            for (line, text) in (1..).zip(self.lines(&caption)) {
                let base = (y + SHOWN_PX) as f32 + line as f32 * LINE_PX;
                self.fonts.line(Typeface::SansSerif, &text, LETTERS_PX, [x as f32, base], |x, y, part| {
                    let at = (u32::try_from(x).unwrap_or(u32::MAX), u32::try_from(y).unwrap_or(u32::MAX));
                    if let Some(pixel) = sheet.get_pixel_mut_checked(at.0, at.1) {
                        pixel.0 = pixel.0.map(|byte| (f32::from(byte) * (1.0 - part)) as u8);
                    }
                });
            }
        }
        Ok(sheet)
    }

    /// A caption in lines as wide as its picture; what is too long ends in dots.
    fn lines(&self, caption: &str) -> Vec<String> {
        let mut lines: Vec<String> = vec![String::new()];
        for word in caption.split(' ') {
            let line = lines.last().map_or("", String::as_str);
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            let fits = self.fonts.line_px(Typeface::SansSerif, &longer, LETTERS_PX) <= SHOWN_PX as f32;
            if fits || line.is_empty() {
                lines.pop();
                lines.push(longer);
            } else {
                lines.push(word.to_owned());
            }
        }
        if lines.len() > LINES {
            lines.truncate(LINES - 1);
            lines.push("...".to_owned());
        }
        lines
    }
}
