//! Factors that are packed for one product.

use rayon::prelude::*;

use super::blocks::{Blocks, pack_blocks};
use super::matrix::Matrix;
use super::panels::{PANEL, Packed, PackedShape, pack_panels};
use crate::Isa;

/// A factor that is not packed.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum Loose<'a> {
    Plain(Matrix<'a>),
    Blocks(Blocks<'a>),
}

impl Loose<'_> {
    /// Its sizes as a packed factor.
    pub(super) fn shape(&self) -> PackedShape {
        match self {
            Loose::Plain(b) => PackedShape { columns: b.rows, inner: b.columns },
            Loose::Blocks(b) => {
                let [columns, inner] = b.sizes();
                PackedShape { columns, inner }
            }
        }
    }

    /// All of it, packed, on all threads of the pool.
    pub(super) fn pack<T: Packed>(&self, isa: Isa, out: &mut [T]) {
        match self {
            Loose::Plain(b) => self.shape().pack(isa, *b, out),
            Loose::Blocks(b) => {
                let length = self.shape().panel_len();
                let panels = out.par_chunks_mut(length.max(1)).enumerate();
                panels.for_each(|(panel, out)| pack_blocks(isa, b, [panel * PANEL, 0], length, out));
            }
        }
    }

    /// Some panels, and of each some inner values, packed.
    pub(super) fn pack_part<T: Packed>(
        &self,
        isa: Isa,
        [panel, panels]: [usize; 2],
        [inner, depth]: [usize; 2],
        out: &mut [T],
    ) {
        let (first, length) = (panel * PANEL, depth * PANEL);
        match self {
            Loose::Blocks(b) => pack_blocks(isa, b, [first, inner], length, out),
            Loose::Plain(b) => {
                let sizes = [(panels * PANEL).min(b.rows - first), depth.min(b.columns - inner)];
                let start = first * b.row_stride + inner * b.column_stride;
                let part = Matrix::strided(b.values.after(start), sizes, [b.row_stride, b.column_stride]);
                pack_panels(isa, &part, 0, length, out);
            }
        }
    }
}
