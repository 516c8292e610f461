//! Pictures kept between two bounds. Kept for the backward: the result.

use burn::tensor::{DType, Tensor};

use super::super::cpu::Stored;
use super::super::cpu::bound::{bounded as run_bounded, bounded_gradient};
use super::{Operation, input, only, run};

/// One input.
#[derive(Debug)]
struct Bounded {
    bounds: [f32; 2],
}

impl Operation for Bounded {
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        let x = inputs.into_iter().next().expect("one input");
        let result = run_bounded(x, self.bounds);
        let kept = if keep { vec![result.clone()] } else { Vec::new() };
        (vec![result], kept)
    }

    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, _: &[bool]) -> Vec<Stored> {
        let result = kept.into_iter().next().expect("the result is kept");
        vec![bounded_gradient(result, self.bounds, only(gradients))]
    }
}

/// [`super::super::bounded`].
pub(in super::super) fn bounded(x: Tensor<4>, bounds: [f32; 2]) -> Tensor<4> {
    let [result] = run(Bounded { bounds }, vec![input(x.cast(DType::F32))]);
    Tensor::from_dispatch(result)
}
