//! The softmax of a row with AVX-512's own instructions for powers of two and for bf16: a third fewer than the plain
//! loop compiles to, in what takes most of an attention's time where tiles multiply.

use std::arch::x86_64::*;

use half::bf16;

/// f32 in a vector.
const LANES: usize = 16;

/// As [`super::forward`]'s plain loop: `e^(scale * (score - maximum))` as bf16, the running maximum and sum, and the
/// factor for what was summed under the old maximum. Shares behind the scores become 0.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn soften(
    scores: &[f32],
    scale: f32,
    shares: &mut [bf16],
    old_maximum: f32,
    old_sum: f32,
) -> (f32, f32, f32) {
    let (pairs, rest) = scores.as_chunks::<{ 2 * LANES }>();
    let mut maxima = [_mm512_set1_ps(old_maximum); 2];
    for scores in pairs {
        let [low, high] = load(scores);
        // The second operand where either is NaN: the maximum so far.
        maxima = [_mm512_max_ps(low, maxima[0]), _mm512_max_ps(high, maxima[1])];
    }
    let larger = |maximum: f32, score: f32| if score > maximum { score } else { maximum };
    let maximum = rest.iter().copied().fold(_mm512_reduce_max_ps(_mm512_max_ps(maxima[0], maxima[1])), larger);

    let power = Power::new(scale, maximum);
    let (whole, tail) = shares.split_at_mut(pairs.len() * 2 * LANES);
    let mut sums = [_mm512_setzero_ps(); 2];
    for (scores, shares) in pairs.iter().zip(whole.as_chunks_mut::<{ 2 * LANES }>().0) {
        let [low, high] = load(scores).map(|scores| power.of(scores));
        sums = [_mm512_add_ps(sums[0], low), _mm512_add_ps(sums[1], high)];
        store(shares, _mm512_cvtne2ps_pbh(high, low));
    }
    let mut sum = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
    // The last scores, with zeros behind them, and as many shares as are left.
    for (index, shares) in tail.chunks_mut(2 * LANES).enumerate() {
        let scores = rest.get(index * 2 * LANES..).unwrap_or(&[]);
        let mut filled = [f32::NEG_INFINITY; 2 * LANES];
        filled[..scores.len()].copy_from_slice(scores);
        let mut powers = [0.0; 2 * LANES];
        for (powers, values) in powers.as_chunks_mut::<LANES>().0.iter_mut().zip(load(&filled)) {
            // SAFETY: 16 f32 are written, at any alignment.
            unsafe { _mm512_storeu_ps(powers.as_mut_ptr(), power.of(values)) };
        }
        powers[scores.len()..].fill(0.0);
        sum += powers.iter().sum::<f32>();
        for (share, power) in shares.iter_mut().zip(powers) {
            *share = crate::vector::to_bf16(power);
        }
    }
    let rescale = if old_sum == 0.0 { 1.0 } else { _mm512_cvtss_f32(power.of(_mm512_set1_ps(old_maximum))) };
    (maximum, old_sum.mul_add(rescale, sum), rescale)
}

#[target_feature(enable = "avx512f")]
fn load(values: &[f32; 2 * LANES]) -> [__m512; 2] {
    // SAFETY: 32 f32 are read, at any alignment.
    unsafe { [_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(LANES))] }
}

#[target_feature(enable = "avx512f")]
fn store(out: &mut [bf16; 2 * LANES], values: __m512bh) {
    // SAFETY: 32 bf16 are written, at any alignment.
    unsafe { out.as_mut_ptr().cast::<__m512bh>().write_unaligned(values) };
}

/// `e^(scale * (x - maximum))` as a power of two.
struct Power {
    /// scale in units of ln 2, and its product with the maximum.
    factor: __m512,
    offset: __m512,
}

impl Power {
    #[target_feature(enable = "avx512f")]
    fn new(scale: f32, maximum: f32) -> Self {
        let factor = scale * std::f32::consts::LOG2_E;
        Power { factor: _mm512_set1_ps(factor), offset: _mm512_set1_ps(factor * maximum) }
    }

    /// `2^y = 2^n 2^f` with |f| <= 1/2, and Taylor's series for `2^f` to the fourth power: its rest is below 5e-5,
    /// a hundredth of what bf16 keeps.
    #[target_feature(enable = "avx512f")]
    fn of(&self, x: __m512) -> __m512 {
        const LN_2: f32 = std::f32::consts::LN_2;
        const COEFFICIENTS: [f32; 4] = [LN_2 * LN_2 * LN_2 / 6.0, LN_2 * LN_2 / 2.0, LN_2, 1.0];
        let y = _mm512_fmsub_ps(x, self.factor, self.offset);
        // So low that the power is nothing, but not infinite; the second operand where it is NaN.
        let y = _mm512_max_ps(_mm512_set1_ps(-126.0), y);
        let n = _mm512_roundscale_ps::<0>(y);
        let f = _mm512_sub_ps(y, n);
        let mut power = _mm512_set1_ps(LN_2 * LN_2 * LN_2 * LN_2 / 24.0);
        for coefficient in COEFFICIENTS {
            power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(coefficient));
        }
        _mm512_scalef_ps(power, n)
    }
}
