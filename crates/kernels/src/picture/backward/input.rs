//! The gradient of a convolution's input is a convolution of the result's gradient, with stride 1 whatever the
//! window's was: windows that move by s make s * s of them, one for the pixels of each remainder.

use rayon::prelude::*;

use crate::picture::convolution::{Adjust, ConvShape, Convolved, Even, Window, gathered};
use crate::picture::gather::{Bordered, Gather, Picture, padded};
use crate::product::{
    Direct, Ends, Epilogue, Kernel, Matrix, Output, Packed, PackedShape, Product, Segment, Values, pack_panel,
};
use crate::{Buffer, Isa};

/// Gradient of what a convolution takes: `[B, H, W, C]`, of the gathered picture.
///
/// `gradient` of the result, `[B, H', W', O]`; `sizes` B, H and W, after doubling; weight `[O, C, K, K]`, row-major.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn convolve_input_gradient<T: Convolved>(
    isa: Isa,
    gradient: &[f32],
    sizes: [usize; 3],
    (weight, shape): (Values<'_>, ConvShape),
    window: Window,
    out: &mut [f32],
) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    let [batch, height, width] = sizes;
    let [lines, columns] = shape.size_out(window, [height, width]);
    assert_eq!(gradient.len(), batch * lines * columns * shape.channels_out, "gradients of a convolution");
    assert_eq!(weight.len(), shape.channels_out * shape.channels_in * shape.kernel * shape.kernel, "of {shape:?}");
    assert_eq!(out.len(), batch * height * width * shape.channels_in, "gradients of a convolution's input");
    if gradient.is_empty() || out.is_empty() {
        return out.fill(0.0);
    }
    T::input_gradient(&InputGradient { isa, gradient, sizes, weight, shape, window }, out);
}

/// The arguments of [`convolve_input_gradient`].
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct InputGradient<'a> {
    pub(in crate::picture) isa: Isa,
    gradient: &'a [f32],
    sizes: [usize; 3],
    weight: Values<'a>,
    shape: ConvShape,
    window: Window,
}

impl InputGradient<'_> {
    pub(in crate::picture) fn run<T: Packed>(&self, kernel: Kernel<T>, adjust: Adjust<T>, out: &mut [f32]) {
        let InputGradient { isa, gradient, sizes: [batch, height, width], shape, window, .. } = *self;
        let stride = window.stride(shape.kernel);
        let [lines, columns] = shape.size_out(window, [height, width]);
        let channels = shape.channels_out;
        let picture = Picture {
            values: Values::F32(gradient),
            shape: [batch, channels, lines, columns],
            strides: [lines * columns * channels, 1, columns * channels, channels],
        };
        let border = self.border();
        let reach = self.reach();
        // The last tile's rows, at the last tap, begin at most so far behind the last pixel that is needed.
        let beyond = (kernel.rows + reach * (border.width + 1) + 1) * border.channels;
        let values = gathered(isa, (picture, Gather::default()), border, beyond, adjust);
        if shape.kernel < stride {
            // Pixels between the windows.
            out.fill(0.0);
        }
        for (row, column) in (0..stride * stride).map(|phase| (phase / stride, phase % stride)) {
            let taps = self.taps([row, column]);
            let segments = self.segments(&border, [row, column]);
            if taps.is_empty() || segments.is_empty() {
                continue;
            }
            let packed = self.pack::<T>(&taps, adjust);
            let offset =
                |[i, j]: &[usize; 2]| ((reach - i / stride) * border.width + reach - j / stride) * border.channels;
            let offsets: Vec<usize> = taps.iter().map(offset).collect();
            let product_shape = self.packed_shape(&taps);
            let epilogue = Epilogue::default();
            let product = Product {
                isa,
                kernel,
                segments: &segments,
                taps: &offsets,
                shape: product_shape,
                panels: Direct { values: &packed, shape: product_shape },
                ends: Ends::plain(&epilogue),
            };
            product.run(&Even { values: &values, stride: border.channels }, Output::F32(out));
        }
    }

    /// How many rows further up the last window lies that a pixel is in.
    fn reach(&self) -> usize {
        (self.shape.kernel - 1) / self.window.stride(self.shape.kernel)
    }

    /// The gradient with as many zeros around it as its windows reach.
    fn border(&self) -> Bordered {
        let [_, height, width] = self.sizes;
        let stride = self.window.stride(self.shape.kernel);
        // Where the first window begins above the picture, what is up there needs no gradient.
        let [above, _] = self.window.border(self.shape.kernel);
        let reach = self.reach();
        Bordered {
            before: reach - above,
            height: height.div_ceil(stride) + reach,
            width: width.div_ceil(stride) + reach,
            channels: padded(self.shape.channels_out),
        }
    }

    /// The places of the window, row and column, at which it meets the pixels of a remainder.
    fn taps(&self, [row, column]: [usize; 2]) -> Vec<[usize; 2]> {
        let (kernel, stride) = (self.shape.kernel, self.window.stride(self.shape.kernel));
        let columns = || (column..kernel).step_by(stride);
        (row..kernel).step_by(stride).flat_map(|i| columns().map(move |j| [i, j])).collect()
    }

    /// For each picture, the pixels of a remainder.
    fn segments(&self, border: &Bordered, [row, column]: [usize; 2]) -> Vec<Segment> {
        let [batch, height, width] = self.sizes;
        let stride = self.window.stride(self.shape.kernel);
        let lines = height.saturating_sub(row).div_ceil(stride);
        let columns = width.saturating_sub(column).div_ceil(stride);
        if lines == 0 || columns == 0 {
            return Vec::new();
        }
        let of_picture = |index: usize| Segment {
            start: index * border.len(),
            rows: (lines - 1) * border.width + columns,
            out: (index * height + row) * width + column,
            pitch: border.width,
            width: columns,
            out_step: stride,
            out_line: stride * width,
        };
        (0..batch).map(of_picture).collect()
    }

    fn packed_shape(&self, taps: &[[usize; 2]]) -> PackedShape {
        let inner = taps.len() * padded(self.shape.channels_out);
        PackedShape { columns: self.shape.channels_in, inner }
    }

    /// The weight at some places of the window, with inputs and outputs exchanged.
    fn pack<T: Packed>(&self, taps: &[[usize; 2]], adjust: Adjust<T>) -> Buffer<T> {
        let ConvShape { channels_out, channels_in, kernel } = self.shape;
        let shape = self.packed_shape(taps);
        let mut packed = Buffer::<T>::reused(shape.len());
        packed.par_chunks_exact_mut(shape.panel_len()).enumerate().for_each(|(panel, out)| {
            let tap_len = shape.panel_len() / taps.len();
            for ([i, j], out) in taps.iter().zip(out.chunks_exact_mut(tap_len)) {
                let strides = [kernel * kernel, channels_in * kernel * kernel];
                let of_tap = Matrix::strided(self.weight.after(i * kernel + j), [channels_in, channels_out], strides);
                pack_panel(self.isa, &of_tap, panel, out);
            }
            if let Some(adjust) = adjust {
                adjust(self.isa, out);
            }
        });
        packed
    }
}
