//! Scenes whose things and letters lie on a grid of eight by eight squares.
//!
//! A transformer sees pictures in patches. Where a thing may begin anywhere, it looks different in the patches for every
//! place; where it begins with one, it looks the same in all of them, and a letter that has squares of its own is the same
//! pattern in every word. What a scene shows and says is that of a free scene; only places and sizes are rounded.

use super::scene::{Area, Cells, Object};

/// Squares on a side.
pub(super) const SQUARES: usize = 8;
/// Of a thing's square, so that neighbours do not touch.
const FILLED: f32 = 0.85;
/// Several things of a kind lie in places that are larger than they by this, in the middle.
const ROOM: f32 = 1.25;
/// Words of as many letters have two squares a letter on a side.
const LARGE_LETTERS_MAX: usize = 4;

/// Where a word's letters go: rows of squares from the top, without the one that hangs below their line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WordRow {
    /// At the top.
    Above,
    /// At the bottom.
    Below,
    /// Anywhere; the number decides.
    Alone(u64),
}

/// Rows that things may lie in, beside a word.
pub(super) fn rows_beside(word: Option<WordRow>) -> [usize; 2] {
    match word {
        Some(WordRow::Above) => [3, SQUARES],
        Some(WordRow::Below) => [0, 5],
        Some(WordRow::Alone(_)) | None => [0, SQUARES],
    }
}

/// The squares of a word's letters.
pub(super) fn cells(letters: usize, row: WordRow) -> Cells {
    // Small letters are higher than their squares, or their words would be too loose to be read.
    let (size, capital) = if letters <= LARGE_LETTERS_MAX { (2, 1.75) } else { (1, 1.2) };
    // The lowest row is left to what hangs below the line.
    let line = match row {
        WordRow::Above => 2,
        WordRow::Below => SQUARES - 1,
        WordRow::Alone(number) => 3 + number as usize % 4,
    };
    let left = SQUARES.saturating_sub(letters * size) / 2;
    let part = |squares: usize| squares as f32 / SQUARES as f32;
    Cells { left: part(left), line: part(line), side: part(size), capital: capital / SQUARES as f32 }
}

/// Puts the things of a free scene, `counts` of each kind, on the grid, into rows from `first` to before `end`. False if they
/// have no place there.
pub(super) fn place(objects: &mut [Object], counts: &[usize], [first, end]: [usize; 2]) -> bool {
    let kinds: Vec<usize> =
        counts.iter().enumerate().flat_map(|(kind, count)| std::iter::repeat_n(kind, *count)).collect();
    let mut sizes: Vec<usize> = counts
        .iter()
        .enumerate()
        .map(|(kind, count)| {
            let of_kind = objects.iter().zip(&kinds).filter(|(_, of)| **of == kind);
            let side = of_kind.map(|(object, _)| object.area.width.max(object.area.height)).fold(0.0, f32::max);
            let room = if *count > 1 { ROOM } else { 1.0 };
            ((side * room * SQUARES as f32).round() as usize).clamp(1, end - first)
        })
        .collect();
    loop {
        let squares: Vec<[usize; 3]> =
            objects.iter().zip(&kinds).map(|(object, kind)| square(object.area, sizes[*kind], [first, end])).collect();
        let is_free = |at: usize| squares[..at].iter().all(|other| !overlap(*other, squares[at]));
        if (0..squares.len()).all(is_free) {
            for (object, [x, y, size]) in objects.iter_mut().zip(squares) {
                object.area = filled(object.area, [x, y, size]);
            }
            return true;
        }
        let Some(largest) = sizes.iter_mut().max().filter(|size| **size > 1) else { return false };
        *largest -= 1;
    }
}

/// The square of a size, in squares, that is nearest to an area: its left upper corner and the size.
fn square(area: Area, size: usize, [first, end]: [usize; 2]) -> [usize; 3] {
    let nearest = |middle: f32, [first, end]: [usize; 2]| {
        let corner = (middle * SQUARES as f32 - size as f32 / 2.0).round().max(0.0) as usize;
        corner.clamp(first, (end - size).max(first))
    };
    let [x, y] = [area.left + area.width / 2.0, area.top + area.height / 2.0];
    [nearest(x, [0, SQUARES]), nearest(y, [first, end]), size]
}

fn overlap([x, y, size]: [usize; 3], [other_x, other_y, other_size]: [usize; 3]) -> bool {
    x < other_x + other_size && other_x < x + size && y < other_y + other_size && other_y < y + size
}

/// A thing of the area's shape in a square.
fn filled(area: Area, [x, y, size]: [usize; 3]) -> Area {
    let part = |squares: usize| squares as f32 / SQUARES as f32;
    let square = Area { left: part(x), top: part(y), width: part(size), height: part(size) };
    let rim = (1.0 - FILLED) / 2.0;
    square.part(rim, rim, FILLED, FILLED).fitted(area.width / area.height, 0.5, 0.5)
}
