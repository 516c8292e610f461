//! Scenes whose things and letters lie on a grid of eight by eight squares.
//!
//! A transformer sees pictures in patches. Where a thing may have any size and begin anywhere, it looks different in them
//! each time; where it always covers four squares by four, it is one pattern, which a network learns with as many examples
//! as there are scenes with the thing. So is a letter that has squares of its own. What a scene shows and says is that of a
//! free scene; only places and sizes are others.

use super::scene::{Area, Cells, Object};

/// Squares on a side.
pub(super) const SQUARES: usize = 8;
/// Of a thing's place, so that neighbours do not touch.
pub(super) const FILLED: f32 = 0.85;
/// Squares on a side of a thing's place.
pub(super) const LARGE: usize = 4;
/// The same where half of the picture has to hold more than two.
pub(super) const SMALL: usize = 2;
/// Places begin at multiples of so many squares.
pub(super) const STEP: usize = 2;
/// The picture's quarters, row by row: column and row.
pub(super) const QUARTERS: [[usize; 2]; 4] = [[0, 0], [1, 0], [0, 1], [1, 1]];
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
    let all = Region { left: 0, top: first, right: SQUARES, bottom: end };
    if counts.len() == QUARTERS.len() {
        for (thing, [x, y]) in objects.iter_mut().zip(QUARTERS) {
            thing.area = filled(thing.area, [x * LARGE, y * LARGE, LARGE]);
        }
        return true;
    }
    let (one, others) = objects.split_at_mut(counts.first().map_or(0, |count| *count));
    if others.is_empty() {
        return in_region(one, all, LARGE);
    }
    let regions = all.halves(middle(one), middle(others));
    [one, others].into_iter().zip(regions).all(|(things, region)| {
        let size = if things.len() > 2 { SMALL } else { LARGE };
        in_region(things, region, size)
    })
}

/// Squares from the left and the top to before the right and the bottom.
#[derive(Clone, Copy)]
struct Region {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

impl Region {
    /// The halves for things in the middle of which these points are: beside each other, or one above the other.
    fn halves(self, [x, y]: [f32; 2], [other_x, other_y]: [f32; 2]) -> [Region; 2] {
        let (across, down) = (usize::midpoint(self.left, self.right), usize::midpoint(self.top, self.bottom));
        let is_across = (x - other_x).abs() > (y - other_y).abs();
        let halves = if is_across {
            [Region { right: across, ..self }, Region { left: across, ..self }]
        } else {
            [Region { bottom: down, ..self }, Region { top: down, ..self }]
        };
        let is_first = if is_across { x < other_x } else { y < other_y };
        if is_first { halves } else { [halves[1], halves[0]] }
    }

    /// Left upper corners of places of a size, at multiples of `step`.
    fn corners(self, size: usize, step: usize) -> Vec<[usize; 2]> {
        let along =
            |from: usize, to: usize| (from..(to + 1).saturating_sub(size)).filter(move |at| at.is_multiple_of(step));
        along(self.top, self.bottom).flat_map(|y| along(self.left, self.right).map(move |x| [x, y])).collect()
    }
}

/// Where things are on the whole, in parts of the picture's side.
fn middle(things: &[Object]) -> [f32; 2] {
    let sum = |of: &dyn Fn(Area) -> f32| things.iter().map(|thing| of(thing.area)).sum::<f32>() / things.len() as f32;
    [sum(&|area| area.left + area.width / 2.0), sum(&|area| area.top + area.height / 2.0)]
}

/// Puts things into places of a size: each into the one nearest to it that no thing before it covers; where that leaves none
/// for a later one, into places that cannot overlap.
fn in_region(things: &mut [Object], region: Region, size: usize) -> bool {
    let found = [STEP, size].into_iter().find_map(|step| corners(things, &region.corners(size, step), size));
    let Some(corners) = found else { return false };
    for (thing, [x, y]) in things.iter_mut().zip(corners) {
        thing.area = filled(thing.area, [x, y, size]);
    }
    true
}

fn corners(things: &[Object], free: &[[usize; 2]], size: usize) -> Option<Vec<[usize; 2]>> {
    let mut taken: Vec<[usize; 2]> = Vec::new();
    for thing in things {
        let [x, y] = middle(std::slice::from_ref(thing)).map(|part| part * SQUARES as f32 - size as f32 / 2.0);
        let distance = |at: &&[usize; 2]| (at[0] as f32 - x).powi(2) + (at[1] as f32 - y).powi(2);
        let overlaps = |at: &[usize; 2], other: &[usize; 2]| (0..2).all(|axis| at[axis].abs_diff(other[axis]) < size);
        let left = free.iter().filter(|at| taken.iter().all(|other| !overlaps(at, other)));
        taken.push(*left.min_by(|a, b| distance(a).total_cmp(&distance(b)))?);
    }
    Some(taken)
}

/// A thing of the area's shape in the middle of its place.
fn filled(area: Area, [x, y, size]: [usize; 3]) -> Area {
    let part = |squares: usize| squares as f32 / SQUARES as f32;
    let square = Area { left: part(x), top: part(y), width: part(size), height: part(size) };
    let rim = (1.0 - FILLED) / 2.0;
    square.part(rim, rim, FILLED, FILLED).fitted(area.width / area.height, 0.5, 0.5)
}
