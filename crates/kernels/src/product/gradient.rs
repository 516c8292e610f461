//! What comes back through the end of a product: from the gradient of its result to that of its sums.

use rayon::prelude::*;

use super::epilogue::{Activation, Output, SharedOutput, gelu_tanh_argument};
use super::matrix::Values;
use super::panels::read_run;
use crate::vector::{add, add_products, erf, exp, multiply, multiply_add, sigmoid, vectorised};
use crate::{Buffer, Isa};

/// What [`Epilogue`](super::Epilogue) does to sums and their bias, but for what it adds them to:
/// `gate * times * activation(sum)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Branch<'a> {
    /// First.
    pub activation: Activation,
    /// `[M, N]`.
    pub times: Option<&'a [f32]>,
    /// `[M / rows_per_gate, N]`.
    pub gate: Option<&'a [f32]>,
    /// Consecutive rows that share a row of the gate; without a gate nobody reads it.
    pub rows_per_gate: usize,
}

impl Branch<'_> {
    /// Whether the gradients depend on the sums.
    pub fn reads_sums(&self) -> bool {
        self.activation != Activation::None || self.times.is_some() || self.gate.is_some()
    }

    fn check(&self, rows: usize, columns: usize) {
        assert!(self.times.is_none_or(|times| times.len() == rows * columns), "factors for {rows} x {columns} values");
        if let Some(gate) = self.gate {
            let groups = rows.checked_div(self.rows_per_gate).unwrap_or(0);
            assert_eq!(groups * self.rows_per_gate, rows, "{rows} rows share gates");
            assert_eq!(gate.len(), groups * columns, "gates for {groups} x {columns} values");
        }
    }
}

/// Where the gradients of a product's end go; those that nobody wants are not computed.
#[derive(Debug, Default)]
pub struct EpilogueGradients<'a> {
    /// Of the sums, `[M, N]`: what the gradients of both factors are made of.
    pub sums: Option<Output<'a>>,
    /// `[N]`.
    pub bias: Option<&'a mut [f32]>,
    /// `[M, N]`.
    pub times: Option<&'a mut [f32]>,
    /// `[M / rows_per_gate, N]`.
    pub gate: Option<&'a mut [f32]>,
}

/// Rows whose sums are added up before they meet others: the same for any number of threads.
const ROWS_AT_ONCE: usize = 64;

/// The gradients of a [`Branch`] of sums `[M, N]`, which [`super::multiply_keeping`] kept.
///
/// Where the branch does not read the sums, `kept` may be empty. `gradient` is that of the product's result; it is that
/// of the residual as it is.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn epilogue_backward(
    isa: Isa,
    [rows, columns]: [usize; 2],
    branch: &Branch<'_>,
    kept: Values<'_>,
    gradient: Values<'_>,
    mut out: EpilogueGradients<'_>,
) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    branch.check(rows, columns);
    let reads_sums = branch.reads_sums();
    assert!(!reads_sums || kept.len() == rows * columns, "kept sums of {rows} x {columns}");
    assert_eq!(gradient.len(), rows * columns, "the gradient of {rows} x {columns}");
    let whole = |output: &Output<'_>| output.len() == rows * columns;
    assert!(out.sums.as_ref().is_none_or(whole), "gradients of {rows} x {columns} sums");
    assert!(out.times.as_ref().is_none_or(|times| times.len() == rows * columns), "gradients of factors");
    assert!(out.bias.as_ref().is_none_or(|bias| bias.len() == columns), "gradients of {columns} biases");
    let gates = branch.gate.map(<[f32]>::len);
    assert!(out.gate.as_ref().is_none_or(|out| gates == Some(out.len())), "gradients of gates");
    if rows * columns == 0 {
        out.bias.into_iter().chain(out.gate).for_each(|sums| sums.fill(0.0));
        return;
    }

    let chunks = chunks(rows, if branch.gate.is_some() { branch.rows_per_gate } else { rows });
    let mut partial = Buffer::<f32>::zeroed(chunks.len() * 2 * columns);
    let call = Call {
        isa,
        columns,
        branch,
        kept: reads_sums.then_some(kept),
        gradient,
        sums: out.sums.as_mut().map(SharedOutput::of),
        times: out.times.as_deref_mut().map(|times| SharedOutput::of(&mut Output::F32(times))),
    };
    let work = chunks.par_iter().zip(partial.par_chunks_mut(2 * columns));
    work.for_each(|(&(row, rows), partial)| call.chunk(row, rows, partial.split_at_mut(columns)));
    if let Some(bias) = out.bias {
        bias.fill(0.0);
        partial.chunks(2 * columns).for_each(|partial| add(isa, bias, &partial[..columns]));
    }
    if let Some(gates) = out.gate {
        gates.fill(0.0);
        for (&(row, _), partial) in chunks.iter().zip(partial.chunks(2 * columns)) {
            add(isa, &mut gates[row / branch.rows_per_gate * columns..][..columns], &partial[columns..]);
        }
    }
}

/// The first row and the rows of each chunk; none has rows of two groups.
pub(crate) fn chunks(rows: usize, rows_per_group: usize) -> Vec<(usize, usize)> {
    let groups = (0..rows).step_by(rows_per_group.max(1));
    let of_group = |start: usize| {
        let end = (start + rows_per_group).min(rows);
        (start..end).step_by(ROWS_AT_ONCE).map(move |row| (row, ROWS_AT_ONCE.min(end - row)))
    };
    groups.flat_map(of_group).collect()
}

struct Call<'a> {
    isa: Isa,
    columns: usize,
    branch: &'a Branch<'a>,
    kept: Option<Values<'a>>,
    gradient: Values<'a>,
    sums: Option<SharedOutput>,
    times: Option<SharedOutput>,
}

impl Call<'_> {
    /// Some rows; adds what they give to the bias and to their gate.
    fn chunk(&self, row: usize, rows: usize, (bias, gate): (&mut [f32], &mut [f32])) {
        let (isa, columns) = (self.isa, self.columns);
        let [mut slope, mut kept, mut activated] = [(); 3].map(|()| Buffer::<f32>::reused(columns));
        for row in row..row + rows {
            let start = row * columns;
            read_run(isa, self.gradient.after(start), &mut slope);
            if let Some(values) = self.kept {
                read_run(isa, values.after(start), &mut kept);
                // `kept` becomes the slope of the activation at what was kept.
                activate(isa, self.branch.activation, &mut kept, &mut activated);
            }
            let times = self.branch.times.map(|times| &times[start..][..columns]);
            if let Some(gates) = self.branch.gate {
                let gates = &gates[row / self.branch.rows_per_gate * columns..][..columns];
                match times {
                    Some(times) => add_products_of_three(isa, gate, &slope, &activated, times),
                    None => add_products(isa, gate, &slope, &activated),
                }
                multiply(isa, &mut slope, gates);
            }
            if let Some(times) = times {
                multiply(isa, &mut activated, &slope);
                if let Some(out) = &self.times {
                    // SAFETY: the caller checked the output's size; a row is in one chunk only.
                    unsafe { out.write(isa, start, &activated) };
                }
                multiply(isa, &mut slope, times);
            }
            if self.branch.activation != Activation::None {
                multiply(isa, &mut slope, &kept);
            }
            add(isa, bias, &slope);
            if let Some(out) = &self.sums {
                // SAFETY: as above.
                unsafe { out.write(isa, start, &slope) };
            }
        }
    }
}

/// Writes what the activation makes of x, and turns x into the activation's slope there.
fn activate(isa: Isa, activation: Activation, x: &mut [f32], out: &mut [f32]) {
    match activation {
        Activation::None => out.copy_from_slice(x),
        Activation::Gelu => gelu(isa, x, out),
        Activation::GeluTanh => gelu_tanh(isa, x, out),
        Activation::QuickGelu => sigmoid_times(isa, x, out, 1.702),
        Activation::Silu => sigmoid_times(isa, x, out, 1.0),
    }
}

vectorised! {
    fn gelu(x: &mut [f32], out: &mut [f32]) {
        const DENSITY_AT_0: f32 = 0.398_942_3;
        for (x, out) in x.iter_mut().zip(out) {
            let below = 0.5 * (1.0 + erf::<FMA>(*x * std::f32::consts::FRAC_1_SQRT_2));
            *out = *x * below;
            *x = multiply_add::<FMA>(*x * DENSITY_AT_0, exp::<FMA>(-0.5 * *x * *x), below);
        }
    }
}

vectorised! {
    fn gelu_tanh(x: &mut [f32], out: &mut [f32]) {
        const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
        for (x, out) in x.iter_mut().zip(out) {
            let share = sigmoid::<FMA>(gelu_tanh_argument::<FMA>(*x));
            let argument_slope = TWICE_SQRT_2_OVER_PI * multiply_add::<FMA>(3.0 * 0.044_715 * *x, *x, 1.0);
            *out = *x * share;
            *x = multiply_add::<FMA>(*out * (1.0 - share), argument_slope, share);
        }
    }
}

vectorised! {
    fn sigmoid_times(x: &mut [f32], out: &mut [f32], steepness: f32) {
        for (x, out) in x.iter_mut().zip(out) {
            let share = sigmoid::<FMA>(steepness * *x);
            *out = *x * share;
            *x = multiply_add::<FMA>(*out * (1.0 - share), steepness, share);
        }
    }
}

vectorised! {
    fn add_products_of_three(sums: &mut [f32], a: &[f32], b: &[f32], c: &[f32]) {
        for (((sum, a), b), c) in sums.iter_mut().zip(a).zip(b).zip(c) {
            *sum = multiply_add::<FMA>(*a * *b, *c, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::testing::{assert_close, values};

    const ALL: [Activation; 5] =
        [Activation::None, Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu];

    /// The activation's own formula in f64, by its definition.
    fn activation(which: Activation, x: f64) -> f64 {
        let share = |x: f64| 1.0 / (1.0 + (-x).exp());
        match which {
            Activation::None => x,
            // The distribution function by Simpson's rule from 0.
            Activation::Gelu => {
                let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let (steps, h) = (200, x / 200.0);
                let inner: f64 =
                    (1..steps).map(|i| density(f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
                x * (0.5 + h / 3.0 * (density(0.0) + inner + density(x)))
            }
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            Activation::QuickGelu => x * share(1.702 * x),
            Activation::Silu => x * share(x),
        }
    }

    struct Case {
        sums: Vec<f32>,
        times: Vec<f32>,
        gate: Vec<f32>,
        slope: Vec<f32>,
    }

    impl Case {
        fn new(rows: usize, groups: usize, columns: usize) -> Case {
            let wide = |seed: u32, count: usize| values(seed, count).iter().map(|x| 4.0 * x).collect();
            Case {
                sums: wide(1, rows * columns),
                times: values(2, rows * columns),
                gate: values(3, groups * columns),
                slope: values(4, rows * columns),
            }
        }

        /// One element of the result, at other sums, factors and gates.
        fn term(which: Activation, x: f64, times: Option<f64>, gate: Option<f64>) -> f64 {
            gate.unwrap_or(1.0) * times.unwrap_or(1.0) * activation(which, x)
        }
    }

    /// Every combination against central differences of the end's formula in f64.
    #[test]
    fn gradients_of_the_end_are_finite_differences() {
        for isa in Isa::available() {
            for (rows, rows_per_gate, columns) in [(1, 1, 1), (6, 3, 17), (140, 70, 33), (256, 128, 64)] {
                if cfg!(miri) && rows > 1 {
                    continue;
                }
                let case = Case::new(rows, rows / rows_per_gate, columns);
                for which in ALL {
                    for (with_times, with_gate) in [(false, false), (true, false), (false, true), (true, true)] {
                        let name = format!("{isa} {rows} x {columns} {which:?} times {with_times} gate {with_gate}");
                        check(isa, &case, which, [rows, rows_per_gate, columns], [with_times, with_gate], &name);
                    }
                }
            }
        }
    }

    fn check(
        isa: Isa,
        case: &Case,
        which: Activation,
        [rows, rows_per_gate, columns]: [usize; 3],
        [with_times, with_gate]: [bool; 2],
        name: &str,
    ) {
        let branch = Branch {
            activation: which,
            times: with_times.then_some(&case.times[..]),
            gate: with_gate.then_some(&case.gate[..]),
            rows_per_gate,
        };
        let mut sums = vec![f32::NAN; rows * columns];
        let mut times = vec![f32::NAN; rows * columns];
        let (mut bias, mut gates) = (vec![f32::NAN; columns], vec![f32::NAN; case.gate.len()]);
        let out = EpilogueGradients {
            sums: Some(Output::F32(&mut sums)),
            bias: Some(&mut bias),
            times: with_times.then_some(&mut times),
            gate: with_gate.then_some(&mut gates),
        };
        let (kept, slope) = (Values::F32(&case.sums), Values::F32(&case.slope));
        epilogue_backward(isa, [rows, columns], &branch, kept, slope, out);

        let step = 1e-4;
        let mut expected = Expected::new(rows, columns, case.gate.len());
        for i in 0..rows * columns {
            let (row, column) = (i / columns, i % columns);
            let gate_at = row / rows_per_gate * columns + column;
            let (sum, slope) = (f64::from(case.sums[i]), f64::from(case.slope[i]));
            let factor = with_times.then(|| f64::from(case.times[i]));
            let gate = with_gate.then(|| f64::from(case.gate[gate_at]));
            let difference = |up: f64, down: f64| slope * (up - down) / (2.0 * step);
            let by_sum =
                difference(Case::term(which, sum + step, factor, gate), Case::term(which, sum - step, factor, gate));
            expected.sums[i] = by_sum;
            expected.bias[column] += by_sum;
            let moved = |x: Option<f64>, by: f64| x.map(|x| x + by);
            expected.times[i] = difference(
                Case::term(which, sum, moved(factor, step), gate),
                Case::term(which, sum, moved(factor, -step), gate),
            );
            expected.gate[gate_at] += difference(
                Case::term(which, sum, factor, moved(gate, step)),
                Case::term(which, sum, factor, moved(gate, -step)),
            );
        }
        assert_close(&sums, &expected.sums, 2e-5, name);
        assert_close(&bias, &expected.bias, 2e-4, name);
        if with_times {
            assert_close(&times, &expected.times, 2e-5, name);
        }
        if with_gate {
            assert_close(&gates, &expected.gate, 2e-4, name);
        }
    }

    struct Expected {
        sums: Vec<f64>,
        bias: Vec<f64>,
        times: Vec<f64>,
        gate: Vec<f64>,
    }

    impl Expected {
        fn new(rows: usize, columns: usize, gates: usize) -> Self {
            let zeros = |count: usize| vec![0.0; count];
            Expected {
                sums: zeros(rows * columns),
                bias: zeros(columns),
                times: zeros(rows * columns),
                gate: zeros(gates),
            }
        }
    }

    #[test]
    fn no_rows_give_zero_and_numbers_of_bf16_are_read() {
        for isa in Isa::available() {
            let mut bias = [1.0; 3];
            let out = EpilogueGradients { bias: Some(&mut bias), ..EpilogueGradients::default() };
            let none = Values::F32(&[]);
            epilogue_backward(isa, [0, 3], &Branch::default(), none, none, out);
            assert_eq!(bias, [0.0; 3]);
            let slope = [1.0_f32, 2.0, f32::NAN, 4.0].map(bf16::from_f32);
            let mut bias = [0.0; 2];
            let out = EpilogueGradients { bias: Some(&mut bias), ..EpilogueGradients::default() };
            epilogue_backward(isa, [2, 2], &Branch::default(), none, Values::Bf16(&slope), out);
            assert!(bias[0].is_nan() && bias[1] == 6.0, "{isa}");
        }
    }

    #[test]
    fn chunks_cover_every_row_once_and_stay_in_their_group() {
        assert_eq!(chunks(0, 5), []);
        assert_eq!(chunks(5, 5), [(0, 5)]);
        assert_eq!(chunks(140, 70), [(0, 64), (64, 6), (70, 64), (134, 6)]);
    }
}
