//! Plain loops. On 64-bit Arm they become NEON.

use super::super::panels::PANEL;
use super::{Kernel, Tile};

const ROWS: usize = 4;

pub(in super::super) const F32: Kernel<f32> =
    Kernel { rows: ROWS, panels: 1, depth: 256, tiles: false, offset: 0, run };

unsafe fn run(tile: Tile<'_, f32>) {
    // SAFETY: the caller's promise about the tile's pointers.
    unsafe {
        let mut sums = [[0.0_f32; PANEL]; ROWS];
        if tile.accumulate {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = tile.sums.add(row * tile.sum_stride).cast::<[f32; PANEL]>().read();
            }
        }
        for (tap, &offset) in tile.taps.iter().enumerate() {
            let (a, b) = (tile.a.add(offset), tile.b.add(tap * tile.inner * PANEL));
            for k in 0..tile.inner {
                let b = &*b.add(k * PANEL).cast::<[f32; PANEL]>();
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = *a.add(row * tile.row_stride + k);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = crate::vector::multiply_add::<{ cfg!(target_arch = "aarch64") }>(a, *b, *sum);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            tile.sums.add(row * tile.sum_stride).cast::<[f32; PANEL]>().write(*sums);
        }
    }
}
