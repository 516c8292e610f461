use rayon::prelude::*;

use crate::product::{Packed, STEP, Values, read_run};
use crate::vector::{from_bf16, from_f16, multiply_add, sigmoid, vectorised};
use crate::{Buffer, Isa};

/// Pixels with any strides.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The first value is the first pixel's first channel.
    pub values: Values<'a>,
    /// B, C, H, W.
    pub shape: [usize; 4],
    /// Values from one to the next along B, C, H and W.
    pub strides: [usize; 4],
}

/// What each channel of each picture is multiplied with and then moved by: a group norm, once its mean and
/// deviation are known.
#[derive(Clone, Copy, Debug)]
pub struct ScaleShift<'a> {
    /// `[B, C]`.
    pub scale: &'a [f32],
    /// `[B, C]`.
    pub shift: &'a [f32],
}

/// What happens to a picture on its way into a convolution, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gather<'a> {
    /// First.
    pub normed: Option<ScaleShift<'a>>,
    /// `x * sigmoid(x)`, after it.
    pub silu: bool,
    /// Each pixel becomes four.
    pub doubled: bool,
}

impl Gather<'_> {
    /// H and W of what is gathered from `picture`.
    pub(super) fn size_of(&self, picture: Picture<'_>) -> [usize; 2] {
        let [_, _, height, width] = picture.shape;
        if self.doubled { [2 * height, 2 * width] } else { [height, width] }
    }

    /// Panics unless the norm has numbers for all channels of `picture`.
    pub(super) fn check(&self, picture: Picture<'_>) {
        let [batch, channels, ..] = picture.shape;
        if let Some(normed) = self.normed {
            let lengths = [normed.scale.len(), normed.shift.len()];
            assert_eq!(lengths, [batch * channels; 2], "a norm of {channels} channels");
        }
    }
}

impl Picture<'_> {
    /// All channels of the pixel at `[batch, row, column]`.
    pub(super) fn read_pixel(&self, isa: Isa, [batch, row, column]: [usize; 3], out: &mut [f32]) {
        let [batch_stride, channel_stride, row_stride, column_stride] = self.strides;
        let values = self.values.after(batch * batch_stride + row * row_stride + column * column_stride);
        if channel_stride == 1 {
            return read_run(isa, values, out);
        }
        match values {
            Values::F32(values) => read_across(values, channel_stride, out, |x| x),
            Values::F16(values) => read_across(values, channel_stride, out, from_f16),
            Values::Bf16(values) => read_across(values, channel_stride, out, from_bf16),
        }
    }

    /// Panics unless the values reach as far as the strides do.
    pub(super) fn check(&self) {
        let last: Option<usize> =
            self.shape.iter().zip(self.strides).map(|(n, stride)| Some(n.checked_sub(1)? * stride)).sum();
        if let Some(last) = last {
            assert!(last < self.values.len(), "{} values for a picture that reaches {last}", self.values.len());
        }
    }
}

/// Values that lie `stride` apart.
fn read_across<V: Copy>(values: &[V], stride: usize, out: &mut [f32], widen: impl Fn(V) -> f32) {
    for (index, out) in out.iter_mut().enumerate() {
        *out = widen(values[index * stride]);
    }
}

/// Gathered rows of a picture: `[rows, width, channels]`, with zeros around and behind the channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bordered {
    /// Rows and columns of zeros before the first pixel.
    pub(super) before: usize,
    /// H with the border.
    pub(super) height: usize,
    /// W with the border.
    pub(super) width: usize,
    /// C, filled up to whole steps.
    pub(super) channels: usize,
}

impl Bordered {
    /// So many zeros before and after `[height, width]` pixels of `channels`.
    pub(super) fn around([height, width]: [usize; 2], [before, after]: [usize; 2], channels: usize) -> Self {
        let channels = padded(channels);
        Bordered { before, height: before + height + after, width: before + width + after, channels }
    }

    /// Numbers of one picture.
    pub(super) fn len(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// C, filled up to whole steps of a product.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(STEP)
}

/// What a convolution would take, alone: `[B, H, W, C]`, H and W after doubling.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn gathered_picture(isa: Isa, picture: Picture<'_>, how: Gather<'_>, out: &mut [f32]) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    picture.check();
    how.check(picture);
    let [height, width] = how.size_of(picture);
    let [batch, channels, ..] = picture.shape;
    assert_eq!(out.len(), batch * height * width * channels, "values of a gathered picture");
    if !out.is_empty() {
        let border = Bordered { before: 0, height, width, channels };
        for (index, out) in out.chunks_exact_mut(border.len()).enumerate() {
            gather(isa, picture, how, border, [index, 0], out);
        }
    }
}

/// Gathers as many rows as `out` has room for, on all threads, from row `first` of one picture on; rows are counted
/// with the border.
pub(super) fn gather<T: Packed>(
    isa: Isa,
    picture: Picture<'_>,
    how: Gather<'_>,
    border: Bordered,
    [batch, first]: [usize; 2],
    out: &mut [T],
) {
    let channels = picture.shape[1];
    let [height, width] = how.size_of(picture);
    out.par_chunks_exact_mut(border.width * border.channels).enumerate().for_each(|(index, out)| {
        let Some(row) = (first + index).checked_sub(border.before).filter(|&row| row < height) else {
            return out.fill(T::from_f32(0.0));
        };
        let (left, rest) = out.split_at_mut(border.before * border.channels);
        let (pixels, right) = rest.split_at_mut(width * border.channels);
        left.fill(T::from_f32(0.0));
        right.fill(T::from_f32(0.0));
        let mut wide = Buffer::<f32>::reused(channels);
        let line = Line { isa, picture: &picture, how: &how, batch, row: if how.doubled { row / 2 } else { row } };
        if how.doubled {
            for (column, pair) in pixels.chunks_exact_mut(2 * border.channels).enumerate() {
                let (one, other) = pair.split_at_mut(border.channels);
                line.pixel(column, &mut wide, one);
                other.copy_from_slice(one);
            }
        } else {
            for (column, pixel) in pixels.chunks_exact_mut(border.channels).enumerate() {
                line.pixel(column, &mut wide, pixel);
            }
        }
    });
}

/// A row of a picture.
struct Line<'a> {
    isa: Isa,
    picture: &'a Picture<'a>,
    how: &'a Gather<'a>,
    batch: usize,
    row: usize,
}

impl Line<'_> {
    /// All channels of one pixel, then zeros.
    fn pixel<T: Packed>(&self, column: usize, wide: &mut [f32], out: &mut [T]) {
        let channels = wide.len();
        let (out, rest) = out.split_at_mut(channels);
        rest.fill(T::from_f32(0.0));
        self.picture.read_pixel(self.isa, [self.batch, self.row, column], wide);
        match (&self.how.normed, self.how.silu) {
            (None, false) => read_run(self.isa, Values::F32(wide), out),
            (None, true) => silu(self.isa, wide, out),
            (Some(normed), silu) => {
                let first = self.batch * channels;
                let (scale, shift) = (&normed.scale[first..][..channels], &normed.shift[first..][..channels]);
                if silu {
                    norm_silu(self.isa, wide, scale, shift, out);
                } else {
                    norm(self.isa, wide, scale, shift, out);
                }
            }
        }
    }
}

vectorised! {
    fn silu<T: Packed>(values: &[f32], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(values) {
            *out = T::from_f32(x * sigmoid::<FMA>(*x));
        }
    }
}

vectorised! {
    fn norm<T: Packed>(values: &[f32], scale: &[f32], shift: &[f32], out: &mut [T]) {
        for (((out, x), scale), shift) in out.iter_mut().zip(values).zip(scale).zip(shift) {
            *out = T::from_f32(multiply_add::<FMA>(*x, *scale, *shift));
        }
    }
}

vectorised! {
    fn norm_silu<T: Packed>(values: &[f32], scale: &[f32], shift: &[f32], out: &mut [T]) {
        for (((out, x), scale), shift) in out.iter_mut().zip(values).zip(scale).zip(shift) {
            let normed = multiply_add::<FMA>(*x, *scale, *shift);
            *out = T::from_f32(normed * sigmoid::<FMA>(normed));
        }
    }
}
