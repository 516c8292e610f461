//! Rounds numbers to ggml's blocks.
//!
//! What this module does not do: weigh numbers by how much a network minds them.

use half::f16;
use rayon::prelude::*;
use rectiflow_nn::BlockType;

/// Units of a Q4_K block, which have a scale and an offset each.
const UNITS: usize = 8;
const UNIT: usize = 32;
/// The largest number of 4 bits, and of the 6 that scales and offsets have.
const Q_MAX: f32 = 15.0;
const SCALE_MAX: f32 = 63.0;

/// The blocks of whole rows. On all threads.
///
/// # Panics
/// `kind` is neither Q8_0 nor Q4_K, or the numbers do not fill whole blocks: bugs of the caller.
pub(super) fn quantised(kind: BlockType, numbers: &[f32]) -> Vec<u8> {
    assert!(numbers.len().is_multiple_of(kind.numbers()), "{} numbers in {kind:?}", numbers.len());
    let mut bytes = vec![0; numbers.len() / kind.numbers() * kind.bytes()];
    match kind {
        BlockType::Q8_0 => each(numbers, &mut bytes, q8_0),
        BlockType::Q4K => each(numbers, &mut bytes, q4_k),
        _ => panic!("blocks of {kind:?} are not written"),
    }
    bytes
}

fn each<const NUMBERS: usize, const BYTES: usize>(
    numbers: &[f32],
    bytes: &mut [u8],
    block: impl Fn(&[f32; NUMBERS], &mut [u8; BYTES]) + Sync,
) {
    let blocks = bytes.as_chunks_mut::<BYTES>().0.par_iter_mut().with_min_len(64);
    blocks.zip(numbers.as_chunks::<NUMBERS>().0).for_each(|(out, numbers)| block(numbers, out));
}

/// As ggml's reference does (`quantize_row_q8_0_ref`), to the bit: the largest number is 127 or -127, and halves are rounded
/// away from 0.
fn q8_0(numbers: &[f32; 32], out: &mut [u8; 34]) {
    let largest = numbers.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (out, x) in out[2..].iter_mut().zip(numbers) {
        *out = (x * inverse).round() as i8 as u8;
    }
}

/// What a unit's numbers are taken for: `scale q - offset` with q from 0 to 15. Neither is negative.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    scale: f32,
    offset: f32,
}

impl Line {
    /// The whole numbers for these, and the sum of squares of what is lost.
    fn rounded(self, numbers: &[f32; UNIT]) -> ([f32; UNIT], f32) {
        let inverse = if self.scale > 0.0 { 1.0 / self.scale } else { 0.0 };
        let (mut whole, mut lost) = ([0.0; UNIT], 0.0);
        for (q, x) in whole.iter_mut().zip(numbers) {
            // Not negative, so that cutting rounds halves up.
            *q = ((x + self.offset) * inverse + 0.5).clamp(0.0, Q_MAX) as u32 as f32;
            let apart = self.scale * *q - self.offset - x;
            lost += apart * apart;
        }
        (whole, lost)
    }

    /// The line through `(q, x)` that loses least, by least squares; without an offset where that would be negative.
    fn through(whole: &[f32; UNIT], numbers: &[f32; UNIT]) -> Line {
        let (mut q, mut qq, mut x, mut qx) = (0.0, 0.0, 0.0, 0.0);
        for (whole, number) in whole.iter().zip(numbers) {
            q += whole;
            qq += whole * whole;
            x += number;
            qx += whole * number;
        }
        let count = UNIT as f32;
        let spread = count * qq - q * q;
        let scale = if spread > 0.0 { (count * qx - q * x) / spread } else { 0.0 };
        let offset = (scale * q - x) / count;
        if offset >= 0.0 && scale >= 0.0 {
            return Line { scale, offset };
        }
        Line { scale: if qq > 0.0 { (qx / qq).max(0.0) } else { 0.0 }, offset: 0.0 }
    }

    /// The best line that is found from several spacings: wider ones than the numbers' range over 15 fall better on the
    /// numbers' own places, narrower ones cut what lies far out.
    fn best(numbers: &[f32; UNIT]) -> Line {
        let (low, high) = numbers.iter().fold((0.0_f32, 0.0_f32), |(low, high), x| (low.min(*x), high.max(*x)));
        let (mut best, mut lost_least) = (Line::default(), f32::INFINITY);
        for halves in 26..=42 {
            let mut line = Line { scale: (high - low) / (halves as f32 / 2.0), offset: -low };
            for _ in 0..2 {
                let (whole, _) = line.rounded(numbers);
                line = Line::through(&whole, numbers);
            }
            let (_, lost) = line.rounded(numbers);
            if lost < lost_least {
                (best, lost_least) = (line, lost);
            }
        }
        best
    }
}

fn q4_k(numbers: &[f32; 256], out: &mut [u8; 144]) {
    let units = numbers.as_chunks::<UNIT>().0;
    let lines: [Line; UNITS] = std::array::from_fn(|unit| Line::best(&units[unit]));
    let most = |of: fn(&Line) -> f32| lines.iter().map(of).fold(0.0, f32::max) / SCALE_MAX;
    let [scale, offset] = [most(|line| line.scale), most(|line| line.offset)].map(f16::from_f32);
    out[..2].copy_from_slice(&scale.to_le_bytes());
    out[2..4].copy_from_slice(&offset.to_le_bytes());
    let [scale, offset] = [scale, offset].map(f32::from);
    let nearest = |x: f32, step: f32| if step > 0.0 { (x / step).round().clamp(0.0, SCALE_MAX) } else { 0.0 };
    for (unit, (line, numbers)) in lines.iter().zip(units).enumerate() {
        let (s, m) = (nearest(line.scale, scale), nearest(line.offset, offset));
        // Rounding a scale asks for another offset, and the other way round: neighbours may lose less than the nearest.
        let neighbours = [-1.0, 0.0, 1.0].into_iter().flat_map(|i| [-1.0, 0.0, 1.0].map(|j| [s + i, m + j]));
        let allowed = neighbours.filter(|pair| pair.iter().all(|x| (0.0..=SCALE_MAX).contains(x)));
        let tried = allowed.map(|[s, m]| {
            let (whole, lost) = Line { scale: scale * s, offset: offset * m }.rounded(numbers);
            (lost, [s as u8, m as u8], whole)
        });
        let least = tried.min_by(|one, other| one.0.total_cmp(&other.0));
        let Some((_, [s, m], whole)) = least else { continue };
        put_six_bits(&mut out[4..16], unit, s, m);
        let shift = 4 * (unit % 2);
        for (byte, q) in out[16 + unit / 2 * UNIT..].iter_mut().zip(whole) {
            *byte |= (q as u8) << shift;
        }
    }
}

/// Stores a unit's scale and offset among those of all eight, in 12 bytes of zeros at first.
fn put_six_bits(packed: &mut [u8], unit: usize, scale: u8, offset: u8) {
    if unit < 4 {
        packed[unit] |= scale;
        packed[unit + 4] |= offset;
    } else {
        packed[unit + 4] |= (scale & 15) | (offset & 15) << 4;
        packed[unit - 4] |= scale >> 4 << 6;
        packed[unit] |= offset >> 4 << 6;
    }
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::{Rng, widen_blocks};

    use super::*;

    fn widened(kind: BlockType, numbers: &[f32]) -> Vec<f32> {
        let mut wide = vec![0.0; numbers.len()];
        widen_blocks(kind, &quantised(kind, numbers), &mut wide);
        wide
    }

    /// Root of the mean square of what is lost.
    fn lost(kind: BlockType, numbers: &[f32]) -> f64 {
        let apart = widened(kind, numbers).iter().zip(numbers).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        (apart / numbers.len() as f64).sqrt()
    }

    /// With a deviation of 1.
    fn normal(count: usize) -> Vec<f32> {
        let mut rng = Rng::keyed(5, "weights", 0);
        (0..count).map(|_| rng.normal() as f32).collect()
    }

    /// llama.cpp's own test (`test-quantize-fns.cpp`) allows 0.002 of `sqrt(sum) / n` of these 4,096 numbers.
    #[test]
    fn what_is_lost_is_within_the_references_bound() {
        let numbers: Vec<f32> = (0..4096).map(|i| 0.1 + 2.0 * (i as f32).cos()).collect();
        for (kind, at_most) in [(BlockType::Q8_0, 0.0002), (BlockType::Q4K, 0.002)] {
            let found = lost(kind, &numbers) / 64.0;
            assert!(found < at_most, "{kind:?} lost {found}");
        }
    }

    /// Measured: 0.0053 and 0.0698. Even spacing from the least to the largest of 32 loses 0.078, before scales are rounded.
    #[test]
    fn of_weights_little_is_lost() {
        let numbers = normal(1 << 14);
        for (kind, at_most) in [(BlockType::Q8_0, 0.0058), (BlockType::Q4K, 0.0715)] {
            for scale in [1.0, 1e-3, 300.0] {
                let scaled: Vec<f32> = numbers.iter().map(|x| x * scale).collect();
                let found = lost(kind, &scaled) / f64::from(scale);
                assert!(found < at_most, "{kind:?} lost {found} of 1");
            }
        }
    }

    #[test]
    fn numbers_that_blocks_have_stay_as_they_are() {
        let whole: Vec<f32> = (0..256).map(|i| (i * 37 % 16) as f32 / 4.0 - 1.5).collect();
        for numbers in [whole, vec![0.0; 256], vec![-2.0; 256], vec![3.0; 256]] {
            let found = widened(BlockType::Q4K, &numbers);
            for (found, number) in found.iter().zip(&numbers) {
                assert!((found - number).abs() <= 2e-3 * number.abs().max(1.0), "{number} became {found}");
            }
        }
        let whole: Vec<f32> = (0..64).map(|i| (i * 29 % 255) as f32 - 127.0).collect();
        let mut largest = whole.clone();
        (largest[0], largest[32]) = (127.0, -127.0);
        assert_eq!(widened(BlockType::Q8_0, &largest), largest);
    }
}
