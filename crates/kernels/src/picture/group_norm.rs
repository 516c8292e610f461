use rayon::prelude::*;

use super::gather::Picture;
use crate::vector::vectorised;
use crate::{Buffer, Isa};

/// Pixels whose sums are taken in f32 before they go on in f64.
const PIXELS_AT_ONCE: usize = 256;

/// What a group norm of `picture` multiplies each channel with and moves it by, `[B, C]` each:
/// `x * scale + shift = (x - mean) / sqrt(variance + eps) * weight + bias`.
///
/// Mean and variance are those of a group's channels in all pixels. weight and bias `[C]`; `groups` divides C.
///
/// # Panics
/// Sizes that do not fit each other: bugs of the caller.
pub fn group_norm(
    isa: Isa,
    picture: Picture<'_>,
    groups: usize,
    [weight, bias]: [&[f32]; 2],
    eps: f32,
) -> [Buffer<f32>; 2] {
    let [batch, channels, height, width] = picture.shape;
    assert!(groups > 0 && channels % groups == 0, "{channels} channels in {groups} groups");
    assert_eq!([weight.len(), bias.len()], [channels; 2], "weights of {channels} channels");
    picture.check();
    let (mut scale, mut shift) = (Buffer::zeroed(batch * channels), Buffer::zeroed(batch * channels));
    let in_group = channels / groups;
    let count = (in_group * height * width) as f64;
    for index in 0..batch {
        let sums = sums(isa, &picture, index);
        for group in 0..groups {
            let first = group * in_group;
            let of_group = &sums[first..first + in_group];
            let mean = of_group.iter().map(|sums| sums.mean_part((height * width) as f64)).sum::<f64>() / count;
            let squares = of_group.iter().map(|sums| sums.squares_about(mean, (height * width) as f64)).sum::<f64>();
            let inverse = 1.0 / (squares / count + f64::from(eps)).sqrt();
            for channel in first..first + in_group {
                let factor = inverse * f64::from(weight[channel]);
                scale[index * channels + channel] = factor as f32;
                shift[index * channels + channel] = (f64::from(bias[channel]) - mean * factor) as f32;
            }
        }
    }
    [scale, shift]
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
