//! AVX-512: 8 rows of 48 columns fill 24 of the 32 registers, with f32 products or products of bf16 pairs.
#![allow(clippy::needless_range_loop, reason = "rows and panels of registers, unrolled: the index says which")]

use std::arch::x86_64::*;

use half::bf16;

use super::super::panels::PANEL;
use super::{Kernel, Tile, by_panels};

const ROWS: usize = 8;

pub(in super::super) const F32: Kernel<f32> =
    Kernel { rows: ROWS, panels: 3, depth: 256, tiles: false, offset: 0, run: run_f32 };
pub(in super::super) const BF16: Kernel<bf16> =
    Kernel { rows: ROWS, panels: 3, depth: 512, tiles: false, offset: 0, run: run_bf16 };

/// `vpdpbusd` multiplies unsigned by signed numbers, so A is moved up by half its range.
pub(in super::super) const INT8: Kernel<i8> =
    Kernel { rows: ROWS, panels: 3, depth: 1024, tiles: false, offset: 128, run: run_int8 };

unsafe fn run_f32(tile: Tile<'_, f32>) {
    // SAFETY: the caller's promises, passed on.
    unsafe { by_panels!(tile, f32_panels, 1, 2, 3) }
}

unsafe fn run_bf16(tile: Tile<'_, bf16>) {
    // SAFETY: the caller's promises, passed on.
    unsafe { by_panels!(tile, bf16_panels, 1, 2, 3) }
}

unsafe fn run_int8(tile: Tile<'_, i8>) {
    // SAFETY: the caller's promises, passed on.
    unsafe { by_panels!(tile, int8_panels, 1, 2, 3) }
}

/// The sums of a tile, in registers.
type Sums<const PANELS: usize> = [[__m512; PANELS]; ROWS];

#[inline(always)]
unsafe fn load<T, const PANELS: usize>(tile: &Tile<'_, T>) -> Sums<PANELS> {
    // SAFETY: the caller has AVX-512, and the sums are valid for reads.
    unsafe {
        std::array::from_fn(|row| {
            std::array::from_fn(|panel| match tile.accumulate {
                true => _mm512_loadu_ps(tile.sums.add(row * tile.sum_stride + panel * PANEL)),
                false => _mm512_setzero_ps(),
            })
        })
    }
}

#[inline(always)]
unsafe fn store<T, const PANELS: usize>(tile: &Tile<'_, T>, sums: Sums<PANELS>) {
    // SAFETY: the caller has AVX-512, and the sums are valid for writes.
    unsafe {
        for (row, sums) in sums.into_iter().enumerate() {
            for (panel, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(tile.sums.add(row * tile.sum_stride + panel * PANEL), sum);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn f32_panels<const PANELS: usize>(tile: Tile<'_, f32>) {
    // SAFETY: the caller's promise about the tile's pointers.
    unsafe {
        let mut sums: Sums<PANELS> = load(&tile);
        for (tap, &offset) in tile.taps.iter().enumerate() {
            let (a, b) = (tile.a.add(offset), tile.b.add(tap * tile.inner * PANEL));
            for k in 0..tile.inner {
                let b: [__m512; PANELS] =
                    std::array::from_fn(|panel| _mm512_loadu_ps(b.add(panel * tile.panel_stride + k * PANEL)));
                for row in 0..ROWS {
                    let a = _mm512_set1_ps(*a.add(row * tile.row_stride + k));
                    for panel in 0..PANELS {
                        sums[row][panel] = _mm512_fmadd_ps(a, b[panel], sums[row][panel]);
                    }
                }
            }
        }
        store(&tile, sums);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_panels<const PANELS: usize>(tile: Tile<'_, bf16>) {
    // SAFETY: the caller's promise about the tile's pointers. A pair of bf16 is read as one unaligned i32, and
    // `__m512bh` is a vector of 32 bf16, so the transmutes keep every bit.
    unsafe {
        let mut sums: Sums<PANELS> = load(&tile);
        for (tap, &offset) in tile.taps.iter().enumerate() {
            let (a, b) = (tile.a.add(offset), tile.b.add(tap * tile.inner * PANEL));
            for k in (0..tile.inner).step_by(2) {
                let b: [__m512bh; PANELS] = std::array::from_fn(|panel| {
                    let pairs = b.add(panel * tile.panel_stride + k * PANEL);
                    std::mem::transmute(_mm512_loadu_si512(pairs.cast()))
                });
                for row in 0..ROWS {
                    let pair = a.add(row * tile.row_stride + k).cast::<i32>().read_unaligned();
                    let a: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair));
                    for panel in 0..PANELS {
                        sums[row][panel] = _mm512_dpbf16_ps(sums[row][panel], a, b[panel]);
                    }
                }
            }
        }
        store(&tile, sums);
    }
}

/// The sums are 32-bit integers, kept in the bits of f32.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8_panels<const PANELS: usize>(tile: Tile<'_, i8>) {
    // SAFETY: the caller's promise about the tile's pointers. Four numbers are read as one unaligned i32.
    unsafe {
        let start: Sums<PANELS> = load(&tile);
        let mut sums = start.map(|row| row.map(|sum| _mm512_castps_si512(sum)));
        for (tap, &offset) in tile.taps.iter().enumerate() {
            let (a, b) = (tile.a.add(offset), tile.b.add(tap * tile.inner * PANEL));
            for k in (0..tile.inner).step_by(4) {
                let b: [__m512i; PANELS] = std::array::from_fn(|panel| {
                    _mm512_loadu_si512(b.add(panel * tile.panel_stride + k * PANEL).cast())
                });
                for row in 0..ROWS {
                    let quad = a.add(row * tile.row_stride + k).cast::<i32>().read_unaligned();
                    let a = _mm512_set1_epi32(quad);
                    for panel in 0..PANELS {
                        sums[row][panel] = _mm512_dpbusd_epi32(sums[row][panel], a, b[panel]);
                    }
                }
            }
        }
        store(&tile, sums.map(|row| row.map(|sum| _mm512_castsi512_ps(sum))));
    }
}
