use std::fmt;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use rectiflow_kernels::product::{BlockType, Blocks};

/// A matrix `[rows, columns]` in blocks of few bits, as its file has it. Products take it as it is, and so it takes no more
/// memory than the file; a copy of this handle shares it.
#[derive(Clone)]
pub struct BlockMatrix(Arc<Inner>);

struct Inner {
    bytes: LazyLock<Bytes, Box<dyn FnOnce() -> Bytes + Send>>,
    kind: BlockType,
    shape: [usize; 2],
}

impl BlockMatrix {
    /// `read` gives the bytes of the blocks, row after row, when they are first used.
    ///
    /// # Panics
    /// A row is not in whole blocks: a bug of the caller.
    pub fn new(kind: BlockType, shape: [usize; 2], read: impl FnOnce() -> Bytes + Send + 'static) -> Self {
        assert!(shape[1].is_multiple_of(kind.numbers()), "rows of {} in {kind:?}", shape[1]);
        BlockMatrix(Arc::new(Inner { bytes: LazyLock::new(Box::new(read)), kind, shape }))
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.0.shape
    }

    /// # Panics
    /// What was read is not as long as the shape says: a bug of who made this.
    pub(crate) fn blocks(&self) -> Blocks<'_> {
        let Inner { bytes, kind, shape: [rows, columns] } = &*self.0;
        Blocks::new(bytes, *kind, *rows, *columns)
    }

    pub(crate) fn is_same(&self, other: &BlockMatrix) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The numbers that whole blocks stand for.
///
/// # Panics
/// `out` has not the length that the blocks have: a bug of the caller.
pub fn widen_blocks(kind: BlockType, bytes: &[u8], out: &mut [f32]) {
    Blocks::new(bytes, kind, 1, out.len()).widen(crate::ops::isa(), 0, 0, out);
}

impl fmt::Debug for BlockMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockMatrix {:?} {:?}", self.0.kind, self.0.shape)
    }
}
