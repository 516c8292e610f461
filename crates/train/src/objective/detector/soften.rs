//! Pictures as a network might have drawn them: softer, noisier, in other light.

use image::{Rgb, RgbImage};
use rectiflow_dataset::Drawn;
use rectiflow_nn::Rng;

/// Share of pictures that are noisy, and of those that are blurred; of these half are blurred twice.
const OFTEN: f64 = 0.5;
/// Greatest change of all numbers of a picture, of those of one channel, and what is added to all: far less than what
/// tells two colours from each other.
const GAIN: f64 = 0.1;
const GAIN_OF_CHANNEL: f64 = 0.03;
const SHIFT: f64 = 0.04;
/// Greatest deviation of noise, of 1 from black to white.
const NOISE: f64 = 0.04;

/// The picture of a scene as it is trained on in an epoch.
pub(super) fn softened(picture: &RgbImage, seed: u64, one: &Drawn) -> RgbImage {
    let mut rng = Rng::keyed(Rng::keyed(seed, "epoch", one.epoch).bits(), "softened", one.sample);
    let within = |rng: &mut Rng, most: f64| ((rng.uniform() * 2.0 - 1.0) * most) as f32;
    let gain = 1.0 + within(&mut rng, GAIN);
    let gains = [0; 3].map(|_| gain * (1.0 + within(&mut rng, GAIN_OF_CHANNEL)));
    let shift = within(&mut rng, SHIFT);
    let mut pixels: Vec<[f32; 3]> = picture
        .pixels()
        .map(|pixel| std::array::from_fn(|i| gains[i] * f32::from(pixel.0[i]) / 255.0 + shift))
        .collect();
    if rng.uniform() < OFTEN {
        // Even numbers with the deviation of the noise: cheaper than normal ones, and blurred after all.
        let bound = NOISE * rng.uniform() * 3.0_f64.sqrt();
        pixels.iter_mut().flatten().for_each(|value| *value += within(&mut rng, bound));
    }
    if rng.uniform() < OFTEN {
        let times = if rng.uniform() < OFTEN { 2 } else { 1 };
        let beside = 0.33 * rng.uniform() as f32;
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        for _ in 0..times {
            pixels = blurred(&pixels, [width, height], beside);
        }
    }
    let byte = |value: f32| (value * 255.0).round().clamp(0.0, 255.0) as u8;
    let (width, height) = picture.dimensions();
    RgbImage::from_fn(width, height, |x, y| Rgb(pixels[(y * width + x) as usize].map(byte)))
}

/// Each number mixed with `beside` of each neighbour, first along rows and then along columns.
fn blurred(pixels: &[[f32; 3]], [width, height]: [usize; 2], beside: f32) -> Vec<[f32; 3]> {
    let mix = |a: [f32; 3], b: [f32; 3], c: [f32; 3]| -> [f32; 3] {
        std::array::from_fn(|i| beside * (a[i] + c[i]) + (1.0 - 2.0 * beside) * b[i])
    };
    let along = |pixels: &[[f32; 3]], axis: usize| -> Vec<[f32; 3]> {
        let (step, count) = if axis == 0 { (1, width) } else { (width, height) };
        let at = |index: usize| if axis == 0 { index % width } else { index / width };
        let one = |index: usize| {
            let before = if at(index) > 0 { index - step } else { index };
            let after = if at(index) + 1 < count { index + step } else { index };
            mix(pixels[before], pixels[index], pixels[after])
        };
        (0..pixels.len()).map(one).collect()
    };
    along(&along(pixels, 0), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_fn(24, 16, |x, y| Rgb([(x * 10) as u8, if x > 11 { 200 } else { 30 }, (y * 12) as u8]))
    }

    fn different(a: &RgbImage, b: &RgbImage) -> f64 {
        let pairs = a.as_raw().iter().zip(b.as_raw());
        pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.as_raw().len() as f64
    }

    #[test]
    fn a_softened_picture_is_another_each_epoch_and_the_same_in_it() {
        let at = |epoch, sample| softened(&picture(), 1, &Drawn { sample, epoch });
        assert_eq!(at(0, 5), at(0, 5));
        assert!(at(0, 5) != at(1, 5) && at(0, 5) != at(0, 6));
        for sample in 0..40 {
            let changed = different(&picture(), &at(0, sample));
            assert!((0.1..40.0).contains(&changed), "{sample}: {changed}");
        }
    }

    #[test]
    fn a_blur_keeps_what_is_flat_and_the_sum_of_what_is_not() {
        let flat = vec![[0.25, 0.5, 0.75]; 12];
        let same = blurred(&flat, [4, 3], 0.25);
        assert!(same.iter().flatten().zip(flat.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-6));
        let mut point = vec![[0.0; 3]; 25];
        point[12] = [1.0; 3];
        let spread = blurred(&point, [5, 5], 0.25);
        let at = |x: usize, y: usize| spread[y * 5 + x][0];
        assert_eq!([at(2, 2), at(1, 2), at(2, 3), at(1, 1), at(0, 2)], [0.25, 0.125, 0.125, 0.0625, 0.0]);
    }
}
