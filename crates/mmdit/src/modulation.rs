//! What the steps of a draw share or can have at once: the embedded text, and every block's modulation rows.
//!
//! The rows depend on the noise level and on the pooled text alone, and the weights that make them are a third of
//! SD3-Medium's. For one step, those would be read for a row for each sample; for all steps at once they are read once.
//!
//! Shape letters: S noise levels, B batch, D width, R the rows of a stream side by side, a multiple of D.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::ops::Range;

use rectiflow_nn::layers::Linear;
use rectiflow_nn::{Device, Tensor};

use crate::MmditConfig;

/// A batch of texts as the network takes them.
#[derive(Clone, Debug)]
pub struct EmbeddedText {
    /// `[B, T, D]`.
    pub(crate) text_BTD: Tensor<3>,
    /// `[B, D]`.
    pub(crate) pooled_BD: Tensor<2>,
}

impl EmbeddedText {
    /// Where it was computed.
    pub fn device(&self) -> Device {
        self.text_BTD.device()
    }
}

/// The modulation rows of all blocks, for one noise level of each sample of a batch.
#[derive(Clone, Debug)]
pub struct Modulations {
    /// Those of every product of each block, `[B, 1, R]`.
    pub(crate) blocks: Vec<Vec<Tensor<3>>>,
    pub(crate) last_B1R: Tensor<3>,
}

/// Rows of a batch, ranges of them one after the other.
fn rows_of<const D: usize>(x: &Tensor<D>, ranges: impl Iterator<Item = Range<usize>>) -> Tensor<D> {
    Tensor::cat(ranges.map(|range| x.clone().narrow(0, range.start, range.len())).collect(), 0)
}

impl EmbeddedText {
    /// Some texts of the batch.
    ///
    /// # Panics
    /// There are none in the ranges, or they go beyond the batch.
    #[must_use]
    pub fn rows(&self, ranges: impl Iterator<Item = Range<usize>> + Clone) -> EmbeddedText {
        EmbeddedText { text_BTD: rows_of(&self.text_BTD, ranges.clone()), pooled_BD: rows_of(&self.pooled_BD, ranges) }
    }
}

impl Modulations {
    /// Those of some samples of the batch.
    ///
    /// # Panics
    /// As [`EmbeddedText::rows`].
    #[must_use]
    pub fn rows(&self, ranges: impl Iterator<Item = Range<usize>> + Clone) -> Modulations {
        let of_block = |rows: &Vec<Tensor<3>>| rows.iter().map(|rows| rows_of(rows, ranges.clone())).collect();
        Modulations {
            blocks: self.blocks.iter().map(of_block).collect(),
            last_B1R: rows_of(&self.last_B1R, ranges.clone()),
        }
    }
}

/// Rows for each of `S` noise levels. conditioning: after its SiLU, `[S * B, D]`, the levels one after the other.
pub(crate) fn rows_of_levels(ada_ln: &Linear, conditioning: &Tensor<2>, levels: usize) -> Vec<Tensor<3>> {
    let rows = ada_ln.forward(conditioning.clone());
    let [samples, width] = rows.dims();
    let batch = samples / levels;
    let rows_SBR = rows.reshape([levels, batch, width]);
    (0..levels).map(|level| rows_SBR.clone().narrow(0, level, 1).reshape([batch, 1, width])).collect()
}

/// N modulation rows `[B, 1, D]`, in the order of the official checkpoints.
pub(crate) fn cut<const N: usize>(rows_B1R: &Tensor<3>) -> [Tensor<3>; N] {
    let width = rows_B1R.dims()[2] / N;
    std::array::from_fn(|row| rows_B1R.clone().narrow(2, row * width, width))
}

impl MmditConfig {
    /// Bytes of one sample's [`Modulations`]: six rows for each stream of a block and three more where the image
    /// attends to itself again, but two for the last text, and two at the end.
    pub fn modulation_bytes(&self) -> usize {
        let rows = 12 * self.depth + 3 * self.dual_layers.len() - 4 + 2;
        rows * self.width * size_of::<f32>()
    }
}
