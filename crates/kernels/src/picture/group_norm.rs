use rayon::prelude::*;

use super::gather::Picture;
use crate::Isa;
use crate::vector::vectorised;

/// Pixels whose sums are taken in f32 before they go on in f64.
const PIXELS_AT_ONCE: usize = 256;

/// Mean and deviation of each group of channels in all pixels of each picture.
#[derive(Clone, Debug)]
pub struct GroupStatistics {
    pub(super) groups: usize,
    /// `[B, groups]`.
    pub(super) mean: Vec<f64>,
    /// `1 / sqrt(variance + eps)`, `[B, groups]`.
    pub(super) inverse: Vec<f64>,
}

/// Statistics of `picture`; `groups` divides C.
///
/// # Panics
/// Sizes that do not fit each other: bugs of the caller.
pub fn group_statistics(isa: Isa, picture: Picture<'_>, groups: usize, eps: f32) -> GroupStatistics {
    let [batch, channels, height, width] = picture.shape;
    assert!(groups > 0 && channels % groups == 0, "{channels} channels in {groups} groups");
    picture.check();
    let in_group = channels / groups;
    let pixels = (height * width) as f64;
    let count = in_group as f64 * pixels;
    let mut statistics = GroupStatistics { groups, mean: Vec::new(), inverse: Vec::new() };
    for index in 0..batch {
        let sums = sums(isa, &picture, index);
        for group in 0..groups {
            let of_group = &sums[group * in_group..][..in_group];
            let mean = of_group.iter().map(|sums| sums.mean_part(pixels)).sum::<f64>() / count;
            let squares = of_group.iter().map(|sums| sums.squares_about(mean, pixels)).sum::<f64>();
            statistics.mean.push(mean);
            statistics.inverse.push(1.0 / (squares / count + f64::from(eps)).sqrt());
        }
    }
    statistics
}

impl GroupStatistics {
    /// What the norm multiplies each channel of picture `index` with and moves it by, `[C]` each.
    pub(super) fn scale_shift(&self, index: usize, [weight, bias]: [&[f32]; 2]) -> [Vec<f32>; 2] {
        let in_group = weight.len() / self.groups;
        let (mut scales, mut shifts) = (Vec::new(), Vec::new());
        for (channel, (weight, bias)) in weight.iter().zip(bias).enumerate() {
            let group = index * self.groups + channel / in_group;
            let factor = self.inverse[group] * f64::from(*weight);
            scales.push(factor as f32);
            shifts.push((f64::from(*bias) - self.mean[group] * factor) as f32);
        }
        [scales, shifts]
    }

    /// What a group norm multiplies each channel with and moves it by, `[B, C]` each:
    /// `x * scale + shift = (x - mean) / sqrt(variance + eps) * weight + bias`.
    ///
    /// weight and bias `[C]`.
    ///
    /// # Panics
    /// Sizes that do not fit each other: bugs of the caller.
    pub fn scales_and_shifts(&self, [weight, bias]: [&[f32]; 2]) -> [Vec<f32>; 2] {
        assert_eq!(weight.len(), bias.len(), "weights and biases of a norm");
        assert_eq!(weight.len() % self.groups, 0, "{} channels in {} groups", weight.len(), self.groups);
        let (mut scales, mut shifts) = (Vec::new(), Vec::new());
        for index in 0..self.mean.len() / self.groups {
            let [scale, shift] = self.scale_shift(index, [weight, bias]);
            scales.extend(scale);
            shifts.extend(shift);
        }
        [scales, shifts]
    }
}

/// Sums of one channel over all pixels, of differences from its first pixel: a channel far from 0 then loses no
/// digits of its variance.
#[derive(Clone, Copy, Default)]
struct Sums {
    origin: f64,
    differences: f64,
    squares: f64,
}

impl Sums {
    /// Sum of the values.
    fn mean_part(&self, pixels: f64) -> f64 {
        self.differences + pixels * self.origin
    }

    /// Sum of squares of the values' distances from `mean`.
    fn squares_about(&self, mean: f64, pixels: f64) -> f64 {
        let offset = self.origin - mean;
        self.squares + 2.0 * offset * self.differences + pixels * offset * offset
    }
}

fn sums(isa: Isa, picture: &Picture<'_>, batch: usize) -> Vec<Sums> {
    let [_, channels, height, width] = picture.shape;
    let pixels = height * width;
    let mut origin = vec![0.0_f32; channels];
    if pixels > 0 {
        picture.read_pixel(isa, [batch, 0, 0], &mut origin);
    }
    let chunks: Vec<[Vec<f32>; 2]> = (0..pixels.div_ceil(PIXELS_AT_ONCE))
        .into_par_iter()
        .map(|chunk| {
            let (mut differences, mut squares) = (vec![0.0_f32; channels], vec![0.0_f32; channels]);
            let mut pixel = vec![0.0_f32; channels];
            for index in chunk * PIXELS_AT_ONCE..pixels.min((chunk + 1) * PIXELS_AT_ONCE) {
                picture.read_pixel(isa, [batch, index / width, index % width], &mut pixel);
                add(isa, &pixel, &origin, &mut differences, &mut squares);
            }
            [differences, squares]
        })
        .collect();
    // In the order of the pixels, whichever thread summed them.
    let mut all: Vec<Sums> =
        origin.iter().map(|&origin| Sums { origin: f64::from(origin), ..Sums::default() }).collect();
    for [differences, squares] in &chunks {
        for ((all, difference), square) in all.iter_mut().zip(differences).zip(squares) {
            all.differences += f64::from(*difference);
            all.squares += f64::from(*square);
        }
    }
    all
}

vectorised! {
    fn add(pixel: &[f32], origin: &[f32], differences: &mut [f32], squares: &mut [f32]) {
        for (((x, origin), difference), square) in pixel.iter().zip(origin).zip(differences).zip(squares) {
            let apart = x - origin;
            *difference += apart;
            *square += apart * apart;
        }
    }
}
