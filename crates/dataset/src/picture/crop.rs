use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::buckets::Size;

/// A part of a picture, px from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Of its left edge.
    pub x_px: u32,
    /// Of its upper edge.
    pub y_px: u32,
    /// Width and height.
    pub size: Size,
}

/// A picture at the size it is trained at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cropped {
    /// What is left.
    pub picture: RgbImage,
    /// Where it was in the whole, before it was resized.
    pub window: Window,
}

/// Cuts the largest part of the wanted shape from the middle and brings it to the wanted size: the square centre crop
/// for a square, resize and crop for a bucket. Lanczos with three lobes, stretched to the source's pixels when it
/// shrinks, so that nothing flickers or breaks into steps.
///
/// # Panics
/// A side is 0.
pub fn crop_to(picture: &RgbImage, wanted: Size) -> Cropped {
    let window = largest_window(Size::new(picture.width(), picture.height()), wanted);
    let Window { x_px, y_px, size } = window;
    let part = imageops::crop_imm(picture, x_px, y_px, size.width_px, size.height_px);
    let picture = imageops::resize(&*part, wanted.width_px, wanted.height_px, FilterType::Lanczos3);
    Cropped { picture, window }
}

/// The largest window of the shape of `wanted` in the middle of `whole`, to the nearest pixel.
fn largest_window(whole: Size, wanted: Size) -> Window {
    assert!(whole.pixels() > 0 && wanted.pixels() > 0, "{wanted} of {whole}");
    // The side that one side asks for, in proportion, rounded.
    let matching = |side: u32, of: u32, to: u32| {
        let side = (2 * u64::from(side) * u64::from(to) + u64::from(of)) / (2 * u64::from(of));
        side.clamp(1, u64::from(u32::MAX)) as u32
    };
    let width_px = matching(whole.height_px, wanted.height_px, wanted.width_px);
    let size = match width_px <= whole.width_px {
        true => Size::new(width_px, whole.height_px),
        false => {
            let height_px = matching(whole.width_px, wanted.width_px, wanted.height_px);
            Size::new(whole.width_px, height_px.min(whole.height_px))
        }
    };
    Window { x_px: (whole.width_px - size.width_px) / 2, y_px: (whole.height_px - size.height_px) / 2, size }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_middle_of_the_wanted_shape_is_taken() {
        let window = |whole, wanted| {
            let window = largest_window(Size::from(whole), Size::from(wanted));
            [window.x_px, window.y_px, window.size.width_px, window.size.height_px]
        };
        assert_eq!(window([300, 200], [64, 64]), [50, 0, 200, 200]);
        assert_eq!(window([200, 301], [64, 64]), [0, 50, 200, 200]);
        assert_eq!(window([1_000, 1_000], [1_344, 768]), [0, 214, 1_000, 571]);
        assert_eq!(window([20_000, 1], [64, 64]), [9_999, 0, 1, 1]);
        assert_eq!(window([1, 20_000], [1_472, 704]), [0, 9_999, 1, 1]);
    }

    #[test]
    fn a_picture_of_the_wanted_size_is_not_touched() {
        let picture = RgbImage::from_fn(16, 32, |x, y| Rgb([x as u8, y as u8, 7]));
        assert_eq!(crop_to(&picture, Size::new(16, 32)).picture, picture);
    }

    #[test]
    fn shrinking_averages_instead_of_picking_pixels() {
        // Lines of one pixel, seven times finer than the result: picked, they would give black or white.
        let picture = RgbImage::from_fn(448, 448, |x, _| Rgb([if x % 2 == 0 { 0 } else { 255 }; 3]));
        let small = crop_to(&picture, Size::new(64, 64)).picture;
        assert!(small.pixels().all(|pixel| (118..138).contains(&pixel.0[0])), "{:?}", small.get_pixel(9, 9));
    }

    #[test]
    fn a_ramp_stays_where_it_was() {
        let picture = RgbImage::from_fn(400, 200, |x, _| Rgb([(x * 255 / 399) as u8; 3]));
        let cropped = crop_to(&picture, Size::new(50, 50));
        for x in 3..47 {
            let source_px = f64::from(cropped.window.x_px) + (f64::from(x) + 0.5) * 4.0 - 0.5;
            let value = f64::from(cropped.picture.get_pixel(x, 25).0[0]);
            assert!((value - source_px * 255.0 / 399.0).abs() < 1.5, "{x}: {value}");
        }
    }

    proptest! {
        #[test]
        fn a_window_lies_inside_and_has_the_wanted_shape(
            width in 1_u32..30_000, height in 1_u32..30_000, wanted_width in 1_u32..2_000, wanted_height in 1_u32..2_000,
        ) {
            let (whole, wanted) = (Size::new(width, height), Size::new(wanted_width, wanted_height));
            let Window { x_px, y_px, size } = largest_window(whole, wanted);
            prop_assert!(size.pixels() > 0 && x_px + size.width_px <= width && y_px + size.height_px <= height);
            prop_assert!(size.width_px == width || size.height_px == height);
            // The shorter side is within a pixel of the exact proportion.
            let exact_width = f64::from(size.height_px) * f64::from(wanted_width) / f64::from(wanted_height);
            let exact_height = f64::from(size.width_px) * f64::from(wanted_height) / f64::from(wanted_width);
            let off = (exact_width - f64::from(size.width_px)).abs().min((exact_height - f64::from(size.height_px)).abs());
            prop_assert!(off <= 1.0, "{size} of {whole} for {wanted}");
        }
    }
}
