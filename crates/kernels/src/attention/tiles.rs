use crate::product::{Kernel, PANEL, STEP, Tile, lines};

/// Between rows of scratch that tiles read, so that they do not all fall on the same cache lines.
pub(super) const GAP: usize = STEP;

/// The factors of [`tiles`].
pub(super) struct Factors<'a, T> {
    pub(super) a: &'a [T],
    pub(super) a_stride: usize,
    pub(super) b: &'a [T],
    pub(super) first_panel: usize,
    pub(super) panels: usize,
    pub(super) panel_stride: usize,
    /// Inner value of B at which the product begins.
    pub(super) start: usize,
    pub(super) inner: usize,
    pub(super) accumulate: bool,
}

/// A product of `rows` rows, tile by tile.
///
/// # Safety
/// The machine has the kernel's instructions, and tiles are configured on this thread where the kernel needs them. The
/// inner width is whole steps.
///
/// # Panics
/// `a` or `sums` has no whole tiles of rows, or the panels hold less than `start + inner` values for each column.
pub(super) unsafe fn tiles<T>(
    kernel: &Kernel<T>,
    rows: usize,
    factors: &Factors<'_, T>,
    sums: &mut [f32],
    sum_stride: usize,
) {
    // Tiles of equal width: a narrow last one would leave most registers idle.
    let across = factors.panels.div_ceil(kernel.panels);
    let width = factors.panels.div_ceil(across);
    for first in (0..factors.panels).step_by(width) {
        let panels = width.min(factors.panels - first);
        let panel = (factors.first_panel + first) * factors.panel_stride + factors.start * PANEL;
        for row in (0..rows).step_by(kernel.rows) {
            let sums = &mut sums[row * sum_stride + first * PANEL..];
            let tile = Tile {
                a: lines(factors.a, row * factors.a_stride, factors.a_stride, kernel.rows, factors.inner),
                row_stride: factors.a_stride,
                taps: &[0],
                b: lines(factors.b, panel, factors.panel_stride, panels, factors.inner * PANEL),
                panel_stride: factors.panel_stride,
                panels,
                inner: factors.inner,
                sums: sums[..(kernel.rows - 1) * sum_stride + panels * PANEL].as_mut_ptr(),
                sum_stride,
                accumulate: factors.accumulate,
                prefetch: factors.b.as_ptr(),
            };
            // SAFETY: the caller's promise; `lines` and the slice of `sums` checked that a whole tile may be read and
            // written.
            unsafe { (kernel.run)(tile) };
        }
    }
}
