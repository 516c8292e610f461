//! Running averages of the parameters: how much of the average each step keeps.
//!
//! What this module does not do: hold averages. The optimizer does, beside the moments.

use std::num::NonZeroU64;

pub mod reweigh;

use serde::{Deserialize, Serialize};

/// A running average of the parameters: `average = kept * average + (1 - kept) * parameter` after a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ema {
    /// The same share at every `every`-th step. The paper's: 0.99 every 100 (arXiv:2403.03206, appendix B.3).
    Decay {
        /// Share of the average that such a step keeps, 0 to 1.
        decay: f64,
        /// Steps from one update of the average to the next.
        #[serde(default = "each")]
        every: NonZeroU64,
    },
    /// An average whose memory is a share of the training so far, so that any other share can be made of it afterwards.
    ///
    /// Source: Karras et al. 2024, arXiv:2312.02696, section 3.1: `kept = (1 - 1/n)^(gamma + 1)` at update n.
    Power {
        /// Deviation of the average's profile over the length of the training, 0 to 0.28: 0.05 and 0.10 are the paper's.
        sigma_rel: f64,
    },
}

fn each() -> NonZeroU64 {
    NonZeroU64::MIN
}

impl Ema {
    /// Share of the average that step `number`, counted from 1, keeps.
    pub fn kept(self, number: NonZeroU64) -> f64 {
        match self {
            Ema::Decay { decay, every } if number.get().is_multiple_of(every.get()) => decay,
            Ema::Decay { .. } => 1.0,
            Ema::Power { sigma_rel } => (1.0 - 1.0 / number.get() as f64).powf(gamma_of(sigma_rel) + 1.0),
        }
    }

    /// Whether the average has moved after `steps` steps. Before, it is the network that nobody trained.
    pub fn has_begun(self, steps: u64) -> bool {
        match self {
            Ema::Decay { every, .. } => steps >= every.get(),
            Ema::Power { .. } => steps > 0,
        }
    }
}

/// The exponent whose profile `t^gamma` on 0..1 has the deviation `sigma_rel`.
///
/// Its variance is `(gamma + 1) / ((gamma + 2)^2 (gamma + 3))`, which falls from gamma = 0 on: found by bisection.
/// Source: arXiv:2312.02696, section 3.1.
pub fn gamma_of(sigma_rel: f64) -> f64 {
    let deviation = |gamma: f64| ((gamma + 1.0) / ((gamma + 2.0).powi(2) * (gamma + 3.0))).sqrt();
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if deviation(middle) > sigma_rel { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The largest `sigma_rel` there is: that of the plain mean of all steps, `gamma` = 0.
pub const SIGMA_REL_MAX: f64 = 0.288_675_134_594_812_9;

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u64) -> NonZeroU64 {
        NonZeroU64::new(n).unwrap()
    }

    #[test]
    fn the_papers_average_moves_at_every_hundredth_step() {
        let ema = Ema::Decay { decay: 0.99, every: number(100) };
        assert_eq!([1, 99, 100, 101, 200].map(|n| ema.kept(number(n))), [1.0, 1.0, 0.99, 1.0, 0.99]);
    }

    #[test]
    fn exponents_are_those_of_the_source() {
        // Table of the source's appendix: sigma_rel 0.05 and 0.10.
        assert!((gamma_of(0.05) - 16.97).abs() < 0.01, "{}", gamma_of(0.05));
        assert!((gamma_of(0.10) - 6.94).abs() < 0.01, "{}", gamma_of(0.10));
        assert!(gamma_of(SIGMA_REL_MAX).abs() < 1e-6);
    }

    /// The weight of step k in the average at step n is as k^gamma, and its deviation what was asked for.
    #[test]
    fn a_power_average_has_the_profile_that_was_asked_for() {
        let ema = Ema::Power { sigma_rel: 0.1 };
        let steps = 4000;
        let mut weights = vec![0.0_f64; steps + 1];
        for n in 1..=steps {
            let kept = ema.kept(number(n as u64));
            weights[..n].iter_mut().for_each(|weight| *weight *= kept);
            weights[n] = 1.0 - kept;
        }
        assert_eq!(weights[0], 0.0, "what it began with is forgotten at once");
        let place = |n: usize| n as f64 / steps as f64;
        let mean: f64 = weights.iter().enumerate().map(|(n, weight)| weight * place(n)).sum();
        let variance: f64 = weights.iter().enumerate().map(|(n, weight)| weight * (place(n) - mean).powi(2)).sum();
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!((variance.sqrt() - 0.1).abs() < 5e-4, "{}", variance.sqrt());
    }
}
