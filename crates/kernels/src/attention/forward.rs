use half::bf16;
use rayon::prelude::*;

use super::backward;
use super::gradients::{Gradients, Saved};
use super::sequence::{OutputPart, Sequence};
use super::statistics::{self, HeadStatistics};
use super::tiles::{Factors, GAP, tiles};
use crate::product::{
    Kernel, Matrix, Output, PANEL, Packed, PackedShape, STEP, SharedOutput, bf16_kernel, f32_kernel, pack_panel, round,
};
use crate::vector::{exp_below, multiply_add, vectorised};
use crate::{Buffer, Isa};

/// Queries that meet a block of keys together.
const QUERIES: usize = 64;
/// Keys of a block: its scores and shares fill a part of the second cache; fewer make tiles too short.
const KEYS: usize = 1024;

/// What is added to the scaled scores.
#[derive(Clone, Copy, Debug, Default)]
pub enum Bias<'a> {
    /// Nothing.
    #[default]
    None,
    /// A query sees the keys up to its own place.
    Causal,
    /// `[B, H, S, T]`, or `[1, H, S, T]` for every batch.
    Added(&'a [f32]),
}

/// Numbers that attention multiplies.
pub trait Attended: Sized {
    #[doc(hidden)]
    fn dispatch(call: &Call<'_>, out: &mut [OutputPart<'_>], log_sums: Option<&mut [f32]>);
    #[doc(hidden)]
    fn dispatch_backward(call: &Call<'_>, saved: &Saved<'_>, gradients: &mut Gradients<'_>);
    #[doc(hidden)]
    fn dispatch_statistics(call: &Call<'_>) -> Vec<HeadStatistics>;
}

/// One attention's arguments.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub(super) isa: Isa,
    pub(super) query: Sequence<'a>,
    pub(super) key: Sequence<'a>,
    pub(super) value: Sequence<'a>,
    pub(super) scale: f32,
    pub(super) bias: Bias<'a>,
}

impl<'a> Call<'a> {
    /// Panics on sizes that do not fit each other.
    pub(super) fn new(isa: Isa, [query, key, value]: [Sequence<'a>; 3], scale: f32, bias: Bias<'a>) -> Self {
        assert!(isa <= Isa::best(), "{isa} on a processor without it");
        for sequence in [query, key, value] {
            let sizes = |s: &Sequence<'_>| [s.batch, s.heads, s.width];
            assert_eq!(sizes(&sequence), sizes(&query), "batch, heads and width of an attention");
            sequence.check();
        }
        assert!(scale > 0.0, "an attention's scale of {scale}");
        let (queries, keys) = (query.tokens(), key.tokens());
        assert_eq!(value.tokens(), keys, "as many values as keys");
        assert!(keys > 0 || queries == 0, "an attention without keys");
        let call = Call { isa, query, key, value, scale, bias };
        if let Bias::Added(bias) = bias {
            let whole = call.rows() * keys;
            assert!(bias.len() == whole || bias.len() * query.batch == whole, "{} biases", bias.len());
        }
        call
    }

    /// Queries of all heads and batches.
    pub(super) fn rows(&self) -> usize {
        self.query.batch * self.query.heads * self.query.tokens()
    }

    /// Where the biases of a row of scores begin; `head` counts those of all batches.
    pub(super) fn bias_row(&self, biases: usize, head: usize, query: usize) -> usize {
        let (queries, keys) = (self.query.tokens(), self.key.tokens());
        let heads = (biases / (queries * keys)).max(1);
        (head % heads * queries + query) * keys
    }
}

/// Mixes values: `out = softmax(scale q k^T + bias) v`, products of factors rounded to `T`, all else in f32.
///
/// The parts of `out` have the tokens of the queries' parts. `log_sums` `[B, H, S]`, if it is asked for, becomes the
/// logarithm of what each row of the softmax is divided by, which [`super::attention_backward`] wants back. Results
/// do not depend on the number of threads.
///
/// # Panics
/// Sizes that do not fit each other, or an instruction set that the machine lacks: bugs of the caller.
pub fn attention<T: Attended>(
    isa: Isa,
    sequences: [Sequence<'_>; 3],
    scale: f32,
    bias: Bias<'_>,
    out: &mut [OutputPart<'_>],
    log_sums: Option<&mut [f32]>,
) {
    let call = Call::new(isa, sequences, scale, bias);
    let Sequence { batch, heads, width, .. } = call.query;
    assert_eq!(out.iter().map(|part| part.tokens).sum::<usize>(), call.query.tokens(), "tokens of the output");
    for part in &*out {
        assert_eq!(part.values.len(), batch * part.tokens * heads * width, "values of {} output tokens", part.tokens);
    }
    if let Some(log_sums) = &log_sums {
        assert_eq!(log_sums.len(), call.rows(), "sums of every row");
    }
    if call.rows() * width > 0 {
        T::dispatch(&call, out, log_sums);
    }
}

impl Attended for f32 {
    fn dispatch(call: &Call<'_>, out: &mut [OutputPart<'_>], log_sums: Option<&mut [f32]>) {
        run(call, &f32_kernel(call.isa), None, out, log_sums);
    }

    fn dispatch_backward(call: &Call<'_>, saved: &Saved<'_>, gradients: &mut Gradients<'_>) {
        backward::run(call, &f32_kernel(call.isa), None, saved, gradients);
    }

    fn dispatch_statistics(call: &Call<'_>) -> Vec<HeadStatistics> {
        statistics::of_f32(call)
    }
}

impl Attended for bf16 {
    fn dispatch(call: &Call<'_>, out: &mut [OutputPart<'_>], log_sums: Option<&mut [f32]>) {
        match bf16_kernel(call.isa) {
            Some(kernel) => run(call, &kernel, None, out, log_sums),
            None => run(call, &f32_kernel(call.isa), Some(round), out, log_sums),
        }
    }

    fn dispatch_backward(call: &Call<'_>, saved: &Saved<'_>, gradients: &mut Gradients<'_>) {
        match bf16_kernel(call.isa) {
            Some(kernel) => backward::run(call, &kernel, None, saved, gradients),
            None => backward::run(call, &f32_kernel(call.isa), Some(round), saved, gradients),
        }
    }

    fn dispatch_statistics(call: &Call<'_>) -> Vec<HeadStatistics> {
        statistics::of_bf16(call)
    }
}

/// The packed keys and values of all heads: what every block of queries reads.
struct Packs<'a, T> {
    keys: &'a [T],
    values: &'a [T],
    key_shape: PackedShape,
    value_shape: PackedShape,
}

fn run<T: Share>(
    call: &Call<'_>,
    kernel: &Kernel<T>,
    adjust: Option<fn(Isa, &mut [T])>,
    out: &mut [OutputPart<'_>],
    log_sums: Option<&mut [f32]>,
) {
    let heads = call.query.batch * call.query.heads;
    let (tokens, width) = (call.key.tokens(), call.query.width);
    let key_shape = PackedShape { columns: tokens, inner: width };
    let value_shape = PackedShape { columns: width, inner: tokens };
    let places: Vec<Place> = out.iter_mut().map(Place::of).collect();
    let log_sums = log_sums.map(|sums| SharedOutput::of(&mut Output::F32(sums)));
    let mut keys = Buffer::<T>::reused(heads * key_shape.len());
    let mut values = Buffer::<T>::reused(heads * value_shape.len());
    let packs = keys.par_chunks_mut(key_shape.len()).zip(values.par_chunks_mut(value_shape.len()));
    packs.enumerate().for_each(|(head, (keys, values))| {
        let head = [head / call.query.heads, head % call.query.heads];
        pack_head(call.isa, &call.key, head, key_shape, adjust, false, keys);
        pack_head(call.isa, &call.value, head, value_shape, adjust, true, values);
    });
    let packs = Packs { keys: &keys, values: &values, key_shape, value_shape };
    let blocks = call.query.tokens().div_ceil(QUERIES);
    let scratch = || Scratch::new(kernel.rows, key_shape, value_shape);
    (0..heads * blocks).into_par_iter().for_each_init(scratch, |scratch, index| {
        #[cfg(target_arch = "x86_64")]
        let _tiles = kernel.tiles.then(crate::tiles::Tiles::configure);
        let block = Block { call, kernel, packs: &packs, head: index / blocks, first: index % blocks * QUERIES };
        block.run(adjust, scratch, &places, log_sums.as_ref());
    });
}

/// Memory for a block of queries.
struct Scratch<T: Packed> {
    query: Buffer<T>,
    shares: Buffer<T>,
    scores: Buffer<f32>,
    mixed: Buffer<f32>,
}

impl<T: Packed> Scratch<T> {
    fn new(tile_rows: usize, key_shape: PackedShape, value_shape: PackedShape) -> Self {
        let rows = QUERIES.next_multiple_of(tile_rows);
        Scratch {
            query: Buffer::reused(rows * (key_shape.padded_inner() + GAP)),
            shares: Buffer::reused(rows * (KEYS + GAP)),
            scores: Buffer::reused(rows * (KEYS + PANEL)),
            mixed: Buffer::reused(rows * mixed_stride(value_shape)),
        }
    }
}

/// Between rows of mixed values.
fn mixed_stride(value_shape: PackedShape) -> usize {
    value_shape.panels() * PANEL + PANEL
}

/// Packs one head's rows as columns or, `across`, its rows as inner values.
fn pack_head<T: Packed>(
    isa: Isa,
    sequence: &Sequence<'_>,
    head: [usize; 2],
    shape: PackedShape,
    adjust: Option<fn(Isa, &mut [T])>,
    across: bool,
    out: &mut [T],
) {
    let (tokens, width) = (sequence.tokens(), sequence.width);
    let mut rows = Buffer::<T>::reused(tokens * width);
    sequence.gather(isa, head, 0, width, &mut rows);
    if let Some(adjust) = adjust {
        adjust(isa, &mut rows);
    }
    let matrix = Matrix::new(T::values(&rows), tokens, width);
    let matrix = if across { matrix.transposed() } else { matrix };
    pack_rows(isa, &matrix, shape, out);
}

/// Packs a whole factor on this thread.
pub(super) fn pack_rows<T: Packed>(isa: Isa, matrix: &Matrix<'_>, shape: PackedShape, out: &mut [T]) {
    for (panel, out) in out.chunks_exact_mut(shape.panel_len()).enumerate() {
        pack_panel(isa, matrix, panel, out);
    }
}

/// Some queries of one head.
struct Block<'a, T> {
    call: &'a Call<'a>,
    kernel: &'a Kernel<T>,
    packs: &'a Packs<'a, T>,
    /// Of all batches: `batch * H + head`.
    head: usize,
    /// The first query.
    first: usize,
}

/// The running softmax of a block's rows.
struct Rows {
    maximum: [f32; QUERIES],
    sum: [f32; QUERIES],
    /// What the mixed values so far must be multiplied by, because the maximum rose.
    rescale: [f32; QUERIES],
}

impl<T: Share> Block<'_, T> {
    fn run(
        &self,
        adjust: Option<fn(Isa, &mut [T])>,
        scratch: &mut Scratch<T>,
        places: &[Place],
        log_sums: Option<&SharedOutput>,
    ) {
        let isa = self.call.isa;
        let inner = self.packs.key_shape.padded_inner();
        let query_stride = inner + GAP;
        let queries = QUERIES.min(self.call.query.tokens() - self.first);
        let rows = queries.next_multiple_of(self.kernel.rows);
        let Scratch { query, shares, scores, mixed } = scratch;
        let query = &mut query[..rows * query_stride];
        self.call.query.gather(isa, self.batch_and_head(), self.first, query_stride, query);
        if let Some(adjust) = adjust {
            adjust(isa, query);
        }
        let state = self.mix(queries, rows, [query, shares], [scores, mixed]);
        self.store(&state.sum[..queries], mixed, mixed_stride(self.packs.value_shape), places);
        if let Some(log_sums) = log_sums {
            let scale = if matches!(self.call.bias, Bias::Added(_)) { 1.0 } else { self.call.scale };
            let logarithms: [f32; QUERIES] =
                std::array::from_fn(|row| state.sum[row].ln() + state.maximum[row] * scale);
            let start = self.head * self.call.query.tokens() + self.first;
            // SAFETY: `attention` checked that there is a place for every query, and each is in one block only.
            unsafe { log_sums.write(isa, start, &logarithms[..queries]) };
        }
    }

    fn batch_and_head(&self) -> [usize; 2] {
        let heads = self.call.query.heads;
        [self.head / heads, self.head % heads]
    }

    /// Leaves in `mixed` the values, weighted but not yet divided by the sums of the weights.
    fn mix(
        &self,
        queries: usize,
        rows: usize,
        [query, shares]: [&mut [T]; 2],
        [scores, mixed]: [&mut [f32]; 2],
    ) -> Rows {
        let isa = self.call.isa;
        let Packs { keys, values, key_shape, value_shape } = *self.packs;
        let keys = &keys[self.head * key_shape.len()..][..key_shape.len()];
        let values = &values[self.head * value_shape.len()..][..value_shape.len()];
        let query_stride = key_shape.padded_inner() + GAP;
        let mixed_stride = mixed_stride(value_shape);
        let mut state = Rows { maximum: [f32::NEG_INFINITY; QUERIES], sum: [0.0; QUERIES], rescale: [1.0; QUERIES] };
        for start in (0..self.keys_seen(queries)).step_by(KEYS) {
            let count = KEYS.min(key_shape.columns - start);
            let padded = count.next_multiple_of(STEP);
            let factors = Factors {
                a: query,
                a_stride: query_stride,
                b: keys,
                first_panel: start / PANEL,
                panels: count.div_ceil(PANEL),
                panel_stride: key_shape.panel_len(),
                start: 0,
                inner: key_shape.padded_inner(),
                accumulate: false,
            };
            // SAFETY: `Call::new` checked the instruction set, and `run` configured tiles where the kernel needs them.
            unsafe { tiles(self.kernel, rows, &factors, scores, KEYS + PANEL) };
            for row in 0..queries {
                let scores = &mut scores[row * (KEYS + PANEL)..][..count];
                let (seen, scale) = self.biased(row, start, scores);
                let shares = &mut shares[row * (KEYS + GAP)..][..padded];
                (state.maximum[row], state.sum[row], state.rescale[row]) =
                    T::soften(isa, &scores[..seen], scale, shares, state.maximum[row], state.sum[row]);
            }
            for row in queries..rows {
                shares[row * (KEYS + GAP)..][..padded].fill(T::from_f32(0.0));
            }
            if start > 0 {
                for (row, &rescale) in state.rescale.iter().enumerate().take(queries) {
                    if rescale != 1.0 {
                        scale_row(isa, &mut mixed[row * mixed_stride..][..mixed_stride - PANEL], rescale);
                    }
                }
            }
            let factors = Factors {
                a: shares,
                a_stride: KEYS + GAP,
                b: values,
                first_panel: 0,
                panels: value_shape.panels(),
                panel_stride: value_shape.panel_len(),
                start,
                inner: padded,
                accumulate: start > 0,
            };
            // SAFETY: as above.
            unsafe { tiles(self.kernel, rows, &factors, mixed, mixed_stride) };
        }
        state
    }

    /// Keys that any query of the block sees.
    fn keys_seen(&self, queries: usize) -> usize {
        match self.call.bias {
            Bias::Causal => self.packs.key_shape.columns.min(self.first + queries),
            Bias::None | Bias::Added(_) => self.packs.key_shape.columns,
        }
    }

    /// Adds a row's bias. Returns how many of the scores the query sees, and what they must be scaled with.
    fn biased(&self, row: usize, start: usize, scores: &mut [f32]) -> (usize, f32) {
        let (query, scale) = (self.first + row, self.call.scale);
        match self.call.bias {
            Bias::None => (scores.len(), scale),
            Bias::Causal => (scores.len().min((query + 1).saturating_sub(start)), scale),
            Bias::Added(bias) => {
                let bias = &bias[self.call.bias_row(bias.len(), self.head, query) + start..][..scores.len()];
                scale_and_add(self.call.isa, scores, scale, bias);
                (scores.len(), 1.0)
            }
        }
    }

    fn store(&self, sums: &[f32], mixed: &mut [f32], mixed_stride: usize, places: &[Place]) {
        let [batch, head] = self.batch_and_head();
        let width = self.call.query.width;
        for (row, sum) in sums.iter().enumerate() {
            let mixed = &mut mixed[row * mixed_stride..][..width];
            scale_row(self.call.isa, mixed, 1.0 / sum);
            let mut token = self.first + row;
            for place in places {
                if token < place.tokens {
                    let start = ((batch * place.tokens + token) * self.call.query.heads + head) * width;
                    // SAFETY: `attention` checked the output's size; a query of a head is in one block only.
                    unsafe { place.values.write(self.call.isa, start, mixed) };
                    break;
                }
                token -= place.tokens;
            }
        }
    }
}

/// An output part, shared by the threads that write different tokens and heads of it.
struct Place {
    tokens: usize,
    values: SharedOutput,
}

impl Place {
    fn of(part: &mut OutputPart<'_>) -> Place {
        Place { tokens: part.tokens, values: SharedOutput::of(&mut part.values) }
    }
}

vectorised! {
    fn scale_row(values: &mut [f32], factor: f32) {
        for x in values {
            *x *= factor;
        }
    }
}

vectorised! {
    fn scale_and_add(scores: &mut [f32], scale: f32, bias: &[f32]) {
        for (score, bias) in scores.iter_mut().zip(bias) {
            *score = multiply_add::<FMA>(*score, scale, *bias);
        }
    }
}

/// Sums and maxima run in this many strands, so that they vectorise and do not wait for each other.
const STRANDS: usize = 32;

vectorised! {
    /// Turns scores into `e^(scale * (score - maximum))`, rounded to `T`, and goes on with the running maximum and
    /// sum. Returns both, and the factor for what was summed under the old maximum. Shares behind the scores become 0.
    fn soften<T: Share>(
        scores: &[f32],
        scale: f32,
        shares: &mut [T],
        old_maximum: f32,
        old_sum: f32,
    ) -> (f32, f32, f32) {
        let (whole, rest) = scores.as_chunks::<STRANDS>();
        let larger = |maximum: f32, score: f32| if score > maximum { score } else { maximum };
        let mut maxima = [old_maximum; STRANDS];
        for scores in whole {
            for (maximum, &score) in maxima.iter_mut().zip(scores) {
                *maximum = larger(*maximum, score);
            }
        }
        let maximum = maxima.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger);
        let (shares_whole, shares_rest) = shares.split_at_mut(whole.len() * STRANDS);
        let mut sums = [0.0_f32; STRANDS];
        for (scores, shares) in whole.iter().zip(shares_whole.as_chunks_mut::<STRANDS>().0) {
            for strand in 0..STRANDS {
                let share = T::exp::<FMA>((scores[strand] - maximum) * scale);
                sums[strand] += share;
                shares[strand] = T::from_share(share);
            }
        }
        let mut sum: f32 = sums.iter().sum();
        let mut rest = rest.iter();
        for share in shares_rest {
            let value = rest.next().map_or(0.0, |score| T::exp::<FMA>((score - maximum) * scale));
            sum += value;
            *share = T::from_share(value);
        }
        let rescale = if old_sum == 0.0 { 1.0 } else { T::exp::<FMA>((old_maximum - maximum) * scale) };
        (maximum, multiply_add::<FMA>(old_sum, rescale, sum), rescale)
    }
}

/// What the weights of a row are kept as between the two products.
pub(super) trait Share: Packed {
    /// `e^x` for x up to 0, as exact as this type keeps it.
    fn exp<const FMA: bool>(x: f32) -> f32;
    /// A number of 0 to 1, or NaN, rounded.
    fn from_share(share: f32) -> Self;
    /// Writes rows of numbers, `stride` apart, as panels of a factor: `[rows / group][16][group]` for each 16 columns
    /// of them. The rows are whole groups.
    fn weave(isa: Isa, rows: &[f32], stride: usize, count: usize, out: &mut [Self]);

    /// [`soften`], perhaps with instructions of its own.
    fn soften(isa: Isa, scores: &[f32], scale: f32, shares: &mut [Self], maximum: f32, sum: f32) -> (f32, f32, f32) {
        soften(isa, scores, scale, shares, maximum, sum)
    }
}

impl Share for f32 {
    #[inline(always)]
    fn exp<const FMA: bool>(x: f32) -> f32 {
        exp_below::<FMA, 7>(x)
    }

    #[inline(always)]
    fn from_share(share: f32) -> f32 {
        share
    }

    fn weave(_: Isa, rows: &[f32], stride: usize, count: usize, out: &mut [f32]) {
        for (panel, out) in out.chunks_exact_mut(count * PANEL).enumerate() {
            for (row, out) in rows.chunks(stride).zip(out.as_chunks_mut::<PANEL>().0) {
                out.copy_from_slice(&row[panel * PANEL..][..PANEL]);
            }
        }
    }
}

impl Share for bf16 {
    #[inline(always)]
    fn exp<const FMA: bool>(x: f32) -> f32 {
        exp_below::<FMA, 4>(x)
    }

    #[cfg(target_arch = "x86_64")]
    fn soften(isa: Isa, scores: &[f32], scale: f32, shares: &mut [bf16], maximum: f32, sum: f32) -> (f32, f32, f32) {
        if isa < Isa::Avx512Bf16 {
            return soften(isa, scores, scale, shares, maximum, sum);
        }
        assert!(isa <= Isa::best(), "{isa} on a processor without it");
        // SAFETY: the assertion above: the processor has these instructions.
        unsafe { super::avx512::soften(scores, scale, shares, maximum, sum) }
    }

    /// To the nearest, ties up: no tie matters here, and a NaN of arithmetic stays one.
    #[inline(always)]
    fn from_share(share: f32) -> bf16 {
        bf16::from_bits((share.to_bits().wrapping_add(0x8000) >> 16) as u16)
    }

    fn weave(isa: Isa, rows: &[f32], stride: usize, count: usize, out: &mut [bf16]) {
        weave_pairs(isa, rows, stride, count, out);
    }
}

vectorised! {
    fn weave_pairs(rows: &[f32], stride: usize, count: usize, out: &mut [bf16]) {
        for (panel, out) in out.chunks_exact_mut(count * PANEL).enumerate() {
            for (pair, out) in rows.chunks(2 * stride).zip(out.as_chunks_mut::<{ 2 * PANEL }>().0) {
                let (first, second) = pair.split_at(stride);
                let first: &[f32; PANEL] = first[panel * PANEL..].first_chunk().expect("whole panels");
                let second: &[f32; PANEL] = second[panel * PANEL..].first_chunk().expect("whole panels");
                for column in 0..PANEL {
                    out[2 * column] = bf16::from_share(first[column]);
                    out[2 * column + 1] = bf16::from_share(second[column]);
                }
            }
        }
    }
}
