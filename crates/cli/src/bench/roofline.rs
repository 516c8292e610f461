//! The roofline picture: how far each case is below what memory and arithmetic allow.
//!
//! Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model". Both axes are
//! logarithmic. A case's intensity is its operations for each byte that it must read or write at least once.

use std::path::Path;

use anyhow::{Context, bail};
use rectiflow_generate::Image;
use rectiflow_weights::{IfThere, shown};

use crate::writable::check_writable;

mod canvas;
mod font;
mod labels;

use canvas::{Area, Canvas, Colour, Place, text_size};
use labels::Labels;

const SIZE: [usize; 2] = [1200, 800];
/// Where the axes are.
const PLOT: Area = Area { min: [110.0, 110.0], max: [1160.0, 720.0] };

const PAPER: Colour = [253, 253, 251];
const FINE: Colour = [240, 240, 238];
const GRID: Colour = [222, 222, 220];
const AXIS: Colour = [70, 70, 75];
const INK: Colour = [30, 30, 35];
const MEMORY: Colour = [80, 80, 90];
const ROOFS: [Colour; 2] = [[24, 90, 170], [190, 90, 20]];
/// By the first word of a case's name; others get the last.
const KINDS: [(&str, Colour); 4] =
    [("linear", [24, 90, 170]), ("attention", [150, 40, 120]), ("conv", [20, 130, 80]), ("", [200, 60, 30])];

/// What the machine can do at most.
pub(super) struct Roofs {
    /// Bytes a second.
    pub(super) memory: f64,
    /// Name and operations a second.
    pub(super) arithmetic: Vec<(String, f64)>,
}

impl Roofs {
    fn highest(&self) -> f64 {
        self.arithmetic.iter().map(|(_, roof)| *roof).fold(0.0, f64::max)
    }
}

/// A case and what it reached.
pub(super) struct Point {
    pub(super) name: String,
    /// Operations for each byte.
    pub(super) intensity: f64,
    /// A second.
    pub(super) operations: f64,
}

/// Finds out before anything is measured that the picture cannot be written.
///
/// # Errors
/// It is no PNG by its name, or nothing can be written there.
pub(super) fn check(path: &Path) -> anyhow::Result<()> {
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        bail!("`--roofline {}` is not the name of a PNG\nhint: give a name that ends in .png", path.display());
    }
    check_writable(path).with_context(|| format!("`--roofline {}` cannot be written", path.display()))
}

/// Draws and stores the picture; a file of that name is replaced.
///
/// # Errors
/// It cannot be written any more.
pub(super) fn save(path: &Path, title: &str, roofs: &Roofs, points: &[Point]) -> anyhow::Result<()> {
    let picture = draw(title, roofs, points);
    picture.save_png(path, IfThere::Replace, &[]).with_context(|| format!("the roofline {} is lost", shown(path)))
}

/// From numbers to places.
struct Axes {
    /// Decades that the axes span: from, to.
    x: [f64; 2],
    y: [f64; 2],
}

impl Axes {
    /// With room for all points, and for the corner where the lowest roof meets the memory line.
    fn of(roofs: &Roofs, points: &[Point]) -> Axes {
        let ridges = roofs.arithmetic.iter().map(|(_, roof)| roof / roofs.memory);
        let x = points.iter().map(|point| point.intensity).chain(ridges);
        let tops = roofs.arithmetic.iter().map(|(_, roof)| *roof);
        let y = points.iter().map(|point| point.operations).chain(tops);
        Axes { x: decades(x, [0.5, 0.6]), y: decades(y, [0.5, 0.25]) }
    }

    fn place(&self, intensity: f64, operations: f64) -> Place {
        let share = |value: f64, [from, to]: [f64; 2]| ((value.log10() - from) / (to - from)) as f32;
        let [width, height] = [PLOT.max[0] - PLOT.min[0], PLOT.max[1] - PLOT.min[1]];
        [PLOT.min[0] + width * share(intensity, self.x), PLOT.max[1] - height * share(operations, self.y)]
    }

    /// Where the memory line enters the picture, and where it meets a roof.
    fn memory_line(&self, roofs: &Roofs) -> [Place; 2] {
        let highest = roofs.highest();
        let start = 10_f64.powf(self.x[0].max(self.y[0] - roofs.memory.log10()));
        let end = highest / roofs.memory;
        [self.place(start, start * roofs.memory), self.place(end, highest)]
    }
}

/// Logarithms of the least and the largest, with some room.
fn decades(values: impl Iterator<Item = f64> + Clone, [below, above]: [f64; 2]) -> [f64; 2] {
    let logarithms = values.map(f64::log10);
    let least = logarithms.clone().fold(f64::INFINITY, f64::min);
    [least - below, logarithms.fold(f64::NEG_INFINITY, f64::max) + above]
}

fn draw(title: &str, roofs: &Roofs, points: &[Point]) -> Image {
    let axes = Axes::of(roofs, points);
    let mut canvas = Canvas::new(SIZE[0], SIZE[1], PAPER);
    draw_grid(&mut canvas, &axes);
    draw_titles(&mut canvas, title);
    let mut labels = Labels::new(PLOT);
    draw_roofs(&mut canvas, &axes, roofs, &mut labels);
    let places: Vec<Place> = points.iter().map(|point| axes.place(point.intensity, point.operations)).collect();
    for place in &places {
        labels.keep_free(Area::around(*place, 9.0));
    }
    // From the left: a text goes to the right of its dot where it can, and leaves the places on the left to those before.
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| places[a][0].total_cmp(&places[b][0]));
    for index in order {
        labels.put(&points[index].name, places[index], colour_of(&points[index].name));
    }
    labels.draw(&mut canvas);
    for (point, place) in points.iter().zip(places) {
        canvas.dot(place, 8.0, PAPER);
        canvas.dot(place, 6.0, colour_of(&point.name));
    }
    canvas.into_image()
}

fn colour_of(name: &str) -> Colour {
    KINDS.iter().find(|(kind, _)| name.starts_with(kind)).map_or(INK, |(_, colour)| *colour)
}

fn draw_titles(canvas: &mut Canvas, title: &str) {
    canvas.text("Roofline", [PLOT.min[0], 28.0], 3.2, INK);
    canvas.text(title, [PLOT.min[0], 70.0], 1.8, AXIS);
    let x = "operations for each byte that must be read or written";
    let [width, _] = text_size(x, 1.8);
    canvas.text(x, [(PLOT.min[0] + PLOT.max[0] - width) / 2.0, 766.0], 1.8, INK);
    let y = "Gop/s";
    let [height, _] = text_size(y, 1.8);
    canvas.text_upwards(y, [24.0, (PLOT.min[1] + PLOT.max[1] + height) / 2.0], 1.8, INK);
}

/// Lines at 1 to 9 of each decade; numbers at the decades.
fn draw_grid(canvas: &mut Canvas, axes: &Axes) {
    let numbers = |[from, to]: [f64; 2]| {
        (from.floor() as i32..=to.ceil() as i32)
            .flat_map(|decade| (1..10).map(move |digit| (digit, f64::from(digit) * 10_f64.powi(decade))))
            .filter(move |(_, number)| (from..=to).contains(&number.log10()))
    };
    // The fine lines first, so that none is drawn over a decade's.
    for whole in [false, true] {
        let (width, colour) = if whole { (1.2, GRID) } else { (1.0, FINE) };
        for (_, number) in numbers(axes.x).filter(|(digit, _)| (*digit == 1) == whole) {
            let [x, _] = axes.place(number, 1.0);
            canvas.line([x, PLOT.min[1]], [x, PLOT.max[1]], width, colour);
            if whole {
                let text = shown_number(number);
                canvas.text(&text, [x - text_size(&text, 1.8)[0] / 2.0, PLOT.max[1] + 14.0], 1.8, AXIS);
            }
        }
        for (_, number) in numbers(axes.y.map(|decade| decade - 9.0)).filter(|(digit, _)| (*digit == 1) == whole) {
            let [_, y] = axes.place(1.0, number * 1e9);
            canvas.line([PLOT.min[0], y], [PLOT.max[0], y], width, colour);
            if whole {
                let (text, [width, height]) = (shown_number(number), text_size(&shown_number(number), 1.8));
                canvas.text(&text, [PLOT.min[0] - 12.0 - width, y - height / 2.0], 1.8, AXIS);
            }
        }
    }
    canvas.line([PLOT.min[0], PLOT.min[1]], [PLOT.min[0], PLOT.max[1]], 1.6, AXIS);
    canvas.line([PLOT.min[0], PLOT.max[1]], [PLOT.max[0], PLOT.max[1]], 1.6, AXIS);
}

/// A power of ten as people write it.
fn shown_number(number: f64) -> String {
    match number {
        10_000.0.. => format!("{:.0} 000", number / 1000.0),
        1.0.. => format!("{number:.0}"),
        _ => format!("{number}"),
    }
}

fn draw_roofs(canvas: &mut Canvas, axes: &Axes, roofs: &Roofs, labels: &mut Labels) {
    let [start, end] = axes.memory_line(roofs);
    canvas.line(start, end, 2.6, MEMORY);
    labels.keep_clear(start, end);
    let highest = roofs.highest();
    for ((name, roof), colour) in roofs.arithmetic.iter().zip(ROOFS) {
        let [from, y] = axes.place(roof / roofs.memory, *roof);
        canvas.line([from, y], [PLOT.max[0], y], 2.6, colour);
        // Where the roof would go on if memory had no end.
        canvas.dashes([from, y], [from, PLOT.max[1]], 1.2, colour);
        labels.keep_clear([from, y], [PLOT.max[0], y]);
        let text = format!("{name} from registers: {:.0} Gop/s", roof / 1e9);
        let [width, height] = text_size(&text, 1.8);
        // Between two lines there may be no room: the highest has its text above it, the other below.
        let top = if *roof == highest { y - height - 14.0 } else { y + 10.0 };
        labels.fix(&text, [PLOT.max[0] - width - 4.0, top], colour);
    }
    let text = format!("memory: {:.1} GB/s", roofs.memory / 1e9);
    // Above the line, which falls to the left.
    let beside = [0, 1].map(|axis| start[axis] + (end[axis] - start[axis]) * 0.7);
    let [width, height] = text_size(&text, 1.8);
    labels.fix(&text, [(beside[0] - width - 8.0).max(PLOT.min[0] + 8.0), beside[1] - height - 12.0], MEMORY);
}

#[cfg(test)]
mod tests;
