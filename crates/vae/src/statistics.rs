//! Mean and deviation of the latents of a data set: where `latent_offset` and `latent_scale` come from.

use rectiflow_nn::{Tensor, to_f32};

/// Mean and variance of latents that come batch by batch, over all numbers and by channel.
///
/// Each batch is summed about its own mean and then joined to those before (Chan et al. 1979, equation 2.1), in f64: a
/// mean far from 0 costs no digits of the deviation, and nothing of a batch is kept.
#[derive(Clone, Debug)]
pub struct LatentStatistics {
    channels: Vec<Moments>,
}

/// Of numbers that were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    count: f64,
    mean: f64,
    /// Sum of squares about the mean.
    squares: f64,
}

impl Moments {
    fn of(values: &[f32]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().copied().map(f64::from).sum::<f64>() / count.max(1.0);
        Moments { count, mean, squares: values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum() }
    }

    fn joined(self, other: Moments) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let apart = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares + other.squares + apart * apart * self.count * other.count / count,
        }
    }

    /// 0 if nothing was seen.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The standard deviation, of the numbers themselves and not of what they were drawn from; 0 if nothing was seen.
    pub fn deviation(&self) -> f64 {
        (self.squares / self.count.max(1.0)).sqrt()
    }
}

impl LatentStatistics {
    /// Of latents with so many channels, none seen.
    pub fn new(channels: usize) -> Self {
        LatentStatistics { channels: vec![Moments::default(); channels] }
    }

    /// More latents, not normalised: samples of posteriors, `[B, Z, h, w]`.
    ///
    /// # Panics
    /// Latents of other channels: a bug of the caller.
    pub fn add(&mut self, raw_batch: &Tensor<4>) {
        let [_, channels, height, width] = raw_batch.dims();
        assert_eq!(channels, self.channels.len(), "channels of a latent");
        for (index, plane) in to_f32(raw_batch).chunks_exact((height * width).max(1)).enumerate() {
            let channel = &mut self.channels[index % channels];
            *channel = channel.joined(Moments::of(plane));
        }
    }

    /// Of all numbers.
    pub fn all(&self) -> Moments {
        self.channels.iter().fold(Moments::default(), |all, channel| all.joined(*channel))
    }

    /// Of each channel.
    pub fn channels(&self) -> &[Moments] {
        &self.channels
    }

    /// `latent_offset` and `latent_scale` that give all numbers together mean 0 and deviation 1. None if they are all
    /// equal, or not finite, or if there are none.
    pub fn normalisation(&self) -> Option<[f64; 2]> {
        let all = self.all();
        let scale = 1.0 / all.deviation();
        (all.mean.is_finite() && scale.is_finite() && scale > 0.0).then_some([all.mean, scale])
    }
}
