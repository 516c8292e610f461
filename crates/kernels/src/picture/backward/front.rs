//! Gradients of what is done to a picture on its way into a convolution: doubling, activation, group norm.

use rayon::prelude::*;

use super::PIXELS_AT_ONCE;
use crate::Isa;
use crate::picture::gather::Picture;
use crate::picture::group_norm::GroupStatistics;
use crate::vector::{multiply_add, sigmoid, vectorised};

/// The group norm that a picture went through.
#[derive(Clone, Copy, Debug)]
pub struct NormOf<'a> {
    /// Of the picture.
    pub statistics: &'a GroupStatistics,
    /// `[C]`.
    pub weight: &'a [f32],
    /// `[C]`.
    pub bias: &'a [f32],
}

/// Gradients of a picture, and of the weight and bias `[C]` of its norm, from that of what was gathered from it.
///
/// `normed`, `silu` and `doubled` say what was done to the picture, as [`Gather`](crate::picture::Gather) does.
/// `gradient` is `[B, H, W, C]`, H and W twice the picture's where it was doubled; `out` has the picture's sizes.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn gather_gradient(
    isa: Isa,
    picture: Picture<'_>,
    normed: Option<NormOf<'_>>,
    [silu, doubled]: [bool; 2],
    gradient: &[f32],
    out: &mut [f32],
) -> Option<[Vec<f32>; 2]> {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    picture.check();
    let [batch, channels, height, width] = picture.shape;
    assert_eq!(out.len(), batch * channels * height * width, "gradients of a picture");
    assert_eq!(gradient.len(), if doubled { 4 } else { 1 } * out.len(), "gradients of a gathered picture");
    if let Some(NormOf { statistics, weight, bias }) = normed {
        assert_eq!([weight.len(), bias.len()], [channels; 2], "weights of {channels} channels");
        assert_eq!(statistics.mean.len(), batch * statistics.groups, "statistics of {batch} pictures");
        assert_eq!(channels % statistics.groups, 0, "{channels} channels in {} groups", statistics.groups);
    }
    let mut of_norm = normed.map(|_| [vec![0.0_f64; channels], vec![0.0_f64; channels]]);
    if !out.is_empty() {
        let picture_len = channels * height * width;
        for (index, out) in out.chunks_exact_mut(picture_len).enumerate() {
            let gradient = &gradient[index * gradient.len() / batch..][..gradient.len() / batch];
            let front = Front { isa, picture: &picture, index, silu, doubled, gradient };
            match (normed, &mut of_norm) {
                (Some(norm), Some(of_norm)) => front.through_norm(norm, of_norm, out),
                _ => front.without_norm(out),
            }
        }
    }
    of_norm.map(|of_norm| of_norm.map(|sums| sums.into_iter().map(|x| x as f32).collect()))
}

/// One picture, and the gradient of what was gathered from it.
struct Front<'a> {
    isa: Isa,
    picture: &'a Picture<'a>,
    index: usize,
    silu: bool,
    doubled: bool,
    gradient: &'a [f32],
}

/// What is needed of a norm for each channel of one picture, `[C]` each.
struct Channels {
    mean: Vec<f32>,
    /// `x * scale + shift` is the normed value.
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Front<'_> {
    fn width(&self) -> usize {
        self.picture.shape[3]
    }

    /// Pixels of the picture, some at once on each thread, with the number of the first.
    fn chunks<'o>(&self, out: &'o mut [f32]) -> impl IndexedParallelIterator<Item = (usize, &'o mut [f32])> {
        let chunk = PIXELS_AT_ONCE * self.picture.shape[1];
        out.par_chunks_mut(chunk).enumerate().map(|(index, out)| (index * PIXELS_AT_ONCE, out))
    }

    fn read(&self, pixel: usize, out: &mut [f32]) {
        self.picture.read_pixel(self.isa, [self.index, pixel / self.width(), pixel % self.width()], out);
    }

    /// The gradient of a pixel before doubling: that of all its copies.
    fn gathered(&self, pixel: usize, out: &mut [f32]) {
        let channels = out.len();
        if !self.doubled {
            return out.copy_from_slice(&self.gradient[pixel * channels..][..channels]);
        }
        let (row, column) = (pixel / self.width(), pixel % self.width());
        let upper = (2 * row * 2 * self.width() + 2 * column) * channels;
        let lower = upper + 2 * self.width() * channels;
        sum_of_four(self.isa, &self.gradient[upper..][..2 * channels], &self.gradient[lower..][..2 * channels], out);
    }

    fn without_norm(&self, out: &mut [f32]) {
        let channels = self.picture.shape[1];
        self.chunks(out).for_each(|(first, out)| {
            let mut x = vec![0.0; channels];
            for (pixel, out) in out.chunks_exact_mut(channels).enumerate() {
                self.gathered(first + pixel, out);
                if self.silu {
                    self.read(first + pixel, &mut x);
                    silu(self.isa, &x, out);
                }
            }
        });
    }

    /// Source of the formulas: with n = (x - mean) * inverse and d the gradient of n * weight + bias, the gradient of x
    /// is `inverse * (weight d - mean of (weight d) - n * mean of (weight d n))`, means over the group.
    fn through_norm(&self, norm: NormOf<'_>, of_norm: &mut [Vec<f64>; 2], out: &mut [f32]) {
        let channels = self.channels(norm);
        let sums = self.through_activation(&channels, out);
        let NormOf { statistics, weight, .. } = norm;
        let [_, count, height, width] = self.picture.shape;
        let in_group = count / statistics.groups;
        let values = (in_group * height * width) as f64;
        let (mut slope, mut offset) = (vec![0.0_f32; count], vec![0.0_f32; count]);
        for group in 0..statistics.groups {
            let inverse = statistics.inverse[self.index * statistics.groups + group];
            let of_group = group * in_group..(group + 1) * in_group;
            let mean = |of: &[f64]| of_group.clone().map(|c| f64::from(weight[c]) * of[c]).sum::<f64>() / values;
            let (mean_gradient, mean_product) = (mean(&sums[0]), mean(&sums[1]) * inverse);
            for channel in of_group.clone() {
                slope[channel] = (-inverse * inverse * mean_product) as f32;
                offset[channel] = (-inverse * mean_gradient) as f32;
                of_norm[0][channel] += sums[1][channel] * inverse;
                of_norm[1][channel] += sums[0][channel];
            }
        }
        self.chunks(out).for_each(|(first, out)| {
            let mut x = vec![0.0; count];
            for (pixel, out) in out.chunks_exact_mut(count).enumerate() {
                self.read(first + pixel, &mut x);
                finish(self.isa, &x, &channels.mean, &channels.scale, &slope, &offset, out);
            }
        });
    }

    fn channels(&self, norm: NormOf<'_>) -> Channels {
        let NormOf { statistics, weight, bias } = norm;
        let channels = self.picture.shape[1];
        let [scale, shift] = statistics.scale_shift(self.index, [weight, bias]);
        let of = |channel: usize| self.index * statistics.groups + channel / (channels / statistics.groups);
        Channels { mean: (0..channels).map(|channel| statistics.mean[of(channel)] as f32).collect(), scale, shift }
    }

    /// Writes the gradient of the normed values. Returns its sum for each channel, and that of its products with the
    /// values' distances from their mean.
    fn through_activation(&self, channels: &Channels, out: &mut [f32]) -> [Vec<f64>; 2] {
        let count = self.picture.shape[1];
        let chunks: Vec<[Vec<f32>; 2]> = self
            .chunks(out)
            .map(|(first, out)| {
                let (mut x, mut sums, mut products) = (vec![0.0; count], vec![0.0; count], vec![0.0; count]);
                for (pixel, out) in out.chunks_exact_mut(count).enumerate() {
                    self.gathered(first + pixel, out);
                    self.read(first + pixel, &mut x);
                    if self.silu {
                        normed_silu(self.isa, &x, &channels.scale, &channels.shift, out);
                    }
                    add(self.isa, &x, &channels.mean, out, &mut sums, &mut products);
                }
                [sums, products]
            })
            .collect();
        // In the order of the pixels, whichever thread summed them.
        [0, 1].map(|which| {
            let of = |channel: usize| chunks.iter().map(|sums| f64::from(sums[which][channel])).sum();
            (0..count).map(of).collect()
        })
    }
}

/// `d/dx of x sigmoid(x)`.
#[inline(always)]
fn silu_slope<const FMA: bool>(x: f32) -> f32 {
    let sigmoid = sigmoid::<FMA>(x);
    sigmoid * multiply_add::<FMA>(x, 1.0 - sigmoid, 1.0)
}

vectorised! {
    fn sum_of_four(upper: &[f32], lower: &[f32], out: &mut [f32]) {
        let (a, b) = upper.split_at(out.len());
        let (c, d) = lower.split_at(out.len());
        for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *out = (a + b) + (c + d);
        }
    }
}

vectorised! {
    fn silu(values: &[f32], gradient: &mut [f32]) {
        for (gradient, x) in gradient.iter_mut().zip(values) {
            *gradient *= silu_slope::<FMA>(*x);
        }
    }
}

vectorised! {
    fn normed_silu(values: &[f32], scale: &[f32], shift: &[f32], gradient: &mut [f32]) {
        for (((gradient, x), scale), shift) in gradient.iter_mut().zip(values).zip(scale).zip(shift) {
            *gradient *= silu_slope::<FMA>(multiply_add::<FMA>(*x, *scale, *shift));
        }
    }
}

vectorised! {
    fn add(values: &[f32], mean: &[f32], gradient: &[f32], sums: &mut [f32], products: &mut [f32]) {
        let sums = sums.iter_mut().zip(products);
        for (((x, mean), gradient), (sum, product)) in values.iter().zip(mean).zip(gradient).zip(sums) {
            *sum += gradient;
            *product = multiply_add::<FMA>(*gradient, x - mean, *product);
        }
    }
}

vectorised! {
    fn finish(values: &[f32], mean: &[f32], scale: &[f32], slope: &[f32], offset: &[f32], gradient: &mut [f32]) {
        let of_channels = mean.iter().zip(scale).zip(slope).zip(offset);
        for ((gradient, x), (((mean, scale), slope), offset)) in gradient.iter_mut().zip(values).zip(of_channels) {
            let along = multiply_add::<FMA>(x - mean, *slope, *offset);
            *gradient = multiply_add::<FMA>(*gradient, *scale, along);
        }
    }
}
