//! Colours that have an everyday name.

use serde::{Deserialize, Serialize};

/// A colour that a caption can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the variants are the names")]
pub enum Colour {
    White,
    Black,
    Grey,
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    LightBlue,
    LightGreen,
    DarkBlue,
    DarkGreen,
    Beige,
}

/// Backgrounds and letters are drawn in these, sRGB.
const COLOURS: [(Colour, &str, [u8; 3]); 16] = [
    (Colour::White, "white", [255, 255, 255]),
    (Colour::Black, "black", [0, 0, 0]),
    (Colour::Grey, "grey", [136, 136, 136]),
    (Colour::Red, "red", [214, 30, 36]),
    (Colour::Orange, "orange", [247, 126, 18]),
    (Colour::Yellow, "yellow", [252, 220, 40]),
    (Colour::Green, "green", [40, 158, 62]),
    (Colour::Blue, "blue", [34, 92, 220]),
    (Colour::Purple, "purple", [126, 50, 178]),
    (Colour::Pink, "pink", [250, 148, 202]),
    (Colour::Brown, "brown", [118, 72, 36]),
    (Colour::LightBlue, "light blue", [160, 208, 246]),
    (Colour::LightGreen, "light green", [172, 228, 160]),
    (Colour::DarkBlue, "dark blue", [18, 32, 92]),
    (Colour::DarkGreen, "dark green", [14, 70, 36]),
    (Colour::Beige, "beige", [236, 222, 190]),
];

/// How a coloured thing looks as a whole: the means over its coloured pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// Mean direction on the colour circle, degrees in 0..360.
    pub(super) hue: f32,
    /// HSV saturation, 0..1.
    pub(super) saturation: f32,
    /// HSV value, 0..1.
    pub(super) value: f32,
}

/// A colour that art can be turned to: name, hue in degrees with what still counts as it, least and greatest
/// saturation, least value. Between the ranges lie colours that people do not agree on.
type Class = (Colour, f32, f32, [f32; 2], f32);
const CLASSES: [Class; 7] = [
    (Colour::Red, 0.0, 9.0, [0.65, 1.0], 0.72),
    (Colour::Orange, 27.0, 6.0, [0.75, 1.0], 0.88),
    (Colour::Yellow, 51.0, 7.0, [0.5, 1.0], 0.85),
    (Colour::Green, 120.0, 28.0, [0.4, 1.0], 0.4),
    (Colour::Blue, 218.0, 16.0, [0.55, 1.0], 0.55),
    (Colour::Purple, 276.0, 14.0, [0.4, 1.0], 0.45),
    (Colour::Pink, 328.0, 10.0, [0.3, 0.65], 0.85),
];

impl Colour {
    /// Every colour.
    pub fn all() -> impl Iterator<Item = Colour> {
        COLOURS.iter().map(|row| row.0)
    }

    /// The colours that a thing in a scene may have. Others are for backgrounds and letters alone.
    pub fn of_things() -> impl Iterator<Item = Colour> {
        CLASSES.iter().map(|class| class.0)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// sRGB.
    pub fn rgb(self) -> [u8; 3] {
        self.row().2
    }

    /// The colour that everybody would call such a thing.
    pub(super) fn of(look: Look) -> Option<Colour> {
        let fits = |&(_, hue, width, [least, most], value): &Class| {
            turned(look.hue, hue).abs() <= width && (least..=most).contains(&look.saturation) && look.value >= value
        };
        CLASSES.iter().find(|class| fits(class)).map(|class| class.0)
    }

    /// The hues that art can be turned to, degrees.
    pub(super) fn targets() -> impl Iterator<Item = (Colour, f32)> {
        CLASSES.iter().map(|class| (class.0, class.1))
    }

    fn row(self) -> &'static (Colour, &'static str, [u8; 3]) {
        // The table is in the order of the enum; a test holds them together.
        &COLOURS[self as usize]
    }
}

/// From hue `b` to hue `a` the shorter way, degrees in -180..180.
pub(super) fn turned(a: f32, b: f32) -> f32 {
    (a - b + 540.0).rem_euclid(360.0) - 180.0
}

/// Hue in degrees, saturation and value in 0..1, of sRGB in 0..1.
pub(super) fn to_hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let span = most - least;
    if span <= 0.0 {
        return [0.0, 0.0, most];
    }
    let sixth = if most == r {
        (g - b) / span
    } else if most == g {
        2.0 + (b - r) / span
    } else {
        4.0 + (r - g) / span
    };
    [(60.0 * sixth).rem_euclid(360.0), span / most, most]
}

/// The inverse of [`to_hsv`].
pub(super) fn to_rgb([hue, saturation, value]: [f32; 3]) -> [f32; 3] {
    // https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
    [5.0, 3.0, 1.0].map(|n: f32| {
        let k = (n + hue / 60.0).rem_euclid(6.0);
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

/// WCAG 2's contrast of two colours, 1..21.
pub(super) fn contrast(a: [u8; 3], b: [u8; 3]) -> f32 {
    let linear = |byte: u8| {
        let c = f32::from(byte) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = |[r, g, b]: [u8; 3]| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        COLOURS.iter().enumerate().for_each(|(at, (colour, name, _))| assert_eq!(*colour as usize, at, "{name}"));
    }

    #[test]
    fn hsv_and_back_is_the_same_colour() {
        for rgb in [[0.1, 0.5, 0.9], [0.9, 0.2, 0.2], [0.0, 1.0, 0.5], [0.3, 0.3, 0.3], [1.0, 0.9, 0.0]] {
            let back = to_rgb(to_hsv(rgb));
            (0..3).for_each(|i| assert!((back[i] - rgb[i]).abs() < 1e-5, "{rgb:?} {back:?}"));
        }
        assert_eq!(to_hsv([0.0, 0.0, 1.0]), [240.0, 1.0, 1.0]);
    }

    #[test]
    fn what_is_drawn_in_a_colour_is_that_colour() {
        for (colour, _) in Colour::targets() {
            let [hue, saturation, value] = to_hsv(colour.rgb().map(|byte| f32::from(byte) / 255.0));
            assert_eq!(Colour::of(Look { hue, saturation, value }), Some(colour));
        }
        assert_eq!(Colour::of(Look { hue: 29.0, saturation: 0.7, value: 0.4 }), None, "brown is not orange");
    }

    #[test]
    fn black_on_white_has_the_most_contrast() {
        assert!((contrast([0; 3], [255; 3]) - 21.0).abs() < 1e-3);
        assert!((contrast([9, 90, 200], [9, 90, 200]) - 1.0).abs() < 1e-6);
    }
}
