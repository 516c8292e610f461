//! From a scene to pixels.

use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

use super::Scenes;
use super::error::SpriteError;
use super::scene::{Area, Background, Lettering, Object, Scene};

/// The sides that scenes are drawn at: below, words cannot be read; above, the art is coarser than the picture.
pub(super) const SIDES_PX: [u32; 2] = [16, 4096];

impl Scenes {
    /// Draws a scene, `side_px` (16 to 4096) pixels wide and high.
    ///
    /// # Errors
    /// The side is out of bounds; the scene has a thing that this art has not.
    pub fn draw(&self, scene: &Scene, side_px: u32) -> Result<RgbImage, SpriteError> {
        let [least, most] = SIDES_PX;
        if !(least..=most).contains(&side_px) {
            let problem = format!("{side_px} px is not from {least} to {most}");
            return Err(SpriteError::BadSetting { setting: "size", problem, hint: "64 is usual" });
        }
        let mut picture = ground(scene.background, side_px);
        for object in &scene.objects {
            self.draw_object(&mut picture, scene, object)?;
        }
        if let Some(lettering) = &scene.lettering {
            self.draw_word(&mut picture, lettering);
        }
        Ok(picture)
    }

    fn draw_object(&self, picture: &mut RgbImage, scene: &Scene, object: &Object) -> Result<(), SpriteError> {
        let art = scene.style.and_then(|style| self.gallery.get(&object.art, style));
        let art = art.ok_or_else(|| SpriteError::BadSetting {
            setting: "scene",
            problem: format!("there is no art {} in its style", object.art),
            hint: "draw scenes with the art that they were made for",
        })?;
        let turn = object.colour.filter(|_| object.recoloured).and_then(|colour| art.turn_to(colour)).unwrap_or(0.0);
        let [left, top, right, bottom] = pixels(object.area, picture.width());
        // Triangle widens with the reduction, so it averages all that a pixel covers.
        let small = resize(&art.premultiplied(turn), right - left, bottom - top, FilterType::Triangle);
        for (x, y, pixel) in small.enumerate_pixels() {
            let [r, g, b, alpha] = pixel.0;
            let under = picture.get_pixel_mut(left + x, top + y);
            let over = [r, g, b];
            under.0 = std::array::from_fn(|i| byte(over[i] + (1.0 - alpha) * f32::from(under.0[i]) / 255.0));
        }
        Ok(())
    }

    fn draw_word(&self, picture: &mut RgbImage, lettering: &Lettering) {
        let side = picture.width() as f32;
        let [left, top, right, bottom] = pixels(lettering.area, picture.width()).map(i64::from);
        let ink = lettering.colour.rgb();
        let at = [lettering.area.left * side, lettering.area.top * side, lettering.area.width * side];
        let cover = |x: i64, y: i64, part: f32| {
            // A glyph's rectangle is rounded outwards and may have a faint pixel more.
            if !((left..right).contains(&x) && (top..bottom).contains(&y)) {
                return;
            }
            let under = picture.get_pixel_mut(x as u32, y as u32);
            under.0 = std::array::from_fn(|i| {
                byte((part * f32::from(ink[i]) + (1.0 - part) * f32::from(under.0[i])) / 255.0)
            });
        };
        match lettering.cells {
            None => self.fonts.draw(lettering.font, &lettering.word, at, cover),
            Some(cells) => self.fonts.draw_in(lettering.font, &lettering.word, cells.times(side), cover),
        }
    }
}

/// Left, top, right and bottom of the pixels that an area touches, at least one each way.
pub(super) fn pixels(area: Area, side_px: u32) -> [u32; 4] {
    let side = side_px as f32;
    let low = |part: f32| ((part * side).floor().max(0.0) as u32).min(side_px - 1);
    let high = |part: f32, low: u32| ((part * side).ceil() as u32).clamp(low + 1, side_px);
    let (left, top) = (low(area.left), low(area.top));
    [left, top, high(area.right(), left), high(area.bottom(), top)]
}

fn ground(background: Background, side_px: u32) -> RgbImage {
    let [top, bottom] = background.colours().map(super::Colour::rgb);
    RgbImage::from_fn(side_px, side_px, |_, y| {
        let part = y as f32 / (side_px - 1) as f32;
        let mix = |i: usize| (1.0 - part) * f32::from(top[i]) + part * f32::from(bottom[i]);
        Rgb(std::array::from_fn(|i| byte(mix(i) / 255.0)))
    })
}

fn byte(value: f32) -> u8 {
    (value * 255.0).round().clamp(0.0, 255.0) as u8
}
