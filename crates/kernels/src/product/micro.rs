//! One tile of sums, once for each instruction set: the inner loops of every product.

use half::bf16;

use crate::Isa;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// What a tile is made from, and where its sums go.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the portable kernel has tiles of one panel"))]
pub(crate) struct Tile<'a, T> {
    /// The first row of A: `rows` of them, `row_stride` numbers apart.
    pub(crate) a: *const T,
    pub(crate) row_stride: usize,
    /// Numbers from `a` to the rows of each tap: a sum runs over all taps. One tap, 0, for a plain product.
    pub(crate) taps: &'a [usize],
    /// The first panel of B: `panels` of them, `panel_stride` numbers apart.
    pub(crate) b: *const T,
    pub(crate) panel_stride: usize,
    /// Of B; at most the kernel's.
    pub(crate) panels: usize,
    /// Inner width of a tap: a multiple of a step, and not 0. B has the taps one after the other.
    pub(crate) inner: usize,
    /// `rows` rows of sums, `sum_stride` apart, 16 for each panel.
    pub(crate) sums: *mut f32,
    pub(crate) sum_stride: usize,
    /// Add to the sums that are there.
    pub(crate) accumulate: bool,
    /// Where the next tile's panels lie, to be fetched meanwhile. Any address will do.
    pub(crate) prefetch: *const T,
}

/// The kernel of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernel<T> {
    /// Rows of A in a tile.
    pub(crate) rows: usize,
    /// Panels of B in a tile.
    pub(crate) panels: usize,
    /// Inner values after which another tile is taken, so that what it reads stays in the first cache.
    pub(crate) depth: usize,
    /// Needs tiles configured on its thread.
    pub(crate) tiles: bool,
    /// What must have been added to the numbers of A.
    pub(crate) offset: i32,
    /// Computes a tile.
    ///
    /// # Safety
    /// The processor has the instructions; every pointer of the tile is valid for what its fields say.
    pub(crate) run: unsafe fn(Tile<'_, T>),
}

/// The f32 kernel of an instruction set.
pub(crate) fn f32_kernel(isa: Isa) -> Kernel<f32> {
    match isa {
        Isa::Portable => portable::F32,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::F32,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => avx512::F32,
        #[cfg(not(target_arch = "x86_64"))]
        _ => portable::F32,
    }
}

/// The bf16 kernel of an instruction set that has one.
pub(crate) fn bf16_kernel(isa: Isa) -> Option<Kernel<bf16>> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => Some(amx::BF16),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => Some(avx512::BF16),
        _ => None,
    }
}

/// The int8 kernel of an instruction set that has one.
pub(super) fn int8_kernel(isa: Isa) -> Option<Kernel<i8>> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => Some(amx::INT8),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => Some(avx512::INT8),
        _ => None,
    }
}

/// Calls the tile function with as many panels as the tile has, known to the compiler.
#[cfg(target_arch = "x86_64")]
macro_rules! by_panels {
    ($tile:ident, $run:ident, $($panels:literal),+) => {
        match $tile.panels {
            $($panels => $run::<$panels>($tile),)+
            panels => unreachable!("a tile of {panels} panels"),
        }
    };
}
#[cfg(target_arch = "x86_64")]
use by_panels;
