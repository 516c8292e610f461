//! Single kernels, at the sizes that SD3 has. Each result is checked at some places against sums in f64.

use anyhow::bail;
use half::bf16;
use rectiflow_kernels::picture::{
    ConvShape, Convolved, Gather, Picture, Window, bias_gradient, convolve, convolve_input_gradient,
    convolve_weight_gradient,
};
use rectiflow_kernels::product::{
    Epilogue, Factor, Factored, Int8Factor, Matrix, Output, Packed, PackedShape, Values, multiply, multiply_int8,
};
use rectiflow_kernels::{Buffer, Isa};
use rectiflow_nn::Precision;

use super::random::numbers;
use super::{Case, Limit, Maker, Work};

pub(super) fn cases() -> Vec<Maker> {
    let linear = [
        ("linear/1357x1536x6144", [1357, 1536, 6144]),
        ("linear/1357x6144x1536", [1357, 6144, 1536]),
        ("linear/4250x1536x4608", [4250, 1536, 4608]),
        ("linear/205x512x2048", [205, 512, 2048]),
    ];
    let conv = [("conv/128ch/512px", [128, 512]), ("conv/256ch/256px", [256, 256]), ("conv/512ch/128px", [512, 128])];
    let linear = linear.map(|(name, size)| {
        maker(name, move |p| match p {
            Precision::Int8 => int8_case(name, size),
            p => by_type!(p, linear_case(name, size)),
        })
    });
    let conv = conv.map(|(name, size)| maker(name, move |p| by_type!(p, conv_case(name, size))));
    let name = "conv_backward/128ch/512px";
    let conv_backward = maker(name, move |p| by_type!(p, conv_backward_case(name, [128, 512])));
    linear.into_iter().chain(conv).chain([conv_backward]).collect()
}

pub(super) fn maker(name: &'static str, make: impl Fn(Precision) -> anyhow::Result<Case> + 'static) -> Maker {
    Maker { name, make: Box::new(make) }
}

/// Calls a function of the type that a precision multiplies.
macro_rules! by_type {
    ($precision:expr, $function:ident($($argument:expr),*)) => {
        match $precision {
            Precision::F32 => $function::<f32>($($argument),*),
            // Attention and convolutions stay bf16 where linear layers are int8.
            Precision::Bf16 | Precision::Int8 => $function::<bf16>($($argument),*),
        }
    };
}
pub(super) use by_type;

pub(super) fn buffer<T: Packed>(seed: u64, count: usize) -> Buffer<T> {
    let mut buffer = Buffer::zeroed(count);
    for (out, x) in buffer.iter_mut().zip(numbers(seed, count, 1.0)) {
        *out = T::from_f32(x);
    }
    buffer
}

/// What a kernel takes that multiplying limits.
pub(super) fn arithmetic(operations: f64, bytes: usize) -> Work {
    Work { operations, bytes: bytes as f64, limit: Limit::Arithmetic }
}

/// f64 of a number of either type.
pub(super) fn wide<T: Packed>(x: &T) -> f64 {
    f64::from(x.to_f32())
}

#[track_caller]
pub(super) fn check(name: &str, found: f64, expected: f64, tolerance: f64) -> anyhow::Result<()> {
    if (found - expected).abs() <= tolerance {
        return Ok(());
    }
    bail!("{name} gave {found} instead of {expected}\nhint: please report this with your processor's name")
}

fn linear_case<T: Factored>(name: &str, [rows, inner, columns]: [usize; 3]) -> anyhow::Result<Case> {
    let isa = Isa::chosen()?;
    let (a, b) = (buffer::<T>(1, rows * inner), buffer::<T>(2, columns * inner));
    let shape = PackedShape { columns, inner };
    let packed: Buffer<T> = shape.packed(isa, Matrix::new(T::values(&b), columns, inner));
    let mut out = Buffer::<T>::zeroed(rows * columns);
    let multiply_into = move |a: &Buffer<T>, out: &mut Buffer<T>| {
        let a = Matrix::new(T::values(a), rows, inner);
        multiply(isa, a, Factor::Packed(&packed, shape), &Epilogue::default(), T::output(out));
    };
    multiply_into(&a, &mut out);
    for place in (0..rows * columns).step_by(rows * columns / 97) {
        let (row, column) = (place / columns, place % columns);
        let (a, b) = (&a[row * inner..][..inner], &b[column * inner..][..inner]);
        let exact: f64 = a.iter().zip(b).map(|(a, b)| wide(a) * wide(b)).sum();
        check(name, wide(&out[place]), exact, 1e-2 * exact.abs() + 1e-2)?;
    }
    Ok(Case {
        name: name.into(),
        work: arithmetic(
            2.0 * (rows * inner * columns) as f64,
            size_of::<T>() * (rows * inner + columns * inner + rows * columns),
        ),
        run: Box::new(move || multiply_into(&a, &mut out)),
    })
}

fn int8_case(name: &str, [rows, inner, columns]: [usize; 3]) -> anyhow::Result<Case> {
    let isa = Isa::chosen()?;
    let (a, b) = (buffer::<bf16>(1, rows * inner), buffer::<bf16>(2, columns * inner));
    let factor = Int8Factor::new(isa, Matrix::new(Values::Bf16(&b), columns, inner));
    let mut out = Buffer::<bf16>::zeroed(rows * columns);
    let multiply_into = move |a: &Buffer<bf16>, out: &mut Buffer<bf16>| {
        let a = Matrix::new(Values::Bf16(a), rows, inner);
        multiply_int8(isa, a, &factor, &Epilogue::default(), Output::Bf16(out));
    };
    multiply_into(&a, &mut out);
    for place in (0..rows * columns).step_by(rows * columns / 97) {
        let (row, column) = (place / columns, place % columns);
        let (a, b) = (&a[row * inner..][..inner], &b[column * inner..][..inner]);
        let exact: f64 = a.iter().zip(b).map(|(a, b)| wide(a) * wide(b)).sum();
        // Each product of numbers up to 1 is off by up to 1/127, at random.
        check(name, wide(&out[place]), exact, 1e-2 * exact.abs() + 0.02 * (inner as f64).sqrt())?;
    }
    Ok(Case {
        name: name.into(),
        // Rows come and results go in bf16; a weight is a byte.
        work: arithmetic(2.0 * (rows * inner * columns) as f64, 2 * rows * (inner + columns) + inner * columns),
        run: Box::new(move || multiply_into(&a, &mut out)),
    })
}

fn conv_case<T: Convolved>(name: &str, [channels, side]: [usize; 2]) -> anyhow::Result<Case> {
    let isa = Isa::chosen()?;
    let shape = ConvShape { channels_out: channels, channels_in: channels, kernel: 3 };
    let (x, weight) = (buffer::<f32>(4, side * side * channels), buffer::<T>(5, 9 * channels * channels));
    let mut packed = Buffer::<T>::zeroed(shape.packed_len());
    shape.pack(isa, T::values(&weight), &mut packed);
    let mut out = Buffer::<f32>::zeroed(side * side * channels);
    let convolve_into = move |x: &Buffer<f32>, out: &mut Buffer<f32>| {
        let picture = Picture {
            values: Values::F32(x),
            shape: [1, channels, side, side],
            strides: [0, 1, side * channels, channels],
        };
        let end = Epilogue::default();
        convolve(isa, picture, Gather::default(), (&packed[..], shape), Window::Same, &end, Output::F32(out));
    };
    convolve_into(&x, &mut out);
    for (row, column, o) in [(0, 0, 0), (side / 2, side - 1, channels / 2), (side - 1, 1, channels - 1)] {
        let mut exact = 0.0;
        for (tap, c) in (0..9 * channels).map(|i| (i / channels, i % channels)) {
            let (y, x_) = ((row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1));
            if y < side && x_ < side {
                let pixel = wide(&T::from_f32(x[(y * side + x_) * channels + c]));
                exact += pixel * wide(&weight[(o * channels + c) * 9 + tap]);
            }
        }
        check(name, f64::from(out[(row * side + column) * channels + o]), exact, 1e-3 * exact.abs() + 1e-3)?;
    }
    Ok(Case {
        name: name.into(),
        // Pictures come and go in f32.
        work: arithmetic(
            2.0 * 9.0 * (channels * channels * side * side) as f64,
            2 * size_of::<f32>() * side * side * channels + size_of::<T>() * 9 * channels * channels,
        ),
        run: Box::new(move || convolve_into(&x, &mut out)),
    })
}

/// A convolution 3x3 of a square picture, and the gradient of its result.
struct ConvBackward<T: Convolved> {
    x: Buffer<f32>,
    weight: Buffer<T>,
    gradient: Buffer<f32>,
    channels: usize,
    side: usize,
}

/// What comes of it.
struct Gradients {
    /// `[H, W, C]`.
    input: Buffer<f32>,
    /// `[O, C, K, K]`.
    weight: Buffer<f32>,
    bias: Buffer<f32>,
}

impl<T: Convolved> ConvBackward<T> {
    fn run(&self, isa: Isa, out: &mut Gradients) {
        let &ConvBackward { channels, side, .. } = self;
        let shape = ConvShape { channels_out: channels, channels_in: channels, kernel: 3 };
        let strides = [0, 1, side * channels, channels];
        let picture = Picture { values: Values::F32(&self.x), shape: [1, channels, side, side], strides };
        let given = (picture, Gather::default());
        convolve_weight_gradient::<T>(isa, given, (shape, Window::Same), &self.gradient, &mut out.weight);
        bias_gradient(isa, &self.gradient, &mut out.bias);
        let weight = (T::values(&self.weight), shape);
        convolve_input_gradient::<T>(isa, &self.gradient, [1, side, side], weight, Window::Same, &mut out.input);
    }

    /// A pixel of either picture, rounded; 0 outside.
    fn pixel(&self, of: &[f32], [row, column]: [usize; 2], channel: usize) -> f64 {
        let inside = row < self.side && column < self.side;
        if inside { wide(&T::from_f32(of[(row * self.side + column) * self.channels + channel])) } else { 0.0 }
    }

    /// The products that make a weight's gradient.
    fn of_weight(&self, [o, c, tap]: [usize; 3]) -> impl Iterator<Item = f64> {
        (0..self.side * self.side).map(move |pixel| {
            let [row, column] = [pixel / self.side, pixel % self.side];
            let from = [(row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1)];
            self.pixel(&self.gradient, [row, column], o) * self.pixel(&self.x, from, c)
        })
    }

    /// The products that make a pixel's gradient.
    fn of_input(&self, [row, column, c]: [usize; 3]) -> impl Iterator<Item = f64> {
        (0..9 * self.channels).map(move |place| {
            let (tap, o) = (place / self.channels, place % self.channels);
            let to = [(row + 1).wrapping_sub(tap / 3), (column + 1).wrapping_sub(tap % 3)];
            self.pixel(&self.gradient, to, o) * wide(&self.weight[(o * self.channels + c) * 9 + tap])
        })
    }

    fn check(&self, name: &str, found: &Gradients) -> anyhow::Result<()> {
        let &ConvBackward { channels, side, .. } = self;
        for place @ [o, c, tap] in [[0, 0, 0], [channels / 2, channels - 1, 4], [channels - 1, 1, 8]] {
            let largest: f64 = self.of_weight(place).map(f64::abs).sum();
            let found = f64::from(found.weight[(o * channels + c) * 9 + tap]);
            check(name, found, self.of_weight(place).sum(), 1e-5 * largest)?;
        }
        for place @ [row, column, c] in [[0, 0, 0], [side / 2, side - 1, channels / 2], [side - 1, 1, channels - 1]] {
            let exact: f64 = self.of_input(place).sum();
            let found = f64::from(found.input[(row * side + column) * channels + c]);
            check(name, found, exact, 1e-3 * exact.abs() + 1e-3)?;
        }
        for c in [0, channels / 2, channels - 1] {
            let exact = self.gradient.iter().skip(c).step_by(channels).map(|x| f64::from(*x)).sum();
            check(name, f64::from(found.bias[c]), exact, 1e-6 * (side * side) as f64)?;
        }
        Ok(())
    }
}

fn conv_backward_case<T: Convolved>(name: &str, [channels, side]: [usize; 2]) -> anyhow::Result<Case> {
    let isa = Isa::chosen()?;
    let (pixels, weights) = (side * side * channels, 9 * channels * channels);
    let (x, weight, gradient) = (buffer(4, pixels), buffer::<T>(5, weights), buffer(6, pixels));
    let backward = ConvBackward { x, weight, gradient, channels, side };
    let mut found =
        Gradients { input: Buffer::zeroed(pixels), weight: Buffer::zeroed(weights), bias: Buffer::zeroed(channels) };
    backward.run(isa, &mut found);
    backward.check(name, &found)?;
    Ok(Case {
        name: name.into(),
        // Two products, each as large as the convolution's own.
        work: arithmetic(2.0 * 2.0 * 9.0 * (channels * pixels) as f64, 12 * pixels + (size_of::<T>() + 4) * weights),
        run: Box::new(move || backward.run(isa, &mut found)),
    })
}
