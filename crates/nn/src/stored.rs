use std::fmt;
use std::sync::Arc;

use burn::tensor::TensorData;

use crate::BlockMatrix;

/// A matrix that products take as its source has it, instead of as a tensor.
#[derive(Clone, Debug)]
pub enum StoredMatrix {
    /// In blocks of few bits, which are widened in each product.
    Blocks(BlockMatrix),
    /// To be read where it is used.
    Reread(RereadMatrix),
}

impl StoredMatrix {
    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            StoredMatrix::Blocks(matrix) => matrix.shape(),
            StoredMatrix::Reread(matrix) => matrix.shape(),
        }
    }
}

/// A matrix `[rows, columns]` that is read where it is used: where what is read is a copy, of pieces that a file has apart or
/// of numbers that are widened, and keeping that copy would cost its size. A copy of this handle is the same matrix.
#[derive(Clone)]
pub struct RereadMatrix(Arc<Inner>);

struct Inner {
    read: Box<dyn Fn() -> TensorData + Send + Sync>,
    shape: [usize; 2],
}

impl RereadMatrix {
    /// `read` gives the values whenever they are needed.
    pub fn new(shape: [usize; 2], read: impl Fn() -> TensorData + Send + Sync + 'static) -> Self {
        RereadMatrix(Arc::new(Inner { read: Box::new(read), shape }))
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.0.shape
    }

    /// The values, in the stored type or, of a type that tensors do not have, in a wider one.
    pub fn read(&self) -> TensorData {
        (self.0.read)()
    }

    pub(crate) fn is_same(&self, other: &RereadMatrix) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for RereadMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RereadMatrix {:?}", self.0.shape)
    }
}
