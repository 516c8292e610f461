//! Weights in the order that kernels read, and what they are made of.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::TensorMetadata;
use half::bf16;
use rectiflow_kernels::Buffer;
use rectiflow_kernels::product::{Factor, Int8Factor};

use super::{Stored, isa, matrix};
use crate::{BlockMatrix, RereadMatrix};

/// A weight in the order that kernels read, made at its first use and kept, or made anew in each.
#[derive(Clone)]
pub struct PackedWeight(Option<Arc<Mutex<Option<Packed>>>>);

impl Default for PackedWeight {
    /// Kept.
    fn default() -> Self {
        PackedWeight(Some(Arc::default()))
    }
}

/// The packed numbers, and what they were packed from.
struct Packed {
    /// Held so that its memory is not used for other numbers, which would look the same below.
    source: Weight,
    numbers: Numbers,
}

/// A weight before it is packed.
#[derive(Clone)]
pub(super) enum Weight {
    Tensor(Stored),
    Blocks(BlockMatrix),
    Reread(RereadMatrix),
}

impl Weight {
    fn is_same(&self, other: &Weight) -> bool {
        match (self, other) {
            (Weight::Tensor(a), Weight::Tensor(b)) => is_same(a, b),
            (Weight::Blocks(a), Weight::Blocks(b)) => a.is_same(b),
            (Weight::Reread(a), Weight::Reread(b)) => a.is_same(b),
            _ => false,
        }
    }

    /// `[O, I]`.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Weight::Tensor(weight) => weight.shape().dims(),
            Weight::Blocks(weight) => weight.shape(),
            Weight::Reread(weight) => weight.shape(),
        }
    }

    /// Its numbers as a tensor's storage, read if they have to be; or the blocks that they are in.
    fn plain(&self) -> Result<Stored, &BlockMatrix> {
        match self {
            Weight::Tensor(weight) => Ok(weight.clone()),
            Weight::Reread(weight) => Ok(Stored::from_data(weight.read())),
            Weight::Blocks(weight) => Err(weight),
        }
    }

    pub(super) fn is_in_blocks(&self) -> bool {
        matches!(self, Weight::Blocks(_))
    }

    /// Something of it as a product takes it that packs it itself.
    pub(super) fn with_factor<T, R>(&self, run: impl FnOnce(Factor<'_, T>) -> R) -> R {
        match self.plain() {
            Ok(weight) => run(Factor::Plain(matrix(&weight))),
            Err(weight) => run(Factor::Blocks(weight.blocks())),
        }
    }

    fn int8(&self) -> Int8Factor {
        match self.plain() {
            Ok(weight) => Int8Factor::new(isa(), matrix(&weight)),
            Err(weight) => Int8Factor::of_blocks(isa(), &weight.blocks()),
        }
    }
}

/// One of the forms a weight is packed in.
enum Numbers {
    Bf16(Arc<Buffer<bf16>>),
    Int8(Arc<Int8Factor>),
}

impl fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackedWeight")
    }
}

impl PackedWeight {
    /// For a weight that is used once or twice: keeping it would cost as much memory again, and save nothing.
    pub fn not_kept() -> Self {
        PackedWeight(None)
    }

    pub(super) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// The packed form of `weight`: that which is kept, if it was made of these very numbers, or a new one.
    fn of<T>(
        &self,
        weight: Weight,
        known: impl Fn(&Numbers) -> Option<&Arc<T>>,
        pack: impl FnOnce(&Weight) -> (Arc<T>, Numbers),
    ) -> Arc<T> {
        let Some(kept) = &self.0 else { return pack(&weight).0 };
        let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Packed { source, numbers }) = &*lock()
            && source.is_same(&weight)
            && let Some(numbers) = known(numbers)
        {
            return Arc::clone(numbers);
        }
        // Without the lock: packing runs on the pool, whose threads may come here for the same weight.
        let (packed, numbers) = pack(&weight);
        *lock() = Some(Packed { source: weight, numbers });
        packed
    }

    /// `weight` in bf16, as `pack` makes it of its numbers.
    ///
    /// # Panics
    /// It is in blocks, of which no bf16 is kept: a bug of the caller.
    pub(super) fn bf16(&self, weight: Weight, pack: impl FnOnce(&Stored) -> Buffer<bf16>) -> Arc<Buffer<bf16>> {
        self.of(weight, Numbers::bf16, |weight| {
            let numbers = Arc::new(pack(&weight.plain().expect("a weight that is not in blocks")));
            (Arc::clone(&numbers), Numbers::Bf16(numbers))
        })
    }

    /// `weight` in int8.
    pub(super) fn int8(&self, weight: Weight) -> Arc<Int8Factor> {
        self.of(weight, Numbers::int8, |weight| {
            let factor = Arc::new(weight.int8());
            (Arc::clone(&factor), Numbers::Int8(factor))
        })
    }
}

impl Numbers {
    fn bf16(&self) -> Option<&Arc<Buffer<bf16>>> {
        match self {
            Numbers::Bf16(numbers) => Some(numbers),
            Numbers::Int8(_) => None,
        }
    }

    fn int8(&self) -> Option<&Arc<Int8Factor>> {
        match self {
            Numbers::Bf16(_) => None,
            Numbers::Int8(factor) => Some(factor),
        }
    }
}

fn is_same(a: &Stored, b: &Stored) -> bool {
    Arc::ptr_eq(&a.data_arc(), &b.data_arc()) && a.layout().start_offset() == b.layout().start_offset()
}
