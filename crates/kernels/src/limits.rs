//! What the machine can do at most: arithmetic from registers alone, and reading memory.
//!
//! Kernels are measured against these. Every loop here only multiplies, so nothing real can be faster.

use std::time::Instant;

use rayon::prelude::*;

use crate::{Buffer, Isa};

/// What is multiplied. Sums are in f32, or in i32 for int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32.
    F32,
    /// bf16; without instructions for it, f32 multiplies.
    Bf16,
    /// int8; without instructions for it, there is no limit to compare with.
    Int8,
}

/// Loops of the measurement, and how often the best of them is sought: short, since a burst of somebody else's work
/// on the machine must not lower the limit.
const TURNS: u64 = 200_000;
const TRIES: usize = 15;

/// The most operations (two for a multiply-add) a second, all threads of the pool together; `None` where the
/// instruction set has no such product.
///
/// # Panics
/// An instruction set that the machine lacks: a bug of the caller.
pub fn arithmetic(isa: Isa, which: Arithmetic) -> Option<f64> {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    let (turn, operations) = loops(isa, which)?;
    let threads = rayon::current_num_threads();
    let seconds = (0..TRIES).map(|_| {
        let start = Instant::now();
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| turn(TURNS));
        start.elapsed().as_secs_f64()
    });
    let best = seconds.fold(f64::INFINITY, f64::min);
    Some(threads as f64 * TURNS as f64 * operations / best)
}

/// Bytes a second that all threads of the pool read together from `bytes` of memory.
pub fn read_bandwidth(isa: Isa, bytes: usize) -> f64 {
    let memory = Buffer::<f32>::zeroed(bytes / 4);
    let part = memory.len().div_ceil(rayon::current_num_threads()).max(1);
    let seconds = (0..5).map(|_| {
        let start = Instant::now();
        let sum: f32 = memory.par_chunks(part).map(|part| sum(isa, part)).sum();
        std::hint::black_box(sum);
        start.elapsed().as_secs_f64()
    });
    memory.len() as f64 * 4.0 / seconds.fold(f64::INFINITY, f64::min)
}

crate::vector::vectorised! {
    fn sum(values: &[f32]) -> f32 {
        let (whole, rest) = values.as_chunks::<128>();
        let mut strands = [0.0_f32; 128];
        for values in whole {
            for (strand, x) in strands.iter_mut().zip(values) {
                *strand += x;
            }
        }
        strands.iter().sum::<f32>() + rest.iter().sum::<f32>()
    }
}

/// A loop that multiplies, and the operations of one turn.
type Loop = (fn(u64), f64);

#[cfg(not(target_arch = "x86_64"))]
fn loops(_isa: Isa, which: Arithmetic) -> Option<Loop> {
    (which != Arithmetic::Int8).then_some((portable, 12.0 * 4.0 * 2.0))
}

#[cfg(target_arch = "x86_64")]
fn loops(isa: Isa, which: Arithmetic) -> Option<Loop> {
    /// Products that do not wait for each other in one turn.
    const CHAINS: f64 = 16.0;
    Some(match (which, isa) {
        (Arithmetic::Bf16, Isa::Amx) => (x86::amx_bf16, 4.0 * 16.0 * 16.0 * 32.0 * 2.0),
        (Arithmetic::Int8, Isa::Amx) => (x86::amx_int8, 4.0 * 16.0 * 16.0 * 64.0 * 2.0),
        (Arithmetic::Bf16, Isa::Avx512Bf16) => (x86::avx512_bf16, CHAINS * 16.0 * 2.0 * 2.0),
        (Arithmetic::Int8, Isa::Avx512Bf16) => (x86::avx512_int8, CHAINS * 16.0 * 4.0 * 2.0),
        (Arithmetic::Int8, _) => return None,
        (_, Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx) => (x86::avx512_f32, CHAINS * 16.0 * 2.0),
        (_, Isa::Avx2) => (x86::avx2_f32, 12.0 * 8.0 * 2.0),
        (_, Isa::Portable) => (portable, 12.0 * 4.0 * 2.0),
    })
}

fn portable(turns: u64) {
    let mut sums = [[0.0_f32; 4]; 12];
    let factor = std::hint::black_box(0.5_f32);
    for _ in 0..turns {
        for sums in &mut sums {
            for sum in sums {
                *sum = *sum * factor + factor;
            }
        }
    }
    std::hint::black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const CHAINS: usize = 16;

    macro_rules! register_loop {
        ($name:ident, $inner:ident, $features:literal, $chains:expr, $zero:expr, $factor:expr, $turn:expr) => {
            pub(super) fn $name(turns: u64) {
                #[target_feature(enable = $features)]
                fn $inner(turns: u64) {
                    let factor = $factor;
                    let mut sums = [$zero; $chains];
                    for _ in 0..turns {
                        for sum in &mut sums {
                            *sum = $turn(*sum, factor);
                        }
                    }
                    black_box(sums);
                }
                // SAFETY: `arithmetic` checked that the machine has the instruction set.
                unsafe { $inner(turns) }
            }
        };
    }

    register_loop!(
        avx2_f32,
        avx2_f32_inner,
        "avx2,fma",
        12,
        _mm256_setzero_ps(),
        _mm256_set1_ps(black_box(0.5)),
        |s, f| { _mm256_fmadd_ps(f, f, s) }
    );
    register_loop!(
        avx512_f32,
        avx512_f32_inner,
        "avx512f",
        CHAINS,
        _mm512_setzero_ps(),
        _mm512_set1_ps(black_box(0.5)),
        |s, f| { _mm512_fmadd_ps(f, f, s) }
    );
    register_loop!(
        avx512_int8,
        avx512_int8_inner,
        "avx512f,avx512vnni",
        CHAINS,
        _mm512_setzero_si512(),
        _mm512_set1_epi32(black_box(0)),
        |s, f| _mm512_dpbusd_epi32(s, f, f)
    );

    pub(super) fn avx512_bf16(turns: u64) {
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn inner(turns: u64) {
            // SAFETY: both are vectors of 64 bytes, and every bit pattern is a value of either.
            let factor: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(black_box(0))) };
            let mut sums = [_mm512_setzero_ps(); CHAINS];
            for _ in 0..turns {
                for sum in &mut sums {
                    *sum = _mm512_dpbf16_ps(*sum, factor, factor);
                }
            }
            black_box(sums);
        }
        // SAFETY: `arithmetic` checked that the machine has the instruction set.
        unsafe { inner(turns) }
    }

    pub(super) fn amx_bf16(turns: u64) {
        let _tiles = crate::tiles::Tiles::configure();
        // SAFETY: tiles are configured on this thread; the loop touches registers only.
        unsafe {
            asm!(
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) turns => _,
                options(nostack, nomem),
            );
        }
    }

    pub(super) fn amx_int8(turns: u64) {
        let _tiles = crate::tiles::Tiles::configure();
        // SAFETY: tiles are configured on this thread; the loop touches registers only.
        unsafe {
            asm!(
                "2:",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) turns => _,
                options(nostack, nomem),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "too slow")]
    fn every_loop_runs_and_gives_a_rate() {
        for isa in Isa::available() {
            for which in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                assert!(arithmetic(isa, which).is_none_or(|rate| rate > 1e8 && rate.is_finite()), "{isa} {which:?}");
            }
            assert!(arithmetic(isa, Arithmetic::Bf16).is_some());
        }
        assert!(read_bandwidth(Isa::best(), 1 << 24) > 1e8);
    }
}
