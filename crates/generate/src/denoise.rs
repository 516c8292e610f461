//! Noise to latent: the transformer, told what to draw, along a schedule.

use rectiflow_mmdit::{EmbeddedText, Mmdit, Modulations};
use rectiflow_nn::{Tensor, from_f32};
use rectiflow_sample::{Conditional, Conditioned, Guided, SampleError, Step};
use rectiflow_text::Conditioning;

use crate::Watch;
use crate::plan::Plan;
use crate::prompt::Told;

/// Follows the plan's schedule from `noise` `[N, 16, H/8, W/8]` to latents of the same shape. What is told has a row for
/// each of the N: several prompts are drawn at once, and each becomes what it would alone.
///
/// # Errors
/// A step gave values that are not finite, or the watcher stopped the run.
pub fn denoise(
    transformer: &Mmdit,
    told: &Told<'_>,
    noise: Tensor<4>,
    plan: &Plan,
    watch: &mut dyn Watch,
) -> Result<Tensor<4>, SampleError> {
    let conditionings: Vec<&Conditioning> = [told.prompt].into_iter().chain(told.negative).collect();
    let sigmas = plan.schedule.steps().map(|(sigma, _)| sigma).collect();
    let mut model = Model::new(transformer, &conditionings, sigmas, READY_BYTES_MAX);
    let told = Told { prompt: &0, negative: told.negative.map(|_| &1) };
    follow(&mut model, &told, noise, plan, watch)
}

/// The same for any model that listens.
fn follow<M: Conditional>(
    model: &mut M,
    told: &Told<'_, M::Conditioning>,
    noise: Tensor<4>,
    plan: &Plan,
    watch: &mut dyn Watch,
) -> Result<Tensor<4>, SampleError> {
    let (schedule, steps) = (&plan.schedule, plan.schedule.len());
    let watch = |step: Step<'_>| watch.step(step.index + 1, steps);
    match told.negative {
        None => plan.solver.run(&mut Conditioned { model, prompt: told.prompt }, noise, schedule, watch),
        Some(negative) => {
            let mut guided = Guided { model, prompt: told.prompt, negative, scale: plan.guidance };
            plan.solver.run(&mut guided, noise, schedule, watch)
        }
    }
}

/// What modulations may take that are made at once. All of 28 guided steps: 99 MB for SD3-Medium, 249 for SD3.5-Large.
const READY_BYTES_MAX: usize = 256 << 20;

/// The transformer, told what to draw and which noise levels come. It is asked with the places of conditionings.
struct Model<'a> {
    transformer: &'a Mmdit,
    batches: Vec<Batch>,
    /// The noise levels that will be asked, in this order.
    sigmas: Vec<f32>,
    ready_bytes_max: usize,
}

/// Conditionings that are asked together: their contexts are equally long. Each has as many rows as there are latents.
struct Batch {
    /// Of each, among all conditionings.
    places: Vec<usize>,
    /// Of all of them together.
    rows: usize,
    text: EmbeddedText,
    /// Modulations of noise levels that come.
    ready: Vec<(f32, Modulations)>,
    /// Of the last one that nobody knew of.
    other: Option<(f32, Modulations)>,
}

impl<'a> Model<'a> {
    /// All as one batch where the contexts are equally long: each weight is then read and widened once. Otherwise in
    /// turn. On a network of small weights it makes no difference: 12 steps of `fixtures/sd3/model` at 384x384 took
    /// 1.04 s (0.93 to 1.15) as one batch and 1.04 s (1.00 to 1.13) in turn, medians of 6 runs on 2 cores of an
    /// Intel Xeon. What it saves on large weights has not been measured.
    fn new(
        transformer: &'a Mmdit,
        conditionings: &[&Conditioning],
        sigmas: Vec<f32>,
        ready_bytes_max: usize,
    ) -> Model<'a> {
        let tokens = |conditioning: &Conditioning| conditioning.context.dims()[1];
        let places: Vec<usize> = (0..conditionings.len()).collect();
        let together = conditionings.iter().all(|one| tokens(one) == tokens(conditionings[0]));
        let size = if together { conditionings.len() } else { 1 };
        let batches = places.chunks(size).map(|places| Batch::new(transformer, conditionings, places)).collect();
        Model { transformer, batches, sigmas, ready_bytes_max }
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
        for batch in &mut self.batches {
            if !batch.places.iter().any(|place| conditionings.contains(&place)) {
                continue;
            }
            let latents = latent.clone().repeat_dim(0, batch.places.len());
            let size_max = self.ready_bytes_max;
            let (text, modulations) = batch.at(self.transformer, sigma, &self.sigmas, size_max);
            let velocities = self.transformer.velocity(latents, text, modulations);
            for (place, velocity) in batch.places.iter().zip(velocities.chunk(batch.places.len(), 0)) {
                found[*place] = Some(velocity);
            }
        }
        Ok(conditionings.iter().map(|&&place| found[place].clone().expect("its batch was asked")).collect())
    }
}

impl Batch {
    fn new(transformer: &Mmdit, conditionings: &[&Conditioning], places: &[usize]) -> Batch {
        let chosen = || places.iter().map(|&place| conditionings[place]);
        let context = Tensor::cat(chosen().map(|one| one.context.clone()).collect(), 0);
        let pooled = Tensor::cat(chosen().map(|one| one.pooled.clone()).collect(), 0);
        let rows = pooled.dims()[0];
        let text = transformer.embed_text(context, pooled);
        Batch { places: places.into(), rows, text, ready: Vec::new(), other: None }
    }

    /// The modulations at `sigma`: ready, or made now with those of the levels that come after, as far as `bytes_max`
    /// goes. A level that is not among `sigmas` is made alone.
    fn at(
        &mut self,
        transformer: &Mmdit,
        sigma: f32,
        sigmas: &[f32],
        bytes_max: usize,
    ) -> (&EmbeddedText, &Modulations) {
        let bytes = transformer.config().modulation_bytes() * self.rows;
        let at_once = (bytes_max / bytes).max(1);
        if !self.ready.iter().any(|(ready, _)| *ready == sigma)
            && let Some(first) = sigmas.iter().position(|known| *known == sigma)
        {
            // The ones before go first, so that never more than `bytes_max` are held.
            self.ready.clear();
            self.ready = self.made(transformer, &sigmas[first..sigmas.len().min(first + at_once)]);
        }
        let place = self.ready.iter().position(|(ready, _)| *ready == sigma);
        if place.is_none() && self.other.as_ref().is_none_or(|(other, _)| *other != sigma) {
            self.other = self.made(transformer, &[sigma]).pop();
        }
        let found = place.map(|place| &self.ready[place]).or(self.other.as_ref());
        (&self.text, &found.expect("it was made").1)
    }

    fn made(&self, transformer: &Mmdit, sigmas: &[f32]) -> Vec<(f32, Modulations)> {
        let (levels, batch) = (sigmas.len(), self.rows);
        let timesteps = sigmas.iter().flat_map(|sigma| vec![sigma * 1000.0; batch]).collect();
        let timesteps = from_f32(timesteps, [levels, batch], &self.text.device());
        sigmas.iter().copied().zip(transformer.modulations(&self.text, timesteps)).collect()
    }
}

#[cfg(test)]
mod tests {
    use rectiflow_mmdit::MmditConfig;
    use rectiflow_nn::{Device, Init, ParamSource, Params, Precision, RandomInit, Read, to_f32};

    use super::*;
    use crate::{ModelFacts, Request, Unwatched};

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

    fn asked(guidance: f32) -> Vec<Vec<&'static str>> {
        let facts = ModelFacts {
            unit_px: 16,
            side_px_max: 384,
            side_px: None,
            formulation: None,
            latent_channels: 16,
            latent_px: 8,
            depth: 2,
            qk_norm: false,
            shift: None,
            t5_length: None,
        };
        let request = Request {
            prompts: vec!["cat".into()],
            count: 1,
            steps: Some(3),
            guidance: Some(guidance),
            ..Request::default()
        };
        let plan = request.resolve(&facts).unwrap();
        let told = Told { prompt: &"cat", negative: plan.is_guided().then_some(&"dog") };
        let mut model = Noting::default();
        let noise = from_f32(vec![0.5; 4], [1, 1, 2, 2], &Device::flex());
        follow(&mut model, &told, noise, &plan, &mut Unwatched).unwrap();
        model.asked
    }

    #[test]
    fn the_negative_prompt_is_asked_in_every_step_with_guidance_and_never_without() {
        assert_eq!(asked(4.0), vec![vec!["cat", "dog"]; 3]);
        assert_eq!(asked(1.0), vec![vec!["cat"]; 3]);
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
        let told: Vec<&Conditioning> = told.iter().collect();
        let bytes_max = levels_at_once * 2 * config.modulation_bytes();
        let mut model = Model::new(&transformer, &told, vec![1.0, 0.8, 0.6, 0.3, 0.1], bytes_max);
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
