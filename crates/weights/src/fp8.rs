//! 8-bit floats of the kind e4m3fn: 1 sign bit, 4 exponent bits (bias 7), 3 mantissa bits, no infinity, and
//! 0x7f and 0xff for "not a number" (Micikevicius et al. 2022, arXiv:2209.05433, table 1).
//!
//! bf16 has more bits of both kinds, so every value is widened exactly.

use half::bf16;

/// The bf16 value of one stored byte.
pub(crate) fn widen(byte: u8) -> bf16 {
    bf16::from_bits(BF16_BITS[usize::from(byte)])
}

/// The stored byte nearest to a value, the even one of two. Values beyond 448, the largest, become that.
pub(crate) fn narrow(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let size = value.abs();
    if size.is_nan() {
        return sign | 0x7f;
    }
    // The exponent of the step between neighbours: 3 bits below the highest, at least that of subnormals.
    let exponent = (i32::try_from(size.to_bits() >> 23).unwrap_or(0) - 127).clamp(-6, 8);
    let steps = (f64::from(size) * f64::from(3 - exponent).exp2()).round_ties_even();
    // A value that rounds up to the next exponent carries into it.
    let byte = f64::from((exponent + 6) * 8) + steps;
    sign | byte.min(f64::from(0x7e)) as u8
}

const BF16_BITS: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = bf16_bits(byte as u16);
        byte += 1;
    }
    table
};

const fn bf16_bits(byte: u16) -> u16 {
    let sign = (byte & 0x80) << 8;
    let exponent = (byte >> 3) & 0xf;
    let mantissa = byte & 0x7;
    if exponent == 0xf && mantissa == 0x7 {
        return sign | 0x7fc0;
    }
    if exponent != 0 {
        // Rebias from 7 to bf16's 127; the mantissa moves to the top of bf16's 7 bits.
        return sign | ((exponent + 120) << 7) | (mantissa << 4);
    }
    if mantissa == 0 {
        return sign;
    }
    // Subnormal, mantissa * 2^-9, which bf16 holds as a normal number: its highest set bit is the implied one.
    let high = 2 - (mantissa.leading_zeros() as u16 - 13);
    let rest = mantissa ^ (1 << high);
    sign | ((high + 118) << 7) | (rest << (7 - high))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in f64.
    fn value(byte: u8) -> f64 {
        let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
        let (exponent, mantissa) = (i32::from((byte >> 3) & 0xf), f64::from(byte & 7));
        match exponent {
            0 => sign * mantissa * 2_f64.powi(-9),
            15 if mantissa == 7.0 => f64::NAN,
            _ => sign * (1.0 + mantissa / 8.0) * 2_f64.powi(exponent - 7),
        }
    }

    #[test]
    fn all_256_values_are_exact() {
        for byte in 0..=u8::MAX {
            let (ours, exact) = (widen(byte).to_f64(), value(byte));
            assert!(ours == exact || ours.is_nan() && exact.is_nan(), "{byte:#04x}: {ours} {exact}");
            assert_eq!(ours.is_sign_negative(), byte & 0x80 != 0, "{byte:#04x}");
        }
    }

    #[test]
    fn every_value_is_stored_as_the_nearest() {
        for byte in (0..=u8::MAX).filter(|byte| byte & 0x7f != 0x7f) {
            assert_eq!(narrow(widen(byte).to_f32()), byte, "{byte:#04x}");
        }
        for step in -2000..2000 {
            let wanted = (step as f32 / 100.0).sinh() * 1e-3;
            let distance = |byte: u8| (value(byte) - f64::from(wanted)).abs();
            let nearest = (0..=u8::MAX).filter(|byte| byte & 0x7f != 0x7f).map(distance).fold(f64::MAX, f64::min);
            assert_eq!(distance(narrow(wanted)), nearest, "{wanted}");
        }
        // Halfway between neighbours: the even one.
        assert_eq!((narrow(1.0625), narrow(1.1875), narrow(2_f32.powi(-10))), (0x38, 0x3a, 0));
        assert_eq!((narrow(1e9), narrow(-1e9), narrow(f32::NAN)), (0x7e, 0xfe, 0x7f));
    }

    #[test]
    fn the_corners_are_those_of_the_paper() {
        assert_eq!(widen(0x7e).to_f32(), 448.0);
        assert_eq!(widen(0x08).to_f32(), 2_f32.powi(-6));
        assert_eq!(widen(0x01).to_f32(), 2_f32.powi(-9));
        assert!(widen(0x7f).is_nan() && widen(0xff).is_nan());
    }
}
