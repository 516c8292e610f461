//! How long a run takes, by doing a small part of each phase on this machine.
//!
//! Texts are encoded as they will be, since that is short. Of the transformer each kind of block runs alone, at the size and
//! with the rows of the run, and counts as often as the network has it and the solver asks. The decoder makes a small picture,
//! and the products of the whole one tell how much longer that takes.
//!
//! What this cannot know: how many steps an adaptive solver will choose, which steps a cache will leave out, and what else
//! the machine will be busy with.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rectiflow_mmdit::Perturbation;
use rectiflow_nn::{Tensor, is_finite};

use crate::denoise::{Asked, Batch, Model, READY_BYTES_MAX, Transformers, asked_of, calls};
use crate::error::GenerateError;
use crate::image::ImageError;
use crate::parts::Parts;
use crate::plan::Plan;
use crate::prompt::{Encoder, Told};
use crate::tiling::Decoder;
use crate::{Picture, Watch, draw_noise, encode, go_on};

/// Latent pixels on a side of the picture that is decoded to measure: enough for all threads.
const DECODED_SIDE: usize = 32;
/// A level that no schedule has, in parts of its first.
const BETWEEN: f32 = 0.987_654;
/// A block that takes longer is timed once: what disturbs a machine for a moment does not weigh so much in it.
const LONG: Duration = Duration::from_secs(1);

/// What the phases of a run will take, all its pictures together.
#[derive(Clone, Debug, PartialEq)]
pub struct Rehearsal {
    /// Each encoder by the name of its phase.
    pub encode: Vec<(String, Duration)>,
    /// One step, on average, of the pictures that are drawn at once.
    pub step: Duration,
    /// All steps and what comes before them or with the first one only: modulations, and weights ordered for kernels.
    pub denoise: Duration,
    /// The name of the phase that decodes.
    pub decoding: &'static str,
    /// All pictures.
    pub decode: Duration,
}

/// Finds how long carrying out `plan` will take. Takes seconds where the run takes minutes, and the memory of the run but
/// for most of its weights.
///
/// # Errors
/// A text cannot be read, an encoder's output is not finite, or the watcher stopped the rehearsal.
pub fn rehearse(parts: Parts, plan: &Plan, watch: &mut dyn Watch) -> Result<Rehearsal, GenerateError> {
    let mut parts = parts;
    let mut clock = Clock { watch, phases: Vec::new() };
    let conditionings = encode(&mut parts, plan, &mut clock)?;
    let encode = clock.ended();
    let Parts { transformer, worse, vae, tiny, device, .. } = parts;

    let pictures = plan.pictures().len();
    let at_once = plan.batch_size.min(pictures);
    go_on(watch.phase("denoise"))?;
    let (prompt, negative) = conditionings.of(&vec![0; at_once]);
    let told = Told { prompt: &prompt, negative: negative.as_ref() };
    let transformers = Transformers { drawing: &transformer, worse: worse.as_ref() };
    let start = draw_noise(plan, plan.seed, &device);
    let asked = asked_of(transformers, &told, plan);
    let Steps { prepare, modulate, all } = time_steps(&asked, &start.clone().repeat_dim(0, at_once), plan, watch)?;
    drop((transformer, worse));

    let decoder = Decoder::of(&vae, tiny.as_ref(), plan, watch.memory_available());
    go_on(watch.phase(decoder.phase()))?;
    let side = plan.latent_size().map(|side| side.min(DECODED_SIDE));
    let latent = start.narrow(2, 0, side[0]).narrow(3, 0, side[1]);
    let decode = || decoder.decode(latent.clone());
    let times = [timed(decode), timed(decode)];
    let larger = decoder.work(plan.latent_size()) / decoder.work(side);
    let batches = pictures.div_ceil(at_once) as f64;
    Ok(Rehearsal {
        encode,
        step: all.div_f64(plan.schedule.len() as f64),
        denoise: prepare + (modulate + all).mul_f64(batches),
        decoding: decoder.phase(),
        decode: times[1].mul_f64(larger * pictures as f64) + times[0].saturating_sub(times[1]),
    })
}

/// What the steps of one batch of pictures take.
struct Steps {
    /// Weights that the first asking orders for kernels.
    prepare: Duration,
    /// Modulations of all levels that are asked.
    modulate: Duration,
    /// All that the solver asks.
    all: Duration,
}

/// latents: of the pictures that are drawn at once.
fn time_steps(
    asked: &[Asked<'_, '_>],
    latents: &Tensor<4>,
    plan: &Plan,
    watch: &mut dyn Watch,
) -> Result<Steps, GenerateError> {
    let levels = plan.schedule.starts();
    let mut model = Model::new(asked, levels.to_vec(), READY_BYTES_MAX);
    let calls = calls(plan);
    let mut modulate = Duration::ZERO;
    for batch in &mut model.batches {
        if calls.between > 0 {
            let started = Instant::now();
            batch.make_ready(levels[0] * BETWEEN, levels, READY_BYTES_MAX);
            modulate += started.elapsed().mul_f64(calls.between as f64);
        }
        let started = Instant::now();
        let ready = batch.make_ready(levels[0], levels, READY_BYTES_MAX);
        modulate += started.elapsed().mul_f64(levels.len() as f64 / ready as f64);
    }
    let mut known: BTreeMap<(usize, usize), Duration> = BTreeMap::new();
    let (mut prepare, mut all) = (Duration::ZERO, Duration::ZERO);
    for (places, times) in calls.of_places {
        for (index, batch) in model.batches.iter().enumerate() {
            let count = batch.places.iter().filter(|place| places.contains(place)).count();
            if count == 0 {
                continue;
            }
            let each = match known.entry((index, count)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(place) => {
                    go_on(watch.phase("denoise"))?;
                    let call = time_call(batch, count, latents, levels[0]);
                    prepare += call.first;
                    *place.insert(call.each)
                }
            };
            all += each.mul_f64(times as f64);
        }
    }
    Ok(Steps { prepare, modulate, all })
}

/// One asking of a transformer.
struct Call {
    /// What only the first one takes.
    first: Duration,
    each: Duration,
}

/// With the first `count` conditionings of a batch.
fn time_call(batch: &Batch<'_>, count: usize, latents: &Tensor<4>, sigma: f32) -> Call {
    let config = batch.transformer.config();
    let rows = count * latents.dims()[0];
    let latents = latents.clone().repeat_dim(0, count);
    let first_rows = || std::iter::once(0..rows);
    let (text, modulations) = (batch.text.rows(first_rows()), batch.modulations(sigma).rows(first_rows()));
    let only = |block: Option<usize>| {
        let others = (0..config.depth).filter(|other| Some(*other) != block).collect();
        let others = Perturbation::SkippedBlocks(others);
        timed(|| batch.transformer.velocity(latents.clone(), &text, &modulations, &others, None))
    };
    let mean = |block: Option<usize>| match only(block) {
        once if once > LONG => once,
        once => (once + only(block)) / 2,
    };
    // Once for what a first use takes.
    only(None);
    let ends = mean(None);

    let mut kinds: BTreeMap<(bool, bool), Vec<usize>> = BTreeMap::new();
    let left_out = match &batch.perturbation {
        Perturbation::SkippedBlocks(blocks) => &blocks[..],
        _ => &[],
    };
    for block in (0..config.depth).filter(|block| !left_out.contains(block)) {
        let kind = (block + 1 == config.depth, config.dual_layers.contains(&block));
        kinds.entry(kind).or_default().push(block);
    }
    let mut call = Call { first: Duration::ZERO, each: ends };
    for blocks in kinds.values() {
        let (first, later) = (only(Some(blocks[0])), mean(Some(blocks[0])));
        call.first += first.saturating_sub(later).mul_f64(blocks.len() as f64);
        call.each += later.saturating_sub(ends).mul_f64(blocks.len() as f64);
    }
    call
}

/// Until the values are there, wherever they are computed.
fn timed<const D: usize>(compute: impl FnOnce() -> Tensor<D>) -> Duration {
    let started = Instant::now();
    // A part of a network may give anything.
    let _ = is_finite(&compute());
    started.elapsed()
}

/// Notes when phases begin.
struct Clock<'w> {
    watch: &'w mut dyn Watch,
    phases: Vec<(String, Instant)>,
}

impl Clock<'_> {
    fn ended(self) -> Vec<(String, Duration)> {
        let end = Instant::now();
        let ends = self.phases.iter().skip(1).map(|(_, started)| *started).chain([end]);
        self.phases.iter().zip(ends).map(|((name, started), end)| (name.clone(), end - *started)).collect()
    }
}

impl Watch for Clock<'_> {
    fn phase(&mut self, name: &str) -> ControlFlow<()> {
        self.phases.push((name.to_owned(), Instant::now()));
        self.watch.phase(name)
    }

    fn step(&mut self, done: usize, of: usize) -> ControlFlow<()> {
        self.watch.step(done, of)
    }

    fn cut(&mut self, encoder: Encoder, tokens: usize, words: &str) {
        self.watch.cut(encoder, tokens, words);
    }

    fn reused(&mut self, reused: usize, asked: usize) {
        self.watch.reused(reused, asked);
    }

    fn picture(&mut self, picture: Picture) -> Result<(), ImageError> {
        self.watch.picture(picture)
    }
}
