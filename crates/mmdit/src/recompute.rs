//! Gradients of a loss with only some of the blocks' insides kept: a block's forward is computed again when its backward
//! comes, so memory holds the inputs of all blocks and the inside of one.
//!
//! The gradients are those of the plain backward, to the bit: the same operations run on the same numbers, and wherever
//! gradients are added there are two of them (see `rectiflow_nn::ops::relay`).
//!
//! What comes before the blocks stays on the tape, the modulation rows too: for a sample they are 12 D numbers a block
//! where a block's inside is about 30 D for every token, so computing them again would save less than a hundredth.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::module::ModuleVisitor;
use rectiflow_nn::{Gradients, Module, Param, ParamGradients, Tensor};

use crate::backbone::{Backbone, BackboneBlock, Begun, NetworkInputs, Streams, begin};
use crate::probe::Attending;

/// Which blocks' insides are computed again instead of kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// Of no block: the fastest, if memory allows.
    #[default]
    Nothing,
    /// Of so many blocks, the first ones: what fits of the others is kept.
    First(usize),
    /// Of every block: the least memory, for about a third more time.
    Every,
}

impl Recompute {
    fn takes(self, block: usize) -> bool {
        match self {
            Recompute::Nothing => false,
            Recompute::First(count) => block < count,
            Recompute::Every => true,
        }
    }
}

/// Gradients of some tensors, where something came back to them.
type Slopes = Vec<Option<Tensor<3>>>;

/// A block's way from its inputs to its outputs, on a tape of its own.
struct Tape {
    streams: Vec<Tensor<3>>,
    rows: Vec<Tensor<3>>,
    outputs: Vec<Tensor<3>>,
}

impl Tape {
    fn of<B: BackboneBlock>(block: &B, given: &Streams, rows: &[Tensor<3>], size: [usize; 2]) -> Self {
        let (streams, rows) = (leaves(&given.0), leaves(rows));
        let outputs = block.forward(Streams(streams.clone()), &rows, size, &mut Attending::plainly()).0;
        Tape { streams, rows, outputs }
    }

    /// Adds the parameters' gradients to `all`. Returns those of the streams and of the rows that it was given.
    fn backward<B: BackboneBlock>(self, block: &B, slopes: Slopes, all: &mut ParamGradients) -> [Slopes; 2] {
        let Some(loss) = weighted(self.outputs, slopes) else {
            return [vec![None; self.streams.len()], vec![None; self.rows.len()]];
        };
        let mut gradients = loss.backward();
        let slopes = [&self.streams, &self.rows].map(|given| taken(given, &mut gradients));
        all.add(block, gradients);
        slopes
    }
}

/// What one block leaves for its backward.
enum Left {
    Inputs(Streams),
    Tape(Tape),
}

/// The loss, and its gradients with regard to every parameter. `loss` takes the velocity `[B, C, H, W]` to one number.
pub(crate) fn gradients<N: Backbone>(
    network: &N,
    inputs: NetworkInputs,
    recompute: Recompute,
    loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
) -> (Tensor<1>, ParamGradients) {
    let mut all = ParamGradients::default();
    let Begun { streams: first, modulations, size } = begin(network, inputs);
    let rows: Vec<Vec<Tensor<3>>> = modulations.blocks.iter().map(|rows| detached(rows)).collect();

    let mut streams = Streams(detached(&first.0));
    let mut left = Vec::new();
    for (index, (block, rows)) in network.blocks().iter().zip(&rows).enumerate() {
        if recompute.takes(index) {
            left.push(Left::Inputs(streams.clone()));
            streams = without_tape(block).forward(streams, rows, size, &mut Attending::plainly());
        } else {
            let tape = Tape::of(block, &streams, rows, size);
            streams = Streams(detached(&tape.outputs));
            left.push(Left::Tape(tape));
        }
    }

    let (last, last_rows) = (leaves(&streams.0), leaves(std::slice::from_ref(&modulations.last_B1R)));
    drop(streams);
    let loss = loss(network.finish(Streams(last.clone()), &last_rows[0], size));
    let value = loss.clone().detach();
    let mut gradients = loss.backward();
    let (mut slopes, last_slopes) = (taken(&last, &mut gradients), taken(&last_rows, &mut gradients));
    all.add(network, gradients);
    drop(last);

    let mut slopes_of_rows = Vec::new();
    for ((block, rows), left) in network.blocks().iter().zip(&rows).zip(left).rev() {
        let tape = match left {
            Left::Inputs(streams) => Tape::of(block, &streams, rows, size),
            Left::Tape(tape) => tape,
        };
        let [of_streams, of_rows] = tape.backward(block, slopes, &mut all);
        slopes = of_streams;
        slopes_of_rows.push(of_rows);
    }

    slopes_of_rows.reverse();
    let outputs = first.0.into_iter().chain(modulations.blocks.into_iter().flatten()).chain([modulations.last_B1R]);
    let slopes = slopes.into_iter().chain(slopes_of_rows.into_iter().flatten()).chain(last_slopes);
    if let Some(loss) = weighted(outputs.collect(), slopes.collect()) {
        all.add(network, loss.backward());
    }
    (value, all)
}

/// The same parameters, which want no gradients.
fn without_tape<B: Module>(block: &B) -> B {
    // A copy of a parameter that was never read shares its reading, and what is asked of the copy would be asked of both.
    block.visit(&mut ReadAll);
    block.clone().no_grad()
}

struct ReadAll;

impl ModuleVisitor for ReadAll {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        drop(param.val());
    }
}

fn detached(tensors: &[Tensor<3>]) -> Vec<Tensor<3>> {
    tensors.iter().map(|x| x.clone().detach()).collect()
}

/// The same numbers, which want gradients, and have nothing before them.
fn leaves(tensors: &[Tensor<3>]) -> Vec<Tensor<3>> {
    tensors.iter().map(|x| x.clone().detach().require_grad()).collect()
}

fn taken(leaves: &[Tensor<3>], gradients: &mut Gradients) -> Slopes {
    leaves.iter().map(|leaf| leaf.grad_remove(gradients).map(Tensor::from_inner)).collect()
}

/// A number whose gradients with regard to `outputs` are `slopes`, exactly: each is multiplied with 1.
fn weighted(outputs: Vec<Tensor<3>>, slopes: Slopes) -> Option<Tensor<1>> {
    assert_eq!(outputs.len(), slopes.len(), "gradients of outputs");
    let terms = outputs.into_iter().zip(slopes).filter_map(|(output, slope)| Some((output * slope?).sum()));
    terms.reduce(|a, b| a + b)
}
