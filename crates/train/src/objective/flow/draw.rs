//! Pictures that show what a velocity network has learned.
#![allow(non_snake_case, reason = "tensor names end in their shape")]

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

use rectiflow_flow::{Formulation, Schedule};
use rectiflow_generate::{Encoders, Image};
use rectiflow_mmdit::VelocityNetwork;
use rectiflow_nn::{Rng, Tensor, from_f32};
use rectiflow_sample::{Conditional, Guidance, Guided, SampleError, Solver, Step, no_noise};
use rectiflow_text::{Conditioning, Keep, TextFeatures};

use super::data::FlowData;
use crate::objective::Problem;

/// What is drawn, and how.
pub struct Drawing {
    /// Of each picture.
    pub texts: Vec<TextFeatures>,
    /// `[C, H, W]` of a latent.
    pub latent_shape: [usize; 3],
    /// Steps of the solver.
    pub steps: NonZeroUsize,
    /// Stretch of the solver's noise levels.
    pub shift: f32,
    /// Guidance scale.
    pub guidance: f32,
    /// Of the first picture; the next ones have the next.
    pub seed: u64,
    /// Makes pictures of latents.
    pub encoders: Arc<Encoders>,
}

impl Drawing {
    /// One picture for each text, always of the same noise.
    ///
    /// # Errors
    /// The network gave values that are not finite.
    pub fn draw(
        &self,
        network: &VelocityNetwork,
        formulation: Formulation,
        data: &FlowData,
    ) -> Result<Vec<Image>, Problem> {
        let schedule = Schedule::released(self.steps, self.shift)?;
        let guidance = Guidance::plain(self.guidance);
        let [channels, height, width] = self.latent_shape;
        let negative = data.unconditional()?;
        let mut pictures = Vec::new();
        for (text, seed) in self.texts.iter().zip(self.seed..) {
            let prompt = data.conditioning(std::slice::from_ref(text), &[Keep::ALL])?;
            let noise = Rng::keyed(seed, "sample noise", 0).normals(channels * height * width);
            let noise = from_f32(noise, [1, channels, height, width], data.device());
            let mut model = Formulated { network, formulation };
            let (prompt, negative) = (&prompt, &negative);
            let mut guided = Guided::new(&mut model, prompt, Some(negative), Vec::new(), &guidance, schedule.starts());
            let watch = &mut |_: Step<'_>| ControlFlow::Continue(());
            let latent = Solver::Euler.run(&mut guided, noise, &schedule, &mut no_noise, watch)?;
            pictures.extend(self.encoders.pictures(&latent)?);
        }
        Ok(pictures)
    }
}

/// A network as solvers see it, whatever it was trained to say.
struct Formulated<'a> {
    network: &'a VelocityNetwork,
    formulation: Formulation,
}

impl Conditional for Formulated<'_> {
    type Conditioning = Conditioning;

    fn velocities(
        &mut self,
        latent_1CHW: &Tensor<4>,
        sigma: f32,
        conditionings: &[&Conditioning],
    ) -> Result<Vec<Tensor<4>>, SampleError> {
        let conversion = self.formulation.conversion(sigma.into());
        let count = conditionings.len();
        let latents = latent_1CHW.clone().repeat_dim(0, count);
        let timesteps = from_f32(vec![conversion.timestep as f32; count], [count], &latents.device());
        let contexts = Tensor::cat(conditionings.iter().map(|told| told.context.clone()).collect(), 0);
        let pooled = Tensor::cat(conditionings.iter().map(|told| told.pooled.clone()).collect(), 0);
        let input = latents.clone() * conversion.input_scale;
        let found = self.network.forward(input, timesteps, contexts, pooled);
        let velocities = latents * conversion.of_latent + found * conversion.of_prediction;
        Ok(velocities.chunk(count, 0))
    }
}
