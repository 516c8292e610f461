//! The normal distribution: its distribution function and quantiles, to f64's precision.
//!
//! Nothing here draws.

use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

/// Standard normal density at `x`.
pub(super) fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// The share of a standard normal that lies below `x`, with a small relative error far below the mean too.
pub(super) fn cumulative(x: f64) -> f64 {
    0.5 * erfc(-x / SQRT_2)
}

/// The `x` below which a share `u` of a standard normal lies. 0 and 1 give the infinities.
pub(super) fn quantile(u: f64) -> f64 {
    // From 1/2 upwards, 1 - u is exact.
    if u > 0.5 { -lower_quantile(1.0 - u) } else { lower_quantile(u) }
}

/// [`quantile`] for `u` of at most 1/2.
fn lower_quantile(u: f64) -> f64 {
    if u <= 0.0 {
        return f64::NEG_INFINITY;
    }
    // Abramowitz and Stegun 26.2.23: off by less than 4.5e-4.
    let t = (-2.0 * u.ln()).sqrt();
    let start = (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))) - t;
    // Halley's step for cumulative(x) = u, whose second derivative is -x times its first; it triples the digits.
    (0..3).fold(start, |x, _| {
        let newton = (cumulative(x) - u) / density(x);
        if newton.is_finite() { x - newton / (1.0 + 0.5 * x * newton) } else { x }
    })
}

/// 1 minus the error function.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        2.0 - erfc(-x)
    } else if x < 2.0 {
        1.0 - erf_series(x)
    } else {
        erfc_fraction(x)
    }
}

/// `erf x = 2/sqrt(pi) e^(-x^2) sum over n of 2^n x^(2n+1) / (1 3 .. (2n+1))` (Abramowitz and Stegun 7.1.6): all terms
/// have one sign, so nothing cancels.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term > sum * f64::EPSILON / 4.0 {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `erfc x = e^(-x^2) / sqrt(pi) / (x + (1/2)/(x + (2/2)/(x + (3/2)/(x + ..))))` (Abramowitz and Stegun 7.1.14), from the
/// inside out. 120 fractions are enough from 2 upwards: 60 give the same to 1e-13.
fn erfc_fraction(x: f64) -> f64 {
    let below = (1..=120).rev().fold(x, |below, n| x + 0.5 * f64::from(n) / below);
    (-x * x).exp() / PI.sqrt() / below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-12, "{found:e}, expected {expected:e}");
    }

    /// Values of mpmath at 30 digits.
    #[test]
    fn erfc_is_the_published_function() {
        close(erfc(0.1), 0.887_537_083_981_715);
        close(erfc(0.5), 0.479_500_122_186_953_5);
        close(erfc(1.0), 0.157_299_207_050_285_13);
        close(erfc(1.999), 0.004_698_443_348_629_49);
        close(erfc(2.0), 0.004_677_734_981_047_266);
        close(erfc(5.0), 1.537_459_794_428_035e-12);
        close(erfc(-1.0), 1.842_700_792_949_715);
    }

    /// The same source.
    #[test]
    fn quantiles_are_the_published_ones() {
        close(quantile(0.975), 1.959_963_984_540_054_2);
        close(quantile(0.9), 1.281_551_565_544_600_5);
        close(quantile(0.25), -0.674_489_750_196_081_7);
        close(quantile(1e-5), -4.264_890_793_922_825);
        close(quantile(1e-300), -37.047_096_299_361_2);
        assert!(quantile(0.5).abs() < 1e-15, "{}", quantile(0.5));
    }

    #[test]
    fn a_quantile_has_its_share_below() {
        for u in [1e-300, 1e-100, 1e-20, 1e-6, 0.01, 0.02425, 0.3, 0.5, 0.7, 0.99, 0.999_999] {
            close(cumulative(quantile(u)), u);
        }
        assert_eq!((quantile(0.0), quantile(1.0)), (f64::NEG_INFINITY, f64::INFINITY));
    }
}
