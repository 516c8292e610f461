//! What training does to a parameter once its gradient is known: on the CPU device by a kernel, in place; elsewhere
//! composed of Burn's operations.

use burn::backend::Flex;
use burn::tensor::{DType, Tensor};
use rectiflow_kernels::optimizer::{self, AdamwState, AdamwStep};

use super::cpu::{self, Floats, Stored};

/// What AdamW remembers of a parameter: as many values in each as the parameter has, in its order, f32.
#[derive(Clone, Debug)]
pub struct AdamwMoments {
    /// Running mean of the gradient.
    pub first: Tensor<1>,
    /// Running mean of the gradient's square.
    pub second: Tensor<1>,
    /// Running mean of the parameter, if it is kept.
    pub ema: Option<Tensor<1>>,
}

impl AdamwMoments {
    /// Before the first update: zeros; the average, if `averaged`, is the parameter as it is.
    pub fn new<const D: usize>(param: &Tensor<D>, averaged: bool) -> Self {
        let (device, count) = (param.device(), param.shape().num_elements());
        let zeros = || Tensor::zeros([count], (&device, DType::F32));
        AdamwMoments { first: zeros(), second: zeros(), ema: averaged.then(|| ema_start(param)) }
    }
}

/// An average before the first step: the parameter as it is, flat in f32.
pub fn ema_start<const D: usize>(param: &Tensor<D>) -> Tensor<1> {
    let count = param.shape().num_elements();
    // Through data, for memory of its own: a parameter that shares its memory is copied by its next update.
    Tensor::from_data(param.clone().reshape([count]).to_data(), (&param.device(), DType::F32))
}

/// One update of a parameter, as [`AdamwStep`] says. `gradient` is flat, in the parameter's order.
///
/// On the CPU device what is changed is changed in place where nobody else holds its memory, else in a copy. Give
/// tensors that track no gradients; the parameter is f32.
pub fn adamw_step<const D: usize>(
    param: Tensor<D>,
    gradient: Tensor<1>,
    moments: AdamwMoments,
    step: &AdamwStep,
) -> (Tensor<D>, AdamwMoments) {
    let (count, gradients) = (param.shape().num_elements(), gradient.dims()[0]);
    assert_eq!(count, gradients, "values of a parameter, and of its gradient");
    if cpu::serves(&param) {
        on_kernels(param, gradient, moments, step)
    } else {
        composed(param, gradient, moments, step)
    }
}

/// An average one step on, where no update computes it: the second average of a parameter and those after it in every
/// step, and the first in a step without a gradient. `ema` is flat, in the parameter's order; `decay` of it stays.
///
/// Composed on every device: it reads and writes memory about three times where a kernel would do so once.
pub fn ema_step<const D: usize>(param: Tensor<D>, ema: Tensor<1>, decay: f64) -> Tensor<1> {
    let count = ema.dims()[0];
    let apart = param.reshape([count]) - ema.clone();
    ema + apart * (1.0 - decay)
}

/// The sum of squares, in f64 where kernels run, for a gradient's norm. The CPU's has the same bits on any number of
/// threads.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> f64 {
    if cpu::serves(&x) {
        return optimizer::sum_of_squares(cpu::isa(), Floats::of(x).get());
    }
    x.cast(DType::F32).square().sum().into_scalar()
}

fn on_kernels<const D: usize>(
    param: Tensor<D>,
    gradient: Tensor<1>,
    moments: AdamwMoments,
    step: &AdamwStep,
) -> (Tensor<D>, AdamwMoments) {
    let gradient = Floats::of(gradient);
    let mut param = cpu::contiguous(param);
    let [mut first, mut second] = [moments.first, moments.second].map(cpu::contiguous);
    let mut ema = moments.ema.map(cpu::contiguous);
    let state = AdamwState {
        param: written(&mut param),
        first: written(&mut first),
        second: written(&mut second),
        ema: ema.as_mut().map(written),
    };
    optimizer::adamw(cpu::isa(), step, gradient.get(), state);
    let [first, second] = [first, second].map(Tensor::from_primitive::<Flex>);
    let moments = AdamwMoments { first, second, ema: ema.map(Tensor::from_primitive::<Flex>) };
    (Tensor::from_primitive::<Flex>(param), moments)
}

/// A contiguous tensor's values to write to; copied first if somebody else has them too.
fn written(x: &mut Stored) -> &mut [f32] {
    let (start, count) = (x.layout().start_offset(), x.layout().num_elements());
    &mut x.storage_mut::<f32>()[start..][..count]
}

fn composed<const D: usize>(
    param: Tensor<D>,
    gradient: Tensor<1>,
    moments: AdamwMoments,
    step: &AdamwStep,
) -> (Tensor<D>, AdamwMoments) {
    let (shape, count) = (param.dims(), gradient.dims()[0]);
    let correction = |beta: f64| 1.0 - beta.powf(step.number.get() as f64);
    let g = gradient.cast(DType::F32) * step.gradient_factor;
    let param = param.reshape([count]) * (1.0 - step.learning_rate * step.weight_decay);
    let first = moments.first * step.beta_1 + g.clone() * (1.0 - step.beta_1);
    let second = moments.second * step.beta_2 + g.square() * (1.0 - step.beta_2);
    let root = second.clone().sqrt() / correction(step.beta_2).sqrt() + step.eps;
    let param = param - first.clone() / root * (step.learning_rate / correction(step.beta_1));
    let ema = moments.ema.map(|ema| ema_step(param.clone(), ema, step.ema_decay));
    (param.reshape(shape), AdamwMoments { first, second, ema })
}
