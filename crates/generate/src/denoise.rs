//! Noise to latent: the transformer, told what to draw, along a schedule.

use rectiflow_mmdit::Mmdit;
use rectiflow_nn::{Tensor, from_f32};
use rectiflow_sample::{Conditional, Conditioned, Guided, SampleError, Step};
use rectiflow_text::Conditioning;

use crate::Watch;
use crate::plan::Plan;
use crate::prompt::Told;

/// Follows the plan's schedule from `noise` `[1, 16, H/8, W/8]` to a latent of the same shape.
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
    follow(&mut Model(transformer), told, noise, plan, watch)
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

/// The transformer as something that listens to conditionings.
struct Model<'a>(&'a Mmdit);

impl Conditional for Model<'_> {
    type Conditioning = Conditioning;

    /// As one batch where the contexts are equally long: each weight is then read and widened once. Otherwise in
    /// turn. On a network of small weights it makes no difference: 12 steps of `fixtures/sd3/model` at 384x384 took
    /// 1.04 s (0.93 to 1.15) as one batch and 1.04 s (1.00 to 1.13) in turn, medians of 6 runs on 2 cores of an
    /// Intel Xeon. What it saves on large weights has not been measured.
    fn velocities(
        &mut self,
        latent: &Tensor<4>,
        sigma: f32,
        conditionings: &[&Conditioning],
    ) -> Result<Vec<Tensor<4>>, SampleError> {
        let tokens = |conditioning: &Conditioning| conditioning.context.dims()[1];
        let batches = if conditionings.iter().all(|one| tokens(one) == tokens(conditionings[0])) {
            vec![conditionings]
        } else {
            conditionings.chunks(1).collect()
        };
        Ok(batches.into_iter().flat_map(|batch| self.batch(latent, sigma, batch)).collect())
    }
}

impl Model<'_> {
    fn batch(&self, latent: &Tensor<4>, sigma: f32, conditionings: &[&Conditioning]) -> Vec<Tensor<4>> {
        let count = conditionings.len();
        let timestep = from_f32(vec![sigma * 1000.0; count], [count], &latent.device());
        let context = Tensor::cat(conditionings.iter().map(|one| one.context.clone()).collect(), 0);
        let pooled = Tensor::cat(conditionings.iter().map(|one| one.pooled.clone()).collect(), 0);
        let velocities = self.0.forward(latent.clone().repeat_dim(0, count), timestep, context, pooled);
        velocities.chunk(count, 0)
    }
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::Device;

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
            latent_channels: 16,
            latent_px: 8,
            depth: 2,
            qk_norm: false,
            shift: None,
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
}
