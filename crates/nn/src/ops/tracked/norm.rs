//! Norms.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Tensor};
use rectiflow_kernels::norm::{
    Affine, Heads, Norm, NormGradients, heads_norm as run_heads, heads_norm_backward, norm as run_norm, norm_backward,
};

use super::super::cpu::{Floats, NormRows, Result, Stored, contiguous_stored, isa, values, zeros};
use super::{Operation, input, only, run};

/// What follows a norm; the inputs are x and, in this order, what the variants say.
///
/// A modulated one gives x again as a second result: the tokens that a branch is added to, whose gradient is then added
/// to the norm's in one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Scale and shift, `[B, 1, D]`.
    Modulated,
    /// A weight and a bias `[D]`.
    Learned,
    /// A weight `[D]`.
    Scaled,
}

#[derive(Clone, Copy, Debug)]
struct Normed {
    which: Norm,
    form: Form,
    out: DType,
}

impl Normed {
    fn affine<'a>(&self, scale: &'a Floats, shift: Option<&'a Floats>) -> Affine<'a> {
        match (self.form, shift) {
            (Form::Modulated, Some(shift)) => Affine::Modulated { shift: shift.get(), scale: scale.get() },
            (_, shift) => Affine::Learned { weight: scale.get(), bias: shift.map(Floats::get) },
        }
    }
}

impl Operation for Normed {
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        let mut inputs = inputs.into_iter();
        let x = NormRows::new(inputs.next().expect("the rows are there"));
        let scale = Floats::new(inputs.next().expect("a norm without weights is not tracked"));
        let shift = inputs.next().map(Floats::new);
        let mut result = Result::new(self.out, x.stored.shape().num_elements());
        run_norm(isa(), x.rows(), self.which, self.affine(&scale, shift.as_ref()), result.output());
        let result = result.stored(x.stored.shape().to_vec());
        let again = (self.form == Form::Modulated).then(|| x.stored.clone());
        let kept = if keep {
            [x.stored, scale.into_stored()].into_iter().chain(shift.map(Floats::into_stored)).collect()
        } else {
            Vec::new()
        };
        (std::iter::once(result).chain(again).collect(), kept)
    }

    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, wanted: &[bool]) -> Vec<Stored> {
        let mut kept = kept.into_iter();
        let x = NormRows::new(kept.next().expect("the rows are kept"));
        let scale = Floats::new(kept.next().expect("the weights are kept"));
        let shift = kept.next().map(Floats::new);
        let count = x.stored.shape().num_elements();
        let mut gradients = gradients.into_iter().map(|gradient| gradient.map(contiguous_stored));
        let normed = gradients.next().flatten();
        // Rows that were only read again have a gradient, but not by way of the norm.
        let normed = normed.unwrap_or_else(|| zeros(DType::F32, x.stored.shape().to_vec()));
        let again = gradients.next().flatten();
        let mut rows = Result::of_gradient(x.stored.dtype(), count);
        let place = |index: usize| {
            let wanted = wanted.get(index).is_some_and(|wanted| *wanted);
            wanted.then(|| Result::new(DType::F32, scale.get().len()))
        };
        let (mut scales, mut shifts) = (place(1), place(2));
        let out = NormGradients {
            rows: rows.output(),
            scale: scales.as_mut().map(Result::floats),
            shift: shifts.as_mut().map(Result::floats),
        };
        let affine = self.affine(&scale, shift.as_ref());
        let [normed, again] = [Some(&normed), again.as_ref()].map(|x| x.map(|x| values(x).first(count)));
        norm_backward(isa(), x.rows(), self.which, affine, normed.expect("given above"), again, out);
        let rows = wanted[0].then(|| rows.stored(x.stored.shape().to_vec()));
        let ends = [scales, shifts].into_iter().flatten().map(|sums| sums.stored(scale.shape()));
        rows.into_iter().chain(ends).collect()
    }
}

/// [`super::super::modulated_norm`].
pub(in super::super) fn modulated_norm(
    x_BLD: Tensor<3>,
    shift_B1D: Tensor<3>,
    scale_B1D: Tensor<3>,
    eps: f64,
    out: DType,
) -> [Tensor<3>; 2] {
    let operation = Normed { which: Norm::Layer { eps: eps as f32 }, form: Form::Modulated, out };
    run(operation, vec![input(x_BLD), input(scale_B1D), input(shift_B1D)]).map(Tensor::from_dispatch)
}

/// [`super::super::layer_norm`].
pub(in super::super) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight_D: Tensor<1>,
    bias_D: Tensor<1>,
    eps: f64,
    out: DType,
) -> Tensor<D> {
    let operation = Normed { which: Norm::Layer { eps: eps as f32 }, form: Form::Learned, out };
    let [result] = run(operation, vec![input(x), input(weight_D), input(bias_D)]);
    Tensor::from_dispatch(result)
}

/// [`super::super::rms_norm`].
pub(in super::super) fn rms_norm<const D: usize>(x: Tensor<D>, weight_D: Tensor<1>, eps: f64, out: DType) -> Tensor<D> {
    let operation = Normed { which: Norm::Rms { eps: eps as f32 }, form: Form::Scaled, out };
    let [result] = run(operation, vec![input(x), input(weight_D)]);
    Tensor::from_dispatch(result)
}

/// The norms of queries and keys; inputs are `[B, L, 3, H, E]` and both weights `[E]`.
#[derive(Clone, Copy, Debug)]
struct HeadsNormed {
    eps: f32,
    out: DType,
}

impl Operation for HeadsNormed {
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        let [heads, queries, keys] = three(inputs);
        let (heads, queries, keys) = (contiguous_stored(heads), Floats::new(queries), Floats::new(keys));
        let mut result = Result::new(self.out, heads.shape().num_elements());
        run_heads(isa(), heads_of(&heads), self.eps, [queries.get(), keys.get()], result.output());
        let result = result.stored(heads.shape().to_vec());
        let kept = if keep { vec![heads, queries.into_stored(), keys.into_stored()] } else { Vec::new() };
        (vec![result], kept)
    }

    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, wanted: &[bool]) -> Vec<Stored> {
        let [heads, queries, keys] = three(kept);
        let (queries, keys) = (Floats::new(queries), Floats::new(keys));
        let gradient = contiguous_stored(only(gradients));
        let count = heads.shape().num_elements();
        let mut result = Result::of_gradient(heads.dtype(), count);
        let mut sums = [&queries, &keys].map(|weight| Result::new(DType::F32, weight.get().len()));
        let [of_queries, of_keys] = &mut sums;
        let gradient = values(&gradient).first(count);
        let weights = [queries.get(), keys.get()];
        let sums_of_weights = [of_queries.floats(), of_keys.floats()];
        let (given, out) = (heads_of(&heads), result.output());
        heads_norm_backward(isa(), given, self.eps, weights, gradient, out, sums_of_weights);
        let shapes = [heads.shape().to_vec(), queries.shape(), keys.shape()];
        let results = std::iter::once(result).chain(sums).zip(shapes).map(|(result, shape)| result.stored(shape));
        results.zip(wanted).filter(|(_, wanted)| **wanted).map(|(result, _)| result).collect()
    }
}

fn three(inputs: Vec<Stored>) -> [Stored; 3] {
    inputs.try_into().unwrap_or_else(|_| unreachable!("heads and two weights"))
}

/// heads `[B, L, 3, H, E]`, contiguous.
fn heads_of(heads: &Stored) -> Heads<'_> {
    let [batch, length, _, count, width] = heads.shape().dims();
    let values = values(heads).first(heads.shape().num_elements());
    Heads { values, tokens: batch * length, heads: count, width }
}

/// [`super::super::heads_norm`].
pub(in super::super) fn heads_norm(
    heads_BL3HE: Tensor<5>,
    [queries_E, keys_E]: [Tensor<1>; 2],
    eps: f64,
    out: DType,
) -> Tensor<5> {
    let operation = HeadsNormed { eps: eps as f32, out };
    let [result] = run(operation, vec![input(heads_BL3HE), input(queries_E), input(keys_E)]);
    Tensor::from_dispatch(result)
}
