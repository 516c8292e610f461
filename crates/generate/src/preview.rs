//! What a latent looks like, without the autoencoder: a colour for each of its pixels, by a linear map of its channels.
//!
//! This module knows no file and no terminal.

use nalgebra::DMatrix;
use rectiflow_nn::{Device, Rng, Tensor, from_f32, to_f32};
use rectiflow_vae::{Vae, VaeConfig};

use crate::image::Image;

/// From a latent's channels to red, green and blue in -1..1.
pub struct Preview {
    /// A row for each channel, and one that is added.
    factors: Vec<[f32; 3]>,
    latent_px: usize,
}

/// The released autoencoder's, for normalised latents: `latent_rgb_factors` and `latent_rgb_factors_bias` of
/// `class SD3` in ComfyUI's `comfy/latent_formats.py`.
const RELEASED: [[f32; 3]; 17] = [
    [-0.0922, -0.0175, 0.0749],
    [0.0311, 0.0633, 0.0954],
    [0.1994, 0.0927, 0.0458],
    [0.0856, 0.0339, 0.0902],
    [0.0587, 0.0272, -0.0496],
    [-0.0006, 0.1104, 0.0309],
    [0.0978, 0.0306, 0.0427],
    [-0.0042, 0.1038, 0.1358],
    [-0.0194, 0.0020, 0.0669],
    [-0.0488, 0.0130, -0.0268],
    [0.0922, 0.0988, 0.0951],
    [-0.0278, 0.0524, -0.0542],
    [0.0332, 0.0456, 0.0895],
    [-0.0069, -0.0030, -0.0810],
    [-0.0596, -0.0465, -0.0293],
    [-0.1448, -0.1463, -0.1189],
    [0.2394, 0.2135, 0.1925],
];

/// Pictures that factors are fitted on, and their side in latent pixels: 512 colours for the 51 numbers.
const FITTED_ON: usize = 8;
const FITTED_SIDE: usize = 8;
/// Part of the mean square of a channel that is added to its own, so that channels that say nothing count nothing.
const RIDGE: f64 = 1e-3;

impl Preview {
    /// The published factors for an autoencoder of the released sizes and normalisation, for which they were made. For
    /// another one the factors that fit best, by least squares, what it makes of a few pictures of smooth colours: its
    /// encoder sees 8 of 64x64, which takes it as long as one of 180x180.
    pub fn of(vae: &Vae, device: &Device) -> Preview {
        let config = vae.config();
        let factors = if *config == VaeConfig::released() { RELEASED.to_vec() } else { fitted(vae, device) };
        Preview { factors, latent_px: config.downsampling() }
    }

    /// The pictures of latents `[N, channels, h, w]` as normalised as the transformer has them, each as large as what
    /// will be decoded, in squares of one colour.
    pub fn pictures(&self, latents: &Tensor<4>) -> Vec<Image> {
        let [count, channels, height, width] = latents.dims();
        assert_eq!(channels + 1, self.factors.len(), "channels of a latent");
        let (values, plane, px) = (to_f32(latents), height * width, self.latent_px);
        let picture = |latent: &[f32]| {
            let colour = |at: usize| {
                let channel = |rgb: usize| {
                    let sum: f32 = (0..channels).map(|c| latent[c * plane + at] * self.factors[c][rgb]).sum();
                    byte(sum + self.factors[channels][rgb])
                };
                [channel(0), channel(1), channel(2)]
            };
            let colours: Vec<[u8; 3]> = (0..plane).map(colour).collect();
            let row = |y: usize| colours[y * width..(y + 1) * width].iter().flat_map(|colour| colour.repeat(px));
            let rgb = (0..height * px).flat_map(|y| row(y / px)).collect();
            Image { width: width * px, height: height * px, rgb }
        };
        (0..count).map(|index| picture(&values[index * channels * plane..(index + 1) * channels * plane])).collect()
    }
}

fn byte(value: f32) -> u8 {
    ((value + 1.0) / 2.0 * 255.0).clamp(0.0, 255.0) as u8
}

/// Factors that make of latents the mean colours of the squares that they stand for.
fn fitted(vae: &Vae, device: &Device) -> Vec<[f32; 3]> {
    let (px, side) = (vae.config().downsampling(), FITTED_SIDE * vae.config().downsampling());
    let pictures = smooth_pictures(side);
    let latents = vae.normalise(vae.encode(from_f32(pictures.clone(), [FITTED_ON, 3, side, side], device)).mean);
    let [_, channels, height, width] = latents.dims();
    let (values, plane) = (to_f32(&latents), height * width);

    let latent = |row: usize, column: usize| match column {
        column if column == channels => 1.0,
        column => f64::from(values[(row / plane * channels + column) * plane + row % plane]),
    };
    let mean = |row: usize, rgb: usize| {
        let (picture, y, x) = (row / plane, row % plane / width * px, row % plane % width * px);
        let at = |y: usize, x: usize| f64::from(pictures[((picture * 3 + rgb) * side + y) * side + x]);
        (0..px * px).map(|i| at(y + i / px, x + i % px)).sum::<f64>() / (px * px) as f64
    };
    let seen = DMatrix::from_fn(FITTED_ON * plane, channels + 1, latent);
    let meant = DMatrix::from_fn(FITTED_ON * plane, 3, mean);
    let mut squares = seen.transpose() * &seen;
    let ridge = RIDGE * squares.trace() / (channels + 1) as f64;
    (0..channels).for_each(|channel| squares[(channel, channel)] += ridge);
    let solved = squares.cholesky().map(|squares| squares.solve(&(seen.transpose() * meant)));
    match solved {
        Some(factors) => factors.row_iter().map(|row| [row[0], row[1], row[2]].map(|factor| factor as f32)).collect(),
        // Latents that are not finite: grey.
        None => vec![[0.0; 3]; channels + 1],
    }
}

/// Pictures `[FITTED_ON, 3, side, side]` in -1..1: in each a colour for each corner, and all between.
fn smooth_pictures(side: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(FITTED_ON * 3 * side * side);
    for plane in 0..FITTED_ON * 3 {
        let corners = Rng::keyed(0, "colours of a preview", plane as u64).normals(4);
        for (y, x) in (0..side * side).map(|i| (i / side, i % side)) {
            let [down, right] = [y, x].map(|at| at as f32 / (side - 1) as f32);
            let [above, below] = [0, 2].map(|row| corners[row] * (1.0 - right) + corners[row + 1] * right);
            values.push((above * (1.0 - down) + below * down).clamp(-1.0, 1.0));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::{Params, Precision, RandomInit};

    use super::*;

    #[test]
    fn a_latent_pixel_becomes_a_square_of_the_colour_that_its_channels_say() {
        let preview = Preview { factors: vec![[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]], latent_px: 2 };
        // Two pictures of two latent pixels: channel 0, then channel 1.
        let latents = from_f32(vec![1.0, -1.0, 1.0, 0.0, 9.0, 0.0, -9.0, 0.0], [2, 2, 1, 2], &Device::flex());
        let pictures = preview.pictures(&latents);
        assert_eq!((pictures.len(), pictures[0].width, pictures[0].height), (2, 4, 2));
        let (left, right) = ([255, 0, 255], [0, 127, 255]);
        assert_eq!(pictures[0].rgb, [left, left, right, right, left, left, right, right].concat());
        assert_eq!(pictures[1].rgb[..3], [255, 255, 255]);
        // One below the other.
        let latents = from_f32(vec![1.0, -1.0, 1.0, 0.0], [1, 2, 2, 1], &Device::flex());
        assert_eq!(preview.pictures(&latents)[0].rgb, [left, left, left, left, right, right, right, right].concat());
    }

    #[test]
    fn the_published_factors_are_for_the_released_autoencoder_alone() {
        let device = Device::flex();
        let small = VaeConfig { widths: vec![8, 8], blocks: 1, groups: 4, ..VaeConfig::released() };
        let mut source = RandomInit { seed: 1 };
        let vae = Vae::new(&small, Params::new(&mut source, &device, Precision::F32));
        let preview = Preview::of(&vae, &device);
        assert_eq!((preview.factors.len(), preview.latent_px), (17, 2));
        assert_ne!(preview.factors, RELEASED);
        // A new autoencoder's latents keep colours: the fit finds them again.
        let grey = |level: f32| {
            let picture = from_f32(vec![level; 3 * 16 * 16], [1, 3, 16, 16], &device);
            let shown = &preview.pictures(&vae.normalise(vae.encode(picture).mean))[0];
            u32::from(shown.rgb[3 * (8 * 16 + 8)])
        };
        assert!(grey(-0.6) + 60 < grey(0.6), "{} {}", grey(-0.6), grey(0.6));
    }
}
