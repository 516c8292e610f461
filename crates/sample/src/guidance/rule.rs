//! From the velocities for a prompt and for a negative prompt to one.

use rectiflow_nn::Tensor;
use serde::{Deserialize, Serialize};

use super::window::{Scales, Window};

/// Classifier-free guidance, and what is done to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    /// 0 is the negative prompt's velocity, 1 the prompt's, which is had at half the price, and more goes past it. SD3
    /// models use 4 to 7.
    pub scales: Scales,
    /// Other steps have the prompt's velocity (Kynkaanniemi et al. 2024, arXiv:2404.07724).
    pub window: Window,
    /// How the two velocities become one.
    pub rule: Rule,
    /// How far the velocity's deviation is brought back to that of the prompt's, 0 to 1 (Lin et al. 2023,
    /// arXiv:2305.08891, section 3.4). 0 leaves it.
    pub rescale: f32,
}

/// How the velocities for a prompt and for a negative prompt become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// `negative + (prompt - negative) scale` (Ho and Salimans 2022, arXiv:2207.12598). Of velocities; that is guidance of
    /// the denoised image as well, which is linear in them.
    #[default]
    Plain,
    /// CFG-Zero* (Fan et al. 2025, arXiv:2503.18886): the negative's velocity is first scaled to be as near to the prompt's
    /// as it can be, and the first steps have none at all.
    ZeroStar {
        /// Steps with velocity 0.
        zeroed: usize,
    },
    /// Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416), of velocities and from the negative's on, as
    /// diffusers has it.
    Projected {
        /// What counts of the difference's part along the prompt's velocity; 1 is plain guidance.
        eta: f32,
        /// Longer differences are shortened to this length; 0 leaves them.
        norm_max: f32,
        /// What is added of the differences before; negative takes them away.
        momentum: f32,
    },
}

impl Guidance {
    /// Classifier-free guidance in every step, and nothing else.
    pub fn plain(scale: f32) -> Guidance {
        Guidance { scales: Scales::one(scale), window: Window::ALL, rule: Rule::Plain, rescale: 0.0 }
    }

    /// The scale in a step, counted from 0; 1 where there is no guidance.
    pub fn scale(&self, step: usize, steps: usize) -> f32 {
        if self.window.contains(step, steps) { self.scales.at(step) } else { 1.0 }
    }

    /// The largest scale of all.
    pub fn largest(&self) -> f32 {
        self.scales.all().iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// Whether a step's velocity is 0.
    pub fn is_zeroed(&self, step: usize) -> bool {
        matches!(self.rule, Rule::ZeroStar { zeroed } if step < zeroed)
    }

    /// A velocity with a deviation nearer to that of the prompt's.
    pub(super) fn rescaled(&self, led: Tensor<4>, prompt: &Tensor<4>) -> Tensor<4> {
        if self.rescale == 0.0 {
            return led;
        }
        let deviation = |x: &Tensor<4>| of_each(x.clone().flatten::<2>(1, 3).var(1).sqrt());
        let matched = led.clone() * (deviation(prompt) / deviation(&led));
        matched * self.rescale + led * (1.0 - self.rescale)
    }
}

impl Rule {
    /// The velocity. `sum`: of [`Rule::Projected`], what it has added up in the steps before.
    pub(super) fn lead(
        self,
        prompt: Tensor<4>,
        negative: Tensor<4>,
        scale: f32,
        sum: &mut Option<Tensor<4>>,
    ) -> Tensor<4> {
        match self {
            Rule::Plain => negative.clone() + (prompt - negative) * scale,
            Rule::ZeroStar { .. } => {
                let nearest = dot(&prompt, &negative) / (dot(&negative, &negative) + 1e-8);
                let negative = negative * nearest;
                negative.clone() + (prompt - negative) * scale
            }
            Rule::Projected { eta, norm_max, momentum } => {
                let mut difference = prompt.clone() - negative.clone();
                if momentum != 0.0 {
                    if let Some(before) = sum.take() {
                        difference = difference + before * momentum;
                    }
                    *sum = Some(difference.clone());
                }
                if norm_max > 0.0 {
                    let length = dot(&difference, &difference).sqrt();
                    difference = difference * (length.recip() * norm_max).clamp_max(1.0);
                }
                let along = prompt.clone() * (dot(&difference, &prompt) / dot(&prompt, &prompt).clamp_min(1e-24));
                negative + (difference - along.clone() + along * eta) * scale
            }
        }
    }
}

/// The scalar product of each sample's values, `[B, 1, 1, 1]`.
fn dot(a: &Tensor<4>, b: &Tensor<4>) -> Tensor<4> {
    of_each((a.clone() * b.clone()).flatten::<2>(1, 3).sum_dim(1))
}

/// One number of each sample, beside its latent.
fn of_each(numbers: Tensor<2>) -> Tensor<4> {
    let samples = numbers.dims()[0];
    numbers.reshape([samples, 1, 1, 1])
}

#[cfg(test)]
mod tests {
    use rectiflow_nn::{Device, from_f32, to_f32};

    use super::*;

    fn latents(values: &[f32]) -> Tensor<4> {
        from_f32(values.to_vec(), [values.len() / 3, 1, 1, 3], &Device::flex())
    }

    fn lead(rule: Rule, prompt: &[f32], negative: &[f32], scale: f32) -> Vec<f32> {
        to_f32(&rule.lead(latents(prompt), latents(negative), scale, &mut None))
    }

    #[track_caller]
    fn near(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn a_negative_that_points_the_same_way_is_not_gone_away_from() {
        // Half as long and parallel: scaled up it is the prompt's.
        let zero_star = Rule::ZeroStar { zeroed: 0 };
        near(&lead(zero_star, &[2.0, 0.0, -4.0], &[1.0, 0.0, -2.0], 7.0), &[2.0, 0.0, -4.0]);
        // At right angles it counts for nothing.
        near(&lead(zero_star, &[2.0, 0.0, 0.0], &[0.0, 3.0, 0.0], 4.0), &[8.0, 0.0, 0.0]);
    }

    #[test]
    fn projection_takes_away_what_lies_along_the_prompts_velocity() {
        let projected = |eta, norm_max| Rule::Projected { eta, norm_max, momentum: 0.0 };
        let (prompt, negative) = ([2.0, 0.0, 0.0], [1.0, -1.0, 0.0]);
        near(&lead(projected(1.0, 0.0), &prompt, &negative, 3.0), &lead(Rule::Plain, &prompt, &negative, 3.0));
        near(&lead(projected(0.0, 0.0), &prompt, &negative, 3.0), &[1.0, 2.0, 0.0]);
        // The difference is as long as the root of 2.
        near(&lead(projected(1.0, 0.5_f32.sqrt()), &prompt, &negative, 2.0), &[2.0, 0.0, 0.0]);
        near(&lead(projected(1.0, 9.0), &prompt, &negative, 2.0), &lead(Rule::Plain, &prompt, &negative, 2.0));
    }

    #[test]
    fn momentum_adds_the_differences_before() {
        let rule = Rule::Projected { eta: 1.0, norm_max: 0.0, momentum: -0.5 };
        let mut sum = None;
        let mut lead =
            |prompt: [f32; 3]| to_f32(&rule.lead(latents(&prompt), latents(&[0.0, 1.0, 0.0]), 1.0, &mut sum));
        near(&lead([1.0, 1.0, 0.0]), &[1.0, 1.0, 0.0]);
        near(&lead([1.0, 1.0, 0.0]), &[0.5, 1.0, 0.0]);
        near(&lead([1.0, 1.0, 0.0]), &[0.75, 1.0, 0.0]);
    }

    #[test]
    fn rescaling_brings_back_the_prompts_deviation_sample_by_sample() {
        let led = latents(&[2.0, -2.0, 0.0, 10.0, 0.0, -10.0]);
        let prompt = latents(&[1.0, -1.0, 0.0, 1.0, 0.0, -1.0]);
        let rescaled = |rescale| to_f32(&Guidance { rescale, ..Guidance::plain(4.0) }.rescaled(led.clone(), &prompt));
        near(&rescaled(0.0), &to_f32(&led));
        near(&rescaled(1.0), &to_f32(&prompt));
        near(&rescaled(0.5), &[1.5, -1.5, 0.0, 5.5, 0.0, -5.5]);
    }

    #[test]
    fn each_sample_is_led_alone() {
        let (prompt, negative) = ([1.0, 2.0, 3.0, -1.0, 0.5, 0.0], [0.5, 0.0, 1.0, 2.0, 2.0, -1.0]);
        for rule in
            [Rule::Plain, Rule::ZeroStar { zeroed: 1 }, Rule::Projected { eta: 0.3, norm_max: 1.0, momentum: 0.0 }]
        {
            let both = lead(rule, &prompt, &negative, 3.0);
            near(&both[..3], &lead(rule, &prompt[..3], &negative[..3], 3.0));
            near(&both[3..], &lead(rule, &prompt[3..], &negative[3..], 3.0));
        }
    }
}
