//! Noise to latent: the transformer, told what to draw, along a schedule.

use std::collections::BTreeMap;

use rectiflow_mmdit::{EmbeddedText, Mmdit, Modulations, Perturbation, StepCache};
use rectiflow_nn::{Device, Rng, Tensor, from_f32};
use rectiflow_sample::{Away, Conditional, Guided, SampleError, Step};
use rectiflow_text::Conditioning;

use crate::guidance::Hindrance;
use crate::observed::{Observed, Said};
use crate::plan::Plan;
use crate::prompt::Told;
use crate::reuse::StepReuse;
use crate::{Unwatched, Watch};

/// The transformer that draws, and for autoguidance one that draws worse.
#[derive(Clone, Copy)]
pub struct Transformers<'a> {
    /// What draws.
    pub drawing: &'a Mmdit,
    /// What it is led away from.
    pub worse: Option<&'a Mmdit>,
}

impl<'a> From<&'a Mmdit> for Transformers<'a> {
    fn from(drawing: &'a Mmdit) -> Transformers<'a> {
        Transformers { drawing, worse: None }
    }
}

/// Follows the plan's schedule from `noise` `[N, 16, H/8, W/8]` to latents of the same shape. What is told has a row for
/// each of the N, and each has a seed, which decides what a stochastic solver adds in its steps: several prompts are drawn
/// at once, and each becomes what it would alone. But a solver that chooses its steps, and what steps reuse, go by all latents.
///
/// # Errors
/// A step gave values that are not finite, or the watcher stopped the run.
///
/// # Panics
/// The plan has autoguidance, and there is no worse model: a bug of the caller.
pub fn denoise<'a>(
    transformers: impl Into<Transformers<'a>>,
    told: &Told<'_>,
    noise: Tensor<4>,
    seeds: &[u64],
    plan: &Plan,
    watch: &mut dyn Watch,
) -> Result<Tensor<4>, SampleError> {
    assert_eq!(noise.dims()[0], seeds.len(), "seeds of latents");
    let asked = asked_of(transformers.into(), told, plan);
    let mut model = Model::new(&asked, plan.schedule.starts().to_vec(), READY_BYTES_MAX);
    for batch in &mut model.batches {
        batch.cache = plan.reuse.map(StepReuse::cache);
    }
    let latents = follow_places(&mut model, told.negative.is_some(), noise, seeds, plan, watch)?;
    if plan.reuse.is_some() {
        let reused = model.batches.iter().filter_map(|batch| batch.cache.as_ref()).map(StepCache::reused).sum();
        watch.reused(reused, model.batches.iter().map(|batch| batch.asked).sum());
    }
    Ok(latents)
}

/// All that a plan asks: with the prompt, with the negative prompt if there is one, and with what hinders.
pub(crate) fn asked_of<'a, 't>(
    Transformers { drawing, worse }: Transformers<'t>,
    told: &Told<'a>,
    plan: &Plan,
) -> Vec<Asked<'a, 't>> {
    let mut asked = vec![Asked::plainly(drawing, told.prompt)];
    asked.extend(told.negative.map(|negative| Asked::plainly(drawing, negative)));
    asked.extend(plan.hindered.iter().map(|hindered| {
        let is_worse = hindered.how == Hindrance::WorseModel;
        let transformer = if is_worse { worse.expect("autoguidance has its model") } else { drawing };
        Asked { transformer, told: told.prompt, perturbation: hindered.perturbation() }
    }));
    asked
}

/// How often a plan's solver asks with which places of [`asked_of`] together.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) of_places: BTreeMap<Vec<usize>, usize>,
    /// Noise levels that are no step's start, for which modulations are made alone.
    pub(crate) between: usize,
}

/// What carrying out a plan asks. A solver that chooses its steps may ask more often of a model that is less smooth than
/// the one that this is found with.
pub(crate) fn calls(plan: &Plan) -> Calls {
    let mut counting = Counting { starts: plan.schedule.starts(), calls: Calls::default(), last: None };
    let noise = from_f32(vec![0.5, -1.0, 2.0, 0.25], [1, 1, 2, 2], &Device::flex());
    let followed = follow_places(&mut counting, plan.is_guided(), noise, &[0], plan, &mut Unwatched);
    followed.expect("a smooth model gives finite values");
    counting.calls
}

/// Answers with latents that differ a little for each place, and counts.
struct Counting<'a> {
    starts: &'a [f32],
    calls: Calls,
    /// The last level between starts.
    last: Option<f32>,
}

impl Conditional for Counting<'_> {
    type Conditioning = usize;

    fn velocities(&mut self, latent: &Tensor<4>, sigma: f32, asked: &[&usize]) -> Result<Vec<Tensor<4>>, SampleError> {
        *self.calls.of_places.entry(asked.iter().map(|place| **place).collect()).or_default() += 1;
        if !self.starts.contains(&sigma) && self.last != Some(sigma) {
            self.calls.between += 1;
            self.last = Some(sigma);
        }
        Ok(asked.iter().map(|place| latent.clone() * (1.0 + 0.05 * **place as f32)).collect())
    }
}

/// Of a model that is asked with the places of [`asked_of`].
fn follow_places<M: Conditional<Conditioning = usize>>(
    model: &mut M,
    is_guided: bool,
    noise: Tensor<4>,
    seeds: &[u64],
    plan: &Plan,
    watch: &mut dyn Watch,
) -> Result<Tensor<4>, SampleError> {
    let told = Told { prompt: &0, negative: is_guided.then_some(&1) };
    let first_hindered = if is_guided { 2 } else { 1 };
    let hindered: Vec<usize> = (first_hindered..first_hindered + plan.hindered.len()).collect();
    follow(model, &told, &hindered, noise, seeds, plan, watch)
}

/// The same for any model that listens. `hindered`: what it is told to be hindered as the plan says, one for each.
fn follow<M: Conditional>(
    model: &mut M,
    told: &Told<'_, M::Conditioning>,
    hindered: &[M::Conditioning],
    noise: Tensor<4>,
    seeds: &[u64],
    plan: &Plan,
    watch: &mut dyn Watch,
) -> Result<Tensor<4>, SampleError> {
    let (schedule, steps) = (&plan.schedule, plan.schedule.len());
    let (shape, device) = (noise.dims(), noise.device());
    let mut fresh = |step: usize| fresh_noise(seeds, step, shape, &device);
    let said = Said::default();
    let mut watch = |step: Step<'_>| {
        watch.denoised(step.index + 1, steps, &|| said.denoised());
        watch.step(step.index + 1, steps)
    };
    let away = plan.hindered.iter().zip(hindered);
    let away = away.map(|(how, told)| Away { told, scale: how.scale, window: how.window }).collect();
    let guided = Guided::new(model, told.prompt, told.negative, away, &plan.guidance, schedule.starts());
    plan.solver.run(&mut Observed::new(guided, &said), noise, schedule, &mut fresh, &mut watch)
}

/// What a stochastic solver adds in a step: of each latent's own seed and the step's number, of nothing else.
fn fresh_noise(seeds: &[u64], step: usize, shape: [usize; 4], device: &Device) -> Tensor<4> {
    let size = shape[1..].iter().product();
    let of_each = seeds.iter().flat_map(|seed| Rng::keyed(*seed, "solver noise", step as u64).normals(size));
    from_f32(of_each.collect(), shape, device)
}

/// What modulations may take that are made at once. All of 28 guided steps: 99 MB for SD3-Medium, 249 for SD3.5-Large.
pub(crate) const READY_BYTES_MAX: usize = 256 << 20;

/// Transformers, told what to draw and which noise levels come. They are asked with the places of conditionings.
pub(crate) struct Model<'a> {
    pub(crate) batches: Vec<Batch<'a>>,
    /// The noise levels that will be asked, in this order.
    sigmas: Vec<f32>,
    ready_bytes_max: usize,
}

/// What a transformer is asked with.
pub(crate) struct Asked<'a, 't> {
    transformer: &'t Mmdit,
    told: &'a Conditioning,
    perturbation: Perturbation,
}

impl<'a, 't> Asked<'a, 't> {
    fn plainly(transformer: &'t Mmdit, told: &'a Conditioning) -> Asked<'a, 't> {
        Asked { transformer, told, perturbation: Perturbation::None }
    }

    /// Whether one batch holds both.
    fn goes_with(&self, other: &Asked<'_, '_>) -> bool {
        let tokens = |asked: &Asked<'_, '_>| asked.told.context.dims()[1];
        std::ptr::eq(self.transformer, other.transformer)
            && tokens(self) == tokens(other)
            && self.perturbation == other.perturbation
    }
}

/// Conditionings that one transformer is asked with together: their contexts are equally long, and nothing hinders it or the
/// same does. Each has as many rows as there are latents.
pub(crate) struct Batch<'a> {
    pub(crate) transformer: &'a Mmdit,
    /// Of each, among all conditionings.
    pub(crate) places: Vec<usize>,
    /// Of all of them together.
    rows: usize,
    pub(crate) text: EmbeddedText,
    pub(crate) perturbation: Perturbation,
    /// Of the steps before, where some are reused.
    cache: Option<StepCache>,
    /// How often the transformer was asked.
    asked: usize,
    /// Modulations of noise levels that come.
    ready: Vec<(f32, Modulations)>,
    /// Of the last one that nobody knew of.
    other: Option<(f32, Modulations)>,
}

impl<'a> Model<'a> {
    /// All that nothing hinders as one batch where the contexts are equally long: each weight is then read and widened
    /// once. Otherwise in turn. On a network of small weights it makes no difference: 12 steps of `fixtures/sd3/model` at
    /// 384x384 took 1.04 s (0.93 to 1.15) as one batch and 1.04 s (1.00 to 1.13) in turn, medians of 6 runs on 2 cores of
    /// an Intel Xeon. What it saves on large weights has not been measured.
    pub(crate) fn new(asked: &[Asked<'_, 'a>], sigmas: Vec<f32>, ready_bytes_max: usize) -> Model<'a> {
        let mut kinds: Vec<Vec<usize>> = Vec::new();
        for (place, one) in asked.iter().enumerate() {
            match kinds.iter_mut().find(|places| asked[places[0]].goes_with(one)) {
                Some(places) => places.push(place),
                None => kinds.push(vec![place]),
            }
        }
        let batches = kinds.iter().map(|places| Batch::new(asked, places)).collect();
        Model { batches, sigmas, ready_bytes_max }
    }
}

impl Conditional for Model<'_> {
    type Conditioning = usize;

    fn velocities(
        &mut self,
        latent: &Tensor<4>,
        sigma: f32,
        conditionings: &[&usize],
    ) -> Result<Vec<Tensor<4>>, SampleError> {
        let mut found: Vec<Option<Tensor<4>>> =
            self.batches.iter().flat_map(|batch| &batch.places).map(|_| None).collect();
        let rows = latent.dims()[0];
        for batch in &mut self.batches {
            let is_asked = |place: &usize| conditionings.contains(&place);
            let asked: Vec<usize> = (0..batch.places.len()).filter(|index| is_asked(&batch.places[*index])).collect();
            if asked.is_empty() {
                continue;
            }
            batch.make_ready(sigma, &self.sigmas, self.ready_bytes_max);
            batch.asked += 1;
            let latents = latent.clone().repeat_dim(0, asked.len());
            let mut cache = batch.cache.take();
            let (text, modulations) = (&batch.text, batch.modulations(sigma));
            let (hindered, reused) = (&batch.perturbation, cache.as_mut().map(|cache| (cache, sigma)));
            let velocities = if asked.len() == batch.places.len() {
                batch.transformer.velocity(latents, text, modulations, hindered, reused)
            } else {
                let parts = || asked.iter().map(|index| index * rows..(index + 1) * rows);
                let (text, modulations) = (text.rows(parts()), modulations.rows(parts()));
                batch.transformer.velocity(latents, &text, &modulations, hindered, reused)
            };
            batch.cache = cache;
            for (index, velocity) in asked.iter().zip(velocities.chunk(asked.len(), 0)) {
                found[batch.places[*index]] = Some(velocity);
            }
        }
        Ok(conditionings.iter().map(|&&place| found[place].clone().expect("its batch was asked")).collect())
    }
}

impl<'a> Batch<'a> {
    fn new(asked: &[Asked<'_, 'a>], places: &[usize]) -> Batch<'a> {
        let transformer = asked[places[0]].transformer;
        let Conditioning { context, pooled } = Conditioning::stacked(places.iter().map(|&place| asked[place].told));
        let rows = pooled.dims()[0];
        let text = transformer.embed_text(context, pooled);
        let perturbation = asked[places[0]].perturbation.clone();
        let (ready, other) = (Vec::new(), None);
        Batch { transformer, places: places.into(), rows, text, perturbation, cache: None, asked: 0, ready, other }
    }

    /// Makes the modulations at `sigma`, if they are not ready, with those of the levels that come after, as far as
    /// `bytes_max` goes. A level that is not among `sigmas` is made alone. Returns how many levels are ready.
    pub(crate) fn make_ready(&mut self, sigma: f32, sigmas: &[f32], bytes_max: usize) -> usize {
        let bytes = self.transformer.config().modulation_bytes() * self.rows;
        let at_once = (bytes_max / bytes).max(1);
        if self.found(sigma).is_some() {
            return self.ready.len();
        }
        match sigmas.iter().position(|known| *known == sigma) {
            Some(first) => {
                // The ones before go first, so that never more than `bytes_max` are held.
                self.ready.clear();
                self.ready = self.made(&sigmas[first..sigmas.len().min(first + at_once)]);
            }
            None => self.other = self.made(&[sigma]).pop(),
        }
        self.ready.len()
    }

    fn found(&self, sigma: f32) -> Option<&Modulations> {
        self.ready.iter().chain(&self.other).find(|(known, _)| *known == sigma).map(|(_, modulations)| modulations)
    }

    /// Those that were made ready.
    pub(crate) fn modulations(&self, sigma: f32) -> &Modulations {
        self.found(sigma).expect("it was made ready")
    }

    fn made(&self, sigmas: &[f32]) -> Vec<(f32, Modulations)> {
        let (levels, batch) = (sigmas.len(), self.rows);
        let timesteps = sigmas.iter().flat_map(|sigma| vec![sigma * 1000.0; batch]).collect();
        let timesteps = from_f32(timesteps, [levels, batch], &self.text.device());
        sigmas.iter().copied().zip(self.transformer.modulations(&self.text, timesteps)).collect()
    }
}

#[cfg(test)]
mod tests {
    use rectiflow_mmdit::MmditConfig;
    use rectiflow_nn::{Init, ParamSource, Params, Precision, RandomInit, Read, to_f32};

    use rectiflow_sample::{Rule, Scales, Solver, Window};

    use super::*;
    use crate::plan::tests::MODEL;
    use crate::{GuidanceRequest, Hindered, Hindrance, Request, Unwatched};

    /// Its velocity is the latent; it notes what it was asked.
    #[derive(Default)]
    struct Noting {
        asked: Vec<Vec<&'static str>>,
    }

    impl Conditional for Noting {
        type Conditioning = &'static str;

        fn velocities(
            &mut self,
            latent: &Tensor<4>,
            _sigma: f32,
            conditionings: &[&&'static str],
        ) -> Result<Vec<Tensor<4>>, SampleError> {
            self.asked.push(conditionings.iter().map(|one| **one).collect());
            Ok(vec![latent.clone(); conditionings.len()])
        }
    }

    fn asked(guidance: GuidanceRequest) -> Vec<Vec<&'static str>> {
        let request = Request { prompts: vec!["cat".into()], count: 1, steps: Some(3), guidance, ..Request::default() };
        let plan = request.resolve(&MODEL).unwrap();
        let told = Told { prompt: &"cat", negative: plan.is_guided().then_some(&"dog") };
        let mut model = Noting::default();
        let noise = from_f32(vec![0.5; 4], [1, 1, 2, 2], &Device::flex());
        let hindered = vec!["hindered cat"; plan.hindered.len()];
        follow(&mut model, &told, &hindered, noise, &[0], &plan, &mut Unwatched).unwrap();
        model.asked
    }

    /// By every solver and kind of guidance: what is counted is what would be asked, and nothing comes to values that are none.
    #[test]
    fn calls_are_counted_for_every_solver_and_guidance() {
        let calls = |request: Request| {
            let request = Request { prompts: vec!["cat".into()], count: 1, steps: Some(5), ..request };
            calls(&request.resolve(&MODEL).unwrap())
        };
        let sum = |calls: &Calls| calls.of_places.values().sum::<usize>();
        for solver in Solver::ALL {
            let found = calls(Request { solver: Some(solver), ..Request::default() });
            let (expected, between) = match solver {
                // The last step is Euler's.
                Solver::Heun => (9, 0),
                Solver::Midpoint => (9, 4),
                Solver::Rk4 => (17, 4),
                Solver::Dopri5(_) => (sum(&found), found.between),
                _ => (5, 0),
            };
            assert_eq!((sum(&found), found.between), (expected, between), "{solver}");
            assert!(found.of_places.keys().eq([&vec![0, 1]]), "{solver}: {found:?}");
        }
        let window = Window::new(0.3, 0.6).unwrap();
        let hindered = vec![Hindered { how: Hindrance::IsolatedTokens, blocks: vec![0], scale: 2.8, window }];
        let projected = Rule::Projected { eta: 0.0, norm_max: 2.0, momentum: -0.5 };
        for (guidance, expected) in [
            (GuidanceRequest { rescale: 0.7, ..GuidanceRequest::of(4.0) }, vec![(vec![0, 1], 5)]),
            (GuidanceRequest { rule: projected, ..GuidanceRequest::of(4.0) }, vec![(vec![0, 1], 5)]),
            (GuidanceRequest { rule: Rule::ZeroStar { zeroed: 1 }, ..GuidanceRequest::of(4.0) }, vec![(vec![0, 1], 4)]),
            (GuidanceRequest { hindered, ..GuidanceRequest::of(4.0) }, vec![(vec![0, 1], 4), (vec![0, 1, 2], 1)]),
            (GuidanceRequest::of(1.0), vec![(vec![0], 5)]),
        ] {
            let found = calls(Request { guidance: guidance.clone(), ..Request::default() });
            assert!(found.of_places.into_iter().eq(expected), "{guidance:?}");
        }
    }

    #[test]
    fn fresh_noise_is_of_a_latents_seed_and_the_step_alone() {
        let fresh = |seeds: &[u64], step| to_f32(&fresh_noise(seeds, step, [seeds.len(), 1, 2, 3], &Device::flex()));
        let both = fresh(&[7, 8], 3);
        assert_eq!([&both[..6], &both[6..]], [fresh(&[7], 3), fresh(&[8], 3)]);
        assert_ne!(fresh(&[7], 3), fresh(&[8], 3));
        assert_ne!(fresh(&[7], 3), fresh(&[7], 4));
    }

    #[test]
    fn the_negative_prompt_is_asked_in_every_step_with_guidance_and_never_without() {
        assert_eq!(asked(GuidanceRequest::of(4.0)), vec![vec!["cat", "dog"]; 3]);
        assert_eq!(asked(GuidanceRequest::of(1.0)), vec![vec!["cat"]; 3]);
    }

    #[test]
    fn what_hinders_is_asked_in_its_steps() {
        let window = Window::new(0.3, 0.6).unwrap();
        let hindered = vec![Hindered { how: Hindrance::SkippedBlocks, blocks: vec![0], scale: 2.8, window }];
        let request = GuidanceRequest { hindered, ..GuidanceRequest::of(4.0) };
        let both = vec!["cat", "dog"];
        assert_eq!(asked(request.clone()), [both.clone(), vec!["cat", "dog", "hindered cat"], both]);
        let alone = GuidanceRequest { scales: Some(Scales::one(1.0)), ..request };
        assert_eq!(asked(alone), [vec!["cat"], vec!["cat", "hindered cat"], vec!["cat"]]);
    }

    /// Every parameter random: modulations begin at 0.
    struct AllRandom(RandomInit);

    impl ParamSource for AllRandom {
        fn shape(&self, _name: &str) -> Option<Vec<usize>> {
            None
        }

        fn claim(&mut self, name: &str, shape: &[usize], _init: Init) -> Read {
            self.0.claim(name, shape, Init::Normal(0.1))
        }
    }

    fn conditioning(tokens: usize, first: f32) -> Conditioning {
        let device = Device::flex();
        let some = |count: usize| (0..count).map(|i| (first + i as f32 * 0.7).sin()).collect();
        let context = from_f32(some(tokens * 24), [1, tokens, 24], &device);
        Conditioning { context, pooled: from_f32(some(20), [1, 20], &device) }
    }

    /// Asks as solvers do: a level again, levels in order, one that is not in the schedule, one that came before.
    #[track_caller]
    fn check_asked(lengths: [usize; 2], levels_at_once: usize) {
        let config = MmditConfig {
            depth: 2,
            width: 64,
            context_width: 24,
            pooled_width: 20,
            grid: 4,
            ..MmditConfig::of_depth(2)
        };
        let params = &mut AllRandom(RandomInit { seed: 4 });
        let transformer = Mmdit::new(&config, Params::new(params, &Device::flex(), Precision::Bf16));
        let told = [conditioning(lengths[0], 0.0), conditioning(lengths[1], 5.0)];
        let asked: Vec<Asked<'_, '_>> = told.iter().map(|told| Asked::plainly(&transformer, told)).collect();
        let bytes_max = levels_at_once * 2 * config.modulation_bytes();
        let mut model = Model::new(&asked, vec![1.0, 0.8, 0.6, 0.3, 0.1], bytes_max);
        let latent = from_f32((0..16 * 16).map(|i| (i as f32).cos()).collect(), [1, 16, 4, 4], &Device::flex());
        for sigma in [1.0, 0.8, 0.8, 0.7, 0.7, 0.6, 0.3, 0.65, 0.1, 1.0] {
            let found = model.velocities(&latent, sigma, &[&0, &1]).unwrap();
            assert!(model.batches.iter().all(|batch| batch.ready.len() <= levels_at_once.max(1) * 2));
            for (found, told) in found.iter().zip(&told) {
                let timestep = from_f32(vec![sigma * 1000.0], [1], &Device::flex());
                let alone = transformer.forward(latent.clone(), timestep, told.context.clone(), told.pooled.clone());
                assert_eq!(to_f32(found), to_f32(&alone), "at {sigma}, {levels_at_once} levels at once");
            }
        }
        let swapped = model.velocities(&latent, 0.6, &[&1]).unwrap();
        assert_eq!(to_f32(&swapped[0]), to_f32(&model.velocities(&latent, 0.6, &[&0, &1]).unwrap()[1]));
    }

    #[test]
    fn levels_in_portions_and_levels_that_nobody_knew_give_the_same_velocity_to_the_bit() {
        for lengths in [[5, 5], [5, 7]] {
            for levels_at_once in [0, 1, 2, 5, 100] {
                check_asked(lengths, levels_at_once);
            }
        }
    }
}
