//! What the tests of several kernels share.

/// Reproducible values in -1..1.
pub(crate) fn values(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Whether a case of so many multiplications is worth its time: under Miri each takes a thousand times as long.
pub(crate) fn is_quick(multiplications: usize) -> bool {
    !cfg!(miri) || multiplications <= 10_000
}

/// Every element within `tolerance` of the exact one.
#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, case: &str) {
    assert_eq!(found.len(), expected.len(), "{case}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= tolerance, "{case}: element {i} is {found} instead of {expected}");
    }
}

/// Leaves NaN in the memory that buffers up to a quarter of a megabyte get next: what kernels must not read.
pub(crate) fn spoil_memory() {
    let mut buffers: Vec<crate::Buffer<f32>> = (1..600).map(|lines| crate::Buffer::reused(lines * 96)).collect();
    buffers.iter_mut().for_each(|numbers| numbers.fill(f32::NAN));
}
