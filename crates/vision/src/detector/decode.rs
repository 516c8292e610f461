//! From what cells say to things.

/// A cell whose centre is less likely has none.
const SCORE_MIN: f32 = 0.3;
/// Of two things that overlap more (intersection over union), the surer one stays.
const OVERLAP_MAX: f32 = 0.45;

/// A thing that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Which concept it is most likely of.
    pub concept: usize,
    /// Its colour; none if it is none of those that are known, or has several.
    pub colour: Option<usize>,
    /// The likeliest of those that are known, whether it has one or not: what it is in, if it is asked for in a colour.
    pub nearest_colour: usize,
    /// Left, top, width and height, in parts of the picture's sides.
    pub area: [f32; 4],
    /// How likely something is there, 0..1.
    pub score: f32,
}

impl Detection {
    /// Its centre, in parts of the picture's sides: right and down.
    pub fn centre(&self) -> [f32; 2] {
        let [left, top, width, height] = self.area;
        [left + width / 2.0, top + height / 2.0]
    }
}

/// What one cell says.
pub(super) struct Row<'a> {
    /// Logits; the last is of no colour.
    pub(super) colours: &'a [f32],
    /// Logits.
    pub(super) concepts: &'a [f32],
    /// From the cell's middle, in cells: right and down.
    pub(super) centre: [f32; 2],
    /// Width and height, in parts of the picture's.
    pub(super) size: [f32; 2],
}

/// The things of a picture, the surest first. `scores` are those of all cells, row by row.
pub(super) fn things<'a>(
    [height, width]: [usize; 2],
    scores: &[f32],
    row: impl Fn(usize) -> Row<'a>,
) -> Vec<Detection> {
    let mut peaks: Vec<usize> = (0..height * width).filter(|cell| is_peak([height, width], scores, *cell)).collect();
    peaks.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut found: Vec<Detection> = Vec::new();
    for cell in peaks {
        let one = thing([height, width], cell, scores[cell], &row(cell));
        if found.iter().all(|other| overlap(one.area, other.area) <= OVERLAP_MAX) {
            found.push(one);
        }
    }
    found
}

/// Whether no cell around is surer. Of equal ones the first counts.
fn is_peak([height, width]: [usize; 2], scores: &[f32], cell: usize) -> bool {
    let (y, x) = (cell / width, cell % width);
    let rows = y.saturating_sub(1)..(y + 2).min(height);
    let mut around =
        rows.flat_map(|row| (x.saturating_sub(1)..(x + 2).min(width)).map(move |column| row * width + column));
    scores[cell] >= SCORE_MIN
        && around.all(|other| scores[other] < scores[cell] || (scores[other] == scores[cell] && other >= cell))
}

fn thing([height, width]: [usize; 2], cell: usize, score: f32, row: &Row<'_>) -> Detection {
    let centre = [(cell % width, width), (cell / width, height)];
    let [x, y] = [0, 1].map(|axis| {
        let (cell, cells) = centre[axis];
        ((cell as f32 + 0.5 + row.centre[axis]) / cells as f32).clamp(0.0, 1.0)
    });
    let [width, height] = row.size.map(|size| size.clamp(0.0, 1.0));
    let (colour, none) = (largest(row.colours), row.colours.len() - 1);
    Detection {
        concept: largest(row.concepts),
        colour: (colour < none).then_some(colour),
        nearest_colour: largest(&row.colours[..none]),
        area: [x - width / 2.0, y - height / 2.0, width, height],
        score,
    }
}

/// The place of the largest number; of equal ones the first.
fn largest(numbers: &[f32]) -> usize {
    (1..numbers.len()).fold(0, |best, at| if numbers[at] > numbers[best] { at } else { best })
}

/// Intersection over union of two areas, each left, top, width and height. 0 where they do not touch or have no size.
pub fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let shared = |axis: usize| {
        let right = (a[axis] + a[axis + 2]).min(b[axis] + b[axis + 2]);
        (right - a[axis].max(b[axis])).max(0.0)
    };
    let both = shared(0) * shared(1);
    let all = a[2] * a[3] + b[2] * b[3] - both;
    if all > 0.0 { both / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 8;

    fn found(peaks: &[(usize, usize, f32)], size: [f32; 2]) -> Vec<Detection> {
        let mut scores = vec![0.01; SIDE * SIDE];
        peaks.iter().for_each(|(x, y, score)| scores[y * SIDE + x] = *score);
        things([SIDE, SIDE], &scores, |_| Row {
            colours: &[0.0, 2.0, 1.0],
            concepts: &[-1.0, 0.5, 3.0, 3.0],
            centre: [0.25, -0.5],
            size,
        })
    }

    #[test]
    fn a_peak_is_a_thing_with_its_place_size_colour_and_concept() {
        let expected = Detection {
            concept: 2,
            colour: Some(1),
            nearest_colour: 1,
            area: [(2.75 / 8.0) - 0.125, (5.0 / 8.0) - 0.25, 0.25, 0.5],
            score: 0.9,
        };
        assert_eq!(found(&[(2, 5, 0.9)], [0.25, 0.5]), [expected]);
    }

    #[test]
    fn slopes_and_what_is_unlikely_are_no_things() {
        let scores = |peaks: &[(usize, usize, f32)]| -> Vec<f32> {
            found(peaks, [0.1, 0.1]).iter().map(|one| one.score).collect()
        };
        // A slope beside a peak, and something too unlikely.
        assert_eq!(scores(&[(2, 2, 0.6), (3, 3, 0.5), (6, 6, 0.29)]), [0.6]);
        // Two equal cells are one thing; the surest comes first; corners count.
        assert_eq!(scores(&[(2, 2, 0.6), (3, 2, 0.6), (7, 7, 0.8), (0, 0, 0.4)]), [0.8, 0.6, 0.4]);
        assert!(scores(&[]).is_empty());
    }

    #[test]
    fn of_two_things_in_one_place_the_surer_stays() {
        let both = [(2, 2, 0.6), (4, 2, 0.7)];
        // 2 of 8 cells apart: of things 8 cells wide 6/10 is shared, of things 4 cells wide 2/6.
        assert_eq!(found(&both, [1.0, 1.0]).len(), 1);
        assert_eq!(found(&both, [1.0, 1.0])[0].score, 0.7);
        assert_eq!(found(&both, [0.5, 0.5]).len(), 2);
    }

    #[test]
    fn no_colour_is_none_and_wild_sizes_are_kept_in_the_picture() {
        let row = Row { colours: &[0.0, 0.5, 1.0], concepts: &[1.0], centre: [-99.0, 99.0], size: [-1.0, 7.0] };
        let one = thing([4, 4], 5, 1.0, &row);
        assert_eq!((one.colour, one.nearest_colour, one.area), (None, 1, [0.0, 0.5, 0.0, 1.0]));
    }

    #[test]
    fn overlap_is_that_of_rectangles() {
        let unit = [0.0, 0.0, 1.0, 1.0];
        assert_eq!(overlap(unit, unit), 1.0);
        assert_eq!(overlap(unit, [0.5, 0.0, 1.0, 1.0]), 0.5 / 1.5);
        assert_eq!(overlap(unit, [2.0, 0.0, 1.0, 1.0]), 0.0);
        assert_eq!(overlap([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]), 0.0);
    }
}
