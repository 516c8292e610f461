//! The single-precision logarithm, sine and cosine of S. Moshier's Cephes library (`logf.c`, `sinf.c`), with
//! the rounding that torch's AVX2 build gives them: its `avx_mathfun.h` spells a product and a sum, and the
//! compiler joins them into one fused operation wherever `mul_add` stands below. Change no operation here: any
//! algebraically equal form is another number in the last bit.
//!
//! Not for general use: only the arguments that Box-Muller needs are handled.
#![expect(clippy::excessive_precision, reason = "coefficients as Cephes prints them")]

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// ln 2 in two parts; a small whole number times the first is exact.
const LN_2: [f32; 2] = [0.693359375, -2.12194440e-4];
/// pi / 4 in three parts; a small whole number times each of the first two is exact.
const QUARTER_PI: [f32; 3] = [0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8];

/// ln(1 + m) = m - m^2 / 2 + m^3 P(m), highest power of P first.
const LN: [f32; 9] = [
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
];
/// sin(x) = x + x^3 P(x^2) for |x| <= pi/4, highest power of P first.
const SIN: [f32; 3] = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1];
/// cos(x) = 1 - x^2 / 2 + x^4 P(x^2) for |x| <= pi/4, highest power of P first.
const COS: [f32; 3] = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2];

/// Natural logarithm of a positive normal number.
pub(super) fn ln(x: f32) -> f32 {
    // x = m 2^exponent with m in [1/2, 1), then m in [1/sqrt 2, sqrt 2) and less 1.
    let m = f32::from_bits(x.to_bits() & 0x007f_ffff | 0x3f00_0000);
    let exponent = (x.to_bits() >> 23) as f32 - 126.0;
    let (m, exponent) = if m < FRAC_1_SQRT_2 { (m - 1.0 + m, exponent - 1.0) } else { (m - 1.0, exponent) };

    let square = m * m;
    let cubic = (polynomial(&LN, m) * m).mul_add(square, exponent * LN_2[1]);
    let tail = square.mul_add(-0.5, cubic);
    exponent.mul_add(LN_2[0], m + tail)
}

/// Sine and cosine of an angle in [0, 2 pi].
pub(super) fn sin_cos(angle: f32) -> (f32, f32) {
    // The multiple of pi/2 nearest to the angle, then what is left of the angle beside it.
    let eighths = (angle * (2.0 * FRAC_2_PI)) as u32;
    let quarter = eighths.div_ceil(2);
    let turned = (2 * quarter) as f32;
    let x = QUARTER_PI.iter().fold(angle, |x, part| turned.mul_add(-part, x));

    let square = x * x;
    let sin = (polynomial(&SIN, square) * square).mul_add(x, x);
    let cos = (polynomial(&COS, square) * square).mul_add(square, -0.5 * square) + 1.0;
    match quarter % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Horner's rule.
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    coefficients[1..].iter().fold(coefficients[0], |sum, &next| sum.mul_add(x, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_is_right_at_every_uniform_value() {
        for k in 1..=1_u32 << 24 {
            let u = k as f32 / (1_u32 << 24) as f32;
            let exact = f64::from(u).ln();
            let error = (f64::from(ln(u)) - exact).abs();
            assert!(error <= 1e-7 * exact.abs(), "ln {u}: {error:e}");
        }
    }

    #[test]
    fn sine_and_cosine_are_right_at_every_uniform_angle() {
        for k in 0..1_u32 << 24 {
            let angle = std::f32::consts::TAU * (k as f32 / (1_u32 << 24) as f32);
            let (exact_sin, exact_cos) = f64::from(angle).sin_cos();
            let (sin, cos) = sin_cos(angle);
            let error = (f64::from(sin) - exact_sin).abs().max((f64::from(cos) - exact_cos).abs());
            assert!(error <= 1e-7, "angle {angle}: {error:e}");
        }
    }
}
