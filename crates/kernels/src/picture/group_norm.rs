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
    let mut sums = PictureSums::new(picture.shape);
    sums.add(isa, picture);
    sums.statistics(groups, eps)
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

/// What group norms need to know of a picture that comes in strips of rows: sums over its pixels.
///
/// They do not depend on where the picture is cut, to the bit.
#[derive(Clone, Debug)]
pub struct PictureSums {
    pictures: Vec<Pixels>,
    channels: usize,
}

impl PictureSums {
    /// For pictures `[B, C, _, _]`, before the first strip.
    pub fn new([batch, channels, _, _]: [usize; 4]) -> Self {
        PictureSums { pictures: vec![Pixels::new(channels); batch], channels }
    }

    /// The next rows of every picture.
    ///
    /// # Panics
    /// Another batch or other channels than before: a bug of the caller.
    pub fn add(&mut self, isa: Isa, strip: Picture<'_>) {
        assert_eq!(strip.shape[..2], [self.pictures.len(), self.channels], "batch and channels of a strip");
        strip.check();
        for (index, picture) in self.pictures.iter_mut().enumerate() {
            picture.add(isa, &strip, index);
        }
    }

    /// As [`group_statistics`] of the whole pictures.
    ///
    /// # Panics
    /// Sizes that do not fit each other: bugs of the caller.
    pub fn statistics(&self, groups: usize, eps: f32) -> GroupStatistics {
        assert!(groups > 0 && self.channels.is_multiple_of(groups), "{} channels in {groups} groups", self.channels);
        let in_group = self.channels / groups;
        let mut statistics = GroupStatistics { groups, mean: Vec::new(), inverse: Vec::new() };
        for picture in &self.pictures {
            let (sums, pixels) = (picture.sums(), picture.count as f64);
            let count = in_group as f64 * pixels;
            for of_group in sums.chunks(in_group) {
                let mean = of_group.iter().map(|sums| sums.mean_part(pixels)).sum::<f64>() / count;
                let squares = of_group.iter().map(|sums| sums.squares_about(mean, pixels)).sum::<f64>();
                statistics.mean.push(mean);
                statistics.inverse.push(1.0 / (squares / count + f64::from(eps)).sqrt());
            }
        }
        statistics
    }
}

/// Sums of one channel over all pixels, of differences from its first pixel: a channel far from 0 then loses no
/// digits of its variance.
#[derive(Clone, Copy, Debug, Default)]
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

/// The pixels of one picture so far, in chunks of [`PIXELS_AT_ONCE`] from the first pixel on.
#[derive(Clone, Debug)]
struct Pixels {
    origin: Vec<f32>,
    /// Of the whole chunks.
    whole: Vec<Sums>,
    /// The chunk that is not whole yet.
    open: Chunk,
    /// Pixels in all.
    count: usize,
}

/// Differences and squares of each channel.
#[derive(Clone, Debug)]
struct Chunk([Vec<f32>; 2]);

impl Chunk {
    fn new(channels: usize) -> Self {
        Chunk([vec![0.0; channels], vec![0.0; channels]])
    }

    /// Adds the pixels `range` of a picture, counted row by row.
    fn add(&mut self, isa: Isa, picture: &Picture<'_>, batch: usize, range: std::ops::Range<usize>, origin: &[f32]) {
        let (Chunk([differences, squares]), width) = (self, picture.shape[3]);
        let mut pixel = vec![0.0_f32; origin.len()];
        for index in range {
            picture.read_pixel(isa, [batch, index / width, index % width], &mut pixel);
            add(isa, &pixel, origin, differences, squares);
        }
    }

    fn add_to(&self, sums: &mut [Sums]) {
        let Chunk([differences, squares]) = self;
        for ((sums, difference), square) in sums.iter_mut().zip(differences).zip(squares) {
            sums.differences += f64::from(*difference);
            sums.squares += f64::from(*square);
        }
    }
}

impl Pixels {
    fn new(channels: usize) -> Self {
        let (origin, whole) = (vec![0.0; channels], vec![Sums::default(); channels]);
        Pixels { origin, whole, open: Chunk::new(channels), count: 0 }
    }

    fn add(&mut self, isa: Isa, strip: &Picture<'_>, batch: usize) {
        let [_, channels, height, width] = strip.shape;
        let pixels = height * width;
        if pixels == 0 {
            return;
        }
        if self.count == 0 {
            strip.read_pixel(isa, [batch, 0, 0], &mut self.origin);
            let origin = self.origin.iter().map(|&origin| Sums { origin: f64::from(origin), ..Sums::default() });
            self.whole = origin.collect();
        }
        // What the chunk before lacks, then whole chunks, then the rest.
        let begun = (PIXELS_AT_ONCE - self.count % PIXELS_AT_ONCE) % PIXELS_AT_ONCE;
        let first = begun.min(pixels);
        self.open.add(isa, strip, batch, 0..first, &self.origin);
        self.count += pixels;
        if first < begun {
            return;
        }
        if begun > 0 {
            self.close();
        }
        let chunks = (pixels - first) / PIXELS_AT_ONCE;
        let sums: Vec<Chunk> = (0..chunks)
            .into_par_iter()
            .map(|chunk| {
                let (mut sums, start) = (Chunk::new(channels), first + chunk * PIXELS_AT_ONCE);
                sums.add(isa, strip, batch, start..start + PIXELS_AT_ONCE, &self.origin);
                sums
            })
            .collect();
        // In the order of the pixels, whichever thread summed them.
        sums.iter().for_each(|chunk| chunk.add_to(&mut self.whole));
        self.open.add(isa, strip, batch, first + chunks * PIXELS_AT_ONCE..pixels, &self.origin);
    }

    /// The open chunk has all its pixels.
    fn close(&mut self) {
        self.open.add_to(&mut self.whole);
        self.open = Chunk::new(self.origin.len());
    }

    /// Of each channel.
    fn sums(&self) -> Vec<Sums> {
        let mut sums = self.whole.clone();
        self.open.add_to(&mut sums);
        sums
    }
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
