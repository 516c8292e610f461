//! AVX2 with FMA: 6 rows of 16 columns fill 12 of the 16 registers.
#![allow(clippy::needless_range_loop, reason = "rows and panels of registers, unrolled: the index says which")]

use std::arch::x86_64::*;

use super::super::panels::PANEL;
use super::{Kernel, Tile};

const ROWS: usize = 6;

pub(in super::super) const F32: Kernel<f32> =
    Kernel { rows: ROWS, panels: 1, depth: 256, tiles: false, offset: 0, run };

#[target_feature(enable = "avx2,fma")]
unsafe fn run(tile: Tile<'_, f32>) {
    // SAFETY: the caller's promise about the tile's pointers.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        let place = |row: usize, half: usize| tile.sums.add(row * tile.sum_stride + half * 8);
        if tile.accumulate {
            for row in 0..ROWS {
                sums[row] = [_mm256_loadu_ps(place(row, 0)), _mm256_loadu_ps(place(row, 1))];
            }
        }
        for (tap, &offset) in tile.taps.iter().enumerate() {
            let (a, b) = (tile.a.add(offset), tile.b.add(tap * tile.inner * PANEL));
            for k in 0..tile.inner {
                let b = b.add(k * PANEL);
                let b = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for row in 0..ROWS {
                    let a = _mm256_broadcast_ss(&*a.add(row * tile.row_stride + k));
                    for half in 0..2 {
                        sums[row][half] = _mm256_fmadd_ps(a, b[half], sums[row][half]);
                    }
                }
            }
        }
        for row in 0..ROWS {
            for half in 0..2 {
                _mm256_storeu_ps(place(row, half), sums[row][half]);
            }
        }
    }
}
