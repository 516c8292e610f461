use crate::{Buffer, Plain};

/// Lends `length` numbers of any content.
pub(crate) fn with_scratch<T: Plain, R>(length: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    work(&mut Buffer::reused(length))
}
