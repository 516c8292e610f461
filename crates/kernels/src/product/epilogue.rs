use half::bf16;

use crate::vector::{add, erf, multiply, multiply_add, round_to_bf16, sigmoid, vectorised};

/// What is done to a sum and its bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// GELU by the error function.
    Gelu,
    /// GELU by tanh: MMDiT's and T5's.
    GeluTanh,
    /// `x sigmoid(1.702 x)`: CLIP-L's.
    QuickGelu,
    /// `x sigmoid(x)`.
    Silu,
}

/// What happens to a product's sums before they are stored: `x + gate * times * activation(sum + bias)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// After the bias.
    pub activation: Activation,
    /// What the activation is multiplied with, `[M, N]`: the other branch of a gated MLP.
    pub times: Option<&'a [f32]>,
    /// After all of that.
    pub residual: Option<Residual<'a>>,
}

/// The end of a branch.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// What the branch is added to, `[M, N]`.
    pub x: &'a [f32],
    /// What the branch is multiplied by, `[M / rows_per_gate, N]`; without it, 1.
    pub gate: Option<&'a [f32]>,
    /// Consecutive rows that share a row of the gate.
    pub rows_per_gate: usize,
}

/// Where a product's result goes, `[M, N]` row after row.
#[derive(Debug)]
pub enum Output<'a> {
    /// In f32.
    F32(&'a mut [f32]),
    /// Rounded to bf16.
    Bf16(&'a mut [bf16]),
}

impl<'a> Output<'a> {
    /// The first `count` places, and the others.
    ///
    /// # Panics
    /// There are fewer.
    pub fn split_at(self, count: usize) -> (Output<'a>, Output<'a>) {
        match self {
            Output::F32(values) => {
                let (first, others) = values.split_at_mut(count);
                (Output::F32(first), Output::F32(others))
            }
            Output::Bf16(values) => {
                let (first, others) = values.split_at_mut(count);
                (Output::Bf16(first), Output::Bf16(others))
            }
        }
    }

    /// The same place, for a part of it to be written.
    pub(crate) fn reborrow(&mut self) -> Output<'_> {
        match self {
            Output::F32(values) => Output::F32(values),
            Output::Bf16(values) => Output::Bf16(values),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Output::F32(values) => values.len(),
            Output::Bf16(values) => values.len(),
        }
    }
}

/// An output, shared by the threads that write different values of it.
pub(crate) enum SharedOutput {
    F32(*mut f32),
    Bf16(*mut bf16),
}

// SAFETY: only `write` writes through it, and its callers write different values.
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    pub(crate) fn of(out: &mut Output<'_>) -> Self {
        match out {
            Output::F32(values) => SharedOutput::F32(values.as_mut_ptr()),
            Output::Bf16(values) => SharedOutput::Bf16(values.as_mut_ptr()),
        }
    }

    /// Stores `values` from place `start` on, rounded to the output's type.
    ///
    /// # Safety
    /// The output is still there and has these places, and nobody else writes or reads them.
    pub(crate) unsafe fn write(&self, isa: crate::Isa, start: usize, values: &[f32]) {
        // SAFETY: the caller's promise.
        unsafe {
            match *self {
                SharedOutput::F32(out) => {
                    std::slice::from_raw_parts_mut(out.add(start), values.len()).copy_from_slice(values);
                }
                SharedOutput::Bf16(out) => {
                    round_to_bf16(isa, values, std::slice::from_raw_parts_mut(out.add(start), values.len()));
                }
            }
        }
    }
}

impl Epilogue<'_> {
    /// Panics unless every slice fits a result of `rows` x `columns`.
    pub(crate) fn check(&self, rows: usize, columns: usize) {
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), columns, "a bias for {columns} columns");
        }
        if let Some(times) = self.times {
            assert_eq!(times.len(), rows * columns, "factors for {rows} x {columns} values");
        }
        if let Some(residual) = &self.residual {
            assert_eq!(residual.x.len(), rows * columns, "a residual for {rows} x {columns} values");
            if let Some(gate) = residual.gate {
                let groups = rows.checked_div(residual.rows_per_gate).unwrap_or(0);
                assert_eq!(groups * residual.rows_per_gate, rows, "{rows} rows share gates");
                assert_eq!(gate.len(), groups * columns, "gates for {groups} x {columns} values");
            }
        }
    }

    /// The first part of finishing a row in place: `sums` are the columns from `column` on.
    pub(super) fn begin_row(&self, isa: crate::Isa, sums: &mut [f32], column: usize) {
        if let Some(bias) = self.bias {
            add(isa, sums, &bias[column..column + sums.len()]);
        }
    }

    /// The second part, of a row of `columns`.
    pub(super) fn end_row(&self, isa: crate::Isa, sums: &mut [f32], row: usize, column: usize, columns: usize) {
        let range = column..column + sums.len();
        match self.activation {
            Activation::None => {}
            Activation::Gelu => gelu(isa, sums),
            Activation::GeluTanh => gelu_tanh(isa, sums),
            Activation::QuickGelu => sigmoid_times(isa, sums, 1.702),
            Activation::Silu => sigmoid_times(isa, sums, 1.0),
        }
        if let Some(times) = self.times {
            multiply(isa, sums, &times[row * columns..][range.clone()]);
        }
        if let Some(residual) = &self.residual {
            let x = &residual.x[row * columns..][range.clone()];
            match residual.gate {
                Some(gate) => add_gated(isa, sums, x, &gate[row / residual.rows_per_gate * columns..][range]),
                None => add(isa, sums, x),
            }
        }
    }
}

vectorised! {
    fn add_gated(sums: &mut [f32], x: &[f32], gate: &[f32]) {
        for ((sum, x), gate) in sums.iter_mut().zip(x).zip(gate) {
            *sum = multiply_add::<FMA>(*gate, *sum, *x);
        }
    }
}

vectorised! {
    fn gelu(values: &mut [f32]) {
        for x in values {
            *x *= 0.5 * (1.0 + erf::<FMA>(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

vectorised! {
    fn gelu_tanh(values: &mut [f32]) {
        for x in values {
            *x *= sigmoid::<FMA>(gelu_tanh_argument::<FMA>(*x));
        }
    }
}

/// `(1 + tanh u) / 2 = sigmoid(2 u)`: this is `2 u`, with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
#[inline(always)]
pub(super) fn gelu_tanh_argument<const FMA: bool>(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    TWICE_SQRT_2_OVER_PI * x * multiply_add::<FMA>(0.044_715 * x, x, 1.0)
}

vectorised! {
    fn sigmoid_times(values: &mut [f32], slope: f32) {
        for x in values {
            *x *= sigmoid::<FMA>(slope * *x);
        }
    }
}
