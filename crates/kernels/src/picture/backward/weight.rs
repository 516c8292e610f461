//! A weight's gradient is a product whose inner values are pixels.
//!
//! ```text
//! gradient [O, pixels]           rows of the product: transposed, a line of pixels filled up to whole steps
//! picture  [pixels, (j, C)]      panels of 16 channels, once for each column j of the window
//! weight   [O, (j, C)]           for each row i of the window: the same panels, i lines further on
//! ```

use rayon::prelude::*;

use super::PIXELS_AT_ONCE;
use crate::picture::convolution::{Adjust, ConvShape, Convolved, Even, Window, gathered};
use crate::picture::gather::{Bordered, Gather, Picture};
use crate::product::{
    Ends, Epilogue, Kernel, Output, PANEL, Packed, PackedShape, Panels, Product, Residual, STEP, Segment, lines,
};
use crate::vector::{add, vectorised};
use crate::{Buffer, Isa};

/// Numbers of both factors that are made at once: what a second or third cache holds. Sums over pixels are cut by it, on
/// any number of threads.
const NUMBERS_AT_ONCE: usize = 1 << 21;

/// Gradient of the weight `[O, C, K, K]` of [`convolve`](crate::picture::convolve).
///
/// `picture`, `how` and `window` as they were given to it; `gradient` of its result, `[B, H', W', O]`.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn convolve_weight_gradient<T: Convolved>(
    isa: Isa,
    (picture, how): (Picture<'_>, Gather<'_>),
    (shape, window): (ConvShape, Window),
    gradient: &[f32],
    out: &mut [f32],
) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    picture.check();
    how.check(picture);
    let [batch, channels, ..] = picture.shape;
    assert_eq!(channels, shape.channels_in, "channels of a convolution");
    let size = how.size_of(picture);
    let [lines, columns] = shape.size_out(window, size);
    assert_eq!(gradient.len(), batch * lines * columns * shape.channels_out, "gradients of a convolution");
    assert_eq!(out.len(), shape.channels_out * channels * shape.kernel * shape.kernel, "values of {shape:?}");
    if gradient.is_empty() || out.is_empty() {
        return out.fill(0.0);
    }
    T::weight_gradient(&WeightGradient { isa, picture, how, shape, window, size, gradient }, out);
}

/// Gradient of a bias: the sum of all `[.., O]` rows of `gradient`.
///
/// # Panics
/// `gradient` is not whole rows of as many values as `out` has: a bug of the caller.
pub fn bias_gradient(isa: Isa, gradient: &[f32], out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    assert!(gradient.len().is_multiple_of(out.len()), "{} gradients of {} channels", gradient.len(), out.len());
    let width = out.len();
    let chunks: Vec<Vec<f32>> = gradient
        .par_chunks(PIXELS_AT_ONCE * width)
        .map(|pixels| {
            let mut sums = vec![0.0; width];
            for pixel in pixels.chunks_exact(width) {
                add(isa, &mut sums, pixel);
            }
            sums
        })
        .collect();
    for (channel, out) in out.iter_mut().enumerate() {
        *out = chunks.iter().map(|sums| f64::from(sums[channel])).sum::<f64>() as f32;
    }
}

/// The arguments of [`convolve_weight_gradient`].
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct WeightGradient<'a> {
    pub(in crate::picture) isa: Isa,
    picture: Picture<'a>,
    how: Gather<'a>,
    shape: ConvShape,
    window: Window,
    /// H and W after doubling.
    size: [usize; 2],
    gradient: &'a [f32],
}

/// Lines of one picture's gradient that are summed at once.
#[derive(Clone, Copy)]
struct Band {
    picture: usize,
    first: usize,
    lines: usize,
}

/// How the picture lies in panels: `[phase, j, 16 channels]`, each of some lines.
///
/// Windows that move by s rows meet every s-th line of the picture: with the lines sorted by their remainder, the
/// phase, the lines that a row of the window meets lie one after the other.
#[derive(Clone, Copy)]
struct Layout {
    border: Bordered,
    kernel: usize,
    stride: usize,
    phases: usize,
    /// Panels of all channels.
    panels: usize,
    /// H' and W'.
    lines: usize,
    columns: usize,
    /// W' filled up to whole steps, so that each line begins with one.
    pitch: usize,
}

impl Layout {
    /// Lines of the picture that a band meets, of one phase.
    fn met(&self, band_lines: usize) -> usize {
        band_lines + (self.kernel - 1) / self.stride
    }

    /// Numbers from a panel to the next.
    fn panel_len(&self, band_lines: usize) -> usize {
        self.met(band_lines) * self.pitch * PANEL
    }

    /// Numbers of all panels.
    fn len(&self, band_lines: usize) -> usize {
        self.phases * self.kernel * self.panels * self.panel_len(band_lines)
    }

    /// Columns of the product: all channels for each column of the window.
    fn width(&self) -> usize {
        self.kernel * self.panels * PANEL
    }

    /// Packs the lines that a band meets.
    fn pack<T: Packed>(&self, isa: Isa, pixels: &[T], band: Band, out: &mut [T]) {
        let border = &self.border;
        out.par_chunks_exact_mut(self.panel_len(band.lines)).enumerate().for_each(|(index, out)| {
            let (phase, j, panel) =
                (index / self.panels / self.kernel, index / self.panels % self.kernel, index % self.panels);
            // Beyond these no row of the window reaches.
            let met = band.lines + (self.kernel - 1 - phase) / self.stride;
            for (line, out) in out.chunks_exact_mut(self.pitch * PANEL).enumerate().take(met) {
                let row = band.picture * border.height + self.stride * (band.first + line) + phase;
                let start = (row * border.width + j) * border.channels + panel * PANEL;
                interleave(isa, &pixels[start..], self.stride * border.channels, self.columns, out);
            }
        });
    }

    /// The panels that row i of the window meets.
    fn met_by<'a, T>(&self, i: usize, band_lines: usize, packed: &'a [T]) -> Shifted<'a, T> {
        let stride = self.panel_len(band_lines);
        let phase = i % self.stride * self.kernel * self.panels * stride;
        Shifted { values: &packed[phase + i / self.stride * self.pitch * PANEL..], stride }
    }
}

/// Packed panels that lie further apart than they are long.
struct Shifted<'a, T> {
    values: &'a [T],
    stride: usize,
}

impl<T: Packed> Panels<T> for Shifted<'_, T> {
    fn at(&self, panel: usize, panels: usize, inner: usize, depth: usize, _: &mut [T]) -> (*const T, usize) {
        let first = panel * self.stride + inner * PANEL;
        (lines(self.values, first, self.stride, panels, depth * PANEL), self.stride)
    }

    fn scratch(&self, _: usize, _: usize) -> usize {
        0
    }
}

impl WeightGradient<'_> {
    pub(in crate::picture) fn run<T: Packed>(&self, kernel: Kernel<T>, adjust: Adjust<T>, out: &mut [f32]) {
        let WeightGradient { isa, picture, how, shape, .. } = *self;
        let layout = self.layout();
        let pixels = gathered(isa, (picture, how), layout.border, 0, adjust);
        let rows = shape.channels_out.next_multiple_of(kernel.rows);
        let lines_at_once = self.lines_at_once(&layout);
        let mut packed = Buffer::<T>::reused(layout.len(lines_at_once));
        let mut gradient = Buffer::<T>::reused(rows * row_stride(&layout, lines_at_once));
        let count = shape.kernel * shape.channels_out * layout.width();
        let [mut sums, mut before] = [(); 2].map(|()| Buffer::<f32>::reused(count));
        for (index, band) in self.bands(&layout, lines_at_once).enumerate() {
            let packed = &mut packed[..layout.len(band.lines)];
            layout.pack(isa, &pixels, band, packed);
            let stride = row_stride(&layout, band.lines);
            let gradient = &mut gradient[..rows * stride];
            self.transpose(&layout, band, adjust, gradient);
            let of_row = shape.channels_out * layout.width();
            sums.par_chunks_exact_mut(of_row).enumerate().for_each(|(i, sums)| {
                let before = &before[i * of_row..][..of_row];
                let residual = (index > 0).then_some(Residual { x: before, gate: None, rows_per_gate: 1 });
                let epilogue = Epilogue { residual, ..Epilogue::default() };
                let product = Product {
                    isa,
                    kernel,
                    segments: &[Segment::plain(shape.channels_out)],
                    taps: &[0],
                    shape: PackedShape { columns: layout.width(), inner: band.lines * layout.pitch },
                    panels: layout.met_by(i, band.lines, packed),
                    ends: Ends::plain(&epilogue),
                };
                product.run(&Even { values: gradient, stride }, Output::F32(sums));
            });
            std::mem::swap(&mut sums, &mut before);
        }
        self.sort(&layout, &before, out);
    }

    fn layout(&self) -> Layout {
        let kernel = self.shape.kernel;
        let stride = self.window.stride(kernel);
        let [lines, columns] = self.shape.size_out(self.window, self.size);
        Layout {
            border: Bordered::around(self.size, self.window.border(kernel), self.shape.channels_in),
            kernel,
            stride,
            phases: stride.min(kernel),
            panels: self.shape.channels_in.div_ceil(PANEL),
            lines,
            columns,
            pitch: columns.next_multiple_of(STEP),
        }
    }

    fn lines_at_once(&self, layout: &Layout) -> usize {
        let of_line = (layout.phases * layout.width() + self.shape.channels_out) * layout.pitch;
        (NUMBERS_AT_ONCE / of_line).clamp(1, layout.lines)
    }

    fn bands(&self, layout: &Layout, lines_at_once: usize) -> impl Iterator<Item = Band> {
        let lines = layout.lines;
        (0..self.picture.shape[0]).flat_map(move |picture| {
            (0..lines).step_by(lines_at_once).map(move |first| Band {
                picture,
                first,
                lines: lines_at_once.min(lines - first),
            })
        })
    }

    /// A band of the gradient, a row for each channel; rows beyond the last channel are zeros.
    fn transpose<T: Packed>(&self, layout: &Layout, band: Band, adjust: Adjust<T>, out: &mut [T]) {
        let channels = self.shape.channels_out;
        let line_len = layout.columns * channels;
        let lines = &self.gradient[(band.picture * layout.lines + band.first) * line_len..][..band.lines * line_len];
        let stride = row_stride(layout, band.lines);
        out.par_chunks_mut(PANEL * stride).enumerate().for_each(|(panel, out)| {
            let first = panel * PANEL;
            let count = PANEL.min(channels.saturating_sub(first));
            if count == 0 {
                return out.fill(T::from_f32(0.0));
            }
            for (index, line) in lines.chunks_exact(line_len).enumerate() {
                let place = index * layout.pitch;
                across(self.isa, &line[first..], [channels, count, layout.columns], out, stride, place);
            }
            if let Some(adjust) = adjust {
                adjust(self.isa, out);
            }
        });
    }

    /// From `[i, O, j, C and its padding]` to `[O, C, i, j]`.
    fn sort(&self, layout: &Layout, sums: &[f32], out: &mut [f32]) {
        let ConvShape { channels_out, channels_in, kernel } = self.shape;
        out.par_chunks_exact_mut(channels_in * kernel * kernel).enumerate().for_each(|(o, out)| {
            for (tap, (i, j)) in (0..kernel * kernel).map(|tap| (tap, (tap / kernel, tap % kernel))) {
                let row = &sums[(i * channels_out + o) * layout.width() + j * layout.panels * PANEL..][..channels_in];
                for (out, sum) in out.iter_mut().skip(tap).step_by(kernel * kernel).zip(row) {
                    *out = *sum;
                }
            }
        });
    }
}

/// Numbers from a channel of the transposed gradient to the next: a step apart, so that rows of a power of two do not
/// all fall on the same cache lines.
fn row_stride(layout: &Layout, band_lines: usize) -> usize {
    band_lines * layout.pitch + STEP
}

vectorised! {
    /// 16 channels of `count` pixels that lie `step` numbers apart, as a panel; zeros behind them.
    fn interleave<T: Packed>(pixels: &[T], step: usize, count: usize, out: &mut [T]) {
        let zeros = [T::from_f32(0.0); PANEL];
        let pixel = |index: usize| -> &[T; PANEL] {
            if index < count { pixels[index * step..].first_chunk().expect("a panel of channels") } else { &zeros }
        };
        for (group, out) in out.chunks_exact_mut(T::GROUP * PANEL).enumerate() {
            if T::GROUP == 2 {
                let (one, other) = (pixel(2 * group), pixel(2 * group + 1));
                for (out, (one, other)) in out.as_chunks_mut::<2>().0.iter_mut().zip(one.iter().zip(other)) {
                    *out = [*one, *other];
                }
            } else {
                for (place, out) in out.chunks_exact_mut(PANEL).enumerate() {
                    out.copy_from_slice(pixel(group * T::GROUP + place));
                }
            }
        }
    }
}

vectorised! {
    /// The first `channels` of `columns` pixels, `step` apart, as rows of `out`, `stride` apart, from `place` on; zeros
    /// up to a whole step, and for channels up to 16.
    fn across<T: Packed>(pixels: &[f32], sizes: [usize; 3], out: &mut [T], stride: usize, place: usize) {
        let [step, channels, columns] = sizes;
        for start in (0..columns.next_multiple_of(STEP)).step_by(PANEL) {
            let mut block = [[0.0_f32; PANEL]; PANEL];
            for (block, index) in block.iter_mut().zip(start..columns) {
                let pixel = &pixels[index * step..];
                match pixel.first_chunk::<PANEL>() {
                    Some(pixel) if channels == PANEL => *block = *pixel,
                    _ => block[..channels].copy_from_slice(&pixel[..channels]),
                }
            }
            for (channel, out) in out.chunks_exact_mut(stride).enumerate().take(PANEL) {
                for (out, pixel) in out[place + start..][..PANEL].iter_mut().zip(&block) {
                    *out = T::from_f32(pixel[channel]);
                }
            }
        }
    }
}
