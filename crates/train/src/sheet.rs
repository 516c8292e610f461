//! Pictures side by side, as a PNG file.

use std::io;
use std::path::Path;

use rectiflow_weights::{IfThere, write_whole};

/// Space between pictures.
const GAP_PX: usize = 2;

/// Pictures of one size, side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sheet {
    width_px: usize,
    height_px: usize,
    /// RGB, row by row.
    pixels: Vec<u8>,
}

/// An RGB picture, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Pixels of a row.
    pub width_px: usize,
    /// Rows.
    pub height_px: usize,
    /// Three bytes for each.
    pub pixels: Vec<u8>,
}

impl Sheet {
    /// `tiles`, all of one size, in rows of `columns`, on white.
    ///
    /// # Panics
    /// No tile, no column, or tiles of different sizes: bugs of the caller.
    pub fn of(tiles: &[Tile], columns: usize) -> Sheet {
        let first = tiles.first().expect("a sheet of at least one picture");
        let (columns, rows) = (columns.min(tiles.len()), tiles.len().div_ceil(columns));
        let place = |count: usize, side: usize| count * (side + GAP_PX);
        let width_px = place(columns, first.width_px) + GAP_PX;
        let height_px = place(rows, first.height_px) + GAP_PX;
        let mut pixels = vec![255; width_px * height_px * 3];
        for (index, tile) in tiles.iter().enumerate() {
            assert_eq!((tile.width_px, tile.height_px), (first.width_px, first.height_px), "pictures of one size");
            let left = GAP_PX + place(index % columns, tile.width_px);
            let top = GAP_PX + place(index / columns, tile.height_px);
            for (y, row) in tile.pixels.chunks_exact(tile.width_px * 3).enumerate() {
                let start = ((top + y) * width_px + left) * 3;
                pixels[start..start + row.len()].copy_from_slice(row);
            }
        }
        Sheet { width_px, height_px, pixels }
    }

    /// Writes it as PNG; the file is whole or not there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_png(&self, path: &Path) -> io::Result<()> {
        write_whole(path, IfThere::Replace, |out| {
            let side =
                |px: usize| u32::try_from(px).map_err(|_| io::Error::other("a picture of 4 billion pixels a side"));
            let mut encoder = png::Encoder::new(out, side(self.width_px)?, side(self.height_px)?);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            let mut writer = encoder.write_header().map_err(io::Error::other)?;
            writer.write_image_data(&self.pixels).map_err(io::Error::other)?;
            writer.finish().map_err(io::Error::other)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(shade: u8) -> Tile {
        Tile { width_px: 3, height_px: 2, pixels: vec![shade; 3 * 2 * 3] }
    }

    #[test]
    fn tiles_stand_in_rows_with_white_between() {
        let sheet = Sheet::of(&[tile(1), tile(2), tile(3)], 2);
        assert_eq!((sheet.width_px, sheet.height_px), (2 * 5 + 2, 2 * 4 + 2));
        let at = |x: usize, y: usize| sheet.pixels[(y * sheet.width_px + x) * 3];
        assert_eq!([at(2, 2), at(4, 3), at(5, 2), at(7, 2), at(2, 6), at(7, 6)], [1, 1, 255, 2, 3, 255]);
    }
}
