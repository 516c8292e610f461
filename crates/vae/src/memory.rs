//! What decoding needs.

use crate::VaeConfig;

/// How a latent is made a picture. The pictures are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// Each layer of the whole picture: the fastest.
    Whole,
    /// The large layers in strips of rows: less than half of the memory, half as many products again.
    InStrips,
}

/// Rows of a strip. Layers on top of each other compute up to four rows more than they keep.
pub(crate) const STRIP_ROWS: usize = 64;
/// Levels that are computed in strips, from the largest on: those below are smaller than what the last one holds.
pub(crate) const LEVELS_IN_STRIPS: usize = 2;
/// What kernels gather and sum in.
const SCRATCH_BYTES: u64 = 64 << 20;

impl VaeConfig {
    /// Bytes that decoding a latent of `height` x `width` holds at most beside the weights. What memory is kept for a
    /// next use, half a gigabyte at most, is not counted, nor are the packed weights (0.1 GB in bf16).
    pub fn decode_bytes(&self, [height, width]: [usize; 2], decoding: Decoding) -> u64 {
        let pixels = (height * width * self.downsampling().pow(2)) as u64;
        let tensors = match decoding {
            Decoding::Whole => self.whole_numbers(pixels, 0),
            Decoding::InStrips => {
                self.held_numbers(pixels).max(self.whole_numbers(pixels, LEVELS_IN_STRIPS))
                    + self.strip_numbers((width * self.downsampling()) as u64)
            }
        };
        // Buffers come in sizes that waste at most an eighth. The picture is there in strips and whole.
        (tensors + 6 * pixels) * size_of::<f32>() as u64 * 9 / 8 + SCRATCH_BYTES
    }

    /// Of the widest block among the levels from `first` on: what comes in, the first convolution's result, the
    /// shortcut's. The largest level is 0; the pictures of the others are 4, 16, ... times smaller.
    fn whole_numbers(&self, pixels: u64, first: usize) -> u64 {
        let level = |level: usize| {
            let width_in = self.widths.get(level + 1).unwrap_or(&self.widths[level]);
            (pixels >> (2 * level)) * (width_in + 2 * self.widths[level]) as u64
        };
        (first..self.widths.len()).map(level).max().unwrap_or(0)
    }

    /// Of the pictures between the sweeps: one block's result, or the first picture and what it is doubled to.
    fn held_numbers(&self, pixels: u64) -> u64 {
        let first = self.widths.get(LEVELS_IN_STRIPS).map_or(0, |&width| 5 * (pixels >> 4) * width as u64);
        self.held_max(pixels).max(first)
    }

    /// The last block's result: nothing larger is held. For `pixels` of a picture.
    pub(crate) fn held_max(&self, pixels: u64) -> u64 {
        pixels * self.widths[0] as u64
    }

    /// Of one strip of the last level, on its way through its first block: what it is doubled from and to, the two
    /// convolutions' results and the shortcut's.
    fn strip_numbers(&self, width_px: u64) -> u64 {
        let rows = (STRIP_ROWS + 8) as u64;
        let width_in = *self.widths.get(1).unwrap_or(&self.widths[0]) as u64;
        rows * width_px * (2 * width_in + 3 * self.widths[0] as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_decode_needs_less_than_half_in_strips() {
        let config = VaeConfig::released();
        let bytes = |side: usize, decoding| config.decode_bytes([side / 8; 2], decoding) as f64 / 1e9;
        let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.01, "{found}");
        close(bytes(1024, Decoding::Whole), 2.51);
        close(bytes(2048, Decoding::Whole), 9.84);
        close(bytes(1024, Decoding::InStrips), 1.15);
        close(bytes(2048, Decoding::InStrips), 3.79);
        // A latent of one pixel.
        assert!(bytes(8, Decoding::Whole) < 0.1 && bytes(8, Decoding::InStrips) < 0.1);
    }
}
