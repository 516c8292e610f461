//! Muon: the update of a matrix in a block is its momentum with all singular values brought near 1.
//!
//! Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", for the momentum and the
//! quintic iteration of Newton and Schulz; Liu et al. 2025, arXiv:2502.16982, section 2.2, for the update's size, by which
//! the learning rate and the decay of AdamW serve here too.
//!
//! What this module does not do: update embeddings, modulations, ends, norms and biases; AdamW does.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;
use rectiflow_nn::Precision;
use rectiflow_nn::ops::{self, AdamwMoments, After, PackedWeight};

use super::{Matrices, ModuleGradients, Optimizer, ParamState, places};

/// Share of the momentum that a step keeps.
const MOMENTUM: f64 = 0.95;
/// Of the quintic polynomial, in odd powers.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;
/// An update has the root mean square that AdamW's have, about.
const RMS: f64 = 0.2;
/// A table with fewer rows or columns is none of a layer.
const SIDE_MIN: usize = 16;

/// A matrix with a gradient.
struct Member {
    id: ParamId,
    name: String,
    dims: Vec<usize>,
    /// Flat, as the gradient.
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: ParamState,
}

/// The new matrices, flat; their states are replaced. Each is a thread's alone: they are too small to be shared out.
pub(super) fn update<M: Module>(
    optimizer: &mut Optimizer,
    module: &M,
    gradients: &mut ModuleGradients,
    learning_rate: f64,
) -> HashMap<ParamId, Tensor<1>> {
    if optimizer.settings.matrices != Matrices::Muon {
        return HashMap::new();
    }
    let mut collect = Collect { optimizer, gradients, members: Vec::new() };
    module.visit(&mut collect);
    let members = collect.members;
    let (factor, decay) = (gradients.factor, 1.0 - learning_rate * optimizer.settings.weight_decay);
    let by_optimizer = &*optimizer;
    let step = |member: Member| {
        let Member { id, name, dims, param, gradient, state } = member;
        let AdamwMoments { first, second, ema } = state.moments;
        let (first, direction) = direction(&name, &dims, gradient * factor, first);
        let param = param * decay - direction * learning_rate;
        let ema = by_optimizer.first_followed(ema, &param);
        let more_averages = by_optimizer.followed(state.more_averages, &param);
        let moments = AdamwMoments { first, second, ema };
        (id, param, ParamState { updates: state.updates.saturating_add(1), moments, more_averages })
    };
    let stepped: Vec<_> = members.into_par_iter().map(step).collect();
    let keep = |(id, param, state)| {
        optimizer.states.insert(id, state);
        (id, param)
    };
    stepped.into_iter().map(keep).collect()
}

struct Collect<'a> {
    optimizer: &'a mut Optimizer,
    gradients: &'a mut ModuleGradients,
    members: Vec<Member>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (tensor, name) = (param.val().inner(), places::name_of(&self.optimizer.names, param.id));
        if !serves(&name, &tensor.dims()) {
            return;
        }
        let Some(gradient) = self.gradients.gradients.remove(param.id) else { return };
        let state = self.optimizer.take_state(param.id, &tensor);
        let (dims, count) = (tensor.dims().to_vec(), tensor.shape().num_elements());
        self.members.push(Member { id: param.id, name, dims, param: tensor.reshape([count]), gradient, state });
    }
}

/// Whether a parameter is the weight of a layer in one of a network's numbered blocks.
fn serves(name: &str, dims: &[usize]) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_in_block = name.split('.').any(is_number);
    let is_end = ["modulation", "embed", "bias"].iter().any(|word| name.contains(word));
    let [rows, columns] = sides(dims);
    is_in_block && !is_end && dims.len() > 1 && rows >= SIDE_MIN && columns >= SIDE_MIN
}

/// A layer's outputs, and all that each is made of: of a convolution, every channel at every place of the window.
fn sides(dims: &[usize]) -> [usize; 2] {
    let rows = dims.first().copied().unwrap_or(0);
    [rows, dims.iter().skip(1).product()]
}

/// The momentum after a gradient, both flat, and what is taken from the parameter, times the learning rate.
///
/// Queries, keys and values that one weight makes are three matrices: `name` tells.
pub(super) fn direction(
    name: &str,
    dims: &[usize],
    gradient: Tensor<1>,
    momentum: Tensor<1>,
) -> (Tensor<1>, Tensor<1>) {
    let ([rows, columns], gradient) = (sides(dims), gradient.cast(DType::F32));
    let momentum = momentum * MOMENTUM + gradient.clone();
    // Nesterov's.
    let ahead = (gradient + momentum.clone() * MOMENTUM).reshape([rows, columns]);
    let parts = if name.ends_with("qkv.weight") && rows.is_multiple_of(3) { 3 } else { 1 };
    let height = rows / parts;
    let size = RMS * (height.max(columns) as f64).sqrt();
    let part = |index| orthogonal(ahead.clone().narrow(0, index * height, height)) * size;
    let direction = Tensor::cat((0..parts).map(part).collect(), 0);
    (momentum, direction.reshape([rows * columns]))
}

/// The matrix with its singular values brought near 1, in f32: between about 0.7 and 1.2, as the iteration has it.
fn orthogonal(matrix: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = matrix.dims();
    let is_tall = rows > columns;
    let x = if is_tall { matrix.transpose() } else { matrix };
    let norm = ops::sum_of_squares(x.clone()).sqrt();
    if norm == 0.0 {
        return if is_tall { x.transpose() } else { x };
    }
    let mut x = x / norm;
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let square = by_transposed(x.clone(), x.clone());
        // The square is symmetric, so it is its own transpose.
        let fourth = by_transposed(square.clone(), square.clone());
        let factor = square * b + fourth * c;
        x = x.clone() * a + by_transposed(factor, x.transpose());
    }
    if is_tall { x.transpose() } else { x }
}

/// `x @ y^T` in bf16, as the iteration is meant to be run.
fn by_transposed(x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
    ops::linear(x, y, &PackedWeight::not_kept(), None, After::default(), Precision::Bf16).cast(DType::F32)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use rectiflow_nn::{Rng, from_f32, to_f32};

    use super::*;

    fn matrix(rows: usize, columns: usize) -> Tensor<2> {
        let mut rng = Rng::keyed(3, "matrix", 0);
        let values = (0..rows * columns).map(|_| rng.uniform() as f32 * 2.0 - 1.0).collect();
        from_f32(values, [rows, columns], &Device::flex())
    }

    /// `x @ x^T` of a matrix whose singular values are 1 is the identity.
    #[test]
    fn singular_values_come_near_one_whatever_the_shape_and_size() {
        for (rows, columns, size) in [(24, 96, 1.0), (16, 64, 1e-6), (64, 16, 1e6)] {
            let wide = orthogonal(matrix(rows, columns) * size);
            assert_eq!(wide.dims(), [rows, columns]);
            let wide = if rows > columns { wide.transpose() } else { wide };
            let small = rows.min(columns);
            let square = to_f32(&wide.clone().matmul(wide.transpose()));
            let trace: f32 = (0..small).map(|i| square[i * small + i]).sum();
            assert!((0.6..1.5).contains(&(trace / small as f32)), "{rows}x{columns}: {trace}");
            let beside = square.iter().enumerate().filter(|(i, _)| i % (small + 1) != 0);
            let largest = beside.map(|(_, value)| value.abs()).fold(0.0, f32::max);
            assert!(largest < 0.45, "{rows}x{columns}: {largest}");
        }
        assert_eq!(to_f32(&orthogonal(matrix(16, 32) * 0.0)), [0.0; 16 * 32]);
    }

    #[test]
    fn an_update_has_the_size_of_adamws_and_queries_keys_and_values_are_apart() {
        let zeros = Tensor::zeros([96 * 64], &Device::flex());
        let gradient = matrix(96, 64).reshape([96 * 64]);
        let (momentum, direction) = direction("blocks.0.attn.qkv.weight", &[96, 64], gradient.clone(), zeros.clone());
        assert_eq!(to_f32(&momentum), to_f32(&gradient));
        let values = to_f32(&direction);
        let rms = (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
        assert!((0.14..0.26).contains(&rms), "{rms}");
        // The same gradient for the keys alone gives the keys' part.
        let keys = gradient.narrow(0, 32 * 64, 32 * 64);
        let zeros = zeros.narrow(0, 0, 32 * 64);
        let (_, alone) = super::direction("blocks.0.attn.k.weight", &[32, 64], keys, zeros);
        assert_eq!(to_f32(&alone), values[32 * 64..2 * 32 * 64]);
    }

    #[test]
    fn layers_in_blocks_are_served_and_nothing_else() {
        for (name, dims, expected) in [
            ("joint_blocks.3.x_block.attn.qkv.weight", &[768, 256][..], true),
            ("encoder.block.0.layer.0.SelfAttention.q.weight", &[256, 256], true),
            ("joint_blocks.3.x_block.adaLN_modulation.1.weight", &[1536, 256], false),
            ("joint_blocks.3.x_block.attn.qkv.bias", &[768], false),
            ("down.2.blocks.0.conv1.weight", &[96, 96, 3, 3], true),
            ("down.0.conv.weight", &[8, 3, 3, 3], false),
            ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", &[32, 8], false),
            ("t_embedder.mlp.0.weight", &[256, 256], false),
            ("final_layer.linear.weight", &[64, 256], false),
        ] {
            assert_eq!(serves(name, dims), expected, "{name}");
        }
    }
}
