use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The size of a cache line, and of the widest vector.
pub const ALIGNMENT: usize = 64;

/// Plain numbers in memory that starts at a cache line.
///
/// Memory is kept when a buffer goes and given to the next of its size: the same sizes come again in every step of
/// a network, and new pages cost the system more than many kernels take.
pub struct Buffer<T: Plain> {
    block: Block,
    length: usize,
    numbers: PhantomData<T>,
}

/// Types for which all bits are values, and which need no dropping.
///
/// # Safety
/// Both must hold.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: numbers, every bit pattern of which is a value; none of them has a destructor.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}

impl<T: Plain> Buffer<T> {
    /// `length` numbers of any content: for what is written before it is read.
    ///
    /// # Panics
    /// The bytes do not fit a machine word: a bug of the caller.
    pub fn reused(length: usize) -> Self {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        let bytes = length.checked_mul(size_of::<T>()).expect("a buffer's bytes fit a machine word");
        Buffer { block: Block::take(bytes), length, numbers: PhantomData }
    }

    /// `length` zeros.
    ///
    /// # Panics
    /// As [`Self::reused`].
    pub fn zeroed(length: usize) -> Self {
        let buffer = Buffer::reused(length);
        // SAFETY: the block has these bytes, and all bits zero is a value of every `Plain` type.
        unsafe { buffer.block.start.as_ptr().write_bytes(0, length * size_of::<T>()) };
        buffer
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the block has `length` numbers, aligned, ours alone; whatever bits they have are values.
        unsafe { std::slice::from_raw_parts(self.block.start.as_ptr().cast(), self.length) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.block.start.as_ptr().cast(), self.length) }
    }
}

impl<T: Plain> AsRef<[u8]> for Buffer<T> {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in `deref`; a number's bytes are bytes.
        unsafe { std::slice::from_raw_parts(self.block.start.as_ptr(), self.length * size_of::<T>()) }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        let none = Block { start: NonNull::dangling(), bytes: 0, mapped: false };
        std::mem::replace(&mut self.block, none).keep();
    }
}

/// Initialised memory that starts at a cache line.
struct Block {
    start: NonNull<u8>,
    bytes: usize,
    /// From the system itself, not from the allocator.
    mapped: bool,
}

// SAFETY: a block owns its memory alone, as a `Vec` does.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// Blocks that wait for a next use, by size.
struct Kept {
    blocks: BTreeMap<usize, Vec<Block>>,
    bytes: usize,
    /// Blocks beyond this in all are given back.
    bytes_max: usize,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept::new());

/// Keeps up to `bytes` of freed memory for its next use instead of giving it back to the system, in buffers and in the
/// C library's allocator, for the rest of the process.
///
/// A training step needs the memory of the one before again, and clearing new pages takes the system as long as a
/// quarter of the step's products.
pub fn keep_freed_memory(bytes: usize) {
    Block::kept().bytes_max = bytes;
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The most that glibc takes from memory that it keeps.
        const LARGEST: i32 = 32 << 20;
        // SAFETY: these only change when the allocator asks the system for memory and gives it back.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::try_from(bytes).unwrap_or(i32::MAX));
        }
    }
}

impl Kept {
    const fn new() -> Self {
        Kept { blocks: BTreeMap::new(), bytes: 0, bytes_max: 512 << 20 }
    }

    fn take(&mut self, bytes: usize) -> Option<Block> {
        let block = self.blocks.get_mut(&bytes)?.pop()?;
        self.bytes -= bytes;
        Some(block)
    }

    /// Takes out, largest first, what has to go before `bytes` of new memory are asked for: new memory counts as if
    /// it were kept. A network that has come to larger pictures will not use the smaller ones' blocks again, and
    /// would hold both.
    fn make_room(&mut self, bytes: usize) -> Vec<Block> {
        let mut gone = Vec::new();
        while self.bytes > self.bytes_max.saturating_sub(bytes) {
            let Some(mut largest) = self.blocks.last_entry() else { break };
            match largest.get_mut().pop() {
                Some(block) => {
                    self.bytes -= block.bytes;
                    gone.push(block);
                }
                None => drop(largest.remove()),
            }
        }
        gone
    }

    /// Keeps a block, or hands it back where there is no room.
    fn keep(&mut self, block: Block) -> Option<Block> {
        if self.bytes + block.bytes > self.bytes_max {
            return Some(block);
        }
        self.bytes += block.bytes;
        self.blocks.entry(block.bytes).or_default().push(block);
        None
    }
}

/// Bytes of all buffers that are in use, now and at most: what a computation needs, told exactly and on every system.
///
/// Counted for the whole process, in the sizes that blocks come in. What is kept for a next use is not in use.
pub struct BytesInUse;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static IN_USE_MOST: AtomicUsize = AtomicUsize::new(0);

impl BytesInUse {
    /// In this moment.
    pub fn now() -> usize {
        IN_USE.load(Ordering::Relaxed)
    }

    /// The most since [`Self::restart`], or since the process began.
    pub fn most() -> usize {
        IN_USE_MOST.load(Ordering::Relaxed)
    }

    /// Forgets what was.
    pub fn restart() {
        IN_USE_MOST.store(Self::now(), Ordering::Relaxed);
    }

    fn add(bytes: usize) {
        let now = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        IN_USE_MOST.fetch_max(now, Ordering::Relaxed);
    }

    fn subtract(bytes: usize) {
        IN_USE.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Pages that a processor maps as one, on x86-64 and most Arm.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE_PAGE: usize = 2 << 20;

impl Block {
    fn take(bytes: usize) -> Block {
        let bytes = size_class(bytes);
        if bytes == 0 {
            return Block { start: NonNull::<AlignedLine>::dangling().cast(), bytes, mapped: false };
        }
        BytesInUse::add(bytes);
        let mut kept = Block::kept();
        if let Some(block) = kept.take(bytes) {
            return block;
        }
        let gone = kept.make_room(bytes);
        drop(kept);
        gone.into_iter().for_each(Block::give_back);
        Block::new(bytes)
    }

    /// A thread that panicked while it held the lock left whole blocks behind.
    fn kept() -> MutexGuard<'static, Kept> {
        KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn new(bytes: usize) -> Block {
        if let Some(start) = pages::map(bytes) {
            return Block { start, bytes, mapped: true };
        }
        let layout = Block::layout(bytes);
        // SAFETY: the layout's size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Block { start, bytes, mapped: false }
    }

    fn keep(self) {
        if self.bytes == 0 {
            return;
        }
        BytesInUse::subtract(self.bytes);
        let without_room = Block::kept().keep(self);
        if let Some(block) = without_room {
            block.give_back();
        }
    }

    fn give_back(self) {
        if self.mapped {
            // SAFETY: `pages::map` gave it for these bytes, and nobody else has it.
            unsafe { pages::unmap(self.start, self.bytes) };
        } else {
            // SAFETY: allocated by `new` with this very layout, and nobody else has it.
            unsafe { dealloc(self.start.as_ptr(), Block::layout(self.bytes)) };
        }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, ALIGNMENT).expect("a buffer's bytes fit a machine word")
    }
}

#[repr(align(64))]
struct AlignedLine;

/// Few different sizes, so that blocks find a next use; at most an eighth is wasted.
fn size_class(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let bytes = bytes.next_multiple_of(ALIGNMENT);
    let step = (bytes.next_power_of_two() / 16).max(ALIGNMENT);
    bytes.next_multiple_of(step)
}

/// Large blocks from the system itself: zero without being written, and in huge pages, which mean fewer faults at
/// first use and fewer misses after. Miri knows no mapping that is given back in parts.
#[cfg(all(target_os = "linux", not(miri)))]
mod pages {
    use std::ptr::NonNull;

    use super::HUGE_PAGE;

    /// `bytes` of zeros that start at a huge page; `None` for a small block, or when the system has no more.
    pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
        if bytes < HUGE_PAGE {
            return None;
        }
        // One page more than needed, so that an aligned start is among them; the rest goes back at once.
        let length = bytes.checked_next_multiple_of(HUGE_PAGE)?.checked_add(HUGE_PAGE)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the system's choice touches nothing of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let before = start.addr().next_multiple_of(HUGE_PAGE) - start.addr();
        let aligned = start.wrapping_byte_add(before);
        let end = aligned.wrapping_byte_add(mapped(bytes));
        // SAFETY: both ranges are parts of the mapping above, outside of the block, whole pages long. The advice
        // changes no content, and is only a wish.
        unsafe {
            if before > 0 {
                libc::munmap(start, before);
            }
            if before < HUGE_PAGE {
                libc::munmap(end, HUGE_PAGE - before);
            }
            libc::madvise(aligned, mapped(bytes), libc::MADV_HUGEPAGE);
        }
        NonNull::new(aligned.cast())
    }

    /// Gives a block back.
    ///
    /// # Safety
    /// [`map`] gave it for as many bytes, and nobody uses it.
    pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise. Failure would only mean that the memory stays.
        unsafe { libc::munmap(start.as_ptr().cast(), mapped(bytes)) };
    }

    fn mapped(bytes: usize) -> usize {
        bytes.next_multiple_of(HUGE_PAGE)
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod pages {
    use std::ptr::NonNull;

    pub(super) fn map(_bytes: usize) -> Option<NonNull<u8>> {
        None
    }

    /// # Safety
    /// Nothing is mapped here, so nothing may be given back.
    pub(super) unsafe fn unmap(_start: NonNull<u8>, _bytes: usize) {
        unreachable!("nothing is mapped on this system");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_a_cache_line_and_zeroed_is_zero() {
        for length in [0, 1, 63, 4097, if cfg!(miri) { 5000 } else { 3 << 20 }] {
            for _ in 0..2 {
                let mut buffer = Buffer::<f32>::zeroed(length);
                assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
                assert_eq!((buffer.len(), AsRef::<[u8]>::as_ref(&buffer).len()), (length, 4 * length));
                assert!(buffer.iter().all(|&x| x == 0.0));
                // What the next one must not see.
                buffer.fill(1.0);
            }
        }
    }

    #[test]
    fn two_at_once_do_not_share() {
        let (mut a, mut b) = (Buffer::<i8>::zeroed(1000), Buffer::<i8>::zeroed(1000));
        a.fill(1);
        b.fill(2);
        assert!(a.iter().all(|&x| x == 1) && b.iter().all(|&x| x == 2));
    }

    #[test]
    fn new_memory_counts_against_what_is_kept() {
        const MB: usize = 1 << 20;
        // Never read or written: only counted.
        let block = |bytes| Block { start: NonNull::dangling(), bytes, mapped: true };
        let mut kept = Kept::new();
        for megabytes in [1, 300, 100, 100] {
            assert!(kept.keep(block(megabytes * MB)).is_none());
        }
        assert_eq!(kept.keep(block(12 * MB)).map(|block| block.bytes), Some(12 * MB), "512 MB and no more");
        let gone = |kept: &mut Kept, bytes| kept.make_room(bytes).iter().map(|b| b.bytes / MB).collect::<Vec<_>>();
        assert_eq!(gone(&mut kept, 11 * MB), [0; 0]);
        assert_eq!(gone(&mut kept, 12 * MB), [300]);
        assert_eq!(kept.bytes, 201 * MB);
        assert_eq!(kept.take(100 * MB).map(|block| block.bytes), Some(100 * MB));
        assert!(kept.take(300 * MB).is_none());
        assert_eq!(gone(&mut kept, 4096 * MB), [100, 1]);
        assert_eq!(kept.bytes, 0);
    }

    #[test]
    fn sizes_waste_at_most_an_eighth() {
        for bytes in (1..if cfg!(miri) { 1000 } else { 100_000 }).chain([(2 << 20) + 1, (5 << 20) + 1]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class <= bytes.next_multiple_of(64) + bytes / 8, "{bytes}: {class}");
        }
    }
}
