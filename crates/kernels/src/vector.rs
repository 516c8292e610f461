//! Plain loops compiled once for each instruction set, and the functions those loops are made of.
//!
//! Nothing here names an instruction: the compiler vectorises the loops with what it is allowed to use.

use half::{bf16, f16};

/// Defines a function that takes an [`Isa`](crate::Isa) first and runs a body compiled for it.
///
/// In the body, `FMA` says whether a multiply-add is one instruction.
macro_rules! vectorised {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident $(<$($generic:ident: $bound:path),*>)? (
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $output:ty)? $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name $(<$($generic: $bound),*>)? (isa: $crate::Isa, $($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters, reason = "not every body needs FMA")]
            fn body<const FMA: bool $(, $($generic: $bound),*)?>($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$($generic: $bound),*>)? ($($argument: $type),*) $(-> $output)? {
                body::<true $(, $($generic),*)?>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<$($generic: $bound),*>)? ($($argument: $type),*) $(-> $output)? {
                body::<true $(, $($generic),*)?>($($argument),*)
            }

            assert!(isa <= $crate::Isa::best(), "{isa} on a processor without it");
            match isa {
                $crate::Isa::Portable => {
                    body::<{ cfg!(target_arch = "aarch64") } $(, $($generic),*)?>($($argument),*)
                }
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the assertion above: the processor has these instructions.
                $crate::Isa::Avx2 => unsafe { avx2 $(::<$($generic),*>)? ($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                _ => unsafe { avx512 $(::<$($generic),*>)? ($($argument),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => unreachable!("only x86-64 has more than the portable set"),
            }
        }
    };
}
pub(crate) use vectorised;

vectorised! {
    /// Adds `x` to `sums`, value by value.
    pub(crate) fn add(sums: &mut [f32], x: &[f32]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x;
        }
    }
}

vectorised! {
    /// Multiplies with `factors`, value by value.
    pub(crate) fn multiply(values: &mut [f32], factors: &[f32]) {
        for (x, factor) in values.iter_mut().zip(factors) {
            *x *= factor;
        }
    }
}

vectorised! {
    /// Adds the products of `a` and `b` to `sums`, value by value.
    pub(crate) fn add_products(sums: &mut [f32], a: &[f32], b: &[f32]) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = multiply_add::<FMA>(*a, *b, *sum);
        }
    }
}

/// `a * b + c`, rounded once where the machine can.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` to 2 units in the last place; 0 below -87.7, infinite above 88.3, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const HIGHEST: f32 = 89.0;
    // A comparison, not `min`: that would lose a NaN.
    exp_below::<FMA, 7>(if x > HIGHEST { HIGHEST } else { x })
}

/// `e^x` for x up to 88, by a polynomial of a degree up to 7.
///
/// `e^x = 2^n e^r` with `|r| <= ln(2) / 2`, and Taylor's series for `e^r`: its rest is below 2e-9 for degree 7, where
/// rounding matters more, and 5e-5 for degree 4, which is enough for what is then rounded to bf16.
#[inline(always)]
pub(crate) fn exp_below<const FMA: bool, const DEGREE: usize>(x: f32) -> f32 {
    const LOWEST: f32 = -88.0;
    /// Adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_145_75;
    const LN_2_LOW: f32 = 1.428_606_8e-6;
    const INVERSE_FACTORIALS: [f32; 8] = [1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    let x = if x < LOWEST { LOWEST } else { x };
    let rounded = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = multiply_add::<FMA>(n, -LN_2_LOW, multiply_add::<FMA>(n, -LN_2_HIGH, x));
    let mut power = INVERSE_FACTORIALS[DEGREE];
    for degree in (0..DEGREE).rev() {
        power = multiply_add::<FMA>(power, r, INVERSE_FACTORIALS[degree]);
    }
    // 2^n by its exponent bits: 0 for n = -127, infinite for 128.
    let scale = f32::from_bits(rounded.to_bits().wrapping_shl(23).wrapping_add(127 << 23));
    power * scale
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The error function to 1.5e-7. Source: Abramowitz and Stegun 1964, formula 7.1.26.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let t = 1.0 / multiply_add::<FMA>(0.327_591_1, x.abs(), 1.0);
    let mut sum = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        sum = multiply_add::<FMA>(sum, t, coefficient);
    }
    let positive = 1.0 - sum * t * exp::<FMA>(-x * x);
    positive.copysign(x)
}

/// The nearest bf16, ties to even; NaN stays NaN. Without branches, so that loops over it vectorise.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // The quiet bit keeps a NaN whose low half is cut from becoming infinite.
    let nan = bits >> 16 | 0x40;
    bf16::from_bits(if x.is_nan() { nan as u16 } else { rounded as u16 })
}

/// [`to_bf16`] of each, with the instruction for it where there is one (which takes subnormal numbers for 0).
pub(crate) fn round_to_bf16(isa: crate::Isa, values: &[f32], out: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= crate::Isa::Avx512Bf16 {
        assert!(isa <= crate::Isa::best(), "{isa} on a processor without it");
        // SAFETY: the assertion above: the processor has these instructions.
        return unsafe { round_to_bf16_avx512(values, out) };
    }
    round_each_to_bf16(isa, values, out);
}

vectorised! {
    fn round_each_to_bf16(values: &[f32], out: &mut [bf16]) {
        for (out, x) in out.iter_mut().zip(values) {
            *out = to_bf16(*x);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round_to_bf16_avx512(values: &[f32], out: &mut [bf16]) {
    use std::arch::x86_64::{__m256bh, _mm512_cvtneps_pbh, _mm512_loadu_ps};
    let (whole, rest) = values.as_chunks::<16>();
    let (out_whole, out_rest) = out.split_at_mut(whole.len() * 16);
    for (values, out) in whole.iter().zip(out_whole.as_chunks_mut::<16>().0) {
        // SAFETY: 16 f32 are read and 16 bf16 written, at any alignment; either vector has as many bits.
        unsafe {
            let rounded: __m256bh = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
            out.as_mut_ptr().cast::<__m256bh>().write_unaligned(rounded);
        }
    }
    for (out, x) in out_rest.iter_mut().zip(rest) {
        *out = to_bf16(*x);
    }
}

/// The same number.
#[inline(always)]
pub(crate) fn from_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// The same number. By shifts and one product, so that a loop over it vectorises without the instruction for it: the exponents of
/// both types differ by 112, and multiplying by 2^112 also sets subnormals right.
#[inline(always)]
pub(crate) fn from_f16(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let sign = (bits & 0x8000) << 16;
    let magnitude = (bits & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    // Infinity and NaN have all exponent bits set in either type.
    let special = f32::from_bits(magnitude | 0x7f80_0000);
    let positive = if magnitude >= 0x7c00 << 13 { special } else { scaled };
    f32::from_bits(positive.to_bits() | sign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    vectorised! {
        fn exp_all(x: &mut [f32]) {
            for x in x {
                *x = exp::<FMA>(*x);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow")]
    fn exp_is_right_to_two_units_everywhere_it_is_finite() {
        for isa in Isa::available() {
            let inputs: Vec<f32> = (0..200_000).map(|i| -87.0 + i as f32 * (175.3 / 200_000.0)).collect();
            let mut found = inputs.clone();
            exp_all(isa, &mut found);
            for (x, found) in inputs.iter().zip(found) {
                let exact = f64::from(*x).exp();
                let error = (f64::from(found) - exact).abs() / exact;
                assert!(error < 2.4e-7, "{isa}: exp({x}) = {found} instead of {exact}");
            }
        }
    }

    #[test]
    fn exp_of_the_ends() {
        for isa in Isa::available() {
            let mut x = [f32::NEG_INFINITY, -1e30, -104.0, 0.0, 1e30, f32::INFINITY, f32::NAN];
            exp_all(isa, &mut x);
            assert_eq!(x[..6], [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY], "{isa}");
            assert!(x[6].is_nan());
        }
    }

    #[test]
    fn erf_is_right_to_its_promise() {
        // Values of the error function, from tables.
        for (x, exact) in [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (-2.0, -0.995_322_3), (6.0, 1.0)] {
            assert!((erf::<false>(x) - exact).abs() < 2.5e-7, "erf({x}) = {}", erf::<false>(x));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow")]
    fn bf16_rounds_as_the_half_crate_does() {
        let specials = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45];
        let swept = (0..1_000_000_u32).map(|i| f32::from_bits(i.wrapping_mul(4_294_967)));
        for x in specials.into_iter().chain(swept).filter(|x| !x.is_nan()) {
            assert_eq!(to_bf16(x).to_bits(), bf16::from_f32(x).to_bits(), "{x:e}");
        }
        assert!(from_bf16(to_bf16(f32::from_bits(0x7f80_0001))).is_nan());
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow")]
    fn slices_round_as_single_numbers_do() {
        let values: Vec<f32> = (0..100_003_u32)
            .map(|i| f32::from_bits(i.wrapping_mul(42_949_673)))
            .filter(|x| !x.is_subnormal() && !x.is_nan())
            .chain([f32::INFINITY, f32::NEG_INFINITY, -0.0])
            .collect();
        let one_by_one: Vec<bf16> = values.iter().map(|&x| to_bf16(x)).collect();
        for isa in Isa::available() {
            let mut out = vec![bf16::ZERO; values.len()];
            round_to_bf16(isa, &values, &mut out);
            assert!(out.iter().zip(&one_by_one).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa}");
            let mut nan = [bf16::ZERO; 20];
            round_to_bf16(isa, &[f32::NAN; 20], &mut nan);
            assert!(nan.iter().all(|x| x.is_nan()), "{isa}");
        }
    }
}
