//! Noise that equals torch's for the same seed, so that a seed means the same image here and there.
//!
//! It is drawn on the processor whatever the device, as the reference does (Stability-AI/sd3.5
//! `sd3_infer.py`, diffusers with a CPU generator). torch's GPU generators are other algorithms and are not
//! here; nor are its uniform, integer or f64 draws.

mod box_muller;
mod cephes;
mod mersenne;

use box_muller::BLOCK;
use mersenne::MersenneTwister;

/// The state of `torch.Generator("cpu")`.
///
/// What is equal to torch, and how exactly:
/// - Draws of 16 values and more: bit for bit, on every machine, to torch on an x86-64 processor with AVX2
///   or better. (Compared with torch 2.15 over 18 million values.) torch on other processors uses that
///   machine's own logarithm and cosine and differs from this, and from itself on x86-64, in the last digits:
///   up to 5e-7 in one value in six.
/// - Smaller draws: computed in f64 with the machine's logarithm, sine and cosine and rounded to f32, so equal
///   to torch bit for bit unless those functions differ in a f64's last bit and the rounding shows it.
/// - Several draws from one generator: as torch, in the same order and sizes. Sizes matter: 20 values are not
///   the first 20 of 40.
#[derive(Clone, Debug)]
pub struct TorchRng {
    bits: MersenneTwister,
    /// The second half of a scalar Box-Muller pair. As in torch it waits for the next draw below 16 values,
    /// also past larger draws.
    spare: Option<f64>,
}

impl TorchRng {
    /// `torch.Generator("cpu").manual_seed(seed)`. Like torch, uses only the seed's low 32 bits.
    pub fn new(seed: u64) -> Self {
        TorchRng { bits: MersenneTwister::new(seed as u32), spare: None }
    }

    /// `torch.randn(shape, generator=self)` for any shape with `count` elements, in row-major order: mean 0,
    /// standard deviation 1.
    pub fn standard_normal(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK { (0..count).map(|_| self.normal() as f32).collect() } else { self.normals_in_blocks(count) }
    }

    fn normals_in_blocks(&mut self, count: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform_f32()).collect();
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        blocks.iter_mut().for_each(box_muller::transform);
        if !rest.is_empty() {
            // torch draws the last 16 values again, over the end of the last whole block.
            let mut last: [f32; BLOCK] = std::array::from_fn(|_| self.uniform_f32());
            box_muller::transform(&mut last);
            values[count - BLOCK..].copy_from_slice(&last);
        }
        values
    }

    /// Box-Muller in f64, one value at a time: `normal_distribution<double>` in torch's `DistributionsHelper.h`.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let theta = std::f64::consts::TAU * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * theta.sin());
        radius * theta.cos()
    }

    /// In [0, 1), a multiple of 2^-24: torch keeps the low bits.
    fn uniform_f32(&mut self) -> f32 {
        (self.bits.next_u32() & 0x00ff_ffff) as f32 / (1_u32 << 24) as f32
    }

    /// In [0, 1), a multiple of 2^-53: torch keeps the low bits. High word first.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.bits.next_u32());
        let low = u64::from(self.bits.next_u32());
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    }
}
