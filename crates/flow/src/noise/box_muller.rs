use super::cephes;

/// Values that torch transforms at a time.
pub(super) const BLOCK: usize = 16;

/// Uniform values in [0, 1) to standard normal ones, in place: value `j` of the first half gives the radius
/// and value `j` of the second half the angle of the normal pair `(j, j + 8)`.
///
/// Source of the layout: `normal_fill_16_AVX2` in torch's `DistributionTemplates.h`.
pub(super) fn transform(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        // 1 - u lies in (0, 1], where a logarithm exists.
        let radius = (-2.0 * cephes::ln(1.0 - *first)).sqrt();
        let (sin, cos) = cephes::sin_cos(std::f32::consts::TAU * *second);
        // torch ends in `* std + mean`. The `+ 0` turns -0 into 0.
        *first = radius * cos + 0.0;
        *second = radius * sin + 0.0;
    }
}
