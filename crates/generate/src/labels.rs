//! A sheet of pictures in rows and columns that say what differs.
//!
//! This module does not know how the pictures were made. Letters that its font lacks (it has Latin, Greek and Cyrillic
//! ones) are boxes.

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};

use crate::image::Image;

/// Open Sans Bold; its licence is in assets/sprites.
const FONT: &[u8] = include_bytes!("../../../assets/sprites/fonts/OpenSans-Bold.ttf");

/// Height of letters in parts of a picture's width, within what can be read and what does not shout.
const SIZE: f32 = 0.06;
const SIZE_PX: std::ops::RangeInclusive<f32> = 13.0..=40.0;
/// Lines of a label; what is left is cut with dots.
const LINES_MAX: usize = 4;
/// Widest label of a row in parts of a picture's width, and at least.
const ROW_LABEL: f32 = 0.5;
const ROW_LABEL_PX_MIN: f32 = 120.0;
const GAP_PX: usize = 4;

/// What differs from column to column, or from row to row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The setting's name.
    pub name: String,
    /// Its values in order; at least one.
    pub values: Vec<String>,
}

/// `cells`, row by row, under labels of `x` and beside labels of `y`, on white. Without an axis there is one column or one
/// row, and no label of it. Pictures of different sizes stand in the left upper corners of their places.
///
/// # Panics
/// There are not as many cells as places, or none: bugs of the caller.
pub fn labelled_sheet(cells: &[Image], x: Option<&Axis>, y: Option<&Axis>) -> Image {
    let count = |axis: Option<&Axis>| axis.map_or(1, |axis| axis.values.len());
    let (columns, rows) = (count(x), count(y));
    assert!(columns * rows == cells.len() && !cells.is_empty(), "{} cells of {columns}x{rows}", cells.len());
    let widest = |side: fn(&Image) -> usize| cells.iter().map(side).max().unwrap_or(0);
    let (width, height) = (widest(|cell| cell.width), widest(|cell| cell.height));

    let pen = Pen::new((SIZE * width as f32).clamp(*SIZE_PX.start(), *SIZE_PX.end()));
    let labels = |axis: Option<&Axis>, within: f32| -> Vec<Vec<String>> {
        let label = |axis: &Axis, value: &String| pen.lines(&format!("{} {value}", axis.name), within);
        axis.map_or_else(Vec::new, |axis| axis.values.iter().map(|value| label(axis, value)).collect())
    };
    let above = labels(x, width as f32);
    let beside = labels(y, (ROW_LABEL * width as f32).max(ROW_LABEL_PX_MIN));
    let px = |most: Option<f32>| most.map_or(0, |px| px.ceil() as usize + GAP_PX);
    let top = px(above.iter().map(|label| pen.height(label)).reduce(f32::max));
    let left = px(beside.iter().map(|label| pen.width(label)).reduce(f32::max));
    // A label may be higher than a small picture.
    let row_height = height.max(px(beside.iter().map(|label| pen.height(label)).reduce(f32::max)));

    let place = |row: usize, column: usize| {
        (left + GAP_PX + column * (width + GAP_PX), top + GAP_PX + row * (row_height + GAP_PX))
    };
    let (right, bottom) = place(rows, columns);
    let mut sheet = Image { width: right, height: bottom, rgb: vec![255; 3 * right * bottom] };
    for (index, cell) in cells.iter().enumerate() {
        sheet.put(cell, place(index / columns, index % columns));
    }
    for (column, label) in above.iter().enumerate() {
        pen.write(&mut sheet, label, (place(0, column).0, GAP_PX));
    }
    for (row, label) in beside.iter().enumerate() {
        pen.write(&mut sheet, label, (GAP_PX, place(row, 0).1));
    }
    sheet
}

impl Image {
    /// Lays a picture over this one, which has room for it there.
    fn put(&mut self, picture: &Image, (left, top): (usize, usize)) {
        for (y, row) in picture.rgb.chunks_exact(picture.width * 3).enumerate() {
            let start = ((top + y) * self.width + left) * 3;
            self.rgb[start..start + row.len()].copy_from_slice(row);
        }
    }
}

/// Writes in black, letters of one size.
struct Pen {
    font: FontRef<'static>,
    scale: PxScale,
}

impl Pen {
    fn new(size_px: f32) -> Pen {
        let font = FontRef::try_from_slice(FONT).expect("the font is part of the program");
        Pen { font, scale: PxScale::from(size_px) }
    }

    fn line_px(&self) -> f32 {
        let font = self.font.as_scaled(self.scale);
        font.height() + font.line_gap()
    }

    fn height(&self, lines: &[String]) -> f32 {
        lines.len() as f32 * self.line_px()
    }

    fn width(&self, lines: &[String]) -> f32 {
        lines.iter().map(|line| self.text_px(line)).fold(0.0, f32::max)
    }

    fn text_px(&self, text: &str) -> f32 {
        let font = self.font.as_scaled(self.scale);
        text.chars().map(|letter| font.h_advance(font.glyph_id(letter))).sum()
    }

    /// The text in lines no longer than `within`, cut between words where that is possible, and at most [`LINES_MAX`].
    fn lines(&self, text: &str, within: f32) -> Vec<String> {
        let mut lines = vec![String::new()];
        for word in text.split_whitespace() {
            let line = lines.last_mut().expect("there is always one");
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if self.text_px(&longer) <= within {
                *line = longer;
                continue;
            }
            if !line.is_empty() {
                lines.push(String::new());
            }
            for letter in word.chars() {
                let line = lines.last_mut().expect("there is always one");
                if !line.is_empty() && self.text_px(&format!("{line}{letter}")) > within {
                    lines.push(letter.to_string());
                } else {
                    line.push(letter);
                }
            }
        }
        if lines.len() > LINES_MAX {
            lines.truncate(LINES_MAX);
            let last = &mut lines[LINES_MAX - 1];
            while !last.is_empty() && self.text_px(&format!("{last}...")) > within {
                last.pop();
            }
            last.push_str("...");
        }
        lines
    }

    /// Writes lines whose left upper corner is there; what lies beyond the picture is left out.
    fn write(&self, picture: &mut Image, lines: &[String], (left, top): (usize, usize)) {
        let font = self.font.as_scaled(self.scale);
        for (number, line) in lines.iter().enumerate() {
            let (mut x, y) = (left as f32, top as f32 + font.ascent() + number as f32 * self.line_px());
            for letter in line.chars() {
                let id = font.glyph_id(letter);
                let glyph = id.with_scale_and_position(self.scale, point(x, y));
                x += font.h_advance(id);
                let Some(outline) = self.font.outline_glyph(glyph) else { continue };
                let bounds = outline.px_bounds();
                outline.draw(|dx, dy, cover| {
                    let (x, y) = (bounds.min.x + dx as f32, bounds.min.y + dy as f32);
                    if x >= 0.0 && y >= 0.0 && (x as usize) < picture.width && (y as usize) < picture.height {
                        let start = 3 * (y as usize * picture.width + x as usize);
                        for value in &mut picture.rgb[start..start + 3] {
                            *value = (f32::from(*value) * (1.0 - cover.clamp(0.0, 1.0))) as u8;
                        }
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(shade: u8, width: usize, height: usize) -> Image {
        Image { width, height, rgb: vec![shade; 3 * width * height] }
    }

    fn axis(name: &str, values: &[&str]) -> Axis {
        Axis { name: name.into(), values: values.iter().map(|&value| value.into()).collect() }
    }

    #[test]
    fn cells_stand_in_rows_and_columns_beside_their_labels() {
        let cells: Vec<Image> = (1..=6).map(|shade| cell(shade, 64, 48)).collect();
        let (x, y) = (axis("steps", &["4", "8", "16"]), axis("guidance", &["2", "7"]));
        let sheet = labelled_sheet(&cells, Some(&x), Some(&y));
        let (left, top) = (sheet.width - 3 * 68, sheet.height - 2 * 52);
        for (index, cell) in cells.iter().enumerate() {
            let (x, y) = (left + index % 3 * 68, top + index / 3 * 52);
            for (dx, dy) in [(0, 0), (63, 47)] {
                assert_eq!(sheet.rgb[3 * ((y + dy) * sheet.width + x + dx)], cell.rgb[0], "cell {index}");
            }
        }
        assert_eq!(sheet.rgb[3 * (top * sheet.width + left - 1)], 255, "there is space around cells");
        // There is ink above each column and beside each row, and none in the corner.
        let ink = |xs: std::ops::Range<usize>, ys: std::ops::Range<usize>| {
            ys.flat_map(|y| xs.clone().map(move |x| (x, y)))
                .filter(|(x, y)| sheet.rgb[3 * (y * sheet.width + x)] < 128)
                .count()
        };
        for column in 0..3 {
            assert!(ink(left + column * 68..left + column * 68 + 64, 0..top) > 50, "column {column}");
        }
        for row in 0..2 {
            assert!(ink(0..left, top + row * 52..top + row * 52 + 48) > 50, "row {row}");
        }
        assert_eq!(ink(0..left, 0..top - 4), 0);
    }

    #[test]
    fn a_sheet_of_one_axis_has_labels_on_one_side() {
        let cells = [cell(9, 32, 32), cell(8, 16, 16)];
        let row = labelled_sheet(&cells, Some(&axis("seed", &["1", "2"])), None);
        let column = labelled_sheet(&cells, None, Some(&axis("seed", &["1", "2"])));
        assert!(row.width == 2 * 36 + 4 && column.width > 40 + 4 && column.height >= 2 * 36 + 4);
    }

    #[test]
    fn long_labels_are_cut_between_words_and_end_in_dots() {
        let pen = Pen::new(14.0);
        let lines = pen.lines("prompt a cat that sits on a red mat", 90.0);
        assert_eq!(lines.join(" "), "prompt a cat that sits on a red mat");
        assert!(lines.len() > 1 && lines.iter().all(|line| pen.text_px(line) <= 90.0), "{lines:?}");
        let cut = pen.lines(&"endless".repeat(50), 90.0);
        assert!(cut.len() == LINES_MAX && cut[LINES_MAX - 1].ends_with("..."), "{cut:?}");
        assert!(cut.iter().all(|line| pen.text_px(line) <= 90.0));
    }
}
