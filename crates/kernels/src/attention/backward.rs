//! The gradients of an attention, from what its forward kept: the mixed tokens and the sums of the softmax.
//!
//! Source: Dao et al. 2022, arXiv:2205.14135, algorithm 4. With `P` the softmax and `dP = dO V^T`:
//! `dV = P^T dO`, `dS = P (dP - rowsum(dO O))`, `dQ = scale dS K`, `dK = scale dS^T Q`, and `dS` is the bias's.
//!
//! One head is one task, so no sum is shared between threads. Gradients of keys and values are summed transposed,
//! `[E, T]`: a block of `P` is then the second factor of its product, which is woven from rows without transposing.

use rayon::prelude::*;

use super::forward::{Bias, Call, Share, pack_rows};
use super::gradients::{Gradients, Place, Role, Saved};
use super::sequence::Sequence;
use super::tiles::{Factors, GAP, tiles};
use crate::product::{Kernel, Matrix, PANEL, Packed, PackedShape, STEP, Values, copy_rows, read_run};
use crate::vector::{multiply_add, vectorised};
use crate::{Buffer, Isa};

/// Queries of a block, about: the inner width of the products that give the gradients of keys and values.
const QUERIES: usize = 128;
/// Keys of a block: its scores, their gradients and both packed stay in a second cache of one megabyte.
const KEYS: usize = 256;
/// Between rows of sums.
const SUM_STRIDE: usize = KEYS + PANEL;

/// The gradient of every query, key and value, and of the bias where that is asked for.
pub(super) fn run<T: Share>(
    call: &Call<'_>,
    kernel: &Kernel<T>,
    adjust: Option<fn(Isa, &mut [T])>,
    saved: &Saved<'_>,
    gradients: &mut Gradients<'_>,
) {
    let sizes = Sizes::new(call, kernel.rows);
    let heads = call.query.batch * call.query.heads;
    let places: Vec<Place> = gradients.parts.iter_mut().map(Place::of).collect();
    // Heads of different batches that share a bias add to one gradient, so they come one after the other.
    let biases: Vec<Option<&mut [f32]>> = match gradients.bias.as_deref_mut() {
        Some(bias) if !bias.is_empty() => {
            bias.fill(0.0);
            bias.chunks_mut(call.query.tokens() * call.key.tokens()).map(Some).collect()
        }
        _ => (0..heads).map(|_| None).collect(),
    };
    let groups = biases.len();
    let memory = || (HeadFactors::new(sizes), Scratch::new(sizes));
    biases.into_par_iter().enumerate().for_each_init(memory, |(factors, scratch), (group, mut bias)| {
        #[cfg(target_arch = "x86_64")]
        let _tiles = kernel.tiles.then(crate::tiles::Tiles::configure);
        for index in (group..heads).step_by(groups) {
            factors.fill(call, index, adjust, saved);
            Head { call, kernel, index, sizes, factors }.run(saved, scratch, bias.as_deref_mut(), &places);
        }
    });
}

/// What the products of one head are made of.
struct HeadFactors<T: Packed> {
    /// Rows `[S, E]`, and the same read across, `[E, S]`.
    queries: Buffer<T>,
    queries_across: Buffer<T>,
    gradients: Buffer<T>,
    gradients_across: Buffer<T>,
    /// Keys as columns, values as columns, keys as inner values.
    keys: Buffer<T>,
    values: Buffer<T>,
    keys_across: Buffer<T>,
    /// `rowsum(dO O)` of each query: what all gradients of a row of the softmax have in common.
    shared: Buffer<f32>,
    sizes: Sizes,
    /// Keys or values before they are packed.
    rows: Buffer<T>,
    /// The forward's result and its gradient in f32.
    wide: [Buffer<f32>; 2],
}

/// Sizes of one head with their padding.
#[derive(Clone, Copy)]
struct Sizes {
    queries: usize,
    keys: usize,
    width: usize,
    /// Whole tiles that are whole steps too: rows of one product are inner values of another.
    unit: usize,
}

impl Sizes {
    fn new(call: &Call<'_>, tile_rows: usize) -> Self {
        let unit = (1..).map(|times| times * STEP).find(|unit| unit.is_multiple_of(tile_rows));
        Sizes {
            queries: call.query.tokens(),
            keys: call.key.tokens(),
            width: call.query.width,
            unit: unit.expect("a common multiple"),
        }
    }

    fn padded_queries(self) -> usize {
        self.queries.next_multiple_of(self.unit)
    }

    /// Rows of what is read across.
    fn padded_width(self) -> usize {
        self.width.next_multiple_of(self.unit)
    }

    fn block_queries(self) -> usize {
        QUERIES.next_multiple_of(self.unit)
    }

    /// Between rows of queries.
    fn row(self) -> usize {
        self.columns().padded_inner() + GAP
    }

    /// Between rows of queries that are read across.
    fn across(self) -> usize {
        self.padded_queries() + GAP
    }

    /// Keys or values, each a column.
    fn columns(self) -> PackedShape {
        PackedShape { columns: self.keys, inner: self.width }
    }

    /// Keys, each an inner value.
    fn inners(self) -> PackedShape {
        PackedShape { columns: self.width, inner: self.keys }
    }

    /// Between rows of the queries' gradients.
    fn sums(self) -> usize {
        self.inners().panels() * PANEL + PANEL
    }
}

impl<T: Packed> HeadFactors<T> {
    fn new(sizes: Sizes) -> Self {
        let rows = |tokens: usize| Buffer::reused(tokens * sizes.row());
        // A unit of queries can be longer than the whole step that is copied: what is behind it stays 0.
        let across = || Buffer::zeroed(sizes.padded_width() * sizes.across());
        HeadFactors {
            sizes,
            queries: rows(sizes.padded_queries()),
            queries_across: across(),
            gradients: rows(sizes.padded_queries()),
            gradients_across: across(),
            rows: rows(sizes.keys),
            keys: Buffer::reused(sizes.columns().len()),
            values: Buffer::reused(sizes.columns().len()),
            keys_across: Buffer::reused(sizes.inners().len()),
            wide: [(); 2].map(|()| Buffer::reused(sizes.queries * sizes.width)),
            shared: Buffer::reused(sizes.queries),
        }
    }

    /// Takes what one head's products are made of.
    fn fill(&mut self, call: &Call<'_>, head: usize, adjust: Option<fn(Isa, &mut [T])>, saved: &Saved<'_>) {
        let (isa, sizes) = (call.isa, self.sizes);
        let place = [head / call.query.heads, head % call.query.heads];
        let gather = |sequence: &Sequence<'_>, rows: &mut [T]| {
            sequence.gather(isa, place, 0, sizes.row(), rows);
            if let Some(adjust) = adjust {
                adjust(isa, rows);
            }
        };
        let across = |rows: &[T], out: &mut [T]| {
            let matrix = Matrix::strided(T::values(rows), [sizes.width, sizes.queries], [1, sizes.row()]);
            copy_rows(isa, &matrix, 0, sizes.across(), out);
        };
        let pack = |rows: &[T], shape: PackedShape, strides: [usize; 2], out: &mut [T]| {
            let matrix = Matrix::strided(T::values(rows), [shape.columns, shape.inner], strides);
            pack_rows(isa, &matrix, shape, out);
        };
        gather(&call.query, &mut self.queries);
        across(&self.queries, &mut self.queries_across);
        gather(&saved.gradient, &mut self.gradients);
        across(&self.gradients, &mut self.gradients_across);
        gather(&call.value, &mut self.rows);
        pack(&self.rows, sizes.columns(), [sizes.row(), 1], &mut self.values);
        gather(&call.key, &mut self.rows);
        pack(&self.rows, sizes.columns(), [sizes.row(), 1], &mut self.keys);
        pack(&self.rows, sizes.inners(), [1, sizes.row()], &mut self.keys_across);
        for (sequence, rows) in [&saved.out, &saved.gradient].into_iter().zip(&mut self.wide) {
            sequence.gather(isa, place, 0, sizes.width, rows);
        }
        dot_rows(isa, &self.wide[0], &self.wide[1], sizes.width, &mut self.shared);
    }
}

/// One head's gradients.
struct Head<'a, T: Packed> {
    call: &'a Call<'a>,
    kernel: &'a Kernel<T>,
    /// Of all batches.
    index: usize,
    sizes: Sizes,
    factors: &'a HeadFactors<T>,
}

/// Memory for a block of queries and keys.
struct Scratch<T: Packed> {
    /// Scores, then shares.
    scores: Buffer<f32>,
    /// Gradients of the shares, then of the scores.
    slopes: Buffer<f32>,
    /// Woven, as second factors.
    shares: Buffer<T>,
    woven_slopes: Buffer<T>,
    /// Row after row, as first factor.
    slope_rows: Buffer<T>,
    /// Gradients of all queries, and of a block of keys and of values, `[E, T]`.
    query_sums: Buffer<f32>,
    key_sums: Buffer<f32>,
    value_sums: Buffer<f32>,
    /// Those of a block of keys or values, row after row.
    stored: Buffer<f32>,
}

impl<T: Packed> Scratch<T> {
    fn new(sizes: Sizes) -> Self {
        let most = sizes.block_queries();
        let across = || Buffer::reused(sizes.padded_width() * SUM_STRIDE);
        Scratch {
            scores: Buffer::reused(most * SUM_STRIDE),
            slopes: Buffer::reused(most * SUM_STRIDE),
            shares: Buffer::reused(most * KEYS),
            woven_slopes: Buffer::reused(most * KEYS),
            slope_rows: Buffer::reused(most * (KEYS + GAP)),
            query_sums: Buffer::reused(sizes.padded_queries() * sizes.sums()),
            key_sums: across(),
            value_sums: across(),
            stored: Buffer::reused(KEYS * sizes.row()),
        }
    }
}

/// Some queries and keys that meet.
#[derive(Clone, Copy)]
struct Block {
    query: usize,
    queries: usize,
    key: usize,
    keys: usize,
}

impl<T: Share> Head<'_, T> {
    fn run(&self, saved: &Saved<'_>, scratch: &mut Scratch<T>, mut bias: Option<&mut [f32]>, places: &[Place]) {
        let (sizes, most) = (self.sizes, self.sizes.block_queries());
        for key in (0..sizes.keys).step_by(KEYS) {
            // Under a causal bias, queries before the first key of the block see none of it.
            let first = if matches!(self.call.bias, Bias::Causal) { key / most * most } else { 0 };
            let keys = KEYS.min(sizes.keys - key);
            for query in (first..sizes.queries).step_by(most) {
                let block = Block { query, queries: most.min(sizes.queries - query), key, keys };
                self.slopes(block, saved, scratch, bias.as_deref_mut());
                self.add(block, query > first, scratch);
            }
            if first < sizes.queries {
                let Scratch { key_sums, value_sums, stored, .. } = scratch;
                self.store_across(key_sums, stored, [key, keys], self.call.scale, Role::Key, places);
                self.store_across(value_sums, stored, [key, keys], 1.0, Role::Value, places);
            } else {
                self.store_zeros([key, keys], places);
            }
        }
        for (query, sums) in scratch.query_sums.chunks_mut(sizes.sums()).take(sizes.queries).enumerate() {
            self.store(query, &mut sums[..sizes.width], self.call.scale, Role::Query, places);
        }
    }

    /// Fills the scratch memory with the shares of a block and the gradients of its scores.
    fn slopes(&self, block: Block, saved: &Saved<'_>, scratch: &mut Scratch<T>, bias: Option<&mut [f32]>) {
        let (isa, sizes) = (self.call.isa, self.sizes);
        let Block { query, queries, key, keys } = block;
        let rows = queries.next_multiple_of(sizes.unit);
        for (a, b, sums) in [
            (&self.factors.queries, &self.factors.keys, &mut scratch.scores),
            (&self.factors.gradients, &self.factors.values, &mut scratch.slopes),
        ] {
            let factors = Factors {
                a: &a[query * sizes.row()..],
                a_stride: sizes.row(),
                b,
                first_panel: key / PANEL,
                panels: keys.div_ceil(PANEL),
                panel_stride: sizes.columns().panel_len(),
                start: 0,
                inner: sizes.columns().padded_inner(),
                accumulate: false,
            };
            // SAFETY: `Call::new` checked the instruction set, and `run` configured tiles where the kernel needs them.
            unsafe { tiles(self.kernel, rows, &factors, sums, SUM_STRIDE) };
        }
        let padded = keys.next_multiple_of(STEP);
        let lines = scratch.scores.chunks_mut(SUM_STRIDE).zip(scratch.slopes.chunks_mut(SUM_STRIDE));
        for (row, (scores, slopes)) in lines.enumerate().take(rows) {
            let seen = if row < queries { self.seen(query + row, key, keys) } else { 0 };
            if seen > 0 {
                self.row(query + row, key, saved, &mut scores[..seen], &mut slopes[..seen]);
            }
            scores[seen..padded].fill(0.0);
            slopes[seen..padded].fill(0.0);
            read_run(isa, Values::F32(slopes), &mut scratch.slope_rows[row * (KEYS + GAP)..][..padded]);
        }
        let whole = rows * SUM_STRIDE;
        T::weave(isa, &scratch.scores[..whole], SUM_STRIDE, rows, &mut scratch.shares[..rows * padded]);
        T::weave(isa, &scratch.slopes[..whole], SUM_STRIDE, rows, &mut scratch.woven_slopes[..rows * padded]);
        if let Some(bias) = bias {
            for (row, slopes) in scratch.slopes.chunks(SUM_STRIDE).take(queries).enumerate() {
                let sums = &mut bias[(query + row) * sizes.keys + key..][..keys];
                sums.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
            }
        }
    }

    /// Keys of a block that a query sees: the first ones.
    fn seen(&self, query: usize, key: usize, keys: usize) -> usize {
        match self.call.bias {
            Bias::Causal => keys.min((query + 1).saturating_sub(key)),
            Bias::None | Bias::Added(_) => keys,
        }
    }

    /// Turns a row of scores into shares, and one of the shares' gradients into the scores'.
    fn row(&self, query: usize, key: usize, saved: &Saved<'_>, scores: &mut [f32], slopes: &mut [f32]) {
        let (isa, scale) = (self.call.isa, self.call.scale);
        let log_sum = saved.log_sums[self.index * self.call.query.tokens() + query];
        let shared = self.factors.shared[query];
        match self.call.bias {
            Bias::None | Bias::Causal => weigh::<T>(isa, scores, slopes, scale, log_sum, shared),
            Bias::Added(bias) => {
                let bias = &bias[self.call.bias_row(bias.len(), self.index, query) + key..][..scores.len()];
                weigh_biased::<T>(isa, scores, slopes, bias, [scale, log_sum, shared]);
            }
        }
    }

    /// Adds what a block gives to the gradients of its queries, keys and values.
    fn add(&self, block: Block, not_first: bool, scratch: &mut Scratch<T>) {
        let sizes = self.sizes;
        let Block { query, queries, key, keys } = block;
        let Scratch { shares, woven_slopes, slope_rows, query_sums, key_sums, value_sums, .. } = scratch;
        let rows = queries.next_multiple_of(sizes.unit);
        for (a, b, sums) in [
            (&self.factors.gradients_across, shares, value_sums),
            (&self.factors.queries_across, woven_slopes, key_sums),
        ] {
            let factors = Factors {
                a: &a[query..],
                a_stride: sizes.across(),
                b,
                first_panel: 0,
                panels: keys.div_ceil(PANEL),
                panel_stride: rows * PANEL,
                start: 0,
                inner: rows,
                accumulate: not_first,
            };
            // SAFETY: as in `slopes`.
            unsafe { tiles(self.kernel, sizes.padded_width(), &factors, sums, SUM_STRIDE) };
        }
        let factors = Factors {
            a: slope_rows,
            a_stride: KEYS + GAP,
            b: &self.factors.keys_across,
            first_panel: 0,
            panels: sizes.inners().panels(),
            panel_stride: sizes.inners().panel_len(),
            start: key,
            inner: keys.next_multiple_of(STEP),
            accumulate: key > 0,
        };
        let sums = &mut query_sums[query * sizes.sums()..];
        // SAFETY: as in `slopes`.
        unsafe { tiles(self.kernel, rows, &factors, sums, sizes.sums()) };
    }

    /// Stores sums `[E, T]` as the gradients of keys or values.
    fn store_across(
        &self,
        sums: &[f32],
        rows: &mut [f32],
        [key, keys]: [usize; 2],
        scale: f32,
        role: Role,
        places: &[Place],
    ) {
        let sizes = self.sizes;
        let matrix = Matrix::strided(Values::F32(sums), [keys, sizes.width], [1, SUM_STRIDE]);
        let rows = &mut rows[..keys * sizes.row()];
        copy_rows(self.call.isa, &matrix, 0, sizes.row(), rows);
        for (token, row) in rows.chunks_mut(sizes.row()).enumerate() {
            self.store(key + token, &mut row[..sizes.width], scale, role, places);
        }
    }

    /// Keys and values that no query sees.
    fn store_zeros(&self, [key, keys]: [usize; 2], places: &[Place]) {
        let mut zeros = Buffer::<f32>::zeroed(self.call.query.width);
        for token in key..key + keys {
            self.store(token, &mut zeros, 1.0, Role::Key, places);
            self.store(token, &mut zeros, 1.0, Role::Value, places);
        }
    }

    fn store(&self, token: usize, values: &mut [f32], scale: f32, role: Role, places: &[Place]) {
        let (isa, heads) = (self.call.isa, self.call.query.heads);
        multiply(isa, values, scale);
        let head = [self.index / heads, self.index % heads];
        // SAFETY: `attention_backward` checked that every token of every head has a place of its own in each role, and
        // a head is one thread's.
        unsafe { Place::write(places, isa, role, head, token, values) };
    }
}

vectorised! {
    /// The products of each row of a with the same of b.
    fn dot_rows(a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
        const STRANDS: usize = 16;
        for ((a, b), out) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(out) {
            let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<STRANDS>(), b.as_chunks::<STRANDS>());
            let mut strands = [0.0_f32; STRANDS];
            for (a, b) in a.iter().zip(b) {
                for strand in 0..STRANDS {
                    strands[strand] = multiply_add::<FMA>(a[strand], b[strand], strands[strand]);
                }
            }
            *out = strands.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>();
        }
    }
}

vectorised! {
    fn multiply(values: &mut [f32], factor: f32) {
        for x in values {
            *x *= factor;
        }
    }
}

vectorised! {
    fn weigh<T: Share>(scores: &mut [f32], slopes: &mut [f32], scale: f32, log_sum: f32, shared: f32) {
        for (score, slope) in scores.iter_mut().zip(slopes) {
            let share = T::exp::<FMA>(multiply_add::<FMA>(*score, scale, -log_sum));
            *score = share;
            *slope = share * (*slope - shared);
        }
    }
}

vectorised! {
    fn weigh_biased<T: Share>(scores: &mut [f32], slopes: &mut [f32], bias: &[f32], numbers: [f32; 3]) {
        let [scale, log_sum, shared] = numbers;
        for ((score, slope), bias) in scores.iter_mut().zip(slopes).zip(bias) {
            let share = T::exp::<FMA>(multiply_add::<FMA>(*score, scale, bias - log_sum));
            *score = share;
            *slope = share * (*slope - shared);
        }
    }
}
