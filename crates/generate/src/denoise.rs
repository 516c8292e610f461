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
    let mut model = Model(transformer);
    let (schedule, steps) = (&plan.schedule, plan.schedule.len());
    let watch = |step: Step<'_>| watch.step(step.index + 1, steps);
    match told.negative {
        None => plan.solver.run(&mut Conditioned { model: &mut model, prompt: told.prompt }, noise, schedule, watch),
        Some(negative) => {
            let mut guided = Guided { model: &mut model, prompt: told.prompt, negative, scale: plan.guidance };
            plan.solver.run(&mut guided, noise, schedule, watch)
        }
    }
}

/// The transformer as something that listens to conditionings.
struct Model<'a>(&'a Mmdit);

impl Conditional for Model<'_> {
    type Conditioning = Conditioning;

    /// As one batch where the contexts are equally long: each weight is then read and widened once, which on
    /// a CPU saves more than the larger batch costs. Otherwise in turn.
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
