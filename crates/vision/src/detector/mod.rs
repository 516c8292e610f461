//! What is where in a picture, and in which colour: a detector of things that are known by name.
//!
//! Source: centres as in Zhou et al. 2019, arXiv:1904.07850 (CenterNet); maps of several depths, from coarse to fine, as
//! in Lin et al. 2016, arXiv:1612.03144. Unlike CenterNet there is one map of centres for all concepts, and each cell
//! says which concept: with hundreds of them each map of its own would hardly ever see a centre.
//!
//! ```text
//! picture -> features of photographs, 2, 4, 8, 16, 32 times smaller
//!     |                |
//!     +----------> 2, 4, 8, 16, 32 times smaller -> back up to 8 times smaller -> a cell: centre? concept, colour, area
//! ```
//!
//! Every level is given what [`EfficientNetLite0`] sees at its size, which does not learn: hundreds of concepts are told
//! apart after far fewer scenes. Residual blocks start as nothing and everything else keeps the size of what goes through
//! it.
//!
//! What this module does not do: train (the losses are the trainer's), or say what a picture should have shown
//! ([`crate::judge`]).
//!
//! Shape letters: B pictures, H and W pixels, h and w cells, C channels, N cells that are asked for, O numbers of a cell.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

mod decode;
mod files;

use burn::tensor::activation::sigmoid;
use rectiflow_nn::layers::{Conv2d, GroupNorm};
use rectiflow_nn::ops::{Before, Window, with_border};
use rectiflow_nn::{Device, Init, Int, Module, Params, Precision, Tensor, to_f32};
use serde::{Deserialize, Serialize};

use crate::EfficientNetLite0;
use crate::efficientnet::WIDTHS_SEEN;

pub use decode::{Detection, overlap};
pub use files::{DetectorError, DetectorFiles};

/// Pixels on a side of a cell.
pub const CELL_PX: usize = 8;
/// Levels, each with half the pixels on a side of the one before; the picture itself is none of them.
pub const LEVELS: usize = 5;
/// Groups of the group norms; they divide every width.
pub const GROUPS: usize = 8;

/// Residual blocks of each level on the way down.
const BLOCKS: [usize; LEVELS] = [0, 0, 1, 1, 1];
/// The level whose pixels are the cells.
const OUT: usize = 2;
/// Pixels on a side of a pixel of the coarsest level: pictures are made multiples of it.
const COARSEST_PX: usize = 1 << LEVELS;
const EPS: f64 = 1e-5;
/// What a cell says of the area of a thing whose centre it has: the centre's place, in cells from the cell's middle, and
/// the thing's width and height, in parts of the picture's.
const AREA: usize = 4;
/// `ln(p / (1 - p))` of p = 0.01: a cell's centre at the start, when nearly all cells have none (arXiv:1708.02002, 4.1).
const CENTRE_START: f64 = -4.595;

/// What a detector knows: written beside its weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectorConfig {
    /// Pixels on a side of the pictures that it was trained on. Things are as large in others.
    pub side_px: usize,
    /// Channels of each level; multiples of [`GROUPS`].
    pub widths: [usize; LEVELS],
    /// The names of the concepts, in the order of their numbers.
    pub concepts: Vec<String>,
    /// The names of the colours, in the order of their numbers. Beside them, a thing may have none of these.
    pub colours: Vec<String>,
}

impl DetectorConfig {
    /// Widths that suit pictures of 128 px: 1.8 million parameters, half a billion operations of products a picture.
    pub const WIDTHS: [usize; LEVELS] = [32, 48, 96, 144, 128];

    /// Numbers of a cell.
    fn numbers(&self) -> usize {
        1 + AREA + self.colours.len() + 1 + self.concepts.len()
    }

    /// Operations of the products of one forward for a picture of `side_px`, those of [`EfficientNetLite0`] aside.
    pub fn operations(&self, side_px: usize) -> f64 {
        let cells = |level: usize| (side_px.next_multiple_of(COARSEST_PX) >> (level + 1)).pow(2);
        let conv = |level: usize, from: usize, to: usize| 2 * 9 * cells(level) * from * to;
        let widths = self.widths;
        let down: usize = (0..LEVELS)
            .map(|level| {
                let before = if level == 0 { 3 } else { widths[level - 1] };
                let seen = 2 * cells(level) * WIDTHS_SEEN[level] * widths[level];
                conv(level, before, widths[level])
                    + seen
                    + 2 * BLOCKS[level] * conv(level, widths[level], widths[level])
            })
            .sum();
        let up: usize = (OUT..LEVELS - 1).map(|level| conv(level, widths[level + 1], widths[level])).sum();
        let last = 3 * conv(OUT, widths[OUT], widths[OUT]);
        (down + up + last + 2 * cells(OUT) * widths[OUT] * self.numbers()) as f64
    }
}

/// A detector that was trained: the network, and what looks at pictures for it.
#[derive(Clone, Debug)]
pub struct Detector {
    eyes: Eyes,
    network: DetectorNetwork,
}

impl Detector {
    /// What it knows.
    pub fn config(&self) -> &DetectorConfig {
        self.network.config()
    }

    /// What every cell of pictures says. pictures `[B, 3, H, W]`, RGB in -1..1.
    ///
    /// # Panics
    /// As [`Eyes::look`].
    pub fn cells(&self, pictures_B3HW: Tensor<4>) -> Cells {
        self.network.forward(self.eyes.look(pictures_B3HW))
    }

    /// The things in pictures, the surest first. pictures as for [`Self::cells`].
    ///
    /// # Panics
    /// As [`Eyes::look`].
    pub fn detect(&self, pictures_B3HW: Tensor<4>) -> Vec<Vec<Detection>> {
        self.cells(pictures_B3HW).things()
    }
}

/// What looks at pictures for a [`DetectorNetwork`].
#[derive(Clone, Debug)]
pub struct Eyes(EfficientNetLite0);

/// Pictures, and what is seen in them.
#[derive(Clone, Debug)]
pub struct View {
    /// With a border that makes the sides multiples of [`COARSEST_PX`].
    pictures_B3HW: Tensor<4>,
    /// Of each level.
    seen: Vec<Tensor<4>>,
    /// Cells of the pictures: down and across.
    cells: [usize; 2],
}

impl Eyes {
    /// Of a device without gradients.
    pub fn new(device: &Device, precision: Precision) -> Self {
        Eyes(EfficientNetLite0::pretrained(device, precision))
    }

    /// Looks at pictures `[B, 3, H, W]`, RGB in -1..1.
    ///
    /// # Panics
    /// A side is no multiple of [`CELL_PX`]: a bug of the caller.
    pub fn look(&self, pictures_B3HW: Tensor<4>) -> View {
        let [_, channels, height, width] = pictures_B3HW.dims();
        let is_whole = height.is_multiple_of(CELL_PX) && width.is_multiple_of(CELL_PX) && height.min(width) > 0;
        assert!(channels == 3 && is_whole, "pictures of {channels} channels, {width}x{height} px");
        // Grey below and to the right, whose cells are cut off again.
        let border = [height, width].map(|side| [0, side.next_multiple_of(COARSEST_PX) - side]);
        let pictures_B3HW = with_border(pictures_B3HW, border);
        let seen = self.0.features(pictures_B3HW.clone());
        View { pictures_B3HW, seen, cells: [height / CELL_PX, width / CELL_PX] }
    }
}

impl View {
    /// The same where gradients are tracked, of what was seen on a device without.
    #[must_use]
    pub fn tracked(self) -> View {
        View {
            pictures_B3HW: Tensor::from_inner(self.pictures_B3HW),
            seen: self.seen.into_iter().map(Tensor::from_inner).collect(),
            cells: self.cells,
        }
    }
}

/// The network that learns.
#[derive(Module, Debug)]
pub struct DetectorNetwork {
    down: Vec<Down>,
    up: Vec<Up>,
    block: Block,
    last: Normed,
    cells: Normed,
    #[module(skip)]
    config: DetectorConfig,
}

/// A convolution of a picture that was normed and activated.
#[derive(Module, Debug)]
struct Normed {
    norm: GroupNorm,
    conv: Conv2d,
}

/// A level on the way down. The first one takes the picture as it is.
#[derive(Module, Debug)]
struct Down {
    norm: Option<GroupNorm>,
    conv: Conv2d,
    seen: Normed,
    blocks: Vec<Block>,
}

/// From a level to the finer one, where what the way down left there is added.
#[derive(Module, Debug)]
struct Up {
    normed: Normed,
}

#[derive(Module, Debug)]
struct Block {
    first: Normed,
    second: Normed,
}

impl Normed {
    fn new(mut params: Params<'_>, channels: [usize; 2], kernel: usize, window: Window, init: Init) -> Self {
        Normed {
            norm: GroupNorm::new(params.at("norm"), channels[0], GROUPS, EPS),
            conv: Conv2d::starting(params.at("conv"), channels, kernel, window, [init, Init::Zeros]),
        }
    }

    fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        self.conv.forward_after(self.norm.then_silu(), x, residual)
    }
}

fn keeping_size(width: usize, kernel: usize) -> Init {
    Init::keeping_size(width * kernel * kernel)
}

impl Block {
    fn new(mut params: Params<'_>, width: usize) -> Self {
        let mut conv = |name, init| Normed::new(params.at(name), [width; 2], 3, Window::Same, init);
        Block { first: conv("first", keeping_size(width, 3)), second: conv("second", Init::Zeros) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.second.forward(self.first.forward(x.clone(), None), Some(x))
    }
}

impl Down {
    fn new(mut params: Params<'_>, widths: &[usize; LEVELS], level: usize) -> Self {
        let (width_in, width) = (if level == 0 { 3 } else { widths[level - 1] }, widths[level]);
        let inits = [keeping_size(width_in, 3), Init::Zeros];
        let seen = WIDTHS_SEEN[level];
        Down {
            norm: (level > 0).then(|| GroupNorm::new(params.at("norm"), width_in, GROUPS, EPS)),
            conv: Conv2d::starting(params.at("conv"), [width_in, width], 3, Window::Halve, inits),
            seen: Normed::new(params.at("seen"), [seen, width], 1, Window::Same, keeping_size(seen, 1)),
            blocks: (0..BLOCKS[level]).map(|index| Block::new(params.at("blocks").at(index), width)).collect(),
        }
    }

    fn forward(&self, x: Tensor<4>, seen: Tensor<4>) -> Tensor<4> {
        let before = self.norm.as_ref().map(GroupNorm::then_silu).unwrap_or_default();
        let x = self.seen.forward(seen, Some(self.conv.forward_after(before, x, None)));
        self.blocks.iter().fold(x, |x, block| block.forward(x))
    }
}

impl Up {
    fn new(params: Params<'_>, channels: [usize; 2]) -> Self {
        Up { normed: Normed::new(params, channels, 3, Window::Same, keeping_size(channels[0], 3)) }
    }

    fn forward(&self, x: Tensor<4>, finer: Tensor<4>) -> Tensor<4> {
        let before = Before { doubled: true, ..self.normed.norm.then_silu() };
        self.normed.conv.forward_after(before, x, Some(finer))
    }
}

impl DetectorNetwork {
    /// Asks `params` for every parameter.
    ///
    /// # Panics
    /// A width is no multiple of [`GROUPS`], or there are no concepts: bugs of the caller.
    pub fn new(config: &DetectorConfig, mut params: Params<'_>) -> Self {
        let widths = config.widths;
        let is_possible = widths.iter().all(|width| *width > 0 && width.is_multiple_of(GROUPS));
        assert!(is_possible && !config.concepts.is_empty(), "impossible detector: {config:?}");
        let width = widths[OUT];
        DetectorNetwork {
            down: (0..LEVELS).map(|level| Down::new(params.at("down").at(level), &widths, level)).collect(),
            // From the coarsest level on.
            up: (OUT..LEVELS - 1)
                .rev()
                .map(|level| Up::new(params.at("up").at(level), [widths[level + 1], widths[level]]))
                .collect(),
            block: Block::new(params.at("block"), width),
            last: Normed::new(params.at("last"), [width; 2], 3, Window::Same, keeping_size(width, 3)),
            cells: {
                let init = Init::by_fan_in(width);
                Normed::new(params.at("cells"), [width, config.numbers()], 1, Window::Same, init)
            },
            config: config.clone(),
        }
    }

    /// What it knows.
    pub fn config(&self) -> &DetectorConfig {
        &self.config
    }

    /// What every cell of pictures says.
    pub fn forward(&self, view: View) -> Cells {
        let View { pictures_B3HW, seen, cells } = view;
        let mut x = pictures_B3HW;
        let mut levels = Vec::new();
        for (down, seen) in self.down.iter().zip(seen) {
            x = down.forward(x, seen);
            levels.push(x.clone());
        }
        levels.pop();
        for up in &self.up {
            x = up.forward(x, levels.pop().expect("a level for each step up"));
        }
        let x = self.last.forward(self.block.forward(x), None);
        let numbers_BOhw = self.cells.forward(x, None);
        let [_, _, height, width] = numbers_BOhw.dims();
        let numbers_BOhw = if cells == [height, width] {
            numbers_BOhw
        } else {
            numbers_BOhw.narrow(2, 0, cells[0]).narrow(3, 0, cells[1])
        };
        Cells { numbers_BOhw, colours: self.config.colours.len() }
    }
}

/// What the cells of pictures say.
#[derive(Clone, Debug)]
pub struct Cells {
    /// Of each cell: whether a thing's centre is in it, its area, its colour, its concept.
    numbers_BOhw: Tensor<4>,
    colours: usize,
}

/// What some cells say.
#[derive(Clone, Debug)]
pub struct Said {
    /// From the middle of the cell to the centre, in cells: right and down; width and height, in parts of the picture's.
    /// `[N, 4]`.
    pub areas_N4: Tensor<2>,
    /// Logits of the colours, and last of none of them.
    pub colours: Tensor<2>,
    /// Logits of the concepts.
    pub concepts: Tensor<2>,
}

impl Cells {
    /// Whether a thing's centre is in a cell, as a logit: `[B, h, w]`.
    pub fn centres_Bhw(&self) -> Tensor<3> {
        self.numbers_BOhw.clone().narrow(1, 0, 1).squeeze_dim::<3>(1) + CENTRE_START
    }

    /// What some cells say, by their numbers: row by row and picture by picture.
    pub fn at(&self, cells_N: Tensor<1, Int>) -> Said {
        let [batch, numbers, height, width] = self.numbers_BOhw.dims();
        let rows = self.numbers_BOhw.clone().permute([0, 2, 3, 1]).reshape([batch * height * width, numbers]);
        let rows_NO = rows.select(0, cells_N);
        let (colours, concepts) = (1 + AREA, 1 + AREA + self.colours + 1);
        Said {
            areas_N4: rows_NO.clone().narrow(1, 1, AREA),
            colours: rows_NO.clone().narrow(1, colours, self.colours + 1),
            concepts: rows_NO.narrow(1, concepts, numbers - concepts),
        }
    }

    /// The things of each picture, the surest first.
    pub fn things(&self) -> Vec<Vec<Detection>> {
        let [batch, numbers, height, width] = self.numbers_BOhw.dims();
        let scores = to_f32(&sigmoid(self.centres_Bhw()));
        let rows = to_f32(&self.numbers_BOhw.clone().permute([0, 2, 3, 1]));
        let picture = height * width;
        let things = |index: usize| {
            let scores = &scores[index * picture..(index + 1) * picture];
            let rows = &rows[index * picture * numbers..(index + 1) * picture * numbers];
            decode::things([height, width], scores, |cell| {
                let row = &rows[cell * numbers..(cell + 1) * numbers];
                let (colours, concepts) = row[1 + AREA..].split_at(self.colours + 1);
                let [dx, dy, width, height] = [row[1], row[2], row[3], row[4]];
                decode::Row { colours, concepts, centre: [dx, dy], size: [width, height] }
            })
        };
        (0..batch).map(things).collect()
    }
}
