//! A decode that never holds a large picture more than once: the rest of it in strips of rows.
//!
//! The result is that of the whole decode, to the bit on the CPU: nothing is blended. Two things reach across a strip's
//! edge, and both are done right. A 3x3 convolution sees one row beyond: each strip is computed from as many rows more
//! as the layers in it need, and the rows that lack a neighbour are thrown away. A group norm takes its mean and
//! deviation from the whole picture: before it is used, the layers below it run over all strips once, only to be summed.
//! The attention sees every pixel of the latent; it and the deeper levels, which are small, run whole.
//!
//! Held between such sweeps is the result of each residual block, whose strips take the place of the strips before as
//! they are made, and nothing larger than the last one: not what a block is inside, nor the last doubled picture, which
//! has twice as many channels. These are computed again in the next sweep. So a released decode holds 640 bytes a pixel
//! and some strips instead of 2048 bytes a pixel (2048x2048: 3.0 GB instead of 8.7), and takes half as many products
//! again.
//!
//! diffusers' `enable_tiling` and stable-diffusion.cpp's `--vae-tiling` cut the latent instead, norm each tile by itself
//! and blend where tiles overlap; that needs less memory yet, and gives another picture.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::collections::VecDeque;
use std::ops::Range;

use rectiflow_nn::Tensor;
use rectiflow_nn::layers::{Conv2d, GroupNorm};
use rectiflow_nn::ops::{Before, PictureSums, ScaleShift, stack_rows};

use crate::blocks::ResnetBlock;

/// Rows of a picture, and where they lie in it.
struct Strip {
    /// `[B, C, rows, W]`.
    x_BCRW: Tensor<4>,
    first: usize,
    /// Rows of the picture.
    height: usize,
}

impl Strip {
    fn rows(&self) -> Range<usize> {
        self.first..self.first + self.x_BCRW.dims()[2]
    }

    /// Some of its rows, without a copy.
    fn cut(&self, rows: Range<usize>) -> Strip {
        let own = self.rows();
        assert!(own.start <= rows.start && rows.end <= own.end, "rows {rows:?} of a strip of rows {own:?}");
        let x_BCRW = self.x_BCRW.clone().narrow(2, rows.start - own.start, rows.len());
        Strip { x_BCRW, first: rows.start, height: self.height }
    }

    /// What a window of 3x3 made of the strip: at an edge where the picture goes on it saw zeros instead.
    fn without_edges(&self) -> Strip {
        let Range { start, end } = self.rows();
        let start = if start == 0 { 0 } else { start + 1 };
        let end = if end == self.height { end } else { end - 1 };
        self.cut(start..end)
    }
}

/// A layer that maps strips to strips, with the norms of the whole picture.
enum Layer<'a> {
    /// Twice the size.
    Double(&'a Conv2d),
    /// The first convolution of a block.
    First(&'a ResnetBlock, ScaleShift),
    Block(&'a ResnetBlock, Box<[ScaleShift; 2]>),
    Out(&'a Conv2d, ScaleShift),
}

impl Layer<'_> {
    /// Height of the picture that it makes of one of `height`.
    fn height(&self, height: usize) -> usize {
        match self {
            Layer::Double(_) => 2 * height,
            Layer::First(..) | Layer::Block(..) | Layer::Out(..) => height,
        }
    }

    /// The rows of a picture of `height` that it makes `rows` of.
    fn needs(&self, rows: Range<usize>, height: usize) -> Range<usize> {
        let (start, end) = match self {
            Layer::Double(_) => (rows.start.saturating_sub(1) / 2, (rows.end + 1).div_ceil(2)),
            Layer::First(..) | Layer::Out(..) => (rows.start.saturating_sub(1), rows.end + 1),
            Layer::Block(..) => (rows.start.saturating_sub(2), rows.end + 2),
        };
        start..end.min(height)
    }

    fn apply(&self, strip: Strip) -> Strip {
        let Strip { x_BCRW, first, height } = strip;
        let of = |x_BCRW| Strip { x_BCRW, first, height }.without_edges();
        match self {
            Layer::Double(conv) => {
                let doubled = Before { doubled: true, ..Before::default() };
                let x_BCRW = conv.forward_after(doubled, x_BCRW, None);
                Strip { x_BCRW, first: 2 * first, height: 2 * height }.without_edges()
            }
            Layer::First(block, norm) => of(block.first(x_BCRW, norm.clone().then_silu())),
            Layer::Out(conv, norm) => of(conv.forward_after(norm.clone().then_silu(), x_BCRW, None)),
            Layer::Block(block, norms) => {
                let [norm1, norm2] = &**norms;
                let hidden = of(block.first(x_BCRW.clone(), norm1.clone().then_silu()));
                let x = Strip { x_BCRW, first, height }.cut(hidden.rows());
                let Strip { x_BCRW, first, height } = hidden;
                let x_BCRW = block.second(x_BCRW, x.x_BCRW, norm2.clone().then_silu());
                Strip { x_BCRW, first, height }.without_edges()
            }
        }
    }
}

/// A picture as strips that follow each other.
struct Held {
    strips: VecDeque<Strip>,
    height: usize,
}

impl Held {
    fn rows(&self, rows: &Range<usize>) -> Strip {
        let parts = self.strips.iter().filter_map(|strip| {
            let own = strip.rows();
            let (start, end) = (own.start.max(rows.start), own.end.min(rows.end));
            (start < end).then(|| strip.cut(start..end).x_BCRW)
        });
        Strip { x_BCRW: stack_rows(parts.collect()), first: rows.start, height: self.height }
    }

    /// Lets go of the strips that have no row from `row` on.
    fn forget_above(&mut self, row: usize) {
        while self.strips.front().is_some_and(|strip| strip.rows().end <= row) {
            self.strips.pop_front();
        }
    }

    /// Numbers of the whole picture.
    fn len(&self) -> usize {
        self.strips.iter().map(|strip| strip.x_BCRW.dims().iter().product::<usize>()).sum()
    }
}

/// A decode on its way: a picture that is held, and layers above it that are computed whenever they are needed.
pub(crate) struct InStrips<'a> {
    held: Held,
    layers: Vec<Layer<'a>>,
    /// Rows of a strip.
    rows: usize,
    /// Nothing with more numbers is held.
    len_max: usize,
}

impl<'a> InStrips<'a> {
    /// From x `[B, C, H, W]` on, which counts as one strip. `rows` of a strip, at least 1.
    pub(crate) fn new(x_BCHW: Tensor<4>, rows: usize, len_max: usize) -> Self {
        let height = x_BCHW.dims()[2];
        let strips = VecDeque::from([Strip { x_BCRW: x_BCHW, first: 0, height }]);
        InStrips { held: Held { strips, height }, layers: Vec::new(), rows, len_max }
    }

    pub(crate) fn double(&mut self, conv: &'a Conv2d) {
        self.layers.push(Layer::Double(conv));
        if 4 * self.held.len() <= self.len_max {
            self.hold();
        }
    }

    pub(crate) fn block(&mut self, block: &'a ResnetBlock) {
        let [norm1, norm2] = block.norms();
        let norm1 = self.measure(norm1);
        self.layers.push(Layer::First(block, norm1.clone()));
        let norm2 = self.measure(norm2);
        self.layers.pop();
        self.layers.push(Layer::Block(block, Box::new([norm1, norm2])));
        self.hold();
    }

    /// The last layer, and the whole picture.
    pub(crate) fn finish(mut self, norm: &GroupNorm, conv: &'a Conv2d) -> Tensor<4> {
        let norm = self.measure(norm);
        self.layers.push(Layer::Out(conv, norm));
        self.hold();
        stack_rows(self.held.strips.into_iter().map(|strip| strip.x_BCRW).collect())
    }

    /// A norm of the picture that the layers make.
    fn measure(&self, norm: &GroupNorm) -> ScaleShift {
        let mut sums = PictureSums::default();
        for rows in self.strips() {
            sums.add(self.make(rows).x_BCRW);
        }
        norm.measured(&sums)
    }

    /// Makes the picture of the layers the one that is held; the one before goes strip by strip.
    fn hold(&mut self) {
        let mut strips = VecDeque::new();
        for rows in self.strips() {
            self.held.forget_above(self.needs(rows.clone()).start);
            strips.push_back(self.make(rows));
        }
        self.held = Held { strips, height: self.height() };
        self.layers.clear();
    }

    /// Rows of the strips that the layers' picture is made in.
    fn strips(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (height, rows) = (self.height(), self.rows);
        (0..height).step_by(rows).map(move |first| first..height.min(first + rows))
    }

    fn height(&self) -> usize {
        self.layers.iter().fold(self.held.height, |height, layer| layer.height(height))
    }

    /// The rows of the held picture that make `rows` of the layers'.
    fn needs(&self, rows: Range<usize>) -> Range<usize> {
        let mut heights = vec![self.held.height];
        for layer in &self.layers {
            heights.push(layer.height(heights[heights.len() - 1]));
        }
        self.layers.iter().zip(heights).rev().fold(rows, |rows, (layer, height)| layer.needs(rows, height))
    }

    fn make(&self, rows: Range<usize>) -> Strip {
        let strip = self.held.rows(&self.needs(rows.clone()));
        self.layers.iter().fold(strip, |strip, layer| layer.apply(strip)).cut(rows)
    }
}
