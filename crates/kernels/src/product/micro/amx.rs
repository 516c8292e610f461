//! AMX: 2 x 2 tiles of sums, fed by two tiles of A and two of B.

use std::arch::asm;

use half::bf16;

use super::super::panels::PANEL;
use super::{Kernel, Tile};

/// Rows of a tile register.
const HALF: usize = 16;
/// Bytes of a row of a tile register.
const LINE: usize = 64;

pub(in super::super) const BF16: Kernel<bf16> =
    Kernel { rows: 2 * HALF, panels: 2, depth: 1536, tiles: true, offset: 0, run: run_bf16 };
pub(in super::super) const INT8: Kernel<i8> =
    Kernel { rows: 2 * HALF, panels: 2, depth: 3072, tiles: true, offset: 0, run: run_int8 };

/// A function that computes a tile with one kind of product. tmm0..3 are sums, tmm4 and 5 rows of A, tmm6 and 7
/// panels of B.
macro_rules! tile_function {
    ($name:ident, $number:ty, $product:literal) => {
        unsafe fn $name(tile: Tile<'_, $number>) {
            // A tile of one panel computes that panel twice; its second half of the sums is not stored.
            let second_panel = if tile.panels == 2 { tile.panel_stride } else { 0 };
            let steps = tile.inner * size_of::<$number>() / LINE;
            // SAFETY: the caller configured tiles of 16 x 64 bytes on this thread and promises that 32 rows of A, the
            // panels of B and 32 rows of sums are valid. Loads read 64 bytes of each row in each step, and the inner
            // width is a whole number of steps, at least one.
            unsafe {
                let second_rows = tile.sums.add(HALF * tile.sum_stride);
                let sum_bytes = tile.sum_stride * size_of::<f32>();
                if tile.accumulate {
                    asm!("tileloadd tmm0, [{s} + {stride}*1]", "tileloadd tmm2, [{t} + {stride}*1]",
                        s = in(reg) tile.sums, t = in(reg) second_rows, stride = in(reg) sum_bytes, options(nostack));
                    if tile.panels == 2 {
                        asm!("tileloadd tmm1, [{s} + {stride}*1]", "tileloadd tmm3, [{t} + {stride}*1]",
                            s = in(reg) tile.sums.add(PANEL), t = in(reg) second_rows.add(PANEL),
                            stride = in(reg) sum_bytes, options(nostack));
                    }
                } else {
                    asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
                }
                let mut prefetch = tile.prefetch;
                for (tap, &offset) in tile.taps.iter().enumerate() {
                    let (a, b) = (tile.a.add(offset), tile.b.add(tap * tile.inner * PANEL));
                    // A step takes the time of four products; fetching four lines of the next panels fits between.
                    asm!(
                        "2:",
                        "prefetcht1 [{p}]",
                        "prefetcht1 [{p} + 64]",
                        "tileloadd tmm4, [{a} + {row}*1]",
                        "tileloadd tmm6, [{b} + {line}*1]",
                        concat!($product, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{c} + {line}*1]",
                        concat!($product, " tmm1, tmm4, tmm7"),
                        "prefetcht1 [{p} + 128]",
                        "prefetcht1 [{p} + 192]",
                        "tileloadd tmm5, [{d} + {row}*1]",
                        concat!($product, " tmm2, tmm5, tmm6"),
                        concat!($product, " tmm3, tmm5, tmm7"),
                        "add {p}, 256",
                        "add {a}, 64",
                        "add {d}, 64",
                        "add {b}, 1024",
                        "add {c}, 1024",
                        "dec {steps}",
                        "jnz 2b",
                        p = inout(reg) prefetch,
                        a = inout(reg) a => _,
                        d = inout(reg) a.add(HALF * tile.row_stride) => _,
                        b = inout(reg) b => _,
                        c = inout(reg) b.add(second_panel) => _,
                        steps = inout(reg) steps => _,
                        row = in(reg) tile.row_stride * size_of::<$number>(),
                        line = in(reg) LINE,
                        options(nostack),
                    );
                }
                asm!("tilestored [{s} + {stride}*1], tmm0", "tilestored [{t} + {stride}*1], tmm2",
                    s = in(reg) tile.sums, t = in(reg) second_rows, stride = in(reg) sum_bytes, options(nostack));
                if tile.panels == 2 {
                    asm!("tilestored [{s} + {stride}*1], tmm1", "tilestored [{t} + {stride}*1], tmm3",
                        s = in(reg) tile.sums.add(PANEL), t = in(reg) second_rows.add(PANEL),
                        stride = in(reg) sum_bytes, options(nostack));
                }
            }
        }
    };
}

tile_function!(run_bf16, bf16, "tdpbf16ps");
tile_function!(run_int8, i8, "tdpbssd");
