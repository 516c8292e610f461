//! AdamW in one pass over memory, and the sum of squares that a gradient's norm is made of.
//!
//! An update reads each of its slices once and writes what changes in place: memory is what limits it. Elements are
//! independent, and sums run over chunks of a fixed size, so results have the same bits on any number of threads.

use std::num::NonZeroU64;

use rayon::prelude::*;

use crate::Isa;
use crate::vector::{multiply_add, vectorised};

/// One update, as `torch.optim.AdamW` does it. Source: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2; PyTorch's
/// `_single_tensor_adam` with `decoupled_weight_decay`.
///
/// With `g = gradient_factor * gradient` and `n` the update's number, in this order:
/// ```text
/// param  = param * (1 - learning_rate * weight_decay)
/// first  = beta_1 * first + (1 - beta_1) * g
/// second = beta_2 * second + (1 - beta_2) * g^2
/// param  = param - learning_rate / (1 - beta_1^n) * first / (sqrt(second) / sqrt(1 - beta_2^n) + eps)
/// ema    = ema_decay * ema + (1 - ema_decay) * param
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamwStep {
    /// How far a parameter moves.
    pub learning_rate: f64,
    /// Share of the first moment that stays, 0 up to but not 1.
    pub beta_1: f64,
    /// Share of the second moment that stays, 0 up to but not 1.
    pub beta_2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Of the parameter itself, not of its gradient.
    pub weight_decay: f64,
    /// Of the parameter's updates, this one included.
    pub number: NonZeroU64,
    /// Multiplied with the gradient first: what clipping leaves of it.
    pub gradient_factor: f64,
    /// Share of the average that stays, where there is one.
    pub ema_decay: f64,
}

/// What an update changes: as many values in each.
#[derive(Debug)]
pub struct AdamwState<'a> {
    /// The parameter.
    pub param: &'a mut [f32],
    /// Running mean of its gradient.
    pub first: &'a mut [f32],
    /// Running mean of its gradient's square.
    pub second: &'a mut [f32],
    /// Running mean of the parameter after each update.
    pub ema: Option<&'a mut [f32]>,
}

/// Values that a thread takes at once: four slices of it fit the second cache.
const CHUNK: usize = 1 << 15;

/// Updates a parameter and its state in place. A NaN in the gradient makes the parameter NaN there.
///
/// # Panics
/// Slices of different lengths, or an instruction set that the machine lacks: bugs of the caller.
pub fn adamw(isa: Isa, step: &AdamwStep, gradient: &[f32], state: AdamwState<'_>) {
    let AdamwState { param, first, second, ema } = state;
    let lengths = [param.len(), first.len(), second.len()];
    assert_eq!(lengths, [gradient.len(); 3], "parameter, first and second moment of {} gradients", gradient.len());
    let rates = Rates::of(step);
    let chunks = param
        .par_chunks_mut(CHUNK)
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .zip(gradient.par_chunks(CHUNK));
    match ema {
        None => chunks.for_each(|(((param, first), second), gradient)| {
            update(isa, rates, gradient, param, first, second);
        }),
        Some(ema) => {
            assert_eq!(ema.len(), gradient.len(), "averages of as many parameters");
            chunks.zip(ema.par_chunks_mut(CHUNK)).for_each(|((((param, first), second), gradient), ema)| {
                update(isa, rates, gradient, param, first, second);
                // What it reads was just written, and is still in the cache.
                average(isa, rates.ema, param, ema);
            });
        }
    }
}

/// The sum of squares, in f64. NaN or infinite if a value is.
///
/// # Panics
/// An instruction set that the machine lacks: a bug of the caller.
pub fn sum_of_squares(isa: Isa, values: &[f32]) -> f64 {
    let sums: Vec<f64> = values.par_chunks(CHUNK).map(|values| sum_of_chunk(isa, values)).collect();
    sums.iter().sum()
}

/// The step's numbers as the loop needs them.
#[derive(Clone, Copy)]
struct Rates {
    factor: f32,
    keep: f32,
    beta_2: f32,
    first: f32,
    second: f32,
    move_by: f32,
    root_by: f32,
    eps: f32,
    ema: f32,
}

impl Rates {
    /// In f64 first: `1 - beta_2` of f32 numbers has four digits.
    fn of(step: &AdamwStep) -> Rates {
        let correction = |beta: f64| 1.0 - beta.powf(step.number.get() as f64);
        Rates {
            factor: step.gradient_factor as f32,
            keep: (1.0 - step.learning_rate * step.weight_decay) as f32,
            beta_2: step.beta_2 as f32,
            first: (1.0 - step.beta_1) as f32,
            second: (1.0 - step.beta_2) as f32,
            move_by: (step.learning_rate / correction(step.beta_1)) as f32,
            root_by: (1.0 / correction(step.beta_2).sqrt()) as f32,
            eps: step.eps as f32,
            ema: (1.0 - step.ema_decay) as f32,
        }
    }
}

vectorised! {
    fn update(rates: Rates, gradient: &[f32], param: &mut [f32], first: &mut [f32], second: &mut [f32]) {
        let moments = first.iter_mut().zip(second);
        for ((param, (first, second)), gradient) in param.iter_mut().zip(moments).zip(gradient) {
            let g = rates.factor * gradient;
            *first = multiply_add::<FMA>(g - *first, rates.first, *first);
            *second = multiply_add::<FMA>(rates.second * g, g, rates.beta_2 * *second);
            let root = multiply_add::<FMA>(second.sqrt(), rates.root_by, rates.eps);
            *param = rates.keep * *param - rates.move_by * *first / root;
        }
    }
}

vectorised! {
    fn average(rate: f32, param: &[f32], ema: &mut [f32]) {
        for (ema, param) in ema.iter_mut().zip(param) {
            *ema = multiply_add::<FMA>(param - *ema, rate, *ema);
        }
    }
}

vectorised! {
    fn sum_of_chunk(values: &[f32]) -> f64 {
        const STRANDS: usize = 32;
        let (whole, rest) = values.as_chunks::<STRANDS>();
        let mut strands = [0.0_f64; STRANDS];
        for values in whole {
            for (strand, x) in strands.iter_mut().zip(values) {
                // Exact: the square of an f32 fits an f64.
                *strand += f64::from(*x) * f64::from(*x);
            }
        }
        strands.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
    }
}

#[cfg(test)]
mod tests;
