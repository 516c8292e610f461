//! What a detector is trained for.
//!
//! Source: centres as in CenterNet, arXiv:1904.07850, equation 1, each thing splatted onto the map of centres; concept
//! and colour by cross entropy; area by absolute error. What a cell says is trained in the cell of the centre and in the
//! cells around it that lie in the thing (FCOS' centre sampling, arXiv:1904.01355): a peak that is one cell aside says
//! the same. A thing counts as one however many cells it has.
//!
//! Shape letters: B pictures, h and w cells, N cells that are trained on.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::tensor::activation::{log_sigmoid, log_softmax};
use rectiflow_nn::{Device, Int, Tensor, TensorData, from_f32, to_f32};
use rectiflow_vision::detector::Cells;

use super::Thing;

/// Deviation of a thing's splat in thing's sizes, and its least in cells.
const SPLAT: f32 = 0.1;
const SPLAT_MIN: f32 = 0.4;
/// What the parts of the loss are multiplied with: of the colour, of the centre's place in cells, of sizes in parts of
/// the picture's. An absolute error has the same gradient however small it is, so what is easy is kept from drowning the
/// concept: with a weight of 5 sizes were nine tenths of the gradient's norm.
const COLOUR: f64 = 0.5;
/// How much more the colour of a thing counts that has it in this scene only: of most things the concept tells the colour,
/// and a detector that looks no further is wrong where it matters.
const RECOLOURED: f32 = 8.0;
/// The same of its concept, which in another colour is easily taken for a thing that has that colour.
const RECOLOURED_CONCEPT: f32 = 4.0;
const PLACE: f64 = 0.2;
const SIZE: f64 = 1.0;

/// A forward pass' loss.
#[derive(Debug)]
pub struct DetectorLoss {
    /// All of it, with its history.
    pub total: Tensor<1>,
    /// For the journal.
    pub parts: DetectorParts,
}

/// The parts of a loss, means over the things.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DetectorParts {
    /// Everything as it is trained for.
    pub loss: f32,
    /// Focal loss of the map of centres.
    pub centre: f32,
    /// Cross entropy of the concepts, in nats, where a thing in an unusual colour counts several times.
    pub concept: f32,
    /// Cross entropy of the colours, in nats, where a thing's unusual colour counts several times.
    pub colour: f32,
    /// Absolute error of a centre's place in cells, both axes together.
    pub place: f32,
    /// Absolute error of width and height, in parts of the picture's, together.
    pub size: f32,
    /// Share of cells of things whose likeliest concept is the thing's.
    pub accuracy: f32,
}

impl DetectorParts {
    /// By the journal's names.
    pub fn named(&self) -> [(&'static str, f32); 7] {
        [
            ("loss", self.loss),
            ("centre", self.centre),
            ("concept", self.concept),
            ("colour", self.colour),
            ("place", self.place),
            ("size", self.size),
            ("accuracy", self.accuracy),
        ]
    }
}

/// What cells should say.
struct Targets {
    /// How near each cell is to a centre, 1 where one is: `[B, h, w]`.
    centres: Vec<f32>,
    /// Cells in things.
    cells: Vec<Target>,
    /// All things.
    things: usize,
}

/// What one cell in a thing should say.
struct Target {
    /// Its number: row by row and picture by picture.
    cell: usize,
    /// 1 over the cells of its thing.
    weight: f32,
    /// From its middle to the centre in cells, and the thing's width and height.
    area: [f32; 4],
    colour: Option<usize>,
    /// Whether it has its colour in this scene only.
    is_recoloured: bool,
    concept: usize,
}

/// The loss of what a detector says of pictures with these things.
///
/// # Panics
/// There are other pictures than things, or things that the detector has no number for: bugs of the caller.
pub fn detector_loss(cells: &Cells, things: &[Vec<Thing>]) -> DetectorLoss {
    let centres_Bhw = cells.centres_Bhw();
    let [batch, height, width] = centres_Bhw.dims();
    assert_eq!(batch, things.len(), "pictures and their things");
    let device = centres_Bhw.device();
    let targets = Targets::of(things, [height, width]);
    let count = targets.things.max(1) as f64;
    let near_Bhw = from_f32(targets.centres, [batch, height, width], &device);
    let centre = focal(centres_Bhw, near_Bhw) / count;
    if targets.cells.is_empty() {
        let loss = to_f32(&centre)[0];
        let parts =
            DetectorParts { loss, centre: loss, concept: 0.0, colour: 0.0, place: 0.0, size: 0.0, accuracy: 0.0 };
        return DetectorLoss { total: centre, parts };
    }

    let said = cells.at(numbers(targets.cells.iter().map(|target| target.cell), &device));
    let weights: Vec<f32> = targets.cells.iter().map(|target| target.weight).collect();
    let weights_N1 = from_f32(weights.clone(), [weights.len(), 1], &device);
    let mean = |of_N1: Tensor<2>| (of_N1 * weights_N1.clone()).sum() / count;
    let none = said.colours.dims()[1] - 1;
    let colours = targets.cells.iter().map(|target| target.colour.unwrap_or(none));
    let concepts: Vec<usize> = targets.cells.iter().map(|target| target.concept).collect();
    let accuracy = accuracy(&said.concepts, &concepts, &weights);
    let more_N1 = |more: f32| {
        let each = targets.cells.iter().map(|target| if target.is_recoloured { more } else { 1.0 });
        from_f32(each.collect(), [weights.len(), 1], &device)
    };
    let concepts = surprise(said.concepts, numbers(concepts.into_iter(), &device));
    let concept = mean(concepts * more_N1(RECOLOURED_CONCEPT));
    let colour = mean(surprise(said.colours, numbers(colours, &device)) * more_N1(RECOLOURED));
    let areas: Vec<f32> = targets.cells.iter().flat_map(|target| target.area).collect();
    let apart_N4 = (said.areas_N4 - from_f32(areas, [weights.len(), 4], &device)).abs();
    let place = mean(apart_N4.clone().narrow(1, 0, 2).sum_dim(1));
    let size = mean(apart_N4.narrow(1, 2, 2).sum_dim(1));

    let value = |x: &Tensor<1>| to_f32(x)[0];
    let total =
        centre.clone() + concept.clone() + colour.clone() * COLOUR + place.clone() * PLACE + size.clone() * SIZE;
    let parts = DetectorParts {
        loss: value(&total),
        centre: value(&centre),
        concept: value(&concept),
        colour: value(&colour),
        place: value(&place),
        size: value(&size),
        accuracy,
    };
    DetectorLoss { total, parts }
}

/// CenterNet's equation 1 with alpha = 2 and beta = 4, summed over all cells. `near` is 1 at centres.
fn focal(logits: Tensor<3>, near: Tensor<3>) -> Tensor<1> {
    let (log_is, log_is_not) = (log_sigmoid(logits.clone()), log_sigmoid(-logits));
    let (is, is_not) = (log_is.clone().exp(), log_is_not.clone().exp());
    let at_centres = near.clone().equal_elem(1.0).float();
    let beside = (-near + 1.0).square().square();
    -(at_centres * is_not.square() * log_is + beside * is.square() * log_is_not).sum()
}

/// `-ln p` of each row's right class: `[N, 1]`.
fn surprise(logits_NC: Tensor<2>, right_N: Tensor<1, Int>) -> Tensor<2> {
    -log_softmax(logits_NC, 1).gather(1, right_N.unsqueeze_dim(1))
}

fn accuracy(logits_NC: &Tensor<2>, right: &[usize], weights: &[f32]) -> f32 {
    let classes = logits_NC.dims()[1];
    let rows = to_f32(logits_NC);
    let is_right = |(row, right): (&[f32], &usize)| row.iter().all(|logit| *logit <= row[*right]);
    let found = rows.chunks(classes).zip(right).map(is_right).zip(weights);
    found.filter(|(is_right, _)| *is_right).map(|(_, weight)| weight).sum::<f32>() / weights.iter().sum::<f32>()
}

fn numbers(numbers: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let numbers: Vec<i64> = numbers.map(|number| number as i64).collect();
    let count = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [count]), device)
}

impl Targets {
    fn of(things: &[Vec<Thing>], [height, width]: [usize; 2]) -> Targets {
        let picture = height * width;
        let mut targets = Targets { centres: vec![0.0; things.len() * picture], cells: Vec::new(), things: 0 };
        for (index, things) in things.iter().enumerate() {
            let splats = &mut targets.centres[index * picture..(index + 1) * picture];
            things.iter().for_each(|thing| splat(splats, [height, width], thing));
            targets.things += things.len();
            for thing in things {
                let cells = cells_of(thing, [height, width]);
                let weight = 1.0 / cells.len() as f32;
                targets.cells.extend(cells.into_iter().map(|([x, y], [right, down])| Target {
                    cell: index * picture + y * width + x,
                    weight,
                    area: [right, down, thing.area[2], thing.area[3]],
                    colour: thing.colour,
                    is_recoloured: thing.recoloured,
                    concept: thing.concept,
                }));
            }
        }
        targets
    }
}

/// A thing's centre in cells, and the cell that it is in.
fn centre(thing: &Thing, [height, width]: [usize; 2]) -> ([f32; 2], [usize; 2]) {
    let [left, top, wide, high] = thing.area;
    let centre = [(left + wide / 2.0) * width as f32, (top + high / 2.0) * height as f32];
    let cell = [(centre[0].max(0.0) as usize).min(width - 1), (centre[1].max(0.0) as usize).min(height - 1)];
    (centre, cell)
}

/// A Gaussian around the cell of the centre, where it is 1; of two the larger one.
fn splat(splats: &mut [f32], size: [usize; 2], thing: &Thing) {
    let [height, width] = size;
    let (_, cell) = centre(thing, size);
    let deviation =
        [thing.area[2] * width as f32, thing.area[3] * height as f32].map(|side| (SPLAT * side).max(SPLAT_MIN));
    for y in 0..height {
        for x in 0..width {
            let apart = |at: usize, axis: usize| ((at as f32 - cell[axis] as f32) / deviation[axis]).powi(2);
            let near = (-0.5 * (apart(x, 0) + apart(y, 1))).exp();
            let there = &mut splats[y * width + x];
            *there = there.max(near);
        }
    }
}

/// The cell of the centre and those around it whose middles are in the thing, each with the way from its middle to the
/// centre, in cells.
fn cells_of(thing: &Thing, size: [usize; 2]) -> Vec<([usize; 2], [f32; 2])> {
    let [height, width] = size;
    let (centre, [x, y]) = centre(thing, size);
    let half = [thing.area[2] * width as f32 / 2.0, thing.area[3] * height as f32 / 2.0];
    let mut cells = Vec::new();
    for row in y.saturating_sub(1)..(y + 2).min(height) {
        for column in x.saturating_sub(1)..(x + 2).min(width) {
            let way = [centre[0] - (column as f32 + 0.5), centre[1] - (row as f32 + 0.5)];
            let is_inside = way[0].abs() < half[0] && way[1].abs() < half[1];
            if is_inside || [column, row] == [x, y] {
                cells.push(([column, row], way));
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::{Params, Precision, RandomInit};
    use rectiflow_vision::detector::Eyes;
    use rectiflow_vision::{DetectorConfig, DetectorNetwork};

    use super::*;

    fn thing(area: [f32; 4]) -> Thing {
        Thing { concept: 1, colour: None, recoloured: false, area }
    }

    #[test]
    fn a_small_thing_has_one_cell_and_a_large_one_nine() {
        let small = cells_of(&thing([0.51, 0.26, 0.05, 0.05]), [8, 8]);
        assert_eq!(small.len(), 1);
        let ([x, y], [right, down]) = small[0];
        assert_eq!([x, y], [4, 2]);
        assert!((right - (0.535 * 8.0 - 4.5)).abs() < 1e-5 && (down - (0.285 * 8.0 - 2.5)).abs() < 1e-5);
        assert_eq!(cells_of(&thing([0.1, 0.1, 0.8, 0.8]), [8, 8]).len(), 9);
        // Wide and low: a row. In a corner, and beyond it: what there is.
        assert_eq!(cells_of(&thing([0.1, 0.54, 0.8, 0.05]), [8, 8]).len(), 3);
        assert_eq!(cells_of(&thing([-0.4, -0.4, 0.8, 0.8]), [8, 8]).len(), 4);
        assert_eq!(cells_of(&thing([0.7, 0.7, 0.8, 0.8]), [8, 8]).len(), 4);
    }

    #[test]
    fn a_splat_is_one_at_its_centre_and_as_wide_as_its_thing() {
        let targets = Targets::of(&[vec![], vec![thing([0.25, 0.25, 0.5, 0.25]), thing([0.8, 0.8, 0.1, 0.1])]], [8, 8]);
        assert!(targets.centres[..64].iter().all(|near| *near == 0.0));
        let at = |x: usize, y: usize| targets.centres[64 + y * 8 + x];
        assert_eq!([at(4, 3), at(6, 6)], [1.0, 1.0]);
        assert!(at(5, 3) > 0.04 && at(5, 3) < 0.1 && at(5, 3) == at(3, 3), "{}", at(5, 3));
        assert!((1..targets.centres.len()).all(|at| targets.centres[at] <= 1.0));
        assert_eq!(targets.things, 2);
        let weights: f32 = targets.cells.iter().map(|target| target.weight).sum();
        assert!((weights - 2.0).abs() < 1e-6);
        assert!(targets.cells.iter().all(|target| (64..128).contains(&target.cell)));
    }

    #[test]
    fn the_focal_loss_is_the_papers() {
        let device = Device::flex();
        let (logits, near) = (vec![0.3_f32, -1.2, 2.0], vec![1.0_f32, 0.4, 0.0]);
        let tensor = |values: &[f32]| from_f32(values.to_vec(), [1, 1, 3], &device);
        let found = to_f32(&focal(tensor(&logits), tensor(&near)))[0];
        let expected: f64 = logits
            .iter()
            .zip(&near)
            .map(|(logit, near)| {
                let p = 1.0 / (1.0 + (-f64::from(*logit)).exp());
                if *near == 1.0 {
                    -(1.0 - p).powi(2) * p.ln()
                } else {
                    -(1.0 - f64::from(*near)).powi(4) * p.powi(2) * (1.0 - p).ln()
                }
            })
            .sum();
        assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
        // Far from 0 it stays finite.
        assert!(to_f32(&focal(tensor(&[-200.0, 200.0, 90.0]), tensor(&near)))[0].is_finite());
    }

    #[test]
    fn a_thing_in_an_unusual_colour_counts_more_in_its_concept_and_its_colour_alone() {
        let (device, precision) = (Device::flex(), Precision::F32);
        let names = |letter: &str| (0..3).map(|number| format!("{letter}{number}")).collect();
        let config = DetectorConfig { side_px: 64, widths: [8; 5], concepts: names("thing"), colours: names("colour") };
        let mut source = RandomInit { seed: 1 };
        let network = DetectorNetwork::new(&config, Params::new(&mut source, &device, precision));
        let picture = from_f32((0..3 * 64 * 64).map(|at| (at as f32).sin()).collect(), [1, 3, 64, 64], &device);
        let cells = network.forward(Eyes::new(&device, precision).look(picture));
        let parts = |recoloured| {
            let thing = Thing { colour: Some(2), recoloured, ..thing([0.25, 0.25, 0.5, 0.5]) };
            detector_loss(&cells, &[vec![thing]]).parts
        };
        let (usual, unusual) = (parts(false), parts(true));
        let close = |found: f32, expected: f32| assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
        close(unusual.colour, 8.0 * usual.colour);
        close(unusual.concept, 4.0 * usual.concept);
        assert_eq!((unusual.centre, unusual.place, unusual.size), (usual.centre, usual.place, usual.size));
        let more = COLOUR as f32 * 7.0 * usual.colour + 3.0 * usual.concept;
        close(unusual.loss, usual.loss + more);
    }
}
