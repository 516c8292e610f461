//! Convolutions with what stands before and after them, and group norms.
//!
//! Kept for the backward: the picture, the weights and the statistics of the norm. What the kernels gather from the
//! picture is made again.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Dispatch, TensorMetadata};
use burn::tensor::{DType, Tensor};

use super::super::cpu::convolution::{Affine, Convolution, Front, InPlace, pixels};
use super::super::cpu::{Floats, PackedWeight, Stored};
use super::super::{Before, GroupNormed, Window};
use super::{Operation, input, only, run};
use crate::Precision;

/// Inputs x, weight and bias; the norm's weight and bias, if its front has a norm; the residual, if there is one.
#[derive(Debug)]
struct Conv2d {
    convolution: Convolution,
}

/// Takes a norm's weight and bias from `inputs`, if they are there.
fn take_affine(front: &Front, inputs: &mut impl Iterator<Item = Stored>) -> Option<Affine> {
    if !front.has_norm() {
        return None;
    }
    Some([(); 2].map(|()| Floats::new(inputs.next().expect("a norm has a weight and a bias"))))
}

impl Operation for Conv2d {
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("a convolution has x, a weight and a bias");
        let (x, weight, bias) = (InPlace::new(next()), next(), Floats::new(next()));
        let affine = take_affine(&self.convolution.front, &mut inputs);
        // A weight that learns is another one in each step.
        let (kept_weight, weight) = (weight.clone(), (weight, &PackedWeight::not_kept()));
        let result = self.convolution.forward(&x, affine.as_ref(), weight, &bias, inputs.next());
        if !keep {
            return (vec![result], Vec::new());
        }
        let affine = affine.into_iter().flatten().map(Floats::into_stored);
        (vec![result], [x.into_stored(), kept_weight].into_iter().chain(affine).collect())
    }

    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, wanted: &[bool]) -> Vec<Stored> {
        let Conv2d { convolution } = self;
        let mut kept = kept.into_iter();
        let (Some(x), Some(weight)) = (kept.next(), kept.next()) else { unreachable!("x and the weight are kept") };
        let x = InPlace::new(x);
        let affine = take_affine(&convolution.front, &mut kept);
        let (wants_x, wants_weight, wants_bias) = (wanted[0], wanted[1], wanted[2]);
        let (wants_norm, wants_residual) = wanted[3..].split_at(if affine.is_some() { 2 } else { 0 });

        let gradient = only(gradients);
        let last = pixels(gradient.clone());
        let of_weight =
            wants_weight.then(|| convolution.weight_gradient(&x, affine.as_ref(), weight.shape().dims(), &last));
        let of_bias = wants_bias.then(|| Convolution::bias_gradient(&last));
        let (of_x, of_norm) = if wants_x || wants_norm.contains(&true) {
            let (of_x, of_norm) = convolution.input_gradient(&x, affine.as_ref(), weight, &last);
            (wants_x.then_some(of_x), of_norm)
        } else {
            (None, None)
        };
        let of_norm = of_norm.into_iter().flatten().zip(wants_norm).filter(|(_, wanted)| **wanted);
        let of_residual = wants_residual.contains(&true).then_some(gradient);
        [of_x, of_weight, of_bias]
            .into_iter()
            .flatten()
            .chain(of_norm.map(|(of_norm, _)| of_norm))
            .chain(of_residual)
            .collect()
    }
}

/// Inputs x, weight and bias.
#[derive(Debug)]
struct Normed {
    front: Front,
}

impl Operation for Normed {
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        let mut inputs = inputs.into_iter();
        let x = InPlace::new(inputs.next().expect("a norm has an x"));
        let affine = take_affine(&self.front, &mut inputs).expect("a norm's front");
        let result = self.front.forward(&x, &affine);
        let kept = std::iter::once(x.into_stored()).chain(affine.map(Floats::into_stored));
        (vec![result], if keep { kept.collect() } else { Vec::new() })
    }

    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, wanted: &[bool]) -> Vec<Stored> {
        let mut kept = kept.into_iter();
        let x = InPlace::new(kept.next().expect("x is kept"));
        let affine = take_affine(&self.front, &mut kept);
        let (of_x, of_norm) = self.front.backward(&x, affine.as_ref(), pixels(only(gradients)).get());
        let all = std::iter::once(of_x).chain(of_norm.into_iter().flatten());
        all.zip(wanted).filter(|(_, wanted)| **wanted).map(|(of, _)| of).collect()
    }
}

/// As an input in f32: what is narrower gets its gradient in its own type, from the cast.
fn wide<const D: usize>(x: Tensor<D>) -> FloatTensor<Dispatch> {
    input(x.cast(DType::F32))
}

/// [`super::super::conv2d`].
pub(in super::super) fn conv2d(
    x_BCHW: Tensor<4>,
    before: Before,
    weight_OCKK: Tensor<4>,
    bias_O: Tensor<1>,
    window: Window,
    residual: Option<Tensor<4>>,
    precision: Precision,
) -> Tensor<4> {
    let (front, affine) = Front::of(before);
    let inputs = [wide(x_BCHW), wide(weight_OCKK), wide(bias_O)].into_iter();
    let inputs = inputs.chain(affine.into_iter().flatten().map(wide)).chain(residual.map(wide)).collect();
    let [result] = run(Conv2d { convolution: Convolution { front, window, precision } }, inputs);
    Tensor::from_dispatch(result)
}

/// [`super::super::group_norm`].
pub(in super::super) fn group_norm(x_BCHW: Tensor<4>, norm: GroupNormed) -> Tensor<4> {
    let (front, [weight, bias]) = Front::of_norm(norm);
    let [result] = run(Normed { front }, vec![wide(x_BCHW), wide(weight), wide(bias)]);
    Tensor::from_dispatch(result)
}
