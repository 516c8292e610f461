//! Pictures side by side.

use crate::image::Image;

/// Space between pictures.
const GAP_PX: usize = 2;

/// Columns that make a sheet of so many pictures about as wide as it is high, and never higher.
pub fn columns(count: usize) -> usize {
    count.isqrt() + usize::from(count.isqrt().pow(2) < count)
}

/// `tiles`, all of one size, in rows of `columns`, on white.
///
/// # Panics
/// No tile, no column, or tiles of different sizes: bugs of the caller.
pub fn sheet(tiles: &[Image], columns: usize) -> Image {
    let first = tiles.first().expect("a sheet of at least one picture");
    let (columns, rows) = (columns.min(tiles.len()), tiles.len().div_ceil(columns));
    let place = |count: usize, side: usize| count * (side + GAP_PX);
    let width = place(columns, first.width) + GAP_PX;
    let height = place(rows, first.height) + GAP_PX;
    let mut rgb = vec![255; width * height * 3];
    for (index, tile) in tiles.iter().enumerate() {
        assert_eq!((tile.width, tile.height), (first.width, first.height), "pictures of one size");
        let left = GAP_PX + place(index % columns, tile.width);
        let top = GAP_PX + place(index / columns, tile.height);
        for (y, row) in tile.rgb.chunks_exact(tile.width * 3).enumerate() {
            let start = ((top + y) * width + left) * 3;
            rgb[start..start + row.len()].copy_from_slice(row);
        }
    }
    Image { width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(shade: u8) -> Image {
        Image { width: 3, height: 2, rgb: vec![shade; 3 * 2 * 3] }
    }

    #[test]
    fn a_sheet_is_about_square_and_never_higher_than_wide() {
        assert_eq!([1, 2, 3, 4, 5, 8, 9, 10].map(columns), [1, 2, 2, 2, 3, 3, 3, 4]);
    }

    #[test]
    fn tiles_stand_in_rows_with_white_between() {
        let sheet = sheet(&[tile(1), tile(2), tile(3)], 2);
        assert_eq!((sheet.width, sheet.height), (2 * 5 + 2, 2 * 4 + 2));
        let at = |x: usize, y: usize| sheet.rgb[(y * sheet.width + x) * 3];
        assert_eq!([at(2, 2), at(4, 3), at(5, 2), at(7, 2), at(2, 6), at(7, 6)], [1, 1, 255, 2, 3, 255]);
    }
}
