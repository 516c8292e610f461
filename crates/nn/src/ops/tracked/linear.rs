//! Products with what follows them.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Tensor};
use half::bf16;
use rectiflow_kernels::product::{
    self, Activation, Branch, Epilogue, EpilogueGradients, Factor, Matrix, Output, epilogue_backward, multiply_keeping,
};

use super::super::cpu::{Floats, Result, Stored, contiguous_stored, isa, last_axis, matrix_of_rows, values};
use super::super::{After, Residual};
use super::{Operation, input, only, run};
use crate::Precision;

/// `x + gate * times * activation(x weight^T + bias)`; inputs in the order x, weight, and those of [`Others`] that are
/// there.
#[derive(Clone, Copy, Debug)]
struct Linear {
    activation: Activation,
    others: Others,
    out: DType,
    precision: Precision,
}

/// Which of the inputs behind the factors are there.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    bias: bool,
    times: bool,
    residual: bool,
    gate: bool,
}

/// One value for each input that there may be.
struct Ends<T> {
    bias: Option<T>,
    times: Option<T>,
    residual: Option<T>,
    gate: Option<T>,
}

impl Others {
    /// Takes from `values` what is there.
    fn take<T>(self, mut values: impl Iterator<Item = T>) -> Ends<T> {
        let mut next = |there: bool| if there { values.next() } else { None };
        Ends { bias: next(self.bias), times: next(self.times), residual: next(self.residual), gate: next(self.gate) }
    }
}

impl Linear {
    /// Whether the backward reads the sums.
    fn reads_sums(&self) -> bool {
        self.activation != Activation::None || self.others.times || self.others.gate
    }

    /// `a b^T` with the factors of the precision.
    fn multiply(
        &self,
        a: Matrix<'_>,
        b: Matrix<'_>,
        epilogue: &Epilogue<'_>,
        out: Output<'_>,
        kept: Option<Output<'_>>,
    ) {
        match self.precision {
            Precision::F32 => multiply_keeping::<f32>(isa(), a, Factor::Plain(b), epilogue, out, kept),
            Precision::Bf16 => multiply_keeping::<bf16>(isa(), a, Factor::Plain(b), epilogue, out, kept),
            Precision::Int8 => panic!("int8 products are for drawing, not for training"),
        }
    }
}

impl Operation for Linear {
    fn forward(&self, inputs: Vec<Stored>, keep: bool) -> (Vec<Stored>, Vec<Stored>) {
        let mut inputs = inputs.into_iter().map(contiguous_stored);
        let (Some(x), Some(weight)) = (inputs.next(), inputs.next()) else { unreachable!("both factors are there") };
        let others = self.others.take(inputs);
        let [a, b] = [&x, &weight].map(matrix_of_rows);
        let (rows, columns) = (a.rows(), b.rows());
        let Ends { bias, times, residual, gate } = others.map(Floats::new);
        let epilogue = Epilogue {
            bias: bias.as_ref().map(Floats::get),
            activation: self.activation,
            times: times.as_ref().map(Floats::get),
            residual: residual.as_ref().map(|x| product::Residual {
                x: x.get(),
                gate: gate.as_ref().map(Floats::get),
                rows_per_gate: rows_per_gate(rows, columns, gate.as_ref()),
            }),
        };
        let keeps_sums = keep && self.reads_sums();
        let mut result = Result::new(self.out, rows * columns);
        let mut sums = keeps_sums.then(|| Result::new(self.precision.factor(), rows * columns));
        self.multiply(a, b, &epilogue, result.output(), sums.as_mut().map(Result::output));
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = columns;
        }
        let result = result.stored(shape);
        if !keep {
            return (vec![result], Vec::new());
        }
        let ends = [times, gate].into_iter().flatten().map(Floats::into_stored);
        let sums = sums.map(|sums| sums.stored(vec![rows, columns]));
        (vec![result], [x, weight].into_iter().chain(sums).chain(ends).collect())
    }

    fn backward(&self, kept: Vec<Stored>, gradients: Vec<Option<Stored>>, wanted: &[bool]) -> Vec<Stored> {
        let mut kept = kept.into_iter();
        let (Some(x), Some(weight)) = (kept.next(), kept.next()) else { unreachable!("both factors are kept") };
        let sums = if self.reads_sums() { kept.next() } else { None };
        let [times, gate] =
            [self.others.times, self.others.gate].map(|there| if there { kept.next().map(Floats::new) } else { None });
        let gradient = contiguous_stored(only(gradients));
        let (rows, columns) = (matrix_of_rows(&gradient).rows(), last_axis(&gradient));
        let (wants_x, wants_weight) = (wanted[0], wanted[1]);
        let wants = self.others.take(wanted[2..].iter().copied());

        let mut ends = self.ends(&wants, [rows, columns], gate.as_ref());
        let branch = Branch {
            activation: self.activation,
            times: times.as_ref().map(Floats::get),
            gate: gate.as_ref().map(Floats::get),
            rows_per_gate: rows_per_gate(rows, columns, gate.as_ref()),
        };
        let mut slopes = self.reads_sums().then(|| Result::new(self.precision.factor(), rows * columns));
        let out = EpilogueGradients {
            sums: slopes.as_mut().map(Result::output),
            bias: ends.bias.as_mut().map(Result::floats),
            times: ends.times.as_mut().map(Result::floats),
            gate: ends.gate.as_mut().map(Result::floats),
        };
        if out.sums.is_some() || out.bias.is_some() {
            let sums = sums.as_ref().map_or(product::Values::F32(&[]), values);
            // A gradient may be the first part of a longer one: of results that were put together.
            let gradient = values(&gradient).first(rows * columns);
            epilogue_backward(isa(), [rows, columns], &branch, sums, gradient, out);
        }
        let slopes = slopes.map_or_else(|| gradient.clone(), |slopes| slopes.stored(vec![rows, columns]));

        let mut gradients = Vec::new();
        let plain = Epilogue::default();
        let slope = Matrix::new(values(&slopes).first(rows * columns), rows, columns);
        if wants_x {
            let mut result = Result::of_gradient(x.dtype(), x.shape().num_elements());
            self.multiply(slope, matrix_of_rows(&weight).transposed(), &plain, result.output(), None);
            gradients.push(result.stored(x.shape().to_vec()));
        }
        if wants_weight {
            let mut result = Result::new(DType::F32, weight.shape().num_elements());
            self.multiply(slope.transposed(), matrix_of_rows(&x).transposed(), &plain, result.output(), None);
            gradients.push(result.stored(weight.shape().to_vec()));
        }
        gradients.extend(ends.bias.map(|bias| bias.stored(vec![columns])));
        let full = gradient.shape().to_vec();
        gradients.extend(ends.times.map(|times| times.stored(full.clone())));
        if wants.residual == Some(true) {
            gradients.push(Floats::new(gradient).into_stored());
        }
        gradients.extend(ends.gate.zip(gate).map(|(slope, gate)| slope.stored(gate.shape())));
        gradients
    }
}

impl Linear {
    /// Memory for the gradients behind the sums that are wanted.
    fn ends(&self, wants: &Ends<bool>, [rows, columns]: [usize; 2], gate: Option<&Floats>) -> Ends<Result> {
        let place =
            |wanted: Option<bool>, length: usize| (wanted == Some(true)).then(|| Result::new(DType::F32, length));
        Ends {
            bias: place(wants.bias, columns),
            times: place(wants.times, rows * columns),
            residual: None,
            gate: place(wants.gate, gate.map_or(0, |gate| gate.get().len())),
        }
    }
}

impl<T> Ends<T> {
    fn map<U>(self, mut change: impl FnMut(T) -> U) -> Ends<U> {
        Ends {
            bias: self.bias.map(&mut change),
            times: self.times.map(&mut change),
            residual: self.residual.map(&mut change),
            gate: self.gate.map(&mut change),
        }
    }
}

fn rows_per_gate(rows: usize, columns: usize, gate: Option<&Floats>) -> usize {
    let gates = gate.map_or(1, |gate| gate.get().len() / columns.max(1));
    rows.checked_div(gates).unwrap_or(1).max(1)
}

/// [`super::super::linear`].
pub(in super::super) fn linear<const D: usize>(
    x: Tensor<D>,
    weight_OI: Tensor<2>,
    bias_O: Option<Tensor<1>>,
    after: After<D>,
    precision: Precision,
) -> Tensor<D> {
    let After { activation, times, residual, out } = after;
    let (residual, gate) = match residual {
        Some(Residual { x, gate }) => (Some(x), gate),
        None => (None, None),
    };
    let others =
        Others { bias: bias_O.is_some(), times: times.is_some(), residual: residual.is_some(), gate: gate.is_some() };
    let inputs = [Some(input(x)), Some(input(weight_OI)), bias_O.map(input), times.map(input)];
    let ends = [residual.map(input), gate.map(input)];
    let operation = Linear { activation, others, out, precision };
    let [result] = run(operation, inputs.into_iter().chain(ends).flatten().collect());
    Tensor::from_dispatch(result)
}
