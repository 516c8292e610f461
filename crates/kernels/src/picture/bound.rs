//! Numbers kept between two bounds, and the gradient of that.

use rayon::prelude::*;

use crate::Isa;
use crate::vector::vectorised;

/// Numbers that a thread takes at once.
const AT_ONCE: usize = 1 << 14;

/// `out = min(max(x, low), high)`; what is not a number stays so.
///
/// # Panics
/// Other lengths: a bug of the caller.
pub fn bound(isa: Isa, x: &[f32], [low, high]: [f32; 2], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "numbers to bound");
    let chunks = out.par_chunks_mut(AT_ONCE).zip(x.par_chunks(AT_ONCE));
    chunks.for_each(|(out, x)| bound_chunk(isa, x, low, high, out));
}

/// The gradient of x, from the result of [`bound`] and its gradient: none where the result is a bound.
///
/// # Panics
/// Other lengths: a bug of the caller.
pub fn bound_gradient(isa: Isa, result: &[f32], [low, high]: [f32; 2], gradient: &[f32], out: &mut [f32]) {
    assert_eq!([result.len(), gradient.len()], [out.len(); 2], "numbers that were bounded");
    let chunks = result.par_chunks(AT_ONCE).zip(gradient.par_chunks(AT_ONCE));
    let chunks = out.par_chunks_mut(AT_ONCE).zip(chunks);
    chunks.for_each(|(out, (result, gradient))| gradient_chunk(isa, result, low, high, gradient, out));
}

vectorised! {
    fn bound_chunk(x: &[f32], low: f32, high: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            // Comparisons, not `max` and `min`: those would lose a NaN.
            let x = if *x < low { low } else { *x };
            *out = if x > high { high } else { x };
        }
    }
}

vectorised! {
    fn gradient_chunk(result: &[f32], low: f32, high: f32, gradient: &[f32], out: &mut [f32]) {
        for ((out, result), gradient) in out.iter_mut().zip(result).zip(gradient) {
            *out = if *result > low && *result < high { *gradient } else { 0.0 };
        }
    }
}
