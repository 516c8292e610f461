//! A picture that lines, dots and letters are drawn on, with smooth edges. Places and sizes are in pixels.

use rectiflow_generate::Image;

use super::font::{ADVANCE, COLUMNS, ROWS, ROWS_ALL, has_point};

/// Red, green, blue.
pub(super) type Colour = [u8; 3];
/// From the left and from the top.
pub(super) type Place = [f32; 2];

/// An upright rectangle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) min: Place,
    pub(super) max: Place,
}

impl Area {
    /// All within `radius` of a place, in either direction.
    pub(super) fn around([x, y]: Place, radius: f32) -> Area {
        Area { min: [x - radius, y - radius], max: [x + radius, y + radius] }
    }

    /// Whether they share a place.
    pub(super) fn touches(&self, other: &Area) -> bool {
        (0..2).all(|axis| self.min[axis] < other.max[axis] && other.min[axis] < self.max[axis])
    }

    /// Whether a line from `a` to `b` goes through.
    pub(super) fn is_crossed(&self, a: Place, b: Place) -> bool {
        /// Enough that no step is wider than a line of text is high.
        const STEPS: usize = 200;
        (0..=STEPS).any(|step| {
            let t = step as f32 / STEPS as f32;
            self.touches(&Area::around([0, 1].map(|axis| a[axis] + (b[axis] - a[axis]) * t), 0.5))
        })
    }
}

/// The picture so far.
pub(super) struct Canvas {
    image: Image,
}

impl Canvas {
    /// All of one colour.
    pub(super) fn new(width: usize, height: usize, colour: Colour) -> Canvas {
        Canvas { image: Image { width, height, rgb: colour.repeat(width * height) } }
    }

    pub(super) fn into_image(self) -> Image {
        self.image
    }

    /// A line with round ends.
    pub(super) fn line(&mut self, a: Place, b: Place, width: f32, colour: Colour) {
        self.strokes(&[[a, b]], width, colour);
    }

    /// Short lines with gaps between.
    pub(super) fn dashes(&mut self, a: Place, b: Place, width: f32, colour: Colour) {
        const DASH: f32 = 7.0;
        let length = distance(a, b);
        let at = |along: f32| [0, 1].map(|axis| a[axis] + (b[axis] - a[axis]) * (along / length).min(1.0));
        for dash in 0..(length / (2.0 * DASH)).ceil() as usize {
            let start = dash as f32 * 2.0 * DASH;
            self.line(at(start), at(start + DASH), width, colour);
        }
    }

    pub(super) fn dot(&mut self, at: Place, radius: f32, colour: Colour) {
        self.line(at, at, 2.0 * radius, colour);
    }

    /// Mixes a colour into an area; `share` 1 covers it.
    pub(super) fn fill(&mut self, area: Area, colour: Colour, share: f32) {
        for y in area.min[1].max(0.0) as usize..area.max[1].max(0.0) as usize {
            for x in area.min[0].max(0.0) as usize..area.max[0].max(0.0) as usize {
                self.mix(x, y, colour, share);
            }
        }
    }

    /// Text from left to right; `at` is the top left of its first capital. A point of a letter is `size` pixels wide.
    pub(super) fn text(&mut self, text: &str, at: Place, size: f32, colour: Colour) {
        self.letters(text, size, colour, |[x, y]| [at[0] + x, at[1] + y]);
    }

    /// Text from the bottom upwards; `at` is the bottom left.
    pub(super) fn text_upwards(&mut self, text: &str, at: Place, size: f32, colour: Colour) {
        self.letters(text, size, colour, |[x, y]| [at[0] + y, at[1] - x]);
    }

    /// The points of each letter as strokes between neighbours, so that they look written and not built of squares.
    fn letters(&mut self, text: &str, size: f32, colour: Colour, place: impl Fn(Place) -> Place) {
        for (index, letter) in text.chars().enumerate() {
            let left = (index * ADVANCE) as f32;
            let at =
                |column: usize, row: usize| place([(left + column as f32 + 0.5) * size, (row as f32 + 0.5) * size]);
            let strokes: Vec<[Place; 2]> =
                strokes_of(letter).into_iter().map(|[a, b]| [a, b].map(|[column, row]| at(column, row))).collect();
            self.strokes(&strokes, 1.25 * size.sqrt(), colour);
        }
    }

    /// Draws lines as one: where they meet, none is drawn over another.
    fn strokes(&mut self, strokes: &[[Place; 2]], width: f32, colour: Colour) {
        let margin = width / 2.0 + 1.0;
        let ends = || strokes.iter().flatten();
        let range = |axis: usize, size: usize| {
            let least = ends().map(|end| end[axis]).fold(f32::INFINITY, f32::min) - margin;
            let most = ends().map(|end| end[axis]).fold(f32::NEG_INFINITY, f32::max) + margin;
            least.max(0.0) as usize..(most.max(0.0) as usize + 1).min(size)
        };
        if strokes.is_empty() {
            return;
        }
        for y in range(1, self.image.height) {
            for x in range(0, self.image.width) {
                let centre = [x as f32 + 0.5, y as f32 + 0.5];
                let near = strokes.iter().map(|&stroke| distance_to(stroke, centre)).fold(f32::INFINITY, f32::min);
                // The share of the pixel that a straight edge at this distance covers.
                self.mix(x, y, colour, (width / 2.0 - near + 0.5).clamp(0.0, 1.0));
            }
        }
    }

    fn mix(&mut self, x: usize, y: usize, colour: Colour, share: f32) {
        if x >= self.image.width || y >= self.image.height {
            return;
        }
        let pixel = &mut self.image.rgb[3 * (y * self.image.width + x)..][..3];
        for (old, new) in pixel.iter_mut().zip(colour) {
            *old = (f32::from(*old) + (f32::from(new) - f32::from(*old)) * share).round() as u8;
        }
    }
}

/// Width and height of a text's capitals.
pub(super) fn text_size(text: &str, size: f32) -> [f32; 2] {
    let columns = (text.chars().count() * ADVANCE).saturating_sub(ADVANCE - COLUMNS);
    [columns as f32 * size, ROWS as f32 * size]
}

/// Lines between neighbouring points, `[column, row]`; a point alone is a line to itself.
fn strokes_of(letter: char) -> Vec<[[usize; 2]; 2]> {
    let has = |column: usize, row: usize| has_point(letter, column, row);
    let mut strokes = Vec::new();
    for (column, row) in (0..ROWS_ALL).flat_map(|row| (0..COLUMNS).map(move |column| (column, row))) {
        if !has(column, row) {
            continue;
        }
        let (right, below) = (has(column + 1, row), has(column, row + 1));
        // Across only where there is no way round a corner, which would then be filled.
        let across = has(column + 1, row + 1) && !right && !below;
        let back = column > 0 && has(column - 1, row + 1) && !below && !has(column - 1, row);
        let ends = [
            (true, [column, row]),
            (right, [column + 1, row]),
            (below, [column, row + 1]),
            (across, [column + 1, row + 1]),
            (back, [column.saturating_sub(1), row + 1]),
        ];
        strokes.extend(ends.into_iter().filter(|(drawn, _)| *drawn).map(|(_, end)| [[column, row], end]));
    }
    strokes
}

fn distance(a: Place, b: Place) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// From a place to the nearest of a line.
fn distance_to([a, b]: [Place; 2], place: Place) -> f32 {
    let along = [b[0] - a[0], b[1] - a[1]];
    let square = along[0] * along[0] + along[1] * along[1];
    let t = if square > 0.0 { ((place[0] - a[0]) * along[0] + (place[1] - a[1]) * along[1]) / square } else { 0.0 };
    let t = t.clamp(0.0, 1.0);
    distance(place, [a[0] + along[0] * t, a[1] + along[1] * t])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_covers_its_width_and_nothing_else() {
        let mut canvas = Canvas::new(20, 9, [255; 3]);
        canvas.line([4.0, 4.5], [16.0, 4.5], 3.0, [0; 3]);
        let image = canvas.into_image();
        let dark = |x: usize, y: usize| 255 - image.rgb[3 * (y * 20 + x)];
        assert_eq!([dark(10, 2), dark(10, 3), dark(10, 4), dark(10, 5), dark(10, 6)], [0, 255, 255, 255, 0]);
        assert_eq!([dark(0, 4), dark(19, 4)], [0, 0]);
    }

    #[test]
    fn what_lies_outside_is_not_drawn_and_nothing_breaks() {
        let mut canvas = Canvas::new(10, 10, [255; 3]);
        canvas.line([-50.0, -50.0], [-20.0, 60.0], 3.0, [0; 3]);
        canvas.fill(Area { min: [-5.0, 20.0], max: [50.0, 30.0] }, [0; 3], 1.0);
        canvas.text("far", [500.0, 500.0], 2.0, [0; 3]);
        canvas.text("", [5.0, 5.0], 2.0, [0; 3]);
        assert!(canvas.into_image().rgb.iter().all(|&byte| byte == 255));
    }

    #[test]
    fn areas_touch_where_they_share_a_place() {
        let area = Area { min: [10.0, 10.0], max: [30.0, 20.0] };
        assert!(area.touches(&Area::around([31.0, 15.0], 2.0)) && !area.touches(&Area::around([35.0, 15.0], 2.0)));
        assert!(area.is_crossed([0.0, 0.0], [40.0, 30.0]) && !area.is_crossed([0.0, 30.0], [40.0, 30.0]));
    }
}
