use rectiflow_nn::Tensor;

use crate::{SampleError, Velocity};

/// A model whose velocity depends on what it is told, such as a prompt.
pub trait Conditional {
    /// What the model is told.
    type Conditioning;

    /// The velocity at `sigma` for each of `conditionings`, in their order. The model decides whether it runs
    /// them as one batch or in turn.
    ///
    /// latent: `[B, 16, H, W]`.  sigma: in (0, 1], 1 = noise.  Returns as many tensors as there are
    /// conditionings, each of the latent's shape.
    ///
    /// # Errors
    /// The model failed.
    fn velocities(
        &mut self,
        latent: &Tensor<4>,
        sigma: f32,
        conditionings: &[&Self::Conditioning],
    ) -> Result<Vec<Tensor<4>>, SampleError>;
}

/// The velocity for one prompt, unguided: one evaluation a step. For distilled models, which hold their
/// guidance already.
pub struct Conditioned<'a, M: Conditional> {
    /// The model.
    pub model: &'a mut M,
    /// What to draw.
    pub prompt: &'a M::Conditioning,
}

/// Classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598: two evaluations a step.
///
/// `negative + (prompt - negative) scale`, of velocities. That is guidance of the denoised image as well, which
/// is linear in the velocity; the reference writes it so.
pub struct Guided<'a, M: Conditional> {
    /// The model.
    pub model: &'a mut M,
    /// What to draw.
    pub prompt: &'a M::Conditioning,
    /// What to stay away from; for plain guidance the empty prompt.
    pub negative: &'a M::Conditioning,
    /// 0 is the negative's velocity, 1 the prompt's ([`Conditioned`] gives that at half the price), and more
    /// goes past it. SD3 models use 4 to 7.
    pub scale: f32,
}

impl<M: Conditional> Velocity for Conditioned<'_, M> {
    fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError> {
        let [velocity] = one_each(self.model.velocities(latent, sigma, &[self.prompt])?);
        Ok(velocity)
    }
}

impl<M: Conditional> Velocity for Guided<'_, M> {
    fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError> {
        let [toward, away] = one_each(self.model.velocities(latent, sigma, &[self.prompt, self.negative])?);
        Ok(away.clone() + (toward - away) * self.scale)
    }
}

fn one_each<const N: usize>(velocities: Vec<Tensor<4>>) -> [Tensor<4>; N] {
    let count = velocities.len();
    velocities.try_into().unwrap_or_else(|_| panic!("the model gave {count} velocities for {N} conditionings"))
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::{DeviceChoice, from_f32, to_f32};

    use super::*;

    const SIGMA: f32 = 0.7;
    const PROMPT: f32 = 3.0;
    const NEGATIVE: f32 = -0.3;

    /// Its velocity is `conditioning * sigma * latent`; it notes what it was asked.
    #[derive(Default)]
    struct Multiplier {
        asked: Vec<Vec<f32>>,
    }

    impl Conditional for Multiplier {
        type Conditioning = f32;

        fn velocities(
            &mut self,
            latent: &Tensor<4>,
            sigma: f32,
            conditionings: &[&f32],
        ) -> Result<Vec<Tensor<4>>, SampleError> {
            self.asked.push(conditionings.iter().map(|&&conditioning| conditioning).collect());
            Ok(conditionings.iter().map(|&conditioning| latent.clone() * (*conditioning * sigma)).collect())
        }
    }

    fn latent() -> Tensor<4> {
        from_f32(vec![0.5, -1.0, 2.0, 0.25], [1, 1, 2, 2], &DeviceChoice::Cpu.open().unwrap())
    }

    #[track_caller]
    fn check_guided(scale: f32, factor: f32) {
        let mut model = Multiplier::default();
        let mut guided = Guided { model: &mut model, prompt: &PROMPT, negative: &NEGATIVE, scale };
        let velocity = guided.velocity(&latent(), SIGMA).unwrap();
        for (velocity, latent) in to_f32(&velocity).into_iter().zip(to_f32(&latent())) {
            let expected = factor * SIGMA * latent;
            assert!((velocity - expected).abs() < 1e-5, "{velocity}, expected {expected}");
        }
    }

    #[test]
    fn scale_1_is_the_prompts_velocity() {
        check_guided(1.0, PROMPT);
    }

    #[test]
    fn scale_0_is_the_negatives_velocity() {
        check_guided(0.0, NEGATIVE);
    }

    #[test]
    fn a_larger_scale_goes_past_the_prompt() {
        check_guided(5.0, NEGATIVE + 5.0 * (PROMPT - NEGATIVE));
    }

    #[test]
    fn guided_asks_once_for_both() {
        let mut model = Multiplier::default();
        let mut guided = Guided { model: &mut model, prompt: &PROMPT, negative: &NEGATIVE, scale: 4.0 };
        guided.velocity(&latent(), SIGMA).unwrap();
        assert_eq!(model.asked, [[PROMPT, NEGATIVE]]);
    }

    #[test]
    fn conditioned_asks_once_for_the_prompt_and_passes_it_on() {
        let mut model = Multiplier::default();
        let velocity = Conditioned { model: &mut model, prompt: &PROMPT }.velocity(&latent(), SIGMA).unwrap();
        assert_eq!(to_f32(&velocity), to_f32(&(latent() * (PROMPT * SIGMA))));
        assert_eq!(model.asked, [[PROMPT]]);
    }

    #[test]
    #[should_panic = "the model gave 0 velocities for 2 conditionings"]
    fn a_model_that_loses_a_velocity_is_a_bug() {
        struct Silent;
        impl Conditional for Silent {
            type Conditioning = ();
            fn velocities(&mut self, _: &Tensor<4>, _: f32, _: &[&()]) -> Result<Vec<Tensor<4>>, SampleError> {
                Ok(Vec::new())
            }
        }
        let _ = Guided { model: &mut Silent, prompt: &(), negative: &(), scale: 4.0 }.velocity(&latent(), SIGMA);
    }
}
