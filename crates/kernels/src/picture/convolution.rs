use half::bf16;

use super::backward::{InputGradient, WeightGradient};
use super::gather::{Bordered, Gather, Picture, gather, padded};
use crate::product::{
    Direct, Ends, Epilogue, Factored, Kernel, Matrix, Output, PANEL, Packed, PackedShape, Panels, Product, RowSource,
    Segment, Values, Widened, bf16_kernel, f32_kernel, lines, pack_panel, round,
};
use crate::{Buffer, Isa};

/// How a convolution's window moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Stride 1, zeros around, so that the size stays. Odd kernels.
    Same,
    /// Stride 2 with one row of zeros below and one column to the right: halves the size (3x3 kernel).
    Halve,
    /// Stride equal to the kernel, no zeros: one output for each patch.
    Patch,
    /// No zeros: only where all of the window is in the picture.
    Inside {
        /// Pixels from a window to the next.
        stride: usize,
    },
}

impl Window {
    /// Pixels from a window to the next.
    pub(super) fn stride(self, kernel: usize) -> usize {
        match self {
            Window::Same => 1,
            Window::Halve => 2,
            Window::Patch => kernel,
            Window::Inside { stride } => stride,
        }
    }

    /// Rows of zeros above and below, and columns to the left and to the right.
    pub(super) fn border(self, kernel: usize) -> [usize; 2] {
        match self {
            Window::Same => [kernel / 2; 2],
            Window::Halve => [0, 1],
            Window::Patch | Window::Inside { .. } => [0, 0],
        }
    }
}

/// The sizes of a convolution's weight `[O, C, K, K]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// O.
    pub channels_out: usize,
    /// C.
    pub channels_in: usize,
    /// K.
    pub kernel: usize,
}

impl ConvShape {
    /// As a product's second factor: O columns, the taps' channels one after the other as inner values.
    fn packed_shape(self) -> PackedShape {
        PackedShape { columns: self.channels_out, inner: self.kernel * self.kernel * padded(self.channels_in) }
    }

    /// Numbers of the packed weight.
    pub fn packed_len(self) -> usize {
        self.packed_shape().len()
    }

    /// Packs a weight `[O, C, K, K]`, row-major, on all threads of the pool.
    ///
    /// # Panics
    /// `weight` or `out` has another length.
    pub fn pack<T: Packed>(self, isa: Isa, weight: Values<'_>, out: &mut [T]) {
        use rayon::prelude::*;
        let taps = self.kernel * self.kernel;
        assert_eq!(weight.len(), self.channels_out * self.channels_in * taps, "values of {self:?}");
        assert_eq!(out.len(), self.packed_len(), "numbers of a packed {self:?}");
        if out.is_empty() {
            return;
        }
        let tap_len = padded(self.channels_in) * PANEL;
        out.par_chunks_exact_mut(self.packed_shape().panel_len()).enumerate().for_each(|(panel, out)| {
            for (tap, out) in out.chunks_exact_mut(tap_len).enumerate() {
                let strides = [self.channels_in * taps, taps];
                let of_tap = Matrix::strided(weight.after(tap), [self.channels_out, self.channels_in], strides);
                pack_panel(isa, &of_tap, panel, out);
            }
        });
    }

    /// H and W of the result.
    ///
    /// # Panics
    /// The picture is smaller than a window that must be inside it: a bug of the caller.
    pub fn size_out(self, window: Window, [height, width]: [usize; 2]) -> [usize; 2] {
        match window {
            Window::Same => [height, width],
            Window::Halve => [height / 2, width / 2],
            Window::Patch => [height / self.kernel, width / self.kernel],
            Window::Inside { stride } => [height, width].map(|size| {
                assert!(size >= self.kernel, "a window of {} in {size} pixels", self.kernel);
                (size - self.kernel) / stride + 1
            }),
        }
    }
}

/// `out = epilogue(convolution of the gathered picture)`, `[B, H', W', O]`; the epilogue's rows are pixels.
///
/// `weight` is packed by [`ConvShape::pack`]. H and W, after doubling, fit the stride of windows with zeros.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn convolve<T: Convolved>(
    isa: Isa,
    picture: Picture<'_>,
    how: Gather<'_>,
    (weight, shape): (&[T], ConvShape),
    window: Window,
    epilogue: &Epilogue<'_>,
    out: Output<'_>,
) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    picture.check();
    how.check(picture);
    let [batch, channels, ..] = picture.shape;
    let size = how.size_of(picture);
    assert_eq!(channels, shape.channels_in, "channels of a convolution");
    assert_eq!(weight.len(), shape.packed_len(), "numbers of a packed {shape:?}");
    let [rows, columns] = shape.size_out(window, size);
    assert_eq!(out.len(), batch * rows * columns * shape.channels_out, "values of a convolution");
    epilogue.check(batch * rows * columns, shape.channels_out);
    if out.len() > 0 {
        T::convolve(&Call { isa, picture, how, shape, window, size, epilogue }, weight, out);
    }
}

/// One convolution's arguments.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Call<'a> {
    isa: Isa,
    picture: Picture<'a>,
    how: Gather<'a>,
    shape: ConvShape,
    window: Window,
    /// H and W after doubling.
    size: [usize; 2],
    epilogue: &'a Epilogue<'a>,
}

/// Numbers that there is a convolution of.
pub trait Convolved: Factored {
    #[doc(hidden)]
    fn convolve(call: &Call<'_>, weight: &[Self], out: Output<'_>);
    #[doc(hidden)]
    fn weight_gradient(of: &WeightGradient<'_>, out: &mut [f32]);
    #[doc(hidden)]
    fn input_gradient(of: &InputGradient<'_>, out: &mut [f32]);
}

impl Convolved for f32 {
    fn convolve(call: &Call<'_>, weight: &[f32], out: Output<'_>) {
        let panels = Direct { values: weight, shape: call.shape.packed_shape() };
        run(call, f32_kernel(call.isa), panels, None, out);
    }

    fn weight_gradient(of: &WeightGradient<'_>, out: &mut [f32]) {
        of.run(f32_kernel(of.isa), None, out);
    }

    fn input_gradient(of: &InputGradient<'_>, out: &mut [f32]) {
        of.run(f32_kernel(of.isa), None, out);
    }
}

impl Convolved for bf16 {
    fn convolve(call: &Call<'_>, weight: &[bf16], out: Output<'_>) {
        let (isa, shape) = (call.isa, call.shape.packed_shape());
        match bf16_kernel(isa) {
            Some(kernel) => run(call, kernel, Direct { values: weight, shape }, None, out),
            None => run(call, f32_kernel(isa), Widened { isa, values: weight, shape }, Some(round), out),
        }
    }

    fn weight_gradient(of: &WeightGradient<'_>, out: &mut [f32]) {
        match bf16_kernel(of.isa) {
            Some(kernel) => of.run(kernel, None, out),
            None => of.run(f32_kernel(of.isa), Some(round), out),
        }
    }

    fn input_gradient(of: &InputGradient<'_>, out: &mut [f32]) {
        match bf16_kernel(of.isa) {
            Some(kernel) => of.run(kernel, None, out),
            None => of.run(f32_kernel(of.isa), Some(round), out),
        }
    }
}

/// Numbers whose rows lie evenly: every tile's rows are there, and so many more that the last tile may reach beyond.
pub(super) struct Even<'a, T> {
    pub(super) values: &'a [T],
    /// Numbers from a row of the product to the next.
    pub(super) stride: usize,
}

impl<T: Packed> RowSource<T> for Even<'_, T> {
    fn at(&self, start: usize, row: usize, rows: usize, width: usize) -> (*const T, usize) {
        (lines(self.values, start + row * self.stride, self.stride, rows, width), self.stride)
    }
}

/// How numbers are changed after they are gathered, for a kernel of a wider type.
pub(super) type Adjust<T> = Option<fn(Isa, &mut [T])>;

/// All pictures with their border, and `beyond` zeros behind them.
pub(super) fn gathered<T: Packed>(
    isa: Isa,
    (picture, how): (Picture<'_>, Gather<'_>),
    border: Bordered,
    beyond: usize,
    adjust: Adjust<T>,
) -> Buffer<T> {
    let pixels = picture.shape[0] * border.len();
    let mut values = Buffer::<T>::reused(pixels + beyond);
    let (pixels, beyond) = values.split_at_mut(pixels);
    for (index, pixels) in pixels.chunks_exact_mut(border.len().max(1)).enumerate() {
        gather(isa, picture, how, border, [index, 0], pixels);
    }
    beyond.fill(T::from_f32(0.0));
    if let Some(adjust) = adjust {
        use rayon::prelude::*;
        pixels.par_chunks_mut(border.width * border.channels).for_each(|line| adjust(isa, line));
    }
    values
}

/// Pixels of the result that are gathered for and computed at once: gathered, a whole picture would be as large again
/// as itself. Enough blocks of rows for many threads, and few rows that two strips both gather.
const STRIP_PIXELS: usize = 1 << 15;

fn run<T: Packed, P: Panels<T>>(call: &Call<'_>, kernel: Kernel<T>, panels: P, adjust: Adjust<T>, mut out: Output<'_>) {
    let Call { isa, picture, how, shape, window, size, epilogue } = *call;
    let stride = window.stride(shape.kernel);
    let border = Bordered::around(size, window.border(shape.kernel), shape.channels_in);
    let channels = border.channels;
    let [rows, columns] = shape.size_out(window, size);
    let taps: Vec<usize> = (0..shape.kernel * shape.kernel)
        .map(|tap| (tap / shape.kernel * border.width + tap % shape.kernel) * channels)
        .collect();
    // The last tile's rows, at the last tap, begin at most so far behind the last pixel that is needed.
    let beyond = kernel.rows * stride * channels + taps.last().copied().unwrap_or(0) + channels;
    let strip = (STRIP_PIXELS / columns.max(1)).clamp(1, rows.max(1));
    let gathered = |lines: usize| ((lines - 1) * stride + shape.kernel) * border.width * channels;
    let mut values = Buffer::<T>::reused(gathered(strip) + beyond);
    let strips: Vec<Strip> = (0..picture.shape[0])
        .flat_map(|batch| (0..rows).step_by(strip).map(move |first| (batch, first)))
        .map(|(batch, first)| {
            let lines = strip.min(rows - first);
            let segments = segments(stride, [lines, columns], (batch * rows + first) * columns, border);
            Strip { batch, first: first * stride, gathered: gathered(lines), segments }
        })
        .collect();
    let mut product = Product {
        isa,
        kernel,
        segments: &[],
        taps: &taps,
        shape: shape.packed_shape(),
        panels,
        ends: Ends::plain(epilogue),
    };
    for strip in &strips {
        let (pixels, rest) = values.split_at_mut(strip.gathered);
        gather(isa, picture, how, border, [strip.batch, strip.first], pixels);
        rest[..beyond].fill(T::from_f32(0.0));
        if let Some(adjust) = adjust {
            use rayon::prelude::*;
            pixels.par_chunks_mut(border.width * channels).for_each(|line| adjust(isa, line));
        }
        product.segments = &strip.segments;
        product.run(&Even { values: &values, stride: stride * channels }, out.reborrow());
    }
}

/// Lines of the result that are computed together.
struct Strip {
    batch: usize,
    /// First row to gather, counted with the border.
    first: usize,
    /// Numbers to gather.
    gathered: usize,
    segments: Vec<Segment>,
}

/// The rows of the product that `lines` of the result take; the first makes pixel `out` of it.
fn segments(stride: usize, [lines, columns]: [usize; 2], out: usize, border: Bordered) -> Vec<Segment> {
    if stride == 1 {
        // All lines at once: what the borders would make is computed and not kept.
        let rows = (lines - 1) * border.width + columns;
        return vec![Segment {
            start: 0,
            rows,
            out,
            pitch: border.width,
            width: columns,
            out_step: 1,
            out_line: columns,
        }];
    }
    let line = |line: usize| Segment {
        start: line * stride * border.width * border.channels,
        out: out + line * columns,
        ..Segment::plain(columns)
    };
    (0..lines).map(line).collect()
}
