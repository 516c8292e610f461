//! Cuts a product into blocks that stay in the second-level cache, and those into tiles.

use half::bf16;
use rayon::prelude::*;

use super::blocks::Blocks;
use super::epilogue::{Epilogue, Output, SharedOutput};
use super::loose::Loose;
use super::matrix::Matrix;
use super::micro::{Kernel, Tile, bf16_kernel, f32_kernel};
use super::panels::{PANEL, Packed, PackedShape, STEP, copy_rows, round};
use super::transpose::WIDE;
use crate::{ALIGNMENT, Buffer, Isa, Plain};

/// Rows of a block, less what is no whole tile: with a step of depth they fill about half of a second-level cache of one
/// megabyte.
const BLOCK_ROWS: usize = 256;
/// Panels of a block.
const BLOCK_PANELS: usize = 16;
/// Between rows that are copied, so that rows of a power of two do not all fall on the same cache lines.
const ROW_GAP: usize = STEP;

/// The second factor, B `[N, K]`.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a, T> {
    /// Packed by [`PackedShape::pack`].
    Packed(&'a [T], PackedShape),
    /// As it lies: packed into scratch memory in each call.
    Plain(Matrix<'a>),
    /// In blocks of few bits: widened and packed into scratch memory in each call.
    Blocks(Blocks<'a>),
}

/// `out = epilogue(a b^T)` with f32 sums: `a` `[M, K]`, `b` `[N, K]`, `out` `[M, N]`.
///
/// Both factors are rounded to `T`. Where the instruction set has no product of bf16, the rounded numbers are
/// multiplied in f32, which gives the same products and other roundings of their sums.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn multiply<T: Factored>(isa: Isa, a: Matrix<'_>, b: Factor<'_, T>, epilogue: &Epilogue<'_>, out: Output<'_>) {
    multiply_keeping(isa, a, b, epilogue, out, None);
}

/// As [`multiply`]; `kept` `[M, N]` becomes the sums with their bias, before the activation.
///
/// # Panics
/// As [`multiply`].
pub fn multiply_keeping<T: Factored>(
    isa: Isa,
    a: Matrix<'_>,
    b: Factor<'_, T>,
    epilogue: &Epilogue<'_>,
    out: Output<'_>,
    kept: Option<Output<'_>>,
) {
    assert!(isa <= Isa::best(), "{isa} on a processor without it");
    match b {
        Factor::Packed(values, shape) => {
            assert_eq!(values.len(), shape.len(), "numbers of a packed {shape:?}");
            assert_eq!(a.columns, shape.inner, "inner widths of a product");
            assert_eq!(out.len(), a.rows * shape.columns, "results of {} x {}", a.rows, shape.columns);
            epilogue.check(a.rows, shape.columns);
            if let Some(kept) = &kept {
                assert_eq!(kept.len(), out.len(), "kept sums of {} x {}", a.rows, shape.columns);
            }
            if a.rows > 0 && shape.columns > 0 {
                T::dispatch(isa, a, Columns::Packed(values), shape, epilogue, out, kept);
            }
        }
        Factor::Plain(b) => multiply_loose::<T>(isa, a, Loose::Plain(b), epilogue, out, kept),
        Factor::Blocks(b) => multiply_loose::<T>(isa, a, Loose::Blocks(b), epilogue, out, kept),
    }
}

/// [`multiply_keeping`] of a factor that is not packed.
fn multiply_loose<T: Factored>(
    isa: Isa,
    a: Matrix<'_>,
    b: Loose<'_>,
    epilogue: &Epilogue<'_>,
    out: Output<'_>,
    kept: Option<Output<'_>>,
) {
    let shape = b.shape();
    // Few rows meet each panel once: it is packed where it is used, and memory is read once and not written.
    if (1..=BLOCK_ROWS).contains(&a.rows) && !shape.is_empty() {
        assert_eq!(a.columns, shape.inner, "inner widths of a product");
        assert_eq!(out.len(), a.rows * shape.columns, "results of {} x {}", a.rows, shape.columns);
        epilogue.check(a.rows, shape.columns);
        if let Some(kept) = &kept {
            assert_eq!(kept.len(), out.len(), "kept sums of {} x {}", a.rows, shape.columns);
        }
        return T::dispatch(isa, a, Columns::Fresh(b), shape, epilogue, out, kept);
    }
    let mut packed = Buffer::<T>::reused(shape.len());
    b.pack(isa, &mut packed);
    multiply_keeping(isa, a, Factor::Packed(&packed, shape), epilogue, out, kept);
}

/// The second factor of a product, ready for its driver.
#[doc(hidden)]
pub enum Columns<'a, T> {
    Packed(&'a [T]),
    /// Each panel is packed when a block of rows meets it.
    Fresh(Loose<'a>),
}

/// Numbers that there is a product of.
pub trait Factored: Packed {
    /// [`multiply`] with sizes that fit each other and are not 0, but for the inner width.
    #[doc(hidden)]
    fn dispatch(
        isa: Isa,
        a: Matrix<'_>,
        b: Columns<'_, Self>,
        shape: PackedShape,
        epilogue: &Epilogue<'_>,
        out: Output<'_>,
        kept: Option<Output<'_>>,
    );
}

impl Factored for f32 {
    fn dispatch(
        isa: Isa,
        a: Matrix<'_>,
        b: Columns<'_, f32>,
        shape: PackedShape,
        epilogue: &Epilogue<'_>,
        out: Output<'_>,
        mut kept: Option<Output<'_>>,
    ) {
        let kept = kept.as_mut().map(SharedOutput::of);
        let (kernel, segments) = (f32_kernel(isa), &[Segment::plain(a.rows)]);
        let ends = Ends { epilogue, sums_to_f32: None, kept };
        let product = Product { isa, kernel, segments, taps: &[0], shape, panels: (), ends };
        with_rows(isa, a, &kernel, None, |rows| match b {
            Columns::Packed(values) => product.with(Direct { values, shape }).run(rows, out),
            Columns::Fresh(b) => product.with(Fresh { isa, b, adjust: None }).run(rows, out),
        });
    }
}

impl Factored for bf16 {
    fn dispatch(
        isa: Isa,
        a: Matrix<'_>,
        b: Columns<'_, bf16>,
        shape: PackedShape,
        epilogue: &Epilogue<'_>,
        out: Output<'_>,
        mut kept: Option<Output<'_>>,
    ) {
        let kept = kept.as_mut().map(SharedOutput::of);
        let (segments, taps) = (&[Segment::plain(a.rows)], &[0]);
        let ends = Ends { epilogue, sums_to_f32: None, kept };
        if let Some(kernel) = bf16_kernel(isa) {
            let product = Product { isa, kernel, segments, taps, shape, panels: (), ends };
            with_rows(isa, a, &kernel, None, |rows| match b {
                Columns::Packed(values) => product.with(Direct { values, shape }).run(rows, out),
                Columns::Fresh(b) => product.with(Fresh { isa, b, adjust: None }).run(rows, out),
            });
        } else {
            let kernel = f32_kernel(isa);
            let product = Product { isa, kernel, segments, taps, shape, panels: (), ends };
            with_rows(isa, a, &kernel, Some(round), |rows| match b {
                Columns::Packed(values) => product.with(Widened { isa, values, shape }).run(rows, out),
                Columns::Fresh(b) => product.with(Fresh { isa, b, adjust: Some(round) }).run(rows, out),
            });
        }
    }
}

/// The rows where they are, if they are of the right type, contiguous and in whole steps; for tiles also in whole
/// cache lines, since a tile of rows that straddle lines loads three times slower (measured on Granite Rapids).
fn in_place<'a, T: Packed>(a: &Matrix<'a>, kernel: &Kernel<T>) -> Option<&'a [T]> {
    let values = T::of(&a.values)?;
    let whole_steps = a.column_stride == 1 && a.columns.is_multiple_of(STEP);
    let in_lines = |bytes: usize| bytes.is_multiple_of(ALIGNMENT);
    let whole_lines = in_lines(values.as_ptr().addr()) && in_lines(a.row_stride * size_of::<T>());
    (whole_steps && (whole_lines || !kernel.tiles)).then_some(values)
}

/// The rows of A as tiles read them: whole tiles where they are, the last rows in a copy that fills a tile.
struct Rows<'a, T> {
    body: &'a [T],
    stride: usize,
    /// Row of A at which the copy begins.
    tail_start: usize,
    tail: &'a [T],
    tail_stride: usize,
}

/// Where the rows of A lie.
pub(crate) trait RowSource<T>: Sync {
    /// The first number of a row that begins a tile, and the distance to the next row. `start` is the segment's.
    ///
    /// # Panics
    /// Of the `rows` rows from there on, one has less than `width` numbers.
    fn at(&self, start: usize, row: usize, rows: usize, width: usize) -> (*const T, usize);
}

/// A pointer to `first`, from which `count` lines of `width` numbers, `stride` apart, may be read.
pub(crate) fn lines<T>(values: &[T], first: usize, stride: usize, count: usize, width: usize) -> *const T {
    values[first..][..(count - 1) * stride + width].as_ptr()
}

impl<T: Packed> RowSource<T> for Rows<'_, T> {
    fn at(&self, _: usize, row: usize, rows: usize, width: usize) -> (*const T, usize) {
        match row.checked_sub(self.tail_start) {
            None => (lines(self.body, row * self.stride, self.stride, rows, width), self.stride),
            Some(row) => (lines(self.tail, row * self.tail_stride, self.tail_stride, rows, width), self.tail_stride),
        }
    }
}

/// Copies the rows that cannot be read where they are, then runs `work` on all of them. With `adjust`, all are
/// copied and adjusted.
fn with_rows<T: Packed>(
    isa: Isa,
    a: Matrix<'_>,
    kernel: &Kernel<T>,
    adjust: Option<fn(Isa, &mut [T])>,
    work: impl FnOnce(&Rows<'_, T>),
) {
    let body = if adjust.is_none() { in_place(&a, kernel) } else { None };
    let tail_start = if body.is_some() { a.rows / kernel.rows * kernel.rows } else { 0 };
    let tail_stride = a.columns.next_multiple_of(STEP) + ROW_GAP;
    let copied = (a.rows - tail_start).next_multiple_of(kernel.rows);
    let mut tail = Buffer::<T>::reused(copied * tail_stride);
    let together = if a.column_stride == 1 { PANEL } else { WIDE };
    tail.par_chunks_mut(together * tail_stride).enumerate().for_each(|(chunk, rows)| {
        copy_rows(isa, &a, tail_start + chunk * together, tail_stride, rows);
        if let Some(adjust) = adjust {
            adjust(isa, rows);
        }
    });
    work(&Rows { body: body.unwrap_or(&[]), stride: a.row_stride, tail_start, tail: &tail, tail_stride });
}

/// Panels of B as the kernel reads them.
pub(crate) trait Panels<T>: Sync {
    /// The panels from `panel` on, from inner value `inner` for `depth` of them; the result's second value is the
    /// distance between panels. `scratch` may be used and must then outlive the use of the pointer.
    ///
    /// # Panics
    /// One of these panels has fewer inner values.
    fn at(&self, panel: usize, panels: usize, inner: usize, depth: usize, scratch: &mut [T]) -> (*const T, usize);
    /// Numbers of scratch that [`Self::at`] needs.
    fn scratch(&self, panels: usize, depth: usize) -> usize;
}

/// Packed in the kernel's own type.
pub(crate) struct Direct<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) shape: PackedShape,
}

impl<T: Plain> Panels<T> for Direct<'_, T> {
    fn at(&self, panel: usize, panels: usize, inner: usize, depth: usize, _: &mut [T]) -> (*const T, usize) {
        let stride = self.shape.panel_len();
        (lines(self.values, panel * stride + inner * PANEL, stride, panels, depth * PANEL), stride)
    }

    fn scratch(&self, _: usize, _: usize) -> usize {
        0
    }
}

/// As it lies, packed in scratch memory each time.
struct Fresh<'a, T> {
    isa: Isa,
    b: Loose<'a>,
    adjust: Option<fn(Isa, &mut [T])>,
}

impl<T: Packed> Panels<T> for Fresh<'_, T> {
    fn at(&self, panel: usize, panels: usize, inner: usize, depth: usize, out: &mut [T]) -> (*const T, usize) {
        let Fresh { isa, b, adjust } = *self;
        let length = depth * PANEL;
        let out = &mut out[..panels * length];
        b.pack_part(isa, [panel, panels], [inner, depth], out);
        if let Some(adjust) = adjust {
            adjust(isa, out);
        }
        (out.as_ptr(), length)
    }

    fn scratch(&self, panels: usize, depth: usize) -> usize {
        panels * depth * PANEL
    }
}

/// Packed in bf16, for a kernel of f32.
pub(crate) struct Widened<'a> {
    pub(crate) isa: Isa,
    pub(crate) values: &'a [bf16],
    pub(crate) shape: PackedShape,
}

impl Panels<f32> for Widened<'_> {
    fn at(&self, panel: usize, panels: usize, inner: usize, depth: usize, out: &mut [f32]) -> (*const f32, usize) {
        for (index, out) in out.chunks_exact_mut(depth * PANEL).take(panels).enumerate() {
            let start = (panel + index) * self.shape.panel_len() + inner * PANEL;
            unpair(self.isa, &self.values[start..][..depth * PANEL], out);
        }
        (out.as_ptr(), depth * PANEL)
    }

    fn scratch(&self, panels: usize, depth: usize) -> usize {
        panels * depth * PANEL
    }
}

crate::vector::vectorised! {
    /// From pairs of inner values to one after the other.
    fn unpair(pairs: &[bf16], out: &mut [f32]) {
        for (pairs, out) in pairs.chunks_exact(2 * PANEL).zip(out.chunks_exact_mut(2 * PANEL)) {
            for column in 0..PANEL {
                out[column] = crate::vector::from_bf16(pairs[2 * column]);
                out[PANEL + column] = crate::vector::from_bf16(pairs[2 * column + 1]);
            }
        }
    }
}

/// Rows of A that lie evenly, and the rows of the result that they make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Number of A at which the first row begins, for sources of several segments.
    pub(crate) start: usize,
    /// Rows of A.
    pub(crate) rows: usize,
    /// Row of the result that the first one makes.
    pub(crate) out: usize,
    /// Of every `pitch` rows of A the first `width` make rows of the result.
    pub(crate) pitch: usize,
    pub(crate) width: usize,
    /// Rows of the result from one of those `width` to the next, and from the first of them to the next `pitch`'s.
    pub(crate) out_step: usize,
    pub(crate) out_line: usize,
}

impl Segment {
    /// Every row makes one.
    pub(crate) fn plain(rows: usize) -> Self {
        Segment { start: 0, rows, out: 0, pitch: 1, width: 1, out_step: 1, out_line: 1 }
    }

    /// The row of the result that a row of A makes, if any.
    fn out_row(&self, row: usize) -> Option<usize> {
        let (line, place) = (row / self.pitch, row % self.pitch);
        (place < self.width).then(|| self.out + line * self.out_line + place * self.out_step)
    }
}

/// Makes f32 of the sums of a row of A, from a column of the result on.
pub(crate) type Conversion<'a> = dyn Fn(&mut [f32], usize, usize) + Sync + 'a;

/// A product, ready to be cut.
pub(crate) struct Product<'a, T, P> {
    pub(crate) isa: Isa,
    pub(crate) kernel: Kernel<T>,
    pub(crate) segments: &'a [Segment],
    /// Numbers from a row of A to what it is multiplied with; the inner width is shared by all taps.
    pub(crate) taps: &'a [usize],
    pub(crate) shape: PackedShape,
    pub(crate) panels: P,
    pub(crate) ends: Ends<'a>,
}

/// What happens to sums when they are complete, but for storing them.
pub(crate) struct Ends<'a> {
    pub(crate) epilogue: &'a Epilogue<'a>,
    /// How sums become f32, where they are not.
    pub(crate) sums_to_f32: Option<&'a Conversion<'a>>,
    /// Where sums go with their bias, before the activation: a place for every result.
    pub(crate) kept: Option<SharedOutput>,
}

impl<'a> Ends<'a> {
    /// Of f32 sums, which are not kept.
    pub(crate) fn plain(epilogue: &'a Epilogue<'a>) -> Self {
        Ends { epilogue, sums_to_f32: None, kept: None }
    }
}

/// Rows and panels of the result that are computed together.
struct Block<'a> {
    segment: &'a Segment,
    row: usize,
    rows: usize,
    panel: usize,
    panels: usize,
}

/// Inner values that a tile takes at once.
struct Depth<'a> {
    taps: &'a [usize],
    /// First inner value of each of these taps, and how many.
    start: usize,
    width: usize,
    /// Inner value of B that the first tap begins at.
    b_start: usize,
}

impl<'a, T> Product<'a, T, ()> {
    fn with<P: Panels<T>>(self, panels: P) -> Product<'a, T, P> {
        let Product { isa, kernel, segments, taps, shape, panels: (), ends } = self;
        Product { isa, kernel, segments, taps, shape, panels, ends }
    }
}

impl<T: Plain, P: Panels<T>> Product<'_, T, P> {
    /// Runs the product. `out` has the rows that the segments make, all of them, and the shape's columns.
    pub(crate) fn run(&self, rows: &impl RowSource<T>, mut out: Output<'_>) {
        let place = SharedOutput::of(&mut out);
        // The rows after the last whole tile are filled up to one; those of a tile that began elsewhere are not.
        let block_rows = BLOCK_ROWS / self.kernel.rows * self.kernel.rows;
        let row_blocks: Vec<(&Segment, usize)> = self
            .segments
            .iter()
            .flat_map(|segment| (0..segment.rows).step_by(block_rows).map(move |row| (segment, row)))
            .collect();
        let block_panels = self.block_panels(row_blocks.len());
        let panel_blocks = self.shape.panels().div_ceil(block_panels);
        // Blocks of the same rows follow each other: the rows stay in the second-level cache and B streams past.
        (0..row_blocks.len() * panel_blocks).into_par_iter().with_max_len(1).for_each(|index| {
            let (segment, row) = row_blocks[index / panel_blocks];
            let panel = index % panel_blocks * block_panels;
            let block = Block {
                segment,
                row,
                rows: block_rows.min(segment.rows - row),
                panel,
                panels: block_panels.min(self.shape.panels() - panel),
            };
            self.block(&block, rows, &place);
        });
    }

    /// Fewer panels where there would be too few blocks to share among the threads.
    fn block_panels(&self, row_blocks: usize) -> usize {
        let wanted = 4 * rayon::current_num_threads();
        let most = BLOCK_PANELS / self.kernel.panels * self.kernel.panels;
        let fair = (self.shape.panels() * row_blocks / wanted) / self.kernel.panels * self.kernel.panels;
        fair.clamp(self.kernel.panels, most)
    }

    fn block(&self, block: &Block<'_>, rows: &impl RowSource<T>, place: &SharedOutput) {
        #[cfg(target_arch = "x86_64")]
        let _tiles = self.kernel.tiles.then(crate::tiles::Tiles::configure);
        let sum_stride = block.panels * PANEL + PANEL;
        let sum_rows = block.rows.next_multiple_of(self.kernel.rows);
        let mut sums = Buffer::<f32>::reused(sum_rows * sum_stride);
        let mut scratch = Buffer::<T>::reused(self.panels.scratch(self.kernel.panels, self.kernel.depth));
        self.sums(block, rows, &mut sums, sum_stride, &mut scratch);
        self.finish(block, &mut sums, sum_stride, place);
    }

    /// The inner values in portions of the kernel's depth: some taps whole, or a part of one.
    fn depths(&self) -> impl Iterator<Item = Depth<'_>> {
        let width = self.shape.padded_inner() / self.taps.len();
        let taps_at_once = (self.kernel.depth / width.max(1)).max(1);
        self.taps.chunks(taps_at_once).enumerate().flat_map(move |(chunk, taps)| {
            let first = chunk * taps_at_once * width;
            (0..width).step_by(self.kernel.depth).map(move |start| Depth {
                taps,
                start,
                width: self.kernel.depth.min(width - start),
                b_start: first + start,
            })
        })
    }

    fn sums(
        &self,
        block: &Block<'_>,
        rows: &impl RowSource<T>,
        sums: &mut [f32],
        sum_stride: usize,
        scratch: &mut [T],
    ) {
        let kernel = &self.kernel;
        if self.shape.inner == 0 {
            sums.fill(0.0);
        }
        for (index, depth) in self.depths().enumerate() {
            let inner = depth.taps.len() * depth.width;
            let reach = depth.taps.iter().max().map_or(0, |tap| tap + depth.start + depth.width);
            for first in (0..block.panels).step_by(kernel.panels) {
                let panels = kernel.panels.min(block.panels - first);
                let (b, panel_stride) = self.panels.at(block.panel + first, panels, depth.b_start, inner, scratch);
                let ahead = Ahead::new(b, panels, panel_stride, inner, block.rows.div_ceil(kernel.rows));
                for row in (0..block.rows).step_by(kernel.rows) {
                    let (a, row_stride) = rows.at(block.segment.start, block.row + row, kernel.rows, reach);
                    let sums = &mut sums[row * sum_stride + first * PANEL..];
                    let tile = Tile {
                        a: a.wrapping_add(depth.start),
                        row_stride,
                        taps: depth.taps,
                        b,
                        panel_stride,
                        panels,
                        inner: depth.width,
                        sums: sums[..(kernel.rows - 1) * sum_stride + panels * PANEL].as_mut_ptr(),
                        sum_stride,
                        accumulate: index > 0,
                        prefetch: ahead.of(row / kernel.rows),
                    };
                    // SAFETY: `multiply` checked that the machine has the instruction set, and `block` configured
                    // tiles where the kernel needs them. `rows.at`, `panels.at` and the slice of `sums` checked that a
                    // whole tile may be read and written, up to the last of its taps and inner values.
                    unsafe { (kernel.run)(tile) };
                }
            }
        }
    }

    fn finish(&self, block: &Block<'_>, sums: &mut [f32], sum_stride: usize, place: &SharedOutput) {
        let columns = self.shape.columns;
        let first = block.panel * PANEL;
        let width = (block.panels * PANEL).min(columns - first);
        for (row, sums) in (block.row..block.row + block.rows).zip(sums.chunks_mut(sum_stride)) {
            let sums = &mut sums[..width];
            if let Some(convert) = self.ends.sums_to_f32 {
                convert(sums, row, first);
            }
            let Some(row) = block.segment.out_row(row) else { continue };
            self.ends.epilogue.begin_row(self.isa, sums, first);
            if let Some(kept) = &self.ends.kept {
                // SAFETY: as many places as the output has, see below.
                unsafe { kept.write(self.isa, row * columns + first, sums) };
            }
            self.ends.epilogue.end_row(self.isa, sums, row, first, columns);
            // SAFETY: the output has the rows that segments make and `columns` columns; no other block has these.
            unsafe { place.write(self.isa, row * columns + first, sums) };
        }
    }
}

/// The panels that come next, fetched in portions while the tiles of this one are computed.
struct Ahead<T> {
    start: *const T,
    panel_stride: usize,
    /// Tiles that share the fetching of a panel, and what each fetches.
    tiles: usize,
    portion: usize,
}

impl<T> Ahead<T> {
    fn new(b: *const T, panels: usize, panel_stride: usize, inner: usize, tiles: usize) -> Self {
        let tiles = (tiles / panels).max(1);
        Ahead { start: b.wrapping_add(panels * panel_stride), panel_stride, tiles, portion: inner * PANEL / tiles }
    }

    fn of(&self, tile: usize) -> *const T {
        self.start.wrapping_add(tile / self.tiles * self.panel_stride + tile % self.tiles * self.portion)
    }
}
