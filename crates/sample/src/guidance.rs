//! What a model is told, and how what it says to that becomes one velocity.

mod rule;
mod window;

use rectiflow_nn::Tensor;

use crate::{SampleError, Velocity};

pub use rule::{Guidance, Rule};
pub use window::{BadScales, BadWindow, Scales, Window};

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

/// The velocity for one prompt, led by what else the model says: in steps with guidance by its velocity for the negative
/// prompt, and away from what it says when it is hindered.
pub struct Guided<'a, M: Conditional> {
    model: &'a mut M,
    prompt: &'a M::Conditioning,
    negative: Option<&'a M::Conditioning>,
    away: Vec<Away<'a, M::Conditioning>>,
    guidance: &'a Guidance,
    /// Where steps start.
    levels: &'a [f32],
    /// Of [`Rule::Projected`]: the sum of the differences so far.
    sum: Option<Tensor<4>>,
}

/// Something that a model says worse than for its prompt, and how far to go away from it: `scale (prompt - away)` is
/// added to the velocity.
///
/// With blocks left out it is skip-layer guidance, with image tokens that see only themselves and the text it is perturbed
/// attention guidance (Ahn et al. 2024, arXiv:2403.17377), and with a weaker model it is autoguidance (Karras et al. 2024,
/// arXiv:2406.02507) of that scale and 1.
#[derive(Clone, Debug)]
pub struct Away<'a, C> {
    /// What the model is told, so that it says that.
    pub told: &'a C,
    /// How far.
    pub scale: f32,
    /// In which steps.
    pub window: Window,
}

impl<'a, M: Conditional> Guided<'a, M> {
    /// `negative`: what to stay away from, for plain guidance the empty prompt; without it there is no classifier-free
    /// guidance.  `levels`: where the steps of the schedule start, by which a velocity's step is known.
    pub fn new(
        model: &'a mut M,
        prompt: &'a M::Conditioning,
        negative: Option<&'a M::Conditioning>,
        away: Vec<Away<'a, M::Conditioning>>,
        guidance: &'a Guidance,
        levels: &'a [f32],
    ) -> Self {
        Guided { model, prompt, negative, away, guidance, levels, sum: None }
    }

    /// The step that asks at `sigma`: the last that starts there or above.
    fn step(&self, sigma: f32) -> usize {
        self.levels.iter().take_while(|level| **level >= sigma).count().saturating_sub(1)
    }
}

impl<M: Conditional> Velocity for Guided<'_, M> {
    fn velocity(&mut self, latent: &Tensor<4>, sigma: f32) -> Result<Tensor<4>, SampleError> {
        let (step, steps) = (self.step(sigma), self.levels.len());
        if self.guidance.is_zeroed(step) {
            return Ok(latent.zeros_like());
        }
        let scale = self.guidance.scale(step, steps);
        let negative = self.negative.filter(|_| scale != 1.0);
        let away: Vec<_> =
            self.away.iter().filter(|away| away.scale != 0.0 && away.window.contains(step, steps)).collect();
        let asked: Vec<&M::Conditioning> =
            [self.prompt].into_iter().chain(negative).chain(away.iter().map(|away| away.told)).collect();
        let mut found = self.model.velocities(latent, sigma, &asked)?.into_iter();
        assert_eq!(found.len(), asked.len(), "velocities of a model that was told so much");
        let mut next = || found.next().expect("counted above");

        let prompt = next();
        let mut led = match negative {
            Some(_) => self.guidance.rule.lead(prompt.clone(), next(), scale, &mut self.sum),
            None => prompt.clone(),
        };
        for away in away {
            led = led + (prompt.clone() - next()) * away.scale;
        }
        Ok(self.guidance.rescaled(led, &prompt))
    }
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

    fn guided<'a, M: Conditional>(
        model: &'a mut M,
        [prompt, negative]: [&'a M::Conditioning; 2],
        guidance: &'a Guidance,
    ) -> Guided<'a, M> {
        Guided::new(model, prompt, Some(negative), Vec::new(), guidance, &[1.0, 0.8, 0.6, 0.3])
    }

    #[track_caller]
    fn check_guided(scale: f32, factor: f32) {
        let mut model = Multiplier::default();
        let guidance = Guidance::plain(scale);
        let mut guided = guided(&mut model, [&PROMPT, &NEGATIVE], &guidance);
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
        let guidance = Guidance::plain(4.0);
        guided(&mut model, [&PROMPT, &NEGATIVE], &guidance).velocity(&latent(), SIGMA).unwrap();
        assert_eq!(model.asked, [[PROMPT, NEGATIVE]]);
    }

    #[test]
    fn without_a_negative_prompt_it_is_the_prompts_velocity_asked_once() {
        let (mut model, guidance) = (Multiplier::default(), Guidance::plain(4.0));
        let mut guided = Guided::new(&mut model, &PROMPT, None, Vec::new(), &guidance, &[1.0]);
        let velocity = guided.velocity(&latent(), SIGMA).unwrap();
        assert_eq!(to_f32(&velocity), to_f32(&(latent() * (PROMPT * SIGMA))));
        assert_eq!(model.asked, [[PROMPT]]);
    }

    #[test]
    #[should_panic = "velocities of a model that was told so much"]
    fn a_model_that_loses_a_velocity_is_a_bug() {
        struct Silent;
        impl Conditional for Silent {
            type Conditioning = ();
            fn velocities(&mut self, _: &Tensor<4>, _: f32, _: &[&()]) -> Result<Vec<Tensor<4>>, SampleError> {
                Ok(Vec::new())
            }
        }
        let guidance = Guidance::plain(4.0);
        let _ = guided(&mut Silent, [&(), &()], &guidance).velocity(&latent(), SIGMA);
    }

    /// What is asked in steps from 1, 0.8, 0.6 and 0.3.
    fn asked_in_steps(guidance: &Guidance, away: Vec<Away<'_, f32>>) -> Vec<Vec<f32>> {
        let mut model = Multiplier::default();
        let levels = [1.0, 0.8, 0.6, 0.3];
        let mut guided = Guided::new(&mut model, &PROMPT, Some(&NEGATIVE), away, guidance, &levels);
        levels.into_iter().for_each(|sigma| drop(guided.velocity(&latent(), sigma).unwrap()));
        model.asked
    }

    #[test]
    fn what_no_step_needs_is_not_asked() {
        let both = vec![PROMPT, NEGATIVE];
        let scales = |scales: &str| Guidance { scales: scales.parse().unwrap(), ..Guidance::plain(4.0) };
        assert_eq!(asked_in_steps(&scales("5,1"), vec![]), [both.clone(), vec![PROMPT], vec![PROMPT], vec![PROMPT]]);
        let window = Window::new(0.25, 0.75).unwrap();
        let within = Guidance { window, ..Guidance::plain(4.0) };
        assert_eq!(asked_in_steps(&within, vec![]), [vec![PROMPT], both.clone(), both.clone(), vec![PROMPT]]);
        let hindered = 0.5;
        let away = |scale| vec![Away { told: &hindered, scale, window: Window::new(0.5, 1.0).unwrap() }];
        let three = vec![PROMPT, NEGATIVE, hindered];
        let expected = [both.clone(), both.clone(), three.clone(), three];
        assert_eq!(asked_in_steps(&Guidance::plain(4.0), away(2.0)), expected);
        assert_eq!(asked_in_steps(&Guidance::plain(4.0), away(0.0)), vec![both; 4]);
    }

    #[test]
    fn what_is_gone_away_from_counts_beside_guidance() {
        let (mut model, hindered, guidance) = (Multiplier::default(), 0.5, Guidance::plain(4.0));
        let away = vec![Away { told: &hindered, scale: 2.0, window: Window::ALL }];
        let mut guided = Guided::new(&mut model, &PROMPT, Some(&NEGATIVE), away, &guidance, &[1.0]);
        let factor = NEGATIVE + 4.0 * (PROMPT - NEGATIVE) + 2.0 * (PROMPT - hindered);
        for (found, latent) in to_f32(&guided.velocity(&latent(), SIGMA).unwrap()).into_iter().zip(to_f32(&latent())) {
            assert!((found - factor * SIGMA * latent).abs() < 1e-4, "{found}");
        }
    }
}
