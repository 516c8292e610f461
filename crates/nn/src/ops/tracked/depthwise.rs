//! Depthwise convolutions. Kept for the backward: the picture and the weight.

use burn::tensor::{DType, Tensor};

use super::super::Apart;
use super::super::cpu::convolution::{Convolution, pixels};
use super::super::cpu::depthwise::Windows;
use super::super::cpu::{Floats, Stored};
use super::{Operation, input, only, run};

/// Inputs x, weight and bias.
#[derive(Debug)]
struct Depthwise {
    apart: Apart,
}

impl Operation for Depthwise {
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("a convolution has x, a weight and a bias");
        let (x, weight, bias) = (next(), next(), Floats::new(next()));
        let kept = if keep { vec![x.clone(), weight.clone()] } else { Vec::new() };
        (vec![Windows::new(x, weight, self.apart).forward(&bias)], kept)
    }

    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, wanted: &[bool]) -> Vec<Stored> {
        let mut kept = kept.into_iter();
        let (Some(x), Some(weight)) = (kept.next(), kept.next()) else { unreachable!("x and the weight are kept") };
        let windows = Windows::new(x, weight, self.apart);
        let gradient = pixels(only(gradients));
        let of_x = wanted[0].then(|| windows.input_gradient(&gradient));
        let of_weight = wanted[1].then(|| windows.weight_gradient(&gradient));
        let of_bias = wanted[2].then(|| Convolution::bias_gradient(&gradient));
        [of_x, of_weight, of_bias].into_iter().flatten().collect()
    }
}

/// [`super::super::depthwise_conv2d`].
pub(in super::super) fn depthwise_conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, apart: Apart) -> Tensor<4> {
    let inputs = vec![input(x.cast(DType::F32)), input(weight.cast(DType::F32)), input(bias.cast(DType::F32))];
    let [result] = run(Depthwise { apart }, inputs);
    Tensor::from_dispatch(result)
}
